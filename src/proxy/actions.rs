//! What a route does with a request beside sending it as it is: who may ask and how often, which
//! upstream of a split, another path, an answer of its own. The rules are in [`crate::filter`]; here they meet a transaction.

use std::borrow::Cow;
use std::net::IpAddr;

use smallvec::SmallVec;

use crate::config::model::{PathChange, RouteId, SplitKey};
use crate::filter::access;
use crate::filter::answer::Own;
use crate::filter::limit::{Limiter, Verdict};
use crate::filter::path;
use crate::filter::split::Split;
use crate::filter::template::Values;
use crate::message::Known;
use crate::proxy::error::Failure;
use crate::proxy::sanitise::Sanitised;
use crate::proxy::transaction::Transaction;
use crate::router;
use crate::router::spelling;
use crate::snapshot::{Pin, RouteState};
use crate::telemetry::Reason;
use crate::util::clock;
use crate::wire::Response;

impl Transaction {
    /// Holds a request also to the rules of the routes that a server which reads its path in
    /// another way would see it at: who is denied `/admin` is denied `/admin%2Fx`.
    pub(super) fn guard_spellings(
        &self,
        pin: &Pin,
        route: RouteId,
        sanitised: &Sanitised,
    ) -> Result<(), Failure> {
        const SPELLING: &str = "the path is another spelling of one that is denied";
        let mut held = SmallVec::<[RouteId; 2]>::from_slice(&[route]);
        for path in spelling::others(sanitised.path(&self.account.head)) {
            let Some(other) = self.find_route(pin, &path, sanitised) else {
                continue;
            };
            if held.contains(&other) {
                continue;
            }
            held.push(other);
            let state = pin.route(other);
            if !access::admits(&state.rules.access, self.account.client) {
                return Err(Failure::because(Reason::Denied, SPELLING));
            }
            if let Some(limiter) = &state.limit {
                self.keep_to(limiter, state)?;
            }
        }
        Ok(())
    }

    /// Whether it may go on at all, and to which upstream.
    #[cold]
    pub(super) fn admit(&mut self, state: &RouteState) -> Result<(), Failure> {
        if !access::admits(&state.rules.access, self.account.client) {
            return Err(Failure::new(Reason::Denied));
        }
        if let Some(limiter) = &state.limit {
            self.keep_to(limiter, state)?;
        }
        if let Some(split) = &state.split {
            self.choose(split);
        }
        if state.sticks {
            self.recall(&state.destination(self.account.choice()).upstream);
        }
        Ok(())
    }

    /// What is done to a head that goes on, or the answer that needs no server.
    #[cold]
    pub(super) fn act(
        &mut self,
        pin: &Pin,
        route: RouteId,
        sanitised: &Sanitised,
    ) -> Result<Option<Response>, Failure> {
        let state = pin.route(route);
        if let Some(change) = &state.rules.path_change {
            self.change_path(change, sanitised)?;
        }
        if state.variables {
            self.account.values = Some(Box::new(self.values(pin, state, sanitised)));
        }
        if let Some(own) = &state.own {
            return self.answer_itself(own, route).map(Some);
        }
        if let Some(edits) = &state.request_edits {
            self.account.edit(edits);
            self.host_missing &= !self.account.head.fields.contains(Known::Host);
        }
        Ok(None)
    }

    /// Refuses what is over the route's limit.
    fn keep_to(&self, limiter: &Limiter, route: &RouteState) -> Result<(), Failure> {
        let account = &self.account;
        match limiter.check(account.client, &account.head.fields, clock::now()) {
            Verdict::Admitted => Ok(()),
            Verdict::Refused { retry_after, reset } => {
                route.metrics.rate_limited();
                Err(Failure::limited(limiter.burst(), retry_after, reset))
            }
        }
    }

