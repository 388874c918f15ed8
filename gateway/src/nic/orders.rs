//! What the program is told in one value: settings, the ports that have limits, that user space lives.
//!
//! Comes in: each of them, whenever it changes. Goes out: words of the map `ORDERS`, which the program reads on the next
//! packet. The control thread writes all but [`Orders::set_listed`], which the feeds' own thread does, and
//! [`Orders::touched`], which belongs to the classes; others only read.

use std::{
    mem::offset_of,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use gateway_ebpf::{
    class::TOUCHED_WORDS,
    layout::{self, PORT_WORDS, Settings},
};

use super::{NicError, sys::Words};

/// The map, shared with the program.
pub(super) struct Orders(Words);

const WORD_BYTES: usize = size_of::<u64>();
const SETTINGS_WORDS: usize = size_of::<Settings>() / WORD_BYTES;

const HEARTBEAT_AT: usize = offset_of!(layout::Orders, heartbeat_ns) / WORD_BYTES;
const ACTIVE_AT: usize = offset_of!(layout::Orders, active) / WORD_BYTES;
const LISTED_AT: usize = offset_of!(layout::Orders, listed) / WORD_BYTES;
const CLAIMED_UNTIL_AT: usize = offset_of!(layout::Orders, claimed_until_ns) / WORD_BYTES;
const CLAIMED_LENGTHS6_AT: usize = offset_of!(layout::Orders, claimed_lengths6) / WORD_BYTES;
const CLAIMED_SHIFT4_AT: usize = offset_of!(layout::Orders, claimed_shift4) / WORD_BYTES;
const CLAIMED_SHIFT6_AT: usize = offset_of!(layout::Orders, claimed_shift6) / WORD_BYTES;
const SETTINGS_AT: usize = offset_of!(layout::Orders, settings) / WORD_BYTES;
const PORTS_AT: usize = offset_of!(layout::Orders, ports) / WORD_BYTES;
const TOUCHED_AT: usize = offset_of!(layout::Orders, touched) / WORD_BYTES;

impl Orders {
    /// `dir` is that of one version.
    pub(super) fn open(dir: &Path) -> Result<Self, NicError> {
        let path = dir.join("ORDERS");
        let count = size_of::<layout::Orders>() / WORD_BYTES;
        let words = super::sys::open_pin(&path).and_then(|map| Words::of_map(&map, count));
        words.map(Self).map_err(NicError::io(format!("map {}", path.display())))
    }

    /// Says that user space lives.
    pub(super) fn heartbeat(&self, now_ns: u64) {
        self.store(HEARTBEAT_AT, &[now_ns]);
    }

    /// The settings that hold now.
    pub(super) fn settings(&self) -> Settings {
        let words = std::array::from_fn(|index| self.load(self.active_at() + index));
        // SAFETY: as many bytes, which any bit pattern is a value of: they are integers without padding.
        unsafe { std::mem::transmute::<[u64; SETTINGS_WORDS], Settings>(words) }
    }

    /// Writes the idle bank, then flips: the program sees the old settings or the new ones. Only a packet that was
    /// under way through two flips could see a mixture of them, each value of which has been valid.
    pub(super) fn set_settings(&self, settings: Settings) {
        // SAFETY: as above, and of that alignment too.
        let words = unsafe { std::mem::transmute::<Settings, [u64; SETTINGS_WORDS]>(settings) };
        let idle = self.load(ACTIVE_AT) & 1 ^ 1;
        self.store(bank_at(idle), &words);
        self.store(ACTIVE_AT, &[idle]);
    }

    /// One bit per port that has limits.
    pub(super) fn set_ports(&self, words: &[u64; PORT_WORDS]) {
        self.store(PORTS_AT, words);
    }

    /// Whether the program looks for what feeds list, of the family that `bit` stands for.
    pub(super) fn set_listed(&self, bit: u64, is_any: bool) {
        if let Some(listed) = self.0.words().get(LISTED_AT) {
            if is_any {
                listed.fetch_or(bit, Ordering::SeqCst);
            } else {
                listed.fetch_and(!bit, Ordering::SeqCst);
            }
        }
    }

    /// Until when claims of blocks hold, `CLOCK_MONOTONIC`.
    pub(super) fn claimed_until(&self) -> u64 {
        self.load(CLAIMED_UNTIL_AT)
    }

    /// As [`Self::claimed_until`].
    pub(super) fn set_claimed_until(&self, until_ns: u64) {
        self.store(CLAIMED_UNTIL_AT, &[until_ns]);
    }

    /// See [`layout::Orders::claimed_lengths6`].
    pub(super) fn set_claimed_lengths6(&self, packed: u64) {
        self.store(CLAIMED_LENGTHS6_AT, &[packed]);
    }

    /// See [`layout::Orders::claimed_shift4`].
    pub(super) fn claimed_shift4(&self) -> u32 {
        u32::try_from(self.load(CLAIMED_SHIFT4_AT)).unwrap_or(0)
    }

    /// As [`Self::claimed_shift4`]; only while nothing is claimed.
    pub(super) fn set_claimed_shift4(&self, shift: u32) {
        self.store(CLAIMED_SHIFT4_AT, &[shift.into()]);
    }

    /// See [`layout::Orders::claimed_shift6`].
    pub(super) fn claimed_shift6(&self) -> u32 {
        u32::try_from(self.load(CLAIMED_SHIFT6_AT)).unwrap_or(0)
    }

    /// As [`Self::claimed_shift6`]; only while nothing is claimed.
    pub(super) fn set_claimed_shift6(&self, shift: u32) {
        self.store(CLAIMED_SHIFT6_AT, &[shift.into()]);
    }

    /// See [`layout::Orders::touched`]: [`super::classes`] keeps it.
    pub(super) fn touched(&self) -> &[AtomicU64] {
        self.0.words().get(TOUCHED_AT..TOUCHED_AT + TOUCHED_WORDS).unwrap_or_default()
    }

    fn active_at(&self) -> usize {
        bank_at(self.load(ACTIVE_AT) & 1)
    }

    fn load(&self, at: usize) -> u64 {
        self.0.words().get(at).map_or(0, |word| word.load(Ordering::SeqCst))
    }

    fn store(&self, at: usize, values: &[u64]) {
        for (word, value) in self.0.words().iter().skip(at).zip(values) {
            word.store(*value, Ordering::SeqCst);
        }
    }
}

fn bank_at(bank: u64) -> usize {
    if bank == 0 { SETTINGS_AT } else { SETTINGS_AT + SETTINGS_WORDS }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Orders {
        /// Orders of our own.
        pub(in crate::nic) fn anonymous() -> Self {
            Self(Words::anonymous(size_of::<layout::Orders>() / WORD_BYTES).unwrap())
        }
    }

    #[test]
    fn settings_are_read_back_and_nothing_else_is_touched() {
        let orders = Orders::anonymous();
        assert_eq!(orders.settings(), Settings::default());
        let ports = std::array::from_fn(|word| word as u64);
        orders.set_ports(&ports);
        orders.heartbeat(7);
        orders.set_listed(layout::LISTED4, true);
        for number in 1..4 {
            let settings = Settings { mode: number, seed: 5, zero: 6, ..Settings::default() };
            orders.set_settings(settings);
            assert_eq!(orders.settings(), settings);
        }
        orders.set_listed(layout::LISTED6, true);
        orders.set_listed(layout::LISTED4, false);
        assert_eq!((orders.load(HEARTBEAT_AT), orders.load(LISTED_AT)), (7, layout::LISTED6));
        assert!((0..PORT_WORDS).all(|word| orders.load(PORTS_AT + word) == word as u64));
    }
}
