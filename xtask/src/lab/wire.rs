//! A wire between the lab's two namespaces on which every frame is seen, and can be kept: what a NIC at the edge gets.
//!
//! Comes in: the lab, and the VLAN tags that frames carry on the wire, as if a switch put them on. Goes out: what the
//! world has sent to the edge, byte by byte, as a capture file. Either end is a TAP interface, so that segments are cut
//! and checksums filled in as for real hardware. A veth pair would show neither.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use anyhow::Context;

use super::netns::{Lab, Namespace};

/// Its name at both ends.
pub const INTERFACE: &str = "wire0";
/// A jumbo frame and its tags.
const FRAME_BYTES_MAX: usize = 9_216;
/// How long the relay waits for a frame before it looks whether it is still wanted, in ms.
const WAIT_MS: libc::c_int = 50;
/// `TUNSETIFF` (`include/uapi/linux/if_tun.h`)
const SET_INTERFACE: libc::c_ulong = 0x4004_54ca;

/// The wire; it is cut when it is dropped.
pub struct Wire {
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    done: Arc<AtomicBool>,
    relay: Option<JoinHandle<()>>,
}

impl Wire {
    /// Joins the two namespaces. The ends are down and have no addresses yet.
    pub fn between(lab: &Lab, tags: &'static [u16]) -> anyhow::Result<Self> {
        let (edge, world) = (end(&lab.edge)?, end(&lab.world)?);
        let (seen, done) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let relay = Relay { edge, world, tags, seen: Arc::clone(&seen), done: Arc::clone(&done) };
        let relay = std::thread::Builder::new().name("wire".into()).spawn(move || relay.run())?;
        Ok(Self { seen, done, relay: Some(relay) })
    }

    /// What the world has sent so far and was not taken before.
    pub fn take(&self) -> Vec<Vec<u8>> {
        self.seen.lock().map(|mut seen| std::mem::take(&mut *seen)).unwrap_or_default()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(relay) = self.relay.take() {
            // Its panic has been told already.
            let _ = relay.join();
        }
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wire(…)")
    }
}

fn end(namespace: &Namespace) -> anyhow::Result<File> {
    let opened = namespace.enter(|| {
        let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
        // `struct ifreq`: a name of at most 15 octets, then IFF_TAP and IFF_NO_PI.
        let mut request = [0_u8; 40];
        for (to, from) in request.iter_mut().zip(INTERFACE.bytes()) {
            *to = from;
        }
        let [low, high] = 0x1002_u16.to_ne_bytes();
        (request[16], request[17]) = (low, high);
        // SAFETY: the kernel reads and writes within an `ifreq`, which is as long as that.
        if unsafe { libc::ioctl(device.as_raw_fd(), SET_INTERFACE, request.as_mut_ptr()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(device)
    });
    opened?.context("a TAP interface")
}

struct Relay {
    edge: File,
    world: File,
    tags: &'static [u16],
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    done: Arc<AtomicBool>,
}

impl Relay {
    fn run(mut self) {
        let mut buffer = [0; FRAME_BYTES_MAX];
        while !self.done.load(Ordering::Relaxed) {
            let [from_edge, from_world] = readable([self.edge.as_raw_fd(), self.world.as_raw_fd()]);
            // An interface that is down takes nothing; whoever sent will send again.
            if from_world && let Ok(bytes) = self.world.read(&mut buffer) {
                let frame = buffer.get(..bytes).unwrap_or_default();
                if let Ok(mut seen) = self.seen.lock() {
                    seen.push(tagged(frame, self.tags));
                }
                let _ = self.edge.write(frame);
            }
            if from_edge && let Ok(bytes) = self.edge.read(&mut buffer) {
                let _ = self.world.write(buffer.get(..bytes).unwrap_or_default());
            }
        }
    }
}

fn readable(descriptors: [RawFd; 2]) -> [bool; 2] {
    let mut waits = descriptors.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    // SAFETY: the array is as long as it says.
    unsafe { libc::poll(waits.as_mut_ptr(), 2, WAIT_MS) };
    waits.map(|wait| wait.revents & libc::POLLIN != 0)
}

/// The frame as a switch passes it on to a trunk: VLAN 7, and no priority.
fn tagged(frame: &[u8], tags: &[u16]) -> Vec<u8> {
    let (addresses, rest) = frame.split_at_checked(12).unwrap_or((frame, &[]));
    let tags: Vec<u8> = tags.iter().flat_map(|tag| [tag.to_be_bytes(), [0, 7]].concat()).collect();
    [addresses, &tags, rest].concat()
}

const MAGIC: u32 = 0xa1b2_c3d4;
const ETHERNET: u32 = 1;

/// The frames as a capture file (pcap 2.4, Ethernet), without the time of day.
pub fn to_pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let header = [MAGIC, 4 << 16 | 2, 0, 0, 65_535, ETHERNET].map(u32::to_le_bytes).concat();
    let records = frames.iter().flat_map(|frame| {
        let bytes = u32::try_from(frame.len()).unwrap_or(0);
        [[0, 0, bytes, bytes].map(u32::to_le_bytes).concat(), frame.clone()].concat()
    });
    header.into_iter().chain(records).collect()
}

/// The frames of such a file; `None`: it is none.
pub fn from_pcap(file: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (header, mut rest) = file.split_at_checked(24)?;
    let word = |bytes: &[u8], at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    if word(header, 0)? != MAGIC || word(header, 20)? != ETHERNET {
        return None;
    }
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let (record, behind) = rest.split_at_checked(16)?;
        let (frame, behind) = behind.split_at_checked(word(record, 8)? as usize)?;
        frames.push(frame.to_vec());
        rest = behind;
    }
    Some(frames)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::lab;

    #[test]
    fn a_capture_file_gives_back_what_was_put_in() {
        let frames = vec![vec![1; 60], vec![], vec![2; 1_500]];
        let file = to_pcap(&frames);
        assert_eq!(from_pcap(&file), Some(frames));
        assert_eq!((from_pcap(&file[..file.len() - 1]), from_pcap(&file[1..])), (None, None));
    }

    #[test]
    fn the_wire_carries_frames_and_shows_them_with_their_tags() {
        if let Err(why) = lab::privileges() {
            return lab::skip("the_wire_carries_frames_and_shows_them_with_their_tags", &why);
        }
        let lab = Lab::new().unwrap();
        let wire = Wire::between(&lab, &[0x88a8, 0x8100]).unwrap();
        for (namespace, address) in [(&lab.edge, "198.51.100.1/25"), (&lab.world, "198.51.100.7/25")] {
            namespace.ip(&format!("address add {address} dev {INTERFACE}")).unwrap();
            namespace.ip(&format!("link set {INTERFACE} up")).unwrap();
        }
        let at_edge = lab.edge.enter(|| UdpSocket::bind("198.51.100.1:4000").unwrap()).unwrap();
        let client = lab.world.enter(|| UdpSocket::bind("198.51.100.7:0").unwrap()).unwrap();
        client.send_to(b"over the wire", "198.51.100.1:4000").unwrap();
        let mut received = [0; 32];
        let bytes = at_edge.recv(&mut received).unwrap();
        assert_eq!(&received[..bytes], b"over the wire");
        let is_it = |frame: &Vec<u8>| {
            frame[12..22] == [0x88, 0xa8, 0, 7, 0x81, 0, 0, 7, 8, 0] && frame.ends_with(b"over the wire")
        };
        assert!(wire.take().iter().any(is_it));
    }
}
