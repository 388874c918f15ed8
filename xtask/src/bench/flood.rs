//! `bench flood`: what a flood over a veth pair costs a host, and what it leaves to those who mean well.
//!
//! Comes in: a gateway in a release build. Goes out: packets that one core drops, next to xdp-filter's, nftables' and
//! those of a program that drops everything unseen ([`drops`]); honest requests that are answered while a flood has the
//! other core, next to the same without the filter and to nginx behind nftables ([`honest`]); the time from an offence
//! to the first packet that is dropped for it ([`reaction`]). Each host has a pair of namespaces of its own, and all
//! stand all the time; a round measures each once, the order turned round each time. The flood is one source's, blocked
//! as an operator would, since all can drop that; limits, feeds and many blocks are the business of `bench nic`.

mod sender;
mod intake;
mod host;
mod drops;
mod honest;
mod reaction;

use std::{fmt::Write, fs, process::ExitCode, time::Duration};

use anyhow::{Context, Result, ensure};

use self::{
    drops::Burst,
    honest::{Pair, Place},
    host::{CEILING, Host, NFTABLES, UNFILTERED},
};
use super::{
    Options,
    chart::{self, Look},
    cpu::Cores,
    gateway_binary,
    nic::rival,
    peers::Peer,
    proxy::OWN,
    report::{self, Report, Row, print_json, stats::percentile},
};
use crate::{interrupt, project::Project};

const BENCH: &str = "flood";
const DROPS: &str = "drops";
/// Where the flood's packets are taken, and whether the goal is for it.
const HONEST: [(&str, Place, bool); 2] =
    [("honest", Place::Apart, true), ("honest-one-core", Place::Together(TOGETHER_PER_S), false)];
/// So many packets that who drops one in half a microsecond needs a quarter of a core for them.
const TOGETHER_PER_S: u32 = 500_000;
/// By which prefix of spoofed sources, and whether a flood runs meanwhile.
const REACTIONS: [(&str, usize, bool); 2] = [("reaction", 1, false), ("reaction-flooded", 0, true)];

const DROPPED: &str = "dropped_per_core";
const OFFERED: &str = "offered";
const ANSWERED: &str = "honest_requests";
const ANSWERED_CALM: &str = "honest_requests_calm";
const P99: &str = "honest_latency_p99";
const P99_CALM: &str = "honest_latency_p99_calm";
const FAILED: &str = "honest_failures";
const FLOOD_TAKEN: &str = "flood_taken";
const FIRST_DROP_P50: &str = "first_drop_p50";
const FIRST_DROP_P99: &str = "first_drop_p99";
/// What the same host did without the flood.
const CALM: &str = "calm";

/// Goals: packets of ours to theirs, honest requests under the flood to those without, and milliseconds.
const TO_NFTABLES_MIN: f64 = 1.5;
const TO_XDP_FILTER_MIN: f64 = 1.2;
const HONEST_MIN: f64 = 0.9;
const FIRST_DROP_MS_MAX: f64 = 10.0;

/// Sources that are blocked for what they do, one after another.
const SOURCES: u32 = 200;
const SOURCES_QUICK: u32 = 40;
const _: () = assert!(SOURCES <= reaction::SOURCES_MAX);

