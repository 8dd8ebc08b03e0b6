//! A head that nobody sent, read as a connection would: for `explain`.

use crate::message::{Length, RequestHead};
use crate::wire::h1::field_lines::{HeadLimits, Malformed, bad};
use crate::wire::h1::framing::{Framing, of_request};
use crate::wire::h1::parse;
use crate::wire::{Limits, RefusalReason};

/// Why a connection would refuse a head.
#[derive(Debug, Clone, Copy)]
pub struct Unreadable {
    pub reason: RefusalReason,
    /// In one sentence.
    pub detail: &'static str,
}

/// A whole request head, and how long it says that its body is.
pub fn read(bytes: &[u8], limits: &Limits) -> Result<(RequestHead, Length), Unreadable> {
    let parsed = parse::request(bytes, &HeadLimits::of(limits));
    let read = parsed.and_then(|parsed| match parsed {
        None => bad("the head is not whole"),
        Some((head, _)) => of_request(&head).map(|framing| (head, framing)),
    });
    match read {
        Ok((head, Framing::Length(bytes))) => Ok((head, Length::Exact(bytes))),
        Ok((head, Framing::Chunked | Framing::UntilClose)) => Ok((head, Length::Unknown)),
        Err(Malformed { reason, detail }) => Err(Unreadable { reason, detail }),
    }
}
