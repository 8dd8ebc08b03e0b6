//! Every key and value against the tables of `keys`: unknown keys, wrong types, bad units, out of
//! range, not supported yet. Goes on after each mistake.

use crate::config::diagnostics::Problems;
use crate::config::keys::{self, Key, Kind, Section};
use crate::config::suggest::closest;
use crate::config::tree::{Entry, Node, Table, Value, quote};
use crate::config::values::Complaint;
use crate::util::rate::{ByteRate, Rate};
use crate::util::units::{ByteSize, Percent, UnitError, format_duration, parse_duration};

/// Checks all of `table`; what relates one key to another is left to `build`.
pub(super) fn check(table: &Table, section: &'static Section, problems: &mut Problems) {
    for entry in &table.entries {
        match section.key(&entry.key) {
            Some(key) => known(entry, key, problems),
            None => unknown(entry, section, problems),
        }
    }
}

fn known(entry: &Entry, key: &'static Key, problems: &mut Problems) {
    match key.kind {
        Kind::Misplaced(why) => {
            let message = format!("`{}` does not belong here", key.name);
            problems
                .error("misplaced-key", entry.key_span, message)
                .label(why);
        }
        _ if entry
            .node
            .as_text()
            .is_some_and(|text| key.words.contains(&text) && entry.node.variables.is_empty()) => {}
        _ => value(
            &entry.node,
            &key.kind,
            &Named {
                key: &entry.key,
                words: key.words,
            },
            problems,
        ),
    }
}

/// Words that other proxies use for what has another name here.
const FOREIGN: [(&str, &str); 14] = [
    ("backend", "upstream"),
    ("backends", "upstream"),
    ("cluster", "upstream"),
    ("clusters", "upstream"),
    ("pool", "upstream"),
    ("service", "upstream"),
    ("server", "servers"),
    ("targets", "servers"),
    ("endpoints", "servers"),
    ("listen", "address"),
    ("bind", "address"),
    ("location", "prefix"),
    ("lb-policy", "balance"),
    ("circuit-breaker", "breaker"),
];

fn unknown(entry: &Entry, section: &'static Section, problems: &mut Problems) {
    let known = || section.supported().map(|key| key.name);
    let message = format!("unknown key {} in {}", quote(&entry.key), section.name);
    let error = problems.error("unknown-key", entry.key_span, message);
    let foreign = FOREIGN
        .iter()
        .find(|(word, _)| *word == entry.key)
        .map(|(_, name)| *name);
    if let Some(name) = foreign.filter(|name| known().any(|key| key == *name)) {
        error
            .label("not a key here")
            .help(format!("did you mean `{name}`?"));
    } else if let Some(name) = closest(&entry.key, section.keys.iter().map(|key| key.name)) {
        error
            .label("not a key here")
            .help(format!("did you mean `{name}`?"));
    } else if let Some(home) = home_of(&entry.key) {
        error.label(format!("it belongs to {home}"));
    } else {
        let names: Vec<&str> = known().collect();
        error
            .label("not a key here")
            .help(format!("there are {}", names.join(", ")));
    }
}

/// The table that has a key of this name, if it is one alone.
fn home_of(name: &str) -> Option<&'static str> {
    let sections: [&Section; 9] = [
        &keys::PROCESS,
        &keys::ACCESS_LOG,
        &keys::LIMITS,
        &keys::LISTENER,
        &keys::UPSTREAM,
        &keys::TIMEOUT,
        &keys::BREAKER,
        &keys::RETRY,
        &keys::ROUTE,
    ];
    let mut homes = sections
        .into_iter()
        .filter(|section| section.key(name).is_some());
    match (homes.next(), homes.next()) {
        (Some(home), None) => Some(home.name),
        _ => None,
    }
}

/// The key that a value is of, for messages.
struct Named<'a> {
    key: &'a str,
    words: &'static [&'static str],
}

