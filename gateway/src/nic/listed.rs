//! Blocks that a feed decides on one by one, each with its end: a CrowdSec engine's decisions.
//!
//! They lie among all other blocks and carry their feed's number, so that the program ends them by itself. They yield:
//! what an operator, the escalation, the configuration or another feed has blocked stays theirs.

use gateway_ebpf::{Ban, BanKind, BanOrigin};
use ipnet::IpNet;

use super::{Bans, NicError, bans::expired, prefix::canonical};

/// What became of a feed's block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It holds.
    Written,
    /// Somebody else blocks this very prefix already.
    Held,
}

impl Bans {
    /// Blocks a prefix for a feed, or moves the end of its block. Times are `CLOCK_MONOTONIC`.
    pub fn put_listed(
        &mut self,
        feed: u8,
        prefix: IpNet,
        expires_at_ns: u64,
        now_ns: u64,
    ) -> Result<Put, NicError> {
        let prefix = canonical(prefix);
        let expires_at_ns = expires_at_ns.max(1);
        let new = match self.find(prefix)?.filter(|ban| !expired(ban, now_ns)) {
            Some(ban) if !is_of(&ban, feed) => return Ok(Put::Held),
            Some(ban) if ban.expires_at_ns == expires_at_ns => return Ok(Put::Written),
            Some(ban) => Ban { expires_at_ns, ..ban },
            None => Ban {
                expires_at_ns,
                offence_at_ns: now_ns,
                kind: BanKind::Listed as u8,
                origin: BanOrigin::Feed as u8 | feed,
                ..Ban::default()
            },
        };
        self.write(prefix, new)?;
        Ok(Put::Written)
    }

    /// Ends a feed's block; false: there was none of this feed.
    pub fn take_listed(&mut self, feed: u8, prefix: IpNet) -> Result<bool, NicError> {
        let prefix = canonical(prefix);
        if self.find(prefix)?.is_none_or(|ban| !is_of(&ban, feed)) {
            return Ok(false);
        }
        self.erase(prefix)
    }

    /// Every block of any feed, with its feed's number and its end.
    pub fn all_listed(&self) -> Result<Vec<(IpNet, u8, u64)>, NicError> {
        let mut listed = Vec::new();
        self.each_entry(|prefix, ban| {
            listed.extend(ban.feed().map(|feed| (prefix, feed, ban.expires_at_ns)));
        })?;
        Ok(listed)
    }
}

fn is_of(ban: &Ban, feed: u8) -> bool {
    ban.feed() == Some(feed)
}
