//! `[under_attack]`, compiled.

use std::time::Duration;

/// `[under_attack]`: when the NIC's rates are those of an attack, and what strangers get then.
#[derive(Debug, Clone, PartialEq)]
pub struct UnderAttack {
    /// Past any of these something is going on.
    pub elevated: Signs,
    /// Past any of these it is an attack.
    pub attack: Signs,
    /// Rates have to stay below half of what led to it for so long until it is over.
    pub calm_after: Duration,
    /// Of `runtime.connections_max`, what those may hold during an attack of whom nothing good is known.
    pub strangers_percent: u32,
    /// A connection that has lived for so long since it was last at fault makes its source known; none: it does not.
    pub long_lived: Option<Duration>,
}

/// Rates per second over all interfaces; none: does not count.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Signs {
    /// Packets that the filter refuses.
    pub drops_per_s: Option<f64>,
    /// SYNs that no connection comes of.
    pub syns_per_s: Option<f64>,
    /// All packets.
    pub packets_per_s: Option<f64>,
}
