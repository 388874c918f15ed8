//! Rows 55 to 60 of the catalogue of attacks: what costs a client little and a server much. Each ends with its
//! connection, in bounded memory, and reaches an upstream seldom or never; another client is served meanwhile.

mod resets;
mod slow;

use std::fs;

use xtask::lab::{
    client::ClientError,
    http2::{
        Connection, Outcome,
        frame::{self, Code, flag, kind, setting},
        hpack::{self, Indexing},
    },
};

use super::{GET, POST, connect, h2_edge, origin::Origin, spec::brief};
use crate::support::Edge;

/// What a flood sends at most; far less is enough.
const FLOOD_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What a connection may make the process grow by, however it is used: receive buffer, windows, tables.
const GROWTH_KIB_MAX: usize = 24 * 1024;

/// The most memory that the gateway has held so far, in KiB.
fn peak_kib(edge: &Edge) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", edge.gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A gateway that has warmed up, and its upstream.
fn warm_edge(listener: &str) -> (Origin, Edge) {
    let origin = Origin::start();
    let edge = h2_edge(&origin, listener);
    let mut client = connect(&edge);
    assert_eq!(brief(&client.get(1, &GET).unwrap()), "200 and 5 octets");
    (origin, edge)
}

/// Sends `unit` again and again behind `start`, until the gateway has had enough.
fn flood(client: &mut Connection, start: &[u8], unit: &[u8]) -> Result<Outcome, ClientError> {
    let many = unit.repeat((64 * 1024 / unit.len()).max(1));
    let mut sent = client.send(start);
    let mut bytes = 0;
    while sent.is_ok() && bytes < FLOOD_BYTES_MAX {
        sent = client.send(&many);
        bytes += many.len();
    }
    if sent.is_ok() {
        return Err(ClientError::Malformed(format!("{bytes} octets were taken")));
    }
    client.end()
}

/// Each flood ends its connection with one of `codes`; nothing of it reaches the upstream, and others are served.
#[track_caller]
fn check(codes: &[Code], floods: &[(&str, Vec<u8>, Vec<u8>)]) {
    let (origin, edge) = warm_edge("");
    let mut failed = Vec::new();
    for (name, start, unit) in floods {
        let (before_kib, before) = (peak_kib(&edge), origin.count());
        let mut client = connect(&edge);
        match flood(&mut client, start, unit) {
            Ok(Outcome::ConnectionError(code)) if codes.contains(&code) => {}
            Ok(other) => failed.push(format!("{name}: {} instead of {codes:?}", brief(&other))),
            Err(error) => failed.push(format!("{name}: {error}, {:?}", client.goaways)),
        }
        let grown_kib = peak_kib(&edge) - before_kib;
        if grown_kib > GROWTH_KIB_MAX {
            failed.push(format!("{name}: {grown_kib} KiB more memory"));
        }
        if origin.count() != before {
            failed.push(format!("{name}: {} requests reached the upstream", origin.count() - before));
        }
        let mut other = connect(&edge);
        if !matches!(other.get(1, &GET), Ok(Outcome::Answer(response)) if response.status == 200) {
            failed.push(format!("{name}: another client is not served"));
        }
    }
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}

const CALM: &[Code] = &[Code::ENHANCE_YOUR_CALM];

