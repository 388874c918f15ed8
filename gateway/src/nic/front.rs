//! The program's short cut past the tables of blocks, kept true to them.
//!
//! Comes in: prefixes whose blocks change, and now and then all blocks that could be claimed. Goes out: slots in the maps
//! that the program looks into before the tables. As for [`super::classes`], any number of processes may take back, the
//! gateway alone claims; who changes a block takes back its claim before and after. No claim outlives the time until
//! which all of them hold: where the gateway is dead, they lapse, and the program asks the tables again.
//!
//! Taking back loses the drops that were counted in the slot and not yet charged, of which there are 255 at most.

use std::{path::Path, sync::atomic::Ordering};

use aya::maps::MapInfo;
use gateway_ebpf::{
    Ban, BanOrigin,
    front::{CLAIMED, Claim, DROPS, LENGTHS6_MAX, OF_SOURCE, claim4, claim6, shift4, shift6},
    layout::{DROP, Settings},
};
use ipnet::IpNet;

use super::{
    NicError,
    orders::Orders,
    prefix::{Place, place, upper},
    sys::Words,
};

/// Blocks that end sooner are not claimed.
pub(super) const HORIZON_NS: u64 = 300_000_000_000;

const LINE_WORDS: usize = 8;
/// Bits of a slot, IPv4 and IPv6.
const SLOT4_BITS: usize = 32;
const SLOT6_BITS: usize = 64;

/// Both maps, shared with the program.
pub(super) struct Front {
    front4: Words,
    front6: Words,
    orders: Orders,
}

/// What can be claimed.
#[derive(Default)]
pub(super) struct Claimable {
    sources4: Vec<u32>,
    /// Upper half, length, and whether it is a source.
    prefixes6: Vec<(u64, u8, bool)>,
    /// The first end of any of them; 0: there is none.
    until_ns: u64,
}

impl Claimable {
    /// Takes a block if it can be claimed: it drops, has done so before, since the first drop is to be stamped, and will
    /// go on for a while.
    pub(super) fn add(&mut self, prefix: IpNet, ban: &Ban, settings: &Settings, now_ns: u64) {
        let ends_soon = ban.expires_at_ns != 0 && ban.expires_at_ns <= now_ns.saturating_add(HORIZON_NS);
        if ban.action != DROP || ban.first_drop_at_ns == 0 || ends_soon {
            return;
        }
        let of_source = is_source(prefix, ban, settings);
        match prefix {
            IpNet::V4(net) if of_source => self.sources4.push(net.network().to_bits()),
            IpNet::V6(net) if (1..=64).contains(&net.prefix_len()) => {
                self.prefixes6.push((upper(net.network()), net.prefix_len(), of_source));
            }
            _ => return,
        }
        let until_ns = if ban.expires_at_ns == 0 { u64::MAX } else { ban.expires_at_ns };
        self.until_ns = if self.until_ns == 0 { until_ns } else { self.until_ns.min(until_ns) };
    }

    /// How many.
    pub(super) fn count(&self) -> usize {
        self.sources4.len() + self.prefixes6.len()
    }

    fn claims4(&self, seed: u64, shift: u32) -> Vec<Claim> {
        in_order(self.sources4.iter().map(|source| claim4(*source, seed, shift)).collect())
    }

    /// Of these lengths only.
    fn claims6(&self, seed: u64, lengths: &[u8], shift: u32) -> Vec<Claim> {
        let of_length = self.prefixes6.iter().filter(|(_, length, _)| lengths.contains(length));
        let claims = of_length.map(|(upper, length, of_source)| {
            let claim = claim6(*upper, *length, seed, shift);
            Claim { slot: claim.slot | if *of_source { OF_SOURCE } else { 0 }, ..claim }
        });
        in_order(claims.collect())
    }

    /// The lengths that most prefixes have, longest first.
    fn lengths6(&self) -> Vec<u8> {
        let mut counts = [0_usize; 65];
        for (_, length, _) in &self.prefixes6 {
            if let Some(count) = counts.get_mut(usize::from(*length)) {
                *count += 1;
            }
        }
        let mut lengths: Vec<(usize, u8)> =
            counts.into_iter().zip(0..).filter(|(count, _)| *count > 0).collect();
        lengths.sort_unstable_by(|one, other| other.cmp(one));
        let mut lengths: Vec<u8> =
            lengths.into_iter().take(LENGTHS6_MAX as usize).map(|(_, length)| length).collect();
        lengths.sort_unstable_by(|one, other| other.cmp(one));
        lengths
    }
}

