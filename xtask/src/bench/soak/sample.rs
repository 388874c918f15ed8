//! What was seen of the gateway over time. Pure.

use std::fmt::Write;

use crate::bench::report::stats::median;

const MIB: f64 = 1024.0 * 1024.0;

/// One look.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    /// Proportional set size.
    pub(super) memory_bytes: f64,
    /// Open descriptors.
    pub(super) descriptors: f64,
    /// Of clients.
    pub(super) connections: f64,
}

/// All looks, in order of time.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Samples(Vec<Sample>);

impl Samples {
    pub(super) fn add(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    /// One value of each.
    pub(super) fn of(&self, value: impl Fn(&Sample) -> f64) -> Vec<f64> {
        self.0.iter().map(value).collect()
    }

    /// By which share memory grew from the first third to the last, by their medians; `None`: too few to say.
    pub(super) fn growth(&self) -> Option<f64> {
        let (first, last) = self.thirds(|sample| sample.memory_bytes)?;
        Some((last - first) / first)
    }

    /// The medians of the first third and of the last.
    fn thirds(&self, value: impl Fn(&Sample) -> f64) -> Option<(f64, f64)> {
        let values = self.of(value);
        let third = values.len() / 3;
        let last = values.get(values.len().checked_sub(third)?..)?;
        Some((median(values.get(..third)?)?, median(last)?))
    }

    /// For somebody who waits.
    pub(super) fn last_words(&self) -> String {
        self.0.last().map_or_else(String::new, |last| {
            let Sample { memory_bytes, descriptors, connections } = last;
            format!("{:.1} MiB, {descriptors} descriptors, {connections} connections", memory_bytes / MIB)
        })
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let mut text = format!(
            "{:<18} {:>12} {:>12} {:>12} {:>12}\n",
            "seen", "least", "first third", "last third", "most"
        );
        let mut line = |name, value: &dyn Fn(&Sample) -> f64| {
            let values = self.of(value);
            let (first, last) = self.thirds(value).unwrap_or((f64::NAN, f64::NAN));
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name:<18} {least:>12.1} {first:>12.1} {last:>12.1} {most:>12.1}");
        };
        line("memory, MiB", &|sample| sample.memory_bytes / MIB);
        line("descriptors", &|sample| sample.descriptors);
        line("connections", &|sample| sample.connections);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(memory: &[f64]) -> Samples {
        let sample =
            |memory_bytes: &f64| Sample { memory_bytes: *memory_bytes, descriptors: 5.0, connections: 2.0 };
        Samples(memory.iter().map(sample).collect())
    }

    #[track_caller]
    fn check_growth(memory: &[f64], expected: Option<f64>) {
        assert_eq!(samples(memory).growth(), expected, "{memory:?}");
    }

    #[test]
    fn growth_is_from_the_first_third_to_the_last() {
        check_growth(&[], None);
        check_growth(&[10.0, 20.0], None);
        check_growth(&[10.0, 99.0, 15.0], Some(0.5));
        check_growth(&[10.0, 12.0, 99.0, 99.0, 5.0, 6.0], Some(-0.5));
        check_growth(&[4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0], Some(0.0));
    }

    #[test]
    fn a_single_peak_is_no_growth() {
        check_growth(&[10.0, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0, 90.0, 10.0], Some(0.0));
    }

    #[test]
    fn the_table_has_a_line_each() {
        let table = samples(&[MIB, 2.0 * MIB, 3.0 * MIB]).table();
        let line = table.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(line, ["memory,", "MiB", "1.0", "1.0", "3.0", "3.0"]);
        assert_eq!(table.lines().count(), 4);
    }
}
