//! The cookie by which a client stays with a server: read, and set anew where it must be.
//!
//! Its value is a list of tags ([`Tag`]), joined by `.`, and with a `ttl` the second of its issue:
//! `0f1e...-68d0a5c1`. A list, because browsers keep one cookie of a name and a path, while a client
//! may meet several upstreams behind them (a `split`, a fallback, other routes): each finds its own
//! tag among those of the others, and passes the others on. Nothing of it is trusted: a tag that no
//! server of the upstream has means nothing, the worst that a forged one can do is to choose among
//! servers that are chosen from anyway, and what is written back is digits that were parsed.
//!
//! `Max-Age` counts from the answer, so the cookie of a client that keeps coming is renewed once
//! half of its time is over; all others are left as they are, since an answer that sets a cookie is
//! one that caches keep apart. The cookie goes on to the server like any other (as with Nginx,
//! Envoy and Traefik). It is read before the route's `request-headers` change anything.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use smallvec::SmallVec;

use crate::config::model::Sticky;
use crate::message::{Fields, Known, ResponseHead};
use crate::proxy::attempt::Attempt;
use crate::proxy::transaction::Transaction;
use crate::router;
use crate::upstream::{Server, Tag, Upstream};

/// Tags that one cookie may have: upstreams that one client meets.
const MOST_TAGS: usize = 8;

/// What a client's cookie says.
pub(super) struct Given {
    /// A server of the upstream that the request goes to.
    named: Option<Tag>,
    tags: SmallVec<[Tag; 2]>,
    /// The second of its issue, of the Unix epoch.
    issued: Option<u32>,
}

/// The first cookie of that name that says something to `upstream`, else the first that may say
/// something to another.
fn given(fields: &Fields, rules: &Sticky, upstream: &Upstream) -> Option<Given> {
    let mut foreign = None;
    for value in router::cookie_values(fields, rules.cookie.as_bytes()) {
        let Some(mut given) = parse(value) else {
            continue;
        };
        let mut tags = given.tags.iter().copied();
        given.named = tags.find(|tag| upstream.knows(*tag));
        if given.named.is_some() {
            return Some(given);
        }
        foreign.get_or_insert(given);
    }
    foreign
}

/// The server that the cookies of a request name.
pub(super) fn named(fields: &Fields, upstream: &Upstream) -> Option<Tag> {
    given(fields, upstream.config().sticky.as_ref()?, upstream)?.named
}

fn parse(value: &[u8]) -> Option<Given> {
    let value = value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""))
        .unwrap_or(value);
    let (tags, issued) = match memchr::memchr(b'-', value) {
        Some(at) => (&value[..at], stamp(&value[at + 1..])),
        None => (value, None),
    };
    let tags: SmallVec<[Tag; 2]> = tags
        .split(|&byte| byte == b'.')
        .take(MOST_TAGS)
        .filter_map(Tag::parse)
        .collect();
    (!tags.is_empty()).then_some(Given {
        named: None,
        tags,
        issued,
    })
}

/// Eight digits.
fn stamp(text: &[u8]) -> Option<u32> {
    let digits = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    let text = Some(text).filter(|text| text.len() == 8 && text.iter().all(digits))?;
    u32::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

/// Wall time is what restarts and several instances have in common.
fn wall_seconds() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs() as u32
}

impl Given {
    /// Whether the client may keep the cookie as it is.
    fn is_fresh(&self, ttl: Option<Duration>, now: impl FnOnce() -> u32) -> bool {
        match (ttl, self.issued) {
            (None, None) => true,
            // A stamp ahead of our clock is as good as one that is as far behind.
            (Some(ttl), Some(issued)) => u64::from(now().abs_diff(issued)) * 2 < seconds(ttl),
            _ => false,
        }
    }
}

/// Rounded up: `Max-Age=0` takes a cookie away.
fn seconds(ttl: Duration) -> u64 {
    ttl.as_millis().div_ceil(1000) as u64
}

/// `others` are tags for upstreams that are not this one.
fn set_cookie(
    rules: &Sticky,
    secure: bool,
    tag: Tag,
    others: impl Iterator<Item = Tag>,
    now: impl FnOnce() -> u32,
) -> String {
    // Writing to a string does not fail.
    let mut cookie = format!("{}={tag}", rules.cookie);
    for other in others.take(MOST_TAGS - 1) {
        let _ = write!(cookie, ".{other}");
    }
    if rules.ttl.is_some() {
        let _ = write!(cookie, "-{:08x}", now());
    }
    let _ = write!(cookie, "; Path={}", rules.path);
    if let Some(ttl) = rules.ttl {
        let _ = write!(cookie, "; Max-Age={}", seconds(ttl));
    }
    if secure {
        cookie.push_str("; Secure");
    }
    if rules.http_only {
        cookie.push_str("; HttpOnly");
    }
    if let Some(same_site) = rules.same_site {
        let _ = write!(cookie, "; SameSite={same_site}");
    }
    cookie
}

