//! Row 47 and what else an upstream may get wrong (faults 5 and 7).

use super::{BodyLength, FramingError, HeadLimits, HeaderSlots, ResponseError, Version, response_head};

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 512, headers_max: 8, target_bytes_max: 0 };

type Said = (u16, BodyLength, bool, usize);

fn read(method: &str, bytes: &[u8]) -> Result<Option<Said>, ResponseError> {
    let mut slots = HeaderSlots::new();
    let head = response_head(bytes, &mut slots, method, &LIMITS)?;
    Ok(head.map(|head| (head.status, head.body, head.keep_alive, head.head_bytes)))
}

/// Reads it whole and byte by byte.
#[track_caller]
fn whole(method: &str, bytes: &[u8]) -> Result<Said, ResponseError> {
    let result = read(method, bytes);
    let text = String::from_utf8_lossy(bytes);
    for end in 0..bytes.len() {
        match read(method, &bytes[..end]) {
            Ok(None) => {}
            early => assert_eq!(early, result, "{end} bytes of {text:?}"),
        }
    }
    result.map(|head| head.unwrap_or_else(|| panic!("incomplete: {text:?}")))
}

#[track_caller]
fn accepted(method: &str, head: &str, body: BodyLength, keep_alive: bool) {
    let (_, got_body, got_keep_alive, head_bytes) = whole(method, head.as_bytes()).unwrap();
    assert_eq!((got_body, got_keep_alive, head_bytes), (body, keep_alive, head.len()), "{head:?}");
}

#[track_caller]
fn refused(bytes: impl AsRef<[u8]>, expected: ResponseError) {
    let bytes = bytes.as_ref();
    assert_eq!(whole("GET", bytes), Err(expected), "{:?}", String::from_utf8_lossy(bytes));
}

#[test]
fn a_head_says_all_of_this() {
    let bytes = b"HTTP/1.0 404 Not Found\r\nContent-Length: 2\r\nX-A: b\r\n\r\nno";
    let mut slots = HeaderSlots::new();
    let head = response_head(bytes, &mut slots, "GET", &LIMITS).unwrap().unwrap();
    assert_eq!((head.version, head.status, head.reason), (Version::Http10, 404, "Not Found"));
    assert_eq!(head.headers.get("x-a"), Some(&b"b"[..]));
    assert_eq!((head.head_bytes, head.is_interim()), (bytes.len() - 2, false));
    assert!(!format!("{head:?}").contains("\"b\""));
}

#[test]
fn bodies_end_as_method_status_and_fields_say() {
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n";
    let neither = "HTTP/1.1 200 OK\r\n\r\n";
    accepted("GET", length, BodyLength::Exact(5), true);
    accepted("GET", chunked, BodyLength::Chunked, true);
    accepted("GET", neither, BodyLength::UntilClose, false);
    for head in [length, chunked, neither] {
        accepted("HEAD", head, BodyLength::None, true);
        for status in ["100", "103", "204", "304"] {
            accepted("GET", &head.replace("200", status), BodyLength::None, true);
        }
    }
    accepted("GET", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", BodyLength::Exact(5), false);
    accepted(
        "GET",
        "HTTP/1.0 200\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n",
        BodyLength::Exact(5),
        true,
    );
    accepted(
        "GET",
        "HTTP/1.1 200 \r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        BodyLength::Exact(0),
        false,
    );
}

#[test]
fn row_47_status_lines_are_well_formed() {
    for line in [
        "HTTP/2.0 200 OK",
        "HTTP/1.2 200 OK",
        "http/1.1 200 OK",
        "ICY 200 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 2x0 OK",
        "HTTP/1.1200 OK",
        "HTTP/1.1 200 O\0K",
        "HTTP/1.1 200 O\rK",
        "\r\nHTTP/1.1 200 OK",
        "\nHTTP/1.1 200 OK",
        "<html>",
    ] {
        refused(format!("{line}\r\nContent-Length: 0\r\n\r\n"), ResponseError::MalformedStatus);
    }
    for status in ["000", "099", "600", "999"] {
        refused(format!("HTTP/1.1 {status} X\r\n\r\n"), ResponseError::UnknownStatus);
    }
    assert_eq!(whole("GET", b"HTTP/1.1 599 \xe9 strange\r\n\r\n").unwrap().0, 599);
    assert_eq!(whole("GET", b"HTTP/1.1 100 Continue\r\n\r\n").unwrap().0, 100);
}

#[test]
fn row_47_fields_are_well_formed() {
    for field in ["X A: b", "X-A : b", " X-A: b", "X-A: b\r\n c", "no colon", ": b", "X\0: b"] {
        refused(format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n"), ResponseError::FieldName);
    }
    for field in ["X-A: b\rc", "X-A: b\0", "X-A: b\u{1}", "X-A: b\u{7f}"] {
        refused(format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n"), ResponseError::FieldValue);
    }
    refused("HTTP/1.1 200 OK\nX-A: b\r\n\r\n", ResponseError::LineEnd);
    refused("HTTP/1.1 200 OK\r\nX-A: b\n\r\n", ResponseError::LineEnd);
    refused("HTTP/1.1 200 OK\r\nX-A: b\r\n\n", ResponseError::LineEnd);
    refused("HTTP/1.1 200 OK\r\nX-A: b\r\n\rx", ResponseError::LineEnd);
    assert!(whole("GET", b"HTTP/1.1 200 OK\r\nX-A:\t b \xff\r\nX-B:\r\n\r\n").is_ok());
}

#[test]
fn row_47_framing_is_as_strict_as_for_requests() {
    let refused = |fields: &str, error| {
        refused(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n"), ResponseError::Framing(error));
    };
    refused("Content-Length: 5\r\nTransfer-Encoding: chunked", FramingError::ConflictingLength);
    refused("Content-Length: 5\r\nContent-Length: 6", FramingError::RepeatedLength);
    refused("Content-Length: 5, 5", FramingError::InvalidLength);
    refused("Content-Length: +5", FramingError::InvalidLength);
    refused("Transfer-Encoding: gzip, chunked", FramingError::UnknownTransferEncoding);
    refused("Transfer-Encoding: identity", FramingError::UnknownTransferEncoding);
    refused(
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        FramingError::RepeatedTransferEncoding,
    );
    refused(&format!("Connection: {}", "x,".repeat(17)), FramingError::TooManyConnectionOptions);
    assert_eq!(
        whole("GET", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        Err(ResponseError::Framing(FramingError::TransferEncodingInHttp10))
    );
    assert_eq!(
        whole("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
        Err(ResponseError::Framing(FramingError::ConflictingLength))
    );
}

#[test]
fn a_switch_of_protocols_is_refused() {
    refused("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", ResponseError::UnaskedUpgrade);
}

#[test]
fn heads_are_bounded() {
    let head = |bytes: usize| {
        let rest = "HTTP/1.1 200 OK\r\nX-A: \r\n\r\n";
        rest.replace("X-A: ", &format!("X-A: {}", "x".repeat(bytes - rest.len())))
    };
    assert_eq!(whole("GET", head(512).as_bytes()).unwrap().3, 512);
    refused(head(513), ResponseError::HeadTooLarge);
    let fields = |count| format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(count));
    assert!(whole("GET", fields(8).as_bytes()).is_ok());
    refused(fields(9), ResponseError::TooManyFields);
}
