//! From offences to a block: which source has crossed which line.
//!
//! Comes in: one [`Offence`] at a time, the settings and the clock's reading. Goes out: at most one [`Block`] per
//! offence. It never blocks a protected address, nor one that only a proxy header named, and never without an end;
//! it never touches a map, a clock or a log.
//!
//! Behind one address there may be many. Where a consumer has lately proved who it is from there, the first line that is
//! crossed slows the source down, so that the others are still served, and only the next one shuts it out.
//!
//! The window is exact: per source and kind the ring holds the times of the last `count` offences, so the line is
//! crossed when the oldest of `count` lies no more than `within` before the newest. Memory is bounded by
//! [`SOURCES_MAX`] sources and [`STAMPS_MAX`] times; past either, the source whose last offence is oldest makes
//! room, which is counted.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;

use super::protect::Protected;
use crate::{
    config,
    decide::known::{self, Known},
    nic::nanos,
    respond::{Offence, OffenceKind, RequestId},
};

/// Sources that are remembered at once; about 250 bytes each.
pub const SOURCES_MAX: usize = 65_536;
/// Offence times that are remembered at once, over all sources; 8 to 16 bytes each.
pub const STAMPS_MAX: usize = 1 << 21;
/// After a block was ordered, offences for so long are ignored: they were under way. Later ones show that the block
/// is not in force (someone lifted it, the traffic comes in elsewhere) and count.
pub const UNDER_WAY_MAX: Duration = Duration::from_secs(5);

const KINDS: usize = OffenceKind::ALL.len();

// One source alone always has room, so making room never takes the source that is being counted.
const _: () = assert!(config::OFFENCE_COUNT_MAX as usize * KINDS < STAMPS_MAX);

/// What the NIC does with a source that has crossed a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// Nothing of it passes.
    Drop,
    /// So many of its packets pass.
    Throttle(config::Rate),
}

/// A source that has to be blocked.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// The address or prefix.
    pub source: IpNet,
    /// Whether it is shut out or slowed down.
    pub action: Action,
    /// The kind whose line it crossed.
    pub kind: OffenceKind,
    /// Offences of that kind within the window by then.
    pub offences: u32,
    /// The route of the offence that crossed it.
    pub route: Option<Arc<str>>,
    /// The request that crossed it.
    pub request_id: RequestId,
    /// Blocks within `memory`, this one included; at least 1.
    pub strikes: u32,
    /// When the offence happened, ns.
    pub offence_at_ns: u64,
    /// When the block ends, ns; after now.
    pub until_ns: u64,
    /// How long it lasts from now.
    pub lasts: Duration,
    /// Only told: `escalation.dry_run`.
    pub dry_run: bool,
}

/// What is known of a source that was blocked, for those who come after this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembered {
    /// Blocks within `memory`.
    pub strikes: u32,
    /// Those of them that only slowed it down.
    pub throttles: u32,
    /// When the last one ends or has ended, ns.
    pub until_ns: u64,
}

/// What became of the offences so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Observed, by [`OffenceKind::index`]; the sum of all that follow and of those that were counted.
    pub observed: [u64; KINDS],
    /// Of an address that a proxy header named.
    pub forwarded: u64,
    /// Of a protected address.
    pub protected: u64,
    /// Of a source that had just been blocked: they were under way.
    pub under_way: u64,
    /// Sources that were forgotten early to make room.
    pub evicted: u64,
}

/// The table of offenders.
#[derive(Debug)]
pub struct Escalation {
    settings: config::Escalation,
    protected: Protected,
    known: Arc<Known>,
    sources: HashMap<IpNet, Source>,
    /// (last offence, source) of every source without a strike; the first makes room.
    clean: BTreeSet<(u64, IpNet)>,
    /// The same for sources with strikes, which are remembered for longer.
    struck: BTreeSet<(u64, IpNet)>,
    stamps: usize,
    sources_max: usize,
    stamps_max: usize,
    tally: Tally,
}

/// What is known of one source.
#[derive(Debug, Default)]
struct Source {
    last_ns: u64,
    /// Times of the latest offences by kind, ascending, at most `count` of each.
    stamps: [VecDeque<u64>; KINDS],
    strikes: u32,
    /// Those of the strikes that only slowed it down.
    throttles: u32,
    blocked_until_ns: u64,
    /// Offences before this are ignored; at most `blocked_until_ns`.
    ignored_until_ns: u64,
}

impl Source {
    fn stamps(&self) -> usize {
        self.stamps.iter().map(VecDeque::len).sum()
    }
}

impl Escalation {
    /// An empty table. `known` says where consumers have proved who they are.
    pub fn new(settings: config::Escalation, protected: Protected, known: Arc<Known>) -> Self {
        Self::bounded(settings, protected, known, (SOURCES_MAX, STAMPS_MAX))
    }

