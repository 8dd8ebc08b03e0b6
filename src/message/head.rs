//! Start lines with their fields.

use crate::message::Fields;

/// A request's method. Case matters (RFC 9110 section 9.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Patch,
    Options,
    Connect,
    Trace,
    Other(Box<str>),
}

impl Method {
    /// From a token; the caller has checked that it is one.
    pub fn from_token(token: &[u8]) -> Method {
        match token {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"PATCH" => Method::Patch,
            b"OPTIONS" => Method::Options,
            b"CONNECT" => Method::Connect,
            b"TRACE" => Method::Trace,
            other => Method::Other(String::from_utf8_lossy(other).into()),
        }
    }

    pub fn as_str(&self) -> &str {
        match self {
            Method::Other(text) => text,
            known => known.label(),
        }
    }

    /// A second time does no more than the first (RFC 9110 section 9.2.2).
    pub fn is_idempotent(&self) -> bool {
        use Method::{Delete, Get, Head, Options, Put, Trace};
        matches!(self, Get | Head | Options | Put | Delete | Trace)
    }

    /// For metrics: a closed set, `other` for what is not in it.
    pub fn label(&self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Patch => "PATCH",
            Method::Options => "OPTIONS",
            Method::Connect => "CONNECT",
            Method::Trace => "TRACE",
            Method::Other(_) => "other",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
    H2,
}

impl Version {
    /// As `Via` names it: "1.1".
    pub fn number(self) -> &'static str {
        match self {
            Version::Http10 => "1.0",
            Version::Http11 => "1.1",
            Version::H2 => "2",
        }
    }

    /// As an access log names it: "HTTP/1.1".
    pub fn as_str(self) -> &'static str {
        match self {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
            Version::H2 => "HTTP/2.0",
        }
    }
}

/// A request's start line and fields.
#[derive(Debug, Clone)]
pub struct RequestHead {
    pub method: Method,
    pub version: Version,
    pub fields: Fields,
    target: (u32, u32),
    outgoing: Option<(u32, u32)>,
}

impl RequestHead {
    /// A request of our own, or of a test.
    pub fn new(method: Method, version: Version, target: &[u8]) -> Self {
        let mut fields = Fields::new();
        let target = fields.store(target);
        RequestHead {
            method,
            version,
            fields,
            target,
            outgoing: None,
        }
    }

    /// `target` are positions in the buffer of `fields`.
    pub(crate) fn received(
        method: Method,
        version: Version,
        fields: Fields,
        target: (u32, u32),
    ) -> Self {
        RequestHead {
            method,
            version,
            fields,
            target,
            outgoing: None,
        }
    }

    /// The request target as received.
    pub fn target(&self) -> &[u8] {
        self.fields.slice(self.target)
    }

    /// What goes upstream: what was set, else what was received.
    pub fn outgoing_target(&self) -> &[u8] {
        self.fields.slice(self.outgoing.unwrap_or(self.target))
    }

    /// Bytes of the received start line, if it is what goes upstream in HTTP/1.1 as it is.
    pub(crate) fn kept_start_line(&self) -> Option<u32> {
        let (from, to) = self.target;
        // A head of our own has no start line, and its target lies at the start.
        let method = self.fields.slice((0, from.checked_sub(1)?));
        let kept = self.outgoing.is_none()
            && self.version == Version::Http11
            && method == self.method.as_str().as_bytes();
        kept.then_some(to + " HTTP/1.1\r\n".len() as u32)
    }

    /// Sets what goes upstream, in origin-form (or `*`); the caller has normalised it.
    pub fn set_target(&mut self, target: &[u8]) {
        debug_assert!(
            !target.iter().any(|&byte| byte <= b' ' || byte == 0x7f),
            "a target has neither white space nor control bytes"
        );
        self.outgoing = Some(self.fields.store(target));
    }
}

/// A response's start line and fields.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    pub status: u16,
    pub version: Version,
    pub fields: Fields,
    reason: Option<(u32, u32)>,
}

