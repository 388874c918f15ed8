//! RFC 9113 §4 and §5: frames in general, and the states of streams.

use xtask::lab::{
    client::ClientError,
    http2::{
        Connection, Outcome,
        frame::{self, Code, flag, kind, setting},
        hpack,
    },
};

use super::{super::GET, Must, acts, check, get, more_fields, post, request, sends, sends_held};

const PROTOCOL: &[Code] = &[Code::PROTOCOL_ERROR];
const FRAME_SIZE: &[Code] = &[Code::FRAME_SIZE_ERROR, Code::PROTOCOL_ERROR];
const CLOSED: &[Code] = &[Code::STREAM_CLOSED, Code::PROTOCOL_ERROR];
const COMPRESSION: &[Code] = &[Code::COMPRESSION_ERROR, Code::PROTOCOL_ERROR];

/// §4.1
#[test]
fn what_is_unknown_in_a_frame_is_ignored() {
    let unknown = || frame::frame(0x16, 0, 0, &[0; 8]);
    let odd = || frame::frame(kind::PING, 0x16, 0x8000_0000, b"whatever");
    check(vec![
        sends("http2/4.1/1 a frame of an unknown type", unknown(), Must::GoOn),
        acts(
            "http2/4.1/2 flags that are not defined",
            |client| pong(client, &frame::frame(kind::PING, 0x16, 0, b"whatever")),
            Must::GoOn,
        ),
        acts("http2/4.1/3 the reserved bit", move |client| pong(client, &odd()), Must::GoOn),
        sends(
            "the reserved bit of a stream",
            frame::headers(0x8000_0001, flag::END, &request("GET", "/")),
            Must::Answer(200, b"hello"),
        ),
        sends(
            "an unknown frame of a stream",
            [get("/"), frame::frame(0xee, 0xff, 1, b"?")].concat(),
            Must::Answer(200, b"hello"),
        ),
    ]);
}

/// The PING comes back.
fn pong(client: &mut Connection, bytes: &[u8]) -> Result<(), ClientError> {
    client.send(bytes)?;
    while !client.pongs.contains(b"whatever") {
        client.next_frame()?;
    }
    Ok(())
}

/// The octets that a frame may have, as the peer says.
fn frame_bytes_max(client: &Connection) -> usize {
    usize::try_from(client.setting(setting::MAX_FRAME_SIZE).unwrap_or(16_384)).unwrap()
}

/// §4.2
#[test]
fn a_frame_has_the_size_that_its_kind_may_have() {
    const LARGE: &[u8] = &[b'x'; 16_384];
    check(vec![
        sends(
            "http2/4.2/1 DATA of 2^14 octets",
            [post(), frame::data(1, flag::END_STREAM, LARGE)].concat(),
            Must::Answer(200, LARGE),
        ),
        acts(
            "http2/4.2/2 DATA of more than we take",
            |client| {
                let bytes = vec![b'x'; frame_bytes_max(client) + 1];
                client.send(&[post(), frame::data(1, flag::END_STREAM, &bytes)].concat())
            },
            Must::Fail(FRAME_SIZE),
        ),
        acts(
            "http2/4.2/3 HEADERS of more than we take",
            |client| {
                let value = "x".repeat(frame_bytes_max(client));
                let block = [request("GET", "/"), hpack::block(&[("x-dummy", value)])].concat();
                client.send(&frame::headers(1, flag::END, &block))
            },
            Must::FailConnection(FRAME_SIZE),
        ),
    ]);
}

/// §4.3
#[test]
fn a_header_block_is_one_piece() {
    let open = || frame::headers(1, 0, &request("GET", "/"));
    let rest = || frame::continuation(1, flag::END_HEADERS, &more_fields());
    let other = || frame::headers(3, flag::END, &request("GET", "/"));
    let priority = frame::priority(1, 0, 255);
    check(vec![
        sends(
            "http2/4.3/1 no block",
            frame::headers(1, flag::END, b"\x40"),
            Must::FailConnection(COMPRESSION),
        ),
        sends(
            "http2/4.3/2 PRIORITY within a block",
            [open(), priority, rest()].concat(),
            Must::FailConnection(PROTOCOL),
        ),
        sends(
            "http2/4.3/3 HEADERS within a block",
            [open(), other(), rest()].concat(),
            Must::FailConnection(PROTOCOL),
        ),
        sends(
            "an end within a block",
            [open(), frame::ping(*b"whatever")].concat(),
            Must::FailConnection(PROTOCOL),
        ),
    ]);
}

