//! What is legal though rare, and has to work.

use xtask::lab::{
    http2::{
        Connection, Outcome,
        frame::{self, Code, flag, setting},
        hpack::{self, Indexing},
    },
    wait,
};

use super::{GET, POST, connect, h2_edge, origin::Origin, spec::brief};
use crate::support::{Edge, TIME_MAX};

fn start() -> (Origin, Edge) {
    let origin = Origin::start();
    let edge = h2_edge(&origin, "");
    (origin, edge)
}

fn post(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    frame::headers(stream, flag::END_HEADERS, &hpack::block(&[&POST[..], more].concat()))
}

fn get(stream: u32, path: &str) -> Vec<u8> {
    let mut fields = GET;
    fields[2].1 = path;
    frame::headers(stream, flag::END, &hpack::block(&fields))
}

#[track_caller]
fn body(client: &mut Connection, stream: u32) -> Vec<u8> {
    match client.outcome(stream).unwrap() {
        Outcome::Answer(response) if response.status == 200 => response.body,
        other => panic!("{}", brief(&other)),
    }
}

#[test]
fn trailers_reach_the_upstream() {
    let (origin, edge) = start();
    let mut client = connect(&edge);
    let trailers = hpack::block(&[("x-checksum", "1"), ("authorization", "forged"), ("x-other", "2")]);
    client.send(&[post(1, &[]), frame::data(1, 0, b"test")].concat()).unwrap();
    client.send(&frame::headers(1, flag::END, &trailers)).unwrap();
    assert_eq!(body(&mut client, 1), b"test");
    // A credential in a trailer does not.
    let kept: Vec<_> = origin.requests()[0].trailers.iter().map(|line| line.to_ascii_lowercase()).collect();
    assert_eq!(kept, ["x-checksum: 1", "x-other: 2"]);
}

/// A length that was said leaves no place for them in HTTP/1.1, but nothing is wrong with them.
#[test]
fn trailers_behind_a_length_do_no_harm() {
    let (origin, edge) = start();
    let mut client = connect(&edge);
    client.send(&[post(1, &[("content-length", "4")]), frame::data(1, 0, b"test")].concat()).unwrap();
    client.send(&frame::headers(1, flag::END, &hpack::block(&[("x-checksum", "1")]))).unwrap();
    assert_eq!(body(&mut client, 1), b"test");
    assert_eq!(origin.requests()[0].body, b"test");
}

/// RFC 9110 §10.1.1: the client waits for it.
#[test]
fn a_body_that_waits_for_100_continue_is_asked_for() {
    let (_origin, edge) = start();
    let mut client = connect(&edge);
    client.send(&post(1, &[("expect", "100-continue")])).unwrap();
    while client.streams.get(&1).is_none_or(|stream| stream.interim.is_empty()) {
        client.next_frame().unwrap();
    }
    assert_eq!(client.streams[&1].interim, [100]);
    client.send(&frame::data(1, flag::END_STREAM, b"test")).unwrap();
    assert_eq!(body(&mut client, 1), b"test");
}

/// RFC 9113 §8.2.3
#[test]
fn crumbs_become_one_cookie() {
    let (origin, edge) = start();
    let mut client = connect(&edge);
    let fields =
        [&GET[..], &[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2; c=3"), ("cookie", "d=4")]].concat();
    client.get(1, &fields).unwrap();
    assert_eq!(origin.requests()[0].values("cookie"), ["a=1; b=2; c=3; d=4"]);
}

#[test]
fn fields_come_as_they_were_sent() {
    let (origin, edge) = start();
    let mut client = connect(&edge);
    let odd: [(&[u8], &[u8]); 7] = [
        (b"x-empty", b""),
        (b"x-obs-text", b"caf\xe9 \xc3\xa9"),
        (b"x-spaced", b"a  b\tc"),
        (b"x-quoted", b"\"a, b\""),
        (b"x-twice", b"1"),
        (b"x-twice", b"2"),
        (b"!#$%&'*+-.^`|~0", b"every kind of octet that a name may have"),
    ];
    let own = GET.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    client.send(&frame::headers(1, flag::END, &hpack::block(&[&own[..], &odd].concat()))).unwrap();
    assert_eq!(body(&mut client, 1), b"hello");
    let request = &origin.requests()[0];
    for (name, value) in odd {
        let value: String = value.iter().copied().map(char::from).collect();
        let came = request.values(std::str::from_utf8(name).unwrap());
        assert!(came.contains(&value.as_str()), "{}: {came:?}", name.escape_ascii());
    }
    assert_eq!(request.values("x-twice"), ["1", "2"]);
}

#[test]
fn targets_come_as_they_were_sent() {
    let (origin, edge) = start();
    let mut client = connect(&edge);
    let paths = ["/a?b=c&d=%2f", "/~a/b-c_d.e!$&'()*+,=:@", "/a/?x=//..//", "/a??&=", "/%C3%A9", "/a.b..c/-"];
    for (stream, path) in (1..).step_by(2).zip(paths) {
        client.send(&get(stream, path)).unwrap();
        body(&mut client, stream);
    }
    let targets: Vec<_> = origin.requests().iter().map(|request| request.target().to_owned()).collect();
    assert_eq!(targets, paths.map(|path| format!("GET {path}")));
}

#[test]
fn octets_may_come_one_by_one() {
    let (origin, edge) = start();
    let mut client = Connection::open(edge.address, TIME_MAX).unwrap();
    let bytes = [
        xtask::lab::http2::PREFACE,
        &frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 100_000)]),
        &post(1, &[("content-length", "8")]),
        &frame::data(1, flag::PADDED, &frame::padded(3, b"test")),
        &frame::ping(*b"whatever"),
        &frame::data(1, flag::END_STREAM, b"test"),
        &get(3, "/"),
    ];
    for octet in bytes.concat() {
        client.send(&[octet]).unwrap();
    }
    assert_eq!(body(&mut client, 1), b"testtest");
    assert_eq!(body(&mut client, 3), b"hello");
    assert_eq!((client.pongs.len(), origin.count()), (1, 2));
}

