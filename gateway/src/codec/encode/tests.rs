//! Rows 14, 22, 41 to 47: what goes on, and what does not.

use super::{
    BodyLength, CHUNK_END, CHUNK_HEAD_BYTES_MAX, Recode, RequestEdit, ResponseEdit, Rewrite, Telling, Trace,
    Version, chunk_head, client_framing, client_response, last_chunk, last_chunk_without, simple_response,
    upstream_request,
};
use crate::codec::{HeadLimits, HeaderSlots, TraceParent, request_head, response_head};

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 8192, headers_max: 64, target_bytes_max: 1024 };

const EDIT: RequestEdit<'static> = RequestEdit {
    forwarded_for: "192.0.2.1",
    proto: "https",
    forwarded_host: "a.example",
    request_id: "id-1",
    trace: Trace::Own { trace_id: "0af7651916cd43dd8448eb211c80319c", parent_id: 0x0067_aa0b_a902_b700 },
    query: None,
    remove: &["x-api-key", "authorization"],
    set: &[("X-User", "ann")],
    rewrite: Rewrite { path: None, host: None, lines: b"" },
    body: BodyLength::None,
};

/// What we add to every request for `a.example`.
const OURS: &str = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: a.example\r\n\
    X-Request-Id: id-1\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-0067aa0ba902b700-00\r\n\
    Via: 1.1 portcullis\r\nX-User: ann\r\n";

fn sent(request: &str, edit: &RequestEdit<'_>) -> String {
    let mut slots = HeaderSlots::new();
    let head = request_head(request.as_bytes(), &mut slots, &LIMITS).unwrap().unwrap();
    let mut out = Vec::new();
    upstream_request(&mut out, &head, &RequestEdit { query: head.query, ..*edit });
    String::from_utf8(out).unwrap()
}

/// Which of these field lines of a GET go upstream.
#[track_caller]
fn passes(fields: &str, expected: &str, edit: &RequestEdit<'_>) {
    let got = sent(&format!("GET / HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n"), edit);
    assert_eq!(got, format!("GET / HTTP/1.1\r\nHost: a.example\r\n{expected}{OURS}\r\n"), "{fields:?}");
}

#[test]
fn a_request_is_written_anew() {
    let request = "POST http://a.example/x/%2e%2e/%61?q=%zz HTTP/1.0\r\nAccept: */*\r\nHost: other\r\nContent-Length: 5\r\n\r\n";
    let edit = RequestEdit { set: &[], body: BodyLength::Exact(5), ..EDIT };
    assert_eq!(
        sent(request, &edit),
        "POST /a?q=%zz HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\nX-Forwarded-For: 192.0.2.1\r\n\
         X-Forwarded-Proto: https\r\nX-Forwarded-Host: a.example\r\nX-Request-Id: id-1\r\n\
         traceparent: 00-0af7651916cd43dd8448eb211c80319c-0067aa0ba902b700-00\r\nVia: 1.0 portcullis\r\n\
         Content-Length: 5\r\n\r\n"
    );
}

/// W3C Trace Context §3.4: `tracestate` goes with the `traceparent` that it came with, or not at all.
#[test]
fn a_trace_goes_on_whole_or_begins_anew() {
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let fields = format!("tracestate: a=1\r\nTraceparent: {PARENT}\r\nTraceState: b=2,c=3\r\n");
    passes(&fields, "", &EDIT);
    passes(&format!("Connection: traceparent, tracestate\r\n{fields}"), "", &EDIT);
    let edit = RequestEdit { trace: Trace::Client(TraceParent::parse(PARENT.as_bytes()).unwrap()), ..EDIT };
    let sent = sent(&format!("GET / HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n"), &edit);
    let (_, rest) = sent.split_once("X-Request-Id: id-1\r\n").unwrap();
    let trace = format!("traceparent: {PARENT}\r\ntracestate: a=1\r\ntracestate: b=2,c=3\r\n");
    assert_eq!(rest, format!("{trace}Via: 1.1 portcullis\r\nX-User: ann\r\n\r\n"));
    assert_eq!(sent.to_ascii_lowercase().matches("trace").count(), 3);
}

