//! The thread that keeps the feeds: it reads files, takes engines' answers, and writes tables and blocks.
//!
//! Comes in: orders, of which none waits for it, and what is [`Wanted`]. Goes out: what the program goes by, figures,
//! log lines, entries of the audit log. It knows no socket, and what it does takes as long as it takes.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use ipnet::IpNet;
use tokio::sync::mpsc;

use super::{
    Answer, Order, Tally, Wanted, decisions,
    parse::{self, FILE_BYTES_MAX, Parsed},
    unix_s,
};
use crate::{
    audit::{Audit, Entry, hex},
    config::{FEEDS_MAX, FeedSource},
    control::{
        certificates::{Stamp, stamp},
        protect::Protected,
    },
    nic::{self, Bans, List, NicError, Put, Ranges, monotonic_ns, nanos},
};

/// Orders between two looks at the files' dates.
const LOOK_EVERY_NS: u64 = 1_900_000_000;

/// After the tables could not be swapped, they are left alone for so long.
const PUBLISH_AGAIN_NS: u64 = 60_000_000_000;

/// Starts it; it ends when nobody can give it orders any more.
pub(super) fn spawn(
    pin_dir: PathBuf,
    wanted: Arc<ArcSwap<Wanted>>,
    mut orders: mpsc::Receiver<Order>,
    audit: Audit,
) -> io::Result<()> {
    thread::Builder::new().name("feeds".to_owned()).spawn(move || {
        let mut keeper = match Keeper::open(&pin_dir, audit) {
            Ok(keeper) => keeper,
            Err(error) => return log::error!("no feed is kept: {error}"),
        };
        while let Some(order) = orders.blocking_recv() {
            let wanted = wanted.load_full();
            if keeper.generation != wanted.generation {
                keeper.configure(&wanted);
            }
            match order {
                Order::Look => keeper.look(monotonic_ns()),
                Order::Answer(answer) => keeper.take(answer),
            }
        }
    })?;
    Ok(())
}

struct Keeper {
    tables: nic::Feeds,
    bans: Bans,
    audit: Audit,
    generation: u64,
    feeds: Vec<Kept>,
    protected: Option<Protected>,
    protected_ranges: Ranges,
    /// The tables are not what they should be.
    is_dirty: bool,
    publish_after_ns: u64,
    looked_at_ns: u64,
}

/// A feed as it is kept.
struct Kept {
    name: Arc<str>,
    number: u8,
    tally: Arc<Tally>,
    source: Source,
}

enum Source {
    File(ListFile),
    Engine(Engine),
}

/// A file and what it held when it was last of use.
struct ListFile {
    path: PathBuf,
    refresh: Duration,
    ranges: Arc<Ranges>,
    taken_at_unix_s: u64,
    /// How it looked when it was last read, and when it was last looked at.
    read: Option<Stamp>,
    seen: Option<Stamp>,
    due_at_ns: u64,
}

/// A list that was read and is another, and what it takes the place of.
struct Replaced {
    feed: u8,
    ranges: Arc<Ranges>,
    taken_at_unix_s: u64,
    entries: usize,
    sha256: String,
}

/// An engine's decisions that are carried out: when each ends.
#[derive(Default)]
struct Engine {
    known: HashMap<IpNet, u64>,
}

impl Keeper {
    fn open(pin_dir: &Path, audit: Audit) -> Result<Self, NicError> {
        Ok(Self {
            tables: nic::Feeds::open_pinned(pin_dir)?,
            bans: Bans::open_pinned(pin_dir)?,
            audit,
            generation: 0,
            feeds: Vec::new(),
            protected: None,
            protected_ranges: Ranges::default(),
            is_dirty: false,
            publish_after_ns: 0,
            looked_at_ns: 0,
        })
    }

