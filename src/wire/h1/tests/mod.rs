//! The two sides over real sockets.

mod client;
mod end_to_end;
mod field_lines;
mod fuzz;
mod parse;
mod server;
mod support;
