//! What lies in the filter's maps: `repr(C)`, without padding, shared by the program and user space.
//!
//! Times are nanoseconds of `CLOCK_MONOTONIC`. Addresses are in network byte order wherever they are keys, so that
//! a key is the address's own octets. Nothing here is logic; the sizes are checked when this file compiles.

use crate::class::TOUCHED_WORDS;

/// Entries of [`CpuState::counts`]; a power of two, so that an index can be masked instead of checked.
pub const REASONS_MAX: usize = 32;

/// Columns of [`CpuState::counts`], of which each [`crate::Verdict`] has one; a power of two.
pub const VERDICTS_MAX: usize = 4;

/// User space that has not stamped the clock for so long is taken for dead: the limits go off, blocks stay.
pub const HEARTBEAT_TIMEOUT_NS: u64 = 5_000_000_000;

/// Handshakes that SYN cookies have completed are kept in mind for so long: until the kernel has seen the ACK as well.
pub const RECENT_NS: u64 = 1_000_000_000;

/// Slots of `RECENTS`; a power of two. A slot that two handshakes share costs one of them a retransmission.
pub const RECENTS: usize = 16_384;
/// One interval of a pace of bytes is for so many of them: nanoseconds per byte would be too coarse.
pub const BYTES_PER_INTERVAL: u64 = 1024;

/// Drops of a /24 as a whole are charged to its entry once in so many times, all of them at once; a power of two.
pub const WHOLE_DROPS_PER_CHARGE: u64 = 1024;

/// Bytes of the ring buffer of samples: some 5 000 of them.
pub const EVENTS_BYTES: usize = 1 << 18;

/// Words of [`Orders::ports`].
pub const PORT_WORDS: usize = 65_536 / 64;

/// Where a port's bit lies in [`Orders::ports`]: the word's index and the bit's number.
#[inline(always)]
pub const fn port_bit(port: u16) -> (u32, u32) {
    ((port >> 6) as u32, (port & 63) as u32)
}

/// Why, until when and since when a source or a prefix is blocked or throttled. Value of `BANS4`, `BANS6`, `BLOCK4`, `BLOCK6`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ban {
    /// The block is over from this time on; 0: it never ends (the configuration's own blocks).
    pub expires_at_ns: u64,
    /// When the offence was seen that led to the block.
    pub offence_at_ns: u64,
    /// When the program dropped its first packet; 0: not yet. Written by the program.
    pub first_drop_at_ns: u64,
    /// Packets dropped, approximately: CPUs add without a lock. Written by the program.
    pub drops: u64,
    /// Of a throttle: time that one packet uses up.
    pub interval_ns: u64,
    /// Of a throttle: theoretical arrival time of the next packet. Written by the program.
    pub arrival_ns: u64,
    /// How many blocks this source has earned within the escalation's memory.
    pub strikes: u16,
    /// What it did: a [`BanKind`].
    pub kind: u8,
    /// Who decided: a [`BanOrigin`], with a feed's number in its lower bits.
    pub origin: u8,
    /// The prefix's own length in bits; a look-up that finds an expired prefix goes on above it.
    pub prefix_bits: u8,
    /// [`DROP`] or [`THROTTLE`].
    pub action: u8,
    /// Of a throttle: packets that may come at once; at least one.
    pub burst: u16,
}

/// [`Ban::action`]: every packet is dropped.
pub const DROP: u8 = 0;
/// [`Ban::action`]: packets past the entry's own rate are dropped.
pub const THROTTLE: u8 = 1;

impl Ban {
    /// The feed that decided, by its number.
    pub const fn feed(&self) -> Option<u8> {
        if self.origin & FEED_ORIGIN == 0 { None } else { Some(self.origin & !FEED_ORIGIN) }
    }

    /// How fast packets may come under a throttle.
    #[inline(always)]
    pub const fn pace(&self) -> Pace {
        let interval_ns = self.interval_ns;
        Pace { interval_ns, tolerance_ns: interval_ns * (self.burst as u64).saturating_sub(1) }
    }
}

/// What a blocked source did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum BanKind {
    /// An operator or the configuration said so.
    #[default]
    Manual = 0,
    /// Too many 401 answers.
    Unauthorized = 1,
    /// Too many 403 answers.
    Forbidden = 2,
    /// Too many 429 answers.
    Limited = 3,
    /// Requests that were not HTTP.
    Malformed = 4,
    /// Too many 404 answers.
    NotFound = 5,
    /// Requests that the filters call an attack.
    Attack = 6,
    /// A block list that others keep holds it.
    Listed = 32,
}

/// [`BanOrigin::Feed`]: this bit, and the feed's number below it.
pub const FEED_ORIGIN: u8 = 0x80;

