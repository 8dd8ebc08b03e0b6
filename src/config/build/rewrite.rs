//! `strip-prefix`, `replace-prefix` and `rewrite` of a route.

use crate::config::build::Building;
use crate::config::keys;
use crate::config::model::{Part, PathChange, PathMatch};
use crate::config::reader::Reader;
use crate::config::tree::{Span, quote};
use crate::config::values::path;

pub(super) fn path_change(
    reader: Reader<'_>,
    matched: &PathMatch,
    building: &mut Building<'_>,
) -> Option<PathChange> {
    let mut given = Vec::new();
    if reader.switch("strip-prefix") {
        given.push("strip-prefix");
    }
    if !reader.text("replace-prefix").is_empty() {
        given.push("replace-prefix");
    }
    if reader.node("rewrite").is_some() {
        given.push("rewrite");
    }
    let first = *given.first()?;
    let span = |key: &str| {
        reader
            .entry(key)
            .map_or(reader.span, |entry| entry.key_span)
    };
    if let Some(second) = given.get(1) {
        let message = format!("`{first}` and `{second}` both change the path");
        conflict([span(first), span(second)], message, building);
        return None;
    }
    if reader.text("forward") == "raw" {
        let message = format!("`{first}` changes the path that `forward = \"raw\"` leaves alone");
        conflict([span(first), span("forward")], message, building);
        return None;
    }
    if first == "rewrite" {
        return rewrite(reader.table("rewrite", &keys::REWRITE)?, building);
    }
    let PathMatch::Prefix(from) = matched else {
        let other = ["path", "regex"]
            .into_iter()
            .find(|key| reader.node(key).is_some());
        let message = format!("`{first}` needs a `prefix`");
        let error = building
            .problems
            .error("conflicting-keys", span(first), message);
        error.label("there is none to change");
        if let Some(other) = other {
            error.related(span(other), "it matches by this");
        }
        error.help("`rewrite` changes any path");
        return None;
    };
    let to = path::normal_form(reader.text("replace-prefix")).unwrap_or_default();
    Some(PathChange::Prefix {
        from: from.clone(),
        to: to.trim_end_matches('/').to_owned(),
        told: first == "strip-prefix",
    })
}

fn conflict(mut spans: [Span; 2], message: String, building: &mut Building<'_>) {
    spans.sort();
    let [first, second] = spans;
    let error = building.problems.error("conflicting-keys", second, message);
    error.label("against the other").related(first, "the other");
    error.help("keep one of them");
}

fn rewrite(table: Reader<'_>, building: &mut Building<'_>) -> Option<PathChange> {
    for key in ["regex", "to"] {
        if table.node(key).is_none() && table.all_known() {
            let message = format!("`rewrite` needs `{key}`");
            let problems = &mut building.problems;
            let error = problems.error("missing-key", table.span, message);
            error.help("rewrite = { regex = \"/old/(.*)\", to = \"/new/$1\" }");
        }
    }
    let source = table.node("regex")?.as_text()?;
    let regex = path::regex(source).ok()?;
    let to = path::replacement(table.node("to")?.as_text()?).ok()?;
    // Itself is a group.
    let groups = regex.captures_len() - 1;
    let missing = to.iter().find_map(|part| match part {
        Part::Group(number) if *number > groups => Some(*number),
        _ => None,
    });
    if let Some(number) = missing {
        let message = format!("{} has no group {number}", quote(source));
        let error = building
            .problems
            .error("bad-value", table.span_of("to"), message);
        error.label(match groups {
            0 => "it has none".to_owned(),
            1 => "it has one".to_owned(),
            groups => format!("it has {groups}"),
        });
        error.help("parentheses make a group");
    }
    Some(PathChange::Rewrite {
        source: source.to_owned(),
        regex,
        to,
    })
}
