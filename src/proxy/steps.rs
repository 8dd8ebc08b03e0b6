//! The steps that a request's head takes on its way to a server, each by itself: functions of the
//! head, the snapshot and the client, and of nothing that the request came on. A transaction takes
//! them with a request, a [`rehearsal`](super::rehearsal) with a question, so that what `explain`
//! says and what the proxy does cannot part.

use std::borrow::Cow;
use std::net::IpAddr;

use smallvec::SmallVec;

use crate::balance;
use crate::config::model::{Balance, Forward, HashKey, ListenerId, PathChange, RouteId, SplitKey};
use crate::filter::answer::Own;
use crate::filter::path;
use crate::filter::split::Split;
use crate::filter::template::Values;
use crate::message::{Body, Fields, Known, Length, Method, RequestHead, ResponseHead, Version};
use crate::proxy::error::Failure;
use crate::proxy::forwarding::RequestId;
use crate::proxy::hop_by_hop;
use crate::proxy::hop_by_hop::Requested;
use crate::proxy::sanitise::{Refused, Sanitised};
use crate::router;
use crate::router::{NoTrace, Query, spelling};
use crate::snapshot::{RouteState, Snapshot};
use crate::telemetry::Reason;

/// Marks copies that a mirror is sent.
pub(super) const MARK: &str = "x-evenkeel-mirror";

pub(super) fn refused(refused: Refused) -> Failure {
    match refused {
        Refused::BadRequest(detail) => Failure::because(Reason::BadRequest, detail),
        Refused::MethodNotAllowed => Failure::new(Reason::MethodNotAllowed),
        Refused::ExpectationFailed => Failure::new(Reason::ExpectationFailed),
    }
}

/// `OPTIONS` with `Max-Forwards: 0` ends here (RFC 9110 section 7.6.2).
pub(super) fn options_answer() -> ResponseHead {
    let mut head = ResponseHead::new(200);
    head.fields
        .set_text("allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    head
}

/// What the router is asked, had the request asked for `path`.
pub(super) fn query<'a>(
    listener: ListenerId,
    head: &'a RequestHead,
    sanitised: &'a Sanitised,
    path: &'a [u8],
) -> Query<'a> {
    Query {
        listener,
        host: sanitised.host(head),
        path,
        query: sanitised.query(head),
        method: &head.method,
        fields: &head.fields,
    }
}

/// The routes beside `route` that a server which reads the path in another way would see the
/// request at: who is denied `/admin` is denied `/admin%2Fx`.
pub(super) fn other_routes(
    snapshot: &Snapshot,
    route: RouteId,
    query: &Query<'_>,
) -> SmallVec<[RouteId; 2]> {
    let mut others = SmallVec::new();
    for path in spelling::others(query.path) {
        let query = Query {
            path: &path,
            ..*query
        };
        if let Some(other) = snapshot.router.find(&query, &mut NoTrace)
            && other != route
            && !others.contains(&other)
        {
            others.push(other);
        }
    }
    others
}

/// Which upstream of a `split`; `None`: whose turn it is. A missing key falls back to the client's
/// address.
pub(super) fn share_of(split: &Split, fields: &Fields, client: IpAddr) -> Option<u16> {
    let key = match &split.by {
        SplitKey::Request => return None,
        SplitKey::ClientIp => None,
        SplitKey::Header(name) => fields.get_text(name),
        SplitKey::Cookie(name) => router::cookie_values(fields, name.as_bytes()).next(),
    };
    Some(match key {
        Some(key) => split.of_key(key),
        None => split.of_key(&client_bytes(client)),
    })
}

pub(super) fn set_target(
    head: &mut RequestHead,
    forward: Forward,
    sanitised: &Sanitised,
) -> Result<(), Failure> {
    match forward {
        Forward::Normalized => {
            if let Some(target) = sanitised.rewritten_target() {
                head.set_target(target);
            }
        }
        Forward::Raw => {
            let target = sanitised.raw_target(head).map_err(refused)?;
            if target != head.target() {
                let target = target.to_vec();
                head.set_target(&target);
            }
        }
    }
    Ok(())
}

