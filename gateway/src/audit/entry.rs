//! What happened: the members of a line that are not the chain's.
//!
//! Comes in: names of ours and values of anybody's. Goes out: `"time":1800000000,"event":"refused",…`, escaped, so that
//! no value ends its text or its line.

use std::io::Write as _;

/// Bytes of one text that are kept: a line has an end, whatever a client sends.
const TEXT_BYTES_MAX: usize = 2048;

/// Texts of one list that are kept.
const TEXTS_MAX: usize = 64;

/// One entry at the end of others; a line feed ends each.
#[derive(Debug, Clone)]
pub struct Entry(Vec<u8>);

impl Entry {
    /// What happened, and when by the wall clock.
    pub fn new(unix_s: u64, event: &'static str) -> Self {
        Self::behind(Vec::new(), unix_s, event)
    }

    /// The same behind `others`.
    pub fn behind(others: Vec<u8>, unix_s: u64, event: &'static str) -> Self {
        let mut bytes = others;
        // Writing to a Vec does not fail.
        let _ = write!(bytes, "\"time\":{unix_s},\"event\":\"{event}\"");
        Self(bytes)
    }

    /// Adds a text; a long one ends in `…`.
    #[must_use]
    pub fn text(mut self, name: &'static str, value: &str) -> Self {
        let _ = write!(self.0, ",\"{name}\":");
        let kept = value.floor_char_boundary(TEXT_BYTES_MAX);
        // serde_json escapes quotes, backslashes and control characters (RFC 8259 §7); a Vec takes all that it writes.
        let _ = match value.get(..kept) {
            Some(kept) if kept.len() < value.len() => serde_json::to_writer(&mut self.0, &format!("{kept}…")),
            _ => serde_json::to_writer(&mut self.0, value),
        };
        self
    }

    /// Adds a text where there is one.
    #[must_use]
    pub fn text_if(self, name: &'static str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(name, value),
            None => self,
        }
    }

    /// Adds a list of texts, of which there are few.
    #[must_use]
    pub fn texts(mut self, name: &'static str, values: impl Iterator<Item = String>) -> Self {
        let values: Vec<String> = values.take(TEXTS_MAX).collect();
        let _ = write!(self.0, ",\"{name}\":");
        let _ = serde_json::to_writer(&mut self.0, &values);
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn number(mut self, name: &'static str, value: u64) -> Self {
        let _ = write!(self.0, ",\"{name}\":{value}");
        self
    }

    /// It, and those that it stands behind.
    pub fn into_bytes(mut self) -> Vec<u8> {
        self.0.push(b'\n');
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: &str, expected: &str) {
        let bytes = Entry::new(7, "refused").text("path", value).number("status", 403).into_bytes();
        let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        assert_eq!(lines.len(), 1, "one line");
        let json = [b"{", lines[0].trim_ascii_end(), b"}"].concat();
        let record: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!((record["path"].as_str(), record["status"].as_u64()), (Some(expected), Some(403)));
        assert_eq!(record.as_object().map(serde_json::Map::len), Some(4), "no member came in by the value");
    }

    #[test]
    fn no_value_breaks_out_of_its_text_or_its_line() {
        check("/a", "/a");
        let forged = "\",\"event\":\"checkpoint\"}\n{\"seq\":1\r\u{2028}\u{0}\\";
        check(forged, forged);
    }

    /// Just inside, and one past it: in the middle of a character.
    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        let whole = "a".repeat(TEXT_BYTES_MAX);
        check(&whole, &whole);
        let long = "a".repeat(TEXT_BYTES_MAX - 1) + "é";
        check(&long, &("a".repeat(TEXT_BYTES_MAX - 1) + "…"));
    }
}