    /// One of the upstreams of a `split`. A missing key falls back to the client's address.
    fn choose(&mut self, split: &Split) {
        let account = &self.account;
        let fields = &account.head.fields;
        let key = match &split.by {
            SplitKey::Request => {
                let choice = split.turn();
                return self.account.chose(choice);
            }
            SplitKey::ClientIp => None,
            SplitKey::Header(name) => fields.get_text(name),
            SplitKey::Cookie(name) => router::cookie_values(fields, name.as_bytes()).next(),
        };
        let choice = match key {
            Some(key) => split.of_key(key),
            None => split.of_key(&client_bytes(account.client)),
        };
        self.account.chose(choice);
    }

    /// Another path goes on; the query is not touched.
    fn change_path(&mut self, change: &PathChange, sanitised: &Sanitised) -> Result<(), Failure> {
        const NO_PATH: &str = "what the path is rewritten to is no path";
        let head = &mut self.account.head;
        let old = sanitised.path(head);
        let new = match path::change(change, old) {
            Ok(Cow::Borrowed(_)) => return Ok(()),
            Ok(Cow::Owned(new)) => new,
            Err(path::NoPath) => return Err(Failure::because(Reason::BadRequest, NO_PATH)),
        };
        let query = &sanitised.target(head)[old.len()..];
        let target = [&new, query].concat();
        head.set_target(&target);
        path::tell_prefix(change, &mut head.fields);
        Ok(())
    }

    /// A redirect, or a fixed answer.
    fn answer_itself(&mut self, own: &Own, route: RouteId) -> Result<Response, Failure> {
        const NO_HOST: &str = "a request without Host cannot be sent elsewhere";
        let target = self.account.head.outgoing_target();
        let end = memchr::memchr(b'?', target).unwrap_or(target.len());
        let path = match &target[..end] {
            b"*" => b"/",
            path => path,
        };
        let Some(values) = &self.account.values else {
            return Err(Failure::new(Reason::Internal));
        };
        let (mut head, body) = own
            .answer(values, path)
            .map_err(|_| Failure::because(Reason::BadRequest, NO_HOST))?;
        self.account.edit_answer(route, &mut head);
        Ok(Response {
            head,
            body,
            close: false,
        })
    }

    /// What the route's templates say of this request.
    fn values(&self, pin: &Pin, route: &RouteState, sanitised: &Sanitised) -> Values {
        let account = &self.account;
        let head = &account.head;
        // A stranger's was replaced by ours.
        let proto = head.fields.get(Known::XForwardedProto).unwrap_or_default();
        Values {
            client: account.client,
            id: account.id.clone(),
            method: head.method.clone(),
            scheme: match proto.eq_ignore_ascii_case(b"https") {
                true => "https",
                false => "http",
            },
            host: sanitised.host(head).unwrap_or_default().into(),
            port: head.fields.get(Known::Host).and_then(port),
            path: match sanitised.path(head) {
                // `OPTIONS *` is sent elsewhere as if it asked for the root.
                b"*" if route.own.is_some() => (*b"/").into(),
                path => path.into(),
            },
            query: sanitised.query(head).map(Into::into),
            route: route.rules.name.clone(),
            listener: pin.listener(account.listener).rules.name.clone(),
        }
    }
}

/// The port that a valid Host names.
fn port(host: &[u8]) -> Option<u16> {
    let colon = memchr::memrchr(b':', host)?;
    std::str::from_utf8(host.get(colon + 1..)?)
        .ok()?
        .parse()
        .ok()
}

fn client_bytes(client: IpAddr) -> SmallVec<[u8; 16]> {
    match client.to_canonical() {
        IpAddr::V4(address) => SmallVec::from_slice(&address.octets()),
        IpAddr::V6(address) => SmallVec::from_slice(&address.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_behind_the_last_colon_of_a_host() {
        for (host, expected) in [
            ("a", None),
            ("a:80", Some(80)),
            ("a:", None),
            ("[::1]", None),
            ("[::1]:8080", Some(8080)),
            ("[2001:db8::80]", None),
        ] {
            assert_eq!(port(host.as_bytes()), expected, "{host}");
        }
    }

    #[test]
    fn another_spelling_of_a_client_has_the_same_key() {
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        let plain: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(client_bytes(mapped), client_bytes(plain));
    }
}
