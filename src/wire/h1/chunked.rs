//! The chunked transfer coding, RFC 9112 section 7.1, as strict as it is written there.
//!
//! The decoder validates and measures; it does not copy. What it has validated passes on as it
//! is where the other side is chunked too, unless a size line carries an extension or an unusual
//! spelling: those are taken off, so that nobody behind us reads them differently.

use crate::message::ChunkPosition;

/// Bytes of one chunk-size line, its extensions and CRLF included.
const SIZE_LINE: usize = 256;

/// Extension bytes of one whole body: no work without payload (RFC 9112 section 7.1.1).
const EXTENSIONS: usize = 16 * 1024;

/// The decoder's position in a body.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    position: ChunkPosition,
    /// The chunk that we are inside of may go on as it is.
    canonical: bool,
    extensions: usize,
}

/// What one pass found at the start of the bytes it was given.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pass {
    /// Where the pass began, to take the framing off.
    pub(super) from: ChunkPosition,
    /// Valid bytes before the last chunk.
    pub(super) framed: usize,
    /// Payload in them.
    pub(super) payload: usize,
    /// Everything in `framed` may go on as it is.
    pub(super) canonical: bool,
    /// The last chunk's size line follows `framed` and is this long; trailers come next.
    pub(super) last: Option<usize>,
}

impl Chunked {
    /// Goes through `bytes`, which begin where the last pass's `framed` ended, as far as they are
    /// whole. A pass ends where chunks that may go on as they are meet one that may not: taking
    /// the framing off inside a chunk whose start has gone on as it was would break it. `Err` is
    /// malformed framing.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Result<Pass, &'static str> {
        let mut pass = Pass {
            from: self.position,
            framed: 0,
            payload: 0,
            canonical: !self.position.inside || self.canonical,
            last: None,
        };
        loop {
            let rest = &bytes[pass.framed..];
            if self.position.remaining > 0 {
                let step = self.position.remaining.min(rest.len() as u64) as usize;
                self.position.remaining -= step as u64;
                pass.payload += step;
                pass.framed += step;
                if self.position.remaining > 0 {
                    return Ok(pass);
                }
            } else if self.position.inside {
                match rest {
                    [b'\r', b'\n', ..] => {
                        self.position.inside = false;
                        pass.framed += 2;
                    }
                    [] | [b'\r'] => return Ok(pass),
                    _ => return Err("no CRLF after a chunk's data"),
                }
            } else {
                let Some(line) = size_line(rest)? else {
                    return Ok(pass);
                };
                if pass.framed > 0 && line.size > 0 && line.canonical != pass.canonical {
                    return Ok(pass);
                }
                self.extensions += line.extension;
                if self.extensions > EXTENSIONS {
                    return Err("too many chunk extensions");
                }
                if line.size == 0 {
                    pass.last = Some(line.length);
                    return Ok(pass);
                }
                (pass.canonical, self.canonical) = (line.canonical, line.canonical);
                pass.framed += line.length;
                self.position = ChunkPosition {
                    remaining: line.size,
                    inside: true,
                };
            }
        }
    }
}

struct SizeLine {
    size: u64,
    length: usize,
    extension: usize,
    canonical: bool,
}

/// A whole chunk-size line at the start of `bytes`; `None` while it is not whole.
fn size_line(bytes: &[u8]) -> Result<Option<SizeLine>, &'static str> {
    let mut size = 0u64;
    let mut digits = 0;
    for &byte in bytes.iter().take(17) {
        let Some(digit) = char::from(byte).to_digit(16) else {
            break;
        };
        if digits == 16 {
            return Err("a chunk size overflows");
        }
        size = size << 4 | u64::from(digit);
        digits += 1;
    }
    let rest = &bytes[digits..];
    if digits == 0 {
        return if rest.is_empty() {
            Ok(None)
        } else {
            Err("a chunk size is not a number")
        };
    }
    // A size that no body can have: refused before arithmetic gets near the edge.
    if size > u64::MAX >> 1 {
        return Err("a chunk size overflows");
    }
    let canonical = digits == 1 || bytes[0] != b'0';
    match rest {
        [b'\r', b'\n', ..] => Ok(Some(SizeLine {
            size,
            length: digits + 2,
            extension: 0,
            canonical,
        })),
        [] | [b'\r'] => Ok(None),
        [b'\r', ..] => Err("a CR without LF in a chunk size line"),
        [b';', ..] => extension(rest).map(|length| {
            let line = |length| SizeLine {
                size,
                length: digits + length,
                extension: length,
                canonical: false,
            };
            length.map(line)
        }),
        _ => Err("a chunk size is not a number"),
    }
}

