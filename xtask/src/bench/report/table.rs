//! The table that people read. Comes in: rows and skips. Goes out: text. Pure.

use std::fmt::Write;

use super::{BUSY, CPU, FAILURES, FOREIGN, MEMORY, P50, P99, REQUESTS, Report, Row, Target};

/// The table warns when somebody else had more of the proxy's CPU than this.
const FOREIGN_MAX: f64 = 0.10;

/// One line per case and subject, then the goals, then what has to be said about them. `×` is the ratio to the
/// baseline, which the goals name.
pub(super) fn table(report: &Report) -> String {
    let mut text = String::new();
    let lines = |metric| {
        report.rows.iter().filter(move |row| row.metric == metric && row.main).map(|first| Line {
            report,
            case: first.case,
            subject: first.subject,
        })
    };
    let mut notes = String::new();
    if lines(REQUESTS).next().is_some() {
        // Writing to a string does not fail, here and below.
        let _ = writeln!(
            text,
            "{:<18} {:<14} {:>10} {:>6} {:>11} {:>6} {:>8} {:>6} {:>8} {:>6} {:>5}",
            "case", "subject", "requests/s", "×", "CPU µs/req", "×", "p50 ms", "×", "p99 ms", "×", "busy"
        );
        for line in lines(REQUESTS) {
            line.write_load(&mut text);
            line.note(&mut notes);
        }
        note_foreign(&mut notes, &report.rows);
    }
    if lines(MEMORY).next().is_some() {
        let _ = writeln!(text, "\n{:<18} {:<14} {:>16} {:>6}", "case", "subject", "bytes/connection", "×");
        for line in lines(MEMORY) {
            let _ = writeln!(
                text,
                "{:<18} {:<14} {:>16} {:>6}",
                line.case,
                line.subject,
                line.median(MEMORY, 1.0, 0),
                line.ratio(MEMORY)
            );
        }
    }
    write_goals(&mut text, &report.rows);
    for skip in &report.skips {
        let _ = writeln!(notes, "{}, {}: NOT MEASURED: {}", skip.case, skip.subject, skip.why);
    }
    if !notes.is_empty() {
        text.push('\n');
    }
    text + &notes
}

fn write_goals(text: &mut String, rows: &[Row]) {
    let mut is_first = true;
    for row in rows {
        let Some(goal) = row.goal.as_ref().filter(|goal| goal.goal.is_some()) else { continue };
        if is_first {
            let _ = writeln!(text, "\n{:<18} {:<36} {:>9} {:>9}  ", "case", "goal", "bound", "measured");
            is_first = false;
        }
        let sign = if goal.goal_of == Some(Target::LeastRatio) { "≥" } else { "≤" };
        let (what, measured) = match goal.goal_of {
            Some(Target::Ratio | Target::LeastRatio) => {
                (format!("{} to {}", row.metric, row.ratio_to.unwrap_or("–")), row.ratio)
            }
            _ => (format!("{}, {}", row.metric, row.unit), Some(row.median)),
        };
        let _ = writeln!(
            text,
            "{:<18} {:<36} {:>9} {:>9}  {}",
            row.case,
            what,
            goal.goal.map_or_else(String::new, |bound| format!("{sign} {}", number(bound))),
            measured.map_or_else(|| "–".into(), number),
            if goal.met == Some(true) { "reached" } else { "NOT REACHED" },
        );
    }
}

/// Ratios with two decimals, sizes with none.
fn number(value: f64) -> String {
    if value < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

/// The rows of one case and subject.
struct Line<'a> {
    report: &'a Report,
    case: &'a str,
    subject: &'a str,
}

impl Line<'_> {
    fn row(&self, metric: &str) -> Option<&Row> {
        self.report.main_row(self.case, self.subject, metric)
    }

    fn median(&self, metric: &str, scale: f64, decimals: usize) -> String {
        self.row(metric).map_or_else(|| "–".into(), |row| format!("{:.decimals$}", row.median * scale))
    }

    fn ratio(&self, metric: &str) -> String {
        let ratio = self.row(metric).and_then(|row| row.ratio);
        ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"))
    }

    fn write_load(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "{:<18} {:<14} {:>10} {:>6} {:>11} {:>6} {:>8} {:>6} {:>8} {:>6} {:>4}%",
            self.case,
            self.subject,
            self.median(REQUESTS, 1.0, 0),
            self.ratio(REQUESTS),
            self.median(CPU, 1.0, 1),
            self.ratio(CPU),
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
    }
}

/// Where somebody else had much of the proxy's CPU, in one line for all.
fn note_foreign(notes: &mut String, rows: &[Row]) {
    let disturbed = || rows.iter().filter(|row| row.metric == FOREIGN && row.max > FOREIGN_MAX);
    let Some(worst) = disturbed().max_by(|one, other| one.max.total_cmp(&other.max)) else { return };
    let _ = writeln!(
        notes,
        "others had up to {:.0} % of the proxy's CPU ({}, {}); more than {:.0} % in {} of {} series",
        worst.max * 1e2,
        worst.case,
        worst.subject,
        FOREIGN_MAX * 1e2,
        disturbed().count(),
        rows.iter().filter(|row| row.metric == FOREIGN).count()
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::{Skip, testing::*};

    fn report_of(rows: Vec<Row>) -> Report {
        Report { bench: "proxy", rows, skips: Vec::new() }
    }

    #[test]
    fn failures_are_told() {
        let mut series = two(&[12.0, 12.0, 12.0], &[16.0, 16.0, 16.0]);
        assert!(!report_of(rows_of(&series)).any_failed());
        // One burst of three: the median hides it, the report does not.
        series[1].runs[2].failures = 3.0;
        let report = report_of(rows_of(&series));
        assert!(report.any_failed());
        assert!(table(&report).contains("h1-128B-64c, nginx: up to 3 requests FAILED in a burst"));
    }

    #[test]
    fn the_table_has_a_line_per_subject_and_goal() {
        let mut series = two(&[12.0], &[16.0]);
        series[0].runs[0].foreign = 0.25;
        let mut report = report_of(rows_of(&series));
        report.skips.push(Skip {
            bench: "proxy",
            case: "h1-128B-64c",
            subject: "envoy",
            why: "not here".into(),
        });
        let table = table(&report);
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
                "1.50",
                "1.00",
                "2.50",
                "1.00",
                "97%"
            ]
        );
        assert_eq!(lines[2], ["h1-128B-64c", "nginx", "62500", "16.0", "1.50", "2.50", "97%"]);
        assert_eq!(
            lines[5],
            ["h1-128B-64c", "cpu_per_request", "to", "nginx", "≤", "0.75", "0.75", "reached"],
            "{table}"
        );
        assert!(
            table.contains(
                "others had up to 25 % of the proxy's CPU (h1-128B-64c, portcullis); more than 10 % in 1 of 2"
            ),
            "{table}"
        );
        assert!(table.ends_with("h1-128B-64c, envoy: NOT MEASURED: not here\n"), "{table}");
    }

    #[test]
    fn memory_has_a_table_of_its_own() {
        let rows = memory_rows(&[("portcullis", true, 512.0), ("nginx", false, 4096.0)]);
        let table = table(&report_of(rows));
        assert!(table.contains("bytes/connection"), "{table}");
        assert!(!table.contains("requests/s"), "{table}");
        assert!(table.contains("reached"), "{table}");
    }
}
