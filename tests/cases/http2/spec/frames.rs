//! RFC 9113 §6 and §7: each kind of frame, and unknown errors.

use xtask::lab::{
    client::ClientError,
    http2::{
        Connection,
        frame::{self, Code, flag, kind, setting},
    },
};

use super::{Case, Must, acts, check, get, more_fields, post, request, sends, sends_held};

const PROTOCOL: &[Code] = &[Code::PROTOCOL_ERROR];
const FRAME_SIZE: &[Code] = &[Code::FRAME_SIZE_ERROR, Code::PROTOCOL_ERROR];
const CLOSED: &[Code] = &[Code::STREAM_CLOSED, Code::PROTOCOL_ERROR];
const FLOW_CONTROL: &[Code] = &[Code::FLOW_CONTROL_ERROR, Code::PROTOCOL_ERROR];
const HELLO: Must = Must::Answer(200, b"hello");

/// §6.1
#[test]
fn data() {
    check(vec![
        sends(
            "http2/6.1/1 of stream 0",
            frame::data(0, flag::END_STREAM, b"test"),
            Must::FailConnection(PROTOCOL),
        ),
        sends_held(
            "http2/6.1/2 of a half-closed stream",
            [
                frame::headers(1, flag::END, &request("POST", "/echo")),
                frame::data(1, flag::END_STREAM, b"test"),
            ]
            .concat(),
            Must::Fail(CLOSED),
        ),
        sends(
            "http2/6.1/3 with too much padding",
            [post(), frame::data(1, flag::END_STREAM | flag::PADDED, b"\x06Test")].concat(),
            Must::FailConnection(PROTOCOL),
        ),
        sends(
            "padded, without the length of the padding",
            [post(), frame::data(1, flag::END_STREAM | flag::PADDED, b"")].concat(),
            Must::FailConnection(FRAME_SIZE),
        ),
        sends(
            "padding and nothing else",
            [post(), frame::data(1, flag::END_STREAM | flag::PADDED, &frame::padded(255, b""))].concat(),
            Must::Answer(200, b""),
        ),
    ]);
}

/// §6.2
#[test]
fn headers() {
    let block = request("GET", "/");
    let open = || frame::headers(1, 0, &request("GET", "/"));
    let rest = || frame::continuation(1, flag::END_HEADERS, &more_fields());
    let padding = u8::try_from(block.len() + 1).unwrap();
    check(vec![
        sends(
            "http2/6.2/1 not ended, then PRIORITY",
            [open(), frame::priority(1, 0, 255), rest()].concat(),
            Must::FailConnection(PROTOCOL),
        ),
        sends(
            "http2/6.2/2 not ended, then HEADERS of another stream",
            [open(), frame::headers(3, flag::END, &block), rest()].concat(),
            Must::FailConnection(PROTOCOL),
        ),
        sends(
            "http2/6.2/3 of stream 0",
            frame::headers(0, flag::END, &block),
            Must::FailConnection(PROTOCOL),
        ),
        sends(
            "http2/6.2/4 with too much padding",
            frame::headers(1, flag::END | flag::PADDED, &[&[padding], &block[..]].concat()),
            Must::FailConnection(PROTOCOL),
        ),
        sends(
            "a priority cut short",
            frame::headers(1, flag::END | flag::PRIORITY, b"\0\0\0"),
            Must::FailConnection(FRAME_SIZE),
        ),
    ]);
}

/// §6.3
#[test]
fn priority() {
    check(vec![
        sends("http2/6.3/1 of stream 0", frame::priority(0, 0, 255), Must::FailConnection(PROTOCOL)),
        sends_held(
            "http2/6.3/2 of 4 octets",
            [get("/"), frame::frame(kind::PRIORITY, 0, 1, b"\x80\0\0\x01")].concat(),
            Must::Fail(FRAME_SIZE),
        ),
        sends("http2/6.3/3 of a later stream", [frame::priority(3, 0, 255), get("/")].concat(), HELLO),
    ]);
}

/// §6.4
#[test]
fn rst_stream() {
    check(vec![
        sends("http2/6.4/1 of stream 0", frame::rst_stream(0, Code::CANCEL), Must::FailConnection(PROTOCOL)),
        sends(
            "http2/6.4/2 of an idle stream",
            frame::rst_stream(1, Code::CANCEL),
            Must::FailConnection(PROTOCOL),
        ),
        sends(
            "http2/6.4/3 of 3 octets",
            [get("/"), frame::frame(kind::RST_STREAM, 0, 1, b"\0\0\0")].concat(),
            Must::FailConnection(FRAME_SIZE),
        ),
    ]);
}

