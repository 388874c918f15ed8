//! A response head with its body: parsed at every split, encoded for the client, parsed again.
#![no_main]

use portcullis::codec;
#[path = "../property.rs"]
#[allow(dead_code, reason = "each target uses its part")]
mod property;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    property::response_holds("GET", bytes);
    property::response_holds("HEAD", bytes);
});
