//! What TOML says, key by key: the only types that derive serde.
//!
//! Every field is optional, so that what is missing is told where the meaning is known; every value carries its
//! span, so that a mistake has a place; an unknown key is an error. [`Later`] marks keys of the contract that do not
//! work yet. Defaults and meaning are the business of `compile` and of `config/portcullis.toml`, the manual.

use std::collections::BTreeMap;

use serde::{Deserialize, de::IgnoredAny};
use toml::Spanned;

use super::values::{ByteRate, FlagOr, Later, OrOff, PerSecond, Percent, Size, Span, TextOr};

/// A value with its place, or nothing.
pub(super) type Field<T> = Option<Spanned<T>>;

/// The things of one section, by name.
pub(super) type Named<T> = BTreeMap<Spanned<String>, T>;

/// The whole file, or one that it includes.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawFile {
    pub(super) version: Field<u64>,
    pub(super) include: Field<Vec<Spanned<String>>>,
    pub(super) runtime: Field<RawRuntime>,
    pub(super) prefilter: Field<RawPrefilter>,
    pub(super) escalation: Field<RawEscalation>,
    pub(super) under_attack: Field<RawUnderAttack>,
    pub(super) listeners: Named<RawListener>,
    pub(super) upstreams: Named<RawUpstream>,
    pub(super) auth: Named<RawAuth>,
    pub(super) roles: Named<RawRole>,
    pub(super) consumers: Named<RawConsumer>,
    pub(super) limits: Named<RawLimit>,
    pub(super) contracts: Named<Later>,
    pub(super) filters: Named<RawFilter>,
    pub(super) routes: Named<Box<RawRoute>>,
    pub(super) log: Field<RawLog>,
    pub(super) trace: Field<RawTrace>,
    pub(super) fleet: Field<RawFleet>,
}

/// `[runtime]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawRuntime {
    pub(super) workers: Field<RawWorkers>,
    pub(super) connections_max: Field<u64>,
    pub(super) buffers_max: Field<Size>,
    pub(super) drain_timeout: Field<Span>,
    pub(super) state_dir: Field<String>,
    pub(super) resolvers: Field<Vec<Spanned<String>>>,
}

/// `[prefilter]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawPrefilter {
    pub(super) interfaces: Field<Vec<Spanned<String>>>,
    pub(super) mode: Field<String>,
    pub(super) on_failure: Field<String>,
    pub(super) dry_run: Field<bool>,
    pub(super) pin_dir: Field<String>,
    pub(super) ports: Field<RawPorts>,
    pub(super) allow: Field<Vec<Spanned<String>>>,
    pub(super) block: Field<Vec<Spanned<String>>>,
    pub(super) entries_max: Field<u64>,
    pub(super) sources_max: Field<u64>,
    pub(super) source_prefix_v4: Field<u64>,
    pub(super) source_prefix_v6: Field<u64>,
    pub(super) packets: Field<OrOff<RawBucket>>,
    pub(super) syns: Field<OrOff<RawBucket>>,
    pub(super) bytes: Field<OrOff<RawByteBucket>>,
    pub(super) network_packets: Field<OrOff<RawBucket>>,
    pub(super) network_syns: Field<OrOff<RawBucket>>,
    pub(super) network_bytes: Field<OrOff<RawByteBucket>>,
    pub(super) syn_cookies: Field<String>,
    pub(super) syn_flood: Field<PerSecond>,
    pub(super) malformed: Field<String>,
    pub(super) sample: Field<OrOff<PerSecond>>,
    pub(super) feeds: Field<Named<RawFeed>>,
}

/// `prefilter.feeds.NAME`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table { file, refresh } or { crowdsec, … }")]
pub(super) struct RawFeed {
    pub(super) file: Field<String>,
    pub(super) crowdsec: Field<String>,
    pub(super) api_key_file: Field<String>,
    pub(super) refresh: Field<Span>,
}

/// A token bucket.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table { rate, burst }")]
pub(super) struct RawBucket {
    pub(super) rate: Field<PerSecond>,
    pub(super) burst: Field<u64>,
}

/// A token bucket of bytes.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table { rate, burst }")]
pub(super) struct RawByteBucket {
    pub(super) rate: Field<ByteRate>,
    pub(super) burst: Field<Size>,
}