#[test]
fn there_is_one_framing_field_at_most_and_it_is_ours() {
    let request = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0005\r\n\r\n";
    let framing = |body| {
        let sent = sent(request, &RequestEdit { body, ..EDIT });
        let rest = sent.split_once("X-User: ann\r\n").unwrap().1.to_owned();
        assert_eq!(
            sent.matches("Content-Length").count() + sent.matches("Transfer-Encoding").count(),
            usize::from(rest != "\r\n")
        );
        rest
    };
    assert_eq!(framing(BodyLength::None), "\r\n");
    assert_eq!(framing(BodyLength::Exact(0)), "Content-Length: 0\r\n\r\n");
    assert_eq!(framing(BodyLength::Exact(u64::MAX)), "Content-Length: 18446744073709551615\r\n\r\n");
    assert_eq!(framing(BodyLength::Chunked), "Transfer-Encoding: chunked\r\n\r\n");
}

#[test]
fn rows_41_42_only_the_gateway_says_where_a_request_came_from() {
    for name in [
        "X-Forwarded-For",
        "x-forwarded-proto",
        "X-Forwarded-Prefix",
        "Forwarded",
        "X-Real-IP",
        "X-REQUEST-ID",
    ] {
        passes(&format!("{name}: spoofed\r\n"), "", &EDIT);
        passes(&format!("{}: spoofed\r\n", name.replace('-', "_")), "", &EDIT);
    }
    passes("any_name: x\r\n", "", &EDIT);
    passes("Accept: x\r\nX-Forward: y\r\n", "Accept: x\r\nX-Forward: y\r\n", &EDIT);
}

/// CVE-2024-45410: Traefik let clients remove X-Forwarded-* through `Connection`.
#[test]
fn row_43_connection_removes_what_it_names_but_nothing_that_was_decided_on() {
    passes("Connection: X-A, close\r\nX-A: b\r\nX-B: c\r\n", "X-B: c\r\n", &EDIT);
    passes("Connection: close\r\nConnection: x-b\r\nX-A: b\r\nX-B: c\r\n", "X-A: b\r\n", &EDIT);
    passes(
        "Connection: Host, X-Forwarded-For, X-Forwarded-Host, X-Request-Id, X-User, Via, Content-Length, Content-Type, Cookie\r\n\
         Content-Type: a/b\r\nCookie: c\r\n",
        "Content-Type: a/b\r\nCookie: c\r\n",
        &EDIT,
    );
    let keep = RequestEdit { remove: &[], ..EDIT };
    passes("Connection: authorization\r\nAuthorization: Bearer x\r\n", "Authorization: Bearer x\r\n", &keep);
}

#[test]
fn row_44_credentials_and_identity_of_the_client_are_removed() {
    passes(
        "X-API-Key: k\r\nAuthorization: Basic x\r\nX-User: root\r\nx-user: root\r\nX_User: root\r\n",
        "",
        &EDIT,
    );
    passes("X-Users: y\r\n", "X-Users: y\r\n", &EDIT);
}

#[test]
fn row_45_overrides_are_removed() {
    for name in
        ["X-Original-URL", "X-Rewrite-URL", "X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"]
    {
        passes(&format!("{name}: /admin\r\n"), "", &EDIT);
    }
}

#[test]
fn row_46_fields_of_one_connection_are_removed() {
    for name in [
        "Proxy-Connection",
        "Proxy-Authorization",
        "Proxy-Anything",
        "Keep-Alive",
        "TE",
        "Trailer",
        "Upgrade",
        "HTTP2-Settings",
        "Proxy",
        "Connection",
    ] {
        passes(&format!("{name}: x\r\n"), "", &EDIT);
    }
    passes("Via: 1.0 before\r\nExpect: 100-continue\r\n", "Via: 1.0 before\r\n", &EDIT);
}

#[test]
fn a_claim_cannot_split_a_head() {
    let edit = RequestEdit { set: &[("X-User", "a\r\nX-Admin: 1\0\u{7f}\tb\u{e9}")], ..EDIT };
    let sent = sent("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", &edit);
    assert!(sent.ends_with("\r\nX-User: a  X-Admin: 1  \tb\u{e9}\r\n\r\n"), "{sent}");
}

