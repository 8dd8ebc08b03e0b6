//! The tables of `keys` as JSON Schema (draft 2020-12), for editors.
//!
//! Derived from the same tables as the checker, not from the model's types: the model has no
//! "off", no alternative spellings and no defaults, and a second description would drift.

use serde_json::{Map, Value as Json, json};

use crate::config::keys::{self, Key, Kind, Section};
use crate::util::rate::RATE_PATTERN;
use crate::util::units::{DURATION_PATTERN, PERCENT_PATTERN, SIZE_PATTERN};

/// JSON Schema of the file.
///
/// It takes every valid file; what only a look at the whole can tell (references, duplicates,
/// relations between keys) is left to `evenkeel check`.
pub fn schema() -> Json {
    let mut root = table(&keys::ROOT);
    root.insert(
        "$schema".to_owned(),
        json!("https://json-schema.org/draft/2020-12/schema"),
    );
    root.insert("title".to_owned(), json!("Evenkeel"));
    // The listeners may stand in an included file.
    root.insert(
        "anyOf".to_owned(),
        json!([{ "required": ["listener"] }, { "required": ["include"] }]),
    );
    let mut ordered = Map::new();
    for key in ["$schema", "title"] {
        if let Some(value) = root.remove(key) {
            ordered.insert(key.to_owned(), value);
        }
    }
    ordered.extend(root);
    Json::Object(ordered)
}

fn table(section: &'static Section) -> Map<String, Json> {
    let mut properties = Map::new();
    for key in section.supported() {
        properties.insert(key.name.to_owned(), property(key));
    }
    let mut out = Map::new();
    out.insert("type".to_owned(), json!("object"));
    out.insert("description".to_owned(), json!(section.about));
    out.insert("properties".to_owned(), Json::Object(properties));
    out.insert("additionalProperties".to_owned(), json!(false));
    if std::ptr::eq(section, &raw const keys::LISTENER) {
        out.insert("required".to_owned(), json!(["address"]));
    }
    if std::ptr::eq(section, &raw const keys::ROUTE) {
        let one = ["path", "prefix", "regex"].map(|key| json!({ "required": [key] }));
        out.insert("oneOf".to_owned(), json!(one));
    }
    if std::ptr::eq(section, &raw const keys::HEALTH) {
        let tcp = json!({ "properties": { "tcp": { "const": true } }, "required": ["tcp"] });
        let http = ["path", "status", "body", "method", "headers", "host"];
        let any = http.map(|key| json!({ "required": [key] }));
        out.insert(
            "not".to_owned(),
            json!({ "allOf": [tcp, { "anyOf": any }] }),
        );
    }
    out
}

fn property(key: &'static Key) -> Json {
    let mut schema = match kind(&key.kind) {
        Json::Object(schema) => schema,
        _ => Map::new(),
    };
    if !key.words.is_empty() {
        let words = json!({ "enum": key.words });
        schema = Map::from_iter([("anyOf".to_owned(), json!([words, schema]))]);
    }
    if !key.about.is_empty() {
        let about = match key.default.filter(|default| *default != "{}") {
            Some(default) => format!("{}. Default: {default}", key.about),
            None => key.about.to_owned(),
        };
        schema.insert("description".to_owned(), json!(about));
    }
    if let Some(default) = key.default.and_then(as_json) {
        schema.insert("default".to_owned(), default);
    }
    Json::Object(schema)
}

/// A built-in default, written as TOML, as JSON; of whole tables nothing is said.
fn as_json(toml: &str) -> Option<Json> {
    let document: toml::Table = toml::from_str(&format!("default = {toml}")).ok()?;
    let value = serde_json::to_value(document.get("default")?).ok()?;
    (!value.is_object()).then_some(value)
}

/// A text with a variable in it can become anything, so that no pattern may refuse it.
fn text(pattern: &str) -> Json {
    json!({ "type": "string", "pattern": format!("^(?:{pattern})$|\\$\\{{") })
}

fn kind(of: &'static Kind) -> Json {
    match of {
        Kind::Switch => json!({ "type": "boolean" }),
        Kind::Integer { min, max: i64::MAX } => json!({ "type": "integer", "minimum": min }),
        Kind::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Text(rule) | Kind::Template(rule) if rule.pattern == ".*" => {
            json!({ "type": "string" })
        }
        Kind::Text(rule) | Kind::Template(rule) => text(rule.pattern),
        Kind::Duration { zero: true } => text(DURATION_PATTERN),
        Kind::Duration { zero: false } => text(&format!("(?=.*[1-9]){DURATION_PATTERN}")),
        Kind::Size { .. } => text(SIZE_PATTERN),
        Kind::Share { zero: true } => text(PERCENT_PATTERN),
        Kind::Share { zero: false } => text(&format!("(?=.*[1-9]){PERCENT_PATTERN}")),
        Kind::Rate => text(RATE_PATTERN),
        Kind::ByteRate => text(&format!("(?=.*[1-9]){SIZE_PATTERN}/s")),
        Kind::Choice(words, _) => json!({
            "anyOf": [{ "enum": words }, { "type": "string", "pattern": "\\$\\{" }]
        }),
        Kind::List(of) => json!({ "type": "array", "items": kind(of) }),
        Kind::Table(section) => Json::Object(table(section)),
        Kind::Tables(section) => json!({ "type": "array", "items": table(section) }),
        Kind::Map(of) => json!({ "type": "object", "additionalProperties": kind(of) }),
        Kind::OneOf(kinds) => json!({ "anyOf": kinds.iter().map(kind).collect::<Vec<_>>() }),
        Kind::Misplaced(_) => json!(false),
    }
}
