//! What the configuration compiles to. Every name is an index, every unit a number, every secret has been read;
//! these types hold no references into the file and never change after they were built.

use std::{net::SocketAddr, num::NonZeroU64, path::PathBuf, sync::Arc, time::Duration};

use ipnet::IpNet;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName};

use super::{
    auth::{Auth, OwnPage},
    compress::Coding,
    condition::Condition,
    cors::Cors,
    edits::{Redirect, Respond, Rewrite},
    escalation::Escalation,
    feeds::Feed,
    logs::Log,
    under_attack::UnderAttack,
};

/// The most that `limits.head_size` may allow: a request head must fit into one of a worker's buffers.
pub const HEAD_SIZE_BYTES_MAX: u64 = 128 << 10;

/// The most that `limits.connections_per_source` may allow: connections are counted in 16 bits.
pub const CONNECTIONS_PER_SOURCE_MAX: u32 = 65_534;

/// The most routes that there may be.
pub const ROUTES_MAX: usize = 1 << 17;

/// Everything the file says. Indices (`upstream`, `auths`, …) point into the `Vec`s beside them.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[runtime]`
    pub runtime: Runtime,
    /// `[prefilter]`
    pub prefilter: Prefilter,
    /// `[escalation]`
    pub escalation: Escalation,
    /// `[under_attack]`
    pub under_attack: UnderAttack,
    /// `[listeners.*]` that serve requests, in order of their names.
    pub listeners: Vec<Listener>,
    /// The one `[listeners.*]` of kind "admin".
    pub admin: Option<Admin>,
    /// `[upstreams.*]`
    pub upstreams: Vec<Upstream>,
    /// `[auth.*]`
    pub auths: Vec<Auth>,
    /// `[roles.*]`, with inheritance already followed.
    pub roles: Vec<Role>,
    /// `[consumers.*]`
    pub consumers: Vec<Consumer>,
    /// `[limits.*]`
    pub limits: Vec<Limit>,
    /// `[filters.*]`
    pub filters: Vec<Filter>,
    /// `[routes.*]`
    pub routes: Vec<Route>,
    /// `[log]`
    pub log: Log,
    /// Every file of TOML that it was read from, with its SHA-256.
    pub files: Vec<(PathBuf, [u8; 32])>,
}

/// `[runtime]`
#[derive(Debug, Clone, PartialEq)]
pub struct Runtime {
    /// Which CPUs carry a worker.
    pub workers: Workers,
    /// Connections per worker; past it new ones are closed at accept and counted.
    pub connections_max: usize,
    /// Bytes of buffers in use per worker; past it new requests are answered 503.
    pub buffer_bytes_max: usize,
    /// How long open connections may finish after SIGTERM.
    pub drain_timeout: Duration,
    /// Where what has to outlive the process is kept.
    pub state_dir: PathBuf,
    /// DNS servers that are asked for names; empty: those of the system.
    pub resolvers: Vec<SocketAddr>,
}

/// `runtime.workers`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Workers {
    /// One per CPU that this process may run on.
    Auto,
    /// So many, on the first CPUs that this process may run on.
    Count(usize),
    /// One on each of these CPUs.
    Cpus(Vec<usize>),
}

