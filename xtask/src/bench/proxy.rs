//! `bench proxy`: the gateway and its peers before the same upstream, each with one core.
//!
//! ```text
//!   load's CPUs: [ wrk ] ──► proxy's CPU: [ portcullis | nginx ] ──► load's CPUs: [ nginx, files ]
//! ```
//!
//! All subjects run all the time; an idle one costs nothing. Each case first asks every subject once for the right
//! answer, then warms each up, then measures in rounds: one burst per subject, the order turned round each time.
//! A burst begins with opening its connections, which for TLS are as many handshakes: part of the figure, for all
//! alike. Goals are those of the issue that makes them win.

use std::{io::Write, process::ExitCode, time::Duration};

use anyhow::{Context, ensure};

use super::{
    Options,
    cpu::{CoreTime, Cores, Usage},
    gateway_binary,
    load::{self, Generator, Load},
    report::{self, CPU, Goal, Row, Run, Series},
    subject::{Scheme, Stage, Subject},
};
use crate::{interrupt, project::Project};

/// The subject that the others are compared with.
const BASELINE: &str = "nginx";
/// Our side.
const OWN: &str = "portcullis";
/// What stands in for our side with `--calibrate`.
const CALIBRATION: &str = "nginx-again";
/// A burst that is not measured: connections to the upstream are opened, caches filled.
const WARM_UP_S: u32 = 1;

/// One row of the table to come.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Case {
    /// Protocol, body, connections.
    name: &'static str,
    scheme: Scheme,
    target: &'static str,
    body_bytes: u32,
    connections: u32,
    goals: &'static [Goal],
}

const CASES: [Case; 4] = [
    Case {
        name: "h1-128B-64c",
        scheme: Scheme::Http,
        target: "/files/128",
        body_bytes: 128,
        connections: 64,
        goals: &[Goal { metric: CPU, ratio_max: 0.75 }],
    },
    Case {
        name: "h1-16KiB-64c",
        scheme: Scheme::Http,
        target: "/files/16k",
        body_bytes: 16 * 1024,
        connections: 64,
        goals: &[Goal { metric: CPU, ratio_max: 0.75 }],
    },
    Case {
        name: "h1-1MiB-16c",
        scheme: Scheme::Http,
        target: "/files/1m",
        body_bytes: 1024 * 1024,
        connections: 16,
        goals: &[Goal { metric: CPU, ratio_max: 0.50 }],
    },
    Case {
        name: "tls-128B-64c",
        scheme: Scheme::Https,
        target: "/files/128",
        body_bytes: 128,
        connections: 64,
        goals: &[Goal { metric: CPU, ratio_max: 0.70 }],
    },
];

/// Runs all cases that were asked for. A case that fails is told, and the others go on.
pub(super) fn run(project: &Project, options: &Options) -> anyhow::Result<ExitCode> {
    let cases: Vec<Case> = CASES.into_iter().filter(|case| options.wants(case.name)).collect();
    ensure!(!cases.is_empty(), "no such case; there are {}", CASES.map(|case| case.name).join(", "));
    let binary = if options.calibrate { None } else { Some(gateway_binary(project, options)?) };
    interrupt::catch()?;
    let cores = Cores::divide()?;
    let generator = Generator::new(cores.load.clone())?;
    let stage = Stage::new(cores.clone())?;
    let own = match &binary {
        Some(binary) => stage.gateway(OWN, binary)?,
        None => stage.nginx(CALIBRATION, true)?,
    };
    let subjects = [own, stage.nginx(BASELINE, false)?];
    let bench = Bench { options, cores, generator, subjects: &subjects };

    let mut measured = Vec::new();
    let mut complete = true;
    for case in &cases {
        match bench.case(case) {
            Ok(rows) => {
                complete &= !report::any_failed(&rows);
                if options.json {
                    print_json(&rows)?;
                }
                measured.extend(rows);
            }
            Err(error) => {
                interrupt::check()?;
                complete = false;
                eprintln!("{}: NOT MEASURED: {error:#}", case.name);
            }
        }
    }
    if !options.json {
        print!("{}", report::table(&measured));
    }
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Each line as soon as it is known, so that an interrupted run has not been for nothing.
fn print_json(rows: &[Row]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for row in rows {
        serde_json::to_writer(&mut out, row)?;
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

struct Bench<'a> {
    options: &'a Options,
    cores: Cores,
    generator: Generator,
    subjects: &'a [Subject],
}

impl Bench<'_> {
    fn case(&self, case: &Case) -> anyhow::Result<Vec<Row>> {
        let loads: Vec<Load> = self.subjects.iter().map(|subject| load_for(case, subject)).collect();
        let mut lanes: Vec<Lane<'_>> = self
            .subjects
            .iter()
            .zip(&loads)
            .map(|(subject, load)| Lane { subject, load, runs: Vec::new() })
            .collect();
        for lane in &lanes {
            let said = || format!("{} says {:?}", lane.subject.name, lane.subject.output());
            load::check(lane.load).with_context(said)?;
            self.generator.warm_up(lane.load, WARM_UP_S).with_context(said)?;
        }
        let rounds = self.options.rounds();
        for round in 1..=rounds {
            eprintln!("{}: round {round} of {rounds}", case.name);
            for lane in &mut lanes {
                let run = self.burst(lane).with_context(|| {
                    format!("{} in round {round} says {:?}", lane.subject.name, lane.subject.output())
                })?;
                lane.runs.push(run);
            }
            // Who came first comes last in the next round.
            lanes.reverse();
        }
        // In the order of the subjects again.
        if rounds % 2 == 1 {
            lanes.reverse();
        }
        let series: Vec<Series> = lanes.into_iter().map(Lane::into_series).collect();
        // Nothing was promised for a second nginx.
        let goals = if self.options.calibrate { &[] } else { case.goals };
        Ok(report::rows("proxy", case.name, &series, BASELINE, goals))
    }

    fn burst(&self, lane: &Lane<'_>) -> anyhow::Result<Run> {
        let read = || anyhow::Ok((Usage::of(lane.subject.pid())?, CoreTime::of(self.cores.proxy)?));
        let (usage_before, core_before) = read()?;
        let answers = self.generator.burst(lane.load, self.options.burst_s())?;
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
            failures: answers.failures().into(),
            busy: cpu_s / duration_s,
            foreign: ((core.taken_s_since(core_before) - cpu_s) / duration_s).max(0.0),
        })
    }
}

/// A subject in a case.
struct Lane<'a> {
    subject: &'a Subject,
    load: &'a Load,
    runs: Vec<Run>,
}

impl Lane<'_> {
    fn into_series(self) -> Series {
        Series { subject: self.subject.name, own: self.subject.own, runs: self.runs }
    }
}

fn load_for(case: &Case, subject: &Subject) -> Load {
    Load {
        url: format!("{}{}", subject.origin(case.scheme), case.target),
        headers: subject.headers.clone(),
        connections: case.connections,
        body_bytes: case.body_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_named_after_what_they_do() {
        for case in CASES {
            let protocol = if case.scheme == Scheme::Https { "tls" } else { "h1" };
            let body = match case.body_bytes {
                bytes if bytes >= 1 << 20 => format!("{}MiB", bytes >> 20),
                bytes if bytes >= 1 << 10 => format!("{}KiB", bytes >> 10),
                bytes => format!("{bytes}B"),
            };
            assert_eq!(case.name, format!("{protocol}-{body}-{}c", case.connections));
        }
    }
}
