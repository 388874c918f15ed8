//! How the demo ended: the one object of `--json`, and what the summary is made of.

use std::collections::BTreeMap;

use serde::Serialize;
use xtask::lab::gateway::Ban;

/// How it ended: the object of `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    /// No honest request failed, every flood and guesser was stopped.
    pub(super) ok: bool,
    /// Whether there was a NIC filter.
    pub(super) filtered: bool,
    /// Those who mean well.
    pub(super) honest: HonestOutcome,
    /// The one that tries keys.
    pub(super) guesser: GuesserOutcome,
    /// The floods, in order.
    pub(super) floods: Vec<FloodOutcome>,
    /// Packets dropped by reason.
    pub(super) nic_drops: BTreeMap<String, u64>,
    /// Every source that was blocked.
    pub(super) bans: Vec<BanOutcome>,
}

/// What became of honest requests.
#[derive(Debug, Serialize)]
pub(super) struct HonestOutcome {
    pub(super) requests: u64,
    pub(super) failures: u64,
    /// From the stage's first stone to the first answer.
    pub(super) first_answer_ms: Option<u128>,
    pub(super) p99_ms: Option<f64>,
    /// The first failures, told.
    pub(super) complaints: Vec<String>,
}

/// What became of the guesser.
#[derive(Debug, Serialize)]
pub(super) struct GuesserOutcome {
    pub(super) refused: u64,
    pub(super) admitted: u64,
    pub(super) unanswered: u64,
    pub(super) blocked: bool,
    pub(super) answered_again: bool,
    /// No guess was let in and, where there is a filter, it was blocked for a while.
    pub(super) stopped: bool,
}

/// What became of a flood.
#[derive(Debug, Serialize)]
pub(super) struct FloodOutcome {
    pub(super) name: &'static str,
    pub(super) sent: u64,
    pub(super) dropped: u64,
    pub(super) stopped: bool,
}

/// A source that was blocked.
#[derive(Debug, Serialize)]
pub(super) struct BanOutcome {
    pub(super) source: String,
    pub(super) reason: String,
    /// As the kernel stamped it; null if no packet came while the block held.
    pub(super) offence_to_first_drop_ms: Option<f64>,
}

impl From<Ban> for BanOutcome {
    fn from(ban: Ban) -> Self {
        Self {
            source: ban.source,
            reason: ban.reason,
            offence_to_first_drop_ms: ban.offence_to_first_drop_ms,
        }
    }
}
