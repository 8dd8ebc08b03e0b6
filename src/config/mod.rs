//! Text -> spanned tree -> checked model; every mistake collected.
//!
//! The way of a file: [`include`] reads and merges, [`environment`] replaces variables, [`check`]
//! compares with the tables of [`keys`], [`effective`] adds what `[defaults]` and built-in
//! defaults give, [`build`] resolves names and makes the model. A mistake stops none of these, so
//! that one run shows all; only a file that does not parse is not asked what it lacks.

pub mod admin;
mod build;
mod check;
pub mod diagnostics;
pub mod diff;
mod effective;
mod environment;
mod glob;
mod include;
mod keys;
pub mod model;
mod overlap;
mod reader;
pub mod routes;
mod schema;
mod show;
pub mod sources;
mod suggest;
mod tree;
mod values;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use self::diagnostics::Problems;
use self::include::Reading;
use self::tree::{Span, Table, quote};
use crate::tls::Certificate;

pub use self::diagnostics::{Diagnostic, Diagnostics, Severity};
pub use self::diff::{Diff, diff};
pub use self::model::Config;
pub use self::schema::schema;
pub use self::show::show;
pub use self::sources::Sources;

/// One accepted file (with what it includes), and what is worth saying about it.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    /// Never errors: these would have refused the file.
    pub warnings: Diagnostics,
    pub sources: Sources,
    /// Each with its file and the place that names it.
    certificates: Vec<(Arc<Certificate>, String, Span)>,
    /// As written, after includes.
    merged: Arc<Table>,
    /// With all defaults.
    effective: Arc<Table>,
}

impl Loaded {
    /// Refuses a file of which an include pattern matched in `previous` and matches nothing now:
    /// that is how a directory looks that is caught half-written.
    pub fn keeps_includes_of(&self, previous: &Sources) -> Result<(), Diagnostics> {
        let mut problems = Problems::default();
        for pattern in self.sources.emptied_since(previous) {
            let message = "this pattern matched files before and matches none now";
            let error = problems.error("include-emptied", pattern.span, message);
            error.label("the running configuration stays");
            error.help("remove the pattern if its files are gone for good");
        }
        self.unless(problems)
    }

    /// Refuses a certificate that is over, or has not begun, in the place of one that is valid now:
    /// whoever renewed it did not mean that. One that ran out in use stops nothing.
    pub fn keeps_certificates_of(&self, previous: &Loaded, now: i64) -> Result<(), Diagnostics> {
        let mut problems = Problems::default();
        for (certificate, name, span) in &self.certificates {
            let was = previous
                .certificates
                .iter()
                .find(|(_, before, _)| before == name);
            let Some((before, ..)) = was.filter(|(before, ..)| before.is_valid_at(now)) else {
                continue;
            };
            if !certificate.is_valid_at(now) {
                let message = format!("the new certificate in {} is not valid now", quote(name));
                let error = problems.error("certificate-time", *span, message);
                error.label(format!(
                    "valid from {} until {}",
                    date(certificate.not_before),
                    date(certificate.not_after)
                ));
                let until = date(before.not_after);
                error.help(format!("the one in use stays; it is valid until {until}"));
            }
        }
        self.unless(problems)
    }

    fn unless(&self, problems: Problems) -> Result<(), Diagnostics> {
        match problems.has_errors() {
            true => Err(problems.finish(self.sources.clone())),
            false => Ok(()),
        }
    }
}

/// A certificate's time, as people read it.
fn date(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

/// Reads, checks and compiles the file at `path` and everything that it includes.
///
/// `env` answers for `${NAME}` in string values. Never panics and never blocks on something that
/// is not a regular file, whatever stands in it.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Diagnostics> {
    let mut reading = Reading::new(env);
    let merged = reading.read(path, Span::NONE);
    let Reading {
        mut sources,
        mut problems,
        broken,
        ..
    } = reading;
    if broken {
        check_around_syntax(&merged, &mut problems, &sources);
        return Err(problems.finish(sources));
    }
    check::check(&merged, &keys::ROOT, &mut problems);
    let effective = effective::effective(&merged);
    let built = build::build(&effective, &mut problems, &mut sources);
    let failed = problems.has_errors();
    let diagnostics = problems.finish(sources.clone());
    if failed {
        return Err(diagnostics);
    }
    Ok(Loaded {
        config: built.config,
        warnings: diagnostics,
        sources,
        certificates: built.certificates,
        merged: Arc::new(merged),
        effective: Arc::new(effective),
    })
}

/// Of a file that does not parse, what stands there can still be wrong for reasons of its own;
/// what shares a line with a syntax error mostly follows from it.
fn check_around_syntax(merged: &Table, problems: &mut Problems, sources: &Sources) {
    let line = |span: Span| {
        Some((
            span.file,
            sources.file(span.file)?.line_and_column(span.start).0,
        ))
    };
    let broken: BTreeSet<_> = problems
        .iter()
        .filter_map(|found| line(found.span))
        .collect();
    // After a broken header, keys stand in the wrong table; a broken `key = value` ends with its
    // line, but for brackets and quotes that may go on.
    let contained = |(file, at): (u32, usize)| {
        let text = sources.file(file).map_or("", |file| file.line_text(at));
        text.split_once('=').is_some_and(|(key, value)| {
            !key.trim_start().starts_with('[')
                && !value.contains(['[', '{'])
                && !value.contains("\"\"\"")
                && !value.contains("'''")
        })
    };
    let misleading: BTreeSet<_> = broken
        .iter()
        .copied()
        .filter(|place| !contained(*place))
        .collect();
    let astray = |found: &Diagnostic| {
        found.code == "unknown-key"
            && line(found.span)
                .is_some_and(|(file, at)| misleading.range((file, 0)..(file, at)).next().is_some())
    };
    let mut others = Problems::default();
    check::check(merged, &keys::ROOT, &mut others);
    others.retain(|found| {
        !astray(found) && line(found.span).is_none_or(|line| !broken.contains(&line))
    });
    problems.append(others);
}
