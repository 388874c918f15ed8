//! `bench proxy`: the gateway and its peers before the same upstream, each with one core.
//!
//! ```text
//!   load's CPUs: [ wrk, h2load, ours ] ──► proxy's CPU: [ portcullis | a peer ] ──► load's CPUs: [ nginx, files ]
//! ```
//!
//! All subjects run all the time; an idle one costs next to nothing. Each case first asks every subject once for the
//! right answer, then warms each up, then measures in rounds: one burst per subject, the order turned round each time.
//! A burst begins with opening its connections, which for TLS are as many handshakes: part of the figure, for all
//! alike. A subject that fails in a case is left out of it, and the report says so. Goals are those of the issue that
//! makes them win.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, ensure};

use super::{
    Options,
    budget::Budget,
    cases::{self, BASELINE, CASES, Case, IDLE_CASES, IdleCase, Pacing, ROUTES_CASE},
    chart::{self, Look},
    cpu::Cores,
    gateway_binary, idle,
    lanes::{Lane, Track},
    load::{Generator, Load, Pace},
    own,
    peers::Peer,
    report::{self, ALL, CPU, Figure, Goal, Report, print_json},
    routes,
    subject::{Ground, Stage, Subject},
};
use crate::{interrupt, project::Project};

/// What rows call this bench.
const BENCH: &str = "proxy";
/// Our side.
pub(super) const OWN: &str = "portcullis";
/// What stands in for our side with `--calibrate`.
const CALIBRATION: &str = "nginx-again";
/// The chart.
pub(super) const LOOK: Look = Look {
    head: "CPU time per request, relative to nginx",
    note: "one core each, same upstream, medians of alternating rounds; shorter is better",
    metrics: &[CPU],
    better: "shorter",
    subjects: &["portcullis", "nginx", "haproxy", "envoy", "pingora"],
    baseline: BASELINE,
    ratio_shown_max: 3.0,
};
/// A skip that is about no case in particular.
const EVERY_CASE: &str = "every case";

/// Runs all cases that were asked for. A case that fails is told, and the others go on.
pub(super) fn run(project: &Project, options: &Options) -> anyhow::Result<ExitCode> {
    let known = || cases::names().collect::<Vec<_>>().join(", ");
    ensure!(cases::names().any(|name| options.wants(name)), "no such case; there are {}", known());
    let binary = if options.calibrate { None } else { Some(gateway_binary(project, options)?) };
    let client = own::client(project)
        .inspect_err(|error| eprintln!("cases that need our own client are left out: {error:#}"));
    interrupt::catch()?;
    let cores = Cores::divide()?;
    let generator = Generator::new(cores.load.clone(), client.ok())?;
    let stage = Stage::new(cores.clone(), Ground::loopback())?;

    let mut bench = Bench {
        options,
        budget: Budget::new(options),
        cores,
        generator,
        stage,
        binary,
        peers: Vec::new(),
        report: Report { bench: BENCH, ..Report::default() },
        written: 0,
    };
    bench.find_peers(project);
    bench.loads()?;
    if !options.calibrate {
        bench.idle()?;
        bench.routes()?;
    }
    bench.finish()
}

struct Bench<'a> {
    options: &'a Options,
    budget: Budget,
    cores: Cores,
    generator: Generator,
    stage: Stage,
    binary: Option<PathBuf>,
    peers: Vec<(Peer, PathBuf)>,
    report: Report,
    /// How much of the report has been printed as JSON.
    written: usize,
}

