//! All that a worker goes by, swapped as one.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::{Addresses, KeyTables, Policy, balance::Balancer};
use crate::{config::Config, tls};

/// A configuration with everything compiled from it. Never changes but for which servers are live, and where, and
/// which keys there are.
pub struct Snapshot {
    /// The configuration, but for its routes: of those there may be many, and all that counts is in the policy.
    pub config: Config,
    /// Who may do what.
    pub policy: Policy,
    /// Per upstream, who gets the next request.
    pub balancers: Box<[Balancer]>,
    /// Per upstream, how its servers are spoken to under TLS, or none.
    pub upstream_tls: Box<[Option<tls::Client>]>,
    /// Which servers are live.
    pub live: Arc<LiveServers>,
    /// Where they are.
    pub addresses: Addresses,
    /// API keys, by auth: the same over reloads, where the store is.
    pub keys: KeyTables,
    /// Per route, the slot that counts it.
    pub route_slots: Box<[u32]>,
    /// Per upstream, the slot that counts its first server; the others follow.
    pub server_slots: Box<[usize]>,
    /// Counts the snapshots of this process, from 1.
    pub generation: u64,
}

/// Which servers are live, by upstream and server. One writer (the health checks), read by all workers.
#[derive(Debug)]
pub struct LiveServers(Box<[Box<[AtomicBool]>]>);

impl LiveServers {
    /// All of them live until a check says otherwise.
    pub fn all(config: &Config) -> Self {
        let servers = |count: usize| std::iter::repeat_with(|| AtomicBool::new(true)).take(count).collect();
        Self(config.upstreams.iter().map(|upstream| servers(upstream.servers.len())).collect())
    }

    /// Whether a server may be asked.
    pub fn is_live(&self, upstream: usize, server: usize) -> bool {
        self.0
            .get(upstream)
            .and_then(|servers| servers.get(server))
            .is_some_and(|live| live.load(Ordering::Relaxed))
    }

    /// What a check found.
    pub fn set(&self, upstream: usize, server: usize, live: bool) {
        if let Some(cell) = self.0.get(upstream).and_then(|servers| servers.get(server)) {
            cell.store(live, Ordering::Relaxed);
        }
    }
}
