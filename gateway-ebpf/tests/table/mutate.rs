//! Packets that are almost right: the table's frames with sources, ports, flags and lengths drawn again, bits flipped
//! and ends cut off. A seed replays them.

use super::{
    cases::cases,
    frames::{tagged, tcp4, tcp6},
    world::{ALLOW, BANS, BLOCK, FEED, THROTTLES},
};

/// Marsaglia's xorshift64: enough to be varied, simple enough to be replayed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() >> 11) as usize % end
    }

    pub(crate) fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }
}

/// An endless row of packets, each at least an Ethernet header long, as the kernel's test run demands.
pub(crate) struct Mutations {
    random: Random,
    originals: Vec<Vec<u8>>,
}

impl Mutations {
    pub(crate) fn new(seed: u64) -> Self {
        let mut originals: Vec<Vec<u8>> = cases().into_iter().map(|(_, frame, _)| frame).collect();
        let prefixes = ALLOW.into_iter().chain(BLOCK).chain(BANS.map(|(prefix, _)| prefix));
        let prefixes = prefixes.chain(THROTTLES.map(|(prefix, _)| prefix)).chain(FEED);
        for prefix in prefixes {
            let address = prefix.split('/').next().unwrap_or_default();
            originals.push(if address.contains(':') { tcp6(address, 443, 2) } else { tcp4(address, 443, 2) });
        }
        Self { random: Random::new(seed), originals }
    }

    pub(crate) fn next(&mut self) -> Vec<u8> {
        let random = &mut self.random;
        let mut frame = self.originals[random.below(self.originals.len())].clone();
        if random.chance(4) {
            frame = tagged(&frame, [&[0x8100][..], &[0x88a8, 0x8100], &[0x88a8]][random.below(3)]);
        }
        // Few sources send many packets each, so that the limits are reached.
        for _ in 0..random.below(3) {
            let at = random.below(frame.len());
            frame[at] = match random.below(4) {
                0 => frame[at] ^ 1 << random.below(8),
                1 => 0,
                2 => 0xff,
                _ => random.next() as u8,
            };
        }
        if random.chance(6) {
            frame.truncate(14 + random.below(frame.len()));
        }
        frame.resize(frame.len().max(14), 0);
        frame
    }
}
