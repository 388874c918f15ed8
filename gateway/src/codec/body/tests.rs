//! Rows 12 to 15 of the attacks on framing, at every split point.

use super::{BodyDecoder, BodyError, BodyLength, EXTENSION_BYTES_MAX, TRAILER_BYTES_MAX};

/// Payload, trailers and unread bytes of a body that arrives in these pieces.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    payload: Vec<u8>,
    trailers: String,
    unread: usize,
}

/// `None`: it has not ended.
fn read(length: BodyLength, pieces: &[&[u8]]) -> Result<Option<Read>, BodyError> {
    let mut decoder = BodyDecoder::new(length);
    let mut payload = Vec::new();
    let mut unread = 0;
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() && !decoder.is_done() {
            let decoded = decoder.decode(rest)?;
            assert!(decoded.consumed > 0 && decoded.data.end <= decoded.consumed, "{decoded:?}");
            payload.extend_from_slice(&rest[decoded.data]);
            rest = &rest[decoded.consumed..];
            assert_eq!(decoded.done, decoder.is_done());
        }
        unread += rest.len();
    }
    let trailers = String::from_utf8_lossy(decoder.trailers()).into_owned();
    Ok(decoder.is_done().then_some(Read { payload, trailers, unread }))
}

/// Reads it whole, in two pieces split anywhere, and byte by byte.
#[track_caller]
fn everywhere(length: BodyLength, bytes: &[u8]) -> Result<Option<Read>, BodyError> {
    let expected = read(length, &[bytes]);
    let text = String::from_utf8_lossy(bytes);
    for at in 0..=bytes.len() {
        assert_eq!(read(length, &[&bytes[..at], &bytes[at..]]), expected, "split at {at}: {text:?}");
    }
    let single: Vec<_> = bytes.chunks(1).collect();
    assert_eq!(read(length, &single), expected, "byte by byte: {text:?}");
    expected
}

#[track_caller]
fn chunked(bytes: &str, payload: &str, trailers: &str) {
    let expected = Read { payload: payload.into(), trailers: trailers.into(), unread: 0 };
    assert_eq!(everywhere(BodyLength::Chunked, bytes.as_bytes()), Ok(Some(expected)), "{bytes:?}");
}

#[track_caller]
fn refused(bytes: &str, expected: BodyError) {
    assert_eq!(everywhere(BodyLength::Chunked, bytes.as_bytes()), Err(expected), "{bytes:?}");
}

