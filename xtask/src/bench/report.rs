//! What a bench says: rows of medians, and the table that people read.
//!
//! Comes in: per case and subject, one [`Run`] for each round. Goes out: [`Row`]s, whose JSON form is a contract that
//! later benches add cases to, and a table made of the same rows. Pure: it measures nothing and prints nothing.
//!
//! A ratio is the median of the rounds' own ratios, not the ratio of two medians: what slows the machine for a round
//! slows both sides of it.

use std::fmt::Write;

use serde::Serialize;

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

const REQUESTS: &str = "requests_per_second";
/// The metric that most goals are about.
pub(super) const CPU: &str = "cpu_per_request";
const P50: &str = "latency_p50";
const P99: &str = "latency_p99";
const FAILURES: &str = "failures";
const BUSY: &str = "cpu_busy";
const FOREIGN: &str = "cpu_foreign";

const METRICS: [Metric; 7] = [
    Metric { name: REQUESTS, unit: "1/s", value: |run| run.requests_per_s, compared: true },
    Metric { name: CPU, unit: "us", value: |run| run.cpu_per_request_us, compared: true },
    Metric { name: P50, unit: "us", value: |run| run.p50_us, compared: true },
    Metric { name: P99, unit: "us", value: |run| run.p99_us, compared: true },
    Metric { name: FAILURES, unit: "requests", value: |run| run.failures, compared: false },
    Metric { name: BUSY, unit: "share", value: |run| run.busy, compared: false },
    Metric { name: FOREIGN, unit: "share", value: |run| run.foreign, compared: false },
];

/// The table warns when somebody else had more of the proxy's CPU than this.
const FOREIGN_MAX: f64 = 0.10;

/// What one metric's ratio must not exceed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Goal {
    /// Its name, such as [`CPU`].
    pub(super) metric: &'static str,
    /// The greatest ratio to the baseline that is good enough.
    pub(super) ratio_max: f64,
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
    case: &'static str,
    subject: &'static str,
    metric: &'static str,
    unit: &'static str,
    median: f64,
    min: f64,
    max: f64,
    /// With whom it was compared; null on that subject's own rows.
    ratio_to: Option<&'static str>,
    /// Median of the rounds' ratios.
    ratio: Option<f64>,
    /// Only on our own rows.
    #[serde(flatten)]
    goal: Option<GoalFields>,
}

/// `goal` bounds `ratio`; both are null where nothing was promised.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct GoalFields {
    goal: Option<f64>,
    met: Option<bool>,
}

/// The rows of one case; `baseline` is the subject that the others are compared with.
pub(super) fn rows(
    bench: &'static str,
    case: &'static str,
    series: &[Series],
    baseline: &'static str,
    goals: &[Goal],
) -> Vec<Row> {
    let base = series.iter().find(|series| series.subject == baseline);
    let mut rows = Vec::with_capacity(series.len() * METRICS.len());
    for one in series {
        for metric in &METRICS {
            let values: Vec<f64> = one.runs.iter().map(metric.value).collect();
            let Some(median) = median(&values) else { continue };
            let compared_with = base.filter(|base| metric.compared && base.subject != one.subject);
            let ratio = compared_with.and_then(|base| {
                let base_values: Vec<f64> = base.runs.iter().map(metric.value).collect();
                ratio(&values, &base_values)
            });
            let promised = goals.iter().find(|goal| goal.metric == metric.name).map(|goal| goal.ratio_max);
            rows.push(Row {
                bench,
                case,
                subject: one.subject,
                metric: metric.name,
                unit: metric.unit,
                median,
                min: values.iter().copied().fold(f64::INFINITY, f64::min),
                max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                ratio_to: compared_with.map(|base| base.subject),
                ratio,
                goal: one.own.then(|| GoalFields {
                    goal: promised,
                    met: promised.map(|ratio_max| ratio.is_some_and(|ratio| ratio <= ratio_max)),
                }),
            });
        }
    }
    rows
}

/// Whether requests failed in any run.
pub(super) fn any_failed(rows: &[Row]) -> bool {
    rows.iter().any(|row| row.metric == FAILURES && row.max > 0.0)
}

/// The middle value, or the mean of the two in the middle; `None` of nothing or of what is no number.
fn median(values: &[f64]) -> Option<f64> {
    if values.iter().any(|value| value.is_nan()) {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    sorted.get(middle - 1).map(|lower| f64::midpoint(*lower, upper))
}

/// The median of `ours[i] / theirs[i]`; `None` when a round lacks a partner or divides by zero.
fn ratio(ours: &[f64], theirs: &[f64]) -> Option<f64> {
    if ours.len() != theirs.len() || theirs.contains(&0.0) {
        return None;
    }
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    median(&ratios)
}

/// One line per case and subject, then what has to be said about them. `×` is the ratio to the baseline.
pub(super) fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<16} {:<12} {:>10} {:>6} {:>11} {:>6} {:<12} {:>8} {:>6} {:>8} {:>6} {:>5}\n",
        "case", "subject", "requests/s", "×", "CPU µs/req", "×", "goal", "p50 ms", "×", "p99 ms", "×", "busy"
    );
    let mut notes = String::new();
    for first in rows.iter().filter(|row| row.metric == REQUESTS) {
        let line = Line { rows, case: first.case, subject: first.subject };
        line.write(&mut text);
        line.note(&mut notes);
    }
    text + &notes
}

/// The rows of one case and subject.
struct Line<'a> {
    rows: &'a [Row],
    case: &'a str,
    subject: &'a str,
}

