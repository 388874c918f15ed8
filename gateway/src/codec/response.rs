//! A response head from an upstream: bytes → [`ResponseHead`] (RFC 9112 §4, §6.3).
//!
//! Comes in: what the upstream has sent so far and the method that it answers. Goes out: nothing yet, a head (interim
//! ones are heads as well), or what the upstream did wrong. An upstream is held to the same framing rules as a
//! client: a response that two peers may read differently poisons the connection (attacks, row 47).

use std::fmt;

use super::{
    fields::{Fields, HEADERS_MAX, HeaderSlots, Kind, kind},
    framing::{BodyLength, Framing, FramingError, raw_value},
    head::{HeadLimits, Version, has_bare_line_feed},
};

/// What the upstream did wrong. Nothing of such a response goes to the client, and its connection is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// The status line is not `HTTP/1.x`, three digits and a reason.
    #[error("a malformed status line")]
    MalformedStatus,
    /// A status below 100 or above 599.
    #[error("a status that does not exist")]
    UnknownStatus,
    /// A line that does not end in CRLF.
    #[error("a line that does not end in CRLF")]
    LineEnd,
    /// A field name that is not a token followed by its colon.
    #[error("a malformed field name")]
    FieldName,
    /// A control character in a field value.
    #[error("a malformed field value")]
    FieldValue,
    /// The head is longer than `head_bytes_max`.
    #[error("a head that is too large")]
    HeadTooLarge,
    /// There are more fields than `headers_max`.
    #[error("too many header fields")]
    TooManyFields,
    /// 101, which nobody asked for.
    #[error("a switch of protocols that nobody asked for")]
    UnaskedUpgrade,
    /// Where the response ends cannot be said.
    #[error(transparent)]
    Framing(#[from] FramingError),
}

/// A response head that has one meaning.
pub struct ResponseHead<'h, 'b> {
    /// What the upstream speaks.
    pub version: Version,
    /// 100 to 599; 101 only from [`switched_head`].
    pub status: u16,
    /// May be empty; visible ASCII, spaces and tabs.
    pub reason: &'b str,
    /// All fields as they came.
    pub headers: Fields<'h, 'b>,
    /// How its body ends; [`BodyLength::None`] by method or status.
    pub body: BodyLength,
    /// The connection can be used again when the body has ended.
    pub keep_alive: bool,
    /// Bytes up to the first one of the body.
    pub head_bytes: usize,
}

impl ResponseHead<'_, '_> {
    /// Another head follows this one (RFC 9110 §15.2), except behind 101.
    pub fn is_interim(&self) -> bool {
        self.status < 200
    }
}

impl fmt::Debug for ResponseHead<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseHead")
            .field("version", &self.version)
            .field("status", &self.status)
            .field("reason", &self.reason)
            .field("headers", &self.headers)
            .field("body", &self.body)
            .field("keep_alive", &self.keep_alive)
            .field("head_bytes", &self.head_bytes)
            .finish()
    }
}

/// Reads the response head that `bytes` start with, which answers a `request_method`. `Ok(None)`: it has not ended,
/// read more and call again with all of it. An interim head (1xx) is one as well: the caller drops or sends it, and
/// calls again behind it. `limits.target_bytes_max` has no meaning here.
pub fn response_head<'h, 'b>(
    bytes: &'b [u8],
    slots: &'h mut HeaderSlots<'b>,
    request_method: &str,
    limits: &HeadLimits,
) -> Result<Option<ResponseHead<'h, 'b>>, ResponseError> {
    match any_head(bytes, slots, request_method, limits)? {
        Some(head) if head.status == 101 => Err(ResponseError::UnaskedUpgrade),
        head => Ok(head),
    }
}

/// The same for a `GET` that asked for a switch of protocols: 101 is a head as well, and the last one on its connection.
/// Whether the server switched to what was asked for is told by [`agrees`](super::agrees).
pub fn switched_head<'h, 'b>(
    bytes: &'b [u8],
    slots: &'h mut HeaderSlots<'b>,
    limits: &HeadLimits,
) -> Result<Option<ResponseHead<'h, 'b>>, ResponseError> {
    any_head(bytes, slots, "GET", limits)
}

fn any_head<'h, 'b>(
    bytes: &'b [u8],
    slots: &'h mut HeaderSlots<'b>,
    request_method: &str,
    limits: &HeadLimits,
) -> Result<Option<ResponseHead<'h, 'b>>, ResponseError> {
    // httparse would skip empty lines.
    if matches!(bytes.first(), Some(b'\r' | b'\n')) {
        return Err(ResponseError::MalformedStatus);
    }
    let within = bytes.get(..limits.head_bytes_max).unwrap_or(bytes);
    let slots = slots.0.get_mut(..limits.headers_max.min(HEADERS_MAX)).unwrap_or_default();
    let mut response = httparse::Response::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, within, slots);
    let head_bytes = match parsed {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) if bytes.len() < limits.head_bytes_max => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(ResponseError::HeadTooLarge),
        Err(error) => return Err(syntax_error(error)),
    };
    let message = within.get(..head_bytes).unwrap_or(within);
    if has_bare_line_feed(message) {
        return Err(ResponseError::LineEnd);
    }
    // httparse has set both when it says that the head is complete.
    let (Some(status), Some(minor)) = (response.code, response.version) else {
        return Err(ResponseError::MalformedStatus);
    };
    if !(100..=599).contains(&status) {
        return Err(ResponseError::UnknownStatus);
    }
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    let headers = Fields(response.headers);
    let framing = framing(&headers, message)?;
    let body = body(&framing, version, status, request_method)?;
    Ok(Some(ResponseHead {
        version,
        status,
        reason: response.reason.unwrap_or_default(),
        headers,
        body,
        keep_alive: framing.keep_alive(version) && body != BodyLength::UntilClose,
        head_bytes,
    }))
}

fn framing(headers: &Fields<'_, '_>, message: &[u8]) -> Result<Framing, FramingError> {
    let mut framing = Framing::default();
    for (name, value) in headers.iter() {
        match kind(name) {
            Kind::Connection => framing.connection(value)?,
            Kind::ContentLength => framing.content_length(value)?,
            Kind::TransferEncoding => framing.transfer_encoding(raw_value(message, name))?,
            _ => {}
        }
    }
    Ok(framing)
}

/// RFC 9112 §6.3, in its order; fields that contradict each other are refused even where no body can follow.
fn body(
    framing: &Framing,
    version: Version,
    status: u16,
    request_method: &str,
) -> Result<BodyLength, FramingError> {
    let declared = framing.body(version)?;
    if request_method == "HEAD" || status < 200 || status == 204 || status == 304 {
        return Ok(BodyLength::None);
    }
    Ok(if declared == BodyLength::None { BodyLength::UntilClose } else { declared })
}

fn syntax_error(error: httparse::Error) -> ResponseError {
    match error {
        httparse::Error::HeaderName => ResponseError::FieldName,
        httparse::Error::HeaderValue => ResponseError::FieldValue,
        httparse::Error::TooManyHeaders => ResponseError::TooManyFields,
        httparse::Error::NewLine => ResponseError::LineEnd,
        httparse::Error::Version | httparse::Error::Status | httparse::Error::Token => {
            ResponseError::MalformedStatus
        }
    }
}

#[cfg(test)]
mod tests;
