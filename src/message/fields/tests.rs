//! `Fields` against examples and against a list of pairs.

use proptest::prelude::*;

use super::*;

fn written(fields: &Fields, skip: &[Known]) -> String {
    let mut out = Vec::new();
    fields.write(&mut out, KnownSet::of(skip));
    String::from_utf8(out).expect("fields of these tests are text")
}

fn sample() -> Fields {
    let mut fields = Fields::new();
    fields.append_text("host", b"a");
    fields.append_text("X-One", b"1");
    fields.append_text("x-one", b"2");
    fields.append(Known::Via, b"1.1 x");
    fields
}

#[test]
fn names_are_found_in_any_case_and_keep_their_spelling() {
    let fields = sample();
    assert_eq!(fields.get(Known::Host), Some(&b"a"[..]));
    assert_eq!(fields.get_text("host"), Some(&b"a"[..]));
    assert_eq!(
        fields.values_text("x-one").collect::<Vec<_>>(),
        [b"1", b"2"]
    );
    assert_eq!(
        written(&fields, &[]),
        "host: a\r\nX-One: 1\r\nx-one: 2\r\nVia: 1.1 x\r\n"
    );
}

#[test]
fn setting_replaces_every_line_of_the_name() {
    let mut fields = sample();
    fields.set_text("X-ONE", b"3");
    fields.set(Known::Host, b"b");
    assert_eq!(
        written(&fields, &[]),
        "Via: 1.1 x\r\nX-ONE: 3\r\nHost: b\r\n"
    );
    assert_eq!(fields.len(), 3);
    assert_eq!(fields.count(Known::Host), 1);
}

#[test]
fn removing_forgets_the_name() {
    let mut fields = sample();
    fields.remove(Known::Via);
    assert!(!fields.contains(Known::Via));
    assert!(fields.remove_text("X-one"));
    assert!(!fields.remove_text("x-one"), "nothing is left to remove");
    assert!(fields.remove_bytes(b"HOST"));
    assert!(fields.is_empty());
    assert_eq!(written(&fields, &[]), "");
}

#[test]
fn writing_leaves_out_what_is_skipped() {
    assert_eq!(
        written(&sample(), &[Known::Via]),
        "host: a\r\nX-One: 1\r\nx-one: 2\r\n"
    );
    assert_eq!(
        written(&sample(), &[Known::Host]),
        "X-One: 1\r\nx-one: 2\r\nVia: 1.1 x\r\n"
    );
}

#[test]
fn retaining_updates_what_is_present() {
    let mut fields = sample();
    fields.retain(|known, name| known.is_none() || name == b"host");
    assert!(fields.contains(Known::Host) && !fields.contains(Known::Via));
    assert_eq!(written(&fields, &[]), "host: a\r\nX-One: 1\r\nx-one: 2\r\n");
}

#[test]
fn a_copy_is_of_the_first_value_without_white_space_around() {
    let mut fields = sample();
    fields.append_copy(Known::XForwardedHost, Known::Expect);
    assert!(!fields.contains(Known::XForwardedHost));
    fields.set(Known::Host, b" \ta b ");
    fields.append(Known::Host, b"c");
    fields.append_copy(Known::XForwardedHost, Known::Host);
    assert_eq!(fields.get(Known::XForwardedHost), Some(&b"a b"[..]));
    assert!(written(&fields, &[]).ends_with("Host: c\r\nX-Forwarded-Host: a b\r\n"));
}

#[test]
fn an_appended_value_never_makes_another_line() {
    let mut fields = Fields::new();
    fields.append_pieces(Known::Via, &[b"a\r\nHost: b", b"\n\0c"]);
    assert_eq!(written(&fields, &[]), "Via: a  Host: b  c\r\n");
}

proptest! {
    /// Against a list of pairs, the naive model.
    #[test]
    fn edits_agree_with_a_list_of_pairs(
        edits in prop::collection::vec((0..4u8, "[abc]{1,2}|Host|via|TE", "[a-z]{0,4}"), 0..30)
    ) {
        let mut fields = Fields::new();
        let mut model: Vec<(String, String)> = Vec::new();
        for (edit, name, value) in &edits {
            match edit {
                0 => {
                    fields.append_text(name, value.as_bytes());
                    model.push((name.clone(), value.clone()));
                }
                1 => {
                    fields.set_text(name, value.as_bytes());
                    model.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
                    model.push((name.clone(), value.clone()));
                }
                2 => {
                    fields.remove_text(name);
                    model.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
                }
                _ => {
                    let found = fields.get_text(&name.to_ascii_lowercase());
                    let expected = model.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
                    prop_assert_eq!(found, expected.map(|(_, v)| v.as_bytes()));
                }
            }
        }
        let lines: String = model.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
        prop_assert_eq!(written(&fields, &[]), lines);
        prop_assert_eq!(fields.len(), model.len());
    }
}
