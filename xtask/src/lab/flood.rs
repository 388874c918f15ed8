//! A flood: prepared frames sent round and round over a raw socket, at a rate, within a bound.
//!
//! Comes in: frames, an interface, bounds. Goes out: how much was sent. `AF_PACKET` with `PACKET_QDISC_BYPASS` and
//! `sendmmsg(2)`: packet(7), sendmmsg(2). It never sends without a bound and never on the machine's own interfaces:
//! the place that it is started in is a namespace of the lab.

use std::{
    io, mem,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail, ensure};

use super::{
    frames::{Endpoints, Frame, Link, Segment},
    netns::{EDGE_MAC, SPOOFED_V4, SPOOFED_V6, WORLD_MAC},
    place::Place,
    xdp,
};

/// Frames per system call.
const BATCH: usize = 64;
/// A sender that is ahead of its rate rests for so long.
const REST: Duration = Duration::from_millis(1);

/// What to send, and no more than that.
#[derive(Debug, Clone)]
pub struct Flood {
    /// The interface to send on.
    pub interface: String,
    /// Sent in turn, again and again.
    pub frames: Vec<Vec<u8>>,
    /// Frames in all.
    pub count_max: u64,
    /// Frames per second, on average over the flood.
    pub rate_per_s: u64,
    /// Then it ends.
    pub time_max: Duration,
}

/// What was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Frames that the interface took.
    pub frames: u64,
    /// Their octets.
    pub bytes: u64,
    /// From the first to the last.
    pub elapsed: Duration,
}

/// A flood under way; it ends when this is dropped.
#[derive(Debug)]
pub struct Running {
    stop: Arc<AtomicBool>,
    frames: Arc<AtomicU64>,
    sender: Option<JoinHandle<io::Result<Sent>>>,
}

impl Flood {
    /// Starts sending on a thread of its own in `place`.
    pub fn start(self, place: &Place) -> anyhow::Result<Running> {
        ensure!(!self.frames.is_empty(), "a flood of no frames");
        let socket =
            place.enter(|| packet_socket(&self.interface))?.with_context(|| self.interface.clone())?;
        let stop = Arc::new(AtomicBool::new(false));
        let frames = Arc::new(AtomicU64::new(0));
        let sender = thread::Builder::new().name("flood".into()).spawn({
            let (stop, frames) = (stop.clone(), frames.clone());
            move || self.send(&socket, &stop, &frames)
        })?;
        Ok(Running { stop, frames, sender: Some(sender) })
    }

    fn send(&self, socket: &OwnedFd, stop: &AtomicBool, sent_frames: &AtomicU64) -> io::Result<Sent> {
        let start = Instant::now();
        let mut sent = Sent { frames: 0, bytes: 0, elapsed: Duration::ZERO };
        let mut batch = Batch::new();
        while sent.frames < self.count_max && !stop.load(Ordering::Relaxed) {
            sent.elapsed = start.elapsed();
            if sent.elapsed >= self.time_max {
                break;
            }
            let due = due_frames(self.rate_per_s, sent.elapsed).min(self.count_max);
            let Some(room) = due.checked_sub(sent.frames).filter(|room| *room > 0) else {
                thread::sleep(REST);
                continue;
            };
            let wanted = usize::try_from(room).unwrap_or(BATCH).min(BATCH);
            let at = usize::try_from(sent.frames % self.frames.len() as u64).unwrap_or(0);
            let taken = batch.send(socket, self.frames.iter().cycle().skip(at).take(wanted))?;
            sent.frames += taken.frames;
            sent.bytes += taken.bytes;
            sent_frames.store(sent.frames, Ordering::Relaxed);
        }
        sent.elapsed = start.elapsed();
        Ok(sent)
    }
}

impl Running {
    /// Frames so far.
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Stops it and says what was sent.
    pub fn stop(mut self) -> anyhow::Result<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        self.finish()
    }

    /// Waits until it has sent all that it may.
    pub fn wait(mut self) -> anyhow::Result<Sent> {
        self.finish()
    }

    fn finish(&mut self) -> anyhow::Result<Sent> {
        let sender = self.sender.take().context("the flood was waited for already")?;
        Ok(sender.join().map_err(|_| anyhow!("the flood's thread panicked"))??)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(_)) = self.sender.take().map(JoinHandle::join) {
            log::warn!("the flood's thread panicked");
        }
    }
}

