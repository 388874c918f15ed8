//! The block list: add, remove, list, explain.
//!
//! Comes in: prefixes with why and until when. Goes out: entries in the pinned maps, which the program obeys from
//! the next packet on, and records of them for people. It works while the gateway is down, since the maps outlive it.
//! It never decides whom to block, and every block that it writes ends, except the configuration's own.

use std::{collections::HashMap, net::IpAddr, path::Path, sync::Arc, time::Duration};

use aya::maps::MapError;
use gateway_ebpf::{
    Ban, BanKind, BanOrigin,
    layout::{self, Note, Pace, Settings},
};
use ipnet::IpNet;

use super::{
    NicError,
    feeds::{Feeds, Listing},
    heritage,
    maps::{Plain, Policy, versioned},
    prefix::{Place, canonical, key4, key6, net4, net6, note_key, place, source_of, source4, source6},
    settings::pace,
    upkeep::Upkeep,
    walk,
};
use crate::config::Rate;

/// A handle on the block list.
pub struct Bans {
    pub(super) policy: Policy,
    pub(super) feeds: Feeds,
    pub(super) upkeep: Upkeep,
}

/// What becomes of the packets of a source that is in the block list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BanAction {
    /// All of them are dropped.
    #[default]
    Drop,
    /// Those past a rate of the entry's own are dropped, whatever their port; the rest go on to the other checks.
    Throttle {
        /// Time that one packet uses up.
        interval_ns: u64,
        /// Packets that may come at once.
        burst: u16,
    },
}

impl BanAction {
    /// A throttle to this rate, in packets.
    pub fn throttle(rate: Rate) -> Self {
        let Pace { interval_ns, .. } = pace(Some(rate));
        Self::Throttle { interval_ns, burst: u16::try_from(rate.burst).unwrap_or(u16::MAX) }
    }

    /// Its stable name in JSON and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Throttle { .. } => "throttle",
        }
    }

    /// Of a throttle: its rate.
    pub fn packets_per_s(self) -> Option<f64> {
        match self {
            Self::Drop => None,
            #[expect(clippy::cast_precision_loss, reason = "for people")]
            Self::Throttle { interval_ns, .. } => Some(1e9 / interval_ns.max(1) as f64),
        }
    }

    fn of(ban: &Ban) -> Self {
        match ban.action {
            layout::THROTTLE => Self::Throttle { interval_ns: ban.interval_ns, burst: ban.burst },
            _ => Self::Drop,
        }
    }

    /// The entry with this action.
    fn on(self, ban: Ban) -> Ban {
        match self {
            Self::Drop => ban,
            Self::Throttle { interval_ns, burst } => {
                Ban { action: layout::THROTTLE, interval_ns, burst: burst.max(1), ..ban }
            }
        }
    }
}

/// A block to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BanEntry {
    /// `CLOCK_MONOTONIC`; the block is over from then on. At 0 it is over at once.
    pub expires_at_ns: u64,
    /// `CLOCK_MONOTONIC` when the offence was seen.
    pub offence_at_ns: u64,
    /// Whether it is a block or a throttle.
    pub action: BanAction,
    /// How many blocks this makes within the escalation's memory.
    pub strikes: u16,
    /// What the source did.
    pub kind: BanKind,
    /// Who decided.
    pub origin: BanOrigin,
    /// What led to it.
    pub note: Option<BanNote>,
}

/// What led to a block. Texts past 40 bytes are cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BanNote {
    /// Name of the route.
    pub route: String,
    /// Id of the request that crossed the line.
    pub request_id: String,
    /// Offences counted by then.
    pub offences: u32,
    /// Wall clock, seconds since the epoch.
    pub at_unix_s: u64,
}

/// A block as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BanRecord {
    /// Who is blocked.
    pub prefix: IpNet,
    /// Blocked, or only throttled.
    pub action: BanAction,
    /// What they did.
    pub kind: BanKind,
    /// Who decided.
    pub origin: BanOrigin,
    /// The feed that decided, where one did.
    pub feed: Option<Arc<str>>,
    /// Which block within the escalation's memory this is.
    pub strikes: u16,
    /// Packets dropped so far, approximately; of a /24 or more that has no end, in steps of 1024.
    pub drops: u64,
    /// How long it still holds; `None`: until the configuration says otherwise.
    pub expires_in: Option<Duration>,
    /// From the offence to the first drop; `None`: nothing dropped yet.
    pub offence_to_first_drop: Option<Duration>,
    /// What led to it, while the notes have room for it.
    pub note: Option<BanNote>,
}

