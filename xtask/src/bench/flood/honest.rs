//! What a flood leaves to those who mean well.
//!
//! ```text
//!   flood's CPU: [ live frames ] ──► ring of the veth ──► [ thread that takes frames ] ──► host's CPU: [ gateway, upstream ]
//!   host's CPU:  [ wrk, keep-alive ] ──► the same ring
//! ```
//!
//! The flood has a whole CPU; gateway, upstream and client share the other. The thread that takes frames goes before
//! everything else on its CPU, as a card's interrupt does, and honest packets come through the same ring and by the
//! same thread, with the flood and without, so that both figures are of one arrangement. There are two:
//!
//! - [`Place::Apart`]: frames are taken on the flood's CPU, as by a card whose queue belongs to it. The sender has what
//!   the receiver leaves, so that a host which drops at a higher price is flooded less, and shows no harm for that: how
//!   much it took has to be read with it.
//! - [`Place::Together`]: frames are taken on the very CPU that serves, and everybody is sent as many: what each of
//!   them costs is missing to those who mean well.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{drops::begin, host::Host, intake::Counts, sender::Kind};
use crate::bench::{cpu::Cores, load::Answers};

/// Where the flood's frames are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// On the flood's own CPU, as many as go through there.
    Apart,
    /// On the host's only other, so many in a second.
    Together(u32),
}

/// A burst of honest load without the flood, and one with it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pair {
    pub(super) calm: Answers,
    pub(super) flooded: Answers,
    /// Million frames that the host took in a second, nearly all of them the flood's.
    pub(super) flood_mpps: f64,
    /// The same with those that found its ring full.
    pub(super) offered_mpps: f64,
}

/// Measures both.
#[expect(clippy::disallowed_methods, reason = "a tool may read the clock")]
pub(super) fn pair(host: &Host, cores: &Cores, place: Place, burst_s: u32) -> Result<Pair> {
    let (cpu, kind) = match place {
        Place::Apart => (*cores.load.first().context("no CPU for the flood")?, Kind::Ports),
        Place::Together(rate_per_s) => (cores.proxy, Kind::Paced(rate_per_s)),
    };
    host.intake.hold(cpu, true)?;
    let (_, generator, load) = host.served()?;
    let calm = generator.burst(&load, burst_s).context("without the flood")?;
    let sender = begin(host, cores, kind)?;
    let (begun, counts) = (Instant::now(), Counts::of(&host.lab)?);
    let flooded = generator.burst(&load, burst_s).context("under the flood")?;
    let (time, counts) = (begun.elapsed(), Counts::of(&host.lab)?.since(counts));
    sender.stop()?;
    let flood_mpps = millions_per_s(counts.taken, time);
    Ok(Pair { calm, flooded, flood_mpps, offered_mpps: millions_per_s(counts.taken + counts.lost, time) })
}

fn millions_per_s(frames: u64, time: Duration) -> f64 {
    f64::from(u32::try_from(frames).unwrap_or(u32::MAX)) / 1e6 / time.as_secs_f64()
}

impl Pair {
    /// Answers per second.
    pub(super) fn requests_per_s(answers: Answers) -> f64 {
        f64::from(answers.requests) / (answers.duration_us / 1e6)
    }
}
