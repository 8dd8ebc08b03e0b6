//! Header fields as received bytes with positions; edits are marks and an overlay.
//!
//! A head is one buffer: the received bytes, then whatever was added since, each addition
//! written as a whole line. A field is a 12-byte record of positions with the id of its name.
//! Removing marks the record, setting marks and appends, and writing a head out copies runs of
//! neighbouring lines. Nothing is parsed, hashed or copied twice, names keep their spelling, and
//! the buffers come from and go back to a small pool of the thread.

mod block;

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

pub use crate::message::fields::block::Block;
use crate::message::{Known, KnownSet};

/// One field line: `name ":" OWS value OWS CRLF` at `start..end` of the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line {
    start: u32,
    end: u32,
    name_length: u16,
    /// Of [`Known`], or [`OTHER`].
    known: u8,
    removed: bool,
}

const OTHER: u8 = u8::MAX;

impl Line {
    pub(crate) fn new(start: usize, end: usize, name_length: u16, known: Option<Known>) -> Self {
        Line {
            start: start as u32,
            end: end as u32,
            name_length,
            known: known.map_or(OTHER, |known| known as u8),
            removed: false,
        }
    }

    fn is(self, name: Known) -> bool {
        self.known == name as u8 && !self.removed
    }
}

/// The fields of one head or trailer section.
pub struct Fields {
    bytes: Vec<u8>,
    lines: Vec<Line>,
    present: KnownSet,
}

impl Fields {
    /// No fields: for an answer of our own.
    pub fn new() -> Self {
        let (bytes, lines) = POOL.with_borrow_mut(Vec::pop).unwrap_or_default();
        Fields {
            bytes,
            lines,
            present: KnownSet::EMPTY,
        }
    }

    // Reading

    /// The first value of a name.
    pub fn get(&self, name: Known) -> Option<&[u8]> {
        self.values(name).next()
    }

    /// The first value of a name given in lower case.
    pub fn get_text(&self, lower: &str) -> Option<&[u8]> {
        self.values_text(lower).next()
    }

    /// Every value of a name in order.
    pub fn values(&self, name: Known) -> impl Iterator<Item = &[u8]> {
        let lines: &[Line] = if self.contains(name) {
            &self.lines
        } else {
            &[]
        };
        lines
            .iter()
            .filter(move |line| line.is(name))
            .map(|line| self.value(line))
    }

    /// Every value of a name given in lower case.
    pub fn values_text(&self, lower: &str) -> impl Iterator<Item = &[u8]> {
        let known = Known::find(lower.as_bytes()).map_or(OTHER, |known| known as u8);
        self.live()
            .filter(move |line| {
                line.known == known
                    && (known != OTHER || self.name(line).eq_ignore_ascii_case(lower.as_bytes()))
            })
            .map(|line| self.value(line))
    }

    /// How many lines have this name.
    pub fn count(&self, name: Known) -> usize {
        self.values(name).count()
    }

    pub fn contains(&self, name: Known) -> bool {
        self.present.contains(name)
    }

    /// Whether any of these names is there; one test for the common case that none is.
    pub fn contains_any(&self, names: KnownSet) -> bool {
        self.present.intersects(names)
    }