/// Everything that the filter holds about one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Allow prefixes that hold it, longest first. Any of them wins over every block.
    pub allowed_by: Vec<IpNet>,
    /// Feeds that list it.
    pub listed_by: Vec<Listing>,
    /// Whether they take effect: nobody is listed whom the configuration protects.
    pub listed: bool,
    /// Live blocks that hold it, in the order in which the program looks: the first one drops the packet.
    pub blocked_by: Vec<BanRecord>,
}

impl Explanation {
    /// Whether packets of this address are dropped before the limits are asked.
    pub fn blocked(&self) -> bool {
        self.verdict() == "drop"
    }

    /// "drop", "throttle" or "pass", the limits apart.
    pub fn verdict(&self) -> &'static str {
        if !self.allowed_by.is_empty() {
            "pass"
        } else if self.listed {
            "drop"
        } else {
            let drops = |record: &BanRecord| record.action == BanAction::Drop;
            let strictest = self.blocked_by.iter().find(|record| drops(record)).or(self.blocked_by.first());
            strictest.map_or("pass", |record| record.action.name())
        }
    }
}

impl Bans {
    /// Opens the maps that a gateway has pinned.
    pub fn open_pinned(pin_dir: &Path) -> Result<Self, NicError> {
        let dir = versioned(pin_dir);
        match Self::open_in(&dir) {
            Err(NicError::NotPinned(_)) => Err(match heritage::others(pin_dir, &dir).last() {
                Some((version, _)) => {
                    NicError::OtherVersion { pin_dir: pin_dir.to_owned(), version: *version }
                }
                None => NicError::NotPinned(pin_dir.to_owned()),
            }),
            opened => opened,
        }
    }

    /// Opens the maps that are pinned in this very directory.
    pub(super) fn open_in(dir: &Path) -> Result<Self, NicError> {
        Ok(Self { policy: Policy::open(dir)?, upkeep: Upkeep::default(), feeds: Feeds::open_in(dir)? })
    }

    /// Whether there is an entry of exactly this prefix, live or not.
    pub(super) fn knows(&self, prefix: IpNet) -> Result<bool, NicError> {
        Ok(self.find(prefix)?.is_some())
    }

    /// Blocks or throttles a prefix, or replaces what was said about it. [`NicError::Full`]: nothing was written, and nothing was evicted.
    pub fn add(&mut self, prefix: IpNet, entry: &BanEntry) -> Result<(), NicError> {
        let prefix = canonical(prefix);
        if self.find(prefix)?.is_some_and(|ban| ban.origin == BanOrigin::Configuration as u8) {
            return Err(NicError::ByConfiguration(prefix));
        }
        let ban = entry.action.on(Ban {
            expires_at_ns: entry.expires_at_ns.max(1),
            offence_at_ns: entry.offence_at_ns,
            strikes: entry.strikes,
            kind: entry.kind as u8,
            origin: entry.origin as u8,
            ..Ban::default()
        });
        self.write(prefix, ban)?;
        // The note is for people; a block must not fail for want of one.
        let noted = match &entry.note {
            Some(note) => self
                .policy
                .notes
                .insert(Plain(note_key(prefix)), Plain(pack(note)), 0)
                .map_err(NicError::from),
            None => ignore_missing(self.policy.notes.remove(&Plain(note_key(prefix)))).map(drop),
        };
        if let Err(error) = noted {
            log::warn!("the note on the block of {prefix} is lost: {error}");
        }
        Ok(())
    }

    /// As [`Self::add`], unless the prefix is blocked for as long already; false: it was. What a second would add is not
    /// worth a new entry: a list that is dated by the wall clock is not exact.
    pub fn add_unless_longer(&mut self, prefix: IpNet, entry: &BanEntry) -> Result<bool, NicError> {
        const SAME_NS: u64 = 1_000_000_000;
        let enough_ns = entry.expires_at_ns.saturating_sub(SAME_NS);
        // A throttle is less than a block, however long it lasts.
        let is_as_strict = |ban: &Ban| ban.action == layout::DROP || entry.action != BanAction::Drop;
        let held = |ban: Ban| ban.expires_at_ns > enough_ns && is_as_strict(&ban);
        let held = self.find(canonical(prefix))?.is_some_and(held);
        if held {
            return Ok(false);
        }
        self.add(prefix, entry)?;
        Ok(true)
    }

