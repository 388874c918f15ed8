//! Who may send, and how much: allow prefixes, blocks, throttles, limits.
//!
//! Comes in: a source, and for the limits its packet. Goes out: a [`Reason`], or none where the next check decides.
//! The class of a /24 and the guard of a /48 spare most packets the tables. It bans nobody.

use crate::{
    bucket::{self, Bucket},
    class::{
        Class, GUARD_ALLOW, GUARD_RULE, GUARD_WIDE, class_index, guard_at, guard_entries, touched4, touched6,
    },
    front::{self, OF_SOURCE},
    layout::{
        Ban, DROP_MALFORMED, HAS_ALLOW4, HAS_ALLOW6, HEARTBEAT_TIMEOUT_NS, NETWORK_MASK_V4, NETWORK_MASK_V6,
        Pace, PrefixKey4, PrefixKey6, Settings, THROTTLE, USE_KNOWN, WHOLE_DROPS_PER_CHARGE,
    },
    packet::Packet,
    syn_cookie::Judgement,
    verdict::{Clock, Reason, Tables},
};

/// How many prefixes that let a packet go are looked past for a wider one that does not: expired ones and throttles. A
/// janitor frees expired entries, so deeper nests of them do not last; the bound is the verifier's and the attacker's.
const PREFIXES_PASSED_MAX: u32 = 4;

/// What a packet is judged by.
pub(crate) struct Rules<'a, T, C> {
    pub(crate) settings: &'a Settings,
    pub(crate) tables: &'a mut T,
    pub(crate) clock: &'a C,
    pub(crate) unproven: Unproven,
}

/// A segment to a limited port while SYN cookies are on.
#[derive(Clone, Copy, Default)]
pub(crate) struct Unproven {
    /// Where its TCP header is; 0: there is none.
    pub(crate) start: usize,
    /// Whose buckets.
    pub(crate) payer: Payer,
}

/// Whose buckets a packet is charged to.
#[derive(Clone, Copy, Default)]
pub(crate) struct Payer {
    /// The masked address.
    source: u64,
    /// The masked address of all that is around it; never less than the source.
    network: u64,
}

