//! The kinds of load that run side by side: bursts of the tools that the other benches use, and visits of our own for
//! what those cannot do.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::visits::{self, Visitor};
use crate::{
    bench::{
        cpu::{self, Cores},
        load::{self, Answers, Generator, Load, Pace},
        subject::{Protocol, Subject},
    },
    interrupt,
};

/// A tool is started anew so often: what it leaves open when it ends is aborted in mid-response.
const BURST_S: u32 = 5;
/// Between two visits, which are not meant to use up the load's CPUs.
const VISIT_EVERY: Duration = Duration::from_millis(5);

/// One kind of load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    /// What rows call it.
    pub(super) name: &'static str,
    work: Work,
}

#[derive(Debug, Clone, Copy)]
enum Work {
    /// Protocol, target, octets of its body, connections, pace.
    Bursts(Protocol, &'static str, u32, u32, Pace),
    /// How many requests were answered as they should be.
    Visits(fn(&Visitor<'_>) -> anyhow::Result<u32>),
}

pub(super) const KINDS: [Kind; 10] = [
    bursts("h1-128B", Protocol::Http1, "/files/128", 128, 16, Pace::Closed),
    bursts("h1-fresh-128B", Protocol::Http1, "/files/128", 128, 4, Pace::Fresh),
    bursts("h1-1MiB", Protocol::Http1, "/files/1m", 1024 * 1024, 4, Pace::Closed),
    bursts("tls-16KiB", Protocol::Http1Tls, "/files/16k", 16 * 1024, 8, Pace::Closed),
    bursts("tls-fresh-128B", Protocol::Http1Tls, "/files/128", 128, 4, Pace::Fresh),
    bursts("h2-128B", Protocol::Http2Tls, "/files/128", 128, 4, Pace::Streams(16)),
    bursts("h2c-16KiB", Protocol::Http2, "/files/16k", 16 * 1024, 2, Pace::Streams(8)),
    Kind { name: "uploads", work: Work::Visits(visits::upload) },
    Kind { name: "refused", work: Work::Visits(visits::be_refused) },
    Kind { name: "aborted", work: Work::Visits(visits::abort) },
];

const fn bursts(
    name: &'static str,
    protocol: Protocol,
    target: &'static str,
    body_bytes: u32,
    connections: u32,
    pace: Pace,
) -> Kind {
    Kind { name, work: Work::Bursts(protocol, target, body_bytes, connections, pace) }
}

/// What came of one kind.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tally {
    pub(super) name: &'static str,
    pub(super) answers: u64,
    pub(super) failures: u32,
    /// Why, of the first.
    pub(super) first_failure: String,
    pub(super) per_s: f64,
}

impl Tally {
    fn new(name: &'static str) -> Self {
        Self { name, answers: 0, failures: 0, first_failure: String::new(), per_s: 0.0 }
    }

    /// The rate over this time.
    #[expect(clippy::cast_precision_loss, reason = "a rate of that many is not exact")]
    pub(super) fn over(mut self, time: Duration) -> Self {
        self.per_s = self.answers as f64 / time.as_secs_f64().max(0.001);
        self
    }

    fn fail(&mut self, count: u32, why: impl FnOnce() -> String) {
        if self.failures == 0 && count > 0 {
            self.first_failure = why();
        }
        self.failures = self.failures.saturating_add(count);
    }

    fn add(&mut self, answers: Answers) {
        self.answers += u64::from(answers.requests.saturating_sub(answers.failures));
        self.fail(answers.failures, || format!("{answers:?}"));
    }
}

impl Kind {
    /// Why a subject cannot be asked for it.
    pub(super) fn lacks(&self, subject: &Subject) -> Option<String> {
        match self.work {
            Work::Bursts(protocol, ..) => subject.lacks(protocol),
            Work::Visits(_) => None,
        }
    }

    /// Goes on until `stop`, from the load's CPUs. What fails is counted; an error is what makes going on useless.
    pub(super) fn run(
        &self,
        subject: &Subject,
        cores: &Cores,
        client: &Path,
        stop: &AtomicBool,
    ) -> anyhow::Result<Tally> {
        match self.work {
            Work::Bursts(protocol, target, body_bytes, connections, pace) => {
                let load = Load {
                    protocol,
                    address: subject.address(protocol),
                    target: target.to_owned(),
                    headers: subject.headers.clone(),
                    shown: None,
                    connections,
                    body_bytes,
                    pace,
                };
                // Each has files of its own.
                let generator = Generator::new(cores.load.clone(), Some(client.to_owned()))?;
                self.bursts(&generator, &load, stop)
            }
            Work::Visits(visit) => cpu::on(&cores.load, || self.visits(visit, subject, stop)),
        }
    }

    fn bursts(&self, generator: &Generator, load: &Load, stop: &AtomicBool) -> anyhow::Result<Tally> {
        load::check(&generator.place, load)?;
        let mut tally = Tally::new(self.name);
        while !stop.load(Ordering::Relaxed) {
            match generator.burst(load, BURST_S) {
                Ok(answers) => tally.add(answers),
                Err(error) => {
                    interrupt::check()?;
                    tally.fail(1, || format!("{error:#}"));
                }
            }
        }
        Ok(tally)
    }

    fn visits(
        &self,
        visit: fn(&Visitor<'_>) -> anyhow::Result<u32>,
        subject: &Subject,
        stop: &AtomicBool,
    ) -> anyhow::Result<Tally> {
        let visitor = Visitor::new(subject);
        let mut tally = Tally::new(self.name);
        while !stop.load(Ordering::Relaxed) {
            match visit(&visitor) {
                Ok(answers) => tally.answers += u64::from(answers),
                Err(error) => tally.fail(1, || format!("{error:#}")),
            }
            interrupt::pause(VISIT_EVERY)?;
        }
        Ok(tally)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        let mut names: Vec<_> = KINDS.iter().map(|kind| kind.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KINDS.len());
    }

    #[test]
    fn failures_are_counted_and_the_first_is_kept() {
        let mut tally = Tally::new("h1");
        let good = Answers { requests: 100, duration_us: 1e6, p50_us: 1.0, p99_us: 2.0, failures: 0 };
        tally.add(good);
        tally.add(Answers { failures: 3, ..good });
        tally.fail(1, || "second".to_owned());
        assert_eq!((tally.answers, tally.failures), (197, 4));
        assert!(tally.first_failure.contains("failures: 3"), "{}", tally.first_failure);
        let per_s = tally.over(Duration::from_secs(2)).per_s;
        assert!((per_s - 98.5).abs() < 1e-9, "{per_s}");
    }
}