/// Who decided on a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum BanOrigin {
    /// `portcullis bans add`
    #[default]
    Operator = 0,
    /// `[escalation]`
    Escalation = 1,
    /// `prefilter.block`
    Configuration = 2,
    /// `[prefilter.feeds]`; which one stands in the lower bits.
    Feed = FEED_ORIGIN,
}

impl BanKind {
    /// Every kind, in the order of its numbers.
    pub const ALL: [Self; 8] = [
        Self::Manual,
        Self::Unauthorized,
        Self::Forbidden,
        Self::Limited,
        Self::Malformed,
        Self::NotFound,
        Self::Attack,
        Self::Listed,
    ];

    /// The kind with this number; a number from a later version reads as `Manual`.
    pub fn from_u8(number: u8) -> Self {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number).unwrap_or_default()
    }

    /// Its stable name in metrics, JSON and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Limited => "limited",
            Self::Malformed => "malformed",
            Self::NotFound => "not_found",
            Self::Attack => "attack",
            Self::Listed => "listed",
        }
    }
}

impl BanOrigin {
    /// Every origin, in the order of its numbers.
    pub const ALL: [Self; 4] = [Self::Operator, Self::Escalation, Self::Configuration, Self::Feed];

    /// The origin with this number; a number from a later version reads as `Operator`.
    pub fn from_u8(number: u8) -> Self {
        let number = if number & FEED_ORIGIN == 0 { number } else { FEED_ORIGIN };
        Self::ALL.into_iter().find(|origin| *origin as u8 == number).unwrap_or_default()
    }

    /// Its stable name in metrics, JSON and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Escalation => "escalation",
            Self::Configuration => "configuration",
            Self::Feed => "feed",
        }
    }
}

/// Key of `ALLOW4` and `BLOCK4`. Eight octets of address, the last four zero: the kernel puts the value right
/// behind them, and a [`Ban`] wants to lie on an 8-byte boundary.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PrefixKey4 {
    /// Bits that must match, at most 32.
    pub prefix_bits: u32,
    /// The address in network byte order, then zero.
    pub address: [u32; 2],
}

/// Key of `ALLOW6` and `BLOCK6`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PrefixKey6 {
    /// Bits that must match, at most 128.
    pub prefix_bits: u32,
    /// The address in network byte order.
    pub address: [u32; 4],
}

/// A rate as the limiter wants it: GCRA with one arrival time per bucket.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    /// Time that one packet uses up; 0: no limit.
    pub interval_ns: u64,
    /// How far ahead of the clock a source may run: (burst - 1) × interval.
    pub tolerance_ns: u64,
}

/// All that user space tells the program beside its tables, in one value, so that a packet costs one look-up. Value of
/// `ORDERS`. User space writes it word by word, while the program reads.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orders {
    /// When user space last said that it lives.
    pub heartbeat_ns: u64,
    /// Which of the settings hold, in its lowest bit.
    pub active: u64,
    /// [`LISTED4`] | [`LISTED6`]: the feeds list anything; without it the look-up is spared.
    pub listed: u64,
    /// What `FRONT4` and `FRONT6` claim holds until then.
    pub claimed_until_ns: u64,
    /// Lengths of the prefixes that `FRONT6` claims, a byte each, the longest lowest; zero behind the last.
    pub claimed_lengths6: u64,
    /// `FRONT4` claims in `LINES_MAX` lines shifted by so much.
    pub claimed_shift4: u64,
    /// As `claimed_shift4`, of `FRONT6`.
    pub claimed_shift6: u64,
    /// User space writes those that do not hold, then flips `active`.
    pub settings: [Settings; 2],
    /// One bit per destination port: the limits apply.
    pub ports: [u64; PORT_WORDS],
    /// Which IPv4 /16s and hashed IPv6 /32s rules touch: see [`crate::class`].
    pub touched: [u64; TOUCHED_WORDS],
}

impl Orders {
    /// The settings that hold. User space writes the others before it flips, so a program that still reads these reads
    /// them whole.
    #[inline(always)]
    #[expect(
        clippy::indexing_slicing,
        reason = "one bit numbers two; a branch would double the verifier's ways"
    )]
    pub const fn holding(&self) -> &Settings {
        &self.settings[self.active as usize & 1]
    }
}

/// [`Orders::listed`], of IPv4.
pub const LISTED4: u64 = 1;
/// [`Orders::listed`], of IPv6.
pub const LISTED6: u64 = 2;

