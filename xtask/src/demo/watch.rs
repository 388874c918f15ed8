//! The watch: what the gateway counts and blocks, asked for while the story goes on, and shown every second.
//!
//! Comes in: the gateway's metrics and its list of blocks. Goes out: pictures, and the memory of every block seen,
//! because a block that has ended is listed no longer.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use xtask::lab::{
    gateway::{Ban, names},
    metrics::Metrics,
    wait,
};

use super::{
    cast::{HonestTally, Players},
    stage::Stage,
    view::{Picture, Screen},
};

/// Between two pictures.
const PICTURE_EVERY: Duration = Duration::from_secs(1);

/// What the story and the view share.
#[derive(Default)]
pub(super) struct Watch {
    ended: AtomicBool,
    act: Mutex<&'static str>,
    /// Every block seen, by source, as it was last told.
    bans: Mutex<BTreeMap<String, Ban>>,
}

/// Ends the watch, also when the story breaks off.
pub(super) struct EndOfWatch<'a>(pub(super) &'a Watch);

impl Drop for EndOfWatch<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

impl Watch {
    /// Says what is going on now.
    pub(super) fn act(&self, act: &'static str) {
        *lock(&self.act) = act;
    }

    /// Every block seen so far, by source.
    pub(super) fn bans_seen(&self) -> BTreeMap<String, Ban> {
        lock(&self.bans).clone()
    }

    /// Asks for the blocks that hold now and remembers them.
    pub(super) fn look_at_bans(&self, stage: &Stage) -> Vec<Ban> {
        let bans = stage.gateway.bans().unwrap_or_else(|error| {
            log::warn!("{error:#}");
            Vec::new()
        });
        let mut seen = lock(&self.bans);
        for ban in &bans {
            seen.insert(ban.source.clone(), ban.clone());
        }
        bans
    }

    /// Whether a packet of this source has been dropped by its block.
    pub(super) fn first_drop_is_known(&self, source: &str) -> bool {
        let seen = lock(&self.bans);
        // An address may be told with its prefix length.
        seen.values().any(|ban| ban.source.starts_with(source) && ban.offence_to_first_drop_ms.is_some())
    }

    /// Shows a picture every second until the story has ended.
    pub(super) fn show(
        &self,
        stage: &Stage,
        honest: &Players<HonestTally>,
        began: Instant,
        mut screen: Screen,
    ) {
        let mut last = (Instant::now(), 0, 0);
        let ended = || self.ended.load(Ordering::Relaxed).then_some(());
        while wait::until(PICTURE_EVERY, ended).is_none() {
            let Ok(metrics) = stage.gateway.metrics() else { continue };
            let tally = honest.tally();
            let answers = counts(metrics.sum_by(names::RESPONSES, "status", &[]));
            let drops = drops_by_reason(&metrics);
            let now = (Instant::now(), answers.values().sum(), drops.values().sum());
            let picture = Picture {
                elapsed: began.elapsed(),
                act: (*lock(&self.act)).into(),
                answers_per_s: per_s(now.1, last.1, now.0 - last.0),
                drops_per_s: per_s(now.2, last.2, now.0 - last.0),
                answers,
                drops,
                bans: self.look_at_bans(stage),
                honest: (tally.requests, tally.failures),
            };
            last = now;
            if screen.show(&picture).is_err() {
                // Nobody looks any more.
                return;
            }
        }
    }
}

fn per_s(now: u64, before: u64, elapsed: Duration) -> u64 {
    let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    now.saturating_sub(before).saturating_mul(1000) / elapsed_ms
}

/// Packets dropped at the NIC so far.
pub(super) fn dropped(metrics: &Metrics) -> u64 {
    drops_by_reason(metrics).values().sum()
}

/// The same by reason, without the reasons that never occurred.
pub(super) fn drops_by_reason(metrics: &Metrics) -> BTreeMap<String, u64> {
    let mut drops = counts(metrics.sum_by(names::NIC_PACKETS, "reason", &[("verdict", names::VERDICT_DROP)]));
    drops.retain(|_, count| *count > 0);
    drops
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counters are whole and not negative"
)]
fn counts(samples: BTreeMap<String, f64>) -> BTreeMap<String, u64> {
    samples.into_iter().map(|(label, value)| (label, value as u64)).collect()
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_per_second() {
        assert_eq!(per_s(300, 100, Duration::from_millis(500)), 400);
        // A counter that began anew, and no time at all.
        assert_eq!(per_s(5, 100, Duration::from_secs(1)), 0);
        assert_eq!(per_s(1, 0, Duration::ZERO), 1000);
    }

    #[test]
    fn only_drops_count_as_drops() {
        let metrics = Metrics::parse(
            "portcullis_nic_packets_total{reason=\"syn\",verdict=\"drop\"} 5\n\
             portcullis_nic_packets_total{reason=\"ban\",verdict=\"drop\"} 0\n\
             portcullis_nic_packets_total{reason=\"clean\",verdict=\"pass\"} 7\n",
        );
        assert_eq!(drops_by_reason(&metrics), BTreeMap::from([("syn".into(), 5)]));
        assert_eq!(dropped(&metrics), 5);
    }
}
