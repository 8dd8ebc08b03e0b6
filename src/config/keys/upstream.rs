//! `[upstream.NAME]` and its tables.

use crate::config::keys::{Key, Kind, Section, key, rules};

const COUNT: Kind = Kind::Integer {
    min: 1,
    max: 1_000_000,
};

pub(in crate::config) static UPSTREAM: Section = Section {
    name: "[upstream.NAME]",
    about: "A named group of servers with its policy, health and breaker settings",
    exclusive: &[],
    keys: &[
        key(
            "balance",
            Kind::Choice(
                &["random", "round-robin", "smooth-weighted", "least-requests", "peak-ewma", "hash"],
                &[],
            ),
            "How a server is picked",
        )
        .default("\"smooth-weighted\""),
        key("hash", Kind::Table(&HASH), "What is hashed; only with balance = \"hash\"").or_off(),
        key(
            "protocol",
            Kind::Choice(&["http/1.1", "h2", "auto"], &[]),
            "Spoken to the servers; auto: what they choose in the TLS handshake, http/1.1 without TLS",
        )
            .default("\"http/1.1\""),
        key(
            "slow-start",
            Kind::Duration { zero: true },
            "After recovery or when added next to others; ten steps from 10%",
        )
        .or_off()
        .default("\"10s\""),
        key(
            "max-requests",
            COUNT,
            "In flight per server, over all workers; tunnels and event streams leave the count once established",
        )
        .or_off()
        .default("1024"),
        key(
            "concurrency",
            Kind::Choice(&["off", "adaptive"], &[]),
            "Requests in flight over all servers; adaptive: as many as the servers work on without making \
             them wait, found by their latency",
        )
        .default("\"off\""),
        key("queue", Kind::Table(&QUEUE), QUEUE.about).or_off().default("{}"),
        key(
            "panic-threshold",
            Kind::Share { zero: true },
            "Share of healthy servers at or below which failed checks are ignored; 0%: only when none is left; off: never",
        )
        .or_off()
        .default("\"0%\""),
        key(
            "servers",
            Kind::OneOf(&[
                Kind::List(&Kind::Text(&rules::SERVER_ADDRESS)),
                Kind::Map(&Kind::OneOf(&[Kind::Integer { min: 0, max: 1000 }, Kind::Table(&SERVER)])),
            ]),
            "A list of addresses, or a table from address to weight or settings",
        ),
        key("health", Kind::Table(&HEALTH), HEALTH.about).or_off(),
        key("breaker", Kind::Table(&BREAKER), BREAKER.about).or_off().default("{}"),
        key("retry", Kind::Table(&RETRY), RETRY.about).or_off().default("{}"),
        key("timeout", Kind::Table(&TIMEOUT), TIMEOUT.about).or_off().default("{}"),
        key("connections", Kind::Table(&CONNECTIONS), CONNECTIONS.about).or_off().default("{}"),
        key(
            "proxy-protocol",
            Kind::Choice(&["off", "v1", "v2"], &[]),
            "The PROXY header that each connection begins with: it names the client's connection, which \
             it serves alone; checks say LOCAL (v1: UNKNOWN); only with protocol = \"http/1.1\"",
        )
        .default("\"off\""),
        key("sticky", Kind::Table(&STICKY), STICKY.about).or_off(),
        key("tls", Kind::Table(&UPSTREAM_TLS), UPSTREAM_TLS.about).or_off(),
    ],
};

pub(in crate::config) static UPSTREAM_TLS: Section = Section {
    name: "[upstream.NAME.tls]",
    about: "TLS towards the servers; absent: plain",
    exclusive: &[],
    keys: &[
        key(
            "ca",
            Kind::Text(&rules::ANY),
            "PEM file of the authorities whose certificates are accepted; empty: the system's; \
             watched, like the other files",
        )
        .default("\"\""),
        key(
            "server-name",
            Kind::Text(&rules::ANY),
            "What the servers' certificates must be for, and the name that is asked for (SNI); \
             empty: the host name or IP address of each server (\"localhost\" of a unix socket)",
        )
        .default("\"\""),
        key(
            "client-cert",
            Kind::Text(&rules::ANY),
            "PEM file: our certificate, for servers that ask for one; relative to this file",
        )
        .default("\"\""),
        key(
            "client-key",
            Kind::Text(&rules::ANY),
            "PEM file: its private key, not encrypted; relative to this file",
        )
        .default("\"\""),
        key(
            "verify",
            Kind::Switch,
            "false: any certificate is accepted; whoever is on the way can read and change everything",
        )
        .default("true"),
    ],
};

