//! `explain`: which listener, route, upstream and servers a request would meet, and why each other
//! one would not be chosen.
//!
//! The question is written as a client would write it and goes through [`rehearsal`], which is the
//! data plane but for sockets and counters; this puts words to what came of it.

mod question;
mod render;
mod why;

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::admin::ExplainRequest;
use crate::config::model::{BindAddress, RouteId};
use crate::filter::limit::Limiter;
use crate::message::{Known, ResponseHead};
use crate::proxy::rehearsal;
use crate::proxy::rehearsal::{End, Keys, Question, Refusal, Rehearsed, Sent};
use crate::snapshot::{DestinationState, RouteState, Snapshot};
use crate::upstream::{Tag, Upstream};
use question::Url;

/// What would become of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Explanation {
    pub method: String,
    pub url: String,
    pub listener: String,
    /// Why this listener, where the URL did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener_note: Option<String>,
    /// The address that rules, limits and hashing go by.
    #[serde(default)]
    pub client: String,
    /// Where that comes from, unless it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_note: Option<String>,
    /// Headers that go no further than the listener.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<String>,
    pub host: Option<String>,
    /// In normal form: what is matched and forwarded.
    pub path: Option<String>,
    /// "403 denied: access denied".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    pub route: Option<String>,
    /// Routes whose access rules and limits hold as well, the path being another spelling for
    /// theirs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_to: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitView>,
    /// With shares where there are several.
    pub upstream: Option<String>,
    /// What sticky cookies of the request say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sticky: Vec<String>,
    /// Where copies go: "shadow 1%".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<String>,
    /// What is answered without a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// The path that goes on, where it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarded: Option<String>,
    /// Too few servers are healthy: what the checks say is ignored.
    #[serde(default)]
    pub panic: bool,
    /// Of an upstream that is at it: new requests wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_limit: Option<u32>,
    /// What is answered while no server takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
    pub routes: Vec<RouteVerdict>,
    pub servers: Vec<ServerVerdict>,
}

/// A rate limit that counts the request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LimitView {
    pub route: String,
    pub rate: String,
    pub burst: u32,
    /// "by client 192.0.2.1".
    pub key: String,
}

/// How likely a server is to take the request, and why not.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerVerdict {
    /// Where the route has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    pub address: String,
    /// As configured, where that leads to the address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// 0 to 1, of a first attempt now.
    pub chance: f64,
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
}

/// What became of one route.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RouteVerdict {
    pub name: String,
    /// `file:line`.
    pub origin: String,
    pub chosen: bool,
    pub why: String,
}

/// Explains `ask` by `snapshot`. The error is a sentence about `ask` itself.
pub fn explain(snapshot: &Snapshot, ask: &ExplainRequest) -> Result<Explanation, String> {
    let url = Url::parse(&ask.url)?;
    let (listener, listener_note) = question::choose_listener(snapshot, &url)?;
    let rules = &snapshot.listener(listener).rules;
    let address = match &rules.address {
        BindAddress::Unix(_) => "localhost".to_owned(),
        address => address.to_string(),
    };
    let head = question::head(ask, &url, &address)?;
    let source = ask.from.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let name = url.name();
    let rehearsed = rehearsal::rehearse(
        snapshot,
        &Question {
            listener,
            head: &head,
            source,
            port: match (rules.address.tcp(), &rules.tls) {
                (Some(address), _) => address.port(),
                (None, Some(_)) => 443,
                (None, None) => 80,
            },
            server_name: name.as_deref(),
        },
    );
    let name_of = |route: &RouteId| snapshot.route(*route).rules.name.to_string();
    let mut explanation = Explanation {
        method: ask.method.clone(),
        url: ask.url.clone(),
        listener: rules.name.to_string(),
        listener_note,
        client: rehearsed.client.to_canonical().to_string(),
        client_note: client_note(ask, source, &rehearsed),
        dropped: dropped(ask, &rehearsed),
        host: rehearsed.host.as_deref().map(text),
        path: rehearsed.path.as_deref().map(text),
        route: rehearsed.route.as_ref().map(name_of),
        held_to: rehearsed.others.iter().map(name_of).collect(),
        limits: limits(snapshot, &rehearsed),
        forwarded: rehearsed.forwarded.as_deref().map(text),
        routes: rehearsed
            .trace
            .iter()
            .map(|(route, outcome)| why::verdict(snapshot, *route, *outcome))
            .collect(),
        ..Explanation::default()
    };
    match &rehearsed.end {
        End::Refused(refusal) => {
            let by = refusal.by.as_ref().map(name_of);
            let by = by.map_or(String::new(), |by| format!(" by {by}"));
            explanation.refused = Some(describe(refusal) + &by);
        }
        End::Answered(head) => explanation.answer = Some(answer(head, &rehearsed)),
        End::Sent(sent) => {
            if let Some(route) = rehearsed.route {
                explanation.go_on(snapshot, snapshot.route(route), sent);
            }
        }
    }
    Ok(explanation)
}