/// `count` frames from `sources` spoofed addresses of the family of `target` in turn, each from another port.
pub fn from_spoofed(
    target: SocketAddr,
    sources: u32,
    count: u32,
    segment: impl Fn(u32) -> Segment,
) -> anyhow::Result<Vec<Vec<u8>>> {
    ensure!(sources > 0, "a flood from no sources");
    let link = Link { source: WORLD_MAC, destination: EDGE_MAC, tags: Vec::new() };
    (0..count)
        .map(|n| {
            // Ports from 1024 up, so that no frame looks like a service's answer.
            let source = SocketAddr::new(spoofed(target, n % sources), 1024 + u16::try_from(n % 60_000)?);
            let endpoints = Endpoints::between(source, target)?;
            Frame { link: link.clone(), endpoints, segment: segment(n) }.bytes()
        })
        .collect()
}

/// The `n`-th address that nobody has; they repeat after 508 for IPv4, and each has a /64 of its own for IPv6.
fn spoofed(target: SocketAddr, n: u32) -> IpAddr {
    const HOSTS: u32 = 254;
    match target {
        SocketAddr::V4(_) => {
            let [low, high] = SPOOFED_V4;
            let prefix = if (n / HOSTS).is_multiple_of(2) { low } else { high };
            Ipv4Addr::from_bits(prefix.to_bits() + 1 + n % HOSTS).into()
        }
        SocketAddr::V6(_) => {
            let subnet = u128::from(n & 0xffff) << 64;
            std::net::Ipv6Addr::from_bits(SPOOFED_V6.to_bits() | subnet | 1).into()
        }
    }
}

/// Frames that may have been sent after so long.
fn due_frames(rate_per_s: u64, elapsed: Duration) -> u64 {
    let due = u128::from(rate_per_s) * elapsed.as_micros() / 1_000_000;
    u64::try_from(due).unwrap_or(u64::MAX)
}

/// A raw socket that only sends, past the queueing discipline.
fn packet_socket(interface: &str) -> anyhow::Result<OwnedFd> {
    let index = xdp::ifindex(interface)?;
    // Protocol 0: it receives nothing.
    // SAFETY: socket(2) takes no pointer.
    let descriptor = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if descriptor < 0 {
        bail!(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };

    let bypass: libc::c_int = 1;
    // SAFETY: the option's value is an int that outlives the call, and its size is given.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_QDISC_BYPASS,
            (&raw const bypass).cast(),
            length_of(&bypass),
        )
    };
    if set != 0 {
        bail!(io::Error::last_os_error());
    }
    // SAFETY: sockaddr_ll is plain data, for which zero is a value of every field.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET)?;
    address.sll_ifindex = i32::try_from(index)?;
    // SAFETY: the address outlives the call, and its size is given.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length_of(&address)) };
    if bound != 0 {
        bail!(io::Error::last_os_error());
    }
    Ok(socket)
}

/// The size of a socket option or address, all of which are a few octets.
fn length_of<T>(value: &T) -> libc::socklen_t {
    libc::socklen_t::try_from(size_of_val(value)).unwrap_or(0)
}

/// What one call handed over.
struct Taken {
    frames: u64,
    bytes: u64,
}

/// The kernel's view of one batch, used again for each.
struct Batch {
    vectors: Vec<libc::iovec>,
    messages: Vec<libc::mmsghdr>,
}

impl Batch {
    fn new() -> Self {
        Self { vectors: Vec::with_capacity(BATCH), messages: Vec::with_capacity(BATCH) }
    }

