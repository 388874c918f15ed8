//! Configurations become snapshots, and snapshots reach the workers.

use std::{collections::HashMap, path::Path, sync::Arc};

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::task::JoinError;

use super::{
    CertificatesError,
    auth::{revocations, session_ms, unix_ms},
    keys::{self, Opened},
    needs_restart,
};
use crate::{
    audit::NotWritten,
    config::{self, Config},
    decide::{
        Addresses, KeyTables, LiveServers, Policy, ServerAddresses, Snapshot, balance::Balancer,
        oidc::revoked::Revocation,
    },
    telemetry::{ROUTES_MAX, SERVERS_MAX},
    tls,
};

/// What metrics call the routes that share the last slot: no route is called so.
const SHARED_SLOT: &str = "(other)";

/// Why a configuration is not taken.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct SnapshotError(String);

impl From<String> for SnapshotError {
    fn from(error: String) -> Self {
        Self(error)
    }
}

impl From<CertificatesError> for SnapshotError {
    fn from(error: CertificatesError) -> Self {
        Self(error.to_string())
    }
}

impl From<NotWritten> for SnapshotError {
    fn from(error: NotWritten) -> Self {
        Self(error.to_string())
    }
}

impl From<JoinError> for SnapshotError {
    fn from(error: JoinError) -> Self {
        Self(format!("reading it has failed: {error}"))
    }
}

/// Whether the filter may drop packets while nobody is allowed for certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcement {
    /// Not with an empty `prefilter.allow`.
    Careful,
    /// `run --yes-really`
    Regardless,
}

impl Enforcement {
    /// An error: this configuration could lock out whoever administers the host.
    pub fn check(self, config: &Config) -> Result<(), SnapshotError> {
        let filter = &config.prefilter;
        let may_lock_out = !filter.interfaces.is_empty() && !filter.dry_run && filter.allow.is_empty();
        if self == Self::Regardless || !may_lock_out {
            return Ok(());
        }
        Err(SnapshotError(
            "prefilter.allow is empty: the filter could lock out whoever administers this host. List their addresses \
             there, try it with `dry_run = true` in [prefilter], or start with `portcullis run --yes-really`"
                .to_owned(),
        ))
    }
}

/// Compiles configurations and publishes the result. Counting slots stay with their names over reloads.
pub struct Publisher {
    published: Arc<ArcSwap<Snapshot>>,
    /// Earlier ones, until no worker goes by them any more.
    retired: Vec<Arc<Snapshot>>,
    /// The key stores of the snapshot that was made last, until somebody follows them.
    stores: Vec<Option<Opened>>,
    slots: Slots,
    enforcement: Enforcement,
}

#[derive(Default)]
struct Slots {
    routes: HashMap<Arc<str>, u32>,
    /// Names of routes by slot.
    route_names: Vec<Arc<str>>,
    servers: HashMap<Arc<str>, usize>,
    servers_used: usize,
}

impl Publisher {
    /// Publishes the first snapshot; later ones are held to `enforcement`.
    pub fn new(config: Config, enforcement: Enforcement) -> Result<Self, SnapshotError> {
        let mut slots = Slots::default();
        let (first, stores) = assemble(Read::compile(config, None)?, &mut slots, None)?;
        Ok(Self {
            stores,
            published: Arc::new(ArcSwap::from_pointee(first)),
            retired: Vec::new(),
            slots,
            enforcement,
        })
    }

    /// Where workers read it.
    pub fn published(&self) -> Arc<ArcSwap<Snapshot>> {
        Arc::clone(&self.published)
    }

    /// The snapshot in force.
    pub fn current(&self) -> Arc<Snapshot> {
        self.published.load_full()
    }

    /// Makes of what was read what [`Publisher::publish`] takes. An error changes nothing.
    pub(super) fn prepare(&mut self, read: Read) -> Result<Arc<Snapshot>, SnapshotError> {
        let current = self.current();
        if let Some(what) = needs_restart(&current.config, &read.config) {
            return Err(SnapshotError(format!("{what} changed, which needs a restart")));
        }
        self.enforcement.check(&read.config)?;
        let (snapshot, stores) = assemble(read, &mut self.slots, Some(&current))?;
        let snapshot = Arc::new(snapshot);
        self.stores = stores;
        keep_verdicts(&current, &snapshot);
        Ok(snapshot)
    }

    /// From now on the workers go by `snapshot`.
    pub fn publish(&mut self, snapshot: &Arc<Snapshot>) {
        self.retired.push(self.published.swap(Arc::clone(snapshot)));
    }

    /// The key stores of the snapshot that was made last, by auth.
    pub(super) fn take_stores(&mut self) -> Vec<Option<Opened>> {
        std::mem::take(&mut self.stores)
    }

    /// Frees what no worker goes by any more: a hundred thousand routes would take one of them tens of milliseconds.
    pub fn beat(&mut self) {
        self.retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }

