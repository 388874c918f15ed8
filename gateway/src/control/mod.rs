//! Everything slow, on one thread: what workers report becomes blocks at the NIC, and the world's changes become
//! policy.
//!
//! Comes in: offences, counters, signals, probes of upstream servers, questions of the admin listener. Goes out:
//! blocks, log lines, metrics, policy snapshots, which servers are live. It never serves a client's request, and no
//! worker ever waits for it. What decides (`escalate`, `protect`, the state machine of `health`) is pure; this file
//! is the loop around it.

mod admins;
mod pressure;
pub mod protect;
pub mod escalate;
pub mod health;
pub mod syn_flood;
mod names;
mod client;
mod blocks;
mod certificates;
mod keys;
pub mod feeds;
pub mod auth;
mod policy;
mod metrics;
mod admin;
mod watchdog;

use std::{
    future::pending,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
    time::{MissedTickBehavior, interval},
};

use crate::{
    audit::{Audit, Entry, hex},
    config::{self, Config},
    decide::{Snapshot, known::Known, limit},
    nic::{Filter, monotonic_ns},
    respond::Offence,
    telemetry::{AccessWriter, Cells},
};
use admin::{Attached, Health, QUESTIONS_MAX, Question};
use blocks::Blocks;
pub use blocks::admin_ports;
pub(crate) use blocks::listener_ports;
pub use certificates::{Certificates, CertificatesError, Slot};
use feeds::Feeds;
use keys::Keeper;
pub use keys::{KeptKey, keys_of};
use metrics::{Metrics, Sources};
pub use names::Names;
use policy::Read;
pub use policy::{Enforcement, Publisher, SnapshotError};
use watchdog::Watchdog;

/// Offences that wait for the control thread, over all workers.
pub const OFFENCES_MAX: usize = 65_536;
/// Offences taken in one turn.
const OFFENCES_PER_TURN: usize = 1024;
/// The XDP program takes user space for dead after five seconds without this.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often floods of SYNs are looked for.
const LOOK: Duration = Duration::from_millis(100);

/// What the control thread is given.
pub struct Equipment {
    /// Where the configuration is, for SIGHUP.
    pub config_file: PathBuf,
    /// Compiles configurations and publishes what comes out.
    pub publisher: Publisher,
    /// The filter, where interfaces are configured and it could be attached.
    pub filter: Option<Filter>,
    /// What the workers see.
    pub offences: mpsc::Receiver<Offence>,
    /// What the workers count.
    pub cells: Vec<Arc<Cells>>,
    /// Their buckets.
    pub limiter: Arc<limit::Table>,
    /// Where authenticated consumers come from.
    pub known: Arc<Known>,
    /// The access log's writer.
    pub access: AccessWriter,
    /// Where changes are written down.
    pub audit: Audit,
    /// Set when no new connections are wanted.
    pub draining: Arc<AtomicBool>,
    /// The workers' threads, in the order of their numbers.
    pub workers: Vec<thread::JoinHandle<()>>,
    /// Where the servers are.
    pub names: Names,
    /// What listeners show.
    pub certificates: Certificates,
}

struct Control {
    config_file: PathBuf,
    publisher: Publisher,
    blocks: Blocks,
    /// Where there is a filter.
    feeds: Option<Feeds>,
    metrics: Metrics,
    cells: Vec<Arc<Cells>>,
    limiter: Arc<limit::Table>,
    access: AccessWriter,
    audit: Audit,
    workers: Vec<thread::JoinHandle<()>>,
    checks: health::Checks,
    names: Names,
    certificates: Certificates,
    keys: Keeper,
    reading: Reading,
    watchdog: Watchdog,
}

/// A configuration that is read again, beside the loop: that of a large site takes seconds, and blocks do not wait.
#[derive(Default)]
struct Reading {
    under_way: Option<JoinHandle<Result<Read, SnapshotError>>>,
    /// It was asked for again meanwhile.
    again: bool,
}

