//! A chunked body: decoded in pieces of every kind, framed again, decoded again.
#![no_main]

use portcullis::codec;
#[path = "../property.rs"]
#[allow(dead_code, reason = "each target uses its part")]
mod property;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| property::chunked_holds(bytes));
