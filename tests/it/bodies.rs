//! Bodies on their way: nothing lost, nothing kept, nothing waited for.

mod buffer;
mod early;
mod flow;
mod piped;
mod shapes;
mod unread;
