//! Just enough of RFC 9112: a head without the fields of this hop, and how long the body after it is.

const FIELDS_MAX: usize = 64;

/// A head that was rewritten.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// How many bytes it took.
    pub(crate) bytes: usize,
    /// `content-length`, or 0.
    pub(crate) body_bytes: usize,
}

/// Writes the request head at the front of `bytes` to `out`; `None` when it is not whole or not one.
pub(crate) fn rewrite_request(bytes: &[u8], out: &mut Vec<u8>) -> Option<Head> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(head_bytes) = head.parse(bytes).ok()? else { return None };
    for part in [head.method?, " ", head.path?, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    Some(Head { bytes: head_bytes, body_bytes: write_fields(head.headers, out)? })
}

/// The same for an answer.
pub(crate) fn rewrite_response(bytes: &[u8], out: &mut Vec<u8>) -> Option<Head> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(head_bytes) = head.parse(bytes).ok()? else { return None };
    let status = head.code?;
    let digit = |place: u16| b'0' + u8::try_from(status / place % 10).unwrap_or(0);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(&[digit(100), digit(10), digit(1), b' ']);
    out.extend_from_slice(head.reason?.as_bytes());
    out.extend_from_slice(b"\r\n");
    Some(Head { bytes: head_bytes, body_bytes: write_fields(head.headers, out)? })
}

/// All fields but those of the hop, and the empty line; the length of the body.
fn write_fields(fields: &[httparse::Header<'_>], out: &mut Vec<u8>) -> Option<usize> {
    let mut body_bytes = 0;
    for field in fields {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("connection") || is("keep-alive") || is("proxy-connection") || is("te") || is("upgrade") {
            continue;
        }
        if is("transfer-encoding") {
            return None;
        }
        if is("content-length") {
            body_bytes = std::str::from_utf8(field.value).ok()?.parse().ok()?;
        }
        out.extend_from_slice(field.name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(field.value);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Some(body_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_hop_are_dropped() {
        let mut out = Vec::new();
        let request = b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nx-y: z\r\n\r\n";
        let head = rewrite_request(request, &mut out).unwrap();
        assert_eq!(head, Head { bytes: request.len(), body_bytes: 0 });
        assert_eq!(out, b"GET /a HTTP/1.1\r\nHost: x\r\nx-y: z\r\n\r\n");
    }

    #[test]
    fn an_answer_keeps_its_status_and_length() {
        let mut out = Vec::new();
        let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\nKeep-Alive: x\r\n\r\nabc";
        let head = rewrite_response(answer, &mut out).unwrap();
        assert_eq!(head, Head { bytes: answer.len() - 3, body_bytes: 3 });
        assert_eq!(out, b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\n");
    }

    #[test]
    fn what_is_not_whole_or_chunked_is_nothing() {
        for bytes in ["GET / HTTP/1.1\r\nHost", "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "\0"]
        {
            assert_eq!(rewrite_request(bytes.as_bytes(), &mut Vec::new()), None, "{bytes}");
        }
    }
}