impl Transaction {
    /// Reads where the client was before, of a request that goes to `upstream`.
    #[cold]
    pub(super) fn recall(&mut self, upstream: &Upstream) {
        let fields = &self.account.head.fields;
        let rules = upstream.config().sticky.as_ref();
        self.sticky = rules
            .and_then(|rules| given(fields, rules, upstream))
            .map(Box::new);
    }

    /// The server that a first attempt should go to.
    pub(super) fn stuck_to(&self) -> Option<Tag> {
        self.sticky.as_ref()?.named
    }

    /// Tells the client of the server that answered, where it does not know.
    pub(super) fn stick(&self, attempt: &Attempt, head: &mut ResponseHead) {
        if self.account.pin.route(attempt.route).sticks
            && let Some(upstream) = self.account.upstream()
        {
            self.stick_to(upstream, attempt.held.lease.server(), head);
        }
    }

    #[cold]
    fn stick_to(&self, upstream: &Upstream, server: &Arc<Server>, head: &mut ResponseHead) {
        let Some(rules) = &upstream.config().sticky else {
            return;
        };
        let given = self.sticky.as_deref();
        if let Some(given) = given
            && let Some(named) = given.named
            && upstream.is_tag_of(named, server)
            && given.is_fresh(rules.ttl, wall_seconds)
        {
            return;
        }
        let Some(tag) = upstream.tag_of(server) else {
            return;
        };
        let others = given.into_iter().flat_map(|given| given.tags.iter());
        let others = others.copied().filter(|other| !upstream.knows(*other));
        let secure = rules.secure.unwrap_or_else(|| self.client_speaks_tls());
        let cookie = set_cookie(rules, secure, tag, others, wall_seconds);
        head.fields.append(Known::SetCookie, cookie.as_bytes());
    }

    /// To us, or to the trusted proxy before us.
    fn client_speaks_tls(&self) -> bool {
        let told = || self.account.head.fields.get(Known::XForwardedProto);
        self.connection.secured.is_some()
            || (self.trusted && told().is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"https")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: &str = "0123456789abcdef";
    const OTHER: &str = "fedcba9876543210";

    fn rules(ttl: Option<u64>) -> Sticky {
        Sticky {
            cookie: "ek".to_owned(),
            ttl: ttl.map(Duration::from_secs),
            path: "/shop".to_owned(),
            secure: None,
            http_only: true,
            same_site: Some("Lax"),
            key: String::new(),
        }
    }

    fn tag(text: &str) -> Tag {
        Tag::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let cookie = set_cookie(
            &rules(Some(90)),
            true,
            tag(TAG),
            [tag(OTHER)].into_iter(),
            || 7,
        );
        assert_eq!(
            cookie,
            "ek=0123456789abcdef.fedcba9876543210-00000007; Path=/shop; Max-Age=90; Secure; \
             HttpOnly; SameSite=Lax"
        );
        let value = cookie.split(['=', ';']).nth(1).unwrap();
        for value in [value.to_owned(), format!("\"{value}\"")] {
            let given = parse(value.as_bytes()).unwrap();
            assert_eq!(given.tags.as_slice(), [tag(TAG), tag(OTHER)]);
            assert_eq!(given.issued, Some(7));
        }
        let session = set_cookie(&rules(None), false, tag(TAG), [].into_iter(), || 7);
        assert_eq!(
            session,
            "ek=0123456789abcdef; Path=/shop; HttpOnly; SameSite=Lax"
        );
    }

    #[test]
    fn hostile_values_say_nothing_or_what_is_left_of_them() {
        for nothing in [
            &b""[..],
            b"\"",
            b"\"\"",
            b".",
            b"-",
            b"0123456789ABCDEF",
            b"\xff\xfe\x00",
            b"0123456789abcdef0",
        ] {
            assert!(parse(nothing).is_none(), "{nothing:?}");
        }
        let long = format!("{TAG}.").repeat(2_000);
        assert_eq!(parse(long.as_bytes()).unwrap().tags.len(), MOST_TAGS);
        let mixed = format!("x.{TAG}.\u{1F36A}-+0000000");
        let given = parse(mixed.as_bytes()).unwrap();
        assert_eq!(
            (given.tags.as_slice(), given.issued),
            (&[tag(TAG)][..], None)
        );
    }

    #[test]
    fn a_cookie_is_renewed_from_half_of_its_time_on() {
        let given = |issued| Given {
            named: None,
            tags: SmallVec::new(),
            issued,
        };
        let hour = Some(Duration::from_secs(3600));
        let now = 1_700_000_000;
        let fresh = |ago: i64, ttl| {
            let issued = u32::try_from(i64::from(now) - ago).unwrap();
            given(Some(issued)).is_fresh(ttl, || now)
        };
        assert!(fresh(0, hour) && fresh(1_799, hour) && !fresh(1_800, hour));
        assert!(fresh(-1_799, hour) && !fresh(-1_800, hour), "another clock");
        assert!(
            !fresh(0, None),
            "it has become one of the browser's session"
        );
        assert!(given(None).is_fresh(None, || now) && !given(None).is_fresh(hour, || now));
    }
}