    /// Ends a block; false: there was none.
    pub fn remove(&mut self, prefix: IpNet) -> Result<bool, NicError> {
        let prefix = canonical(prefix);
        if self.find(prefix)?.is_some_and(|ban| ban.origin == BanOrigin::Configuration as u8) {
            return Err(NicError::ByConfiguration(prefix));
        }
        let removed = self.erase(prefix)?;
        ignore_missing(self.policy.notes.remove(&Plain(note_key(prefix))))?;
        Ok(removed)
    }

    /// Whether exactly this prefix is blocked now. `now_ns` is `CLOCK_MONOTONIC`.
    pub fn holds(&self, prefix: IpNet, now_ns: u64) -> Result<bool, NicError> {
        Ok(self.find(canonical(prefix))?.is_some_and(|ban| !expired(&ban, now_ns)))
    }

    /// Every live block. `now_ns` is `CLOCK_MONOTONIC`.
    pub fn list(&self, now_ns: u64) -> Result<Vec<BanRecord>, NicError> {
        let names = self.feeds.names()?;
        let mut notes = HashMap::new();
        walk::each(&self.policy.notes, |Plain(key), Plain(note)| {
            notes.insert(key, note);
        })?;
        let mut records = Vec::new();
        self.each_entry(|prefix, ban| {
            if !expired(ban, now_ns) {
                records.push(self.record(prefix, ban, (&names, notes.get(&note_key(prefix))), now_ns));
            }
        })?;
        Ok(records)
    }

    /// How many live blocks there are.
    pub fn count(&self, now_ns: u64) -> Result<usize, NicError> {
        let mut count = 0;
        self.each_entry(|_, ban| count += usize::from(!expired(ban, now_ns)))?;
        Ok(count)
    }

    /// Every rule that holds this address.
    pub fn why(&self, address: IpAddr, now_ns: u64) -> Result<Explanation, NicError> {
        let address = address.to_canonical();
        let settings = self.policy.orders.settings();
        let mut blocked = Vec::new();
        let source = source_of(address, &settings);
        if let Some(ban) = self.find_source(source, &settings)? {
            blocked.push((source, ban));
        }
        let whole = IpNet::from(address);
        blocked.extend(matches(whole, |key| self.longest_block(key), |ban| ban.prefix_bits)?);
        let allowed_by = matches(whole, |key| self.longest_allow(key), |bits| bits.to_le_bytes()[0])?;
        let live = blocked.into_iter().filter(|(_, ban)| !expired(ban, now_ns));
        let names = self.feeds.names()?;
        Ok(Explanation {
            listed_by: self.feeds.listings(address)?,
            listed: self.feeds.is_listed(address)?,
            allowed_by: allowed_by.into_iter().map(|(prefix, _)| prefix).collect(),
            blocked_by: live
                .map(|(prefix, ban)| {
                    let note = found(self.policy.notes.get(&Plain(note_key(prefix)), 0))?;
                    let note = note.map(|Plain(note)| note);
                    Ok(self.record(prefix, &ban, (&names, note.as_ref()), now_ns))
                })
                .collect::<Result<_, NicError>>()?,
        })
    }

    /// Writes a block as it is, its own length apart.
    pub(super) fn write(&mut self, prefix: IpNet, ban: Ban) -> Result<(), NicError> {
        let settings = self.policy.orders.settings();
        let value = Plain(Ban { prefix_bits: prefix.prefix_len(), ..ban });
        let place = if ban.origin == BanOrigin::Configuration as u8 {
            trie(prefix)
        } else {
            place(prefix, &settings)
        };
        // What stood there before may have been claimed; a block that is new only makes the /24 one to look at.
        let replaces = self.find(prefix)?.is_some();
        let policy = &mut self.policy;
        let unsettled = if replaces {
            policy.front.take_back(prefix);
            policy.classes.unclaim(prefix)
        } else {
            policy.classes.add_block(prefix);
            false
        };
        let written = match place {
            Place::Source4(key) => policy.bans4.insert(key, value, 0),
            Place::Source6(key) => policy.bans6.insert(key, value, 0),
            Place::Prefix4(net) => policy.block4.insert(&key4(net), value, 0),
            Place::Prefix6(net) => policy.block6.insert(&key6(net), value, 0),
        };
        // Once more: the gateway may have claimed something that it had looked up before this.
        policy.front.take_back(prefix);
        if replaces {
            policy.classes.unclaim(prefix);
        } else {
            policy.classes.add_block(prefix);
        }
        self.upkeep.written(&ban, unsettled);
        written.map_err(|error| if is_full(&error) { NicError::Full } else { error.into() })
    }

