//! The verdict on the host: the table, packets cut at every byte, limits and expiry on a clock of our own.

mod table;
mod limiter;
mod classes;
mod known;

use gateway_ebpf::{
    Reason, Verdict, classify,
    layout::{
        DROP_MALFORMED, DRY_RUN, HAS_ALLOW4, HAS_ALLOW6, HEARTBEAT_TIMEOUT_NS, MODE_OFF, MODE_ON, Pace, Seen,
        Settings,
    },
};
use table::{
    cases::{CLIENT4, CLIENT6, cases},
    frames::{ACK, FIN, SYN, cut, tagged, tcp4, tcp6, udp4},
    mutate::Mutations,
    world::{Host, LIVE_NS, NOW_NS, Standing, THROTTLE_NS},
};

/// Settings without limits.
fn settings() -> Settings {
    Settings {
        mode: MODE_ON,
        flags: DROP_MALFORMED | HAS_ALLOW4 | HAS_ALLOW6,
        cell_mask: 1023,
        source_mask_v4: u32::MAX,
        source_mask_v6: u64::MAX,
        seed: 0x1234_5678_9abc_def1,
        ..Settings::default()
    }
}

/// `burst` packets at once and then one a day: the same verdicts on a fixed clock and on one that runs.
fn slow_pace(burst: u64) -> Pace {
    const DAY_NS: u64 = 86_400_000_000_000;
    Pace { interval_ns: DAY_NS, tolerance_ns: DAY_NS * (burst - 1) }
}

fn judge(packet: &[u8], settings: &Settings, host: &mut Host, now_ns: u64) -> Reason {
    classify(&packet, settings, host, &Standing(now_ns), &mut Seen::default())
}

#[test]
fn every_packet_of_the_table_has_its_reason() {
    let settings = settings();
    for (name, packet, expected) in cases() {
        let mut host = Host::new(&settings);
        assert_eq!(judge(&packet, &settings, &mut host, NOW_NS), expected, "{name}");
        // DHCP is let through where a block has matched and counted already.
        if expected != Reason::Neighbour {
            assert_eq!(
                host.drops() + host.dropped_whole() > 0,
                matches!(expected, Reason::BlockedSource | Reason::BlockedPrefix),
                "{name}"
            );
        }
    }
}

#[test]
fn switched_off_everything_passes_unseen() {
    let settings = Settings { mode: MODE_OFF, ..settings() };
    for (name, packet, _) in cases() {
        assert_eq!(judge(&packet, &settings, &mut Host::new(&settings), NOW_NS), Reason::Off, "{name}");
    }
}

#[test]
fn impossible_packets_pass_where_the_configuration_says_so() {
    let settings = Settings { flags: HAS_ALLOW4 | HAS_ALLOW6, ..settings() };
    for (name, packet, expected) in cases() {
        let blocked = matches!(expected, Reason::BlockedSource | Reason::BlockedPrefix | Reason::BlockedFeed);
        let found = judge(&packet, &settings, &mut Host::new(&settings), NOW_NS);
        assert_eq!(found.refuses(), blocked, "{name}: {found:?}");
    }
}

#[test]
fn a_dry_run_passes_what_it_counts() {
    for reason in Reason::ALL {
        assert_eq!(reason.verdict(DRY_RUN), Verdict::Pass);
        let expected = match reason {
            Reason::SynCookie => Verdict::Tx,
            Reason::CookieAccepted => Verdict::Pass,
            _ if reason as u8 >= Reason::BlockedSource as u8 => Verdict::Drop,
            _ => Verdict::Pass,
        };
        assert_eq!(reason.verdict(0), expected);
        assert_eq!(reason.refuses(), expected == Verdict::Drop);
    }
}

#[test]
fn a_packet_cut_anywhere_is_refused_as_soon_as_it_claims_to_be_ip() {
    #[track_caller]
    fn check(packet: &[u8], link_bytes: usize, source_end: usize, whole: Reason) {
        let settings = settings();
        for bytes in 0..packet.len() {
            let expected = match bytes {
                short if short < link_bytes => Reason::NotIp,
                _ if whole == Reason::BlockedSource && bytes >= source_end => whole,
                _ => Reason::BadLength,
            };
            let found = judge(&packet[..bytes], &settings, &mut Host::new(&settings), NOW_NS);
            assert_eq!(found, expected, "cut at {bytes} of {}", packet.len());
        }
        assert_eq!(judge(packet, &settings, &mut Host::new(&settings), NOW_NS), whole);
    }
    check(&tcp4(CLIENT4, 443, ACK), 14, 34, Reason::NotLimited);
    check(&udp4(CLIENT4, 53), 14, 34, Reason::NotLimited);
    check(&tcp6(CLIENT6, 443, ACK), 14, 54, Reason::NotLimited);
    check(&tagged(&tcp4(CLIENT4, 443, ACK), &[0x88a8, 0x8100]), 22, 42, Reason::NotLimited);
    check(&tcp4("198.51.100.66", 443, ACK), 14, 34, Reason::BlockedSource);
    check(&tcp6("2001:db8:66::1", 443, ACK), 14, 54, Reason::BlockedSource);
}