    /// Another configuration, or another set of who is never blocked.
    fn configure(&mut self, wanted: &Wanted) {
        let is_first = self.generation == 0;
        self.generation = wanted.generation;
        let before = std::mem::replace(&mut self.protected_ranges, wanted.protected.ranges());
        let now = &self.protected_ranges;
        let changed = Ranges::union([&before.without(now), &now.without(&before)]);
        self.protected = Some(wanted.protected.clone());

        let left = self.tables.lists().unwrap_or_else(|error| {
            log::warn!("the feeds' last lists: {error}");
            Vec::new()
        });
        let mut old = std::mem::take(&mut self.feeds);
        for (feed, tally) in &wanted.feeds {
            let before = old.iter().position(|kept| kept.name == feed.name).map(|at| old.swap_remove(at));
            let last = left.iter().find(|list| list.name == feed.name);
            let number = before.as_ref().map(|kept| kept.number).or(last.map(|list| list.number));
            let taken = |number| self.feeds.iter().chain(&old).any(|kept| kept.number == number);
            let is_left = |number| left.iter().any(|list| list.number == number);
            let Some(number) = number.or_else(|| (1..=u8::MAX).find(|n| !taken(*n) && !is_left(*n))) else {
                log::error!("feed {}: more than {FEEDS_MAX} feeds", feed.name);
                continue;
            };
            let source = match (&feed.source, before.map(|kept| kept.source)) {
                (FeedSource::File(path), Some(Source::File(file))) => {
                    let is_same = file.path == *path;
                    Source::File(ListFile {
                        path: path.clone(),
                        refresh: feed.refresh,
                        read: file.read.filter(|_| is_same),
                        due_at_ns: if is_same { file.due_at_ns } else { 0 },
                        ..file
                    })
                }
                (FeedSource::File(path), _) => Source::File(ListFile {
                    path: path.clone(),
                    refresh: feed.refresh,
                    ranges: last.map_or_else(Arc::default, |list| Arc::clone(&list.ranges)),
                    taken_at_unix_s: last.map_or(0, |list| list.taken_at_unix_s),
                    read: None,
                    seen: None,
                    due_at_ns: 0,
                }),
                (FeedSource::CrowdSec(_), Some(Source::Engine(engine))) => Source::Engine(engine),
                (FeedSource::CrowdSec(_), _) => Source::Engine(Engine::default()),
            };
            if let Source::File(file) = &source {
                tally.entries.store(file.ranges.len() as u64, Relaxed);
                tally.useful_at_unix_s.store(file.taken_at_unix_s, Relaxed);
            }
            self.feeds.push(Kept { name: Arc::clone(&feed.name), number, tally: Arc::clone(tally), source });
        }
        let lists = self.lists();
        // Most of those who come and go are in no list.
        let matters = is_first || lists.iter().any(|list| list.ranges.overlaps(&changed));
        if lists != left || (matters && lists.iter().any(|list| !list.ranges.is_empty())) {
            self.is_dirty = true;
        }
        // What an earlier process has written down about its feeds' blocks is in the blocks themselves.
        if is_first || !old.is_empty() {
            self.adopt();
        }
        self.shield();
        self.looked_at_ns = 0;
    }

    /// Takes over the blocks of engines that are still asked, and ends those of feeds that are gone.
    fn adopt(&mut self) {
        let listed = match self.bans.all_listed() {
            Ok(listed) => listed,
            Err(error) => return log::error!("blocks of feeds are not taken over: {error}"),
        };
        for (prefix, number, expires_at_ns) in listed {
            let kept = self.feeds.iter_mut().find(|kept| kept.number == number);
            if let Some(Source::Engine(engine)) = kept.map(|kept| &mut kept.source) {
                engine.known.insert(prefix, expires_at_ns);
            } else if let Err(error) = self.bans.take_listed(number, prefix) {
                log::warn!("the block of {prefix} by a feed that is gone stays until it ends: {error}");
            }
        }
        for kept in &self.feeds {
            if let Source::Engine(engine) = &kept.source {
                kept.tally.entries.store(engine.known.len() as u64, Relaxed);
            }
        }
    }

    /// Ends blocks of those who are never blocked.
    fn shield(&mut self) {
        let Some(protected) = &self.protected else { return };
        for kept in &mut self.feeds {
            let Source::Engine(engine) = &mut kept.source else { continue };
            for (prefix, _) in engine.known.extract_if(|prefix, _| protected.overlaps(prefix)) {
                if let Err(error) = self.bans.take_listed(kept.number, prefix) {
                    log::warn!("feed {}: {prefix} stays blocked: {error}", kept.name);
                }
            }
        }
    }

