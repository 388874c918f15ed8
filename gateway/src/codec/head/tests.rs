//! Groups "Framing", "Request line, Host" and "Headers" of the attacks: each row that a head can show, and the legal
//! case next to it.

use super::{
    BodyLength, FramingError, HEADERS_MAX, HeadLimits, HeaderSlots, PathError, RequestError, Version,
    is_worth_a_try, request_head,
};

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 1024, headers_max: 16, target_bytes_max: 256 };

/// What a head says, without its borrows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    method: String,
    path: String,
    query: Option<String>,
    authority: String,
    version: Version,
    headers: usize,
    body: BodyLength,
    expect_continue: bool,
    keep_alive: bool,
    head_bytes: usize,
}

fn read(bytes: &[u8], limits: &HeadLimits) -> Result<Option<Said>, RequestError> {
    let mut slots = HeaderSlots::new();
    let head = request_head(bytes, &mut slots, limits)?;
    Ok(head.map(|head| Said {
        method: head.method.to_owned(),
        path: head.path.clone().into_owned(),
        query: head.query.map(str::to_owned),
        authority: head.authority.to_owned(),
        version: head.version,
        headers: head.headers.len(),
        body: head.body,
        expect_continue: head.expect_continue,
        keep_alive: head.keep_alive,
        head_bytes: head.head_bytes,
    }))
}

/// Reads a whole message, and again as it arrives byte by byte: a prefix is incomplete or already what the whole is.
#[track_caller]
fn whole(bytes: &[u8]) -> Result<Said, RequestError> {
    let result = read(bytes, &LIMITS);
    let text = String::from_utf8_lossy(bytes);
    for end in 0..bytes.len() {
        match read(&bytes[..end], &LIMITS) {
            Ok(None) => {}
            early => assert_eq!(early, result, "{end} bytes of {text:?}"),
        }
    }
    result.map(|head| head.unwrap_or_else(|| panic!("incomplete: {text:?}")))
}

#[track_caller]
fn refused(bytes: impl AsRef<[u8]>, expected: RequestError) {
    let bytes = bytes.as_ref();
    assert_eq!(whole(bytes), Err(expected), "{:?}", String::from_utf8_lossy(bytes));
}

#[track_caller]
fn accepted(bytes: impl AsRef<[u8]>) -> Said {
    let bytes = bytes.as_ref();
    whole(bytes).unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(bytes)))
}

/// A POST with these field lines beside `Host`.
fn post(fields: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n")
}

/// A GET with this request line and a `Host`.
fn line(line: &str) -> String {
    format!("{line}\r\nHost: a.example\r\n\r\n")
}

#[track_caller]
fn framing(fields: &str, expected: Result<BodyLength, FramingError>) {
    match expected {
        Ok(body) => assert_eq!(accepted(post(fields)).body, body, "{fields:?}"),
        Err(error) => refused(post(fields), RequestError::Framing(error)),
    }
}

#[test]
fn a_head_says_all_of_this() {
    let bytes = b"PUT /v1/orders/17?a=b HTTP/1.1\r\nHost: api.example:8080\r\nContent-Length: 3\r\nX-A: b\r\n\r\nabcGET";
    assert_eq!(
        accepted(bytes),
        Said {
            method: "PUT".into(),
            path: "/v1/orders/17".into(),
            query: Some("a=b".into()),
            authority: "api.example:8080".into(),
            version: Version::Http11,
            headers: 3,
            body: BodyLength::Exact(3),
            expect_continue: false,
            keep_alive: true,
            head_bytes: bytes.len() - 6,
        }
    );
}