#[test]
fn http10_without_host_has_an_empty_one() {
    let sent = sent("GET / HTTP/1.0\r\n\r\n", &RequestEdit { forwarded_host: "", ..EDIT });
    assert!(
        sent.starts_with("GET / HTTP/1.1\r\nHost: \r\nX-Forwarded-For") && !sent.contains("X-Forwarded-Host"),
        "{sent}"
    );
}

fn answered(method: &str, response: &str, edit: &ResponseEdit<'_>) -> String {
    let mut slots = HeaderSlots::new();
    let head = response_head(response.as_bytes(), &mut slots, method, &LIMITS).unwrap().unwrap();
    let mut out = Vec::new();
    let edit = ResponseEdit { body: client_framing(head.body, edit.client_version), ..*edit };
    client_response(&mut out, &head, &edit);
    String::from_utf8(out).unwrap()
}

const ANSWER: ResponseEdit<'static> = ResponseEdit {
    keep_alive: true,
    client_version: Version::Http11,
    request_id: "id-1",
    date: "now",
    remove: &[],
    lines: b"",
    recode: Recode { coding: None, weaken: false, vary: false },
    body: BodyLength::None,
};

#[track_caller]
fn answer(method: &str, response: &str, edit: &ResponseEdit<'_>, expected: &str) {
    let ours = "Via: 1.1 portcullis\r\nX-Request-Id: id-1\r\nDate: now\r\n";
    assert_eq!(answered(method, response, edit).replace(ours, "~"), expected, "{method} {response:?}");
}

#[test]
fn a_response_is_written_anew() {
    answer(
        "GET",
        "HTTP/1.1 200 Fine\r\nServer: s\r\nConnection: X-A\r\nX-A: b\r\nKeep-Alive: 5\r\nUpgrade: h2c\r\nProxy-Authenticate: x\r\n\
         Trailer: t\r\nX-Request-Id: theirs\r\nSet_Cookie: c\r\nContent-Length: 05\r\n\r\n",
        &ANSWER,
        "HTTP/1.1 200 Fine\r\nServer: s\r\nSet_Cookie: c\r\n~Content-Length: 5\r\n\r\n",
    );
}

#[test]
fn a_response_keeps_its_date() {
    let dated = "HTTP/1.1 200 OK\r\ndate: then\r\nContent-Length: 5\r\n\r\n";
    answer(
        "GET",
        dated,
        &ANSWER,
        "HTTP/1.1 200 OK\r\ndate: then\r\nVia: 1.1 portcullis\r\nX-Request-Id: id-1\r\nContent-Length: 5\r\n\r\n",
    );
}

#[test]
fn a_coding_changes_what_the_head_says_of_the_octets() {
    let coded = Recode { coding: Some("br"), weaken: true, vary: true };
    let edit = ResponseEdit { recode: coded, ..ANSWER };
    let length =
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nAccept-Ranges: bytes\r\nETag: \"a\"\r\nVary: Origin\r\n\r\n";
    answer(
        "HEAD",
        length,
        &edit,
        "HTTP/1.1 200 OK\r\nETag: W/\"a\"\r\nVary: Origin\r\nVia: 1.1 portcullis\r\nX-Request-Id: id-1\r\n\
         Content-Encoding: br\r\nVary: Accept-Encoding\r\nDate: now\r\n\r\n",
    );
    let weak = length.replace("\"a\"", "W/\"a\"");
    assert!(answered("HEAD", &weak, &edit).contains("ETag: W/\"a\"\r\n"));
    let plain = ResponseEdit { recode: Recode { vary: true, ..Recode::default() }, ..ANSWER };
    assert!(answered("GET", length, &plain).contains("ETag: \"a\"\r\n"));
}

