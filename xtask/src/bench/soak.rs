//! `bench soak`: the gateway under everything at once for a long time, and whether it is afterwards as it was before.
//!
//! Comes in: for how long. Goes out: what was answered of each kind of load, what memory, descriptors and connections
//! did meanwhile, and a verdict: memory must not grow from the first third to the last, descriptors must come back to
//! what they were before the first request, and nothing may fail. It compares with nobody.

mod mix;
mod sample;
mod visits;

use std::{
    fs,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;

use super::{
    Options,
    cpu::Cores,
    gateway_binary, idle, own,
    proxy::OWN,
    report::{self, FAILURES, REQUESTS, Report, print_json},
    subject::{Ground, Stage, Subject},
};
use crate::{interrupt, project::Project};
use mix::{Kind, Tally};
use sample::{Sample, Samples};

/// What rows call this bench, and what is about all of its load at once.
const BENCH: &str = "soak";

/// Everything runs for so long before it counts: pools, caches and free lists are full by then.
const WARM_UP: Duration = Duration::from_mins(1);
const WARM_UP_QUICK: Duration = Duration::from_secs(20);
/// With `--quick`.
const QUICK_MINUTES: u32 = 2;
const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// After the load has ended, for connections to servers that nobody uses to be closed.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(100);
/// A worker keeps its pipes, of two descriptors each: as many as there were large bodies at once.
const DESCRIPTORS_KEPT_MAX: f64 = 2.0 * 8.0;
/// From the first third of the samples to the last, as a share.
const GROWTH_MAX: f64 = 0.05;

/// Routes that only this bench has.
const ROUTES: &str = r#"
[routes.uploads]
hosts = ["api.example.com"]
path = "/uploads"
methods = ["POST"]
upstream = "files"
auth = ["keys"]
permission = "files:read"
"#;

/// Runs it and prints what it found. The exit code is the verdict.
pub(super) fn run(project: &Project, options: &Options) -> anyhow::Result<ExitCode> {
    let binary = gateway_binary(project, options)?;
    let client = own::client(project)?;
    interrupt::catch()?;
    let cores = Cores::divide()?;
    let stage = Stage::new(cores.clone(), Ground::loopback())?;
    let subject = stage.gateway(OWN, &binary, &[ROUTES.to_owned()])?;
    let (kinds, left_out): (Vec<&Kind>, Vec<&Kind>) =
        mix::KINDS.iter().partition(|kind| kind.lacks(&subject).is_none());
    for kind in left_out {
        eprintln!("{}: left out: {}", kind.name, kind.lacks(&subject).unwrap_or_default());
    }
    let before = descriptors(subject.pid())?;
    let minutes = options.minutes.unwrap_or(if options.quick { QUICK_MINUTES } else { MINUTES });
    let warm_up = if options.quick { WARM_UP_QUICK } else { WARM_UP };
    let soak = Soak { subject: &subject, cores: &cores, client: &client, kinds: &kinds };
    eprintln!("warming up for {} s", warm_up.as_secs());
    soak.under_load(warm_up)?;
    let (samples, tallies) = soak.under_load(Duration::from_secs(u64::from(minutes) * 60))?;
    eprintln!("waiting for descriptors to come back to {before}");
    let left = soak.descriptors_left(before)?;
    let report = Report { bench: BENCH, rows: rows(&samples, &tallies, left), ..Report::default() };
    if options.json {
        print_json(&report.rows)?;
    } else {
        println!("{}\n{}", report.table(), samples.table());
        for tally in tallies.iter().filter(|tally| tally.failures > 0) {
            println!("{}: {} FAILED, the first: {}", tally.name, tally.failures, tally.first_failure);
        }
    }
    let is_good = report.all_reached() && !report.any_failed();
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Unless said otherwise.
const MINUTES: u32 = 30;

struct Soak<'a> {
    subject: &'a Subject,
    cores: &'a Cores,
    client: &'a std::path::Path,
    kinds: &'a [&'a Kind],
}

