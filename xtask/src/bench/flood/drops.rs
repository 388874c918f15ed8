//! How many packets of a blocked source one core drops.
//!
//! ```text
//!   load's CPU: [ live frames ] ──► ring of the veth ──► proxy's CPU: [ thread that takes frames ──► what drops them ]
//! ```
//!
//! The sender has a core and the receiver has one, so that what a frame costs to send is in nobody's figure. The sender
//! must offer more than is taken; how much finds the ring full is told. A figure counts the frames by the receiving
//! thread's own time on its CPU, which holds all that a driver does for a frame, page or socket buffer included, and
//! none of what else the machine did meanwhile. A burst in which the stack saw packets is an error: nothing was dropped
//! then but late.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{
    host::Host,
    intake::Counts,
    sender::{Kind, Sender},
};
use crate::{bench::cpu::Cores, interrupt};

/// How long the first frames may take.
const FIRST_TIME_MAX: Duration = Duration::from_secs(5);
/// So many frames are taken before anything is measured.
const WARM_FRAMES: u64 = 50_000;
/// IP may see one packet in so many: what the host sends to itself meanwhile.
const PASSED_SHARE: u64 = 1000;

/// One burst of one host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Burst {
    /// Million frames that were dropped in a second of the CPU.
    pub(super) dropped_mpps: f64,
    /// Million frames per second that were sent.
    pub(super) offered_mpps: f64,
}

/// Lets the flood run against a host for so long.
#[expect(clippy::disallowed_methods, reason = "a tool may read the clock")]
pub(super) fn burst(host: &Host, cores: &Cores, time: Duration) -> Result<Burst> {
    host.intake.hold(cores.proxy, false)?;
    let sender = begin(host, cores, Kind::Fast)?;
    let (begun, usage, counts) = (Instant::now(), host.intake.usage()?, Counts::of(&host.lab)?);
    interrupt::pause(time)?;
    let (time, spent) = (begun.elapsed(), host.intake.usage()?.since(&usage));
    let counts = Counts::of(&host.lab)?.since(counts);
    sender.stop()?;
    ensure!(
        counts.passed <= counts.taken / PASSED_SHARE,
        "{} of {} packets were not dropped",
        counts.passed,
        counts.taken
    );
    rate(counts, Duration::from_nanos(spent.cpu_ns), time)
}

/// Starts the flood and waits until it arrives.
pub(super) fn begin(host: &Host, cores: &Cores, kind: Kind) -> Result<Sender> {
    let cpu = *cores.load.first().context("no CPU for the flood")?;
    let before = Counts::of(&host.lab)?;
    let sender = Sender::start(&host.lab, cpu, host.target(), kind)?;
    let arrived = interrupt::await_event(FIRST_TIME_MAX, || {
        let counts = Counts::of(&host.lab).ok()?.since(before);
        (counts.taken >= WARM_FRAMES).then_some(())
    })?;
    match arrived {
        Some(()) => Ok(sender),
        // Why, where the sender knows.
        None => Err(sender.stop().err().unwrap_or_else(|| anyhow::anyhow!("no frame arrives"))),
    }
}

fn rate(counts: Counts, on_cpu: Duration, time: Duration) -> Result<Burst> {
    ensure!(counts.taken > 0 && !on_cpu.is_zero() && !time.is_zero(), "nothing was taken: {counts:?}");
    let millions = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / 1e6;
    Ok(Burst {
        dropped_mpps: millions(counts.taken) / on_cpu.as_secs_f64(),
        offered_mpps: millions(counts.taken + counts.lost) / time.as_secs_f64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_by_the_receivers_own_time() {
        let counts = Counts { taken: 6_000_000, lost: 2_000_000, passed: 0 };
        let burst = rate(counts, Duration::from_secs(1), Duration::from_secs(2)).unwrap();
        assert_eq!(burst, Burst { dropped_mpps: 6.0, offered_mpps: 4.0 });
        assert!(rate(counts, Duration::ZERO, Duration::from_secs(2)).is_err());
        assert!(rate(Counts { taken: 0, ..counts }, Duration::from_secs(1), Duration::from_secs(1)).is_err());
    }
}
