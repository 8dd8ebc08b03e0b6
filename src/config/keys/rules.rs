//! What a text may be beyond being a string: one rule per sort of text.

use crate::config::values::{Complaint, address, path, status, text};

/// A sort of text.
#[derive(Debug)]
pub(in crate::config) struct Rule {
    /// What belongs there: "expected {what}".
    pub what: &'static str,
    pub check: fn(&str) -> Result<(), Complaint>,
    /// For the JSON Schema: a regular expression that takes every text that `check` takes.
    pub pattern: &'static str,
}

pub(in crate::config) static ANY: Rule = Rule {
    what: "a text",
    check: |_| Ok(()),
    pattern: ".*",
};

pub(in crate::config) static NOT_EMPTY: Rule = Rule {
    what: "a text",
    check: text::not_empty,
    pattern: ".+",
};

pub(in crate::config) static NAME: Rule = Rule {
    what: "a name",
    check: text::name,
    pattern: ".{1,128}",
};

pub(in crate::config) static TOKEN: Rule = Rule {
    what: "a token",
    check: text::token_value,
    pattern: "[!-~]*",
};

pub(in crate::config) static LOG_LEVEL: Rule = Rule {
    what: "error, warn, info, debug, trace or off",
    check: text::log_level,
    pattern: ".+",
};

pub(in crate::config) static LISTENER_ADDRESS: Rule = Rule {
    what: "an IP address and a port, like \"0.0.0.0:8080\" or \"[::]:8080\", or \"unix:/path\"",
    check: |text| address::bind(text).map(drop),
    pattern: "(([0-9.]+|\\[[0-9a-fA-F:.%]+\\]):[0-9]{1,5}|unix:/.+)",
};

pub(in crate::config) static ADMIN_ADDRESS: Rule = Rule {
    what: "an IP address and a port, \"unix:/path\" or \"off\"",
    check: |text| address::bind(text).map(drop),
    pattern: "(([0-9.]+|\\[[0-9a-fA-F:.%]+\\]):[0-9]{1,5}|unix:/.+)",
};

pub(in crate::config) static SERVER_ADDRESS: Rule = Rule {
    what: "\"address:port\", \"[v6]:port\", \"name:port\", \"srv:_service._tcp.name\" or \"unix:/path\"",
    check: |text| address::server(text).map(drop),
    pattern: "(([0-9A-Za-z._-]+|\\[[0-9a-fA-F:.%]+\\]):[0-9]{1,5}|srv:_[^.:]+\\._[^.:]+\\.[^:]+|unix:/.+)",
};

pub(in crate::config) static CIDR: Rule = Rule {
    what: "a network like \"10.0.0.0/8\"",
    check: |text| address::network(text).map(drop),
    pattern: "[0-9a-fA-F:.]+(/[0-9]{1,3})?",
};

pub(in crate::config) static HOST_NAME: Rule = Rule {
    what: "a host name",
    check: |name| text::host_name(name).map(drop),
    pattern: "[^\\s/*]+",
};

pub(in crate::config) static HOST_PATTERN: Rule = Rule {
    what: "a host name or \"*.example.org\"",
    check: |name| text::host_pattern(name).map(drop),
    pattern: "(\\*\\.)?[^\\s/*]+",
};

pub(in crate::config) static HOST_HEADER: Rule = Rule {
    what: "a host, with or without a port",
    check: text::host_header,
    pattern: "[^\\s/]*",
};

pub(in crate::config) static METHOD: Rule = Rule {
    what: "a method",
    check: text::method,
    pattern: "[!#$%&'+.^_`|~0-9A-Z-]+",
};

pub(in crate::config) static UPGRADE: Rule = Rule {
    what: "the token of a protocol, like \"websocket\"",
    check: text::upgrade,
    pattern: "[^\\s]+",
};

pub(in crate::config) static HEADER_VALUE: Rule = Rule {
    what: "a header value",
    check: text::header_value,
    pattern: ".*",
};