impl Soak<'_> {
    /// Runs all kinds of load at once for so long.
    #[expect(clippy::disallowed_methods, reason = "a tool may read the clock")]
    fn under_load(&self, time: Duration) -> anyhow::Result<(Samples, Vec<Tally>)> {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let load: Vec<_> = self
                .kinds
                .iter()
                .map(|kind| scope.spawn(|| kind.run(self.subject, self.cores, self.client, &stop)))
                .collect();
            let begun = Instant::now();
            let sampled = self.sample(begun, time, || load.iter().any(thread::ScopedJoinHandle::is_finished));
            // The load ends also where a sample could not be had.
            stop.store(true, Ordering::Relaxed);
            let tallies = load.into_iter().map(|kind| {
                let tally = kind.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))?;
                anyhow::Ok(tally.over(begun.elapsed()))
            });
            let tallies = tallies.collect::<anyhow::Result<Vec<_>>>();
            // What ended the load early is worth more than what the samples then said.
            let tallies = tallies.with_context(|| self.subject.output())?;
            Ok((sampled.with_context(|| self.subject.output())?, tallies))
        })
    }

    /// Looks at the gateway again and again.
    fn sample(
        &self,
        begun: Instant,
        time: Duration,
        load_has_ended: impl Fn() -> bool,
    ) -> anyhow::Result<Samples> {
        let mut samples = Samples::default();
        let mut told = 0;
        while begun.elapsed() < time && !load_has_ended() {
            interrupt::pause(SAMPLE_EVERY.min(time.saturating_sub(begun.elapsed())))?;
            samples.add(Sample {
                memory_bytes: idle::tree_bytes(self.subject.pid())?,
                descriptors: f64::from(descriptors(self.subject.pid())?),
                connections: self.subject.metrics()?.sum("portcullis_connections_active", &[]),
            });
            let minutes = begun.elapsed().as_secs() / 60;
            if minutes > told {
                told = minutes;
                eprintln!("minute {minutes} of {}: {}", time.as_secs() / 60, samples.last_words());
            }
        }
        Ok(samples)
    }

    /// How many more descriptors there are than `before`, once nobody asks for anything.
    fn descriptors_left(&self, before: u32) -> anyhow::Result<f64> {
        let mut left = f64::INFINITY;
        interrupt::await_event(SETTLE_TIME_MAX, || {
            left = f64::from(descriptors(self.subject.pid()).ok()?) - f64::from(before);
            (left <= DESCRIPTORS_KEPT_MAX).then_some(())
        })?;
        Ok(left.max(0.0))
    }
}

/// Open descriptors of a process.
fn descriptors(pid: u32) -> anyhow::Result<u32> {
    let path = format!("/proc/{pid}/fd");
    let open = fs::read_dir(&path).with_context(|| path.clone())?.count();
    Ok(u32::try_from(open)?)
}

fn rows(samples: &Samples, tallies: &[Tally], descriptors_left: f64) -> Vec<report::Row> {
    let seen = |case, metric, unit, values: &[f64], most| {
        report::seen((BENCH, case, OWN), (metric, unit), values, most)
    };
    let of_kinds = tallies.iter().flat_map(|tally| {
        let rate = seen(tally.name, REQUESTS, "1/s", &[tally.per_s], None);
        let failures = seen(tally.name, FAILURES, "requests", &[f64::from(tally.failures)], None);
        rate.into_iter().chain(failures)
    });
    let growth: Vec<f64> = samples.growth().into_iter().collect();
    let of_all = [
        seen(BENCH, "memory", "B", &samples.of(|sample| sample.memory_bytes), None),
        seen(BENCH, "memory_growth", "share", &growth, Some(GROWTH_MAX)),
        seen(BENCH, "descriptors", "count", &samples.of(|sample| sample.descriptors), None),
        seen(BENCH, "descriptors_left", "count", &[descriptors_left], Some(DESCRIPTORS_KEPT_MAX)),
        seen(BENCH, "connections", "count", &samples.of(|sample| sample.connections), None),
    ];
    of_kinds.chain(of_all.into_iter().flatten()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(memory_mib: &[f64], descriptors_left: f64, failures: u32, is_good: bool) {
        let mut samples = Samples::default();
        for mib in memory_mib {
            samples.add(Sample {
                memory_bytes: mib * 1024.0 * 1024.0,
                descriptors: 100.0,
                connections: 40.0,
            });
        }
        let tally = Tally { name: "h1", answers: 100, failures, first_failure: String::new(), per_s: 10.0 };
        let rows = rows(&samples, &[tally], descriptors_left);
        let report = Report { bench: BENCH, rows, ..Report::default() };
        assert_eq!(report.all_reached() && !report.any_failed(), is_good, "{}", report.table());
    }

    #[test]
    fn memory_that_grows_descriptors_that_stay_and_failures_are_no_good() {
        let steady = [20.0, 21.0, 20.0, 20.5, 20.0, 20.9];
        check(&steady, DESCRIPTORS_KEPT_MAX, 0, true);
        check(&steady, DESCRIPTORS_KEPT_MAX + 1.0, 0, false);
        check(&steady, 0.0, 1, false);
        check(&[20.0, 20.0, 21.0, 21.0, 22.0, 22.0], 0.0, 0, false);
        check(&[], 0.0, 0, false);
    }

    #[test]
    fn our_own_descriptors_are_counted() {
        assert!(descriptors(std::process::id()).unwrap() > 2);
    }
}