/// §5.1
#[test]
fn streams_refuse_in_each_state_what_they_must() {
    let data = || frame::data(1, flag::END_STREAM, b"test");
    let head = || get("/");
    let rest = || frame::continuation(1, flag::END_HEADERS, &more_fields());
    let reset = || [post(), frame::rst_stream(1, Code::CANCEL)].concat();
    let then = |bytes: Vec<u8>| {
        move |client: &mut Connection| {
            client.send(&get("/"))?;
            client.outcome(1)?;
            client.send(&bytes)
        }
    };
    check(vec![
        sends("http2/5.1/1 idle: DATA", data(), Must::FailConnection(PROTOCOL)),
        sends(
            "http2/5.1/2 idle: RST_STREAM",
            frame::rst_stream(1, Code::CANCEL),
            Must::FailConnection(PROTOCOL),
        ),
        sends(
            "http2/5.1/3 idle: WINDOW_UPDATE",
            frame::window_update(1, 100),
            Must::FailConnection(PROTOCOL),
        ),
        sends(
            "http2/5.1/4 idle: CONTINUATION",
            frame::continuation(1, flag::END_HEADERS, &request("GET", "/")),
            Must::FailConnection(PROTOCOL),
        ),
        sends_held("http2/5.1/5 half-closed: DATA", [head(), data()].concat(), Must::Fail(CLOSED)),
        sends_held("http2/5.1/6 half-closed: HEADERS", [head(), head()].concat(), Must::Fail(CLOSED)),
        sends_held("http2/5.1/7 half-closed: CONTINUATION", [head(), rest()].concat(), Must::Fail(CLOSED)),
        sends("http2/5.1/8 reset: DATA", [reset(), data()].concat(), Must::Ignore(CLOSED)),
        sends("http2/5.1/9 reset: HEADERS", [reset(), head()].concat(), Must::Ignore(CLOSED)),
        sends("http2/5.1/10 reset: CONTINUATION", [reset(), rest()].concat(), Must::FailConnection(CLOSED)),
        // RFC 7540 made these errors of the connection; RFC 9113 lets them be.
        acts("http2/5.1/11 closed: DATA", then(data()), Must::Ignore(CLOSED)),
        acts("http2/5.1/12 closed: HEADERS", then(head()), Must::Ignore(CLOSED)),
        acts("http2/5.1/13 closed: CONTINUATION", then(rest()), Must::FailConnection(CLOSED)),
    ]);
}

/// §5.1.1
#[test]
fn streams_have_odd_and_growing_numbers() {
    let head = |stream| frame::headers(stream, flag::END, &request("GET", "/"));
    check(vec![
        sends("http2/5.1.1/1 an even number", head(2), Must::FailConnection(PROTOCOL)),
        sends("http2/5.1.1/2 a smaller number", [head(5), head(3)].concat(), Must::FailConnection(CLOSED)),
        acts(
            "http2/5.1.1/3 the same number",
            move |client| {
                client.send(
                    &[frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 0)]), head(5), head(5)].concat(),
                )?;
                match client.outcome(5)? {
                    Outcome::StreamError(code) | Outcome::ConnectionError(code) if CLOSED.contains(&code) => {
                        Ok(())
                    }
                    other => Err(ClientError::Malformed(format!("{other:?}"))),
                }
            },
            Must::Ignore(CLOSED),
        ),
        sends("the last number", [head(0x7fff_ffff), frame::ping(*b"whatever")].concat(), Must::GoOn),
    ]);
}

/// §5.1.2
#[test]
fn no_more_streams_are_open_at_once_than_was_said() {
    let act = |client: &mut Connection| {
        let max = client.setting(setting::MAX_CONCURRENT_STREAMS);
        let max = max.ok_or_else(|| ClientError::Malformed("no limit is announced".into()))?;
        for n in 0..=max {
            client.send(&frame::headers(2 * n + 1, flag::END, &request("GET", "/")))?;
        }
        match client.outcome(2 * max + 1)? {
            Outcome::StreamError(Code::REFUSED_STREAM | Code::PROTOCOL_ERROR) => Ok(()),
            other => Err(ClientError::Malformed(format!("{other:?}"))),
        }
    };
    let mut case = acts("http2/5.1.2/1 one too many", act, Must::GoOn);
    case.settings = vec![(setting::INITIAL_WINDOW_SIZE, 0)];
    check(vec![case]);
}

/// RFC 7540 §5.3.1, which RFC 9113 has taken back: to ignore it is as good as to refuse it.
#[test]
fn a_stream_that_depends_on_itself_does_no_harm() {
    let block = [frame::dependency(1, 255), request("GET", "/")].concat();
    check(vec![
        sends(
            "http2/5.3.1/1 HEADERS",
            frame::headers(1, flag::END | flag::PRIORITY, &block),
            Must::Ignore(PROTOCOL),
        ),
        sends("http2/5.3.1/2 PRIORITY", frame::priority(1, 1, 255), Must::Ignore(PROTOCOL)),
    ]);
}

/// §5.4.1
#[test]
fn an_error_of_the_connection_is_told_before_it_closes() {
    let ping = frame::frame(kind::PING, 0, 3, &[0; 8]);
    check(vec![
        sends("http2/5.4.1/1 and 2: PING of a stream", ping.clone(), Must::FailConnection(PROTOCOL)),
        acts(
            "the last stream is told",
            move |client| {
                client.get(1, &GET)?;
                client.send(&ping)?;
                client.end()?;
                match client.goaways.as_slice() {
                    [.., (1, Code::PROTOCOL_ERROR)] => Ok(()),
                    other => Err(ClientError::Malformed(format!("{other:?}"))),
                }
            },
            Must::FailConnection(PROTOCOL),
        ),
    ]);
}

/// §5.5
#[test]
fn extensions_are_ignored_but_not_within_a_header_block() {
    let unknown = || frame::frame(0x16, 0, 0, &[0; 8]);
    check(vec![
        sends("http2/5.5/1 an unknown frame", unknown(), Must::GoOn),
        sends(
            "http2/5.5/2 an unknown frame within a block",
            [frame::headers(1, flag::END_STREAM, &request("GET", "/")), unknown()].concat(),
            Must::FailConnection(PROTOCOL),
        ),
    ]);
}