    /// Every entry, live or not.
    pub(super) fn entries(&self) -> Result<Vec<(IpNet, Ban)>, NicError> {
        let mut found = Vec::new();
        self.each_entry(|prefix, ban| found.push((prefix, *ban)))?;
        Ok(found)
    }

    /// Shows every entry, live or not.
    pub(super) fn each_entry(&self, mut each: impl FnMut(IpNet, &Ban)) -> Result<(), NicError> {
        let policy = &self.policy;
        let mut show = |prefix: Option<IpNet>, ban| {
            if let Some(prefix) = prefix {
                each(prefix, &ban);
            }
        };
        walk::each(&policy.bans4, |key, Plain(ban)| show(source4(key, ban.prefix_bits), ban))?;
        walk::each(&policy.bans6, |key, Plain(ban)| show(source6(key, ban.prefix_bits), ban))?;
        walk::each(&policy.block4, |key, Plain(ban)| show(net4(&key).map(IpNet::from), ban))?;
        walk::each(&policy.block6, |key, Plain(ban)| show(net6(&key).map(IpNet::from), ban))
    }
}

impl Bans {
    /// The block of exactly this prefix, live or not.
    pub(super) fn find(&self, prefix: IpNet) -> Result<Option<Ban>, NicError> {
        let settings = self.policy.orders.settings();
        match self.find_source(prefix, &settings)? {
            Some(ban) => Ok(Some(ban)),
            None => self.find_prefix(prefix),
        }
    }

    /// The hash's entry of this source; none where the prefix is not exactly one source.
    fn find_source(&self, source: IpNet, settings: &Settings) -> Result<Option<Ban>, NicError> {
        let value = match place(source, settings) {
            Place::Source4(key) => found(self.policy.bans4.get(&key, 0))?,
            Place::Source6(key) => found(self.policy.bans6.get(&key, 0))?,
            Place::Prefix4(_) | Place::Prefix6(_) => None,
        };
        Ok(value.map(|Plain(ban)| ban))
    }

    /// The trie's entry of exactly this prefix.
    pub(super) fn find_prefix(&self, prefix: IpNet) -> Result<Option<Ban>, NicError> {
        Ok(self.longest_block(prefix)?.filter(|ban| ban.prefix_bits == prefix.prefix_len()))
    }

    /// Removes the trie's entry of exactly this prefix; false: there was none.
    pub(super) fn erase_prefix(&mut self, prefix: IpNet) -> Result<bool, NicError> {
        self.policy.classes.unclaim(prefix);
        self.policy.front.take_back(prefix);
        let removed = match prefix {
            IpNet::V4(net) => ignore_missing(self.policy.block4.remove(&key4(net))),
            IpNet::V6(net) => ignore_missing(self.policy.block6.remove(&key6(net))),
        };
        // Once more, as in `write`.
        self.policy.classes.unclaim(prefix);
        self.policy.front.take_back(prefix);
        self.upkeep.removed();
        removed
    }

    /// After a change of what makes a source: blocks that lie in the hash under the old lengths move to where the
    /// program now looks for them. For a moment they lie in both places.
    pub(super) fn rehome(&mut self, old: &Settings) -> Result<(), NicError> {
        for (prefix, ban) in self.entries()? {
            match place(prefix, old) {
                Place::Source4(key) => {
                    self.write(prefix, ban)?;
                    ignore_missing(self.policy.bans4.remove(&key))?;
                }
                Place::Source6(key) => {
                    self.write(prefix, ban)?;
                    ignore_missing(self.policy.bans6.remove(&key))?;
                }
                Place::Prefix4(_) | Place::Prefix6(_) => {}
            }
        }
        Ok(())
    }

    pub(super) fn erase(&mut self, prefix: IpNet) -> Result<bool, NicError> {
        let settings = self.policy.orders.settings();
        let policy = &mut self.policy;
        policy.classes.unclaim(prefix);
        policy.front.take_back(prefix);
        let from_hash = match place(prefix, &settings) {
            Place::Source4(key) => ignore_missing(policy.bans4.remove(&key))?,
            Place::Source6(key) => ignore_missing(policy.bans6.remove(&key))?,
            Place::Prefix4(_) | Place::Prefix6(_) => false,
        };
        Ok(self.erase_prefix(prefix)? || from_hash)
    }

