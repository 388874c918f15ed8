use proptest::prelude::*;

use super::*;

/// A key with nothing in it that need not be.
pub(super) fn key(id: &str, consumer: &str) -> Key {
    Key {
        id: id.to_owned(),
        consumer: consumer.to_owned(),
        roles: Vec::new(),
        scopes: Vec::new(),
        hash: Hash([7; HASH_BYTES]),
        created: 1_790_000_000,
        expires: None,
        revoked: None,
        quota: None,
        note: None,
        replaces: None,
        replaced_by: None,
    }
}

fn any_id() -> impl Strategy<Value = String> {
    "[0-9A-Za-z]{8}"
}

/// Times up to the year 9999, which is as far as they can be written.
fn any_time() -> impl Strategy<Value = Option<u64>> {
    prop::option::of(0_u64..253_402_300_799)
}

pub(super) fn any_key() -> impl Strategy<Value = Key> {
    let names = || prop::collection::vec("[a-z:.\u{e9}\u{4e2d}\"\\\\]{1,12}", 0..4);
    let texts = (any_id(), "[a-z\u{e9}\"\\\\]{1,12}", prop::option::of("[ -~\u{a1}-\u{ff}]{0,40}"));
    let quota = prop::option::of((1_u64.., any::<bool>()).prop_map(|(requests, daily)| Quota {
        requests,
        per: if daily { Period::Day } else { Period::Month },
    }));
    let ids = (prop::option::of(any_id()), prop::option::of(any_id()));
    (texts, names(), names(), any::<[u8; HASH_BYTES]>(), (any_time(), any_time(), any_time()), quota, ids)
        .prop_map(|((id, consumer, note), roles, scopes, hash, (created, expires, revoked), quota, ids)| {
            Key {
                id,
                consumer,
                roles,
                scopes,
                hash: Hash(hash),
                created: created.unwrap_or_default(),
                expires,
                revoked,
                quota,
                note,
                replaces: ids.0,
                replaced_by: ids.1,
            }
        })
}

proptest! {
    #[test]
    fn a_key_comes_back_as_it_was_written(key in any_key()) {
        prop_assert_eq!(key.check(), Ok(()));
        let line = serde_json::to_string(&key).unwrap();
        prop_assert_eq!(line.lines().count(), 1);
        prop_assert_eq!(serde_json::from_str::<Key>(&line).unwrap(), key);
    }

    #[test]
    fn what_an_import_reads_is_what_was_exported(keys in prop::collection::vec(any_key(), 0..8), with_header: bool) {
        let hash_key = Zeroizing::new([3; HASH_BYTES]);
        let mut text = if with_header { format!("{}\n", *write_header(&hash_key)) } else { String::new() };
        for key in &keys {
            text.push_str(&serde_json::to_string(key).unwrap());
            text.push('\n');
        }
        prop_assume!(!text.is_empty());
        let import = read_import(Box::new(text.as_bytes()), 0).unwrap();
        prop_assert_eq!(import.hash_key.as_deref().copied(), with_header.then_some([3; HASH_BYTES]));
        prop_assert_eq!(import.keys.collect::<Result<Vec<_>, _>>(), Ok(keys));
    }

    #[test]
    fn no_bytes_make_an_import_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(import) = read_import(Box::new(&bytes[..]), 0) {
            import.keys.for_each(drop);
        }
    }
}

#[track_caller]
fn check_import(text: &str, expected: Result<&[&str], &str>) {
    let read = read_import(Box::new(text.as_bytes()), 1_790_000_000);
    let ids =
        read.and_then(|import| import.keys.map(|key| key.map(|key| key.id)).collect::<Result<Vec<_>, _>>());
    match (ids, expected) {
        (Ok(ids), Ok(expected)) => assert_eq!(ids, expected),
        (Err(problem), Err(part)) => assert!(problem.contains(part), "{problem}"),
        (ids, expected) => panic!("{ids:?} instead of {expected:?}"),
    }
}

const HASH: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc";

fn line(more: &str) -> String {
    format!(
        "{{\"id\":\"k7Qm2xZp\",\"consumer\":\"acme\",\"hash\":\"{HASH}\",\"created\":\"2026-09-21T14:13:20Z\"{more}}}\n"
    )
}

