//! Behaviour over real sockets: one module per behaviour, helpers in `support`.

mod balancing;
mod breaker;
mod chaos;
mod check;
mod conf_examples;
mod connections;
mod demo;
mod docker;
mod fallback;
mod framing;
mod heads;
mod health;
mod listeners;
mod modules;
mod panic;
mod queue;
mod reasons;
mod reload;
mod resolve;
mod retries;
mod signals;
mod slow_start;
mod stale;
mod support;
mod timeouts;
