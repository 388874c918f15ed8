//! What of a prefix `prefilter.allow` lets through, whatever is blocked.

use ipnet::IpNet;

use super::{
    Bans, NicError,
    prefix::{canonical, net4, net6},
};

/// How a prefix meets the allow prefixes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    /// None of it is allowed.
    Nothing,
    /// This prefix allows all of it: to block it does nothing.
    Whole(IpNet),
    /// These allow a part of it, in order: to block it blocks the rest.
    Parts(Vec<IpNet>),
}

impl Bans {
    /// How a prefix meets the allow prefixes.
    pub fn allowed(&self, prefix: IpNet) -> Result<Allowed, NicError> {
        let prefix = canonical(prefix);
        let mut parts = Vec::new();
        for allow in self.allow_prefixes()? {
            if allow.contains(&prefix) {
                return Ok(Allowed::Whole(allow));
            }
            if prefix.contains(&allow) {
                parts.push(allow);
            }
        }
        parts.sort();
        Ok(if parts.is_empty() { Allowed::Nothing } else { Allowed::Parts(parts) })
    }

    fn allow_prefixes(&self) -> Result<Vec<IpNet>, NicError> {
        let mut prefixes = Vec::new();
        for key in self.policy.allow4.keys() {
            prefixes.extend(net4(&key?).map(IpNet::from));
        }
        for key in self.policy.allow6.keys() {
            prefixes.extend(net6(&key?).map(IpNet::from));
        }
        Ok(prefixes)
    }
}
