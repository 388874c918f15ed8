//! Just enough HTTP/1.1: one request as bytes, and where an answer to it ends. RFC 9112.

use std::io;

use crate::Target;

const FIELDS_MAX: usize = 64;

/// The bytes of the one request that is made again and again.
pub(crate) fn request(target: &Target, keep_alive: bool) -> Vec<u8> {
    let mut text = format!("GET {} HTTP/1.1\r\nhost: {}\r\n", target.target, target.host);
    for header in &target.header {
        text.push_str(header);
        text.push_str("\r\n");
    }
    if !keep_alive {
        text.push_str("connection: close\r\n");
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// An answer that is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Head and body.
    pub(crate) bytes: usize,
}

/// The answer at the front of `bytes` once its head is whole; it may end later than `bytes` do.
///
/// Every server here is told what to send: an answer without `content-length` is an error.
pub(crate) fn answer(bytes: &[u8]) -> io::Result<Option<Answer>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Response::new(&mut fields);
    let malformed = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let head_bytes = match head.parse(bytes) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(malformed(error.to_string())),
    };
    let length = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|field| std::str::from_utf8(field.value).ok()?.trim().parse::<usize>().ok());
    let status = head.code.unwrap_or(0);
    match length {
        Some(length) => Ok(Some(Answer { status, bytes: head_bytes + length })),
        None => Err(malformed(format!("an answer of status {status} without content-length"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_its_length_says() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        for end in 0..whole.len() {
            let found = answer(&whole[..end]).unwrap();
            let expected = (end >= whole.len() - 5).then_some(Answer { status: 200, bytes: whole.len() });
            assert_eq!(found, expected, "{end}");
        }
        assert!(answer(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(answer(b"SSH-2.0\r\n").is_err());
    }
}