/// Says where the client's address comes from.
fn client_note(ask: &ExplainRequest, source: IpAddr, rehearsed: &Rehearsed) -> Option<String> {
    let asked = |name: &str| {
        let mut names = ask
            .headers
            .iter()
            .filter_map(|header| header.split_once(':'));
        names.any(|(asked, _)| asked.eq_ignore_ascii_case(name))
    };
    let told = ["X-Forwarded-For", "Forwarded"]
        .into_iter()
        .find(|name| asked(name));
    match told {
        Some(told) if !rehearsed.trusted => Some(format!(
            "{told} is not believed: {source} is none of the listener's trusted-proxies"
        )),
        Some(told) if rehearsed.client == source.to_canonical() => {
            Some(format!("{told} of a trusted proxy names nobody else"))
        }
        Some(told) => Some(format!("by {told} of {source}, a trusted proxy")),
        None if ask.from.is_none() => Some("assumed; --from ADDRESS names another".to_owned()),
        None => None,
    }
}

/// Asked for, read, and gone.
fn dropped(ask: &ExplainRequest, rehearsed: &Rehearsed) -> Vec<String> {
    let Some(came) = &rehearsed.came else {
        return Vec::new();
    };
    let names = ask
        .headers
        .iter()
        .filter_map(|header| header.split_once(':'));
    let names = names
        .map(|(name, _)| name)
        .filter(|name| name.contains('_'));
    let gone = |name: &&str| came.get_text(&name.to_ascii_lowercase()).is_none();
    names.filter(gone).map(str::to_owned).collect()
}

/// In the order in which they are asked.
fn limits(snapshot: &Snapshot, rehearsed: &Rehearsed) -> Vec<LimitView> {
    let Some(came) = &rehearsed.came else {
        return Vec::new();
    };
    let routes = rehearsed.others.iter().chain(&rehearsed.route);
    let limits = routes.filter_map(|route| {
        let state = snapshot.route(*route);
        Some((state, state.rules.limit.as_ref()?, state.limit.as_ref()?))
    });
    limits
        .map(|(state, rules, limiter)| LimitView {
            route: state.rules.name.to_string(),
            rate: rules.rate.to_string(),
            burst: Limiter::burst(limiter),
            key: limiter.describe_key(rehearsed.client, came),
        })
        .collect()
}

fn describe(refusal: &Refusal) -> String {
    let Refusal { reason, detail, .. } = refusal;
    let again = match refusal.retry_after {
        Some(seconds) => format!("; Retry-After: {seconds}"),
        None => String::new(),
    };
    format!("{} {reason}: {detail}{again}", reason.status())
}

/// "308 to https://example.org/a".
fn answer(head: &ResponseHead, rehearsed: &Rehearsed) -> String {
    match (head.fields.get(Known::Location), rehearsed.route) {
        (Some(location), _) => format!("{} to {}", head.status, text(location)),
        (None, Some(_)) => head.status.to_string(),
        (None, None) => format!("{}, by the proxy itself: Max-Forwards is 0", head.status),
    }
}

