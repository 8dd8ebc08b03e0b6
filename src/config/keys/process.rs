//! `[process]`, `[log]`, `[access-log]` and `[admin]`.

use crate::config::keys::{Kind, Section, key, rules};

pub(in crate::config) static PROCESS: Section = Section {
    name: "[process]",
    about: "The process as a whole",
    exclusive: &[],
    keys: &[
        key(
            "workers",
            Kind::Integer { min: 1, max: 1024 },
            "Threads, each with its own event loop, listener socket and connection pools; a change needs a restart",
        )
        .words(&["auto"])
        .default("\"auto\""),
        key(
            "drain-timeout",
            Kind::Duration { zero: true },
            "How long requests under way may take to end after TERM",
        )
        .default("\"30s\""),
        key(
            "shutdown-delay",
            Kind::Duration { zero: true },
            "Between readiness turning 503 and the end of accepting",
        )
        .default("\"0s\""),
        key(
            "max-connections",
            Kind::Integer {
                min: 1,
                max: 1_000_000_000,
            },
            "Of clients, over all listeners and workers; beyond it new ones wait for a moment, then \
             are closed and counted; \"auto\": half of the descriptors that are left for them",
        )
        .words(&["auto"])
        .default("\"auto\""),
        key(
            "memory-limit",
            Kind::Size {
                min: 16 << 20,
                max: 1 << 50,
            },
            "Resident bytes above which new connections and requests are shed",
        )
        .or_off()
        .default("\"off\""),
        key(
            "min-rate",
            Kind::ByteRate,
            "From 90% of either limit on, idle connections are closed first, then heads and bodies \
             slower than this; never otherwise",
        )
        .or_off()
        .default("\"240B/s\""),
    ],
};

pub(in crate::config) static LOG: Section = Section {
    name: "[log]",
    about: "Events: start, reload, health and breaker changes",
    exclusive: &[],
    keys: &[
        key(
            "level",
            Kind::Text(&rules::LOG_LEVEL),
            "error, warn, info, debug or trace; also per module: \"info,evenkeel::upstream=debug\"",
        )
        .default("\"info\""),
        key(
            "format",
            Kind::Choice(&["text", "json"], &[]),
            "Lines for people or for machines",
        )
        .default("\"text\""),
    ],
};

pub(in crate::config) static ACCESS_LOG: Section = Section {
    name: "[access-log]",
    about: "One line per request; absent: none",
    exclusive: &[],
    keys: &[
        key(
            "path",
            Kind::Text(&rules::NOT_EMPTY),
            "stdout, stderr or a file",
        )
        .default("\"stdout\""),
        key(
            "format",
            Kind::Choice(&["combined", "json", "ecs"], &[]),
            "As Nginx's, flat JSON, or Elastic Common Schema",
        )
        .default("\"combined\""),
        key(
            "sample",
            Kind::Share { zero: true },
            "Share of the requests; status 500 and above, and any reason, are always logged",
        )
        .default("\"100%\""),
        key(
            "buffer",
            Kind::Size {
                min: 4 << 10,
                max: 64 << 20,
            },
            "Bytes that wait for the writer; beyond it lines are dropped and counted",
        )
        .default("\"64KiB\""),
    ],
};

pub(in crate::config) static ADMIN: Section = Section {
    name: "[admin]",
    about: "Where operators and Prometheus ask",
    exclusive: &[],
    keys: &[
        key(
            "address",
            Kind::Text(&rules::ADMIN_ADDRESS),
            "An IP address and port, or unix:/path",
        )
        .or_off()
        .default("\"127.0.0.1:9900\""),
        key(
            "token",
            Kind::Text(&rules::TOKEN),
            "Needed off loopback, and on loopback by what changes something; empty: none",
        )
        .default("\"\""),
        key(
            "hosts",
            Kind::List(&Kind::Text(&rules::HOST_NAME)),
            "Names that a request's Host may have besides loopback and the bound address",
        )
        .default("[]"),
    ],
};
