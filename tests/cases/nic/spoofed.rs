//! Row 96: packets that say they are from somebody else cost that somebody nothing.

use std::time::Duration;

use xtask::lab::{
    flood::Flood,
    frames::{Endpoints, Frame, Link, Segment, flags},
    gateway::names,
    netns::{EDGE_MAC, EDGE_V4, HONEST_V4, WORLD_INTERFACE, WORLD_MAC},
};

use super::stage::{Background, PORT, Sections, Stage};

/// What would be an offence on a connection.
const GARBAGE: &[u8] = b"\x00\x01garbage\r\n\r\n";

/// Frames in the name of the victim: no connection is behind any of them.
fn forged() -> Vec<Vec<u8>> {
    let link = Link { source: WORLD_MAC, destination: EDGE_MAC, tags: Vec::new() };
    let frame = |port: u16, segment: Segment| {
        let endpoints = Endpoints::between((HONEST_V4[0], port).into(), (EDGE_V4, PORT).into()).unwrap();
        Frame { link: link.clone(), endpoints, segment }.bytes().unwrap()
    };
    let with =
        |flags: u8, data: &[u8]| Segment::Tcp { flags, sequence: 1, acknowledgement: 1, data: data.to_vec() };
    let mut frames = Vec::new();
    for port in 1024..1064 {
        // Data without a handshake, ends of connections that there are not, and a beginning that will not go on.
        frames.push(frame(port, with(flags::PSH | flags::ACK, GARBAGE)));
        frames.push(frame(port, with(flags::PSH | flags::ACK, b"GET / HTTP/1.1\r\n bad\r\n\r\n")));
        frames.push(frame(port, Segment::tcp(flags::RST, 1, 0)));
        frames.push(frame(port, Segment::tcp(flags::FIN | flags::ACK, 1, 1)));
        frames.push(frame(port, Segment::syn(7)));
        // Flags that no stack sends, a datagram.
        frames.push(frame(port, with(flags::SYN, GARBAGE)));
        frames.push(frame(port, Segment::tcp(0, 1, 1)));
        frames.push(frame(port, Segment::tcp(flags::SYN | flags::FIN, 1, 1)));
        frames.push(frame(port, Segment::tcp(flags::SYN | flags::RST, 1, 1)));
        frames.push(frame(port, Segment::udp(GARBAGE)));
    }
    let whole = frame(2000, with(flags::PSH | flags::ACK, GARBAGE));
    // Cut off anywhere behind the link's header, and a first and a later fragment (RFC 791).
    frames.extend((14..whole.len()).map(|end| whole[..end].to_vec()));
    for fragment in [[0x20, 0x00], [0x00, 0x01], [0x20, 0x02]] {
        let mut frame = whole.clone();
        frame[20..22].copy_from_slice(&fragment);
        frames.push(frame);
    }
    frames
}

#[test]
fn nobody_is_blocked_for_packets_that_only_bear_its_name() {
    let test = "nic::nobody_is_blocked_for_packets_that_only_bear_its_name";
    let escalation = "malformed = { count = 1, within = \"1m\" }\nnot_found = { count = 1, within = \"1m\" }";
    // Limits per source are another matter: what is sent in somebody's name counts as theirs while it lasts.
    let prefilter = "syns = \"off\"\npackets = \"off\"";
    let sections = Sections { prefilter, escalation, ..Sections::default() };
    let Some(mut stage) = Stage::set(test, sections) else { return };
    let honest = stage.honest(&HONEST_V4.map(Into::into));
    let frames = forged();
    let flood = Flood {
        interface: WORLD_INTERFACE.to_owned(),
        count_max: 6 * frames.len() as u64,
        frames,
        rate_per_s: 1_000,
        time_max: Duration::from_secs(10),
    };
    let sent = flood.start(&stage.lab.world.place()).unwrap().wait().unwrap();
    assert!(sent.frames > 2_000, "{sent:?}");
    honest.into_iter().for_each(Background::check);
    assert_eq!(stage.blocked(), [""; 0]);
    stage.check_served(HONEST_V4[0].into());
    let metrics = stage.gateway().metrics().unwrap();
    let dropped =
        |reason| metrics.sum(names::NIC_PACKETS, &[("reason", reason), ("verdict", names::VERDICT_DROP)]);
    for reason in ["bad_flags", "bad_length", "fragment"] {
        assert!(dropped(reason) > 0.0, "{reason}: what no stack sends has a verdict of its own");
    }
}
