//! SYN cookies: handshakes that cost the listener nothing before the client has proven its address.
//!
//! Comes in: a segment to a limited port while cookies are on. Goes out: a [`Judgement`], and for a SYN the [`Begin`]
//! from which [`Answer`] lays the SYN-ACK out. The cookie is the kernel's own: it puts into the sequence number what the
//! listener would have to remember, and takes the client's ACK for the whole handshake. Whether there is a listener,
//! and whose the segment is, says the kernel as well ([`Sockets`]). Nothing here is kept per SYN.
//!
//! An answer is laid out anew and holds nothing of the SYN's network layer but the addresses: tags stay where they are
//! in front of it, IPv4 options and IPv6 extension headers are left out, as the kernel leaves them out.
//!
//! Sources: RFC 4987 §3.6, RFC 9293 §3.1, RFC 7323 §2 and §3, RFC 1071; `net/ipv4/syncookies.c` for what the lowest
//! bits of a timestamp say.

use crate::{
    bucket::mix,
    layout::{
        CookieTerms, RECENT_NS, RECENTS, Recent, SYN_COOKIES_STRICT, Settings, TERMS_SACK, TERMS_SCALING,
        TERMS_TIMESTAMPS,
    },
    packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, PROTOCOL_TCP, Packet, network_layer},
    verdict::{ACK, FIN, RST, SYN},
};

/// A TCP segment, as far as its connection goes. Host byte order; an IPv4 address lies in the last 32 bits.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// Who says to have sent it.
    pub source: [u64; 2],
    /// To whom.
    pub destination: [u64; 2],
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// The sender's port.
    pub source_port: u16,
    /// Our port.
    pub port: u16,
    /// Data offset and control bits, as they stand in the header.
    pub offset_and_flags: u16,
    /// 4 or 6.
    pub version: u16,
}

/// What a SYN offers.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offer {
    /// Maximum segment size; 0: not told.
    pub mss: u16,
    /// Window scale (RFC 7323 §2.2), or [`NO_SCALE`].
    pub window_scale: u8,
    /// 1: selective acknowledgements (RFC 2018).
    pub sack: u8,
    /// Timestamp value (RFC 7323 §3.2).
    pub timestamp: u32,
    /// 1: there is one.
    pub has_timestamp: u32,
}

/// [`Offer::window_scale`]: none. No real one is larger than 14.
pub const NO_SCALE: u8 = 15;

/// A SYN that is answered.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Begin {
    /// The SYN.
    pub segment: Segment,
    /// Its options.
    pub offer: Offer,
    /// The sequence number of the answer.
    pub cookie: u32,
}

/// What the kernel says of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meeting {
    /// Nobody listens there, or the address is not this host's.
    Nobody,
    /// It knows the connection, be it that it has only begun or has just ended.
    Connection,
    /// A SYN for a listener: the cookie to answer with.
    Cookie(u32),
    /// A SYN for a listener that has no cookie for it now.
    NoCookie,
    /// An ACK that completes a handshake which a cookie has begun.
    Valid,
    /// A segment for a listener that is neither.
    Stray,
}

/// What decides on segments while cookies are on: [`judge`], with what it needs.
pub trait Handshakes {
    /// Decides on the segment whose TCP header is at `start`.
    fn judge<P: Packet>(&mut self, packet: &P, start: usize, settings: &Settings, now_ns: u64) -> Judgement;
}

/// What [`judge`] needs of the kernel and of the maps.
pub trait Sockets {
    /// Whose the segment is; for a SYN that names this maximum segment size, the cookie.
    fn meet(&mut self, segment: &Segment, mss: u16) -> Meeting;
    /// A slot for handshakes that have just been completed.
    fn recent(&mut self, index: u32) -> Option<&mut Recent>;
}

/// What becomes of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Judgement {
    /// Cookies have no say in it.
    Known,
    /// Its sender gets a cookie.
    Answer,
    /// Its sender has proven its address: this is a new connection.
    Accept,
    /// It belongs to nothing, or nobody could answer it.
    Refuse,
    /// The listener can take no connection now.
    Full,
}

