//! Block lists that others keep: files that are read again and again, and CrowdSec engines that are asked.
//!
//! Comes in: `[prefilter.feeds]`, who is never blocked, a beat each second. Goes out: tables and blocks at the NIC, and
//! figures; a line in the audit log for each list that has changed. All that takes long (reading, parsing, merging, filling tables) happens on a thread of its own, [`keeper`];
//! the control loop only says that a second has passed, and asks engines. What cannot be read or reached leaves what
//! was there before in force.

pub mod parse;
pub mod decisions;
mod crowdsec;
mod keeper;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use metrics::{counter, gauge};
use tokio::{
    sync::{mpsc, oneshot},
    task::AbortHandle,
};

use super::{float, protect::Protected, unix_s};
use crate::{
    audit::Audit,
    config::{Feed, FeedSource},
    decide::Snapshot,
};

/// Orders that may wait for the keeper. A beat that finds no place is as good as the next one.
const ORDERS_MAX: usize = 64;

/// The feeds of the configuration in force.
pub(super) struct Feeds {
    wanted: Arc<ArcSwap<Wanted>>,
    orders: mpsc::Sender<Order>,
    engines: Vec<Engine>,
}

/// What the keeper goes by.
struct Wanted {
    feeds: Vec<(Feed, Arc<Tally>)>,
    protected: Protected,
    /// Differs from all others.
    generation: u64,
}

/// What the keeper is told.
enum Order {
    /// A second has passed.
    Look,
    /// An engine has answered.
    Answer(Answer),
}

/// What an engine has said.
struct Answer {
    feed: Arc<str>,
    body: Bytes,
    /// It is all that there is, not what has changed.
    is_whole: bool,
    /// Told whether it was taken.
    taken: oneshot::Sender<Result<(), String>>,
}

/// An engine that is asked, as long as this lives.
struct Engine {
    feed: Feed,
    task: AbortHandle,
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is counted of a feed.
#[derive(Debug, Default)]
struct Tally {
    /// What it lists: ranges, or blocks in force.
    entries: AtomicU64,
    /// When it was last of use, seconds since the epoch; 0: never.
    useful_at_unix_s: AtomicU64,
    /// How often it was read or asked, by result.
    taken: AtomicU64,
    unchanged: AtomicU64,
    failed: AtomicU64,
    /// Decisions that led to no block, by cause.
    scopes: AtomicU64,
    types: AtomicU64,
    values: AtomicU64,
    simulated: AtomicU64,
    protected: AtomicU64,
    held: AtomicU64,
    full: AtomicU64,
}

impl Feeds {
    /// Follows the feeds of `snapshot`, into the maps that are pinned for it. Call it inside the control thread's runtime.
    pub(super) fn start(snapshot: &Snapshot, protected: Protected, audit: Audit) -> io::Result<Self> {
        let (orders, ordered) = mpsc::channel(ORDERS_MAX);
        let wanted = Arc::new(ArcSwap::from_pointee(Wanted {
            feeds: Vec::new(),
            protected: protected.clone(),
            generation: 0,
        }));
        keeper::spawn(snapshot.config.prefilter.pin_dir.clone(), Arc::clone(&wanted), ordered, audit)?;
        let mut feeds = Self { wanted, orders, engines: Vec::new() };
        feeds.reconfigure(snapshot, protected);
        Ok(feeds)
    }

    /// Another configuration; feeds that are in both go on.
    pub(super) fn reconfigure(&mut self, snapshot: &Snapshot, protected: Protected) {
        let before = self.wanted.load_full();
        let feeds: Vec<(Feed, Arc<Tally>)> = (snapshot.config.prefilter.feeds.iter())
            .map(|feed| {
                let known = before.feeds.iter().find(|(other, _)| other.name == feed.name);
                (feed.clone(), known.map(|(_, tally)| Arc::clone(tally)).unwrap_or_default())
            })
            .collect();
        self.engines.retain(|engine| feeds.iter().any(|(feed, _)| *feed == engine.feed));
        self.want(feeds.clone(), protected, &before);
        for (feed, tally) in feeds {
            let FeedSource::CrowdSec(crowdsec) = &feed.source else { continue };
            if self.engines.iter().all(|engine| engine.feed != feed) {
                let asking = crowdsec::follow(feed.clone(), (**crowdsec).clone(), self.orders.clone(), tally);
                let task = tokio::task::spawn_local(asking).abort_handle();
                self.engines.push(Engine { feed, task });
            }
        }
    }

    /// Who is never blocked, which changes when servers move and administrators come and go.
    pub(super) fn protect(&mut self, protected: Protected) {
        let before = self.wanted.load_full();
        if before.protected != protected {
            self.want(before.feeds.clone(), protected, &before);
        }
    }

    fn want(&mut self, feeds: Vec<(Feed, Arc<Tally>)>, protected: Protected, before: &Wanted) {
        let generation = before.generation + 1;
        self.wanted.store(Arc::new(Wanted { feeds, protected, generation }));
        self.beat();
    }

    /// Once a second.
    pub(super) fn beat(&mut self) {
        // A full queue means that the keeper is at work; it looks at everything when it is through.
        let _ = self.orders.try_send(Order::Look);
    }

    /// Tells the metrics.
    pub(super) fn fold(&self) {
        let now_s = unix_s();
        for (feed, tally) in &self.wanted.load().feeds {
            let name = || feed.name.to_string();
            gauge!("portcullis_feed_entries", "feed" => name()).set(float(tally.entries.load(Relaxed)));
            let useful_at_s = tally.useful_at_unix_s.load(Relaxed);
            if useful_at_s != 0 {
                let age = float(now_s.saturating_sub(useful_at_s));
                gauge!("portcullis_feed_age_seconds", "feed" => name()).set(age);
            }
            let results =
                [("taken", &tally.taken), ("unchanged", &tally.unchanged), ("failed", &tally.failed)];
            for (result, count) in results {
                counter!("portcullis_feed_refreshes_total", "feed" => name(), "result" => result)
                    .absolute(count.load(Relaxed));
            }
            if let FeedSource::CrowdSec(_) = feed.source {
                for (cause, count) in tally.ignored() {
                    counter!("portcullis_feed_ignored_total", "feed" => name(), "cause" => cause)
                        .absolute(count);
                }
            }
        }
    }
}

impl Tally {
    fn ignored(&self) -> [(&'static str, u64); 7] {
        [
            ("scope", &self.scopes),
            ("type", &self.types),
            ("value", &self.values),
            ("simulated", &self.simulated),
            ("protected", &self.protected),
            ("held", &self.held),
            ("full", &self.full),
        ]
        .map(|(cause, count)| (cause, count.load(Relaxed)))
    }

    fn was_useful(&self) {
        self.useful_at_unix_s.store(unix_s(), Relaxed);
    }
}
