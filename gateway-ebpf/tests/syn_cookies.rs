//! SYN cookies on the host: which segments are answered, taken or refused, and whether an answer is what a client's TCP
//! accepts.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "segments are laid out by hand here; a slip is the test's failure"
)]

mod table;

use gateway_ebpf::{
    Reason, classify,
    layout::{
        CookieTerms, DROP_MALFORMED, HEARTBEAT_TIMEOUT_NS, MODE_ON, Pace, RECENT_NS, SYN_COOKIES,
        SYN_COOKIES_STRICT, Seen, Settings, TERMS_SACK, TERMS_SCALING, TERMS_TIMESTAMPS,
    },
    syn_cookie::{Answer, Begin, NO_SCALE, Offer, Segment},
};
use proptest::prelude::*;
use table::{
    cases::{CLIENT4, CLIENT6},
    frames::{ACK, FIN, IPV4, PSH, RST, SYN, TCP4, cut, extension, fragment, ipv4, ipv6, tagged, with},
    mutate::Mutations,
    sockets::cookie,
    world::{Host, NOW_NS, Standing},
};

const PORT: u16 = 443;
const CLIENT_PORT: u16 = 40_000;

fn settings() -> Settings {
    Settings {
        mode: MODE_ON,
        flags: DROP_MALFORMED | SYN_COOKIES | SYN_COOKIES_STRICT,
        cell_mask: 1023,
        source_mask_v4: u32::MAX,
        source_mask_v6: u64::MAX,
        seed: 0x1234_5678_9abc_def1,
        cookies: TERMS,
        ..Settings::default()
    }
}

const TERMS: CookieTerms = CookieTerms {
    mss_v4: 1460,
    mss_v6: 1440,
    window: 32_768,
    window_scale: 7,
    options: TERMS_TIMESTAMPS | TERMS_SACK | TERMS_SCALING,
};

/// A host that listens on [`PORT`].
fn host(settings: &Settings) -> Host {
    let mut host = Host::new(settings);
    host.sockets.listening.insert(PORT);
    host
}

fn judge(packet: &[u8], settings: &Settings, host: &mut Host, now_ns: u64) -> Reason {
    classify(&packet, settings, host, &Standing(now_ns), &mut Seen::default())
}

