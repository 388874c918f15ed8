//! The flood: one source's SYNs to a port, as fast as a core makes them.
//!
//! Comes in: a lab and a CPU. Goes out: frames on the edge's interface until it is stopped. They are live frames of the
//! kernel's test run, redirected into the world's end of the veth pair: no socket buffer is made on the way, and what
//! takes them finds a frame in a page, as a card's driver does. That is several times faster than a packet socket, so
//! that it is the receiver that is measured. Source: the kernel's `Documentation/bpf/bpf_prog_run.rst`.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use anyhow::{Context, Result, anyhow};
use xtask::lab::{
    frames::{Endpoints, Frame, Link, Segment},
    netns::{EDGE_MAC, Lab, SPOOFED_V4, WORLD_INTERFACE, WORLD_MAC},
    xdp,
};

use crate::bench::{
    cpu,
    kernel::{self, Sending},
};

/// Where the source's port lies in a frame of TCP over IPv4, and the lower half of the sequence number, which takes up
/// in the checksum what the port changes.
const PORT_AT: i16 = 34;
const BALANCE_AT: i16 = 40;
/// Frames of one test run: what may be sent after the word to stop. Beginning and ending one takes 20 ms.
const RUN_FRAMES: u32 = 2_000_000;

/// Whose flood it is: an address that no host of the lab has.
pub(super) fn source() -> Ipv4Addr {
    let [prefix, _] = SPOOFED_V4;
    Ipv4Addr::from_bits(prefix.to_bits() | 7)
}

/// What kind of flood it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// As fast as it goes: the sender does not touch the frames, which all come from one port.
    Fast,
    /// Each from another port: a TCP that sees it sees a new connection each time.
    Ports,
    /// The same, so many in a second.
    Paced(u32),
}

impl Kind {
    fn sending(self, ifindex: u32) -> Sending {
        let ports = (self != Self::Fast).then_some((PORT_AT, BALANCE_AT));
        let interval_ns =
            if let Self::Paced(rate_per_s) = self { 1_000_000_000 / rate_per_s.max(1) } else { 0 };
        Sending { ifindex, ports, interval_ns }
    }
}

/// A flood under way; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Sender {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<Result<()>>>>,
}

impl Sender {
    /// Starts it on this CPU.
    pub(super) fn start(lab: &Lab, cpu: usize, target: SocketAddr, kind: Kind) -> Result<Self> {
        let frame = frame(target, 0)?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = lab.world.place().spawn("flood", move || {
            cpu::pin_calling_thread(&[cpu])?;
            let sending = kind.sending(xdp::ifindex(WORLD_INTERFACE)?);
            let program = kernel::send(sending).context("loading the sender's program")?;
            while !told.load(Ordering::Relaxed) {
                kernel::live_run(program.as_fd(), &frame, RUN_FRAMES).context("a live test run")?;
            }
            Ok(())
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Stops it; an error where it could not send.
    pub(super) fn stop(mut self) -> Result<()> {
        self.finish()
    }

    fn finish(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| anyhow!("the flood's thread panicked"))??
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // Whoever wanted to know has stopped it.
        let _ = self.finish();
    }
}

/// The frame as it leaves from this port.
fn frame(target: SocketAddr, port: u16) -> Result<Vec<u8>> {
    let endpoints = Endpoints::between(SocketAddr::new(source().into(), port), target)?;
    let link = Link { source: WORLD_MAC, destination: EDGE_MAC, tags: Vec::new() };
    Frame { link, endpoints, segment: Segment::syn(u32::from(!port)) }.bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_right_from_every_port() {
        let target = "192.0.2.1:443".parse().unwrap();
        let first = frame(target, 0).unwrap();
        let (port, balance) = (usize::try_from(PORT_AT).unwrap(), usize::try_from(BALANCE_AT).unwrap());
        for number in [1_u16, 255, 256, 1024, 40_000, u16::MAX] {
            // As the program changes the first.
            let mut changed = first.clone();
            changed[port..port + 2].copy_from_slice(&number.to_be_bytes());
            changed[balance..balance + 2].copy_from_slice(&(number ^ 0xffff).to_be_bytes());
            assert_eq!(changed, frame(target, number).unwrap(), "{number}");
        }
    }
}
