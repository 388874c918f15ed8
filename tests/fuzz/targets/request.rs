//! A request head with its body: parsed at every split, encoded for the server, parsed again.
#![no_main]

use portcullis::codec;
#[path = "../property.rs"]
#[allow(dead_code, reason = "each target uses its part")]
mod property;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| property::request_holds(bytes));
