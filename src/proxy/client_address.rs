//! The one address that rules, limits, hashing and logs use.
//!
//! Everybody may write anything into `X-Forwarded-For`, but each trusted proxy appends the
//! address that it saw itself. So the list is read from the right, for as long as the one who
//! wrote an entry is trusted; the first address that is not is the client. Where an entry cannot
//! be read, nothing to its left can be believed, and the last address that could be is the
//! client. `Forwarded` (RFC 7239) is read in the same way, only where there is no
//! `X-Forwarded-For`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use smallvec::SmallVec;

use crate::message::{Fields, Known};

/// True when the listener believes what this address says about others.
pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|net| net.contains(&address))
}

/// The client's address. `source`: the TCP peer. IPv4 in IPv6 comes out as IPv4.
pub fn client_address(source: IpAddr, trusted: &[IpNet], fields: &Fields) -> IpAddr {
    let source = source.to_canonical();
    if !is_trusted(source, trusted) {
        return source;
    }
    if fields.contains(Known::XForwardedFor) {
        walk(source, trusted, x_forwarded_for(fields))
    } else if fields.contains(Known::Forwarded) {
        walk(source, trusted, forwarded(fields))
    } else {
        source
    }
}

/// `entries` from the right; `None` is one that says no address.
fn walk(
    source: IpAddr,
    trusted: &[IpNet],
    entries: impl Iterator<Item = Option<IpAddr>>,
) -> IpAddr {
    let mut client = source;
    for entry in entries {
        let Some(address) = entry else {
            return client;
        };
        client = address.to_canonical();
        if !is_trusted(client, trusted) {
            return client;
        }
    }
    client
}

/// All values of a name, last line first.
fn values_from_the_right(fields: &Fields, name: Known) -> impl Iterator<Item = &[u8]> {
    let values: SmallVec<[&[u8]; 4]> = fields.values(name).collect();
    values.into_iter().rev()
}

fn x_forwarded_for(fields: &Fields) -> impl Iterator<Item = Option<IpAddr>> {
    values_from_the_right(fields, Known::XForwardedFor)
        .flat_map(|value| value.rsplit(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|entry| !entry.is_empty())
        .map(|entry| node(entry, |port| port.parse::<u16>().is_ok()))
}

/// An address with or without port: `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
fn node(text: &[u8], is_port: impl Fn(&str) -> bool) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let good = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        let address: Ipv6Addr = without_zone(address)?.parse().ok()?;
        return good.then_some(IpAddr::V6(address));
    }
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    if text.contains('%') {
        return without_zone(text)?.parse().map(IpAddr::V6).ok();
    }
    let (address, port) = text.split_once(':')?;
    let address: Ipv4Addr = address.parse().ok()?;
    is_port(port).then_some(IpAddr::V4(address))
}

/// `fe80::1%eth0`: on which link an address is means something to its neighbours alone (RFC 4007
/// section 11), and no rule can name it.
fn without_zone(text: &str) -> Option<&str> {
    let Some((address, zone)) = text.split_once('%') else {
        return Some(text);
    };
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-~".contains(&byte);
    (!zone.is_empty() && zone.bytes().all(good)).then_some(address)
}

fn forwarded(fields: &Fields) -> impl Iterator<Item = Option<IpAddr>> {
    values_from_the_right(fields, Known::Forwarded)
        .flat_map(|value| FromTheRight {
            rest: Some(value),
            separator: b',',
        })
        .filter(|element| !element.is_some_and(|element| element.trim_ascii().is_empty()))
        .map(|element| forwarded_for(element?))
}

/// The address of `for` in one element of `Forwarded`.
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let pairs = FromTheRight {
        rest: Some(element),
        separator: b';',
    };
    let mut found = None;
    for pair in pairs {
        let pair = pair?.trim_ascii();
        let Some(at) = memchr::memchr(b'=', pair) else {
            continue;
        };
        if pair[..at].eq_ignore_ascii_case(b"for") && found.replace(&pair[at + 1..]).is_some() {
            return None;
        }
    }
    let value = found?;
    let inner = value
        .strip_prefix(b"\"")
        .map(|rest| rest.strip_suffix(b"\""));
    // RFC 7239 section 6: a port may be obfuscated too.
    let is_port = |port: &str| {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        !port.is_empty() && port.bytes().all(good)
    };
    node(inner.unwrap_or(Some(value))?, is_port)
}

