//! Whether a server is asked: one that fails is left alone for a while, so that nobody waits for it in vain.

use std::{cell::Cell, rc::Rc, time::Duration};

use tokio::time::Instant;

/// Opens after failures in a row.
///
/// ```text
///            failures_max in a row              open_for
///   closed ──────────────────────► open ◄──────────────────► one question tries
///      ▲                                   failure                  │ success
///      └────────────────────────────────────────────────────────────┘
/// ```
pub(super) struct Breaker {
    failures_max: u32,
    open_for: Duration,
    failures: Cell<u32>,
    open_until: Cell<Option<Instant>>,
    /// Questions that are being asked.
    asking: Rc<Cell<u32>>,
}

/// A question that is being asked, as long as this lives.
pub(super) struct Trial(Rc<Cell<u32>>);

impl Drop for Trial {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Breaker {
    /// Closed.
    pub(super) fn new(failures_max: u32, open_for: Duration) -> Self {
        let (failures, open_until, asking) = Default::default();
        Self { failures_max, open_for, failures, open_until, asking }
    }

    pub(super) fn is_open(&self) -> bool {
        self.failures.get() >= self.failures_max
    }

    pub(super) fn lets_pass(&self, now: Instant) -> bool {
        if !self.is_open() {
            return true;
        }
        self.open_until.get().is_none_or(|until| now >= until) && self.asking.get() == 0
    }

    pub(super) fn begin(&self) -> Trial {
        self.asking.set(self.asking.get() + 1);
        Trial(Rc::clone(&self.asking))
    }

    /// Takes in how a question went; says how many failures in a row there have been, this one or those before it.
    pub(super) fn note(&self, went_well: bool, now: Instant) -> u32 {
        if went_well {
            self.open_until.set(None);
            return self.failures.replace(0);
        }
        self.failures.set(self.failures.get().saturating_add(1));
        if self.is_open() {
            self.open_until.set(Some(now + self.open_for));
        }
        self.failures.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILURES_MAX: u32 = 5;
    const OPEN_FOR: Duration = Duration::from_secs(5);

    #[test]
    fn a_server_that_fails_is_left_alone_for_a_while() {
        let (breaker, now) = (Breaker::new(FAILURES_MAX, OPEN_FOR), Instant::now());
        for count in 1..FAILURES_MAX {
            assert_eq!(breaker.note(false, now), count);
            assert!(breaker.lets_pass(now));
        }
        assert_eq!(breaker.note(true, now), FAILURES_MAX - 1, "one success and all is well");
        for _ in 0..FAILURES_MAX {
            breaker.note(false, now);
        }
        assert!(breaker.is_open() && !breaker.lets_pass(now));
        let later = now + OPEN_FOR;
        assert!(breaker.lets_pass(later));
        let trial = breaker.begin();
        assert!(!breaker.lets_pass(later), "one question tries");
        breaker.note(false, later);
        drop(trial);
        assert!(!breaker.lets_pass(later) && breaker.lets_pass(later + OPEN_FOR));
        breaker.note(true, later + OPEN_FOR);
        assert!(!breaker.is_open() && breaker.lets_pass(later));
    }
}
