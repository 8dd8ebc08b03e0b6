//! Why each route was or was not chosen: for `explain` only, compiled away on the data plane.

use crate::config::model::RouteId;

/// What became of one route in a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Chosen,
    /// It names other listeners.
    OtherListener,
    OtherHost,
    OtherPath,
    /// Index into the route's `when` of the first condition that does not hold.
    Condition(usize),
    /// It matches, but `by` wins because of `rank`.
    Outranked {
        by: RouteId,
        rank: Rank,
    },
}

/// What decides between two routes that both match, most important first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// The winner names the listener.
    Listener,
    /// The winner's host is more specific.
    Host,
    /// The winner's path is exact or its prefix longer.
    Path,
    /// A regex before a plain prefix of the same length.
    Regex,
    /// The winner has more conditions.
    Conditions,
    /// The winner has the higher priority; between two regexes that are equal in all else, the
    /// order of their text decides.
    Priority,
}

/// Hears what became of every route.
pub trait Trace {
    /// False makes the look-up skip everything that only a trace needs.
    const ON: bool;

    /// Called once for each route of the configuration, in the order of the file.
    fn candidate(&mut self, route: RouteId, outcome: Outcome);
}

/// Nobody listens: the data plane.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoTrace;

impl Trace for NoTrace {
    const ON: bool = false;

    fn candidate(&mut self, _route: RouteId, _outcome: Outcome) {}
}

/// Keeps everything it hears.
impl Trace for Vec<(RouteId, Outcome)> {
    const ON: bool = true;

    fn candidate(&mut self, route: RouteId, outcome: Outcome) {
        self.push((route, outcome));
    }
}
