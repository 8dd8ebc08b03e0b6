//! HTTP/2 from clients, by prior knowledge over plain listeners.

mod basics;
mod conformance;
mod hostile;
mod life;
mod tls;
mod websocket;
