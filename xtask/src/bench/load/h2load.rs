//! h2load(1): closed loop over HTTP/2.
//!
//! It prints no percentiles, so they are taken from its log, which has a line per request: start, status, time.

use std::{path::Path, process::Command};

use anyhow::{Context, ensure};

use super::{Answers, Load};
use crate::bench::{report::stats, subject::HOST};
use xtask::lab::place::Place;

/// More clients than one line of its log would name are refused by nobody; this only bounds our own memory.
const LOG_LINES_MAX: usize = 4_000_000;

pub(super) fn command(place: &Place, load: &Load, streams: u32, burst_s: u32, log: &Path) -> Command {
    let mut command = place.command("h2load");
    // It adds to a log that is there; where there is none, nothing is to be removed.
    let _ = std::fs::remove_file(log);
    command.args(["--threads", "1", "--clients", &load.connections.to_string()]);
    command.args(["--max-concurrent-streams", &streams.to_string(), "--duration", &burst_s.to_string()]);
    command.arg("--log-file").arg(log);
    // By name, as a browser asks; SNI and `:authority` come from the URL.
    command.args(["--connect-to", &load.address.to_string()]);
    for header in load.headers.iter().filter(|header| !header.starts_with("Host:")) {
        command.args(["--header", header]);
    }
    command.arg(format!("{}://{HOST}{}", load.protocol.scheme(), load.target));
    command
}

/// Reads the summary in `output` and the log.
pub(super) fn parse(output: &str, log: &Path) -> anyhow::Result<Answers> {
    let summary = Summary::parse(output).context("h2load printed no summary")?;
    ensure!(summary.done > 0, "no request was answered");
    let log = std::fs::read_to_string(log).with_context(|| log.display().to_string())?;
    let mut times_us: Vec<f64> = log.lines().take(LOG_LINES_MAX).filter_map(time_us).collect();
    times_us.sort_by(f64::total_cmp);
    Ok(Answers {
        requests: summary.done,
        duration_us: summary.duration_s * 1e6,
        p50_us: stats::percentile(&times_us, 50).context("h2load logged no request")?,
        p99_us: stats::percentile(&times_us, 99).context("h2load logged no request")?,
        failures: summary.failures,
    })
}

/// `START-US STATUS TIME-US`
fn time_us(line: &str) -> Option<f64> {
    line.split_ascii_whitespace().nth(2)?.parse().ok()
}

#[derive(Debug, PartialEq)]
struct Summary {
    duration_s: f64,
    done: u32,
    failures: u32,
}

impl Summary {
    fn parse(output: &str) -> Option<Self> {
        let after = |prefix: &str| output.lines().find_map(|line| line.trim().strip_prefix(prefix));
        let finished = after("finished in ")?;
        let done = count(after("requests: ")?, " done")?;
        let good = count(after("status codes: ")?, " 2xx")?;
        let lost = count(after("requests: ")?, " failed")? + count(after("requests: ")?, " timeout")?;
        Some(Self {
            duration_s: seconds(finished.split(',').next()?)?,
            done,
            failures: done.saturating_sub(good).max(lost),
        })
    }
}

/// The number before `what` in a list such as `12 total, 3 failed`.
fn count(list: &str, what: &str) -> Option<u32> {
    list.split(',').find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
}

/// `2.00s` or `987.65ms`
fn seconds(text: &str) -> Option<f64> {
    if let Some(ms) = text.strip_suffix("ms") {
        return ms.parse::<f64>().ok().map(|ms| ms / 1e3);
    }
    text.strip_suffix('s')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "starting benchmark...\n\nfinished in 2.00s, 12345.00 req/s, 2.34MB/s\n\
        requests: 24690 total, 24946 started, 24690 done, 24690 succeeded, 0 failed, 0 errored, 0 timeout\n\
        status codes: 24690 2xx, 0 3xx, 0 4xx, 0 5xx\ntraffic: 4.41MB (4624540) total\n";

    #[test]
    fn the_summary_is_read() {
        let expected = Summary { duration_s: 2.0, done: 24_690, failures: 0 };
        assert_eq!(Summary::parse(OUTPUT), Some(expected));
        let refused = OUTPUT.replace("24690 2xx, 0 3xx, 0 4xx", "24000 2xx, 0 3xx, 690 4xx");
        assert_eq!(Summary::parse(&refused).unwrap().failures, 690);
        let lost = OUTPUT.replace("0 failed", "12 failed");
        assert_eq!(Summary::parse(&lost).unwrap().failures, 12);
        assert_eq!(Summary::parse("could not connect\n"), None);
    }

    #[test]
    fn times_have_units() {
        assert_eq!(seconds("987.50ms"), Some(0.9875));
        assert_eq!(seconds("2.00s"), Some(2.0));
        assert_eq!(seconds("2.00m"), None);
        assert_eq!(time_us("1700000000000000\t200\t431"), Some(431.0));
        assert_eq!(time_us(""), None);
    }
}