pub(in crate::config) static STICKY: Section = Section {
    name: "sticky",
    about: "Who was served by a server stays with it, by a cookie that names it opaquely; absent: not",
    exclusive: &[],
    keys: &[
        key(
            "cookie",
            Kind::Text(&rules::COOKIE_NAME),
            "Its name; upstreams may share one: it names a server of each",
        )
        .default("\"ek\""),
        key(
            "ttl",
            Kind::Duration { zero: false },
            "How long a client that stays away keeps it; renewed from half of it on; off: until the browser is closed",
        )
        .or_off()
        .default("\"1h\""),
        key(
            "path",
            Kind::Text(&rules::COOKIE_PATH),
            "Of the cookie: clients send it for what lies below",
        )
        .default("\"/\""),
        key(
            "secure",
            Kind::OneOf(&[Kind::Choice(&["auto"], &[]), Kind::Switch]),
            "Only over TLS; auto: where the client speaks TLS now",
        )
        .default("\"auto\""),
        key("http-only", Kind::Switch, "Hidden from scripts").default("true"),
        key(
            "same-site",
            Kind::Choice(&["Lax", "Strict", "None"], &[]),
            "Whether requests that come from other sites carry it; off: not said",
        )
        .or_off()
        .default("\"Lax\""),
        key(
            "key",
            Kind::Text(&rules::TOKEN),
            "A secret, the same for all instances: without it, who guesses a server's address can tell that a cookie names it",
        )
        .default("\"\""),
    ],
};

pub(in crate::config) static HASH: Section = Section {
    name: "hash",
    about: "What decides for a server",
    exclusive: &[],
    keys: &[key(
        "by",
        Kind::Text(&rules::HASH_KEY),
        "client-ip, path, header:NAME, cookie:NAME or query:NAME",
    )
    .default("\"client-ip\"")],
};

pub(in crate::config) static QUEUE: Section = Section {
    name: "queue",
    about: "Where requests wait when every server is full; first come, first served, over all workers",
    exclusive: &[],
    keys: &[
        key("size", COUNT, "Requests that may wait").default("1024"),
        key(
            "timeout",
            Kind::Duration { zero: false },
            "How long each may wait",
        )
        .default("\"1s\""),
    ],
};

pub(in crate::config) static SERVER: Section = Section {
    name: "a server",
    about: "One address of an upstream",
    exclusive: &[],
    keys: &[
        key(
            "weight",
            Kind::Integer { min: 0, max: 1000 },
            "Share of the traffic",
        )
        .default("1"),
        key("max-requests", COUNT, "In flight; default: the upstream's").or_off(),
        key("backup", Kind::Switch, "Used when no other is in rotation").default("false"),
        key("drain", Kind::Switch, "Takes nothing new").default("false"),
    ],
};

