//! Sources of which something good is known: while the filter is told to, they have a bucket of their own.
//!
//! Comes in: the sources, again and again. Goes out: the map KNOWN, brought to them. What a known source gains: it shares
//! no cell of the limiter with strangers, who fill all of them in a flood of forged sources, and is not held to the limits
//! of its network. What it does not gain: a higher rate, so that whoever forges its address gets through what it alone
//! might send, and no more; and no way past a block.

use std::collections::HashSet;

use gateway_ebpf::layout::{Cell, USE_KNOWN};
use ipnet::IpNet;

use super::{
    Filter, NicError,
    bans::{ignore_missing, is_full},
    maps::Plain,
    prefix::canonical,
};

/// Entries that are written or removed at once: a microsecond each, on the control thread.
const CHANGES_MAX: usize = 8192;

/// What the map holds, as far as this process knows.
#[derive(Default)]
pub(super) struct Known {
    keys: Option<HashSet<u64>>,
    /// The filter goes by it.
    pub(super) is_used: bool,
}

impl Filter {
    /// Brings the filter to these sources, some thousands of changes at a time; how many it holds now.
    pub fn set_known(&mut self, sources: impl Iterator<Item = IpNet>) -> Result<usize, NicError> {
        let wanted: HashSet<u64> = sources.map(key).collect();
        let mut held = match self.known.keys.take() {
            Some(held) => held,
            // An earlier process may have left some.
            None => self.bans.policy.known.keys().collect::<Result<_, _>>()?,
        };
        let map = &mut self.bans.policy.known;
        let leave: Vec<u64> = held.difference(&wanted).copied().take(CHANGES_MAX).collect();
        for key in leave {
            ignore_missing(map.remove(&key))?;
            held.remove(&key);
        }
        let come: Vec<u64> = wanted.difference(&held).copied().take(CHANGES_MAX).collect();
        for key in come {
            match map.insert(key, Plain(Cell::default()), 0) {
                Ok(()) => held.insert(key),
                // Whoever has no room is a stranger.
                Err(error) if is_full(&error) => break,
                Err(error) => return Err(error.into()),
            };
        }
        let count = held.len();
        self.known.keys = Some(held);
        Ok(count)
    }

    /// From now on the filter goes by what it knows, or no longer.
    pub fn use_known(&mut self, is_used: bool) -> Result<(), NicError> {
        self.known.is_used = is_used;
        let policy = &mut self.bans.policy;
        let mut settings = policy.orders.settings();
        let flags = if is_used { settings.flags | USE_KNOWN } else { settings.flags & !USE_KNOWN };
        if flags == settings.flags {
            return Ok(());
        }
        settings.flags = flags;
        policy.orders.set_settings(settings);
        Ok(())
    }
}

/// The source as the limiter calls it: an IPv4 address, or the upper half of an IPv6 one, host byte order.
fn key(source: IpNet) -> u64 {
    match canonical(source) {
        IpNet::V4(net) => net.network().to_bits().into(),
        IpNet::V6(net) => (net.network().to_bits() >> 64) as u64,
    }
}
