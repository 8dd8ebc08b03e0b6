//! What keeps a client from writing the log: escapes of both notations.

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// nginx' `log_format` escaping: `\xXX` for `"`, `\`, controls and everything above 0x7e.
pub(super) fn nginx(out: &mut Vec<u8>, text: &[u8]) {
    for run in text.split_inclusive(|&byte| !plain(byte)) {
        match run.split_last() {
            Some((&last, before)) if !plain(last) => {
                out.extend_from_slice(before);
                let digits = [HEX[usize::from(last >> 4)], HEX[usize::from(last & 15)]];
                out.extend_from_slice(b"\\x");
                out.extend_from_slice(&digits);
            }
            _ => out.extend_from_slice(run),
        }
    }
}

/// Printable ASCII that means nothing to either notation.
fn plain(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e) && byte != b'"' && byte != b'\\'
}

/// A JSON string with its quotes (RFC 8259 section 7). Invalid UTF-8 becomes U+FFFD; controls,
/// those of C1 and the line separators of Unicode included, are written as escapes, so that no
/// terminal or line reader acts on them.
pub(super) fn json(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    if text.iter().all(|&byte| plain(byte)) {
        out.extend_from_slice(text);
    } else {
        for chunk in text.utf8_chunks() {
            chunk.valid().chars().for_each(|c| json_char(out, c));
            if !chunk.invalid().is_empty() {
                out.extend_from_slice("\u{fffd}".as_bytes());
            }
        }
    }
    out.push(b'"');
}

fn json_char(out: &mut Vec<u8>, c: char) {
    match c {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{2028}' | '\u{2029}' => {
            let code = c as u32;
            out.extend_from_slice(b"\\u");
            for shift in [12, 8, 4, 0] {
                out.push(HEX[(code >> shift & 15) as usize].to_ascii_lowercase());
            }
        }
        _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nginx_text(text: &[u8]) -> String {
        let mut out = Vec::new();
        nginx(&mut out, text);
        String::from_utf8(out).expect("nginx' escaping leaves ASCII only")
    }

    #[test]
    fn nginx_escapes_what_nginx_escapes() {
        assert_eq!(nginx_text(b"/plain path~"), "/plain path~");
        assert_eq!(nginx_text(b"a\"b\\c"), "a\\x22b\\x5Cc");
        assert_eq!(nginx_text(b"\r\n\x1b[31m\x7f"), "\\x0D\\x0A\\x1B[31m\\x7F");
        assert_eq!(nginx_text("é".as_bytes()), "\\xC3\\xA9");
    }

    proptest! {
        #[test]
        fn nginx_text_is_printable_and_reversible(text in prop::collection::vec(any::<u8>(), 0..64)) {
            let escaped = nginx_text(&text);
            prop_assert!(escaped.bytes().all(|b| (0x20..=0x7e).contains(&b) && b != b'"'));
            let mut back = Vec::new();
            let mut rest = escaped.as_bytes();
            while let Some((&byte, after)) = rest.split_first() {
                if byte == b'\\' {
                    let digits = std::str::from_utf8(&after[1..3]).expect("two digits follow");
                    back.push(u8::from_str_radix(digits, 16).expect("hexadecimal"));
                    rest = &after[3..];
                } else {
                    back.push(byte);
                    rest = after;
                }
            }
            prop_assert_eq!(back, text);
        }

        #[test]
        fn json_parses_back_to_the_lossy_text(text in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut out = Vec::new();
            json(&mut out, &text);
            let value: String = serde_json::from_slice(&out).expect("valid JSON");
            prop_assert_eq!(value, String::from_utf8_lossy(&text).into_owned());
            prop_assert!(out.iter().all(|&b| b >= 0x20 && b != 0x7f), "no control byte in the line");
        }
    }

    #[test]
    fn json_leaves_no_terminal_sequence() {
        let mut out = Vec::new();
        json(&mut out, "\u{9b}31m\u{2028}\"".as_bytes());
        assert_eq!(out, br#""\u009b31m\u2028\"""#);
    }
}
