//! Heads and chunked bodies that peers read in two ways, byte for byte. Each row is one of the catalogue of attacks.

/// A request that is refused.
pub(super) struct Case {
    /// The row, and what is odd about it.
    pub(super) name: String,
    /// All that is sent.
    pub(super) bytes: Vec<u8>,
    /// The one answer to it.
    pub(super) status: u16,
}

fn case(name: String, bytes: Vec<u8>, status: u16) -> Case {
    Case { name, bytes, status }
}

/// A POST with these field lines beside `Host`, and behind it what a smuggler would have read as a request.
fn post(row: u8, fields: &[u8]) -> Case {
    let name = format!("row {row}: {}", fields.escape_ascii());
    let head = [b"POST /a HTTP/1.1\r\nHost: a\r\n", fields, b"\r\n\r\n"].concat();
    case(name, [&head, &b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"[..]].concat(), 400)
}

/// A whole request.
fn raw(row: u8, bytes: &[u8], status: u16) -> Case {
    case(format!("row {row}: {}", bytes.escape_ascii()), bytes.to_vec(), status)
}

/// Row 3: what a `Transfer-Encoding` must not be.
const CODINGS: &[&[u8]] = &[
    b"",
    b"identity",
    b"gzip",
    b"chunked, chunked",
    b"gzip, chunked",
    b"chunked, gzip",
    b"chunked, identity",
    b"identity, chunked",
    b"chunked,",
    b",chunked",
    b"\"chunked\"",
    b"'chunked'",
    b"chunked;q=1",
    b"chunked; a=b",
    b"chunked ;",
    b"xchunked",
    b"chunkedx",
    b"chunk",
    b"chun ked",
    b"\tchunked",
    b"chunked\t",
    b"\x0bchunked",
    b"chunked\x0b",
    b"\x0cchunked",
    b"chunked\0",
    b"\0chunked",
    b"\x7fchunked",
    b"\xa0chunked",
    b"chunked\x85",
    b"chunke\xe2\x84\xaa",
    b"\xef\xbb\xbfchunked",
];

/// Row 11: what a `Content-Length` must not be.
const LENGTHS: &[&[u8]] = &[
    b"",
    b"+5",
    b"-5",
    b"-0",
    b"0x5",
    b"5h",
    b"a",
    b"5,",
    b",5",
    b"5,6",
    b"5 5",
    b"5;a=b",
    b"5.0",
    b"5e0",
    b"5_0",
    b"\"5\"",
    b"\xd9\xa5",
    b"5\xa0",
    b"18446744073709551616",
    b"18446744073709551621",
    b"99999999999999999999999999999999999999999",
];

/// Row 21: what is no version.
const VERSIONS: &[&[u8]] = &[
    b"HTTP/1.11",
    b"HTTP/1.1 ",
    b"HTTP/1.1\t",
    b"HTTP/1",
    b"HTTP/2",
    b"HTTP/01.1",
    b"HTTP/1.01",
    b"http/1.1",
    b"HTTP/1,1",
    b"HTTP/ 1.1",
    b"HTTP/1.1x",
    b"HTTPS/1.1",
    b"HTTP/-1.1",
    b"HTTP/1.\xd9\xa1",
];

/// Row 23: what is no host.
const HOSTS: &[&[u8]] = &[
    b"",
    b"a b",
    b"a,b",
    b"a/b",
    b"a?b",
    b"a#b",
    b"a\\b",
    b"http://a",
    b"a:b",
    b"a:-1",
    b"a:65536",
    b"a:1:2",
    b"a:80x",
    b".a",
    b"a..b",
    b"[::1",
    b"::1",
    b"[a]",
    b"[::1]x",
    b"a%2eb",
    b"a%00",
    b"\xe9",
    b"a\x00",
    b"\"a\"",
    b"<a>",
    b"a;b",
];

/// Rows 1 to 11: where the request ends, and where a line does.
pub(super) fn framing() -> Vec<Case> {
    let mut cases = vec![
        post(1, b"Content-Length: 5\r\nTransfer-Encoding: chunked"),
        post(1, b"Transfer-Encoding: chunked\r\nContent-Length: 5"),
        post(1, b"Content-Length: 0\r\ntransfer-encoding: Chunked"),
        post(1, b"Content-Length: 5\r\nTransfer-Encoding: identity"),
        post(1, b"Content-Length: 5\r\nTransfer-Encoding:"),
        // CVE-2026-2835: Pingora read Transfer-Encoding in HTTP/1.0.
        raw(2, b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        raw(
            2,
            b"POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        raw(
            2,
            b"POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        post(3, b"Transfer-Encoding\x0b: chunked"),
        post(3, b"Transfer-Encoding\xa0: chunked"),
        post(3, b"Transfer-Encoding\0: chunked"),
        post(3, b"Transfer Encoding: chunked"),
        post(4, b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        post(4, b"Transfer-Encoding: chunked\r\ntransfer-encoding: identity"),
        post(4, b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"),
        post(4, b"Transfer-Encoding:\r\nTransfer-Encoding: chunked"),
        post(5, b"X: 1\r\n 2"),
        post(5, b"X: 1\r\n\t2"),
        post(5, b"X:\r\n chunked"),
        post(5, b"Transfer-Encoding:\r\n chunked"),
        post(5, b"Content-Length: 5\r\n 0"),
        raw(5, b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
        raw(5, b"GET / HTTP/1.1\r\n\tX: 1\r\nHost: a\r\n\r\n", 400),
        post(6, b"Content-Length : 5"),
        post(6, b"Content-Length\t: 5"),
        post(6, b"Transfer-Encoding : chunked"),
        post(6, b"X : 1"),
        post(6, b": 1"),
        post(6, b"X"),
        raw(6, b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        post(7, b"X: 1\rTransfer-Encoding: chunked"),
        post(7, b"X: 1\r\r"),
        post(7, b"\rX: 1"),
        raw(7, b"GET / HTTP/1.1\rHost: a\r\n\r\n", 400),
        raw(7, b"GET / HTTP/1.1\r\nHost: a\r\n\rX: 1\r\n\r\n", 400),
        raw(7, b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        raw(8, b"GET / HTTP/1.1\nHost: a\n\n", 400),
        raw(8, b"GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
        raw(8, b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
        raw(8, b"GET / HTTP/1.1\r\nHost: a\r\nX:\n\r\n", 400),
        raw(8, b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        post(8, b"X: 1\nTransfer-Encoding: chunked"),
        post(10, b"Content-Length: 5\r\nContent-Length: 6"),
        post(10, b"Content-Length: 5\r\ncontent-length: 0"),
        // Equal ones may be taken by RFC 9112 §6.3; peers that count only the last one disagree about `5, 5`.
        post(10, b"Content-Length: 5\r\nContent-Length: 5"),
        post(10, b"Content-Length: 5, 5"),
    ];
    cases.extend(CODINGS.iter().map(|coding| post(3, &[b"Transfer-Encoding: ", *coding].concat())));
    cases.extend(LENGTHS.iter().map(|length| post(11, &[b"Content-Length: ", *length].concat())));
    // Row 9: every control byte but the tab, in a value and in a name.
    for byte in (0..0x20_u8).chain([0x7f]).filter(|byte| !b"\t\n\r".contains(byte)) {
        cases.push(post(9, &[b"X: a", &[byte][..], b"b"].concat()));
        cases.push(post(9, &[b"X", &[byte][..], b": a"].concat()));
    }
    cases
}

/// Rows 15 and 19 to 26: the request line, `Host`, `Expect`.
pub(super) fn request_line() -> Vec<Case> {
    let mut cases = vec![
        raw(19, b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405),
        raw(19, b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        raw(19, b"connect a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405),
        raw(20, b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        raw(20, b"TrAcE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        raw(20, b"TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n", 405),
        raw(21, b"GET /\r\n\r\n", 400),
        raw(21, b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505),
        raw(21, b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
        raw(21, b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        raw(21, b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        raw(22, b"GET http://b/ HTTP/1.1\r\n\r\n", 400),
        raw(22, b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        raw(22, b"GET http:/x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        raw(22, b"GET ftp://a/x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        raw(22, b"GET javascript:x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        raw(22, b"GET http://b/../x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        raw(23, b"GET / HTTP/1.1\r\n\r\n", 400),
        raw(23, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        raw(23, b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", 400),
        raw(23, b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        raw(24, b"GET http://user@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        raw(24, b"GET http://user:word@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        raw(24, b"GET http://b@a/ HTTP/1.1\r\nHost: b\r\n\r\n", 400),
        raw(24, b"GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", 400),
        raw(26, b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        raw(26, b"OPTIONS *x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        raw(26, b"GET  HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        raw(26, b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        raw(26, b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        raw(26, b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        raw(26, b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        raw(26, b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ];
    cases.extend(
        VERSIONS.iter().map(|version| raw(21, &[b"GET / ", *version, b"\r\nHost: a\r\n\r\n"].concat(), 400)),
    );
    cases.extend(
        HOSTS.iter().map(|host| raw(23, &[b"GET / HTTP/1.1\r\nHost: ", *host, b"\r\n\r\n"].concat(), 400)),
    );
    // Row 26: every byte that is no visible ASCII, and the fragment of CVE-2021-32779.
    for byte in (0..0x20_u8).chain(0x7f..=0xff).chain([b'#']).filter(|byte| !b"\n".contains(byte)) {
        for target in ["/a", "/?a"] {
            let bytes = [b"GET ", target.as_bytes(), &[byte], b"b HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
            cases.push(raw(26, &bytes, 400));
        }
    }
    for method in [&b"G\xc9T"[..], b"G\0T", b"(GET)", b"GE:T", b"G,T", b"\"GET\"", b"\x16\x03\x01"] {
        cases.push(raw(26, &[method, b" / HTTP/1.1\r\nHost: a\r\n\r\n"].concat(), 400));
    }
    // Row 15: what an expectation may be (RFC 9110 §10.1.1).
    for expectation in [
        "",
        "101",
        "100-continue\r\nExpect: 100-continue",
        "100-continue, x",
        "100-continue;q",
        "x=100-continue",
        "\"100-continue\"",
    ] {
        let head =
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: {expectation}\r\n\r\n");
        cases.push(raw(15, head.as_bytes(), 417));
    }
    cases
}

/// Rows 12 and 13: bodies that follow `Transfer-Encoding: chunked`.
pub(super) fn chunked_bodies() -> Vec<(&'static str, Vec<u8>)> {
    let mut bodies: Vec<(&str, Vec<u8>)> = Vec::new();
    let sizes: &[&[u8]] = &[
        b"0x5",
        b"0X5",
        b"x5",
        b"+5",
        b"-5",
        b"5_0",
        b"_5",
        b" 5",
        b"5 ",
        b"\t5",
        b"5\t",
        b"5 ;a",
        b"5\x0b",
        b"5\0",
        b"",
        b";a",
        b"g",
        b"5h",
        b"5,5",
        b"5.0",
        b"\"5\"",
        b"\xef\xbc\x95",
        b"5\xa0",
        b"10000000000000000",
        b"fffffffffffffffff",
        b"00000000000000005",
    ];
    bodies.extend(sizes.iter().map(|size| ("row 12: size", [*size, b"\r\nhello\r\n0\r\n\r\n"].concat())));
    let framings: &[&[u8]] = &[
        b"5\nhello\r\n0\r\n\r\n",
        b"5\rhello\r\n0\r\n\r\n",
        b"5\r\rhello\r\n0\r\n\r\n",
        b"5\n\rhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello\r0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5\r\nhello\r\n\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\n\r\n",
        b"5\r\nhello\r\n0\r\n\n",
        b"5\r\nhello\r\n0\r\nX: y\n\r\n",
        b"5\r\nhello\r\n0\r\n\rX",
    ];
    bodies.extend(framings.iter().map(|body| ("row 13: line end", body.to_vec())));
    let extensions: &[&[u8]] = &[
        b"",
        b";",
        b" ",
        b"a\nb",
        b"a\rb",
        b"a\n",
        b"a=\"b\nc\"",
        b"a=\"b\r\nc\"",
        b"a\0",
        b"a\x0b",
        b"a=\x7f",
        b"=b",
        b"(a)",
        b"\xe9",
    ];
    bodies.extend(
        extensions
            .iter()
            .map(|extension| ("row 13: extension", [b"5;", *extension, b"\r\nhello\r\n0\r\n\r\n"].concat())),
    );
    let trailers: &[&[u8]] = &[
        b"X : y",
        b" X: y",
        b"X",
        b": y",
        b"X: y\r\n folded",
        b"X: \0",
        b"X: a\rb",
        b"X: a\nb",
        b"X\0: a",
        b"\xe9: a",
        b"GET / HTTP/1.1",
    ];
    bodies.extend(
        trailers.iter().map(|trailer| ("row 14: trailer", [b"0\r\n", *trailer, b"\r\n\r\n"].concat())),
    );
    bodies
}

/// Row 13 and 14: parts of a body that nobody counts as one, without end; what one more byte costs is seen.
pub(super) fn unbounded_bodies() -> Vec<(&'static str, Vec<u8>)> {
    let chunks = |extension: &str, count| format!("1;{extension}\r\nx\r\n").repeat(count);
    vec![
        ("row 13: one long extension", [&b"5;a="[..], &vec![b'b'; 17_000]].concat()),
        ("row 13: an extension at each byte", chunks(&"a".repeat(500), 40).into()),
        ("row 14: one long trailer", [&b"0\r\nX: "[..], &vec![b'y'; 9_000]].concat()),
        ("row 14: many trailers", format!("0\r\n{}", "X: y\r\n".repeat(2_000)).into()),
    ]
}
