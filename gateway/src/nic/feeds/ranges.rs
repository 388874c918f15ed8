//! Sets of addresses as ranges: merged, in order, without gaps that need not be. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};

/// A set of addresses of both families: first and last address of each range.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Ranges {
    /// Of ranges in any order that may overlap; none may end before it begins.
    pub fn new(mut v4: Vec<(u32, u32)>, mut v6: Vec<(u128, u128)>) -> Self {
        merge(&mut v4);
        merge(&mut v6);
        Self { v4, v6 }
    }

    /// Of prefixes.
    pub fn of_prefixes(prefixes: impl IntoIterator<Item = IpNet>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            match prefix {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        Self::new(v4, v6)
    }

    /// What any of these holds.
    pub fn union<'r>(sets: impl IntoIterator<Item = &'r Self>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for set in sets {
            v4.extend_from_slice(&set.v4);
            v6.extend_from_slice(&set.v6);
        }
        Self::new(v4, v6)
    }

    /// What this holds and `other` does not.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self { v4: subtract(&self.v4, &other.v4), v6: subtract(&self.v6, &other.v6) }
    }

    /// The prefix around an address of which the set holds all; `None`: it does not hold the address.
    pub fn prefix_of(&self, address: IpAddr) -> Option<IpNet> {
        let subnets = match address.to_canonical() {
            IpAddr::V4(address) => range_of(&self.v4, address.to_bits()).map(subnets4)?,
            IpAddr::V6(address) => range_of(&self.v6, address.to_bits()).map(subnets6)?,
        };
        let mut subnets = subnets;
        subnets.find(|prefix| prefix.contains(&address.to_canonical()))
    }

    /// The fewest prefixes that hold exactly this, in order.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.v4.iter().copied().flat_map(subnets4).chain(self.v6.iter().copied().flat_map(subnets6))
    }

    /// Ranges of IPv4.
    pub fn v4(&self) -> &[(u32, u32)] {
        &self.v4
    }

    /// Ranges of IPv6.
    pub fn v6(&self) -> &[(u128, u128)] {
        &self.v6
    }

    /// How many ranges there are.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A number that an address is.
trait Number: Copy + Ord {
    fn before(self) -> Option<Self>;
    fn after(self) -> Option<Self>;
}

impl Number for u32 {
    fn before(self) -> Option<Self> {
        self.checked_sub(1)
    }

