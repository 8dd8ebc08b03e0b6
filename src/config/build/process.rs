//! `[process]`, `[log]`, `[access-log]`, `[admin]`.

use crate::config::Config;
use crate::config::build::Building;
use crate::config::keys;
use crate::config::model::{
    AccessLog, AccessLogFormat, Admin, Log, LogFormat, LogTarget, Process, Secret,
};
use crate::config::reader::Reader;
use crate::config::values::{address, text};
use crate::util::units::ByteSize;
use crate::util::{descriptors, memory};

pub(super) fn process(reader: Reader<'_>) -> Process {
    Process {
        workers: reader.optional_integer("workers"),
        drain_timeout: reader.duration("drain-timeout"),
        shutdown_delay: reader.duration("shutdown-delay"),
        max_connections: reader.optional_integer("max-connections"),
        memory_limit: reader.optional_size("memory-limit"),
        min_rate: reader
            .node("min-rate")
            .and_then(|node| node.as_text()?.parse().ok()),
    }
}

/// Limits that the machine does not carry: no mistake, because another machine may.
pub(super) fn limits(config: &Config, root: &Reader<'_>, building: &mut Building<'_>) {
    let reader = root.table_or_empty("process", &keys::PROCESS);
    let Process {
        workers,
        max_connections,
        memory_limit,
        ..
    } = config.process;
    let workers = workers.unwrap_or(1);
    let carried = descriptors::most_clients(descriptors::limit(), workers, config.listeners.len());
    if max_connections.is_some_and(|most| most > carried) {
        let message = "`max-connections` is more than the descriptor limit carries";
        let place = reader.span_of("max-connections");
        let warning = building
            .problems
            .warning("over-limit", place, message.to_owned());
        warning.label(format!("here it comes to {carried}"));
        warning.help("raise the limit (ulimit -Hn, LimitNOFILE= of systemd), or leave this out");
    }
    if let (Some(limit), Some(most)) = (memory_limit, memory::container_limit())
        && limit.0 > most
    {
        let message = "`memory-limit` is more than the container may have";
        let place = reader.span_of("memory-limit");
        let warning = building
            .problems
            .warning("over-limit", place, message.to_owned());
        warning.label(format!("memory.max of its cgroup is {}", ByteSize(most)));
        warning.help("the kernel would end the process before anything is shed");
    }
}

pub(super) fn log(reader: Reader<'_>) -> Log {
    Log {
        level: reader.text("level").to_owned(),
        format: if reader.text("format") == "json" {
            LogFormat::Json
        } else {
            LogFormat::Text
        },
    }
}

pub(super) fn access_log(reader: Reader<'_>) -> AccessLog {
    AccessLog {
        target: match reader.text("path") {
            "stdout" => LogTarget::Stdout,
            "stderr" => LogTarget::Stderr,
            path => LogTarget::File(path.into()),
        },
        format: match reader.text("format") {
            "json" => AccessLogFormat::Json,
            "ecs" => AccessLogFormat::Ecs,
            _ => AccessLogFormat::Combined,
        },
        sample: reader.share("sample"),
        buffer: reader.size("buffer"),
    }
}

pub(super) fn admin(reader: Reader<'_>) -> Option<Admin> {
    if reader.is_off("address") {
        return None;
    }
    Some(Admin {
        address: address::bind(reader.text("address")).ok()?,
        token: Some(reader.text("token"))
            .filter(|token| !token.is_empty())
            .map(|token| Secret(token.to_owned())),
        hosts: reader
            .texts("hosts")
            .filter_map(|(_, name)| text::host_name(name).ok())
            .collect(),
    })
}
