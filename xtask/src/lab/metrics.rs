//! What `/metrics` says, read back: the Prometheus text format, version 0.0.4.
//!
//! Comes in: the text. Goes out: samples by name and labels. Histograms and summaries are plain samples here; lines
//! that are no samples are left out.

use std::collections::BTreeMap;

/// One line: `name{label="value",…} number`.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// All samples of one scrape.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    samples: Vec<Sample>,
}

impl Metrics {
    /// Reads a scrape.
    pub fn parse(text: &str) -> Self {
        Self { samples: text.lines().filter_map(parse_line).collect() }
    }

    /// The sum over all samples of this name that carry all of `labels`.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|sample| sample.value).sum()
    }

    /// The same, split by the values of `label`.
    pub fn sum_by(&self, name: &str, label: &str, labels: &[(&str, &str)]) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for sample in self.matching(name, labels) {
            let value = sample.labels.get(label).cloned().unwrap_or_default();
            *sums.entry(value).or_insert(0.0) += sample.value;
        }
        sums
    }

    fn matching(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| {
            let carries =
                |(label, value): &(&str, &str)| sample.labels.get(*label).is_some_and(|has| has == value);
            sample.name == name && labels.iter().all(carries)
        })
    }
}

fn parse_line(line: &str) -> Option<Sample> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let name_end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(name_end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => parse_labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    // A timestamp may follow.
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// `a="x",b="y"}` and what follows it; `\\`, `\"` and `\n` are escapes.
fn parse_labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        rest = loop {
            match characters.next()? {
                (at, '"') => break quoted.get(at + 1..)?,
                (_, '\\') => match characters.next()?.1 {
                    'n' => value.push('\n'),
                    escaped => value.push(escaped),
                },
                (_, character) => value.push(character),
            }
        };
        labels.insert(name.trim().to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Expected<'a> = (&'a str, &'a [(&'a str, &'a str)], f64);

    #[track_caller]
    fn check(line: &str, expected: Option<Expected<'_>>) {
        let expected = expected.map(|(name, labels, value)| Sample {
            name: name.into(),
            labels: labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            value,
        });
        assert_eq!(parse_line(line), expected, "{line}");
    }

    #[test]
    fn lines_are_samples_or_nothing() {
        check("up 1", Some(("up", &[], 1.0)));
        check("hits{} 2.5e3", Some(("hits", &[], 2500.0)));
        check(r#"a{b="c",d="e f"} 3 1700000000"#, Some(("a", &[("b", "c"), ("d", "e f")], 3.0)));
        check(r#"a{b="\"\\\n}"} 0"#, Some(("a", &[("b", "\"\\\n}")], 0.0)));
        check("# TYPE a counter", None);
        check("", None);
        check("a", None);
        check(r#"a{b="c 1"#, None);
        check("a one", None);
    }

    #[test]
    fn sums_respect_labels() {
        let metrics =
            Metrics::parse("a{x=\"1\",y=\"p\"} 1\na{x=\"2\",y=\"p\"} 2\na{x=\"2\",y=\"q\"} 4\nab 8\n");
        assert!((metrics.sum("a", &[]) - 7.0).abs() < f64::EPSILON);
        assert!((metrics.sum("a", &[("x", "2"), ("y", "q")]) - 4.0).abs() < f64::EPSILON);
        let by_x = metrics.sum_by("a", "x", &[("y", "p")]);
        assert_eq!(by_x.into_iter().collect::<Vec<_>>(), [("1".into(), 1.0), ("2".into(), 2.0)]);
    }
}
