//! What must simply work: every frame and every representation of a field.

use xtask::lab::http2::{
    Connection,
    frame::{self, Code, flag, setting},
    hpack::{self, Indexing},
};

use super::{Case, Must, acts, check, get, post, request, sends, sends_held};

const HELLO: Must = Must::Answer(200, b"hello");

#[test]
fn a_connection_starts_with_settings() {
    // Every case begins so: a first frame that is no SETTINGS fails in the client.
    check(vec![sends("generic/1/1 a preface", Vec::new(), Must::GoOn)]);
}

#[test]
fn streams_take_in_each_state_what_they_may() {
    let priority = || frame::priority(1, 0, 255);
    check(vec![
        sends("generic/2/1 PRIORITY while idle", priority(), Must::GoOn),
        sends_held(
            "generic/2/2 WINDOW_UPDATE while half-closed",
            [get("/"), frame::window_update(1, 1)].concat(),
            Must::Send(1),
        ),
        sends_held(
            "generic/2/3 PRIORITY while half-closed",
            [get("/"), priority(), frame::window_update(1, 1)].concat(),
            Must::Send(1),
        ),
        sends(
            "generic/2/4 RST_STREAM while half-closed",
            [get("/"), frame::rst_stream(1, Code::CANCEL)].concat(),
            Must::GoOn,
        ),
        acts(
            "generic/2/5 PRIORITY once closed",
            move |client| {
                client.send(&get("/"))?;
                client.outcome(1)?;
                client.send(&priority())
            },
            Must::GoOn,
        ),
        acts(
            "WINDOW_UPDATE and RST_STREAM once closed",
            |client| {
                client.send(&get("/"))?;
                client.outcome(1)?;
                client.send(&[frame::window_update(1, 1), frame::rst_stream(1, Code::NO_ERROR)].concat())
            },
            Must::GoOn,
        ),
    ]);
}

#[test]
fn every_frame_is_taken() {
    let with_priority = [frame::dependency(0, 255), request("GET", "/")].concat();
    let block = request("GET", "/");
    let all_settings = [
        (setting::HEADER_TABLE_SIZE, 4096),
        (setting::ENABLE_PUSH, 1),
        (setting::MAX_CONCURRENT_STREAMS, 100),
        (setting::INITIAL_WINDOW_SIZE, 65_535),
        (setting::MAX_FRAME_SIZE, 16_384),
        (setting::MAX_HEADER_LIST_SIZE, 100),
    ];
    let data = |flags, bytes: &[u8]| frame::data(1, flags, bytes);
    let (end, padded) = (flag::END_STREAM, flag::PADDED);
    check(vec![
        sends("generic/3.1/1 DATA", [post(), data(end, b"test")].concat(), Must::Answer(200, b"test")),
        sends(
            "generic/3.1/2 several DATA",
            [post(), data(0, b"test"), data(end, b"test")].concat(),
            Must::Answer(200, b"testtest"),
        ),
        sends(
            "generic/3.1/3 DATA with padding",
            [post(), data(end | padded, &frame::padded(6, b"test"))].concat(),
            Must::Answer(200, b"test"),
        ),
        sends("generic/3.2/1 HEADERS", get("/"), HELLO),
        sends(
            "generic/3.2/2 HEADERS with padding",
            frame::headers(1, flag::END | padded, &frame::padded(8, &block)),
            HELLO,
        ),
        sends(
            "generic/3.2/3 HEADERS with a priority",
            frame::headers(1, flag::END | flag::PRIORITY, &with_priority),
            HELLO,
        ),
        sends("generic/3.3/1 PRIORITY of 1", [frame::priority(1, 0, 0), get("/")].concat(), HELLO),
        sends("generic/3.3/2 PRIORITY of 256", [frame::priority(1, 0, 255), get("/")].concat(), HELLO),
        sends("generic/3.3/3 PRIORITY on a stream", [frame::priority(3, 1, 0), get("/")].concat(), HELLO),
        sends(
            "generic/3.3/4 PRIORITY, exclusive",
            [frame::priority(1, 0x8000_0000, 0), get("/")].concat(),
            HELLO,
        ),
        sends(
            "generic/3.3/5 PRIORITY of a later stream",
            [frame::priority(3, 0, 255), get("/")].concat(),
            HELLO,
        ),
        sends("generic/3.4/1 RST_STREAM", [post(), frame::rst_stream(1, Code::CANCEL)].concat(), Must::GoOn),
        acts(
            "generic/3.5/1 SETTINGS",
            move |client| {
                client.send(&frame::settings(&all_settings))?;
                second_settings(client)
            },
            Must::GoOn,
        ),
        acts("generic/3.7/1 PING", |client| client.ping(*b"h2spec\0\0"), Must::GoOn),
        sends("generic/3.8/1 GOAWAY", frame::goaway(0, Code::NO_ERROR, b"h2spec"), Must::End),
        sends("generic/3.9/1 WINDOW_UPDATE of the connection", frame::window_update(0, 1), Must::GoOn),
        sends(
            "generic/3.9/2 WINDOW_UPDATE of a stream",
            [get("/"), frame::window_update(1, 1)].concat(),
            HELLO,
        ),
        sends(
            "generic/3.10/1 CONTINUATION",
            [
                frame::headers(1, flag::END_STREAM, &block[..5]),
                frame::continuation(1, flag::END_HEADERS, &block[5..]),
            ]
            .concat(),
            HELLO,
        ),
        sends(
            "generic/3.10/2 several CONTINUATION",
            [
                frame::headers(1, flag::END_STREAM, &block[..5]),
                frame::continuation(1, 0, &block[5..10]),
                frame::continuation(1, flag::END_HEADERS, &block[10..]),
            ]
            .concat(),
            HELLO,
        ),
        sends(
            "PRIORITY_UPDATE (RFC 9218)",
            [frame::frame(0x10, 0, 0, b"\0\0\0\x01u=1"), get("/")].concat(),
            HELLO,
        ),
    ]);
}

