//! HTTP/2 of the crate `h2`: its frames, states and windows, our judgement of what they say.
//!
//! Only this module names `h2` and `http`'s header map; heads are translated at this edge to those
//! of `message`, and back.

pub mod client;
