use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::decide::{
    api_key::Minted,
    testing::{HASH_KEY, NOW_S, key_table, minted, stored, stored_with},
};

const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

fn reader(name: &str) -> Option<RoleId> {
    (name == "reader").then_some(3)
}

#[track_caller]
fn check_in(table: &KeyTable, text: impl AsRef<[u8]>, expected: Result<&str, KeyFault>) {
    let known = table.check(text.as_ref(), &reader, NOW_S);
    assert_eq!(known.as_ref().map(|identity| &*identity.consumer), expected.as_ref().map(|name| *name));
}

#[track_caller]
fn check(text: impl AsRef<[u8]>, expected: Result<&str, KeyFault>) {
    let table = key_table(vec![
        stored(&minted(1), "acme"),
        stored_with(&minted(2), "old", Some(NOW_S - 1), &[]),
        stored_with(&minted(3), "last", Some(NOW_S), &[]),
    ]);
    check_in(&table, text, expected);
}

/// `text` with one character replaced and the checksum made right again.
fn altered(text: &str, at: usize) -> String {
    let mut bytes = text.as_bytes().to_vec();
    bytes[at] = if bytes[at] == b'x' { b'y' } else { b'x' };
    bytes.truncate(text.len() - 6);
    let checksum = api_key::checksum_of(&bytes);
    String::from_utf8([&bytes[..], &checksum].concat()).unwrap()
}

#[test]
fn row_81_a_key_is_known_by_id_and_secret_until_it_expires() {
    check(&*minted(1).text, Ok("acme"));
    check(&*minted(3).text, Ok("last"));
    check(&*minted(2).text, Err(KeyFault::Expired));
    check(&*minted(9).text, Err(KeyFault::Unknown));
    check(altered(&minted(1).text, 4), Err(KeyFault::Unknown));
    check(altered(&minted(1).text, 13), Err(KeyFault::WrongSecret));
    check(altered(&minted(1).text, 44), Err(KeyFault::WrongSecret));
}

#[test]
fn what_is_not_the_text_of_a_key_is_refused_without_a_look_up() {
    let text = minted(1).text;
    check("", Err(KeyFault::Malformed));
    check("ptc_", Err(KeyFault::Malformed));
    check(&text[1..], Err(KeyFault::Malformed));
    check(&text[..text.len() - 1], Err(KeyFault::Malformed));
    check(format!("{}0", *text), Err(KeyFault::Malformed));
    check(format!(" {}", *text), Err(KeyFault::Malformed));
    check(text.to_ascii_uppercase(), Err(KeyFault::Malformed));
    check(altered(&text, 12), Err(KeyFault::Malformed));
    check([0xff; api_key::TEXT_LEN], Err(KeyFault::Malformed));
}

#[test]
fn a_key_says_what_it_carries_and_roles_that_do_not_exist_are_left_out() {
    let table = key_table(vec![stored_with(&minted(1), "acme", Some(NOW_S), &["gone", "reader"])]);
    let identity = table.check(minted(1).text.as_bytes(), &reader, NOW_S).unwrap();
    assert_eq!((&*identity.roles, identity.good_until_s), (&[3][..], NOW_S + 1));
    assert_eq!(identity.credential.as_deref(), Some(&*minted(1).id));
    assert!(!format!("{identity:?}").contains("hash"), "{identity:?}");
}

#[test]
fn an_id_has_eight_letters_and_digits() {
    let entry = |id: &str| ApiKey::new(id, [0; 32], None, "acme".into(), Arc::default()).is_some();
    assert!(entry("k7Qm2xZp"));
    for id in ["", "short", "k7Qm2xZpp", "k7Qm2x_p", "k7Qm2x\u{e9}"] {
        assert!(!entry(id), "{id}");
    }
}

