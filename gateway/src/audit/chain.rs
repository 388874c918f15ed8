//! Lines that hold each other: each has its number and the hash of the line before it.
//!
//! Comes in: entries. Goes out: lines, and what the next one has to follow. A line is written in exactly one way,
//! `{"seq":N,"prev":"HASH",ENTRY}`, and read in no other. A checkpoint's last member is a signature over every byte in
//! front of it: of all lines up to there, since it holds the hash of the one before. It opens no file.

use std::io::Write as _;

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{PublicKey, Signer};

/// No line is longer: what is, is none of ours.
pub const LINE_BYTES_MAX: usize = 256 * 1024;

/// What goes before the bytes that are signed, so that the signature means nothing anywhere else.
const SIGNED_AS: &[u8] = b"portcullis audit checkpoint 1\n";
const SIGNATURE_MEMBER: &str = ",\"signature\":\"";

/// The newest line of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its number; the first line's is 1.
    pub seq: u64,
    /// SHA-256 of it, without its line feed.
    pub hash: [u8; 32],
}

impl Head {
    /// Before the first line.
    pub const NONE: Head = Head { seq: 0, hash: [0; 32] };

    /// Writes the next line.
    pub(super) fn push(&mut self, out: &mut Vec<u8>, entry: &[u8]) {
        let start = self.begin(out, entry);
        self.end(out, start);
    }

    /// Writes a checkpoint.
    pub(super) fn push_checkpoint(&mut self, out: &mut Vec<u8>, unix_s: u64, signer: &Signer) {
        let key = STANDARD.encode(signer.public().0);
        let entry = format!("\"time\":{unix_s},\"event\":\"checkpoint\",\"public_key\":\"{key}\"");
        let start = self.begin(out, entry.as_bytes());
        let signature = signer.sign(&signed(out.get(start..).unwrap_or_default()));
        // Writing to a Vec does not fail.
        let _ = write!(out, "{SIGNATURE_MEMBER}{}\"", STANDARD.encode(signature));
        self.end(out, start);
    }

    fn begin(&self, out: &mut Vec<u8>, entry: &[u8]) -> usize {
        let start = out.len();
        let _ = write!(out, "{{\"seq\":{},\"prev\":\"", self.seq.saturating_add(1));
        push_hex(out, &self.hash);
        out.extend_from_slice(b"\",");
        out.extend_from_slice(entry);
        start
    }

    fn end(&mut self, out: &mut Vec<u8>, start: usize) {
        out.push(b'}');
        *self = Head { seq: self.seq.saturating_add(1), hash: hash(out.get(start..).unwrap_or_default()) };
        out.push(b'\n');
    }
}

/// `SEQ:HASH`, as `verify` prints it and takes it.
impl std::fmt::Display for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.seq, hex(&self.hash))
    }
}

impl std::str::FromStr for Head {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (seq, hash) = text.split_once(':').ok_or("not NUMBER:HASH")?;
        let hash = hash_of_hex(hash.as_bytes()).ok_or("its hash is not 64 lower-case hexadecimal digits")?;
        Ok(Head { seq: number(seq.as_bytes()).ok_or("its number is none")?, hash })
    }
}

/// A line, taken apart. Whether it follows another is for whoever has that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'l> {
    /// Its number.
    pub(super) seq: u64,
    /// The hash that it gives of the line before.
    pub(super) prev: [u8; 32],
    /// All of it, without its line feed.
    pub(super) bytes: &'l [u8],
    /// What happened.
    entry: &'l [u8],
}

/// What a checkpoint says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Checkpoint<'l> {
    pub(super) key: PublicKey,
    signed: &'l [u8],
    signature: [u8; 64],
}

impl<'l> Line<'l> {
    /// Reads a line; none: it was not written by [`Head::push`].
    pub(super) fn parse(bytes: &'l [u8]) -> Option<Self> {
        if bytes.len() > LINE_BYTES_MAX || serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_err() {
            return None;
        }
        let rest = bytes.strip_prefix(b"{\"seq\":")?;
        let (seq, rest) = rest.split_at_checked(rest.iter().position(|byte| *byte == b',')?)?;
        let rest = rest.strip_prefix(b",\"prev\":\"")?;
        let (prev, rest) = rest.split_at_checked(64)?;
        let entry = rest.strip_prefix(b"\",\"time\":").and_then(|_| rest.strip_prefix(b"\","))?;
        let (seq, prev) = (number(seq).filter(|seq| *seq > 0)?, hash_of_hex(prev)?);
        Some(Self { seq, prev, bytes, entry: entry.strip_suffix(b"}")? })
    }

    /// The newest line is this one, then.
    pub(super) fn head(&self) -> Head {
        Head { seq: self.seq, hash: hash(self.bytes) }
    }

    /// Lines that it says were lost.
    pub(super) fn lost(&self) -> u64 {
        let told = |members: &[u8]| number(members.strip_prefix(b"\"event\":\"lost\",\"lines\":")?);
        self.members().and_then(told).unwrap_or(0)
    }