impl<T: Tables, C: Clock> Rules<'_, T, C> {
    /// Allow wins over every block; the exact block is looked up before the prefixes.
    #[inline(always)]
    pub(crate) fn source4(&mut self, source: u32) -> Option<Reason> {
        let whole_key = || PrefixKey4 { prefix_bits: 32, address: [source.to_be(), 0] };
        let class = if self.touched(touched4(source)) {
            Class::of(self.tables.class_word(class_index(source)), source)
        } else {
            Class::Clean
        };
        match class {
            Class::Drop => {
                self.charge_whole_drop(whole_key);
                return Some(Reason::BlockedPrefix);
            }
            Class::Any if self.settings.flags & HAS_ALLOW4 != 0 && self.tables.allowed4(&whole_key()) => {
                return Some(Reason::Allowed);
            }
            Class::Clean | Class::Deeper | Class::Any => {}
        }
        // What feeds list is not in the classes: they are swapped as a whole.
        if self.tables.listed4(source) {
            return Some(Reason::BlockedFeed);
        }
        if class == Class::Clean {
            return None;
        }
        let masked = source & self.settings.source_mask_v4;
        let drops = match self.claimed4(masked) {
            Claimed::Counted(reason) => return Some(reason),
            Claimed::Full(drops) => drops,
        };
        if let Some(ban) = self.tables.ban4(masked.to_be())
            && let Some(reason) = judge(ban, self.clock, Reason::BlockedSource, drops)
        {
            self.note_unclaimed(drops);
            return Some(reason);
        }
        let mut key = whole_key();
        for _ in 0..=PREFIXES_PASSED_MAX {
            let ban = self.tables.block4(&key)?;
            if let Some(reason) = judge(ban, self.clock, Reason::BlockedPrefix, 1) {
                return Some(reason);
            }
            key.prefix_bits = u32::from(ban.prefix_bits).checked_sub(1)?;
        }
        None
    }

    /// As [`Self::source4`].
    #[inline(always)]
    pub(crate) fn source6(&mut self, upper: u64, lower: u64) -> Option<Reason> {
        let guard = self.guard6(upper);
        let word = |half: u64, shift: u32| ((half >> shift) as u32).to_be();
        let address = || [word(upper, 32), word(upper, 0), word(lower, 32), word(lower, 0)];
        let whole_key = || PrefixKey6 { prefix_bits: 128, address: address() };
        if guard & GUARD_ALLOW != 0
            && self.settings.flags & HAS_ALLOW6 != 0
            && self.tables.allowed6(&whole_key())
        {
            return Some(Reason::Allowed);
        }
        if self.tables.listed6(upper, lower) {
            return Some(Reason::BlockedFeed);
        }
        if guard & GUARD_RULE == 0 {
            return None;
        }
        let drops = match self.claimed6(upper) {
            Claimed::Counted(reason) => return Some(reason),
            Claimed::Full(drops) => drops,
        };
        if let Some(ban) = self.tables.ban6((upper & self.settings.source_mask_v6).to_be())
            && let Some(reason) = judge(ban, self.clock, Reason::BlockedSource, drops)
        {
            self.note_unclaimed(drops);
            return Some(reason);
        }
        let mut key = whole_key();
        for _ in 0..=PREFIXES_PASSED_MAX {
            let ban = self.tables.block6(&key)?;
            if let Some(reason) = judge(ban, self.clock, Reason::BlockedPrefix, drops) {
                self.note_unclaimed(drops);
                return Some(reason);
            }
            key.prefix_bits = u32::from(ban.prefix_bits).checked_sub(1)?;
        }
        None
    }

    /// Whether a block of this source is claimed.
    #[inline(always)]
    fn claimed4(&mut self, source: u32) -> Claimed {
        if self.clock.now_ns() < self.tables.claimed_until_ns() {
            let claim = front::claim4(source, self.settings.seed, self.tables.claimed_shift4());
            if let Some(slot) = self.tables.front4(claim.line).and_then(|line| front::find4(line, claim))
                && let Some(drops) = self.tables.front4_drops(claim.line, slot)
            {
                return count_in(drops, Reason::BlockedSource);
            }
        }
        Claimed::Full(1)
    }

    /// Whether a block of this /64, or of a prefix around it, is claimed.
    #[inline(always)]
    fn claimed6(&mut self, upper: u64) -> Claimed {
        if self.clock.now_ns() >= self.tables.claimed_until_ns() {
            return Claimed::Full(1);
        }
        let mut lengths = self.tables.claimed_lengths6();
        for _ in 0..front::LENGTHS6_MAX {
            let prefix_bits = lengths as u8;
            if prefix_bits == 0 {
                break;
            }
            lengths >>= 8;
            let prefix = upper & u64::MAX << (64_u32.wrapping_sub(u32::from(prefix_bits)) & 63);
            let claim = front::claim6(prefix, prefix_bits, self.settings.seed, self.tables.claimed_shift6());
            let Some(line) = self.tables.front6(claim.line) else { break };
            if let Some(slot) = front::find6(line, claim) {
                let of_source = line.get((slot & 7) as usize).is_some_and(|slot| slot & OF_SOURCE != 0);
                let reason = if of_source { Reason::BlockedSource } else { Reason::BlockedPrefix };
                if let Some(drops) = self.tables.front6_drops(claim.line, slot) {
                    return count_in(drops, reason);
                }
            }
        }
        Claimed::Full(1)
    }

    /// Tells user space that the tables are asked for what could be claimed. Several at once were counted in a slot.
    #[inline(always)]
    fn note_unclaimed(&mut self, drops: u64) {
        if drops == 1 {
            let unclaimed = self.tables.unclaimed_drops();
            *unclaimed = unclaimed.wrapping_add(1);
        }
    }

    /// The look-up that a whole /24 spares is made now and then, so that its entry does not seem idle.
    #[inline(always)]
    fn charge_whole_drop(&mut self, key: impl Fn() -> PrefixKey4) {
        let drops = self.tables.whole_drops();
        *drops = drops.wrapping_add(1);
        if *drops & (WHOLE_DROPS_PER_CHARGE - 1) != 0 {
            return;
        }
        if let Some(ban) = self.tables.block4(&key()) {
            note_drops(ban, self.clock, WHOLE_DROPS_PER_CHARGE);
        }
    }

    #[inline(always)]
    fn touched(&self, (word, bit): (u32, u32)) -> bool {
        self.tables.touched_word(word) >> bit & 1 == 1
    }

    /// Whether a rule may hold this address, and whether an allow prefix may.
    #[inline(always)]
    fn guard6(&self, upper: u64) -> u64 {
        if !self.touched(touched6(upper)) {
            return 0;
        }
        let [of_48, of_32] = guard_entries(upper).map(|entry| {
            let (word, shift) = guard_at(entry);
            self.tables.guard_word(word) >> shift
        });
        of_48 | of_32 | self.tables.guard_word(GUARD_WIDE)
    }

    /// Who pays for a packet from this address.
    #[inline(always)]
    pub(crate) fn payer4(&self, source: u32) -> Payer {
        let source = source & self.settings.source_mask_v4;
        Payer { source: source.into(), network: (source & NETWORK_MASK_V4).into() }
    }

    /// Who pays for a packet from this address.
    #[inline(always)]
    pub(crate) fn payer6(&self, upper: u64) -> Payer {
        let source = upper & self.settings.source_mask_v6;
        Payer { source, network: source & NETWORK_MASK_V6 }
    }

    /// The limits of one packet to a limited port. They need living user space: it alone can tell when they are
    /// wrong.
    #[inline(always)]
    pub(crate) fn limits<P: Packet>(&mut self, packet: &P, payer: Payer, syn: bool) -> Reason {
        let settings = self.settings;
        let syns = if syn { settings.syns.interval_ns } else { 0 };
        let network_syns = if syn { settings.network_syns.interval_ns } else { 0 };
        let of_source = syns | settings.packets.interval_ns;
        let of_network = network_syns | settings.network_packets.interval_ns;
        let of_bytes = settings.bytes.interval_ns | settings.network_bytes.interval_ns;
        if of_source | of_network | of_bytes == 0 {
            return Reason::NotLimited;
        }
        let now_ns = self.clock.now_ns();
        if !self.user_space_lives(now_ns) {
            return Reason::NotLimited;
        }
        let paces = Paces { packets: settings.packets, syns: settings.syns, syn };
        let own = self.charge_known(payer.source, &paces, now_ns);
        let refused = match own {
            Some(reason) => Some(reason).filter(|reason| reason.refuses()),
            None if of_source != 0 => self.charge(Bucket::Source, payer.source, &paces, now_ns),
            None => None,
        };
        if let Some(reason) = refused {
            return reason;
        }
        if of_bytes != 0
            && self.too_many_bytes(Bucket::SourceBytes, payer.source, settings.bytes, packet, now_ns)
        {
            return Reason::ByteRate;
        }
        if own.is_some() {
            return Reason::WithinLimits;
        }
        if of_network != 0 {
            let paces = Paces { packets: settings.network_packets, syns: settings.network_syns, syn };
            if self.charge(Bucket::Network, payer.network, &paces, now_ns).is_some() {
                return Reason::NetworkRate;
            }
        }
        if of_bytes != 0
            && self.too_many_bytes(
                Bucket::NetworkBytes,
                payer.network,
                settings.network_bytes,
                packet,
                now_ns,
            )
        {
            return Reason::NetworkRate;
        }
        Reason::WithinLimits
    }

    #[inline(always)]
    fn user_space_lives(&self, now_ns: u64) -> bool {
        now_ns <= self.tables.heartbeat_ns().wrapping_add(HEARTBEAT_TIMEOUT_NS)
    }

    /// A known source has a bucket of its own: what strangers do, whoever they say they are, does not empty it, and what
    /// is sent in its name gets no further than it would itself. `None`: it is a stranger.
    #[inline(always)]
    fn charge_known(&mut self, source: u64, paces: &Paces, now_ns: u64) -> Option<Reason> {
        if self.settings.flags & USE_KNOWN == 0 {
            return None;
        }
        let cell = self.tables.known(source)?;
        let Paces { packets, syns, syn } = *paces;
        // One row is enough, as for a throttle.
        if syn && syns.interval_ns != 0 {
            let mut unused_ns = cell.syns_ns;
            if !bucket::admit(&mut cell.syns_ns, &mut unused_ns, now_ns, syns) {
                return Some(Reason::SynRate);
            }
        }
        if packets.interval_ns != 0 {
            let mut unused_ns = cell.packets_ns;
            if !bucket::admit(&mut cell.packets_ns, &mut unused_ns, now_ns, packets) {
                return Some(Reason::PacketRate);
            }
        }
        Some(Reason::WithinLimits)
    }

    /// While SYN cookies are on, only who has proven its address uses up a source's SYNs: the address of a SYN can be
    /// forged, and the limit would shut out its owner.
    #[inline(always)]
    pub(crate) fn with_cookies<P: Packet>(&mut self, packet: &P) -> Reason {
        let Unproven { start, payer } = self.unproven;
        let now_ns = self.clock.now_ns();
        let judgement = if self.user_space_lives(now_ns) {
            self.tables.judge(packet, start, self.settings, now_ns)
        } else {
            Judgement::Known
        };
        match judgement {
            Judgement::Answer => return Reason::SynCookie,
            Judgement::Refuse => return Reason::CookieRefused,
            Judgement::Full => return Reason::ListenerFull,
            Judgement::Known | Judgement::Accept => {}
        }
        let is_proven = judgement as u32 == Judgement::Accept as u32;
        let reason = self.limits(packet, payer, is_proven);
        if is_proven && !reason.refuses() { Reason::CookieAccepted } else { reason }
    }

    #[inline(always)]
    fn charge(&mut self, bucket: Bucket, key: u64, paces: &Paces, now_ns: u64) -> Option<Reason> {
        let (first, second) = bucket::cells_of(bucket, key, self.settings.seed, self.settings.cell_mask);
        let (first, second) = self.tables.cells(first, second)?;
        let Paces { packets, syns, syn } = *paces;
        if syn
            && syns.interval_ns != 0
            && !bucket::admit(&mut first.syns_ns, &mut second.syns_ns, now_ns, syns)
        {
            return Some(Reason::SynRate);
        }
        if packets.interval_ns != 0
            && !bucket::admit(&mut first.packets_ns, &mut second.packets_ns, now_ns, packets)
        {
            return Some(Reason::PacketRate);
        }
        None
    }

    #[inline(always)]
    fn too_many_bytes<P: Packet>(
        &mut self,
        bucket: Bucket,
        key: u64,
        pace: Pace,
        packet: &P,
        now_ns: u64,
    ) -> bool {
        if pace.interval_ns == 0 {
            return false;
        }
        let (first, second) = bucket::cells_of(bucket, key, self.settings.seed, self.settings.cell_mask);
        let Some((first, second)) = self.tables.cells(first, second) else { return false };
        let cost_ns = bucket::bytes_cost_ns(packet.bytes(), pace);
        !bucket::charge(&mut first.packets_ns, &mut second.packets_ns, now_ns, cost_ns, pace.tolerance_ns)
    }

    #[inline(always)]
    pub(crate) fn drop_malformed(&self) -> bool {
        self.settings.flags & DROP_MALFORMED != 0
    }

    /// A packet that can't be read: refused, or passed as not understood where the configuration says so.
    #[inline(always)]
    pub(crate) fn too_short(&self) -> Reason {
        if self.drop_malformed() { Reason::BadLength } else { Reason::NotLimited }
    }
}