/// CVE-2024-27316 and its kin.
#[test]
fn row_57_continuation_floods() {
    let open = frame::headers(1, flag::END_STREAM, &hpack::block(&GET));
    let filler = hpack::literal(Indexing::Without, "x-filler", "x".repeat(1000));
    let floods = [
        ("empty ones", open.clone(), frame::continuation(1, 0, b"")),
        ("small fields", open.clone(), frame::continuation(1, 0, &hpack::block(&[("x", "")]))),
        ("large fields", open.clone(), frame::continuation(1, 0, &filler.repeat(16))),
        ("indexed fields", open.clone(), frame::continuation(1, 0, &hpack::indexed(2).repeat(16_000))),
        ("fields that are kept", open.clone(), {
            frame::continuation(
                1,
                0,
                &hpack::literal(Indexing::Incremental, "x", "y".repeat(1000)).repeat(16),
            )
        }),
        ("one field without an end", open, frame::continuation(1, 0, b"\x00\x7f\xff\xff\xff\x07xxxxxxxxxx")),
        (
            "no HEADERS but their first octet",
            frame::headers(1, 0, b"\x00"),
            frame::continuation(1, 0, b"\x7f"),
        ),
        // Size updates are no fields, and may only come before them.
        ("sizes of the table", frame::headers(1, 0, b"\x20"), frame::continuation(1, 0, &[0x20; 16_000])),
    ];
    check(&[Code::ENHANCE_YOUR_CALM, Code::COMPRESSION_ERROR, Code::PROTOCOL_ERROR], &floods);
}

/// CVE-2019-9512 to 9518.
#[test]
fn row_58_floods_of_frames_that_carry_nothing() {
    let none = Vec::new;
    let post = frame::headers(1, flag::END_HEADERS, &hpack::block(&POST));
    let floods = [
        ("SETTINGS of nothing", none(), frame::settings(&[])),
        ("SETTINGS", none(), frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 65_535)])),
        ("SETTINGS of a frame's length", none(), frame::settings(&[(0xff, 1); 2_000])),
        ("PING", none(), frame::ping(*b"whatever")),
        ("PRIORITY", none(), frame::priority(1, 0, 16)),
        (
            "PRIORITY of new streams",
            none(),
            (0..5_000).flat_map(|n| frame::priority(2 * n + 1, 0, 16)).collect(),
        ),
        ("WINDOW_UPDATE", none(), frame::window_update(0, 1)),
        ("WINDOW_UPDATE of a stream", post.clone(), frame::window_update(1, 1)),
        ("empty DATA", post.clone(), frame::data(1, 0, b"")),
        (
            "RST_STREAM again",
            [post, frame::rst_stream(1, Code::CANCEL)].concat(),
            frame::rst_stream(1, Code::CANCEL),
        ),
        ("unknown frames", none(), frame::frame(0xee, 0xff, 0, b"")),
        ("unknown frames with a payload", none(), frame::frame(0xee, 0xff, 3, &[0; 1000])),
        ("PRIORITY_UPDATE", none(), frame::frame(0x10, 0, 0, b"\0\0\0\x01u=1")),
        ("GOAWAY", none(), frame::goaway(0, Code::NO_ERROR, b"")),
    ];
    check(CALM, &floods);
}

/// What h2 counts rather than the frames themselves.
#[test]
fn row_58_floods_of_data_that_is_padding() {
    let post = || frame::headers(1, flag::END_HEADERS, &hpack::block(&POST));
    let floods = [
        ("padding of none", post(), frame::data(1, flag::PADDED, &frame::padded(0, b""))),
        ("padding", post(), frame::data(1, flag::PADDED, &frame::padded(255, b""))),
    ];
    check(&[Code::ENHANCE_YOUR_CALM, Code::FLOW_CONTROL_ERROR], &floods);
}

#[test]
fn row_58_answers_that_nobody_has_asked_for() {
    let floods = [
        ("PING", Vec::new(), frame::frame(kind::PING, flag::ACK, 0, b"whatever")),
        ("SETTINGS", Vec::new(), frame::settings_ack()),
    ];
    check(&[Code::ENHANCE_YOUR_CALM, Code::PROTOCOL_ERROR], &floods);
}

