//! Raw tables into a [`Config`]: defaults, bounds, names, and what only makes sense together.
//!
//! Comes in: the main file as a source of the report. Goes out: a `Config`, or nothing when a file could not even be
//! read; after a mistake the `Config` is incomplete and must not be used. Nothing here knows serde.

use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;

use super::{
    auth::{CONSUMER_BYTES_MAX, is_consumer},
    env::Env,
    files,
    raw::{Field, Named, RawFile},
    read,
    report::{Report, Scope, did_you_mean},
    types::Config,
    values::Span,
};

mod edge;
mod logs;
mod escalation;
mod feeds;
mod under_attack;
mod pem;
mod listener;
mod listener_tls;
mod upstream;
mod upstream_tls;
mod servers;
mod auth;
mod access;
mod route;
mod pattern;
mod reshape;
mod conditions;
mod cors;
mod websocket;

pub(super) use servers::server_address;

/// The only version of the contract so far.
const VERSION: u64 = 1;

/// Names become labels, file names and arguments.
const NAME_BYTES_MAX: usize = 64;

/// Every declared name, by section, in the order in which `Config` holds the things themselves: that of the names.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) upstreams: Vec<String>,
    pub(super) auth: Vec<String>,
    pub(super) roles: Vec<String>,
    pub(super) limits: Vec<String>,
    pub(super) filters: Vec<String>,
}

/// A raw file and the source that it came from.
struct Part {
    source: usize,
    raw: RawFile,
}

/// Reads `main` and what it includes, and compiles them together.
pub(super) fn config(report: &mut Report, main: usize, env: Env<'_>) -> Option<Config> {
    let mut parts = read_parts(report, main, env)?;
    check_versions(report, &parts);

    let runtime = single(report, &mut parts, "runtime", |f| &mut f.runtime);
    let prefilter = single(report, &mut parts, "prefilter", |f| &mut f.prefilter);
    let escalation = single(report, &mut parts, "escalation", |f| &mut f.escalation);
    let under_attack = single(report, &mut parts, "under_attack", |f| &mut f.under_attack);
    let log = single(report, &mut parts, "log", |f| &mut f.log);
    let trace = single(report, &mut parts, "trace", |f| &mut f.trace);
    let fleet = single(report, &mut parts, "fleet", |f| &mut f.fleet);
    let listeners = gather(report, &mut parts, "listeners", |f| &mut f.listeners);
    let upstreams = gather(report, &mut parts, "upstreams", |f| &mut f.upstreams);
    let auths = gather(report, &mut parts, "auth", |f| &mut f.auth);
    let roles = gather(report, &mut parts, "roles", |f| &mut f.roles);
    let consumers = gather(report, &mut parts, "consumers", |f| &mut f.consumers);
    let limits = gather(report, &mut parts, "limits", |f| &mut f.limits);
    let contracts = gather(report, &mut parts, "contracts", |f| &mut f.contracts);
    let filters = gather(report, &mut parts, "filters", |f| &mut f.filters);
    let routes = gather(report, &mut parts, "routes", |f| &mut f.routes);

    let names = Names {
        upstreams: names_of(&upstreams),
        auth: names_of(&auths),
        roles: names_of(&roles),
        limits: names_of(&limits),
        filters: names_of(&filters),
    };
    for (at, _) in &contracts {
        report.error(at.here(), format!("`{}` is not supported yet", at.path));
    }
    if let Some((at, trace)) = trace {
        report.later(&at, &[("otlp", &trace.otlp)]);
    }
    if let Some((at, fleet)) = fleet {
        report.later(&at, &[("redis", &fleet.redis)]);
    }

    let (listeners, admin) = listener::listeners(report, listeners);
    let roles = access::roles(report, &names, roles);
    let auths = auth::auths(report, auths);
    let mut routes = route::routes(report, &names, &roles, routes);
    routes.extend(auth::own_routes(&auths, &routes));
    Some(Config {
        runtime: edge::runtime(report, runtime),
        prefilter: edge::prefilter(report, prefilter),
        escalation: escalation::escalation(report, escalation),
        under_attack: under_attack::under_attack(report, under_attack),
        listeners,
        admin,
        upstreams: upstream::upstreams(report, upstreams),
        auths,
        consumers: access::consumers(report, &names, consumers),
        limits: access::limits(report, limits),
        filters: access::filters(report, filters),
        routes,
        roles,
        log: logs::log(report, log),
        files: report.fingerprints(),
    })
}

