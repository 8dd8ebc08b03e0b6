//! Removes what was meant for this hop only (RFC 9110 section 7.6.1), in both directions.
//!
//! `Connection` may name further fields of the hop, and clients abuse that to take away what
//! others rely on (CVE-2022-31813, CVE-2024-45410): names that mean something to every recipient
//! are not removed, whatever `Connection` says. `Trailer` is no field of the hop: trailers pass.
//! `Proxy-Authorization` and its kin are between a client and a proxy that asked for it
//! (RFC 9110 section 11.7), and we never ask.

use smallvec::SmallVec;

use crate::message::{Fields, Known, KnownSet, Version};

/// Always removed.
const OF_THE_HOP: KnownSet = KnownSet::of(&[
    Known::Connection,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::ProxyAuthenticate,
    Known::ProxyAuthorization,
    Known::ProxyAuthenticationInfo,
    Known::Te,
    Known::TransferEncoding,
    Known::Upgrade,
    Known::Http2Settings,
]);

/// Of the hop, and beyond what `Connection` alone says.
const BESIDE_CONNECTION: KnownSet = OF_THE_HOP.without(Known::Connection);

/// Never removed because `Connection` names it: framing, routing, identity, credentials and what
/// the content means.
const END_TO_END: KnownSet = KnownSet::IDENTITY.union(KnownSet::of(&[
    Known::Host,
    Known::ContentLength,
    Known::ContentType,
    Known::ContentEncoding,
    Known::ContentRange,
    Known::Trailer,
    Known::Expect,
    Known::MaxForwards,
    Known::Via,
    Known::Traceparent,
    Known::Tracestate,
    Known::Cookie,
    Known::SetCookie,
    Known::Authorization,
    Known::WwwAuthenticate,
    Known::Origin,
    Known::Range,
    Known::CacheControl,
    Known::Vary,
    Known::Date,
    Known::Location,
    Known::RetryAfter,
]));

/// What a request's hop-by-hop fields asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Requested {
    /// The token to upgrade to, as the client sent it; only one that the route allows.
    pub upgrade: Option<Box<str>>,
    /// `TE: trailers`: set again towards HTTP/2.
    pub te_trailers: bool,
}

/// Cleans a request and says what its fields asked for. `upgrades`: the route's, lower case.
pub fn clean_request(fields: &mut Fields, version: Version, upgrades: &[String]) -> Requested {
    if !fields.contains_any(OF_THE_HOP) || remove_usual(fields) {
        return Requested::default();
    }
    let requested = Requested {
        // RFC 9110 section 7.8: ignored in HTTP/1.0, and unless `Connection` lists it. In HTTP/2 the
        // wire put it there, for an extended CONNECT.
        upgrade: (version != Version::Http10 && lists(fields, Known::Connection, b"upgrade"))
            .then(|| allowed_upgrade(fields, upgrades))
            .flatten(),
        te_trailers: lists(fields, Known::Te, b"trailers"),
    };
    remove_hop(fields);
    requested
}

/// Puts `Connection: upgrade` and `Upgrade: token` on a cleaned head.
pub fn offer_upgrade(fields: &mut Fields, token: &str) {
    fields.set(Known::Connection, b"upgrade");
    fields.set(Known::Upgrade, token.as_bytes());
}

/// Cleans a response; returns the token of `Upgrade` for a 101.
pub fn clean_response(fields: &mut Fields) -> Option<Box<str>> {
    if !fields.contains_any(OF_THE_HOP) || remove_usual(fields) {
        return None;
    }
    let token = members(fields, Known::Upgrade).find_map(token_text);
    remove_hop(fields);
    token
}

/// Removes from a trailer section what may not stand there (RFC 9110 section 6.5.1): whatever a
/// recipient that merges trailers into the head would take for framing, routing, identity or
/// credentials (CVE-2026-88004).
pub fn clean_trailers(fields: &mut Fields) {
    fields.retain(|known, name| match known {
        Some(known) => may_trail(known),
        None => may_trail_unknown(name),
    });
}

/// Of the names that we know, only these are defined to be of use after the content.
fn may_trail(known: Known) -> bool {
    matches!(
        known,
        Known::Etag | Known::AuthenticationInfo | Known::GrpcStatus | Known::GrpcMessage
    )
}

fn may_trail_unknown(name: &[u8]) -> bool {
    const FORBIDDEN: [&[u8]; 6] = [
        b"content-",
        b"proxy-",
        b"x-forwarded-",
        b"sec-",
        b"if-",
        b"access-control-",
    ];
    // As CGI-like servers read it.
    let dashed: SmallVec<[u8; 32]> = name
        .iter()
        .map(|&byte| {
            if byte == b'_' {
                b'-'
            } else {
                byte.to_ascii_lowercase()
            }
        })
        .collect();
    Known::find(&dashed).is_none_or(may_trail)
        && !FORBIDDEN.iter().any(|prefix| dashed.starts_with(prefix))
}

