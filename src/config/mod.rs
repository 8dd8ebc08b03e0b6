//! Text -> spanned tree -> checked model; every mistake collected.

pub mod model;
pub mod routes;
