//! Small pure pieces that everything may use: units, timers, random numbers, averages, windows,
//! bytes scanned many at a time.
//!
//! Nothing here knows a module of ours. What needs time takes it as an argument or reads tokio's
//! clock, so that tests can pause it.

pub mod base64;
pub mod capacity;
pub mod census;
pub mod clock;
pub mod descriptors;
pub mod ewma;
pub mod exhaustion;
pub mod memory;
pub mod random;
pub mod rate;
pub(crate) mod scan;
pub mod timer;
pub mod turn;
pub mod units;
pub mod unix_socket;
pub mod websocket;
pub mod window;
