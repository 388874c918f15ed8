//! `cargo xtask bench`: what Portcullis costs, next to its peers, on the machine at hand.
//!
//! Comes in: which bench, how long. Goes out: a table for people or one JSON object per line ([`report::Row`]).
//! Subjects take turns in short bursts and are compared within a round, so that whatever slows the machine for a while
//! slows both. Everything runs on loopback, is bounded in time and goes away with its guard, also on Ctrl-C. It
//! never hides a burst in which requests failed.

mod budget;
mod cases;
mod proxy;
mod auth;
mod floor;
mod nic;
mod flood;
mod soak;
mod routes;
mod idle;
mod lanes;
mod load;
mod subject;
pub(crate) mod peers;
pub(crate) mod own;
mod cpu;
mod kernel;
mod report;
mod chart;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Args, ValueEnum, value_parser};

use self::peers::Peer;
use crate::{build, project::Project};

/// `cargo xtask bench NAME`
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Which bench.
    #[arg(value_enum)]
    pub name: Name,
    /// One JSON object per line instead of a table.
    #[arg(long)]
    pub json: bool,
    /// A shortened run of the same: bursts of 1 s, up to 3 rounds, everything in 3 minutes.
    #[arg(long)]
    pub quick: bool,
    /// Rounds per case; in each, every subject has one burst. [default: as many as time allows, up to 9, with
    /// --quick 3]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=i64::from(ROUNDS_MAX)))]
    pub rounds: Option<u32>,
    /// How long `soak` goes on. [default: 30, with --quick 2]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=MINUTES_MAX))]
    pub minutes: Option<u32>,
    /// Only cases whose name contains this.
    #[arg(long, value_name = "TEXT")]
    pub case: Option<String>,
    /// Only these peers, besides nginx, which all are compared with. [default: all that are here]
    #[arg(long, value_name = "NAME", value_enum)]
    pub peer: Vec<Peer>,
    /// Also draw what was measured, relative to a peer, as a chart into this file.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// A built `portcullis`; without it, `cargo build --release` makes one.
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
    /// nginx against a second nginx: shows what difference the bench sees where there is none.
    #[arg(long, conflicts_with = "binary")]
    pub calibrate: bool,
}

/// The benches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// The gateway and its peers before the same upstream, one core each.
    Proxy,
    /// The gateway and the least proxy that the kernel allows: the distance to what is possible.
    Floor,
    /// What it costs to know who is asking: keys, tokens, introspection, next to peers.
    Auth,
    /// The filter's time per packet by the kernel's test run, next to xdp-filter's.
    Nic,
    /// Packets dropped in a second and honest requests answered under a flood, next to xdp-filter and nftables.
    Flood,
    /// The gateway under everything at once for a long time: whether memory grows or descriptors stay.
    Soak,
}

/// Upper end of `--rounds`.
const ROUNDS_MAX: u32 = 101;
/// Upper end of `--minutes`.
const MINUTES_MAX: i64 = 7 * 24 * 60;
const ROUNDS: u32 = 9;
const ROUNDS_QUICK: u32 = 3;
const BURST_S: u32 = 2;
const WARM_UP_S: u32 = 1;
const BURST_QUICK_S: u32 = 1;

impl Options {
    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { ROUNDS_QUICK } else { ROUNDS })
    }

    fn burst_s(&self) -> u32 {
        if self.quick { BURST_QUICK_S } else { BURST_S }
    }

    /// A short run has no burst to spare.
    fn warm_up_s(&self) -> u32 {
        if self.quick { 0 } else { WARM_UP_S }
    }

    fn wants(&self, case: &str) -> bool {
        self.case.as_ref().is_none_or(|part| case.contains(part.as_str()))
    }
}

/// Runs the bench and prints what it measured. The exit code tells of cases that could not be measured or in which
/// requests failed, not of goals that were missed.
pub(crate) fn run(project: &Project, options: &Options) -> anyhow::Result<ExitCode> {
    match options.name {
        Name::Proxy => proxy::run(project, options),
        Name::Auth => auth::run(project, options),
        Name::Floor => floor::run(project, options),
        Name::Nic => nic::run(project, options),
        Name::Flood => flood::run(project, options),
        Name::Soak => soak::run(project, options),
    }
}

/// The gateway to measure: the one that was named, or a fresh release build.
fn gateway_binary(project: &Project, options: &Options) -> anyhow::Result<PathBuf> {
    match &options.binary {
        // The gateway is started in a directory of its own.
        Some(path) => path.canonicalize().with_context(|| path.display().to_string()),
        None => build::gateway(project, true, &mut std::io::stderr()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn parse(line: &str) -> Result<Options, String> {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.options).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn check_length(line: &str, expected: (u32, u32)) {
        let options = parse(line).unwrap();
        assert_eq!((options.rounds(), options.burst_s()), expected, "{line}");
    }

    #[test]
    fn quick_is_shorter_and_rounds_win() {
        check_length("proxy", (9, 2));
        check_length("proxy --quick", (3, 1));
        check_length("proxy --quick --rounds 5", (5, 1));
        check_length("proxy --rounds 101", (101, 2));
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "",
            "soak --minutes 0",
            "nic-of-another",
            "proxy --rounds 0",
            "proxy --rounds 102",
            "proxy --calibrate --binary x",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn cases_are_chosen_by_a_part_of_their_name() {
        assert!(parse("proxy").unwrap().wants("h1-128B-64c"));
        assert!(parse("proxy --case 128B").unwrap().wants("h1-128B-64c"));
        assert!(!parse("proxy --case tls").unwrap().wants("h1-128B-64c"));
    }

    #[test]
    fn peers_are_chosen_by_name() {
        assert_eq!(parse("proxy --peer envoy --peer haproxy").unwrap().peer, [Peer::Envoy, Peer::Haproxy]);
        assert!(parse("proxy --peer caddy").is_err());
    }
}
