//! From a head as received to one that everybody behind us reads as we do, or a refusal.
//!
//! What can be read in two ways is refused, not repaired: two Hosts, a Host that is no host, user
//! information, a fragment, a path that another reader would resolve to somewhere else. What is
//! left is brought into one form here, once, and everything after works on the result:
//!
//! - the target is origin-form (or `*`) with its path in normal form; the query is never touched;
//! - the authority of an absolute-form target has replaced `Host` (RFC 9112 section 3.2.2);
//! - there is exactly one valid `Host`, or none in HTTP/1.0;
//! - `Expect` is `100-continue` or absent, `Max-Forwards` of OPTIONS is counted down.

mod host;
mod target;

use crate::message::{Known, Method, RequestHead, Version};
use crate::router::path;
use host::{HostName, host};
use target::{Target, split_target};

/// Why a request is refused before it is routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// 400; one sentence says why.
    BadRequest(&'static str),
    /// 405: CONNECT and TRACE.
    MethodNotAllowed,
    /// 417.
    ExpectationFailed,
}

/// What sanitising has learnt, so that nothing is parsed twice.
#[derive(Debug)]
pub struct Sanitised {
    host: Option<HostName>,
    target: Target,
    /// `Max-Forwards: 0` on OPTIONS: answered by us with 200, goes nowhere.
    pub answer_here: bool,
}

impl Sanitised {
    /// For routing: lower case, without port and trailing dot, IPv6 in brackets. `None`: HTTP/1.0
    /// without Host. `head` is the one that was sanitised, as for all that follow.
    pub fn host<'a>(&'a self, head: &'a RequestHead) -> Option<&'a [u8]> {
        match self.host.as_ref()? {
            HostName::Received(bytes) => head.fields.get(Known::Host)?.get(..*bytes),
            HostName::Own(name) => Some(name),
        }
    }

    /// True for HTTP/1.0 without Host.
    pub fn host_is_missing(&self) -> bool {
        self.host.is_none()
    }

    /// The target in origin-form (or `*`) with its path in normal form: what goes upstream unless
    /// the route says `forward = "raw"`.
    pub fn target<'a>(&'a self, head: &'a RequestHead) -> &'a [u8] {
        self.target.normal.as_deref().unwrap_or(head.target())
    }

    /// The same where it is another than the one received.
    pub fn rewritten_target(&self) -> Option<&[u8]> {
        self.target.normal.as_deref()
    }

    /// In normal form, or `*`.
    pub fn path<'a>(&'a self, head: &'a RequestHead) -> &'a [u8] {
        &self.target(head)[..self.target.path_bytes]
    }

    /// Without its `?`; `None` where there was no `?`.
    pub fn query<'a>(&'a self, head: &'a RequestHead) -> Option<&'a [u8]> {
        self.target(head).get(self.target.path_bytes + 1..)
    }

    /// The target for a route with `forward = "raw"`: path and query as received, slashes and
    /// escapes untouched, in origin-form.
    ///
    /// # Errors
    ///
    /// 400 where the path has dot segments in any spelling: the server would resolve what was
    /// routed by its resolved form.
    pub fn raw_target<'a>(&'a self, head: &'a RequestHead) -> Result<&'a [u8], Refused> {
        let Some(start) = self.target.received_path else {
            return Ok(self.target(head));
        };
        let raw = &head.target()[start..];
        let path = raw.split(|&byte| byte == b'?').next().unwrap_or_default();
        if self.target.normal.is_some() && path::has_dot_segments(path) {
            return Err(Refused::BadRequest("the path has dot segments"));
        }
        Ok(raw)
    }
}

/// Checks `head` and repairs its fields in place; the target is for the caller to set, who knows
/// the route's `forward`. Names with underscores are the wire's to deal with.
///
/// # Errors
///
/// The first reason to refuse the request; what was changed until then does not matter.
pub fn sanitise(head: &mut RequestHead) -> Result<Sanitised, Refused> {
    if matches!(head.method, Method::Connect | Method::Trace) {
        return Err(Refused::MethodNotAllowed);
    }
    let mut host = host(head)?;
    let (target, authority) = split_target(head)?;
    if let Some((authority, name)) = authority {
        head.fields.set(Known::Host, &authority);
        host = Some(name);
    }
    expectation(head)?;
    Ok(Sanitised {
        host,
        target,
        answer_here: count_forwards(head)?,
    })
}

/// Only `100-continue`, once and as it is: obfuscated ones desynchronise (RFC 9110 section
/// 10.1.1). HTTP/1.0 does not know it, so there it is dropped.
fn expectation(head: &mut RequestHead) -> Result<(), Refused> {
    let Some(value) = head.fields.get(Known::Expect) else {
        return Ok(());
    };
    if !value.eq_ignore_ascii_case(b"100-continue") || head.fields.count(Known::Expect) > 1 {
        return Err(Refused::ExpectationFailed);
    }
    if head.version == Version::Http10 {
        head.fields.remove(Known::Expect);
    }
    Ok(())
}

/// Counts `Max-Forwards` of OPTIONS down; true at 0 (RFC 9110 section 7.6.2).
fn count_forwards(head: &mut RequestHead) -> Result<bool, Refused> {
    if head.method != Method::Options {
        return Ok(false);
    }
    let Some(value) = head.fields.get(Known::MaxForwards) else {
        return Ok(false);
    };
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    if !digits || head.fields.count(Known::MaxForwards) > 1 {
        return Err(Refused::BadRequest("Max-Forwards is not one number"));
    }
    let digit = |left: u64, digit: &u8| {
        left.saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    };
    let left = value.iter().fold(0, digit);
    if left == 0 {
        return Ok(true);
    }
    let less = itoa::Buffer::new().format(left - 1).to_owned();
    head.fields.set(Known::MaxForwards, less.as_bytes());
    Ok(false)
}

#[cfg(test)]
mod tests;
