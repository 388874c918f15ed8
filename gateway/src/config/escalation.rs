//! `[escalation]`, compiled.

use std::time::Duration;

use ipnet::IpNet;

use super::types::Rate;

/// `[escalation]`: offences that become a block at the NIC.
#[derive(Debug, Clone, PartialEq)]
pub struct Escalation {
    /// Decide and tell, block nothing.
    pub dry_run: bool,
    /// The first block of a source.
    pub block_for: Duration,
    /// No block is longer.
    pub block_max: Duration,
    /// A source that offends again within this time is blocked twice as long.
    pub memory: Duration,
    /// Prefixes that are never blocked.
    pub exempt: Vec<IpNet>,
    /// Whoever has an established connection to one of these ports is not blocked.
    pub admin_ports: AdminPorts,
    /// A source whose consumer has proved who it is within so long is known.
    pub known_for: Duration,
    /// So many packets pass of a known source before it is blocked; none: it is blocked at once.
    pub throttle: Option<Rate>,
    /// 401 answers.
    pub unauthorized: Option<Threshold>,
    /// 403 answers.
    pub forbidden: Option<Threshold>,
    /// 429 answers.
    pub limited: Option<Threshold>,
    /// Requests that are not HTTP, desync attempts, TLS garbage.
    pub malformed: Option<Threshold>,
    /// What a filter calls an attack.
    pub attack: Option<Threshold>,
    /// 404 answers.
    pub not_found: Option<Threshold>,
}

/// `escalation.admin_ports`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminPorts {
    /// Every port that this host listens on, without those of `prefilter.ports` and of the listeners.
    Unlimited,
    /// These.
    Ports(Vec<u16>),
}

/// The highest `count` of a [`Threshold`]: so many times are kept of each source and kind.
pub const OFFENCE_COUNT_MAX: u32 = 1000;

/// `{ count = 20, within = "10s" }`; "off" is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threshold {
    /// The offence that crosses the line.
    pub count: u32,
    /// The window that they are counted in.
    pub within: Duration,
}