/// Ours beyond the greeting's hold as well.
fn second_settings(client: &mut Connection) -> Result<(), xtask::lab::client::ClientError> {
    while client.settings_acks < 2 {
        client.next_frame()?;
    }
    Ok(())
}

#[test]
fn requests_are_answered() {
    let trailers = frame::headers(1, flag::END, &hpack::block(&[("x-test", "ok")]));
    let announced = [request("POST", "/echo"), hpack::block(&[("trailer", "x-test")])].concat();
    check(vec![
        sends("generic/4/1 GET", get("/"), HELLO),
        sends(
            "generic/4/2 HEAD",
            frame::headers(1, flag::END, &request("HEAD", "/")),
            Must::Answer(200, b""),
        ),
        sends(
            "generic/4/3 POST",
            [post(), frame::data(1, flag::END_STREAM, b"test")].concat(),
            Must::Answer(200, b"test"),
        ),
        sends(
            "generic/4/4 POST with trailers",
            [frame::headers(1, flag::END_HEADERS, &announced), frame::data(1, 0, b"test"), trailers].concat(),
            Must::Answer(200, b"test"),
        ),
    ]);
}

/// A GET whose block ends with `representation`.
fn ends_with(name: &'static str, representation: &[u8]) -> Case {
    let block = [&request("GET", "/"), representation].concat();
    sends(name, frame::headers(1, flag::END, &block), HELLO)
}

/// A GET whose block begins with `update`.
fn begins_with(name: &'static str, update: &[u8]) -> Case {
    sends(name, frame::headers(1, flag::END, &[update, &request("GET", "/")].concat()), HELLO)
}

#[test]
fn every_representation_of_a_field_is_taken() {
    const USER_AGENT: usize = 58;
    let named = |indexing| hpack::literal_named(indexing, USER_AGENT, "h2spec");
    let named_huffman = |indexing| hpack::literal_huffman(indexing, "user-agent", "h2spec");
    let new = |indexing| hpack::literal(indexing, "x-test", "h2spec");
    let new_huffman = |indexing| hpack::literal_huffman(indexing, "x-test", "h2spec");
    check(vec![
        ends_with("generic/5/1 indexed", &hpack::indexed(USER_AGENT)),
        ends_with("generic/5/2 incremental, a known name", &named(Indexing::Incremental)),
        ends_with("generic/5/3 incremental, a known name, Huffman", &named_huffman(Indexing::Incremental)),
        ends_with("generic/5/4 incremental, a new name", &new(Indexing::Incremental)),
        ends_with("generic/5/5 incremental, a new name, Huffman", &new_huffman(Indexing::Incremental)),
        ends_with("generic/5/6 not indexed, a known name", &named(Indexing::Without)),
        ends_with("generic/5/7 not indexed, a known name, Huffman", &named_huffman(Indexing::Without)),
        ends_with("generic/5/8 not indexed, a new name", &new(Indexing::Without)),
        ends_with("generic/5/9 not indexed, a new name, Huffman", &new_huffman(Indexing::Without)),
        ends_with("generic/5/10 never indexed, a known name", &named(Indexing::Never)),
        ends_with("generic/5/11 never indexed, a known name, Huffman", &named_huffman(Indexing::Never)),
        ends_with("generic/5/12 never indexed, a new name", &new(Indexing::Never)),
        ends_with("generic/5/13 never indexed, a new name, Huffman", &new_huffman(Indexing::Never)),
        begins_with("generic/5/14 a size of the table", &hpack::table_size(0)),
        begins_with(
            "generic/5/15 two sizes of the table",
            &[hpack::table_size(0), hpack::table_size(4096)].concat(),
        ),
    ]);
}
