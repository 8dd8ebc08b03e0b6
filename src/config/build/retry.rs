//! `retry` and `timeout`, of an upstream and of a route.

use crate::config::keys;
use crate::config::model::{Retry, RetryBudget, RetryOn, Timeouts};
use crate::config::reader::Reader;
use crate::config::values::status::{RetryCause, retry_cause};
use crate::util::units::ByteSize;

pub(super) fn retry(reader: Reader<'_>) -> Retry {
    let budget = reader.table_or_empty("budget", &keys::BUDGET);
    let budget = RetryBudget {
        ratio: budget.share("ratio"),
        min_per_second: budget.integer("min-per-second"),
        window: budget.duration("window"),
    };
    with_budget(reader, budget)
}

fn with_budget(reader: Reader<'_>, budget: RetryBudget) -> Retry {
    let mut on = RetryOn::default();
    for cause in reader
        .texts("on")
        .filter_map(|(_, text)| retry_cause(text).ok())
    {
        match cause {
            RetryCause::Connect => on.connect = true,
            RetryCause::Reset => on.reset = true,
            RetryCause::Timeout => on.timeout = true,
            RetryCause::BadResponse => on.bad_response = true,
            RetryCause::Status(range) => on.status.push(range),
            RetryCause::Grpc(code) => on.grpc.insert(code),
        }
    }
    Retry {
        attempts: reader.integer("attempts"),
        on,
        methods: reader
            .texts("methods")
            .map(|(_, method)| method.to_owned())
            .collect(),
        budget,
        max_replay_body: reader
            .optional_size("max-replay-body")
            .unwrap_or(ByteSize(0)),
    }
}

/// `base` with what a route gives itself.
pub(super) fn retry_over(own: Reader<'_>, base: &Retry) -> Retry {
    let given = with_budget(own, base.budget.clone());
    let has = |key: &str| own.node(key).is_some();
    Retry {
        attempts: if has("attempts") {
            given.attempts
        } else {
            base.attempts
        },
        on: if has("on") { given.on } else { base.on.clone() },
        methods: if has("methods") {
            given.methods
        } else {
            base.methods.clone()
        },
        budget: given.budget,
        max_replay_body: match has("max-replay-body") {
            true => given.max_replay_body,
            false => base.max_replay_body,
        },
    }
}

/// The same of timeouts.
pub(super) fn timeouts_over(own: Reader<'_>, base: &Timeouts) -> Timeouts {
    let given = timeouts(own);
    let or = |key: &str, given, base| if own.node(key).is_some() { given } else { base };
    Timeouts {
        connect: or("connect", given.connect, base.connect),
        first_byte: or("first-byte", given.first_byte, base.first_byte),
        idle: or("idle", given.idle, base.idle),
        tunnel: or("tunnel", given.tunnel, base.tunnel),
        total: or("total", given.total, base.total),
    }
}

pub(super) fn timeouts(reader: Reader<'_>) -> Timeouts {
    Timeouts {
        connect: reader.optional_duration("connect"),
        first_byte: reader.optional_duration("first-byte"),
        idle: reader.optional_duration("idle"),
        tunnel: reader.optional_duration("tunnel"),
        total: reader.optional_duration("total"),
    }
}
