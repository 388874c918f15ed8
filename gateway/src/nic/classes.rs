//! The classes of IPv4 /24s, the guard of IPv6 and what is touched at all, kept true to the tables.
//!
//! Comes in: prefixes whose rules change, and now and then all rules. Goes out: words in the maps that the program
//! reads first. Any number of processes may write rules at once; the gateway alone claims.
//!
//! Two moves keep the invariant of [`gateway_ebpf::class`] without a lock. Whoever changes a rule takes back what is
//! claimed about its prefix, before and after the change: so a crash in between leaves nothing claimed that does not
//! hold. [`Claims`] are made of all rules, written where nobody has written since the words were read, and then held
//! against the rules once more: a rule that another process has added meanwhile was there by then, or its writer takes
//! the claim back itself. Until then such a rule may be overlooked, for as long as one pass over the rules takes.

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use gateway_ebpf::{
    Class,
    class::{
        CLASS_WORDS, GUARD_WORDS, Rule4, TOUCHED_WORDS, classify24, guard, spans, touch4, touch6, with_block,
    },
};
use ipnet::{IpNet, Ipv6Net};

use super::{NicError, orders::Orders, prefix::upper, sys::Words};

/// The words, shared with the program.
pub(super) struct Classes {
    orders: Orders,
    class24: Words,
    guard6: Words,
}

impl Classes {
    pub(super) fn open(dir: &Path) -> Result<Self, NicError> {
        let map = |name: &str, count| {
            let path = dir.join(name);
            let words = super::sys::open_pin(&path).and_then(|map| Words::of_map(&map, count));
            words.map_err(NicError::io(format!("map {}", path.display())))
        };
        Ok(Self {
            orders: Orders::open(dir)?,
            class24: map("CLASS24", CLASS_WORDS)?,
            guard6: map("GUARD6", GUARD_WORDS)?,
        })
    }

    /// Takes back whatever is claimed about this prefix. Its rules may change before and after. True: something was
    /// claimed, so that there may be something to claim again.
    pub(super) fn unclaim(&self, prefix: IpNet) -> bool {
        self.change(prefix, true, |word, mask| word | mask)
    }

    /// Takes back what does not hold any more once a block or a throttle on this prefix is added to the others. True:
    /// something was claimed that did not.
    pub(super) fn add_block(&self, prefix: IpNet) -> bool {
        self.change(prefix, false, with_block)
    }

    /// `allows`: also that no allow prefix touches the prefix is taken back.
    fn change(&self, prefix: IpNet, allows: bool, change: impl Fn(u64, u64) -> u64) -> bool {
        let mut changed = false;
        touch(prefix, |index, bits| {
            update(self.orders.touched(), index, |word| word | bits);
        });
        match prefix {
            IpNet::V4(net) => {
                for (index, mask) in spans(net.network().to_bits(), net.prefix_len()) {
                    let before = update(self.class24.words(), index, |word| change(word, mask));
                    changed |= before != change(before, mask);
                }
            }
            IpNet::V6(net) => guard(upper(net.network()), net.prefix_len(), allows, |index, bits| {
                update(self.guard6.words(), index, |word| word | bits);
            }),
        }
        changed
    }

    /// What the words are now, to be handed to [`Self::claim`].
    pub(super) fn read(&self) -> Claims {
        let [touched, class24, guard6] = self.words().map(to_vec);
        Claims { touched, class24, guard6 }
    }

    /// Writes these claims, but for words that are no longer what they were `before`. False: there were such words.
    pub(super) fn claim(&self, before: &Claims, claims: &Claims) -> bool {
        let [touched, class24, guard6] = self.words();
        replace(class24, &before.class24, &claims.class24)
            & replace(guard6, &before.guard6, &claims.guard6)
            & replace(touched, &before.touched, &claims.touched)
    }

    /// Takes back those of the `claims` that do not hold by `truth`. False: there were such.
    pub(super) fn take_back(&self, claims: &Claims, truth: &Claims) -> bool {
        let mut all_hold = true;
        for (index, (claim, truth)) in claims.class24.iter().zip(&truth.class24).enumerate() {
            let differing = (claim ^ truth | (claim ^ truth) >> 1) & Class::Drop.pattern();
            let mask = differing * 3;
            if mask != 0 {
                all_hold = false;
                update(self.class24.words(), index, |word| word | mask);
            }
        }
        for (words, claims, truth) in [
            (self.guard6.words(), &claims.guard6, &truth.guard6),
            (self.orders.touched(), &claims.touched, &truth.touched),
        ] {
            for (index, (claim, truth)) in claims.iter().zip(truth).enumerate() {
                let missing = truth & !claim;
                if missing != 0 {
                    all_hold = false;
                    update(words, index, |word| word | missing);
                }
            }
        }
        all_hold
    }

    fn words(&self) -> [&[AtomicU64]; 3] {
        [self.orders.touched(), self.class24.words(), self.guard6.words()]
    }
}

/// What all words have to be for a set of rules.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Claims {
    touched: Vec<u64>,
    class24: Vec<u64>,
    guard6: Vec<u64>,
}

impl Claims {
    /// The claims that these rules allow: on IPv4 with what they do, on IPv6 that they are there, and whether they allow.
    pub(super) fn of(rules4: &[Rule4], rules6: &[(Ipv6Net, bool)]) -> Self {
        let mut claims = Self {
            touched: vec![0; TOUCHED_WORDS],
            class24: vec![0; CLASS_WORDS],
            guard6: vec![0; GUARD_WORDS],
        };
        let mut set = |index, bits| {
            if let Some(word) = claims.touched.get_mut(index) {
                *word |= bits;
            }
        };
        for rule in rules4 {
            touch4(rule.address, rule.prefix_bits, &mut set);
        }
        for (net, _) in rules6 {
            touch(IpNet::V6(*net), &mut set);
        }
        classify24(&mut claims.class24, rules4);
        for (net, allows) in rules6 {
            guard(upper(net.network()), net.prefix_len(), *allows, |index, bits| {
                if let Some(word) = claims.guard6.get_mut(index) {
                    *word |= bits;
                }
            });
        }
        claims
    }
}

