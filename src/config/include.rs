//! Reading the file and what it includes into one tree.
//!
//! Arrays of tables concatenate in the order of the files. Tables merge key by key, and a key that
//! two files give is an error naming both, so that the order of includes never decides.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use crate::config::diagnostics::Problems;
use crate::config::environment;
use crate::config::glob;
use crate::config::sources::{Pattern, SourceFile, Sources, read_bytes};
use crate::config::tree::{Node, Span, Table, Value, Via, from_toml, quote};

/// Everything that one load reads.
pub(super) struct Reading<'a> {
    pub sources: Sources,
    pub problems: Problems,
    /// A file that does not parse has holes: what is missing in it may not be missed.
    pub broken: bool,
    env: &'a dyn Fn(&str) -> Option<String>,
    seen: HashSet<PathBuf>,
    /// The files that are being included, outermost first.
    open: Vec<PathBuf>,
}

/// Includes in includes in includes: deeper than anybody writes by hand.
const MOST_FILES: usize = 10_000;

impl<'a> Reading<'a> {
    pub fn new(env: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Reading {
            sources: Sources::default(),
            problems: Problems::default(),
            broken: false,
            env,
            seen: HashSet::new(),
            open: Vec::new(),
        }
    }

    /// Reads `path` and, after it, its includes. `named` is where another file names it.
    pub fn read(&mut self, path: &Path, named: Span) -> Table {
        let canonical = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if self.open.contains(&canonical) {
            let message = format!("{} includes itself", quote(&path.display().to_string()));
            let error = self.problems.error("include-cycle", named, message);
            error
                .label("by way of this pattern")
                .help("keep included files in a directory of their own");
            return Table::default();
        }
        if !self.seen.insert(canonical.clone()) {
            return Table::default();
        }
        let Some(file) = self.file(path, &canonical, named) else {
            self.broken = true;
            return Table::default();
        };
        let mut root = self.parse(file);
        environment::replace(&mut root, self.env, &mut self.problems);
        let Node {
            value: Value::Table(mut table),
            ..
        } = root
        else {
            return Table::default();
        };
        self.open.push(canonical);
        for (pattern, included) in self.included(path, &table) {
            let other = self.read(&included, pattern);
            merge(&mut table, other, &mut self.problems);
        }
        self.open.pop();
        table
    }

    fn file(&mut self, path: &Path, canonical: &Path, named: Span) -> Option<u32> {
        let name = quote(&path.display().to_string());
        let bytes = match read_bytes(path) {
            Ok(bytes) => bytes,
            Err(cause) => {
                self.sources.missing.push(path.to_owned());
                self.problems.error(
                    "unreadable-file",
                    named,
                    format!("cannot read {name}: {cause}"),
                );
                return None;
            }
        };
        let index = self.sources.files.len() as u32;
        let file = SourceFile::new(path.to_owned(), canonical.to_owned(), &bytes);
        self.sources.files.push(file);
        if let Err(error) = std::str::from_utf8(&bytes) {
            let at = error.valid_up_to();
            let replacement = char::REPLACEMENT_CHARACTER.len_utf8();
            let message = format!("{name} is not UTF-8");
            let error =
                self.problems
                    .error("not-utf8", Span::new(index, at..at + replacement), message);
            error.label("TOML files are UTF-8");
            return None;
        }
        Some(index)
    }

    fn parse(&mut self, file: u32) -> Node {
        let text = self.sources.files[file as usize].text.clone();
        let (document, mistakes) = DeTable::parse_recoverable(&text);
        for mistake in mistakes {
            self.broken = true;
            let span = mistake.span().unwrap_or(0..0);
            // The parser's word for 'single quotes', where "double" ones do as well.
            let message = mistake.message();
            let message = message
                .strip_suffix(", expected literal string")
                .unwrap_or(message);
            let error = self
                .problems
                .error("syntax", Span::new(file, span.clone()), message);
            if let Some(help) = syntax_help(&text, span.start) {
                error.help(help);
            }
        }
        let problems = &mut self.problems;
        let table = from_toml(document.get_ref(), file, &mut |span| {
            problems.error("out-of-range", span, "this number does not fit in 64 bits");
        });
        Node {
            value: Value::Table(table),
            span: Span::new(file, 0..0),
            via: Via::Written,
            masked: None,
            variables: Vec::new(),
        }
    }