/// Splits at a separator outside quoted strings, from the right: what a trusted proxy appended
/// is well formed, whatever quotes a client left open to its left. `None` ends it where a quoted
/// string has no beginning.
struct FromTheRight<'a> {
    rest: Option<&'a [u8]>,
    separator: u8,
}

impl<'a> Iterator for FromTheRight<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Option<&'a [u8]>> {
        let bytes = self.rest.take()?;
        let mut at = bytes.len();
        while let Some(before) = at.checked_sub(1) {
            at = before;
            if bytes[at] == self.separator {
                self.rest = Some(&bytes[..at]);
                return Some(Some(&bytes[at + 1..]));
            }
            if bytes[at] == b'"' {
                let Some(open) = opening_quote(&bytes[..at]) else {
                    return Some(None);
                };
                at = open;
            }
        }
        Some(Some(bytes))
    }
}

/// The last quote that no backslash escapes.
fn opening_quote(bytes: &[u8]) -> Option<usize> {
    memchr::memrchr_iter(b'"', bytes).find(|&at| at == 0 || bytes[at - 1] != b'\\')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn trusted() -> Vec<IpNet> {
        ["10.0.0.0/8", "fd00::/8"]
            .iter()
            .map(|net| net.parse().expect("a net"))
            .collect()
    }

    fn client(source: &str, lines: &[(Known, &str)]) -> String {
        let mut fields = Fields::new();
        for (name, value) in lines {
            fields.append(*name, value.as_bytes());
        }
        client_address(address(source), &trusted(), &fields).to_string()
    }

    use Known::{Forwarded, XForwardedFor};

    #[test]
    fn nobody_else_is_believed() {
        for name in [XForwardedFor, Forwarded] {
            let value = if name == Forwarded {
                "for=1.2.3.4"
            } else {
                "1.2.3.4"
            };
            assert_eq!(client("192.0.2.9", &[(name, value)]), "192.0.2.9");
            assert_eq!(client("10.0.0.1", &[(name, value)]), "1.2.3.4");
        }
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(
            client("::ffff:10.0.0.1", &[(XForwardedFor, "1.2.3.4")]),
            "1.2.3.4"
        );
        assert_eq!(client("::ffff:192.0.2.9", &[]), "192.0.2.9");
    }

    #[test]
    fn list_is_read_from_the_right() {
        for (value, expected) in [
            ("6.6.6.6, 192.0.2.1", "192.0.2.1"),
            ("6.6.6.6, 192.0.2.1, 10.0.0.2", "192.0.2.1"),
            ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("192.0.2.1:4711", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:4711,fd00::1", "2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            (" 192.0.2.1 ,, ", "192.0.2.1"),
        ] {
            assert_eq!(
                client("10.0.0.1", &[(XForwardedFor, value)]),
                expected,
                "{value}"
            );
        }
    }

    #[test]
    fn the_zone_of_an_address_says_nothing() {
        for (value, expected) in [
            ("6.6.6.6, fe80::1%eth0", "fe80::1"),
            ("6.6.6.6, [fe80::1%25]:80", "fe80::1"),
            ("6.6.6.6, ::ffff:192.0.2.1%1", "192.0.2.1"),
            ("192.0.2.1, fd00::1%x", "192.0.2.1"),
        ] {
            let client = client("10.0.0.1", &[(XForwardedFor, value)]);
            assert_eq!(client, expected, "{value}");
        }
    }

    #[test]
    fn several_fields_are_one_list() {
        let lines = [
            (XForwardedFor, "6.6.6.6"),
            (XForwardedFor, "192.0.2.1, 10.0.0.9"),
            (XForwardedFor, "10.0.0.2"),
        ];
        assert_eq!(client("10.0.0.1", &lines), "192.0.2.1");
    }

    #[test]
    fn nothing_left_of_garbage_is_believed() {
        for (value, expected) in [
            ("6.6.6.6, unknown", "10.0.0.1"),
            ("6.6.6.6, garbage, 10.0.0.2", "10.0.0.2"),
            ("6.6.6.6, 192.0.2.1:x, 10.0.0.2", "10.0.0.2"),
            ("6.6.6.6, 192.0.2.1:99999", "10.0.0.1"),
            ("6.6.6.6, [10.0.0.3]", "10.0.0.1"),
            ("6.6.6.6, fe80::1%", "10.0.0.1"),
            ("6.6.6.6, fe80::1%a%b", "10.0.0.1"),
            ("6.6.6.6, 192.0.2.1%eth0", "10.0.0.1"),
            ("6.6.6.6, \"192.0.2.1\"", "10.0.0.1"),
            ("6.6.6.6, 010.0.0.3", "10.0.0.1"),
            ("\u{e9}", "10.0.0.1"),
            ("", "10.0.0.1"),
        ] {
            assert_eq!(
                client("10.0.0.1", &[(XForwardedFor, value)]),
                expected,
                "{value}"
            );
        }
    }

    #[test]
    fn forwarded_is_read_where_the_other_is_absent() {
        let lines = [(Forwarded, "for=6.6.6.6"), (XForwardedFor, "192.0.2.1")];
        assert_eq!(client("10.0.0.1", &lines), "192.0.2.1");
        for (value, expected) in [
            ("for=192.0.2.1", "192.0.2.1"),
            ("For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
            (
                "proto=http ; FOR=\"192.0.2.60:_x\" ; host=\"a;b,c\"",
                "192.0.2.60",
            ),
            ("for=6.6.6.6, for=192.0.2.1, for=10.0.0.2", "192.0.2.1"),
            (
                "for=6.6.6.6;host=\"a, for=7.7.7.7\", for=10.0.0.2",
                "6.6.6.6",
            ),
            ("for=192.0.2.1,", "192.0.2.1"),
            // No address there: nothing to the left counts.
            ("for=6.6.6.6, for=unknown, for=10.0.0.2", "10.0.0.2"),
            ("for=6.6.6.6, for=_hidden", "10.0.0.1"),
            ("for=6.6.6.6, by=10.0.0.9", "10.0.0.1"),
            ("for=6.6.6.6, for=192.0.2.1;for=192.0.2.2", "10.0.0.1"),
            ("for=6.6.6.6, for=\"\\192.0.2.1\"", "10.0.0.1"),
            ("for=6.6.6.6, for=192.0.2.1\"", "10.0.0.1"),
        ] {
            assert_eq!(
                client("10.0.0.1", &[(Forwarded, value)]),
                expected,
                "{value}"
            );
        }
    }

    #[test]
    fn quote_left_open_by_a_client_does_not_hide_it() {
        for value in [
            "for=\", for=192.0.2.1",
            "for=\"a, for=192.0.2.1, for=\"10.0.0.2:80\"",
            "\\\", for=192.0.2.1, for=10.0.0.2",
        ] {
            assert_eq!(
                client("10.0.0.1", &[(Forwarded, value)]),
                "192.0.2.1",
                "{value}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_a_client_writes_never_moves_what_a_proxy_appended(
            spoofed in "[ -~]{0,40}",
            real: [u8; 4],
            name in prop::sample::select(vec![XForwardedFor, Forwarded]),
        ) {
            let real = IpAddr::from(real);
            prop_assume!(!is_trusted(real, &trusted()));
            let appended = match name {
                Forwarded => format!("{spoofed}, for={real}, for=10.1.1.1"),
                _ => format!("{spoofed}, {real}, 10.1.1.1"),
            };
            prop_assert_eq!(client("10.0.0.1", &[(name, &appended)]), real.to_string());
            let lines = [(name, &*spoofed), (name, &appended)];
            prop_assert_eq!(client("10.0.0.1", &lines), real.to_string());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            for name in [XForwardedFor, Forwarded] {
                let mut fields = Fields::new();
                fields.append(name, &bytes);
                client_address(address("10.0.0.1"), &trusted(), &fields);
            }
        }
    }
}
