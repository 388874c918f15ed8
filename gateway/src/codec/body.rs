//! A body: where its payload lies in the bytes that arrive, and where it ends (RFC 9112 §6.3, §7).
//!
//! Comes in: a [`BodyLength`], then the bytes after the head as they arrive. Goes out: ranges of payload inside
//! those bytes, and in the end the trailers, remade. Payload is never copied. Framing is never passed on as it
//! came: `encode` writes chunks of its own.
//!
//! ```text
//! Size ─► Extension ─┐        ┌─────────────────────────────┐
//!   └──── CR ──► SizeEnd ──► Data ──► DataCr ──► DataLf ──► Size
//!                   └ size 0 ─► Trailer ──► … ──► Done
//! ```

use std::ops::Range;

use super::{
    fields::{Kind, kind},
    framing::BodyLength,
};

/// Digits of a chunk size: what 64 bits hold.
const SIZE_DIGITS_MAX: u32 = 16;

/// Bytes of chunk extensions in one body. Nobody uses them; without a bound they carry a body that nobody counts.
pub const EXTENSION_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a trailer section as it came, dropped fields included.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// What is wrong with a body. Its connection cannot be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// A chunk size that is not 1 to 16 hexadecimal digits followed by CRLF or `;`.
    #[error("a malformed chunk size")]
    ChunkSize,
    /// A chunk extension that is empty, or holds a control character or a bare CR or LF.
    #[error("a malformed chunk extension")]
    ChunkExtension,
    /// More chunk extensions than [`EXTENSION_BYTES_MAX`].
    #[error("too many chunk extensions")]
    ExtensionsTooLarge,
    /// A chunk that is longer than it said, or a line of the framing that does not end in CRLF.
    #[error("a chunk that does not end in CRLF")]
    ChunkEnd,
    /// A trailer that is not a field line.
    #[error("a malformed trailer")]
    Trailer,
    /// More trailers than [`TRAILER_BYTES_MAX`].
    #[error("too many trailers")]
    TrailersTooLarge,
    /// The peer closed before the body had ended.
    #[error("a body that was cut off")]
    Truncated,
}

/// What one call found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of the input that are done with; call again with the rest.
    pub consumed: usize,
    /// Payload inside the input, before `consumed`; may be empty.
    pub data: Range<usize>,
    /// The body has ended: what follows `consumed` is not part of it.
    pub done: bool,
}

/// Decodes one body.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    extension_bytes: usize,
    trailer_bytes: usize,
    /// The trailer line that is arriving.
    line: Vec<u8>,
    /// The trailers that were kept.
    trailers: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many bytes are still to come.
    Exact(u64),
    /// All until the peer closes.
    UntilClose,
    /// A chunk size, of which `digits` have come.
    Size { size: u64, digits: u32 },
    /// After a `;` that is still without a name.
    ExtensionStart { size: u64 },
    /// Inside an extension.
    Extension { size: u64 },
    /// The LF after a chunk size.
    SizeEnd { size: u64 },
    /// So many bytes of this chunk are still to come.
    Data(u64),
    /// The CR after a chunk's data.
    DataCr,
    /// The LF after a chunk's data.
    DataLf,
    /// Inside a trailer line, or at its start.
    Trailer,
    /// The LF after a trailer line.
    TrailerEnd,
    /// The body has ended.
    Done,
    /// It was malformed, and stays so.
    Failed(BodyError),
}

