//! A configuration: errors or a configuration, never a panic; and the same both times.
#![no_main]

use std::path::Path;

use portcullis::config;

libfuzzer_sys::fuzz_target!(|text: &str| {
    // It may name files; those of the machine it runs on are none of its business.
    if ["/dev", "/proc", "/sys", "/etc", "..", "*"].iter().any(|place| text.contains(place)) {
        return;
    }
    let parse =
        || config::parse(text, Path::new("/nonexistent"), &|name| (name == "HOME").then(|| "x".into()));
    match (parse(), parse()) {
        (Ok(first), Ok(second)) => assert_eq!(first.warnings.len(), second.warnings.len()),
        (Err(first), Err(second)) => {
            assert!(!first.is_empty());
            assert_eq!(first.len(), second.len());
        }
        _ => panic!("once good, once bad"),
    }
});
