//! Who may ask what (section 8 of the contract).
//!
//! The admin listener stands on loopback by default and needs no token there, so the browser of the
//! same machine is the way in for strangers: a page of theirs may send requests to loopback, and by
//! DNS rebinding even read the answers. Against the first stands `Origin`, against the second
//! `Host`. Off loopback only the token counts.

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{HeaderMap, Request, StatusCode, Uri};

use super::context::Settings;
use super::reply::Refused;
use super::server::Local;

/// What a call can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// `/healthz`, `/readyz`, `/metrics`: anybody, under any name.
    Nothing,
    /// The page and its parts: no data, so no token.
    OwnName,
    /// Shows something.
    Reading,
    /// Changes something.
    Changing,
}

/// Refuses what may not be asked. `local` is the address that the connection came in on.
pub(super) fn check<B>(
    request: &Request<B>,
    needs: Needs,
    local: &Local,
    settings: &Settings,
) -> Result<(), Refused> {
    if needs == Needs::Nothing {
        return Ok(());
    }
    let host = own_name(request.uri(), request.headers(), local, settings)?;
    own_origin(request.headers(), &host)?;
    if needs == Needs::OwnName {
        return Ok(());
    }
    let open = local.is_loopback() && (needs == Needs::Reading || settings.token.is_none());
    if open {
        Ok(())
    } else {
        authorised(request.headers(), settings)
    }
}

/// The authority that the client asked for, if it is one of ours.
fn own_name(
    uri: &Uri,
    headers: &HeaderMap,
    local: &Local,
    settings: &Settings,
) -> Result<String, Refused> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    if hosts.next().is_some() {
        return Err(Refused::new(StatusCode::BAD_REQUEST, "more than one Host"));
    }
    // RFC 9112 section 3.2.2: the absolute form counts more than the field.
    let host = uri.authority().map(http::uri::Authority::as_str).or(host);
    let Some(host) = host else {
        return Err(Refused::new(StatusCode::FORBIDDEN, "a Host is needed"));
    };
    let host = host.to_ascii_lowercase();
    let name = without_port(&host);
    let listed = || {
        settings
            .hosts
            .iter()
            .any(|own| own.eq_ignore_ascii_case(name) || own.eq_ignore_ascii_case(&host))
    };
    if is_loopback(name) || local.is_named(name) || listed() {
        Ok(host)
    } else {
        Err(Refused::new(
            StatusCode::FORBIDDEN,
            "this Host is neither loopback, nor the bound address, nor in admin.hosts",
        ))
    }
}

/// A browser says which page sends a request; anything but our own page is foreign, `null` too.
fn own_origin(headers: &HeaderMap, host: &str) -> Result<(), Refused> {
    let own = |origin: &http::HeaderValue| {
        let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        let rest = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        rest == Some(host)
    };
    if headers.get_all(ORIGIN).iter().all(own) {
        Ok(())
    } else {
        Err(Refused::new(
            StatusCode::FORBIDDEN,
            "a page from elsewhere may not ask this",
        ))
    }
}

fn authorised(headers: &HeaderMap, settings: &Settings) -> Result<(), Refused> {
    let Some(token) = &settings.token else {
        return Err(Refused::new(
            StatusCode::FORBIDDEN,
            "off loopback this needs a token, and none is configured (admin.token)",
        ));
    };
    let given = headers
        .get(AUTHORIZATION)
        .map(http::HeaderValue::as_bytes)
        .unwrap_or_default();
    let bearer = given
        .split_at_checked(7)
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
        .map(|(_, token)| token.trim_ascii())
        .unwrap_or_default();
    if same(bearer, token.0.as_bytes()) {
        Ok(())
    } else {
        Err(Refused::new(
            StatusCode::UNAUTHORIZED,
            "the token is missing or wrong",
        ))
    }
}

/// Compares in a time that depends on the length of `given` alone.
fn same(given: &[u8], secret: &[u8]) -> bool {
    let Some(last) = secret.len().checked_sub(1) else {
        return false;
    };
    let mut difference = usize::from(given.len() != secret.len());
    for (position, byte) in given.iter().enumerate() {
        difference |= usize::from(byte ^ secret[position.min(last)]);
    }
    std::hint::black_box(difference) == 0
}

