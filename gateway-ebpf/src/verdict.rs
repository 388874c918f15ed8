//! What becomes of a packet, and why.
//!
//! Comes in: a [`Packet`], the [`Settings`] and the [`Tables`]. Goes out: a [`Reason`], which is counted
//! and turned into a [`Verdict`] at one place. The order: off → not IP → neighbour discovery → allow → blocks and
//! throttles → impossible packets → ports without limits → limits. Neighbour discovery, ARP and everything not understood pass,
//! so that the filter cannot take its host off its link; nothing here bans, since a source address can be forged.

use crate::{
    front,
    layout::{
        Ban, Cell, DRY_RUN, MODE_OFF, PrefixKey4, PrefixKey6, REASONS_MAX, SEEN_SOURCE, SYN_COOKIES, Seen,
        Settings, VERDICTS_MAX,
    },
    packet::{
        ETHERTYPE_IPV4, ETHERTYPE_IPV6, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP, Packet, network_layer,
    },
    policy::{Payer, Rules, Unproven},
    syn_cookie::Handshakes,
};

/// Why a packet passed or was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// The filter is switched off.
    Off = 0,
    /// Neither IPv4 nor IPv6: ARP, LLDP, too short to tell.
    NotIp = 1,
    /// Neighbour discovery, a link-local source, or DHCP where the source is blocked.
    Neighbour = 2,
    /// The source is in an allow prefix.
    Allowed = 3,
    /// A port or protocol without limits, or a packet that was not understood.
    NotLimited = 4,
    /// A limited port, and the source is within its limits.
    WithinLimits = 5,
    /// The source itself is blocked.
    BlockedSource = 6,
    /// The source is in a blocked prefix.
    BlockedPrefix = 7,
    /// Header lengths that contradict each other or the packet.
    BadLength = 8,
    /// TCP flags that no TCP sends.
    BadFlags = 9,
    /// Source and destination are the same address.
    SameAddress = 10,
    /// A fragment of TCP to a limited port, or one that does not show its port.
    Fragment = 11,
    /// More SYNs than the source may send.
    SynRate = 12,
    /// More packets than the source may send.
    PacketRate = 13,
    /// More packets than its own entry in the block list lets pass.
    Throttled = 14,
    /// More bytes than the source may send.
    ByteRate = 15,
    /// More packets, SYNs or bytes than the /24 or the /48 of the source may send.
    NetworkRate = 16,
    /// A block list that others keep holds the source.
    BlockedFeed = 17,
    /// A SYN, answered with a cookie in the listener's stead.
    SynCookie = 18,
    /// The ACK that a cookie asked for: the source has proven its address.
    CookieAccepted = 19,
    /// While SYN cookies are on: a segment that belongs to no connection, or a SYN that nobody could answer.
    CookieRefused = 20,
    /// While SYN cookies are on: a SYN for a listener that can take no connection now.
    ListenerFull = 21,
}

/// What the network driver is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// On to the kernel.
    Pass = 0,
    /// Gone.
    Drop = 1,
    /// Answered: back to where it came from.
    Tx = 2,
}

impl Verdict {
    /// Every verdict, in the order of its numbers.
    pub const ALL: [Self; 3] = [Self::Pass, Self::Drop, Self::Tx];

    /// Its stable name in metrics and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Tx => "tx",
        }
    }
}

impl Reason {
    /// Every reason, in the order of its numbers.
    pub const ALL: [Self; 22] = [
        Self::Off,
        Self::NotIp,
        Self::Neighbour,
        Self::Allowed,
        Self::NotLimited,
        Self::WithinLimits,
        Self::BlockedSource,
        Self::BlockedPrefix,
        Self::BadLength,
        Self::BadFlags,
        Self::SameAddress,
        Self::Fragment,
        Self::SynRate,
        Self::PacketRate,
        Self::Throttled,
        Self::ByteRate,
        Self::NetworkRate,
        Self::BlockedFeed,
        Self::SynCookie,
        Self::CookieAccepted,
        Self::CookieRefused,
        Self::ListenerFull,
    ];

