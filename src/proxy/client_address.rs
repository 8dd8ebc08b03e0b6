//! The one address that rules, limits, hashing and logs use.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::message::Fields;

/// True when the listener believes what this address says about others.
pub fn is_trusted(_address: IpAddr, _trusted: &[IpNet]) -> bool {
    todo!()
}

/// The client's address. `source`: the TCP peer.
pub fn client_address(_source: IpAddr, _trusted: &[IpNet], _fields: &Fields) -> IpAddr {
    todo!()
}
