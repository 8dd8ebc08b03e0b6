//! The pass over field lines against the same rules written down byte by byte.

use proptest::prelude::*;

use crate::config::model::UnderscoreHeaders;
use crate::message::{Fields, Known, KnownSet};
use crate::wire::RefusalReason;
use crate::wire::h1::field_lines::{HeadLimits, Malformed, bad, field_lines};

/// A whole section: its length and its lines, names and values.
type Section = (usize, Vec<(Vec<u8>, Vec<u8>)>);

fn by_the_byte(bytes: &[u8], limits: &HeadLimits) -> Result<Option<Section>, Malformed> {
    let mut lines = Vec::new();
    let (mut position, mut count) = (0, 0);
    loop {
        match bytes[position..] {
            [b'\r', b'\n', ..] => return Ok(Some((position + 2, lines))),
            [] | [b'\r'] => return Ok(None),
            _ => {}
        }
        let start = position;
        while bytes.get(position).is_some_and(|&byte| is_token(byte)) {
            position += 1;
        }
        let name = &bytes[start..position];
        match (name.is_empty(), bytes.get(position)) {
            (_, None) => return Ok(None),
            (false, Some(b':')) => {}
            (true, Some(b' ' | b'\t')) => return bad("a header line is folded"),
            (true, Some(b':')) => return bad("a header field has no name"),
            (_, Some(b' ' | b'\t')) => {
                return bad("white space before the colon of a header field");
            }
            (_, Some(b'\r' | b'\n')) => return bad("a header line has no colon"),
            _ => return bad("a header field's name is not a token"),
        }
        position += 1;
        let value = position;
        while bytes
            .get(position)
            .is_some_and(|&byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7f))
        {
            position += 1;
        }
        match bytes[position..] {
            [b'\r', b'\n', ..] => {}
            [] | [b'\r'] => return Ok(None),
            [b'\r', ..] => return bad("a CR without LF in a header field"),
            [b'\n', ..] => return bad("a header line ends with a bare LF"),
            _ => return bad("a control byte in a header field's value"),
        }
        count += 1;
        if count > limits.fields {
            return Err(Malformed {
                reason: RefusalReason::HeaderTooLarge,
                detail: "too many header fields",
            });
        }
        let underscore = name.contains(&b'_');
        if underscore && limits.underscores == UnderscoreHeaders::Reject {
            return bad("a header field's name has an underscore");
        }
        if !underscore || limits.underscores == UnderscoreHeaders::Allow {
            let value = bytes[value..position].trim_ascii();
            lines.push((name.to_vec(), value.to_vec()));
        }
        position += 2;
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The same from the parser; `before` bytes come before the section.
fn parsed(bytes: &[u8], before: usize, limits: &HeadLimits) -> Result<Option<Section>, Malformed> {
    let head = [vec![b'x'; before].as_slice(), bytes].concat();
    let mut fields = Fields::new();
    let end = field_lines(&head, before, fields.buffer_mut(), limits)?;
    let Some(end) = end else {
        return Ok(None);
    };
    fields.buffer_mut().receive(&head[..end - 2]);
    for (known, name, _) in fields.iter_known() {
        assert_eq!(known, Known::find(name), "{name:?}");
        assert!(known.is_none_or(|known| fields.contains(known)));
    }
    let mut written = Vec::new();
    fields.write(&mut written, KnownSet::EMPTY);
    let ends = written.iter().filter(|&&byte| byte == b'\n').count();
    assert_eq!(ends, fields.len(), "what is read is what is written");
    let lines = fields.iter().map(|(n, v)| (n.to_vec(), v.to_vec()));
    Ok(Some((end - before, lines.collect())))
}

/// Bytes that matter, each more often than chance would have it.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        prop::sample::select(&b"\r\n: \t_\0\x7f\x1f@[`{A-"[..]),
        any::<u8>()
    ]
}

fn section() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        4 => "[A-Za-z0-9-]{1,40}",
        1 => "[A-Za-z_.!~]{1,20}",
        4 => prop::sample::select(
            &["Host", "connection", "TE", "X-Forwarded-For", "Proxy-Authentication-Info",
              "sec-websocket-key", "If-Unmodified-Since", "X-Forwarded-Host"][..],
        ).prop_map(str::to_owned),
    ];
    let value = prop::collection::vec(
        prop_oneof![30 => 0x21u8..0x7f, 3 => Just(b' '), 1 => Just(b'\t'), 1 => 0x80u8..],
        0..50,
    );
    prop::collection::vec((name, value), 0..8).prop_map(|lines| {
        let mut bytes = Vec::new();
        for (name, value) in lines {
            bytes.extend_from_slice(&[name.as_bytes(), b":", &value, b"\r\n"].concat());
        }
        bytes.extend_from_slice(b"\r\nbody: as it may follow\r\n");
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn many_bytes_at_once_are_judged_as_each_of_them(
        mut bytes in section(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), byte(), 0..3u8), 0..3),
        cut in prop::option::of(any::<prop::sample::Index>()),
        before in 0usize..40,
        fields in prop_oneof![Just(100usize), 0..6usize],
        underscores in prop::sample::select(
            &[UnderscoreHeaders::Allow, UnderscoreHeaders::Remove, UnderscoreHeaders::Reject][..]),
    ) {
        for (place, byte, edit) in edits {
            let place = place.index(bytes.len());
            match edit {
                0 => bytes[place] = byte,
                1 => bytes.insert(place, byte),
                _ => drop(bytes.remove(place)),
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        let limits = HeadLimits { bytes: 32 * 1024, fields, underscores };
        prop_assert_eq!(parsed(&bytes, before, &limits), by_the_byte(&bytes, &limits));
    }

    #[test]
    fn whatever_comes_is_judged_the_same(
        bytes in prop::collection::vec(byte(), 0..60), before in 0usize..40,
    ) {
        let limits = HeadLimits {
            bytes: 32 * 1024,
            fields: 3,
            underscores: UnderscoreHeaders::Allow,
        };
        prop_assert_eq!(parsed(&bytes, before, &limits), by_the_byte(&bytes, &limits));
    }
}
