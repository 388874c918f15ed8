//! `[runtime]` and `[prefilter]`: sections that stand once.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use toml::Spanned;

use super::feeds;
use crate::config::{
    raw::{Field, RawBucket, RawByteBucket, RawPorts, RawPrefilter, RawRuntime, RawWorkers},
    report::{
        Choice::{self, Works},
        Report, Scope,
    },
    types::{FilterPorts, Prefilter, Rate, Runtime, SynCookies, Workers, XdpMode},
    values::{OrOff, PerSecond, Size},
};

/// Where systemd's `StateDirectory=portcullis` is.
const STATE_DIR: &str = "/var/lib/portcullis";

/// More workers or a higher CPU id than this is a typing error.
const CPUS_MAX: u64 = 1024;

/// Entries of one BPF map; 16 Mi of them take a gigabyte of kernel memory.
const ENTRIES_MAX: u32 = 1 << 24;

/// Tokens that a bucket may hold.
const BURST_MAX: u64 = 1 << 32;
/// Bytes that a bucket must hold: two of the largest frames.
const BURST_BYTES_MIN: u64 = 128 << 10;
/// Bytes that a bucket may hold.
const BURST_BYTES_MAX: u64 = 1 << 40;

/// The longest name of a network interface, without its NUL (linux/if.h, IFNAMSIZ).
const INTERFACE_NAME_BYTES_MAX: usize = 15;

pub(super) fn runtime(report: &mut Report, section: Option<(Scope, RawRuntime)>) -> Runtime {
    let (at, raw) = section.unwrap_or_else(|| absent("runtime"));
    Runtime {
        workers: raw.workers.map_or(Workers::Auto, |w| workers(report, &at, w)),
        connections_max: report.count(
            &at,
            "connections_max",
            raw.connections_max.as_ref(),
            65_536,
            1..=1 << 24,
        ),
        buffer_bytes_max: buffers_max(report, &at, raw.buffers_max.as_ref()),
        drain_timeout: report.duration(
            &at,
            "drain_timeout",
            raw.drain_timeout.as_ref(),
            Duration::from_secs(30),
        ),
        state_dir: raw.state_dir.map_or_else(
            || PathBuf::from(STATE_DIR),
            |directory| report.resolve_path(at.source, directory.get_ref()),
        ),
        resolvers: resolvers(report, &at, raw.resolvers),
    }
}

/// `"192.0.2.53"` or `"192.0.2.53:5353"`.
fn resolvers(report: &mut Report, at: &Scope, list: Field<Vec<Spanned<String>>>) -> Vec<SocketAddr> {
    const DNS_PORT: u16 = 53;
    let mut resolvers = Vec::new();
    for text in list.map(Spanned::into_inner).unwrap_or_default() {
        let address = text.get_ref().parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT));
        match address.or_else(|_| text.get_ref().parse::<SocketAddr>()) {
            Ok(address) if address.port() != 0 && !address.ip().is_unspecified() => resolvers.push(address),
            _ => {
                let message = format!(
                    "`{}.resolvers` holds {:?}, not an address of a DNS server",
                    at.path,
                    text.get_ref()
                );
                report.error(at.at(&text), message);
            }
        }
    }
    resolvers
}

