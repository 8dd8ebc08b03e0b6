//! Results of checks in, verdict out: rise and fall, and what holds before the first result.

/// What the checks say about a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// No result yet, usable: at process start, and in an upstream that is new as a whole.
    Untested,
    /// No pass yet, not usable: added next to others by a reload or discovery.
    Waiting,
    Healthy,
    Unhealthy,
}

impl Standing {
    /// The server may be used, as far as checks are concerned.
    pub fn usable(self) -> bool {
        matches!(self, Standing::Untested | Standing::Healthy)
    }
}
