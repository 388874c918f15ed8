//! Where a message ends (RFC 9112 §6): the rules that requests and responses share.
//!
//! Comes in: the framing fields of a head, one by one. Goes out: how long the body is, or why that cannot be said.
//! Stricter than the RFC where peers disagree: any second `Content-Length` is refused, also an equal one and the
//! list `5, 5`; `Transfer-Encoding` is the one word `chunked`. It never guesses and never repairs.

use super::{
    fields::{CONNECTION_OPTIONS_MAX, list},
    head::Version,
};

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// There is no body and nothing says how long it would be.
    None,
    /// So many bytes, which may be zero.
    Exact(u64),
    /// Chunks with their own lengths.
    Chunked,
    /// All until the peer closes; responses only.
    UntilClose,
}

/// Why the end of a message cannot be said. Each is how requests are smuggled: the connection must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// Both `Content-Length` and `Transfer-Encoding`.
    #[error("both Content-Length and Transfer-Encoding")]
    ConflictingLength,
    /// More than one `Content-Length`, equal or not.
    #[error("more than one Content-Length")]
    RepeatedLength,
    /// A `Content-Length` that is not digits alone, or more than 64 bits hold.
    #[error("a Content-Length that is not a number")]
    InvalidLength,
    /// A `Transfer-Encoding` that is not exactly `chunked`.
    #[error("a Transfer-Encoding that is not exactly \"chunked\"")]
    UnknownTransferEncoding,
    /// More than one `Transfer-Encoding`.
    #[error("more than one Transfer-Encoding")]
    RepeatedTransferEncoding,
    /// `Transfer-Encoding` in an HTTP/1.0 message, which does not know it.
    #[error("Transfer-Encoding in an HTTP/1.0 message")]
    TransferEncodingInHttp10,
    /// `Connection` lists more options than any honest peer does.
    #[error("too many connection options")]
    TooManyConnectionOptions,
}

/// What the framing fields of a head have said so far.
#[derive(Debug, Default)]
pub(crate) struct Framing {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    options: usize,
}

impl Framing {
    /// A `Content-Length` field.
    pub(crate) fn content_length(&mut self, value: &[u8]) -> Result<(), FramingError> {
        if self.length.is_some() {
            return Err(FramingError::RepeatedLength);
        }
        self.length = Some(decimal(value).ok_or(FramingError::InvalidLength)?);
        Ok(())
    }

    /// A `Transfer-Encoding` field; `line` is what stands between its colon and its CRLF, white space included,
    /// because peers differ in what they take for white space.
    pub(crate) fn transfer_encoding(&mut self, line: &[u8]) -> Result<(), FramingError> {
        if self.chunked {
            return Err(FramingError::RepeatedTransferEncoding);
        }
        let mut value = line;
        while let [b' ', rest @ ..] | [rest @ .., b' '] = value {
            value = rest;
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(FramingError::UnknownTransferEncoding);
        }
        self.chunked = true;
        Ok(())
    }

    /// A `Connection` field.
    pub(crate) fn connection(&mut self, value: &[u8]) -> Result<(), FramingError> {
        for option in list(value) {
            self.options += 1;
            if self.options > CONNECTION_OPTIONS_MAX {
                return Err(FramingError::TooManyConnectionOptions);
            }
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
        Ok(())
    }

    /// What the fields say together; [`BodyLength::None`] when they say nothing.
    pub(crate) fn body(&self, version: Version) -> Result<BodyLength, FramingError> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(FramingError::ConflictingLength),
            (true, None) if version == Version::Http10 => Err(FramingError::TransferEncodingInHttp10),
            (true, None) => Ok(BodyLength::Chunked),
            (false, Some(length)) => Ok(BodyLength::Exact(length)),
            (false, None) => Ok(BodyLength::None),
        }
    }

    /// Whether the sender means to go on using the connection (RFC 9112 §9.3).
    pub(crate) fn keep_alive(&self, version: Version) -> bool {
        !self.close && (version != Version::Http10 || self.keep_alive)
    }
}

/// The bytes between a field's colon and its CRLF. `name` lies inside `bytes`, in a line that ends in CRLF.
pub(crate) fn raw_value<'b>(bytes: &'b [u8], name: &str) -> &'b [u8] {
    let colon = (name.as_ptr().addr() + name.len()).wrapping_sub(bytes.as_ptr().addr());
    let rest = bytes.get(colon.saturating_add(1)..).unwrap_or_default();
    rest.split(|&byte| byte == b'\r').next().unwrap_or_default()
}

/// 1*DIGIT that fits into 64 bits.
pub(crate) fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |sum, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}
