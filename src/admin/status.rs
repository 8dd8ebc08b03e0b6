//! `/status`: what the process says about itself and its upstreams.

use serde::Serialize;

use super::context::{Control, Status};
use crate::upstream::view::UpstreamView;

/// The whole answer.
#[derive(Debug, Serialize)]
pub(super) struct View {
    #[serde(flatten)]
    status: Status,
    upstreams: Vec<UpstreamView>,
}

pub(super) fn view(control: &dyn Control) -> View {
    View {
        status: control.status(),
        upstreams: control.upstreams(),
    }
}
