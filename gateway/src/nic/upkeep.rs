//! What the block list needs from time to time: ended blocks make room, classes follow the rules.
//!
//! Comes in: the clock, once a second. Goes out: fewer entries, and claims about whole /24s and /48s that let the
//! program skip the tables. Both walk over all entries, so neither does it oftener than there is reason to.

use gateway_ebpf::{
    Ban,
    class::{Effect, Rule4},
    layout::DROP,
};
use ipnet::{IpNet, Ipv4Net};

use super::{
    NicError,
    bans::{Bans, expired, ignore_missing},
    classes::Claims,
    front::{Claimable, HORIZON_NS},
    maps::Plain,
    prefix::{net4, net6, note_key},
    sys::monotonic_ns,
};

/// Other processes add and remove blocks, too: so often somebody looks, even where nothing is due.
const WALK_EVERY_NS: u64 = 60_000_000_000;
/// While drops are looked up that could be claimed, somebody looks so much sooner, as long as that finds something.
const LOOK_EVERY_NS: u64 = 1_000_000_000;
/// Fewer such drops since the last walk are not worth another.
const UNCLAIMED_DROPS_MIN: u64 = 1_000;
/// Walking and settling take at most one part each in so many of the control thread's time.
const SHARE: u64 = 20;

/// When to look again.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    /// No block of ours ends before, and it is not yet time to look for others'.
    walk_at_ns: u64,
    /// The same, where drops are looked up that could be claimed.
    look_at_ns: u64,
    look_every_ns: u64,
    /// How many such drops there had been at the last walk.
    unclaimed_drops: u64,
    /// Entries that the last walk has seen.
    entries: usize,
    /// Blocks that could be claimed when claims were made last.
    claimable: usize,
    /// Rules have changed in a way that may allow other claims.
    unsettled: bool,
    settle_at_ns: u64,
}

impl Upkeep {
    /// A block was written; `took_back`: something that was claimed about its /24 is not any more.
    pub(super) fn written(&mut self, ban: &Ban, took_back: bool) {
        if ban.expires_at_ns != 0 {
            self.walk_at_ns = self.walk_at_ns.min(ban.expires_at_ns);
        }
        self.unsettled |= took_back || drops_for_good(ban);
    }

    fn is_due(&self, now_ns: u64, unclaimed_drops: u64) -> bool {
        let unclaimed = unclaimed_drops.wrapping_sub(self.unclaimed_drops);
        now_ns >= self.walk_at_ns || now_ns >= self.look_at_ns && unclaimed >= UNCLAIMED_DROPS_MIN
    }

    /// What ends too soon to be claimed is looked for in vain: ever more rarely.
    fn look_again(&mut self, finds_claims: bool, now_ns: u64, walk_ns: u64) {
        let every_ns = if finds_claims { LOOK_EVERY_NS } else { self.look_every_ns.saturating_mul(2) };
        self.look_every_ns = every_ns.clamp(LOOK_EVERY_NS, WALK_EVERY_NS);
        self.look_at_ns = now_ns + self.look_every_ns.max(walk_ns.saturating_mul(SHARE));
    }

    /// A block was removed.
    pub(super) fn removed(&mut self) {
        self.unsettled = true;
    }
}

impl Bans {
    /// Frees the room of blocks that have ended; how many. The program needs no sweep, only the map's capacity and its
    /// own speed do: rules that are gone are no longer looked for.
    ///
    /// `unclaimed_drops` is what [`super::Filter::unclaimed_drops`] says.
    pub fn sweep(&mut self, now_ns: u64, unclaimed_drops: u64) -> Result<usize, NicError> {
        let mut freed = 0;
        if self.upkeep.is_due(now_ns, unclaimed_drops) {
            let from_ns = monotonic_ns();
            let settings = self.policy.orders.settings();
            let mut claimable = Claimable::default();
            let (mut ended, mut entries, mut walk_at_ns) = (Vec::new(), 0, now_ns + WALK_EVERY_NS);
            self.each_entry(|prefix, ban| {
                entries += 1;
                if expired(ban, now_ns) {
                    ended.push(prefix);
                } else if ban.expires_at_ns != 0 {
                    walk_at_ns = walk_at_ns.min(ban.expires_at_ns);
                }
                claimable.add(prefix, ban, &settings, now_ns);
            })?;
            for prefix in ended {
                freed += usize::from(self.erase(prefix)?);
                ignore_missing(self.policy.notes.remove(&Plain(note_key(prefix))))?;
            }
            entries -= freed.min(entries);
            let upkeep = &mut self.upkeep;
            let finds_claims = upkeep.claimable != claimable.count();
            upkeep.unsettled |= upkeep.entries != entries || finds_claims;
            (upkeep.entries, upkeep.walk_at_ns, upkeep.unclaimed_drops) =
                (entries, walk_at_ns, unclaimed_drops);
            upkeep.look_again(finds_claims, now_ns, monotonic_ns().saturating_sub(from_ns));
        }
        // Claims are renewed before they lapse.
        let claimed_until_ns = self.policy.front.claimed_until_ns();
        self.upkeep.unsettled |= claimed_until_ns != 0 && claimed_until_ns < now_ns + HORIZON_NS / 2;
        if self.upkeep.unsettled && now_ns >= self.upkeep.settle_at_ns {
            self.settle()?;
        }
        Ok(freed)
    }

