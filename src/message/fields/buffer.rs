//! The bytes of one head and the records of its lines.

use crate::message::fields::trim;
use crate::message::known::{OTHER, REMOVED};
use crate::message::{Known, KnownSet};
use crate::util::scan::from_control;

/// One field line: `name ":" OWS value OWS CRLF` at `start..end` of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) name_length: u16,
    /// Of [`Known`], [`OTHER`] or [`REMOVED`].
    pub(super) known: u8,
}

impl Line {
    fn name(self, bytes: &[u8]) -> &[u8] {
        let start = self.start as usize;
        &bytes[start..start + self.name_length as usize]
    }
}

/// What a [`super::Fields`] points to.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    pub(super) bytes: Vec<u8>,
    pub(super) lines: Vec<Line>,
    /// The names that lines have which are not removed.
    pub(super) present: KnownSet,
    /// Somewhere behind the start line are bytes of no line, or of a removed one.
    pub(super) gaps: bool,
}

impl Buffer {
    pub(super) const EMPTY: Buffer = Buffer {
        bytes: Vec::new(),
        lines: Vec::new(),
        present: KnownSet::EMPTY,
        gaps: false,
    };

    // For the parser

    /// Notes a line at `start..end` of the head that [`super::Fields::receive`] takes over.
    #[inline]
    pub(crate) fn note(
        &mut self,
        start: usize,
        end: usize,
        name_length: u16,
        known: Option<Known>,
    ) {
        let known = known.map_or(OTHER, |known| known as u8);
        self.push(start, end, name_length, known);
        self.present = self.present.union(KnownSet::of_index(known));
    }

    /// Notes a line that does not count.
    pub(crate) fn note_removed(&mut self, start: usize, end: usize, name_length: u16) {
        self.push(start, end, name_length, REMOVED);
        self.gaps = true;
    }

    /// Lines noted, removed ones included.
    pub(crate) fn noted(&self) -> usize {
        self.lines.len()
    }

    #[inline]
    fn push(&mut self, start: usize, end: usize, name_length: u16, known: u8) {
        self.lines.push(Line {
            start: start as u32,
            end: end as u32,
            name_length,
            known,
        });
    }

    // For `Fields`

    /// Appends a line with a known name.
    #[inline(always)]
    pub(super) fn append(&mut self, name: Known, value: &[&[u8]]) {
        let (start, name_length) = self.begin_line(name);
        self.end_line(start, name_length, Some(name), value);
    }

    /// Appends a line with the first value of another name.
    pub(super) fn append_copy(&mut self, name: Known, from: Known) {
        let Some(line) = self.lines.iter().find(|line| line.known == from as u8) else {
            return;
        };
        let value = self.value(line);
        let place = value.as_ptr().addr() - self.bytes.as_ptr().addr();
        let value = place..place + value.len();
        let (start, name_length) = self.begin_line(name);
        // It is a value here already, so nothing in it can begin another line.
        self.bytes.extend_from_within(value);
        self.bytes.extend_from_slice(b"\r\n");
        self.note(start, self.bytes.len(), name_length as u16, Some(name));
    }

    /// Appends the name with colon and space; where the line begins, and the name's length.
    #[inline(always)]
    fn begin_line(&mut self, name: Known) -> (usize, usize) {
        let start = self.bytes.len();
        let (line_start, length) = name.line_start();
        self.bytes.extend_from_slice(line_start);
        self.bytes.truncate(start + length);
        (start, length - 2)
    }

    /// Appends a line whose name is a token; `known` is its id.
    pub(super) fn append_text(&mut self, name: &str, known: Option<Known>, value: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(b": ");
        debug_assert!(name.len() <= u16::MAX as usize, "names of ours are short");
        self.end_line(start, name.len(), known, &[value]);
    }

    #[inline(always)]
    fn end_line(&mut self, start: usize, name: usize, known: Option<Known>, value: &[&[u8]]) {
        let value_start = self.bytes.len();
        for piece in value {
            self.bytes.extend_from_slice(piece);
        }
        let controls = from_control(&self.bytes, &self.bytes[value_start..]).len();
        if controls > 0 {
            let from = self.bytes.len() - controls;
            blank(&mut self.bytes[from..]);
        }
        self.bytes.extend_from_slice(b"\r\n");
        self.note(start, self.bytes.len(), name as u16, known);
    }

    /// The start line, which ends at `start_line`, and all lines but those of `skip`, each with
    /// its CRLF, in runs.
    pub(super) fn write(&self, start_line: u32, out: &mut Vec<u8>, skip: KnownSet) {
        let (mut from, mut to) = (0, start_line);
        if !self.gaps && !skip.intersects(self.present) {
            if start_line == 0 {
                from = self.lines.first().map_or(self.end(), |line| line.start);
            }
            to = self.end();
        } else {
            let skip = skip.with_index(REMOVED);
            for line in &self.lines {
                if skip.contains_index(line.known) {
                    continue;
                }
                if line.start != to {
                    if to > from {
                        out.extend_from_slice(self.slice((from, to)));
                    }
                    from = line.start;
                }
                to = line.end;
            }
        }
        out.extend_from_slice(self.slice((from, to)));
    }

    fn end(&self) -> u32 {
        self.bytes.len() as u32
    }

    /// Appends bytes that are no field line.
    pub(super) fn store(&mut self, bytes: &[u8]) -> (u32, u32) {
        let start = self.end();
        self.bytes.extend_from_slice(bytes);
        self.gaps = true;
        (start, self.end())
    }

    /// Removes all lines of these names.
    pub(super) fn remove(&mut self, names: KnownSet) {
        for line in &mut self.lines {
            if names.contains_index(line.known) {
                line.known = REMOVED;
            }
        }
        self.present = self.present.minus(names);
        self.gaps = true;
    }

    /// Removes all lines of a name without an id; true if there was one.
    pub(super) fn remove_text(&mut self, name: &[u8]) -> bool {
        let mut found = false;
        for line in &mut self.lines {
            if line.known == OTHER && line.name(&self.bytes).eq_ignore_ascii_case(name) {
                line.known = REMOVED;
                found = true;
            }
        }
        self.gaps |= found;
        found
    }

    /// Removes all lines but those that `keep` allows.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(Option<Known>, &[u8]) -> bool) {
        let mut kept = KnownSet::EMPTY;
        for line in self.lines.iter_mut().filter(|line| line.known != REMOVED) {
            if keep(Known::from_index(line.known), line.name(&self.bytes)) {
                kept = kept.union(KnownSet::of_index(line.known));
            } else {
                line.known = REMOVED;
                self.gaps = true;
            }
        }
        self.present = kept;
    }

    pub(super) fn slice(&self, range: (u32, u32)) -> &[u8] {
        &self.bytes[range.0 as usize..range.1 as usize]
    }

    /// The lines that are not removed.
    pub(super) fn live(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| line.known != REMOVED)
    }

    pub(super) fn name(&self, line: &Line) -> &[u8] {
        line.name(&self.bytes)
    }

    pub(super) fn value(&self, line: &Line) -> &[u8] {
        let from = line.start as usize + line.name_length as usize + 1;
        trim(&self.bytes[from..line.end as usize - 2])
    }
}

/// What could end a line becomes a space.
#[cold]
fn blank(value: &mut [u8]) {
    for byte in value {
        if matches!(byte, b'\r' | b'\n' | 0) {
            *byte = b' ';
        }
    }
}
