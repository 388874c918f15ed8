//! How hard the NIC is pressed: calm, elevated, attack. Pure.
//!
//! Comes in: rates, the settings and the clock's reading, once a second. Goes out: the state, and when it changes. Up at
//! once, since an attack does not wait; down one step at a time, and only after the rates have stayed below half of what
//! led there for `calm_after`, so that what comes in waves is one attack.

use std::time::Duration;

use crate::{
    config::{Signs, UnderAttack},
    decide::Pressure as State,
    nic::nanos,
};

/// What the filter has counted so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Packets.
    pub(super) packets: u64,
    /// Those that it refused.
    pub(super) drops: u64,
    /// SYNs to limited ports, also those that were answered with cookies.
    pub(super) syns: u64,
    /// Connections that were accepted.
    pub(super) accepted: u64,
}

/// Rates per second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) packets: f64,
    pub(super) drops: f64,
    /// SYNs that no connection has come of.
    pub(super) syns: f64,
}

/// The state and how it came about.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    state: State,
    rates: Rates,
    before: Option<(u64, Totals)>,
    /// Since when the rates have been low enough for the state below.
    low_since_ns: Option<u64>,
}

impl Pressure {
    /// Takes in what has been counted by now; true: the state has changed.
    pub(super) fn observe(&mut self, totals: Totals, settings: &UnderAttack, now_ns: u64) -> bool {
        let Some((before_ns, before)) = self.before.replace((now_ns, totals)) else { return false };
        let elapsed_s = Duration::from_nanos(now_ns.saturating_sub(before_ns)).as_secs_f64();
        if elapsed_s <= 0.0 {
            return false;
        }
        // Counters begin anew where maps are made anew.
        #[expect(clippy::cast_precision_loss, reason = "of packets in a second")]
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / elapsed_s;
        let accepted = totals.accepted.saturating_sub(before.accepted);
        self.rates = Rates {
            packets: rate(totals.packets, before.packets),
            drops: rate(totals.drops, before.drops),
            syns: rate(totals.syns, before.syns.saturating_add(accepted)),
        };
        self.step(settings, now_ns)
    }

