//! `redirect` and `respond`: answers of a route that asks no server.
//!
//! Where a redirect leads is decided by the configuration and, where that says so, by a Host that
//! was validated. A path never begins with two slashes and holds no backslash or control byte, so
//! no client can make it the name of a host.

use bytes::Bytes;

use crate::config::model::{Format, Place, Redirect, Respond, Template};
use crate::filter::template::{Text, Values, render, uri};
use crate::message::{Body, Known, ResponseHead};

/// What a route answers by itself, prepared.
#[derive(Debug)]
pub enum Own {
    Redirect(Redirect),
    Respond(Fixed),
}

#[derive(Debug)]
pub struct Fixed {
    status: u16,
    /// `None` where there is no body.
    content_type: Option<String>,
    body: Content,
}

#[derive(Debug)]
enum Content {
    Same(Bytes),
    Filled(Template, Format),
}

impl Fixed {
    pub fn new(rules: &Respond) -> Fixed {
        let body = match rules.body.fixed() {
            Some(text) => Content::Same(Bytes::copy_from_slice(text.as_bytes())),
            None => {
                let format = Format::of(&rules.content_type).unwrap_or(Format::Markup);
                Content::Filled(rules.body.clone(), format)
            }
        };
        let empty = matches!(&body, Content::Same(text) if text.is_empty());
        Fixed {
            status: rules.status,
            content_type: (!empty).then(|| with_charset(&rules.content_type)),
            body,
        }
    }
}

/// The configuration is UTF-8.
fn with_charset(content_type: &str) -> String {
    let lower = content_type.to_ascii_lowercase();
    match lower.starts_with("text/") && !lower.contains("charset") {
        true => format!("{content_type}; charset=utf-8"),
        false => content_type.to_owned(),
    }
}

/// There is no Host to lead back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoHost;

impl Own {
    /// The answer to the request that `values` are of. `path` is where it would go on to.
    pub fn answer(&self, values: &Values, path: &[u8]) -> Result<(ResponseHead, Body), NoHost> {
        match self {
            Own::Redirect(rules) => {
                let mut head = ResponseHead::new(rules.status);
                let location = location(&rules.to, values, path)?;
                head.fields.set(Known::Location, &location);
                Ok((head, Body::Empty))
            }
            Own::Respond(fixed) => {
                let mut head = ResponseHead::new(fixed.status);
                if let Some(content_type) = &fixed.content_type {
                    head.fields.set(Known::ContentType, content_type.as_bytes());
                }
                let body = match &fixed.body {
                    Content::Same(text) => text.clone(),
                    Content::Filled(template, format) => {
                        Bytes::copy_from_slice(&render(template, values, *format))
                    }
                };
                Ok((head, Body::Bytes(body)))
            }
        }
    }
}

fn location(place: &Place, values: &Values, path: &[u8]) -> Result<Text, NoHost> {
    match place {
        Place::Url(template) => {
            let mut url = render(template, values, Format::Plain);
            // A path of one's own, and not the name of a host.
            while url.starts_with(b"//") {
                url.remove(0);
            }
            Ok(url)
        }
        Place::Parts {
            scheme,
            host,
            port,
            path: given,
        } => {
            let mut url = Text::new();
            let new_scheme = scheme.unwrap_or(values.scheme);
            // The port of one scheme is not that of another.
            let asked = values.port.filter(|_| new_scheme == values.scheme);
            let host = host.as_deref().map_or(&*values.host, str::as_bytes);
            if host.is_empty() {
                return Err(NoHost);
            }
            url.extend_from_slice(new_scheme.as_bytes());
            url.extend_from_slice(b"://");
            url.extend_from_slice(host);
            let usual = if new_scheme == "https" { 443 } else { 80 };
            if let Some(port) = port.or(asked).filter(|port| *port != usual) {
                url.push(b':');
                url.extend_from_slice(itoa::Buffer::new().format(port).as_bytes());
            }
            let path = match given {
                Some(template) => render(template, values, Format::Plain),
                None => uri(path),
            };
            url.extend_from_slice(&path);
            if let Some(query) = &values.query
                && !path.contains(&b'?')
            {
                url.push(b'?');
                url.extend_from_slice(&uri(query));
            }
            Ok(url)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::model::{Piece, Variable};
    use crate::filter::template::testing::values;

    fn parts() -> Place {
        Place::Parts {
            scheme: None,
            host: None,
            port: None,
            path: None,
        }
    }

    fn url(place: &Place, values: &Values) -> String {
        String::from_utf8(location(place, values, &values.path).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn what_is_not_given_stays_as_asked() {
        let asked = Values {
            port: Some(8080),
            ..values(b"/a", b"b=c")
        };
        let change = |scheme, host: Option<&str>, port, path: Option<&str>| {
            let path = path.map(|path| Template(vec![Piece::Text(path.to_owned())]));
            let place = Place::Parts {
                scheme,
                host: host.map(str::to_owned),
                port,
                path,
            };
            url(&place, &asked)
        };
        for (found, expected) in [
            (
                change(Some("https"), None, None, None),
                "https://a.example/a?b=c",
            ),
            (
                change(Some("http"), None, None, None),
                "http://a.example:8080/a?b=c",
            ),
            (
                change(Some("https"), None, Some(8443), None),
                "https://a.example:8443/a?b=c",
            ),
            (
                change(Some("https"), None, Some(443), None),
                "https://a.example/a?b=c",
            ),
            (change(None, Some("b"), None, None), "http://b:8080/a?b=c"),
            (change(None, Some("b"), Some(80), None), "http://b/a?b=c"),
            (
                change(None, None, None, Some("/x")),
                "http://a.example:8080/x?b=c",
            ),
            (
                change(None, None, None, Some("/x?y")),
                "http://a.example:8080/x?y",
            ),
        ] {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn without_a_host_there_is_nowhere_to_go() {
        let asked = Values {
            host: Box::default(),
            ..values(b"/a", b"")
        };
        assert_eq!(location(&parts(), &asked, b"/a"), Err(NoHost));
    }

    #[test]
    fn types_have_their_format() {
        for (content_type, expected) in [
            ("text/plain", Some(Format::Plain)),
            ("Text/HTML; charset=utf-8", Some(Format::Markup)),
            ("image/svg+xml", Some(Format::Markup)),
            ("application/problem+json", Some(Format::Json)),
            ("text/javascript", None),
            ("text/css", None),
        ] {
            assert_eq!(Format::of(content_type), expected, "{content_type}");
        }
        assert_eq!(with_charset("text/html"), "text/html; charset=utf-8");
        assert_eq!(with_charset("text/html;Charset=x"), "text/html;Charset=x");
        assert_eq!(with_charset("image/png"), "image/png");
    }

    proptest! {
        /// Any path and query, also such as no request has: it stays on the host.
        #[test]
        fn no_client_chooses_the_host(
            path in proptest::collection::vec(any::<u8>(), 0..12),
            query in proptest::collection::vec(any::<u8>(), 0..12),
            slashes in 0_usize..4,
        ) {
            let path = [&b"/".repeat(slashes + 1)[..], &path].concat();
            let asked = values(&path, &query);
            let found = url(&parts(), &asked);
            prop_assert!(found.starts_with("http://a.example/"), "{found}");
            prop_assert!(found.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\'));
            let relative = Place::Url(Template(vec![
                Piece::Text("/".to_owned()),
                Piece::Variable(Variable::RequestPath),
            ]));
            let found = url(&relative, &asked);
            prop_assert!(found.starts_with('/') && !found.starts_with("//"), "{found}");
            prop_assert!(!found.contains('\\'));
        }
    }
}