#[test]
fn lines_say_what_is_wrong_with_them() {
    let good = line("");
    check_import(&good, Ok(&["k7Qm2xZp"]));
    check_import(&format!("\n{good}\n"), Ok(&["k7Qm2xZp"]));
    check_import(&format!("{good}{{\"hash_key\":\"{HASH}\"}}\n"), Err("line 2: unknown field `hash_key`"));
    check_import(&format!("{good}{}", line(",\"secret\":\"x\"")), Err("line 2: unknown field `secret`"));
    check_import(&good.replace("k7Qm2xZp", "k7Qm2x_p"), Err("line 1: \"k7Qm2x_p\" is not the id"));
    check_import(&good.replace("acme", ""), Err("line 1: \"\" is no name"));
    check_import(&good.replace("acme", "a\\nb"), Err("line 1: \"a\\nb\" is no name"));
    check_import(&good.replace(HASH, "AAAA"), Err("line 1: a hash is 32 bytes in base64"));
    check_import(&good.replace(":20Z", ":20"), Err("line 1: a time is written with its zone"));
    check_import(&line(",\"expires\":null"), Err("line 1"));
    check_import(&line(",\"quota\":\"5/year\""), Err("line 1: not a quota"));
    check_import(&line(&format!(",\"note\":\"{}\"", "n".repeat(257))), Err("line 1"));
    check_import(&line(&format!(",\"note\":\"{}\"", "n".repeat(256))), Ok(&["k7Qm2xZp"]));
    check_import("{\"hash_key\":\"AAAA\"}", Err("line 1: `hash_key` is not 32 bytes"));
    check_import(&format!("{{{}", " ".repeat(1 << 17)), Err("line 1: longer than 64 KiB"));
    check_import(" \n", Err("it is empty"));
}

#[test]
fn the_toml_of_old_is_taken_over() {
    let head = format!("# a comment\nversion = 1\nhash_key = \"{HASH}\"\n");
    let text =
        |line: &str| format!("{head}[keys.\"k7Qm2xZp\"]\nconsumer = \"acme\"\nhash = \"{HASH}\"\n{line}\n");
    let old = text("roles = [\"reader\"]\nexpires = 2027-01-01T02:00:00+02:00\nnote = \"n\"");
    let import = read_import(Box::new(old.as_bytes()), 1_790_000_000).unwrap();
    assert_eq!(import.hash_key.as_deref(), Some(&[7; HASH_BYTES]));
    let expected = Key {
        roles: vec!["reader".to_owned()],
        expires: Some(1_798_761_600),
        note: Some("n".to_owned()),
        ..key("k7Qm2xZp", "acme")
    };
    assert_eq!(import.keys.collect::<Result<Vec<_>, _>>(), Ok(vec![expected]));
    check_import(&text("expires = \"2027-01-01T02:00:00+02:00\""), Ok(&["k7Qm2xZp"]));
    check_import(&text("expires = 2027-01-01T02:00:00"), Err("`expires` is not a date"));
    check_import(&head, Ok(&[]));
    check_import(&head.replace("= 1", "= 2"), Err("version 2"));
    check_import("<html>", Err("neither JSON lines of keys nor a key store of the old kind"));
}

#[track_caller]
fn check_date(text: &str, expected: Option<u64>) {
    assert_eq!(parse_date(text), expected, "{text}");
}

#[test]
fn dates() {
    check_date("1970-01-01", Some(0));
    check_date("2027-01-01", Some(1_798_761_600));
    check_date("2027-01-01T00:00:00Z", Some(1_798_761_600));
    check_date("2027-01-01T02:00:00+02:00", Some(1_798_761_600));
    check_date("2027-01-01T00:00:00", None);
    check_date("1969-12-31", None);
    check_date("2027-02-29", None);
    check_date("soon", None);
    assert_eq!(rfc3339(1_798_761_600), "2027-01-01T00:00:00Z");
    assert_eq!(
        parse_date(&rfc3339(u64::MAX)),
        Some(253_402_207_200),
        "what cannot be written is very far away"
    );
}

#[test]
fn a_key_is_good_until_it_ends_or_is_taken_back() {
    let ends = Key { expires: Some(10), ..key("k7Qm2xZp", "acme") };
    assert!(ends.is_good(10) && !ends.is_good(11));
    assert!(!Key { revoked: Some(5), ..ends }.is_good(0));
}

#[test]
fn uses_add_up() {
    let early = Use { last_s: 5, source: [192, 0, 2, 1].into(), count: 2 };
    let late = Use { last_s: 6, source: [192, 0, 2, 2].into(), count: 3 };
    assert_eq!(early.and(late), Use { count: 5, ..late });
    assert_eq!(late.and(early), Use { count: 5, ..late });
}