/// Measures everything that was asked for; what fails is told, and the rest goes on.
pub(super) fn run(project: &Project, options: &Options) -> Result<ExitCode> {
    let cases = || {
        let honest = HONEST.map(|(case, ..)| case);
        [DROPS].into_iter().chain(honest).chain(REACTIONS.map(|(case, ..)| case))
    };
    let known = || cases().collect::<Vec<_>>().join(", ");
    ensure!(cases().any(|case| options.wants(case)), "no such case; there are {}", known());
    let binary = gateway_binary(project, options)?;
    interrupt::catch()?;
    let cores = Cores::divide()?;
    let mut bench =
        Bench { options, cores, hosts: Vec::new(), report: Report { bench: BENCH, ..Report::default() } };
    let cpu = bench.cores.proxy;
    bench.add(OWN, Host::gateway(&binary, cpu))?;
    bench.add(UNFILTERED, Host::unfiltered(&binary, cpu))?;
    let nginx = Peer::Nginx.program(project);
    bench.add(NFTABLES, nginx.and_then(|nginx| Host::nftables(&nginx, cpu)))?;
    bench.add(rival::NAME, Host::xdp_filter())?;
    bench.add(CEILING, Host::ceiling())?;

    let rows = if options.wants(DROPS) { bench.drops()? } else { Vec::new() };
    bench.report(rows)?;
    for (case, place, has_goal) in HONEST.into_iter().filter(|(case, ..)| options.wants(case)) {
        let rows = bench.honest(case, place, has_goal)?;
        bench.report(rows)?;
    }
    for (case, prefix, flooded) in REACTIONS.into_iter().filter(|(case, ..)| options.wants(case)) {
        let rows = bench.reaction(case, prefix, flooded)?;
        bench.report(rows)?;
    }
    bench.finish()
}

struct Bench<'a> {
    options: &'a Options,
    cores: Cores,
    hosts: Vec<Host>,
    report: Report,
}

/// What a host did in each round; who has failed takes no further part.
struct Series<T> {
    host: &'static str,
    rounds: Result<Vec<T>>,
}

impl<T: Copy> Series<T> {
    fn of(&self, value: impl Fn(T) -> f64) -> Vec<f64> {
        self.rounds.iter().flatten().map(|round| value(*round)).collect()
    }
}

