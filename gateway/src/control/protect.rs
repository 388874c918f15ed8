//! Who is never blocked, and what counts as one source.
//!
//! Comes in: the configuration. Goes out: for an offender's address either the prefix that is counted and blocked
//! as one, or nothing because it is protected. A prefix that goes out never overlaps a protected one. It never looks
//! at what the offender did.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{config::Config, decide::Addresses};

/// The protected prefixes, merged and sorted, and the lengths that make a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protected {
    v4: Vec<Ipv4Net>,
    v6: Vec<Ipv6Net>,
    prefix_v4: u8,
    prefix_v6: u8,
}

impl Protected {
    /// `prefix_v4` and `prefix_v6` are lengths in bits; longer than an address means the address.
    pub fn new(nets: impl IntoIterator<Item = IpNet>, prefix_v4: u8, prefix_v6: u8) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for net in nets {
            match canonical_net(net) {
                IpNet::V4(net) => v4.push(net.trunc()),
                IpNet::V6(net) => v6.push(net.trunc()),
            }
        }
        Self {
            v4: Ipv4Net::aggregate(&v4),
            v6: Ipv6Net::aggregate(&v6),
            prefix_v4: prefix_v4.min(32),
            prefix_v6: prefix_v6.min(128),
        }
    }

    /// `prefilter.allow`, `escalation.exempt`, every trusted proxy and forwarder, every upstream server where it is now,
    /// whoever administers this host, and what never comes in from outside.
    pub fn of(config: &Config, addresses: &Addresses, admins: impl IntoIterator<Item = IpAddr>) -> Self {
        let proxies = config
            .listeners
            .iter()
            .flat_map(|listener| listener.trusted_proxies.iter().chain(&listener.proxy_protocol_from));
        let nets =
            (config.prefilter.allow.iter()).chain(&config.escalation.exempt).chain(proxies).copied().chain(
                addresses.all().flat_map(|server| {
                    server.list().iter().map(|address| IpNet::from(address.ip())).collect::<Vec<_>>()
                }),
            );
        let nets = nets.chain(admins.into_iter().map(administrator)).chain(local());
        Self::new(nets, config.prefilter.source_prefix_v4, config.prefilter.source_prefix_v6)
    }

    /// The prefix that stands for `address`, or none when `address` is protected.
    ///
    /// A neighbour of a protected address is counted and blocked by its exact address: the wider prefix would
    /// take the protected one with it.
    pub fn source_of(&self, address: IpAddr) -> Option<IpNet> {
        let address = address.to_canonical();
        let exact = IpNet::from(address);
        if self.overlaps(&exact) {
            return None;
        }
        let length = if address.is_ipv4() { self.prefix_v4 } else { self.prefix_v6 };
        let wide = IpNet::new(address, length).map_or(exact, |net| net.trunc());
        Some(if self.overlaps(&wide) { exact } else { wide })
    }

    /// The lengths in bits that make a source, of IPv4 and IPv6.
    pub fn source_bits(&self) -> (u8, u8) {
        (self.prefix_v4, self.prefix_v6)
    }

    /// Whether any protected address lies in `net`.
    pub fn overlaps(&self, net: &IpNet) -> bool {
        match canonical_net(*net) {
            IpNet::V4(net) => {
                let after = self.v4.partition_point(|own| own.network() <= net.broadcast());
                self.v4.get(..after).and_then(<[_]>::last).is_some_and(|own| own.broadcast() >= net.network())
            }
            IpNet::V6(net) => {
                let after = self.v6.partition_point(|own| own.network() <= net.broadcast());
                self.v6.get(..after).and_then(<[_]>::last).is_some_and(|own| own.broadcast() >= net.network())
            }
        }
    }
}

/// An IPv6 host has many addresses in its /64, and another one than that of its connection may be the offender's.
fn administrator(address: IpAddr) -> IpNet {
    const HOME_BITS: u8 = 64;
    match address.to_canonical() {
        address @ IpAddr::V4(_) => address.into(),
        IpAddr::V6(address) => Ipv6Net::new_assert(address, HOME_BITS).trunc().into(),
    }
}

