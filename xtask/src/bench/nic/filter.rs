//! Our program with a policy in its maps, attached nowhere.
//!
//! Comes in: the object and what shall be blocked. Goes out: a descriptor to test. The maps are filled as the gateway
//! fills them, by the same layouts and classes, but without its pins, its clock or its janitor.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, lpm_trie::Key},
    programs::Xdp,
};
use gateway_ebpf::{
    Ban,
    bucket::LINE_CELLS,
    class::{self, CLASS_WORDS, Effect, GUARD_WORDS, Rule4, TOUCHED_WORDS, classify24, touch4, touch6},
    feeds::{
        LINES4, LINES6, Line,
        fill::{fill4, fill6},
    },
    front::{self, CLAIMED, Claim, LINES_MAX, OF_SOURCE, claim4, claim6, shift4, shift6},
    layout::{
        DROP_MALFORMED, HAS_ALLOW4, HAS_ALLOW6, LISTED4, LISTED6, MODE_ON, Orders, Pace, Settings, port_bit,
    },
};

use crate::bench::kernel;

/// Port with limits.
pub(super) const PORT: u16 = 443;
/// The administrator's addresses: `127.99.7.0/28` and `fd99:7::/32`. The first is none that anybody sends from.
const ALLOW4: (u32, u8) = (0x7f63_0700, 28);
const ALLOW6: (u32, u8) = (0xfd99_0007, 32);
/// As many cells as `sources_max` has by default.
const CELLS: u32 = 1 << 20;
/// `CLOCK_MONOTONIC` will not come so far: a block that ends, though not during the bench.
const END_NS: u64 = u64::MAX >> 1;

/// The limiter's and the claims'.
const SEED: u64 = 0x1234_5678_9abc_def1;

/// A map's value, as aya wants it.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Plain<T>(T);

// SAFETY: `repr(C)`, integers only, without padding, as its declaration checks.
unsafe impl Pod for Plain<Ban> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Orders> {}

/// What is blocked. Sources are blocked for a time, prefixes for good, as lists of them are.
#[derive(Debug, Clone, Default)]
pub(super) struct Blocked {
    pub(super) sources4: Vec<u32>,
    /// Upper halves.
    pub(super) sources6: Vec<u64>,
    pub(super) prefixes4: Vec<(u32, u8)>,
    /// Upper halves.
    pub(super) prefixes6: Vec<(u64, u8)>,
    /// All of it by a feed.
    pub(super) by_feed: bool,
}

impl Blocked {
    /// See [`Orders::claimed_shift6`].
    fn shift6(&self) -> u32 {
        shift6(self.sources6.len() + self.prefixes6.len(), LINES_MAX)
    }
}

/// The program; its maps go with it.
pub(super) struct Filter {
    object: Ebpf,
    pub(super) program: OwnedFd,
}

impl Filter {
    /// Loads the object and fills its maps.
    pub(super) fn new(object: &[u8], blocked: &Blocked) -> Result<Self> {
        let room = |entries: usize| u32::try_from(entries.max(1)).unwrap_or(u32::MAX);
        let mut object = EbpfLoader::new()
            .override_global("AYA_LOG_LEVEL", &0_u8, false)
            .map_max_entries("CELLS", CELLS / LINE_CELLS)
            .map_max_entries("BANS4", room(blocked.sources4.len()))
            .map_max_entries("BANS6", room(blocked.sources6.len()))
            .map_max_entries("BLOCK4", room(blocked.prefixes4.len()))
            .map_max_entries("BLOCK6", room(blocked.prefixes6.len()))
            .load(object)?;
        let program: &mut Xdp =
            object.program_mut("portcullis").context("no program in the object")?.try_into()?;
        program.load()?;
        let program = program.fd()?.as_fd().try_clone_to_owned()?;
        let mut filter = Self { object, program };
        filter.set(blocked)?;
        filter.allow()?;
        if blocked.by_feed {
            filter.classify(&Blocked::default())?;
            filter.list(blocked)?;
        } else {
            filter.block(blocked)?;
            filter.classify(blocked)?;
            filter.claim(blocked)?;
        }
        Ok(filter)
    }

    /// Limits as by default, but so wide that whoever runs the test does not reach them.
    fn set(&mut self, blocked: &Blocked) -> Result<()> {
        let never = Pace { interval_ns: 1, tolerance_ns: 1 << 40 };
        let settings = Settings {
            mode: MODE_ON,
            flags: DROP_MALFORMED | HAS_ALLOW4 | HAS_ALLOW6,
            cell_mask: CELLS - 1,
            source_mask_v4: u32::MAX,
            source_mask_v6: u64::MAX,
            seed: SEED,
            packets: never,
            syns: never,
            samples: Pace { interval_ns: 10_000_000, tolerance_ns: 10_000_000 },
            ..Settings::default()
        };
        let (limited, bit) = port_bit(PORT);
        let orders = Orders {
            heartbeat_ns: END_NS,
            active: 0,
            listed: if blocked.by_feed { LISTED4 | LISTED6 } else { 0 },
            claimed_until_ns: END_NS,
            claimed_lengths6: lengths6(blocked),
            claimed_shift4: shift4(blocked.sources4.len(), LINES_MAX).into(),
            claimed_shift6: blocked.shift6().into(),
            settings: [settings; 2],
            touched: touched(blocked),
            ports: std::array::from_fn(|word| u64::from(word == limited as usize) << bit),
        };
        let mut map: Array<&mut MapData, Plain<Orders>> = self.map("ORDERS")?;
        Ok(map.set(0, Plain(orders), 0)?)
    }

