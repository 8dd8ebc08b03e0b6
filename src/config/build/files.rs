//! Files that values name: certificates and their keys.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::build::Building;
use crate::config::date;
use crate::config::reader::Reader;
use crate::config::tree::{Span, quote};
use crate::tls::{Certificate, FileError};

/// A file as a key names it.
pub(super) struct NamedFile<'a> {
    pub name: &'a str,
    /// Of the value.
    pub span: Span,
    pub bytes: Vec<u8>,
}

impl Building<'_> {
    /// The file that `key` names, relative to the file where it stands; `None` where it cannot be
    /// read (said already) or none is named.
    pub(super) fn named_file<'a>(
        &mut self,
        reader: Reader<'a>,
        key: &str,
    ) -> Option<NamedFile<'a>> {
        let name = reader.text(key);
        if name.is_empty() {
            return None;
        }
        let span = reader.span_of(key);
        match self.sources.read_named(name, span) {
            Ok(bytes) => Some(NamedFile { name, span, bytes }),
            Err(cause) => {
                let message = format!("cannot read {}: {cause}", quote(name));
                let error = self.problems.error("unreadable-file", span, message);
                error.label(format!("named by `{key}`"));
                None
            }
        }
    }

    /// Says what is wrong with a file, at the key that names it.
    pub(super) fn bad_file(&mut self, file: &NamedFile<'_>, found: &FileError) {
        let message = format!("{}: {}", quote(file.name), found.message);
        let error = self.problems.error("bad-certificate", file.span, message);
        if let Some(help) = found.help {
            error.help(help);
        }
    }

    pub(super) fn mismatched_files(
        &mut self,
        cert: &NamedFile<'_>,
        key: &NamedFile<'_>,
        help: Option<&str>,
    ) {
        let message = format!(
            "the key in {} does not belong to the certificate in {}",
            quote(key.name),
            quote(cert.name)
        );
        let error = self.problems.error("bad-certificate", key.span, message);
        error
            .label("another one's key")
            .related(cert.span, "the certificate");
        if let Some(help) = help {
            error.help(help);
        }
    }

    /// A certificate whose time is over or has not begun is in use nevertheless: refusing the file
    /// for it would refuse every other change, too. `judges` are those who see it.
    pub(super) fn judge_time(
        &mut self,
        certificate: &Certificate,
        cert: &NamedFile<'_>,
        judges: &str,
    ) {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = since_epoch.map_or(0, |since| since.as_secs() as i64);
        let (words, at) = if certificate.not_after < now {
            ("has expired", certificate.not_after)
        } else if certificate.not_before > now {
            ("is not valid yet", certificate.not_before)
        } else {
            return;
        };
        let message = format!("the certificate in {} {words}", quote(cert.name));
        let when = date(at);
        let warning = self
            .problems
            .warning("certificate-time", cert.span, message);
        warning.label(match words {
            "has expired" => format!("valid until {when}: {judges} refuse it"),
            _ => format!("valid from {when}: {judges} refuse it until then"),
        });
    }
}