/// Decides on the segment whose TCP header is at `start`. It is read into `begin`, which a SYN that is to be answered
/// completes: there is less room on the stack.
#[inline(always)]
pub fn judge<P: Packet, S: Sockets>(
    packet: &P,
    start: usize,
    settings: &Settings,
    now_ns: u64,
    sockets: &mut S,
    begin: &mut Begin,
) -> Judgement {
    let Some(segment) = Segment::read(packet, start) else { return Judgement::Refuse };
    begin.segment = segment;
    let segment = &begin.segment;
    let flags = segment.offset_and_flags;
    if !segment.is_for_one_host() || packet.be16(0).is_none_or(|address| address & GROUP_ADDRESS != 0) {
        // The kernel answers no segment that was sent to many.
        return Judgement::Known;
    }
    if flags & (SYN | ACK | RST | FIN) == SYN {
        if !segment.is_from_one_host() {
            return Judgement::Refuse;
        }
        let offer = Offer::read(packet, start, usize::from(flags >> 12) * 4, settings.zero as usize);
        return match sockets.meet(segment, offer.mss) {
            Meeting::Cookie(cookie) => {
                (begin.offer, begin.cookie) = (offer, cookie);
                Judgement::Answer
            }
            Meeting::NoCookie if settings.flags & SYN_COOKIES_STRICT != 0 => Judgement::Full,
            _ => Judgement::Known,
        };
    }
    match sockets.meet(segment, 0) {
        Meeting::Valid => {
            let (index, flow) = segment.recent(settings.seed);
            if let Some(recent) = sockets.recent(index) {
                *recent = Recent { flow, until_ns: now_ns + RECENT_NS };
            }
            Judgement::Accept
        }
        Meeting::Stray => {
            // What comes right behind the ACK that completes a handshake may be here before the kernel has seen that.
            let (index, flow) = segment.recent(settings.seed);
            let known =
                sockets.recent(index).is_some_and(|recent| recent.flow == flow && recent.until_ns > now_ns);
            if known { Judgement::Known } else { Judgement::Refuse }
        }
        _ => Judgement::Known,
    }
}

/// The lowest bit of a hardware address's first octet (IEEE 802.3 §3.2.3), within its first two.
const GROUP_ADDRESS: u16 = 0x0100;

impl Segment {
    #[inline(always)]
    fn read(packet: &impl Packet, start: usize) -> Option<Self> {
        let (ethertype, network) = network_layer(packet)?;
        let (version, source, destination) = match ethertype {
            ETHERTYPE_IPV4 => {
                let pair = [packet.be32(network + 12)?, packet.be32(network + 16)?].map(u64::from);
                (4, [0, pair[0]], [0, pair[1]])
            }
            ETHERTYPE_IPV6 => {
                let source = [packet.be64(network + 8)?, packet.be64(network + 16)?];
                (6, source, [packet.be64(network + 24)?, packet.be64(network + 32)?])
            }
            _ => return None,
        };
        let ports = packet.be32(start)?;
        Some(Self {
            source,
            destination,
            sequence: packet.be32(start + 4)?,
            acknowledgement: packet.be32(start + 8)?,
            source_port: (ports >> 16) as u16,
            port: ports as u16,
            offset_and_flags: packet.be16(start + 12)?,
            version,
        })
    }

    /// Whether the source can be somebody's: no multicast, no loopback, nothing unspecified (RFC 1122 §3.2.1.3,
    /// RFC 4291 §2.5 and §2.7), no mapped IPv4 address. An answer to these would bypass the kernel, which drops them.
    #[inline(always)]
    fn is_from_one_host(&self) -> bool {
        let [upper, lower] = self.source;
        if self.version == 4 {
            return !matches!(lower >> 24, 0 | 127 | 224..=239) && lower != 0xffff_ffff;
        }
        let embeds_v4 = upper == 0 && (lower <= 1 || lower >> 32 == 0xffff);
        !embeds_v4 && upper >> 56 != 0xff
    }

    /// Whether the destination is neither multicast nor the broadcast address of every link.
    #[inline(always)]
    fn is_for_one_host(&self) -> bool {
        let [upper, lower] = self.destination;
        if self.version == 4 {
            return !matches!(lower >> 24, 224..=239) && lower != 0xffff_ffff;
        }
        upper >> 56 != 0xff
    }

