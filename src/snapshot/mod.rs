//! The immutable result of one accepted configuration, with a generation number.
//!
//! [`build`] makes it without visible effect; only `reload` publishes it, by one swap. Workers
//! read it through a [`Reader`] and pin it once per request: the rules that a request sees are of
//! exactly one snapshot. Servers and their order are live state of `upstream`, read at each pick.

mod reader;

use std::collections::HashMap;
use std::sync::Arc;

pub use reader::{Pin, Reader};

use crate::config::model;
use crate::config::model::{BindAddress, Config, ListenerId, RouteId};
use crate::filter::headers::Edits;
use crate::filter::limit::Limiter;
use crate::router::Router;
use crate::telemetry::{ListenerMetrics, Metrics, RouteMetrics};
use crate::upstream::{Registry, Upstream};

/// Everything a request needs, resolved.
pub struct Snapshot {
    /// Counts accepted configurations from 1.
    pub generation: u64,
    pub config: Arc<Config>,
    pub router: Router,
    /// By [`RouteId`].
    pub routes: Vec<RouteState>,
    /// By [`ListenerId`].
    pub listeners: Vec<ListenerState>,
    /// By [`model::UpstreamId`].
    pub upstreams: Vec<Arc<Upstream>>,
    /// Some upstream's servers are told by a PROXY header whose connection they serve.
    pub introduces: bool,
    listeners_by_address: HashMap<BindAddress, ListenerId>,
}

/// A route with what it uses, resolved to handles.
pub struct RouteState {
    pub rules: Arc<model::Route>,
    pub upstream: Arc<Upstream>,
    pub fallback: Option<Arc<Upstream>>,
    pub metrics: Arc<RouteMetrics>,
    pub limit: Option<Limiter>,
    pub request_edits: Option<Box<Edits>>,
    pub response_edits: Option<Box<Edits>>,
    /// Something of the request is filled in somewhere: it is collected.
    pub variables: bool,
}

pub struct ListenerState {
    pub rules: model::Listener,
    pub metrics: Arc<ListenerMetrics>,
}

/// Builds the snapshot of `config` after `previous`; an unchanged upstream is the same `Arc` as before. Nothing
/// that is live changes before `registry.publish`.
pub fn build(
    config: Config,
    previous: Option<&Snapshot>,
    registry: &Registry,
    metrics: &Arc<Metrics>,
) -> Snapshot {
    let upstreams: Vec<_> = config
        .upstreams
        .iter()
        .map(|upstream| registry.prepare(upstream))
        .collect();
    let routes = config
        .routes
        .iter()
        .map(|rules| route(rules, &upstreams, previous, metrics))
        .collect();
    let listeners: Vec<_> = config
        .listeners
        .iter()
        .map(|rules| ListenerState {
            rules: rules.clone(),
            metrics: metrics.listener(&rules.name),
        })
        .collect();
    let listeners_by_address = config
        .listeners
        .iter()
        .enumerate()
        .map(|(index, rules)| (rules.address.clone(), ListenerId(index)))
        .collect();
    Snapshot {
        generation: previous.map_or(1, |previous| previous.generation + 1),
        router: Router::build(&config),
        routes,
        listeners,
        upstreams,
        listeners_by_address,
        introduces: config
            .upstreams
            .iter()
            .any(|upstream| upstream.proxy_protocol != model::ProxyProtocol::Off),
        config: Arc::new(config),
    }
}

fn route(
    rules: &Arc<model::Route>,
    upstreams: &[Arc<Upstream>],
    previous: Option<&Snapshot>,
    metrics: &Arc<Metrics>,
) -> RouteState {
    let before = previous.and_then(|previous| previous.limiter(&rules.name));
    let fallback = rules
        .fallback
        .as_ref()
        .and_then(|fallback| fallback.upstream);
    RouteState {
        rules: rules.clone(),
        upstream: upstreams[rules.upstream.0].clone(),
        fallback: fallback.map(|id| upstreams[id.0].clone()),
        metrics: metrics.route(&rules.name),
        limit: rules
            .limit
            .as_ref()
            .map(|limit| Limiter::new(limit, before)),
        request_edits: Edits::compile(&rules.request_headers),
        response_edits: Edits::compile(&rules.response_headers),
        variables: has_variables(rules),
    }
}

fn has_variables(rules: &model::Route) -> bool {
    let headers = [&rules.request_headers, &rules.response_headers];
    let fallback = rules.fallback.as_ref().map(|fallback| &fallback.body);
    let mut templates = headers
        .into_iter()
        .flat_map(|edits| edits.templates())
        .chain(fallback);
    templates.any(|template| template.fixed().is_none())
}

impl Snapshot {
    pub fn route(&self, id: RouteId) -> &RouteState {
        &self.routes[id.0]
    }

    /// Of the route with this name.
    fn limiter(&self, name: &str) -> Option<&Limiter> {
        let mut routes = self.routes.iter();
        routes
            .find(|route| *route.rules.name == *name)?
            .limit
            .as_ref()
    }

    pub fn listener(&self, id: ListenerId) -> &ListenerState {
        &self.listeners[id.0]
    }

    /// The listener configured with `address`, whatever its name is now.
    pub fn listener_at(&self, address: &BindAddress) -> Option<ListenerId> {
        self.listeners_by_address.get(address).copied()
    }
}
