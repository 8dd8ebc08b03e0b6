//! Every key of the file: its type, range, default and meaning, in tables.
//!
//! One table serves the checker, the defaults, `evenkeel schema` and `config show`, so that none
//! of them can know a key that another does not. What a type cannot say (references, relations
//! between keys) is in `build`.

mod listener;
mod process;
mod route;
pub(super) mod rules;
mod upstream;

pub(super) use self::listener::{CERTIFICATE, LIMITS, LISTENER, LISTENER_TLS};
pub(super) use self::process::{ACCESS_LOG, ADMIN, LOG, PROCESS};
pub(super) use self::route::{
    EDITS, FALLBACK, LIMIT, MIRROR, REDIRECT, RESPOND, REWRITE, ROUTE, ROUTE_DEFAULTS, ROUTE_RETRY,
    ROUTE_TIMEOUT, WHEN,
};
pub(super) use self::upstream::{
    BREAKER, BUDGET, CONNECTIONS, HASH, HEALTH, QUEUE, RETRY, SERVER, SLOW, STICKY, TIMEOUT,
    UPSTREAM, UPSTREAM_TLS,
};

use self::rules::Rule;

/// A table of the file.
#[derive(Debug)]
pub(super) struct Section {
    /// As a message names it: "[upstream.NAME.health]".
    pub name: &'static str,
    pub about: &'static str,
    pub keys: &'static [Key],
    /// Only one of each group may be there; one that is written hides a default of another.
    pub exclusive: &'static [&'static [&'static str]],
}

impl Section {
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// The keys that may stand there today.
    pub fn supported(&self) -> impl Iterator<Item = &'static Key> {
        self.keys
            .iter()
            .filter(|key| !matches!(key.kind, Kind::Misplaced(_)))
    }
}

#[derive(Debug)]
pub(super) struct Key {
    pub name: &'static str,
    pub kind: Kind,
    /// Accepted besides values of the kind: "off", "auto".
    pub words: &'static [&'static str],
    /// As TOML; `None`: absent unless written.
    pub default: Option<&'static str>,
    pub about: &'static str,
}

/// What a value may be.
#[derive(Debug)]
pub(super) enum Kind {
    Switch,
    Integer {
        min: i64,
        max: i64,
    },
    Text(&'static Rule),
    /// A text that may have request variables; the rule is for what is written around them.
    Template(&'static Rule),
    Duration {
        zero: bool,
    },
    Size {
        min: u64,
        max: u64,
    },
    Share {
        zero: bool,
    },
    /// So many per time.
    Rate,
    /// So many bytes per second.
    ByteRate,
    /// One of these words; the second list is refused as "not supported yet".
    Choice(&'static [&'static str], &'static [&'static str]),
    List(&'static Kind),
    Table(&'static Section),
    /// An array of tables.
    Tables(&'static Section),
    /// Any names, each with such a value.
    Map(&'static Kind),
    /// Told apart by their type in TOML.
    OneOf(&'static [Kind]),
    /// Belongs elsewhere; says where.
    Misplaced(&'static str),
}

const fn key(name: &'static str, kind: Kind, about: &'static str) -> Key {
    Key {
        name,
        kind,
        words: &[],
        default: None,
        about,
    }
}

impl Key {
    const fn default(mut self, toml: &'static str) -> Self {
        self.default = Some(toml);
        self
    }

    const fn words(mut self, words: &'static [&'static str]) -> Self {
        self.words = words;
        self
    }

    const fn or_off(self) -> Self {
        self.words(&["off"])
    }
}

impl Kind {
    /// The table that this kind is or holds, through `OneOf`.
    pub fn section(&self) -> Option<&'static Section> {
        match self {
            Kind::Table(section) | Kind::Tables(section) => Some(section),
            Kind::OneOf(kinds) => kinds.iter().find_map(Kind::section),
            _ => None,
        }
    }
}

pub(super) static ROOT: Section = Section {
    name: "the file",
    about: "Configuration of the Evenkeel reverse proxy",
    exclusive: &[],
    keys: &[
        key(
            "include",
            Kind::List(&Kind::Text(&rules::ANY)),
            "Files to read as well, relative to this one; `*`, `?` and `[a-z]` match",
        )
        .default("[]"),
        key("process", Kind::Table(&PROCESS), PROCESS.about).default("{}"),
        key("log", Kind::Table(&LOG), LOG.about).default("{}"),
        key("access-log", Kind::Table(&ACCESS_LOG), ACCESS_LOG.about).or_off(),
        key("admin", Kind::Table(&ADMIN), ADMIN.about).default("{}"),
        key("listener", Kind::Tables(&LISTENER), LISTENER.about),
        key("defaults", Kind::Table(&DEFAULTS), DEFAULTS.about),
        key(
            "upstream",
            Kind::Map(&Kind::Table(&UPSTREAM)),
            UPSTREAM.about,
        ),
        key("route", Kind::Tables(&ROUTE), ROUTE.about),
    ],
};

pub(super) static DEFAULTS: Section = Section {
    name: "[defaults]",
    about: "What upstreams and routes have unless they say otherwise",
    exclusive: &[],
    keys: &[
        key(
            "upstream",
            Kind::Table(&UPSTREAM),
            "Any key of [upstream.NAME]",
        ),
        key(
            "route",
            Kind::Table(&ROUTE_DEFAULTS),
            "Any key of [[route]] but the matches",
        ),
    ],
};
