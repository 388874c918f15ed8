//! What real programs send, frame by frame through the verdict on the host and in the kernel.
//!
//! The files beside this one hold what a client's kernel put on the wire to an edge host while curl, ssh, dig, ping,
//! DHCP and others did their work: [`record`] makes them anew, in namespaces, from the documentation prefixes alone.
//! Whoever does that brings the table below up to date with what the failing test prints.

use std::{fmt::Write, path::Path};

use gateway_ebpf::{
    Ban, classify,
    layout::{Seen, Settings},
};
use ipnet::IpNet;
use portcullis::{
    config::Prefilter,
    nic::{self, Reason},
};
use xtask::lab::wire;

use super::{
    Lab, ban, prefilter, skipped,
    table::{
        cases::cases,
        world::{Host, LIVE_NS, NOW_NS, Standing},
    },
    verdicts::{slow, world},
};

mod record;

/// Each file, and what becomes of its frames in their order: of a stranger's, of a blocked source's.
const CAPTURES: [(&str, [&str; 2]); 14] = [
    ("boot", ["1 NotLimited, 1 Neighbour, 1 NotLimited, 5 Neighbour"; 2]),
    ("curl4", ["1 NotIp, 5 NotLimited", "1 NotIp, 5 BlockedSource"]),
    ("curl6", ["1 Neighbour, 6 NotLimited", "1 Neighbour, 6 BlockedSource"]),
    ("curl4_vlan", ["1 NotIp, 6 NotLimited", "1 NotIp, 6 BlockedSource"]),
    ("curl6_qinq", ["1 Neighbour, 6 NotLimited", "1 Neighbour, 6 BlockedSource"]),
    ("curl4_jumbo", ["1 NotIp, 7 NotLimited", "1 NotIp, 7 BlockedSource"]),
    ("curl4_vxlan", ["1 NotIp, 9 NotLimited", "1 NotIp, 9 BlockedSource"]),
    ("ssh", ["1 NotIp, 12 NotLimited, 1 Neighbour", "1 NotIp, 12 BlockedSource, 1 Neighbour"]),
    (
        "dig",
        [
            "1 NotIp, 1 NotLimited, 1 Neighbour, 6 NotLimited",
            "1 NotIp, 1 BlockedSource, 1 Neighbour, 6 BlockedSource",
        ],
    ),
    ("ping4", ["1 NotIp, 6 NotLimited", "1 NotIp, 6 BlockedSource"]),
    ("ping6", ["1 Neighbour, 4 NotLimited", "1 Neighbour, 4 BlockedSource"]),
    ("dhcp_client", ["1 Neighbour, 1 NotIp, 3 NotLimited", "1 Neighbour, 1 NotIp, 3 Neighbour"]),
    ("dhcp_server", ["1 Neighbour, 3 NotLimited", "4 Neighbour"]),
    ("extension_headers", ["1 Neighbour, 11 NotLimited", "1 Neighbour, 11 BlockedSource"]),
];

/// The same where a source may send four packets to limited ports.
const LIMITED: [(&str, &str); 5] = [
    ("curl4", "1 NotIp, 4 WithinLimits, 1 PacketRate"),
    ("curl6_qinq", "1 Neighbour, 4 WithinLimits, 2 PacketRate"),
    ("ssh", "1 NotIp, 12 NotLimited, 1 Neighbour"),
    ("dig", "1 NotIp, 1 WithinLimits, 1 Neighbour, 4 WithinLimits, 2 PacketRate"),
    // What comes behind a datagram's first fragment names no port.
    ("extension_headers", "1 Neighbour, 4 WithinLimits, 2 NotLimited, 5 PacketRate"),
];

/// The blocked sources: the client's addresses, and what it has while it asks for one.
const BLOCKED: [&str; 3] = ["198.51.100.7/32", "0.0.0.0/32", "2001:db8:c::/64"];

fn capture(name: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/kernel/captures");
    let file = std::fs::read(directory.join(name).with_extension("pcap")).expect("a capture");
    wire::from_pcap(&file).expect("a capture file")
}

/// Both sides under one policy.
struct Sides {
    lab: Lab,
    host: Host,
    settings: Settings,
}