    /// The reason with this number.
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == number)
    }

    /// Its stable name in metrics and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::NotIp => "not_ip",
            Self::Neighbour => "neighbour",
            Self::Allowed => "allowed",
            Self::NotLimited => "not_limited",
            Self::WithinLimits => "within_limits",
            Self::BlockedSource => "blocked_source",
            Self::BlockedPrefix => "blocked_prefix",
            Self::BadLength => "bad_length",
            Self::BadFlags => "bad_flags",
            Self::SameAddress => "same_address",
            Self::Fragment => "fragment",
            Self::SynRate => "syn_rate",
            Self::PacketRate => "packet_rate",
            Self::Throttled => "throttled",
            Self::ByteRate => "byte_rate",
            Self::NetworkRate => "network_rate",
            Self::BlockedFeed => "blocked_feed",
            Self::SynCookie => "syn_cookie",
            Self::CookieAccepted => "cookie_accepted",
            Self::CookieRefused => "cookie_refused",
            Self::ListenerFull => "listener_full",
        }
    }

    /// Whether the packet is one that should not arrive: dropped, or in a dry run counted and passed.
    #[inline(always)]
    pub const fn refuses(self) -> bool {
        self as u8 >= Self::BlockedSource as u8 && !matches!(self, Self::SynCookie | Self::CookieAccepted)
    }

    /// What the driver is told under these [`Settings::flags`].
    #[inline(always)]
    pub const fn verdict(self, flags: u32) -> Verdict {
        match self {
            _ if flags & DRY_RUN != 0 => Verdict::Pass,
            Self::SynCookie => Verdict::Tx,
            _ if self.refuses() => Verdict::Drop,
            _ => Verdict::Pass,
        }
    }
}

const _: () = assert!(Reason::ALL.len() <= REASONS_MAX && Verdict::ALL.len() <= VERDICTS_MAX);

/// RFC 4291 §2.5.5.2.
#[inline(always)]
const fn mapped(address: u32) -> [u64; 2] {
    [0, 0xffff_0000_0000 | address as u64]
}

/// The maps, as the verdict sees them.
///
/// The references reach into memory that other CPUs write as well; whatever they say is only ever compared and
/// counted, so a value torn between two writers costs at most one packet's verdict.
pub trait Tables: Handshakes {
    /// A word of [`crate::layout::Orders::touched`].
    fn touched_word(&self, index: u32) -> u64;
    /// A word of `CLASS24`.
    fn class_word(&self, index: u32) -> u64;
    /// A word of `GUARD6`.
    fn guard_word(&self, index: u32) -> u64;
    /// How many packets this CPU has dropped by the class of their /24.
    fn whole_drops(&mut self) -> &mut u64;
    /// How many SYNs to limited ports this CPU has seen.
    fn syns(&mut self) -> &mut u64;
    /// How many drops this CPU had to look up, though a claim could have spared that.
    fn unclaimed_drops(&mut self) -> &mut u64;
    /// Is the source in an allow prefix?
    fn allowed4(&self, key: &PrefixKey4) -> bool;
    /// Is the source in an allow prefix?
    fn allowed6(&self, key: &PrefixKey6) -> bool;
    /// Until when claims of blocks hold.
    fn claimed_until_ns(&self) -> u64;
    /// How many lines of `FRONT4` are in use.
    fn claimed_shift4(&self) -> u32;
    /// How many lines of `FRONT6` are in use.
    fn claimed_shift6(&self) -> u32;
    /// Of which lengths there are claims of IPv6 blocks.
    fn claimed_lengths6(&self) -> u64;
    /// A line of `FRONT4`.
    fn front4(&self, line: u32) -> Option<&front::Line>;
    /// A line of `FRONT6`.
    fn front6(&self, line: u32) -> Option<&front::Line>;
    /// The drops of a slot, of 16 in a line.
    fn front4_drops(&mut self, line: u32, slot: u32) -> Option<&mut u8>;
    /// The drops of a slot, of 8 in a line.
    fn front6_drops(&mut self, line: u32, slot: u32) -> Option<&mut u8>;
    /// The block of this source; `key` is its masked address in network byte order.
    fn ban4(&mut self, key: u32) -> Option<&mut Ban>;
    /// The block of this source; `key` is its masked upper half in network byte order.
    fn ban6(&mut self, key: u64) -> Option<&mut Ban>;
    /// The longest blocked prefix of at most `key.prefix_bits` bits that holds the address.
    fn block4(&mut self, key: &PrefixKey4) -> Option<&mut Ban>;
    /// The longest blocked prefix of at most `key.prefix_bits` bits that holds the address.
    fn block6(&mut self, key: &PrefixKey6) -> Option<&mut Ban>;
    /// Does a feed list the source?
    fn listed4(&self, source: u32) -> bool;
    /// As [`Self::listed4`], by the address's halves.
    fn listed6(&self, upper: u64, lower: u64) -> bool;
    /// Do the limits apply to this destination port?
    fn limited(&self, port: u16) -> bool;
    /// Two different cells of the limiter, both of one line.
    fn cells(&mut self, first: u32, second: u32) -> Option<(&mut Cell, &mut Cell)>;
    /// The bucket of a known source, as the limiter calls it.
    fn known(&mut self, source: u64) -> Option<&mut Cell>;
    /// When user space last said that it lives.
    fn heartbeat_ns(&self) -> u64;
}

