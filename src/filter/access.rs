//! Who may ask: `allow` and `deny` of a route, by the client address.

use std::net::IpAddr;

use crate::config::model::Access;

/// Whether a client may ask: `deny` is tested first, then a non-empty `allow` admits only its
/// members. An IPv4 address written as IPv6 is the IPv4 address.
pub fn admits(access: &Access, client: IpAddr) -> bool {
    let client = client.to_canonical();
    let among = |networks: &[ipnet::IpNet]| networks.iter().any(|net| net.contains(&client));
    !among(&access.deny) && (access.allow.is_empty() || among(&access.allow))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(allow: &[&str], deny: &[&str]) -> Access {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Access {
            allow: parse(allow),
            deny: parse(deny),
        }
    }

    #[test]
    fn deny_comes_first_and_allow_is_exclusive() {
        let table: &[(&[&str], &[&str], &str, bool)] = &[
            (&[], &[], "192.0.2.1", true),
            (&["192.0.2.0/24"], &[], "192.0.2.1", true),
            (&["192.0.2.0/24"], &[], "198.51.100.1", false),
            (&["192.0.2.0/24"], &[], "2001:db8::1", false),
            (&[], &["192.0.2.0/24"], "192.0.2.1", false),
            (&[], &["192.0.2.0/24"], "198.51.100.1", true),
            (&["192.0.2.0/24"], &["192.0.2.1/32"], "192.0.2.1", false),
            (&["192.0.2.0/24"], &["192.0.2.1/32"], "192.0.2.2", true),
            (&["2001:db8::/32"], &[], "2001:db8:ffff::1", true),
            (&[], &["0.0.0.0/0"], "2001:db8::1", true),
        ];
        for (allow, deny, client, expected) in table {
            let admitted = admits(&access(allow, deny), client.parse().unwrap());
            assert_eq!(
                admitted, *expected,
                "{client}: allow {allow:?}, deny {deny:?}"
            );
        }
    }

    #[test]
    fn another_spelling_of_an_address_is_the_same_address() {
        let denied = access(&[], &["192.0.2.0/24"]);
        assert!(!admits(&denied, "::ffff:192.0.2.7".parse().unwrap()));
        let allowed = access(&["192.0.2.0/24"], &[]);
        assert!(admits(&allowed, "::ffff:c000:207".parse().unwrap()));
    }
}
