//! The kernel's sockets on the host, as far as SYN cookies ask for them.

use std::collections::{HashMap, HashSet};

use gateway_ebpf::{
    layout::{RECENTS, Recent},
    syn_cookie::{self, Meeting, Segment},
};

const FIN: u16 = 0x01;
const SYN: u16 = 0x02;
const RST: u16 = 0x04;
const ACK: u16 = 0x10;

/// Listeners, connections and a way to make cookies.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    /// Ports with a listener.
    pub(crate) listening: HashSet<u16>,
    /// Ports of peers that have a connection.
    pub(crate) connected: HashSet<u16>,
    /// The listeners take nothing more.
    pub(crate) full: bool,
    recents: HashMap<u32, Recent>,
    /// What another side makes of its secret for a flow: its cookie for a SYN is that and the sequence number.
    pub(crate) learned: HashMap<Flow, u32>,
}

/// Source, destination and ports.
pub(crate) type Flow = ([u64; 2], [u64; 2], u16, u16);

pub(crate) fn flow(segment: &Segment) -> Flow {
    (segment.source, segment.destination, segment.source_port, segment.port)
}

impl Sockets {
    fn cookie(&self, segment: &Segment, sequence: u32) -> u32 {
        match self.learned.get(&flow(segment)) {
            Some(of_flow) => of_flow.wrapping_add(sequence),
            None => cookie(segment, sequence),
        }
    }
}

/// A cookie that depends on whatever the kernel's does, but is no secret.
pub(crate) fn cookie(segment: &Segment, sequence: u32) -> u32 {
    let addresses = segment.source.iter().chain(&segment.destination);
    let mut sum = u64::from(segment.source_port) << 16 | u64::from(segment.port);
    for word in addresses {
        sum = (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        sum ^= sum >> 32;
    }
    (sum as u32).wrapping_add(sequence)
}

impl syn_cookie::Sockets for Sockets {
    fn meet(&mut self, segment: &Segment, _: u16) -> Meeting {
        let flags = segment.offset_and_flags;
        if self.connected.contains(&segment.source_port) {
            return Meeting::Connection;
        }
        if !self.listening.contains(&segment.port) {
            return Meeting::Nobody;
        }
        if flags & (SYN | ACK | RST | FIN) == SYN {
            return if self.full {
                Meeting::NoCookie
            } else {
                Meeting::Cookie(self.cookie(segment, segment.sequence))
            };
        }
        let expected = self.cookie(segment, segment.sequence.wrapping_sub(1)).wrapping_add(1);
        if flags & (SYN | ACK | RST) == ACK && segment.acknowledgement == expected {
            Meeting::Valid
        } else {
            Meeting::Stray
        }
    }

    fn recent(&mut self, index: u32) -> Option<&mut Recent> {
        assert!((index as usize) < RECENTS);
        Some(self.recents.entry(index).or_default())
    }
}
