//! The chart for the README: one metric relative to a baseline, by case and subject, as SVG text.
//!
//! Comes in: the report. Goes out: an image that is readable in light and in dark mode, since it takes its colours from
//! `prefers-color-scheme`. Pure.

use std::fmt::Write;

use super::report::Report;

const WIDTH: f64 = 760.0;
/// Room for the titles of cases on the left, and for figures on the right.
const LEFT: f64 = 190.0;
const RIGHT: f64 = 60.0;
const TOP: f64 = 64.0;
const BAR: f64 = 12.0;
const GAP: f64 = 16.0;

/// What the chart is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    /// Its title.
    pub(super) head: &'static str,
    /// How it was measured.
    pub(super) note: &'static str,
    /// Whose ratio is shown; a case has one of them.
    pub(super) metrics: &'static [&'static str],
    /// Which bar is the better one.
    pub(super) better: &'static str,
    /// In the order of their colours.
    pub(super) subjects: &'static [&'static str],
    /// The subject that is one, where it is among them.
    pub(super) baseline: &'static str,
    /// A bar that is longer is cut and says its figure.
    pub(super) ratio_shown_max: f64,
}

/// The chart; `titles` are the cases to show, by name, in order. A case without figures is left out.
pub(super) fn svg(report: &Report, look: &Look, titles: &[(&str, &str)]) -> String {
    let groups: Vec<Group<'_>> =
        titles.iter().filter_map(|(case, title)| group(report, look, case, title)).collect();
    let height = groups.iter().map(Group::height).sum::<f64>() + TOP + 24.0;
    let mut text = String::new();
    // Writing to a string does not fail, here and below.
    let _ = writeln!(
        text,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="t">
<title id="t">{head}; {better} is better</title>
{STYLE}<text class="head" x="0" y="18">{head}</text>
<text class="note" x="0" y="36">{note}</text>"#,
        head = look.head,
        note = look.note,
        better = look.better
    );
    legend(&mut text, look);
    let mut y = TOP;
    for group in &groups {
        group.write(&mut text, look, y);
        y += group.height();
    }
    let one = look.x_of(1.0);
    let _ = writeln!(text, r#"<line class="one" x1="{one:.1}" y1="{TOP}" x2="{one:.1}" y2="{y:.1}"/>"#);
    text.push_str("</svg>\n");
    text
}

/// Okabe and Ito's colours, which people with any kind of colour vision tell apart on white and on black.
const STYLE: &str = r"<style>
text { font: 12px system-ui, sans-serif; fill: #24292f }
.head { font-weight: 600; font-size: 14px } .note { fill: #57606a } .one { stroke: #57606a; stroke-dasharray: 3 3 }
.s0 { fill: #0072b2 } .s1 { fill: #8c959f } .s2 { fill: #e69f00 } .s3 { fill: #cc79a7 } .s4 { fill: #009e73 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .note { fill: #9198a1 } .one { stroke: #9198a1 } .s0 { fill: #56b4e9 }
}
</style>
";

impl Look {
    fn x_of(&self, ratio: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * ratio.min(self.ratio_shown_max) / self.ratio_shown_max
    }
}

fn legend(text: &mut String, look: &Look) {
    let mut x = LEFT;
    for (i, subject) in look.subjects.iter().enumerate() {
        let _ = writeln!(
            text,
            r#"<rect class="s{i}" x="{x}" y="45" width="10" height="10"/><text x="{}" y="54">{subject}</text>"#,
            x + 14.0
        );
        x += 100.0;
    }
}

/// A case with the ratio of each subject that has one.
struct Group<'a> {
    title: &'a str,
    /// Index into [`Look::subjects`] and ratio.
    bars: Vec<(usize, f64)>,
}

fn group<'a>(report: &Report, look: &Look, case: &str, title: &'a str) -> Option<Group<'a>> {
    let bars: Vec<(usize, f64)> = look
        .subjects
        .iter()
        .enumerate()
        .filter_map(|(i, subject)| {
            let row = look.metrics.iter().find_map(|metric| report.main_row(case, subject, metric))?;
            // The baseline has no ratio; it is one by definition.
            let ratio = if *subject == look.baseline { Some(1.0) } else { row.ratio };
            Some((i, ratio?))
        })
        .collect();
    (!bars.is_empty()).then_some(Group { title, bars })
}

impl Group<'_> {
    fn height(&self) -> f64 {
        self.bars.iter().map(|_| BAR).sum::<f64>() + GAP
    }

    fn write(&self, text: &mut String, look: &Look, top: f64) {
        let middle = top + (self.height() - GAP) / 2.0 + 4.0;
        let _ = writeln!(
            text,
            r#"<text x="{:.0}" y="{middle:.0}" text-anchor="end">{}</text>"#,
            LEFT - 10.0,
            self.title
        );
        let mut y = top;
        for (subject, ratio) in &self.bars {
            let end = look.x_of(*ratio);
            let _ = writeln!(
                text,
                r#"<rect class="s{subject}" x="{LEFT}" y="{y:.0}" width="{:.1}" height="{:.0}"/><text x="{:.1}" y="{:.0}">{ratio:.2}</text>"#,
                end - LEFT,
                BAR - 2.0,
                end + 5.0,
                y + BAR - 2.0
            );
            y += BAR;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::testing::{rows_of, two};

    const LOOK: Look = crate::bench::proxy::LOOK;

    fn report() -> Report {
        Report { bench: "proxy", rows: rows_of(&two(&[12.0], &[16.0])), skips: Vec::new() }
    }

    #[test]
    fn it_shows_what_was_measured_and_no_more() {
        let svg =
            svg(&report(), &LOOK, &[("h1-128B-64c", "HTTP/1.1, 128 B"), ("tls-128B-64c", "TLS, 128 B")]);
        assert!(
            svg.contains(">HTTP/1.1, 128 B<") && svg.contains(">0.75<") && svg.contains(">1.00<"),
            "{svg}"
        );
        assert!(!svg.contains("TLS, 128 B"), "{svg}");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("prefers-color-scheme: dark"));
    }

    #[test]
    fn every_element_is_closed() {
        let svg = svg(&report(), &LOOK, &[("h1-128B-64c", "HTTP/1.1")]);
        for name in ["svg", "style", "title", "text"] {
            let opened =
                svg.matches(&format!("<{name} ")).count() + svg.matches(&format!("<{name}>")).count();
            assert_eq!(opened, svg.matches(&format!("</{name}>")).count(), "{name}");
        }
    }

    #[test]
    fn a_bar_stays_within_the_picture() {
        assert!(LOOK.x_of(100.0) + RIGHT <= WIDTH);
        assert!((LOOK.x_of(0.0) - LEFT).abs() < f64::EPSILON);
    }
}