/// `[escalation]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawEscalation {
    pub(super) dry_run: Field<bool>,
    pub(super) block_for: Field<Span>,
    pub(super) block_max: Field<Span>,
    pub(super) memory: Field<Span>,
    pub(super) exempt: Field<Vec<Spanned<String>>>,
    pub(super) admin_ports: Field<RawAdminPorts>,
    pub(super) known_for: Field<Span>,
    pub(super) throttle: Field<OrOff<RawBucket>>,
    pub(super) unauthorized: Field<OrOff<RawThreshold>>,
    pub(super) forbidden: Field<OrOff<RawThreshold>>,
    pub(super) limited: Field<OrOff<RawThreshold>>,
    pub(super) malformed: Field<OrOff<RawThreshold>>,
    pub(super) attack: Field<OrOff<RawThreshold>>,
    pub(super) not_found: Field<OrOff<RawThreshold>>,
}

/// `[under_attack]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawUnderAttack {
    pub(super) elevated: Field<RawSigns>,
    pub(super) attack: Field<RawSigns>,
    pub(super) calm_after: Field<Span>,
    pub(super) strangers: Field<Percent>,
    pub(super) long_lived: Field<OrOff<Span>>,
}

/// `{ drops, syns, packets }`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table { drops, syns, packets }")]
pub(super) struct RawSigns {
    pub(super) drops: Field<OrOff<PerSecond>>,
    pub(super) syns: Field<OrOff<PerSecond>>,
    pub(super) packets: Field<OrOff<PerSecond>>,
}

/// `{ count, within }`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table { count, within }")]
pub(super) struct RawThreshold {
    pub(super) count: Field<u64>,
    pub(super) within: Field<Span>,
}

/// `[listeners.NAME]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawListener {
    pub(super) kind: Field<String>,
    pub(super) address: Field<String>,
    pub(super) protocols: Field<Vec<Spanned<String>>>,
    pub(super) proxy_protocol_from: Field<Vec<Spanned<String>>>,
    pub(super) trusted_proxies: Field<Vec<Spanned<String>>>,
    pub(super) tls: Field<OrOff<RawTls>>,
    pub(super) timeouts: Field<RawListenerTimeouts>,
    pub(super) limits: Field<RawListenerLimits>,
    pub(super) token_file: Field<Later>,
}

/// `listeners.NAME.tls`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table { certificates, … }")]
pub(super) struct RawTls {
    pub(super) min_version: Field<String>,
    pub(super) certificates: Field<Vec<Spanned<RawCertificate>>>,
    pub(super) client_ca_file: Field<String>,
    pub(super) client_crl_file: Field<String>,
    pub(super) client_auth: Field<String>,
}

/// `listeners.NAME.tls.certificates`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table { chain_file, key_file }")]
pub(super) struct RawCertificate {
    pub(super) chain_file: Field<String>,
    pub(super) key_file: Field<String>,
}

/// `listeners.NAME.timeouts`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawListenerTimeouts {
    pub(super) handshake: Field<Span>,
    pub(super) head: Field<Span>,
    pub(super) body_idle: Field<Span>,
    pub(super) keep_alive: Field<Span>,
    pub(super) request: Field<Span>,
}

/// `listeners.NAME.limits`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawListenerLimits {
    pub(super) connections_per_source: Field<OrOff<u64>>,
    pub(super) head_size: Field<Size>,
    pub(super) headers: Field<u64>,
    pub(super) target_size: Field<Size>,
    pub(super) body_size: Field<Size>,
    pub(super) body_rate_min: Field<OrOff<ByteRate>>,
    pub(super) streams: Field<u64>,
}

/// `[upstreams.NAME]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawUpstream {
    pub(super) servers: Field<Vec<Spanned<TextOr<RawServer>>>>,
    pub(super) protocol: Field<String>,
    pub(super) balance: Field<TextOr<Later>>,
    pub(super) tls: Field<OrOff<RawUpstreamTls>>,
    pub(super) timeouts: Field<RawUpstreamTimeouts>,
    pub(super) connections: Field<RawConnections>,
    pub(super) retry: Field<RawRetry>,
    pub(super) health: Field<OrOff<RawHealth>>,
    pub(super) outlier: Field<Later>,
    pub(super) breaker: Field<Later>,
    pub(super) slow_start: Field<Later>,
    pub(super) proxy_protocol: Field<String>,
}

/// One of `upstreams.NAME.servers` with a weight.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "an address or a table { address, weight }")]
pub(super) struct RawServer {
    pub(super) address: Field<String>,
    pub(super) weight: Field<u64>,
}

/// `upstreams.NAME.tls`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table { ca_file, server_name, … }")]
pub(super) struct RawUpstreamTls {
    pub(super) ca_file: Field<String>,
    pub(super) server_name: Field<String>,
    pub(super) client_chain_file: Field<String>,
    pub(super) client_key_file: Field<String>,
}

