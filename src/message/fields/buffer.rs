//! The bytes of one head and the records of its lines.

use crate::message::fields::trim;
use crate::message::known::{OTHER, REMOVED};
use crate::message::{Known, KnownSet};
use crate::util::scan::from_control;

/// One field line: `name ":" OWS value OWS CRLF` at `start..end` of the bytes.
#[derive(Debug, Clone, Copy, Default)]
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
    /// Records in use come first; the others are kept for the next head.
    records: Vec<Line>,
    in_use: usize,
    /// The names that lines have which are not removed.
    pub(super) present: KnownSet,
    /// Somewhere behind the start line are bytes of no line, or of a removed one.
    gaps: bool,
}

/// A line of a received head: its place there, and its name's length and id.
pub(crate) struct Noted {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) name_length: u16,
    pub(crate) known: Option<Known>,
}

impl Noted {
    #[inline(always)]
    fn line(&self) -> Line {
        Line {
            start: self.start as u32,
            end: self.end as u32,
            name_length: self.name_length,
            known: self.known.map_or(OTHER, |known| known as u8),
        }
    }
}

impl Buffer {
    pub(super) const EMPTY: Buffer = Buffer {
        bytes: Vec::new(),
        records: Vec::new(),
        in_use: 0,
        present: KnownSet::EMPTY,
        gaps: false,
    };

    pub(super) fn lines(&self) -> &[Line] {
        self.records.get(..self.in_use).unwrap_or_default()
    }

    /// The lines to edit, and the bytes that they are of.
    fn lines_mut(&mut self) -> (&mut [Line], &[u8]) {
        let lines = self.records.get_mut(..self.in_use);
        (lines.unwrap_or_default(), &self.bytes)
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.in_use = 0;
        self.present = KnownSet::EMPTY;
        self.gaps = false;
    }

    // For the parser

    /// Notes the lines that `next` gives, of the head that [`Buffer::receive`] takes over.
    /// Stops at `most` lines, or earlier: without a call in it this is a tight loop.
    #[inline(always)]
    pub(crate) fn note_while(&mut self, most: usize, mut next: impl FnMut() -> Option<Noted>) {
        let most = most.min(self.records.len());
        let free = self.records.get_mut(self.in_use..most).unwrap_or_default();
        let (mut count, mut present) = (0, self.present);
        for record in free {
            let Some(noted) = next() else { break };
            *record = noted.line();
            present = present.union(KnownSet::of_index(record.known));
            count += 1;
        }
        (self.in_use, self.present) = (self.in_use + count, present);
    }

    /// Notes one line.
    #[inline(always)]
    pub(crate) fn note(&mut self, noted: &Noted) {
        self.push(noted.line());
    }

    /// Notes a line that does not count.
    pub(crate) fn note_removed(&mut self, noted: &Noted) {
        self.push(Line {
            known: REMOVED,
            ..noted.line()
        });
        self.gaps = true;
    }

    /// Takes over the bytes of a received head whose lines were noted, without the empty line at
    /// its end: what is appended follows the received lines and is written together with them.
    pub(crate) fn receive(&mut self, head: &[u8]) {
        self.bytes.extend_from_slice(head);
    }

    /// Lines noted, removed ones included.
    pub(crate) fn noted(&self) -> usize {
        self.in_use
    }

    #[inline]
    fn reserve(&mut self, more: usize) {
        let needed = self.in_use + more;
        if needed > self.records.len() {
            self.records.resize(needed + 32, Line::default());
        }
    }

    #[inline]
    fn push(&mut self, line: Line) {
        self.reserve(1);
        if let Some(record) = self.records.get_mut(self.in_use) {
            *record = line;
            self.in_use += 1;
        }
        if line.known < REMOVED {
            self.present = self.present.union(KnownSet::of_index(line.known));
        }
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
        let Some(line) = self.lines().iter().find(|line| line.known == from as u8) else {
            return;
        };
        let value = self.value(line);
        let place = value.as_ptr().addr() - self.bytes.as_ptr().addr();
        let value = place..place + value.len();
        let (start, name_length) = self.begin_line(name);
        // It is a value here already, so nothing in it can begin another line.
        self.bytes.extend_from_within(value);
        self.bytes.extend_from_slice(b"\r\n");
        self.push_from(start, name_length, Some(name));
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
        self.push_from(start, name, known);
    }

    #[inline(always)]
    fn push_from(&mut self, start: usize, name: usize, known: Option<Known>) {
        let end = self.bytes.len();
        let name_length = name as u16;
        self.note(&Noted {
            start,
            end,
            name_length,
            known,
        });
    }

    /// Appends lines of another buffer's, whose bytes begin where these end.
    pub(super) fn append_lines(&mut self, bytes: &[u8], lines: &[Line], names: KnownSet) {
        let shift = self.end();
        self.bytes.extend_from_slice(bytes);
        self.reserve(lines.len());
        let free = self.records.get_mut(self.in_use..).unwrap_or_default();
        for (record, line) in free.iter_mut().zip(lines) {
            *record = Line {
                start: line.start + shift,
                end: line.end + shift,
                ..*line
            };
        }
        self.in_use += lines.len();
        self.present = self.present.union(names);
    }

    /// Puts `value` where the last line's ends.
    pub(super) fn overwrite_end(&mut self, value: &[u8]) {
        let end = self.bytes.len() - b"\r\n".len();
        self.bytes[end - value.len()..end].copy_from_slice(value);
    }

    /// Becomes the same as `from`.
    pub(super) fn clone_from(&mut self, from: &Buffer) {
        self.clear();
        self.append_lines(&from.bytes, from.lines(), from.present);
        self.gaps = from.gaps;
    }

    /// The start line, which ends at `start_line`, and all lines but those of `skip`, each with
    /// its CRLF, in runs.
    pub(super) fn write(&self, start_line: u32, out: &mut Vec<u8>, skip: KnownSet) {
        let (mut from, mut to) = (0, start_line);
        if !self.gaps && !skip.intersects(self.present) {
            if start_line == 0 {
                from = self.lines().first().map_or(self.end(), |line| line.start);
            }
            to = self.end();
        } else {
            let skip = skip.with_index(REMOVED);
            for line in self.lines() {
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
        for line in self.lines_mut().0 {
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
        let (lines, bytes) = self.lines_mut();
        for line in lines {
            if line.known == OTHER && line.name(bytes).eq_ignore_ascii_case(name) {
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
        let (lines, bytes) = self.lines_mut();
        for line in lines.iter_mut().filter(|line| line.known != REMOVED) {
            if keep(Known::from_index(line.known), line.name(bytes)) {
                kept = kept.union(KnownSet::of_index(line.known));
            } else {
                line.known = REMOVED;
            }
        }
        self.present = kept;
        self.gaps = true;
    }

    pub(super) fn slice(&self, range: (u32, u32)) -> &[u8] {
        &self.bytes[range.0 as usize..range.1 as usize]
    }

    /// The lines that are not removed.
    pub(super) fn live(&self) -> impl Iterator<Item = &Line> {
        self.lines().iter().filter(|line| line.known != REMOVED)
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
