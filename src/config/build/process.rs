//! `[process]`, `[log]`, `[access-log]`, `[admin]`.

use crate::config::model::{
    AccessLog, AccessLogFormat, Admin, Log, LogFormat, LogTarget, Process, Secret,
};
use crate::config::reader::Reader;
use crate::config::values::{address, text};

pub(super) fn process(reader: Reader<'_>) -> Process {
    Process {
        workers: reader.optional_integer("workers"),
        drain_timeout: reader.duration("drain-timeout"),
        shutdown_delay: reader.duration("shutdown-delay"),
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
