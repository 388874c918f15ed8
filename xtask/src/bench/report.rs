//! What a bench says: rows of medians, and the table that people read.
//!
//! Comes in: per case and subject, one [`Run`] for each round, or one figure. Goes out: [`Row`]s, whose JSON form is a
//! contract that later benches add cases to, and a table made of the same rows. It measures nothing.
//!
//! A ratio is the median of the rounds' own ratios, not the ratio of two medians: what slows the machine for a round
//! slows both sides of it.

pub(super) mod stats;
mod table;

use std::io::Write;

use serde::Serialize;

use stats::{median, ratio};

/// One burst of one subject.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Run {
    /// Answers per second.
    pub(super) requests_per_s: f64,
    /// CPU time of the subject for each answer.
    pub(super) cpu_per_request_us: f64,
    /// Median time from request to answer.
    pub(super) p50_us: f64,
    /// 99th percentile of the same.
    pub(super) p99_us: f64,
    /// Requests and connections that failed.
    pub(super) failures: f64,
    /// Share of its CPU that the subject used.
    pub(super) busy: f64,
    /// Share of its CPU that was somebody else's: other processes, the hypervisor, interrupts.
    pub(super) foreign: f64,
}

/// Something that is reported of every run.
struct Metric {
    name: &'static str,
    unit: &'static str,
    value: fn(&Run) -> f64,
    /// Whether a ratio to the peer means something.
    compared: bool,
}

/// Answers, over time.
pub(super) const REQUESTS: &str = "requests_per_second";
/// The metric that most goals are about.
pub(super) const CPU: &str = "cpu_per_request";
const P50: &str = "latency_p50";
/// What the tail is judged by.
pub(super) const P99: &str = "latency_p99";
/// What did not go as it should.
pub(super) const FAILURES: &str = "failures";
const BUSY: &str = "cpu_busy";
const FOREIGN: &str = "cpu_foreign";
/// Time that a program takes for a packet.
pub(super) const TIME: &str = "time_per_packet";
/// The shortest of them.
pub(super) const BEST: &str = "best_time_per_packet";
/// Proportional set size for each idle connection.
pub(super) const MEMORY: &str = "memory_per_idle_connection";

const METRICS: [Metric; 7] = [
    Metric { name: REQUESTS, unit: "1/s", value: |run| run.requests_per_s, compared: true },
    Metric { name: CPU, unit: "us", value: |run| run.cpu_per_request_us, compared: true },
    Metric { name: P50, unit: "us", value: |run| run.p50_us, compared: true },
    Metric { name: P99, unit: "us", value: |run| run.p99_us, compared: true },
    Metric { name: FAILURES, unit: "requests", value: |run| run.failures, compared: false },
    Metric { name: BUSY, unit: "share", value: |run| run.busy, compared: false },
    Metric { name: FOREIGN, unit: "share", value: |run| run.foreign, compared: false },
];

/// What a goal bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Target {
    /// The ratio to another subject, from above.
    Ratio,
    /// The same, from below.
    LeastRatio,
    /// Our own figure, which must also be below each peer's.
    Value,
}

/// What one metric must not exceed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Goal {
    /// Its name, such as [`CPU`].
    pub(super) metric: &'static str,
    /// The greatest ratio that is good enough.
    pub(super) ratio_max: f64,
    /// To whom.
    pub(super) to: &'static str,
}

/// All runs of one subject in one case, in the order of the rounds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    /// Whose.
    pub(super) subject: &'static str,
    /// Whether the goals are for it.
    pub(super) own: bool,
    /// Its runs.
    pub(super) runs: Vec<Run>,
}

/// One line of `--json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Row {
    bench: &'static str,
    pub(super) case: &'static str,
    pub(super) subject: &'static str,
    pub(super) metric: &'static str,
    unit: &'static str,
    pub(super) median: f64,
    min: f64,
    pub(super) max: f64,
    /// With whom it was compared; null on that subject's own rows.
    ratio_to: Option<&'static str>,
    /// Median of the rounds' ratios.
    pub(super) ratio: Option<f64>,
    /// Only on our own rows.
    #[serde(flatten)]
    goal: Option<GoalFields>,
    /// Compared with the case's baseline; other comparisons have a row of their own.
    #[serde(skip)]
    main: bool,
}

