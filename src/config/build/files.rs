//! Files that values name: certificates and their keys.

use crate::config::build::Building;
use crate::config::reader::Reader;
use crate::config::tree::{Span, quote};
use crate::tls::FileError;

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
}
