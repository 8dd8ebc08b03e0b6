//! The conditions of a route's `when`.

use crate::config::build::Building;
use crate::config::model::{Condition, Expected, Wanted};
use crate::config::reader::Reader;
use crate::config::tree::{Value, quote};
use crate::config::values::text;

pub(super) fn conditions(reader: Reader<'_>, building: &mut Building<'_>) -> Vec<Condition> {
    let mut conditions = Vec::new();
    if let Some(node) = reader.node("method") {
        if matches!(&node.value, Value::List(nodes) if nodes.is_empty()) {
            let error = building.problems.error(
                "bad-value",
                node.span,
                "`method` is empty: nothing could match",
            );
            error.help("leave it out to take every method");
        }
        let methods = reader.texts("method").map(|(_, method)| method.to_owned());
        conditions.push(Condition::Method(methods.collect()));
    }
    conditions.extend(named(reader, "header", Condition::Header, building));
    conditions.extend(named(reader, "query", Condition::Query, building));
    conditions.extend(named(reader, "cookie", Condition::Cookie, building));
    conditions
}

fn named(
    reader: Reader<'_>,
    key: &str,
    condition: fn(String, Expected) -> Condition,
    building: &mut Building<'_>,
) -> Vec<Condition> {
    let mut seen: Vec<String> = Vec::new();
    let mut conditions = Vec::new();
    for entry in reader.entries(key) {
        let name = match key {
            "header" => entry.key.to_ascii_lowercase(),
            _ => entry.key.clone(),
        };
        // A query parameter may have any name; the other two are tokens (RFC 9110, RFC 6265).
        if name.is_empty() || (key != "query" && !text::is_token(&name)) {
            let message = format!("{} is not the name of a {key}", quote(&entry.key));
            building
                .problems
                .error("bad-value", entry.key_span, message);
        } else if key == "header" && name == "host" {
            let error = building.problems.error(
                "bad-value",
                entry.key_span,
                "Host is matched by the key `host`",
            );
            error.help("host = \"api.example.org\"");
        } else if seen.contains(&name) {
            let message = format!("the header {} is given twice", quote(&entry.key));
            building
                .problems
                .error("duplicate-key", entry.key_span, message);
        }
        let expected = match entry.node.as_text() {
            Some("*") => Expected::Present,
            text => Expected::Value(Wanted {
                text: text.unwrap_or_default().to_owned(),
                masked: entry.node.masked.clone(),
            }),
        };
        seen.push(name.clone());
        conditions.push(condition(name, expected));
    }
    conditions
}