#[test]
fn responses_are_framed_for_the_client() {
    let old = ResponseEdit { client_version: Version::Http10, ..ANSWER };
    let closing = ResponseEdit { keep_alive: false, ..ANSWER };
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    answer("GET", length, &ANSWER, "HTTP/1.1 200 OK\r\n~Content-Length: 5\r\n\r\n");
    answer("GET", length, &closing, "HTTP/1.1 200 OK\r\n~Content-Length: 5\r\nConnection: close\r\n\r\n");
    answer("GET", length, &old, "HTTP/1.1 200 OK\r\n~Content-Length: 5\r\nConnection: keep-alive\r\n\r\n");
    for head in ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"] {
        answer("GET", head, &ANSWER, "HTTP/1.1 200 OK\r\n~Transfer-Encoding: chunked\r\n\r\n");
        answer(
            "GET",
            head,
            &closing,
            "HTTP/1.1 200 OK\r\n~Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        );
        answer("GET", head, &old, "HTTP/1.1 200 OK\r\n~Connection: close\r\n\r\n");
    }
}

#[test]
fn responses_without_a_body_are_so() {
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    answer("HEAD", length, &ANSWER, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n~\r\n");
    answer(
        "HEAD",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        &ANSWER,
        "HTTP/1.1 200 OK\r\n~\r\n",
    );
    answer(
        "GET",
        &length.replace("200 OK", "304 Not"),
        &ANSWER,
        "HTTP/1.1 304 Not\r\nContent-Length: 5\r\n~\r\n",
    );
    answer("GET", &length.replace("200 OK", "204 No"), &ANSWER, "HTTP/1.1 204 No\r\n~\r\n");
    answer(
        "GET",
        &length.replace("200 OK", "103 Early"),
        &ANSWER,
        "HTTP/1.1 103 Early\r\nVia: 1.1 portcullis\r\nX-Request-Id: id-1\r\n\r\n",
    );
}

#[test]
fn our_own_responses() {
    let simple_to = |client_version, status, body: &str, keep_alive, for_head| {
        let telling = Telling { date: "now", keep_alive, client_version, for_head, lines: b"" };
        let mut out = Vec::new();
        simple_response(&mut out, status, "R", &[("A", "b\r\nc")], body.as_bytes(), &telling);
        String::from_utf8(out).unwrap().replacen("R\r\nDate: now\r\n", "R\r\n~\r\n", 1)
    };
    let simple =
        |status, body: &str, keep_alive, head| simple_to(Version::Http11, status, body, keep_alive, head);
    assert_eq!(
        simple(400, "no", false, false),
        "HTTP/1.1 400 R\r\n~\r\nA: b  c\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
    );
    assert_eq!(simple(404, "no", true, true), "HTTP/1.1 404 R\r\n~\r\nA: b  c\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(simple(200, "", true, false), "HTTP/1.1 200 R\r\n~\r\nA: b  c\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(simple(204, "no", true, false), "HTTP/1.1 204 R\r\n~\r\nA: b  c\r\n\r\n");
    assert_eq!(
        simple_to(Version::Http10, 204, "", true, false),
        "HTTP/1.1 204 R\r\n~\r\nA: b  c\r\nConnection: keep-alive\r\n\r\n"
    );
    assert_eq!(
        simple_to(Version::Http10, 204, "", false, false),
        "HTTP/1.1 204 R\r\n~\r\nA: b  c\r\nConnection: close\r\n\r\n"
    );
}

#[test]
fn chunks_are_framed() {
    for len in [1, 9, 10, 15, 16, 255, 256, 65_536, 1 << 20, usize::MAX] {
        let mut out = Vec::new();
        chunk_head(&mut out, len);
        assert_eq!(out, format!("{len:x}\r\n").into_bytes());
        assert!(out.len() <= CHUNK_HEAD_BYTES_MAX);
    }
    let mut out = CHUNK_END.to_vec();
    last_chunk(&mut out, b"");
    assert_eq!(out, b"\r\n0\r\n\r\n");
}

#[test]
fn rows_14_44_trailers_bring_nothing_in_that_was_removed() {
    let mut out = Vec::new();
    last_chunk_without(&mut out, b"A: b\r\nX-User: root\r\nC: d:e\r\n", &["x-user"]);
    assert_eq!(out, b"0\r\nA: b\r\nC: d:e\r\n\r\n");
}