#[test]
fn a_key_that_is_changed_or_taken_back_makes_workers_forget_and_a_new_one_does_not() {
    let table = key_table(vec![stored(&minted(1), "acme"), stored(&minted(2), "zeta")]);
    let before = table.generation();
    table.apply(vec![Change::Put(stored(&minted(3), "new")), Change::Remove(*b"nobodyis")]);
    assert_eq!(table.generation(), before);
    table.apply(vec![Change::Put(stored(&minted(2), "zeta2"))]);
    assert_eq!(table.generation(), before + 1);
    table.apply(vec![Change::Remove(minted(1).id.as_bytes().try_into().unwrap())]);
    assert_eq!(table.generation(), before + 2);
    check_in(&table, &*minted(1).text, Err(KeyFault::Unknown));
    check_in(&table, &*minted(2).text, Ok("zeta2"));
    table.replace(&HASH_KEY, vec![stored(&minted(1), "back")]);
    assert_eq!((table.generation(), table.len()), (before + 3, 1));
    check_in(&table, &*minted(1).text, Ok("back"));
    check_in(&table, &*minted(2).text, Err(KeyFault::Unknown));
    table.replace(&[1; 32], vec![stored(&minted(1), "other")]);
    check_in(&table, &*minted(1).text, Err(KeyFault::WrongSecret));
}

fn note(table: &KeyTable, key: &Minted, source: IpAddr, unix_s: u64) {
    let identity = table.check(key.text.as_bytes(), &reader, NOW_S).unwrap();
    table.note_use(&identity.key.unwrap(), source, unix_s);
}

fn used(key: &Minted, source: IpAddr, last_s: u64, count: u64) -> Used {
    Used { id: key.id.clone(), last_s, source, count }
}

#[test]
fn uses_are_counted_and_told_once() {
    let table = key_table((1..=3).map(|seed| stored(&minted(seed), "acme")).collect());
    assert!(!table.has_uses() && table.take_uses().is_empty());
    let v6: IpAddr = "2001:db8::7".parse().unwrap();
    note(&table, &minted(1), SOURCE, NOW_S);
    note(&table, &minted(1), v6, NOW_S + 1);
    note(&table, &minted(1), SOURCE, NOW_S + 1);
    assert!(table.has_uses());
    assert_eq!(table.take_uses(), [used(&minted(1), v6, NOW_S + 1, 3)]);
    assert!(!table.has_uses() && table.take_uses().is_empty());
    note(&table, &minted(2), SOURCE, NOW_S);
    let taken = table.take_uses();
    assert_eq!(table.put_back(taken), []);
    note(&table, &minted(2), v6, NOW_S - 5);
    assert_eq!(table.take_uses(), [used(&minted(2), SOURCE, NOW_S, 2)]);
}

#[test]
fn uses_outlive_a_change_of_their_key_and_are_told_when_it_goes() {
    let table = key_table(vec![stored(&minted(1), "acme"), stored(&minted(2), "acme")]);
    note(&table, &minted(1), SOURCE, NOW_S);
    assert_eq!(table.apply(vec![Change::Put(stored(&minted(1), "acme2"))]), []);
    assert_eq!(table.take_uses(), [used(&minted(1), SOURCE, NOW_S, 1)]);
    for seed in [1, 2] {
        note(&table, &minted(seed), SOURCE, NOW_S);
    }
    let gone = table.apply(vec![Change::Remove(minted(1).id.as_bytes().try_into().unwrap())]);
    assert_eq!(gone, [used(&minted(1), SOURCE, NOW_S, 1)]);
    assert_eq!(table.put_back(gone.clone()), gone, "it is no longer there");
    assert_eq!(table.replace(&HASH_KEY, Vec::new()), [used(&minted(2), SOURCE, NOW_S, 1)]);
}