/// `host` is lower case; with brackets for IPv6.
fn without_port(host: &str) -> &str {
    if let Some(end) = host.find(']') {
        return &host[..=end];
    }
    host.split_once(':').map_or(host, |(name, _)| name)
}

fn is_loopback(name: &str) -> bool {
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.trim_end_matches('.') == "localhost"
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::config::model::Secret;

    const LOOPBACK: &str = "127.0.0.1:9900";
    const OUTSIDE: &str = "192.0.2.1:9900";

    fn ask(needs: Needs, local: &str, token: Option<&str>, fields: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().uri("/status");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a request");
        let settings = Settings {
            token: token.map(|token| Secret(token.into())),
            hosts: Arc::from(["admin.example".to_string()]),
        };
        let local = Local::Tcp(local.parse().expect("an address"));
        match check(&request, needs, &local, &settings) {
            Ok(()) => 200,
            Err(refused) => refused.reply().status().as_u16(),
        }
    }

    #[test]
    fn probes_and_scrapes_need_nothing() {
        let fields = [("host", "evil.example"), ("origin", "http://evil.example")];
        assert_eq!(ask(Needs::Nothing, OUTSIDE, Some("t"), &fields), 200);
    }

    #[test]
    fn on_loopback_only_changes_need_a_token_that_is_set() {
        let host = ("host", "localhost:9900");
        assert_eq!(ask(Needs::Reading, LOOPBACK, Some("t"), &[host]), 200);
        assert_eq!(ask(Needs::Changing, LOOPBACK, None, &[host]), 200);
        assert_eq!(ask(Needs::Changing, LOOPBACK, Some("t"), &[host]), 401);
        let bearer = ("authorization", "Bearer t");
        assert_eq!(
            ask(Needs::Changing, LOOPBACK, Some("t"), &[host, bearer]),
            200
        );
    }

    #[test]
    fn off_loopback_everything_with_data_needs_the_token() {
        let host = ("host", OUTSIDE);
        assert_eq!(ask(Needs::OwnName, OUTSIDE, Some("t"), &[host]), 200);
        assert_eq!(ask(Needs::Reading, OUTSIDE, None, &[host]), 403);
        assert_eq!(ask(Needs::Reading, OUTSIDE, Some("t"), &[host]), 401);
        for wrong in ["Bearer ", "Bearer tt", "Bearer x", "Basic t", "t", "Bearer"] {
            let wrong = ("authorization", wrong);
            assert_eq!(
                ask(Needs::Reading, OUTSIDE, Some("t"), &[host, wrong]),
                401,
                "{wrong:?}"
            );
        }
        let bearer = ("authorization", "bearer t");
        assert_eq!(
            ask(Needs::Reading, OUTSIDE, Some("t"), &[host, bearer]),
            200
        );
    }

    #[test]
    fn other_names_are_refused() {
        for own in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1",
            "127.9.9.9:80",
            "[::1]:9900",
            "admin.example",
            "Admin.Example:9900",
        ] {
            assert_eq!(
                ask(Needs::Reading, LOOPBACK, None, &[("host", own)]),
                200,
                "{own}"
            );
        }
        for foreign in [
            "evil.example",
            "localhost.evil.example",
            "192.0.2.1",
            "",
            "127.0.0.1.evil.example",
            "[::2]",
        ] {
            assert_eq!(
                ask(Needs::Reading, LOOPBACK, None, &[("host", foreign)]),
                403,
                "{foreign}"
            );
        }
        assert_eq!(ask(Needs::Reading, LOOPBACK, None, &[]), 403);
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(ask(Needs::Reading, LOOPBACK, None, &twice), 400);
    }

    #[test]
    fn pages_from_elsewhere_are_refused() {
        let host = ("host", "localhost:9900");
        let from = |origin| ask(Needs::Changing, LOOPBACK, None, &[host, ("origin", origin)]);
        assert_eq!(from("http://localhost:9900"), 200);
        for foreign in [
            "http://localhost:3000",
            "http://evil.example",
            "null",
            "http://localhost:9900.evil.example",
            "",
        ] {
            assert_eq!(from(foreign), 403, "{foreign}");
        }
    }

    proptest! {
        #[test]
        fn only_the_secret_is_the_secret(given in "[ab]{0,3}", secret in "[ab]{0,3}") {
            let expected = !secret.is_empty() && given == secret;
            prop_assert_eq!(same(given.as_bytes(), secret.as_bytes()), expected);
        }
    }
}