impl Bench<'_> {
    /// Who does not stand is told, and left out.
    fn add(&mut self, name: &'static str, host: Result<Host>) -> Result<()> {
        match host {
            Ok(host) => self.hosts.push(host),
            Err(why) => self.skip("every case", name, why)?,
        }
        Ok(())
    }

    fn skip(&mut self, case: &'static str, name: &'static str, why: anyhow::Error) -> Result<()> {
        interrupt::check()?;
        self.report.skips.extend(report::skips(BENCH, case, vec![(name, why)]));
        Ok(())
    }

    fn drops(&mut self) -> Result<Vec<Row>> {
        let time = Duration::from_secs(self.options.burst_s().into());
        let of = |host: &Host| host.name != UNFILTERED;
        let series = self.rounds(DROPS, of, |host, cores| drops::burst(host, cores, time))?;
        Ok(drop_rows(&series))
    }

    fn honest(&mut self, case: &'static str, place: Place, has_goal: bool) -> Result<Vec<Row>> {
        let burst_s = self.options.burst_s();
        let of = |host: &Host| host.served().is_ok();
        let series = self.rounds(case, of, |host, cores| honest::pair(host, cores, place, burst_s))?;
        Ok(series.iter().flat_map(|series| honest_rows(case, has_goal, series)).collect())
    }

    /// Rounds over the hosts that take part.
    fn rounds<T>(
        &mut self,
        case: &'static str,
        takes_part: impl Fn(&Host) -> bool,
        measure: impl Fn(&Host, &Cores) -> Result<T>,
    ) -> Result<Vec<Series<T>>> {
        let rounds = self.options.rounds();
        let hosts: Vec<&Host> = self.hosts.iter().filter(|host| takes_part(host)).collect();
        let mut lanes: Vec<(&Host, Result<Vec<T>>)> =
            hosts.into_iter().map(|host| (host, Ok(Vec::new()))).collect();
        for round in 1..=rounds {
            eprintln!("{case}: round {round} of {rounds}");
            for (host, done) in &mut lanes {
                interrupt::check()?;
                let Ok(values) = done else { continue };
                match measure(host, &self.cores).with_context(|| format!("in round {round}")) {
                    Ok(value) => values.push(value),
                    Err(why) => *done = Err(why),
                }
            }
            // Who came first comes last in the next round.
            lanes.reverse();
        }
        interrupt::check()?;
        let mut series = Vec::new();
        let mut failed = Vec::new();
        for (host, rounds) in lanes {
            match rounds {
                Ok(rounds) => series.push(Series { host: host.name, rounds: Ok(rounds) }),
                Err(why) => failed.push((host.name, why)),
            }
        }
        self.report.skips.extend(report::skips(BENCH, case, failed));
        Ok(series)
    }

    fn reaction(&mut self, case: &'static str, prefix: usize, flooded: bool) -> Result<Vec<Row>> {
        let count = if self.options.quick { SOURCES_QUICK } else { SOURCES };
        eprintln!("{case}: {count} sources");
        let Some(host) = self.hosts.iter().find(|host| host.name == OWN) else { return Ok(Vec::new()) };
        match reaction::times_ms(host, &self.cores, prefix, count, flooded) {
            Ok(times_ms) => Ok(reaction_rows(case, &times_ms)),
            Err(why) => {
                self.skip(case, OWN, why)?;
                Ok(Vec::new())
            }
        }
    }

    /// Takes rows down, and prints them as JSON at once, so that an interrupted run has not been for nothing.
    fn report(&mut self, rows: Vec<Row>) -> Result<()> {
        if self.options.json {
            print_json(&rows)?;
        }
        self.report.rows.extend(rows);
        Ok(())
    }

    fn finish(self) -> Result<ExitCode> {
        if self.options.json {
            print_json(&self.report.skips)?;
        } else {
            print!("{}{}", table(&self.report), self.report.table());
        }
        if let Some(file) = &self.options.svg {
            fs::write(file, chart::svg(&self.report, &LOOK, &TITLES))
                .with_context(|| file.display().to_string())?;
        }
        let is_complete = !self.report.lacks_own(OWN) && !any_failed(&self.report);
        Ok(if is_complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The ceiling is the main comparison, which the chart shows; the goals are against the others.
fn drop_rows(series: &[Series<Burst>]) -> Vec<Row> {
    let dropped = |one: &Series<Burst>| one.of(|burst| burst.dropped_mpps);
    let of = |name| series.iter().find(|one| one.host == name).map(dropped);
    let mut rows = Vec::new();
    for one in series {
        let place = (BENCH, DROPS, one.host);
        let (metric, values) = ((DROPPED, "Mpps"), dropped(one));
        rows.extend(match of(CEILING).filter(|_| one.host != CEILING) {
            Some(ceiling) => report::compared(place, metric, &values, (CEILING, &ceiling), None),
            None => report::seen(place, metric, &values, None),
        });
        for (name, least) in [(NFTABLES, TO_NFTABLES_MIN), (rival::NAME, TO_XDP_FILTER_MIN)] {
            if let Some(theirs) = of(name).filter(|_| one.host == OWN) {
                rows.extend(report::compared(place, metric, &values, (name, &theirs), Some(least)));
            }
        }
        rows.extend(report::seen(place, (OFFERED, "Mpps"), &one.of(|burst| burst.offered_mpps), None));
    }
    rows
}

fn honest_rows(case: &'static str, has_goal: bool, series: &Series<Pair>) -> Vec<Row> {
    let place = (BENCH, case, series.host);
    let calm = series.of(|pair| Pair::requests_per_s(pair.calm));
    let flooded = series.of(|pair| Pair::requests_per_s(pair.flooded));
    let least = (series.host == OWN && has_goal).then_some(HONEST_MIN);
    let p99_calm = series.of(|pair| pair.calm.p99_us);
    let p99 = series.of(|pair| pair.flooded.p99_us);
    let failed = series.of(|pair| f64::from(pair.calm.failures.saturating_add(pair.flooded.failures)));
    [
        report::seen(place, (ANSWERED_CALM, "1/s"), &calm, None),
        report::compared(place, (ANSWERED, "1/s"), &flooded, (CALM, &calm), least),
        report::seen(place, (P99_CALM, "us"), &p99_calm, None),
        report::compared(place, (P99, "us"), &p99, (CALM, &p99_calm), None),
        report::seen(place, (FAILED, "requests"), &failed, None),
        report::seen(place, (FLOOD_TAKEN, "Mpps"), &series.of(|pair| pair.flood_mpps), None),
        report::seen(place, (OFFERED, "Mpps"), &series.of(|pair| pair.offered_mpps), None),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn reaction_rows(case: &'static str, times_ms: &[f64]) -> Vec<Row> {
    let row = |metric, percent, most| {
        let value: Vec<f64> = percentile(times_ms, percent).into_iter().collect();
        report::seen((BENCH, case, OWN), (metric, "ms"), &value, most)
    };
    let rows = [row(FIRST_DROP_P50, 50, None), row(FIRST_DROP_P99, 99, Some(FIRST_DROP_MS_MAX))];
    rows.into_iter().flatten().collect()
}

/// Whether a request to our gateway failed; what happens to others is theirs.
fn any_failed(report: &Report) -> bool {
    report.rows.iter().any(|row| row.metric == FAILED && row.subject == OWN && row.max > 0.0)
}

/// The chart.
const LOOK: Look = Look {
    head: "Under a flood",
    note: "veth; packets relative to an empty XDP program, honest requests to no flood; longer is better",
    metrics: &[DROPPED, ANSWERED],
    better: "longer",
    subjects: &[OWN, NFTABLES, rival::NAME, UNFILTERED],
    baseline: CEILING,
    ratio_shown_max: 1.1,
};
/// Where the flood is elsewhere, each host has another flood: that is no picture.
const TITLES: [(&str, &str); 2] =
    [(DROPS, "packets dropped by a core"), ("honest-one-core", "requests at 0.5 Mpps")];

fn table(report: &Report) -> String {
    let mut text = String::new();
    let median = |case: &str, subject: &str, metric: &str, decimals: usize, scale: f64| {
        let row = report.main_row(case, subject, metric);
        row.map_or_else(|| "–".to_owned(), |row| format!("{:.decimals$}", row.median * scale))
    };
    let ratio = |case: &str, subject: &str, metric: &str| {
        let ratio = report.main_row(case, subject, metric).and_then(|row| row.ratio);
        ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"))
    };
    // Writing to a string does not fail, here and below.
    let subjects = |case: &str, metric: &str| {
        let mut subjects: Vec<&str> = Vec::new();
        for row in report.rows.iter().filter(|row| row.case == case && row.metric == metric) {
            if !subjects.contains(&row.subject) {
                subjects.push(row.subject);
            }
        }
        subjects
    };
    let dropped = subjects(DROPS, DROPPED);
    if !dropped.is_empty() {
        let _ = writeln!(
            text,
            "{:<16} {:<12} {:>12} {:>8} {:>13}",
            "drops", "", "Mpps a core", "× empty", "Mpps offered"
        );
    }
    for subject in dropped {
        let _ = writeln!(
            text,
            "{:<16} {subject:<12} {:>12} {:>8} {:>13}",
            "",
            median(DROPS, subject, DROPPED, 2, 1.0),
            ratio(DROPS, subject, DROPPED),
            median(DROPS, subject, OFFERED, 2, 1.0),
        );
    }
    for (case, ..) in HONEST {
        let answered = subjects(case, ANSWERED);
        if !answered.is_empty() {
            let _ = writeln!(
                text,
                "\n{case:<16} {:<12} {:>12} {:>8} {:>8} {:>12} {:>8} {:>11} {:>8} {:>7}",
                "",
                "requests/s",
                "flooded",
                "× calm",
                "p99 ms calm",
                "flooded",
                "Mpps taken",
                "offered",
                "failed"
            );
        }
        for subject in answered {
            let _ = writeln!(
                text,
                "{:<16} {subject:<12} {:>12} {:>8} {:>8} {:>12} {:>8} {:>11} {:>8} {:>7}",
                "",
                median(case, subject, ANSWERED_CALM, 0, 1.0),
                median(case, subject, ANSWERED, 0, 1.0),
                ratio(case, subject, ANSWERED),
                median(case, subject, P99_CALM, 2, 1e-3),
                median(case, subject, P99, 2, 1e-3),
                median(case, subject, FLOOD_TAKEN, 2, 1.0),
                median(case, subject, OFFERED, 2, 1.0),
                median(case, subject, FAILED, 0, 1.0),
            );
        }
    }
    for (case, ..) in REACTIONS {
        if report.main_row(case, OWN, FIRST_DROP_P99).is_some() {
            let _ = writeln!(
                text,
                "\n{case}: from the offence to the first drop {} ms in the median, p99 {} ms",
                median(case, OWN, FIRST_DROP_P50, 2, 1.0),
                median(case, OWN, FIRST_DROP_P99, 2, 1.0),
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::load::Answers;

    fn bursts(host: &'static str, mpps: &[f64]) -> Series<Burst> {
        let burst = |mpps: &f64| Burst { dropped_mpps: *mpps, offered_mpps: 9.0 };
        Series { host, rounds: Ok(mpps.iter().map(burst).collect()) }
    }

    fn pairs(host: &'static str, calm: u32, flooded: u32, failures: u32) -> Series<Pair> {
        let answers = |requests, failures| Answers {
            requests,
            duration_us: 1e6,
            p50_us: 1000.0,
            p99_us: 2000.0,
            failures,
        };
        let pair = Pair {
            calm: answers(calm, 0),
            flooded: answers(flooded, failures),
            flood_mpps: 3.0,
            offered_mpps: 3.0,
        };
        Series { host, rounds: Ok(vec![pair]) }
    }

    fn report_of(rows: Vec<Row>) -> Report {
        Report { bench: BENCH, rows, ..Report::default() }
    }

    #[track_caller]
    fn check_drops(ours: f64, expected: [&str; 2]) {
        let series = [
            bursts(OWN, &[ours]),
            bursts(NFTABLES, &[2.0]),
            bursts(rival::NAME, &[4.0]),
            bursts(CEILING, &[8.0]),
        ];
        let report = report_of(drop_rows(&series));
        let said = report.table();
        let goals: Vec<&str> = said.lines().filter(|line| line.starts_with(DROPS)).collect();
        assert_eq!(goals.len(), 2, "{said}");
        for (line, expected) in goals.iter().zip(expected) {
            assert!(line.ends_with(expected), "{line}");
        }
        // What the chart shows is the share of the ceiling.
        assert_eq!(report.main_row(DROPS, OWN, DROPPED).unwrap().ratio, Some(ours / 8.0));
    }

    #[test]
    fn drops_are_held_against_both_rivals() {
        check_drops(4.8, ["  reached", "  reached"]);
        check_drops(4.7, ["  reached", "NOT REACHED"]);
        check_drops(2.9, ["NOT REACHED", "NOT REACHED"]);
    }

    #[test]
    fn nobody_is_compared_with_who_is_not_here() {
        let rows = drop_rows(&[bursts(OWN, &[4.0])]);
        assert!(rows.iter().all(|row| row.ratio.is_none()));
        assert!(report_of(rows).all_reached());
    }

    #[test]
    fn only_our_own_honest_requests_have_a_goal() {
        let rows = |flooded| {
            let series = [pairs(OWN, 1000, flooded, 0), pairs(NFTABLES, 1000, 10, 7)];
            report_of(series.iter().flat_map(|series| honest_rows("honest", true, series)).collect())
        };
        assert!(rows(900).all_reached() && !rows(899).all_reached());
        assert!(!any_failed(&rows(900)));
        assert!(any_failed(&report_of(honest_rows("honest", true, &pairs(OWN, 1000, 1000, 1)))));
        let said = table(&rows(900));
        assert!(said.contains("0.90") && said.contains("0.01"), "{said}");
    }

    #[test]
    fn the_slowest_hundredth_may_be_late() {
        let mut times_ms = vec![1.0; 198];
        times_ms.extend([50.0, 60.0]);
        assert!(report_of(reaction_rows("reaction", &times_ms)).all_reached());
        times_ms.extend([11.0; 2]);
        times_ms.sort_by(f64::total_cmp);
        assert!(!report_of(reaction_rows("reaction", &times_ms)).all_reached());
        assert!(!report_of(reaction_rows("reaction", &[])).all_reached());
    }
}