/// One key stays, another comes and goes: who looks meanwhile always finds the one, and the other whole or not at all.
#[test]
fn look_ups_and_changes_go_on_side_by_side() {
    let table = key_table(vec![stored(&minted(1), "acme")]);
    std::thread::scope(|scope| {
        let lookers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        check_in(&table, &*minted(1).text, Ok("acme"));
                        match table.check(minted(2).text.as_bytes(), &reader, NOW_S) {
                            Ok(identity) => assert_eq!(&*identity.consumer, "comes"),
                            Err(fault) => assert_eq!(fault, KeyFault::Unknown),
                        }
                    }
                })
            })
            .collect();
        let id = minted(2).id.as_bytes().try_into().unwrap();
        while lookers.iter().any(|looker| !looker.is_finished()) {
            table.apply(vec![Change::Put(stored(&minted(2), "comes"))]);
            table.apply(vec![Change::Remove(id)]);
        }
    });
}

proptest! {
    /// Whatever is put in and taken out, in whichever pieces, the table knows what a map would.
    #[test]
    fn a_table_knows_what_a_map_would(
        batches in prop::collection::vec(prop::collection::vec((0u8..40, any::<bool>(), 0u8..4), 0..20), 0..6),
    ) {
        let (table, mut map) = (KeyTable::new(&HASH_KEY), BTreeMap::new());
        for batch in batches {
            let changes = batch.iter().map(|&(seed, is_put, holder)| {
                if is_put {
                    map.insert(seed, format!("holder{holder}"));
                    Change::Put(stored(&minted(seed), &format!("holder{holder}")))
                } else {
                    map.remove(&seed);
                    Change::Remove(minted(seed).id.as_bytes().try_into().unwrap())
                }
            });
            table.apply(changes.collect());
            prop_assert_eq!(table.len(), map.len());
            for seed in 0..40 {
                let known = table.check(minted(seed).text.as_bytes(), &reader, NOW_S);
                let known = known.ok().map(|identity| identity.consumer.to_string());
                prop_assert_eq!(known.as_ref(), map.get(&seed));
            }
        }
    }

    #[test]
    fn ids_are_spread_evenly(seed: u64) {
        let mut state = seed | 1;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 33).unwrap()
        };
        let mut counts = vec![0u32; 256];
        for _ in 0..25_600 {
            let id: String = (0..ID_LEN).map(|_| char::from(b"0Az9bQ7xZk"[random() % 10])).collect();
            counts[Id::of(&id).unwrap().shard() * 256 / SHARDS] += 1;
        }
        prop_assert!(counts.iter().all(|count| (40..200).contains(count)), "{counts:?}");
    }
}

/// `cargo test --release -p portcullis --lib -- --ignored --nocapture what_a_check_costs`
#[test]
#[ignore = "it measures: nanoseconds are for people to judge"]
#[expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a measurement reads a clock and tells it"
)]
fn what_a_check_costs() {
    const CHECKS: usize = 2_000_000;
    let minted: Vec<Minted> = (0..1_000_000_u64)
        .map(|seed| {
            let mut state = seed + 1;
            api_key::mint(&mut |bytes| {
                for byte in bytes {
                    state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                    *byte = state.to_be_bytes()[0];
                }
            })
        })
        .collect();
    let table_of =
        |count: usize| key_table(minted.iter().take(count).map(|key| stored(key, &key.id)).collect());
    let few = table_of(10);
    let loading = std::time::Instant::now();
    let many = table_of(minted.len());
    println!("a table of {} keys, with hashing: {:?}", many.len(), loading.elapsed());
    for round in 0..3 {
        for (what, table, asked) in
            [("10 keys", &few, 10), ("10 of a million", &many, 10), ("any of a million", &many, minted.len())]
        {
            let mut state = 1_usize;
            let begun = std::time::Instant::now();
            for _ in 0..CHECKS {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                let key = &minted[(state >> 33) % asked];
                assert!(table.check(key.text.as_bytes(), &reader, NOW_S).is_ok());
            }
            let each = begun.elapsed().as_nanos() / CHECKS as u128;
            println!("round {round}: {what}: {each} ns a check");
        }
    }
}
