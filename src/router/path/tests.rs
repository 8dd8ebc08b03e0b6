use proptest::prelude::*;

use super::normal::normal_prefix_by_bytes;
use super::*;

/// Every row: as received, and the normal form or the refusal.
#[rustfmt::skip]
const TABLE: &[(&str, Result<&str, PathError>)] = &[
    // Normal already.
    ("/", Ok("/")),
    ("/a", Ok("/a")),
    ("/a/", Ok("/a/")),
    ("/a/b.c/..d/e..", Ok("/a/b.c/..d/e..")),
    ("/.well-known/acme", Ok("/.well-known/acme")),
    ("/...", Ok("/...")),
    ("/..../x", Ok("/..../x")),
    ("/-._~!$&'()*+,;=:@", Ok("/-._~!$&'()*+,;=:@")),
    ("/\"<>[]^`{|}", Ok("/\"<>[]^`{|}")),
    ("/a;v=1/b;jsessionid=2", Ok("/a;v=1/b;jsessionid=2")),
    ("/a%20b%23%3F%25", Ok("/a%20b%23%3F%25")),
    ("/%252e%252e/a", Ok("/%252e%252e/a")),
    ("/%25%32%65", Ok("/%252e")),
    // Case of the path is kept.
    ("/API/x", Ok("/API/x")),
    // Escapes.
    ("/%61pi/x", Ok("/api/x")),
    ("/%41%7e%2D%5f%2e%30", Ok("/A~-_.0")),
    ("/%c3%a9", Ok("/%C3%A9")),
    ("/é", Ok("/%C3%A9")),
    ("/%3a%3B", Ok("/%3A%3B")),
    ("/%2b+", Ok("/%2B+")),
    ("/%2f", Ok("/%2F")),
    ("/api%2Fx", Ok("/api%2Fx")),
    ("/api%2f%2fx", Ok("/api%2F%2Fx")),
    ("/a%2Fb/../c", Ok("/c")),
    // Dot segments.
    ("/.", Ok("/")),
    ("/./", Ok("/")),
    ("/a/.", Ok("/a/")),
    ("/a/..", Ok("/")),
    ("/a/b/..", Ok("/a/")),
    ("/a/b/../", Ok("/a/")),
    ("/a/b/../c", Ok("/a/c")),
    ("/a/./b/./c", Ok("/a/b/c")),
    ("/a/b/c/../../../d", Ok("/d")),
    ("/api/../admin", Ok("/admin")),
    ("/api/%2e%2e/admin", Ok("/admin")),
    ("/api/.%2E/admin", Ok("/admin")),
    ("/%2e/a", Ok("/a")),
    // Slashes.
    ("//", Ok("/")),
    ("//api/x", Ok("/api/x")),
    ("/a//b///c//", Ok("/a/b/c/")),
    ("/a//../b", Ok("/b")),
    ("/a/.//b", Ok("/a/b")),
    // Above the root.
    ("/..", Err(PathError::AboveRoot)),
    ("/../a", Err(PathError::AboveRoot)),
    ("/a/../../b", Err(PathError::AboveRoot)),
    ("//../b", Err(PathError::AboveRoot)),
    ("/./..", Err(PathError::AboveRoot)),
    ("/%2e%2e", Err(PathError::AboveRoot)),
    ("/a//../../b", Err(PathError::AboveRoot)),
    // Behind an escaped slash.
    ("/api/%2e%2e%2fadmin", Err(PathError::HiddenDotSegment)),
    ("/api/..%2Fadmin", Err(PathError::HiddenDotSegment)),
    ("/api%2F..", Err(PathError::HiddenDotSegment)),
    ("/api%2f..%2fadmin", Err(PathError::HiddenDotSegment)),
    ("/api%2F.", Err(PathError::HiddenDotSegment)),
    ("/.%2Fx", Err(PathError::HiddenDotSegment)),
    ("/a%2F%2e%2e/b", Err(PathError::HiddenDotSegment)),
    ("/a%2F..;x/b", Err(PathError::HiddenDotSegment)),
    // Hidden, even where another dot segment would take it away.
    ("/a%2F../../b", Err(PathError::HiddenDotSegment)),
    // Before a parameter.
    ("/..;/a", Err(PathError::DotSegmentParameter)),
    ("/a/..;x=1/b", Err(PathError::DotSegmentParameter)),
    ("/a/.;/b", Err(PathError::DotSegmentParameter)),
    ("/a/%2e%2e;/b", Err(PathError::DotSegmentParameter)),
    ("/a/..%3b/b", Err(PathError::DotSegmentParameter)),
    // Control bytes, spaces, backslashes.
    ("/a\0", Err(PathError::Control)),
    ("/a\x01b", Err(PathError::Control)),
    ("/a\tb", Err(PathError::Control)),
    ("/a\x7f", Err(PathError::Control)),
    ("/api/x%00y", Err(PathError::Control)),
    ("/a%0d%0ab", Err(PathError::Control)),
    ("/a%1F", Err(PathError::Control)),
    ("/a%7f", Err(PathError::Control)),
    ("/a b", Err(PathError::Space)),
    ("/a\\b", Err(PathError::Backslash)),
    ("/api/..%5cadmin", Err(PathError::Backslash)),
    ("/a%5C", Err(PathError::Backslash)),
    // Broken escapes.
    ("/%", Err(PathError::BrokenEscape)),
    ("/%2", Err(PathError::BrokenEscape)),
    ("/%zz", Err(PathError::BrokenEscape)),
    ("/%2g/x", Err(PathError::BrokenEscape)),
    ("/%u002e", Err(PathError::BrokenEscape)),
    ("/%%32e", Err(PathError::BrokenEscape)),
    // Delimiters.
    ("/a#b", Err(PathError::Fragment)),
    ("/a?b", Err(PathError::Query)),
    // Not a path.
    ("", Err(PathError::NotAbsolute)),
    ("*", Err(PathError::NotAbsolute)),
    ("a", Err(PathError::NotAbsolute)),
    ("%2Fa", Err(PathError::NotAbsolute)),
    ("\\a", Err(PathError::NotAbsolute)),
];

