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
use crate::config::model::{BindAddress, Config, ListenerId, RouteId, Target};
use crate::filter::answer::{Fixed, Own};
use crate::filter::headers::Edits;
use crate::filter::limit::Limiter;
use crate::filter::mirror::Sampler;
use crate::filter::split::Split;
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
    /// Some route asks who a client is, or counts its requests.
    pub guarded: bool,
    listeners_by_address: HashMap<BindAddress, ListenerId>,
}

/// A route with what it uses, resolved to handles.
pub struct RouteState {
    pub rules: Arc<model::Route>,
    /// Empty where the route answers by itself.
    pub destinations: Box<[DestinationState]>,
    /// Where there are several.
    pub split: Option<Split>,
    /// Where no server is asked.
    pub own: Option<Box<Own>>,
    pub fallback: Option<Arc<Upstream>>,
    pub mirror: Option<MirrorState>,
    pub metrics: Arc<RouteMetrics>,
    pub limit: Option<Limiter>,
    pub request_edits: Option<Box<Edits>>,
    pub response_edits: Option<Box<Edits>>,
    /// Something of the request is filled in somewhere: it is collected.
    pub variables: bool,
    /// An upstream that it may ask keeps clients with their servers.
    pub sticks: bool,
    /// It does anything with a request but send it: one look for those that do nothing.
    pub acts: bool,
}

/// An upstream that a route sends to, and what holds for it there.
pub struct DestinationState {
    pub rules: model::Destination,
    pub upstream: Arc<Upstream>,
}

/// Where copies of a route's requests go.
pub struct MirrorState {
    pub upstream: Arc<Upstream>,
    pub sampler: Arc<Sampler>,
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
    let before: HashMap<&str, &RouteState> = previous
        .iter()
        .flat_map(|previous| &previous.routes)
        .map(|route| (&*route.rules.name, route))
        .collect();
    let routes: Vec<_> = config
        .routes
        .iter()
        .map(|rules| {
            route(
                rules,
                &upstreams,
                before.get(&*rules.name).copied(),
                metrics,
            )
        })
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
        guarded: routes.iter().any(RouteState::guards),
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
    before: Option<&RouteState>,
    metrics: &Arc<Metrics>,
) -> RouteState {
    let fallback = rules
        .fallback
        .as_ref()
        .and_then(|fallback| fallback.upstream);
    let mut state = RouteState {
        rules: rules.clone(),
        destinations: rules
            .target
            .destinations()
            .iter()
            .map(|to| DestinationState {
                rules: to.clone(),
                upstream: upstreams[to.upstream.0].clone(),
            })
            .collect(),
        split: match &rules.target {
            Target::Send { to, by } => {
                Split::new(to, by, before.and_then(|before| before.split.as_ref()))
            }
            Target::Redirect(_) | Target::Respond(_) => None,
        },
        own: match &rules.target {
            Target::Send { .. } => None,
            Target::Redirect(redirect) => Some(Box::new(Own::Redirect(redirect.clone()))),
            Target::Respond(respond) => Some(Box::new(Own::Respond(Fixed::new(respond)))),
        },
        fallback: fallback.map(|id| upstreams[id.0].clone()),
        mirror: rules.mirror.as_ref().map(|mirror| {
            let before = before.and_then(|before| before.mirror.as_ref());
            let before = before.map(|before| &*before.sampler);
            MirrorState {
                upstream: upstreams[mirror.upstream.0].clone(),
                sampler: Arc::new(Sampler::new(mirror.percent, before)),
            }
        }),
        metrics: metrics.route(&rules.name),
        limit: rules
            .limit
            .as_ref()
            .map(|limit| Limiter::new(limit, before.and_then(|before| before.limit.as_ref()))),
        request_edits: Edits::compile(&rules.request_headers),
        response_edits: Edits::compile(&rules.response_headers),
        variables: has_variables(rules),
        sticks: false,
        acts: false,
    };
    if state.mirror.is_some() {
        state.metrics.show_mirrored();
    }
    let asked = state.destinations.iter().map(|to| &to.upstream);
    let mut asked = asked.chain(&state.fallback);
    state.sticks = asked.any(|upstream| upstream.config().sticky.is_some());
    state.acts = state.guards()
        || rules.path_change.is_some()
        || state.split.is_some()
        || state.own.is_some()
        || state.request_edits.is_some()
        || state.sticks
        || state.mirror.is_some()
        || state.variables;
    state
}

fn has_variables(rules: &model::Route) -> bool {
    let headers = [&rules.request_headers, &rules.response_headers];
    let fallback = rules.fallback.as_ref().map(|fallback| &fallback.body);
    let mut templates = headers
        .into_iter()
        .flat_map(|edits| edits.templates())
        .chain(fallback);
    !matches!(rules.target, Target::Send { .. })
        || templates.any(|template| template.fixed().is_none())
}

impl RouteState {
    /// It does not admit everybody, or not always.
    pub fn guards(&self) -> bool {
        self.rules.access != model::Access::default() || self.limit.is_some()
    }

    /// Of a route that sends: `choice` is one of its destinations.
    pub fn destination(&self, choice: u16) -> &DestinationState {
        &self.destinations[usize::from(choice)]
    }
}

impl Snapshot {
    pub fn route(&self, id: RouteId) -> &RouteState {
        &self.routes[id.0]
    }

    pub fn listener(&self, id: ListenerId) -> &ListenerState {
        &self.listeners[id.0]
    }

    /// The listener configured with `address`, whatever its name is now.
    pub fn listener_at(&self, address: &BindAddress) -> Option<ListenerId> {
        self.listeners_by_address.get(address).copied()
    }
}
