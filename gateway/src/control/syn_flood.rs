//! Whether there is a flood of SYNs, and who answers them meanwhile.
//!
//! Comes in: how many SYNs have come to limited ports and how many connections have come of them, every tenth of a
//! second. Goes out: SYN cookies on or off. [`Watch`] decides and is pure; [`SynCookies`] is the shell around it. It
//! goes by SYNs that no connection comes of: many clients who mean it are no flood. User space decides, and not the
//! program for each CPU, because it alone sees all CPUs and the connections, and has to change a setting of the host
//! with it; until it has decided, the kernel's own queue of SYNs takes what comes.

use crate::{
    config::{Prefilter, SynCookies as Mode},
    nic::{Filter, NicError, SynAnswers},
};

/// Looks in a row that must find a flood before it is one.
const LOOKS_TO_BEGIN: u32 = 2;
/// A flood is over after so long below [`END_SHARE`] of what it takes to begin one.
const END_AFTER_NS: u64 = 10_000_000_000;
/// See [`END_AFTER_NS`].
const END_SHARE: f64 = 0.25;
/// Two looks closer than this are one: a rate over less time says little.
const LOOK_NS_MIN: u64 = 20_000_000;

/// Figures as they stood at one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// When.
    pub at_ns: u64,
    /// SYNs so far.
    pub syns: u64,
    /// Connections accepted so far.
    pub accepted: u64,
}

/// Tells a flood by its rate, with hysteresis.
#[derive(Debug, Clone)]
pub struct Watch {
    begins_at_per_s: f64,
    flood: bool,
    last: Option<Look>,
    /// Looks in a row that found enough.
    found: u32,
    /// Since when there has been little, during a flood.
    little_since_ns: Option<u64>,
}

impl Watch {
    /// `flood`: there was one when this process began. `begins_at_per_s`: SYNs that no connection comes of.
    pub fn new(flood: bool, begins_at_per_s: f64) -> Self {
        Self { begins_at_per_s, flood, last: None, found: 0, little_since_ns: None }
    }

    /// Another threshold; what has been found stays.
    pub fn set_threshold(&mut self, begins_at_per_s: f64) {
        self.begins_at_per_s = begins_at_per_s;
    }

    /// Whether there is a flood, now that this has been seen.
    pub fn look(&mut self, now: Look) -> bool {
        let Some(last) = self.last else {
            self.last = Some(now);
            return self.flood;
        };
        let elapsed_ns = now.at_ns.saturating_sub(last.at_ns);
        if elapsed_ns < LOOK_NS_MIN {
            return self.flood;
        }
        self.last = Some(now);
        // Counters begin anew with new maps.
        let syns = now.syns.saturating_sub(last.syns);
        let in_vain = syns.saturating_sub(now.accepted.saturating_sub(last.accepted));
        self.judge(rate_per_s(in_vain, elapsed_ns), now.at_ns);
        self.flood
    }