impl Explanation {
    /// What there is to say of a request that goes to a server.
    fn go_on(&mut self, snapshot: &Snapshot, state: &RouteState, sent: &Sent) {
        let upstreams = &snapshot.config.upstreams;
        let target = &state.rules.target;
        self.upstream = Some(target.describe(upstreams));
        self.mirror = state.rules.mirror.as_ref().map(|mirror| {
            let to = mirror.describe(upstreams);
            match sent.copied {
                true => to,
                false => format!("{to}, but no copy of this: it asks for an upgrade, or is one"),
            }
        });
        let mut dead = Vec::new();
        for (index, (to, keys)) in state.destinations.iter().zip(&sent.keys).enumerate() {
            let share = match sent.choice {
                None => target.share(&to.rules),
                Some(chosen) if usize::from(chosen) == index => 1.0,
                Some(_) => 0.0,
            };
            let split = state.destinations.len() > 1;
            let refused = self.servers_of(to, share, split, keys);
            dead.extend(refused.filter(|_| share > 0.0));
        }
        // Of a split whose turn it is nobody knows: what one of them says.
        self.unavailable = dead.first().map(|refused| {
            let instead = match &state.rules.fallback {
                Some(fallback) => match fallback.upstream {
                    Some(id) => format!("; its fallback {} is asked", upstreams[id.0].name),
                    None => format!("; its fallback answers {}", fallback.status),
                },
                None => String::new(),
            };
            format!("{refused}{instead}")
        });
    }

    /// Those of one upstream, which takes `share` of the requests. What it would refuse, where no
    /// server takes one.
    fn servers_of(
        &mut self,
        to: &DestinationState,
        share: f64,
        split: bool,
        keys: &Keys,
    ) -> Option<String> {
        let upstream = to.upstream.latest();
        self.panic |= upstream.is_panicking() && share > 0.0;
        if let Some(concurrency) = upstream.concurrency()
            && concurrency.in_flight >= concurrency.limit
            && share > 0.0
        {
            self.concurrency_limit = Some(concurrency.limit);
        }
        let now = Instant::now();
        let servers = upstream.explain(keys.hash, keys.sticky, now);
        let taken = servers.iter().any(|server| server.chance > 0.0);
        let stuck = servers.iter().find(|server| server.chance == 1.0);
        if share > 0.0 {
            let stuck = stuck.map(|server| &*server.address);
            self.sticky.extend(sticky(&upstream, keys.sticky, stuck));
        }
        self.servers
            .extend(servers.into_iter().map(|server| ServerVerdict {
                upstream: split.then(|| upstream.name().to_string()),
                address: server.address,
                names: server.names,
                chance: server.chance * share,
                state: server.state.to_owned(),
                why_not: server.reason,
            }));
        if taken {
            return None;
        }
        let refused = upstream.refuses(now)?;
        let queue = upstream.config().queue.as_ref();
        Some(match (refused, queue) {
            (crate::upstream::Refused::Full, Some(_)) => "it waits in the queue".to_owned(),
            _ => describe(&rehearsal::unavailable(refused)),
        })
    }
}

/// "cookie ek names 10.0.0.1:80".
fn sticky(upstream: &Upstream, named: Option<Tag>, stuck: Option<&str>) -> Option<String> {
    let cookie = &upstream.config().sticky.as_ref()?.cookie;
    let Some(tag) = named else {
        return Some(format!(
            "no cookie {cookie} names a server of {}: the answer sets it",
            upstream.name()
        ));
    };
    let servers = upstream.servers();
    let server = servers
        .iter()
        .find(|server| upstream.is_tag_of(tag, server));
    let address = server.map(|server| server.label().to_string())?;
    Some(match stuck == Some(&*address) {
        true => format!("cookie {cookie} names {address}"),
        false => {
            format!("cookie {cookie} names {address}, which takes no request now: another does")
        }
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
