//! What an idle keep-alive connection costs in memory.
//!
//! Each subject is started anew, since one that has served before may hold free memory that hides the cost. A few
//! connections come first, so that what is allocated once is there already. Then the proportional set size of its
//! process tree is read before and after [`IDLE_CONNECTIONS`] more have made one request each and gone quiet. Socket
//! buffers are the kernel's and empty for all alike: they are not in it. Nor is what a subject sets aside at its start
//! for all connections to come, as nginx does.

use std::{fs, time::Duration};

use anyhow::{Context, ensure};

use super::{
    cases::{IDLE_CONNECTIONS, IdleCase},
    cpu,
    load::{Generator, Load, Pace},
    subject::Subject,
};
use crate::interrupt;

/// Connections that come first.
const WARM_UP_CONNECTIONS: u32 = 16;
/// A figure counts once two readings so far apart agree; what was buffered is given back by then.
const SETTLE_EVERY: Duration = Duration::from_millis(250);
const SETTLE_READINGS_MAX: usize = 12;
/// Two readings agree when they differ by less than this share.
const SETTLED_SHARE: f64 = 0.002;

/// Bytes for each idle connection of a subject that has just been started.
pub(super) fn bytes_per_connection(
    generator: &Generator,
    subject: &Subject,
    case: &IdleCase,
) -> anyhow::Result<f64> {
    let load = |connections| Load {
        protocol: case.protocol,
        address: subject.address(case.protocol),
        target: "/files/128".to_owned(),
        headers: subject.headers.clone(),
        shown: None,
        connections,
        body_bytes: 128,
        pace: Pace::Closed,
    };
    let _warm = generator.hold(&load(WARM_UP_CONNECTIONS))?;
    let before = settled_bytes(subject.pid())?;
    let _held = generator.hold(&load(IDLE_CONNECTIONS))?;
    let after = settled_bytes(subject.pid())?;
    Ok(((after - before) / f64::from(IDLE_CONNECTIONS)).max(0.0))
}

/// The proportional set size of a process tree, once it has stopped moving.
fn settled_bytes(pid: u32) -> anyhow::Result<f64> {
    let mut last = tree_bytes(pid)?;
    for _ in 0..SETTLE_READINGS_MAX {
        interrupt::pause(SETTLE_EVERY)?;
        let now = tree_bytes(pid)?;
        if (now - last).abs() < last * SETTLED_SHARE {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}

/// The sum over the process and its descendants.
pub(super) fn tree_bytes(pid: u32) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    for process in cpu::processes(pid)? {
        let path = format!("/proc/{process}/smaps_rollup");
        // One that has ended meanwhile holds nothing.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        sum += pss_bytes(&text).with_context(|| format!("{path} has no Pss"))?;
    }
    ensure!(sum > 0.0, "process {pid} shows no memory");
    Ok(sum)
}

/// `Pss:    1234 kB`
fn pss_bytes(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kilobytes: f64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proportional_set_size_is_read() {
        let text = "00400000-7ffe rollup\nRss:  2000 kB\nPss:                1234 kB\nPss_Dirty: 3 kB\n";
        assert_eq!(pss_bytes(text), Some(1234.0 * 1024.0));
        assert_eq!(pss_bytes("Rss: 1 kB\n"), None);
    }

    #[test]
    fn our_own_memory_is_seen() {
        assert!(tree_bytes(std::process::id()).unwrap() > 4096.0);
    }
}
