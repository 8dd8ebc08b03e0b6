//! Huffman codes of RFC 7541 appendix B: canonical, so that the symbols in the order of their codes
//! and how many there are of each length say everything.

/// Symbols in the order of their codes; EOS is the last and left out.
const ORDER: [u8; 256] = [
    48, 49, 50, 97, 99, 101, 105, 111, 115, 116, 32, 37, 45, 46, 47, 51, 52, 53, 54, 55, 56, 57,
    61, 65, 95, 98, 100, 102, 103, 104, 108, 109, 110, 112, 114, 117, 58, 66, 67, 68, 69, 70, 71,
    72, 73, 74, 75, 76, 77, 78, 79, 80, 81, 82, 83, 84, 85, 86, 87, 89, 106, 107, 113, 118, 119,
    120, 121, 122, 38, 42, 44, 59, 88, 90, 33, 34, 40, 41, 63, 39, 43, 124, 35, 62, 0, 36, 64, 91,
    93, 126, 94, 125, 60, 96, 123, 92, 195, 208, 128, 130, 131, 162, 184, 194, 224, 226, 153, 161,
    167, 172, 176, 177, 179, 209, 216, 217, 227, 229, 230, 129, 132, 133, 134, 136, 146, 154, 156,
    160, 163, 164, 169, 170, 173, 178, 181, 185, 186, 187, 189, 190, 196, 198, 228, 232, 233, 1,
    135, 137, 138, 139, 140, 141, 143, 147, 149, 150, 151, 152, 155, 157, 158, 165, 166, 168, 174,
    175, 180, 182, 183, 188, 191, 197, 231, 239, 9, 142, 144, 145, 148, 159, 171, 206, 215, 225,
    236, 237, 199, 207, 234, 235, 192, 193, 200, 201, 202, 205, 210, 213, 218, 219, 238, 240, 242,
    243, 255, 203, 204, 211, 212, 214, 221, 222, 223, 241, 244, 245, 246, 247, 248, 250, 251, 252,
    253, 254, 2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28,
    29, 30, 31, 127, 220, 249, 10, 13, 22,
];

/// Codes of each length: the length, and how many there are.
const COUNTS: [(u32, u32); 21] = [
    (5, 10),
    (6, 26),
    (7, 32),
    (8, 6),
    (10, 5),
    (11, 3),
    (12, 2),
    (13, 6),
    (14, 2),
    (15, 3),
    (19, 3),
    (20, 8),
    (21, 13),
    (22, 26),
    (23, 29),
    (24, 12),
    (25, 4),
    (26, 15),
    (27, 19),
    (28, 29),
    (30, 4),
];

/// Codes of one length, as the first bits of 32.
#[derive(Clone, Copy)]
struct Codes {
    length: u32,
    /// Behind the last of them.
    end: u64,
    first: u64,
    /// Of the first one's symbol in [`ORDER`].
    place: usize,
}

const CODES: [Codes; 21] = {
    let mut codes = [Codes {
        length: 0,
        end: 0,
        first: 0,
        place: 0,
    }; 21];
    let (mut next, mut place, mut at) = (0u64, 0, 0);
    while at < COUNTS.len() {
        let (length, count) = COUNTS[at];
        let step = 1u64 << (32 - length);
        let end = next + step * count as u64;
        codes[at] = Codes {
            length,
            end,
            first: next,
            place,
        };
        next = end;
        place += count as usize;
        at += 1;
    }
    codes
};

/// Appends what `bytes` stand for; `None` where they are no codes.
pub(super) fn decode(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut bytes = bytes.iter();
    // The next bits, as the first of 64.
    let (mut bits, mut have) = (0u64, 0);
    loop {
        while have <= 56 {
            let Some(&byte) = bytes.next() else { break };
            bits |= u64::from(byte) << (56 - have);
            have += 8;
        }
        // Padding is the beginning of EOS, and shorter than a byte.
        if have < 8 && bits >> (64 - have.max(1)) == (1 << have.max(1)) - 1 || have == 0 {
            return Some(());
        }
        let window = bits >> 32;
        let codes = CODES.iter().find(|codes| window < codes.end)?;
        if codes.length > have {
            return None;
        }
        let place = codes.place + ((window - codes.first) >> (32 - codes.length)) as usize;
        out.push(*ORDER.get(place)?);
        bits <<= codes.length;
        have -= codes.length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_the_rfc() {
        let table: [(&[u8], &str); 4] = [
            (
                b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff",
                "www.example.com",
            ),
            (b"\xa8\xeb\x10\x64\x9c\xbf", "no-cache"),
            (b"\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf", "custom-value"),
            (b"", ""),
        ];
        for (bytes, text) in table {
            let mut out = Vec::new();
            assert_eq!(decode(bytes, &mut out), Some(()), "{text}");
            assert_eq!(String::from_utf8_lossy(&out), text);
        }
    }

    #[test]
    fn what_is_no_code_is_refused() {
        for bytes in [&b"\x18"[..], b"\xff\xff\xff\xff", b"\x1f\xff"] {
            assert_eq!(decode(bytes, &mut Vec::new()), None, "{bytes:x?}");
        }
    }

    #[test]
    fn the_codes_fill_what_there_is_but_eos() {
        assert_eq!(CODES[20].end, 1 << 32);
        assert_eq!(COUNTS.iter().map(|(_, count)| count).sum::<u32>(), 257);
        let mut sorted = ORDER;
        sorted.sort_unstable();
        assert!(
            sorted
                .iter()
                .enumerate()
                .all(|(place, &symbol)| place == usize::from(symbol))
        );
    }
}
