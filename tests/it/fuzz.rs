//! Changed streams of requests and changed answers through a real proxy, judged by what comes out
//! on the other side.

mod answers;
mod lane;
mod requests;