    /// What stands behind the time.
    fn members(&self) -> Option<&'l [u8]> {
        let rest = self.entry.strip_prefix(b"\"time\":")?;
        rest.get(rest.iter().position(|byte| *byte == b',')? + 1..)
    }

    /// Whether it is called a checkpoint.
    pub(super) fn is_checkpoint(&self) -> bool {
        self.checkpoint_members().is_some()
    }

    fn checkpoint_members(&self) -> Option<&'l [u8]> {
        self.members()?.strip_prefix(b"\"event\":\"checkpoint\"")
    }

    /// What it signs; none: it is no checkpoint, whatever it is called.
    pub(super) fn checkpoint(&self) -> Option<Checkpoint<'l>> {
        let (key, signature) = (44, 88);
        let rest = self.checkpoint_members()?.strip_prefix(b",\"public_key\":\"")?;
        let (key, rest) = rest.split_at_checked(key)?;
        let rest = rest.strip_prefix(b"\"")?.strip_prefix(SIGNATURE_MEMBER.as_bytes())?;
        let (signature, rest) = rest.split_at_checked(signature)?;
        if rest != b"\"" {
            return None;
        }
        let unsigned_bytes = SIGNATURE_MEMBER.len() + signature.len() + b"\"}".len();
        Some(Checkpoint {
            key: PublicKey(STANDARD.decode(key).ok()?.try_into().ok()?),
            signature: STANDARD.decode(signature).ok()?.try_into().ok()?,
            signed: self.bytes.get(..self.bytes.len().checked_sub(unsigned_bytes)?)?,
        })
    }
}

impl Checkpoint<'_> {
    /// Whether its key has made its signature.
    pub(super) fn is_signed(&self) -> bool {
        self.key.has_signed(&signed(self.signed), &self.signature)
    }
}

fn signed(bytes: &[u8]) -> Vec<u8> {
    [SIGNED_AS, bytes].concat()
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, bytes);
    // SHA-256 has so many bytes.
    digest.as_ref().try_into().unwrap_or_default()
}

fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut out = Vec::with_capacity(2 * bytes.len());
    push_hex(&mut out, bytes);
    String::from_utf8_lossy(&out).into_owned()
}

fn hash_of_hex(hex: &[u8]) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if hex.len() != 2 * hash.len() {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(hex.chunks_exact(2)) {
        let nibble = |digit: &u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let [high, low] = pair else { return None };
        *byte = nibble(high)? << 4 | nibble(low)?;
    }
    Some(hash)
}

/// As it is written: digits, without a zero in front.
fn number(digits: &[u8]) -> Option<u64> {
    let is_plain = digits.iter().all(u8::is_ascii_digit) && (digits.first() != Some(&b'0') || digits == b"0");
    str::from_utf8(digits).ok().filter(|_| is_plain)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(head: &mut Head, entry: &str) -> Vec<u8> {
        let mut out = Vec::new();
        head.push(&mut out, entry.as_bytes());
        assert_eq!(out.pop(), Some(b'\n'));
        out
    }

    #[track_caller]
    fn refuses(text: &str) {
        assert_eq!(Line::parse(text.as_bytes()), None, "{text}");
    }

    #[test]
    fn a_line_is_read_as_it_was_written_and_in_no_other_way() {
        let mut head = Head::NONE;
        let first = line(&mut head, r#""time":1,"event":"started""#);
        let read = Line::parse(&first).expect("ours");
        assert_eq!((read.seq, read.prev, read.head()), (1, [0; 32], head));
        let second = line(&mut head, r#""time":1,"event":"refused""#);
        assert_eq!(Line::parse(&second).map(|second| second.prev), Some(read.head().hash));

        let text = String::from_utf8(first).expect("ASCII");
        for (from, to) in [
            ("{\"seq\"", "{ \"seq\""),
            (":1,", ":01,"),
            (":1,", ":+1,"),
            ("\"seq\":1", "\"seq\":0"),
            ("\"seq\":1", "\"seq\":18446744073709551616"),
            ("0000", "000"),
            ("0000", "A000"),
            ("\"time\"", "\"at\""),
            ("}", ""),
            ("}", "}}"),
            ("}", "} "),
        ] {
            refuses(&text.replacen(from, to, 1));
        }
        refuses("");
    }

    #[test]
    fn a_head_is_read_as_it_is_shown() {
        let mut head = Head::NONE;
        line(&mut head, r#""time":1,"event":"started""#);
        assert_eq!(head.to_string().parse(), Ok(head));
        for text in ["", "1", "1:", "x:00", &format!("{head}0"), &head.to_string().to_uppercase()] {
            assert!(text.parse::<Head>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_checkpoint_is_signed_to_its_last_byte() {
        let signer = Signer::generate().expect("randomness");
        let mut head = Head::NONE;
        let mut out = Vec::new();
        head.push_checkpoint(&mut out, 7, &signer);
        out.pop();
        let line = Line::parse(&out).expect("ours");
        let checkpoint = line.checkpoint().expect("is one");
        assert!(line.is_checkpoint() && checkpoint.is_signed() && checkpoint.key == signer.public());
        // Whatever byte is changed: it is no line, no checkpoint, or not signed.
        for at in 0..out.len() {
            let mut changed = out.clone();
            changed[at] ^= 1;
            let good = Line::parse(&changed)
                .and_then(|line| {
                    Some(line.checkpoint()?.is_signed() && line.checkpoint()?.key == signer.public())
                })
                .unwrap_or(false);
            assert!(!good, "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            if let Some(line) = Line::parse(&bytes) {
                let _ = line.checkpoint();
            }
        }

        #[test]
        fn what_is_almost_a_line_does_not_panic(seq in any::<u64>(), cut in 0_usize..200, junk in ".{0,8}") {
            let mut head = Head { seq, hash: [7; 32] };
            let mut out = Vec::new();
            head.push(&mut out, format!(r#""time":1,"event":"checkpoint","public_key":"{}""#, "A".repeat(44)).as_bytes());
            let at = cut.min(out.len());
            out.splice(at..at, junk.bytes());
            if let Some(line) = Line::parse(&out) {
                let _ = line.checkpoint();
            }
        }
    }
}