impl Front {
    pub(super) fn open(dir: &Path) -> Result<Self, NicError> {
        let map = |name: &str| {
            let path = dir.join(name);
            let lines = MapInfo::from_pin(&path)?.max_entries();
            let words =
                super::sys::open_pin(&path).and_then(|map| Words::of_map(&map, lines as usize * LINE_WORDS));
            words.map_err(NicError::io(format!("map {}", path.display())))
        };
        Ok(Self { front4: map("FRONT4")?, front6: map("FRONT6")?, orders: Orders::open(dir)? })
    }

    /// Takes back what is claimed about the block of exactly this prefix.
    pub(super) fn take_back(&self, prefix: IpNet) {
        if let Some((table, claim)) = self.claim_of(prefix) {
            table.clear(claim);
        }
    }

    /// Takes back everything.
    pub(super) fn clear(&self) {
        self.orders.set_claimed_until(0);
        for word in self.front4.words().iter().chain(self.front6.words()) {
            word.store(0, Ordering::SeqCst);
        }
    }

    /// Drops that are counted in the slot of this block and not yet in the block.
    pub(super) fn drops(&self, prefix: IpNet, ban: &Ban) -> u64 {
        // Of IPv4, only sources have slots.
        if prefix.addr().is_ipv4() && !is_source(prefix, ban, &self.orders.settings()) {
            return 0;
        }
        let found = self.claim_of(prefix).and_then(|(table, claim)| table.find(claim));
        found.map_or(0, |slot| slot & DROPS)
    }

    /// Until when claims hold; 0: there is none.
    pub(super) fn claimed_until_ns(&self) -> u64 {
        self.orders.claimed_until()
    }

    /// Claims these, as far as there is room, and nothing else. True: something was not claimed before, and has to be
    /// held against the tables once more by [`Self::confirm`].
    pub(super) fn claim(&self, wanted: &Claimable) -> bool {
        // Whoever takes back the last claim does so before this time goes to zero.
        if wanted.count() == 0 && self.orders.claimed_until() == 0 {
            return false;
        }
        let seed = self.orders.settings().seed;
        if wanted.until_ns < self.orders.claimed_until() {
            self.orders.set_claimed_until(wanted.until_ns);
        }
        let shifts = (self.orders.claimed_shift4(), self.orders.claimed_shift6());
        let fitting = (
            shift4(wanted.sources4.len(), self.table4().lines()),
            shift6(wanted.prefixes6.len(), self.table6().lines()),
        );
        // A step that is not needed is not made: all would have to be claimed anew.
        let fits = |shift: u32, fitting: u32| (shift..=shift + 1).contains(&fitting);
        if !fits(shifts.0, fitting.0) || !fits(shifts.1, fitting.1) {
            self.clear();
            self.orders.set_claimed_shift4(fitting.0);
            self.orders.set_claimed_shift6(fitting.1);
        }
        let lengths = wanted.lengths6();
        let claims4 = wanted.claims4(seed, self.orders.claimed_shift4());
        let claims6 = wanted.claims6(seed, &lengths, self.orders.claimed_shift6());
        let added = self.table4().become_exactly(&claims4) | self.table6().become_exactly(&claims6);
        let packed = lengths.iter().rev().fold(0, |packed: u64, length| packed << 8 | u64::from(*length));
        self.orders.set_claimed_lengths6(packed);
        added
    }

    /// Takes back those of `claimed` that are not in `truth`, which was read later, and lets the rest hold.
    pub(super) fn confirm(&self, claimed: &Claimable, truth: &Claimable) {
        let (seed, lengths) = (self.orders.settings().seed, claimed.lengths6());
        let of4 = |blocks: &Claimable| blocks.claims4(seed, self.orders.claimed_shift4());
        let of6 = |blocks: &Claimable| blocks.claims6(seed, &lengths, self.orders.claimed_shift6());
        for (table, claimed, truth) in
            [(self.table4(), of4(claimed), of4(truth)), (self.table6(), of6(claimed), of6(truth))]
        {
            claimed
                .iter()
                .filter(|claim| truth.binary_search(claim).is_err())
                .for_each(|claim| table.clear(*claim));
        }
        self.orders.set_claimed_until(claimed.until_ns.min(truth.until_ns));
    }

