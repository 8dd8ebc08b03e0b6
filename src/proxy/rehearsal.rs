//! A request that nobody sent, taken as far as the choice of a server: for `explain`.
//!
//! It takes the [`steps`] of a [`transaction`](super::transaction) in the same order, on a head that
//! was read by the wire's own parser. What it does not do is what leaves a trace: no turn of a
//! split or a mirror is taken, no limit charged, nothing counted or logged. `it/explain` sends the
//! same requests both ways and compares.

use std::net::IpAddr;

use smallvec::SmallVec;

use crate::config::model::{ListenerId, RouteId};
use crate::filter::access;
use crate::filter::limit::Verdict;
use crate::message::{Fields, RequestHead, ResponseHead};
use crate::proxy::actions::SPELLING;
use crate::proxy::context::{self, Secured};
use crate::proxy::error::Failure;
use crate::proxy::forwarding::{Arrival, Introductions};
use crate::proxy::sanitise::Sanitised;
use crate::proxy::steps::{self, Asked};
use crate::proxy::{client_address, forwarding, handle, sanitise, selection, sticky};
use crate::router::Outcome;
use crate::snapshot::{RouteState, Snapshot};
use crate::telemetry::Reason;
use crate::upstream::{self, Tag};
use crate::util::clock;
use crate::util::random::Random;
use crate::wire::h1;

/// What is asked, and over which connection.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    pub listener: ListenerId,
    /// A whole head in HTTP/1.1.
    pub head: &'a [u8],
    /// The TCP peer.
    pub source: IpAddr,
    /// The port that it came in on.
    pub port: u16,
    /// In SNI, in lower case; `None`: the host of the request.
    pub server_name: Option<&'a str>,
}

/// What became of it.
pub struct Rehearsed {
    /// Fields as they came; `None` where the wire would not read them.
    pub came: Option<Fields>,
    head: Option<RequestHead>,
    pub client: IpAddr,
    /// The peer is believed in what it says of the client.
    pub trusted: bool,
    /// As routes are compared with it.
    pub host: Option<Vec<u8>>,
    /// In normal form.
    pub path: Option<Vec<u8>>,
    /// Why each route was chosen, or was not.
    pub trace: Vec<(RouteId, Outcome)>,
    pub route: Option<RouteId>,
    /// To whose rules it is held as well, its path being another spelling for theirs.
    pub others: SmallVec<[RouteId; 2]>,
    /// The path that goes on, where it is another.
    pub forwarded: Option<Vec<u8>>,
    pub end: End,
}

pub enum End {
    Refused(Refusal),
    /// By the proxy itself, or by the route.
    Answered(Box<ResponseHead>),
    Sent(Sent),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    /// In one sentence.
    pub detail: &'static str,
    /// In seconds.
    pub retry_after: Option<u64>,
    /// The route whose rules refuse it, where that is another than its own.
    pub by: Option<RouteId>,
}

/// Of a request that goes to a server.
pub struct Sent {
    /// Which destination; `None`: whose turn it is.
    pub choice: Option<u16>,
    /// By destination.
    pub keys: SmallVec<[Keys; 2]>,
    /// A mirror may get a copy.
    pub copied: bool,
}

/// What the request says to one upstream about its servers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Keys {
    /// Of `balance = "hash"`.
    pub hash: Option<u64>,
    /// The server that its cookie names.
    pub sticky: Option<Tag>,
}

/// What an upstream would refuse a request with that no server takes.
pub fn unavailable(refused: upstream::Refused) -> Refusal {
    selection::failure(refused).into()
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Refusal {
            reason: failure.reason,
            detail: failure.detail,
            retry_after: failure.retry_after,
            by: None,
        }
    }
}

/// Takes the request of `question` as far as it goes by `snapshot`.
pub fn rehearse(snapshot: &Snapshot, question: &Question<'_>) -> Rehearsed {
    let mut rehearsed = Rehearsed {
        came: None,
        head: None,
        client: question.source,
        trusted: false,
        host: None,
        path: None,
        trace: Vec::new(),
        route: None,
        others: SmallVec::new(),
        forwarded: None,
        end: End::Refused(Failure::new(Reason::NoRoute).into()),
    };
    match rehearsed.go(snapshot, question) {
        Ok(end) => rehearsed.end = end,
        Err(refusal) => rehearsed.end = End::Refused(refusal),
    }
    rehearsed
}

