//! USR2: another binary in the place of the one that runs. Real processes, each started from a file
//! that the test may replace, and clients that count everything that is not an answer.

mod after;
mod carried;
mod failures;
mod kept;
mod load;
mod scripted;
mod service;
mod sockets;
mod systemd;
mod under_load;
mod unit;
