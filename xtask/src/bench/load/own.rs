//! Our own client, `benches/load`: what wrk and h2load cannot do, or not without hiding something.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, bail};

use super::{Load, Pace};
use crate::{bench::subject::HOST, interrupt};
use xtask::lab::{place::Place, process::Process};

/// How long opening all idle connections may take.
const HOLD_TIME_MAX: Duration = Duration::from_secs(30);
/// The line that says that all of them are open.
const HELD: &str = "holding";

/// One burst.
pub(super) fn command(place: &Place, client: &Path, load: &Load, burst_s: u32) -> Command {
    let mut command = base(place, client, load);
    match load.pace {
        Pace::Constant(rate_per_s) => command.args(["paced", "--rate", &format!("{rate_per_s:.1}")]),
        _ => command.arg("fresh"),
    };
    command.args(["--seconds", &burst_s.to_string()]);
    command
}

fn base(place: &Place, client: &Path, load: &Load) -> Command {
    let mut command = place.command(client);
    command.args(["--address", &load.address.to_string(), "--host", HOST, "--target", &load.target]);
    command.args(["--connections", &load.connections.to_string()]);
    if load.protocol.is_tls() {
        command.arg("--tls");
    }
    for header in load.headers.iter().filter(|header| !header.starts_with("Host:")) {
        command.args(["--header", header]);
    }
    command
}

/// Idle connections; they end with it.
#[derive(Debug)]
pub(in crate::bench) struct Held {
    _process: Process,
}

/// Opens them, with one request on each.
pub(super) fn hold(place: &Place, client: &Path, load: &Load, output: PathBuf) -> anyhow::Result<Held> {
    if output.exists() {
        std::fs::remove_file(&output)?;
    }
    let mut command = base(place, client, load);
    command.arg("hold");
    let mut process = Process::start(command, output)?;
    let end = interrupt::await_event(HOLD_TIME_MAX, || {
        if process.output().contains(HELD) {
            return Some(Ok(()));
        }
        process.wait(Duration::ZERO).ok().flatten().map(Err)
    })?;
    match end.context("the idle connections were not open in time")? {
        Ok(()) => Ok(Held { _process: process }),
        Err(status) => bail!("the load client ended with {status}: {}", process.output()),
    }
}
