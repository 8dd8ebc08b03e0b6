//! What the server is told about the client and the way here.

use std::net::IpAddr;

use smallvec::SmallVec;

use crate::message::{Fields, Version};

/// Text of a request id.
pub type RequestId = SmallVec<[u8; 32]>;

/// How a request came in.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// The TCP peer.
    pub source: IpAddr,
    /// `source` is in the listener's `trusted-proxies`.
    pub trusted: bool,
    /// The client's address as [`super::client_address`] found it.
    pub client: IpAddr,
    /// "http" or "https".
    pub scheme: &'static str,
    /// The port that the client connected to.
    pub port: u16,
    pub version: Version,
    /// The listener's `via`.
    pub via: bool,
    /// `Host` as sent.
    pub host: Option<&'a [u8]>,
}

/// Sets the forwarding fields of a request that was cleaned of its hop-by-hop fields; returns
/// the request's id.
pub fn set_forwarding(
    _fields: &mut Fields,
    _arrival: &Arrival<'_>,
    _random: &mut fastrand::Rng,
) -> RequestId {
    todo!()
}
