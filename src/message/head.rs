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
    fn our_own_answers_have_the_usual_phrase() {
        assert_eq!(ResponseHead::new(404).reason(), b"Not Found");
        assert_eq!(ResponseHead::new(299).reason(), b"");
    }
}
