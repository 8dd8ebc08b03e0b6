//! Mistakes and warnings with their place, rendered the way rustc does.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};
use serde_json::{Value as Json, json};

use crate::config::sources::Sources;
use crate::config::tree::Span;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

/// One mistake: what, where, why, and what to do about it.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    pub severity: Severity,
    /// Stable, kebab-case: `unknown-key`.
    pub code: &'static str,
    pub message: String,
    /// What stands under the caret: the cause.
    pub label: String,
    pub help: Vec<String>,
    pub(super) span: Span,
    /// Other places that belong to it.
    pub(super) related: Vec<(Span, String)>,
}

impl Diagnostic {
    pub fn label(&mut self, text: impl Into<String>) -> &mut Self {
        self.label = text.into();
        self
    }

    pub fn help(&mut self, text: impl Into<String>) -> &mut Self {
        self.help.push(text.into());
        self
    }

    pub(super) fn related(&mut self, span: Span, text: impl Into<String>) -> &mut Self {
        self.related.push((span, text.into()));
        self
    }
}

/// Where the checker collects what it finds.
#[derive(Debug, Default)]
pub(super) struct Problems {
    list: Vec<Diagnostic>,
}

impl Problems {
    pub fn error(
        &mut self,
        code: &'static str,
        span: Span,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.add(Severity::Error, code, span, message.into())
    }

    pub fn warning(
        &mut self,
        code: &'static str,
        span: Span,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.add(Severity::Warning, code, span, message.into())
    }

    fn add(
        &mut self,
        severity: Severity,
        code: &'static str,
        span: Span,
        message: String,
    ) -> &mut Diagnostic {
        let new = Diagnostic {
            severity,
            code,
            message,
            label: String::new(),
            help: Vec::new(),
            span,
            related: Vec::new(),
        };
        self.list.push(new);
        let last = self.list.len() - 1;
        &mut self.list[last]
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&Diagnostic) -> bool) {
        self.list.retain(|found| keep(found));
    }

    pub fn append(&mut self, mut other: Problems) {
        self.list.append(&mut other.list);
    }

    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    pub fn has_errors(&self) -> bool {
        self.list
            .iter()
            .any(|found| found.severity == Severity::Error)
    }

    /// Sorted by place; what is said twice of one place (a default that two upstreams use) once.
    pub fn finish(mut self, sources: Sources) -> Diagnostics {
        self.list
            .sort_by_key(|found| (found.span.file, found.span.start, found.severity));
        self.list
            .dedup_by(|a, b| a.span == b.span && a.message == b.message);
        Diagnostics {
            list: self.list,
            sources: Box::new(sources),
        }
    }
}

/// All mistakes and warnings of one load, in the order of the files.
#[derive(Debug, Clone, Default)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
    /// Boxed: it is part of errors.
    sources: Box<Sources>,
}

/// More than this tells nobody anything.
const MOST_RENDERED: usize = 100;

impl Diagnostics {
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Errors and warnings.
    pub fn counts(&self) -> (usize, usize) {
        let errors = self
            .list
            .iter()
            .filter(|found| found.severity == Severity::Error)
            .count();
        (errors, self.list.len() - errors)
    }

    /// "3 errors, 1 warning".
    pub fn count_line(&self) -> String {
        let (errors, warnings) = self.counts();
        match (errors, warnings) {
            (0, warnings) => plural(warnings, "warning"),
            (errors, 0) => plural(errors, "error"),
            (errors, warnings) => {
                format!(
                    "{}, {}",
                    plural(errors, "error"),
                    plural(warnings, "warning")
                )
            }
        }
    }

