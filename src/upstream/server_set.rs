//! The servers that a pick chooses among: immutable, swapped whole.

/// The servers of an upstream at one moment and the order to draw them in.
#[derive(Debug)]
pub struct ServerSet {}