pub(in crate::config) static HEADER_NAME: Rule = Rule {
    what: "the name of a header",
    check: text::header_name,
    pattern: "[!#$%&'*+.^_`|~0-9A-Za-z-]+",
};

pub(in crate::config) static EXPECTED: Rule = Rule {
    what: "a value, or \"*\" for any",
    check: text::header_value,
    pattern: ".*",
};

pub(in crate::config) static HASH_KEY: Rule = Rule {
    what: "client-ip, path, header:NAME, cookie:NAME or query:NAME",
    check: |text| text::hash_key(text).map(drop),
    pattern: "(client-ip|path|(header|cookie|query):.+)",
};

pub(in crate::config) static COOKIE_NAME: Rule = Rule {
    what: "the name of a cookie",
    check: text::cookie_name,
    pattern: "[!#$%&'*+.^_`|~0-9A-Za-z-]+",
};

pub(in crate::config) static COOKIE_PATH: Rule = Rule {
    what: "a path that begins with `/`",
    check: text::cookie_path,
    pattern: "/[ -:<-~]*",
};

pub(in crate::config) static LIMIT_KEY: Rule = Rule {
    what: "client-ip, header:NAME or route",
    check: |text| text::limit_key(text).map(drop),
    pattern: "(client-ip|route|header:.+)",
};

pub(in crate::config) static STATUS: Rule = Rule {
    what: "a status or a range of them, like \"200-399\"",
    check: |text| status::range(text).map(drop),
    pattern: "[1-9][0-9]{2}(-[1-9][0-9]{2})?",
};

pub(in crate::config) static FAILURE_STATUS: Rule = Rule {
    what: "a status or a range of them, like \"500-599\", or one of gRPC, like \"grpc-unavailable\"",
    check: |text| status::failure(text).map(drop),
    pattern: "([1-9][0-9]{2}(-[1-9][0-9]{2})?|grpc-(unavailable|resource-exhausted|deadline-exceeded|internal))",
};

pub(in crate::config) static RETRY_ON: Rule = Rule {
    what: "connect, reset, timeout, bad-response or a status, of gRPC too",
    check: |text| status::retry_cause(text).map(drop),
    pattern: "(connect|reset|timeout|bad-response|[1-9][0-9]{2}(-[1-9][0-9]{2})?|grpc-(unavailable|resource-exhausted|deadline-exceeded|internal))",
};

pub(in crate::config) static MATCH_PATH: Rule = Rule {
    what: "a path that begins with `/`",
    check: |text| path::normal_form(text).map(drop),
    pattern: "/[^?#]*",
};

pub(in crate::config) static NEW_PREFIX: Rule = Rule {
    what: "a path that begins with `/`",
    check: |text| match text {
        "" => Ok(()),
        text => path::normal_form(text).map(drop),
    },
    pattern: "(/[^?#]*)?",
};

pub(in crate::config) static NEW_PATH: Rule = Rule {
    what: "a path that begins with `/`, with groups like `$1`",
    check: |text| path::replacement(text).map(drop),
    pattern: "[/$][^?#]*",
};

pub(in crate::config) static SPLIT_KEY: Rule = Rule {
    what: "header:NAME, cookie:NAME or client-ip",
    check: |text| text::split_key(text).map(drop),
    pattern: "(client-ip|(header|cookie):.+)",
};

pub(in crate::config) static HOST_OR_NONE: Rule = Rule {
    what: "a host name",
    check: |name| match name {
        "" => Ok(()),
        name => text::host_name(name).map(drop),
    },
    pattern: "[^\\s/*]*",
};

pub(in crate::config) static MEDIA_TYPE: Rule = Rule {
    what: "a media type like \"text/plain\"",
    check: text::media_type,
    pattern: "[^/]+/.+",
};

pub(in crate::config) static REQUEST_PATH: Rule = Rule {
    what: "a path that begins with `/`, with or without a query",
    check: path::request_target,
    pattern: "/[!-~]*",
};

pub(in crate::config) static REGEX: Rule = Rule {
    what: "a regular expression",
    check: |text| path::regex(text).map(drop),
    pattern: ".+",
};
