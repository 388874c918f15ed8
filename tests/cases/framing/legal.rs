//! Requests that few clients send and every server must take, byte for byte.

/// A request, and what the server must see of it.
pub(super) struct Case {
    /// All that is sent.
    pub(super) bytes: Vec<u8>,
    /// The server's request line.
    pub(super) line: &'static str,
    /// Field lines that the server sees, case apart.
    pub(super) fields: Vec<&'static [u8]>,
    /// What the server's octets of the body end in; empty: there is none.
    pub(super) body_end: Vec<u8>,
}

impl Case {
    pub(super) fn method(&self) -> &'static str {
        self.line.split(' ').next().unwrap()
    }
}

fn case(bytes: impl AsRef<[u8]>, line: &'static str, fields: &[&'static [u8]], body_end: &[u8]) -> Case {
    Case { bytes: bytes.as_ref().to_vec(), line, fields: fields.to_vec(), body_end: body_end.to_vec() }
}

/// A GET of `/` with these field lines, which arrive as others.
fn field(fields: &[u8], expected: &[&'static [u8]]) -> Case {
    case([b"GET / HTTP/1.1\r\nHost: a\r\n", fields, b"\r\n\r\n"].concat(), "GET / HTTP/1.1", expected, b"")
}

/// A target and the one that arrives.
fn target(target: &str, line: &'static str) -> Case {
    let method = line.split(' ').next().unwrap();
    case(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n"), line, &[], b"")
}

/// A chunked body, and what the server's body ends in.
fn chunked(body: &str, end: &str) -> Case {
    case(
        format!("POST / HTTP/1.1\r\nHost: a\r\ntransfer-ENCODING:  CHUNKED \r\n\r\n{body}"),
        "POST / HTTP/1.1",
        &[b"Transfer-Encoding: chunked"],
        end.as_bytes(),
    )
}

fn sized(length: &str, body: &str) -> Case {
    case(
        format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:{length}\r\n\r\n{body}"),
        "POST / HTTP/1.1",
        &[b"Content-Length: 5"],
        body.as_bytes(),
    )
}

fn host(line: &'static [u8]) -> Case {
    case([b"GET / HTTP/1.1\r\n", line, b"\r\n\r\n"].concat(), "GET / HTTP/1.1", &[line], b"")
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        // RFC 9112 §2.2: empty lines before a request line.
        case("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1", &[], b""),
        case("\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1", &[], b""),
        // §3.1: any token is a method; only policy knows better.
        target("/", "M-SEARCH / HTTP/1.1"),
        target("/", "get / HTTP/1.1"),
        target("/", "!#$%&'*+-.^_`|~09azAZ / HTTP/1.1"),
        // §3.2: the forms of a target.
        target("http://b.example/x?y", "GET /x?y HTTP/1.1"),
        target("https://b.example", "GET / HTTP/1.1"),
        target("HtTp://b.example:8080?x", "GET /?x HTTP/1.1"),
        target("http://[::1]:80/x", "GET /x HTTP/1.1"),
        target("*", "OPTIONS * HTTP/1.1"),
        target("http://b.example", "OPTIONS * HTTP/1.1"),
        target("http://b.example:8080", "OPTIONS * HTTP/1.1"),
        target("http://b.example/", "OPTIONS / HTTP/1.1"),
        target("/x", "OPTIONS /x HTTP/1.1"),
        target("/%61/./b/../c", "GET /a/c HTTP/1.1"),
        target("/~a/-._~!$&'()*+,=:@", "GET /~a/-._~!$&'()*+,=:@ HTTP/1.1"),
        target("/%c3%a9", "GET /%C3%A9 HTTP/1.1"),
        target("/?", "GET /? HTTP/1.1"),
        target("/??a=?", "GET /??a=? HTTP/1.1"),
        target("/?%zz;/../&a=[1]&b={2}|\"'<>^`\\", "GET /?%zz;/../&a=[1]&b={2}|\"'<>^`\\ HTTP/1.1"),
        target("/?a=//b/../c;d%00%2f", "GET /?a=//b/../c;d%00%2f HTTP/1.1"),
        target("http://b.example?/../x", "GET /?/../x HTTP/1.1"),
        // §3.2, RFC 9110 §7.2: hosts.
        host(b"Host: A.Example:8080"),
        host(b"Host: a.example."),
        host(b"Host: a_b.example"),
        host(b"Host: 192.0.2.1:80"),
        host(b"Host: [2001:db8::1]"),
        host(b"Host: [::ffff:192.0.2.1]:443"),
        host(b"Host: xn--bcher-kva.example"),
        case("GET / HTTP/1.1\r\nhOsT:a\r\n\r\n", "GET / HTTP/1.1", &[b"Host: a"], b""),
        // §5, RFC 9110 §5.5: fields.
        field(b"X:", &[b"X: "]),
        field(b"X: \t ", &[b"X: "]),
        field(b"X:a", &[b"X: a"]),
        field(b"X: \t a \t b \t ", &[b"X: a \t b"]),
        field(b"X: \xe9\x80\xff", &[b"X: \xe9\x80\xff"]),
        field(b"!#$%&'*+-.^`|~09azAZ: x", &[b"!#$%&'*+-.^`|~09azAZ: x"]),
        field(b"X: 1\r\nX: 2\r\nX: 1", &[b"X: 1\r\nX: 2\r\nX: 1"]),
        field(b"X: a:b: c", &[b"X: a:b: c"]),
        field(b"Accept: a/b;q=\"\\\"\", , */*", &[b"Accept: a/b;q=\"\\\"\", , */*"]),
        field(b"Connection: , close ,,X-Hop\r\nX-Hop: 1\r\nX: 2", &[b"X: 2"]),
        // §6: lengths.
        sized(" 5", "hello"),
        sized("5", "hello"),
        sized("\t 5 \t", "hello"),
        sized(" 000000000000000000000000005", "hello"),
        case(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            "POST / HTTP/1.1",
            &[b"Content-Length: 0"],
            b"",
        ),
        case(
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok",
            "GET / HTTP/1.1",
            &[b"Content-Length: 2"],
            b"ok",
        ),
        case(
            "POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nok",
            "POST / HTTP/1.1",
            &[b"Content-Length: 2", b"Via: 1.0 portcullis"],
            b"ok",
        ),
        case("GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.1", &[b"Via: 1.0 portcullis"], b""),
        // §7: chunks.
        chunked("0\r\n\r\n", "0\r\n\r\n"),
        chunked("000\r\n\r\n", "0\r\n\r\n"),
        chunked("5\r\nhello\r\n0\r\n\r\n", "o\r\n0\r\n\r\n"),
        chunked("0000000000000005\r\nhello\r\n0\r\n\r\n", "o\r\n0\r\n\r\n"),
        chunked("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", "9\r\n0\r\n\r\n"),
        chunked("5;a\r\nhello\r\n0;b=c\r\n\r\n", "o\r\n0\r\n\r\n"),
        chunked("5; a = b ; c=\"d;\\\"e\"\r\nhello\r\n0\r\n\r\n", "o\r\n0\r\n\r\n"),
        chunked("5\r\nhello\r\n0\r\nX: y\r\nZ:\r\n\r\n", "o\r\n0\r\nX: y\r\nZ: \r\n\r\n"),
        chunked("6\r\n0\r\n\r\nx\r\n0\r\n\r\n", "x\r\n0\r\n\r\n"),
    ]
}