/// `goal` bounds `ratio` (from below where `goal_of` is `least_ratio`), or `median` where it is `value`; all three are null where nothing was promised.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct GoalFields {
    goal: Option<f64>,
    goal_of: Option<Target>,
    met: Option<bool>,
}

impl GoalFields {
    const NONE: Self = Self { goal: None, goal_of: None, met: None };
}

/// A skip that is about every subject of its case.
pub(super) const ALL: &str = "all";
/// What the reason of a skip begins with when there is nothing to measure yet.
pub(super) const NOT_BUILT: &str = "not built yet";

/// A subject that a case goes without: a line of `--json` of its own.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Skip {
    pub(super) bench: &'static str,
    pub(super) case: &'static str,
    pub(super) subject: &'static str,
    /// Why it was not measured.
    #[serde(rename = "not_measured")]
    pub(super) why: String,
}

/// One for each subject that failed.
pub(super) fn skips(
    bench: &'static str,
    case: &'static str,
    failed: Vec<(&'static str, anyhow::Error)>,
) -> Vec<Skip> {
    let skip = |(subject, why): (_, anyhow::Error)| {
        // In one line, whatever a program said.
        let why = format!("{why:#}").split_whitespace().collect::<Vec<_>>().join(" ");
        eprintln!("{case}, {subject}: not measured: {why}");
        Skip { bench, case, subject, why }
    };
    failed.into_iter().map(skip).collect()
}

/// All that a bench has to say.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Report {
    /// Its name.
    pub(super) bench: &'static str,
    /// What was measured.
    pub(super) rows: Vec<Row>,
    /// What was not.
    pub(super) skips: Vec<Skip>,
}

impl Report {
    /// Whether requests failed in any run.
    pub(super) fn any_failed(&self) -> bool {
        self.rows.iter().any(|row| row.metric == FAILURES && row.max > 0.0)
    }

    /// Whether every goal was.
    pub(super) fn all_reached(&self) -> bool {
        self.rows.iter().filter_map(|row| row.goal).all(|goal| goal.met != Some(false))
    }

    /// Whether a case lacks rows of ours for another reason than that nothing was built for it.
    pub(super) fn lacks_own(&self, own: &str) -> bool {
        self.skips
            .iter()
            .any(|skip| (skip.subject == own || skip.subject == ALL) && !skip.why.starts_with(NOT_BUILT))
    }

    /// The row that compares a subject with the case's baseline.
    pub(super) fn main_row(&self, case: &str, subject: &str, metric: &str) -> Option<&Row> {
        let is_it =
            |row: &&Row| row.case == case && row.subject == subject && row.metric == metric && row.main;
        self.rows.iter().find(is_it)
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        table::table(self)
    }
}

/// The rows of one case; `baseline` is the subject that the others are compared with.
pub(super) fn rows(
    bench: &'static str,
    case: &'static str,
    series: &[Series],
    baseline: &'static str,
    goals: &[Goal],
) -> Vec<Row> {
    let mut rows = Vec::with_capacity(series.len() * METRICS.len());
    for one in series {
        for metric in &METRICS {
            let promised = goals.iter().filter(|goal| one.own && goal.metric == metric.name);
            let promised: Vec<&Goal> = promised.collect();
            let to_baseline = promised.iter().find(|goal| goal.to == baseline).copied();
            let comparison = Comparison { bench, case, series, one, metric };
            rows.extend(comparison.row(baseline, to_baseline, true));
            for goal in promised.into_iter().filter(|goal| goal.to != baseline) {
                rows.extend(comparison.row(goal.to, Some(goal), false));
            }
        }
    }
    rows
}

struct Comparison<'a> {
    bench: &'static str,
    case: &'static str,
    series: &'a [Series],
    one: &'a Series,
    metric: &'a Metric,
}

