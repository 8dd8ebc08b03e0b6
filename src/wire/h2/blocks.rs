//! What the types of `h2` and `http` hide of a header block.
//!
//! Pseudo-header fields in trailers are passed over by `h2`, `http` cuts the fragment off a path,
//! and a scheme without an authority is thrown away: each would be a malformed request that we
//! repair (RFC 9113 sections 8.1.1 and 8.3). So blocks are read a second time here as they pass,
//! for these alone. Of the dynamic table (RFC 7541 section 2.3.2) only the sizes and kinds of its
//! entries are kept, and values are looked at only where they are a path or a scheme; what is
//! wrong with the encoding itself is left to `h2`, which ends the connection for it.

use std::cell::RefCell;
use std::collections::VecDeque;

use crate::wire::h2::huffman;

/// Of a table that we never allowed to be larger (RFC 9113 section 6.5.2).
const TABLE: usize = 4096;
/// `h2` ends a connection with a longer block.
const LONGEST: usize = 512 * 1024;
/// Faulty requests that nobody has asked about yet; `h2` refuses some of them by itself.
const FAULTS: usize = 1024;

const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// A field's name, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Path,
    Scheme,
    Pseudo,
    Regular,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    size: u32,
    name: Name,
    /// Bytes of the name.
    length: u32,
    fault: Option<&'static str>,
}

/// Streams whose requests are malformed, and why: known before `h2` hands them out.
#[derive(Debug, Default)]
pub(super) struct Faults(RefCell<VecDeque<Faulty>>);

#[derive(Debug, Clone, Copy)]
struct Faulty {
    stream: u32,
    in_trailers: bool,
    fault: &'static str,
}

impl Faults {
    /// What is wrong with the head of `stream`.
    pub(super) fn of_head(&self, stream: u32) -> Option<&'static str> {
        self.find(stream, false)
    }

    pub(super) fn of_trailers(&self, stream: u32) -> Option<&'static str> {
        self.find(stream, true)
    }

    fn find(&self, stream: u32, in_trailers: bool) -> Option<&'static str> {
        let faults = self.0.borrow();
        let mut faults = faults.iter();
        let found =
            faults.find(|faulty| (faulty.stream, faulty.in_trailers) == (stream, in_trailers));
        found.map(|faulty| faulty.fault)
    }

    fn note(&self, faulty: Faulty) {
        let mut faults = self.0.borrow_mut();
        if faults.len() == FAULTS {
            faults.pop_front();
        }
        faults.push_back(faulty);
    }
}

/// Reads the header blocks of one connection.
#[derive(Debug)]
pub(super) struct Blocks {
    /// Of the block under way, without padding and priority.
    block: Vec<u8>,
    /// Where the current frame's payload begins in it.
    start: usize,
    flags: u8,
    stream: u32,
    collecting: bool,
    last: bool,
    table: VecDeque<Entry>,
    size: usize,
    most: usize,
    /// The newest stream that had a head: another block on it is its trailers.
    newest: u32,
    /// Nothing is read any more: too long, or padded beyond itself.
    broken: bool,
    /// The encoding is wrong (RFC 7541), as far as it is read here.
    miscoded: bool,
    text: Vec<u8>,
}

impl Blocks {
    pub(super) fn new() -> Self {
        Blocks {
            block: Vec::new(),
            start: 0,
            flags: 0,
            stream: 0,
            collecting: false,
            last: false,
            table: VecDeque::new(),
            size: 0,
            most: TABLE,
            newest: 0,
            broken: false,
            miscoded: false,
            text: Vec::new(),
        }
    }

    /// A frame of a block begins; `first`: HEADERS, which may be padded. `last`: END_HEADERS.
    pub(super) fn begin(&mut self, stream: u32, flags: u8, first: bool, last: bool) {
        if first {
            self.block.clear();
            self.stream = stream;
        }
        self.flags = if first { flags } else { 0 };
        self.start = self.block.len();
        self.last = last;
        self.collecting = true;
    }