/// `CLOCK_MONOTONIC`; read only by packets that hit a block or a limit.
pub trait Clock {
    /// To the tick, which is enough for expiry and rates.
    fn now_ns(&self) -> u64;
    /// To the nanosecond; read at the first drop of a block.
    fn precise_now_ns(&self) -> u64;
}

/// Bytes of an IPv6 header without extensions.
const IPV6_HEADER_BYTES: usize = 40;
/// IPv6 extension headers that are read before a packet counts as not understood.
const EXTENSION_HEADERS_MAX: u32 = 6;
/// Where the transport header starts at the latest, from the IPv6 header on.
const EXTENSION_BYTES_MAX: usize = 512;

/// Decides on one packet, and writes down what was seen of it.
#[inline(always)]
pub fn classify<P: Packet, T: Tables, C: Clock>(
    packet: &P,
    settings: &Settings,
    tables: &mut T,
    clock: &C,
    seen: &mut Seen,
) -> Reason {
    seen.so_far = 0;
    if settings.mode == MODE_OFF {
        return Reason::Off;
    }
    let mut rules = Rules { settings, tables, clock, unproven: Unproven::default() };
    let reason = match network_layer(packet) {
        Some((ETHERTYPE_IPV4, start)) => ipv4(packet, start, &mut rules, seen),
        Some((ETHERTYPE_IPV6, start)) => ipv6(packet, start, &mut rules, seen),
        _ => Some(Reason::NotIp),
    }
    .unwrap_or(rules.too_short());
    if rules.unproven.start != 0 && !reason.refuses() { rules.with_cookies(packet) } else { reason }
}

/// RFC 791 §3.1. `None`: the packet ends before its header does.
#[inline(always)]
fn ipv4<P: Packet, T: Tables, C: Clock>(
    packet: &P,
    start: usize,
    rules: &mut Rules<'_, T, C>,
    seen: &mut Seen,
) -> Option<Reason> {
    let lengths = packet.be64(start)?;
    let time_to_source = packet.be64(start + 8)?;
    let destination = packet.be32(start + 16)?;
    let source = time_to_source as u32;
    seen.source = mapped(source);
    seen.so_far = SEEN_SOURCE;
    if let Some(reason) = rules.source4(source) {
        return Some(if reason.refuses() && is_dhcp4(packet, start) { Reason::Neighbour } else { reason });
    }

    let header_bytes = (lengths >> 56 & 0xf) as usize * 4;
    let total_bytes = usize::from((lengths >> 32) as u16);
    let fragment = lengths as u16;
    if lengths >> 60 != 4 || header_bytes < 20 {
        return Some(rules.too_short());
    }
    if rules.drop_malformed() {
        if total_bytes < header_bytes || !packet.has(start + total_bytes) {
            return Some(Reason::BadLength);
        }
        if source == destination {
            return Some(Reason::SameAddress);
        }
    }
    let transport = Transport {
        protocol: (time_to_source >> 48) as u8,
        payer: rules.payer4(source),
        start: start + header_bytes,
        end: start + total_bytes,
        first_fragment: fragment & 0x3fff == 0x2000,
        later_fragment: fragment & 0x1fff != 0,
    };
    transport_layer(packet, &transport, rules, seen)
}

