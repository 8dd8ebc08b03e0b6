//! Header fields as received bytes with positions; edits are marks and an overlay.
//!
//! A head is one buffer: the received bytes, then whatever was added since, each addition
//! written as a whole line. A field is a 12-byte record of positions with the id of its name.
//! Removing marks the record, setting marks and appends, and writing a head out copies runs of
//! neighbouring lines. Nothing is parsed, hashed or copied twice, names keep their spelling, and
//! the buffers come from and go back to a small pool of the thread. What is handed around is one
//! pointer.

mod block;
mod buffer;
mod pool;

use std::{fmt, iter};

pub use crate::message::fields::block::Block;
pub(crate) use crate::message::fields::buffer::{Buffer, Noted};
use crate::message::known::OTHER;
use crate::message::{Known, KnownSet};

/// The fields of one head or trailer section.
#[derive(Default)]
pub struct Fields {
    /// `None` while nothing was added.
    buffer: Option<Box<Buffer>>,
}

impl Fields {
    /// No fields: for an answer of our own.
    pub fn new() -> Self {
        Fields::default()
    }

    fn buffer(&self) -> &Buffer {
        static EMPTY: Buffer = Buffer::EMPTY;
        self.buffer.as_deref().unwrap_or(&EMPTY)
    }

    /// For the parser to note lines in.
    #[inline]
    pub(crate) fn buffer_mut(&mut self) -> &mut Buffer {
        self.buffer.get_or_insert_with(pool::take)
    }

    // Reading

    /// The first value of a name.
    #[inline]
    pub fn get(&self, name: Known) -> Option<&[u8]> {
        self.values(name).next()
    }

    /// The first value of a name given in lower case.
    pub fn get_text(&self, lower: &str) -> Option<&[u8]> {
        self.values_text(lower).next()
    }

    /// Every value of a name in order.
    #[inline]
    pub fn values(&self, name: Known) -> impl Iterator<Item = &[u8]> {
        let buffer = self.buffer();
        let mut lines = if buffer.present.contains(name) {
            buffer.lines().iter()
        } else {
            Default::default()
        };
        iter::from_fn(move || {
            let line = lines.find(|line| line.known == name as u8)?;
            Some(buffer.value(line))
        })
    }

    /// Every value of a name given in lower case.
    pub fn values_text(&self, lower: &str) -> impl Iterator<Item = &[u8]> {
        let known = Known::find(lower.as_bytes()).map_or(OTHER, |known| known as u8);
        let buffer = self.buffer();
        let named = move |name: &[u8]| name.eq_ignore_ascii_case(lower.as_bytes());
        buffer
            .lines()
            .iter()
            .filter(move |line| line.known == known && (known != OTHER || named(buffer.name(line))))
            .map(|line| buffer.value(line))
    }

    /// How many lines have this name.
    pub fn count(&self, name: Known) -> usize {
        self.values(name).count()
    }

    pub fn contains(&self, name: Known) -> bool {
        self.buffer().present.contains(name)
    }

    /// Whether any of these names is there; one test for the common case that none is.
    pub fn contains_any(&self, names: KnownSet) -> bool {
        self.buffer().present.intersects(names)
    }