#[test]
fn row_1_length_and_transfer_encoding_conflict() {
    framing("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Err(FramingError::ConflictingLength));
    framing("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", Err(FramingError::ConflictingLength));
    framing("Transfer-Encoding: chunked\r\n", Ok(BodyLength::Chunked));
    framing("", Ok(BodyLength::None));
}

/// CVE-2026-2835: Pingora read `Transfer-Encoding` in HTTP/1.0.
#[test]
fn row_2_http10_has_no_transfer_encoding() {
    refused(
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        RequestError::Framing(FramingError::TransferEncodingInHttp10),
    );
    assert_eq!(
        accepted("POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\n\r\n").body,
        BodyLength::Exact(5)
    );
}

#[test]
fn row_3_transfer_encoding_is_exactly_chunked() {
    for value in [
        "",
        "identity",
        "gzip",
        "chunked, chunked",
        "gzip, chunked",
        "chunked, identity",
        "chunked,",
        ",chunked",
        "\"chunked\"",
        "'chunked'",
        "chunked;q=1",
        "chunked ;",
        "xchunked",
        "chunkedx",
        "chunk",
        "\tchunked",
        "chunked\t",
        "chun ked",
        "chunke\u{212a}",
        "\u{a0}chunked",
    ] {
        framing(&format!("Transfer-Encoding: {value}\r\n"), Err(FramingError::UnknownTransferEncoding));
    }
    for value in ["chunked\u{b}", "\u{c}chunked", "chunked\0", "\u{1}chunked"] {
        refused(post(&format!("Transfer-Encoding: {value}\r\n")), RequestError::FieldValue);
    }
    refused(post("Transfer-Encoding\u{b}: chunked\r\n"), RequestError::FieldName);
    for value in ["chunked", "Chunked", "CHUNKED", "  chunked  "] {
        framing(&format!("Transfer-Encoding:{value}\r\n"), Ok(BodyLength::Chunked));
    }
}

#[test]
fn row_4_transfer_encoding_comes_once() {
    framing(
        "Transfer-Encoding: chunked\r\nTransfer-encoding: chunked\r\n",
        Err(FramingError::RepeatedTransferEncoding),
    );
    framing(
        "Transfer-Encoding: chunked\r\nTransfer-encoding: identity\r\n",
        Err(FramingError::RepeatedTransferEncoding),
    );
}

#[test]
fn row_5_folded_lines_are_refused() {
    refused(post("X-A: b\r\n c\r\n"), RequestError::FieldName);
    refused(post("X-A: b\r\n\tc\r\n"), RequestError::FieldName);
    refused(post("X-A:\r\n chunked\r\n"), RequestError::FieldName);
    refused("GET / HTTP/1.1\r\n Host: a\r\n\r\n", RequestError::FieldName);
}

#[test]
fn row_6_no_space_before_the_colon() {
    for name in
        ["Content-Length ", "Content-Length\t", "Content Length", "", " X", "X\u{e9}", "X\0", "X(", "X\r"]
    {
        refused(post(&format!("{name}: 5\r\n")), RequestError::FieldName);
    }
    refused(post("no colon\r\n"), RequestError::FieldName);
    framing("Content-Length:5\r\n", Ok(BodyLength::Exact(5)));
    framing("Content-Length: \t 5 \t \r\n", Ok(BodyLength::Exact(5)));
}

#[test]
fn row_7_bare_carriage_returns_are_refused() {
    refused(post("X-A: b\rX-B: c\r\n"), RequestError::FieldValue);
    refused(post("X-A: b\r\r\n"), RequestError::FieldValue);
    refused("GET / HTTP/1.1\rHost: a\r\n\r\n", RequestError::LineEnd);
    refused("GET / HTTP/1.1\r\nHost: a\r\n\rX", RequestError::LineEnd);
    refused("GET /\rHTTP/1.1\r\n\r\n", RequestError::MalformedTarget);
}

#[test]
fn row_8_bare_line_feeds_are_refused() {
    refused("GET / HTTP/1.1\nHost: a\r\n\r\n", RequestError::LineEnd);
    refused("GET / HTTP/1.1\r\nHost: a\n\r\n", RequestError::LineEnd);
    refused("GET / HTTP/1.1\r\nHost: a\r\nX-A:\n\r\n", RequestError::LineEnd);
    refused("GET / HTTP/1.1\r\nHost: a\r\n\n", RequestError::LineEnd);
    refused("GET / HTTP/1.1\nHost: a\n\n", RequestError::LineEnd);
    refused("GET / HTTP/1.1\nHost: a\n\r\n", RequestError::LineEnd);
    refused("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", RequestError::LineEnd);
    // What follows the head is not its business.
    assert_eq!(accepted("GET / HTTP/1.1\r\nHost: a\r\n\r\n\n\n").head_bytes, 27);
}

/// Every byte, early and late in a value: httparse reads long values by other code than short ones.
#[test]
fn row_9_control_bytes_in_values_are_refused() {
    for byte in 0..=255_u8 {
        for (before, after) in [(0, 0), (1, 1), (0, 40), (40, 0), (9, 9)] {
            let mut bytes = b"GET / HTTP/1.1\r\nHost: a\r\nX-A: x".to_vec();
            bytes.extend(vec![b'x'; before]);
            bytes.push(byte);
            bytes.extend(vec![b'x'; after]);
            bytes.extend(b"x\r\n\r\n");
            let read = read(&bytes, &LIMITS);
            match byte {
                b'\t' | b' '..=0x7e | 0x80.. => {
                    assert!(matches!(read, Ok(Some(_))), "{byte:#x} {before} {after}");
                }
                // Followed by a token, LF alone starts another line, without a colon.
                b'\n' => assert_eq!(read, Err(RequestError::FieldName)),
                _ => assert_eq!(read, Err(RequestError::FieldValue), "{byte:#x} {before} {after}"),
            }
        }
    }
}

#[test]
fn row_10_one_length_only() {
    framing("Content-Length: 5\r\nContent-Length: 6\r\n", Err(FramingError::RepeatedLength));
    framing("Content-Length: 5\r\ncontent-length: 5\r\n", Err(FramingError::RepeatedLength));
}

#[test]
fn row_11_lengths_are_digits() {
    for value in [
        "",
        "+5",
        "-5",
        "0x5",
        "5, 5",
        "5,6",
        "5 5",
        "5;",
        "5.0",
        "1e3",
        "5_0",
        "a",
        "\"5\"",
        "\u{665}",
        "18446744073709551616",
        "99999999999999999999999",
    ] {
        framing(&format!("Content-Length: {value}\r\n"), Err(FramingError::InvalidLength));
    }
    framing("Content-Length: 0\r\n", Ok(BodyLength::Exact(0)));
    framing("Content-Length: 005\r\n", Ok(BodyLength::Exact(5)));
    framing("Content-Length: 18446744073709551615\r\n", Ok(BodyLength::Exact(u64::MAX)));
}

#[test]
fn row_15_expectations() {
    let head = accepted(post("Content-Length: 5\r\nExpect: 100-Continue\r\n"));
    assert!(head.expect_continue);
    assert!(accepted(post("Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n")).expect_continue);
    assert!(!accepted(post("Expect: 100-continue\r\n")).expect_continue);
    assert!(!accepted(post("Content-Length: 0\r\nExpect: 100-continue\r\n")).expect_continue);
    let old = "POST / HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    assert!(!accepted(old).expect_continue);
    for value in ["", "101", "100-continue, x", "100-continue;q", "x=100-continue"] {
        refused(post(&format!("Content-Length: 5\r\nExpect: {value}\r\n")), RequestError::UnknownExpectation);
    }
    refused(post("Expect: 100-continue\r\nExpect: 100-continue\r\n"), RequestError::UnknownExpectation);
}

/// CVE-2026-2835: Pingora read bodies of HTTP/1.0 requests until the client closed.
#[test]
fn row_16_http10_without_length_has_no_body_and_closes() {
    for request in [
        "POST / HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
    ] {
        let head = accepted(request);
        assert_eq!((head.body, head.keep_alive), (BodyLength::None, false), "{request:?}");
    }
    let head = accepted("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
    assert_eq!((head.body, head.keep_alive, &*head.authority), (BodyLength::None, true, ""));
}

/// CVE-2026-2833: Pingora passed on what followed an upgrade before it was granted.
#[test]
fn row_17_an_upgrade_changes_nothing() {
    let head = accepted(post("Connection: Upgrade\r\nUpgrade: websocket\r\n"));
    assert_eq!((head.body, head.keep_alive), (BodyLength::None, true));
}

#[test]
fn row_18_a_pipelined_request_is_read_by_itself() {
    let first = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
    let both = format!("{first}GET /b HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    assert_eq!(accepted(&both).head_bytes, first.len());
    refused(&both[first.len()..], RequestError::RepeatedHost);
}

#[test]
fn rows_19_20_no_tunnel_no_trace() {
    refused(line("CONNECT a.example:443 HTTP/1.1"), RequestError::Connect);
    refused(line("connect / HTTP/1.1"), RequestError::Connect);
    refused(line("TRACE / HTTP/1.1"), RequestError::Trace);
    refused(line("Trace / HTTP/1.1"), RequestError::Trace);
    assert_eq!(accepted(line("PURGE / HTTP/1.1")).method, "PURGE");
    assert_eq!(accepted(line("M-SEARCH! / HTTP/1.1")).method, "M-SEARCH!");
}

#[test]
fn row_21_versions() {
    for version in ["HTTP/0.9", "HTTP/1.2", "HTTP/1.9", "HTTP/2.0", "HTTP/3.0"] {
        refused(line(&format!("GET / {version}")), RequestError::UnsupportedVersion);
    }
    refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", RequestError::UnsupportedVersion);
    for version in [
        "HTTP/2",
        "HTTP/1",
        "http/1.1",
        "HTTP/1,1",
        "HTTP/a.1",
        "HTTPS/1.1",
        "HTTP /1.1",
        "x HTTP/1.1",
        " HTTP/1.1",
        "",
    ] {
        refused(line(&format!("GET / {version}")), RequestError::MalformedVersion);
    }
    for version in ["HTTP/1.11", "HTTP/1.1 ", "HTTP/1.1\t", "HTTP/1.0.1"] {
        refused(line(&format!("GET / {version}")), RequestError::LineEnd);
    }
    refused("GET /\r\n", RequestError::MalformedTarget);
    assert_eq!(accepted(line("GET / HTTP/1.0")).version, Version::Http10);
    assert_eq!(accepted(line("GET / HTTP/1.1")).version, Version::Http11);
}

#[test]
fn row_22_the_absolute_form_wins_over_host() {
    let head = accepted(line("GET http://b.example:81/x?y HTTP/1.1"));
    assert_eq!((&*head.authority, &*head.path, head.query.as_deref()), ("b.example:81", "/x", Some("y")));
    refused("GET http://b.example/ HTTP/1.1\r\n\r\n", RequestError::MissingHost);
    refused("GET http://b.example/ HTTP/1.1\r\nHost: a b\r\n\r\n", RequestError::MalformedHost);
}

#[test]
fn row_23_one_well_formed_host() {
    refused("GET / HTTP/1.1\r\n\r\n", RequestError::MissingHost);
    refused("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", RequestError::RepeatedHost);
    refused("GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n", RequestError::RepeatedHost);
    for host in ["", "a b", "a,b", "a/b", "http://a", "a:b", "\u{e9}"] {
        refused(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), RequestError::MalformedHost);
    }
    assert_eq!(accepted("GET / HTTP/1.1\r\nhOST:[::1]:80\r\n\r\n").authority, "[::1]:80");
}

#[test]
fn row_24_no_userinfo() {
    refused("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", RequestError::UserinfoInAuthority);
    refused(line("GET http://a:b@c/ HTTP/1.1"), RequestError::UserinfoInAuthority);
}

#[test]
fn row_26_request_lines_are_visible_ascii() {
    for target in ["/\u{e9}", "/#", "*", "a"] {
        refused(line(&format!("GET {target} HTTP/1.1")), RequestError::MalformedTarget);
    }
    for target in ["/\0", "/\u{1}", "/\u{7f}", "/a\tb", ""] {
        refused(line(&format!("GET {target} HTTP/1.1")), RequestError::MalformedTarget);
    }
    refused(b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", RequestError::MalformedTarget);
    for method in ["", " GET", "G\u{e9}T", "G\0T", "GET\t", "(GET)", "GE:T", "\u{16}\u{3}\u{1}"] {
        refused(line(&format!("{method} / HTTP/1.1")), RequestError::MalformedMethod);
    }
    refused(line("GET /..%2f HTTP/1.1"), RequestError::Path(PathError::ForbiddenEscape));
}

#[test]
fn row_43_connection_options_are_bounded() {
    let options = |count| format!("Connection: {}\r\n", vec!["x"; count].join(", "));
    framing(&options(17), Err(FramingError::TooManyConnectionOptions));
    framing(&options(9).repeat(2), Err(FramingError::TooManyConnectionOptions));
    framing(&options(16), Ok(BodyLength::None));
    assert!(!accepted(post("Connection: x, Close\r\n")).keep_alive);
    assert!(!accepted(post("Connection: keep-alive\r\nConnection: close\r\n")).keep_alive);
    assert!(accepted(post("Connection: closed\r\n")).keep_alive);
}

#[test]
fn row_48_heads_are_bounded() {
    let padded = |bytes: usize| {
        let head = "GET / HTTP/1.1\r\nHost: a\r\nX-A: \r\n\r\n";
        head.replace("X-A: ", &format!("X-A: {}", "x".repeat(bytes - head.len())))
    };
    assert_eq!(accepted(padded(1024)).head_bytes, 1024);
    refused(padded(1025), RequestError::HeadTooLarge);
    refused("x".repeat(1024), RequestError::HeadTooLarge);

    let fields = |count| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(count - 1));
    assert_eq!(accepted(fields(16)).headers, 16);
    refused(fields(17), RequestError::TooManyFields);
    let wide = HeadLimits { head_bytes_max: 8192, headers_max: 1000, target_bytes_max: 256 };
    assert!(matches!(read(fields(HEADERS_MAX).as_bytes(), &wide), Ok(Some(_))));
    assert_eq!(read(fields(HEADERS_MAX + 1).as_bytes(), &wide), Err(RequestError::TooManyFields));

    let target = |bytes: usize| line(&format!("GET /{} HTTP/1.1", "a".repeat(bytes - 1)));
    assert_eq!(accepted(target(256)).path.len(), 256);
    refused(target(257), RequestError::TargetTooLong);
    refused(format!("GET /{}", "a".repeat(300)), RequestError::TargetTooLong);
    refused(format!("GET /\u{7f}{}", "a".repeat(300)), RequestError::MalformedTarget);
    refused(format!("GET /\u{1}{}", "a".repeat(300)), RequestError::MalformedTarget);
}

#[test]
fn legal_but_rare_keeps_working() {
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(accepted(format!("{}{request}", "\r\n".repeat(4))).head_bytes, 8 + request.len());
    refused(format!("{}{request}", "\r\n".repeat(5)), RequestError::TooManyEmptyLines);
    assert_eq!(accepted(line("OPTIONS * HTTP/1.1")).path, "*");
    assert_eq!(accepted(post("X-Empty:\r\nX-Blank: \t \r\n")).headers, 3);
    assert_eq!(accepted(b"GET / HTTP/1.1\r\nHost: a\r\nX-A: \xff\x80\r\n\r\n").headers, 2);
    let odd = accepted(line("GET /?a=%zz&b=/../&c=\"{} HTTP/1.1"));
    assert_eq!(odd.query.as_deref(), Some("a=%zz&b=/../&c=\"{}"));
}

#[test]
fn values_and_queries_are_not_shown() {
    let mut slots = HeaderSlots::new();
    let bytes = b"GET /?key=secret HTTP/1.1\r\nHost: a\r\nAuthorization: secret\r\n\r\n";
    let head = request_head(bytes, &mut slots, &LIMITS).unwrap().unwrap();
    let shown = format!("{head:?}");
    assert!(shown.contains("Authorization") && !shown.contains("secret"), "{shown}");
    assert_eq!(head.headers.get("authorization"), Some(&b"secret"[..]));
    assert!(!head.headers.is_empty());
    let head = request_head(b"GET / HTTP/1.0\r\n\r\n", &mut slots, &LIMITS).unwrap().unwrap();
    assert!(head.headers.is_empty());
}

/// `text` came in two parts, of which a try saw the first.
#[track_caller]
fn check_worth(first: &str, then: &str, expected: bool) {
    let text = format!("{first}{then}");
    assert_eq!(is_worth_a_try(text.as_bytes(), first.len(), first.len(), 16), expected, "{text:?}");
}

#[test]
fn a_head_is_tried_again_when_a_line_ends_or_much_has_come() {
    check_worth("GET / H", "T", false);
    check_worth("GET / H", "TTP/1", false);
    check_worth("GET / H", "TTP/1.1", true);
    check_worth("GET / H", "T\r", false);
    check_worth("GET / H", "T\r\n", true);
    check_worth("a\nbcdefgh", "i", false);
    check_worth("abcdefghijklmn", "o", false);
    check_worth("abcdefghijklmn", "op", true);
    check_worth("", "x", true);
}