    /// Claims what the rules allow to claim. Only the gateway may, and one at a time. After a change in bulk it is worth
    /// a call; otherwise the next [`Self::sweep`] makes it.
    pub fn settle(&mut self) -> Result<(), NicError> {
        let from_ns = monotonic_ns();
        let before = self.policy.classes.read();
        let (claims, claimable) = self.claims()?;
        let (mut settled, has_changed) = (true, before != claims);
        if has_changed {
            settled &= self.policy.classes.claim(&before, &claims);
        }
        let has_claimed = self.policy.front.claim(&claimable);
        self.upkeep.claimable = claimable.count();
        if has_changed || has_claimed {
            let (truth, still_claimable) = self.claims()?;
            settled &= self.policy.classes.take_back(&claims, &truth);
            self.policy.front.confirm(&claimable, &still_claimable);
        } else {
            self.policy.front.confirm(&claimable, &claimable);
        }
        let now_ns = monotonic_ns();
        self.upkeep.unsettled = !settled;
        self.upkeep.settle_at_ns = now_ns + now_ns.saturating_sub(from_ns) * SHARE;
        Ok(())
    }

    /// What all rules together allow to claim.
    fn claims(&self) -> Result<(Claims, Claimable), NicError> {
        let (mut rules4, mut rules6) = (Vec::new(), Vec::new());
        let mut add = |prefix, effect| match prefix {
            IpNet::V4(net) => rules4.push(rule4(net, effect)),
            IpNet::V6(net) => rules6.push((net, effect == Effect::Allow)),
        };
        let (settings, now_ns) = (self.policy.orders.settings(), monotonic_ns());
        let mut claimable = Claimable::default();
        self.each_entry(|prefix, ban| {
            claimable.add(prefix, ban, &settings, now_ns);
            add(prefix, if drops_for_good(ban) { Effect::DropForGood } else { Effect::Look });
        })?;
        for key in self.policy.allow4.keys() {
            if let Some(net) = net4(&key?) {
                add(net.into(), Effect::Allow);
            }
        }
        for key in self.policy.allow6.keys() {
            if let Some(net) = net6(&key?) {
                add(net.into(), Effect::Allow);
            }
        }
        Ok((Claims::of(&rules4, &rules6), claimable))
    }
}

fn rule4(net: Ipv4Net, effect: Effect) -> Rule4 {
    Rule4 { address: net.network().to_bits(), prefix_bits: net.prefix_len(), effect }
}

fn drops_for_good(ban: &Ban) -> bool {
    ban.expires_at_ns == 0 && ban.action == DROP
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_finds_nothing_looks_ever_more_rarely() {
        let mut upkeep = Upkeep { walk_at_ns: u64::MAX, ..Upkeep::default() };
        let every = |upkeep: &mut Upkeep, finds_claims| {
            upkeep.look_again(finds_claims, 7, 1);
            upkeep.look_at_ns - 7
        };
        assert_eq!(
            [true, false, false, true].map(|finds| every(&mut upkeep, finds)),
            [1, 2, 4, 1].map(|s| s * LOOK_EVERY_NS)
        );
        assert_eq!((0..9).map(|_| every(&mut upkeep, false)).last(), Some(WALK_EVERY_NS));
        upkeep.look_again(true, 7, LOOK_EVERY_NS);
        assert_eq!(upkeep.look_at_ns, 7 + SHARE * LOOK_EVERY_NS, "a long walk is not soon repeated");
    }

    #[test]
    fn drops_that_could_be_claimed_hasten_the_next_walk() {
        let upkeep = Upkeep { walk_at_ns: 100, look_at_ns: 10, unclaimed_drops: 5, ..Upkeep::default() };
        let due = |now_ns, unclaimed| upkeep.is_due(now_ns, 5 + unclaimed);
        assert!(due(10, UNCLAIMED_DROPS_MIN) && due(100, 0));
        assert!(!due(9, UNCLAIMED_DROPS_MIN) && !due(99, UNCLAIMED_DROPS_MIN - 1));
    }
}
