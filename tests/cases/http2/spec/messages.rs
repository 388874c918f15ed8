//! RFC 9113 §8: what makes a request malformed. None of it may reach a server.

use xtask::lab::http2::{
    Connection, Outcome,
    frame::{self, Code, flag},
    hpack,
};

use super::{
    super::{GET, POST, h2_edge, origin::Origin},
    Case, Must, check, post, request, run, sends,
};

const MALFORMED: Must = Must::BeMalformed;
type Fields<'a> = &'a [(&'a str, &'a str)];

fn head(flags: u8, fields: Fields<'_>) -> Vec<u8> {
    frame::headers(1, flags, &hpack::block(fields))
}

/// A request whose head alone is malformed.
fn malformed(name: &'static str, fields: Fields<'_>) -> Case {
    sends(name, head(flag::END, fields), MALFORMED)
}

/// GET with one more field.
fn with(name: &'static str, field: &'static str, value: &str) -> Case {
    malformed(name, &[&GET[..], &[(field, value)]].concat())
}

/// The same, where h2 ends the connection: RFC 9113 §5.4.1 leaves it to it.
fn fails(name: &'static str, field: &'static str, value: &str) -> Case {
    Case { must: Must::Fail(&[Code::PROTOCOL_ERROR]), ..with(name, field, value) }
}

/// GET without some of its fields.
fn without(name: &'static str, missing: &str) -> Case {
    let fields: Vec<_> = GET.into_iter().filter(|(field, _)| *field != missing).collect();
    malformed(name, &fields)
}

/// The same as [`check`], and no server hears of any.
#[track_caller]
fn check_unheard(cases: Vec<Case>) {
    let origin = Origin::start();
    let edge = h2_edge(&origin, "");
    let run = |case: Case| {
        let name = case.name;
        run(&edge, case).err().map(|why| format!("{name}: {why}"))
    };
    let failed: Vec<_> = cases.into_iter().filter_map(run).collect();
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
    assert_eq!(origin.requests(), []);
}

/// §8.1: the head is not malformed, so a server may have heard of it, but never of its end.
#[test]
fn trailers_end_a_request() {
    let start = || [post(), frame::data(1, 0, b"test")].concat();
    let trailers = |flags, fields: Fields<'_>| head(flags, fields);
    check(vec![
        sends(
            "http2/8.1/1 a second HEADERS that does not end the stream",
            [start(), trailers(flag::END_HEADERS, &[("x-test", "ok")])].concat(),
            MALFORMED,
        ),
        sends(
            "http2/8.1.2.1/3 a pseudo-header field in trailers",
            [start(), trailers(flag::END_HEADERS, &[(":method", "POST")])].concat(),
            MALFORMED,
        ),
        sends(
            "upper case in trailers",
            [start(), trailers(flag::END, &[("X-Test", "ok")])].concat(),
            Must::Fail(&[Code::PROTOCOL_ERROR]),
        ),
        sends(
            "DATA behind trailers",
            [start(), trailers(flag::END, &[("x-test", "ok")]), frame::data(1, flag::END_STREAM, b"more")]
                .concat(),
            Must::Ignore(&[Code::STREAM_CLOSED, Code::PROTOCOL_ERROR]),
        ),
    ]);
}

/// §8.2, §8.3
#[test]
fn malformed_heads_are_errors_of_their_stream() {
    let mut empty_path = GET;
    empty_path[2].1 = "";
    let late = [&[("x-test", "ok")], &GET[..]].concat();
    check_unheard(vec![
        fails("http2/8.1.2/1 upper case in a name", "X-TEST", "ok"),
        fails("http2/8.1.2.1/1 an unknown pseudo-header field", ":test", "ok"),
        with("http2/8.1.2.1/2 the pseudo-header field of a response", ":status", "200"),
        malformed("http2/8.1.2.1/4 pseudo-header fields behind others", &late),
        with("http2/8.1.2.2/1 Connection", "connection", "keep-alive"),
        with("http2/8.1.2.2/2 TE of more than trailers", "te", "trailers, deflate"),
        malformed("http2/8.1.2.3/1 an empty :path", &empty_path),
        without("http2/8.1.2.3/2 no :method", ":method"),
        without("http2/8.1.2.3/3 no :scheme", ":scheme"),
        without("http2/8.1.2.3/4 no :path", ":path"),
        with("http2/8.1.2.3/5 :method twice", ":method", "GET"),
        with("http2/8.1.2.3/6 :scheme twice", ":scheme", "http"),
        with("http2/8.1.2.3/7 :path twice", ":path", "/"),
        with(":authority twice", ":authority", "a.example"),
        without("no :authority, no Host", ":authority"),
    ]);
}

/// §8.1.1
#[test]
fn a_body_has_the_length_that_its_head_says() {
    let head = |length| head(flag::END_HEADERS, &[&POST[..], &[("content-length", length)]].concat());
    let data = |flags| frame::data(1, flags, b"test");
    check(vec![
        sends("http2/8.1.2.6/1 one DATA", [head("1"), data(flag::END_STREAM)].concat(), MALFORMED),
        sends(
            "http2/8.1.2.6/2 several DATA",
            [head("1"), data(0), data(flag::END_STREAM)].concat(),
            MALFORMED,
        ),
        sends("too short", [head("5"), data(flag::END_STREAM)].concat(), MALFORMED),
        sends(
            "as long as it says",
            [head("8"), data(0), data(flag::END_STREAM)].concat(),
            Must::Answer(200, b"testtest"),
        ),
    ]);
}

/// §8.4
#[test]
fn a_client_does_not_push() {
    let promise = [&3_u32.to_be_bytes()[..], &request("GET", "/")].concat();
    let push = || frame::frame(frame::kind::PUSH_PROMISE, flag::END_HEADERS, 1, &promise);
    let protocol: &[Code] = &[Code::PROTOCOL_ERROR];
    check(vec![
        sends("http2/8.2/1 PUSH_PROMISE", push(), Must::FailConnection(protocol)),
        sends("PUSH_PROMISE of an open stream", [post(), push()].concat(), Must::FailConnection(protocol)),
    ]);
}

/// §8.2.1: the state of the compression is that of the connection, whatever becomes of a stream.
#[test]
fn a_malformed_head_leaves_the_compression_as_it_must_be() {
    let origin = Origin::start();
    let edge = h2_edge(&origin, "");
    let mut client = Connection::open(edge.address, crate::support::TIME_MAX).unwrap();
    client.greet(&[]).unwrap();
    let incremental = |name, value| hpack::literal(hpack::Indexing::Incremental, name, value);
    let bad =
        [request("GET", "/"), hpack::block(&[("connection", "close")]), incremental("x-kept", "2")].concat();
    client.send(&frame::headers(1, flag::END, &bad)).unwrap();
    assert_eq!(client.outcome(1).unwrap(), Outcome::StreamError(Code::PROTOCOL_ERROR));
    let good = [request("GET", "/"), hpack::indexed(62)].concat();
    client.send(&frame::headers(3, flag::END, &good)).unwrap();
    client.outcome(3).unwrap();
    let requests = origin.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert_eq!(requests[0].values("x-kept"), ["2"]);
}
