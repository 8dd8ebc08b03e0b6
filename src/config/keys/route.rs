//! `[[route]]` and its tables.

use crate::config::keys::upstream::{
    ATTEMPTS, CONNECT, FIRST_BYTE, IDLE, MAX_REPLAY_BODY, METHODS, ON, TOTAL, TUNNEL,
};
use crate::config::keys::{Key, Kind, Section, key, rules};

const UPSTREAM: Key = key(
    "upstream",
    Kind::Text(&rules::NOT_EMPTY),
    "Name of the upstream that answers",
);
static UPGRADE: Kind = Kind::Text(&rules::UPGRADE);
const UPGRADES: Key = key(
    "upgrades",
    Kind::List(&UPGRADE),
    "Tokens that may be upgraded to",
)
.default("[\"websocket\"]");
const PRIORITY: Key = key(
    "priority",
    Kind::Integer {
        min: -1_000_000,
        max: 1_000_000,
    },
    "Only where everything else is equal; higher wins",
)
.default("0");
const FORWARD: Key = key(
    "forward",
    Kind::Choice(&["normalized", "raw"], &[]),
    "raw: the original path bytes go on",
)
.default("\"normalized\"");
const MAX_BODY: Key = key(
    "max-body",
    Kind::Size {
        min: 0,
        max: crate::util::units::MAX_SIZE,
    },
    "Of a request, counted as the bytes come",
)
.or_off()
.default("\"off\"");
const TIMEOUTS: Key = key("timeout", Kind::Table(&ROUTE_TIMEOUT), ROUTE_TIMEOUT.about)
    .or_off()
    .default("{}");
const RETRIES: Key = key("retry", Kind::Table(&ROUTE_RETRY), ROUTE_RETRY.about)
    .or_off()
    .default("{}");
static NETWORK: Kind = Kind::Text(&rules::CIDR);
const ALLOW: Key = key(
    "allow",
    Kind::List(&NETWORK),
    "Networks of the clients that may ask; empty: all",
)
.default("[]");
const DENY: Key = key(
    "deny",
    Kind::List(&NETWORK),
    "Networks of clients that may not ask; tested before `allow`",
)
.default("[]");
static SHARE: Kind = Kind::Integer { min: 0, max: 1000 };
const SPLIT: Key = key(
    "split",
    Kind::Map(&SHARE),
    "Upstream to weight: each takes its share of the requests, exactly",
);
const SPLIT_BY: Key = key(
    "split-by",
    Kind::Text(&rules::SPLIT_KEY),
    "header:NAME, cookie:NAME or client-ip: whoever has the same stays with the same upstream; without it client-ip; absent: each request alone",
);
const REDIRECTS: Key = key("redirect", Kind::Table(&REDIRECT), REDIRECT.about);
const RESPONDS: Key = key("respond", Kind::Table(&RESPOND), RESPOND.about);
const STRIP_PREFIX: Key = key(
    "strip-prefix",
    Kind::Switch,
    "The route's prefix does not go on; X-Forwarded-Prefix says what it was",
)
.default("false");
const REPLACE_PREFIX: Key = key(
    "replace-prefix",
    Kind::Text(&rules::NEW_PREFIX),
    "Goes on instead of the route's prefix; empty: as it is",
)
.default("\"\"");
const REWRITES: Key = key("rewrite", Kind::Table(&REWRITE), REWRITE.about).or_off();
const REQUEST_HEADERS: Key = key(
    "request-headers",
    Kind::Table(&EDITS),
    "What servers get: removed first, then set, then added; variables like ${client.ip} are of the request",
)
.or_off();
const RESPONSE_HEADERS: Key = key(
    "response-headers",
    Kind::Table(&EDITS),
    "The same of answers: those of servers, `redirect` and `respond`, not our own refusals",
)
.or_off();
const FALLBACKS: Key = key("fallback", Kind::Table(&FALLBACK), FALLBACK.about).or_off();

const MIRRORS: Key = key("mirror", Kind::Table(&MIRROR), MIRROR.about).or_off();

const LIMITS: Key = key("limit", Kind::Table(&LIMIT), LIMIT.about).or_off();

const ALTERNATIVES: [&[&str]; 2] = [
    &["upstream", "split", "redirect", "respond"],
    &["strip-prefix", "replace-prefix", "rewrite"],
];