#[test]
fn no_packet_makes_it_panic_and_none_gets_past_a_block_by_being_broken() {
    let settings = Settings { packets: slow_pace(4), syns: slow_pace(2), ..settings() };
    let mut host = Host::new(&settings);
    let mut mutations = Mutations::new(7);
    for _ in 0..100_000 {
        let packet = mutations.next();
        for bytes in [packet.len(), packet.len() / 2] {
            judge(&cut(packet.clone(), bytes), &settings, &mut host, NOW_NS);
        }
    }
}

#[test]
fn a_block_holds_until_its_last_nanosecond_and_counts_its_drops() {
    let settings = settings();
    let mut host = Host::new(&settings);
    let banned = tcp4("198.51.100.66", 443, ACK);
    assert_eq!(judge(&banned, &settings, &mut host, LIVE_NS - 1), Reason::BlockedSource);
    assert_eq!(judge(&banned, &settings, &mut host, LIVE_NS), Reason::NotLimited);
    assert_eq!(host.drops(), 1);
    // The configuration's own blocks have no end.
    assert_eq!(judge(&tcp4("203.0.113.1", 443, ACK), &settings, &mut host, u64::MAX), Reason::BlockedPrefix);
}

#[test]
fn the_first_drop_is_stamped_once() {
    let settings = settings();
    let mut host = Host::new(&settings);
    let banned = tcp4("198.51.100.66", 443, ACK);
    for now_ns in [NOW_NS, NOW_NS + 1] {
        judge(&banned, &settings, &mut host, now_ns);
    }
    let ban = *gateway_ebpf::Tables::ban4(&mut host, u32::from_ne_bytes([198, 51, 100, 66])).unwrap();
    assert_eq!((ban.first_drop_at_ns, ban.drops), (NOW_NS, 2));
}

#[test]
fn limits_count_packets_to_limited_ports_alone() {
    use Reason::{NotLimited, PacketRate, SynRate, WithinLimits};
    #[track_caller]
    fn check(settings: &Settings, packet: &[u8], expected: &[Reason]) {
        let mut host = Host::new(settings);
        let found: Vec<Reason> =
            expected.iter().map(|_| judge(packet, settings, &mut host, NOW_NS)).collect();
        assert_eq!(found, expected);
    }
    let settings = Settings { packets: slow_pace(3), syns: slow_pace(2), ..settings() };
    let within = [WithinLimits; 3];
    check(&settings, &tcp4(CLIENT4, 443, ACK), &[&within[..], &[PacketRate; 2]].concat());
    check(&settings, &tcp4(CLIENT4, 443, SYN), &[&within[..2], &[SynRate; 2]].concat());
    check(&settings, &tcp4(CLIENT4, 443, SYN | ACK), &[&within[..], &[PacketRate]].concat());
    check(&settings, &tcp6(CLIENT6, 443, ACK), &[&within[..], &[PacketRate]].concat());
    check(&settings, &udp4(CLIENT4, 53), &[&within[..], &[PacketRate]].concat());
    check(&settings, &tcp4(CLIENT4, 22, SYN), &[NotLimited; 5]);
    check(&settings, &udp4(CLIENT4, 123), &[NotLimited; 5]);
    let only_syns = Settings { packets: Pace::default(), ..settings };
    check(&only_syns, &tcp4(CLIENT4, 443, ACK), &[NotLimited; 5]);
    check(&only_syns, &tcp4(CLIENT4, 443, SYN), &[WithinLimits, WithinLimits, SynRate]);
    let only_packets = Settings { syns: Pace::default(), ..settings };
    check(&only_packets, &tcp4(CLIENT4, 443, SYN), &[&within[..], &[PacketRate]].concat());
}