/// The way of nearly every head that has any of them: `Connection`, which names no field that is
/// there. False where there is more to do; then nothing was removed.
fn remove_usual(fields: &mut Fields) -> bool {
    let usual =
        !fields.contains_any(BESIDE_CONNECTION) && fields.values(Known::Connection).all(is_usual);
    if usual {
        fields.remove(Known::Connection);
    }
    usual
}

/// An option that stands for itself, or for a field that goes in any case.
fn is_usual(option: &[u8]) -> bool {
    // As nearly everybody writes them; then in any case.
    matches!(option, b"keep-alive" | b"close")
        || [&b"keep-alive"[..], b"close", b"upgrade"]
            .iter()
            .any(|usual| option.eq_ignore_ascii_case(usual))
}

fn remove_hop(fields: &mut Fields) {
    remove_named_by_connection(fields);
    fields.remove_any(OF_THE_HOP);
}

fn remove_named_by_connection(fields: &mut Fields) {
    let mut named: SmallVec<[SmallVec<[u8; 32]>; 4]> = SmallVec::new();
    for option in members(fields, Known::Connection) {
        if !is_usual(option) && is_of_the_hop(option) {
            named.push(option.into());
        }
    }
    for name in named {
        fields.remove_bytes(&name);
    }
}

fn is_of_the_hop(name: &[u8]) -> bool {
    let starts = |prefix: &[u8]| {
        name.get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    match Known::find(name) {
        Some(known) => !END_TO_END.contains(known),
        None => !starts(b"content-") && !starts(b"x-forwarded-"),
    }
}

/// The first token of `Upgrade` that the route lets through; never `h2c`, which would be a
/// connection past every rule (CVE-2026-88008).
fn allowed_upgrade(fields: &Fields, upgrades: &[String]) -> Option<Box<str>> {
    members(fields, Known::Upgrade)
        .filter(|token| !token.eq_ignore_ascii_case(b"h2c"))
        .filter(|token| {
            upgrades
                .iter()
                .any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(token))
        })
        .find_map(token_text)
}

fn token_text(token: &[u8]) -> Option<Box<str>> {
    std::str::from_utf8(token).ok().map(Into::into)
}

fn lists(fields: &Fields, name: Known, member: &[u8]) -> bool {
    members(fields, name).any(|item| item.eq_ignore_ascii_case(member))
}