/// A block of 16 KiB that is 64 MiB of fields. It may be refused as a head that is too large, or the connection end.
#[test]
fn row_59_an_hpack_bomb_is_refused_in_bounded_memory() {
    let (origin, edge) = warm_edge("");
    let before_kib = peak_kib(&edge);
    // The table holds one entry of 4096 octets, its 32 included.
    let entry = hpack::literal(Indexing::Incremental, "x-bomb", "x".repeat(4096 - 32 - 6));
    let bombs: [(&str, Vec<u8>); 4] = [
        ("one entry again and again", [entry, hpack::indexed(62).repeat(12_000)].concat()),
        ("a known field again and again", hpack::indexed(16).repeat(16_000)),
        ("crumbs", hpack::literal_named(Indexing::Without, 32, "").repeat(5_000)),
        ("Huffman", hpack::literal_huffman(Indexing::Without, "x", "0".repeat(20_000)).repeat(2)),
    ];
    for (name, bomb) in &bombs {
        let mut client = connect(&edge);
        for stream in 0..200 {
            let stream = 2 * stream + 1;
            let block = [&hpack::block(&GET)[..], bomb].concat();
            let (first, rest) = block.split_at(block.len().min(16_384));
            let whole = if rest.is_empty() { flag::END_HEADERS } else { 0 };
            let mut bytes = frame::headers(stream, flag::END_STREAM | whole, first);
            if !rest.is_empty() {
                bytes.extend(frame::continuation(stream, flag::END_HEADERS, rest));
            }
            if client.send(&bytes).is_err() {
                break;
            }
            match client.outcome(stream) {
                Ok(Outcome::Answer(response)) if response.status == 431 => {}
                Ok(Outcome::StreamError(_)) => {}
                Ok(Outcome::ConnectionError(Code::ENHANCE_YOUR_CALM | Code::COMPRESSION_ERROR)) => break,
                other => panic!("{name}: {other:?}"),
            }
        }
    }
    let grown_kib = peak_kib(&edge) - before_kib;
    assert!(grown_kib <= GROWTH_KIB_MAX, "{grown_kib} KiB more memory");
    assert_eq!(origin.count(), 1);
    assert_eq!(brief(&connect(&edge).get(1, &GET).unwrap()), "200 and 5 octets");
}

/// Whoever does not read what it asks for: what is queued for it is bounded, and it is cut off.
#[test]
fn row_58_floods_whose_echo_nobody_reads() {
    use std::io::Write;
    let (_origin, edge) = warm_edge("timeouts = { body_idle = \"1s\" }");
    let start = [xtask::lab::http2::PREFACE, &frame::settings(&[]), &frame::settings_ack()].concat();
    let requests: Vec<u8> = (0..100)
        .flat_map(|n| {
            let mut fields = GET;
            fields[2].1 = "/bytes/1000000";
            frame::headers(2 * n + 1, flag::END, &hpack::block(&fields))
        })
        .collect();
    let open = frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 0x7fff_ffff)]);
    let wide = [open, frame::window_update(0, 0x7fff_0000), requests].concat();
    let floods = [
        ("PING", frame::ping(*b"whatever").repeat(1_000_000)),
        ("SETTINGS", frame::settings(&[]).repeat(1_000_000)),
        ("responses", wide),
    ];
    for (name, bytes) in floods {
        let before_kib = peak_kib(&edge);
        let mut stream = std::net::TcpStream::connect(edge.address).unwrap();
        stream.set_write_timeout(Some(crate::support::TIME_MAX)).unwrap();
        stream.write_all(&start).unwrap();
        // All of it where there is room, or until the gateway has had enough.
        let _cut = stream.write_all(&bytes);
        // The end of the connection is seen without reading: it can no longer be written to.
        let gone = xtask::lab::wait::until(crate::support::TIME_MAX, || {
            stream.write_all(&frame::window_update(0, 1)).err().map(|error| error.kind())
        });
        let gone = gone.unwrap_or_else(|| panic!("{name}: it is borne for ever"));
        assert!(
            matches!(gone, std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset),
            "{name}: {gone:?}"
        );
        let grown_kib = peak_kib(&edge) - before_kib;
        assert!(grown_kib <= GROWTH_KIB_MAX, "{name}: {grown_kib} KiB more memory");
    }
}