fn buffers_max(report: &mut Report, at: &Scope, value: Option<&Spanned<Size>>) -> usize {
    let bytes = value.map_or(256 << 20, |size| size.get_ref().0);
    if let Some(value) = value
        && !(1 << 20..=1 << 40).contains(&bytes)
    {
        report.error(at.at(value), format!("`{}.buffers_max` must be 1 MiB to 1 TiB", at.path));
    }
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn workers(report: &mut Report, at: &Scope, raw: Spanned<RawWorkers>) -> Workers {
    let place = at.at(&raw);
    match raw.into_inner() {
        RawWorkers::Word(_) => Workers::Auto,
        RawWorkers::Count(count) => {
            if !(1..=CPUS_MAX).contains(&count) {
                report.error(place, format!("`runtime.workers` is {count}, not 1 to {CPUS_MAX}"));
            }
            Workers::Count(usize::try_from(count).unwrap_or(usize::MAX))
        }
        RawWorkers::Cpus(cpus) => {
            let mut sorted = cpus.clone();
            sorted.sort_unstable();
            sorted.dedup();
            if cpus.is_empty() || sorted.len() != cpus.len() || cpus.iter().any(|cpu| *cpu >= CPUS_MAX) {
                report.error(
                    place,
                    format!("`runtime.workers` lists CPU ids below {CPUS_MAX}, at least one, each once"),
                );
            }
            Workers::Cpus(cpus.into_iter().map(|cpu| usize::try_from(cpu).unwrap_or(usize::MAX)).collect())
        }
    }
}

pub(super) fn prefilter(report: &mut Report, section: Option<(Scope, RawPrefilter)>) -> Prefilter {
    let (at, raw) = section.unwrap_or_else(|| absent("prefilter"));
    let interfaces_place = raw.interfaces.as_ref().map(|list| at.at(list));
    let interfaces = interfaces(report, &at, raw.interfaces);
    let allow = report.prefixes(&at, "allow", raw.allow);
    if let Some(place) = interfaces_place
        && !interfaces.is_empty()
        && allow.is_empty()
    {
        let hint = "list the addresses that you administer this host from";
        report.warn(
            place,
            "`prefilter.allow` is empty: nothing keeps you from being blocked",
            Some(hint.to_owned()),
        );
    }
    let modes = [
        ("auto", Works(XdpMode::Auto)),
        ("native", Works(XdpMode::Native)),
        ("generic", Works(XdpMode::Generic)),
    ];
    let on_failure = [("refuse", Works(true)), ("continue", Works(false))];
    let malformed = [("drop", Works(true)), ("pass", Works(false))];
    let syn_cookies = [
        ("off", Works(SynCookies::Off)),
        ("auto", Works(SynCookies::Auto)),
        ("always", Works(SynCookies::Always)),
    ];
    Prefilter {
        interfaces,
        mode: choose_or(report, &at, "mode", raw.mode, &modes, XdpMode::Auto),
        required: choose_or(report, &at, "on_failure", raw.on_failure, &on_failure, true),
        dry_run: raw.dry_run.is_some_and(Spanned::into_inner),
        pin_dir: raw
            .pin_dir
            .map_or_else(|| PathBuf::from("/sys/fs/bpf/portcullis"), |dir| absolute(report, &at, &dir)),
        ports: raw.ports.map_or(FilterPorts::Listeners, |p| ports(report, &at, p)),
        allow,
        block: report.prefixes(&at, "block", raw.block),
        entries_max: report.number_u32(
            &at,
            "entries_max",
            raw.entries_max.as_ref(),
            1_000_000,
            1..=ENTRIES_MAX,
        ),
        sources_max: report.number_u32(
            &at,
            "sources_max",
            raw.sources_max.as_ref(),
            1_000_000,
            1..=ENTRIES_MAX,
        ),
        source_prefix_v4: prefix_len(
            report,
            &at,
            "source_prefix_v4",
            raw.source_prefix_v4.as_ref(),
            32,
            8..=32,
        ),
        source_prefix_v6: prefix_len(
            report,
            &at,
            "source_prefix_v6",
            raw.source_prefix_v6.as_ref(),
            64,
            16..=64,
        ),
        packets: bucket_or_off(
            report,
            &at,
            "packets",
            raw.packets,
            Some(Rate { per_s: 20_000.0, burst: 40_000 }),
        ),
        syns: bucket_or_off(report, &at, "syns", raw.syns, Some(Rate { per_s: 200.0, burst: 400 })),
        bytes: byte_bucket_or_off(report, &at, "bytes", raw.bytes),
        network_packets: bucket_or_off(report, &at, "network_packets", raw.network_packets, None),
        network_syns: bucket_or_off(report, &at, "network_syns", raw.network_syns, None),
        network_bytes: byte_bucket_or_off(report, &at, "network_bytes", raw.network_bytes),
        syn_cookies: choose_or(report, &at, "syn_cookies", raw.syn_cookies, &syn_cookies, SynCookies::Off),
        syn_flood_per_s: syn_flood(report, &at, raw.syn_flood.as_ref()),
        drop_malformed: choose_or(report, &at, "malformed", raw.malformed, &malformed, true),
        samples_per_s: match raw.sample.map(Spanned::into_inner) {
            None => 100,
            Some(OrOff::Off) => 0,
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a rate's count is a u32"
            )]
            Some(OrOff::On(rate)) => rate.0.ceil() as u32,
        },
        feeds: feeds::feeds(report, &at, raw.feeds),
    }
}

fn syn_flood(report: &mut Report, at: &Scope, value: Option<&Spanned<PerSecond>>) -> f64 {
    let per_s = value.map_or(2_000.0, |rate| rate.get_ref().0);
    if let Some(value) = value
        && per_s < 1.0
    {
        report.error(at.at(value), format!("`{}.syn_flood` must be at least 1/s", at.path));
    }
    per_s
}