/// `upstreams.NAME.timeouts`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawUpstreamTimeouts {
    pub(super) connect: Field<Span>,
    pub(super) head: Field<Span>,
    pub(super) idle: Field<Span>,
}

/// `upstreams.NAME.connections`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawConnections {
    pub(super) per_worker: Field<u64>,
    pub(super) idle_per_worker: Field<u64>,
    pub(super) pending: Field<u64>,
    pub(super) max_age: Field<OrOff<Span>>,
}

/// `upstreams.NAME.retry`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawRetry {
    pub(super) attempts: Field<u64>,
    pub(super) on: Field<Vec<Spanned<String>>>,
    pub(super) budget: Field<OrOff<Percent>>,
}

/// `upstreams.NAME.health`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table { path, interval, … }")]
pub(super) struct RawHealth {
    pub(super) path: Field<String>,
    pub(super) interval: Field<Span>,
    pub(super) timeout: Field<Span>,
    pub(super) healthy: Field<u64>,
    pub(super) unhealthy: Field<u64>,
}

/// `[auth.NAME]`, of any kind.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawAuth {
    pub(super) kind: Field<String>,
    pub(super) store: Field<String>,
    pub(super) header: Field<String>,
    pub(super) query: Field<String>,
    pub(super) issuer: Field<String>,
    pub(super) audiences: Field<Vec<Spanned<String>>>,
    pub(super) algorithms: Field<Vec<Spanned<String>>>,
    pub(super) leeway: Field<Span>,
    pub(super) forward_credential: Field<bool>,
    pub(super) consumer: Field<String>,
    pub(super) roles: Field<String>,
    pub(super) scopes: Field<String>,
    pub(super) forward: Field<BTreeMap<Spanned<String>, Spanned<String>>>,
    pub(super) jwks_file: Field<String>,
    pub(super) jwks_url: Field<String>,
    pub(super) ca_file: Field<String>,
    pub(super) key_file: Field<String>,
    pub(super) endpoint: Field<String>,
    pub(super) client_id: Field<String>,
    pub(super) client_secret_file: Field<String>,
    pub(super) cache: Field<Span>,
    pub(super) timeout: Field<Span>,
    pub(super) on_failure: Field<String>,
    pub(super) callback: Field<String>,
    pub(super) logout: Field<String>,
    pub(super) after_logout: Field<String>,
    pub(super) cookie_key_file: Field<String>,
    pub(super) request_scopes: Field<Vec<Spanned<String>>>,
    pub(super) session: Field<Span>,
    pub(super) file: Field<String>,
}

/// `[roles.NAME]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawRole {
    pub(super) inherits: Field<Vec<Spanned<String>>>,
    pub(super) permissions: Field<Vec<Spanned<String>>>,
}

/// `[consumers.NAME]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawConsumer {
    pub(super) roles: Field<Vec<Spanned<String>>>,
    pub(super) limits: Field<Vec<Spanned<String>>>,
}

/// `[limits.NAME]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLimit {
    pub(super) per: Field<String>,
    pub(super) rate: Field<PerSecond>,
    pub(super) burst: Field<u64>,
    pub(super) store: Field<String>,
    pub(super) on_store_failure: Field<String>,
    pub(super) dry_run: Field<bool>,
    pub(super) quota: Field<Later>,
    pub(super) concurrency: Field<Later>,
    pub(super) adaptive: Field<Later>,
}

/// `[filters.NAME]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawFilter {
    pub(super) mode: Field<Later>,
    pub(super) injection: Field<Later>,
    pub(super) rules: Field<Later>,
    pub(super) allow_types: Field<Vec<Spanned<String>>>,
    pub(super) json: Field<Later>,
    pub(super) graphql: Field<Later>,
}

/// `[routes.NAME]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawRoute {
    pub(super) hosts: Field<Vec<Spanned<String>>>,
    pub(super) path: Field<String>,
    pub(super) methods: Field<Vec<Spanned<String>>>,
    pub(super) match_headers: Field<Later>,
    pub(super) upstream: Field<String>,
    pub(super) split: Field<Later>,
    pub(super) mirror: Field<Later>,
    pub(super) auth: Field<Vec<Spanned<String>>>,
    pub(super) public: Field<bool>,
    pub(super) permission: Field<TextOr<BTreeMap<Spanned<String>, Spanned<String>>>>,
    pub(super) scopes: Field<Vec<Spanned<String>>>,
    pub(super) when: Field<String>,
    pub(super) limits: Field<Vec<Spanned<String>>>,
    pub(super) contract: Field<Later>,
    pub(super) filter: Field<String>,
    pub(super) timeouts: Field<RawRouteTimeouts>,
    pub(super) body_size: Field<Size>,
    pub(super) rewrite: Field<RawRewrite>,
    pub(super) cors: Field<RawCors>,
    pub(super) websocket: Field<FlagOr<RawWebSocket>>,
    pub(super) compress: Field<OrOff<Vec<Spanned<String>>>>,
    pub(super) cache: Field<Later>,
    pub(super) translate: Field<Later>,
    pub(super) redirect: Field<TextOr<RawRedirect>>,
    pub(super) respond: Field<RawRespond>,
}