/// The main file and, in lexical order, what it includes.
fn read_parts(report: &mut Report, main: usize, env: Env<'_>) -> Option<Vec<Part>> {
    let mut raw: RawFile = read::tables(report, main, Some(env))?;
    let include = raw.include.take();
    let mut parts = vec![Part { source: main, raw }];
    let mut complete = true;
    for pattern in include.map(Spanned::into_inner).unwrap_or_default() {
        let place = report.place(main, pattern.span());
        let paths = match files::matching(&report.resolve_path(main, pattern.get_ref())) {
            Ok(paths) => paths,
            Err(message) => {
                report.error(place, message);
                continue;
            }
        };
        for path in paths {
            let part = read::open(report, &path, Some(&place))
                .and_then(|source| Some(Part { source, raw: read::tables(report, source, Some(env))? }));
            complete &= part.is_some();
            parts.extend(part);
        }
    }
    for part in parts.iter().skip(1) {
        if let Some(include) = &part.raw.include {
            let place = report.place(part.source, include.span());
            report.error(place, "only the main file includes others");
        }
    }
    // With a file missing, every name in it would be told as unknown.
    complete.then_some(parts)
}

fn check_versions(report: &mut Report, parts: &[Part]) {
    for part in parts {
        if let Some(version) = &part.raw.version
            && *version.get_ref() != VERSION
        {
            let place = report.place(part.source, version.span());
            let message =
                format!("version {} is unknown: this program reads version {VERSION}", version.get_ref());
            report.error(place, message);
        }
    }
}

/// Takes a section that may stand only once, whatever the number of files.
fn single<T>(
    report: &mut Report,
    parts: &mut [Part],
    section: &str,
    pick: fn(&mut RawFile) -> &mut Field<T>,
) -> Option<(Scope, T)> {
    let mut first: Option<(Scope, T)> = None;
    for part in parts {
        let Some(table) = pick(&mut part.raw).take() else { continue };
        let at = Scope { source: part.source, span: table.span(), path: section.to_owned() };
        if let Some((earlier, _)) = &first {
            let message = format!("`[{section}]` stands already at {}", report.show(&earlier.here()));
            report.error(at.here(), message);
        } else {
            first = Some((at, table.into_inner()));
        }
    }
    first
}

/// Takes the things of one section out of all files, in order of their names; each name may stand once.
fn gather<T>(
    report: &mut Report,
    parts: &mut [Part],
    section: &str,
    pick: fn(&mut RawFile) -> &mut Named<T>,
) -> Vec<(Scope, T)> {
    let mut all = Vec::new();
    for part in parts {
        for (name, thing) in std::mem::take(pick(&mut part.raw)) {
            let span = name.span();
            let path = format!("{section}.{}", name.get_ref());
            check_name(
                report,
                &Scope { source: part.source, span: span.clone(), path: section.to_owned() },
                &name,
            );
            all.push((Scope { source: part.source, span, path }, thing));
        }
    }
    // Stable: of two things of one name, the one that was read first stays first.
    all.sort_by(|(a, _), (b, _)| a.path.cmp(&b.path));
    all.dedup_by(|(second, _), (first, _)| {
        let same = second.path == first.path;
        if same {
            let message = format!("`{}` stands already at {}", second.path, report.show(&first.here()));
            report.error(second.here(), message);
        }
        same
    });
    all
}

fn check_name(report: &mut Report, section: &Scope, name: &Spanned<String>) {
    let text = name.get_ref();
    // A consumer is called as its credential calls it.
    if section.path == "consumers" {
        if !is_consumer(text) {
            let message = format!(
                "{text:?} is not a name for `consumers`: at most {CONSUMER_BYTES_MAX} bytes, no control characters"
            );
            report.error(section.at(name), message);
        }
        return;
    }
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !plain {
        let message = format!(
            "{text:?} is not a name for `{}`: use letters, digits, `_`, `-` and `.`, at most {NAME_BYTES_MAX}",
            section.path
        );
        report.error(section.at(name), message);
    }
}

