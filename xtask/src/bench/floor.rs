//! `bench floor`: the same small request through the gateway, nginx and a hand-written proxy on `io_uring` that does nothing
//! else. The last is the physical limit; what lies between it and the gateway is what features cost.

use std::process::ExitCode;

use super::{
    Options,
    cases::{BASELINE, CASES, Case},
    cpu::Cores,
    gateway_binary,
    lanes::{Lane, Track},
    load::{Generator, Load, Pace},
    own,
    peers::Peer,
    proxy::OWN,
    report::{self, CPU, Report, print_json},
    subject::{Ground, Stage, Subject},
};
use crate::{interrupt, project::Project};

const BENCH: &str = "floor";
/// The subject to compare with.
const FLOOR: &str = "floor";
/// The case of `bench proxy` that is run.
const CASE: &Case = &CASES[0];

/// Measures and prints the distance. The exit code tells whether all three could be measured.
pub(super) fn run(project: &Project, options: &Options) -> anyhow::Result<ExitCode> {
    let binary = gateway_binary(project, options)?;
    let program = own::floor(project)?;
    interrupt::catch()?;
    let cores = Cores::divide()?;
    let generator = Generator::new(cores.load.clone(), None)?;
    let stage = Stage::new(cores.clone(), Ground::loopback())?;
    let mut subjects = vec![stage.gateway(OWN, &binary, &[])?, stage.floor(&program, FLOOR)?];
    match Peer::Nginx.program(project).and_then(|nginx| stage.peer(Peer::Nginx, &nginx, BASELINE)) {
        Ok(nginx) => subjects.push(nginx),
        Err(why) => eprintln!("{BASELINE}: not measured: {why:#}"),
    }
    let lanes = subjects.iter().map(|subject| Lane::new(subject, load(subject))).collect();
    let track = Track {
        case: CASE.name,
        cores: &cores,
        generator: &generator,
        burst_s: options.burst_s(),
        warm_up_s: options.warm_up_s(),
    };
    let (series, failed) = track.measure(options.rounds(), lanes)?;
    let rows = report::rows(BENCH, CASE.name, &series, FLOOR, &[]);
    let report = Report { bench: BENCH, rows, skips: report::skips(BENCH, CASE.name, failed) };
    if options.json {
        print_json(&report.rows)?;
        print_json(&report.skips)?;
    } else {
        print!("{}", report.table());
        println!("\n{}", distance(&report));
    }
    let is_complete = report.skips.is_empty() && !report.any_failed();
    Ok(if is_complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn load(subject: &Subject) -> Load {
    Load {
        protocol: CASE.protocol,
        address: subject.address(CASE.protocol),
        target: CASE.target.to_owned(),
        headers: subject.headers.clone(),
        shown: None,
        connections: CASE.connections,
        body_bytes: CASE.body_bytes,
        pace: Pace::Closed,
    }
}

/// How far the gateway is above the floor.
fn distance(report: &Report) -> String {
    let row = |subject| report.main_row(CASE.name, subject, CPU);
    let Some((ours, floor)) = row(OWN).zip(row(FLOOR)) else {
        return "the distance to the floor is not known".to_owned();
    };
    let Some(ratio) = ours.ratio else { return "the distance to the floor is not known".to_owned() };
    format!(
        "the gateway costs {ratio:.2} of the floor: {:.1} µs more per request for all that it does",
        ours.median - floor.median
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::{Series, testing::run};

    #[test]
    fn the_distance_is_told() {
        let series = |subject, own, cpu| Series { subject, own, runs: vec![run(cpu)] };
        let both = [series(OWN, true, 12.0), series(FLOOR, false, 10.0)];
        let rows = report::rows(BENCH, CASE.name, &both, FLOOR, &[]);
        let report = Report { bench: BENCH, rows, skips: Vec::new() };
        assert!(distance(&report).contains("1.20 of the floor: 2.0 µs"), "{}", distance(&report));
        assert!(distance(&Report::default()).contains("not known"));
    }

    #[test]
    fn the_case_is_the_small_request() {
        assert_eq!(CASE.name, "h1-128B-64c");
    }
}
