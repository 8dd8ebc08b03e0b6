//! The limit on open descriptors.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit to its hard value: the soft one is often 1024, for the sake of programs that
/// use `select`. Failing only means fewer connections.
pub(super) fn raise_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| hard));
    match raised {
        Ok(limit) => tracing::debug!(limit, "descriptors"),
        Err(error) => tracing::warn!(%error, "the limit on descriptors stays as it is"),
    }
}
