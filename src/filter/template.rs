//! `${request.path}` and its like, filled in.
//!
//! What a client sent never breaks out of the place that it is put in. A path or query is first
//! written as URIs must have it (RFC 3986 section 2: no control bytes, quotes, angle brackets or
//! backslashes, nothing over 0x7F), which means the same; then as the format around it wants it.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::config::model::{Format, Piece, Template, Variable};
use crate::message::Method;

/// What the variables stand for; made only for a request whose route has some.
#[derive(Debug, Clone)]
pub struct Values {
    pub client: IpAddr,
    pub id: SmallVec<[u8; 32]>,
    pub method: Method,
    /// "http" or "https".
    pub scheme: &'static str,
    /// Lower case, without port; empty where the request has none.
    pub host: Box<[u8]>,
    /// As the Host has it.
    pub port: Option<u16>,
    /// In normal form.
    pub path: Box<[u8]>,
    /// Without its `?`.
    pub query: Option<Box<[u8]>>,
    pub route: Arc<str>,
    pub listener: Arc<str>,
}

/// Rendered text; mostly on the stack.
pub type Text = SmallVec<[u8; 256]>;

/// `template` with `values` in it.
pub fn render(template: &Template, values: &Values, format: Format) -> Text {
    let mut out = Text::new();
    for piece in &template.0 {
        match piece {
            Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
            Piece::Variable(variable) => put(*variable, values, format, &mut out),
        }
    }
    out
}

fn put(variable: Variable, values: &Values, format: Format, out: &mut Text) {
    match variable {
        Variable::ClientIp => {
            let mut text = String::new();
            // Writing to memory cannot fail.
            let _ = write!(text, "{}", values.client.to_canonical());
            escape(text.as_bytes(), format, out);
        }
        Variable::RequestId => escape(&values.id, format, out),
        Variable::RequestMethod => escape(values.method.as_str().as_bytes(), format, out),
        Variable::RequestScheme => escape(values.scheme.as_bytes(), format, out),
        Variable::RequestHost => escape(&values.host, format, out),
        Variable::RequestPath => escape(&uri(&values.path), format, out),
        Variable::RequestQuery => escape(
            &uri(values.query.as_deref().unwrap_or_default()),
            format,
            out,
        ),
        Variable::RouteName => escape(values.route.as_bytes(), format, out),
        Variable::ListenerName => escape(values.listener.as_bytes(), format, out),
    }
}

/// Bytes that no URI has are escaped (RFC 3986 section 2 and appendix A).
pub fn uri(bytes: &[u8]) -> Text {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = Text::new();
    for &byte in bytes {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) {
            out.push(byte);
        } else {
            let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
            out.extend_from_slice(&[b'%', HEX[high], HEX[low]]);
        }
    }
    out
}

fn escape(bytes: &[u8], format: Format, out: &mut Text) {
    for &byte in bytes {
        let escaped: &[u8] = match (format, byte) {
            // Never there, and never let through.
            (_, 0..=0x1F | 0x7F) => b" ",
            (Format::Markup, b'&') => b"&amp;",
            (Format::Markup, b'<') => b"&lt;",
            (Format::Markup, b'>') => b"&gt;",
            (Format::Markup, b'"') => b"&quot;",
            (Format::Markup, b'\'') => b"&#39;",
            (Format::Json, b'"') => b"\\\"",
            (Format::Json, b'\\') => b"\\\\",
            // So that JSON inside of a page cannot end it.
            (Format::Json, b'<') => b"\\u003c",
            (_, byte) => &[byte],
        };
        out.extend_from_slice(escaped);
    }
}

#[cfg(test)]
pub mod testing {
    use super::*;

    pub fn values(path: &[u8], query: &[u8]) -> Values {
        Values {
            client: IpAddr::from([192, 0, 2, 1]),
            id: SmallVec::from_slice(b"0123"),
            method: Method::Get,
            scheme: "http",
            host: (*b"a.example").into(),
            port: None,
            path: path.into(),
            query: Some(query.into()),
            route: "the <route>".into(),
            listener: "web".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::values;
    use super::*;

    fn all() -> Template {
        let mut pieces = Vec::new();
        for variable in Variable::ALL {
            pieces.push(Piece::Text("|".to_owned()));
            pieces.push(Piece::Variable(variable));
        }
        Template(pieces)
    }

    fn text(values: &Values, format: Format) -> String {
        String::from_utf8(render(&all(), values, format).to_vec()).unwrap()
    }

    #[test]
    fn every_variable_has_its_value() {
        assert_eq!(
            text(&values(b"/a", b"b=c"), Format::Plain),
            "|192.0.2.1|0123|GET|http|a.example|/a|b=c|the <route>|web"
        );
    }

    #[test]
    fn formats_escape_what_means_something_in_them() {
        let values = values(b"/<'\"&", b"\\x");
        assert!(text(&values, Format::Plain).contains("|/%3C'%22&|%5Cx|the <route>|"));
        assert!(
            text(&values, Format::Markup).contains("|/%3C&#39;%22&amp;|%5Cx|the &lt;route&gt;|")
        );
        assert!(text(&values, Format::Json).contains("|/%3C'%22&|%5Cx|the \\u003croute>|"));
    }

    proptest! {
        #[test]
        fn no_client_breaks_out(
            path in proptest::collection::vec(any::<u8>(), 0..20),
            query in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let values = values(&path, &query);
            let plain = text(&values, Format::Plain);
            prop_assert!(plain.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '));
            prop_assert!(!text(&values, Format::Markup).contains(['<', '>', '"', '\'']));
            let json = format!("\"{}\"", text(&values, Format::Json));
            prop_assert!(serde_json::from_str::<String>(&json).is_ok());
        }
    }
}