/// A segment with these options, which are filled up to whole words, and without data.
fn segment(flags: u8, sequence: u32, acknowledgement: u32, options: &[u8]) -> Vec<u8> {
    let mut options = options.to_vec();
    options.resize(options.len().next_multiple_of(4), 0);
    let words = 5 + options.len() / 4;
    let mut segment = [CLIENT_PORT.to_be_bytes(), PORT.to_be_bytes()].concat();
    segment.extend(sequence.to_be_bytes());
    segment.extend(acknowledgement.to_be_bytes());
    segment.extend([(words << 4) as u8, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(options);
    segment
}

/// From [`CLIENT4`].
fn from_v4(flags: u8, sequence: u32, acknowledgement: u32) -> Vec<u8> {
    ipv4(CLIENT4, 6, &[], &segment(flags, sequence, acknowledgement, &[]))
}

/// The acknowledgement that the SYN with this sequence number from [`CLIENT4`] asks for.
fn asked_for(sequence: u32) -> u32 {
    let (mut host, settings) = (host(&settings()), settings());
    assert_eq!(judge(&from_v4(SYN, sequence, 0), &settings, &mut host, NOW_NS), Reason::SynCookie);
    host.begin.unwrap().cookie.wrapping_add(1)
}

#[test]
fn a_syn_for_a_listener_is_answered_whatever_is_around_it() {
    #[track_caller]
    fn check(packet: &[u8], expected: Reason) {
        let settings = settings();
        assert_eq!(judge(packet, &settings, &mut host(&settings), NOW_NS), expected);
    }
    let syn = segment(SYN, 1, 0, &[]);
    let v4 = |source: &str| ipv4(source, 6, &[], &syn);
    let v6 = |source: &str| ipv6(source, 6, 64, &syn);
    let behind =
        |first: u8, headers: &[Vec<u8>]| ipv6(CLIENT6, first, 64, &[headers.concat(), syn.clone()].concat());
    for plain in [v4(CLIENT4), v6(CLIENT6)] {
        check(&plain, Reason::SynCookie);
        check(&tagged(&plain, &[0x8100]), Reason::SynCookie);
        check(&tagged(&plain, &[0x88a8, 0x8100]), Reason::SynCookie);
    }
    check(&ipv4(CLIENT4, 6, &[1; 40], &syn), Reason::SynCookie);
    check(&ipv4(CLIENT4, 6, &[], &[syn.clone(), b"data".to_vec()].concat()), Reason::SynCookie);
    check(&ipv4(CLIENT4, 6, &[], &segment(SYN | PSH | 0xc0, 1, 0, &[])), Reason::SynCookie);
    check(&behind(60, &[extension(6, 3)]), Reason::SynCookie);
    check(&behind(0, &[extension(43, 0), extension(60, 1), extension(6, 0)]), Reason::SynCookie);
    check(&behind(44, &[fragment(6, 0, false)]), Reason::SynCookie);
    // What the kernel would put together, or read further than we do, must not get a SYN past us.
    check(&behind(44, &[fragment(6, 0, true)]), Reason::Fragment);
    let seven = vec![extension(60, 0); 6].into_iter().chain([extension(6, 0)]).collect::<Vec<_>>();
    check(&behind(60, &seven), Reason::CookieRefused);
    check(&behind(60, &[extension(60, 29), extension(6, 29)]), Reason::CookieRefused);
    let lenient = Settings { flags: SYN_COOKIES | SYN_COOKIES_STRICT, ..settings() };
    let first = with(v4(CLIENT4), IPV4 + 6, &[0x20, 0]);
    assert_eq!(judge(&first, &lenient, &mut host(&lenient), NOW_NS), Reason::CookieRefused);
    // Nobody can be at these addresses, and the kernel would not answer them either.
    for source in ["0.0.0.1", "127.0.0.1", "224.0.0.1", "239.255.255.255", "255.255.255.255"] {
        check(&v4(source), Reason::CookieRefused);
    }
    for source in ["1.0.0.0", "126.0.0.1", "128.0.0.1", "223.255.255.255", "240.0.0.1"] {
        check(&v4(source), Reason::SynCookie);
    }
    for source in ["::", "::1", "::ffff:192.0.2.9", "ff02::1"] {
        check(&v6(source), Reason::CookieRefused);
    }
    // Nobody answers for many.
    check(&with(v4(CLIENT4), 0, &[0xff; 6]), Reason::NotLimited);
    check(&with(v4(CLIENT4), IPV4 + 16, &[224, 0, 0, 1]), Reason::NotLimited);
    check(&with(v6(CLIENT6), IPV4 + 24, &[0xff, 2]), Reason::NotLimited);
    // Another port has no listener, and one without limits is none of our business.
    check(&with(v4(CLIENT4), TCP4 + 2, &53_u16.to_be_bytes()), Reason::NotLimited);
    check(&with(v4(CLIENT4), TCP4 + 2, &22_u16.to_be_bytes()), Reason::NotLimited);
}

#[test]
fn only_the_acknowledgement_of_the_cookie_gets_through() {
    #[track_caller]
    fn check(settings: &Settings, packet: &[u8], expected: Reason) {
        assert_eq!(judge(packet, settings, &mut host(settings), NOW_NS), expected);
    }
    let settings = settings();
    let asked_for = asked_for(7);
    check(&settings, &from_v4(ACK, 8, asked_for), Reason::CookieAccepted);
    check(&settings, &from_v4(ACK | PSH, 8, asked_for), Reason::CookieAccepted);
    check(&settings, &from_v4(ACK | FIN, 8, asked_for), Reason::CookieAccepted);
    for (sequence, acknowledgement) in [(8, asked_for + 1), (8, asked_for - 1), (9, asked_for), (8, 0)] {
        check(&settings, &from_v4(ACK, sequence, acknowledgement), Reason::CookieRefused);
    }
    check(&settings, &with(from_v4(ACK, 8, asked_for), TCP4, &[1, 1]), Reason::CookieRefused);
    check(&settings, &with(from_v4(ACK, 8, asked_for), IPV4 + 12, &[198]), Reason::CookieAccepted);
    check(&settings, &with(from_v4(ACK, 8, asked_for), IPV4 + 15, &[99]), Reason::CookieRefused);
    for flags in [RST, RST | ACK, SYN | ACK] {
        check(&settings, &from_v4(flags, 8, asked_for), Reason::CookieRefused);
    }
}

#[test]
fn what_comes_right_behind_the_handshake_passes_for_a_while() {
    let settings = settings();
    let (mut host, asked_for) = (host(&settings), asked_for(7));
    let more = from_v4(ACK | PSH, 1468, asked_for);
    assert_eq!(judge(&more, &settings, &mut host, NOW_NS), Reason::CookieRefused);
    assert_eq!(judge(&from_v4(ACK, 8, asked_for), &settings, &mut host, NOW_NS), Reason::CookieAccepted);
    assert_eq!(judge(&more, &settings, &mut host, NOW_NS + RECENT_NS - 1), Reason::NotLimited);
    let stranger = with(more.clone(), TCP4, &[1, 1]);
    assert_eq!(judge(&stranger, &settings, &mut host, NOW_NS), Reason::CookieRefused);
    assert_eq!(judge(&more, &settings, &mut host, NOW_NS + RECENT_NS), Reason::CookieRefused);
    host.sockets.connected.insert(CLIENT_PORT);
    assert_eq!(judge(&more, &settings, &mut host, NOW_NS + RECENT_NS), Reason::NotLimited);
}

#[test]
fn connections_that_the_kernel_knows_go_on_and_begin_anew() {
    let settings = settings();
    let mut host = host(&settings);
    host.sockets.connected.insert(CLIENT_PORT);
    // A SYN as well: the connection may have ended, and its ports be used again (RFC 9293 §3.10.7.4).
    for flags in [ACK, ACK | PSH, ACK | FIN, RST, SYN] {
        assert_eq!(judge(&from_v4(flags, 8, 9), &settings, &mut host, NOW_NS), Reason::NotLimited);
    }
}

#[test]
fn a_listener_that_is_full_gets_no_syn_unless_the_kernel_is_to_answer() {
    let settings = settings();
    let mut host = host(&settings);
    host.sockets.full = true;
    assert_eq!(judge(&from_v4(SYN, 7, 0), &settings, &mut host, NOW_NS), Reason::ListenerFull);
    let shared = Settings { flags: settings.flags & !SYN_COOKIES_STRICT, ..settings };
    assert_eq!(judge(&from_v4(SYN, 7, 0), &shared, &mut host, NOW_NS), Reason::NotLimited);
}

#[test]
fn a_forged_address_costs_its_owner_nothing() {
    const DAY_NS: u64 = 86_400_000_000_000;
    let settings = Settings {
        syns: Pace { interval_ns: DAY_NS, tolerance_ns: DAY_NS },
        packets: Pace { interval_ns: DAY_NS, tolerance_ns: DAY_NS * 3 },
        ..settings()
    };
    let mut host = host(&settings);
    for sequence in 0..100 {
        assert_eq!(judge(&from_v4(SYN, sequence, 0), &settings, &mut host, NOW_NS), Reason::SynCookie);
        assert_eq!(judge(&from_v4(ACK, sequence, 5), &settings, &mut host, NOW_NS), Reason::CookieRefused);
    }
    assert_eq!((host.drops(), host.dropped_whole()), (0, 0), "nobody is blocked");
    // Its own handshakes count, by what they have proven.
    for (sequence, expected) in
        [(1, Reason::CookieAccepted), (2, Reason::CookieAccepted), (3, Reason::SynRate)]
    {
        let asked_for = asked_for(sequence);
        let ack = from_v4(ACK, sequence + 1, asked_for);
        assert_eq!(judge(&ack, &settings, &mut host, NOW_NS), expected, "{sequence}");
    }
}

#[test]
fn without_user_space_the_kernel_answers_again() {
    let settings = settings();
    let mut host = host(&settings);
    let later_ns = NOW_NS + HEARTBEAT_TIMEOUT_NS;
    assert_eq!(judge(&from_v4(SYN, 7, 0), &settings, &mut host, later_ns), Reason::SynCookie);
    assert_eq!(judge(&from_v4(SYN, 7, 0), &settings, &mut host, later_ns + 1), Reason::NotLimited);
    assert_eq!(judge(&from_v4(ACK, 7, 0), &settings, &mut host, later_ns + 1), Reason::NotLimited);
}

/// What the SYN offers, as it is read.
fn offer(options: &[u8]) -> Offer {
    let settings = settings();
    let mut host = host(&settings);
    let packet = ipv4(CLIENT4, 6, &[], &segment(SYN, 1, 0, options));
    assert_eq!(judge(&packet, &settings, &mut host, NOW_NS), Reason::SynCookie);
    host.begin.unwrap().offer
}

/// As Linux, Windows and macOS begin.
const LINUX: &[u8] = &[2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
const WINDOWS: &[u8] = &[2, 4, 5, 0xb4, 1, 3, 3, 8, 1, 1, 4, 2];
const MACOS: &[u8] = &[2, 4, 5, 0xb4, 1, 3, 3, 6, 1, 1, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 4, 2, 0, 0];

#[test]
fn options_are_read_as_far_as_they_make_sense() {
    #[track_caller]
    fn check(options: &[u8], mss: u16, window_scale: u8, sack: u8, timestamp: Option<u32>) {
        let (timestamp, has_timestamp) = (timestamp.unwrap_or(0), u32::from(timestamp.is_some()));
        assert_eq!(offer(options), Offer { mss, window_scale, sack, timestamp, has_timestamp });
    }
    check(&[], 0, NO_SCALE, 0, None);
    check(LINUX, 1460, 7, 1, Some(0x0102_0304));
    check(WINDOWS, 1460, 8, 1, None);
    check(MACOS, 1460, 6, 1, Some(0x0102_0304));
    // The last one counts, as in the kernel.
    check(&[2, 4, 5, 0xb4, 2, 4, 2, 0], 512, NO_SCALE, 0, None);
    // RFC 7323 §2.3
    check(&[3, 3, 14], 0, 14, 0, None);
    check(&[3, 3, 255], 0, 14, 0, None);
    // Unknown ones are passed over, the end is the end, and one that is too long or too short ends the list.
    check(&[254, 4, 0, 0, 4, 2], 0, NO_SCALE, 1, None);
    check(&[0, 0, 0, 0, 4, 2, 1, 1], 0, NO_SCALE, 0, None);
    check(&[2, 8, 5, 0xb4], 0, NO_SCALE, 0, None);
    check(&[254, 0, 4, 2], 0, NO_SCALE, 0, None);
    check(&[254, 1, 4, 2], 0, NO_SCALE, 0, None);
    // Lengths that are not an option's own say nothing.
    check(&[2, 3, 5, 1, 3, 2, 1, 1], 0, NO_SCALE, 0, None);
    check(&[&[1; 11][..], &[4, 2]].concat(), 0, NO_SCALE, 1, None);
    check(&[&[1; 12][..], &[4, 2]].concat(), 0, NO_SCALE, 0, None);
    // A single octet at the very end.
    check(&[LINUX, &[1, 1, 1, 4]].concat(), 1460, 7, 1, Some(0x0102_0304));
}

/// An answer's octets.
fn bytes(answer: &Answer) -> Vec<u8> {
    let network = &answer.network[..answer.network_words];
    let transport = &answer.transport[..answer.transport_words];
    network.iter().chain(transport).flat_map(|word| word.to_be_bytes()).collect()
}

/// RFC 1071, as a receiver checks it: one's complement of everything, the checksum included.
fn sums_up(parts: &[&[u8]]) -> bool {
    let mut sum = 0_u32;
    for pair in parts.concat().chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum == 0xffff
}

fn a_segment() -> impl Strategy<Value = Segment> {
    (any::<[u64; 4]>(), any::<[u32; 2]>(), any::<[u16; 2]>(), any::<bool>()).prop_map(
        |([a, b, c, d], [sequence, acknowledgement], [source_port, port], is_v4)| {
            let v4 = |low: u64| [0, low & 0xffff_ffff];
            Segment {
                source: if is_v4 { v4(a) } else { [a, b] },
                destination: if is_v4 { v4(c) } else { [c, d] },
                sequence,
                acknowledgement,
                source_port,
                port,
                offset_and_flags: 0x5002,
                version: if is_v4 { 4 } else { 6 },
            }
        },
    )
}

fn an_offer() -> impl Strategy<Value = Offer> {
    (any::<u16>(), prop_oneof![0_u8..=14, Just(NO_SCALE)], 0_u8..=1, any::<u32>(), 0_u32..=1).prop_map(
        |(mss, window_scale, sack, timestamp, has_timestamp)| Offer {
            mss,
            window_scale,
            sack,
            timestamp,
            has_timestamp,
        },
    )
}

proptest! {
    /// Whatever was asked, the answer goes back where it came from, its checksums are right, it acknowledges the SYN, and
    /// its timestamp remembers what was granted and is never ahead of the clock.
    #[test]
    fn an_answer_is_what_the_client_waits_for(
        segment in a_segment(),
        offer in an_offer(),
        cookie in any::<u32>(),
        options in 0_u8..8,
        now_ns in 1_000_000_000_u64..1 << 60,
    ) {
        let terms = CookieTerms { options, ..TERMS };
        let answer = Answer::new(&Begin { segment, offer, cookie }, &terms, now_ns);
        let packet = bytes(&answer);
        prop_assert_eq!(packet.len(), answer.bytes());
        let (header, tcp) = packet.split_at(answer.network_words * 4);
        let length = (tcp.len() as u16).to_be_bytes();
        let addresses = if segment.version == 4 {
            prop_assert!(sums_up(&[header]));
            prop_assert_eq!(&header[..10], &[0x45, 0, 0, packet.len() as u8, 0, 0, 0x40, 0, 64, 6]);
            let half = |address: [u64; 2]| (address[1] as u32).to_be_bytes();
            prop_assert_eq!(&header[12..], [half(segment.destination), half(segment.source)].concat());
            &header[12..]
        } else {
            prop_assert_eq!(&header[..8], &[0x60, 0, 0, 0, length[0], length[1], 6, 64]);
            let [a, b] = [segment.destination, segment.source].map(|address| address.map(u64::to_be_bytes).concat());
            prop_assert_eq!(&header[8..], [a, b].concat());
            &header[8..]
        };
        prop_assert!(sums_up(&[addresses, &[0, 6], &length, tcp]));

        let word = |at: usize| u32::from_be_bytes(*tcp[at..].first_chunk().unwrap());
        prop_assert_eq!(word(0), u32::from(segment.port) << 16 | u32::from(segment.source_port));
        prop_assert_eq!([word(4), word(8)], [cookie, segment.sequence.wrapping_add(1)]);
        prop_assert_eq!(usize::from(tcp[12] >> 4) * 4, tcp.len());
        prop_assert_eq!((tcp[13], u32::from(terms.window)), (0x12, word(12) & 0xffff));
        let mss = if segment.version == 4 { TERMS.mss_v4 } else { TERMS.mss_v6 };
        prop_assert_eq!(word(20), 0x0204_0000 | u32::from(mss));

        let stamped = offer.has_timestamp != 0 && options & TERMS_TIMESTAMPS != 0;
        let sack = stamped && offer.sack != 0 && options & TERMS_SACK != 0;
        let scaled = stamped && offer.window_scale != NO_SCALE && options & TERMS_SCALING != 0;
        prop_assert_eq!(tcp.len(), if scaled { 40 } else if stamped { 36 } else { 24 });
        if stamped {
            prop_assert_eq!(word(24), if sack { 0x0402_080a } else { 0x0101_080a });
            prop_assert_eq!(word(32), offer.timestamp);
            let scale = if scaled { u32::from(offer.window_scale) } else { 15 };
            prop_assert_eq!(word(28) & 63, scale | u32::from(sack) << 4);
            let behind_ms = ((now_ns / 1_000_000) as u32).wrapping_sub(word(28));
            prop_assert!(behind_ms < 128, "{} ms", behind_ms);
        }
        if scaled {
            prop_assert_eq!(word(36), 0x0103_0300 | u32::from(TERMS.window_scale));
        }
    }

    /// Options that mean nothing are read without harm.
    #[test]
    fn any_options_can_be_read(options in prop::collection::vec(any::<u8>(), 0..40)) {
        let offer = offer(&options);
        prop_assert!(offer.window_scale <= NO_SCALE && offer.sack <= 1 && offer.has_timestamp <= 1);
    }
}

#[test]
fn a_syn_cut_anywhere_is_never_answered_and_never_a_panic() {
    let lenient = Settings { flags: SYN_COOKIES, ..settings() };
    let whole = ipv4(CLIENT4, 6, &[], &segment(SYN, 1, 0, LINUX));
    for packet in [whole.clone(), tagged(&whole, &[0x88a8, 0x8100])] {
        for bytes in 0..packet.len() {
            let settings = settings();
            let found = judge(&cut(packet.clone(), bytes), &settings, &mut host(&settings), NOW_NS);
            assert!(matches!(found, Reason::NotIp | Reason::BadLength), "cut at {bytes}: {found:?}");
            judge(&cut(packet.clone(), bytes), &lenient, &mut host(&lenient), NOW_NS);
        }
    }
    let mut mutations = Mutations::new(11);
    let (settings, mut host) = (settings(), host(&settings()));
    for _ in 0..100_000 {
        let packet = mutations.next();
        judge(&packet, &settings, &mut host, NOW_NS);
        judge(&packet, &lenient, &mut host, NOW_NS);
    }
}

#[test]
fn cookies_differ_by_whatever_makes_a_connection() {
    // The test's own cookie, on which the tests above rely.
    let segment =
        Segment { source: [0, 1], destination: [0, 2], source_port: 3, port: 4, ..Segment::default() };
    let others = [
        Segment { source: [0, 9], ..segment },
        Segment { destination: [0, 9], ..segment },
        Segment { source_port: 9, ..segment },
        Segment { port: 9, ..segment },
    ];
    assert!(others.iter().all(|other| cookie(other, 0) != cookie(&segment, 0)));
}
