//! (being written)

pub mod connector;
pub mod health;
pub mod pool;
pub mod resolve;
