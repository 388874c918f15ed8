//! Waiting for something that another process does, with a deadline instead of a fixed sleep.
//!
//! Comes in: a probe. Goes out: what it found, or `None` when the time was up. It never waits past the deadline by
//! more than one probe.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Between two probes of something that has no descriptor to wait on.
const PROBE_EVERY: Duration = Duration::from_millis(5);

/// Calls `probe` until it finds something or `time_max` is over; it is called at least once.
pub fn until<T>(time_max: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + time_max;
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(PROBE_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_until_something_is_found() {
        let mut probes = 0;
        let found = until(Duration::from_secs(10), || {
            probes += 1;
            (probes == 3).then_some("third")
        });
        assert_eq!(found, Some("third"));
    }

    #[test]
    fn probes_once_even_without_time() {
        assert_eq!(until(Duration::ZERO, || Some(1)), Some(1));
        assert_eq!(until(Duration::ZERO, || None::<u8>), None);
    }
}
