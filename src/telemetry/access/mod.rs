//! The access log: one line per request, written when it ends.
//!
//! A worker formats the line into its own pending bytes and goes on; one thread of the process
//! collects what all workers have pending and writes it. While lines keep coming, that thread looks
//! every [`writer::PAUSE`] and no worker makes a system call for the log; the first line after a
//! rest wakes it, so that a single request is seen at once. What cannot be written in time is
//! dropped and counted, never waited for: a full disk or a blocked pipe costs log lines, not
//! requests.

mod combined;
mod ecs;
mod escape;
mod json;
mod record;
mod target;
mod time;
mod writer;

use std::cell::RefCell;
use std::sync::Arc;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;

use self::target::Target;
use self::time::Clock;
use self::writer::Pending;
use crate::config::model::AccessLogFormat;
use crate::telemetry::Metrics;
use crate::util::units::Percent;

pub use record::{Attempt, Record};
pub use writer::{AccessLogWriter, Prepared};

/// A worker's way to the access log; formats on the worker and never blocks it.
pub struct AccessLog {
    pending: Arc<Pending>,
    settings: RefCell<Cache<Arc<ArcSwap<Settings>>, Arc<Settings>>>,
    clock: RefCell<Clock>,
    wake: writer::Wake,
    metrics: Arc<Metrics>,
}

/// How lines are made; changes with a reload.
#[derive(Debug, Clone)]
struct Settings {
    /// `None`: no access log.
    target: Option<Arc<Target>>,
    format: AccessLogFormat,
    sample: Percent,
    /// Pending bytes of a worker from which the writer is woken before its pause ends.
    batch_bytes: usize,
    /// Pending bytes of a worker from which lines are dropped.
    limit_bytes: usize,
}

impl AccessLog {
    /// False where no line would be written: the record need not be made.
    pub fn enabled(&self) -> bool {
        self.settings.borrow_mut().load().target.is_some()
    }

    /// Writes the line of a request, unless it falls to sampling or the log is full.
    pub fn write(&self, record: &Record<'_>) {
        let mut cache = self.settings.borrow_mut();
        let settings = cache.load();
        let Some(target) = &settings.target else {
            return;
        };
        if !kept(record, settings.sample) {
            return;
        }
        let clock = &mut *self.clock.borrow_mut();
        let mut pending = self.pending.lock();
        let batch = pending.batch_for(target);
        if batch.bytes.len() >= settings.limit_bytes {
            drop(pending);
            self.metrics.log_dropped(1);
            return;
        }
        match settings.format {
            AccessLogFormat::Combined => combined::line(&mut batch.bytes, record, clock),
            AccessLogFormat::Json => json::line(&mut batch.bytes, record, clock),
            AccessLogFormat::Ecs => ecs::line(&mut batch.bytes, record, clock),
        }
        batch.lines += 1;
        let urgent = batch.bytes.len() >= settings.batch_bytes && !pending.signalled;
        pending.signalled |= urgent;
        drop(pending);
        self.wake.after_push(urgent);
    }
}

/// Server errors and answers of ours are kept whatever the sample is.
fn kept(record: &Record<'_>, sample: Percent) -> bool {
    record.status >= 500
        || record.reason.is_some()
        || sample.fraction() >= 1.0
        || fastrand::f64() < sample.fraction()
}

#[cfg(test)]
pub(super) mod testing {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;
    use std::time::Duration;

    use super::{Attempt, Record};
    use crate::message::Version;
    use crate::telemetry::{Outcome, Reason};

    pub fn record<'a>() -> Record<'a> {
        Record {
            request_id: b"0123456789abcdef",
            client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
            method: b"GET",
            target: b"/users?page=2",
            host: b"example.org:8080",
            version: Version::Http11,
            status: 200,
            request_bytes: 3,
            response_bytes: 512,
            duration: Duration::from_micros(12_345),
            listener: "web",
            route: Some("users"),
            upstream: Some("users"),
            reason: None,
            referer: None,
            user_agent: Some(b"curl/8.5.0"),
            authorization: None,
            trace_id: None,
            attempts: &[],
        }
    }

    pub fn attempts() -> [Attempt; 2] {
        [
            Attempt {
                server: Arc::from("10.0.0.1:9000"),
                outcome: Outcome::Failed(Reason::ConnectRefused),
                connect: Some(Duration::from_millis(1)),
                first_byte: None,
                total: Duration::from_millis(1),
            },
            Attempt {
                server: Arc::from("10.0.0.2:9000"),
                outcome: Outcome::Status(200),
                connect: None,
                first_byte: Some(Duration::from_micros(9_500)),
                total: Duration::from_millis(11),
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Reason;

    #[test]
    fn errors_and_our_own_answers_escape_sampling() {
        let none = Percent::from_fraction(0.0);
        let mut record = testing::record();
        assert!(!kept(&record, none));
        record.status = 502;
        assert!(kept(&record, none));
        record.status = 404;
        assert!(!kept(&record, none));
        record.reason = Some(Reason::NoRoute);
        assert!(kept(&record, none));
    }
}