#[test]
fn chunks_are_decoded() {
    chunked("0\r\n\r\n", "", "");
    chunked("5\r\nhello\r\n0\r\n\r\n", "hello", "");
    chunked("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "hello world", "");
    chunked("00000005\r\n\r\n\r\n\r\r\n000\r\n\r\n", "\r\n\r\n\r", "");
    chunked("10\r\n0123456789abcdef\r\n0\r\n\r\n", "0123456789abcdef", "");
    chunked(&format!("1A2\r\n{}\r\n0\r\n\r\n", "x".repeat(0x1a2)), &"x".repeat(0x1a2), "");
    chunked("a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789", "");
}

#[test]
fn a_small_body_takes_one_call() {
    let mut decoder = BodyDecoder::new(BodyLength::Chunked);
    let decoded = decoder.decode(b"5\r\nhello\r\n0\r\n\r\nGET").unwrap();
    assert_eq!((decoded.consumed, decoded.data, decoded.done), (15, 3..8, true));
}

/// Pingora CVE-2025-4366 read what was left of a body as the next request.
#[test]
fn row_15_what_follows_a_body_is_left_alone() {
    let expected = Read { payload: b"hello".into(), trailers: String::new(), unread: 3 };
    assert_eq!(everywhere(BodyLength::Chunked, b"5\r\nhello\r\n0\r\n\r\nGET"), Ok(Some(expected)));
    let expected = Read { payload: b"hello".into(), trailers: String::new(), unread: 3 };
    assert_eq!(everywhere(BodyLength::Exact(5), b"helloGET"), Ok(Some(expected)));
    let expected = Read { payload: Vec::new(), trailers: String::new(), unread: 3 };
    assert_eq!(everywhere(BodyLength::None, b"GET"), Ok(Some(expected)));
    assert_eq!(everywhere(BodyLength::Exact(9), b"helloGET"), Ok(None));
}

#[test]
fn row_12_chunk_sizes_are_hex_digits() {
    for size in [
        "", "0x5", "+5", "-5", "5_0", "5 ", " 5", "\t5", "5\t", "5\u{b}", "g", "5,", "\"5\"", "5h", "\0",
        "\u{665}", "\n5",
    ] {
        refused(&format!("{size}\r\nhello\r\n0\r\n\r\n"), BodyError::ChunkSize);
    }
    refused(";a=b\r\nhello\r\n0\r\n\r\n", BodyError::ChunkSize);
    refused("5 ;a=b\r\nhello\r\n0\r\n\r\n", BodyError::ChunkSize);
    refused("10000000000000000\r\n", BodyError::ChunkSize);
    refused("00000000000000005\r\n", BodyError::ChunkSize);
    chunked("0000000000000005\r\nhello\r\n0000000000000000\r\n\r\n", "hello", "");
    assert_eq!(everywhere(BodyLength::Chunked, b"ffffffffffffffff\r\nhello"), Ok(None));
}

#[test]
fn row_13_chunk_framing_ends_in_crlf() {
    refused("5\nhello\r\n0\r\n\r\n", BodyError::ChunkSize);
    refused("5\rhello\r\n0\r\n\r\n", BodyError::ChunkEnd);
    refused("5\r\nhello\n0\r\n\r\n", BodyError::ChunkEnd);
    refused("5\r\nhello\rX0\r\n\r\n", BodyError::ChunkEnd);
    refused("5\r\nhelloX\r\n0\r\n\r\n", BodyError::ChunkEnd);
    refused("5\r\nhello0\r\n\r\n", BodyError::ChunkEnd);
    refused("0\n\r\n", BodyError::ChunkSize);
    refused("0\r\n\n", BodyError::Trailer);
    refused("0\r\n\rX", BodyError::Trailer);
}

#[test]
fn row_13_extensions_are_dropped_and_bounded() {
    chunked("5;a\r\nhello\r\n0;b=\"c;d\"\r\n\r\n", "hello", "");
    chunked("5; a = b ; c\r\nhello\r\n0\r\n\r\n", "hello", "");
    for extension in [";", "; ", ";;", ";=b", ";\"a\"", ";a\n", ";a=\"\n\"", ";a\0", ";a\u{7f}"] {
        refused(&format!("5{extension}\r\nhello\r\n0\r\n\r\n"), BodyError::ChunkExtension);
    }
    refused("5;a=\"\r\"\r\nhello\r\n0\r\n\r\n", BodyError::ChunkEnd);

    let long = |bytes: usize| format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(bytes - 1));
    let payload =
        |body: &str| read(BodyLength::Chunked, &[body.as_bytes()]).map(|read| read.map(|read| read.payload));
    assert_eq!(payload(&long(EXTENSION_BYTES_MAX)), Ok(Some(b"hello".to_vec())));
    assert_eq!(payload(&long(EXTENSION_BYTES_MAX + 1)), Err(BodyError::ExtensionsTooLarge));
    assert_eq!(payload(&"1;aaa\r\nx\r\n".repeat(5000)), Err(BodyError::ExtensionsTooLarge));
}