impl ResponseHead {
    /// An answer of our own.
    pub fn new(status: u16) -> Self {
        ResponseHead {
            status,
            version: Version::Http11,
            fields: Fields::new(),
            reason: None,
        }
    }

    /// `reason` are positions in the buffer of `fields`.
    pub(crate) fn received(
        status: u16,
        version: Version,
        fields: Fields,
        reason: (u32, u32),
    ) -> Self {
        ResponseHead {
            status,
            version,
            fields,
            reason: Some(reason),
        }
    }

    /// The reason phrase as received, or the usual one of the status.
    pub fn reason(&self) -> &[u8] {
        match self.reason {
            Some(range) => self.fields.slice(range),
            None => usual_reason(self.status).as_bytes(),
        }
    }

    /// Bytes of the received status line, if it is what goes to the client as it is.
    pub(crate) fn kept_start_line(&self) -> Option<u32> {
        const BEFORE_REASON: u32 = "HTTP/1.1 200 ".len() as u32;
        let Some((BEFORE_REASON, end)) = self.reason else {
            return None;
        };
        let digits = self.fields.slice((BEFORE_REASON - 4, BEFORE_REASON - 1));
        let status = digits
            .iter()
            .fold(0, |status, digit| 10 * status + u16::from(digit - b'0'));
        (self.version == Version::Http11 && status == self.status).then_some(end + 2)
    }

    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }
}

/// The phrase that goes with a status (IANA registry); empty for the unassigned.
pub fn usual_reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_case_sensitive_and_keep_their_text() {
        assert_eq!(Method::from_token(b"GET"), Method::Get);
        let other = Method::from_token(b"get");
        assert_eq!((other.as_str(), other.label()), ("get", "other"));
        assert!(!other.is_idempotent());
    }

    #[test]
    fn the_target_as_received_outlives_the_one_that_goes_upstream() {
        let mut head = RequestHead::new(Method::Get, Version::Http11, b"/a%2e/b");
        assert_eq!(head.outgoing_target(), b"/a%2e/b");
        head.set_target(b"/a./b");
        head.fields.append_text("x", b"1");
        assert_eq!(head.target(), b"/a%2e/b");
        assert_eq!(head.outgoing_target(), b"/a./b");
    }

    #[test]
    fn a_start_line_is_kept_only_as_it_would_be_written() {
        let mut fields = Fields::new();
        fields.buffer_mut().receive(b"GET /a HTTP/1.1\r\n");
        let request = RequestHead::received(Method::Get, Version::Http11, fields, (4, 6));
        assert_eq!(request.kept_start_line(), Some(17));
        let mut moved = request.clone();
        moved.set_target(b"/b");
        let mut old = request.clone();
        old.version = Version::Http10;
        let mut other = request.clone();
        other.method = Method::Put;
        let own = RequestHead::new(Method::Get, Version::Http11, b"/a");
        for head in [moved, old, other, own] {
            assert_eq!(head.kept_start_line(), None, "{head:?}");
        }

        let received = |line: &[u8], version| {
            let mut fields = Fields::new();
            fields.buffer_mut().receive(line);
            let length = line.len() as u32 - 2;
            ResponseHead::received(200, version, fields, (length.min(13), length))
        };
        let answer = received(b"HTTP/1.1 200 Fine\r\n", Version::Http11);
        assert_eq!(answer.kept_start_line(), Some(19));
        let bare = received(b"HTTP/1.1 200\r\n", Version::Http11);
        let old = received(b"HTTP/1.0 200 OK\r\n", Version::Http10);
        let mut other = answer.clone();
        other.status = 201;
        for head in [bare, old, other, ResponseHead::new(200)] {
            assert_eq!(head.kept_start_line(), None, "{head:?}");
        }
    }

    #[test]
    fn our_own_answers_have_the_usual_phrase() {
        assert_eq!(ResponseHead::new(404).reason(), b"Not Found");
        assert_eq!(ResponseHead::new(299).reason(), b"");
    }
}
