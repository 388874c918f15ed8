//! Where entries are handed in: a bounded queue to a thread of its own, which alone waits for the disk.
//!
//! Comes in: buffers of the workers, entries of control, a beat each second. Goes out: lines. A worker never waits: what
//! finds the queue full, or could not be written, is counted, and the chain says so in front of the next line that can
//! be written. Control may insist, and hears by a deadline whether its entry is on the disk.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc as std_mpsc,
    },
    time::Duration,
};

use thiserror::Error;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{Entry, Head, Ledger};
use crate::config;

/// Orders under way: buffers of 16 KiB at most, from workers.
const QUEUE_MAX: usize = 256;
/// How long whoever insists waits for the disk, and the end of the process for the last line.
const WAIT_MAX: Duration = Duration::from_secs(2);

enum Order {
    Take { entries: Vec<u8>, count: u64, unix_s: u64 },
    Insist { entry: Vec<u8>, unix_s: u64, done: oneshot::Sender<Result<(), String>> },
    Beat { unix_s: u64 },
    End { unix_s: u64 },
}

/// Somebody's end of the log. Cheap to clone; says nothing where the log is off.
#[derive(Clone, Default)]
pub struct Audit(Option<Desk>);

#[derive(Clone)]
struct Desk {
    queue: mpsc::Sender<Order>,
    tally: Arc<Tally>,
    /// A change that cannot be told is not made.
    refuse: bool,
    /// How long whoever insists waits.
    wait_max: Duration,
}

/// A change was not told, so that it must not be made.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("the audit log cannot be written: {0}")]
pub struct NotWritten(String);

#[derive(Default)]
struct Tally {
    lost: AtomicU64,
    errors: AtomicU64,
}

/// The thread that writes.
pub struct Writer {
    queue: mpsc::Sender<Order>,
    ended: std_mpsc::Receiver<()>,
}

/// Begins with `entry`. None of it where the log is off.
///
/// # Errors
/// The first line cannot be written, and changes that cannot be told are to be refused.
pub fn start(settings: &config::Audit, entry: Entry, unix_s: u64) -> io::Result<(Audit, Option<Writer>)> {
    let config::Audit::File(settings) = settings else { return Ok((Audit(None), None)) };
    let mut ledger = Ledger::new(settings);
    let tally = Arc::new(Tally::default());
    if let Err(error) = ledger.append_signed(&entry.into_bytes(), unix_s) {
        if settings.refuse {
            return Err(io::Error::new(error.kind(), format!("log.audit: {error}")));
        }
        log::error!("the audit log cannot be written: {error}");
        tally.lost.store(1, Relaxed);
        tally.errors.store(1, Relaxed);
    }
    let (queue, orders) = mpsc::channel(QUEUE_MAX);
    let (end, ended) = std_mpsc::channel();
    let scribe = Scribe {
        ledger,
        tally: Arc::clone(&tally),
        told_lost: 0,
        beats: 0,
        beats_per_checkpoint: settings.checkpoint.as_secs().max(1),
    };
    std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
        scribe.run(orders);
        drop(end);
    })?;
    let desk = Desk { queue: queue.clone(), tally, refuse: settings.refuse, wait_max: WAIT_MAX };
    Ok((Audit(Some(desk)), Some(Writer { queue, ended })))
}

impl Audit {
    /// Whether anybody wants to know.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Hands in an entry, without waiting.
    pub fn tell(&self, entry: Entry, unix_s: u64) {
        self.take(entry.into_bytes(), 1, unix_s);
    }

    /// Hands in a buffer of `count` entries, without waiting; false: they are lost, and counted.
    pub fn take(&self, entries: Vec<u8>, count: u64, unix_s: u64) -> bool {
        let Some(desk) = &self.0 else { return true };
        let taken = desk.queue.try_send(Order::Take { entries, count, unix_s }).is_ok();
        if !taken {
            desk.tally.lost.fetch_add(count, Relaxed);
        }
        taken
    }

    /// Has an entry written before what it tells is done.
    ///
    /// # Errors
    /// It is not on the disk by the deadline, and changes that cannot be told are to be refused.
    pub async fn insist(&self, entry: Entry, unix_s: u64) -> Result<(), NotWritten> {
        let Some(desk) = &self.0 else { return Ok(()) };
        let (done, written) = oneshot::channel();
        let order = Order::Insist { entry: entry.into_bytes(), unix_s, done };
        let asked = async {
            desk.queue.send(order).await.map_err(|_| "its writer has ended".to_owned())?;
            written.await.map_err(|_| "its writer has ended".to_owned())?
        };
        let answer = timeout(desk.wait_max, asked).await;
        let late = |_| Err(format!("its disk does not answer within {:?}", desk.wait_max));
        let written = answer.unwrap_or_else(late);
        match written {
            Err(error) if desk.refuse => Err(NotWritten(error)),
            _ => Ok(()),
        }
    }

    /// Once a second: what has waited long enough is signed.
    pub fn beat(&self, unix_s: u64) {
        if let Some(desk) = &self.0 {
            // One that finds the queue full is not missed: the next one comes in a second.
            let _ = desk.queue.try_send(Order::Beat { unix_s });
        }
    }