    /// The slot of its connection among those that have just begun, and the connection's mark in it.
    #[inline(always)]
    fn recent(&self, seed: u64) -> (u32, u64) {
        let ports = u64::from(self.source_port) << 16 | u64::from(self.port);
        let mut flow = mix(self.source[1], seed);
        flow = mix(self.destination[1] ^ flow, seed);
        if self.version == 6 {
            flow = mix(self.source[0] ^ flow, seed);
            flow = mix(self.destination[0] ^ flow, seed);
        }
        flow = mix(ports ^ flow, seed);
        (flow as u32 & (RECENTS as u32 - 1), flow)
    }
}

/// TCP options that are looked at. Real SYNs have at most eight, fillers counted; what comes later counts as not there.
const OPTIONS_MAX: u32 = 12;

impl Offer {
    /// RFC 9293 §3.2. What is cut off or contradicts itself ends the list. `zero` is zero.
    #[inline(always)]
    fn read(packet: &impl Packet, start: usize, header_bytes: usize, zero: usize) -> Self {
        let mut offer = Self { window_scale: NO_SCALE, ..Self::default() };
        let mut at = 20;
        for _ in 0..OPTIONS_MAX {
            // The verifier must not know where it is: it would walk every row of options that there can be.
            at = (at | zero) & 63;
            // A last single octet can only be a filler.
            if at + 2 > header_bytes {
                break;
            }
            let Some(kind_and_length) = packet.be16(start + at) else { break };
            let kind = kind_and_length >> 8;
            if kind == 1 {
                at += 1;
                continue;
            }
            let bytes = usize::from(kind_and_length & 0xff);
            if kind == 0 || bytes < 2 || at + bytes > header_bytes {
                break;
            }
            match (kind, bytes) {
                (2, 4) => offer.mss = packet.be16(start + at + 2).unwrap_or(0),
                (3, 3) => {
                    let length_and_scale = packet.be16(start + at + 1).unwrap_or(0);
                    // RFC 7323 §2.3: a larger one counts as 14.
                    let scale = length_and_scale & 0xff;
                    offer.window_scale = if scale > 14 { 14 } else { scale as u8 };
                }
                (4, 2) => offer.sack = 1,
                (8, 10) => {
                    if let Some(timestamp) = packet.be32(start + at + 2) {
                        offer.timestamp = timestamp;
                        offer.has_timestamp = 1;
                    }
                }
                _ => {}
            }
            at += bytes;
        }
        offer
    }
}

/// Words of the longest network header that an answer has.
pub const NETWORK_WORDS_MAX: usize = 10;
/// Words of the longest TCP header that an answer has.
pub const TRANSPORT_WORDS_MAX: usize = 10;

/// A SYN-ACK from the network layer on, in 32-bit words of host byte order. It carries no data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The IP header.
    pub network: [u32; NETWORK_WORDS_MAX],
    /// Words of it.
    pub network_words: usize,
    /// The TCP header.
    pub transport: [u32; TRANSPORT_WORDS_MAX],
    /// Words of it.
    pub transport_words: usize,
}

const HOP_LIMIT: u32 = 64;
const IPV4_WORDS: usize = 5;
const IPV6_WORDS: usize = 10;
/// TCP header and maximum segment size.
const PLAIN_WORDS: usize = 6;
/// The same with timestamps.
const STAMPED_WORDS: usize = 9;
/// The same with window scale.
const SCALED_WORDS: usize = 10;