    fn claim_of(&self, prefix: IpNet) -> Option<(Table<'_>, Claim)> {
        let seed = self.orders.settings().seed;
        match prefix {
            IpNet::V4(net) => {
                let claim = claim4(net.network().to_bits(), seed, self.orders.claimed_shift4());
                Some((self.table4(), claim))
            }
            IpNet::V6(net) if (1..=64).contains(&net.prefix_len()) => {
                let shift = self.orders.claimed_shift6();
                Some((self.table6(), claim6(upper(net.network()), net.prefix_len(), seed, shift)))
            }
            IpNet::V6(_) => None,
        }
    }

    fn table4(&self) -> Table<'_> {
        Table { words: &self.front4, slot_bits: SLOT4_BITS }
    }

    fn table6(&self) -> Table<'_> {
        Table { words: &self.front6, slot_bits: SLOT6_BITS }
    }
}

/// Line by line, and each once: a walk over a table that others change may come to a block twice, and one prefix may be
/// blocked both as a source and by the configuration.
fn in_order(mut claims: Vec<Claim>) -> Vec<Claim> {
    claims.sort_unstable();
    claims.dedup_by(|one, other| one.line == other.line && is_of(one.slot, *other));
    claims
}

/// Whether a block is looked up as a source's.
fn is_source(prefix: IpNet, ban: &Ban, settings: &Settings) -> bool {
    ban.origin != BanOrigin::Configuration as u8
        && matches!(place(prefix, settings), Place::Source4(_) | Place::Source6(_))
}

/// One of the maps.
#[derive(Clone, Copy)]
struct Table<'w> {
    words: &'w Words,
    slot_bits: usize,
}

impl Table<'_> {
    fn lines(self) -> u32 {
        u32::try_from(self.words.words().len() / LINE_WORDS).unwrap_or(u32::MAX)
    }

    /// The slots of a line: a word, and by how much the slot is shifted in it.
    fn slots(self, line: u32) -> impl Iterator<Item = (usize, usize)> {
        let first = line as usize * LINE_WORDS;
        let shifts = (0..SLOT6_BITS).step_by(self.slot_bits);
        (first..first + LINE_WORDS).flat_map(move |word| shifts.clone().map(move |shift| (word, shift)))
    }

    fn mask(self) -> u64 {
        u64::MAX >> (SLOT6_BITS - self.slot_bits)
    }

    fn load(self, (word, shift): (usize, usize)) -> u64 {
        self.words.words().get(word).map_or(0, |word| word.load(Ordering::SeqCst) >> shift & self.mask())
    }

    fn store(self, (word, shift): (usize, usize), slot: u64) {
        let Some(word) = self.words.words().get(word) else { return };
        let change = |word| Some(word & !(self.mask() << shift) | slot << shift);
        // The closure always gives a word.
        let _ = word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change);
    }

    /// The slot that makes this claim, with its drops.
    fn find(self, claim: Claim) -> Option<u64> {
        self.slots(claim.line).map(|at| self.load(at)).find(|slot| is_of(*slot, claim))
    }

    fn clear(self, claim: Claim) {
        self.slots(claim.line).filter(|at| is_of(self.load(*at), claim)).for_each(|at| self.store(at, 0));
    }

    /// Makes these claims, in order, and no others, as far as each line has room; what was claimed before keeps its
    /// drops. True: something was not.
    fn become_exactly(self, claims: &[Claim]) -> bool {
        let mut added = false;
        let mut rest = claims;
        for line in 0..self.lines() {
            let is_empty = self.slots(line).all(|at| self.load(at) & CLAIMED == 0);
            if is_empty && rest.first().is_none_or(|claim| claim.line != line) {
                continue;
            }
            let of_line = rest.iter().take_while(|claim| claim.line == line).count();
            let (wanted, behind) = rest.split_at(of_line);
            rest = behind;
            let mut missing = wanted.to_vec();
            for at in self.slots(line) {
                let slot = self.load(at);
                if slot & CLAIMED == 0 {
                    continue;
                }
                match missing.iter().position(|wanted| wanted.slot == slot & !DROPS) {
                    Some(place) => drop(missing.swap_remove(place)),
                    None => self.store(at, 0),
                }
            }
            if missing.is_empty() {
                continue;
            }
            added = true;
            let mut free: Vec<(usize, usize)> =
                self.slots(line).filter(|at| self.load(*at) & CLAIMED == 0).collect();
            // Those first that find room at home.
            for strays in [false, true] {
                missing.retain(|claim| {
                    let home = line as usize * LINE_WORDS + claim.home() as usize;
                    let Some(place) = free.iter().position(|(word, _)| strays || *word == home) else {
                        return true;
                    };
                    self.store(free.remove(place), claim.slot);
                    false
                });
            }
        }
        added
    }
}