#[test]
fn row_14_forbidden_trailers_are_dropped() {
    chunked("0\r\nX-Sum: 1\r\nGrpc-Status:0\r\n\r\n", "", "X-Sum: 1\r\nGrpc-Status: 0\r\n");
    chunked("0\r\nX-Sum: \t a b \t\r\nEmpty:\r\n\r\n", "", "X-Sum: a b\r\nEmpty: \r\n");
    for name in [
        "Content-Length",
        "transfer-encoding",
        "HOST",
        "Authorization",
        "Proxy-Authorization",
        "Cookie",
        "Set-Cookie",
        "TE",
        "Trailer",
        "Connection",
        "Keep-Alive",
        "Upgrade",
        "Expect",
        "Content-Type",
        "Content-Encoding",
        "Content-Range",
        "Range",
        "If-Match",
        "Cache-Control",
        "X-Forwarded-For",
        "Forwarded",
        "X-Real-IP",
        "X-Request-Id",
        "traceparent",
        "TraceState",
        "X-Original-URL",
        "X-HTTP-Method-Override",
        "Proxy",
        "content_length",
        "Www-Authenticate",
        "Location",
    ] {
        chunked(&format!("0\r\n{name}: x\r\nX-Sum: 1\r\n\r\n"), "", "X-Sum: 1\r\n");
    }
}

#[test]
fn row_14_trailers_are_field_lines_and_bounded() {
    for line in [
        "no colon",
        ": x",
        "a : x",
        " a: x",
        "a\t: x",
        "a b: x",
        "\u{e9}: x",
        "a: x\u{0}",
        "a: x\u{7f}",
        "a: x\ny: z",
    ] {
        refused(&format!("0\r\n{line}\r\n\r\n"), BodyError::Trailer);
    }
    refused("0\r\na: x\r\n folded\r\n\r\n", BodyError::Trailer);
    refused("0\r\na: x\rb: y\r\n\r\n", BodyError::Trailer);

    let long = |bytes: usize| format!("0\r\na:{}\r\n\r\n", "x".repeat(bytes - 6));
    let done = |body: &str| read(BodyLength::Chunked, &[body.as_bytes()]).map(|read| read.is_some());
    assert_eq!(done(&long(TRAILER_BYTES_MAX)), Ok(true));
    assert_eq!(done(&long(TRAILER_BYTES_MAX + 1)), Err(BodyError::TrailersTooLarge));
    assert_eq!(done(&format!("0\r\n{}", "te: x\r\n".repeat(2000))), Err(BodyError::TrailersTooLarge));
}

#[test]
fn the_end_of_the_connection_ends_only_what_says_so() {
    let end = |length, bytes: &[u8]| {
        let mut decoder = BodyDecoder::new(length);
        decoder.decode(bytes).unwrap();
        decoder.finish_at_eof()
    };
    assert_eq!(end(BodyLength::UntilClose, b"hello"), Ok(()));
    assert_eq!(end(BodyLength::Exact(5), b"hello"), Ok(()));
    assert_eq!(end(BodyLength::Exact(6), b"hello"), Err(BodyError::Truncated));
    assert_eq!(end(BodyLength::Chunked, b"5\r\nhello\r\n0\r\n\r\n"), Ok(()));
    for cut in ["", "5", "5\r\nhel", "5\r\nhello\r\n", "5\r\nhello\r\n0\r\n", "0\r\na: b\r\n"] {
        assert_eq!(end(BodyLength::Chunked, cut.as_bytes()), Err(BodyError::Truncated), "{cut:?}");
    }
    assert_eq!(end(BodyLength::None, b""), Ok(()));
}

#[test]
fn a_malformed_body_stays_so() {
    let mut decoder = BodyDecoder::new(BodyLength::Chunked);
    assert_eq!(decoder.decode(b"x"), Err(BodyError::ChunkSize));
    assert_eq!(decoder.decode(b"0\r\n\r\n"), Err(BodyError::ChunkSize));
    assert_eq!(decoder.decode(b""), Err(BodyError::ChunkSize));
    assert_eq!(decoder.finish_at_eof(), Err(BodyError::ChunkSize));
}

#[test]
fn trailers_are_shown_at_the_end_only() {
    let mut decoder = BodyDecoder::new(BodyLength::Chunked);
    decoder.decode(b"0\r\na: b\r\n").unwrap();
    assert_eq!(decoder.trailers(), b"");
    decoder.decode(b"\r\n").unwrap();
    assert_eq!(decoder.trailers(), b"a: b\r\n");
}