    /// Names as received, and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.live().map(|line| (self.name(line), self.value(line)))
    }

    /// The same with the id where the name has one.
    pub fn iter_known(&self) -> impl Iterator<Item = (Option<Known>, &[u8], &[u8])> {
        self.live().map(|line| {
            let known = (line.known != OTHER).then(|| Known::from_index(line.known));
            (known, self.name(line), self.value(line))
        })
    }

    /// The number of field lines.
    pub fn len(&self) -> usize {
        self.live().count()
    }

    pub fn is_empty(&self) -> bool {
        self.live().next().is_none()
    }

    // Editing

    /// Replaces every line of this name by one.
    pub fn set(&mut self, name: Known, value: &[u8]) {
        self.remove(name);
        self.append(name, value);
    }

    /// Replaces every line of this name, given in any case and written as given.
    pub fn set_text(&mut self, name: &str, value: &[u8]) {
        self.remove_text(name);
        self.append_text(name, value);
    }

    /// Adds a line. CR, LF and NUL in a value become spaces: what is written here can never be
    /// read as another line (RFC 9110 section 5.5).
    pub fn append(&mut self, name: Known, value: &[u8]) {
        self.append_line(name.wire().as_bytes(), Some(name), &[value]);
    }

    /// As [`Fields::append`]; `name` must be a token, which the configuration's checker and the
    /// parser make sure of.
    pub fn append_text(&mut self, name: &str, value: &[u8]) {
        self.append_line(name.as_bytes(), Known::find(name.as_bytes()), &[value]);
    }

    /// As [`Fields::append`] with the value in several pieces.
    pub fn append_pieces(&mut self, name: Known, pieces: &[&[u8]]) {
        self.append_line(name.wire().as_bytes(), Some(name), pieces);
    }

    /// Adds a line with the first value of another name; nothing where that is not there.
    pub fn append_copy(&mut self, name: Known, from: Known) {
        let Some(value) = self.place_of(from) else {
            return;
        };
        let (start, wire) = (self.bytes.len(), name.wire());
        self.bytes.extend_from_slice(wire.as_bytes());
        self.bytes.extend_from_slice(b": ");
        // It is a value here already, so nothing in it can begin another line.
        self.bytes.extend_from_within(value);
        self.bytes.extend_from_slice(b"\r\n");
        let line = Line::new(start, self.bytes.len(), wire.len() as u16, Some(name));
        self.lines.push(line);
        self.present = self.present.with(name);
    }

    /// Replaces every line of this name by one with the value in several pieces.
    pub fn set_pieces(&mut self, name: Known, pieces: &[&[u8]]) {
        self.remove(name);
        self.append_pieces(name, pieces);
    }

    pub fn remove(&mut self, name: Known) {
        if !self.contains(name) {
            return;
        }
        for line in &mut self.lines {
            line.removed |= line.known == name as u8;
        }
        self.present = self.present.without(name);
    }

    /// Removes every line of these names.
    pub fn remove_any(&mut self, names: KnownSet) {
        if !self.contains_any(names) {
            return;
        }
        for line in &mut self.lines {
            line.removed |= line.known != OTHER && names.contains(Known::from_index(line.known));
        }
        self.present = self.present.minus(names);
    }

    /// Removes every line of a name given in any case; true if there was one.
    pub fn remove_text(&mut self, name: &str) -> bool {
        self.remove_bytes(name.as_bytes())
    }

    /// As [`Fields::remove_text`] for a name that comes from a message (`Connection: a, b`).
    pub fn remove_bytes(&mut self, name: &[u8]) -> bool {
        if let Some(known) = Known::find(name) {
            let was = self.contains(known);
            self.remove(known);
            return was;
        }
        let mut found = false;
        let bytes = &self.bytes;
        for line in &mut self.lines {
            if line.known != OTHER || line.removed || line.name_length as usize != name.len() {
                continue;
            }
            let start = line.start as usize;
            if bytes[start..start + name.len()].eq_ignore_ascii_case(name) {
                line.removed = true;
                found = true;
            }
        }
        found
    }

    /// Keeps only the lines that `keep` allows.
    pub fn retain(&mut self, mut keep: impl FnMut(Option<Known>, &[u8]) -> bool) {
        let mut present = KnownSet::EMPTY;
        for line in self.lines.iter_mut().filter(|line| !line.removed) {
            let known = (line.known != OTHER).then(|| Known::from_index(line.known));
            let start = line.start as usize;
            line.removed = !keep(known, &self.bytes[start..start + line.name_length as usize]);
            if let (Some(known), false) = (known, line.removed) {
                present = present.with(known);
            }
        }
        self.present = present;
    }

    // For the wire

    /// Takes over a received head; the lines' positions are relative to its first byte.
    pub(crate) fn receive(&mut self, head: &[u8]) {
        self.bytes.clear();
        self.bytes.extend_from_slice(head);
        self.present = self
            .lines
            .iter()
            .filter(|line| line.known != OTHER)
            .fold(KnownSet::EMPTY, |set, line| {
                set.with(Known::from_index(line.known))
            });
    }

    /// The parser's list; [`Fields::receive`] completes it.
    pub(crate) fn lines_mut(&mut self) -> &mut Vec<Line> {
        &mut self.lines
    }

    /// Every line but those of `skip`, each with its CRLF, in runs.
    pub(crate) fn write(&self, out: &mut Vec<u8>, skip: KnownSet) {
        let (mut from, mut to) = (0, 0);
        for line in self.live() {
            if line.known != OTHER && skip.contains(Known::from_index(line.known)) {
                continue;
            }
            let (start, end) = (line.start as usize, line.end as usize);
            if start != to {
                out.extend_from_slice(&self.bytes[from..to]);
                from = start;
            }
            to = end;
        }
        out.extend_from_slice(&self.bytes[from..to]);
    }

    /// Bytes of the buffer that are no field line: start lines.
    pub(crate) fn slice(&self, range: (u32, u32)) -> &[u8] {
        &self.bytes[range.0 as usize..range.1 as usize]
    }

    /// Puts bytes into the buffer that are no field line.
    pub(crate) fn store(&mut self, bytes: &[u8]) -> (u32, u32) {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        (start, self.bytes.len() as u32)
    }

    fn append_line(&mut self, name: &[u8], known: Option<Known>, pieces: &[&[u8]]) {
        debug_assert!(name.len() <= u16::MAX as usize, "names of ours are short");
        let start = self.bytes.len();
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(b": ");
        let value = self.bytes.len();
        for piece in pieces {
            self.bytes.extend_from_slice(piece);
        }
        let control = find_control(&self.bytes, value);
        for byte in &mut self.bytes[control..] {
            if matches!(byte, b'\r' | b'\n' | 0) {
                *byte = b' ';
            }
        }
        self.bytes.extend_from_slice(b"\r\n");
        self.lines
            .push(Line::new(start, self.bytes.len(), name.len() as u16, known));
        if let Some(known) = known {
            self.present = self.present.with(known);
        }
    }

    fn live(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| !line.removed)
    }

    fn name(&self, line: &Line) -> &[u8] {
        let start = line.start as usize;
        &self.bytes[start..start + line.name_length as usize]
    }

    /// Where the first value of a name stands in the buffer.
    fn place_of(&self, name: Known) -> Option<Range<usize>> {
        let value = self.get(name)?;
        let start = value.as_ptr().addr() - self.bytes.as_ptr().addr();
        Some(start..start + value.len())
    }

    fn value(&self, line: &Line) -> &[u8] {
        let from = line.start as usize + line.name_length as usize + 1;
        trim(&self.bytes[from..line.end as usize - 2])
    }
}

