//! The names of servers, resolved: once before the first request, and again whenever a TTL has ended.
//!
//! Comes in: the upstreams' names, `runtime.resolvers`, `/etc/resolv.conf` and `/etc/hosts` (both read at start and
//! at reload). Goes out: [`ServerAddresses`], read by every worker, and what could not be resolved, counted and
//! logged. A failure changes no address: the last ones stay until DNS names others.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use hickory_resolver::{
    Hosts, Resolver, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::Query,
        rr::{Name as DnsName, RecordType},
    },
};
use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    config::ServerAddress,
    decide::{ADDRESSES_MAX, ServerAddresses, Snapshot},
};

/// How long a start or a reload waits for names; then it goes on without those that are missing.
const FIRST_TIME_MAX: Duration = Duration::from_secs(2);
/// A TTL counts as at least and at most this; a failed question is asked again after the first.
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_mins(5);
/// One question to one DNS server, and how often it is put again.
const QUESTION_TIME_MAX: Duration = Duration::from_secs(1);
const QUESTIONS_AGAIN: usize = 1;

/// The names of a snapshot, looked up as long as this lives.
pub struct Names {
    names: BTreeMap<Arc<str>, Arc<Name>>,
    tasks: Vec<AbortHandle>,
    moved: Arc<Notify>,
}

/// How often a name was looked up, with which result.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) resolved: AtomicU64,
    pub(super) failed: AtomicU64,
    /// Answers with more addresses than are used.
    pub(super) cut: AtomicU64,
}

struct Name {
    host: Arc<str>,
    /// Who waits for it, each with its port.
    servers: Vec<(Arc<ServerAddresses>, u16)>,
    tally: Arc<Tally>,
    /// The last question failed: another failure is no news.
    is_failing: AtomicBool,
}

impl Names {
    /// Looks up all names of `snapshot`, for at most [`FIRST_TIME_MAX`], and goes on doing so. What `before` has
    /// counted goes on with the name.
    pub async fn resolve(snapshot: &Snapshot, before: Option<&Self>) -> Self {
        let mut names: BTreeMap<Arc<str>, Name> = BTreeMap::new();
        for (index, upstream) in snapshot.config.upstreams.iter().enumerate() {
            for (server, settings) in upstream.servers.iter().enumerate() {
                let ServerAddress::Named(host, port) = &settings.address else { continue };
                let Some(addresses) = snapshot.addresses.get(index, server) else { continue };
                let known = before.and_then(|before| before.names.get(host));
                let name = names.entry(Arc::clone(host)).or_insert_with(|| Name {
                    host: Arc::clone(host),
                    servers: Vec::new(),
                    tally: known.map(|known| Arc::clone(&known.tally)).unwrap_or_default(),
                    is_failing: AtomicBool::new(false),
                });
                name.servers.push((Arc::clone(addresses), *port));
            }
        }
        let names = names.into_iter().map(|(host, name)| (host, Arc::new(name))).collect();
        let moved = before.map_or_else(Arc::default, |before| Arc::clone(&before.moved));
        let mut resolving = Self { names, tasks: Vec::new(), moved };
        if !resolving.names.is_empty() {
            resolving.start(&snapshot.config.runtime.resolvers).await;
        }
        resolving
    }

    async fn start(&mut self, resolvers: &[SocketAddr]) {
        let asking = match Asking::new(resolvers) {
            Ok(asking) => Arc::new(asking),
            Err(error) => {
                log::error!("names cannot be resolved: {error}");
                return;
            }
        };
        let mut first = JoinSet::new();
        for name in self.names.values() {
            let (told, hear) = tokio::sync::oneshot::channel();
            let watching = Arc::clone(name).watch(Arc::clone(&asking), Arc::clone(&self.moved), told);
            self.tasks.push(tokio::spawn(watching).abort_handle());
            first.spawn(hear);
        }
        let all = async { while first.join_next().await.is_some() {} };
        if timeout(FIRST_TIME_MAX, all).await.is_err() {
            log::warn!("going on without names that DNS has not answered for yet");
        }
    }

    /// Waits until a server has moved.
    pub(super) fn moved(&self) -> impl Future<Output = ()> + use<> {
        let moved = Arc::clone(&self.moved);
        async move { moved.notified().await }
    }