    /// Entries that are not in the log, and times that it could not be written.
    pub fn lost(&self) -> (u64, u64) {
        self.0
            .as_ref()
            .map_or((0, 0), |desk| (desk.tally.lost.load(Relaxed), desk.tally.errors.load(Relaxed)))
    }
}

impl Writer {
    /// Signs what there is; to be called when nobody hands in anything any more.
    pub fn end(self, unix_s: u64) {
        // A queue that is full still at the end stands before a disk that does not answer.
        let is_told = self.queue.try_send(Order::End { unix_s }).is_ok();
        if !is_told || self.ended.recv_timeout(WAIT_MAX) == Err(std_mpsc::RecvTimeoutError::Timeout) {
            log::error!("the audit log's last lines are not on the disk");
        }
    }
}

/// The thread's own.
struct Scribe {
    ledger: Ledger,
    tally: Arc<Tally>,
    /// Losses that the chain tells of.
    told_lost: u64,
    beats: u64,
    beats_per_checkpoint: u64,
}

impl Scribe {
    fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        while let Some(order) = orders.blocking_recv() {
            match order {
                Order::Take { entries, count, unix_s } => {
                    if self.write(&entries, unix_s, Ledger::append).is_err() {
                        self.tally.lost.fetch_add(count, Relaxed);
                    }
                }
                Order::Insist { entry, unix_s, done } => {
                    let written = self.write(&entry, unix_s, Ledger::append_signed);
                    if written.is_err() {
                        self.tally.lost.fetch_add(1, Relaxed);
                    }
                    // Whoever asked may have given up.
                    let _ = done.send(written);
                }
                Order::Beat { unix_s } => {
                    self.beats = self.beats.saturating_add(1);
                    let is_due = self.ledger.is_unsigned() && self.beats >= self.beats_per_checkpoint;
                    if (is_due || self.has_losses_to_tell()) && self.sign(unix_s).is_ok() {
                        self.beats = 0;
                    }
                }
                Order::End { unix_s } => {
                    if self.ledger.is_unsigned() || self.has_losses_to_tell() {
                        let _ = self.sign(unix_s);
                    }
                    return;
                }
            }
        }
    }

    fn has_losses_to_tell(&self) -> bool {
        self.tally.lost.load(Relaxed) > self.told_lost
    }

    fn sign(&mut self, unix_s: u64) -> Result<(), String> {
        self.write(b"", unix_s, Ledger::append_signed)?;
        // A witness that stands elsewhere: whoever cuts the file would have to change the journal as well.
        let head: Head = self.ledger.head();
        log::info!("audit: signed up to {head}");
        Ok(())
    }

    /// Behind a line that tells of what was lost, if anything was.
    fn write(
        &mut self,
        entries: &[u8],
        unix_s: u64,
        append: fn(&mut Ledger, &[u8], u64) -> io::Result<()>,
    ) -> Result<(), String> {
        let lost = self.tally.lost.load(Relaxed);
        let written = if lost > self.told_lost {
            let told = Entry::new(unix_s, "lost").number("lines", lost - self.told_lost);
            append(&mut self.ledger, &[&told.into_bytes(), entries].concat(), unix_s)
        } else {
            append(&mut self.ledger, entries, unix_s)
        };
        match written {
            Ok(()) => {
                self.told_lost = lost;
                Ok(())
            }
            Err(error) => {
                // Told at the first, second, fourth, … failure: a full disk must not fill the other log as well.
                if (self.tally.errors.fetch_add(1, Relaxed) + 1).is_power_of_two() {
                    log::error!("audit log: {error}");
                }
                Err(error.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A desk whose writer does nothing until its orders are looked at.
    fn idle_desk(refuse: bool) -> (Audit, mpsc::Receiver<Order>) {
        let (queue, orders) = mpsc::channel(1);
        (Audit(Some(Desk { queue, tally: Arc::default(), refuse, wait_max: Duration::ZERO })), orders)
    }

    #[test]
    fn a_full_queue_costs_entries_and_is_counted() {
        let (audit, mut orders) = idle_desk(true);
        let entry = || Entry::new(1, "refused");
        audit.tell(entry(), 1);
        audit.tell(entry(), 1);
        assert!(!audit.take([entry().into_bytes(), entry().into_bytes()].concat(), 2, 1));
        assert_eq!(audit.lost(), (3, 0));
        assert!(orders.try_recv().is_ok());
        assert!(audit.take(entry().into_bytes(), 1, 1), "there is room again");
    }

    #[tokio::test]
    async fn who_insists_hears_by_a_deadline() {
        for refuse in [true, false] {
            let (audit, orders) = idle_desk(refuse);
            let told = audit.insist(Entry::new(1, "reloaded"), 1).await;
            assert_eq!(told.is_err(), refuse, "a disk that does not answer");
            drop(orders);
            assert_eq!(audit.insist(Entry::new(1, "reloaded"), 1).await.is_err(), refuse, "no writer");
        }
        assert_eq!(Audit(None).insist(Entry::new(1, "reloaded"), 1).await, Ok(()));
    }
}