    /// Reads what is due, and swaps the tables where that has changed them.
    fn look(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.looked_at_ns) < LOOK_EVERY_NS && !self.is_dirty {
            return;
        }
        self.looked_at_ns = now_ns;
        let mut before = Vec::new();
        for kept in &mut self.feeds {
            let Source::File(file) = &mut kept.source else { continue };
            if !file.is_due(now_ns) {
                continue;
            }
            match file.read_again(now_ns) {
                Ok((parsed, sha256)) => {
                    if *file.ranges == parsed.ranges && file.taken_at_unix_s != 0 {
                        kept.tally.unchanged.fetch_add(1, Relaxed);
                        kept.tally.was_useful();
                        continue;
                    }
                    let ranges = std::mem::replace(&mut file.ranges, Arc::new(parsed.ranges));
                    let taken_at_unix_s = std::mem::replace(&mut file.taken_at_unix_s, unix_s());
                    let (feed, entries) = (kept.number, parsed.entries);
                    before.push(Replaced { feed, ranges, taken_at_unix_s, entries, sha256 });
                    self.is_dirty = true;
                }
                Err(problem) => {
                    kept.tally.failed.fetch_add(1, Relaxed);
                    log::error!("feed {}: {} {problem}; its last list stays", kept.name, file.path.display());
                }
            }
        }
        if !before.is_empty() || (self.is_dirty && now_ns >= self.publish_after_ns) {
            self.publish(before);
        }
    }

    /// Swaps the tables. Where that fails, the feeds keep the lists `before`.
    fn publish(&mut self, before: Vec<Replaced>) {
        let result = self.tables.publish(&self.lists(), &self.protected_ranges);
        self.is_dirty = result.is_err();
        match result {
            Ok(published) => log::info!(
                "feeds: {} ranges of IPv4 and {} of IPv6 in force; merged in {:?}, filled in {:?}, swapped in {:?}",
                published.ranges.0,
                published.ranges.1,
                published.merge,
                published.fill,
                published.swap,
            ),
            Err(ref error) => {
                self.publish_after_ns = monotonic_ns().saturating_add(PUBLISH_AGAIN_NS);
                log::error!("the feeds' tables stay as they are: {error}");
            }
        }
        for Replaced { feed, ranges, taken_at_unix_s, entries, sha256 } in before {
            let Some(kept) = self.feeds.iter_mut().find(|kept| kept.number == feed) else { continue };
            let Source::File(file) = &mut kept.source else { continue };
            if result.is_ok() {
                kept.tally.taken.fetch_add(1, Relaxed);
                kept.tally.was_useful();
                kept.tally.entries.store(file.ranges.len() as u64, Relaxed);
                log::info!("feed {}: {entries} entries, {} ranges", kept.name, file.ranges.len());
                let entry = changed(&kept.name, ranges.len(), file.ranges.len())
                    .number("entries", entries as u64)
                    .text("file", &file.path.display().to_string())
                    .text("sha256", &sha256);
                self.audit.tell(entry, unix_s());
            } else {
                kept.tally.failed.fetch_add(1, Relaxed);
                (file.ranges, file.taken_at_unix_s) = (ranges, taken_at_unix_s);
            }
        }
    }

    /// For the catalogue: every feed, those of engines without ranges.
    fn lists(&self) -> Vec<List> {
        let list = |kept: &Kept| {
            let (ranges, taken_at_unix_s) = match &kept.source {
                Source::File(file) => (Arc::clone(&file.ranges), file.taken_at_unix_s),
                Source::Engine(_) => (Arc::default(), 0),
            };
            List { name: Arc::clone(&kept.name), number: kept.number, taken_at_unix_s, ranges }
        };
        self.feeds.iter().map(list).collect()
    }

    /// Carries out an engine's answer.
    fn take(&mut self, answer: Answer) {
        // Its number is written down before any block carries it.
        if self.is_dirty {
            self.publish(Vec::new());
        }
        let result = self.carry_out(&answer);
        // Who waited may have been aborted by a reload.
        let _ = answer.taken.send(result);
    }

    fn carry_out(&mut self, answer: &Answer) -> Result<(), String> {
        let protected = self.protected.as_ref();
        let kept = self.feeds.iter_mut().find(|kept| kept.name == answer.feed);
        let Some(Kept { name, number, tally, source: Source::Engine(engine) }) = kept else {
            return Err("it is no longer configured".to_owned());
        };
        let decisions =
            decisions::parse(&answer.body).map_err(|error| format!("its answer makes no sense: {error}"))?;
        let now_ns = monotonic_ns();
        let bans = &mut self.bans;
        engine.known.retain(|_, expires_at_ns| *expires_at_ns > now_ns);
        let before = engine.known.len();
        let mut over: Vec<IpNet> = decisions.deleted;
        if answer.is_whole {
            let new: HashSet<IpNet> = decisions.new.iter().map(|(prefix, _)| *prefix).collect();
            over.extend(engine.known.keys().filter(|prefix| !new.contains(*prefix)));
        }
        let (mut added, mut lifted) = (0, 0);
        let mut failure = None;
        for prefix in over {
            lifted += u64::from(engine.known.remove(&prefix).is_some());
            failure = bans.take_listed(*number, prefix).err().or(failure);
        }
        let (mut protected_ones, mut held, mut full) = (0, 0, 0);
        for (prefix, lasts) in decisions.new {
            if protected.is_some_and(|protected| protected.overlaps(&prefix)) {
                protected_ones += 1;
                continue;
            }
            let lasts_ns = nanos(lasts);
            let expires_at_ns = now_ns.saturating_add(lasts_ns);
            match bans.put_listed(*number, prefix, expires_at_ns, now_ns) {
                Ok(Put::Written) => {
                    added += u64::from(engine.known.insert(prefix, expires_at_ns).is_none());
                }
                Ok(Put::Held) => held += 1,
                Err(NicError::Full) => full += 1,
                Err(error) => failure = Some(error),
            }
        }
        let ignored = decisions.ignored;
        for (count, more) in [
            (&tally.scopes, ignored.scopes),
            (&tally.types, ignored.types),
            (&tally.values, ignored.values),
            (&tally.simulated, ignored.simulated),
            (&tally.protected, protected_ones),
            (&tally.held, held),
            (&tally.full, full),
        ] {
            count.fetch_add(more, Relaxed);
        }
        if full > 0 {
            log::error!(
                "feed {name}: {full} decisions are not carried out: prefilter.entries_max is reached"
            );
        }
        tally.entries.store(engine.known.len() as u64, Relaxed);
        if added + lifted > 0 {
            let entry = changed(name, before, engine.known.len());
            self.audit.tell(entry.number("added", added).number("lifted", lifted), unix_s());
        }
        if let Some(error) = failure {
            return Err(format!("not all of its decisions are carried out: {error}"));
        }
        tally.taken.fetch_add(1, Relaxed);
        tally.was_useful();
        Ok(())
    }
}

