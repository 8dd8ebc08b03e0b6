//! Evenkeel: a Layer-7 reverse proxy and load balancer.
//!
//! This page is the map; the contract is in the README and the reference it links.

#![forbid(unsafe_code)]

pub mod admin;
pub mod app;
pub mod balance;
pub mod cli;
pub mod config;
pub mod listener;
pub mod message;
pub mod proxy;
pub mod reload;
pub mod router;
pub mod snapshot;
pub mod telemetry;
pub mod upstream;
pub mod util;
pub mod wire;
pub mod worker;