#[test]
fn a_source_is_an_address_or_its_prefix() {
    #[track_caller]
    fn check(settings: &Settings, first: &[u8], second: &[u8], shared: bool) {
        let settings = Settings { packets: slow_pace(1), ..*settings };
        let mut host = Host::new(&settings);
        assert_eq!(judge(first, &settings, &mut host, NOW_NS), Reason::WithinLimits);
        let expected = if shared { Reason::PacketRate } else { Reason::WithinLimits };
        assert_eq!(judge(second, &settings, &mut host, NOW_NS), expected);
    }
    let whole = settings();
    let wide = Settings { source_mask_v4: 0xffff_ff00, source_mask_v6: u64::MAX << 16, ..whole };
    let v4 = |host: u8| tcp4(&format!("192.0.2.{host}"), 443, ACK);
    check(&whole, &v4(9), &v4(10), false);
    check(&wide, &v4(9), &v4(10), true);
    check(&wide, &v4(9), &tcp4("192.0.3.9", 443, ACK), false);
    check(&whole, &tcp6("2001:db8:c::1", 443, ACK), &tcp6("2001:db8:c::2", 443, ACK), true);
    check(&whole, &tcp6("2001:db8:c::1", 443, ACK), &tcp6("2001:db8:c:1::1", 443, ACK), false);
    check(&wide, &tcp6("2001:db8:c::1", 443, ACK), &tcp6("2001:db8:c:1::1", 443, ACK), true);
}

#[test]
fn a_throttle_has_its_own_rate_and_holds_on_every_port() {
    use Reason::{BadFlags, NotLimited, Throttled};
    #[track_caller]
    fn check(host: &mut Host, packet: &[u8], now_ns: u64, expected: Reason) {
        assert_eq!(judge(packet, &settings(), host, now_ns), expected);
    }
    for (source, other) in [("198.51.100.90", "198.51.100.91"), ("192.0.2.161", "192.0.2.192")] {
        let mut host = Host::new(&settings());
        let packet = |port| tcp4(source, port, ACK);
        check(&mut host, &packet(443), NOW_NS, NotLimited);
        check(&mut host, &tcp4(source, 443, SYN | FIN), NOW_NS, BadFlags);
        for port in [22, 80] {
            check(&mut host, &packet(port), NOW_NS, NotLimited);
        }
        check(&mut host, &packet(443), NOW_NS, Throttled);
        check(&mut host, &packet(443), NOW_NS + THROTTLE_NS - 1, Throttled);
        check(&mut host, &packet(443), NOW_NS + THROTTLE_NS, NotLimited);
        check(&mut host, &packet(443), NOW_NS + THROTTLE_NS, Throttled);
        assert_eq!(host.drops(), 3);
        check(&mut host, &tcp4(other, 443, ACK), NOW_NS, NotLimited);
        // It ends as a block does.
        check(&mut host, &packet(443), LIVE_NS, NotLimited);
        check(&mut host, &packet(443), LIVE_NS, NotLimited);
    }
    let mut host = Host::new(&settings());
    for expected in [NotLimited, NotLimited, NotLimited, NotLimited, Throttled] {
        check(&mut host, &tcp6("2001:db8:90::1", 443, ACK), NOW_NS, expected);
        check(&mut host, &tcp6("2001:db8:91::1", 443, ACK), NOW_NS, expected);
    }
}

#[test]
fn whole_24s_charge_their_entry_in_steps() {
    let settings = settings();
    let mut host = Host::new(&settings);
    let packet = tcp4("100.68.1.1", 443, ACK);
    for (packets, charged) in [(1023, 0), (1, 1024), (1023, 1024), (1, 2048)] {
        for _ in 0..packets {
            assert_eq!(judge(&packet, &settings, &mut host, NOW_NS), Reason::BlockedPrefix);
        }
        assert_eq!(host.drops(), charged);
    }
}

#[test]
fn a_network_pays_for_all_its_sources() {
    use Reason::{NetworkRate, SynRate, WithinLimits};
    #[track_caller]
    fn check(settings: &Settings, packets: &[(Vec<u8>, Reason)]) {
        let mut host = Host::new(settings);
        for (number, (packet, expected)) in packets.iter().enumerate() {
            assert_eq!(judge(packet, settings, &mut host, NOW_NS), *expected, "packet {number}");
        }
    }
    let v4 = |host: u8, flags| tcp4(&format!("192.0.2.{host}"), 443, flags);
    let v6 = |net: u8| tcp6(&format!("2001:db8:c:{net}::1"), 443, ACK);
    let packets = Settings { network_packets: slow_pace(3), packets: slow_pace(2), ..settings() };
    check(
        &packets,
        &[
            (v4(9, ACK), WithinLimits),
            (v4(9, ACK), WithinLimits),
            (v4(9, ACK), Reason::PacketRate),
            (v4(10, ACK), WithinLimits),
            (v4(11, ACK), NetworkRate),
            (v4(11, SYN), NetworkRate),
            (tcp4("192.0.3.9", 443, ACK), WithinLimits),
            (tcp4("192.0.2.12", 22, ACK), Reason::NotLimited),
        ],
    );
    check(
        &packets,
        &[
            (v6(1), WithinLimits),
            (v6(2), WithinLimits),
            (v6(3), WithinLimits),
            (v6(4), NetworkRate),
            (tcp6("2001:db8:d::1", 443, ACK), WithinLimits),
        ],
    );
    let syns = Settings { network_syns: slow_pace(2), syns: slow_pace(1), ..settings() };
    check(
        &syns,
        &[
            (v4(9, ACK), Reason::NotLimited),
            (v4(9, SYN), WithinLimits),
            (v4(9, SYN), SynRate),
            (v4(10, SYN), WithinLimits),
            (v4(11, SYN), NetworkRate),
        ],
    );
    // A network is never less than a source.
    let wide = Settings { source_mask_v4: 0xffff_0000, network_packets: slow_pace(1), ..settings() };
    check(&wide, &[(v4(9, ACK), WithinLimits), (tcp4("192.0.3.9", 443, ACK), NetworkRate)]);
}