impl Rehearsed {
    fn go(&mut self, snapshot: &Snapshot, question: &Question<'_>) -> Result<End, Refusal> {
        let rules = &snapshot.listener(question.listener).rules;
        let (mut head, length) = h1::read(question.head, &context::limits(rules))
            .map_err(|error| Failure::because(handle::reason(error.reason), error.detail))?;
        self.came = Some(head.fields.clone());
        self.trusted = client_address::is_trusted(question.source, &rules.trusted_proxies);
        if self.trusted {
            let trusted = &rules.trusted_proxies;
            self.client = client_address::client_address(question.source, trusted, &head.fields);
        }
        let sanitised = sanitise::sanitise(&mut head).map_err(steps::refused);
        let head = self.head.insert(head);
        let sanitised = sanitised?;
        self.host = sanitised.host(head).map(Vec::from);
        self.path = Some(sanitised.path(head).to_vec());
        if !is_for(snapshot, question, sanitised.host(head)) {
            return Err(Failure::new(Reason::Misdirected).into());
        }
        if sanitised.answer_here {
            return Ok(End::Answered(Box::new(steps::options_answer())));
        }
        let query = steps::query(question.listener, head, &sanitised, sanitised.path(head));
        let route = snapshot.router.find(&query, &mut self.trace);
        let route = route.ok_or(Failure::new(Reason::NoRoute))?;
        if snapshot.guarded {
            self.others = steps::other_routes(snapshot, route, &query);
            self.others.retain(|other| snapshot.route(*other).guards());
            for &other in &self.others {
                admit(snapshot.route(other), self.client, head).map_err(|failure| Refusal {
                    detail: match failure.reason {
                        Reason::Denied => SPELLING,
                        _ => failure.detail,
                    },
                    by: Some(other),
                    ..failure.into()
                })?;
            }
        }
        self.route = Some(route);
        let state = snapshot.route(route);
        admit(state, self.client, head)?;
        let sent = choose(state, head, self.client);
        let end = self.prepare(snapshot, question, &sanitised, sent)?;
        if matches!(end, End::Sent(_)) {
            steps::check_length(state, length)?;
        }
        Ok(end)
    }

    /// The second half: what is done to the head, or the answer that needs no server.
    fn prepare(
        &mut self,
        snapshot: &Snapshot,
        question: &Question<'_>,
        sanitised: &Sanitised,
        mut sent: Sent,
    ) -> Result<End, Failure> {
        let (Some(head), Some(route)) = (&mut self.head, self.route) else {
            return Err(Failure::new(Reason::Internal));
        };
        let state = snapshot.route(route);
        let rules = &snapshot.listener(question.listener).rules;
        steps::set_target(head, state.rules.forward, sanitised)?;
        let requested = steps::clean(head, &state.rules.upgrades)?;
        let arrival = Arrival {
            source: question.source,
            trusted: self.trusted,
            client: self.client,
            scheme: match rules.tls {
                Some(_) => "https",
                None => "http",
            },
            port: question.port,
            version: head.version,
            via: rules.via,
        };
        let id = forwarding::set_forwarding(
            &mut head.fields,
            &arrival,
            &mut Introductions::default(),
            &mut Random::seeded(0),
        );
        if let Some(change) = &state.rules.path_change {
            steps::change_path(head, change, sanitised)?;
        }
        let target = head.outgoing_target();
        let path = target.split(|&byte| byte == b'?').next().unwrap_or(target);
        self.forwarded = (self.path.as_deref() != Some(path)).then(|| path.to_vec());
        let values = state.variables.then(|| {
            let asked = Asked {
                snapshot,
                listener: question.listener,
                route,
                client: self.client,
                id: &id,
            };
            steps::values(&asked, head, sanitised)
        });
        if let Some(own) = &state.own {
            let (answer, _) = steps::own_answer(own, head, values.as_ref())?;
            return Ok(End::Answered(Box::new(answer)));
        }
        if let Some(edits) = &state.request_edits {
            edits.apply(&mut head.fields, values.as_ref());
        }
        sent.copied =
            state.mirror.is_some() && steps::may_be_copied(head, requested.upgrade.as_deref());
        for (to, keys) in state.destinations.iter().zip(&mut sent.keys) {
            let upstream = to.upstream.latest();
            keys.hash = steps::hash_key(&upstream.config().balance, head, self.client);
        }
        Ok(End::Sent(sent))
    }
}

/// Whether a connection that was opened by this name may carry a request for `host`.
fn is_for(snapshot: &Snapshot, question: &Question<'_>, host: Option<&[u8]>) -> bool {
    let rules = &snapshot.listener(question.listener).rules;
    let (Some(terms), Some(name)) = (&rules.tls, question.server_name) else {
        return true;
    };
    let secured = Secured {
        server_name: Some(name.into()),
        certificate: terms.shown_to(Some(name)),
        client_certificate: None,
        terms: terms.clone(),
    };
    secured.is_for(host)
}

/// As a transaction is admitted, and nothing is charged.
fn admit(state: &RouteState, client: IpAddr, head: &RequestHead) -> Result<(), Failure> {
    if !access::admits(&state.rules.access, client) {
        return Err(Failure::new(Reason::Denied));
    }
    let Some(limiter) = &state.limit else {
        return Ok(());
    };
    match limiter.would_check(client, &head.fields, clock::now()) {
        Verdict::Admitted => Ok(()),
        Verdict::Refused { retry_after, reset } => {
            Err(Failure::limited(limiter.burst(), retry_after, reset))
        }
    }
}

/// Where it goes by what came, before anything of it is changed.
fn choose(state: &RouteState, head: &RequestHead, client: IpAddr) -> Sent {
    let split = state.split.as_ref();
    let sticky = |upstream: &upstream::Upstream| match state.sticks {
        true => sticky::named(&head.fields, upstream),
        false => None,
    };
    Sent {
        choice: match split {
            Some(split) => steps::share_of(split, &head.fields, client),
            None => Some(0),
        },
        keys: state
            .destinations
            .iter()
            .map(|to| Keys {
                hash: None,
                sticky: sticky(&to.upstream.latest()),
            })
            .collect(),
        copied: false,
    }
}
