//! How many requests of an upstream may be sent again: a share of those that came in a sliding window, and a few
//! more, so that a quiet upstream has retries at all.
//!
//! Without a bound, an upstream that fails for everybody gets twice its load when it can bear the least. Comes in:
//! requests and retries, with the time. Goes out: whether one more retry may be. One per worker and upstream.

/// Seconds of the window.
const WINDOW_S: usize = 10;
/// Retries per window that any upstream has, however few requests it gets.
const FLOOR: u64 = 10;
const NS_PER_S: u64 = 1_000_000_000;

/// Requests and retries of the last seconds.
#[derive(Debug)]
pub struct RetryBudget {
    /// Retries per hundred requests; `None`: as many as there are.
    percent: Option<u32>,
    /// By second, modulo the window.
    seconds: [Second; WINDOW_S],
    /// The second that was counted last.
    newest_s: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Second {
    requests: u32,
    retries: u32,
}

impl RetryBudget {
    /// Nothing has been asked yet.
    pub fn new(percent: Option<u32>) -> Self {
        Self { percent, seconds: [Second::default(); WINDOW_S], newest_s: 0 }
    }

    /// A request has come.
    pub fn count_request(&mut self, now_ns: u64) {
        if let Some(second) = self.second(now_ns) {
            second.requests = second.requests.saturating_add(1);
        }
    }

    /// Whether a request may be sent again; if so, that counts.
    pub fn take_retry(&mut self, now_ns: u64) -> bool {
        let Some(percent) = self.percent else { return true };
        self.second(now_ns);
        let sum = |pick: fn(&Second) -> u32| self.seconds.iter().map(|s| u64::from(pick(s))).sum::<u64>();
        let (requests, retries) = (sum(|second| second.requests), sum(|second| second.retries));
        if retries * 100 >= FLOOR * 100 + requests * u64::from(percent) {
            return false;
        }
        if let Some(second) = self.second(now_ns) {
            second.retries += 1;
        }
        true
    }

    /// This second's counts; those that have left the window are forgotten.
    fn second(&mut self, now_ns: u64) -> Option<&mut Second> {
        let now_s = now_ns / NS_PER_S;
        let window = WINDOW_S as u64;
        let place = |at_s: u64| usize::try_from(at_s % window).unwrap_or_default();
        for passed_s in self.newest_s.saturating_add(1).max(now_s.saturating_sub(window - 1))..=now_s {
            if let Some(second) = self.seconds.get_mut(place(passed_s)) {
                *second = Second::default();
            }
        }
        self.newest_s = self.newest_s.max(now_s);
        self.seconds.get_mut(place(self.newest_s))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T: u64 = 1_000_000 * NS_PER_S;

    /// How many of `wanted` retries are granted at `now_ns`.
    fn granted(budget: &mut RetryBudget, wanted: u64, now_ns: u64) -> u64 {
        (0..wanted).map(|_| u64::from(budget.take_retry(now_ns))).sum()
    }

    #[track_caller]
    fn check(percent: Option<u32>, requests: u64, expected: u64) {
        let mut budget = RetryBudget::new(percent);
        (0..requests).for_each(|n| budget.count_request(T + n));
        assert_eq!(granted(&mut budget, 1000, T + NS_PER_S), expected);
    }

    #[test]
    fn a_share_of_the_requests_and_a_floor_may_be_sent_again() {
        check(Some(20), 0, FLOOR);
        check(Some(20), 100, FLOOR + 20);
        check(Some(0), 100, FLOOR);
        check(Some(100), 100, FLOOR + 100);
        check(None, 0, 1000);
    }

    #[test]
    fn what_has_left_the_window_counts_no_more() {
        let mut budget = RetryBudget::new(Some(50));
        (0..20).for_each(|_| budget.count_request(T));
        assert_eq!(granted(&mut budget, 1000, T), FLOOR + 10);
        assert_eq!(granted(&mut budget, 1000, T + 9 * NS_PER_S), 0);
        assert_eq!(granted(&mut budget, 1000, T + 10 * NS_PER_S), FLOOR);
        assert_eq!(granted(&mut budget, 1000, T + 1000 * NS_PER_S), FLOOR);
    }

    proptest! {
        #[test]
        fn no_window_has_more_retries_than_its_share(
            percent in 0u32..=100, steps in prop::collection::vec((any::<bool>(), 0u64..3_000_000_000), 0..300),
        ) {
            let (mut budget, mut now_ns, mut seen) = (RetryBudget::new(Some(percent)), T, Vec::new());
            for (is_request, pause_ns) in steps {
                now_ns += pause_ns;
                if is_request { budget.count_request(now_ns) }
                let retried = !is_request && budget.take_retry(now_ns);
                seen.push((now_ns / NS_PER_S, is_request, retried));
                let window = seen.iter().filter(|(at_s, _, _)| at_s + 10 > now_ns / NS_PER_S);
                let (requests, retries) = window.fold((0, 0), |(requests, retries), (_, request, retried)| {
                    (requests + u64::from(*request), retries + u64::from(*retried))
                });
                prop_assert!(!retried || retries <= FLOOR + requests * u64::from(percent) / 100 + 1);
            }
        }
    }
}
