//! libFuzzer's entry: the codec, from its source, under the property.
#![no_main]

#[path = "../../gateway/src/codec/mod.rs"]
pub mod codec;
mod property;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| property::holds(bytes));