fn value(node: &Node, kind: &'static Kind, named: &Named<'_>, problems: &mut Problems) {
    match (kind, &node.value) {
        (_, Value::Unknown) | (Kind::Switch, Value::Switch(_)) => {}
        (kind, Value::Text(_))
            if !node.variables.is_empty()
                && !matches!(kind, Kind::Template(_) | Kind::OneOf(_)) =>
        {
            misplaced_variable(node, named, problems);
        }
        (Kind::Integer { min, max }, Value::Integer(number)) => {
            if number < min || number > max {
                problems
                    .error(
                        "out-of-range",
                        node.span,
                        format!("`{}` is out of range", named.key),
                    )
                    .label(expected(kind, named.words));
            }
        }
        (Kind::Template(rule), Value::Text(_)) => {
            if let Err(complaint) = (rule.check)(&node.filled()) {
                refuse(node, rule.what, named, complaint, problems);
            }
        }
        (Kind::Text(rule), Value::Text(text)) => {
            if let Err(complaint) = (rule.check)(text) {
                refuse(node, rule.what, named, complaint, problems);
            }
        }
        (Kind::Duration { zero }, Value::Text(text)) => match parse_duration(text) {
            Ok(duration) if duration.is_zero() && !zero => zero_refused(node, named, problems),
            Ok(_) => {}
            Err(error) => bad_unit(node, "a duration", named, error, problems),
        },
        (Kind::Size { min, max }, Value::Text(text)) => match text.parse::<ByteSize>() {
            Ok(size) if (*min..=*max).contains(&size.0) => {}
            Ok(_) => {
                let label = format!("expected {} to {}", ByteSize(*min), ByteSize(*max));
                let message = format!("`{}` is out of range", named.key);
                problems
                    .error("out-of-range", node.span, message)
                    .label(label);
            }
            Err(error) => bad_unit(node, "a size", named, error, problems),
        },
        (Kind::Share { zero }, Value::Text(text)) => match text.parse::<Percent>() {
            Ok(share) if share.fraction() == 0.0 && !zero => zero_refused(node, named, problems),
            Ok(_) => {}
            Err(error) => bad_unit(node, "a share", named, error, problems),
        },
        (Kind::Rate, Value::Text(text)) => {
            if let Err(error) = text.parse::<Rate>() {
                bad_unit(node, "a rate", named, error, problems);
            }
        }
        (Kind::ByteRate, Value::Text(text)) => {
            if let Err(error) = text.parse::<ByteRate>() {
                bad_unit(node, "a rate", named, error, problems);
            }
        }
        (Kind::Choice(words, later), Value::Text(text)) => {
            choice(node, text, words, later, named, problems);
        }
        (Kind::List(of), Value::List(nodes)) => {
            nodes.iter().for_each(|node| {
                value(
                    node,
                    of,
                    &Named {
                        words: &[],
                        ..*named
                    },
                    problems,
                )
            });
        }
        (Kind::Table(section), Value::Table(table)) => check(table, section, problems),
        (Kind::Tables(section), Value::List(nodes)) => {
            for node in nodes {
                match node.as_table() {
                    Some(table) => check(table, section, problems),
                    None => wrong_type(node, kind, named, problems),
                }
            }
        }
        (Kind::Map(of), Value::Table(table)) => {
            for entry in &table.entries {
                value(
                    &entry.node,
                    of,
                    &Named {
                        key: &entry.key,
                        words: &[],
                    },
                    problems,
                );
            }
        }
        (Kind::OneOf(kinds), _) => match kinds.iter().find(|kind| takes(kind, &node.value)) {
            Some(kind) => value(node, kind, named, problems),
            None => wrong_type(node, kind, named, problems),
        },
        _ => wrong_type(node, kind, named, problems),
    }
}

fn takes(kind: &Kind, value: &Value) -> bool {
    match kind {
        Kind::Switch => matches!(value, Value::Switch(_)),
        Kind::Integer { .. } => matches!(value, Value::Integer(_)),
        Kind::List(_) | Kind::Tables(_) => matches!(value, Value::List(_)),
        Kind::Table(_) | Kind::Map(_) => matches!(value, Value::Table(_)),
        _ => matches!(value, Value::Text(_)),
    }
}

fn refuse(
    node: &Node,
    what: &str,
    named: &Named<'_>,
    complaint: Complaint,
    problems: &mut Problems,
) {
    let shown = node.quoted();
    let message = match complaint.code {
        "not-supported-yet" => complaint.cause.clone(),
        _ => format!("bad value {shown} for `{}`: expected {what}", named.key),
    };
    let error = problems.error(complaint.code, node.span, message);
    error.label(match complaint.code {
        "not-supported-yet" => "refused, so that it is not silently without effect".to_owned(),
        _ => complaint.cause,
    });
    // A suggestion repeats the value, which is nobody's business if it is from the environment.
    if let Some(help) = complaint.help.filter(|_| node.masked.is_none()) {
        error.help(help);
    }
}

