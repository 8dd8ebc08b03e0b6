//! Removes what was meant for this hop only (RFC 9110 section 7.6.1), in both directions.

use crate::message::{Fields, Version};

/// What a request's hop-by-hop fields asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Requested {
    /// The token to upgrade to, as the client sent it; only one that the route allows.
    pub upgrade: Option<Box<str>>,
    /// `TE: trailers`: set again towards HTTP/2.
    pub te_trailers: bool,
}

/// Cleans a request and says what its fields asked for. `upgrades`: the route's, lower case.
pub fn clean_request(_fields: &mut Fields, _version: Version, _upgrades: &[String]) -> Requested {
    todo!()
}

/// Puts `Connection: upgrade` and `Upgrade: token` on a cleaned head.
pub fn offer_upgrade(_fields: &mut Fields, _token: &str) {
    todo!()
}

/// Cleans a response; returns the token of `Upgrade` for a 101.
pub fn clean_response(_fields: &mut Fields) -> Option<Box<str>> {
    todo!()
}

/// Removes what may not stand in a trailer section (RFC 9110 section 6.5.1).
pub fn clean_trailers(_fields: &mut Fields) {
    todo!()
}