#[test]
fn follows_the_table_byte_for_byte() {
    for (raw, expected) in TABLE {
        let normal = normalize(raw.as_bytes());
        assert_eq!(
            normal.as_deref().map_err(|error| *error),
            expected.map(str::as_bytes),
            "{raw:?}"
        );
    }
}

#[test]
fn leaves_a_normal_path_where_it_is() {
    for (raw, expected) in TABLE {
        if *expected == Ok(*raw) {
            let normal = normalize(raw.as_bytes());
            assert!(matches!(normal, Ok(Cow::Borrowed(_))), "{raw:?}");
        }
    }
}

#[test]
fn escapes_every_high_byte_and_refuses_every_control_byte() {
    for byte in 0..=255u8 {
        let path = normalize(&[b'/', byte]).map(Cow::into_owned);
        let escape = normalize(format!("/%{byte:02x}").as_bytes()).map(Cow::into_owned);
        match byte {
            0..=0x1F | 0x7F => {
                assert_eq!(path, Err(PathError::Control));
                assert_eq!(escape, Err(PathError::Control));
            }
            0x80.. => {
                assert_eq!(path, Ok(format!("/%{byte:02X}").into_bytes()));
                assert_eq!(escape, path);
            }
            _ => {}
        }
    }
}

#[test]
fn finds_dot_segments_in_any_spelling() {
    for raw in [
        "/.",
        "/..",
        "/a/../b",
        "/a/./b",
        "/%2e",
        "/a/%2E%2e/",
        "/.%2e/x",
        "/a%2f..",
        "/..;x",
        "/a/..%3bx",
        "/a%2F.%2Fb",
        "//..",
    ] {
        assert!(has_dot_segments(raw.as_bytes()), "{raw}");
    }
    for raw in [
        "/",
        "//",
        "/a//b",
        "/...",
        "/.a",
        "/..a",
        "/a..",
        "/a/b.",
        "/%2e%2e%2e",
        "/%252e",
        "/%",
    ] {
        assert!(!has_dot_segments(raw.as_bytes()), "{raw}");
    }
}