    /// What came last cannot be decoded.
    pub(super) fn is_miscoded(&self) -> bool {
        self.miscoded
    }

    pub(super) fn is_collecting(&self) -> bool {
        self.collecting
    }

    /// Bytes of the frame's payload; `whole`: its last ones.
    pub(super) fn collect(&mut self, payload: &[u8], whole: bool, faults: &Faults) {
        if self.block.len() + payload.len() <= LONGEST {
            self.block.extend_from_slice(payload);
        } else {
            self.broken = true;
        }
        if !whole {
            return;
        }
        self.collecting = false;
        self.broken |= self.strip().is_none();
        if !self.last || self.broken {
            return;
        }
        let in_trailers = self.stream <= self.newest;
        self.newest = self.newest.max(self.stream);
        let block = std::mem::take(&mut self.block);
        match self.read(&block, in_trailers) {
            Some(None) => {}
            Some(Some(fault)) => faults.note(Faulty {
                stream: self.stream,
                in_trailers,
                fault,
            }),
            None => {
                self.broken = true;
                self.miscoded = true;
            }
        }
        self.block = block;
        self.block.clear();
        self.block.shrink_to(4096);
    }

    /// Takes padding and priority off the frame that has just ended.
    fn strip(&mut self) -> Option<()> {
        if self.flags & (PADDED | PRIORITY) == 0 {
            return Some(());
        }
        let payload = &self.block[self.start..];
        let (mut front, mut back) = (0, 0);
        if self.flags & PADDED != 0 {
            back = usize::from(*payload.first()?);
            front = 1;
        }
        if self.flags & PRIORITY != 0 {
            front += 5;
        }
        let end = payload.len().checked_sub(back)?;
        if front > end {
            return None;
        }
        self.block.truncate(self.start + end);
        self.block.drain(self.start..self.start + front);
        Some(())
    }

    /// RFC 7541 section 6; `None` where the encoding is wrong.
    fn read(&mut self, mut block: &[u8], trailers: bool) -> Option<Option<&'static str>> {
        let (mut fault, mut begun) = (None, false);
        while let Some(&first) = block.first() {
            let entry = match first {
                0x80.. => {
                    let index = integer(&mut block, 7)?;
                    self.entry(index)?
                }
                0x40.. => {
                    let entry = self.literal(&mut block, 6)?;
                    self.insert(entry);
                    entry
                }
                0x20.. => {
                    let most = integer(&mut block, 5)?;
                    // Section 4.2: only in front.
                    if most > TABLE || begun {
                        return None;
                    }
                    self.most = most;
                    self.evict(0);
                    continue;
                }
                _ => self.literal(&mut block, 4)?,
            };
            begun = true;
            let wrong = match entry.name {
                Name::Regular => None,
                _ if trailers => Some("a pseudo-header field in the trailers"),
                _ => entry.fault,
            };
            fault = fault.or(wrong);
        }
        Some(fault)
    }

    fn entry(&self, index: usize) -> Option<Entry> {
        let name = |name, length| Entry {
            size: 0,
            name,
            length,
            fault: None,
        };
        match index {
            0 => None,
            4 | 5 => Some(name(Name::Path, 5)),
            6 | 7 => Some(name(Name::Scheme, 7)),
            1 => Some(name(Name::Pseudo, 10)),
            2..=14 => Some(name(Name::Pseudo, 7)),
            15..=61 => Some(name(Name::Regular, STATIC_LENGTHS[index - 15])),
            _ => self.table.get(index - 62).copied(),
        }
    }

    fn literal(&mut self, block: &mut &[u8], prefix: u32) -> Option<Entry> {
        let indexed = prefix == 6;
        let index = integer(block, prefix)?;
        let (name, length) = if index == 0 {
            text(block, &mut self.text)?;
            let name = match &self.text[..] {
                b":path" => Name::Path,
                b":scheme" => Name::Scheme,
                [b':', ..] => Name::Pseudo,
                _ => Name::Regular,
            };
            (name, self.text.len() as u32)
        } else {
            let entry = self.entry(index)?;
            (entry.name, entry.length)
        };
        let looked_at = matches!(name, Name::Path | Name::Scheme);
        if !indexed && !looked_at {
            skip_text(block)?;
            return Some(Entry {
                size: 0,
                name,
                length,
                fault: None,
            });
        }
        text(block, &mut self.text)?;
        let fault = match name {
            Name::Path if memchr::memchr(b'#', &self.text).is_some() => {
                Some("the path has a fragment")
            }
            Name::Scheme if !matches!(&self.text[..], b"http" | b"https") => {
                Some("the scheme is neither http nor https")
            }
            _ => None,
        };
        Some(Entry {
            size: length + self.text.len() as u32 + 32,
            name,
            length,
            fault,
        })
    }

    fn insert(&mut self, entry: Entry) {
        self.evict(entry.size as usize);
        if entry.size as usize <= self.most {
            self.size += entry.size as usize;
            self.table.push_front(entry);
        }
    }

    /// Makes room for that much (RFC 7541 section 4.4).
    fn evict(&mut self, more: usize) {
        while self.size + more > self.most {
            let Some(oldest) = self.table.pop_back() else {
                return;
            };
            self.size -= oldest.size as usize;
        }
    }
}