/// Length of `;...CRLF`: visible bytes, spaces and tabs, no lone CR or LF.
fn extension(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    for (position, &byte) in bytes.iter().enumerate().take(SIZE_LINE) {
        match byte {
            b'\r' => {
                return match bytes.get(position + 1) {
                    Some(b'\n') => Ok(Some(position + 2)),
                    Some(_) => Err("a CR without LF in a chunk extension"),
                    None => Ok(None),
                };
            }
            b'\t' | b' '..=b'~' | 0x80.. => {}
            _ => return Err("a control byte in a chunk extension"),
        }
    }
    if bytes.len() >= SIZE_LINE {
        Err("a chunk extension is too long")
    } else {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::data::strip_framing;

    /// Feeds `body` in pieces as a connection would: what was not taken is given again.
    fn decode(body: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, bool), &'static str> {
        let mut decoder = Chunked::default();
        let (mut payload, mut taken, mut given) = (Vec::new(), 0, 0);
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (body.len() + 1)).collect();
        ends.sort_unstable();
        ends.push(body.len());
        for end in ends {
            given = given.max(end);
            let pass = decoder.pass(&body[taken..given])?;
            let mut piece = body[taken..taken + pass.framed].to_vec();
            let length = strip_framing(&mut piece, pass.from);
            assert_eq!(
                length, pass.payload,
                "stripping must agree with the decoder"
            );
            payload.extend_from_slice(&piece[..length]);
            taken += pass.framed;
            if pass.last.is_some() {
                return Ok((payload, true));
            }
        }
        Ok((payload, false))
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for body in [
            "g\r\n",
            "\r\n",
            " 3\r\nabc\r\n",
            "3 \r\nabc\r\n",
            "+3\r\nabc\r\n",
            "-1\r\n",
            "0x3\r\nabc\r\n",
            "3\nabc\r\n",
            "3\rabc\r\n",
            "3\r\nabcd\r\n",
            "3\r\nabc\n0\r\n",
            "3\r\nabc\r0\r\n",
            "10000000000000000\r\n",
            "ffffffffffffffff\r\n",
            "00000000000000003\r\n",
            "3;a\nb\r\nabc\r\n",
            "3;a\rb\r\nabc\r\n",
            "3;\0\r\nabc\r\n",
            "3\t\r\nabc\r\n",
            "3,3\r\nabc\r\n",
        ] {
            assert!(decode(body.as_bytes(), &[]).is_err(), "{body:?}");
        }
        assert!(decode(format!("3;{}\r\n", "a".repeat(300)).as_bytes(), &[]).is_err());
        let many = format!("1;{}\r\nx\r\n", "a".repeat(200)).repeat(100);
        assert!(
            decode(many.as_bytes(), &[]).is_err(),
            "extensions of a body are bounded"
        );
    }

    #[test]
    fn extensions_and_padding_do_not_pass_on() {
        let nameless = decode(b"1;\r\nx\r\n0\r\n", &[0, 2, 4]);
        assert_eq!(nameless, Ok((b"x".to_vec(), true)));
        let mut decoder = Chunked::default();
        let pass = decoder
            .pass(b"3;a=\"b\"\r\nabc\r\n")
            .expect("an extension is legal");
        assert_eq!((pass.payload, pass.canonical), (3, false));
        let pass = decoder
            .pass(b"03\r\nabc\r\n")
            .expect("leading zeros are legal");
        assert!(!pass.canonical);
        let pass = decoder
            .pass(b"A\r\n0123456789\r\n0;x\r\n")
            .expect("upper case is legal");
        assert_eq!(
            (pass.payload, pass.canonical, pass.last),
            (10, true, Some(5))
        );
    }

    proptest! {
        #[test]
        fn a_body_cut_anywhere_gives_the_same_payload(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            cuts in prop::collection::vec(any::<usize>(), 0..8),
            extension in "(;[a-z]{0,3})?",
        ) {
            let mut body = Vec::new();
            for chunk in &chunks {
                body.extend_from_slice(format!("{:x}{extension}\r\n", chunk.len()).as_bytes());
                body.extend_from_slice(chunk);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"0\r\n");
            prop_assert_eq!(decode(&body, &cuts), Ok((chunks.concat(), true)));
            for cut in 0..body.len() {
                prop_assert_eq!(decode(&body, &[cut]), Ok((chunks.concat(), true)));
                let (_, ended) = decode(&body[..cut], &[]).expect("a cut body is no error");
                prop_assert!(!ended, "a cut body never ends");
            }
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(body in prop::collection::vec(any::<u8>(), 0..60), cuts in prop::collection::vec(any::<usize>(), 0..4)) {
            let _ = decode(&body, &cuts);
        }
    }
}