/// Whoever may send so much may do so at once, and goes on as the windows open.
#[test]
fn a_body_may_fill_the_window_and_go_on() {
    let (_origin, edge) = start();
    let mut client = connect(&edge);
    let window = usize::try_from(client.setting(setting::INITIAL_WINDOW_SIZE).unwrap_or(65_535)).unwrap();
    let sent = vec![b'x'; window.min(65_535)];
    client.send(&post(1, &[])).unwrap();
    for piece in sent.chunks(16_384) {
        client.send(&frame::data(1, 0, piece)).unwrap();
    }
    let mut room = 0;
    while room == 0 {
        if let frame::Frame::Window { stream: 1, increment } = client.next_frame().unwrap() {
            room += increment;
        }
    }
    client.send(&frame::data(1, flag::END_STREAM, b"!")).unwrap();
    assert_eq!(body(&mut client, 1).len(), sent.len() + 1);
}

/// What came for a stream that has ended is given back to the connection, or else it would soon take no body at all.
#[test]
fn bodies_that_nobody_reads_do_not_shut_the_connection_s_window() {
    const PIECE: [u8; 15_000] = [b'x'; 15_000];
    let origin = Origin::start();
    let edge = h2_edge(&origin, "limits = { body_size = \"70KiB\" }");
    let mut client = connect(&edge);
    let mut window: i64 = 65_535;
    let mut stream = 1;
    for round in 0..60 {
        // Too long by what it says; of no length and reset; of no length and too long by what comes.
        let (head, is_reset) = match round % 3 {
            0 => (post(stream, &[("content-length", "100000")]), false),
            1 => (post(stream, &[]), true),
            _ => (post(stream, &[]), false),
        };
        client.send(&head).unwrap();
        for _ in 0..4 {
            while window < 15_000 {
                if let frame::Frame::Window { stream: 0, increment } = client.next_frame().unwrap() {
                    window += i64::from(increment);
                }
            }
            client.send(&frame::data(stream, 0, &PIECE)).unwrap();
            window -= 15_000;
        }
        if is_reset {
            client.send(&frame::rst_stream(stream, Code::CANCEL)).unwrap();
        }
        stream += 2;
    }
    client.send(&[post(stream, &[]), frame::data(stream, flag::END_STREAM, b"test")].concat()).unwrap();
    assert_eq!(body(&mut client, stream), b"test");
}

/// RFC 9113 §8.1: the answer is whole, and what is left of the body is not asked for.
#[test]
fn an_answer_before_the_end_of_a_body_is_heard() {
    let origin = Origin::start();
    let edge = h2_edge(&origin, "limits = { body_size = \"10KiB\" }");
    let mut client = connect(&edge);
    for (stream, head) in [(1, post(1, &[("content-length", "100000")])), (3, post(3, &[]))] {
        client.send(&head).unwrap();
        // It may be reset before all of it is sent, but never without its answer.
        for _ in 0..4 {
            client.send(&frame::data(stream, 0, &[b'x'; 10_000])).unwrap();
        }
        let Outcome::Answer(response) = client.outcome(stream).unwrap() else {
            panic!("no answer to {stream}")
        };
        assert_eq!(response.status, 413);
    }
    assert_eq!(brief(&client.get(5, &GET).unwrap()), "200 and 5 octets");
}