    fn after(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Number for u128 {
    fn before(self) -> Option<Self> {
        self.checked_sub(1)
    }

    fn after(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// Puts ranges in order and joins those that overlap or touch. Sorting makes use of runs that are in order already.
fn merge<N: Number>(ranges: &mut Vec<(N, N)>) {
    if !ranges.is_sorted() {
        ranges.sort();
    }
    ranges.dedup_by(|next, kept| {
        let joins = kept.1.after().is_none_or(|after| next.0 <= after);
        if joins {
            kept.1 = kept.1.max(next.1);
        }
        joins
    });
}

fn subtract<N: Number>(from: &[(N, N)], holes: &[(N, N)]) -> Vec<(N, N)> {
    let mut left = Vec::with_capacity(from.len());
    let mut holes = holes.iter().peekable();
    for &(first, last) in from {
        while holes.next_if(|hole| hole.1 < first).is_some() {}
        let mut start = Some(first);
        // A hole may reach into the next range as well, so the iterator itself stays before it.
        for hole in holes.clone().take_while(|hole| hole.0 <= last) {
            if let (Some(from), Some(end)) = (start, hole.0.before())
                && from <= end
            {
                left.push((from, end));
            }
            start = hole.1.after();
        }
        if let Some(from) = start.filter(|from| *from <= last) {
            left.push((from, last));
        }
    }
    left
}

fn range_of<N: Number>(ranges: &[(N, N)], address: N) -> Option<(N, N)> {
    let after = ranges.partition_point(|range| range.0 <= address);
    ranges.get(..after)?.last().copied().filter(|range| address <= range.1)
}

fn subnets4((first, last): (u32, u32)) -> IpSubnets {
    Ipv4Subnets::new(Ipv4Addr::from_bits(first), Ipv4Addr::from_bits(last), 0).into()
}

fn subnets6((first, last): (u128, u128)) -> IpSubnets {
    Ipv6Subnets::new(Ipv6Addr::from_bits(first), Ipv6Addr::from_bits(last), 0).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(prefixes: &[&str]) -> Ranges {
        Ranges::of_prefixes(prefixes.iter().map(|text| text.parse().unwrap()))
    }

    #[track_caller]
    fn check(found: &Ranges, expected: &[&str]) {
        let prefixes: Vec<String> = found.prefixes().map(|prefix| prefix.to_string()).collect();
        assert_eq!(prefixes, expected);
    }

    #[test]
    fn what_overlaps_or_touches_is_one() {
        check(&set(&["192.0.2.128/25", "192.0.2.0/25"]), &["192.0.2.0/24"]);
        check(&set(&["192.0.2.0/24", "192.0.2.7/32"]), &["192.0.2.0/24"]);
        check(&set(&["192.0.2.7/32", "192.0.2.8/32"]), &["192.0.2.7/32", "192.0.2.8/32"]);
        check(&set(&["0.0.0.0/0", "255.255.255.255/32"]), &["0.0.0.0/0"]);
        check(&set(&["2001:db8::/33", "2001:db8:8000::/33"]), &["2001:db8::/32"]);
        assert_eq!(set(&["192.0.2.7/32", "192.0.2.8/32"]).len(), 1);
    }

    #[test]
    fn holes_are_cut_out() {
        let all = set(&["192.0.2.0/24", "198.51.100.0/24", "2001:db8::/32"]);
        check(&all.without(&set(&[])), &["192.0.2.0/24", "198.51.100.0/24", "2001:db8::/32"]);
        check(&all.without(&all), &[]);
        check(
            &all.without(&set(&["192.0.0.0/8", "2001:db8::/33"])),
            &["198.51.100.0/24", "2001:db8:8000::/33"],
        );
        check(&set(&["0.0.0.0/0"]).without(&set(&["128.0.0.0/1"])), &["0.0.0.0/1"]);
        check(&set(&["192.0.2.0/30"]).without(&set(&["192.0.2.1/32"])), &["192.0.2.0/32", "192.0.2.2/31"]);
    }

    #[test]
    fn an_address_is_in_a_prefix() {
        let ranges = Ranges::new(vec![(0xc000_0205, 0xc000_0217)], Vec::new());
        let prefix_of = |text: &str| ranges.prefix_of(text.parse().unwrap()).map(|prefix| prefix.to_string());
        assert_eq!(prefix_of("192.0.2.5").as_deref(), Some("192.0.2.5/32"));
        assert_eq!(prefix_of("192.0.2.9").as_deref(), Some("192.0.2.8/29"));
        assert_eq!(prefix_of("::ffff:192.0.2.9").as_deref(), Some("192.0.2.8/29"));
        assert_eq!(prefix_of("192.0.2.4"), None);
        assert_eq!(prefix_of("192.0.2.24"), None);
        assert_eq!(prefix_of("2001:db8::"), None);
    }

    /// Ranges of the lowest 256 numbers, and of the highest.
    fn some() -> impl Strategy<Value = Vec<(u32, u32)>> {
        let near = |base: u32| {
            (0_u32..256, 0_u32..64)
                .prop_map(move |(first, more)| (base + first, base + (first + more).min(255)))
        };
        prop::collection::vec(prop_oneof![near(0), near(u32::MAX - 255)], 0..40)
    }

    proptest! {
        /// Against a set of single addresses.
        #[test]
        fn sets_are_what_they_are_made_of(a in some(), b in some()) {
            let holds = |list: &[(u32, u32)], n: u32| list.iter().any(|(first, last)| (*first..=*last).contains(&n));
            let sets = [&a, &b].map(|list| Ranges::new(list.clone(), Vec::new()));
            let union = Ranges::union(&sets);
            let difference = sets[0].without(&sets[1]);
            for n in (0..256).chain(u32::MAX - 255..=u32::MAX) {
                let address = IpAddr::V4(Ipv4Addr::from_bits(n));
                prop_assert_eq!(sets[0].prefix_of(address).is_some(), holds(&a, n));
                prop_assert_eq!(union.prefix_of(address).is_some(), holds(&a, n) || holds(&b, n));
                prop_assert_eq!(difference.prefix_of(address).is_some(), holds(&a, n) && !holds(&b, n));
            }
            for set in [&union, &difference] {
                let apart = set.v4.windows(2).all(|pair| pair[0].1.checked_add(1).is_some_and(|next| next < pair[1].0));
                prop_assert!(apart, "as few ranges as can be: {:?}", set);
                prop_assert_eq!(&Ranges::of_prefixes(set.prefixes()), set);
            }
            let wide = |list: &[(u32, u32)]| list.iter().map(|(f, l)| (u128::from(*f), u128::from(*l))).collect();
            let (wide_a, wide_b) = (Ranges::new(Vec::new(), wide(&a)), Ranges::new(Vec::new(), wide(&b)));
            prop_assert_eq!(wide_a.without(&wide_b).v6, wide(&difference.v4));
        }
    }
}
