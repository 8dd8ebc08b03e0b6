//! Typed reading of a table whose values are checked and whose defaults are filled in.
//!
//! A value that the checker refused reads as nothing or zero: the error stands already, and the
//! model that is built from it is thrown away.

use std::time::Duration;

use crate::config::keys::Section;
use crate::config::tree::{Entry, Node, Span, Table, Value, Via};
use crate::util::units::{ByteSize, Percent, parse_duration};

/// One table with its keys.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    table: &'a Table,
    section: &'static Section,
    /// Of the header or the value as a whole.
    pub span: Span,
}

static EMPTY: Table = Table {
    entries: Vec::new(),
};

impl<'a> Reader<'a> {
    pub fn new(node: &'a Node, section: &'static Section) -> Self {
        Reader {
            table: node.as_table().unwrap_or(&EMPTY),
            section,
            span: node.span,
        }
    }

    /// The same, found at another place.
    pub fn at(self, span: Span) -> Self {
        Reader { span, ..self }
    }

    pub fn root(table: &'a Table, section: &'static Section) -> Self {
        Reader {
            table,
            section,
            span: Span::NONE,
        }
    }

    pub fn entry(&self, key: &str) -> Option<&'a Entry> {
        debug_assert!(
            self.section.key(key).is_some(),
            "`{key}` is not in the table of keys"
        );
        self.table.entry(key)
    }

    /// Whether every key here is one that counts; where another is refused, it is mostly the one
    /// that seems to be missing.
    pub fn all_known(&self) -> bool {
        self.table
            .entries
            .iter()
            .all(|entry| self.section.supported().any(|key| key.name == entry.key))
    }

    pub fn node(&self, key: &str) -> Option<&'a Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// Whether the key stands in this very table of the file.
    pub fn written(&self, key: &str) -> Option<&'a Entry> {
        self.entry(key)
            .filter(|entry| entry.node.via == Via::Written)
    }

    /// The place of a value, else of the table.
    pub fn span_of(&self, key: &str) -> Span {
        match self.node(key) {
            Some(node) if node.span != Span::NONE => node.span,
            _ => self.span,
        }
    }

    pub fn table(&self, key: &str, section: &'static Section) -> Option<Reader<'a>> {
        let node = self.node(key)?;
        let table = node.as_table()?;
        let span = if node.span == Span::NONE {
            self.span
        } else {
            node.span
        };
        Some(Reader {
            table,
            section,
            span,
        })
    }

    /// The same, or an empty one.
    pub fn table_or_empty(&self, key: &str, section: &'static Section) -> Reader<'a> {
        self.table(key, section).unwrap_or(Reader {
            table: &EMPTY,
            section,
            span: self.span,
        })
    }

    pub fn entries(&self, key: &str) -> &'a [Entry] {
        self.node(key)
            .and_then(Node::as_table)
            .map_or(&[], |table| &table.entries)
    }

    pub fn list(&self, key: &str) -> &'a [Node] {
        self.node(key).map_or(&[], Node::as_list)
    }

    pub fn text(&self, key: &str) -> &'a str {
        self.node(key).and_then(Node::as_text).unwrap_or_default()
    }

    /// The texts of an array, with their nodes.
    pub fn texts(&self, key: &str) -> impl Iterator<Item = (&'a Node, &'a str)> {
        self.list(key)
            .iter()
            .filter_map(|node| Some((node, node.as_text()?)))
    }

    pub fn switch(&self, key: &str) -> bool {
        matches!(
            self.node(key).map(|node| &node.value),
            Some(Value::Switch(true))
        )
    }

    pub fn is_off(&self, key: &str) -> bool {
        self.node(key).is_some_and(Node::is_off)
    }

    /// `None` for "off" and other words.
    pub fn optional_integer<T: TryFrom<i64>>(&self, key: &str) -> Option<T> {
        match self.node(key)?.value {
            Value::Integer(number) => T::try_from(number).ok(),
            _ => None,
        }
    }

    pub fn integer<T: TryFrom<i64> + Default>(&self, key: &str) -> T {
        self.optional_integer(key).unwrap_or_default()
    }

    /// `None` for "off".
    pub fn optional_duration(&self, key: &str) -> Option<Duration> {
        parse_duration(self.node(key)?.as_text()?).ok()
    }

    pub fn duration(&self, key: &str) -> Duration {
        self.optional_duration(key).unwrap_or_default()
    }

    /// `None` for "off".
    pub fn optional_size(&self, key: &str) -> Option<ByteSize> {
        self.node(key)?.as_text()?.parse().ok()
    }

    pub fn size(&self, key: &str) -> ByteSize {
        self.optional_size(key).unwrap_or(ByteSize(0))
    }

    /// `None` for "off".
    pub fn optional_share(&self, key: &str) -> Option<Percent> {
        self.node(key)?.as_text()?.parse().ok()
    }

    pub fn share(&self, key: &str) -> Percent {
        self.optional_share(key)
            .unwrap_or(Percent::from_fraction(0.0))
    }
}
