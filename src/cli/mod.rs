//! (being written)
pub mod check;
pub mod config_show;
pub mod demo;
pub mod schema;
