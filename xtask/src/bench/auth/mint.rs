//! API keys by the million, in the form that `portcullis keys import` reads: the gateway's own format, made here so that
//! nobody waits for a million commands.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context, ensure};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use xtask::lab::place::Place;

/// Nothing is protected by it: it hashes keys of a bench.
const HASH_KEY: [u8; 32] = [7; 32];
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Puts `count` keys into a new store, and into `lines` a header line for each `every`th of them.
pub(super) fn store(
    binary: &Path,
    store: &Path,
    lines: &Path,
    (count, every): (u64, u64),
) -> anyhow::Result<()> {
    let import = store.with_extension("jsonl");
    let mut keys = BufWriter::new(File::create(&import)?);
    let mut shown = BufWriter::new(File::create(lines)?);
    writeln!(keys, r#"{{"hash_key":"{}"}}"#, STANDARD_NO_PAD.encode(HASH_KEY))?;
    for number in 0..count {
        let (id, secret) = (word(number, 8), word(number, 32));
        let mut mac = Hmac::<Sha256>::new_from_slice(&HASH_KEY)?;
        mac.update(secret.as_bytes());
        let hash = STANDARD_NO_PAD.encode(mac.finalize().into_bytes());
        writeln!(
            keys,
            r#"{{"id":"{id}","consumer":"bench","roles":["reader"],"hash":"{hash}","created":"2026-01-01T00:00:00Z"}}"#
        )?;
        if number % every == 0 {
            writeln!(shown, "x-api-key: {}", text(&id, &secret))?;
        }
    }
    keys.flush()?;
    shown.flush()?;
    let mut command = Place::here().command(binary);
    let output = command.args(["keys", "import", "--store"]).arg(store).arg(&import).output();
    let output = output.with_context(|| binary.display().to_string())?;
    ensure!(output.status.success(), "keys import: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(std::fs::remove_file(import)?)
}

/// `len` digits of base 62 that look like no order.
fn word(number: u64, len: usize) -> String {
    let mut state = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let digit = |_| {
        state ^= state >> 30;
        state = state.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state ^= state >> 27;
        digit(state >> 8)
    };
    (0..len).map(digit).collect()
}

/// The key as its holder shows it.
fn text(id: &str, secret: &str) -> String {
    let body = format!("ptc_{id}_{secret}");
    let mut rest = u64::from(crc32(body.as_bytes()));
    let mut checksum = ['0'; 6];
    for place in checksum.iter_mut().rev() {
        *place = digit(rest);
        rest /= 62;
    }
    body + &String::from_iter(checksum)
}

fn digit(value: u64) -> char {
    usize::try_from(value % 62).ok().and_then(|at| BASE62.get(at)).map_or('0', |digit| char::from(*digit))
}

/// CRC-32 as in IEEE 802.3, bit by bit: a bench can wait.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        let shift = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
        (0..8).fold(crc ^ u32::from(*byte), shift)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn a_key_has_the_form_that_the_gateway_reads() {
        let key = text(&word(0, 8), &word(0, 32));
        assert_eq!(key.len(), "ptc_".len() + 8 + 1 + 32 + 6);
        assert!(key.starts_with("ptc_"));
    }

    #[test]
    fn ids_differ() {
        let mut ids: Vec<String> = (0..100_000).map(|number| word(number, 8)).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 100_000);
    }
}