    /// Names with what was counted.
    pub(super) fn tallies(&self) -> impl Iterator<Item = (&str, &Tally)> {
        self.names.iter().map(|(host, name)| (&**host, &*name.tally))
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Name {
    async fn watch(
        self: Arc<Self>,
        asking: Arc<Asking>,
        moved: Arc<Notify>,
        first: tokio::sync::oneshot::Sender<()>,
    ) {
        let mut first = Some(first);
        let mut known = Found::default();
        loop {
            let answer = asking.ask(&self.host).await;
            let due = Instant::now() + self.take(answer, &mut known, &moved);
            if let Some(first) = first.take() {
                // Whoever waited may have gone on.
                let _ = first.send(());
            }
            sleep_until(due).await;
        }
    }

    /// Publishes an answer; says when to ask again.
    fn take(&self, answer: Answer, known: &mut Found, moved: &Notify) -> Duration {
        let (failure, ttl) = known.update(answer);
        let was_failing = self.is_failing.swap(failure.is_some(), Relaxed);
        match failure {
            None => {
                self.tally.resolved.fetch_add(1, Relaxed);
                if was_failing {
                    log::info!("{} is resolved again", self.host);
                }
            }
            Some(error) => {
                self.tally.failed.fetch_add(1, Relaxed);
                if !was_failing {
                    log::warn!("{} is not resolved, its last addresses stay: {error}", self.host);
                }
            }
        }
        let found = known.addresses();
        if found.len() > ADDRESSES_MAX {
            self.tally.cut.fetch_add(1, Relaxed);
        }
        let mut has_moved = false;
        for (server, port) in &self.servers {
            has_moved |= server.set(found.iter().map(|address| SocketAddr::new(*address, *port)));
        }
        if has_moved {
            log::info!("{} is now at {found:?}", self.host);
            moved.notify_one();
        }
        ttl
    }
}

/// What DNS said of one family of addresses, and how long that holds.
type Family = Result<(Vec<IpAddr>, Duration), String>;

/// What it said of a name.
struct Answer {
    v6: Family,
    v4: Family,
}

/// The addresses of a name, by family: when DNS fails for one family, the last ones of that family stay.
#[derive(Debug, Default)]
struct Found {
    v6: Vec<IpAddr>,
    v4: Vec<IpAddr>,
}

impl Found {
    /// Takes what succeeded; says what did not, and for how long all of it holds.
    fn update(&mut self, Answer { v6, v4 }: Answer) -> (Option<String>, Duration) {
        // A name without any address is none of a server's: whoever runs DNS has made a mistake.
        let nothing = matches!((&v6, &v4), (Ok((v6, _)), Ok((v4, _))) if v6.is_empty() && v4.is_empty());
        if nothing {
            return (Some("it has no address".to_owned()), TTL_MIN);
        }
        let (mut failure, mut ttl) = (None, TTL_MAX);
        for (family, own) in [(v6, &mut self.v6), (v4, &mut self.v4)] {
            match family {
                Ok((addresses, holds)) => {
                    // What is not there holds for as long as what is.
                    if !addresses.is_empty() {
                        ttl = ttl.min(holds.max(TTL_MIN));
                    }
                    *own = addresses;
                }
                Err(error) => {
                    failure = Some(error);
                    ttl = TTL_MIN;
                }
            }
        }
        (failure, ttl)
    }

    fn addresses(&self) -> Vec<IpAddr> {
        self.v6.iter().chain(&self.v4).copied().collect()
    }
}

/// Who is asked.
struct Asking {
    resolver: TokioResolver,
    hosts: Hosts,
}

impl Asking {
    fn new(resolvers: &[SocketAddr]) -> Result<Self, NetError> {
        let mut builder = if resolvers.is_empty() {
            TokioResolver::builder_tokio()?
        } else {
            let servers = resolvers.iter().map(|address| name_server(*address)).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            Resolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.timeout = QUESTION_TIME_MAX;
        options.attempts = QUESTIONS_AGAIN;
        // We ask when a TTL has ended, so a cache has nothing to answer; /etc/hosts is read below.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        Ok(Self { resolver: builder.build()?, hosts: Hosts::from_system().unwrap_or_default() })
    }

    async fn ask(&self, host: &str) -> Answer {
        if let Some(answer) = self.in_hosts_file(host) {
            return answer;
        }
        let family = async |kind| match self.resolver.lookup(host, kind).await {
            Ok(lookup) => {
                let addresses = lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
                Ok((addresses, lookup.valid_until().saturating_duration_since(Instant::now().into_std())))
            }
            // Of one family a name may well have no address.
            Err(error) if error.is_no_records_found() && !error.is_nx_domain() => {
                Ok((Vec::new(), Duration::ZERO))
            }
            Err(error) => Err(error.to_string()),
        };
        let (v6, v4) = tokio::join!(family(RecordType::AAAA), family(RecordType::A));
        Answer { v6, v4 }
    }

    /// As with most systems' order of look-ups, a name that stands there is not asked of DNS.
    fn in_hosts_file(&self, host: &str) -> Option<Answer> {
        let name = DnsName::from_utf8(host).ok()?;
        let family = |kind| {
            let lookup = self.hosts.lookup_static_host(&Query::query(name.clone(), kind));
            let records = lookup.iter().flat_map(|lookup| lookup.answers().to_vec()).collect::<Vec<_>>();
            records.iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>()
        };
        let (v6, v4) = (family(RecordType::AAAA), family(RecordType::A));
        let found = !v6.is_empty() || !v4.is_empty();
        found.then_some(Answer { v6: Ok((v6, TTL_MAX)), v4: Ok((v4, TTL_MAX)) })
    }
}

/// Over UDP, and over TCP where an answer does not fit.
fn name_server(address: SocketAddr) -> NameServerConfig {
    let over = |protocol| {
        let mut connection = ConnectionConfig::new(protocol);
        connection.port = address.port();
        connection
    };
    NameServerConfig::new(address.ip(), true, vec![over(ProtocolConfig::Udp), over(ProtocolConfig::Tcp)])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Addresses with their TTL in seconds, or a failure.
    type Said<'a> = Option<(&'a [&'a str], u64)>;

    fn family(said: Said<'_>) -> Family {
        let (addresses, ttl_s) = said.ok_or("timed out")?;
        Ok((addresses.iter().map(|address| address.parse().unwrap()).collect(), Duration::from_secs(ttl_s)))
    }

    #[track_caller]
    fn check(
        known: &mut Found,
        (v6, v4): (Said<'_>, Said<'_>),
        (fails, ttl_s): (bool, u64),
        expected: &[&str],
    ) {
        let (failure, ttl) = known.update(Answer { v6: family(v6), v4: family(v4) });
        assert_eq!((failure.is_some(), ttl), (fails, Duration::from_secs(ttl_s)));
        let expected: Vec<IpAddr> = expected.iter().map(|address| address.parse().unwrap()).collect();
        assert_eq!(known.addresses(), expected);
    }

    #[test]
    fn the_shorter_ttl_holds_within_bounds() {
        let mut known = Found::default();
        let (v6, v4) = ("2001:db8::1", "192.0.2.1");
        check(&mut known, (Some((&[v6], 60)), Some((&[v4], 30))), (false, 30), &[v6, v4]);
        check(&mut known, (Some((&[], 5)), Some((&[v4], 30))), (false, 30), &[v4]);
        check(&mut known, (Some((&[], 0)), Some((&[v4], 0))), (false, 1), &[v4]);
        check(&mut known, (Some((&[], 0)), Some((&[v4], 86_400))), (false, 300), &[v4]);
    }

    #[test]
    fn a_failure_changes_no_address_of_its_family() {
        let mut known = Found::default();
        let (v6, v4, other) = ("2001:db8::1", "192.0.2.1", "192.0.2.2");
        check(&mut known, (None, None), (true, 1), &[]);
        check(&mut known, (Some((&[v6], 60)), Some((&[v4], 60))), (false, 60), &[v6, v4]);
        check(&mut known, (None, Some((&[other], 60))), (true, 1), &[v6, other]);
        check(&mut known, (None, None), (true, 1), &[v6, other]);
        check(&mut known, (Some((&[], 60)), Some((&[], 60))), (true, 1), &[v6, other]);
        check(&mut known, (Some((&[], 60)), Some((&[v4], 60))), (false, 60), &[v4]);
    }
}