/// The thread that all of this runs on: the one that holds it.
pub struct Thread(tokio::runtime::Runtime);

impl Thread {
    /// Nothing runs yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self(tokio::runtime::Builder::new_current_thread().enable_all().build()?))
    }

    /// The names of the servers, before anybody asks for one. See [`Names::resolve`].
    pub fn resolve(&self, publisher: &Publisher) -> Names {
        self.0.block_on(Names::resolve(&publisher.current(), None))
    }

    /// Runs until SIGTERM or SIGINT; the workers then drain. A second signal ends the process at once.
    ///
    /// Errors: the admin listener's address, or signals, can't be had.
    pub fn run(&self, equipment: Equipment) -> io::Result<()> {
        tokio::task::LocalSet::new().block_on(&self.0, steer(equipment))
    }
}

async fn steer(equipment: Equipment) -> io::Result<()> {
    let Equipment {
        config_file,
        publisher,
        filter,
        mut offences,
        cells,
        limiter,
        known,
        access,
        audit,
        draining,
        workers,
        names,
        certificates,
    } = equipment;
    let snapshot = publisher.current();
    let (questions, mut asked) = mpsc::channel(QUESTIONS_MAX);
    if let Some(settings) = &snapshot.config.admin {
        let listener = admin::bind(&settings.address)
            .map_err(|error| io::Error::new(error.kind(), format!("admin listener: {error}")))?;
        tokio::spawn(async move {
            if let Err(error) = admin::serve(listener, questions).await {
                log::error!("the admin listener ended: {error}");
            }
        });
    }
    let has_filter = filter.is_some();
    let blocks = Blocks::new(&snapshot, filter, known, audit.clone());
    let feeds = has_filter
        .then(|| Feeds::start(&snapshot, blocks.protected(&snapshot), audit.clone()))
        .transpose()?;
    let mut control = Control {
        config_file,
        checks: health::Checks::start(&snapshot),
        publisher,
        blocks,
        feeds,
        metrics: Metrics::new(),
        cells,
        limiter,
        access,
        audit,
        workers,
        names,
        certificates,
        keys: Keeper::start()?,
        reading: Reading::default(),
        watchdog: Watchdog::default(),
    };
    control.keys.follow(control.publisher.take_stores());
    let mut end = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let mut hangup = signal(SignalKind::hangup())?;
    let mut beat = interval(HEARTBEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut batch = Vec::with_capacity(OFFENCES_PER_TURN);
    let [terminate, interrupt] = &mut end;
    loop {
        tokio::select! {
            // In no fixed order: offences without end must starve neither the heartbeat nor a signal.
            taken = offences.recv_many(&mut batch, OFFENCES_PER_TURN) => {
                if taken == 0 {
                    return Err(io::Error::other("all workers have ended unexpectedly"));
                }
                control.blocks.observe(batch.drain(..), monotonic_ns());
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => control.read_again(),
            read = control.reading.done() => control.reload(read).await,
            () = control.names.moved() => control.protect(),
            _ = beat.tick() => control.beat()?,
            _ = look.tick() => control.look(),
            Some(question) = asked.recv() => control.answer(question),
        }
    }
    log::info!("draining: no new connections, open ones may finish");
    control.audit.tell(Entry::new(unix_s(), "stopping"), unix_s());
    draining.store(true, Ordering::Relaxed);
    tokio::spawn(async move {
        let mut again = end;
        let [terminate, interrupt] = &mut again;
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        log::warn!("second signal: ending now");
        std::process::exit(1);
    });
    let drained = control.serve_while_draining(&mut asked, &mut beat).await;
    control.blocks.end();
    drained
}

impl Control {
    fn read_again(&mut self) {
        self.access.reopen();
        self.reading.start(&self.config_file, self.publisher.current());
    }

    /// A new configuration is taken whole or not at all.
    async fn reload(&mut self, read: Result<Read, SnapshotError>) {
        if std::mem::take(&mut self.reading.again) {
            self.reading.start(&self.config_file, self.publisher.current());
        }
        let prepared = read.and_then(|read| self.publisher.prepare(read)).and_then(|snapshot| {
            let certificates = self.certificates.prepare(&snapshot.config)?;
            Ok((snapshot, certificates))
        });
        match self.write_down(prepared).await {
            Ok((snapshot, certificates)) => {
                // Before anybody asks for a server that has only a name so far.
                self.names = Names::resolve(&snapshot, Some(&self.names)).await;
                self.publisher.publish(&snapshot);
                self.certificates.publish(certificates);
                self.keys.follow(self.publisher.take_stores());
                self.blocks.reconfigure(&snapshot);
                if let Some(feeds) = &mut self.feeds {
                    feeds.reconfigure(&snapshot, self.blocks.protected(&snapshot));
                }
                self.checks = health::Checks::start(&snapshot);
                log::info!("configuration reloaded (generation {})", snapshot.generation);
            }
            Err(error) => {
                log::error!("configuration not reloaded, the old one stays:\n{error}");
                let refused = Entry::new(unix_s(), "configuration_refused").text("why", &error.to_string());
                self.audit.tell(refused, unix_s());
            }
        }
    }

    /// A change is written down before it is made.
    async fn write_down<T>(
        &self,
        prepared: Result<(Arc<Snapshot>, T), SnapshotError>,
    ) -> Result<(Arc<Snapshot>, T), SnapshotError> {
        let (snapshot, rest) = prepared?;
        let entry = Entry::new(unix_s(), "configured")
            .number("generation", snapshot.generation)
            .texts("files", fingerprints(&snapshot.config));
        self.audit.insist(entry, unix_s()).await?;
        Ok((snapshot, rest))
    }

    /// Servers have moved: who is never blocked.
    fn protect(&mut self) {
        let snapshot = self.publisher.current();
        self.blocks.protect(&snapshot);
        if let Some(feeds) = &mut self.feeds {
            feeds.protect(self.blocks.protected(&snapshot));
        }
    }

    fn answer(&mut self, question: Question) {
        let snapshot = self.publisher.current();
        // Whoever asked may have left; then nobody misses the answer.
        let _ = match question {
            Question::Metrics(answer) => {
                let mut sources = Sources {
                    cells: &self.cells,
                    limiter: &self.limiter,
                    access: &self.access,
                    audit: &self.audit,
                    snapshot: &snapshot,
                    publisher: &self.publisher,
                    names: &self.names,
                    certificates: &self.certificates,
                    keys: &self.keys,
                    blocks: &mut self.blocks,
                    feeds: self.feeds.as_ref(),
                };
                answer.send(self.metrics.render(&mut sources)).is_ok()
            }
            Question::Health(answer) => {
                let filter = self.blocks.attached();
                let filter = filter.map(|(interface, mode)| Attached { interface, mode }).collect();
                let (workers, generation) = (self.cells.len(), snapshot.generation);
                let pressure = self.blocks.pressure().label();
                answer.send(Health { status: "ok", workers, generation, pressure, filter }).is_ok()
            }
            Question::Bans(answer) => answer.send(self.blocks.list()).is_ok(),
        };
    }

    /// Once a second. A worker whose thread has ended takes its share of the connections with it: better to end and
    /// be started again than to serve a part of the clients.
    fn beat(&mut self) -> io::Result<()> {
        let snapshot = self.publisher.current();
        self.blocks.beat(&snapshot, monotonic_ns());
        if let Some(feeds) = &mut self.feeds {
            feeds.protect(self.blocks.protected(&snapshot));
            feeds.beat();
        }
        self.certificates.beat(&self.audit);
        self.audit.beat(unix_s());
        self.publisher.beat();
        match self.workers.iter().position(thread::JoinHandle::is_finished) {
            Some(worker) => Err(io::Error::other(format!("worker {worker} has ended unexpectedly"))),
            None => self.look_after_workers(),
        }
    }

    fn look(&mut self) {
        let accepted = self.cells.iter().map(|cells| cells.opened()).sum();
        self.blocks.look(accepted, monotonic_ns());
    }

    /// One that is stuck is as good as ended.
    fn look_after_workers(&mut self) -> io::Result<()> {
        let workers = self.workers.iter().zip(&self.cells);
        let sweeps = workers.map(|(thread, cells)| (!thread.is_finished()).then(|| cells.sweeps()));
        match self.watchdog.beat(sweeps) {
            Some(worker) => Err(io::Error::other(format!("worker {worker} is stuck"))),
            None => Ok(()),
        }
    }

    /// The filter's heart and the admin listener go on until the last worker has ended.
    async fn serve_while_draining(
        &mut self,
        asked: &mut mpsc::Receiver<Question>,
        beat: &mut tokio::time::Interval,
    ) -> io::Result<()> {
        while !self.workers_have_ended() {
            tokio::select! {
                _ = beat.tick() => {
                    self.blocks.beat(&self.publisher.current(), monotonic_ns());
                    self.look_after_workers()?;
                }
                Some(question) = asked.recv() => self.answer(question),
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
        }
        Ok(())
    }

    fn workers_have_ended(&self) -> bool {
        self.workers.iter().all(thread::JoinHandle::is_finished)
    }
}

impl Reading {
    fn start(&mut self, file: &Path, before: Arc<Snapshot>) {
        if self.under_way.is_some() {
            self.again = true;
            return;
        }
        let file = file.to_owned();
        self.under_way = Some(spawn_blocking(move || Read::file(&file, &before)));
    }

    /// Never, where nothing is read.
    async fn done(&mut self) -> Result<Read, SnapshotError> {
        let Some(under_way) = &mut self.under_way else { return pending().await };
        let read = under_way.await;
        self.under_way = None;
        read.unwrap_or_else(|error| Err(error.into()))
    }
}

/// What is odd about the key stores of a configuration.
///
/// # Errors
/// One of them cannot be read.
pub fn check_stores(config: &Config) -> Result<Vec<String>, SnapshotError> {
    Ok(keys::odd_roles(config, &keys::open(config, None)?))
}

/// Every file of a configuration with its SHA-256, as `sha256sum` prints it.
pub(crate) fn fingerprints(config: &Config) -> impl Iterator<Item = String> {
    config.files.iter().map(|(path, hash)| format!("{}  {}", hex(hash), path.display()))
}

/// Since the epoch: for what people read, and for what others have dated.
#[expect(clippy::disallowed_methods, reason = "the control side's clock")]
fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn unix_s() -> u64 {
    since_epoch().as_secs()
}

/// For a gauge.
#[expect(clippy::cast_precision_loss, reason = "a gauge past 2^53 is past caring")]
fn float(count: u64) -> f64 {
    count as f64
}

/// Whether listeners differ in nothing but what they show under TLS, and whom they ask to show something.
fn same_but_for_certificates(old: &[config::Listener], new: &[config::Listener]) -> bool {
    let same = |(old, new): (&config::Listener, &config::Listener)| {
        let in_clear = |listener: &config::Listener| config::Listener { tls: None, ..listener.clone() };
        old.tls.is_some() == new.tls.is_some() && in_clear(old) == in_clear(new)
    };
    old.len() == new.len() && old.iter().zip(new).all(same)
}

/// What of a configuration cannot change without a restart.
fn needs_restart(old: &Config, new: &Config) -> Option<&'static str> {
    if !same_but_for_certificates(&old.listeners, &new.listeners) {
        return Some("[listeners]");
    }
    if old.admin != new.admin {
        return Some("the admin listener");
    }
    if old.runtime != new.runtime {
        return Some("[runtime]");
    }
    if old.log != new.log {
        return Some("[log]");
    }
    let (a, b) = (&old.prefilter, &new.prefilter);
    if a.interfaces.is_empty() != b.interfaces.is_empty() || a.pin_dir != b.pin_dir {
        return Some("prefilter.interfaces (from or to none) and prefilter.pin_dir");
    }
    None
}