pub(in crate::config) static HEALTH: Section = Section {
    name: "[upstream.NAME.health]",
    about: "Active checks; absent: none",
    exclusive: &[
        &["path", "tcp", "grpc"],
        &["status", "tcp", "grpc"],
        &["body", "tcp", "grpc"],
        &["method", "tcp", "grpc"],
        &["headers", "tcp"],
        &["host", "tcp"],
    ],
    keys: &[
        key(
            "path",
            Kind::Text(&rules::REQUEST_PATH),
            "What an HTTP check asks for",
        )
        .default("\"/healthz\""),
        key(
            "tcp",
            Kind::Switch,
            "true: a connection that opens is enough",
        ),
        key(
            "grpc",
            Kind::Text(&rules::ANY),
            "The service that a check by the gRPC health protocol asks for; \"\": the server",
        ),
        key(
            "interval",
            Kind::Duration { zero: false },
            "Between checks, +-10%",
        )
        .default("\"5s\""),
        key("timeout", Kind::Duration { zero: false }, "Of one check").default("\"2s\""),
        key(
            "rise",
            Kind::Integer { min: 1, max: 1000 },
            "Passes in a row that make it healthy",
        )
        .default("2"),
        key(
            "fall",
            Kind::Integer { min: 1, max: 1000 },
            "Failures in a row that take it out",
        )
        .default("3"),
        key(
            "status",
            Kind::List(&Kind::Text(&rules::STATUS)),
            "What passes",
        )
        .default("[\"200-399\"]"),
        key(
            "body",
            Kind::Text(&rules::ANY),
            "The body must contain this",
        )
        .default("\"\""),
        key("method", Kind::Text(&rules::METHOD), "Of the check").default("\"GET\""),
        key(
            "headers",
            Kind::Map(&Kind::Text(&rules::HEADER_VALUE)),
            "Sent with the check",
        )
        .default("{}"),
        key(
            "host",
            Kind::Text(&rules::HOST_HEADER),
            "Host header; default: the server's address",
        )
        .default("\"\""),
        key(
            "port",
            Kind::Integer {
                min: 0,
                max: 65_535,
            },
            "0: the server's",
        )
        .default("0"),
        key(
            "tls",
            Kind::Choice(&["same", "off"], &[]),
            "As the traffic, or plain",
        )
        .default("\"same\""),
    ],
};

pub(in crate::config) static BREAKER: Section = Section {
    name: "[upstream.NAME.breaker]",
    about: "Takes a failing server out by its traffic",
    exclusive: &[],
    keys: &[
        key(
            "mode",
            Kind::Choice(&["on", "watch", "off"], &[]),
            "watch observes only",
        )
        .default("\"on\""),
        key("consecutive-failures", COUNT, "In a row that open it")
            .or_off()
            .default("5"),
        key(
            "failure-ratio",
            Kind::Share { zero: false },
            "Of the window's requests",
        )
        .or_off()
        .default("\"50%\""),
        key("min-requests", COUNT, "Below it ratios say nothing").default("20"),
        key(
            "window",
            Kind::Duration { zero: false },
            "What ratios look back on",
        )
        .default("\"10s\""),
        key("slow", Kind::Table(&SLOW), SLOW.about)
            .or_off()
            .default("{}"),
        key(
            "open",
            Kind::Duration { zero: false },
            "How long it stays open; doubles with each trip in a row",
        )
        .default("\"10s\""),
        key(
            "max-open",
            Kind::Duration { zero: false },
            "The most that grows to",
        )
        .default("\"5m\""),
        key(
            "probes",
            Kind::Integer { min: 1, max: 1000 },
            "Concurrent requests let through half-open; as many successes close it",
        )
        .default("3"),
        key(
            "max-ejected",
            Kind::Share { zero: true },
            "Of the servers at once, rounded down, but at least one of two or more",
        )
        .default("\"50%\""),
        key(
            "failure-status",
            Kind::List(&Kind::Text(&rules::FAILURE_STATUS)),
            "Answers that count as failures; ranges too",
        )
        .default("[\"502\", \"503\", \"504\", \"grpc-unavailable\"]"),
    ],
};

pub(in crate::config) static SLOW: Section = Section {
    name: "slow",
    about: "Opens on slow answers",
    exclusive: &[],
    keys: &[
        key(
            "threshold",
            Kind::Duration { zero: false },
            "An answer that takes longer is slow",
        )
        .or_off()
        .default("\"off\""),
        key(
            "ratio",
            Kind::Share { zero: false },
            "Of the window's requests",
        )
        .default("\"50%\""),
    ],
};