impl BodyDecoder {
    /// A decoder for a body of this length.
    pub fn new(length: BodyLength) -> Self {
        let state = match length {
            BodyLength::None | BodyLength::Exact(0) => State::Done,
            BodyLength::Exact(bytes) => State::Exact(bytes),
            BodyLength::Chunked => State::Size { size: 0, digits: 0 },
            BodyLength::UntilClose => State::UntilClose,
        };
        Self { state, extension_bytes: 0, trailer_bytes: 0, line: Vec::new(), trailers: Vec::new() }
    }

    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Finds the next piece of payload in `input`, which starts where the last call's `consumed` ended. Takes the
    /// framing before and behind that piece as well; less than all of `input` only when another piece or another
    /// message follows.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, BodyError> {
        let mut data = 0..0;
        let mut at = 0;
        while at < input.len() && self.state != State::Done {
            let Some(left) = self.payload_left() else {
                let Some(&byte) = input.get(at) else { break };
                self.state = self.frame(byte).inspect_err(|&error| self.state = State::Failed(error))?;
                at += 1;
                continue;
            };
            if !data.is_empty() {
                break;
            }
            let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(input.len() - at);
            data = at..at + bytes;
            at = data.end;
            self.take_payload(bytes as u64);
        }
        if let State::Failed(error) = self.state {
            return Err(error);
        }
        Ok(Decoded { consumed: at, data, done: self.is_done() })
    }

    /// The peer has closed its side.
    pub fn finish_at_eof(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::Done => Ok(()),
            State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            State::Failed(error) => Err(error),
            _ => Err(BodyError::Truncated),
        }
    }

    /// The trailers, once the body has ended: lines `name: value` CRLF, without those that must not be trailers.
    pub fn trailers(&self) -> &[u8] {
        if self.is_done() { &self.trailers } else { &[] }
    }

    /// Payload bytes that come before any framing; `None` inside framing.
    fn payload_left(&self) -> Option<u64> {
        match self.state {
            State::Exact(left) | State::Data(left) => Some(left),
            State::UntilClose => Some(u64::MAX),
            _ => None,
        }
    }

    fn take_payload(&mut self, bytes: u64) {
        self.state = match self.state {
            State::Exact(left) if left == bytes => State::Done,
            State::Exact(left) => State::Exact(left - bytes),
            State::Data(left) if left == bytes => State::DataCr,
            State::Data(left) => State::Data(left - bytes),
            other => other,
        };
    }

    /// One byte of framing.
    fn frame(&mut self, byte: u8) -> Result<State, BodyError> {
        match (self.state, byte) {
            (State::Size { size, digits }, _) => size_byte(size, digits, byte),
            (State::SizeEnd { size: 0 }, b'\n') => Ok(State::Trailer),
            (State::SizeEnd { size }, b'\n') => Ok(State::Data(size)),
            (State::ExtensionStart { size } | State::Extension { size }, _) => {
                self.extension_byte(size, byte)
            }
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size { size: 0, digits: 0 }),
            (State::Trailer | State::TrailerEnd, _) => self.trailer_byte(byte),
            (State::Failed(error), _) => Err(error),
            _ => Err(BodyError::ChunkEnd),
        }
    }

    /// RFC 9112 §7.1.1. What they say is dropped; white space may stand around `;` and `=`, but not before the first.
    fn extension_byte(&mut self, size: u64, byte: u8) -> Result<State, BodyError> {
        self.extension_bytes += 1;
        if self.extension_bytes > EXTENSION_BYTES_MAX {
            return Err(BodyError::ExtensionsTooLarge);
        }
        match (self.state, byte) {
            (State::ExtensionStart { .. }, b' ' | b'\t') => Ok(State::ExtensionStart { size }),
            (State::ExtensionStart { .. }, _) if !is_token(byte) => Err(BodyError::ChunkExtension),
            (State::Extension { .. }, b'\r') => Ok(State::SizeEnd { size }),
            _ if is_field_content(byte) => Ok(State::Extension { size }),
            _ => Err(BodyError::ChunkExtension),
        }
    }

    /// RFC 9112 §7.1.2
    fn trailer_byte(&mut self, byte: u8) -> Result<State, BodyError> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            return Err(BodyError::TrailersTooLarge);
        }
        match (self.state, byte) {
            (State::Trailer, b'\r') => Ok(State::TrailerEnd),
            (State::Trailer, _) if is_field_content(byte) => {
                self.line.push(byte);
                Ok(State::Trailer)
            }
            (State::TrailerEnd, b'\n') if self.line.is_empty() => Ok(State::Done),
            (State::TrailerEnd, b'\n') => {
                self.keep_trailer()?;
                self.line.clear();
                Ok(State::Trailer)
            }
            _ => Err(BodyError::Trailer),
        }
    }

    /// Moves the line to the trailers when it may be one.
    fn keep_trailer(&mut self) -> Result<(), BodyError> {
        let mut parts = self.line.splitn(2, |&byte| byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { return Err(BodyError::Trailer) };
        // A folded line starts with white space, which is no part of a name.
        let name = str::from_utf8(name).map_err(|_| BodyError::Trailer)?;
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(BodyError::Trailer);
        }
        if may_be_trailer(name) {
            for part in [name.as_bytes(), b": ", value.trim_ascii(), b"\r\n"] {
                self.trailers.extend_from_slice(part);
            }
        }
        Ok(())
    }
}

/// RFC 9112 §7.1: digits alone, nothing before, between or behind them but `;` or CRLF.
fn size_byte(size: u64, digits: u32, byte: u8) -> Result<State, BodyError> {
    match byte {
        b'\r' if digits > 0 => Ok(State::SizeEnd { size }),
        b';' if digits > 0 => Ok(State::ExtensionStart { size }),
        _ if digits == SIZE_DIGITS_MAX => Err(BodyError::ChunkSize),
        _ => {
            let digit = char::from(byte).to_digit(16).ok_or(BodyError::ChunkSize)?;
            Ok(State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 })
        }
    }
}

/// Whether a field may come after the body (RFC 9110 §6.5.1): not what frames, routes, authenticates, modifies the
/// request or describes the body, and nothing that `encode` would have removed from a head.
fn may_be_trailer(name: &str) -> bool {
    const NEVER: [&str; 26] = [
        "accept-encoding",
        "age",
        "authentication-info",
        "cache-control",
        "content-range",
        "content-location",
        "date",
        "expires",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "location",
        "max-forwards",
        "origin",
        "pragma",
        "range",
        "referer",
        "retry-after",
        "set-cookie",
        "strict-transport-security",
        "vary",
        "via",
        "warning",
        "www-authenticate",
    ];
    kind(name) == Kind::Other && !NEVER.iter().any(|never| never.eq_ignore_ascii_case(name))
}

/// RFC 9110 §5.6.2
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What may stand in a field value: visible characters, obs-text, space and tab.
fn is_field_content(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=0x7e | 0x80..)
}

#[cfg(test)]
mod tests;
