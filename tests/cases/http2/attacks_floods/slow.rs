//! Row 60, and the other ways to hold a connection and give nothing for it: each ends by a deadline.

use std::{thread, time::Duration};

use xtask::lab::{
    client::ClientError,
    http2::{
        Connection, Outcome, PREFACE,
        frame::{self, Code, flag, setting},
        hpack,
    },
    wait,
};

use super::{GROWTH_KIB_MAX, brief, peak_kib, warm_edge};
use crate::{
    cases::http2::{GET, POST, connect},
    support::{Edge, TIME_MAX},
};

const SHORT: &str = "timeouts = { head = \"1s\", body_idle = \"1s\", keep_alive = \"1s\" }";

/// A request for so many octets on `stream`.
fn large(stream: u32) -> Vec<u8> {
    let mut fields = GET;
    fields[2].1 = "/bytes/1000000";
    frame::headers(stream, flag::END, &hpack::block(&fields))
}

fn greeted(edge: &Edge, settings: &[(u16, u32)]) -> Connection {
    let mut client = Connection::open(edge.address, TIME_MAX).unwrap();
    client.greet(settings).unwrap();
    client.refills = false;
    client
}

/// Whether it ended by our hand: no response came to its end.
fn is_cut(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::Answer(_))
}

#[test]
fn row_60_windows_that_stay_shut_are_cut_by_a_deadline() {
    let (_origin, edge) = warm_edge(SHORT);
    let before_kib = peak_kib(&edge);
    let windows = [("of none", 0), ("of one octet", 1), ("as they are", 65_535)];
    for (name, window) in windows {
        let mut client = greeted(&edge, &[(setting::INITIAL_WINDOW_SIZE, window)]);
        client.send(&(0..50).flat_map(|n| large(2 * n + 1)).collect::<Vec<_>>()).unwrap();
        for n in 0..50 {
            let outcome =
                client.outcome(2 * n + 1).unwrap_or_else(|error| panic!("{name}, stream {n}: {error}"));
            assert!(is_cut(&outcome), "{name}: {}", brief(&outcome));
        }
    }
    // 150 responses of 1 MB have waited.
    let grown_kib = peak_kib(&edge) - before_kib;
    assert!(grown_kib <= GROWTH_KIB_MAX, "{grown_kib} KiB more memory");
    assert_eq!(brief(&connect(&edge).get(1, &GET).unwrap()), "200 and 5 octets");
}

/// An octet at a time is not what a response of 1 MB is read by.
#[test]
fn row_60_windows_that_open_by_one_octet_are_no_way_to_read() {
    let (_origin, edge) = warm_edge("timeouts = { request = \"5s\", body_idle = \"5s\" }");
    let mut client = greeted(&edge, &[(setting::INITIAL_WINDOW_SIZE, 0)]);
    client.send(&large(1)).unwrap();
    let ended = wait::until(TIME_MAX, || {
        let opened = client.send(&frame::window_update(1, 1)).and_then(|()| client.ping(*b"one more"));
        let is_reset = client.streams.get(&1).is_some_and(|stream| stream.reset.is_some());
        (opened.is_err() || is_reset).then_some(())
    });
    assert!(ended.is_some(), "it goes on");
}

/// The window of the connection is shut while those of the streams are open.
#[test]
fn row_60_a_connection_s_window_that_stays_shut_is_cut_by_a_deadline() {
    let (_origin, edge) = warm_edge(SHORT);
    let mut client = greeted(&edge, &[(setting::INITIAL_WINDOW_SIZE, 0x7fff_ffff)]);
    client.send(&large(1)).unwrap();
    let outcome = client.outcome(1).unwrap();
    assert!(is_cut(&outcome), "{}", brief(&outcome));
}

/// A stalled stream does not keep the others from what they ask for.
#[test]
fn row_60_a_window_that_stays_shut_is_its_stream_s_affair() {
    let (_origin, edge) = warm_edge("");
    let mut client = greeted(&edge, &[(setting::INITIAL_WINDOW_SIZE, 0)]);
    client.send(&large(1)).unwrap();
    client.send(&frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 0)])).unwrap();
    for stream in [3, 5, 7] {
        client.send(&frame::headers(stream, flag::END, &hpack::block(&GET))).unwrap();
        client.send(&frame::window_update(stream, 5)).unwrap();
        assert_eq!(brief(&client.outcome(stream).unwrap()), "200 and 5 octets");
    }
}

#[test]
fn a_body_that_does_not_come_is_cut_by_a_deadline() {
    let (origin, edge) = warm_edge(SHORT);
    let mut client = greeted(&edge, &[]);
    let head = hpack::block(&POST);
    client.send(&frame::headers(1, flag::END_HEADERS, &head)).unwrap();
    client.send(&frame::data(1, 0, b"some")).unwrap();
    match client.outcome(1).unwrap() {
        Outcome::Answer(response) => assert_eq!(response.status, 408),
        Outcome::StreamError(_) | Outcome::ConnectionError(_) => {}
        Outcome::Closed => panic!("without a word"),
    }
    assert_eq!(origin.count(), 1, "only what came before it");
}

#[test]
fn what_is_not_finished_or_not_begun_is_cut_by_a_deadline() {
    let (_origin, edge) = warm_edge(SHORT);
    let settings = frame::settings(&[]);
    let head = frame::headers(1, flag::END_STREAM, &hpack::block(&GET)[..5]);
    let cases: [(&str, Vec<u8>); 7] = [
        ("nothing", Vec::new()),
        ("half a preface", PREFACE[..12].to_vec()),
        ("a preface alone", PREFACE.to_vec()),
        ("half of SETTINGS", [PREFACE, &settings[..5]].concat()),
        ("a greeting alone", [PREFACE, &settings].concat()),
        ("half a frame", [PREFACE, &settings, &frame::ping(*b"whatever")[..12]].concat()),
        ("half a header block", [PREFACE, &settings, &head].concat()),
    ];
    for (name, bytes) in cases {
        let mut client = Connection::open(edge.address, TIME_MAX).unwrap();
        client.send(&bytes).unwrap();
        let end = client.end();
        // What is no preface yet is a slow request of HTTP/1.1, and answered as one.
        assert!(!matches!(end, Err(ClientError::TimedOut)), "{name}: {end:?}");
    }
}

#[test]
fn a_connection_that_nobody_uses_ends_in_order() {
    let (_origin, edge) = warm_edge(SHORT);
    let mut client = connect(&edge);
    assert_eq!(brief(&client.get(1, &GET).unwrap()), "200 and 5 octets");
    assert_eq!(client.end().unwrap(), Outcome::Closed);
    assert!(client.goaways.iter().all(|(_, code)| *code == Code::NO_ERROR), "{:?}", client.goaways);
    assert_eq!(client.goaways.last(), Some(&(1, Code::NO_ERROR)));
}

/// A PING now and then is no use of a connection.
#[test]
#[expect(clippy::disallowed_methods, reason = "the pause is what the client does")]
fn pings_do_not_keep_a_connection() {
    let (_origin, edge) = warm_edge(SHORT);
    let mut client = connect(&edge);
    let ended = wait::until(TIME_MAX, || {
        thread::sleep(Duration::from_millis(20));
        client.ping(*b"awake?  ").err().map(|_| ())
    });
    assert!(ended.is_some(), "it lives on");
    assert!(client.goaways.iter().all(|(_, code)| *code == Code::NO_ERROR), "{:?}", client.goaways);
}
