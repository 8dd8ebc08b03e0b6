//! `[[listener]]`.

use crate::config::keys::{Kind, Section, key, rules};

pub(in crate::config) static LISTENER: Section = Section {
    name: "[[listener]]",
    about: "An address where requests come in",
    exclusive: &[],
    keys: &[
        key(
            "name",
            Kind::Text(&rules::NAME),
            "In logs, metrics and routes; default: the address",
        ),
        key(
            "address",
            Kind::Text(&rules::LISTENER_ADDRESS),
            "An IP address and port, or \"unix:/path\": a socket of mode 0666, whose clients all count \
             as 127.0.0.1, also for `trusted-proxies`",
        ),
        key(
            "protocols",
            Kind::List(&Kind::Choice(&["h2", "http/1.1"], &["h3"])),
            "Protocols that clients may speak",
        )
        .default("[\"h2\", \"http/1.1\"]"),
        key(
            "proxy-protocol",
            Kind::Choice(&["off", "required"], &[]),
            "required: each connection begins with a PROXY header (version 1 or 2) of a peer in \
             `trusted-proxies`, which names the client; any other is closed",
        )
        .default("\"off\""),
        key(
            "trusted-proxies",
            Kind::List(&Kind::Text(&rules::CIDR)),
            "Networks whose PROXY header, X-Forwarded-* and Forwarded are believed",
        )
        .default("[]"),
        key(
            "underscore-headers",
            Kind::Choice(&["remove", "allow", "reject"], &[]),
            "What happens to header names with `_`, which collide with `-` in CGI-like servers",
        )
        .default("\"remove\""),
        key(
            "half-close",
            Kind::Switch,
            "Whether a client may end its side after its request and still get the answer",
        )
        .default("false"),
        key("via", Kind::Switch, "Whether Via is appended").default("true"),
        key(
            "backlog",
            Kind::Integer {
                min: 1,
                max: 65_535,
            },
            "Connections that may wait to be accepted",
        )
        .default("4096"),
        key("limits", Kind::Table(&LIMITS), LIMITS.about).default("{}"),
        key("tls", Kind::Table(&LISTENER_TLS), LISTENER_TLS.about),
    ],
};

pub(in crate::config) static LISTENER_TLS: Section = Section {
    name: "[listener.tls]",
    about: "TLS towards clients; absent: plain HTTP",
    exclusive: &[],
    keys: &[
        key(
            "certificates",
            Kind::Tables(&CERTIFICATE),
            "Chosen by the name that the client asks for (SNI): exact, then `*.` for one label, else \
             the first; the files are watched",
        ),
        key(
            "min-version",
            Kind::Choice(&["1.2", "1.3"], &[]),
            "The oldest version of TLS that is spoken",
        )
        .default("\"1.2\""),
        key(
            "client-ca",
            Kind::Text(&rules::ANY),
            "PEM file of the authorities whose certificates clients must show; empty: none are asked \
             for",
        )
        .default("\"\""),
    ],
};

pub(in crate::config) static CERTIFICATE: Section = Section {
    name: "a certificate",
    about: "A certificate and its key",
    exclusive: &[],
    keys: &[
        key(
            "cert",
            Kind::Text(&rules::NOT_EMPTY),
            "PEM file: the certificate, then those between it and the root; relative to this file",
        ),
        key(
            "key",
            Kind::Text(&rules::NOT_EMPTY),
            "PEM file: its private key, not encrypted; relative to this file",
        ),
    ],
};

pub(in crate::config) static LIMITS: Section = Section {
    name: "[listener.limits]",
    about: "What one client connection may take",
    exclusive: &[],
    keys: &[
        key(
            "header-timeout",
            Kind::Duration { zero: false },
            "From the first byte (or accept) to the end of the request head",
        )
        .or_off()
        .default("\"10s\""),
        key(
            "idle-timeout",
            Kind::Duration { zero: false },
            "Between requests on a kept-alive connection",
        )
        .or_off()
        .default("\"75s\""),
        key(
            "max-header-bytes",
            Kind::Size {
                min: 1 << 10,
                // A head has to fit into one scratch buffer of the wire (128 KiB).
                max: 120 << 10,
            },
            "Of a request head, request line included",
        )
        .default("\"32KiB\""),
        key(
            "max-headers",
            Kind::Integer {
                min: 1,
                max: 10_000,
            },
            "Header fields of a request",
        )
        .default("100"),
        key(
            "max-requests-per-connection",
            Kind::Integer {
                min: 0,
                max: i64::MAX,
            },
            "Then the connection closes; 0 is unlimited",
        )
        .default("0"),
        key(
            "connection-buffer",
            Kind::Size {
                min: 4 << 10,
                // One scratch buffer of the wire; more gains nothing.
                max: 128 << 10,
            },
            "Body bytes that one HTTP/1 connection may hold for a peer that does not read, and the \
             size of one read",
        )
        .default("\"128KiB\""),
        key(
            "max-connections",
            Kind::Integer {
                min: 1,
                max: 1_000_000_000,
            },
            "Of this listener, over all workers; from 90% on idle and slow ones of this listener are \
             closed, beyond it new ones wait for a free place for up to 3s, then are closed and counted",
        )
        .or_off()
        .default("\"off\""),
        key(
            "max-age",
            Kind::Duration { zero: false },
            "Of a connection, +-10%, as it was when it came in: then Connection: close or GOAWAY with \
             the next answer",
        )
        .or_off()
        .default("\"off\""),
        key(
            "max-concurrent-streams",
            Kind::Integer {
                min: 1,
                max: 65_535,
            },
            "Requests that one HTTP/2 connection may have under way",
        )
        .default("128"),
        key(
            "h2-stream-window",
            Kind::Size {
                min: 1 << 10,
                max: (1 << 31) - 1,
            },
            "Body bytes of one HTTP/2 request that may be under way",
        )
        .default("\"256KiB\""),
        key(
            "h2-connection-window",
            Kind::Size {
                // Where every connection begins (RFC 9113 section 6.9.2).
                min: 64 << 10,
                max: (1 << 31) - 1,
            },
            "Body bytes of all requests of one HTTP/2 connection that may be under way",
        )
        .default("\"1MiB\""),
    ],
};
