//! `[upstream.NAME.breaker]`.

use crate::config::build::Building;
use crate::config::keys;
use crate::config::model::{Breaker, BreakerMode, GrpcStatuses, Slow};
use crate::config::reader::Reader;
use crate::config::values::status::{self, Failure};

pub(super) fn breaker(reader: Reader<'_>, building: &mut Building<'_>) -> Breaker {
    let slow = reader.table_or_empty("slow", &keys::SLOW);
    let (open, max_open) = (reader.duration("open"), reader.duration("max-open"));
    if open > max_open && !max_open.is_zero() {
        let longer = if reader.written("open").is_some() {
            "open"
        } else {
            "max-open"
        };
        let message = "`open` is longer than `max-open`";
        let error = building
            .problems
            .error("conflicting-keys", reader.span_of(longer), message);
        error.label(format!(
            "open = {:?}, max-open = {:?}",
            reader.text("open"),
            reader.text("max-open")
        ));
    }
    let (mut failure_status, mut failure_grpc) = (Vec::new(), GrpcStatuses::default());
    for (_, text) in reader.texts("failure-status") {
        match status::failure(text) {
            Ok(Failure::Status(range)) => failure_status.push(range),
            Ok(Failure::Grpc(code)) => failure_grpc.insert(code),
            // Told by the checker of the key.
            Err(_) => {}
        }
    }
    Breaker {
        mode: match reader.text("mode") {
            "watch" => BreakerMode::Watch,
            "off" => BreakerMode::Off,
            _ => BreakerMode::On,
        },
        consecutive_failures: reader.integer("consecutive-failures"),
        failure_ratio: reader.optional_share("failure-ratio"),
        min_requests: reader.integer("min-requests"),
        window: reader.duration("window"),
        slow: slow.optional_duration("threshold").map(|threshold| Slow {
            threshold,
            ratio: slow.share("ratio"),
        }),
        open,
        max_open,
        probes: reader.integer("probes"),
        max_ejected: reader.share("max-ejected"),
        failure_status,
        failure_grpc,
    }
}
