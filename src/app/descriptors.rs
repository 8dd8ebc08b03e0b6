//! The limit on open descriptors.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::util::descriptors::LEAST;

/// Raises the limit to its hard value: the soft one is often 1024, for the sake of programs that
/// use `select`. Failing only means fewer connections.
pub(super) fn raise_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| hard));
    match raised {
        Ok(limit) if limit < LEAST => tracing::warn!(
            limit,
            "the limit on descriptors is too low: workers and listeners need most of them; raise it \
             (ulimit -Hn, LimitNOFILE= of systemd)"
        ),
        Ok(limit) => tracing::debug!(limit, "descriptors"),
        Err(error) => tracing::warn!(%error, "the limit on descriptors stays as it is"),
    }
}