/// Loopback, where the admin API is asked, and what lies on the link, which the filter lets through anyway (RFC 1122
/// §3.2.1.3, RFC 4291 §2.5.3 and §2.5.6).
fn local() -> [IpNet; 3] {
    [
        Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into(),
        Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128).into(),
        Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10).into(),
    ]
}

/// `::ffff:192.0.2.0/120` is `192.0.2.0/24`: a dual-stack listener sees IPv4 peers in the long form.
pub fn canonical_net(net: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    if let IpNet::V6(v6) = net
        && let Some(length) = v6.prefix_len().checked_sub(MAPPED_BITS)
        && let Some(address) = Ipv6Addr::to_ipv4_mapped(&v6.addr())
        && let Ok(v4) = Ipv4Net::new(address, length)
    {
        return IpNet::V4(v4);
    }
    net
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().unwrap()).collect()
    }

    #[track_caller]
    fn check(protected: &[&str], address: &str, expected: Option<&str>) {
        let protected = Protected::new(nets(protected), 32, 64);
        let expected = expected.map(|net| net.parse::<IpNet>().unwrap());
        assert_eq!(protected.source_of(address.parse().unwrap()), expected);
    }

    #[test]
    fn an_address_becomes_its_source() {
        check(&[], "192.0.2.1", Some("192.0.2.1/32"));
        check(&[], "::ffff:192.0.2.1", Some("192.0.2.1/32"));
        check(&[], "2001:db8:1:2:3::4", Some("2001:db8:1:2::/64"));
    }

    #[test]
    fn a_protected_address_has_none() {
        check(&["192.0.2.0/24"], "192.0.2.0", None);
        check(&["192.0.2.0/24"], "192.0.2.255", None);
        check(&["192.0.2.0/24"], "192.0.3.0", Some("192.0.3.0/32"));
        check(&["192.0.2.0/24"], "192.0.1.255", Some("192.0.1.255/32"));
        check(&["192.0.2.0/24"], "::ffff:192.0.2.9", None);
        check(&["::ffff:192.0.2.0/120"], "192.0.2.9", None);
        check(&["10.0.0.0/8", "192.0.2.7/32", "10.9.0.0/16"], "10.255.0.1", None);
        check(&["0.0.0.0/0"], "198.51.100.1", None);
        check(&["0.0.0.0/0"], "2001:db8::1", Some("2001:db8::/64"));
    }

    #[test]
    fn a_neighbour_is_blocked_alone() {
        check(&["2001:db8::1/128"], "2001:db8::2", Some("2001:db8::2/128"));
        check(&["2001:db8::1/128"], "2001:db8:0:1::2", Some("2001:db8:0:1::/64"));
        let protected = Protected::new(nets(&["192.0.2.1/32"]), 24, 64);
        assert_eq!(protected.source_of("192.0.2.2".parse().unwrap()), Some("192.0.2.2/32".parse().unwrap()));
        assert_eq!(protected.source_of("192.0.3.2".parse().unwrap()), Some("192.0.3.0/24".parse().unwrap()));
    }

    fn net_v4() -> impl Strategy<Value = IpNet> {
        (0_u32..256, 20_u8..=32)
            .prop_map(|(low, length)| IpNet::V4(Ipv4Net::new((0xC000_0200 | low).into(), length).unwrap()))
    }

    proptest! {
        #[test]
        fn no_source_overlaps_a_protected_prefix(
            list in prop::collection::vec(net_v4(), 0..12),
            low in 0_u32..1024,
            prefix_v4 in 8_u8..=32,
        ) {
            let address = IpAddr::V4((0xC000_0200 + low).into());
            match Protected::new(list.clone(), prefix_v4, 64).source_of(address) {
                None => prop_assert!(list.iter().any(|net| net.contains(&address))),
                Some(source) => {
                    prop_assert!(source.contains(&address));
                    for net in &list {
                        prop_assert!(!source.contains(net) && !net.contains(&source));
                    }
                }
            }
        }
    }
}
