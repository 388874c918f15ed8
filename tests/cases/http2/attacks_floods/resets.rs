//! Rows 55 and 56: streams that end before they are answered, by the client's hand or by ours.

use xtask::lab::{
    client::ClientError,
    http2::{
        Connection, Outcome,
        frame::{self, Code, flag, kind},
        hpack,
    },
    wait,
};

use super::{CALM, brief, warm_edge};
use crate::{
    cases::http2::{GET, POST, connect, origin::Origin},
    support::TIME_MAX,
};

/// Streams that are tried on one connection.
const STREAMS: u32 = 5_000;
/// `limits.streams` of the gateway under test.
const AT_ONCE: usize = 20;
/// Requests of one connection that may come to nothing at an upstream: the free resets and what was under way.
const REACHED_MAX: usize = 100 + 2 * AT_ONCE;

const LIMITS: &str = "limits = { streams = 20 }";

fn held(stream: u32) -> Vec<u8> {
    let mut fields = GET;
    fields[2].1 = "/hold";
    frame::headers(stream, flag::END, &hpack::block(&fields))
}

fn held_upload(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    let mut fields = POST;
    fields[2].1 = "/hold";
    frame::headers(stream, flag::END_HEADERS, &hpack::block(&[&fields[..], more].concat()))
}

/// Plays `stream` for one stream number after another until the connection ends. What reaches the upstream is
/// little, at any time and in all; another client is served.
#[track_caller]
fn check(
    name: &str,
    codes: &[Code],
    mut stream: impl FnMut(&mut Connection, u32, &Origin) -> Result<(), ClientError>,
) {
    let (origin, edge) = warm_edge(LIMITS);
    let mut client = connect(&edge);
    let cut =
        (0..STREAMS).find_map(|n| stream(&mut client, 2 * n + 1, &origin).err().map(|error| (n, error)));
    let Some((n, error)) = cut else {
        panic!("{name}: {STREAMS} streams, {} at the upstream", origin.count())
    };
    let end = client.end();
    let is_right = matches!(&end, Ok(Outcome::ConnectionError(code)) if codes.contains(code));
    assert!(is_right, "{name}: {end:?} instead of {codes:?} after {n} streams ({error})");
    let (count, held_max) = (origin.count(), origin.held_max());
    assert!(count <= REACHED_MAX, "{name}: {count} requests reached the upstream");
    assert!(held_max <= AT_ONCE, "{name}: {held_max} at once at the upstream");
    assert_eq!(brief(&connect(&edge).get(1, &GET).unwrap()), "200 and 5 octets", "{name}");
    // What was begun for it is given up.
    let given_up = wait::until(TIME_MAX, || (origin.held() == 0).then_some(()));
    assert!(given_up.is_some(), "{name}: {} are still held", origin.held());
}

/// CVE-2023-44487. In bulk, so that a reset comes with its request.
#[test]
fn row_55_rapid_reset() {
    check("in bulk", CALM, |client, stream, _| {
        if stream % 200 != 1 {
            return Ok(());
        }
        let bulk = (0..100).flat_map(|n| {
            let stream = stream + 2 * n;
            [held(stream), frame::rst_stream(stream, Code::CANCEL)].concat()
        });
        client.send(&bulk.collect::<Vec<_>>())?;
        client.ping(u64::from(stream).to_be_bytes())
    });
}

/// The same at leisure: each request reaches the upstream before it is reset.
#[test]
fn row_55_resets_of_requests_that_are_under_way() {
    check("at leisure", CALM, |client, stream, origin| {
        let before = origin.count();
        client.send(&held(stream))?;
        // It may be refused for what the others before it still do.
        let there = wait::until(TIME_MAX, || {
            let is_refused = client.ping(u64::from(stream).to_be_bytes()).is_err()
                || client.streams.get(&stream).is_some_and(|stream| stream.reset.is_some());
            (is_refused || origin.count() > before).then_some(())
        });
        there.ok_or(ClientError::TimedOut)?;
        client.send(&frame::rst_stream(stream, Code::CANCEL))?;
        client.ping(u64::from(stream + 1).to_be_bytes())
    });
}

