//! A new version whose maps look different takes over: no packet goes unfiltered, and no block is lost.

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use ipnet::IpNet;
use portcullis::{
    config::{Prefilter, XdpMode},
    nic::{self, BanEntry, BanNote, BanOrigin, Bans, Filter, NicError, Reason, Strikes},
};
use xtask::lab::{
    flood::Flood,
    frames::{Endpoints, Frame, Link, Segment},
    netns::{EDGE_INTERFACE, EDGE_MAC, EDGE_V4, GUESSER_V4, Lab, WORLD_INTERFACE, WORLD_MAC},
    wait,
};

use super::{ban, prefilter, remove_pins, skipped, table::world::LIVE_NS};

/// Two versions that there will hardly ever be.
const OLD: u32 = 9001;
const NEW: u32 = 9002;
/// Where the blocked one's datagrams would arrive.
const PORT: u16 = 7777;

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn note() -> BanNote {
    BanNote { route: "orders".into(), request_id: "0198f3a2".into(), offences: 20, at_unix_s: 1_795_000_000 }
}

/// Blocks of every kind of place in the maps, with what belongs to them.
fn fill(bans: &mut Bans) {
    for prefix in ["192.0.2.66/32", "198.51.100.0/25", "2001:db8:66::/64", "2001:db8:67::/48"] {
        bans.add(net(prefix), &BanEntry { note: Some(note()), strikes: 2, ..ban(LIVE_NS) }).expect("room");
    }
    let strikes = Strikes { until_ns: LIVE_NS, strikes: 2, throttles: 1, reserved: 0 };
    bans.remember(net("192.0.2.66/32"), strikes).expect("room");
}

#[track_caller]
fn check_all_there(bans: &Bans) {
    let mut records = bans.list(nic::monotonic_ns()).expect("list");
    records.retain(|record| record.origin == BanOrigin::Escalation);
    let mut found: Vec<String> = records.iter().map(|record| record.prefix.to_string()).collect();
    found.sort();
    assert_eq!(found, ["192.0.2.66/32", "198.51.100.0/25", "2001:db8:66::/64", "2001:db8:67::/48"]);
    for record in &records {
        assert_eq!((record.strikes, record.note.as_ref()), (2, Some(&note())), "{record:?}");
    }
    let strikes = bans.strikes(net("192.0.2.66/32")).expect("strikes").expect("remembered");
    assert_eq!((strikes.strikes, strikes.throttles), (2, 1));
}

fn versions(config: &Prefilter) -> Vec<String> {
    let entries = std::fs::read_dir(&config.pin_dir).expect("pins").flatten();
    entries.map(|entry| entry.file_name().into_string().expect("a name")).collect()
}

#[test]
fn blocks_and_what_belongs_to_them_are_taken_along() {
    if skipped("kernel::upgrade::blocks_and_what_belongs_to_them_are_taken_along") {
        return;
    }
    let config = Prefilter { block: vec![net("203.0.113.0/24")], ..prefilter() };
    let mut old = Filter::open_as(&config, &[], OLD).expect("opened");
    fill(old.bans());
    drop(old);
    // What only the old configuration blocked is not taken along.
    let config = Prefilter { block: vec![net("203.0.112.0/24")], ..config };
    let mut new = Filter::open_as(&config, &[], NEW).expect("taken over");
    check_all_there(new.bans());
    let listed = new.bans().list(nic::monotonic_ns()).expect("list");
    let of_config: Vec<_> =
        listed.iter().filter(|record| record.origin == BanOrigin::Configuration).map(|r| r.prefix).collect();
    assert_eq!(of_config, [net("203.0.112.0/24")]);
    assert_eq!(versions(&config), [format!("v{NEW}")], "nothing of the old one is left");
    drop(new);
    let error = Filter::open_as(&config, &[], OLD).err().expect("refused");
    assert!(matches!(error, NicError::LaterVersion { version: NEW, .. }), "{error}");
    assert!(error.to_string().contains("panic-open"), "{error}");
    let error = Bans::open_pinned(&config.pin_dir).err().expect("another version's");
    assert!(matches!(error, NicError::OtherVersion { version: NEW, .. }), "{error}");
    nic::detach(&config.pin_dir).expect("whatever the version");
    assert_eq!(versions(&config), [""; 0]);
    remove_pins(&config.pin_dir);
}

#[test]
fn no_packet_goes_unfiltered_while_a_new_version_takes_over() {
    if skipped("kernel::upgrade::no_packet_goes_unfiltered_while_a_new_version_takes_over") {
        return;
    }
    let lab = Lab::new().expect("namespaces");
    let world = lab.world.place();
    let config = Prefilter { interfaces: vec![EDGE_INTERFACE.into()], mode: XdpMode::Native, ..prefilter() };
    lab.edge
        .enter(|| {
            let socket = UdpSocket::bind((EDGE_V4, PORT)).expect("a socket");
            socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a time");
            let mut filter = Filter::open_as(&config, &[], OLD).expect("opened");
            let flood = |source: Ipv4Addr, count_max: u64| {
                let endpoints =
                    Endpoints::between((source, PORT).into(), (EDGE_V4, PORT).into()).expect("one family");
                let link = Link { source: WORLD_MAC, destination: EDGE_MAC, tags: Vec::new() };
                let frame = Frame { link, endpoints, segment: Segment::udp(b"packet") };
                let flood = Flood {
                    interface: WORLD_INTERFACE.to_owned(),
                    frames: vec![frame.bytes().expect("a frame")],
                    count_max,
                    rate_per_s: 50_000,
                    time_max: Duration::from_secs(20),
                };
                flood.start(&world).expect("a flood")
            };
            // Nobody else would stop them.
            flood(GUESSER_V4, 1).wait().expect("sent");
            socket.recv_from(&mut [0; 16]).expect("they come through");
            fill(filter.bans());
            let running = flood(GUESSER_V4, u64::MAX);
            let under_way = wait::until(Duration::from_secs(10), || (running.frames() > 1_000).then_some(()));
            assert!(under_way.is_some());
            for version in NEW..NEW + 4 {
                let before = running.frames();
                let mut next = Filter::open_as(&config, &[], version).expect("taken over");
                // The process before it still runs, and its operator blocks somebody else.
                assert!(filter.look_after().is_ok(), "the old one lets go");
                check_all_there(next.bans());
                filter = next;
                let more = wait::until(Duration::from_secs(10), || {
                    (running.frames() > before + 1_000).then_some(())
                });
                assert!(more.is_some(), "packets came all the time");
                let dropped = filter.counters().expect("counters");
                let by_source = dropped.iter().find(|counter| counter.reason == Reason::BlockedSource);
                assert!(by_source.is_some_and(|counter| counter.packets > 0), "{dropped:?}");
                assert_eq!(filter.attached().len(), 1);
            }
            running.stop().expect("sent");
            socket.set_nonblocking(true).expect("a mode");
            let leaked = socket.recv_from(&mut [0; 16]);
            assert!(leaked.is_err(), "a packet went unfiltered: {leaked:?}");
        })
        .expect("a namespace");
    remove_pins(&config.pin_dir);
}