fn misplaced_variable(node: &Node, named: &Named<'_>, problems: &mut Problems) {
    let message = format!("`{}` is the same for every request", named.key);
    let error = problems.error("misplaced-variable", node.span, message);
    error.label("a request variable cannot stand here");
    error.help("request variables belong only in header values, redirects and fixed bodies; write `$${` for a literal `${`");
}

fn zero_refused(node: &Node, named: &Named<'_>, problems: &mut Problems) {
    let error = problems.error(
        "out-of-range",
        node.span,
        format!("`{}` is zero", named.key),
    );
    error.label("expected more than zero");
    if named.words.contains(&"off") {
        error.help("write \"off\" to switch it off");
    }
}

fn bad_unit(
    node: &Node,
    what: &str,
    named: &Named<'_>,
    mistake: UnitError,
    problems: &mut Problems,
) {
    let message = format!("{} is not {what} for `{}`", node.quoted(), named.key);
    let error = problems.error("bad-unit", node.span, message);
    error.label(mistake.cause);
    if let Some(text) = mistake.suggestion.filter(|_| node.masked.is_none()) {
        error.help(format!("write {text}"));
    } else if let Some(word) = node
        .as_text()
        .and_then(|text| closest(text, named.words.iter().copied()))
    {
        error.help(format!("did you mean \"{word}\"?"));
    }
}

