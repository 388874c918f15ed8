//! What the escalation remembers of sources beyond their blocks: strikes, kept in a pinned map of its own.
//!
//! Comes in: a source and how often it has been blocked. Goes out: the same, to the next process that takes over. The
//! XDP program never reads it. It is exact: nothing is evicted, and where there is no room the source is a stranger to
//! the next process, and to that one alone.

use std::net::{IpAddr, Ipv6Addr};

use gateway_ebpf::layout::{NoteKey, Strikes};
use ipnet::IpNet;

use super::{
    Bans, NicError,
    bans::{found, ignore_missing, is_full},
    maps::Plain,
    prefix::{canonical, note_key, source_of},
};

impl Bans {
    /// Keeps the strikes of a source for the next process. [`NicError::Full`]: there is no room.
    pub fn remember(&mut self, source: IpNet, strikes: Strikes) -> Result<(), NicError> {
        let written = self.policy.strikes.insert(Plain(note_key(source)), Plain(strikes), 0);
        written.map_err(|error| if is_full(&error) { NicError::Full } else { error.into() })
    }

    /// The strikes of exactly this source.
    pub fn strikes(&self, source: IpNet) -> Result<Option<Strikes>, NicError> {
        Ok(found(self.policy.strikes.get(&Plain(note_key(source)), 0))?.map(|Plain(strikes)| strikes))
    }

    /// The source that an address belongs to, with its strikes, if it has any.
    pub fn strikes_of(&self, address: IpAddr) -> Result<Option<(IpNet, Strikes)>, NicError> {
        let settings = self.policy.orders.settings();
        // A neighbour of a protected address counts alone.
        for source in [source_of(address, &settings), canonical(IpNet::from(address))] {
            if let Some(strikes) = self.strikes(source)? {
                return Ok(Some((source, strikes)));
            }
        }
        Ok(None)
    }

    /// Wipes the slate of a source; false: there was nothing on it.
    pub fn forget(&mut self, source: IpNet) -> Result<bool, NicError> {
        ignore_missing(self.policy.strikes.remove(&Plain(note_key(source))))
    }

    /// All that is remembered.
    pub fn memory(&self) -> Result<Vec<(IpNet, Strikes)>, NicError> {
        let mut memory = Vec::new();
        for entry in &self.policy.strikes {
            let (Plain(key), Plain(strikes)) = entry?;
            memory.extend(prefix_of(&key).map(|source| (source, strikes)));
        }
        Ok(memory)
    }

    /// Forgets those whose last block ended at `before_ns` or earlier; how many.
    pub fn sweep_memory(&mut self, before_ns: u64) -> Result<usize, NicError> {
        let old = self.memory()?.into_iter().filter(|(_, strikes)| strikes.until_ns <= before_ns);
        let mut forgotten = 0;
        for (source, _) in old {
            forgotten += usize::from(self.forget(source)?);
        }
        Ok(forgotten)
    }
}

/// `None`: no key of ours.
fn prefix_of(key: &NoteKey) -> Option<IpNet> {
    let address = IpAddr::V6(Ipv6Addr::from(key.address));
    Some(canonical(IpNet::new(address, u8::try_from(key.prefix_bits).ok()?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_the_prefix_that_it_was_made_of() {
        for text in ["192.0.2.7/32", "192.0.2.0/24", "0.0.0.0/0", "2001:db8::/64", "2001:db8::1/128"] {
            let prefix: IpNet = text.parse().unwrap();
            assert_eq!(prefix_of(&note_key(prefix)), Some(prefix), "{text}");
        }
        assert_eq!(prefix_of(&NoteKey { address: [0; 16], prefix_bits: 129 }), None);
    }
}
