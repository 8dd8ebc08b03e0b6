//! From listener, host, path and predicates to a route: pure, with an optional trace.

pub mod path;
pub mod trace;

use crate::config::model::{Config, ListenerId, RouteId};
use crate::message::{Fields, Method};

pub use trace::{NoTrace, Trace};

/// What of a request decides its route.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    pub listener: ListenerId,
    /// Lower case, without port and trailing dot, as the sanitiser leaves it; `None` matches
    /// any-host routes only.
    pub host: Option<&'a [u8]>,
    /// In normal form, or `*`.
    pub path: &'a [u8],
    /// Without the `?`.
    pub query: Option<&'a [u8]>,
    pub method: &'a Method,
    pub fields: &'a Fields,
}

/// All routes of one configuration, ready to be looked up.
#[derive(Debug)]
pub struct Router {}

impl Router {
    pub fn build(_config: &Config) -> Router {
        todo!()
    }

    /// The one route for this request; `trace` hears why it was none of the others.
    pub fn find(&self, _query: &Query<'_>, _trace: &mut impl Trace) -> Option<RouteId> {
        todo!()
    }
}