pub(in crate::config) static ROUTE: Section = Section {
    name: "[[route]]",
    about: "What is asked for, and who answers",
    exclusive: &ALTERNATIVES,
    keys: &[
        key(
            "name",
            Kind::Text(&rules::NAME),
            "In logs and metrics; default: the match as written",
        ),
        key(
            "listener",
            Kind::List(&Kind::Text(&rules::NOT_EMPTY)),
            "Names of the listeners that it serves; empty: all",
        )
        .default("[]"),
        key(
            "host",
            Kind::Text(&rules::HOST_PATTERN),
            "Exact or \"*.example.org\"; default: any",
        ),
        key("path", Kind::Text(&rules::MATCH_PATH), "This path exactly"),
        key(
            "prefix",
            Kind::Text(&rules::MATCH_PATH),
            "Whole segments: /api takes /api/x, not /apix",
        ),
        key(
            "regex",
            Kind::Text(&rules::REGEX),
            "Of the whole path, anchored",
        ),
        key("when", Kind::Table(&WHEN), WHEN.about).default("{}"),
        UPSTREAM,
        UPGRADES,
        PRIORITY,
        FORWARD,
        MAX_BODY,
        TIMEOUTS,
        RETRIES,
        FALLBACKS,
        SPLIT,
        SPLIT_BY,
        REDIRECTS,
        RESPONDS,
        STRIP_PREFIX,
        REPLACE_PREFIX,
        REWRITES,
        REQUEST_HEADERS,
        RESPONSE_HEADERS,
        LIMITS,
        MIRRORS,
        ALLOW,
        DENY,
    ],
};

const MATCH: Kind = Kind::Misplaced("it belongs to one [[route]]");

/// `[defaults.route]`: all but what makes a route the one it is.
pub(in crate::config) static ROUTE_DEFAULTS: Section = Section {
    name: "[defaults.route]",
    about: ROUTE.about,
    exclusive: &ALTERNATIVES,
    keys: &[
        key("name", MATCH, ""),
        key("listener", MATCH, ""),
        key("host", MATCH, ""),
        key("path", MATCH, ""),
        key("prefix", MATCH, ""),
        key("regex", MATCH, ""),
        key("when", MATCH, ""),
        UPSTREAM,
        UPGRADES,
        PRIORITY,
        FORWARD,
        MAX_BODY,
        TIMEOUTS,
        RETRIES,
        FALLBACKS,
        SPLIT,
        SPLIT_BY,
        REDIRECTS,
        RESPONDS,
        STRIP_PREFIX,
        REPLACE_PREFIX,
        REWRITES,
        REQUEST_HEADERS,
        RESPONSE_HEADERS,
        LIMITS,
        MIRRORS,
        ALLOW,
        DENY,
    ],
};

pub(in crate::config) static WHEN: Section = Section {
    name: "when",
    about: "More that must hold; \"*\" is any value",
    exclusive: &[],
    keys: &[
        key(
            "method",
            Kind::List(&Kind::Text(&rules::METHOD)),
            "One of these",
        ),
        key(
            "header",
            Kind::Map(&Kind::Text(&rules::EXPECTED)),
            "Header to value",
        ),
        key(
            "query",
            Kind::Map(&Kind::Text(&rules::EXPECTED)),
            "Query parameter to value",
        ),
        key(
            "cookie",
            Kind::Map(&Kind::Text(&rules::EXPECTED)),
            "Cookie to value",
        ),
    ],
};

pub(in crate::config) static ROUTE_TIMEOUT: Section = Section {
    name: "[route.timeout]",
    about: "Overrides the upstream's, key by key",
    exclusive: &[],
    keys: &[CONNECT, FIRST_BYTE, IDLE, TUNNEL, TOTAL],
};

pub(in crate::config) static ROUTE_RETRY: Section = Section {
    name: "[route.retry]",
    about: "Overrides the upstream's, key by key",
    exclusive: &[],
    keys: &[
        ATTEMPTS,
        ON,
        METHODS,
        MAX_REPLAY_BODY,
        key(
            "budget",
            Kind::Misplaced("the budget is per upstream: write it in [upstream.NAME.retry]"),
            "",
        ),
    ],
};

/// `status` of an answer of our own.
const fn answer_status(about: &'static str, default: &'static str) -> Key {
    key("status", Kind::Integer { min: 200, max: 599 }, about).default(default)
}

/// Its `body`.
const fn answer_body(about: &'static str) -> Key {
    key("body", Kind::Template(&rules::ANY), about).default("\"\"")
}