    /// rustc style, for people; ends with a line that counts.
    pub fn render_human(&self, color: bool) -> String {
        let renderer = if color {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let mut out = String::new();
        for found in self.list.iter().take(MOST_RENDERED) {
            out.push_str(&renderer.render(&[self.group(found)]));
            out.push_str("\n\n");
        }
        if self.list.len() > MOST_RENDERED {
            out.push_str(&format!(
                "... and {} more\n\n",
                self.list.len() - MOST_RENDERED
            ));
        }
        out.push_str(&self.count_line());
        out.push('\n');
        out
    }

    fn group<'a>(&'a self, found: &'a Diagnostic) -> Group<'a> {
        let level = match found.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = level
            .primary_title(&found.message)
            .id(found.code)
            .elements(self.snippet(found.span.file, found));
        for (index, (span, _)) in found.related.iter().enumerate() {
            let shown = span.file == found.span.file
                || found.related[..index]
                    .iter()
                    .any(|(earlier, _)| earlier.file == span.file);
            if !shown {
                group = group.elements(self.snippet(span.file, found));
            }
        }
        for help in &found.help {
            group = group.element(Level::HELP.message(help));
        }
        group
    }

    /// The lines of one file that a mistake is about.
    fn snippet<'a>(
        &'a self,
        file: u32,
        found: &'a Diagnostic,
    ) -> Option<Snippet<'a, Annotation<'a>>> {
        let source = self.sources.file(file)?;
        let related = found.related.iter().filter(|(span, _)| span.file == file);
        let primary = (found.span.file == file).then_some(found.span);
        let spans = primary.iter().chain(related.clone().map(|(span, _)| span));
        let (window, line) = source.window(spans)?;
        let place = |span: Span| source.clamp(span, &window);
        let mut snippet = Snippet::source(&source.text[window.clone()])
            .path(source.name())
            .line_start(line)
            .fold(true);
        if let Some(span) = primary {
            let caret = AnnotationKind::Primary.span(place(span));
            snippet = snippet.annotation(match found.label.as_str() {
                "" => caret,
                label => caret.label(label),
            });
        }
        Some(snippet.annotations(related.map(|(span, text)| {
            AnnotationKind::Context
                .span(place(*span))
                .label(text.as_str())
        })))
    }

    /// An array with one object per mistake: file, line, column, severity, code, message, cause
    /// and help.
    pub fn to_json(&self) -> Json {
        Json::Array(self.list.iter().map(|found| self.object(found)).collect())
    }

    fn object(&self, found: &Diagnostic) -> Json {
        let (file, line, column) = self.place(found.span);
        let related = found.related.iter().map(|(span, text)| {
            let (file, line, column) = self.place(*span);
            json!({ "file": file, "line": line, "column": column, "message": text })
        });
        json!({
            "file": file,
            "line": line,
            "column": column,
            "severity": found.severity.as_str(),
            "code": found.code,
            "message": found.message,
            "cause": found.label,
            "help": found.help.join("; "),
            "related": related.collect::<Vec<_>>(),
        })
    }

    /// One line per mistake, for a log: its place, what is wrong, what to do about it.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.list.iter().map(|found| {
            let (file, line, column) = self.place(found.span);
            let help = found.help.iter().map(|help| format!("; {help}"));
            let help: String = help.collect();
            let text = format!("{file}:{line}:{column}: {}{help}", found.message);
            // Some help shows a few lines of a file.
            text.lines().collect::<Vec<_>>().join(" ")
        })
    }

    /// File, line and column (in characters), from 1; of a file as a whole 1 and 1.
    pub fn places(&self) -> impl Iterator<Item = (&Diagnostic, usize, usize)> {
        self.list.iter().map(|found| {
            let (_, line, column) = self.place(found.span);
            (found, line, column)
        })
    }

    fn place(&self, span: Span) -> (String, usize, usize) {
        match self.sources.file(span.file) {
            Some(source) => {
                let (line, column) = source.line_and_column(span.start);
                (source.name(), line, column)
            }
            None => (self.sources.main_name(), 1, 1),
        }
    }

    /// One line for a log: the first mistake with its place, and how many more.
    pub fn summary(&self) -> String {
        let Some(first) = self.list.iter().min_by_key(|found| found.severity) else {
            return "nothing wrong".to_owned();
        };
        let (file, line, column) = self.place(first.span);
        let more = match self.list.len() {
            1 => String::new(),
            _ => format!(" ({} in all)", self.count_line()),
        };
        format!("{file}:{line}:{column}: {}{more}", first.message)
    }

    /// What was read, also when it is wrong: a watcher goes on watching it.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }
}

/// "1 error", "2 errors".
pub(crate) fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// `outer` moved so that it starts at 0 of `window`, on character boundaries.
pub(super) fn within(text: &str, outer: Range<usize>, window: &Range<usize>) -> Range<usize> {
    let boundary = |mut at: usize| {
        at = at.clamp(window.start, window.end);
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at - window.start
    };
    boundary(outer.start)..boundary(outer.end.max(outer.start))
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary())
    }
}

impl std::error::Error for Diagnostics {}