/// Where half of the requests are answered, resets are a client's right.
#[test]
fn row_55_some_resets_are_no_attack() {
    let (_origin, edge) = warm_edge("");
    let mut client = connect(&edge);
    for n in 0..300 {
        let stream = 4 * n + 1;
        assert_eq!(brief(&client.get(stream, &GET).unwrap()), "200 and 5 octets");
        client.send(&[held(stream + 2), frame::rst_stream(stream + 2, Code::CANCEL)].concat()).unwrap();
    }
    client.ping(*b"well    ").unwrap();
}

/// CVE-2025-8671: every way to make a server reset a stream whose request is at work already. It is the connection
/// that ends, at once or after so many.
#[test]
fn row_56_made_you_reset() {
    const ANY: &[Code] =
        &[Code::ENHANCE_YOUR_CALM, Code::PROTOCOL_ERROR, Code::STREAM_CLOSED, Code::FRAME_SIZE_ERROR];
    type Trigger = fn(u32) -> Vec<u8>;
    type Fields<'a> = &'a [(&'a str, &'a str)];
    let on_held: [(&str, Trigger); 7] = [
        ("WINDOW_UPDATE by 0", |stream| frame::window_update(stream, 0)),
        ("a window beyond its maximum", |stream| frame::window_update(stream, 0x7fff_ffff)),
        ("DATA behind the end", |stream| frame::data(stream, 0, b"x")),
        ("HEADERS behind the end", |stream| frame::headers(stream, flag::END, &hpack::block(&GET))),
        ("PRIORITY on itself", |stream| frame::priority(stream, stream, 16)),
        ("PRIORITY of 4 octets", |stream| frame::frame(kind::PRIORITY, 0, stream, b"\0\0\0\0")),
        ("trailers behind the end", |stream| {
            frame::headers(stream, flag::END, &hpack::block(&[("x-trailer", "1")]))
        }),
    ];
    let on_upload: [(&str, Fields<'_>, Trigger); 5] = [
        ("more DATA than its head says", &[("content-length", "1")], |stream| {
            frame::data(stream, flag::END_STREAM, b"more")
        }),
        ("less DATA than its head says", &[("content-length", "9")], |stream| {
            frame::data(stream, flag::END_STREAM, b"less")
        }),
        ("HEADERS that do not end it", &[], |stream| {
            frame::headers(stream, flag::END_HEADERS, &hpack::block(&[("x-trailer", "1")]))
        }),
        ("malformed trailers", &[], |stream| {
            frame::headers(stream, flag::END, &hpack::block(&[(":method", "GET")]))
        }),
        ("trailers with a line break", &[], |stream| {
            frame::headers(stream, flag::END, &hpack::block(&[("x", "a\r\nb")]))
        }),
    ];
    for (name, trigger) in on_held {
        check(name, ANY, |client, stream, origin| {
            let bytes = [held(stream), trigger(stream)].concat();
            made(client, stream, origin, &bytes)
        });
    }
    for (name, fields, trigger) in on_upload {
        check(name, ANY, |client, stream, origin| {
            let bytes = [held_upload(stream, fields), trigger(stream)].concat();
            made(client, stream, origin, &bytes)
        });
    }
}

/// Sends it and waits for what comes of it: a reset, or nothing where the fault is forgiven; then the client itself
/// ends the stream, so that it counts as one of its own.
fn made(client: &mut Connection, stream: u32, _: &Origin, bytes: &[u8]) -> Result<(), ClientError> {
    client.send(bytes)?;
    client.ping(u64::from(stream).to_be_bytes())?;
    if client.streams.get(&stream).is_none_or(|exchange| exchange.reset.is_none()) {
        client.send(&frame::rst_stream(stream, Code::CANCEL))?;
    }
    Ok(())
}
