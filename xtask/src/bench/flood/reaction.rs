//! How long it takes from the request that crosses an escalation's line to the first packet that is dropped for it.
//!
//! Comes in: our gateway and how many sources shall try. Goes out: what the kernel has stamped for each. A source sends
//! wrong keys on one connection, each as soon as the one before was refused, until nothing comes back any more; so the
//! figure holds the time to its next packet, some ten microseconds. Each source is new to the gateway. The arrangement
//! is that of [`super::honest`], with the flood or without it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use xtask::lab::{
    client::{ClientError, Connection, Request},
    netns::{SPOOFED_V4, WORLD_INTERFACE},
};

use super::{
    drops::begin,
    host::Host,
    sender::{Kind, Sender},
};
use crate::{
    bench::{
        cpu::{self, Cores},
        subject::{HOST, Protocol},
    },
    interrupt,
};

/// The first host number of a source; the flood's is below.
const FIRST: u32 = 10;
/// So many sources fit into a /24 from there.
pub(super) const SOURCES_MAX: u32 = 240;
/// An answer that takes longer does not come.
const SILENCE: Duration = Duration::from_millis(100);
/// The line is at 20; what is answered past it was under way.
const OFFENCES_MAX: u32 = 2000;
/// What is dropped at last is sent again after so long at most: then the stamp is there.
const STAMP_TIME_MAX: Duration = Duration::from_secs(5);

/// Has `count` sources of a spoofed prefix try; milliseconds, one for each, in ascending order.
pub(super) fn times_ms(
    host: &Host,
    cores: &Cores,
    prefix: usize,
    count: u32,
    flooded: bool,
) -> Result<Vec<f64>> {
    let (subject, ..) = host.served()?;
    let gateway = subject.gateway()?;
    let prefix = *SPOOFED_V4.get(prefix).context("no such prefix")?;
    let sources: Vec<Ipv4Addr> = (FIRST..FIRST + count.min(SOURCES_MAX))
        .map(|host| Ipv4Addr::from_bits(prefix.to_bits() | host))
        .collect();
    for source in &sources {
        host.lab.world.add_address(WORLD_INTERFACE, (*source).into())?;
    }
    host.intake.hold(*cores.load.first().context("no CPU for the flood")?, true)?;
    let flood = flooded.then(|| begin(host, cores, Kind::Ports)).transpose()?;
    let target = subject.address(Protocol::Http1);
    for source in &sources {
        interrupt::check()?;
        cpu::on(&[cores.proxy], || offend(host, target, (*source).into()))
            .with_context(|| format!("{source} tries keys"))?;
    }
    flood.map_or(Ok(()), Sender::stop)?;
    let expected: Vec<String> = sources.iter().map(|source| format!("{source}/32")).collect();
    let stamped = interrupt::await_event(STAMP_TIME_MAX, || {
        let bans = gateway.bans().ok()?;
        let of = |source: &String| bans.iter().find(|ban| ban.source == *source)?.offence_to_first_drop_ms;
        expected.iter().map(of).collect::<Option<Vec<f64>>>()
    })?;
    let mut times_ms = stamped.context("not everybody was blocked, or dropped")?;
    times_ms.sort_by(f64::total_cmp);
    Ok(times_ms)
}

/// Sends wrong keys until it is dropped.
fn offend(host: &Host, target: SocketAddr, source: IpAddr) -> Result<()> {
    let headers = [("x-api-key", "wrong")];
    let request = Request { host: HOST, ..Request::get("/files/128").with(&headers) };
    let mut connection = Connection::open_in(&host.lab.world.place(), target, Some(source), SILENCE)?;
    for _ in 0..OFFENCES_MAX {
        match connection.request(&request) {
            Ok(answer) => ensure!(answer.status == 401, "answered {}: {}", answer.status, answer.text()),
            Err(ClientError::TimedOut) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    anyhow::bail!("still answered after {OFFENCES_MAX} wrong keys")
}