/// A line for each change, however much it changes: the lists themselves are others', and may be long.
fn changed(feed: &str, before: usize, now: usize) -> Entry {
    let entry = Entry::new(unix_s(), "feed_changed").text("feed", feed);
    entry.number("listed_before", before as u64).number("listed", now as u64)
}

impl ListFile {
    /// It has changed and then stood still between two looks, or its time has come.
    fn is_due(&mut self, now_ns: u64) -> bool {
        let now = stamp(&self.path);
        let is_still = now == self.seen;
        self.seen = now;
        now_ns >= self.due_at_ns || (is_still && now.is_some() && now != self.read)
    }

    /// What it lists, and its SHA-256. The error is the end of a sentence that began with the file's name.
    fn read_again(&mut self, now_ns: u64) -> Result<(Parsed, String), String> {
        let refresh_ns = nanos(self.refresh);
        self.due_at_ns = now_ns.saturating_add(refresh_ns);
        self.read = stamp(&self.path);
        let file = File::open(&self.path).map_err(|error| format!("cannot be read: {error}"))?;
        let mut bytes = Vec::new();
        let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
        read.map_err(|error| format!("cannot be read: {error}"))?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(format!("is larger than {} MiB", FILE_BYTES_MAX >> 20));
        }
        if bytes.is_empty() {
            return Err("is empty".to_owned());
        }
        if stamp(&self.path) != self.read {
            self.read = None;
            return Err("is being written".to_owned());
        }
        let parsed = parse::parse(&bytes).map_err(|error| format!("is no list: {error}"))?;
        Ok((parsed, hex(digest(&SHA256, &bytes).as_ref())))
    }
}
