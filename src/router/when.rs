//! The conditions of `when`, compiled.
//!
//! A header, query parameter or cookie equals a value when it is there and *every* occurrence of
//! it does: servers differ in whether the first or the last of two counts, so a request with two
//! different ones matches neither. It also makes different values for one key disjoint, which
//! the checker relies on.

use crate::config::model::{Condition, Expected};
use crate::message::{Fields, Known, Method};
use crate::router::Query;

/// One key of `when`, with names resolved.
#[derive(Debug)]
pub(super) enum Predicate {
    Method(Box<[Method]>),
    Known(Known, Wanted),
    Header(Box<str>, Wanted),
    Query(Box<[u8]>, Wanted),
    Cookie(Box<[u8]>, Wanted),
}

/// `None`: present is enough.
type Wanted = Option<Box<[u8]>>;

impl Predicate {
    pub(super) fn compile(condition: &Condition) -> Predicate {
        match condition {
            Condition::Method(methods) => Predicate::Method(
                methods
                    .iter()
                    .map(|method| Method::from_token(method.as_bytes()))
                    .collect(),
            ),
            Condition::Header(name, expected) => match Known::find(name.as_bytes()) {
                Some(known) => Predicate::Known(known, wanted(expected)),
                None => Predicate::Header(name.as_str().into(), wanted(expected)),
            },
            Condition::Query(name, expected) => {
                Predicate::Query(name.as_bytes().into(), wanted(expected))
            }
            Condition::Cookie(name, expected) => {
                Predicate::Cookie(name.as_bytes().into(), wanted(expected))
            }
        }
    }

    pub(super) fn holds(&self, query: &Query<'_>) -> bool {
        match self {
            Predicate::Method(methods) => methods.contains(query.method),
            Predicate::Known(name, wanted) => every(query.fields.values(*name), wanted, <[u8]>::eq),
            Predicate::Header(name, wanted) => {
                every(query.fields.values_text(name), wanted, <[u8]>::eq)
            }
            Predicate::Query(name, wanted) => {
                let values = query_values(query.query.unwrap_or_default(), name);
                every(values, wanted, |value, wanted| {
                    decoded(value).eq(wanted.iter().copied())
                })
            }
            Predicate::Cookie(name, wanted) => {
                every(cookie_values(query.fields, name), wanted, <[u8]>::eq)
            }
        }
    }
}

fn wanted(expected: &Expected) -> Wanted {
    match expected {
        Expected::Present => None,
        Expected::Value(value) => Some(value.text.as_bytes().into()),
    }
}

/// There is a value, and all of them are the wanted one.
fn every<'a>(
    mut values: impl Iterator<Item = &'a [u8]>,
    wanted: &Wanted,
    equal: impl Fn(&[u8], &[u8]) -> bool,
) -> bool {
    let Some(first) = values.next() else {
        return false;
    };
    match wanted {
        None => true,
        Some(wanted) => equal(first, wanted) && values.all(|value| equal(value, wanted)),
    }
}

/// The values of a query parameter as sent, in order; without `=` it is empty. The name is
/// compared decoded.
pub fn query_values<'q>(query: &'q [u8], name: &[u8]) -> impl Iterator<Item = &'q [u8]> {
    query
        .split(|&byte| byte == b'&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match memchr::memchr(b'=', pair) {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &b""[..]),
        })
        .filter(move |(key, _)| decoded(key).eq(name.iter().copied()))
        .map(|(_, value)| value)
}

/// The values of a cookie, over all `Cookie` fields in order.
pub fn cookie_values<'f>(fields: &'f Fields, name: &[u8]) -> impl Iterator<Item = &'f [u8]> {
    fields
        .values(Known::Cookie)
        .flat_map(|line| line.split(|&byte| byte == b';'))
        .filter_map(|pair| {
            let at = memchr::memchr(b'=', pair)?;
            Some((pair[..at].trim_ascii(), pair[at + 1..].trim_ascii()))
        })
        .filter(move |(key, _)| *key == name)
        .map(|(_, value)| value)
}