/// §6.5
#[test]
fn settings() {
    let set = |id, value, must| (frame::settings(&[(id, value)]), must);
    let (push, push_must) = set(setting::ENABLE_PUSH, 2, Must::FailConnection(PROTOCOL));
    let (window, window_must) =
        set(setting::INITIAL_WINDOW_SIZE, 0x8000_0000, Must::FailConnection(FLOW_CONTROL));
    let (small, small_must) = set(setting::MAX_FRAME_SIZE, 16_383, Must::FailConnection(PROTOCOL));
    let (large, large_must) = set(setting::MAX_FRAME_SIZE, 16_777_216, Must::FailConnection(PROTOCOL));
    let (unknown, unknown_must) = set(0xff, 1, Must::GoOn);
    check(vec![
        sends(
            "http2/6.5/1 ACK with a payload",
            frame::frame(kind::SETTINGS, flag::ACK, 0, b"\0"),
            Must::FailConnection(FRAME_SIZE),
        ),
        sends(
            "http2/6.5/2 of a stream",
            frame::frame(kind::SETTINGS, 0, 1, b"\0\x03\0\0\0\x64"),
            Must::FailConnection(PROTOCOL),
        ),
        sends(
            "http2/6.5/3 of 8 octets",
            frame::frame(kind::SETTINGS, 0, 0, b"\0\x03\0\0\0\x64\0\x02"),
            Must::FailConnection(FRAME_SIZE),
        ),
        sends("http2/6.5.2/1 ENABLE_PUSH of 2", push, push_must),
        sends("http2/6.5.2/2 INITIAL_WINDOW_SIZE of 2^31", window, window_must),
        sends("http2/6.5.2/3 MAX_FRAME_SIZE too small", small, small_must),
        sends("http2/6.5.2/4 MAX_FRAME_SIZE too large", large, large_must),
        sends("http2/6.5.2/5 an unknown one", unknown, unknown_must),
        windowed("http2/6.5.3/1 the last value of several holds", &[100, 1], "/bytes/10", Must::Send(1)),
        acts(
            "http2/6.5.3/2 they are acknowledged",
            |client| {
                client.send(&frame::settings(&[(setting::ENABLE_PUSH, 0)]))?;
                acknowledged(client, 2)
            },
            Must::GoOn,
        ),
    ]);
}

fn acknowledged(client: &mut Connection, times: usize) -> Result<(), ClientError> {
    while client.settings_acks < times {
        client.next_frame()?;
    }
    Ok(())
}

/// A GET behind these values of `INITIAL_WINDOW_SIZE`, in one frame.
fn windowed(name: &'static str, windows: &[u32], path: &str, must: Must) -> Case {
    let settings = windows.iter().map(|window| (setting::INITIAL_WINDOW_SIZE, *window)).collect();
    Case { settings, ..sends(name, get(path), must) }
}

/// §6.7
#[test]
fn ping() {
    let ping = |flags, stream, octets: &[u8]| frame::frame(kind::PING, flags, stream, octets);
    let unasked = ping(flag::ACK, 0, b"invalid\0");
    check(vec![
        acts("http2/6.7/1 comes back as it was", |client| client.ping(*b"h2spec\0\0"), Must::GoOn),
        acts(
            "http2/6.7/2 an answer is not answered",
            move |client| {
                client.send(&unasked)?;
                client.ping(*b"h2spec\0\0")?;
                if client.pongs == [*b"h2spec\0\0"] {
                    Ok(())
                } else {
                    Err(ClientError::Malformed(format!("{:?}", client.pongs)))
                }
            },
            Must::GoOn,
        ),
        sends("http2/6.7/3 of a stream", ping(0, 1, &[0; 8]), Must::FailConnection(PROTOCOL)),
        sends("http2/6.7/4 of 6 octets", ping(0, 0, &[0; 6]), Must::FailConnection(FRAME_SIZE)),
    ]);
}

/// §6.8
#[test]
fn goaway() {
    let of_stream = frame::frame(kind::GOAWAY, 0, 1, &[0; 8]);
    check(vec![
        sends("http2/6.8/1 of a stream", of_stream, Must::FailConnection(PROTOCOL)),
        sends("cut short", frame::frame(kind::GOAWAY, 0, 0, &[0; 7]), Must::FailConnection(FRAME_SIZE)),
        sends(
            "what is under way is finished",
            [get("/"), frame::goaway(0, Code::NO_ERROR, b"")].concat(),
            // It need not go on, but the response is whole.
            Must::Finish(200, b"hello"),
        ),
    ]);
}