/// Shared with `[route.retry]`, where the default is the upstream's.
pub(super) const ATTEMPTS: Key = key(
    "attempts",
    Kind::Integer { min: 0, max: 100 },
    "Extra tries, each at another server",
);
static RETRY_CAUSE: Kind = Kind::Text(&rules::RETRY_ON);
pub(super) const ON: Key = key("on", Kind::List(&RETRY_CAUSE), "What is worth another try");
static METHOD: Kind = Kind::Text(&rules::METHOD);
pub(super) const METHODS: Key = key(
    "methods",
    Kind::List(&METHOD),
    "That may be sent twice; a failed connect may always be repeated",
);
pub(super) const MAX_REPLAY_BODY: Key = key(
    "max-replay-body",
    Kind::Size {
        min: 0,
        max: 64 << 20,
    },
    "Request bodies up to this are kept for another try",
)
.or_off();

pub(in crate::config) static RETRY: Section = Section {
    name: "[upstream.NAME.retry]",
    about: "Another try at another server",
    exclusive: &[],
    keys: &[
        ATTEMPTS.default("1"),
        ON.default(
            "[\"connect\", \"reset\", \"timeout\", \"bad-response\", \"502\", \"503\", \"504\", \"grpc-unavailable\"]",
        ),
        METHODS.default("[\"GET\", \"HEAD\", \"OPTIONS\", \"PUT\", \"DELETE\"]"),
        key("budget", Kind::Table(&BUDGET), BUDGET.about).default("{}"),
        MAX_REPLAY_BODY.default("\"64KiB\""),
    ],
};

pub(in crate::config) static BUDGET: Section = Section {
    name: "budget",
    about: "Retries over all workers, earned by the requests of the window",
    exclusive: &[],
    keys: &[
        key("ratio", Kind::Share { zero: true }, "Of the requests").default("\"20%\""),
        key(
            "min-per-second",
            Kind::Integer {
                min: 0,
                max: 1_000_000,
            },
            "Always allowed",
        )
        .default("3"),
        key(
            "window",
            Kind::Duration { zero: false },
            "What is looked back on",
        )
        .default("\"10s\""),
    ],
};

/// Shared with `[route.timeout]`, where the default is the upstream's.
pub(super) const CONNECT: Key = key(
    "connect",
    Kind::Duration { zero: false },
    "Start of dial to ready",
)
.or_off();
pub(super) const FIRST_BYTE: Key = key(
    "first-byte",
    Kind::Duration { zero: false },
    "Last byte of the request written to the response head",
)
.or_off();
pub(super) const IDLE: Key = key(
    "idle",
    Kind::Duration { zero: false },
    "No byte in any direction of an exchange; stands still while first-byte runs",
)
.or_off();
pub(super) const TUNNEL: Key = key(
    "tunnel",
    Kind::Duration { zero: false },
    "The same after an upgrade, and after the response head of an event stream",
)
.or_off();
pub(super) const TOTAL: Key = key(
    "total",
    Kind::Duration { zero: false },
    "First byte of the request to the last byte of the response",
)
.or_off();

pub(in crate::config) static TIMEOUT: Section = Section {
    name: "[upstream.NAME.timeout]",
    about: "How long a server may take",
    exclusive: &[],
    keys: &[
        CONNECT.default("\"2s\""),
        FIRST_BYTE.default("\"30s\""),
        IDLE.default("\"60s\""),
        TUNNEL.default("\"1h\""),
        TOTAL.default("\"off\""),
    ],
};

pub(in crate::config) static CONNECTIONS: Section = Section {
    name: "[upstream.NAME.connections]",
    about: "Connections to the servers",
    exclusive: &[],
    keys: &[
        key(
            "max-idle",
            Kind::Integer {
                min: 0,
                max: 1_000_000,
            },
            "Per server over all workers; each keeps its share, at least 1",
        )
        .default("256"),
        key(
            "max-connections",
            COUNT,
            "Per server over all workers, idle ones included",
        )
        .or_off()
        .default("\"off\""),
        key(
            "idle-timeout",
            Kind::Duration { zero: false },
            "Or a second less than the server's `Keep-Alive: timeout=`",
        )
        .or_off()
        .default("\"30s\""),
        key(
            "max-lifetime",
            Kind::Duration { zero: false },
            "Of a connection",
        )
        .or_off()
        .default("\"off\""),
    ],
};
