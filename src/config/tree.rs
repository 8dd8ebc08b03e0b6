//! The parsed file as a tree in which every key and value knows its place.
//!
//! Our own tree and not the parser's, because it holds several files at once, keeps the order of
//! the file, and is what defaults and overrides are merged into.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use crate::config::model::{Piece, Template, Variable};

/// Bytes `start..end` of one of the [`Sources`](super::Sources).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    pub(super) file: u32,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Span {
    /// Of what stands in no file: a built-in default.
    pub(super) const NONE: Span = Span {
        file: u32::MAX,
        start: 0,
        end: 0,
    };

    pub(super) fn new(file: u32, range: Range<usize>) -> Self {
        Span {
            file,
            start: range.start,
            end: range.end,
        }
    }

    /// Whether `other` lies within.
    pub(super) fn covers(self, other: Span) -> bool {
        self.file == other.file && self.start <= other.start && other.end <= self.end
    }
}

/// Why a value holds where it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Via {
    /// It is written there.
    Written,
    /// It is written in this table of defaults.
    Defaults(&'static str),
    /// A route has it from its upstream.
    Upstream,
    BuiltIn,
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub value: Value,
    pub span: Span,
    pub via: Via,
    /// What may be shown instead of a text with parts from the environment.
    pub masked: Option<String>,
    /// Request variables of a text, which is without them.
    pub variables: Vec<Placed>,
}

/// A request variable, and before which byte of its text it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed {
    pub at: usize,
    pub variable: Variable,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Switch(bool),
    Date(String),
    List(Vec<Node>),
    Table(Table),
    /// Of a variable that is not set, or a number beyond 64 bits: said already, so every check
    /// passes it over.
    Unknown,
}

/// In the order of the file. A list of servers becomes a table that may have a key twice.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    pub entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: String,
    pub key_span: Span,
    pub node: Node,
}

impl Table {
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.entries
            .iter_mut()
            .find(|entry| entry.key == key)
            .map(|entry| &mut entry.node)
    }

    pub fn table(&self, key: &str) -> Option<&Table> {
        self.get(key).and_then(Node::as_table)
    }

    pub fn remove(&mut self, key: &str) {
        self.entries.retain(|entry| entry.key != key);
    }

    pub fn push(&mut self, key: &str, node: Node) {
        self.entries.push(Entry {
            key: key.to_owned(),
            key_span: node.span,
            node,
        });
    }
}

impl Node {
    pub fn as_table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    pub fn as_table_mut(&mut self) -> Option<&mut Table> {
        match &mut self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_list(&self) -> &[Node] {
        match &self.value {
            Value::List(nodes) => nodes,
            _ => &[],
        }
    }

    pub fn is_off(&self) -> bool {
        self.as_text() == Some("off") && self.variables.is_empty()
    }

    /// A text as it may look with something for its variables.
    pub fn filled(&self) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Variable(_) => "x".to_owned(),
        };
        self.template().0.iter().map(piece).collect()
    }

    /// A text with its variables.
    pub fn template(&self) -> Template {
        let text = self.as_text().unwrap_or_default();
        let mut pieces = Vec::new();
        let mut done = 0;
        let push = |pieces: &mut Vec<Piece>, text: &str| {
            if !text.is_empty() {
                pieces.push(Piece::Text(text.to_owned()));
            }
        };
        for Placed { at, variable } in &self.variables {
            push(&mut pieces, text.get(done..*at).unwrap_or_default());
            pieces.push(Piece::Variable(*variable));
            done = *at;
        }
        push(&mut pieces, text.get(done..).unwrap_or_default());
        Template(pieces)
    }

    /// Every node below and this one.
    pub fn visit_mut(&mut self, act: &mut dyn FnMut(&mut Node)) {
        act(self);
        match &mut self.value {
            Value::List(nodes) => nodes.iter_mut().for_each(|node| node.visit_mut(act)),
            Value::Table(table) => {
                table
                    .entries
                    .iter_mut()
                    .for_each(|entry| entry.node.visit_mut(act));
            }
            _ => {}
        }
    }

    /// The type with its article, for messages.
    pub fn type_name(&self) -> &'static str {
        match &self.value {
            Value::Text(_) | Value::Unknown => "a string",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Switch(_) => "a boolean",
            Value::Date(_) => "a date",
            Value::List(_) => "an array",
            Value::Table(_) => "a table",
        }
    }

    /// The value as a message may quote it: short, on one line, nothing from the environment.
    pub fn quoted(&self) -> String {
        match &self.value {
            Value::Text(text) => quote(self.masked.as_deref().unwrap_or(text)),
            Value::Integer(number) => format!("`{number}`"),
            Value::Float(number) => format!("`{number}`"),
            Value::Switch(on) => format!("`{on}`"),
            Value::Date(date) => quote(date),
            Value::List(_) | Value::Table(_) | Value::Unknown => self.type_name().to_owned(),
        }
    }
}

/// `text` between back-ticks, cut to what fits a line, control characters escaped.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::from("`");
    for (index, c) in text.chars().enumerate() {
        if index == 60 {
            out.push('…');
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
    }
    out.push('`');
    out
}

/// Takes the parser's tree over. A number that 64 bits cannot hold is handed to `too_large`.
pub(super) fn from_toml(table: &DeTable<'_>, file: u32, too_large: &mut dyn FnMut(Span)) -> Table {
    let mut entries: Vec<Entry> = table
        .iter()
        .map(|(key, value)| Entry {
            key: key.get_ref().clone().into_owned(),
            key_span: Span::new(file, key.span()),
            node: node(
                value.get_ref(),
                Span::new(file, value.span()),
                file,
                too_large,
            ),
        })
        .collect();
    // The parser sorts by name; messages, `config show` and routes follow the file.
    entries.sort_by_key(|entry| entry.key_span.start);
    Table { entries }
}

fn node(value: &DeValue<'_>, span: Span, file: u32, too_large: &mut dyn FnMut(Span)) -> Node {
    let value = match value {
        DeValue::String(text) => Value::Text(text.clone().into_owned()),
        DeValue::Integer(integer) => {
            let digits = integer.as_str().replace('_', "");
            let number = i64::from_str_radix(&digits, integer.radix());
            match number {
                Ok(number) => Value::Integer(number),
                Err(_) => {
                    too_large(span);
                    Value::Unknown
                }
            }
        }
        DeValue::Float(float) => {
            Value::Float(float.as_str().replace('_', "").parse().unwrap_or(f64::NAN))
        }
        DeValue::Boolean(on) => Value::Switch(*on),
        DeValue::Datetime(date) => Value::Date(date.to_string()),
        DeValue::Array(nodes) => Value::List(
            nodes
                .iter()
                .map(|item| {
                    node(
                        item.get_ref(),
                        Span::new(file, item.span()),
                        file,
                        too_large,
                    )
                })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(from_toml(table, file, too_large)),
    };
    Node {
        value,
        span,
        via: Via::Written,
        masked: None,
        variables: Vec::new(),
    }
}
