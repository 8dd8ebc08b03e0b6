//! Which routes are ambiguous, and which can never match: pure analysis for the checker.

use std::sync::Arc;

use crate::config::model::{Route, RouteId};

/// Two routes that get in each other's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict {
    pub kind: ConflictKind,
    /// For `Ambiguous` the earlier in the file; for `Unreachable` the one that hides.
    pub first: RouteId,
    /// For `Ambiguous` the later in the file; for `Unreachable` the one that never matches.
    pub second: RouteId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConflictKind {
    /// Nothing decides between them: an error.
    Ambiguous,
    /// `second` can never match because `first` takes all of it: a warning.
    Unreachable,
}

/// All conflicts of a configuration's routes, ordered by `second`, then `first`.
///
/// Every route that is hidden or ambiguous is named at least once, but not each of its rivals.
pub fn conflicts(_routes: &[Arc<Route>]) -> Vec<Conflict> {
    todo!()
}

/// The literal prefix that ranks a regex: the part before the first metacharacter, cut back to
/// the last `/`, without trailing slash, and never more than every match begins with.
pub fn literal_prefix(_source: &str) -> String {
    todo!()
}