impl Answer {
    /// Lays the answer out. `now_ns` is the clock that the kernel's timestamps go by.
    #[inline(always)]
    pub fn new(begin: &Begin, terms: &CookieTerms, now_ns: u64) -> Self {
        let Begin { segment, offer, cookie } = begin;
        let mut answer = Self {
            network: [0; NETWORK_WORDS_MAX],
            network_words: if segment.version == 4 { IPV4_WORDS } else { IPV6_WORDS },
            transport: [0; TRANSPORT_WORDS_MAX],
            transport_words: PLAIN_WORDS,
        };
        let mss = if segment.version == 4 { terms.mss_v4 } else { terms.mss_v6 };
        let transport = &mut answer.transport;
        transport[0] = u32::from(segment.port) << 16 | u32::from(segment.source_port);
        transport[1] = *cookie;
        transport[2] = segment.sequence.wrapping_add(1);
        transport[5] = 0x0204_0000 | u32::from(mss);
        // What else was offered is remembered in the timestamp, so without one it can't be granted.
        if offer.has_timestamp != 0 && terms.options & TERMS_TIMESTAMPS != 0 {
            let sack = offer.sack != 0 && terms.options & TERMS_SACK != 0;
            let scaled = offer.window_scale != NO_SCALE && terms.options & TERMS_SCALING != 0;
            let scale = if scaled { offer.window_scale } else { NO_SCALE };
            transport[6] = if sack { 0x0402_080a } else { 0x0101_080a };
            transport[7] = timestamp(now_ns, scale, sack);
            transport[8] = offer.timestamp;
            answer.transport_words = STAMPED_WORDS;
            if scaled {
                transport[9] = 0x0103_0300 | u32::from(terms.window_scale);
                answer.transport_words = SCALED_WORDS;
            }
        }
        answer.transport[3] =
            (answer.transport_words as u32) << 28 | u32::from(SYN | ACK) << 16 | u32::from(terms.window);
        answer.address(segment);
        answer
    }

    /// The network header, and both checksums.
    #[inline(always)]
    fn address(&mut self, segment: &Segment) {
        let tcp_bytes = self.transport_words as u32 * 4;
        let network = &mut self.network;
        // RFC 9293 §3.1: the pseudo-header is the addresses, the protocol and the segment's length.
        let mut sum = u64::from(PROTOCOL_TCP) + u64::from(tcp_bytes);
        if segment.version == 4 {
            network[0] = 0x4500_0000 | (IPV4_WORDS as u32 * 4 + tcp_bytes);
            // Don't fragment.
            network[1] = 0x4000;
            network[2] = HOP_LIMIT << 24 | u32::from(PROTOCOL_TCP) << 16;
            network[3] = segment.destination[1] as u32;
            network[4] = segment.source[1] as u32;
            let addresses = halves(network[3]) + halves(network[4]);
            let header = halves(network[0]) + halves(network[1]) + halves(network[2]) + addresses;
            network[2] |= folded(header);
            sum += addresses;
        } else {
            network[0] = 0x6000_0000;
            network[1] = tcp_bytes << 16 | u32::from(PROTOCOL_TCP) << 8 | HOP_LIMIT;
            let [from, to] = [segment.destination, segment.source];
            network[2] = (from[0] >> 32) as u32;
            network[3] = from[0] as u32;
            network[4] = (from[1] >> 32) as u32;
            network[5] = from[1] as u32;
            network[6] = (to[0] >> 32) as u32;
            network[7] = to[0] as u32;
            network[8] = (to[1] >> 32) as u32;
            network[9] = to[1] as u32;
            for word in &network[2..] {
                sum += halves(*word);
            }
        }
        // Words that are not sent are zero.
        for word in &self.transport {
            sum += halves(*word);
        }
        self.transport[4] = folded(sum) << 16;
    }

    /// Its length.
    #[inline(always)]
    pub const fn bytes(&self) -> usize {
        (self.network_words + self.transport_words) * 4
    }
}

/// The timestamp of a SYN-ACK: milliseconds whose six lowest bits say what was granted, never ahead of the clock.
#[inline(always)]
fn timestamp(now_ns: u64, window_scale: u8, sack: bool) -> u32 {
    const SACK: u64 = 1 << 4;
    const OPTIONS: u64 = 63;
    let now_ms = now_ns / 1_000_000;
    let options = u64::from(window_scale) | if sack { SACK } else { 0 };
    let stamp = now_ms & !OPTIONS | options;
    (if stamp > now_ms { stamp.wrapping_sub(OPTIONS + 1) } else { stamp }) as u32
}

/// A word's two halves, added: a part of the Internet checksum (RFC 1071).
#[inline(always)]
const fn halves(word: u32) -> u64 {
    (word >> 16) as u64 + (word & 0xffff) as u64
}

/// The Internet checksum of a sum of fewer than 2^16 halves.
#[inline(always)]
const fn folded(sum: u64) -> u32 {
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    !(sum as u32) & 0xffff
}

const _: () = {
    assert!(RECENTS.is_power_of_two());
    assert!(size_of::<Segment>() == 48 && size_of::<Offer>() == 12 && size_of::<Begin>() == 64);
};