impl Comparison<'_> {
    fn row(&self, to: &'static str, goal: Option<&Goal>, main: bool) -> Option<Row> {
        let Self { bench, case, series, one, metric } = *self;
        let values_of = |series: &Series| series.runs.iter().map(metric.value).collect::<Vec<f64>>();
        let values = values_of(one);
        let other = series
            .iter()
            .find(|other| other.subject == to && metric.compared && other.subject != one.subject);
        if other.is_none() && !main {
            return None;
        }
        let ratio = other.and_then(|other| ratio(&values, &values_of(other)));
        Some(Row {
            bench,
            case,
            subject: one.subject,
            metric: metric.name,
            unit: metric.unit,
            median: median(&values)?,
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            ratio_to: other.map(|other| other.subject),
            ratio,
            goal: one.own.then(|| {
                goal.map_or(GoalFields::NONE, |goal| GoalFields {
                    goal: Some(goal.ratio_max),
                    goal_of: Some(Target::Ratio),
                    met: Some(ratio.is_some_and(|ratio| ratio <= goal.ratio_max)),
                })
            }),
            main,
        })
    }
}

/// One figure of one subject.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Figure {
    /// Whose.
    pub(super) subject: &'static str,
    /// Whether the goal is for it.
    pub(super) own: bool,
    /// Bytes.
    pub(super) bytes: f64,
}

/// The rows of a case that has one figure per subject; ours must be at most `bytes_max` and below each peer's.
pub(super) fn memory(
    bench: &'static str,
    case: &'static str,
    figures: &[Figure],
    baseline: &'static str,
    bytes_max: f64,
) -> Vec<Row> {
    let base = figures.iter().find(|figure| figure.subject == baseline);
    let row = |figure: &Figure| {
        let base = base.filter(|base| base.subject != figure.subject);
        let is_least = figures.iter().all(|other| other.own || figure.bytes < other.bytes);
        Row {
            bench,
            case,
            subject: figure.subject,
            metric: MEMORY,
            unit: "B",
            median: figure.bytes,
            min: figure.bytes,
            max: figure.bytes,
            ratio_to: base.map(|base| base.subject),
            ratio: base.and_then(|base| ratio(&[figure.bytes], &[base.bytes])),
            goal: figure.own.then_some(GoalFields {
                goal: Some(bytes_max),
                goal_of: Some(Target::Value),
                met: Some(figure.bytes <= bytes_max && is_least),
            }),
            main: true,
        }
    };
    figures.iter().map(row).collect()
}