    /// Names as received, and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.iter_known().map(|(_, name, value)| (name, value))
    }

    /// The same with the id where the name has one.
    pub fn iter_known(&self) -> impl Iterator<Item = (Option<Known>, &[u8], &[u8])> {
        let buffer = self.buffer();
        buffer.live().map(|line| {
            let known = Known::from_index(line.known);
            (known, buffer.name(line), buffer.value(line))
        })
    }

    /// The number of field lines.
    pub fn len(&self) -> usize {
        self.buffer().live().count()
    }

    pub fn is_empty(&self) -> bool {
        self.buffer().live().next().is_none()
    }

    // Editing

    /// Replaces every line of this name by one.
    pub fn set(&mut self, name: Known, value: &[u8]) {
        self.remove(name);
        self.append(name, value);
    }

    /// Replaces every line of this name, given in any case and written as given.
    pub fn set_text(&mut self, name: &str, value: &[u8]) {
        let known = Known::find(name.as_bytes());
        self.remove_found(known, name.as_bytes());
        self.buffer_mut().append_text(name, known, value);
    }

    /// Adds a line. CR, LF and NUL in a value become spaces: what is written here can never be
    /// read as another line (RFC 9110 section 5.5).
    pub fn append(&mut self, name: Known, value: &[u8]) {
        self.buffer_mut().append(name, &[value]);
    }

    /// As [`Fields::append`]; `name` must be a token, which the configuration's checker and the
    /// parser make sure of.
    pub fn append_text(&mut self, name: &str, value: &[u8]) {
        let known = Known::find(name.as_bytes());
        self.buffer_mut().append_text(name, known, value);
    }

    /// As [`Fields::append`] with the value in several pieces.
    pub fn append_pieces(&mut self, name: Known, pieces: &[&[u8]]) {
        self.buffer_mut().append(name, pieces);
    }

    /// Adds a line with the first value of another name; nothing where that is not there.
    pub fn append_copy(&mut self, name: Known, from: Known) {
        if self.contains(from) {
            self.buffer_mut().append_copy(name, from);
        }
    }

    /// Replaces every line of this name by one with the value in several pieces.
    pub fn set_pieces(&mut self, name: Known, pieces: &[&[u8]]) {
        self.remove(name);
        self.append_pieces(name, pieces);
    }

    pub fn remove(&mut self, name: Known) {
        self.remove_any(KnownSet::of(&[name]));
    }

    /// Removes every line of these names.
    pub fn remove_any(&mut self, names: KnownSet) {
        if self.contains_any(names) {
            self.buffer_mut().remove(names);
        }
    }

    /// Removes every line of a name given in any case; true if there was one.
    pub fn remove_text(&mut self, name: &str) -> bool {
        self.remove_bytes(name.as_bytes())
    }

    /// As [`Fields::remove_text`] for a name that comes from a message (`Connection: a, b`).
    pub fn remove_bytes(&mut self, name: &[u8]) -> bool {
        self.remove_found(Known::find(name), name)
    }

    fn remove_found(&mut self, known: Option<Known>, name: &[u8]) -> bool {
        let Some(known) = known else {
            return self.buffer_mut().remove_text(name);
        };
        let was = self.contains(known);
        self.remove(known);
        was
    }

    /// Keeps only the lines that `keep` allows.
    pub fn retain(&mut self, keep: impl FnMut(Option<Known>, &[u8]) -> bool) {
        self.buffer_mut().retain(keep);
    }

    // For the wire

    /// Every line but those of `skip`, each with its CRLF, in runs.
    pub(crate) fn write(&self, out: &mut Vec<u8>, skip: KnownSet) {
        self.buffer().write(0, out, skip);
    }

    /// The same behind the first `length` bytes of the head: its start line as it was received.
    pub(crate) fn write_from_start(&self, length: u32, out: &mut Vec<u8>, skip: KnownSet) {
        self.buffer().write(length, out, skip);
    }

    /// Bytes of the buffer that are no field line: start lines.
    pub(crate) fn slice(&self, range: (u32, u32)) -> &[u8] {
        self.buffer().slice(range)
    }

    /// Puts bytes into the buffer that are no field line.
    pub(crate) fn store(&mut self, bytes: &[u8]) -> (u32, u32) {
        self.buffer_mut().store(bytes)
    }
}

/// Without optional white space around (RFC 9110 section 5.6.3).
#[inline]
pub fn trim(value: &[u8]) -> &[u8] {
    // Nearly always one space in front and none behind.
    let inner = value.strip_prefix(b" ").unwrap_or(value);
    match (inner.first(), inner.last()) {
        (Some(b'!'..), Some(b'!'..)) => inner,
        _ => trim_all(inner),
    }
}

#[cold]
fn trim_all(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

impl Clone for Fields {
    fn clone(&self) -> Self {
        let mut fields = Fields::new();
        if let Some(from) = &self.buffer {
            fields.buffer_mut().clone_from(from);
        }
        fields
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes| String::from_utf8_lossy(bytes);
        f.debug_map()
            .entries(self.iter().map(|(name, value)| (text(name), text(value))))
            .finish()
    }
}

impl Drop for Fields {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            pool::give_back(buffer);
        }
    }
}

#[cfg(test)]
mod tests;