    fn step(&mut self, settings: &UnderAttack, now_ns: u64) -> bool {
        let before = self.state;
        let reached = if past(self.rates, settings.attack, 1.0) {
            State::Attack
        } else if past(self.rates, settings.elevated, 1.0) {
            State::Elevated
        } else {
            State::Calm
        };
        if reached > self.state {
            (self.state, self.low_since_ns) = (reached, None);
            return true;
        }
        let own = if self.state == State::Attack { settings.attack } else { settings.elevated };
        if self.state == State::Calm || past(self.rates, own, 0.5) {
            self.low_since_ns = None;
            return false;
        }
        let since_ns = *self.low_since_ns.get_or_insert(now_ns);
        let calm_after_ns = nanos(settings.calm_after);
        if now_ns.saturating_sub(since_ns) >= calm_after_ns {
            (self.state, self.low_since_ns) = (below(self.state), None);
        }
        self.state != before
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    pub(super) fn rates(&self) -> Rates {
        self.rates
    }
}

const fn below(state: State) -> State {
    match state {
        State::Attack => State::Elevated,
        State::Elevated | State::Calm => State::Calm,
    }
}

/// Whether any rate is at or past its sign, or a share of it.
fn past(rates: Rates, signs: Signs, share: f64) -> bool {
    let is_past = |rate: f64, sign: Option<f64>| sign.is_some_and(|sign| rate >= sign * share);
    is_past(rates.drops, signs.drops_per_s)
        || is_past(rates.syns, signs.syns_per_s)
        || is_past(rates.packets, signs.packets_per_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn settings() -> UnderAttack {
        UnderAttack {
            elevated: Signs { drops_per_s: Some(100.0), syns_per_s: Some(10.0), packets_per_s: None },
            attack: Signs {
                drops_per_s: Some(1_000.0),
                syns_per_s: Some(100.0),
                packets_per_s: Some(50_000.0),
            },
            calm_after: Duration::from_secs(3),
            strangers_percent: 50,
            long_lived: None,
        }
    }

    /// Plays seconds of so many (packets, drops, syns) each, and gives the state at the end of each.
    fn play(seconds: &[(u64, u64, u64)]) -> Vec<State> {
        let (mut pressure, mut totals) =
            (Pressure::default(), Totals { packets: 1 << 40, drops: 1 << 30, syns: 9, accepted: 7 });
        assert!(!pressure.observe(totals, &settings(), S), "what was there before says nothing");
        let mut states = Vec::new();
        for (second, (packets, drops, syns)) in (2..).zip(seconds) {
            totals.packets += packets;
            totals.drops += drops;
            totals.syns += syns;
            let before = pressure.state();
            let has_changed = pressure.observe(totals, &settings(), second * S);
            assert_eq!(has_changed, pressure.state() != before);
            states.push(pressure.state());
        }
        states
    }

    #[test]
    fn each_sign_alone_leads_up_at_once() {
        use State::{Attack, Calm, Elevated};
        assert_eq!(play(&[(49_999, 99, 9)]), [Calm]);
        assert_eq!(play(&[(0, 100, 0)]), [Elevated]);
        assert_eq!(play(&[(0, 0, 10)]), [Elevated]);
        assert_eq!(play(&[(0, 1_000, 0)]), [Attack]);
        assert_eq!(play(&[(0, 0, 100)]), [Attack]);
        assert_eq!(play(&[(50_000, 0, 0)]), [Attack]);
        assert_eq!(play(&[(0, 100, 0), (0, 1_000, 0)]), [Elevated, Attack]);
    }

    #[test]
    fn syns_that_connections_come_of_are_no_sign() {
        let mut pressure = Pressure::default();
        let mut look = |syns, accepted, second| {
            let totals = Totals { syns, accepted, ..Totals::default() };
            pressure.observe(totals, &settings(), second * S);
            (pressure.rates().syns, pressure.state())
        };
        look(1_000, 5_000, 1);
        assert_eq!(look(3_000, 6_991, 2), (9.0, State::Calm));
        assert_eq!(look(4_000, 7_981, 3), (10.0, State::Elevated));
        assert_eq!(look(4_000, 9_000, 4), (0.0, State::Elevated), "others came in where no SYN was counted");
        assert_eq!(look(4_100, 9_000, 5), (100.0, State::Attack));
    }

    #[test]
    fn the_way_down_takes_time_and_one_step_after_the_other() {
        use State::{Attack, Calm, Elevated};
        let quiet = [(0, 0, 0); 8];
        let states = play(&[&[(0, 1_000, 0)], &quiet[..]].concat());
        assert_eq!(states, [Attack, Attack, Attack, Attack, Elevated, Elevated, Elevated, Elevated, Calm]);
    }

    #[test]
    fn waves_are_one_attack() {
        let wave = [(0, 1_000, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0)];
        assert!(play(&wave.repeat(10)).iter().all(|state| *state == State::Attack));
        // Nor does it end while the rate is above half of what led there.
        let slow = [&[(0, 1_000, 0)][..], &[(0, 500, 0); 20]].concat();
        assert!(play(&slow).iter().all(|state| *state == State::Attack));
        let slower = [&[(0, 1_000, 0)][..], &[(0, 499, 0); 20]].concat();
        assert_eq!(play(&slower).last(), Some(&State::Elevated));
    }

    #[test]
    fn counters_that_begin_anew_are_no_attack() {
        let mut pressure = Pressure::default();
        pressure.observe(Totals { packets: 1 << 40, drops: 1 << 40, ..Totals::default() }, &settings(), S);
        assert!(!pressure.observe(Totals::default(), &settings(), 2 * S));
        assert!(!pressure.observe(Totals::default(), &settings(), 2 * S), "no time has passed");
        assert_eq!(pressure.rates(), Rates::default());
    }
}