    /// The name of the route that `slot` counts.
    pub fn route_name(&self, slot: usize) -> &str {
        self.slots.route_names.get(slot).map_or(SHARED_SLOT, |name| name)
    }

    /// "upstream server" by slot.
    pub fn server_names(&self) -> impl Iterator<Item = (usize, &str, &str)> {
        self.slots.servers.iter().filter_map(|(name, slot)| {
            let (upstream, server) = name.split_once(' ')?;
            Some((*slot, upstream, server))
        })
    }
}

/// A configuration, the policy that it makes, its key stores, and what an earlier process has revoked: what takes long
/// where there are many routes or keys.
pub(super) struct Read {
    config: Config,
    policy: Policy,
    stores: Vec<Option<Opened>>,
    revocations: Vec<Revocation>,
}

impl Read {
    /// Reads a file again; `before` is the snapshot in force.
    pub(super) fn file(file: &Path, before: &Snapshot) -> Result<Self, SnapshotError> {
        let loaded =
            config::load(file, &|name| std::env::var(name).ok()).map_err(|errors| all_of(&errors))?;
        for warning in &loaded.warnings {
            log::warn!("{warning}");
        }
        Self::compile(loaded.config, Some(before))
    }

    fn compile(config: Config, before: Option<&Snapshot>) -> Result<Self, SnapshotError> {
        let policy = Policy::compile(&config).map_err(|errors| all_of(&errors))?;
        let stores = keys::open(&config, before)?;
        for odd in keys::odd_roles(&config, &stores) {
            log::warn!("{odd}");
        }
        let are_first =
            policy.revoked().is_some() && before.is_none_or(|before| before.policy.revoked().is_none());
        let revocations = if are_first {
            revocations::read(&config.runtime.state_dir, unix_ms()).map_err(|error| {
                SnapshotError(format!(
                    "runtime.state_dir: {error}: there is no other way to know after a restart which sessions were logged out"
                ))
            })?
        } else {
            Vec::new()
        };
        Ok(Self { config, policy, stores, revocations })
    }
}

