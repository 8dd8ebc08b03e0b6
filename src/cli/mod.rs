//! (being written)
pub mod demo;
pub mod check;
pub mod config_show;
pub mod schema;
