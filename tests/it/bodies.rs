//! Bodies on their way: nothing lost, nothing kept, nothing waited for.

mod early;
mod flow;
mod piped;
mod shapes;