/// The members of a list, over all fields of the name (RFC 9110 section 5.6.1).
fn members(fields: &Fields, name: Known) -> impl Iterator<Item = &[u8]> {
    fields
        .values(name)
        .flat_map(|value| value.split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(lines: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::new();
        for (name, value) in lines {
            fields.append_text(name, value.as_bytes());
        }
        fields
    }

    fn names(fields: &Fields) -> Vec<String> {
        fields
            .iter()
            .map(|(name, _)| String::from_utf8_lossy(name).to_ascii_lowercase())
            .collect()
    }

    /// The names that a request keeps, where a route allows websocket.
    fn kept(lines: &[(&str, &str)]) -> Vec<String> {
        let mut fields = fields(lines);
        clean_request(&mut fields, Version::Http11, &["websocket".to_owned()]);
        names(&fields)
    }

    #[test]
    fn fields_of_the_hop_go_in_both_directions() {
        let lines = [
            ("Connection", "close, X-Foo"),
            ("X-Foo", "1"),
            ("connection", "x-bar"),
            ("X-Bar", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
            ("Proxy-Authorization", "Basic x"),
            ("Proxy-Authenticate", "Basic"),
            ("Proxy-Authentication-Info", "x"),
            ("TE", "trailers"),
            ("Transfer-Encoding", "chunked"),
            ("Upgrade", "h2c"),
            ("HTTP2-Settings", "AAMAAABk"),
            ("Trailer", "x-sum"),
            ("X-Other", "1"),
        ];
        assert_eq!(kept(&lines), ["trailer", "x-other"]);
        let mut response = fields(&lines);
        clean_response(&mut response);
        assert_eq!(names(&response), ["trailer", "x-other"]);
    }

    #[test]
    fn connection_takes_away_nothing_that_others_rely_on() {
        let victims = [
            "Host",
            "Content-Length",
            "Content-Type",
            "Content-Language",
            "X-Forwarded-For",
            "x-forwarded-proto",
            "X-FORWARDED-HOST",
            "X-Forwarded-Port",
            "X-Forwarded-Anything",
            "Forwarded",
            "X-Real-IP",
            "X-Request-Id",
            "Client-Cert",
            "Via",
            "traceparent",
            "Cookie",
            "Authorization",
            "Expect",
        ];
        for victim in victims {
            let lines = [("Connection", victim), (victim, "1")];
            assert_eq!(kept(&lines), [victim.to_ascii_lowercase()]);
        }
    }

    #[test]
    fn odd_lists_are_read_as_lists() {
        let lines = [
            ("Connection", ",, close ,\tX-Foo,,x-bar , "),
            ("X-Foo", "1"),
            ("X-Foo", "2"),
            ("x-Bar", "1"),
            ("X-Baz", "1"),
        ];
        assert_eq!(kept(&lines), ["x-baz"]);
        assert_eq!(kept(&[("Connection", "connection")]), [""; 0]);
    }

    #[test]
    fn upgrade_is_passed_when_asked_for_and_allowed() {
        let asked = |connection: &str, upgrade: &str, version| {
            let mut fields = fields(&[("Connection", connection), ("Upgrade", upgrade)]);
            let allowed = ["websocket".to_owned(), "h2c".to_owned(), "foo/2".to_owned()];
            let requested = clean_request(&mut fields, version, &allowed);
            assert!(fields.is_empty());
            requested.upgrade
        };
        let (new, old) = (Version::Http11, Version::Http10);
        assert_eq!(
            asked("Upgrade", "websocket", new).as_deref(),
            Some("websocket")
        );
        assert_eq!(
            asked("keep-alive, upgrade", "WebSocket", new).as_deref(),
            Some("WebSocket")
        );
        assert_eq!(
            asked("upgrade", "bar, Foo/2", new).as_deref(),
            Some("Foo/2")
        );
        assert_eq!(
            asked("close", "websocket", new),
            None,
            "Connection does not list it"
        );
        assert_eq!(asked("upgrade", "websocket", old), None, "HTTP/1.0");
        assert_eq!(asked("upgrade", "h2c", new), None, "never");
        assert_eq!(
            asked("upgrade", "websocket/13", new),
            None,
            "another protocol"
        );
        assert_eq!(asked("upgrade", "", new), None);
    }

    #[test]
    fn usual_options_alone_are_removed_without_more() {
        for option in ["keep-alive", "close", "Keep-Alive", "CLOSE", "Upgrade"] {
            let lines = [
                ("Connection", option),
                ("X-Foo", "1"),
                ("connection", "close"),
            ];
            assert_eq!(kept(&lines), ["x-foo"]);
            let mut response = fields(&lines);
            assert_eq!(clean_response(&mut response), None);
            assert_eq!(names(&response), ["x-foo"]);
        }
    }

    #[test]
    fn te_trailers_is_told() {
        let te =
            |value| clean_request(&mut fields(&[("TE", value)]), Version::Http11, &[]).te_trailers;
        assert!(te("trailers"));
        assert!(te("gzip;q=0.5, Trailers"));
        assert!(!te("gzip"));
    }

    #[test]
    fn answer_to_an_upgrade_is_offered_again() {
        let mut fields = fields(&[("Connection", "Upgrade"), ("Upgrade", "websocket")]);
        let token = clean_response(&mut fields).expect("a token");
        offer_upgrade(&mut fields, &token);
        assert_eq!(fields.get(Known::Upgrade), Some(&b"websocket"[..]));
        assert_eq!(fields.get(Known::Connection), Some(&b"upgrade"[..]));
    }

    #[test]
    fn trailers_keep_nothing_that_belongs_in_a_head() {
        let mut trailers = fields(&[
            ("Host", "evil"),
            ("Content-Length", "5"),
            ("Content-Foo", "5"),
            ("Transfer-Encoding", "chunked"),
            ("Authorization", "x"),
            ("Cookie", "a=b"),
            ("Set-Cookie", "a=b"),
            ("X-Forwarded-For", "1.2.3.4"),
            ("X_Forwarded_For", "1.2.3.4"),
            ("X-Real_IP", "1.2.3.4"),
            ("X-Forwarded-User", "root"),
            ("Forwarded", "for=1.2.3.4"),
            ("Client-Cert", ":x:"),
            ("Connection", "close"),
            ("Trailer", "x"),
            ("Location", "/"),
            ("grpc-status", "0"),
            ("grpc-status-details-bin", "AA"),
            ("ETag", "\"x\""),
            ("X-Checksum", "1"),
            ("Server-Timing", "a"),
        ]);
        clean_trailers(&mut trailers);
        let expected = [
            "grpc-status",
            "grpc-status-details-bin",
            "etag",
            "x-checksum",
            "server-timing",
        ];
        assert_eq!(names(&trailers), expected);
    }

    proptest! {
        #[test]
        fn whatever_connection_says_host_and_length_stay(value in "[ -~]{0,40}") {
            let mut fields = fields(&[
                ("Connection", &value),
                ("Host", "h"),
                ("Content-Length", "3"),
                ("X-Forwarded-For", "192.0.2.1"),
            ]);
            clean_request(&mut fields, Version::Http11, &["websocket".to_owned()]);
            prop_assert_eq!(names(&fields), ["host", "content-length", "x-forwarded-for"]);
        }
    }
}
