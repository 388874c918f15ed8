//! A block list and an engine's answer: ranges or an error for any bytes, and a list that is written out reads as itself.
#![no_main]

use portcullis::control::feeds::{decisions, parse};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // Whatever it says, it says it twice.
    assert_eq!(decisions::parse(bytes).ok(), decisions::parse(bytes).ok());
    let Ok(list) = parse::parse(bytes) else { return };
    assert!(list.ranges.len() <= list.entries);
    // As ranges, since two entries may make one that is wider than an entry may be.
    for (first, last) in list.ranges.v4() {
        assert!(first <= last);
    }
    let apart4 = list.ranges.v4().windows(2).all(|pair| pair[0].1 < u32::MAX && pair[0].1 + 1 < pair[1].0);
    let apart6 = list.ranges.v6().windows(2).all(|pair| pair[0].1 < u128::MAX && pair[0].1 + 1 < pair[1].0);
    assert!(apart4 && apart6, "merged");
    let written: String = list.ranges.prefixes().map(|prefix| format!("{prefix}\n")).collect();
    if let Ok(again) = parse::parse(written.as_bytes()) {
        assert_eq!(again.ranges, list.ranges);
    }
});
