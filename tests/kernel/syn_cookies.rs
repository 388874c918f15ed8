//! SYN cookies in the kernel: its own cookies, on sockets of a namespace of the test's own. What comes out of the
//! program is read byte by byte, and what a client would say to it is put in.
#![expect(
    clippy::cast_possible_truncation,
    reason = "lengths of small frames, and clocks that wrap as TCP's do"
)]

use std::{net::TcpListener, time::Duration};

use aya::{TestRunOptions, programs::TestRun};
use portcullis::{
    config::{Prefilter, Rate},
    nic::{self, Reason, SynAnswers, Verdict},
};
use xtask::lab::{self, netns::Lab as Network};

use super::{
    Lab, prefilter, skipped,
    table::{
        cases::{CLIENT4, CLIENT6},
        frames::{ACK, PSH, RST, SYN, extension, ipv4, ipv6, tagged, with},
    },
};

/// `enum xdp_action`
const XDP_TX: u32 = 3;
const CLIENT_PORT: u16 = 40_000;
/// As Linux begins: 1460 bytes, SACK, timestamps, scaled by 7.
const OPTIONS: &[u8] = &[2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];

/// Puts a segment into a frame.
type Wrap<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;

/// A segment to a port with a listener.
fn segment(flags: u8, sequence: u32, acknowledgement: u32, options: &[u8]) -> Vec<u8> {
    segment_from(CLIENT_PORT, flags, sequence, acknowledgement, options)
}