/// `[prefilter]`: the XDP half.
#[derive(Debug, Clone, PartialEq)]
pub struct Prefilter {
    /// Interface names; empty: no XDP program is loaded.
    pub interfaces: Vec<String>,
    /// Native, generic, or native with generic as the fallback.
    pub mode: XdpMode,
    /// True: refuse to start without the filter. False: start unfiltered and say so.
    pub required: bool,
    /// Count and sample what would be dropped, drop nothing.
    pub dry_run: bool,
    /// Where the maps and the link are pinned.
    pub pin_dir: PathBuf,
    /// Destination ports that the limits apply to.
    pub ports: FilterPorts,
    /// Prefixes that win over every block.
    pub allow: Vec<IpNet>,
    /// Prefixes that are always dropped.
    pub block: Vec<IpNet>,
    /// Capacity of the block list, per address family.
    pub entries_max: u32,
    /// Capacity of the per-source limiter.
    pub sources_max: u32,
    /// Prefix length that makes one IPv4 source, 8 to 32.
    pub source_prefix_v4: u8,
    /// Prefix length that makes one IPv6 source, 16 to 64.
    pub source_prefix_v6: u8,
    /// Packets per source, or none.
    pub packets: Option<Rate>,
    /// TCP SYNs per source, or none.
    pub syns: Option<Rate>,
    /// Bytes per source, or no limit.
    pub bytes: Option<Rate>,
    /// Packets per IPv4 /24 or IPv6 /48, or no limit.
    pub network_packets: Option<Rate>,
    /// TCP SYNs per IPv4 /24 or IPv6 /48, or no limit.
    pub network_syns: Option<Rate>,
    /// Bytes per IPv4 /24 or IPv6 /48, or no limit.
    pub network_bytes: Option<Rate>,
    /// Whether, and when, the program answers SYNs with cookies.
    pub syn_cookies: SynCookies,
    /// SYNs per second that no connection comes of, from which on [`SynCookies::Auto`] takes them for a flood.
    pub syn_flood_per_s: f64,
    /// Whether impossible packets are dropped.
    pub drop_malformed: bool,
    /// At most so many sampled drops per second and CPU.
    pub samples_per_s: u32,
    /// Block lists that others keep, in order of their names.
    pub feeds: Vec<Feed>,
}

/// `prefilter.mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// Native, else generic.
    Auto,
    /// In the driver only.
    Native,
    /// In the generic hook only.
    Generic,
}

/// `prefilter.syn_cookies`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SynCookies {
    /// Never.
    Off,
    /// While there is a flood of SYNs.
    Auto,
    /// At any time.
    Always,
}

/// `prefilter.ports`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterPorts {
    /// The ports of `[listeners.*]`.
    Listeners,
    /// These.
    Ports(Vec<u16>),
}

/// A token bucket: `rate` tokens per second, at most `burst` at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Tokens per second; above zero.
    pub per_s: f64,
    /// Bucket size in tokens; at least one.
    pub burst: u64,
}

/// `[listeners.NAME]`
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Its name.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Peers whose connections must begin with a PROXY header; everybody else's must not.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// What is spoken there.
    pub protocols: Protocols,
    /// TLS, or none.
    pub tls: Option<Tls>,
    /// How long each phase may take.
    pub timeouts: ListenerTimeouts,
    /// How much each connection may ask.
    pub limits: ListenerLimits,
}

/// `listeners.NAME.protocols`, of which there is at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocols {
    /// `http/1.1`
    pub http1: bool,
    /// `h2`: by ALPN, in clear by its preface.
    pub http2: bool,
}

/// `listeners.NAME.tls`
#[derive(Clone, PartialEq)]
pub struct Tls {
    /// What is offered by ALPN.
    pub protocols: Protocols,
    /// TLS 1.2 is spoken as well as 1.3.
    pub tls12: bool,
    /// Certificate chains with their keys, as PEM, in the order of the file; the first is the default.
    pub certificates: Vec<CertificatePem>,
    /// Client certificates, or none are asked for.
    pub clients: Option<ClientAuth>,
}

/// `listeners.NAME.tls.client_auth`
#[derive(Debug, Clone, PartialEq)]
pub struct ClientAuth {
    /// A client without one is refused.
    pub required: bool,
    /// Who may vouch for clients.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Revocation lists; empty: none are asked.
    pub revoked: Vec<CertificateRevocationListDer<'static>>,
    /// `client_ca_file`
    pub authorities_file: PathBuf,
    /// `client_crl_file`
    pub revoked_file: Option<PathBuf>,
}

/// A certificate chain and its private key.
#[derive(Clone, PartialEq)]
pub struct CertificatePem {
    /// `chain_file`, read.
    pub chain: Vec<u8>,
    /// `key_file`, read.
    pub key: Secret,
    /// Where the chain came from, for messages.
    pub chain_file: PathBuf,
    /// Where the key came from.
    pub key_file: PathBuf,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("protocols", &self.protocols)
            .field("tls12", &self.tls12)
            .field("certificates", &self.certificates.len())
            .field("clients", &self.clients)
            .finish()
    }
}

/// Bytes that are never shown and are wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub zeroize::Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// `listeners.NAME.timeouts`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerTimeouts {
    /// TLS handshake.
    pub handshake: Duration,
    /// A request head, from its first byte to its last.
    pub head: Duration,
    /// No body byte for so long.
    pub body_idle: Duration,
    /// No request for so long.
    pub keep_alive: Duration,
    /// A whole exchange, from the head's last byte to the answer's last.
    pub request: Duration,
}