#[test]
fn bytes_count_as_the_frame_has_them() {
    use Reason::{ByteRate, NetworkRate, WithinLimits};
    /// So many bytes at once, and then one in a long while.
    fn slow_bytes(bytes: u64) -> Pace {
        Pace { interval_ns: 1024 << 20, tolerance_ns: bytes << 20 }
    }
    let frame = tcp4(CLIENT4, 443, ACK);
    let bytes = frame.len() as u64;
    let settings = Settings { bytes: slow_bytes(3 * bytes - 1), ..settings() };
    let mut host = Host::new(&settings);
    let mut check = |packet: &[u8], now_ns, expected| {
        assert_eq!(judge(packet, &settings, &mut host, now_ns), expected);
    };
    check(&frame, NOW_NS, WithinLimits);
    check(&frame, NOW_NS, WithinLimits);
    check(&frame, NOW_NS, ByteRate);
    check(&frame, NOW_NS + (1 << 20) - 1, ByteRate);
    check(&frame, NOW_NS + (1 << 20), WithinLimits);
    // Padding is paid for, too: what a header says costs nothing to say.
    check(&[frame.clone(), vec![0; 9]].concat(), NOW_NS + (bytes << 20), ByteRate);
    check(&frame, NOW_NS + (bytes << 20), ByteRate);
    check(&frame, NOW_NS + ((bytes + 1) << 20), WithinLimits);

    let settings =
        Settings { bytes: slow_bytes(2 * bytes), network_bytes: slow_bytes(3 * bytes), ..settings };
    let mut host = Host::new(&settings);
    for (source, expected) in
        [(7, WithinLimits), (7, WithinLimits), (7, ByteRate), (8, WithinLimits), (9, NetworkRate)]
    {
        let packet = tcp4(&format!("198.51.100.{source}"), 443, ACK);
        assert_eq!(judge(&packet, &settings, &mut host, NOW_NS), expected);
    }
}

#[test]
fn without_a_heartbeat_limits_go_off_and_blocks_stay() {
    let settings = Settings { packets: slow_pace(1), ..settings() };
    let mut host = Host::new(&settings);
    let (client, banned) = (tcp4(CLIENT4, 443, ACK), tcp4("198.51.100.66", 443, ACK));
    let last_ns = NOW_NS + HEARTBEAT_TIMEOUT_NS;
    assert_eq!(judge(&client, &settings, &mut host, last_ns), Reason::WithinLimits);
    assert_eq!(judge(&client, &settings, &mut host, last_ns), Reason::PacketRate);
    assert_eq!(judge(&client, &settings, &mut host, last_ns + 1), Reason::NotLimited);
    assert_eq!(judge(&banned, &settings, &mut host, last_ns + 1), Reason::BlockedSource);
}

#[test]
fn a_faster_pace_forgets_what_a_slow_one_has_stored() {
    let slow = Settings { packets: slow_pace(2), ..settings() };
    let fast = Settings { packets: Pace { interval_ns: 1_000_000, tolerance_ns: 0 }, ..slow };
    let mut host = Host::new(&slow);
    let client = tcp4(CLIENT4, 443, ACK);
    let mut judge = |settings: &Settings, now_ns| judge(&client, settings, &mut host, now_ns);
    assert_eq!(
        [(); 3].map(|()| judge(&slow, NOW_NS)),
        [Reason::WithinLimits, Reason::WithinLimits, Reason::PacketRate]
    );
    assert_eq!([(); 2].map(|()| judge(&fast, NOW_NS)), [Reason::WithinLimits, Reason::PacketRate]);
    assert_eq!(judge(&fast, NOW_NS + 1_000_000), Reason::WithinLimits);
}