/// The same, from this port.
pub(super) fn segment_from(
    port: u16,
    flags: u8,
    sequence: u32,
    acknowledgement: u32,
    options: &[u8],
) -> Vec<u8> {
    let mut segment = [port.to_be_bytes(), 443_u16.to_be_bytes()].concat();
    segment.extend(sequence.to_be_bytes());
    segment.extend(acknowledgement.to_be_bytes());
    segment.extend([(5 + options.len() as u8 / 4) << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(options);
    segment
}

/// Runs `test` with a filter in a namespace where somebody listens on port 443; what is set there stays there.
fn with_listener(name: &str, config: Prefilter, test: impl FnOnce(&mut Lab) + Send) {
    if skipped(name) {
        return;
    }
    if let Err(why) = lab::privileges() {
        return lab::skip(name, &why);
    }
    let network = Network::new().expect("namespaces");
    network
        .edge
        .enter(|| {
            let _listener = TcpListener::bind("[::]:443").expect("a listener");
            test(&mut Lab::open(config));
        })
        .expect("the namespace");
}

/// One packet through the program: what became of it, and what it became.
#[track_caller]
pub(super) fn run(lab: &mut Lab, packet: &[u8]) -> (Reason, Verdict, Vec<u8>) {
    let mut out = vec![0; 2048];
    let options = TestRunOptions {
        data_in: Some(packet),
        data_out: Some(&mut out),
        repeat: 1,
        ..TestRunOptions::default()
    };
    let result = lab.filter.program().expect("program").test_run(options).expect("test run");
    let (bytes, action) = (result.data_size_out as usize, result.return_value);
    let (reason, verdict) = lab.counted(packet);
    assert_eq!(verdict == Verdict::Tx, action == XDP_TX);
    out.truncate(bytes);
    (reason, verdict, out)
}

/// RFC 1071, as a receiver checks it.
fn sums_up(parts: &[&[u8]]) -> bool {
    let sum = parts.concat().chunks(2).fold(0_u32, |sum, pair| {
        let sum = sum + (u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
        (sum & 0xffff) + (sum >> 16)
    });
    sum == 0xffff
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(*bytes[at..].first_chunk().expect("four bytes"))
}

/// Checks what a client's kernel would check of the answer to `syn`, and gives back its TCP header.
#[track_caller]
fn check_answer<'a>(syn: &[u8], answer: &'a [u8], link_bytes: usize) -> &'a [u8] {
    assert_eq!([&answer[..6], &answer[6..12]], [&syn[6..12], &syn[..6]]);
    assert_eq!(answer[12..link_bytes], syn[12..link_bytes], "tags stay");
    let packet = &answer[link_bytes..];
    let (addresses, tcp) = if packet[0] >> 4 == 4 {
        assert!(sums_up(&[&packet[..20]]), "the header's checksum");
        assert_eq!(usize::from(packet[2]) << 8 | usize::from(packet[3]), packet.len());
        assert_eq!(
            [&packet[12..16], &packet[16..20]],
            [&syn[link_bytes + 16..][..4], &syn[link_bytes + 12..][..4]]
        );
        (&packet[12..20], &packet[20..])
    } else {
        assert_eq!(packet[6], 6, "no extension headers");
        assert_eq!(
            [&packet[8..24], &packet[24..40]],
            [&syn[link_bytes + 24..][..16], &syn[link_bytes + 8..][..16]]
        );
        (&packet[8..40], &packet[40..])
    };
    let length = (tcp.len() as u16).to_be_bytes();
    assert!(sums_up(&[addresses, &[0, 6], &length, tcp]), "the segment's checksum");
    assert_eq!(word(tcp, 0), 443 << 16 | u32::from(CLIENT_PORT));
    assert_eq!((tcp[13], usize::from(tcp[12] >> 4) * 4), (SYN | ACK, tcp.len()));
    tcp
}

#[test]
fn a_syn_becomes_an_answer_whose_acknowledgement_passes() {
    let name = "kernel::syn_cookies::a_syn_becomes_an_answer_whose_acknowledgement_passes";
    with_listener(name, prefilter(), |lab| {
        assert_eq!(lab.filter.set_syn_cookies(true).expect("cookies"), SynAnswers::Filter);
        let v4 = |segment: &[u8]| ipv4(CLIENT4, 6, &[], segment);
        let v6 = |segment: &[u8]| ipv6(CLIENT6, 6, 64, segment);
        let behind = |segment: &[u8]| ipv6(CLIENT6, 60, 64, &[extension(6, 2), segment.to_vec()].concat());
        let with_options = |segment: &[u8]| ipv4(CLIENT4, 6, &[1; 12], segment);
        let wraps: [Wrap<'_>; 4] = [&v4, &v6, &behind, &with_options];
        for (wrap, tags) in
            wraps.iter().flat_map(|wrap| [(wrap, &[][..]), (wrap, &[0x8100]), (wrap, &[0x88a8, 0x8100])])
        {
            let frame = |flags, sequence, acknowledgement, options: &[u8]| {
                tagged(&wrap(&segment(flags, sequence, acknowledgement, options)), tags)
            };
            for (options, data) in [(&[][..], 0), (OPTIONS, 0), (OPTIONS, 1), (OPTIONS, 2_000)] {
                let syn = tagged(&wrap(&[segment(SYN, 70, 0, options), vec![7; data]].concat()), tags);
                let (reason, verdict, answer) = run(lab, &syn);
                assert_eq!((reason, verdict), (Reason::SynCookie, Verdict::Tx));
                let tcp = check_answer(&syn, &answer, 14 + 4 * tags.len());
                assert_eq!((word(tcp, 8), tcp.len()), (71, 24), "no timestamps, no options");
                let asked_for = word(tcp, 4).wrapping_add(1);
                // The right one, with data as well; then a wrong one, and one of somebody else.
                lab.check(&frame(ACK, 71, asked_for, &[]), Reason::CookieAccepted);
                lab.check(&frame(ACK | PSH, 71, asked_for, &[]), Reason::CookieAccepted);
                // What comes behind it is let through for a moment.
                lab.check(&frame(ACK, 2_000, asked_for, &[]), Reason::NotLimited);
                let forged = with(frame(ACK, 71, asked_for ^ 1, &[]), 14 + 4 * tags.len() + 12, &[99]);
                if wrap(&[])[12] == 8 {
                    lab.check(&forged, Reason::CookieRefused);
                    lab.check(&with(forged.clone(), 13 + 4 * tags.len(), &[0]), Reason::CookieRefused);
                }
            }
        }
    });
}

#[test]
fn forged_acknowledgements_never_pass() {
    let name = "kernel::syn_cookies::forged_acknowledgements_never_pass";
    with_listener(name, prefilter(), |lab| {
        lab.filter.set_syn_cookies(true).expect("cookies");
        for guess in 0..10_000_u32 {
            let acknowledgement = guess.wrapping_mul(0x9e37_79b9);
            lab.check(&ipv4(CLIENT4, 6, &[], &segment(ACK, 71, acknowledgement, &[])), Reason::CookieRefused);
        }
        lab.check(&ipv6(CLIENT6, 6, 64, &segment(ACK, 71, 5, &[])), Reason::CookieRefused);
        lab.check(&ipv6(CLIENT6, 6, 64, &segment(RST, 71, 5, &[])), Reason::CookieRefused);
        lab.check(&ipv4(CLIENT4, 6, &[], &segment(SYN | ACK, 71, 5, &[])), Reason::CookieRefused);
        // Nobody listens there, so nobody is answered for.
        let elsewhere =
            |flags| with(ipv4(CLIENT4, 6, &[], &segment(flags, 71, 0, &[])), 36, &53_u16.to_be_bytes());
        lab.check(&elsewhere(SYN), Reason::NotLimited);
        lab.check(&elsewhere(ACK), Reason::NotLimited);
    });
}

#[test]
fn timestamps_without_offset_bring_scaling_and_sack() {
    let name = "kernel::syn_cookies::timestamps_without_offset_bring_scaling_and_sack";
    with_listener(name, prefilter(), |lab| {
        std::fs::write("/proc/sys/net/ipv4/tcp_timestamps", "2").expect("the namespace's own setting");
        lab.filter.set_syn_cookies(true).expect("cookies");
        let syn = ipv6(CLIENT6, 6, 64, &segment(SYN, 70, 0, OPTIONS));
        let before_ms = nic::monotonic_ns() / 1_000_000;
        let (_, _, answer) = run(lab, &syn);
        let tcp = check_answer(&syn, &answer, 14);
        assert_eq!(
            (tcp.len(), word(tcp, 20), word(tcp, 24), word(tcp, 32)),
            (40, 0x0204_05a0, 0x0402_080a, 0x0102_0304)
        );
        // Scaled by 7, and SACK.
        assert_eq!(word(tcp, 28) & 63, 7 | 16);
        assert!((before_ms as u32).wrapping_sub(word(tcp, 28)) < 128, "{before_ms} and {}", word(tcp, 28));
        assert_eq!(word(tcp, 36) >> 8, 0x01_0303);
    });
}

const FILE: &str = "/proc/sys/net/ipv4/tcp_syncookies";

#[test]
fn the_host_s_setting_follows_and_is_put_back() {
    let name = "kernel::syn_cookies::the_host_s_setting_follows_and_is_put_back";
    with_listener(name, prefilter(), |lab| {
        let setting = || std::fs::read_to_string(FILE).expect("a setting").trim().to_owned();
        let set = |value: &str| std::fs::write(FILE, value).expect("the namespace's own setting");
        let check = |lab: &mut Lab, on: bool, expected: SynAnswers| {
            assert_eq!(lab.filter.set_syn_cookies(on).expect("cookies"), expected);
        };
        let syn = ipv4(CLIENT4, 6, &[], &segment(SYN, 70, 0, &[]));
        assert_eq!(setting(), "1");
        lab.check(&syn, Reason::NotLimited);
        for _ in 0..2 {
            check(lab, true, SynAnswers::Filter);
            assert_eq!((setting().as_str(), run(lab, &syn).0), ("2", Reason::SynCookie));
        }
        // A reload changes nothing of it.
        lab.apply(|config| config.syns = Some(Rate { per_s: 1.0, burst: 1 }));
        assert_eq!(run(lab, &syn).0, Reason::SynCookie);
        check(lab, false, SynAnswers::Off);
        assert_eq!((setting().as_str(), run(lab, &syn).0), ("1", Reason::WithinLimits));
        // Whoever has set it to 2 finds it so.
        set("2");
        check(lab, true, SynAnswers::Filter);
        check(lab, false, SynAnswers::Off);
        assert_eq!(setting(), "2");
        // Who wants no cookies gets none.
        set("0");
        check(lab, true, SynAnswers::Kernel);
        assert_eq!((setting().as_str(), run(lab, &syn).0), ("0", Reason::SynRate));
        // A dry run changes nothing on the host, and only counts.
        set("1");
        lab.apply(|config| config.dry_run = true);
        check(lab, true, SynAnswers::FilterWhenFull);
        assert_eq!((setting().as_str(), run(lab, &syn).0), ("1", Reason::NotLimited));
        set("2");
        check(lab, true, SynAnswers::Filter);
        assert_eq!(run(lab, &syn).0, Reason::SynCookie);
        assert_eq!(run(lab, &syn).1, Verdict::Pass);
    });
}

#[test]
fn established_connections_go_on() {
    let name = "kernel::syn_cookies::established_connections_go_on";
    with_listener(name, prefilter(), |lab| {
        let client = std::net::TcpStream::connect("127.0.0.1:443").expect("a connection");
        let from = client.local_addr().expect("an address").port().to_be_bytes();
        lab.filter.set_syn_cookies(true).expect("cookies");
        let ours = |flags: u8, port: [u8; 2]| {
            let packet = ipv4("127.0.0.1", 6, &[], &segment(flags, 71, 5, &[]));
            with(with(packet, 34, &port), 30, &[127, 0, 0, 1])
        };
        // As if it came from outside: with the same address at both ends it would be refused for that.
        lab.apply(|config| config.drop_malformed = false);
        for flags in [ACK, ACK | PSH, RST] {
            lab.check(&ours(flags, from), Reason::NotLimited);
            lab.check(&ours(flags, [1, 1]), Reason::CookieRefused);
        }
    });
}

/// Nanoseconds of one run, on average over many of the least round. The packet must stay as it is.
fn ns_per_run(lab: &mut Lab, packet: &[u8]) -> u64 {
    let mut round = || {
        lab.filter.heartbeat(nic::monotonic_ns()).expect("heartbeat");
        let options = TestRunOptions { data_in: Some(packet), repeat: 100_000, ..TestRunOptions::default() };
        lab.filter.program().expect("program").test_run(options).expect("test run").duration
    };
    let least = (0..9).map(|_| round()).min().unwrap_or(Duration::ZERO);
    u64::try_from(least.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds of one run alone, of which the clock's own cost and cold memory are a part: the least of many.
fn ns_of_one_run(lab: &mut Lab, packet: &[u8]) -> u64 {
    lab.filter.heartbeat(nic::monotonic_ns()).expect("heartbeat");
    let mut run = || {
        let options = TestRunOptions { data_in: Some(packet), repeat: 1, ..TestRunOptions::default() };
        lab.filter.program().expect("program").test_run(options).expect("test run").duration
    };
    let least = (0..20_000).map(|_| run()).min().unwrap_or(Duration::ZERO);
    u64::try_from(least.as_nanos()).unwrap_or(u64::MAX)
}

/// What it costs is told, never judged: `--nocapture` shows it. A SYN that is answered cannot be run twice, so that the
/// answer's share is the difference between two single runs, the other of which is dry.
#[test]
fn what_cookies_cost() {
    let name = "kernel::syn_cookies::what_cookies_cost";
    let slow = Rate { per_s: 1e9, burst: 1_000_000 };
    with_listener(name, Prefilter { packets: Some(slow), syns: Some(slow), ..prefilter() }, |lab| {
        std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").expect("the namespace's own setting");
        let v4 = |flags: u8, options: &[u8]| ipv4(CLIENT4, 6, &[], &segment(flags, 70, 9, options));
        let v6 = |flags: u8, options: &[u8]| ipv6(CLIENT6, 6, 64, &segment(flags, 70, 9, options));
        let packets = [
            ("IPv4 SYN", v4(SYN, OPTIONS)),
            ("IPv4 SYN without options", v4(SYN, &[])),
            ("IPv6 SYN", v6(SYN, OPTIONS)),
            ("IPv4 ACK, forged", v4(ACK, &[])),
            ("IPv6 ACK, forged", v6(ACK, &[])),
        ];
        for (state, on, dry_run) in [("off", false, false), ("dry", true, true), ("on", true, false)] {
            lab.apply(|config| config.dry_run = dry_run);
            lab.filter.set_syn_cookies(on).expect("cookies");
            for (what, packet) in &packets {
                let answered = on && !dry_run && what.contains("SYN");
                let many = (!answered).then(|| ns_per_run(lab, packet));
                println!("{what}, cookies {state}: {many:?} ns, alone {} ns", ns_of_one_run(lab, packet));
            }
        }
    });
}