/// `listeners.NAME.limits`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerLimits {
    /// Connections of one source at once, over all workers; none: as many as it wants.
    pub connections_per_source: Option<u32>,
    /// Bytes of a request head.
    pub head_size_bytes: usize,
    /// Header fields of a request.
    pub headers: usize,
    /// Bytes of a request target.
    pub target_size_bytes: usize,
    /// Bytes of a request body.
    pub body_size_bytes: u64,
    /// Requests at once on a connection of HTTP/2.
    pub streams: u32,
    /// Bytes a second of a body that a client sends or takes while it is waited for; none: any.
    pub body_rate_min: Option<NonZeroU64>,
}

/// `[listeners.NAME]` with `kind = "admin"`
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// Where it listens.
    pub address: AdminAddress,
}

/// `listeners.NAME.address` of the admin listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// Loopback only, until TLS and tokens work there.
    Tcp(SocketAddr),
    /// `unix:/path`
    Unix(PathBuf),
}

/// `upstreams.NAME.protocol`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// `http/1.1`
    Http1,
    /// `h2`: by ALPN, in clear at once.
    Http2,
}

/// `[upstreams.NAME]`
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// Its name.
    pub name: Arc<str>,
    /// What its servers speak.
    pub protocol: UpstreamProtocol,
    /// Its servers, at least one.
    pub servers: Vec<Server>,
    /// How one is picked.
    pub balance: Balance,
    /// How its servers are spoken to, or in clear.
    pub tls: Option<UpstreamTls>,
    /// TCP connect, and the TLS handshake behind it.
    pub connect_timeout: Duration,
    /// From the request's last byte to the response head's last.
    pub head_timeout: Duration,
    /// How long an unused connection is kept.
    pub idle_timeout: Duration,
    /// Connections per worker.
    pub connections_per_worker: usize,
    /// Idle connections kept per worker and server.
    pub idle_per_worker: usize,
    /// Requests per worker that wait for a connection when all are busy.
    pub connections_pending: usize,
    /// A connection that has been open for so long is not used again.
    pub connection_age_max: Option<Duration>,
    /// When a request may be sent again.
    pub retry: Retry,
    /// The header that tells its servers who is asking, or none. A connection that began with one is used once.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Active health checks, or none.
    pub health: Option<Health>,
}

/// `upstreams.NAME.tls`: servers are always verified.
#[derive(Clone, PartialEq)]
pub struct UpstreamTls {
    /// Who may vouch for a server; at least one.
    pub authorities: Arc<[CertificateDer<'static>]>,
    /// They are the system's: some of them may be of no use.
    pub authorities_are_the_systems: bool,
    /// What a certificate has to name, and what is sent as SNI; absent: the server's own name or address.
    pub server_name: Option<ServerName<'static>>,
    /// What we show to servers that ask who we are.
    pub client: Option<CertificatePem>,
}

impl std::fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamTls")
            .field("authorities", &self.authorities.len())
            .field("authorities_are_the_systems", &self.authorities_are_the_systems)
            .field("server_name", &self.server_name)
            .field("client", &self.client.is_some())
            .finish()
    }
}

/// One of `upstreams.NAME.servers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Where it is.
    pub address: ServerAddress,
    /// Its share, 1 to 256.
    pub weight: u32,
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServerAddress {
    /// Always there.
    Fixed(SocketAddr),
    /// Where DNS says at the moment: a lower-case name, and a port.
    Named(Arc<str>, u16),
}

impl std::fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(address) => address.fmt(f),
            Self::Named(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// `upstreams.NAME.balance`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// In turn, by weight.
    RoundRobin,
    /// Any, by weight.
    Random,
    /// The less loaded of two.
    LeastRequests,
}

/// `upstreams.NAME.proxy_protocol`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// `upstreams.NAME.retry`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// How many times.
    pub attempts: u32,
    /// When there was no connection to a server.
    pub on_connect: bool,
    /// When a server closed before it answered.
    pub on_reset_before_head: bool,
    /// At most so many per hundred requests; `None`: without such a bound.
    pub budget_percent: Option<u32>,
}