/// A client that writes as it thinks: none of it is a flood.
#[test]
fn many_small_frames_are_no_flood() {
    let (_origin, edge) = start();
    let mut client = connect(&edge);
    client.send(&post(1, &[])).unwrap();
    for _ in 0..2_000 {
        client.send(&frame::data(1, 0, b"0123456789abcdef")).unwrap();
    }
    client.send(&frame::data(1, flag::END_STREAM, b"")).unwrap();
    assert_eq!(body(&mut client, 1).len(), 32_000);
    // One connection, request after request, with what browsers send beside them.
    for n in 1..1_500 {
        let stream = 2 * n + 1;
        let request = [frame::priority(stream, 0, 16), get(stream, "/"), frame::window_update(0, 5)];
        client.send(&request.concat()).unwrap();
        assert_eq!(body(&mut client, stream), b"hello");
        if n % 10 == 0 {
            client.ping(u64::from(n).to_be_bytes()).unwrap();
        }
    }
}

#[test]
fn as_many_streams_as_were_said_are_served_at_once() {
    let (origin, edge) = start();
    let mut client = connect(&edge);
    let at_once = client.setting(setting::MAX_CONCURRENT_STREAMS).expect("a limit");
    let held = (0..at_once - 1).flat_map(|n| get(2 * n + 1, "/hold"));
    client.send(&held.collect::<Vec<_>>()).unwrap();
    let there = wait::until(TIME_MAX, || (origin.held() == at_once as usize - 1).then_some(()));
    assert!(there.is_some(), "{} of {}", origin.held(), at_once - 1);
    let last = 2 * at_once + 1;
    client.send(&get(last, "/")).unwrap();
    assert_eq!(body(&mut client, last), b"hello");
    // A reset gives a place back, and what was begun at the upstream is given up.
    client.send(&frame::rst_stream(1, Code::CANCEL)).unwrap();
    let gone = wait::until(TIME_MAX, || (origin.held() == at_once as usize - 2).then_some(()));
    assert!(gone.is_some(), "{} are held", origin.held());
}

/// The answer to one does not wait for another, nor does an upload for a download.
#[test]
fn streams_do_not_wait_for_each_other() {
    let (_origin, edge) = start();
    let mut client = connect(&edge);
    client
        .send(&[post(1, &[]), frame::data(1, 0, b"te"), get(3, "/hold"), get(5, "/bytes/300000")].concat())
        .unwrap();
    assert_eq!(body(&mut client, 5).len(), 300_000);
    client.send(&get(7, "/")).unwrap();
    assert_eq!(body(&mut client, 7), b"hello");
    client.send(&frame::data(1, flag::END_STREAM, b"st")).unwrap();
    assert_eq!(body(&mut client, 1), b"test");
}

#[test]
fn a_head_in_the_dynamic_table_serves_later_requests() {
    let (origin, edge) = start();
    let mut client = connect(&edge);
    let incremental = |name, value| hpack::literal(Indexing::Incremental, name, value);
    let first = [hpack::block(&GET), incremental("x-a", "1"), incremental("x-b", "2")].concat();
    client.send(&frame::headers(1, flag::END, &first)).unwrap();
    body(&mut client, 1);
    let second = [hpack::block(&GET), hpack::indexed(63), hpack::indexed(62)].concat();
    client.send(&frame::headers(3, flag::END, &second)).unwrap();
    body(&mut client, 3);
    // An empty table forgets them.
    let third =
        [hpack::table_size(0), hpack::table_size(4096), hpack::block(&GET), hpack::indexed(62)].concat();
    client.send(&frame::headers(5, flag::END, &third)).unwrap();
    let outcome = client.outcome(5).unwrap();
    assert!(matches!(outcome, Outcome::ConnectionError(_)), "{}", brief(&outcome));
    let requests = origin.requests();
    for request in &requests {
        assert_eq!((request.values("x-a"), request.values("x-b")), (vec!["1"], vec!["2"]));
    }
    assert_eq!(requests.len(), 2);
}

/// RFC 9113 §6.5.3: they hold for what is said from then on.
#[test]
fn settings_may_change_at_any_time() {
    let (_origin, edge) = start();
    let mut client = connect(&edge);
    for (n, table_bytes) in [0, 4096, 100, 65_536, 0, 4096].into_iter().enumerate() {
        client.send(&frame::settings(&[(setting::HEADER_TABLE_SIZE, table_bytes)])).unwrap();
        while client.settings_acks < n + 2 {
            client.next_frame().unwrap();
        }
        let stream = u32::try_from(2 * n + 1).unwrap();
        client.send(&get(stream, "/")).unwrap();
        assert_eq!(body(&mut client, stream), b"hello");
    }
}

#[test]
fn methods_without_a_meaning_here_go_on() {
    let (origin, edge) = start();
    let mut client = connect(&edge);
    for (stream, method) in (1..).step_by(2).zip(["PATCH", "PROPFIND", "M-SEARCH", "get", "OPTIONS"]) {
        let mut fields = GET;
        fields[0].1 = method;
        client.send(&frame::headers(stream, flag::END, &hpack::block(&fields))).unwrap();
        assert_eq!(body(&mut client, stream), b"hello", "{method}");
        assert_eq!(origin.requests().last().unwrap().target(), format!("{method} /"));
    }
}