    fn bounded(
        settings: config::Escalation,
        protected: Protected,
        known: Arc<Known>,
        (sources_max, stamps_max): (usize, usize),
    ) -> Self {
        Self {
            settings,
            protected,
            known,
            sources: HashMap::new(),
            clean: BTreeSet::new(),
            struck: BTreeSet::new(),
            stamps: 0,
            sources_max,
            stamps_max,
            tally: Tally::default(),
        }
    }

    /// Counts one offence and says whether it crossed a line.
    ///
    /// Offences may come out of order by what the queues hold; one that claims to lie after `now_ns` lies at it.
    pub fn observe(&mut self, offence: &Offence, now_ns: u64) -> Option<Block> {
        bump(self.tally.observed.get_mut(offence.kind.index()));
        if offence.source_is_forwarded {
            self.tally.forwarded += 1;
            return None;
        }
        let Some(key) = self.protected.source_of(offence.source) else {
            self.tally.protected += 1;
            return None;
        };
        let threshold = self.threshold(offence.kind)?;
        let at_ns = offence.at_ns.min(now_ns);

        let mut source = self.take(&key).unwrap_or_default();
        source.last_ns = source.last_ns.max(at_ns);
        if at_ns < source.ignored_until_ns {
            self.tally.under_way += 1;
            self.put(key, source);
            return None;
        }
        let mut crossed_with = None;
        if let Some(ring) = source.stamps.get_mut(offence.kind.index())
            && cross(ring, at_ns, threshold)
        {
            crossed_with = Some(u32::try_from(ring.len()).unwrap_or(u32::MAX));
        }
        let block = crossed_with.map(|offences| self.strike(key, &mut source, offence, offences, now_ns));
        self.put(key, source);
        block
    }

    /// The source that `address` belongs to, if its block or throttle should hold at `at_ns`. In a dry run none does.
    pub fn blocked(&self, address: IpAddr, at_ns: u64) -> Option<IpNet> {
        let key = self.protected.source_of(address).filter(|_| !self.settings.dry_run)?;
        self.sources.get(&key).is_some_and(|source| at_ns < source.blocked_until_ns).then_some(key)
    }

    /// What an earlier process knew of a source; what is older than `memory` is of no use.
    pub fn remember(&mut self, key: IpNet, remembered: Remembered, now_ns: u64) {
        let Remembered { strikes, throttles, until_ns } = remembered;
        let stale = until_ns.saturating_add(nanos(self.settings.memory)) < now_ns;
        if strikes == 0 || stale || self.sources.contains_key(&key) || self.protected.overlaps(&key) {
            return;
        }
        let source = Source {
            last_ns: until_ns.min(now_ns),
            strikes,
            throttles: throttles.min(strikes),
            blocked_until_ns: until_ns,
            ..Source::default()
        };
        self.put(key, source);
    }

    /// What there is to remember of a source.
    pub fn remembered(&self, key: &IpNet) -> Option<Remembered> {
        let source = self.sources.get(key).filter(|source| source.strikes > 0)?;
        let Source { strikes, throttles, blocked_until_ns: until_ns, .. } = *source;
        Some(Remembered { strikes, throttles, until_ns })
    }

    /// Forgets a source: its block could not be written, or somebody has lifted it.
    pub fn pardon(&mut self, source: &IpNet) {
        self.take(source);
    }

    /// Forgets what no longer matters at `now_ns`: counts older than every window, strikes older than `memory`.
    pub fn forget(&mut self, now_ns: u64) {
        let window_ns = OffenceKind::ALL
            .into_iter()
            .filter_map(|kind| self.threshold(kind))
            .map(|threshold| nanos(threshold.within))
            .max()
            .unwrap_or(0);
        while let Some((last_ns, key)) = self.clean.first().copied()
            && last_ns.saturating_add(window_ns) < now_ns
        {
            self.take(&key);
        }
        // A block may run on long after the last offence, so a strike is kept for both.
        let memory_ns = nanos(self.settings.memory).saturating_add(nanos(self.settings.block_max));
        while let Some((last_ns, key)) = self.struck.first().copied()
            && last_ns.saturating_add(memory_ns).saturating_add(window_ns) < now_ns
        {
            self.take(&key);
        }
    }

    /// New settings for what happens from now on; counts, strikes and running blocks stay.
    pub fn reconfigure(&mut self, settings: config::Escalation, protected: Protected) {
        self.settings = settings;
        self.protected = protected;
    }

    /// What became of the offences so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Sources that are remembered now, at most [`SOURCES_MAX`].
    pub fn sources(&self) -> usize {
        self.sources.len()
    }