/// §6.9
#[test]
fn window_update() {
    const MAX: u32 = 0x7fff_ffff;
    let window_of = |window| frame::settings(&[(setting::INITIAL_WINDOW_SIZE, window)]);
    check(vec![
        sends(
            "http2/6.9/1 by 0, of the connection",
            frame::window_update(0, 0),
            Must::FailConnection(PROTOCOL),
        ),
        sends(
            "http2/6.9/2 by 0, of a stream",
            [post(), frame::window_update(1, 0)].concat(),
            Must::Fail(PROTOCOL),
        ),
        sends(
            "http2/6.9/3 of 3 octets",
            frame::frame(kind::WINDOW_UPDATE, 0, 0, b"\0\0\x01"),
            Must::FailConnection(FRAME_SIZE),
        ),
        windowed("http2/6.9.1/1 a window of 1", &[1], "/bytes/10", Must::Send(1)),
        sends(
            "http2/6.9.1/2 beyond the maximum, of the connection",
            frame::window_update(0, MAX).repeat(2),
            Must::FailConnection(FLOW_CONTROL),
        ),
        sends(
            "http2/6.9.1/3 beyond the maximum, of a stream",
            [post(), frame::window_update(1, MAX).repeat(2)].concat(),
            Must::Fail(FLOW_CONTROL),
        ),
        sends_held(
            "http2/6.9.2/1 a new window holds for open streams",
            [get("/bytes/10"), window_of(1)].concat(),
            Must::Send(1),
        ),
        Case {
            settings: vec![(setting::INITIAL_WINDOW_SIZE, 3)],
            ..acts(
                "http2/6.9.2/2 a window may be negative",
                move |client| {
                    client.send(&get("/bytes/10"))?;
                    while super::sent_bytes(client) < 3 {
                        client.next_frame()?;
                    }
                    client.send(&window_of(2))?;
                    acknowledged(client, 2)?;
                    client.send(&frame::window_update(1, 2))
                },
                Must::Send(4),
            )
        },
        sends(
            "http2/6.9.2/3 INITIAL_WINDOW_SIZE beyond the maximum",
            frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 0x8000_0000)]),
            Must::FailConnection(FLOW_CONTROL),
        ),
        Case {
            settings: vec![(setting::INITIAL_WINDOW_SIZE, 0)],
            ..acts(
                "a new window that makes a stream's exceed the maximum",
                move |client| {
                    client.send(&[get("/bytes/10"), frame::window_update(1, 1)].concat())?;
                    while super::sent_bytes(client) < 1 {
                        client.next_frame()?;
                    }
                    client.send(&[frame::window_update(1, 2), window_of(MAX)].concat())
                },
                // Ten octets fit before it overflows, so that a stream that has ended has no window to overflow.
                Must::Ignore(FLOW_CONTROL),
            )
        },
    ]);
}

/// §6.10
#[test]
fn continuation() {
    let open = |method| frame::headers(1, 0, &request(method, "/"));
    let rest = |flags| frame::continuation(1, flags, &more_fields());
    let data = || frame::data(1, flag::END_STREAM, b"test");
    check(vec![
        sends(
            "http2/6.10/1 several of them",
            [frame::headers(1, flag::END_STREAM, &request("GET", "/")), rest(0), rest(flag::END_HEADERS)]
                .concat(),
            HELLO,
        ),
        sends(
            "http2/6.10/2 then DATA",
            [open("POST"), rest(0), data()].concat(),
            Must::FailConnection(PROTOCOL),
        ),
        sends(
            "http2/6.10/3 of stream 0",
            [open("GET"), frame::continuation(0, flag::END_HEADERS, &more_fields())].concat(),
            Must::FailConnection(PROTOCOL),
        ),
        sends_held(
            "http2/6.10/4 behind a whole block",
            [get("/"), rest(flag::END_HEADERS)].concat(),
            Must::FailConnection(PROTOCOL),
        ),
        sends_held(
            "http2/6.10/5 behind the last one",
            [
                frame::headers(1, flag::END_STREAM, &request("GET", "/")),
                rest(flag::END_HEADERS),
                rest(flag::END_HEADERS),
            ]
            .concat(),
            Must::FailConnection(PROTOCOL),
        ),
        sends(
            "http2/6.10/6 behind DATA",
            [open("POST"), data(), rest(0), frame::continuation(0, flag::END_HEADERS, &more_fields())]
                .concat(),
            Must::FailConnection(PROTOCOL),
        ),
        sends(
            "of another stream",
            [open("GET"), frame::continuation(3, flag::END_HEADERS, &more_fields())].concat(),
            Must::FailConnection(PROTOCOL),
        ),
        sends(
            "empty ones",
            [
                frame::headers(1, flag::END_STREAM, &[]),
                frame::continuation(1, 0, &[]),
                frame::continuation(1, 0, &request("GET", "/")),
                frame::continuation(1, flag::END_HEADERS, &[]),
            ]
            .concat(),
            HELLO,
        ),
    ]);
}

/// §7
#[test]
fn unknown_errors_are_as_good_as_known_ones() {
    check(vec![
        sends("http2/7/1 GOAWAY", frame::goaway(0, Code(0xff), b""), Must::End),
        sends("http2/7/2 RST_STREAM", [post(), frame::rst_stream(1, Code(0xff))].concat(), Must::GoOn),
    ]);
}
