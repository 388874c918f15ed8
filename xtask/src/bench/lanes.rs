//! Rounds: every subject has one burst in each, and the order is turned round each time.
//!
//! Comes in: subjects with their loads. Goes out: a series of runs for each, and who failed on the way and why.

use std::time::Duration;

use anyhow::Context;

use super::{
    cpu::{CoreTime, Cores, Usage},
    load::{self, Generator, Load},
    report::{Run, Series},
    subject::Subject,
};
use crate::interrupt;

/// A subject in a case.
pub(super) struct Lane<'a> {
    subject: &'a Subject,
    load: Load,
    runs: Vec<Run>,
    /// Once it has failed it takes no further part.
    failed: Option<anyhow::Error>,
}

impl<'a> Lane<'a> {
    /// One that has not run yet.
    pub(super) fn new(subject: &'a Subject, load: Load) -> Self {
        Self { subject, load, runs: Vec::new(), failed: None }
    }
}

/// Who failed, and why.
pub(super) type Failed = Vec<(&'static str, anyhow::Error)>;

/// Where the rounds of a case are run.
pub(super) struct Track<'a> {
    pub(super) case: &'static str,
    pub(super) cores: &'a Cores,
    pub(super) generator: &'a Generator,
    pub(super) burst_s: u32,
    /// A burst that is not measured, in which connections to the upstream are opened and caches filled; 0: none.
    pub(super) warm_up_s: u32,
}

impl Track<'_> {
    /// Runs all rounds. The only error is an interruption.
    pub(super) fn measure(
        &self,
        rounds: u32,
        mut lanes: Vec<Lane<'_>>,
    ) -> anyhow::Result<(Vec<Series>, Failed)> {
        Self::each(&mut lanes, |lane| {
            load::check(&self.generator.place, &lane.load)?;
            if self.warm_up_s > 0 { self.generator.warm_up(&lane.load, self.warm_up_s) } else { Ok(()) }
        })?;
        for round in 1..=rounds {
            eprintln!("{}: round {round} of {rounds}", self.case);
            Self::each(&mut lanes, |lane| {
                let run = self.burst(lane).with_context(|| format!("in round {round}"))?;
                lane.runs.push(run);
                Ok(())
            })?;
            // Who came first comes last in the next round.
            lanes.reverse();
        }
        // In the order of the subjects again.
        if rounds % 2 == 1 {
            lanes.reverse();
        }
        let (mut series, mut failed) = (Vec::new(), Vec::new());
        for Lane { subject, runs, failed: why, .. } in lanes {
            match why {
                None => series.push(Series { subject: subject.name, own: subject.own, runs }),
                Some(why) => failed.push((subject.name, why)),
            }
        }
        Ok((series, failed))
    }

    /// Does this with each lane that has not failed.
    fn each(
        lanes: &mut [Lane<'_>],
        mut perform: impl FnMut(&mut Lane<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for lane in lanes.iter_mut().filter(|lane| lane.failed.is_none()) {
            if let Err(why) = perform(lane) {
                interrupt::check()?;
                let said = lane.subject.output();
                let said = said.lines().last().unwrap_or("nothing");
                lane.failed = Some(why.context(format!("{} (its last words: {said:?})", lane.subject.name)));
            }
        }
        interrupt::check()
    }

    fn burst(&self, lane: &Lane<'_>) -> anyhow::Result<Run> {
        let read = || anyhow::Ok((Usage::of(lane.subject.pid())?, CoreTime::of(self.cores.proxy)?));
        let (usage_before, core_before) = read()?;
        let answers = self.generator.burst(&lane.load, self.burst_s)?;
        let (usage, core) = read()?;
        let spent = usage.since(&usage_before);
        if spent.tasks_ended > 0 {
            eprintln!(
                "{}: {} tasks ended in a burst, their last share is missing",
                lane.subject.name, spent.tasks_ended
            );
        }
        let requests = f64::from(answers.requests);
        let duration_s = answers.duration_us / 1e6;
        let cpu_s = Duration::from_nanos(spent.cpu_ns).as_secs_f64();
        Ok(Run {
            requests_per_s: requests / duration_s,
            cpu_per_request_us: cpu_s * 1e6 / requests,
            p50_us: answers.p50_us,
            p99_us: answers.p99_us,
            failures: answers.failures.into(),
            busy: cpu_s / duration_s,
            foreign: ((core.taken_s_since(core_before) - cpu_s) / duration_s).max(0.0),
        })
    }
}
