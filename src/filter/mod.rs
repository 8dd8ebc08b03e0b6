//! What a route does to a request before a server is picked: pure, one file per filter.
//!
//! Their order is fixed: [`access`] first, so that nothing else is done for who may not ask, and
//! [`limit`] next.

pub mod access;
pub mod limit;