/// The same rules as rewriting of text, one rule after the other over the whole path.
fn naive(raw: &[u8]) -> Option<String> {
    const UNRESERVED: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~";
    if !raw.starts_with(b"/") {
        return None;
    }
    let mut text = String::new();
    let mut bytes = raw.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            if !digits.chars().all(|digit| digit.is_ascii_hexdigit()) {
                return None;
            }
            let value = u8::from_str_radix(digits, 16).ok()?;
            if value < 0x20 || value == 0x7F || value == b'\\' {
                return None;
            }
            if UNRESERVED.contains(char::from(value)) {
                text.push(char::from(value));
            } else {
                text.push_str(&format!("%{value:02X}"));
            }
        } else if byte >= 0x80 {
            text.push_str(&format!("%{byte:02X}"));
        } else if byte <= 0x20 || byte == 0x7F || b"\\#?".contains(&byte) {
            return None;
        } else {
            text.push(char::from(byte));
        }
    }
    for part in text.split('/') {
        let names: Vec<&str> = part.split("%2F").collect();
        for name in &names {
            let bare = name.replace("%3B", ";");
            let bare = bare.split(';').next().unwrap_or_default().to_owned();
            let dots = bare == "." || bare == "..";
            if dots && (names.len() > 1 || bare.len() < name.len()) {
                return None;
            }
        }
    }
    while text.contains("//") {
        text = text.replace("//", "/");
    }
    // RFC 3986 section 5.2.4, with its input and output buffers.
    let (mut input, mut output) = (text, String::new());
    while !input.is_empty() {
        if input.starts_with("/./") {
            input.drain(..2);
        } else if input == "/." {
            input = "/".to_owned();
        } else if input.starts_with("/../") || input == "/.." {
            input = format!("/{}", input.get(4..).unwrap_or_default());
            let parent = output.rfind('/')?;
            output.truncate(parent);
        } else {
            let end = input[1..].find('/').map_or(input.len(), |at| at + 1);
            output.extend(input.drain(..end));
        }
    }
    Some(output)
}

fn paths() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => Just(b"/".to_vec()),
        3 => Just(b".".to_vec()),
        2 => Just(b"..".to_vec()),
        2 => Just(b"/../".to_vec()),
        2 => Just(b"%2e".to_vec()),
        1 => Just(b"%2F".to_vec()),
        1 => Just(b"%2f".to_vec()),
        1 => Just(b";".to_vec()),
        1 => Just(b"%3b".to_vec()),
        1 => Just(b"%5c".to_vec()),
        1 => Just(b"%".to_vec()),
        1 => Just("é".as_bytes().to_vec()),
        1 => Just(b"%25".to_vec()),
        6 => "[a-zA-Z0-9~]{1,3}".prop_map(String::into_bytes),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
        1 => any::<u8>().prop_map(|byte| format!("%{byte:02x}").into_bytes()),
    ];
    proptest::collection::vec(piece, 0..12)
        .prop_map(|pieces| [b"/".to_vec(), pieces.concat()].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn agrees_with_a_naive_model(raw in paths()) {
        let normal = normalize(&raw).ok().map(Cow::into_owned);
        let expected = naive(&raw).map(String::into_bytes);
        prop_assert_eq!(normal, expected, "{}", String::from_utf8_lossy(&raw));
    }

    #[test]
    fn sixteen_bytes_at_a_time_are_judged_as_one_by_one(
        target in "/([a-c]{1,16}|[/.;?#\\\\ %]|%2[0F]|\u{7f}|é){0,12}",
    ) {
        let target = target.as_bytes();
        prop_assert_eq!(normal_prefix(target), normal_prefix_by_bytes(target));
    }

    #[test]
    fn normal_form_stays_as_it_is(raw in paths()) {
        if let Ok(normal) = normalize(&raw) {
            let again = normalize(&normal);
            prop_assert!(matches!(again, Ok(Cow::Borrowed(_))), "one scan and no allocation");
            prop_assert_eq!(again.as_deref(), Ok(&*normal));
        }
    }

    #[test]
    fn normal_form_has_nothing_left_to_read_twice(raw in paths()) {
        if let Ok(normal) = normalize(&raw) {
            prop_assert!(normal.starts_with(b"/"));
            prop_assert!(!has_dot_segments(&normal));
            prop_assert!(memchr::memmem::find(&normal, b"//").is_none());
            prop_assert!(normal.iter().all(|byte| byte.is_ascii_graphic()));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(raw in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = normalize(&raw);
        let _ = has_dot_segments(&raw);
    }
}