/// Hop-by-hop fields go. `upgrades`: the route's.
pub(super) fn clean(head: &mut RequestHead, upgrades: &[String]) -> Result<Requested, Failure> {
    // In HTTP/2 only an extended CONNECT comes with it, which is nothing without its tunnel
    // (RFC 8441 section 4).
    let tunnel = head.version == Version::H2 && head.fields.contains(Known::Upgrade);
    let mut requested = hop_by_hop::clean_request(&mut head.fields, head.version, upgrades);
    // RFC 6455 section 4.1: a WebSocket begins with GET.
    let method = &head.method;
    requested.upgrade = requested
        .upgrade
        .filter(|token| *method == Method::Get || !token.eq_ignore_ascii_case("websocket"));
    if tunnel && requested.upgrade.is_none() {
        const NOT_LET_THROUGH: &str = "this route lets no such protocol through";
        return Err(Failure::because(Reason::NotImplemented, NOT_LET_THROUGH));
    }
    Ok(requested)
}

/// Another path goes on; the query is not touched.
pub(super) fn change_path(
    head: &mut RequestHead,
    change: &PathChange,
    sanitised: &Sanitised,
) -> Result<(), Failure> {
    const NO_PATH: &str = "what the path is rewritten to is no path";
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

/// Whose request it is, and where it came.
pub(super) struct Asked<'a> {
    pub snapshot: &'a Snapshot,
    pub listener: ListenerId,
    pub route: RouteId,
    pub client: IpAddr,
    pub id: &'a RequestId,
}

/// What the route's templates say of this request, whose forwarding fields are set.
pub(super) fn values(asked: &Asked<'_>, head: &RequestHead, sanitised: &Sanitised) -> Values {
    let route = asked.snapshot.route(asked.route);
    // A stranger's was replaced by ours.
    let proto = head.fields.get(Known::XForwardedProto).unwrap_or_default();
    Values {
        client: asked.client,
        id: asked.id.clone(),
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
        listener: asked.snapshot.listener(asked.listener).rules.name.clone(),
    }
}

/// A redirect, or a fixed answer, to a head that would go on as it is.
pub(super) fn own_answer(
    own: &Own,
    head: &RequestHead,
    values: Option<&Values>,
) -> Result<(ResponseHead, Body), Failure> {
    const NO_HOST: &str = "a request without Host cannot be sent elsewhere";
    let path = match split_query(head.outgoing_target()).0 {
        b"*" => b"/",
        path => path,
    };
    let values = values.ok_or(Failure::new(Reason::Internal))?;
    own.answer(values, path)
        .map_err(|_| Failure::because(Reason::BadRequest, NO_HOST))
}

/// Whether a mirror may get a copy, `upgrade` being what the request asks to turn into.
pub(super) fn may_be_copied(head: &RequestHead, upgrade: Option<&str>) -> bool {
    upgrade.is_none() && head.fields.get_text(MARK).is_none()
}

/// A length over the route's limit is refused unread.
pub(super) fn check_length(route: &RouteState, length: Length) -> Result<(), Failure> {
    match (length, route.rules.max_body) {
        (Length::Exact(bytes), Some(limit)) if bytes > limit.0 => {
            Err(Failure::new(Reason::BodyTooLarge))
        }
        _ => Ok(()),
    }
}

/// Of `balance = "hash"`, for a head as it goes on; a missing key falls back to the client's
/// address.
pub(super) fn hash_key(balance: &Balance, head: &RequestHead, client: IpAddr) -> Option<u64> {
    let Balance::Hash(key) = balance else {
        return None;
    };
    Some(match key_bytes(key, head) {
        Some(key) => balance::hash_key(key),
        None => balance::hash_key(&client_bytes(client)),
    })
}

fn key_bytes<'a>(key: &HashKey, head: &'a RequestHead) -> Option<&'a [u8]> {
    let (path, query) = split_query(head.outgoing_target());
    match key {
        HashKey::ClientIp => None,
        HashKey::Path => Some(path),
        HashKey::Header(name) => head.fields.get_text(name),
        HashKey::Cookie(name) => router::cookie_values(&head.fields, name.as_bytes()).next(),
        HashKey::Query(name) => router::query_values(query?, name.as_bytes()).next(),
    }
}

fn split_query(target: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b'?', target) {
        Some(at) => (&target[..at], Some(&target[at + 1..])),
        None => (target, None),
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