/// What the program goes by.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// [`MODE_OFF`] or [`MODE_ON`].
    pub mode: u32,
    /// [`DRY_RUN`] | [`DROP_MALFORMED`] | [`HAS_ALLOW4`] | [`HAS_ALLOW6`].
    pub flags: u32,
    /// Cells of the limiter minus one; their number is a power of two.
    pub cell_mask: u32,
    /// Bits of an IPv4 address that make a source.
    pub source_mask_v4: u32,
    /// Bits of an IPv6 address's upper half that make a source.
    pub source_mask_v6: u64,
    /// Spreads sources over the cells; random per start of the maps, so that nobody can aim at another's cell.
    pub seed: u64,
    /// Packets per source.
    pub packets: Pace,
    /// TCP SYNs per source.
    pub syns: Pace,
    /// Bytes per source. The interval is for [`BYTES_PER_INTERVAL`] of them, the tolerance for the whole burst.
    pub bytes: Pace,
    /// Packets per network.
    pub network_packets: Pace,
    /// TCP SYNs per network.
    pub network_syns: Pace,
    /// Bytes per network, as for a source.
    pub network_bytes: Pace,
    /// Samples of dropped packets per CPU; interval 0: none.
    pub samples: Pace,
    /// What answers with SYN cookies say.
    pub cookies: CookieTerms,
    /// What `net.ipv4.tcp_syncookies` was before user space changed it, plus one; 0: it has not. The program does not
    /// read it; it stands here so that it outlives the process that has to put it back.
    pub syncookies_before: u32,
    /// Zero, which the verifier does not know.
    pub zero: u32,
}

/// What a SYN-ACK says of this host: it has to be what the kernel will go by once the handshake is complete.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CookieTerms {
    /// Maximum segment size over IPv4.
    pub mss_v4: u16,
    /// Maximum segment size over IPv6.
    pub mss_v6: u16,
    /// The first window.
    pub window: u16,
    /// By how many bits later windows are shifted.
    pub window_scale: u8,
    /// [`TERMS_TIMESTAMPS`] | [`TERMS_SACK`] | [`TERMS_SCALING`].
    pub options: u8,
}

/// [`CookieTerms::options`]: timestamps, and what they can remember.
pub const TERMS_TIMESTAMPS: u8 = 1;
/// [`CookieTerms::options`]: selective acknowledgements.
pub const TERMS_SACK: u8 = 2;
/// [`CookieTerms::options`]: window scaling.
pub const TERMS_SCALING: u8 = 4;

/// [`Settings::mode`]: everything passes, nothing is looked at.
pub const MODE_OFF: u32 = 0;
/// [`Settings::mode`]: the filter filters.
pub const MODE_ON: u32 = 1;
/// [`Settings::flags`]: count and sample drops, but pass the packets.
pub const DRY_RUN: u32 = 1;
/// [`Settings::flags`]: impossible packets are dropped.
pub const DROP_MALFORMED: u32 = 2;

/// [`Settings::flags`]: `ALLOW4` has entries; without it the look-up is spared.
pub const HAS_ALLOW4: u32 = 4;
/// [`Settings::flags`]: `ALLOW6` has entries; without it the look-up is spared.
pub const HAS_ALLOW6: u32 = 8;

/// [`Settings::flags`]: sources of `KNOWN` have buckets of their own.
pub const USE_KNOWN: u32 = 1 << 8;

/// Entries of `KNOWN`.
pub const KNOWN_MAX: usize = 65_536;

/// [`Settings::flags`]: SYNs to limited ports are answered with cookies.
pub const SYN_COOKIES: u32 = 1 << 16;
/// [`Settings::flags`]: the kernel has a cookie for every SYN that its listener has room for.
pub const SYN_COOKIES_STRICT: u32 = 1 << 17;

/// A connection whose handshake a cookie has completed. Value of `RECENTS`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recent {
    /// Which: a seeded hash of addresses and ports.
    pub flow: u64,
    /// Until when the kernel may not know it yet.
    pub until_ns: u64,
}

/// Bits of an IPv4 address that make a network.
pub const NETWORK_MASK_V4: u32 = u32::MAX << 8;
/// Bits of an IPv6 address's upper half that make a network.
pub const NETWORK_MASK_V6: u64 = u64::MAX << 16;

/// One cell of the limiter: until when its sources have used up their rate. In cells of bytes the second
/// is not used. Two CPUs may write it at once; one of
/// the two packets is then not counted, which is cheaper than a lock and forgives, never punishes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cell {
    /// Theoretical arrival time of the next packet, or of the next byte.
    pub packets_ns: u64,
    /// Theoretical arrival time of the next SYN.
    pub syns_ns: u64,
}

/// Packets and bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Their bytes, link-layer header included.
    pub bytes: u64,
}