pub(in crate::config) static FALLBACK: Section = Section {
    name: "fallback",
    about: "Instead of our own 502, 503 and 504; absent: none",
    exclusive: &[],
    keys: &[
        answer_status("Of the fixed answer", "503"),
        answer_body("Of the fixed answer; variables like ${request.id} are of the request"),
        key(
            "upstream",
            Kind::Text(&rules::ANY),
            "Asked once, while the request body can be replayed whole; empty: none",
        )
        .default("\"\""),
    ],
};

pub(in crate::config) static MIRROR: Section = Section {
    name: "mirror",
    about: "A copy of requests goes to another upstream, whose answers nobody gets; absent: none",
    exclusive: &[],
    keys: &[
        key(
            "upstream",
            Kind::Text(&rules::NOT_EMPTY),
            "Gets the copies; `x-evenkeel-mirror` with the route's name marks them",
        ),
        key(
            "percent",
            Kind::Share { zero: true },
            "Of the requests, exactly over time",
        )
        .default("\"100%\""),
    ],
};

pub(in crate::config) static LIMIT: Section = Section {
    name: "limit",
    about: "Requests that the route takes; others get 429; absent: all",
    exclusive: &[],
    keys: &[
        key("rate", Kind::Rate, "So many over time, for each key"),
        key(
            "burst",
            Kind::Integer {
                min: 1,
                max: 1_000_000,
            },
            "Of them at once, after a pause",
        )
        .default("50"),
        key(
            "by",
            Kind::Text(&rules::LIMIT_KEY),
            "Who has a limit of his own: client-ip (an IPv6 network of 64 bits is one), header:NAME (without it client-ip), or route: all together",
        )
        .default("\"client-ip\""),
    ],
};

static HEADER: Kind = Kind::Template(&rules::HEADER_VALUE);

/// Of requests and of answers.
pub(in crate::config) static EDITS: Section = Section {
    name: "header edits",
    about: "Changes of header fields",
    exclusive: &[],
    keys: &[
        key("set", Kind::Map(&HEADER), "Header to its only value").default("{}"),
        key("add", Kind::Map(&HEADER), "Header to one more value").default("{}"),
        key(
            "remove",
            Kind::List(&Kind::Text(&rules::HEADER_NAME)),
            "Names of headers",
        )
        .default("[]"),
    ],
};

pub(in crate::config) static REDIRECT: Section = Section {
    name: "redirect",
    about: "Sends the client elsewhere; what is not given, the query included, stays as asked",
    exclusive: &[],
    keys: &[
        key(
            "to",
            Kind::Template(&rules::ANY),
            "The whole URL, or a path; variables like ${request.path} are of the request",
        ),
        key(
            "scheme",
            Kind::Choice(&["http", "https"], &[]),
            "Another one has its own port",
        ),
        key(
            "host",
            Kind::Text(&rules::HOST_OR_NONE),
            "Without port; empty: as asked",
        )
        .default("\"\""),
        key(
            "port",
            Kind::Integer {
                min: 0,
                max: 65_535,
            },
            "0: as asked, or that of another scheme",
        )
        .default("0"),
        key(
            "path",
            Kind::Template(&rules::ANY),
            "A `?` in it takes the place of the query; empty: as asked",
        )
        .default("\"\""),
        key(
            "status",
            Kind::Integer { min: 301, max: 308 },
            "301, 302, 303, 307 or 308",
        )
        .default("308"),
    ],
};

pub(in crate::config) static RESPOND: Section = Section {
    name: "respond",
    about: "A fixed answer",
    exclusive: &[],
    keys: &[
        answer_status("Of the answer", "200"),
        answer_body(
            "Variables like ${request.id} are of the request, escaped as the content type wants it",
        ),
        key(
            "content-type",
            Kind::Text(&rules::MEDIA_TYPE),
            "Of the body; text without a charset is UTF-8",
        )
        .default("\"text/plain\""),
    ],
};

pub(in crate::config) static REWRITE: Section = Section {
    name: "rewrite",
    about: "A path that matches becomes another; others stay; the query is not touched",
    exclusive: &[],
    keys: &[
        key(
            "regex",
            Kind::Text(&rules::REGEX),
            "Of the whole path in normal form, anchored",
        ),
        key(
            "to",
            Kind::Text(&rules::NEW_PATH),
            "The new path: $1 to $9 are the groups, $0 all, $$ is a dollar",
        ),
    ],
};