/// RFC 8200 §3 and §4. `None`: the packet ends before its headers do.
#[inline(always)]
fn ipv6<P: Packet, T: Tables, C: Clock>(
    packet: &P,
    start: usize,
    rules: &mut Rules<'_, T, C>,
    seen: &mut Seen,
) -> Option<Reason> {
    let lengths = packet.be32(start + 4)?;
    let upper = packet.be64(start + 8)?;
    let lower = packet.be64(start + 16)?;
    let to_upper = packet.be64(start + 24)?;
    let to_lower = packet.be64(start + 32)?;
    seen.source = [upper, lower];
    seen.so_far = SEEN_SOURCE;
    let payload_bytes = (lengths >> 16) as usize;
    let mut next = (lengths >> 8) as u8;
    let hop_limit = lengths as u8;
    // A hop limit of 255 proves that the packet was sent on this link (RFC 4861 §3.1), and no router forwards a
    // link-local source (RFC 4291 §2.5.6).
    let discovery = next == PROTOCOL_ICMPV6
        && hop_limit == 255
        && packet.be16(start + 40).is_some_and(|kind_and_code| matches!(kind_and_code >> 8, 133..=137));
    if discovery || upper >> 54 == 0xfe80 >> 6 {
        return Some(Reason::Neighbour);
    }
    if let Some(reason) = rules.source6(upper, lower) {
        let passes = reason.refuses() && next == PROTOCOL_UDP && is_dhcp6(packet, start);
        return Some(if passes { Reason::Neighbour } else { reason });
    }

    if packet.be16(start)? >> 12 != 6 {
        return Some(rules.too_short());
    }
    // A payload length of zero belongs to a jumbogram (RFC 2675), also to one that the kernel has merged.
    let jumbogram = payload_bytes == 0;
    if rules.drop_malformed() {
        if !jumbogram && !packet.has(start + IPV6_HEADER_BYTES + payload_bytes) {
            return Some(Reason::BadLength);
        }
        if upper == to_upper && lower == to_lower {
            return Some(Reason::SameAddress);
        }
    }

    let mut offset = IPV6_HEADER_BYTES;
    let mut first_fragment = false;
    let mut later_fragment = false;
    for _ in 0..EXTENSION_HEADERS_MAX {
        match next {
            // Hop-by-hop options, routing, destination options.
            0 | 43 | 60 => {
                let next_and_length = packet.be16(start + offset)?;
                next = (next_and_length >> 8) as u8;
                offset += (usize::from(next_and_length & 0xff) + 1) * 8;
            }
            // Fragment.
            44 => {
                let header = packet.be32(start + offset)?;
                next = (header >> 24) as u8;
                offset += 8;
                later_fragment = header & 0xfff8 != 0;
                first_fragment = header & 0xfff9 == 1;
            }
            _ => break,
        }
        // Behind the fragment header of a later fragment comes payload, whatever `next` says.
        if later_fragment || offset > EXTENSION_BYTES_MAX {
            break;
        }
    }
    let not_understood = offset > EXTENSION_BYTES_MAX || !later_fragment && matches!(next, 0 | 43 | 44 | 60);
    if not_understood {
        // The kernel may understand it, and find a SYN in it.
        let cookies = rules.settings.flags & SYN_COOKIES != 0;
        return Some(if cookies { Reason::CookieRefused } else { Reason::NotLimited });
    }
    let transport = Transport {
        protocol: next,
        payer: rules.payer6(upper),
        start: start + offset,
        end: if jumbogram { usize::MAX } else { start + IPV6_HEADER_BYTES + payload_bytes },
        first_fragment,
        later_fragment,
    };
    transport_layer(packet, &transport, rules, seen)
}

/// Whether a packet is DHCP's (RFC 2131 §4.1): without it a host loses its address, and whoever blocks a prefix may not
/// know that its DHCP server is in there. Asked only of packets that are to be dropped.
#[inline(always)]
fn is_dhcp4<P: Packet>(packet: &P, start: usize) -> bool {
    const PORTS: [u16; 2] = [67, 68];
    let (Some(version_and_length), Some(fragment), Some(protocol)) =
        (packet.be16(start), packet.be16(start + 6), packet.be16(start + 8))
    else {
        return false;
    };
    let transport = start + usize::from(version_and_length >> 8 & 0xf) * 4;
    protocol as u8 == PROTOCOL_UDP && matches!(fragment & 0x3fff, 0) && ports_are(packet, transport, PORTS)
}

/// As [`is_dhcp4`], RFC 8415 §7.2; a UDP header is known to follow the fixed one.
#[inline(always)]
fn is_dhcp6<P: Packet>(packet: &P, start: usize) -> bool {
    const PORTS: [u16; 2] = [546, 547];
    ports_are(packet, start + IPV6_HEADER_BYTES, PORTS)
}

/// Whether source and destination port are both among these two. One load for both: of two, the compiler makes a mixture
/// of packet pointer and value that the verifier refuses.
#[inline(always)]
fn ports_are<P: Packet>(packet: &P, transport: usize, [one, other]: [u16; 2]) -> bool {
    let Some(ports) = packet.be32(transport) else { return false };
    let (source, destination) = ((ports >> 16) as u16, ports as u16);
    (source == one || source == other) && (destination == one || destination == other)
}

/// The transport header, as the network layer announces it.
struct Transport {
    protocol: u8,
    /// Whose buckets.
    payer: Payer,
    /// Offset from the start of the packet.
    start: usize,
    /// Where this fragment of header and payload ends.
    end: usize,
    /// More fragments follow this first one.
    first_fragment: bool,
    /// No header here: the middle or the end of a packet.
    later_fragment: bool,
}