impl Sides {
    fn strangers(config: Prefilter) -> Self {
        let lab = world(config);
        let settings = lab.filter.settings().expect("settings");
        Self { lab, host: Host::new(&settings), settings }
    }

    fn blocked() -> Self {
        let mut lab = Lab::open(prefilter());
        let settings = lab.filter.settings().expect("settings");
        let nets = BLOCKED.map(|text| text.parse::<IpNet>().expect("a prefix"));
        for net in nets {
            lab.filter.bans().add(net, &ban(LIVE_NS)).expect("room");
        }
        let bans = nets.map(|net| (net, Ban { expires_at_ns: LIVE_NS, ..Ban::default() }));
        Self { lab, host: Host::with(&settings, Vec::new(), bans.to_vec()), settings }
    }

    /// What both say, which has to be the same.
    #[track_caller]
    fn judge(&mut self, name: &str, frame: &[u8]) -> Reason {
        let seen = &mut Seen::default();
        let expected = classify(&frame, &self.settings, &mut self.host, &Standing(NOW_NS), seen);
        let (found, verdict) = self.lab.run(frame);
        assert_eq!(
            (found, verdict),
            (expected, expected.verdict(self.settings.flags)),
            "{name}: {frame:02x?}"
        );
        found
    }

    /// The reasons of these frames, in a row of `3 NotLimited`.
    #[track_caller]
    fn tell(&mut self, name: &str, frames: &[Vec<u8>]) -> String {
        let mut rows: Vec<(usize, Reason)> = Vec::new();
        for frame in frames {
            let reason = self.judge(name, frame);
            match rows.last_mut() {
                Some((count, last)) if *last == reason => *count += 1,
                _ => rows.push((1, reason)),
            }
        }
        rows.iter().fold(String::new(), |mut told, (count, reason)| {
            let comma = if told.is_empty() { "" } else { ", " };
            // Writing to a String does not fail.
            let _ = write!(told, "{comma}{count} {reason:?}");
            told
        })
    }
}

#[test]
fn what_real_programs_send_is_judged_alike_on_both_sides() {
    if skipped("kernel::captures::what_real_programs_send_is_judged_alike_on_both_sides") {
        return;
    }
    let mut wrong = Vec::new();
    let mut sides = [Sides::strangers(prefilter()), Sides::blocked()];
    for (name, expected) in CAPTURES {
        let frames = capture(name);
        let found = sides.each_mut().map(|sides| sides.tell(name, &frames));
        if found != expected {
            wrong.push(format!("({name:?}, {found:?}),"));
        }
    }
    for (name, expected) in LIMITED {
        let limits = Prefilter { packets: Some(slow(4)), ..prefilter() };
        let found = Sides::strangers(limits).tell(name, &capture(name));
        if found != expected {
            wrong.push(format!("({name:?}, {found:?}),"));
        }
    }
    assert!(wrong.is_empty(), "found:\n{}", wrong.join("\n"));
}

#[test]
fn cut_at_every_byte_both_sides_agree() {
    if skipped("kernel::captures::cut_at_every_byte_both_sides_agree") {
        return;
    }
    let real =
        CAPTURES.iter().flat_map(|(name, _)| capture(name).into_iter().map(move |frame| (*name, frame)));
    let by_hand = cases().into_iter().map(|(name, frame, _)| (name, frame));
    let (mut sides, mut blocked) = (Sides::strangers(prefilter()), Sides::blocked());
    for (number, (name, frame)) in real.chain(by_hand).enumerate() {
        if number % 10 == 0 {
            for side in [&mut sides, &mut blocked] {
                side.lab.filter.heartbeat(nic::monotonic_ns()).expect("heartbeat");
            }
        }
        // The kernel's test run takes no less than an Ethernet header, and behind all headers there is nothing to read.
        for bytes in (14..frame.len()).take(HEADER_BYTES_MAX) {
            sides.judge(name, &frame[..bytes]);
            blocked.judge(name, &frame[..bytes]);
        }
    }
}

/// Tags, IPv6, all extension headers that are read, TCP with all options.
const HEADER_BYTES_MAX: usize = 8 + 40 + 480 + 60;
