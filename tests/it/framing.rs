//! Framing, byte for byte: what a request or an answer may be, and what the other side sees of it.

mod answers;
mod connections;
mod cuts;
mod hosts;
mod mixed;
mod octets;
mod octets_back;
mod recorder;
mod requests;
mod seams;
mod spellings;