    fn send<'a>(&mut self, socket: &OwnedFd, frames: impl Iterator<Item = &'a Vec<u8>>) -> io::Result<Taken> {
        self.vectors.clear();
        self.messages.clear();
        self.vectors.extend(
            frames.map(|frame| libc::iovec {
                iov_base: frame.as_ptr().cast_mut().cast(),
                iov_len: frame.len(),
            }),
        );
        for vector in &mut self.vectors {
            // SAFETY: mmsghdr is plain data, for which zero is a value of every field.
            let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
            self.messages.push(message);
        }
        let count = u32::try_from(self.messages.len()).unwrap_or(0);
        // SAFETY: messages point into `vectors`, which point into frames borrowed for `'a`; none of them changes
        // until the call returns, and the kernel only reads the frames.
        let taken = unsafe { libc::sendmmsg(socket.as_raw_fd(), self.messages.as_mut_ptr(), count, 0) };
        if taken < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                // The interface is full or we were interrupted: nothing was sent, the next round tries again.
                Some(libc::ENOBUFS | libc::EAGAIN | libc::EINTR) => Ok(Taken { frames: 0, bytes: 0 }),
                _ => Err(error),
            };
        }
        let taken = usize::try_from(taken).unwrap_or(0);
        let bytes = self.messages.iter().take(taken).map(|message| u64::from(message.msg_len)).sum();
        Ok(Taken { frames: taken as u64, bytes })
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, net::UdpSocket};

    use super::*;
    use crate::lab::{
        self,
        netns::{EDGE_V4, Lab, WORLD_INTERFACE},
    };

    #[test]
    fn sources_are_many_and_nobody_s() {
        let target = "192.0.2.1:80".parse().unwrap();
        let sources: HashSet<_> = (0..1000).map(|n| spoofed(target, n)).collect();
        assert_eq!(sources.len(), 508);
        let target = "[2001:db8::1]:80".parse().unwrap();
        let sources: HashSet<_> = (0..1000).map(|n| spoofed(target, n)).collect();
        assert_eq!(sources.len(), 1000);
        assert!(sources.contains(&"2001:db8:5:3e7::1".parse().unwrap()));
    }

    #[test]
    fn the_rate_is_kept() {
        assert_eq!(due_frames(1000, Duration::ZERO), 0);
        assert_eq!(due_frames(1000, Duration::from_millis(10)), 10);
        assert_eq!(due_frames(u64::MAX, Duration::from_secs(3)), u64::MAX);
    }

    #[test]
    fn frames_arrive_with_checksums_that_the_kernel_accepts() {
        if let Err(why) = lab::privileges() {
            return lab::skip("frames_arrive_with_checksums_that_the_kernel_accepts", &why);
        }
        let lab = Lab::new().unwrap();
        let socket = lab.edge.enter(|| UdpSocket::bind((EDGE_V4, 0)).unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let frames =
            from_spoofed(socket.local_addr().unwrap(), 300, 300, |n| Segment::udp(n.to_be_bytes())).unwrap();
        let flood = Flood {
            interface: WORLD_INTERFACE.into(),
            frames,
            count_max: 300,
            rate_per_s: 100_000,
            time_max: Duration::from_secs(5),
        };
        let running = flood.start(&lab.world.place()).unwrap();
        let mut sources = HashSet::new();
        for _ in 0..300 {
            let (length, source) = socket.recv_from(&mut [0; 64]).unwrap();
            assert_eq!(length, 4);
            sources.insert(source);
        }
        let sent = running.wait().unwrap();
        assert_eq!((sent.frames, sent.bytes), (300, 300 * 46));
        assert_eq!(sources.len(), 300);
    }

    #[test]
    fn an_endless_flood_stops_when_told() {
        if let Err(why) = lab::privileges() {
            return lab::skip("an_endless_flood_stops_when_told", &why);
        }
        let lab = Lab::new().unwrap();
        let frames = from_spoofed((EDGE_V4, 9).into(), 10, 10, Segment::syn).unwrap();
        let flood = Flood {
            interface: WORLD_INTERFACE.into(),
            frames,
            count_max: u64::MAX,
            rate_per_s: 1000,
            time_max: Duration::from_mins(10),
        };
        let running = flood.start(&lab.world.place()).unwrap();
        lab::wait::until(Duration::from_secs(10), || (running.frames() > 10).then_some(())).unwrap();
        assert!(running.stop().unwrap().frames > 10);
    }
}