/// What a bucket of packets and SYNs admits, and whether the packet is a SYN.
struct Paces {
    packets: Pace,
    syns: Pace,
    syn: bool,
}

/// What becomes of a packet whose block may be claimed.
enum Claimed {
    /// Refused, and counted in the slot.
    Counted(Reason),
    /// The table has to be asked; should it refuse, then so many drops are to be charged.
    Full(u64),
}

#[inline(always)]
fn count_in(drops: &mut u8, reason: Reason) -> Claimed {
    let before = *drops;
    // The byte alone is stored: what user space has taken back meanwhile stays taken back.
    *drops = before.wrapping_add(1);
    if before == u8::MAX { Claimed::Full(1 << u8::BITS) } else { Claimed::Counted(reason) }
}

/// Whether the entry refuses this packet; if so, `drops` are noted in it. An expired one does not, nor does a throttle
/// that has room.
#[inline(always)]
fn judge(ban: &mut Ban, clock: &impl Clock, blocked: Reason, drops: u64) -> Option<Reason> {
    let mut reason = blocked;
    if ban.expires_at_ns != 0 || ban.action == THROTTLE {
        let now_ns = clock.now_ns();
        if ban.expires_at_ns != 0 && ban.expires_at_ns <= now_ns {
            return None;
        }
        if ban.action == THROTTLE {
            // One row is enough: the entry is its alone.
            let (pace, mut unused_ns) = (ban.pace(), ban.arrival_ns);
            if bucket::admit(&mut ban.arrival_ns, &mut unused_ns, now_ns, pace) {
                return None;
            }
            reason = Reason::Throttled;
        }
    }
    note_drops(ban, clock, drops);
    Some(reason)
}

#[inline(always)]
fn note_drops(ban: &mut Ban, clock: &impl Clock, drops: u64) {
    ban.drops = ban.drops.wrapping_add(drops);
    if ban.first_drop_at_ns == 0 {
        ban.first_drop_at_ns = clock.precise_now_ns();
    }
}