/// A metric (name and unit) of a subject in a case of a bench, seen once or again and again and compared with nobody;
/// `most` is what its median must not exceed. Nothing seen is no row, or a goal that was not reached.
pub(super) fn seen(
    (bench, case, subject): (&'static str, &'static str, &'static str),
    (metric, unit): (&'static str, &'static str),
    values: &[f64],
    most: Option<f64>,
) -> Option<Row> {
    let middle = median(values);
    if middle.is_none() && most.is_none() {
        return None;
    }
    Some(Row {
        bench,
        case,
        subject,
        metric,
        unit,
        median: middle.unwrap_or(f64::NAN),
        min: values.iter().copied().fold(f64::INFINITY, f64::min),
        max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        ratio_to: None,
        ratio: None,
        goal: Some(most.map_or(GoalFields::NONE, |most| GoalFields {
            goal: Some(most),
            goal_of: Some(Target::Value),
            met: Some(middle.is_some_and(|middle| middle <= most)),
        })),
        main: true,
    })
}

/// The same, compared with what another, or the same otherwise, did in the same rounds. `least` is what its ratio to
/// that must reach. The first comparison of a metric is the main one.
pub(super) fn compared(
    place: (&'static str, &'static str, &'static str),
    metric: (&'static str, &'static str),
    values: &[f64],
    (to, others): (&'static str, &[f64]),
    least: Option<f64>,
) -> Option<Row> {
    let ratio = ratio(values, others);
    let goal = least.map_or(GoalFields::NONE, |least| GoalFields {
        goal: Some(least),
        goal_of: Some(Target::LeastRatio),
        met: Some(ratio.is_some_and(|ratio| ratio >= least)),
    });
    let row = seen(place, metric, values, None)?;
    Some(Row { ratio_to: Some(to), ratio, goal: Some(goal), ..row })
}

/// Times per packet of a subject (`place`: bench, case, subject), and those of another in the same rounds: one row with
/// the medians, and one with the shortest time of each, which `most` bounds the ratio of.
pub(super) fn times(
    place: (&'static str, &'static str, &'static str),
    own: bool,
    values: &[f64],
    to: Option<(&'static str, &[f64])>,
    most: Option<f64>,
) -> Vec<Row> {
    let whole = seen(place, (TIME, "ns"), values, None).map(|row| Row {
        ratio_to: to.map(|(name, _)| name),
        ratio: to.and_then(|(_, others)| ratio(values, others)),
        goal: own.then_some(GoalFields::NONE),
        ..row
    });
    let best = best(place, values, to, most).map(|row| Row { goal: row.goal.filter(|_| own), ..row });
    whole.into_iter().chain(best).collect()
}

/// The shortest time of ours against that of another than the baseline.
pub(super) fn best_against(
    place: (&'static str, &'static str, &'static str),
    values: &[f64],
    to: (&'static str, &[f64]),
    most: f64,
) -> Option<Row> {
    best(place, values, Some(to), Some(most)).map(|row| Row { main: false, ..row })
}

fn best(
    place: (&'static str, &'static str, &'static str),
    values: &[f64],
    to: Option<(&'static str, &[f64])>,
    most: Option<f64>,
) -> Option<Row> {
    let shortest = |values: &[f64]| values.iter().copied().reduce(f64::min);
    let ours = shortest(values)?;
    let ratio = to.and_then(|(_, others)| ratio(&[ours], &[shortest(others)?]));
    let row = seen(place, (BEST, "ns"), &[ours], None)?;
    let goal = most.map_or(GoalFields::NONE, |most| GoalFields {
        goal: Some(most),
        goal_of: Some(Target::Ratio),
        met: Some(ratio.is_some_and(|ratio| ratio <= most)),
    });
    Some(Row { ratio_to: to.map(|(name, _)| name), ratio, goal: Some(goal), ..row })
}

/// One JSON object per line.
pub(super) fn print_json(lines: &[impl Serialize]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in lines {
        serde_json::to_writer(&mut out, line)?;
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    pub(in crate::bench) fn run(cpu_per_request_us: f64) -> Run {
        Run {
            requests_per_s: 1e6 / cpu_per_request_us,
            cpu_per_request_us,
            p50_us: 1500.0,
            p99_us: 2500.0,
            failures: 0.0,
            busy: 0.97,
            foreign: 0.01,
        }
    }

    pub(in crate::bench) fn two(ours: &[f64], theirs: &[f64]) -> [Series; 2] {
        let series =
            |subject, own, cpu: &[f64]| Series { subject, own, runs: cpu.iter().copied().map(run).collect() };
        [series("portcullis", true, ours), series("nginx", false, theirs)]
    }

    pub(in crate::bench) const GOALS: [Goal; 2] = [
        Goal { metric: CPU, ratio_max: 0.75, to: "nginx" },
        Goal { metric: CPU, ratio_max: 0.5, to: "envoy" },
    ];

    pub(in crate::bench) fn rows_of(series: &[Series]) -> Vec<Row> {
        rows("proxy", "h1-128B-64c", series, "nginx", &GOALS)
    }

    pub(in crate::bench) fn memory_rows(figures: &[(&'static str, bool, f64)]) -> Vec<Row> {
        let figures: Vec<Figure> =
            figures.iter().map(|&(subject, own, bytes)| Figure { subject, own, bytes }).collect();
        memory("proxy", "idle-plain", &figures, "nginx", 1024.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{testing::*, *};

    #[track_caller]
    fn check_row(rows: &[Row], subject: &str, metric: &str, expected: &Value) {
        let row = rows.iter().find(|row| row.subject == subject && row.metric == metric).unwrap();
        assert_eq!(&serde_json::to_value(row).unwrap(), expected);
    }

    #[test]
    fn rows_keep_the_contract() {
        let rows = rows_of(&two(&[12.0, 10.0, 15.0], &[16.0, 16.0, 16.0]));
        check_row(
            &rows,
            "portcullis",
            "cpu_per_request",
            &json!({
                "bench": "proxy", "case": "h1-128B-64c", "subject": "portcullis", "metric": "cpu_per_request",
                "unit": "us", "median": 12.0, "min": 10.0, "max": 15.0, "ratio_to": "nginx", "ratio": 0.75,
                "goal": 0.75, "goal_of": "ratio", "met": true
            }),
        );
        check_row(
            &rows,
            "portcullis",
            "latency_p99",
            &json!({
                "bench": "proxy", "case": "h1-128B-64c", "subject": "portcullis", "metric": "latency_p99",
                "unit": "us", "median": 2500.0, "min": 2500.0, "max": 2500.0, "ratio_to": "nginx", "ratio": 1.0,
                "goal": null, "goal_of": null, "met": null
            }),
        );
        check_row(
            &rows,
            "nginx",
            "cpu_per_request",
            &json!({
                "bench": "proxy", "case": "h1-128B-64c", "subject": "nginx", "metric": "cpu_per_request",
                "unit": "us", "median": 16.0, "min": 16.0, "max": 16.0, "ratio_to": null, "ratio": null
            }),
        );
        // Envoy took no part: no row for the goal against it.
        assert_eq!(rows.len(), 2 * METRICS.len());
    }

    #[test]
    fn a_goal_against_another_peer_has_its_own_row() {
        let [ours, nginx] = two(&[6.0, 6.0], &[16.0, 16.0]);
        let envoy = Series { subject: "envoy", own: false, runs: vec![run(10.0), run(15.0)] };
        let rows = rows_of(&[ours, nginx, envoy]);
        let against: Vec<_> =
            rows.iter().filter(|row| row.own_goal() && row.ratio_to == Some("envoy")).collect();
        assert_eq!(against.len(), 1);
        assert_eq!((against[0].ratio, against[0].goal.unwrap().met), (Some(0.5), Some(true)));
    }

    impl Row {
        fn own_goal(&self) -> bool {
            self.goal.is_some_and(|goal| goal.goal.is_some())
        }
    }

    #[track_caller]
    fn check_met(ours: &[f64], expected: Option<bool>) {
        let rows = rows_of(&two(ours, &[16.0]));
        let row = rows.iter().find(|row| row.subject == "portcullis" && row.metric == CPU).unwrap();
        assert_eq!(row.goal.unwrap().met, expected, "{ours:?}");
    }

    #[test]
    fn a_goal_is_met_on_the_line_and_never_without_a_ratio() {
        check_met(&[12.0], Some(true));
        check_met(&[12.1], Some(false));
        check_met(&[12.0, 12.0], Some(false));
    }

    #[test]
    fn a_goal_of_times_bounds_the_shortest() {
        let place = ("nic", "pass-v4", "portcullis");
        let empty = [20.0, 40.0, 22.0];
        let rows = times(place, true, &[50.0, 60.0, 44.0], Some(("empty", &empty)), Some(2.2));
        let [whole, shortest] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!((whole.metric, whole.median, whole.ratio), (TIME, 50.0, Some(2.0)));
        assert_eq!(whole.goal, Some(GoalFields::NONE));
        assert_eq!((shortest.metric, shortest.median, shortest.ratio), (BEST, 44.0, Some(2.2)));
        assert_eq!(shortest.goal.unwrap().met, Some(true));
        let row = best_against(place, &[44.0], ("xdp-filter", &[50.0]), 0.75).unwrap();
        assert_eq!((row.goal.unwrap().met, row.main), (Some(false), false));
        assert!(times(place, false, &empty, None, None).iter().all(|row| row.goal.is_none()));
    }

    #[track_caller]
    fn check_least(ours: &[f64], met: bool) {
        let place = ("flood", "drops", "portcullis");
        let row = compared(place, ("rate", "1/s"), ours, ("nftables", &[2.0, 4.0]), Some(1.5)).unwrap();
        assert_eq!((row.ratio_to, row.goal.unwrap().met), (Some("nftables"), Some(met)), "{ours:?}");
    }

    #[test]
    fn a_goal_from_below_is_met_on_the_line() {
        check_least(&[3.0, 6.0], true);
        check_least(&[2.0, 4.0], false);
        // One round without a partner.
        check_least(&[9.0], false);
    }

    #[track_caller]
    fn check_memory(figures: &[(&'static str, bool, f64)], expected: bool) {
        let rows = memory_rows(figures);
        assert_eq!(rows[0].goal.unwrap().met, Some(expected), "{figures:?}");
    }

    #[test]
    fn memory_is_bounded_and_below_each_peers() {
        check_memory(&[("portcullis", true, 1024.0), ("nginx", false, 1025.0)], true);
        check_memory(&[("portcullis", true, 1025.0), ("nginx", false, 9000.0)], false);
        check_memory(
            &[("portcullis", true, 900.0), ("nginx", false, 9000.0), ("haproxy", false, 900.0)],
            false,
        );
        check_memory(&[("portcullis", true, 900.0)], true);
    }
}