/// `upstreams.NAME.health`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Path of the `GET`.
    pub path: Arc<str>,
    /// Time between checks.
    pub interval: Duration,
    /// A check that takes longer has failed.
    pub timeout: Duration,
    /// Successes in a row that make a server live.
    pub healthy: u32,
    /// Failures in a row that make it dead.
    pub unhealthy: u32,
}

/// `[roles.NAME]`: what it may do, its own and what it inherits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Its name.
    pub name: Arc<str>,
    /// Permissions such as `orders:read`, those that it inherits among them; `*` stands for a segment, at the end for all
    /// that is left.
    pub permissions: Vec<Arc<str>>,
    /// Indices of the roles that it inherits from, near or far.
    pub inherits: Vec<usize>,
}

/// `[consumers.NAME]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    /// Its name.
    pub name: Arc<str>,
    /// Indices into [`Config::roles`].
    pub roles: Vec<usize>,
    /// Indices into [`Config::limits`].
    pub limits: Vec<usize>,
}

/// `[limits.NAME]`
#[derive(Debug, Clone, PartialEq)]
pub struct Limit {
    /// Its name.
    pub name: Arc<str>,
    /// Who shares a bucket.
    pub per: LimitPer,
    /// The bucket.
    pub rate: Rate,
    /// Count, refuse nothing.
    pub dry_run: bool,
}

/// `limits.NAME.per`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitPer {
    /// The client's address (IPv6: its /64).
    Source,
    /// Who the credential says is asking; the source where nobody is.
    Consumer,
    /// Everybody on the route.
    Route,
    /// Everybody with the same value of this header.
    Header(Arc<str>),
}

/// `[filters.NAME]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Its name.
    pub name: Arc<str>,
    /// Media types (lower case, no parameters) that a request body may have; empty: any.
    pub allow_types: Vec<Arc<str>>,
}

/// `[routes.NAME]`
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Its name.
    pub name: Arc<str>,
    /// Lower-case host names, `*.` for one label; empty: any host.
    pub hosts: Vec<Arc<str>>,
    /// The path pattern as written: literal, `{name}`, trailing `{*rest}`.
    pub path: Arc<str>,
    /// Methods; empty: any.
    pub methods: Vec<Arc<str>>,
    /// Where it goes.
    pub action: Action,
    /// Indices into [`Config::auths`]; empty with `public`.
    pub auths: Vec<usize>,
    /// No credential is asked for.
    pub public: bool,
    /// What a caller needs to be allowed.
    pub permission: Permission,
    /// OAuth scopes that a caller's credential must have, all of them.
    pub scopes: Vec<Arc<str>>,
    /// What must hold, once it is known who asks.
    pub when: Option<Arc<Condition>>,
    /// Indices into [`Config::limits`].
    pub limits: Vec<usize>,
    /// Index into [`Config::filters`].
    pub filter: Option<usize>,
    /// Replaces the listener's `request` timeout.
    pub request_timeout: Option<Duration>,
    /// Replaces the listener's `body_size`.
    pub body_size_bytes: Option<u64>,
    /// What changes on the way to the upstream and back.
    pub rewrite: Option<Arc<Rewrite>>,
    /// Which pages of other origins may read the answers.
    pub cors: Option<Arc<Cors>>,
    /// Content codings that it offers, the best first; empty: off.
    pub compress: Vec<Coding>,
    /// Settings of its WebSockets, or none.
    pub websocket: Option<WebSocket>,
}

/// `routes.NAME.websocket`
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WebSocket {
    /// Pages of these origins may open one, in lower case; empty: `Origin` is not looked at.
    pub origins: Vec<Arc<str>>,
    /// Silence in both directions that ends one, and how long one peer may take to accept what the other said.
    pub idle_timeout: Duration,
}

/// What a route does with a request that may pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Index into [`Config::upstreams`].
    Upstream(usize),
    /// A fixed answer.
    Respond(Arc<Respond>),
    /// Somewhere else.
    Redirect(Arc<Redirect>),
    /// A page of the gateway itself: index into [`Config::auths`], and which of its pages.
    Own(usize, OwnPage),
}

/// `routes.NAME.permission`
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Being known is enough.
    None,
    /// One for all methods.
    All(Arc<str>),
    /// By method; a method that is not listed is refused.
    ByMethod(Vec<(Arc<str>, Arc<str>)>),
}