/// `routes.NAME.timeouts`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawRouteTimeouts {
    pub(super) request: Field<Span>,
}

/// `routes.NAME.websocket`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "true, false or a table { origins, idle_timeout }")]
pub(super) struct RawWebSocket {
    pub(super) origins: Field<Vec<Spanned<String>>>,
    pub(super) idle_timeout: Field<Span>,
}

/// `routes.NAME.respond`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table { status, body }")]
pub(super) struct RawRespond {
    pub(super) status: Field<u64>,
    pub(super) body: Field<String>,
    pub(super) content_type: Field<String>,
    pub(super) headers: Field<BTreeMap<Spanned<String>, Spanned<String>>>,
}

/// `routes.NAME.cors`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table { origins, methods, … }")]
pub(super) struct RawCors {
    pub(super) origins: Field<Vec<Spanned<String>>>,
    pub(super) methods: Field<Vec<Spanned<String>>>,
    pub(super) headers: Field<Vec<Spanned<String>>>,
    pub(super) expose: Field<Vec<Spanned<String>>>,
    pub(super) credentials: Field<bool>,
    pub(super) max_age: Field<Span>,
}

/// `routes.NAME.redirect` with a status.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a URL or a table { to, status }")]
pub(super) struct RawRedirect {
    pub(super) to: Field<String>,
    pub(super) status: Field<u64>,
}

/// `routes.NAME.rewrite`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table { path, set_headers, … }")]
pub(super) struct RawRewrite {
    pub(super) path: Field<String>,
    pub(super) add_headers: Field<BTreeMap<Spanned<String>, Spanned<String>>>,
    pub(super) set_headers: Field<BTreeMap<Spanned<String>, Spanned<String>>>,
    pub(super) remove_headers: Field<Vec<Spanned<String>>>,
    pub(super) response: Field<RawFieldEdits>,
}

/// `routes.NAME.rewrite.response`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table { set_headers, … }")]
pub(super) struct RawFieldEdits {
    pub(super) add_headers: Field<BTreeMap<Spanned<String>, Spanned<String>>>,
    pub(super) set_headers: Field<BTreeMap<Spanned<String>, Spanned<String>>>,
    pub(super) remove_headers: Field<Vec<Spanned<String>>>,
}

/// `[log]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLog {
    pub(super) level: Field<String>,
    pub(super) access: Field<TextOr<RawAccessFile>>,
    pub(super) audit: Field<TextOr<RawAuditFile>>,
}

/// `log.access` with a file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "\"off\", \"stdout\" or a table { file }")]
pub(super) struct RawAccessFile {
    pub(super) file: Field<String>,
    pub(super) fields: Field<Later>,
    pub(super) sample: Field<Later>,
}

/// `log.audit` with a file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "\"off\" or a table { file, … }")]
pub(super) struct RawAuditFile {
    pub(super) file: Field<String>,
    pub(super) sign_key_file: Field<String>,
    pub(super) checkpoint: Field<Span>,
    pub(super) rotate: Field<OrOff<Size>>,
    pub(super) on_failure: Field<String>,
}

/// `[trace]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawTrace {
    pub(super) otlp: Field<Later>,
    pub(super) sample: Field<IgnoredAny>,
}

/// `[fleet]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawFleet {
    pub(super) redis: Field<Later>,
}

/// `runtime.workers`
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "it is \"auto\", a number of workers or a list of CPU ids")]
pub(super) enum RawWorkers {
    Word(Auto),
    Count(u64),
    Cpus(Vec<u64>),
}

/// "auto"
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Auto {
    Auto,
}

/// `prefilter.ports`
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "it is \"listeners\" or a list of port numbers")]
pub(super) enum RawPorts {
    Word(OfListeners),
    Ports(Vec<u16>),
}

/// "listeners"
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OfListeners {
    Listeners,
}

/// `escalation.admin_ports`
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "it is \"unlimited\" or a list of port numbers")]
pub(super) enum RawAdminPorts {
    Word(Unlimited),
    Ports(Vec<u16>),
}

/// "unlimited"
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Unlimited {
    Unlimited,
}
