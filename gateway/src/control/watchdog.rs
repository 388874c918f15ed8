//! Whether the workers still turn. Pure: it counts its own beats and reads no clock, so that a process that stood still
//! as a whole, or was late as a whole, accuses nobody.

/// Beats, one a second, in which a worker has not swept once, although it does ten times a second. By then each of its
/// connections has waited for so long.
const SILENT_BEATS_MAX: u32 = 10;

/// What was last seen of each worker.
#[derive(Debug, Default)]
pub(super) struct Watchdog(Vec<Seen>);

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    sweeps: u64,
    silent_beats: u32,
}

impl Watchdog {
    /// Looks at how often each worker has swept so far; none for one that has ended. The first that is stuck.
    pub(super) fn beat(&mut self, workers: impl Iterator<Item = Option<u64>>) -> Option<usize> {
        let mut stuck = None;
        for (worker, sweeps) in workers.enumerate() {
            if self.0.len() == worker {
                self.0.push(Seen::default());
            }
            let Some((seen, sweeps)) = self.0.get_mut(worker).zip(sweeps) else { continue };
            seen.silent_beats = if seen.sweeps == sweeps { seen.silent_beats + 1 } else { 0 };
            seen.sweeps = sweeps;
            if seen.silent_beats >= SILENT_BEATS_MAX {
                stuck = stuck.or(Some(worker));
            }
        }
        stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_that_is_silent_for_long_is_stuck() {
        let mut watchdog = Watchdog::default();
        for beat in 0..100 {
            assert_eq!(watchdog.beat([Some(beat * 10), Some(beat)].into_iter()), None);
        }
        for _ in 1..SILENT_BEATS_MAX {
            assert_eq!(watchdog.beat([Some(5000), Some(99)].into_iter()), None);
            assert_eq!(watchdog.0[0].silent_beats, watchdog.0[1].silent_beats.saturating_sub(1));
        }
        assert_eq!(watchdog.beat([Some(5001), Some(99)].into_iter()), Some(1));
        assert_eq!(watchdog.beat([Some(5002), Some(100)].into_iter()), None, "it turns again");
    }

    #[test]
    fn one_that_has_ended_is_not_stuck() {
        let mut watchdog = Watchdog::default();
        for _ in 0..100 {
            assert_eq!(watchdog.beat([None].into_iter()), None);
        }
    }
}