    fn threshold(&self, kind: OffenceKind) -> Option<config::Threshold> {
        match kind {
            OffenceKind::Unauthorized => self.settings.unauthorized,
            OffenceKind::Forbidden => self.settings.forbidden,
            OffenceKind::Limited => self.settings.limited,
            OffenceKind::Malformed => self.settings.malformed,
            OffenceKind::NotFound => self.settings.not_found,
            OffenceKind::Attack => self.settings.attack,
        }
    }

    fn strike(
        &self,
        key: IpNet,
        source: &mut Source,
        offence: &Offence,
        offences: u32,
        now_ns: u64,
    ) -> Block {
        if now_ns > source.blocked_until_ns.saturating_add(nanos(self.settings.memory)) {
            (source.strikes, source.throttles) = (0, 0);
        }
        source.strikes = source.strikes.saturating_add(1);
        let throttle =
            self.settings.throttle.filter(|_| source.throttles == 0 && self.is_shared(&key, now_ns));
        source.throttles += u32::from(throttle.is_some());
        // The first block lasts no longer for having been announced.
        let lasts = block_length(&self.settings, source.strikes.saturating_sub(source.throttles));
        source.blocked_until_ns = now_ns.saturating_add(nanos(lasts));
        // A dry run tells once per block that would have been; nothing keeps its offences away.
        let ignored = if self.settings.dry_run { lasts } else { lasts.min(UNDER_WAY_MAX) };
        source.ignored_until_ns = now_ns.saturating_add(nanos(ignored));
        // The next block takes a whole new count.
        source.stamps = Default::default();
        Block {
            source: key,
            action: throttle.map_or(Action::Drop, Action::Throttle),
            kind: offence.kind,
            offences,
            route: offence.route.clone(),
            request_id: offence.request_id,
            strikes: source.strikes,
            offence_at_ns: offence.at_ns.min(now_ns),
            until_ns: source.blocked_until_ns,
            lasts,
            dry_run: self.settings.dry_run,
        }
    }

    /// Whether others may be behind this source who are to be served: a consumer has lately proved who it is.
    fn is_shared(&self, key: &IpNet, now_ns: u64) -> bool {
        let source = known::Source::of(key.addr(), self.protected.source_bits());
        let seen_ns = source.and_then(|source| self.known.proven_ns(source));
        let lately = |seen_ns: u64| seen_ns.saturating_add(nanos(self.settings.known_for)) >= now_ns;
        seen_ns.is_some_and(lately)
    }

    /// Takes a source out of the table and of every index.
    fn take(&mut self, key: &IpNet) -> Option<Source> {
        let source = self.sources.remove(key)?;
        let order = if source.strikes == 0 { &mut self.clean } else { &mut self.struck };
        order.remove(&(source.last_ns, *key));
        self.stamps -= source.stamps();
        Some(source)
    }

    /// Puts a source in, after making room for it.
    fn put(&mut self, key: IpNet, source: Source) {
        let stamps = source.stamps();
        while self.sources.len() >= self.sources_max || self.stamps + stamps > self.stamps_max {
            let oldest = match (self.clean.first(), self.struck.first()) {
                (Some(clean), Some(struck)) => clean.min(struck).1,
                (Some(only), None) | (None, Some(only)) => only.1,
                (None, None) => break,
            };
            self.take(&oldest);
            self.tally.evicted += 1;
        }
        let order = if source.strikes == 0 { &mut self.clean } else { &mut self.struck };
        order.insert((source.last_ns, key));
        self.stamps += stamps;
        self.sources.insert(key, source);
    }
}

/// Enters `at_ns` and says whether `count` offences now lie within the window.
fn cross(ring: &mut VecDeque<u64>, at_ns: u64, threshold: config::Threshold) -> bool {
    let count = threshold.count.clamp(1, config::OFFENCE_COUNT_MAX) as usize;
    let place = ring.partition_point(|&earlier| earlier <= at_ns);
    ring.insert(place, at_ns);
    let newest_ns = ring.back().copied().unwrap_or(at_ns);
    let since_ns = newest_ns.saturating_sub(nanos(threshold.within));
    while ring.front().is_some_and(|&oldest_ns| oldest_ns < since_ns) {
        ring.pop_front();
    }
    ring.len() >= count
}

/// `block_for`, doubled by every strike after the first, at most `block_max`.
fn block_length(settings: &config::Escalation, strikes: u32) -> Duration {
    let factor = 1_u32.checked_shl(strikes.saturating_sub(1)).unwrap_or(u32::MAX);
    settings.block_for.saturating_mul(factor).min(settings.block_max)
}

fn bump(counter: Option<&mut u64>) {
    if let Some(counter) = counter {
        *counter += 1;
    }
}

#[cfg(test)]
mod tests;