    fn judge(&mut self, per_s: f64, now_ns: u64) {
        if !self.flood {
            self.found = if per_s >= self.begins_at_per_s { self.found + 1 } else { 0 };
            if self.found >= LOOKS_TO_BEGIN {
                (self.flood, self.found, self.little_since_ns) = (true, 0, None);
            }
        } else if per_s >= self.begins_at_per_s * END_SHARE {
            self.little_since_ns = None;
        } else if now_ns.saturating_sub(*self.little_since_ns.get_or_insert(now_ns)) >= END_AFTER_NS {
            self.flood = false;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate past 2^53 is past caring")]
fn rate_per_s(count: u64, elapsed_ns: u64) -> f64 {
    count as f64 * 1e9 / elapsed_ns.max(1) as f64
}

/// `prefilter.syn_cookies`, carried out.
pub(super) struct SynCookies {
    mode: Mode,
    watch: Watch,
    answers: SynAnswers,
    switched_on: u64,
    failing: bool,
}

impl SynCookies {
    /// Takes over what an earlier process has left: a flood does not end with it.
    pub(super) fn new(prefilter: &Prefilter, filter: Option<&mut Filter>) -> Self {
        let on = filter.as_deref().is_some_and(|filter| filter.has_syn_cookies().unwrap_or(false));
        let watch = Watch::new(on, prefilter.syn_flood_per_s);
        let (mode, answers) = (prefilter.syn_cookies, SynAnswers::Off);
        let mut cookies = Self { mode, watch, answers, switched_on: 0, failing: false };
        if let Some(filter) = filter {
            cookies.settle(filter);
        }
        cookies
    }

    /// Another configuration.
    pub(super) fn reconfigure(&mut self, prefilter: &Prefilter, filter: &mut Filter) {
        self.mode = prefilter.syn_cookies;
        self.watch.set_threshold(prefilter.syn_flood_per_s);
        self.settle(filter);
    }

    /// Ten times a second.
    pub(super) fn look(&mut self, filter: &mut Filter, accepted: u64, now_ns: u64) {
        if self.mode != Mode::Auto {
            return;
        }
        let Ok(syns) = filter.syns() else { return };
        let was = self.watch.flood;
        if self.watch.look(Look { at_ns: now_ns, syns, accepted }) != was {
            self.settle(filter);
        }
    }

    /// Brings the filter to what is wanted now. Once a second besides: the host's settings may have changed.
    pub(super) fn settle(&mut self, filter: &mut Filter) {
        let wanted = match self.mode {
            Mode::Off => false,
            Mode::Auto => self.watch.flood,
            Mode::Always => true,
        };
        self.told(filter.set_syn_cookies(wanted));
    }

    /// The gateway ends: nobody will be there to put the host's settings back.
    pub(super) fn end(&mut self, filter: &mut Filter) {
        self.mode = Mode::Off;
        self.told(filter.set_syn_cookies(false));
    }

    fn told(&mut self, done: Result<SynAnswers, NicError>) {
        let answers = match done {
            Ok(answers) => answers,
            Err(error) => {
                if !self.failing {
                    log::error!("SYN cookies stay as they are: {error}");
                }
                self.failing = true;
                return;
            }
        };
        self.failing = false;
        if answers == self.answers {
            return;
        }
        if self.answers == SynAnswers::Off {
            self.switched_on += 1;
        }
        self.answers = answers;
        match answers {
            SynAnswers::Off => log::info!("SYN cookies are off"),
            SynAnswers::Filter => log::warn!("SYN cookies are on: the filter answers SYNs"),
            SynAnswers::FilterWhenFull => log::warn!(
                "SYN cookies are on, but net.ipv4.tcp_syncookies stays 1: the filter answers SYNs only once a \
                 listener's queue is full"
            ),
            SynAnswers::Kernel => log::error!(
                "NO SYN COOKIES AT THE NIC: net.ipv4.tcp_syncookies is 0, or the kernel lacks the helpers; the kernel \
                 answers SYNs as it would without the filter"
            ),
        }
    }

    /// Who answers SYNs now.
    pub(super) fn answers(&self) -> SynAnswers {
        self.answers
    }

    /// How often they have been switched on.
    pub(super) fn switched_on(&self) -> u64 {
        self.switched_on
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOOK_NS: u64 = 100_000_000;
    const SECOND_NS: u64 = 1_000_000_000;

    /// A watch with its world: counters that run at a rate.
    struct World {
        watch: Watch,
        look: Look,
    }

    impl World {
        fn new(flood: bool) -> Self {
            let mut world = Self {
                watch: Watch::new(flood, 2_000.0),
                look: Look { at_ns: 5 * SECOND_NS, syns: 70, accepted: 3 },
            };
            world.watch.look(world.look);
            world
        }

        /// So many looks at these rates; what the last one says.
        fn run(&mut self, looks: u64, syns_per_s: u64, accepted_per_s: u64) -> bool {
            for _ in 0..looks {
                self.look.at_ns += LOOK_NS;
                self.look.syns += syns_per_s / 10;
                self.look.accepted += accepted_per_s / 10;
                self.watch.look(self.look);
            }
            self.watch.flood
        }
    }

    #[test]
    fn a_flood_begins_within_two_looks_and_ends_ten_seconds_after_the_last_of_it() {
        let mut world = World::new(false);
        assert!(!world.run(50, 1_990, 0));
        assert!(!world.run(1, 2_000, 0));
        assert!(world.run(1, 2_000, 0));
        // In between it stays as it is.
        assert!(world.run(1_000, 500, 0));
        assert!(world.run(100, 490, 0));
        assert!(!world.run(1, 490, 0));
        assert!(!world.run(1_000, 1_990, 0));
    }

    #[test]
    fn one_look_is_no_flood_and_one_look_keeps_a_flood_alive() {
        let mut world = World::new(false);
        for _ in 0..100 {
            assert!(!world.run(1, 1_000_000, 0));
            assert!(!world.run(1, 0, 0));
        }
        let mut world = World::new(true);
        for _ in 0..5 {
            assert!(world.run(99, 0, 0));
            assert!(world.run(1, 500, 0));
        }
    }

    #[test]
    fn many_clients_who_mean_it_are_no_flood() {
        let mut world = World::new(false);
        assert!(!world.run(100, 50_000, 50_000));
        assert!(!world.run(100, 50_000, 49_000));
        assert!(world.run(2, 50_000, 40_000));
        // Nor do they keep one alive.
        assert!(!world.run(101, 50_000, 50_000));
    }

    #[test]
    fn a_flood_outlives_the_process_that_saw_it_begin() {
        let mut world = World::new(true);
        assert!(world.run(1, 0, 0));
        assert!(!world.run(100, 0, 0));
    }

    #[test]
    fn counters_that_begin_anew_and_looks_without_time_say_nothing() {
        let mut world = World::new(false);
        world.run(10, 100, 0);
        world.look.syns = 0;
        assert!(!world.run(2, 0, 0));
        for _ in 0..10 {
            world.look.syns += 1_000_000;
            assert!(!world.watch.look(world.look));
        }
    }

    proptest! {
        /// Whatever comes: it is on only after two looks in a row at the threshold, and off only after ten seconds of
        /// looks below a quarter of it.
        #[test]
        fn it_never_flaps(rates in prop::collection::vec(prop_oneof![0_u64..400, 0_u64..6_000], 1..600)) {
            let mut world = World::new(false);
            let (mut high, mut low, mut was) = (0, 0, false);
            for rate in rates {
                let rate = rate / 10 * 10;
                let is = world.run(1, rate, 0);
                high = if rate >= 2_000 { high + 1 } else { 0 };
                low = if rate < 500 { low + 1 } else { 0 };
                let may_switch = if is { high >= 2 } else { low > 100 };
                prop_assert!(is == was || may_switch, "{} after {} above, {} below", is, high, low);
                was = is;
            }
        }
    }
}
