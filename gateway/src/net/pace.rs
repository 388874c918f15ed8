//! How slow a peer may be while it is waited for: the silence that is borne, and the rate that it has to keep.
//!
//! Comes in: how long a wait was and what it brought. Goes out: how long the next one may be. The time that a peer is
//! not waited for costs it nothing, and what it is ahead by in one moment does not let it sleep in the next: patience
//! is never more than the silence that is borne. It reads no clock.

use std::num::NonZeroU64;

const S_NS: u128 = 1_000_000_000;

/// How slow a peer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Silence that is borne, and how far it may fall behind the rate, in ns.
    pub idle_ns: u64,
    /// Bytes a second; none: any progress will do.
    pub rate_min: Option<NonZeroU64>,
}

/// What is left of the patience with a peer in one direction.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    pace: Pace,
    /// At most `pace.idle_ns`.
    left_ns: u64,
    /// Waited for since it last moved anything.
    silent_ns: u64,
}

impl Patience {
    /// All of it.
    pub fn new(pace: Pace) -> Self {
        Self { pace, left_ns: pace.idle_ns, silent_ns: 0 }
    }

    /// So long it may be waited for from now on, in ns.
    pub fn left_ns(&self) -> u64 {
        self.left_ns
    }

    /// A wait of `waited_ns` has brought `bytes`.
    pub fn spend(&mut self, waited_ns: u64, bytes: u64) {
        let earned_ns = match self.pace.rate_min {
            _ if bytes == 0 => 0,
            None => self.pace.idle_ns,
            Some(rate) => {
                u64::try_from(u128::from(bytes) * S_NS / u128::from(rate.get())).unwrap_or(u64::MAX)
            }
        };
        let left_ns = self.left_ns.saturating_add(earned_ns).saturating_sub(waited_ns);
        self.left_ns = left_ns.min(self.pace.idle_ns);
        self.silent_ns = if bytes == 0 { self.silent_ns.saturating_add(waited_ns) } else { 0 };
    }

    /// Where it has come to an end: the peer did move something until lately, but too little. Otherwise it was silent
    /// for most of the time.
    pub fn was_slow(&self) -> bool {
        self.silent_ns < self.pace.idle_ns / 2
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;
    const S: u64 = 1_000 * MS;

    fn patience(idle_ns: u64, rate_min: u64) -> Patience {
        Patience::new(Pace { idle_ns, rate_min: NonZeroU64::new(rate_min) })
    }

    /// What is left after these waits, each of so many ms for so many bytes.
    #[track_caller]
    fn check(mut patience: Patience, waits: &[(u64, u64)], left_ms: u64) {
        for (waited_ms, bytes) in waits {
            patience.spend(waited_ms * MS, *bytes);
        }
        assert_eq!(patience.left_ns() / MS, left_ms);
    }

    #[test]
    fn silence_and_slowness_use_it_up_and_progress_at_the_rate_does_not() {
        check(patience(15 * S, 500), &[], 15_000);
        check(patience(15 * S, 500), &[(14_000, 0)], 1_000);
        check(patience(15 * S, 500), &[(14_000, 0), (2_000, 0)], 0);
        check(patience(15 * S, 500), &[(1_000, 500), (1_000, 500)], 15_000);
        check(patience(15 * S, 500), &[(1_000, 250), (1_000, 250)], 14_000);
        check(patience(15 * S, 500), &[(5_000, 1), (5_000, 1), (4_900, 1)], 106);
    }

    #[test]
    fn what_is_owed_can_be_made_good_and_what_is_ahead_is_not_kept() {
        check(patience(15 * S, 500), &[(10_000, 0), (1_000, 3_000)], 10_000);
        check(patience(15 * S, 500), &[(1, 1 << 30)], 15_000);
        check(patience(15 * S, 500), &[(1, 1 << 30), (15_000, 0)], 0);
        check(patience(15 * S, u64::MAX), &[(1_000, u64::MAX)], 15_000);
    }

    #[test]
    fn without_a_rate_only_silence_counts() {
        check(patience(15 * S, 0), &[(14_000, 1), (14_000, 1), (14_000, 1)], 15_000);
        check(patience(15 * S, 0), &[(14_000, 1), (14_000, 0)], 1_000);
    }

    #[test]
    fn one_that_stops_is_silent_and_one_that_drips_is_slow() {
        let mut stopped = patience(15 * S, 500);
        stopped.spend(7 * S, 10);
        stopped.spend(15 * S, 0);
        assert!(!stopped.was_slow());
        let mut dripping = patience(15 * S, 500);
        for _ in 0..15 {
            dripping.spend(S, 1);
        }
        dripping.spend(S, 0);
        assert!(dripping.was_slow());
    }

    proptest! {
        /// Whoever keeps the rate in every wait is waited for, however long it takes; what a peer is behind by is never
        /// more than the silence that is borne, and at half the rate for twice as long its time is over.
        #[test]
        fn the_rate_decides(rate in 1u64..1 << 40, waits in proptest::collection::vec(0u64..S, 1..200)) {
            let mut keeps = patience(S, rate);
            for waited_ns in &waits {
                let bytes = (u128::from(*waited_ns) * u128::from(rate)).div_ceil(S_NS);
                keeps.spend(*waited_ns, u64::try_from(bytes).unwrap());
                prop_assert!(keeps.left_ns() >= S - 1, "{}", keeps.left_ns());
            }
            let mut lags = patience(S, rate);
            let mut lagged_ns = 0;
            for waited_ns in &waits {
                let bytes = u128::from(*waited_ns) * u128::from(rate) / (2 * S_NS);
                lags.spend(*waited_ns, u64::try_from(bytes).unwrap());
                prop_assert!(lags.left_ns() <= S);
                lagged_ns += waited_ns;
                prop_assert!(lagged_ns < 2 * S || lags.left_ns() <= waits.len() as u64);
            }
        }
    }
}
