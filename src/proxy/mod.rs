//! (being written)

pub mod client_address;
pub mod forwarding;
pub mod hop_by_hop;
pub mod sanitise;
