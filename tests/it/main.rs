//! Behaviour over real sockets: one module per behaviour, helpers in `support`.

mod check;
mod conf_examples;
mod connections;
mod demo;
mod docker;
mod heads;
mod health;
mod listeners;
mod modules;
mod reload;
mod signals;
mod support;