/// Without optional white space around (RFC 9110 section 5.6.3).
pub fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Every byte of a word 1, and its high bit: for looking at eight bytes at a time.
pub(crate) const ONES: u64 = 0x0101_0101_0101_0101;
pub(crate) const HIGH: u64 = 0x8080_8080_8080_8080;

/// The first byte below 0x20 or equal to 0x7F from `from` on, eight bytes at a time.
pub(crate) fn find_control(bytes: &[u8], from: usize) -> usize {
    let mut position = from;
    let (chunks, rest) = bytes[from.min(bytes.len())..].as_chunks::<8>();
    for chunk in chunks {
        let word = u64::from_le_bytes(*chunk);
        // A byte below 0x20 borrows into its high bit, and so does 0x7F after the XOR. A borrow
        // only disturbs bytes above the first hit, so the lowest bit is exact.
        let below = word.wrapping_sub(ONES * 0x20) & !word;
        let delete = word ^ (ONES * 0x7f);
        let hits = (below | (delete.wrapping_sub(ONES) & !delete)) & HIGH;
        if hits != 0 {
            return position + hits.trailing_zeros() as usize / 8;
        }
        position += 8;
    }
    position
        + rest
            .iter()
            .position(|&byte| byte < 0x20 || byte == 0x7f)
            .unwrap_or(rest.len())
}

impl Default for Fields {
    fn default() -> Self {
        Fields::new()
    }
}

impl Clone for Fields {
    fn clone(&self) -> Self {
        let mut fields = Fields::new();
        fields.bytes.extend_from_slice(&self.bytes);
        fields.lines.extend_from_slice(&self.lines);
        fields.present = self.present;
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

/// Buffers of heads that are done with, kept for the next ones of this thread.
const POOLED: usize = 64;
/// A larger buffer is given back to the allocator.
const POOLED_BYTES: usize = 16 * 1024;

thread_local! {
    static POOL: RefCell<Vec<(Vec<u8>, Vec<Line>)>> = const { RefCell::new(Vec::new()) };
}

impl Drop for Fields {
    fn drop(&mut self) {
        if self.bytes.capacity() == 0 || self.bytes.capacity() > POOLED_BYTES {
            return;
        }
        let (mut bytes, mut lines) = (
            std::mem::take(&mut self.bytes),
            std::mem::take(&mut self.lines),
        );
        bytes.clear();
        lines.clear();
        // A head that outlives its thread's pool is simply freed.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < POOLED {
                pool.push((bytes, lines));
            }
        });
    }
}

#[cfg(test)]
mod tests;
