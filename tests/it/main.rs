//! Behaviour over real sockets: one module per behaviour, helpers in `support`.

mod demo;
mod docker;
mod modules;
mod support;
mod check;
mod conf_examples;
