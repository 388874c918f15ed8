//! One response: its head, and how the end of its body is known.
//!
//! Comes in: the octets at the front of a connection. Goes out: status, fields and framing, or why it is none. It
//! reads nothing itself. RFC 9112 §6.3, §9.3.

use super::ClientError;

/// Header fields that a response may have.
pub(super) const FIELDS_MAX: usize = 128;
/// Octets of a response's body.
pub(in crate::lab) const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// One response, body and all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code; 1xx are responses of their own.
    pub status: u16,
    /// Names in lower case with values as they came, one char per octet (ISO 8859-1).
    pub headers: Vec<(String, String)>,
    /// The body, chunks put together.
    pub body: Vec<u8>,
    /// Fields after the last chunk.
    pub trailers: Vec<(String, String)>,
    /// Whether the connection may carry another request.
    pub keep_alive: bool,
}

impl Response {
    /// The first value of a field; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        field(&self.headers, name)
    }

    /// The body as text; octets that are no UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// How the end of a body is known: RFC 9112 §6.3.
pub(super) enum Framing {
    None,
    Length(usize),
    Chunked,
    UntilClose,
}

/// The head at the front of `bytes`, the minor version and the head's length; `None` when there is more to come.
pub(super) fn parse_head(bytes: &[u8]) -> Result<Option<(Response, u8, usize)>, ClientError> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Response::new(&mut fields);
    match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => {
            let response = Response {
                status: head.code.unwrap_or(0),
                headers: owned(head.headers),
                body: Vec::new(),
                trailers: Vec::new(),
                keep_alive: false,
            };
            Ok(Some((response, head.version.unwrap_or(0), length)))
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(error) => Err(ClientError::Malformed(error.to_string())),
    }
}

/// RFC 9112 §6.3
pub(super) fn framing(response: &Response, method: &str) -> Result<Framing, ClientError> {
    let length = response.header("content-length");
    let coding = response.header("transfer-encoding");
    match (response.status, coding, length) {
        (100..200 | 204 | 304, ..) => Ok(Framing::None),
        _ if method == "HEAD" => Ok(Framing::None),
        (_, Some(_), Some(_)) => {
            Err(ClientError::Malformed("content-length beside transfer-encoding".into()))
        }
        (_, Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
        (_, Some(coding), None) => Err(ClientError::Malformed(format!("transfer-encoding {coding}"))),
        (_, None, Some(length)) => match length.parse() {
            Ok(length) if length <= BODY_BYTES_MAX => Ok(Framing::Length(length)),
            _ => Err(ClientError::Malformed(format!("content-length {length}"))),
        },
        (_, None, None) => Ok(Framing::UntilClose),
    }
}

/// RFC 9112 §9.3
pub(super) fn keep_alive(response: &Response, version: u8, framing: &Framing) -> bool {
    let asked = |option: &str| {
        let fields = response.headers.iter().filter(|(name, _)| name == "connection");
        fields
            .flat_map(|(_, value)| value.split(','))
            .any(|listed| listed.trim().eq_ignore_ascii_case(option))
    };
    let wanted = if version == 0 { asked("keep-alive") } else { !asked("close") };
    wanted && !matches!(framing, Framing::UntilClose)
}

pub(super) fn owned(fields: &[httparse::Header<'_>]) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| bytes.iter().copied().map(char::from).collect();
    fields.iter().map(|field| (field.name.to_ascii_lowercase(), text(field.value))).collect()
}

fn field<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(listed, _)| listed == name).map(|(_, value)| value.as_str())
}