/// Bytes of a query as forms encode them: `+` is a space, `%XX` a byte; a broken escape is
/// itself.
fn decoded(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (&first, mut after) = rest.split_first()?;
        let byte = match first {
            b'+' => b' ',
            b'%' => match after {
                [high, low, tail @ ..] => match (hex(*high), hex(*low)) {
                    (Some(high), Some(low)) => {
                        after = tail;
                        high << 4 | low
                    }
                    _ => b'%',
                },
                _ => b'%',
            },
            other => other,
        };
        rest = after;
        Some(byte)
    })
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use crate::config::model::ListenerId;

    use super::*;

    fn holds(condition: &Condition, query: &str, fields: &[(&str, &str)]) -> bool {
        let mut head = Fields::new();
        for (name, value) in fields {
            head.append_text(name, value.as_bytes());
        }
        Predicate::compile(condition).holds(&Query {
            listener: ListenerId(0),
            host: None,
            path: b"/",
            query: (!query.is_empty()).then_some(query.as_bytes()),
            method: &Method::Get,
            fields: &head,
        })
    }

    fn value(text: &str) -> Expected {
        Expected::Value(text.into())
    }

    #[test]
    fn method_is_one_of_the_list() {
        assert!(holds(
            &Condition::Method(vec!["POST".into(), "GET".into()]),
            "",
            &[]
        ));
        assert!(!holds(&Condition::Method(vec!["HEAD".into()]), "", &[]));
        assert!(!holds(&Condition::Method(vec!["get".into()]), "", &[]));
    }

    #[test]
    fn header_equals_in_every_line() {
        let beta = Condition::Header("x-beta".into(), value("1"));
        assert!(holds(&beta, "", &[("X-Beta", "1")]));
        assert!(holds(&beta, "", &[("x-beta", "1"), ("X-BETA", "1")]));
        assert!(!holds(&beta, "", &[("x-beta", "1"), ("x-beta", "2")]));
        assert!(!holds(&beta, "", &[("x-beta", "1, 1")]));
        assert!(!holds(&beta, "", &[]));
    }

    #[test]
    fn known_header_is_found_too() {
        let accept = Condition::Header("accept".into(), value("text/html"));
        assert!(holds(&accept, "", &[("Accept", "text/html")]));
        assert!(!holds(&accept, "", &[("Accept", "text/css")]));
    }

    #[test]
    fn present_takes_any_value() {
        let present = Condition::Header("x-beta".into(), Expected::Present);
        assert!(holds(&present, "", &[("X-Beta", "")]));
        assert!(!holds(&present, "", &[("X-Alpha", "")]));
        assert!(holds(
            &Condition::Query("v".into(), Expected::Present),
            "a=1&v",
            &[]
        ));
        assert!(!holds(
            &Condition::Query("v".into(), Expected::Present),
            "a=v",
            &[]
        ));
    }

    #[test]
    fn query_is_compared_decoded() {
        let query = Condition::Query("v".into(), value("a b"));
        for text in [
            "v=a+b",
            "v=a%20b",
            "x=1&%76=%61+b",
            "v=a+b&v=a%20b",
            "&&v=a+b&",
        ] {
            assert!(holds(&query, text, &[]), "{text}");
        }
        for text in ["", "v", "v=a", "v=a+b&v=c", "V=a+b", "v=a%2+b", "v=a%20b%"] {
            assert!(!holds(&query, text, &[]), "{text}");
        }
    }

    #[test]
    fn cookie_is_found_over_several_fields() {
        let group = Condition::Cookie("group".into(), value("b"));
        assert!(holds(&group, "", &[("Cookie", "a=1; group=b;c=2")]));
        assert!(holds(
            &group,
            "",
            &[("Cookie", "a=1"), ("Cookie", "group=b")]
        ));
        assert!(!holds(&group, "", &[("Cookie", "group=b; group=c")]));
        assert!(!holds(
            &group,
            "",
            &[("Cookie", "xgroup=b; Group=b; group")]
        ));
    }
}