fn names_of<T>(things: &[(Scope, T)]) -> Vec<String> {
    things.iter().map(|(at, _)| at.name().to_owned()).collect()
}

impl Report {
    /// The index of the thing of this name, or a mistake with what was probably meant.
    fn index(
        &mut self,
        at: &Scope,
        section: &str,
        names: &[String],
        name: &Spanned<String>,
    ) -> Option<usize> {
        let found = names.binary_search(name.get_ref()).ok();
        let was_dropped =
            || self.was_dropped(section) || self.was_dropped(&format!("{section}.{}", name.get_ref()));
        if found.is_none() && !was_dropped() {
            let message =
                format!("`{}` names `{}`, but there is no `[{section}.{1}]`", at.path, name.get_ref());
            self.error_with_hint(at.at(name), message, did_you_mean(name.get_ref(), names));
        }
        found
    }

    /// The indices of several names; a name that stands twice is a mistake.
    fn indices(
        &mut self,
        at: &Scope,
        section: &str,
        names: &[String],
        list: Option<Spanned<Vec<Spanned<String>>>>,
    ) -> Vec<usize> {
        let mut indices = Vec::new();
        for name in list.map(Spanned::into_inner).unwrap_or_default() {
            match self.index(at, section, names, &name) {
                Some(index) if indices.contains(&index) => {
                    self.error(at.at(&name), format!("`{}` names `{name}` twice", at.path));
                }
                index => indices.extend(index),
            }
        }
        indices
    }

    /// A number within bounds, or the default.
    fn number(
        &mut self,
        at: &Scope,
        key: &str,
        value: Option<&Spanned<u64>>,
        default: u64,
        bounds: RangeInclusive<u64>,
    ) -> u64 {
        let Some(value) = value else { return default };
        let number = *value.get_ref();
        if !bounds.contains(&number) {
            let message =
                format!("`{}.{key}` is {number}, not {} to {}", at.path, bounds.start(), bounds.end());
            self.error(at.at(value), message);
        }
        number
    }

    /// [`Report::number`] for what fits into 32 bits.
    fn number_u32(
        &mut self,
        at: &Scope,
        key: &str,
        value: Option<&Spanned<u64>>,
        default: u32,
        bounds: RangeInclusive<u32>,
    ) -> u32 {
        let wide = u64::from(*bounds.start())..=u64::from(*bounds.end());
        let number = self.number(at, key, value, u64::from(default), wide);
        u32::try_from(number).unwrap_or(default)
    }

    /// [`Report::number`] for a count of things in memory.
    fn count(
        &mut self,
        at: &Scope,
        key: &str,
        value: Option<&Spanned<u64>>,
        default: u32,
        bounds: RangeInclusive<u32>,
    ) -> usize {
        self.number_u32(at, key, value, default, bounds) as usize
    }

    /// A duration above zero, or the default.
    fn duration(
        &mut self,
        at: &Scope,
        key: &str,
        value: Option<&Spanned<Span>>,
        default: Duration,
    ) -> Duration {
        let Some(value) = value else { return default };
        let duration = value.get_ref().0;
        if duration.is_zero() {
            self.error(at.at(value), format!("`{}.{key}` must be longer than nothing", at.path));
        }
        duration
    }

    /// Address prefixes; a single address is a prefix of full length.
    fn prefixes(&mut self, at: &Scope, key: &str, list: Option<Spanned<Vec<Spanned<String>>>>) -> Vec<IpNet> {
        let mut prefixes = Vec::new();
        for text in list.map(Spanned::into_inner).unwrap_or_default() {
            match parse_prefix(text.get_ref()) {
                Ok(prefix) => prefixes.push(prefix),
                Err(problem) => {
                    let message = format!("`{}.{key}` holds {:?}, which {problem}", at.path, text.get_ref());
                    self.error(at.at(&text), message);
                }
            }
        }
        prefixes
    }
}

fn parse_prefix(text: &str) -> Result<IpNet, String> {
    let prefix: IpNet = text
        .parse()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
        .map_err(|_| "is not an address prefix such as 192.0.2.0/24 or 2001:db8::/32".to_owned())?;
    if prefix.trunc() == prefix {
        Ok(prefix)
    } else {
        Err(format!("has bits set behind its prefix: write {}", prefix.trunc()))
    }
}