fn touch(prefix: IpNet, set: impl FnMut(usize, u64)) {
    match prefix {
        IpNet::V4(net) => touch4(net.network().to_bits(), net.prefix_len(), set),
        IpNet::V6(net) => touch6(upper(net.network()), net.prefix_len(), set),
    }
}

/// Changes a word and gives what it was.
fn update(words: &[AtomicU64], index: usize, change: impl Fn(u64) -> u64) -> u64 {
    let Some(word) = words.get(index) else { return 0 };
    let changed = word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |word| Some(change(word)));
    // The closure always gives a word, so both are what was there.
    changed.unwrap_or_else(|before| before)
}

fn to_vec(words: &[AtomicU64]) -> Vec<u64> {
    words.iter().map(|word| word.load(Ordering::SeqCst)).collect()
}

/// False: some word was not what it had been.
fn replace(words: &[AtomicU64], before: &[u64], after: &[u64]) -> bool {
    let mut all = true;
    for (word, (before, after)) in words.iter().zip(before.iter().zip(after)) {
        if before != after {
            all &= word.compare_exchange(*before, *after, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use gateway_ebpf::class::{Effect, class_index, touched4};

    use super::*;

    fn classes() -> Classes {
        Classes {
            orders: Orders::anonymous(),
            class24: Words::anonymous(CLASS_WORDS).unwrap(),
            guard6: Words::anonymous(GUARD_WORDS).unwrap(),
        }
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    /// Claims of IPv4 blocks without an end and of IPv6 prefixes.
    fn of(prefixes: &[&str]) -> Claims {
        let nets: Vec<IpNet> = prefixes.iter().map(|text| net(text)).collect();
        let (mut rules4, mut rules6) = (Vec::new(), Vec::new());
        for net in nets {
            match net {
                IpNet::V4(net) => rules4.push(Rule4 {
                    address: net.network().to_bits(),
                    prefix_bits: net.prefix_len(),
                    effect: Effect::DropForGood,
                }),
                IpNet::V6(net) => rules6.push((net, false)),
            }
        }
        Claims::of(&rules4, &rules6)
    }

    #[track_caller]
    fn check_class(classes: &Classes, address: [u8; 4], expected: Class) {
        let address = u32::from_be_bytes(address);
        let claims = classes.read();
        let word = claims.class24[class_index(address) as usize];
        assert_eq!(Class::of(word, address), expected);
        let (word, bit) = touched4(address);
        let is_touched = claims.touched[word as usize] >> bit & 1 == 1;
        assert!(is_touched || expected == Class::Clean, "it would not be looked at");
    }

    #[test]
    fn a_claim_is_written_read_back_and_taken_back() {
        let classes = classes();
        let claims = of(&["192.0.2.0/23", "2001:db8::/48"]);
        assert!(classes.claim(&classes.read(), &claims));
        assert_eq!(classes.read(), claims);
        check_class(&classes, [192, 0, 3, 1], Class::Drop);
        classes.unclaim(net("192.0.2.7/32"));
        check_class(&classes, [192, 0, 2, 1], Class::Any);
        check_class(&classes, [192, 0, 3, 1], Class::Drop);
        // A block more makes nothing untrue but that a /24 is clean.
        assert!(!classes.add_block(net("192.0.3.7/32")));
        assert!(classes.add_block(net("192.0.4.7/32")));
        check_class(&classes, [192, 0, 3, 1], Class::Drop);
        check_class(&classes, [192, 0, 4, 1], Class::Deeper);
        classes.unclaim(net("0.0.0.0/0"));
        check_class(&classes, [0, 0, 0, 0], Class::Any);
        check_class(&classes, [255, 255, 255, 255], Class::Any);
    }

    #[test]
    fn who_writes_between_reading_and_claiming_wins() {
        let classes = classes();
        let before = classes.read();
        // Another process adds a rule that this pass has not seen.
        classes.unclaim(net("192.0.2.7/32"));
        classes.add_block(net("2001:db8::/64"));
        assert!(!classes.claim(&before, &of(&["192.0.2.0/24", "198.51.100.0/24", "2001:db8::/64"])));
        check_class(&classes, [192, 0, 2, 7], Class::Any);
        check_class(&classes, [198, 51, 100, 7], Class::Drop);
        let added = of(&["192.0.2.7/32", "2001:db8::/64"]);
        assert_eq!(classes.read().guard6, added.guard6);
        assert!(
            classes.read().touched.iter().zip(&added.touched).all(|(word, touched)| touched & !word == 0)
        );
    }

    #[test]
    fn what_the_second_look_does_not_bear_out_is_taken_back() {
        let classes = classes();
        let claims = of(&["192.0.2.0/24", "198.51.100.0/24"]);
        assert!(classes.claim(&classes.read(), &claims));
        let truth = of(&["198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "2000::/3"]);
        assert!(!classes.take_back(&claims, &truth));
        check_class(&classes, [192, 0, 2, 7], Class::Any);
        check_class(&classes, [198, 51, 100, 7], Class::Drop);
        check_class(&classes, [203, 0, 113, 7], Class::Any);
        assert_eq!(classes.read().guard6, truth.guard6);
        assert!(
            classes.read().touched.iter().zip(&truth.touched).all(|(word, touched)| touched & !word == 0)
        );
        assert!(classes.take_back(&truth, &truth));
    }
}