fn all_of(errors: &[impl ToString]) -> SnapshotError {
    SnapshotError(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

fn assemble(
    read: Read,
    slots: &mut Slots,
    before: Option<&Snapshot>,
) -> Result<(Snapshot, Vec<Option<Opened>>), SnapshotError> {
    let Read { mut config, mut policy, stores, revocations } = read;
    policy.keep_issuers(before.map(|before| &before.policy));
    if let Some(revoked) = policy.revoked() {
        let session_ms = session_ms(&config);
        for Revocation { id, at_ms, .. } in revocations {
            revoked.end(id, at_ms, session_ms);
        }
    }
    let upstream_tls = tls::upstreams(&config).map_err(|error| SnapshotError(error.to_string()))?;
    let routes = std::mem::take(&mut config.routes);
    let tables = stores.iter().map(|store| store.as_ref().map(|store| Arc::clone(store.table())));
    let snapshot = Snapshot {
        upstream_tls,
        balancers: config.upstreams.iter().map(Balancer::compile).collect(),
        live: Arc::new(LiveServers::all(&config)),
        addresses: Addresses::of(&config, |upstream, address| addresses_of(before?, upstream, address)),
        keys: KeyTables::new(tables),
        route_slots: routes.iter().map(|route| slots.route(&route.name)).collect(),
        server_slots: config.upstreams.iter().map(|upstream| slots.servers_of(upstream)).collect(),
        config,
        policy,
        generation: before.map_or(1, |before| before.generation + 1),
    };
    Ok((snapshot, stores))
}

/// Where a server is that was there before.
fn addresses_of(
    before: &Snapshot,
    upstream: &str,
    address: &config::ServerAddress,
) -> Option<Arc<ServerAddresses>> {
    let at = before.config.upstreams.iter().position(|other| &*other.name == upstream)?;
    let servers = &before.config.upstreams.get(at)?.servers;
    let server = servers.iter().position(|other| other.address == *address)?;
    before.addresses.get(at, server).map(Arc::clone)
}

/// What the health checks have found out stays with upstream and address: a reload does not send requests to the dead.
fn keep_verdicts(old: &Snapshot, new: &Snapshot) {
    for (index, upstream) in new.config.upstreams.iter().enumerate() {
        let Some(before) = old.config.upstreams.iter().position(|other| other.name == upstream.name) else {
            continue;
        };
        let known = old.config.upstreams.get(before).map_or(&[][..], |other| &other.servers);
        for (server, settings) in upstream.servers.iter().enumerate() {
            let Some(at) = known.iter().position(|other| other.address == settings.address) else { continue };
            new.live.set(index, server, old.live.is_live(before, at) || upstream.health.is_none());
        }
    }
}

impl Slots {
    /// A route's slot; once all are taken, the last one is shared.
    fn route(&mut self, name: &Arc<str>) -> u32 {
        if let Some(slot) = self.routes.get(name) {
            return *slot;
        }
        let slot = u32::try_from(self.route_names.len()).unwrap_or(u32::MAX);
        if self.route_names.len() < ROUTES_MAX - 1 {
            self.route_names.push(Arc::clone(name));
            self.routes.insert(Arc::clone(name), slot);
        }
        slot
    }

    /// The slot of an upstream's first server. An upstream whose servers change gets new slots.
    fn servers_of(&mut self, upstream: &config::Upstream) -> usize {
        let name =
            |server: &config::Server| -> Arc<str> { format!("{} {}", upstream.name, server.address).into() };
        let known: Vec<Option<usize>> =
            upstream.servers.iter().map(|server| self.servers.get(&name(server)).copied()).collect();
        if let Some(Some(first)) = known.first()
            && known.iter().enumerate().all(|(index, slot)| *slot == Some(first + index))
        {
            return *first;
        }
        let first = self.servers_used.min(SERVERS_MAX - 1);
        for (index, server) in upstream.servers.iter().enumerate() {
            self.servers.insert(name(server), (first + index).min(SERVERS_MAX - 1));
        }
        self.servers_used += upstream.servers.len();
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(servers: &str, slots: &mut Slots) -> Snapshot {
        let text = format!("[upstreams.app]\nservers = [{servers}]\n");
        let loaded = config::parse(&text, Path::new("."), &|_| None).expect("a good configuration");
        let read = Read::compile(loaded.config, None).expect("a policy");
        assemble(read, slots, None).expect("a snapshot").0
    }

    #[track_caller]
    fn check_enforced(prefilter: &str, enforcement: Enforcement, expected: bool) {
        let text = format!("[prefilter]\n{prefilter}\n");
        let config = config::parse(&text, Path::new("."), &|_| None).expect("a good configuration").config;
        assert_eq!(enforcement.check(&config).is_ok(), expected, "{prefilter}");
    }

    #[test]
    fn the_filter_does_not_drop_while_nobody_is_allowed_unless_really() {
        let filtering = "interfaces = [\"eth0\"]";
        check_enforced(filtering, Enforcement::Careful, false);
        check_enforced(filtering, Enforcement::Regardless, true);
        check_enforced(&format!("{filtering}\ndry_run = true"), Enforcement::Careful, true);
        check_enforced(&format!("{filtering}\nallow = [\"192.0.2.1\"]"), Enforcement::Careful, true);
        check_enforced("", Enforcement::Careful, true);
    }

    #[test]
    fn a_reload_is_held_to_it_too() {
        let parse = |text: &str| config::parse(text, Path::new("."), &|_| None).expect("good").config;
        let allowed = "[prefilter]\ninterfaces = [\"eth0\"]\nallow = [\"192.0.2.1\"]\n";
        let emptied = "[prefilter]\ninterfaces = [\"eth0\"]\n";
        for (enforcement, taken) in [(Enforcement::Careful, false), (Enforcement::Regardless, true)] {
            let mut publisher = Publisher::new(parse(allowed), enforcement).expect("taken");
            let prepared = publisher.prepare(Read::compile(parse(emptied), None).expect("a policy"));
            assert_eq!(prepared.is_ok(), taken);
        }
    }

    #[test]
    fn a_reload_remembers_who_is_dead_and_which_slot_counts_whom() {
        let mut slots = Slots::default();
        let old = snapshot("\"192.0.2.1:80\", \"192.0.2.2:80\"", &mut slots);
        old.live.set(0, 1, false);
        let same = snapshot("\"192.0.2.1:80\", \"192.0.2.2:80\"", &mut slots);
        assert_eq!(same.server_slots, old.server_slots);
        let new = snapshot("\"192.0.2.2:80\", \"192.0.2.3:80\"", &mut slots);
        keep_verdicts(&old, &new);
        assert_eq!((new.live.is_live(0, 0), new.live.is_live(0, 1)), (false, true));
        assert_ne!(new.server_slots, old.server_slots, "other servers do not count on");
    }

    #[test]
    fn routes_keep_their_slots_until_none_is_left() {
        let mut slots = Slots::default();
        let name = |i: usize| Arc::<str>::from(format!("r{i}"));
        for i in 0..ROUTES_MAX - 1 {
            assert_eq!(slots.route(&name(i)) as usize, i);
        }
        for i in [ROUTES_MAX, ROUTES_MAX + 1] {
            assert_eq!(slots.route(&name(i)) as usize, ROUTES_MAX - 1, "the last one is shared");
        }
        assert_eq!(slots.route(&name(7)), 7);
        assert_eq!((slots.route_names.len(), slots.routes.len()), (ROUTES_MAX - 1, ROUTES_MAX - 1));
    }
}