impl Line<'_> {
    fn row(&self, metric: &str) -> Option<&Row> {
        let is_it = |row: &&Row| row.case == self.case && row.subject == self.subject && row.metric == metric;
        self.rows.iter().find(is_it)
    }

    fn median(&self, metric: &str, scale: f64, decimals: usize) -> String {
        self.row(metric).map_or_else(|| "–".into(), |row| format!("{:.decimals$}", row.median * scale))
    }

    fn ratio(&self, metric: &str) -> String {
        let ratio = self.row(metric).and_then(|row| row.ratio);
        ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"))
    }

    /// `≤0.75 met`, `≤0.75 missed`, or nothing.
    fn goal(&self) -> String {
        match self.row(CPU).and_then(|row| row.goal) {
            Some(GoalFields { goal: Some(goal), met: Some(met) }) => {
                format!("≤{goal:.2} {}", if met { "met" } else { "missed" })
            }
            _ => String::new(),
        }
    }

    fn write(&self, text: &mut String) {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:<16} {:<12} {:>10} {:>6} {:>11} {:>6} {:<12} {:>8} {:>6} {:>8} {:>6} {:>4}%",
            self.case,
            self.subject,
            self.median(REQUESTS, 1.0, 0),
            self.ratio(REQUESTS),
            self.median(CPU, 1.0, 1),
            self.ratio(CPU),
            self.goal(),
            self.median(P50, 1e-3, 2),
            self.ratio(P50),
            self.median(P99, 1e-3, 2),
            self.ratio(P99),
            self.median(BUSY, 1e2, 0),
        );
    }

    fn note(&self, notes: &mut String) {
        let Self { case, subject, .. } = self;
        if let Some(row) = self.row(FAILURES).filter(|row| row.max > 0.0) {
            let _ = writeln!(notes, "{case}, {subject}: up to {:.0} requests FAILED in a burst", row.max);
        }
        if let Some(row) = self.row(FOREIGN).filter(|row| row.max > FOREIGN_MAX) {
            let _ = writeln!(
                notes,
                "{case}, {subject}: others had up to {:.0} % of the proxy's CPU (median {:.0} %)",
                row.max * 1e2,
                row.median * 1e2
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check_median(values: &[f64], expected: Option<f64>) {
        assert_eq!(median(values), expected, "{values:?}");
    }

    #[test]
    fn the_median_is_in_the_middle() {
        check_median(&[], None);
        check_median(&[3.0], Some(3.0));
        check_median(&[9.0, 1.0, 2.0], Some(2.0));
        check_median(&[4.0, 1.0, 2.0, 100.0], Some(3.0));
        check_median(&[1.0, f64::NAN], None);
    }

    #[track_caller]
    fn check_ratio(ours: &[f64], theirs: &[f64], expected: Option<f64>) {
        assert_eq!(ratio(ours, theirs), expected, "{ours:?} {theirs:?}");
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The medians alone would say 20 / 20.
        check_ratio(&[5.0, 20.0, 50.0], &[10.0, 40.0, 20.0], Some(0.5));
        check_ratio(&[1.0, 2.0], &[1.0, 1.0], Some(1.5));
        check_ratio(&[1.0], &[1.0, 2.0], None);
        check_ratio(&[1.0], &[0.0], None);
        check_ratio(&[], &[], None);
    }

    fn run(cpu_per_request_us: f64) -> Run {
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

    fn two(ours: &[f64], theirs: &[f64]) -> [Series; 2] {
        let series =
            |subject, own, cpu: &[f64]| Series { subject, own, runs: cpu.iter().copied().map(run).collect() };
        [series("portcullis", true, ours), series("nginx", false, theirs)]
    }

    const GOALS: [Goal; 1] = [Goal { metric: CPU, ratio_max: 0.75 }];

    fn rows_of(series: &[Series]) -> Vec<Row> {
        rows("proxy", "h1-128B-64c", series, "nginx", &GOALS)
    }

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
                "goal": 0.75, "met": true
            }),
        );
        check_row(
            &rows,
            "portcullis",
            "latency_p99",
            &json!({
                "bench": "proxy", "case": "h1-128B-64c", "subject": "portcullis", "metric": "latency_p99",
                "unit": "us", "median": 2500.0, "min": 2500.0, "max": 2500.0, "ratio_to": "nginx", "ratio": 1.0,
                "goal": null, "met": null
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
        assert_eq!(rows.len(), 2 * METRICS.len());
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
    fn failures_are_told() {
        let mut series = two(&[12.0, 12.0, 12.0], &[16.0, 16.0, 16.0]);
        assert!(!any_failed(&rows_of(&series)));
        // One burst of three: the median hides it, the report does not.
        series[1].runs[2].failures = 3.0;
        let rows = rows_of(&series);
        assert!(any_failed(&rows));
        assert!(table(&rows).contains("h1-128B-64c, nginx: up to 3 requests FAILED in a burst"));
    }

    #[test]
    fn the_table_has_a_line_per_subject() {
        let mut series = two(&[12.0], &[16.0]);
        series[0].runs[0].foreign = 0.25;
        let table = table(&rows_of(&series));
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines[1],
            [
                "h1-128B-64c",
                "portcullis",
                "83333",
                "1.33",
                "12.0",
                "0.75",
                "≤0.75",
                "met",
                "1.50",
                "1.00",
                "2.50",
                "1.00",
                "97%"
            ]
        );
        assert_eq!(lines[2], ["h1-128B-64c", "nginx", "62500", "16.0", "1.50", "2.50", "97%"]);
        assert!(
            table.ends_with("portcullis: others had up to 25 % of the proxy's CPU (median 25 %)\n"),
            "{table}"
        );
        assert_eq!(lines.len(), 4);
    }
}
