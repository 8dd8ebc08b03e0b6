//! From a head as received to one that everybody behind us reads as we do, or a refusal.

use smallvec::SmallVec;

use crate::config::model::UnderscoreHeaders;
use crate::message::RequestHead;

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
    /// Lower case, without port and trailing dot: for routing. `None`: HTTP/1.0 without Host.
    host: Option<SmallVec<[u8; 48]>>,
    /// The target for the upstream where it differs from the received one.
    target: Option<Box<[u8]>>,
    /// Bytes of the path in the target; a `?` and the query follow.
    path_bytes: usize,
    /// `Max-Forwards: 0` on OPTIONS: answered by us with 200, goes nowhere.
    pub answer_here: bool,
}

impl Sanitised {
    /// For routing: lower case, without port and trailing dot.
    pub fn host(&self) -> Option<&[u8]> {
        self.host.as_deref()
    }

    /// The target in origin-form with its path in normal form: what goes upstream unless the
    /// route says `forward = "raw"`. `head` is the one that was sanitised.
    pub fn target<'a>(&'a self, _head: &'a RequestHead) -> &'a [u8] {
        todo!()
    }

    /// In normal form, or `*`.
    pub fn path<'a>(&'a self, head: &'a RequestHead) -> &'a [u8] {
        &self.target(head)[..self.path_bytes]
    }

    /// Without its `?`; `None` where there was no `?`.
    pub fn query<'a>(&'a self, head: &'a RequestHead) -> Option<&'a [u8]> {
        self.target(head).get(self.path_bytes + 1..)
    }

    /// The target for a route with `forward = "raw"`: the received path and query in
    /// origin-form, or a refusal where the path has dot segments in any spelling.
    pub fn raw_target<'a>(&'a self, _head: &'a RequestHead) -> Result<&'a [u8], Refused> {
        todo!()
    }
}

/// Checks and repairs `head` in place; see the module.
pub fn sanitise(
    _head: &mut RequestHead,
    _underscore_headers: UnderscoreHeaders,
) -> Result<Sanitised, Refused> {
    todo!()
}
