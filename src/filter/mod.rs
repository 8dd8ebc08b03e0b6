//! What a route does to a request beside sending it on: pure, one file per filter.
//!
//! Their order is fixed: [`access`] first, so that nothing else is done for who may not ask, and
//! [`limit`] next; [`split`], [`path`] and [`answer`] follow, [`headers`] last, on a head that is otherwise as servers will see it.
//! [`template`] fills in what is of the request.

pub mod access;
pub mod answer;
pub mod headers;
pub mod limit;
pub mod mirror;
pub mod path;
pub mod split;
pub mod template;
