//! Behaviour over real sockets: one module per behaviour, helpers in `support`.

mod modules;
mod support;
mod demo;
mod docker;
