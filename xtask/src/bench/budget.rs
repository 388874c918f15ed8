//! How long a bench may take: rounds are shortened, never cases left out, when it would take longer.
//!
//! Pure but for the clock that it is asked with.

use std::time::{Duration, Instant};

use super::{Options, cases};

/// A full run of everything.
const TIME_MAX: Duration = Duration::from_mins(13);
/// One with `--quick`.
const TIME_QUICK_MAX: Duration = Duration::from_secs(160);
/// What a burst takes beyond its own length: starting the tool, opening and closing connections.
const BURST_OVERHEAD_S: f64 = 0.25;
/// What each of the cases without rounds is taken to need.
const FIGURE_S: f64 = 8.0;

/// What is left of the time for a run.
#[derive(Debug)]
pub(super) struct Budget {
    end: Instant,
    /// A number that the user gave counts, whatever it takes.
    rounds: Option<u32>,
    rounds_max: u32,
    load_cases_left: u32,
    figure_cases_left: u32,
}

impl Budget {
    /// Starts now.
    #[expect(clippy::disallowed_methods, reason = "a tool may read the clock")]
    pub(super) fn new(options: &Options) -> Self {
        let count = |names: &mut dyn Iterator<Item = &'static str>| {
            u32::try_from(names.filter(|name| options.wants(name)).count()).unwrap_or(u32::MAX)
        };
        let loads = cases::CASES.iter().map(|case| case.name).chain([cases::ROUTES_CASE]);
        Self {
            end: Instant::now() + if options.quick { TIME_QUICK_MAX } else { TIME_MAX },
            rounds: options.rounds,
            rounds_max: options.rounds(),
            load_cases_left: count(&mut { loads }),
            figure_cases_left: count(&mut cases::IDLE_CASES.iter().map(|case| case.name)),
        }
    }

    /// How many rounds the next case may have, and takes that case off the list.
    #[expect(clippy::disallowed_methods, reason = "a tool may read the clock")]
    pub(super) fn rounds(&mut self, subjects: usize, burst_s: u32, warm_up_s: u32) -> u32 {
        let left_s = self.end.saturating_duration_since(Instant::now()).as_secs_f64();
        let rounds = self.rounds.unwrap_or_else(|| self.rounds_within(left_s, subjects, burst_s, warm_up_s));
        self.load_cases_left = self.load_cases_left.saturating_sub(1);
        rounds
    }

    /// A case without rounds is over.
    pub(super) fn case_is_over(&mut self) {
        self.figure_cases_left = self.figure_cases_left.saturating_sub(1);
    }

    fn rounds_within(&self, left_s: f64, subjects: usize, burst_s: u32, warm_up_s: u32) -> u32 {
        let share_s =
            (left_s - FIGURE_S * f64::from(self.figure_cases_left)) / f64::from(self.load_cases_left.max(1));
        let burst_of = |seconds: u32| {
            (f64::from(seconds) + BURST_OVERHEAD_S) * f64::from(u32::try_from(subjects.max(1)).unwrap_or(1))
        };
        let fitting = (share_s - if warm_up_s > 0 { burst_of(warm_up_s) } else { 0.0 }) / burst_of(burst_s);
        // The cast saturates, and the clamp keeps it within what was asked for.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped on both sides")]
        let rounds = fitting.floor().clamp(1.0, f64::from(self.rounds_max)) as u32;
        rounds
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test may read the clock")]
mod tests {
    use super::*;

    #[track_caller]
    fn check(left_s: f64, load_cases_left: u32, figure_cases_left: u32, subjects: usize, expected: u32) {
        let budget =
            Budget { end: Instant::now(), rounds: None, rounds_max: 9, load_cases_left, figure_cases_left };
        assert_eq!(budget.rounds_within(left_s, subjects, 2, 1), expected);
    }

    #[test]
    fn rounds_fit_into_what_is_left() {
        check(1000.0, 1, 0, 2, 9);
        // 26 s for 5 subjects: 6.25 s to warm up, 11.25 s a round.
        check(29.0, 1, 0, 5, 2);
        check(29.0, 1, 1, 5, 1);
        check(58.0, 2, 0, 5, 2);
        // Every case is measured at least once.
        check(0.0, 3, 2, 5, 1);
        check(-5.0, 0, 0, 0, 1);
    }

    #[test]
    fn a_number_that_was_given_counts() {
        let mut budget = Budget {
            end: Instant::now(),
            rounds: Some(7),
            rounds_max: 7,
            load_cases_left: 1,
            figure_cases_left: 0,
        };
        assert_eq!(budget.rounds(5, 2, 1), 7);
        assert_eq!(budget.load_cases_left, 0);
    }
}