    /// Nobody enforces without an allow prefix, so there is one of each family.
    fn allow(&mut self) -> Result<()> {
        let mut allow4: LpmTrie<&mut MapData, [u32; 2], u32> = self.map("ALLOW4")?;
        allow4.insert(&Key::new(ALLOW4.1.into(), [ALLOW4.0.to_be(), 0]), u32::from(ALLOW4.1), 0)?;
        let mut allow6: LpmTrie<&mut MapData, [u32; 4], u32> = self.map("ALLOW6")?;
        allow6.insert(&Key::new(ALLOW6.1.into(), [ALLOW6.0.to_be(), 0, 0, 0]), u32::from(ALLOW6.1), 0)?;
        Ok(())
    }

    fn block(&mut self, blocked: &Blocked) -> Result<()> {
        let source = Ban { expires_at_ns: END_NS, prefix_bits: 32, ..Ban::default() };
        let mut bans4: HashMap<&mut MapData, u32, Plain<Ban>> = self.map("BANS4")?;
        for address in &blocked.sources4 {
            bans4.insert(address.to_be(), Plain(source), 0)?;
        }
        let mut bans6: HashMap<&mut MapData, u64, Plain<Ban>> = self.map("BANS6")?;
        for upper in &blocked.sources6 {
            bans6.insert(upper.to_be(), Plain(Ban { prefix_bits: 64, ..source }), 0)?;
        }
        let prefix = |prefix_bits| Plain(Ban { prefix_bits, ..Ban::default() });
        let mut block4: LpmTrie<&mut MapData, [u32; 2], Plain<Ban>> = self.map("BLOCK4")?;
        for (address, bits) in &blocked.prefixes4 {
            block4.insert(&Key::new((*bits).into(), [address.to_be(), 0]), prefix(*bits), 0)?;
        }
        #[expect(clippy::cast_possible_truncation, reason = "each word is the lowest 32 bits of a shift")]
        let word = |upper: u64, shift: u32| ((upper >> shift) as u32).to_be();
        let mut block6: LpmTrie<&mut MapData, [u32; 4], Plain<Ban>> = self.map("BLOCK6")?;
        for (upper, bits) in &blocked.prefixes6 {
            let words = [word(*upper, 32), word(*upper, 0), 0, 0];
            block6.insert(&Key::new((*bits).into(), words), prefix(*bits), 0)?;
        }
        Ok(())
    }

    /// Fills the tables of the feeds.
    fn list(&mut self, blocked: &Blocked) -> Result<()> {
        let wide = |length: u8, bits: u8| u128::MAX.checked_shr((128 - bits + length).into()).unwrap_or(0);
        let of4 = |(address, bits): (u32, u8)| (address.into(), u128::from(address) | wide(bits, 32));
        let of6 =
            |(upper, bits): (u64, u8)| (u128::from(upper) << 64, u128::from(upper) << 64 | wide(bits, 128));
        let sources4 = blocked.sources4.iter().map(|address| (*address, 32));
        let ranges4 = ranges(sources4.chain(blocked.prefixes4.iter().copied()).map(of4).collect());
        let sources6 = blocked.sources6.iter().map(|upper| (*upper, 64));
        let ranges6 = ranges(sources6.chain(blocked.prefixes6.iter().copied()).map(of6).collect());
        let mut lines4 = vec![Line::default(); LINES4];
        #[expect(clippy::cast_possible_truncation, reason = "they were 32 bits before")]
        let narrow = ranges4.into_iter().map(|(first, last)| (first as u32, last as u32));
        fill4(&mut lines4, narrow).ok().context("too much for a table")?;
        let mut lines6 = vec![Line::default(); LINES6];
        fill6(&mut lines6, ranges6).ok().context("too much for a table")?;
        for (name, lines) in [("FEEDS4", lines4), ("FEEDS6", lines6)] {
            let map = self.object.map(name).with_context(|| format!("no map {name} in the object"))?;
            let Map::ArrayOfMaps(outer) = map else { bail!("{name} is no array of maps") };
            kernel::put(outer.fd().as_fd(), kernel::table(&lines)?.as_fd())?;
        }
        Ok(())
    }

