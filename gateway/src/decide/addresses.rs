//! Where the servers are at the moment: the one address of a server that has one, or what DNS said last of its name.
//!
//! Comes in: the configuration, and what the control thread has resolved (the only writer). Goes out: the addresses
//! to connect to, in the order of RFC 8305 §4, read by all workers without waiting. Addresses are only ever replaced
//! by others: what has been resolved once stays when DNS fails.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;

use crate::config::{Config, ServerAddress};

/// Addresses of one name that are used; further ones are left out.
pub const ADDRESSES_MAX: usize = 8;

/// The addresses of all servers, by upstream and server.
#[derive(Debug)]
pub struct Addresses(Box<[Box<[Arc<ServerAddresses>]>]>);

impl Addresses {
    /// For the servers of `config`. Where `known` has one of the same upstream and name, it goes on, with what has
    /// been resolved and whoever reads it.
    pub fn of(config: &Config, known: impl Fn(&str, &ServerAddress) -> Option<Arc<ServerAddresses>>) -> Self {
        let server = |upstream: &str, address: &ServerAddress| {
            known(upstream, address).unwrap_or_else(|| Arc::new(ServerAddresses::of(address.clone())))
        };
        let servers = |upstream: &crate::config::Upstream| {
            upstream.servers.iter().map(|settings| server(&upstream.name, &settings.address)).collect()
        };
        Self(config.upstreams.iter().map(servers).collect())
    }

    /// Those of one server.
    pub fn get(&self, upstream: usize, server: usize) -> Option<&Arc<ServerAddresses>> {
        self.0.get(upstream)?.get(server)
    }

    /// Those of all servers.
    pub fn all(&self) -> impl Iterator<Item = &Arc<ServerAddresses>> {
        self.0.iter().flatten()
    }

    /// Whether there is an address to ask a server at.
    pub fn is_resolved(&self, upstream: usize, server: usize) -> bool {
        self.get(upstream, server).is_some_and(|addresses| addresses.version() > 0)
    }
}

/// Where one server is.
#[derive(Debug)]
pub struct ServerAddresses {
    server: ServerAddress,
    /// Sorted, each once.
    list: ArcSwap<Vec<SocketAddr>>,
    /// Counts the changes; 0: nothing has been resolved yet.
    version: AtomicU64,
}

impl ServerAddresses {
    fn of(server: ServerAddress) -> Self {
        let (list, version) = match server {
            ServerAddress::Fixed(address) => (vec![address], 1),
            ServerAddress::Named(..) => (Vec::new(), 0),
        };
        Self { server, list: ArcSwap::from_pointee(list), version: AtomicU64::new(version) }
    }

    /// What the configuration calls it.
    pub fn server(&self) -> &ServerAddress {
        &self.server
    }

    /// Tells whether something has changed since; 0: there is no address yet.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// All of them, sorted.
    pub fn list(&self) -> Arc<Vec<SocketAddr>> {
        self.list.load_full()
    }

    /// What DNS says now; whether that is news. Nothing at all is never news. At most [`ADDRESSES_MAX`] are taken.
    pub fn set(&self, addresses: impl IntoIterator<Item = SocketAddr>) -> bool {
        let mut addresses: Vec<SocketAddr> = addresses.into_iter().collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(ADDRESSES_MAX);
        if addresses.is_empty() || **self.list.load() == addresses {
            return false;
        }
        self.list.store(Arc::new(addresses));
        // After the list: whoever sees the new version sees the new list, too.
        self.version.fetch_add(1, Ordering::Release);
        true
    }

    /// In the order in which a connection is to be tried: the families alternate, IPv6 first (RFC 8305 §4), and with
    /// each `turn` another address of a family comes first, so that all of them get connections.
    pub fn in_order(&self, turn: usize) -> Vec<SocketAddr> {
        let list = self.list.load();
        let (v6, v4): (Vec<SocketAddr>, Vec<SocketAddr>) = list.iter().partition(|address| address.is_ipv6());
        let nth = |family: &[SocketAddr], n: usize| {
            (n < family.len()).then(|| family.get((n + turn) % family.len()).copied()).flatten()
        };
        (0..list.len()).flat_map(|n| [nth(&v6, n), nth(&v4, n)]).flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|address| address.parse().unwrap()).collect()
    }

    fn unresolved() -> ServerAddresses {
        ServerAddresses::of(ServerAddress::Named("app.test".into(), 1))
    }

    #[track_caller]
    fn check(set: &[&str], turn: usize, expected: &[&str]) {
        let server = unresolved();
        server.set(addresses(set));
        assert_eq!(server.in_order(turn), addresses(expected));
    }

    #[test]
    fn families_alternate_and_take_turns() {
        check(&[], 0, &[]);
        check(&["192.0.2.1:1"], 5, &["192.0.2.1:1"]);
        check(&["192.0.2.1:1", "192.0.2.2:1"], 1, &["192.0.2.2:1", "192.0.2.1:1"]);
        let both = ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1", "[2001:db8::1]:1", "[2001:db8::2]:1"];
        check(&both, 0, &["[2001:db8::1]:1", "192.0.2.1:1", "[2001:db8::2]:1", "192.0.2.2:1", "192.0.2.3:1"]);
        check(&both, 1, &["[2001:db8::2]:1", "192.0.2.2:1", "[2001:db8::1]:1", "192.0.2.3:1", "192.0.2.1:1"]);
    }

    #[test]
    fn only_news_moves_the_version_and_nothing_is_no_news() {
        let server = unresolved();
        assert_eq!(server.version(), 0);
        assert!(!server.set([]));
        assert!(server.set(addresses(&["192.0.2.2:1", "192.0.2.1:1"])));
        assert!(!server.set(addresses(&["192.0.2.1:1", "192.0.2.2:1", "192.0.2.1:1"])), "in another order");
        assert!(!server.set([]), "what was resolved stays");
        assert_eq!((server.version(), server.list().len()), (1, 2));
        assert!(server.set(addresses(&["192.0.2.2:1"])));
        assert_eq!(server.version(), 2);
    }

    #[test]
    fn so_many_are_used_and_no_more() {
        let many: Vec<SocketAddr> = (1..=9).map(|n| SocketAddr::from(([192, 0, 2, n], 80))).collect();
        let server = unresolved();
        server.set(many.clone());
        assert_eq!(server.in_order(3).len(), ADDRESSES_MAX);
        server.set(many.into_iter().take(ADDRESSES_MAX - 1));
        assert_eq!(server.in_order(0).len(), ADDRESSES_MAX - 1);
    }
}