/// Everything that a CPU keeps for itself, in one value so that a packet costs one look-up.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuState {
    /// By reason, then by verdict. A dry run counts what it would drop or answer as passed.
    pub counts: [[Count; VERDICTS_MAX]; REASONS_MAX],
    /// Theoretical arrival time of the next sample.
    pub samples_ns: u64,
    /// Samples that found the ring buffer full.
    pub samples_lost: u64,
    /// Drops of whole /24s.
    pub whole_drops: u64,
    /// SYNs to limited ports, whatever became of them.
    pub syns: u64,
    /// Drops that had to be looked up in the tables, though a claim could have spared that.
    pub unclaimed_drops: u64,
    /// The clock, as it was read last.
    pub tick: Tick,
    /// The packet at hand.
    pub seen: Seen,
}

/// What a sample tells about a packet. It lies in memory and is written as it is found: returned instead, it would be
/// handled at each of the verdict's many ends.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Where the packet says it comes from: the upper and the lower half, host byte order. IPv4 is `::ffff:a.b.c.d`.
    pub source: [u64; 2],
    /// [`SEEN_SOURCE`], and the destination port below it; 0 when the packet was not read that far.
    pub so_far: u64,
}

/// [`Seen::so_far`]: there is a source.
pub const SEEN_SOURCE: u64 = 1 << 16;

/// The coarse clock goes on with the tick, so it is read once in each; asking the kernel costs as much as half a packet.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tick {
    /// Number of the tick.
    pub jiffies: u64,
    /// `CLOCK_MONOTONIC` then, to the tick.
    pub now_ns: u64,
}

/// A dropped packet, or one that a dry run would have dropped: what the ring buffer `EVENTS` holds.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// When.
    pub at_ns: u64,
    /// Source address in network byte order; IPv4 as `::ffff:a.b.c.d`.
    pub source: [u64; 2],
    /// Bytes of the packet.
    pub bytes: u32,
    /// Interface it came in on.
    pub ifindex: u32,
    /// Destination port, host byte order; 0 when the packet was not read that far.
    pub port: u16,
    /// A [`crate::Reason`].
    pub reason: u8,
    /// 0 passed (dry run), 1 dropped.
    pub verdict: u8,
    /// Always zero.
    pub reserved: u32,
}

/// What led to a block, for `bans why`. The program never reads it; it lies in a map so that it outlives the
/// process that wrote it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note {
    /// The route, UTF-8, zero-filled, cut to fit.
    pub route: [u8; 40],
    /// The id of the request that crossed the line, zero-filled.
    pub request_id: [u8; 40],
    /// Wall clock of the offence, seconds since the epoch.
    pub at_unix_s: u64,
    /// Offences counted when the line was crossed.
    pub offences: u32,
    /// Always zero.
    pub reserved: u32,
}

/// What the escalation remembers of a source whose block may be long over. The program never reads it; it lies in a map
/// so that a restart wipes nobody's slate.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Strikes {
    /// When the last block ends or has ended.
    pub until_ns: u64,
    /// Blocks within the escalation's memory.
    pub strikes: u16,
    /// Those of them that only slowed the source down.
    pub throttles: u16,
    /// Always zero.
    pub reserved: u32,
}

/// Entries of `STRIKES`.
pub const STRIKES_MAX: usize = 65_536;

/// Key of `NOTES` and `STRIKES`: a prefix as it was blocked.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NoteKey {
    /// The network address in network byte order; IPv4 as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
    /// Bits of the prefix in that form: IPv4's count from 96.
    pub prefix_bits: u32,
}

const _: () = {
    assert!(size_of::<Ban>() == 56 && align_of::<Ban>() == 8);
    assert!(size_of::<PrefixKey4>() == 12 && size_of::<PrefixKey6>() == 20);
    assert!(size_of::<Pace>() == 16);
    assert!(size_of::<Settings>() == 160);
    assert!(size_of::<Orders>() == 56 + 2 * 160 + 8192 + 16_384);
    assert!(size_of::<CookieTerms>() == 8 && size_of::<Recent>() == 16);
    assert!(size_of::<Cell>() == 16);
    assert!(size_of::<CpuState>() == REASONS_MAX * VERDICTS_MAX * 16 + 80);
    assert!(size_of::<Sample>() == 40);
    assert!(size_of::<Note>() == 96 && size_of::<NoteKey>() == 20 && size_of::<Strikes>() == 16);
    assert!(REASONS_MAX.is_power_of_two() && VERDICTS_MAX.is_power_of_two());
    assert!(BYTES_PER_INTERVAL.is_power_of_two() && WHOLE_DROPS_PER_CHARGE.is_power_of_two());
    // A per-CPU value must fit into a per-CPU allocation unit.
    assert!(size_of::<CpuState>() <= 32 << 10);
};
