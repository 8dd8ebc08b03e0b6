//! Behaviour over real sockets: one module per behaviour, helpers in `support`.

mod connections;
mod demo;
mod docker;
mod health;
mod modules;
mod support;
mod check;
mod conf_examples;
