//! The operator's API and page: serialisable views, never the state itself.
//!
//! A plain HTTP/1.1 server of its own, by hyper, on the control runtime: no scrape and no reload
//! runs on a worker. What it shows and does goes through [`Control`]; who may ask is decided in
//! [`access`] before anything else looks at a request.

mod access;
mod api;
mod body;
mod context;
mod crowd;
pub mod explain;
mod page;
mod reply;
mod server;
mod status;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use context::{
    Control, ExplainRequest, Future, LastReload, ListenerStatus, Readiness, Rejected, Reloaded,
    RouteStatus, Settings, Status, Tasks,
};
pub use server::{Bound, adopt, bind};