impl Bench<'_> {
    /// Those that were asked for; without a word all that are here, and always the one to compare with.
    fn find_peers(&mut self, project: &Project) {
        let asked = &self.options.peer;
        for peer in Peer::ALL {
            let is_asked = !self.options.calibrate && (asked.is_empty() || asked.contains(&peer));
            if !is_asked && peer != Peer::Nginx {
                continue;
            }
            match peer.program(project) {
                Ok(program) => self.peers.push((peer, program)),
                Err(why) => self.skip(EVERY_CASE, peer.name(), why),
            }
        }
    }

    /// Starts our side and every peer; who does not start is left out.
    fn subjects(&mut self, case: &'static str) -> Vec<Subject> {
        let mut subjects = Vec::new();
        let own = match (&self.binary, self.peers.first()) {
            (Some(binary), _) => Some((OWN, self.stage.gateway(OWN, binary, &[]))),
            (None, Some((peer, program))) => {
                let again = self.stage.peer(*peer, program, CALIBRATION);
                Some((CALIBRATION, again.map(|subject| subject.with_own(true))))
            }
            (None, None) => None,
        };
        let peers = self
            .peers
            .iter()
            .map(|(peer, program)| (peer.name(), self.stage.peer(*peer, program, peer.name())));
        let started: Vec<_> = own.into_iter().chain(peers).collect();
        for (name, subject) in started {
            match subject {
                Ok(subject) => subjects.push(subject),
                Err(why) => self.skip(case, name, why),
            }
        }
        subjects
    }

    fn skip(&mut self, case: &'static str, subject: &'static str, why: anyhow::Error) {
        self.report.skips.extend(report::skips(BENCH, case, vec![(subject, why)]));
    }

    /// The cases that a load tool drives.
    fn loads(&mut self) -> anyhow::Result<()> {
        let wanted: Vec<&Case> = CASES.iter().filter(|case| self.options.wants(case.name)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let subjects = self.subjects(EVERY_CASE);
        for case in wanted {
            if let Err(why) = self.load(case, &subjects) {
                interrupt::check()?;
                self.skip(case.name, ALL, why);
            }
            self.print_news()?;
        }
        Ok(())
    }

    fn load(&mut self, case: &Case, subjects: &[Subject]) -> anyhow::Result<()> {
        let pace = self.pace(case, subjects)?;
        let mut lanes = Vec::new();
        for subject in subjects {
            match subject.lacks(case.protocol) {
                None => lanes.push(Lane::new(subject, load_for(case, subject, pace))),
                Some(why) => self.skip(case.name, subject.name, anyhow::Error::msg(why)),
            }
        }
        // Nothing was promised for a second nginx.
        let goals = if self.options.calibrate { &[] } else { case.goals };
        self.measure(case.name, lanes, BASELINE, goals)
    }

    /// The pace of a case; a constant rate is a share of what the baseline has just been seen to do.
    fn pace(&self, case: &Case, subjects: &[Subject]) -> anyhow::Result<Pace> {
        match case.pacing {
            Pacing::Known(pace) => Ok(pace),
            Pacing::ShareOfBaseline(share) => {
                let baseline = subjects.iter().find(|subject| subject.name == BASELINE);
                let baseline = baseline.with_context(|| format!("it needs {BASELINE}"))?;
                let load = load_for(case, baseline, Pace::Closed);
                let answers = self.generator.burst(&load, self.options.burst_s())?;
                let most = f64::from(answers.requests) / (answers.duration_us / 1e6);
                eprintln!("{}: {BASELINE} does {most:.0} requests/s at most", case.name);
                Ok(Pace::Constant(most * share))
            }
        }
    }

    /// Measures in rounds, and takes down the rows and who failed.
    fn measure(
        &mut self,
        case: &'static str,
        lanes: Vec<Lane<'_>>,
        baseline: &'static str,
        goals: &[Goal],
    ) -> anyhow::Result<()> {
        let burst_s = self.options.burst_s();
        let warm_up_s = self.options.warm_up_s();
        let rounds = self.budget.rounds(lanes.len(), burst_s, warm_up_s);
        let track = Track { case, cores: &self.cores, generator: &self.generator, burst_s, warm_up_s };
        let (series, failed) = track.measure(rounds, lanes)?;
        self.report.skips.extend(report::skips(BENCH, case, failed));
        self.report.rows.extend(report::rows(BENCH, case, &series, baseline, goals));
        Ok(())
    }

    /// Memory of idle connections, on subjects that have served nobody yet.
    fn idle(&mut self) -> anyhow::Result<()> {
        let wanted: Vec<&IdleCase> = IDLE_CASES.iter().filter(|case| self.options.wants(case.name)).collect();
        for case in wanted {
            let mut figures = Vec::new();
            for subject in self.subjects(case.name) {
                eprintln!("{}: {}", case.name, subject.name);
                match idle::bytes_per_connection(&self.generator, &subject, case) {
                    Ok(bytes) => figures.push(Figure { subject: subject.name, own: subject.own, bytes }),
                    Err(why) => {
                        interrupt::check()?;
                        self.skip(case.name, subject.name, why);
                    }
                }
            }
            self.report.rows.extend(report::memory(BENCH, case.name, &figures, BASELINE, case.bytes_max));
            self.budget.case_is_over();
            self.print_news()?;
        }
        Ok(())
    }

    /// The gateway with few and with many routes.
    fn routes(&mut self) -> anyhow::Result<()> {
        let Some(binary) = self.binary.clone().filter(|_| self.options.wants(ROUTES_CASE)) else {
            return Ok(());
        };
        let subjects = routes::subjects(&self.stage, &binary);
        let measured = subjects.and_then(|subjects| {
            let lanes = subjects.iter().map(|(subject, load)| Lane::new(subject, load.clone())).collect();
            self.measure(ROUTES_CASE, lanes, routes::FEW, &routes::GOALS)
        });
        if let Err(why) = measured {
            interrupt::check()?;
            self.skip(ROUTES_CASE, OWN, why);
        }
        self.print_news()
    }

    /// Each line as soon as it is known, so that an interrupted run has not been for nothing.
    fn print_news(&mut self) -> anyhow::Result<()> {
        if self.options.json {
            print_json(self.report.rows.get(self.written..).unwrap_or_default())?;
        }
        self.written = self.report.rows.len();
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<ExitCode> {
        self.print_news()?;
        if self.options.json {
            print_json(&self.report.skips)?;
        } else {
            print!("{}", self.report.table());
        }
        if let Some(file) = &self.options.svg {
            let titles = CASES.map(|case| (case.name, case.title));
            fs::write(file, chart::svg(&self.report, &LOOK, &titles))
                .with_context(|| file.display().to_string())?;
        }
        let own = if self.options.calibrate { CALIBRATION } else { OWN };
        let is_complete = !self.report.any_failed() && !self.report.lacks_own(own);
        Ok(if is_complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn load_for(case: &Case, subject: &Subject, pace: Pace) -> Load {
    Load {
        protocol: case.protocol,
        address: subject.address(case.protocol),
        target: case.target.to_owned(),
        headers: subject.headers.clone(),
        shown: None,
        connections: case.connections,
        body_bytes: case.body_bytes,
        pace,
    }
}
