//! Stand-ins until the real methods land; inherent methods win over these. To be deleted.
#![allow(dead_code, unused_variables, clippy::allow_attributes)]

use std::sync::Arc;

use tokio::time::Instant;

use crate::telemetry::{ServerMetrics, UpstreamMetrics};
use crate::upstream::{Lease, Server, Upstream};
use crate::wire::h1::client::{Exchange, ResponseBody};

pub trait UpstreamShim {
    fn metrics(&self) -> &Arc<UpstreamMetrics> {
        todo!()
    }
    fn request_started(&self, now: Instant) {}
    fn withdraw_retry(&self, now: Instant) -> bool {
        todo!()
    }
    fn claim(&self, server: &Arc<Server>) -> Option<Lease> {
        todo!()
    }
}
impl UpstreamShim for Arc<Upstream> {}

pub trait ServerShim {
    fn metrics(&self) -> &Arc<ServerMetrics> {
        todo!()
    }
}
impl ServerShim for Arc<Server> {}

pub trait ExchangeShim {
    fn awaits_client(&self) -> bool {
        false
    }
}
impl ExchangeShim for Exchange {}

pub trait BodyShim {
    fn request_failed(&self) -> bool {
        false
    }
}
impl BodyShim for ResponseBody {}