    /// The trie's longest prefix that holds all of this one.
    fn longest_block(&self, prefix: IpNet) -> Result<Option<Ban>, NicError> {
        let value = match prefix {
            IpNet::V4(net) => found(self.policy.block4.get(&key4(net), 0))?,
            IpNet::V6(net) => found(self.policy.block6.get(&key6(net), 0))?,
        };
        Ok(value.map(|Plain(ban)| ban))
    }

    pub(super) fn longest_allow(&self, prefix: IpNet) -> Result<Option<u32>, NicError> {
        match prefix {
            IpNet::V4(net) => found(self.policy.allow4.get(&key4(net), 0)),
            IpNet::V6(net) => found(self.policy.allow6.get(&key6(net), 0)),
        }
    }

    /// A block as people see it, with the note that was left of it.
    fn record(
        &self,
        prefix: IpNet,
        ban: &Ban,
        (feeds, note): (&[(u8, Arc<str>)], Option<&Note>),
        now_ns: u64,
    ) -> BanRecord {
        let until = |at_ns: u64, from_ns: u64| Duration::from_nanos(at_ns.saturating_sub(from_ns));
        BanRecord {
            prefix,
            action: BanAction::of(ban),
            kind: BanKind::from_u8(ban.kind),
            origin: BanOrigin::from_u8(ban.origin),
            feed: ban.feed().and_then(|number| {
                feeds.iter().find(|(known, _)| *known == number).map(|(_, name)| Arc::clone(name))
            }),
            strikes: ban.strikes,
            drops: ban.drops + self.policy.front.drops(prefix, ban),
            expires_in: (ban.expires_at_ns != 0).then(|| until(ban.expires_at_ns, now_ns)),
            offence_to_first_drop: (ban.first_drop_at_ns != 0)
                .then(|| until(ban.first_drop_at_ns, ban.offence_at_ns)),
            note: note.map(unpack),
        }
    }
}

/// Every prefix of a trie that holds `whole`, longest first: the next one is looked for above the last one's length.
fn matches<V>(
    whole: IpNet,
    longest: impl Fn(IpNet) -> Result<Option<V>, NicError>,
    bits: impl Fn(&V) -> u8,
) -> Result<Vec<(IpNet, V)>, NicError> {
    let mut held_by = Vec::new();
    let mut next = Some(whole);
    while let Some(key) = next {
        let Some(value) = longest(key)? else { break };
        let Ok(prefix) = IpNet::new(whole.addr(), bits(&value)) else { break };
        let prefix = prefix.trunc();
        held_by.push((prefix, value));
        next = prefix.supernet();
    }
    Ok(held_by)
}

fn trie(prefix: IpNet) -> Place {
    match prefix {
        IpNet::V4(net) => Place::Prefix4(net),
        IpNet::V6(net) => Place::Prefix6(net),
    }
}

pub(super) fn expired(ban: &Ban, now_ns: u64) -> bool {
    ban.expires_at_ns != 0 && ban.expires_at_ns <= now_ns
}

/// A key that is not there is no error.
pub(super) fn found<V>(result: Result<V, MapError>) -> Result<Option<V>, NicError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether there was something to remove.
pub(super) fn ignore_missing(result: Result<(), MapError>) -> Result<bool, NicError> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if os_error(&error) == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A hash answers `E2BIG`, a trie `ENOSPC`.
pub(super) fn is_full(error: &MapError) -> bool {
    matches!(os_error(error), Some(libc::E2BIG | libc::ENOSPC))
}

fn os_error(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        MapError::KeyNotFound | MapError::ElementNotFound => Some(libc::ENOENT),
        _ => None,
    }
}

fn pack(note: &BanNote) -> Note {
    Note {
        route: text(&note.route),
        request_id: text(&note.request_id),
        at_unix_s: note.at_unix_s,
        offences: note.offences,
        reserved: 0,
    }
}

fn unpack(note: &Note) -> BanNote {
    BanNote {
        route: untext(&note.route),
        request_id: untext(&note.request_id),
        offences: note.offences,
        at_unix_s: note.at_unix_s,
    }
}

fn text<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let cut = text.floor_char_boundary(N);
    for (to, from) in bytes.iter_mut().zip(text.as_bytes().iter().take(cut)) {
        *to = *from;
    }
    bytes
}

fn untext(bytes: &[u8]) -> String {
    let used = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(used).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        #[track_caller]
        fn check(given: &str, kept: &str) {
            assert_eq!(untext(&text::<5>(given)), kept);
        }
        check("", "");
        check("route", "route");
        check("routes", "route");
        check("rout\u{e9}", "rout");
    }
}