    /// The files that `include` of `table` names, each with its pattern's place.
    fn included(&mut self, path: &Path, table: &Table) -> Vec<(Span, PathBuf)> {
        let base = path.parent().unwrap_or(Path::new(""));
        let mut found = Vec::new();
        for node in table.get("include").map_or(&[][..], Node::as_list) {
            let Some(text) = node.as_text() else {
                continue;
            };
            let pattern = base.join(text);
            let matched = glob::expand(&pattern);
            // A name without wildcards that is not there is a slip; a pattern may match nothing.
            if matched.is_empty() && !glob::is_pattern(Path::new(text)) {
                let message = format!("cannot read {}: no such file or directory", node.quoted());
                self.problems.error("unreadable-file", node.span, message);
                self.broken = true;
            }
            found.extend(matched.iter().map(|file| (node.span, file.clone())));
            self.sources.patterns.push(Pattern {
                path: pattern,
                matched,
                span: node.span,
            });
        }
        if self.sources.files.len() + found.len() > MOST_FILES {
            let span = table.get("include").map_or(Span::NONE, |node| node.span);
            let message = format!("more than {MOST_FILES} files are included");
            self.problems.error("include-cycle", span, message);
            found.clear();
        }
        found
    }
}

/// What the parser cannot know: how addresses and units are meant.
fn syntax_help(text: &str, at: usize) -> Option<&'static str> {
    let at = (0..=at.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))?;
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[start..].lines().next()?.trim();
    let (key, value) = line.split_once('=').unwrap_or((line, ""));
    if key.contains(':') && !key.starts_with(['"', '\'', '[']) {
        return Some("an address as a key stands in quotes: \"10.0.0.1:9000\" = 1");
    }
    let value = value.trim();
    if value.is_empty() && line.ends_with('=') {
        return Some("the value behind `=` is missing");
    }
    let number = value.starts_with(|c: char| c.is_ascii_digit());
    if number && value.ends_with(|c: char| c.is_ascii_alphabetic() || c == '%') {
        return Some("durations, sizes and shares stand in quotes: \"5s\", \"64KiB\", \"20%\"");
    }
    if line.ends_with(';') {
        return Some("TOML has no `;` at the end of a line");
    }
    None
}

/// Adds `other` to `table`.
fn merge(table: &mut Table, other: Table, problems: &mut Problems) {
    for entry in other.entries {
        let Some(own) = table.entries.iter_mut().find(|own| own.key == entry.key) else {
            table.entries.push(entry);
            continue;
        };
        match (&mut own.node.value, entry.node.value) {
            // Each file's patterns have been followed already.
            (Value::List(own), Value::List(other))
                if ["listener", "route", "include"].contains(&entry.key.as_str()) =>
            {
                own.extend(other);
            }
            (Value::Table(own), Value::Table(other)) => match entry.key.as_str() {
                "upstream" => merge_upstreams(own, other, problems),
                _ => merge(own, other, problems),
            },
            _ => {
                let message = format!("{} is given in two files", quote(&entry.key));
                let error = problems.error("duplicate-key", entry.key_span, message);
                error
                    .label("given again")
                    .related(own.key_span, "given here first");
            }
        }
    }
}

/// Half an upstream in each of two files would be one that nobody can read.
fn merge_upstreams(own: &mut Table, other: Table, problems: &mut Problems) {
    for entry in other.entries {
        match own.entry(&entry.key) {
            Some(first) => {
                let message = format!("the upstream {} is defined in two files", quote(&entry.key));
                let error = problems.error("duplicate-upstream", entry.key_span, message);
                error
                    .label("defined again")
                    .related(first.key_span, "defined here first");
            }
            None => own.entries.push(entry),
        }
    }
}