fn is_of(slot: u64, claim: Claim) -> bool {
    (slot ^ claim.slot) & !(DROPS | OF_SOURCE) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: u32 = 1 << 10;

    fn table(words: &Words, slot_bits: usize) -> Table<'_> {
        Table { words, slot_bits }
    }

    #[test]
    fn a_table_becomes_what_is_wanted_and_keeps_what_it_counted() {
        for slot_bits in [SLOT4_BITS, SLOT6_BITS] {
            let words = Words::anonymous(LINES as usize * LINE_WORDS).unwrap();
            let table = table(&words, slot_bits);
            // More of them in one line than there is room for.
            let slots = 40_u64;
            let crowd = |from: u64| -> Vec<Claim> {
                (from..from + slots).map(|tag| Claim { line: 9, slot: tag << 16 | CLAIMED }).collect()
            };
            let held = |claims: &[Claim]| claims.iter().filter(|claim| table.find(**claim).is_some()).count();
            let room = LINE_WORDS * SLOT6_BITS / slot_bits;
            let mut first = crowd(0);
            first.push(Claim { line: LINES - 1, slot: 7 << 16 | CLAIMED });
            assert!(table.become_exactly(&first));
            assert_eq!(held(&first), room + 1);
            let counted = *first.last().unwrap();
            let at = table.slots(counted.line).find(|at| table.load(*at) == counted.slot).unwrap();
            table.store(at, counted.slot | 5);
            assert!(!table.become_exactly(&first[first.len() - 1..]), "it was there");
            assert_eq!((held(&first), table.find(counted)), (1, Some(counted.slot | 5)));
            table.clear(counted);
            assert!(words.words().iter().all(|word| word.load(Ordering::SeqCst) == 0));
        }
    }

    #[test]
    fn what_can_be_claimed_has_dropped_and_goes_on() {
        let settings = Settings { source_mask_v4: u32::MAX, source_mask_v6: u64::MAX, ..Settings::default() };
        let now_ns = 1_000_000_000_000;
        let ban = Ban { first_drop_at_ns: 1, expires_at_ns: now_ns + HORIZON_NS + 9, ..Ban::default() };
        let count = |prefix: &str, ban: Ban| {
            let mut claimable = Claimable::default();
            claimable.add(prefix.parse().unwrap(), &ban, &settings, now_ns);
            (claimable.count(), claimable.until_ns)
        };
        let one = (1, now_ns + HORIZON_NS + 9);
        for prefix in ["192.0.2.1/32", "2001:db8::/64", "2001:db8::/1"] {
            assert_eq!(count(prefix, ban), one, "{prefix}");
        }
        for prefix in ["192.0.2.0/24", "2001:db8::1/128", "::/0"] {
            assert_eq!(count(prefix, ban), (0, 0), "{prefix}");
        }
        for other in [
            Ban { first_drop_at_ns: 0, ..ban },
            Ban { expires_at_ns: now_ns + HORIZON_NS, ..ban },
            Ban { action: gateway_ebpf::layout::THROTTLE, ..ban },
            Ban { origin: BanOrigin::Configuration as u8, ..ban },
        ] {
            assert_eq!(count("192.0.2.1/32", other), (0, 0), "{other:?}");
        }
        assert_eq!(count("2001:db8::/32", Ban { expires_at_ns: 0, ..ban }), (1, u64::MAX));
    }

    #[test]
    fn the_lengths_that_most_have_are_claimed() {
        let lengths = [64, 64, 64, 48, 48, 32, 32, 56, 56, 40];
        let prefixes6 = (0..).zip(lengths).map(|(upper, length)| (upper << 32, length, false)).collect();
        assert_eq!(Claimable { prefixes6, ..Claimable::default() }.lengths6(), [64, 56, 48, 32]);
        assert_eq!(Claimable::default().lengths6(), [0; 0]);
    }
}
