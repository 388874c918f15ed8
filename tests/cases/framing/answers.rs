//! What servers answer, byte for byte: malformed, and legal but rare. Row 47 and fault row 5.

/// Answers that are refused with 502, and nothing of them told.
pub(super) fn malformed() -> Vec<Vec<u8>> {
    let heads: &[&[u8]] = &[
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"\x15\x03\x03\x00\x02\x02\x46\r\n\r\n",
        b"hello\r\n\r\n",
        b"<html></html>\r\n\r\n",
        b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/0.9 200 OK\r\n\r\n",
        b"HTTP/1.2 200 OK\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"http/1.1 200 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 -200 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 600 OK\r\n\r\n",
        b"HTTP/1.1 200 O\0K\r\n\r\n",
        b"HTTP/1.1 200 O\rK\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ];
    let fields: &[&[u8]] = &[
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: 5\r\nContent-Length: 5",
        b"Content-Length: 5, 5",
        b"Content-Length: +5",
        b"Content-Length: -5",
        b"Content-Length: 0x5",
        b"Content-Length: 5 5",
        b"Content-Length:",
        b"Content-Length: 18446744073709551616",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: \x0bchunked",
        b"Transfer-Encoding: \"chunked\"",
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding:\r\n chunked",
        b"X: a\r\n b",
        b"X : a",
        b" X: a",
        b"X",
        b": a",
        b"X: a\rb",
        b"X: a\nb",
        b"X: a\0b",
        b"X: a\x1bb",
        b"X: a\x7fb",
        b"X\0: a",
        b"X\xe9: a",
    ];
    let with_head = fields.iter().map(|field| [b"HTTP/1.1 200 OK\r\n", *field, b"\r\n\r\nhello"].concat());
    let old = b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec();
    heads.iter().map(|head| head.to_vec()).chain(with_head).chain([old]).collect()
}

/// Chunked bodies of which the client must not see an end.
pub(super) fn malformed_chunks() -> Vec<&'static [u8]> {
    vec![
        b"5\r\nhello\r\n0x0\r\n\r\n",
        b"5\r\nhello\r\n+0\r\n\r\n",
        b"5\r\nhello\r\n 0\r\n\r\n",
        b"5\r\nhello\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello\n0\n\n",
        b"5\r\nhello\r\n0;\n\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX : y\r\n\r\n",
        b"5\r\nhello\r\n0\r\n folded\r\n\r\n",
        b"5\r\nhello\r\nfffffffffffffffff\r\n",
        b"5\r\nhello\r\n0\r\n",
        b"5\r\nhello\r\n",
        b"6\r\nhello",
    ]
}

/// An answer, what the client sees of its body, and whether the server closes to end it.
pub(super) fn legal() -> Vec<(&'static [u8], &'static str, bool)> {
    vec![
        (b"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhello", "hello", false),
        (b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", "hello", false),
        (b"HTTP/1.1 200 \xe9\t!\r\nContent-Length: 5\r\n\r\nhello", "hello", false),
        (b"HTTP/1.1 200 OK\r\nContent-Length:\t005 \r\nX:\r\nY: \xff\r\n\r\nhello", "hello", false),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", "hello", true),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", "hello", true),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", false),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", "", true),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding:CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "hello", false),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=\"b\"\r\nhe\r\n03\r\nllo\r\n0;c\r\nX: y\r\n\r\n",
            "hello",
            false,
        ),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "hello",
            false,
        ),
    ]
}
