//! Where the edge takes frames from its interface: the kernel's thread that does it, and what the kernel has counted.
//!
//! Comes in: a lab whose interface has what it shall have. Goes out: the thread, to be held on a CPU, and the figures
//! before and after. Left alone, a veth takes frames in whatever context has just sent some, and on that CPU: sender
//! and receiver could not be told apart, nor would it stay where it was. A thread of its own (`threaded`) is what a
//! card's interrupt with its affinity is: it belongs to one CPU, and there its time can be read.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, bail};
use xtask::lab::netns::{EDGE_INTERFACE, Lab, WORLD_INTERFACE};

use crate::{
    bench::cpu::{self, Usage},
    process,
};

/// The thread that takes the frames.
#[derive(Debug)]
pub(super) struct Intake {
    thread: u32,
}

/// What has happened at an interface and behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    /// Frames that were taken from it.
    pub(super) taken: u64,
    /// Frames that found its ring full.
    pub(super) lost: u64,
    /// Packets that IP saw, loopback's with them.
    pub(super) passed: u64,
}

impl Counts {
    /// Reads them.
    pub(super) fn of(lab: &Lab) -> Result<Self> {
        let read = |file: &str| fs::read_to_string(format!("/proc/thread-self/net/{file}"));
        let (interfaces, protocols) =
            lab.edge.enter(|| Ok::<_, std::io::Error>((read("dev")?, read("snmp")?)))??;
        let (taken, lost) = parse_interface(&interfaces).context("/proc/net/dev")?;
        let passed = parse_ip(&protocols).context("/proc/net/snmp")?;
        Ok(Self { taken, lost, passed })
    }

    /// What has happened since.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            taken: self.taken.saturating_sub(earlier.taken),
            lost: self.lost.saturating_sub(earlier.lost),
            passed: self.passed.saturating_sub(earlier.passed),
        }
    }
}

/// `name: bytes packets errors drops …`, received.
fn parse_interface(text: &str) -> Option<(u64, u64)> {
    let line =
        text.lines().find_map(|line| line.trim_start().strip_prefix(EDGE_INTERFACE)?.strip_prefix(':'))?;
    let fields: Vec<u64> = line.split_ascii_whitespace().map_while(|field| field.parse().ok()).collect();
    match fields.as_slice() {
        [_, packets, _, drops, ..] => Some((*packets, *drops)),
        _ => None,
    }
}

/// A line of names and one of numbers: `Ip: Forwarding DefaultTTL InReceives …`.
fn parse_ip(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let at = names.split(' ').position(|name| name == "InReceives")?;
    numbers.split(' ').nth(at)?.parse().ok()
}

impl Intake {
    /// Gives the edge's interface its thread; whatever shall stand there stands there already, since a program that
    /// comes or goes takes the thread with it.
    pub(super) fn of(lab: &Lab) -> Result<Self> {
        let before = threads()?;
        lab.edge.set_interface(EDGE_INTERFACE, "threaded", "1")?;
        let mut new = threads()?.into_iter().filter(|thread| !before.contains(thread));
        match (new.next(), new.next()) {
            (Some(thread), None) => Ok(Self { thread }),
            (None, _) => bail!("the kernel has made no thread for {EDGE_INTERFACE}"),
            _ => bail!("the kernel has made several threads for {EDGE_INTERFACE}"),
        }
    }

    /// From now on it runs on this CPU alone, and before anything else where it is `urgent`, as an interrupt does.
    pub(super) fn hold(&self, cpu: usize, urgent: bool) -> Result<()> {
        cpu::pin(self.thread, &[cpu]).with_context(|| format!("sched_setaffinity to {cpu}"))?;
        cpu::prioritise(self.thread, urgent).context("sched_setscheduler")
    }

    /// Its time on a CPU so far.
    pub(super) fn usage(&self) -> Result<Usage> {
        Usage::of(self.thread)
    }
}

/// The threads of all interfaces that are called as the edge's is.
fn threads() -> Result<BTreeSet<u32>> {
    let ours = format!("napi/{EDGE_INTERFACE}");
    let mut threads = BTreeSet::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that has ended meanwhile is none of ours.
        if fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.starts_with(&ours)) {
            threads.insert(pid);
        }
    }
    Ok(threads)
}

/// Has an interface without an XDP program work as a card's driver does. A veth then takes redirected frames only with
/// GRO on, and hands a local client's packets past its ring unless they come as they would on a wire.
pub(super) fn as_a_driver(lab: &Lab) -> Result<()> {
    for (place, interface, features) in [
        (lab.edge.place(), EDGE_INTERFACE, &["gro", "on"][..]),
        (lab.world.place(), WORLD_INTERFACE, &["tso", "off", "gso", "off"][..]),
    ] {
        process::quiet(place.command("ethtool").arg("-K").arg(interface).args(features))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_counts_is_read() {
        let interfaces = "Inter-|   Receive                            |  Transmit\n face |bytes    packets errs drop fifo\n    \
                          lo:     100       2    0    0    0\n edge0: 5800 100 1 7 0 0 0 0 90 1 0 0 0 0 0 0\n";
        assert_eq!(parse_interface(interfaces), Some((100, 7)));
        assert_eq!(parse_interface("edge00: 1 2 3 4\n"), None);
        let protocols =
            "Ip: Forwarding DefaultTTL InReceives InHdrErrors\nIp: 2 64 345 0\nTcp: InSegs\nTcp: 9\n";
        assert_eq!(parse_ip(protocols), Some(345));
        assert_eq!(parse_ip("Ip: Forwarding\nIp: 2\n"), None);
    }

    #[test]
    fn counts_are_of_what_is_between() {
        let counts = |taken, lost, passed| Counts { taken, lost, passed };
        assert_eq!(counts(9, 5, 3).since(counts(2, 5, 1)), counts(7, 0, 2));
    }
}