    fn classify(&mut self, blocked: &Blocked) -> Result<()> {
        let sources4 = blocked.sources4.iter().map(|address| (*address, 32, Effect::Look));
        let prefixes4 =
            blocked.prefixes4.iter().map(|(address, bits)| (*address, *bits, Effect::DropForGood));
        let allow = std::iter::once((ALLOW4.0, ALLOW4.1, Effect::Allow));
        let rules: Vec<Rule4> = sources4
            .chain(prefixes4)
            .chain(allow)
            .map(|(address, prefix_bits, effect)| Rule4 { address, prefix_bits, effect })
            .collect();
        let mut classes = vec![0; CLASS_WORDS];
        classify24(&mut classes, &rules);
        self.write_words("CLASS24", &classes)?;
        let mut guard = vec![0_u64; GUARD_WORDS];
        let sources6 = blocked.sources6.iter().map(|upper| (*upper, 64));
        let blocks =
            sources6.chain(blocked.prefixes6.iter().copied()).map(|(upper, bits)| (upper, bits, false));
        let allow = std::iter::once((u64::from(ALLOW6.0) << 32, ALLOW6.1, true));
        for (upper, bits, allows) in blocks.chain(allow) {
            class::guard(upper, bits, allows, |index, bit| {
                if let Some(word) = guard.get_mut(index) {
                    *word |= bit;
                }
            });
        }
        self.write_words("GUARD6", &guard)
    }

    /// What is known of blocks once their first drop is behind them, as far as there is room.
    fn claim(&mut self, blocked: &Blocked) -> Result<()> {
        let of_source = |claim: Claim| Claim { slot: claim.slot | OF_SOURCE, ..claim };
        let shift = shift4(blocked.sources4.len(), LINES_MAX);
        let claims4 = blocked.sources4.iter().map(|source| claim4(*source, SEED, shift));
        let shift = blocked.shift6();
        let sources6 = blocked.sources6.iter().map(|upper| of_source(claim6(*upper, 64, SEED, shift)));
        let prefixes6 = blocked.prefixes6.iter().map(|(upper, bits)| claim6(*upper, *bits, SEED, shift));
        let (mut front4, mut front6) = (Front::new(32), Front::new(64));
        claims4.for_each(|claim| front4.put(claim));
        sources6.chain(prefixes6).for_each(|claim| front6.put(claim));
        self.write_lines("FRONT4", &front4.lines)?;
        self.write_lines("FRONT6", &front6.lines)
    }

    fn write_lines(&mut self, name: &str, lines: &[front::Line]) -> Result<()> {
        let mut map: Array<&mut MapData, [u64; 8]> = self.map(name)?;
        for (index, line) in (0..).zip(lines).filter(|(_, line)| **line != [0; 8]) {
            map.set(index, *line, 0)?;
        }
        Ok(())
    }

    fn write_words(&mut self, name: &str, words: &[u64]) -> Result<()> {
        let mut map: Array<&mut MapData, u64> = self.map(name)?;
        for (index, word) in (0..).zip(words).filter(|(_, word)| **word != 0) {
            map.set(index, *word, 0)?;
        }
        Ok(())
    }

    fn map<'a, M: TryFrom<&'a mut Map, Error = MapError>>(&'a mut self, name: &str) -> Result<M> {
        let map = self.object.map_mut(name).with_context(|| format!("no map {name} in the object"))?;
        Ok(M::try_from(map)?)
    }
}

/// A table of claims, of slots of so many bits.
struct Front {
    lines: Vec<front::Line>,
    slot_bits: u32,
}

impl Front {
    fn new(slot_bits: u32) -> Self {
        Self { lines: vec![[0; 8]; LINES_MAX as usize], slot_bits }
    }

    /// At home or elsewhere in its line; where that is full, it stays unclaimed.
    fn put(&mut self, claim: Claim) {
        let Some(line) = self.lines.get_mut(claim.line as usize) else { return };
        line.rotate_left(claim.home() as usize);
        for word in line.iter_mut() {
            let free = (0..64).step_by(self.slot_bits as usize).find(|shift| *word >> shift & CLAIMED == 0);
            if let Some(shift) = free {
                *word |= claim.slot << shift;
                break;
            }
        }
        line.rotate_right(claim.home() as usize);
    }
}

/// Which words the program finds its rules in.
fn touched(blocked: &Blocked) -> [u64; TOUCHED_WORDS] {
    let mut words = [0; TOUCHED_WORDS];
    let mut set = |index: usize, bits| {
        if let Some(word) = words.get_mut(index) {
            *word |= bits;
        }
    };
    touch4(ALLOW4.0, ALLOW4.1, &mut set);
    touch6(u64::from(ALLOW6.0) << 32, ALLOW6.1, &mut set);
    if !blocked.by_feed {
        blocked.sources4.iter().for_each(|address| touch4(*address, 32, &mut set));
        blocked.prefixes4.iter().for_each(|(address, bits)| touch4(*address, *bits, &mut set));
        blocked.sources6.iter().for_each(|upper| touch6(*upper, 64, &mut set));
        blocked.prefixes6.iter().for_each(|(upper, bits)| touch6(*upper, *bits, &mut set));
    }
    words
}

/// The lengths of blocked IPv6 prefixes, the longest lowest.
fn lengths6(blocked: &Blocked) -> u64 {
    let source = if blocked.sources6.is_empty() { 0 } else { 64 };
    let prefix = blocked.prefixes6.first().map_or(0, |(_, bits)| u64::from(*bits));
    if source == 0 { prefix } else { source | prefix << 8 }
}

/// In order, without touching each other.
fn ranges(mut ranges: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged
}