fn choice(
    node: &Node,
    text: &str,
    words: &[&'static str],
    later: &[&'static str],
    named: &Named<'_>,
    problems: &mut Problems,
) {
    if words.contains(&text) {
        return;
    }
    if later.contains(&text) {
        let message = format!("`{} = \"{text}\"` is not supported yet", named.key);
        let error = problems.error("not-supported-yet", node.span, message);
        error.label("refused, so that it is not silently without effect");
        error.help(format!("there is {}", list(words)));
        return;
    }
    let message = format!("bad value {} for `{}`", node.quoted(), named.key);
    let error = problems.error("bad-value", node.span, message);
    error.label(format!("expected {}", list(words)));
    if let Some(word) = closest(text, words.iter().chain(named.words).copied()) {
        error.help(format!("did you mean \"{word}\"?"));
    }
}

fn wrong_type(node: &Node, kind: &Kind, named: &Named<'_>, problems: &mut Problems) {
    let needs_unit = matches!(
        kind,
        Kind::Duration { .. }
            | Kind::Size { .. }
            | Kind::Share { .. }
            | Kind::Rate
            | Kind::ByteRate
    ) && matches!(node.value, Value::Integer(_) | Value::Float(_));
    let (code, message) = match needs_unit {
        true => ("bad-unit", format!("`{}` needs a unit", named.key)),
        false => ("wrong-type", format!("wrong type for `{}`", named.key)),
    };
    let label = format!(
        "{}, found {}",
        expected(kind, named.words),
        node.type_name()
    );
    let hint = hint(node, kind, named);
    let error = problems.error(code, node.span, message);
    error.label(label);
    if let Some(hint) = hint {
        error.help(hint);
    }
}

/// What to write instead, where the value says what was meant.
fn hint(node: &Node, kind: &Kind, named: &Named<'_>) -> Option<String> {
    if let (Value::Switch(false), true) = (&node.value, named.words.contains(&"off")) {
        return Some("write \"off\"".to_owned());
    }
    match (kind, &node.value) {
        (Kind::Duration { .. }, Value::Integer(number @ 0..)) => Some(format!(
            "write \"{number}{}\"",
            if *number >= 1000 { "ms" } else { "s" }
        )),
        (Kind::Duration { .. }, Value::Float(number)) if (0.001..1e6).contains(number) => {
            let duration = std::time::Duration::from_millis((number * 1000.0).round() as u64);
            Some(format!("write \"{}\"", format_duration(duration)))
        }
        (Kind::Size { .. }, Value::Integer(number @ 0..)) => Some(format!(
            "write \"{}\"",
            ByteSize(u64::try_from(*number).ok()?)
        )),
        (Kind::Share { .. }, Value::Integer(number @ 0..=100)) => {
            Some(format!("write \"{number}%\""))
        }
        (Kind::Share { .. }, Value::Float(number)) if (0.0..=1.0).contains(number) => {
            Some(format!("write \"{}\"", Percent::from_fraction(*number)))
        }
        (Kind::Rate, Value::Integer(number @ 1..)) => Some(format!("write \"{number}/s\"")),
        (Kind::ByteRate, Value::Integer(number @ 1..)) => Some(format!("write \"{number}B/s\"")),
        (Kind::Integer { .. }, Value::Text(text))
            if node.masked.is_none() && text.parse::<i64>().is_ok() =>
        {
            Some(format!("write {text}, without quotes"))
        }
        (Kind::Switch, Value::Text(text)) => match text.as_str() {
            "true" | "on" | "yes" => Some("write true, without quotes".to_owned()),
            "false" | "off" | "no" => Some("write false, without quotes".to_owned()),
            _ => None,
        },
        (Kind::Text(_) | Kind::Template(_), Value::Integer(number)) => {
            Some(format!("write \"{number}\""))
        }
        (Kind::List(_), Value::Text(_)) => Some(match &node.masked {
            None => format!("write [{:?}]", node.as_text().unwrap_or_default()),
            Some(_) => "put it in brackets".to_owned(),
        }),
        (Kind::Choice(words, _), Value::Switch(on)) => {
            let word = if *on { "on" } else { "off" };
            words.contains(&word).then(|| format!("write \"{word}\""))
        }
        (Kind::Tables(section), Value::Table(_)) => {
            Some(format!("write {} instead of [{}]", section.name, named.key))
        }
        (Kind::Table(_) | Kind::Map(_), Value::List(_)) => Some(format!(
            "tables in double brackets are arrays: write [{}] in single ones",
            section_path(kind, named)
        )),
        (Kind::OneOf(kinds), _) => kinds.iter().find_map(|kind| hint(node, kind, named)),
        _ => None,
    }
}

fn section_path(kind: &Kind, named: &Named<'_>) -> String {
    match (kind, named.key) {
        (Kind::Map(_), "upstream") => "upstream.NAME".to_owned(),
        (Kind::Table(section), key) if std::ptr::eq(*section, &raw const keys::UPSTREAM) => {
            format!("upstream.{key}")
        }
        (_, key) => key.to_owned(),
    }
}

/// "expected a duration like "2s", or "off"".
fn expected(kind: &Kind, words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match words.as_slice() {
        [] => format!("expected {}", what(kind)),
        words => format!("expected {}, or {}", what(kind), words.join(" or ")),
    }
}

fn what(kind: &Kind) -> String {
    match kind {
        Kind::Switch => "true or false".to_owned(),
        Kind::Integer { min, max: i64::MAX } => format!("an integer from {min} on"),
        Kind::Integer { min, max } => format!("an integer from {min} to {max}"),
        Kind::Text(rule) | Kind::Template(rule) => rule.what.to_owned(),
        Kind::Duration { .. } => "a duration like \"2s\"".to_owned(),
        Kind::Size { .. } => "a size like \"64KiB\"".to_owned(),
        Kind::Rate => "a rate like \"100/s\"".to_owned(),
        Kind::ByteRate => "a rate like \"240B/s\"".to_owned(),
        Kind::Share { .. } => "a share like \"20%\"".to_owned(),
        Kind::Choice(words, _) => list(words),
        Kind::List(of) => format!("an array, each {}", what(of)),
        Kind::Table(_) | Kind::Map(_) => "a table".to_owned(),
        Kind::Tables(section) => format!("an array of tables, {}", section.name),
        Kind::OneOf(kinds) => kinds.iter().map(what).collect::<Vec<_>>().join(", or "),
        Kind::Misplaced(_) => "nothing".to_owned(),
    }
}

/// `"a"`, `"b"` or `"c"`.
fn list(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.as_slice() {
        [head @ .., last] if !head.is_empty() => format!("{} or {last}", head.join(", ")),
        words => words.concat(),
    }
}