fn interfaces(report: &mut Report, at: &Scope, list: Field<Vec<Spanned<String>>>) -> Vec<String> {
    let mut interfaces: Vec<String> = Vec::new();
    for name in list.map(Spanned::into_inner).unwrap_or_default() {
        let text = name.get_ref();
        let odd = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if text.is_empty() || text.len() > INTERFACE_NAME_BYTES_MAX || text.contains(odd) {
            report.error(at.at(&name), format!("{text:?} cannot be the name of a network interface"));
        } else if interfaces.contains(text) {
            report.error(at.at(&name), format!("`prefilter.interfaces` names `{text}` twice"));
        } else {
            interfaces.push(name.into_inner());
        }
    }
    interfaces
}

fn absolute(report: &mut Report, at: &Scope, dir: &Spanned<String>) -> PathBuf {
    let path = PathBuf::from(dir.get_ref());
    if !path.is_absolute() {
        report.error(at.at(dir), "`prefilter.pin_dir` must be an absolute path in a BPF file system");
    }
    path
}

fn ports(report: &mut Report, at: &Scope, raw: Spanned<RawPorts>) -> FilterPorts {
    let place = at.at(&raw);
    match raw.into_inner() {
        RawPorts::Word(_) => FilterPorts::Listeners,
        RawPorts::Ports(mut ports) => {
            if ports.contains(&0) {
                report.error(place, "`prefilter.ports` holds 0, which is not a port");
            }
            ports.sort_unstable();
            ports.dedup();
            FilterPorts::Ports(ports)
        }
    }
}

fn prefix_len(
    report: &mut Report,
    at: &Scope,
    key: &str,
    value: Option<&Spanned<u64>>,
    default: u32,
    bounds: std::ops::RangeInclusive<u32>,
) -> u8 {
    let length = report.number_u32(at, key, value, default, bounds);
    u8::try_from(length).unwrap_or(u8::MAX)
}

pub(super) fn bucket_or_off(
    report: &mut Report,
    at: &Scope,
    key: &str,
    value: Field<OrOff<RawBucket>>,
    default: Option<Rate>,
) -> Option<Rate> {
    let Some(value) = value else { return default };
    let inner = at.inner(key, &value);
    match value.into_inner() {
        OrOff::Off => None,
        OrOff::On(bucket) => bucket_of(
            report,
            &inner,
            bucket.rate.map(|r| (r.span(), r.into_inner().0)),
            bucket.burst.as_ref(),
        ),
    }
}

/// As [`bucket_or_off`], of bytes and off by default. A burst holds the largest frame, or that would never pass.
fn byte_bucket_or_off(
    report: &mut Report,
    at: &Scope,
    key: &str,
    value: Field<OrOff<RawByteBucket>>,
) -> Option<Rate> {
    let value = value?;
    let inner = at.inner(key, &value);
    let OrOff::On(bucket) = value.into_inner() else { return None };
    let Some(rate) = bucket.rate else {
        report.missing(&inner, "rate", "\"100MiB/s\"");
        return None;
    };
    let bytes_per_s = rate.get_ref().0.get();
    let burst = bucket.burst.as_ref().map_or(bytes_per_s.max(BURST_BYTES_MIN), |burst| burst.get_ref().0);
    if let Some(value) = &bucket.burst
        && !(BURST_BYTES_MIN..=BURST_BYTES_MAX).contains(&burst)
    {
        let message = format!("`{}.burst` must be 128 KiB to 1 TiB: a frame may have 64 KiB", inner.path);
        report.error(inner.at(value), message);
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate past 2^53 bytes a second is none")]
    Some(Rate { per_s: bytes_per_s as f64, burst })
}

/// A bucket of `rate` and `burst`; without a burst, what the rate gives in one second, and at least one.
pub(super) fn bucket_of(
    report: &mut Report,
    at: &Scope,
    rate: Option<(std::ops::Range<usize>, f64)>,
    burst: Option<&Spanned<u64>>,
) -> Option<Rate> {
    let Some((span, per_s)) = rate else {
        report.missing(at, "rate", "\"100/s\"");
        return None;
    };
    if per_s <= 0.0 {
        let place = report.place(at.source, span);
        report.error(place, format!("`{}.rate` must be above zero", at.path));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate's count is a u32")]
    let one_second = (per_s.ceil() as u64).max(1);
    let burst = report.number(at, "burst", burst, one_second, 1..=BURST_MAX);
    Some(Rate { per_s, burst })
}

/// The value of a choice, or its default.
pub(super) fn choose_or<T: Copy>(
    report: &mut Report,
    at: &Scope,
    key: &str,
    word: Field<String>,
    choices: &[(&str, Choice<T>)],
    default: T,
) -> T {
    word.and_then(|word| report.choose(at, key, &word, choices)).unwrap_or(default)
}

/// A section that nobody wrote: all of it is default, so that its place is never shown.
pub(super) fn absent<T: Default>(section: &str) -> (Scope, T) {
    (Scope { source: 0, span: 0..0, path: section.to_owned() }, T::default())
}
