//! The property that the fuzzer checks, on stable: on its seeds, and on what is made of them.

#[path = "../../../tests/fuzz/property.rs"]
mod property;

use proptest::{prelude::*, sample::Index};

use super::{HeaderSlots, request_head, response_head};

const SEEDS: [&[u8]; 7] = [
    include_bytes!("../../../tests/fuzz/seeds/request/get.http"),
    include_bytes!("../../../tests/fuzz/seeds/request/post.http"),
    include_bytes!("../../../tests/fuzz/seeds/request/chunked.http"),
    include_bytes!("../../../tests/fuzz/seeds/request/options.http"),
    include_bytes!("../../../tests/fuzz/seeds/request/traced.http"),
    include_bytes!("../../../tests/fuzz/seeds/response/response.http"),
    include_bytes!("../../../tests/fuzz/seeds/response/response-chunked.http"),
];

/// What smugglers put in.
const SNIPPETS: [&[u8]; 24] = [
    b"\n",
    b"\r",
    b"\r\n",
    b"\r\n\r\n",
    b"\r\n ",
    b" ",
    b"\t",
    b"\0",
    b":",
    b",",
    b";",
    b"%",
    b"/../",
    b"%2e%2e/",
    b"%2f",
    b"@",
    b"#",
    b"\xff",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close, Host, X-User\r\n",
    b"Host: other\r\n",
    b"ffffffffffffffff",
    b"0\r\n",
];

/// What a message becomes by one slip.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Insert(Index, Index),
    Remove(Index, usize),
    Replace(Index, u8),
    Repeat(Index, usize),
}

pub(super) fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<Index>(), any::<Index>()).prop_map(|(at, snippet)| Change::Insert(at, snippet)),
        (any::<Index>(), 1..20_usize).prop_map(|(at, len)| Change::Remove(at, len)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Replace(at, byte)),
        (any::<Index>(), 1..200_usize).prop_map(|(at, len)| Change::Repeat(at, len)),
    ]
}

pub(super) fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let place = |at: &Index| at.index(bytes.len() + 1);
    match change {
        Change::Insert(at, snippet) => {
            let at = place(at);
            bytes.splice(at..at, snippet.get(&SNIPPETS).iter().copied());
        }
        Change::Remove(at, len) => {
            let at = place(at);
            bytes.drain(at..(at + len).min(bytes.len()));
        }
        Change::Replace(at, byte) => {
            let at = place(at);
            if let Some(slot) = bytes.get_mut(at) {
                *slot = *byte;
            }
        }
        Change::Repeat(at, len) => {
            let at = place(at);
            bytes.extend_from_within(at..(at + len).min(bytes.len()));
        }
    }
}

fn holds(bytes: &[u8]) {
    property::request_holds(bytes);
    property::response_holds("GET", bytes);
    property::response_holds("HEAD", bytes);
    property::chunked_holds(bytes);
}

#[test]
fn seeds_hold_and_are_read() {
    for seed in SEEDS {
        holds(seed);
        let (mut request, mut response) = (HeaderSlots::new(), HeaderSlots::new());
        let request = request_head(seed, &mut request, &property::LIMITS);
        let response = response_head(seed, &mut response, "GET", &property::LIMITS);
        let is_read = matches!(request, Ok(Some(_))) || matches!(response, Ok(Some(_)));
        assert!(is_read, "{}", String::from_utf8_lossy(seed));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn changed_seeds_hold(seed in 0..SEEDS.len(), changes in prop::collection::vec(change(), 0..5)) {
        let mut bytes = SEEDS[seed].to_vec();
        for change in &changes {
            apply(&mut bytes, change);
        }
        holds(&bytes);
    }

    #[test]
    fn any_bytes_hold(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        holds(&bytes);
    }
}