/// RFC 7541 section 5.1.
fn integer(block: &mut &[u8], prefix: u32) -> Option<usize> {
    let mask = (1 << prefix) - 1;
    let (&first, mut rest) = block.split_first()?;
    let mut value = usize::from(first) & mask;
    if value == mask {
        for shift in [0, 7, 14, 21] {
            let (&byte, behind) = rest.split_first()?;
            rest = behind;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                *block = rest;
                return Some(value);
            }
        }
        return None;
    }
    *block = rest;
    Some(value)
}

fn skip_text(block: &mut &[u8]) -> Option<()> {
    let length = integer(block, 7)?;
    *block = block.get(length..)?;
    Some(())
}

/// RFC 7541 section 5.2.
fn text(block: &mut &[u8], out: &mut Vec<u8>) -> Option<()> {
    let huffman = block.first()? & 0x80 != 0;
    let length = integer(block, 7)?;
    let (bytes, rest) = block.split_at_checked(length)?;
    *block = rest;
    out.clear();
    if huffman {
        huffman::decode(bytes, out)
    } else {
        out.extend_from_slice(bytes);
        Some(())
    }
}

/// Bytes of the names of RFC 7541 appendix A from 15 on.
const STATIC_LENGTHS: [u32; 47] = [
    14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13, 12, 6, 4, 4, 6, 7, 4, 4, 8, 17,
    13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3, 16,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn read(blocks: &mut Blocks, stream: u32, block: &[u8]) -> Option<&'static str> {
        let faults = Faults::default();
        blocks.begin(stream, 0, true, true);
        blocks.collect(block, true, &faults);
        assert!(!blocks.broken);
        faults.of_head(stream).or(faults.of_trailers(stream))
    }

    #[test]
    fn static_names_are_as_long_as_they_are() {
        let names = [
            "accept-charset",
            "accept-encoding",
            "accept-language",
            "accept-ranges",
            "accept",
            "access-control-allow-origin",
            "age",
            "allow",
            "authorization",
            "cache-control",
            "content-disposition",
            "content-encoding",
            "content-language",
            "content-length",
            "content-location",
            "content-range",
            "content-type",
            "cookie",
            "date",
            "etag",
            "expect",
            "expires",
            "from",
            "host",
            "if-match",
            "if-modified-since",
            "if-none-match",
            "if-range",
            "if-unmodified-since",
            "last-modified",
            "link",
            "location",
            "max-forwards",
            "proxy-authenticate",
            "proxy-authorization",
            "range",
            "referer",
            "refresh",
            "retry-after",
            "server",
            "set-cookie",
            "strict-transport-security",
            "transfer-encoding",
            "user-agent",
            "vary",
            "via",
            "www-authenticate",
        ];
        let lengths = names.map(|name| name.len() as u32);
        assert_eq!(lengths, STATIC_LENGTHS);
    }

    #[test]
    fn paths_and_schemes_are_looked_at_in_every_form() {
        let fragment = Some("the path has a fragment");
        let mut blocks = Blocks::new();
        // RFC 7541 appendix C.4: `:path` and others with Huffman codes.
        assert_eq!(
            read(
                &mut blocks,
                1,
                b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"
            ),
            None
        );
        assert_eq!(blocks.size, 57);
        assert_eq!(read(&mut blocks, 3, b"\x44\x04/a#b"), fragment, "indexed");
        assert_eq!(read(&mut blocks, 5, b"\xbe"), fragment, "from the table");
        assert_eq!(read(&mut blocks, 7, b"\x04\x02/a"), None);
        assert_eq!(
            read(&mut blocks, 9, b"\x00\x05:path\x03/#b"),
            fragment,
            "by its name"
        );
        // `/#` by appendix B: 011000 111111111010, padded with ones.
        assert_eq!(
            read(
                &mut blocks,
                11,
                &[0x04, 0x83, 0b0110_0011, 0b1111_1110, 0b1011_1111]
            ),
            fragment
        );
        assert!(read(&mut blocks, 13, b"\x06\x03ftp").is_some());
        assert_eq!(read(&mut blocks, 15, b"\x06\x04http"), None);
        assert_eq!(
            read(&mut blocks, 17, b"\x10\x03x#y\x03a#b"),
            None,
            "another field"
        );
    }

    #[test]
    fn trailers_have_no_pseudo_header_fields() {
        for block in [&b"\x84"[..], b"\x10\x05:path\x01/", b"\x01\x01h", b"\xbe"] {
            let mut blocks = Blocks::new();
            assert_eq!(read(&mut blocks, 1, b"\x44\x02/a"), None);
            assert_eq!(read(&mut blocks, 3, b"\x82\x86\x84"), None);
            assert!(read(&mut blocks, 1, block).is_some());
            assert_eq!(read(&mut blocks, 3, b"\x10\x01x\x01y"), None);
        }
    }

    #[test]
    fn the_table_forgets_what_the_encoder_forgets() {
        let mut blocks = Blocks::new();
        let mut long = b"\x40\x01x\x7f\xd9\x1e".to_vec();
        long.extend([b'y'; 127 + 0xf59]);
        assert_eq!(
            read(&mut blocks, 1, b"\x44\x04/a#b"),
            Some("the path has a fragment")
        );
        assert_eq!((blocks.table.len(), blocks.size), (1, 41));
        read(&mut blocks, 3, &long);
        assert_eq!(blocks.table.len(), 1, "{}", blocks.size);
        assert_eq!(read(&mut blocks, 5, b"\xbe"), None);
        read(&mut blocks, 7, b"\x20\x3f\xe1\x1f");
        assert_eq!((blocks.table.len(), blocks.size, blocks.most), (0, 0, 4096));
    }

    #[test]
    fn padding_and_priority_are_none_of_the_block() {
        let faults = Faults::default();
        let mut blocks = Blocks::new();
        blocks.begin(1, PADDED | PRIORITY, true, false);
        blocks.collect(&[2, 0, 0, 0], false, &faults);
        blocks.collect(&[0, 9, 0x44, 0, 0], true, &faults);
        blocks.begin(1, PADDED, false, true);
        blocks.collect(b"\x02/#", true, &faults);
        assert!(faults.of_head(1).is_some() && !blocks.broken);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let faults = Faults::default();
        let mut random = fastrand::Rng::with_seed(7);
        for stream in 0..20_000 {
            let mut blocks = Blocks::new();
            let length = random.usize(..40);
            let bytes: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
            blocks.begin(stream, random.u8(..), true, true);
            blocks.collect(&bytes, true, &faults);
            assert!(blocks.size <= TABLE);
        }
    }
}
