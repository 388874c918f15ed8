//! How hard the NIC is pressed, as everybody has it: calm, elevated, attack.
//!
//! The control thread finds it out and says so; workers read one word. Nobody decides anything here.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// The state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Pressure {
    /// As always.
    #[default]
    Calm,
    /// Something is going on.
    Elevated,
    /// Known sources pass before strangers.
    Attack,
}

impl Pressure {
    /// Its stable name in JSON and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Elevated => "elevated",
            Self::Attack => "attack",
        }
    }
}

/// Where it is told.
#[derive(Debug, Default)]
pub(super) struct Gauge(AtomicU8);

impl Gauge {
    pub(super) fn tell(&self, pressure: Pressure) {
        self.0.store(pressure as u8, Relaxed);
    }

    pub(super) fn read(&self) -> Pressure {
        match self.0.load(Relaxed) {
            0 => Pressure::Calm,
            1 => Pressure::Elevated,
            _ => Pressure::Attack,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_is_read() {
        let gauge = Gauge::default();
        assert_eq!(gauge.read(), Pressure::default());
        for pressure in [Pressure::Attack, Pressure::Elevated, Pressure::Calm] {
            gauge.tell(pressure);
            assert_eq!(gauge.read(), pressure);
        }
    }
}