#[inline(always)]
fn transport_layer<P: Packet, T: Tables, C: Clock>(
    packet: &P,
    transport: &Transport,
    rules: &mut Rules<'_, T, C>,
    seen: &mut Seen,
) -> Option<Reason> {
    match transport.protocol {
        PROTOCOL_TCP if transport.later_fragment && rules.drop_malformed() => Some(Reason::Fragment),
        _ if transport.later_fragment => Some(Reason::NotLimited),
        PROTOCOL_TCP => tcp(packet, transport, rules, seen),
        PROTOCOL_UDP => udp(packet, transport, rules, seen),
        _ => Some(Reason::NotLimited),
    }
}

/// RFC 9293 §3.1. `None`: the packet ends before its header does.
#[inline(always)]
fn tcp<P: Packet, T: Tables, C: Clock>(
    packet: &P,
    transport: &Transport,
    rules: &mut Rules<'_, T, C>,
    seen: &mut Seen,
) -> Option<Reason> {
    let port = packet.be16(transport.start + 2)?;
    let offset_and_flags = packet.be16(transport.start + 12)?;
    seen.so_far = SEEN_SOURCE | u64::from(port);
    let limited = rules.tables.limited(port);
    if rules.drop_malformed() {
        let header_bytes = usize::from(offset_and_flags >> 12) * 4;
        let header_end = transport.start + header_bytes;
        if header_bytes < 20 || header_end > transport.end || !packet.has(header_end) {
            return Some(Reason::BadLength);
        }
        if impossible_flags(offset_and_flags) {
            return Some(Reason::BadFlags);
        }
        if transport.first_fragment && limited {
            return Some(Reason::Fragment);
        }
    }
    if !limited {
        return Some(Reason::NotLimited);
    }
    let syn = offset_and_flags & (SYN | ACK) == SYN;
    if syn {
        let syns = rules.tables.syns();
        *syns = syns.wrapping_add(1);
    }
    if rules.settings.flags & SYN_COOKIES != 0 {
        // Both families meet again in `classify`, so that the verifier walks what follows once.
        rules.unproven = Unproven { start: transport.start, payer: transport.payer };
        return Some(if transport.first_fragment { Reason::CookieRefused } else { Reason::WithinLimits });
    }
    Some(rules.limits(packet, transport.payer, syn))
}

/// RFC 768. `None`: the packet ends before its header does.
#[inline(always)]
fn udp<P: Packet, T: Tables, C: Clock>(
    packet: &P,
    transport: &Transport,
    rules: &mut Rules<'_, T, C>,
    seen: &mut Seen,
) -> Option<Reason> {
    let port = packet.be16(transport.start + 2)?;
    let datagram_bytes = usize::from(packet.be16(transport.start + 4)?);
    seen.so_far = SEEN_SOURCE | u64::from(port);
    // A length of zero belongs to a jumbogram (RFC 2675); of a fragmented datagram only the first part is here.
    let too_short = datagram_bytes != 0 && datagram_bytes < 8;
    let too_long = transport.start + datagram_bytes > transport.end && !transport.first_fragment;
    if rules.drop_malformed() && (too_short || too_long) {
        return Some(Reason::BadLength);
    }
    if !rules.tables.limited(port) {
        return Some(Reason::NotLimited);
    }
    Some(rules.limits(packet, transport.payer, false))
}

pub(crate) const FIN: u16 = 0x01;
pub(crate) const SYN: u16 = 0x02;
pub(crate) const RST: u16 = 0x04;
pub(crate) const ACK: u16 = 0x10;
/// All but the two of ECN (RFC 3168).
const FLAGS: u16 = 0x3f;

/// One bit for each set of flags that no TCP sends: none at all, two of SYN, FIN and RST at once, FIN without ACK ("Xmas
/// tree" included).
const IMPOSSIBLE: u64 = {
    let (mut sets, mut flags) = (0, 0);
    while flags <= FLAGS {
        let is_impossible = flags == 0
            || flags & (SYN | FIN) == SYN | FIN
            || flags & (SYN | RST) == SYN | RST
            || flags & (FIN | RST) == FIN | RST
            || flags & (FIN | ACK) == FIN;
        sets |= (is_impossible as u64) << flags;
        flags += 1;
    }
    sets
};

#[inline(always)]
fn impossible_flags(flags: u16) -> bool {
    IMPOSSIBLE >> (flags & FLAGS) & 1 == 1
}
