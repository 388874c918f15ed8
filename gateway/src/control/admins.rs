//! Who administers this host right now, so that no offence of theirs cuts the branch that they sit on.
//!
//! Comes in: the connections to the ports of administration, again and again. Goes out: the addresses behind those that
//! are taken for an administrator's. Pure. A connection that was there at the first look is; any other one has to last
//! longer than sshd waits for a login, so that to hold one open without logging in protects nobody.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use crate::nic::peers::Peer;

/// Longer than sshd waits for a login (`LoginGraceTime`, two minutes).
pub(super) const LOGIN_NS_MAX: u64 = 150_000_000_000;
/// Connections that are followed at once; further ones protect nobody.
pub(super) const CONNECTIONS_MAX: usize = 1024;

/// The connections that are followed.
#[derive(Debug, Default)]
pub(super) struct Admins {
    /// By the kernel's cookie: who, and since when it counts.
    connections: HashMap<u64, (IpAddr, u64)>,
    addresses: BTreeSet<IpAddr>,
    has_looked: bool,
    /// Looks that found more connections than are followed.
    overflows: u64,
}

impl Admins {
    /// Takes in all connections of this moment; whether the addresses have changed.
    pub(super) fn look(&mut self, peers: &[Peer], now_ns: u64) -> bool {
        // What comes by loopback never passes the filter.
        let outside = peers.iter().filter(|peer| !peer.address.to_canonical().is_loopback());
        let open: HashMap<u64, &Peer> = outside.map(|peer| (peer.cookie, peer)).collect();
        self.connections.retain(|cookie, _| open.contains_key(cookie));
        let counts_from_ns = if self.has_looked { now_ns.saturating_add(LOGIN_NS_MAX) } else { now_ns };
        self.has_looked = true;
        for (cookie, peer) in open {
            if self.connections.len() >= CONNECTIONS_MAX && !self.connections.contains_key(&cookie) {
                self.overflows += 1;
                break;
            }
            self.connections.entry(cookie).or_insert((peer.address.to_canonical(), counts_from_ns));
        }
        let of_age = self.connections.values().filter(|(_, from_ns)| *from_ns <= now_ns);
        let addresses: BTreeSet<IpAddr> = of_age.map(|(address, _)| *address).collect();
        let has_changed = addresses != self.addresses;
        self.addresses = addresses;
        has_changed
    }

    /// Those who are taken for administrators.
    pub(super) fn addresses(&self) -> &BTreeSet<IpAddr> {
        &self.addresses
    }

    /// How often there were more connections than are followed.
    pub(super) fn overflows(&self) -> u64 {
        self.overflows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(cookie: u64) -> Peer {
        Peer { address: IpAddr::from([192, 0, 2, (cookie % 250) as u8]), port: 22, cookie }
    }

    #[track_caller]
    fn check(admins: &mut Admins, cookies: &[u64], now_ns: u64, has_changed: bool, expected: &[u64]) {
        let peers: Vec<Peer> = cookies.iter().map(|cookie| peer(*cookie)).collect();
        assert_eq!(admins.look(&peers, now_ns), has_changed);
        let expected: BTreeSet<IpAddr> = expected.iter().map(|cookie| peer(*cookie).address).collect();
        assert_eq!(*admins.addresses(), expected);
    }

    #[test]
    fn who_is_there_at_the_start_is_an_administrator_and_later_ones_have_to_log_in() {
        let mut admins = Admins::default();
        check(&mut admins, &[1], 10, true, &[1]);
        check(&mut admins, &[1, 2], 20, false, &[1]);
        check(&mut admins, &[1, 2], 20 + LOGIN_NS_MAX - 1, false, &[1]);
        check(&mut admins, &[1, 2], 20 + LOGIN_NS_MAX, true, &[1, 2]);
        check(&mut admins, &[2], 21 + LOGIN_NS_MAX, true, &[2]);
        check(&mut admins, &[], 22 + LOGIN_NS_MAX, true, &[]);
    }

    #[test]
    fn this_host_itself_is_nobody() {
        let mut admins = Admins::default();
        let own = |address: &str| Peer { address: address.parse().unwrap(), port: 9901, cookie: 1 };
        for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(!admins.look(&[own(address)], 1), "{address}");
        }
    }

    #[test]
    fn one_after_the_other_without_a_login_protects_nobody() {
        let mut admins = Admins::default();
        check(&mut admins, &[], 0, false, &[]);
        let step_ns = LOGIN_NS_MAX * 4 / 5;
        for turn in 1..20 {
            // Another connection of the same address each time: the cookie tells them apart.
            check(&mut admins, &[turn * 250], turn * step_ns, false, &[]);
        }
    }

    #[test]
    fn the_number_of_followed_connections_is_bounded() {
        let mut admins = Admins::default();
        let peers: Vec<Peer> = (1..=CONNECTIONS_MAX as u64 + 1).map(peer).collect();
        admins.look(&peers[..1], 1);
        admins.look(&peers, 2);
        assert_eq!((admins.connections.len(), admins.overflows()), (CONNECTIONS_MAX, 1));
        assert!(admins.addresses().contains(&peers[0].address), "who was there stays");
    }
}
