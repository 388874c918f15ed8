//! Known sources have buckets of their own, of the same size as everybody's, and nothing else.

use gateway_ebpf::{
    Reason,
    layout::{Cell, Settings, USE_KNOWN},
};

use super::{
    slow_pace,
    table::{
        cases::{CLIENT4, CLIENT6},
        frames::{ACK, SYN, tcp4, tcp6},
        world::{Host, NOW_NS},
    },
};

fn settings() -> Settings {
    let plain = super::settings();
    Settings {
        flags: plain.flags | USE_KNOWN,
        cell_mask: 15,
        packets: slow_pace(5),
        syns: slow_pace(2),
        network_packets: slow_pace(8),
        ..plain
    }
}

/// Strangers have filled every cell of the limiter.
fn flooded(settings: &Settings, known: &[u64]) -> Host {
    let mut host = Host::new(settings);
    for stranger in 0..4000_u32 {
        let [_, a, b, c] = stranger.to_be_bytes();
        judge(&tcp4(&format!("10.{a}.{b}.{c}"), 443, SYN), settings, &mut host);
    }
    host.known = known.iter().map(|source| (*source, Cell::default())).collect();
    host
}

fn judge(packet: &[u8], settings: &Settings, host: &mut Host) -> Reason {
    super::judge(packet, settings, host, NOW_NS)
}

/// The sources of CLIENT4 and CLIENT6, as the limiter calls them.
const KNOWN: [u64; 2] = [0xc633_6407, 0x2001_0db8_000c_0000];

#[track_caller]
fn check(settings: &Settings, host: &mut Host, packet: &[u8], expected: &[Reason]) {
    let found: Vec<Reason> = expected.iter().map(|_| judge(packet, settings, host)).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_known_source_passes_where_strangers_have_used_up_everything() {
    use Reason::{PacketRate, SynRate, WithinLimits};
    let settings = settings();
    for (syn, ack) in [
        (tcp4(CLIENT4, 443, SYN), tcp4(CLIENT4, 443, ACK)),
        (tcp6(CLIENT6, 443, SYN), tcp6(CLIENT6, 443, ACK)),
    ] {
        check(&settings, &mut flooded(&settings, &[]), &syn, &[SynRate]);
        // Its own bucket is as large as everybody's: whoever forges its address gets no more.
        let mut host = flooded(&settings, &KNOWN);
        check(&settings, &mut host, &syn, &[WithinLimits, WithinLimits, SynRate, SynRate]);
        check(&settings, &mut host, &ack, &[WithinLimits, WithinLimits, WithinLimits, PacketRate]);
    }
}

#[test]
fn who_is_known_counts_only_when_it_is_asked_for() {
    let settings = Settings { flags: settings().flags & !USE_KNOWN, ..settings() };
    check(&settings, &mut flooded(&settings, &KNOWN), &tcp4(CLIENT4, 443, SYN), &[Reason::SynRate]);
}

#[test]
fn the_limits_of_its_network_are_not_those_of_a_known_source() {
    let settings = Settings { packets: slow_pace(50), network_packets: slow_pace(2), ..settings() };
    let mut host = Host::new(&settings);
    host.known.insert(KNOWN[0], Cell::default());
    let neighbour = tcp4("198.51.100.8", 443, ACK);
    check(
        &settings,
        &mut host,
        &neighbour,
        &[Reason::WithinLimits, Reason::WithinLimits, Reason::NetworkRate],
    );
    check(&settings, &mut host, &tcp4(CLIENT4, 443, ACK), &[Reason::WithinLimits; 10]);
}

#[test]
fn a_block_holds_whoever_is_known() {
    let settings = settings();
    let mut host = Host::new(&settings);
    for source in [0xc633_6442, 0xcb00_7109, 0x2001_0db8_0066_0000] {
        host.known.insert(source, Cell::default());
    }
    check(&settings, &mut host, &tcp4("198.51.100.66", 443, ACK), &[Reason::BlockedSource]);
    check(&settings, &mut host, &tcp4("203.0.113.9", 443, ACK), &[Reason::BlockedPrefix]);
    check(&settings, &mut host, &tcp6("2001:db8:66::1", 443, ACK), &[Reason::BlockedSource]);
}
