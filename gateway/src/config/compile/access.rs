//! `[roles.*]`, `[consumers.*]`, `[limits.*]` and `[filters.*]`: who may do what, and how much.

use std::sync::Arc;

use toml::Spanned;

use crate::config::{
    permissions::is_held,
    raw::{RawConsumer, RawFilter, RawLimit, RawRole},
    report::{
        Choice::{Later, Works},
        Report, Scope,
    },
    types::{Consumer, Filter, Limit, LimitPer, Rate, Role},
};

use super::{Names, edge::bucket_of};

/// Roles with their own permissions and those that they inherit, each once, in the order in which they are met.
pub(super) fn roles(report: &mut Report, names: &Names, raw: Vec<(Scope, RawRole)>) -> Vec<Role> {
    let mut own: Vec<Vec<Arc<str>>> = Vec::new();
    let mut inherits: Vec<Vec<usize>> = Vec::new();
    let mut scopes: Vec<Scope> = Vec::new();
    for (at, raw) in raw {
        inherits.push(report.indices(&at, "roles", &names.roles, raw.inherits));
        let permissions = raw.permissions.map(Spanned::into_inner).unwrap_or_default();
        own.push(permissions.iter().filter_map(|p| permission(report, &at, p)).collect());
        scopes.push(at);
    }
    for (start, at) in scopes.iter().enumerate() {
        // Told once per circle: at its first role by name.
        if let Some(circle) = circle_through(start, &inherits)
            && circle.iter().all(|role| *role >= start)
        {
            let path: Vec<&str> =
                circle.iter().chain([&start]).filter_map(|i| Some(scopes.get(*i)?.name())).collect();
            report.error(at.here(), format!("roles inherit in a circle: {}", path.join(" → ")));
        }
    }
    scopes
        .iter()
        .enumerate()
        .map(|(i, at)| {
            let all = with_inherited(i, &inherits);
            let mut permissions: Vec<Arc<str>> = Vec::new();
            for permission in all.iter().filter_map(|role| own.get(*role)).flatten() {
                if !permissions.contains(permission) {
                    permissions.push(permission.clone());
                }
            }
            Role { name: at.name().into(), permissions, inherits: all.into_iter().skip(1).collect() }
        })
        .collect()
}

/// The roles on a shortest way from `start` back to itself, `start` first.
fn circle_through(start: usize, inherits: &[Vec<usize>]) -> Option<Vec<usize>> {
    let mut came_from: Vec<Option<usize>> = vec![None; inherits.len()];
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(role) = queue.pop_front() {
        for next in inherits.get(role)? {
            if *next == start {
                let mut circle = vec![role];
                let mut at = role;
                while at != start {
                    at = (*came_from.get(at)?)?;
                    circle.push(at);
                }
                circle.reverse();
                return Some(circle);
            }
            let seen = came_from.get_mut(*next)?;
            if seen.is_none() {
                *seen = Some(role);
                queue.push_back(*next);
            }
        }
    }
    None
}

/// The role itself and those that it inherits from, each once, in the order in which they are met.
fn with_inherited(start: usize, inherits: &[Vec<usize>]) -> Vec<usize> {
    let mut met = Vec::new();
    let mut visited = vec![false; inherits.len()];
    let mut stack = vec![start];
    while let Some(role) = stack.pop() {
        let Some(visited) = visited.get_mut(role) else { continue };
        if std::mem::replace(visited, true) {
            continue;
        }
        met.push(role);
        stack.extend(inherits.get(role).into_iter().flatten().rev());
    }
    met
}

/// A permission as a role holds it.
fn permission(report: &mut Report, at: &Scope, text: &Spanned<String>) -> Option<Arc<str>> {
    let name = text.get_ref().as_str();
    if is_held(name) {
        return Some(name.into());
    }
    report
        .error(at.at(text), format!("{name:?} is not a permission: write `orders:read`, `orders:*` or `*`"));
    None
}

pub(super) fn consumers(report: &mut Report, names: &Names, raw: Vec<(Scope, RawConsumer)>) -> Vec<Consumer> {
    raw.into_iter()
        .map(|(at, raw)| Consumer {
            name: at.name().into(),
            roles: report.indices(&at, "roles", &names.roles, raw.roles),
            limits: report.indices(&at, "limits", &names.limits, raw.limits),
        })
        .collect()
}

pub(super) fn limits(report: &mut Report, raw: Vec<(Scope, RawLimit)>) -> Vec<Limit> {
    raw.into_iter().map(|(at, raw)| limit(report, &at, raw)).collect()
}

fn limit(report: &mut Report, at: &Scope, raw: RawLimit) -> Limit {
    let later = [("quota", &raw.quota), ("concurrency", &raw.concurrency), ("adaptive", &raw.adaptive)];
    report.later(at, &later);
    if let Some(store) = raw.store {
        report.choose(at, "store", &store, &[("local", Works(())), ("fleet", Later)]);
    }
    if let Some(on_failure) = raw.on_store_failure {
        let choices = [("local", Works(())), ("allow", Later), ("deny", Later)];
        report.choose(at, "on_store_failure", &on_failure, &choices);
    }
    // What asks for a quota or a concurrency only is told so already; a missing rate would confuse.
    let asks_for_other = raw.quota.is_some() || raw.concurrency.is_some();
    let rate = match raw.rate.map(|rate| (rate.span(), rate.into_inner().0)) {
        None if asks_for_other => None,
        rate => bucket_of(report, at, rate, raw.burst.as_ref()),
    };
    Limit {
        name: at.name().into(),
        per: raw.per.and_then(|per| limit_per(report, at, &per)).unwrap_or(LimitPer::Source),
        rate: rate.unwrap_or(Rate { per_s: 1.0, burst: 1 }),
        dry_run: raw.dry_run.is_some_and(Spanned::into_inner),
    }
}

/// The words that `limits.NAME.per` may be.
#[derive(Debug, Clone, Copy)]
enum Per {
    Source,
    Consumer,
    Route,
}

fn limit_per(report: &mut Report, at: &Scope, per: &Spanned<String>) -> Option<LimitPer> {
    if let Some(name) = per.get_ref().strip_prefix("header:") {
        if is_header_name(name) {
            return Some(LimitPer::Header(name.to_ascii_lowercase().into()));
        }
        report.error(at.at(per), format!("`{}.per` names {name:?}, which is not a header name", at.path));
        return None;
    }
    if per.get_ref().starts_with("claim:") {
        report.error(at.at(per), format!("`{}.per = {:?}` is not supported yet", at.path, per.get_ref()));
        return None;
    }
    let choices = [
        ("source", Works(Per::Source)),
        ("consumer", Works(Per::Consumer)),
        ("route", Works(Per::Route)),
        ("header:NAME", Later),
    ];
    report.choose(at, "per", per, &choices).map(|per| match per {
        Per::Source => LimitPer::Source,
        Per::Consumer => LimitPer::Consumer,
        Per::Route => LimitPer::Route,
    })
}

/// A field name is a token (RFC 9110 section 5.1).
pub(super) fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

pub(super) fn filters(report: &mut Report, raw: Vec<(Scope, RawFilter)>) -> Vec<Filter> {
    raw.into_iter()
        .map(|(at, raw)| {
            let later = [
                ("mode", &raw.mode),
                ("injection", &raw.injection),
                ("rules", &raw.rules),
                ("json", &raw.json),
                ("graphql", &raw.graphql),
            ];
            report.later(&at, &later);
            let types = raw.allow_types.map(Spanned::into_inner).unwrap_or_default();
            Filter {
                name: at.name().into(),
                allow_types: types.iter().filter_map(|t| media_type(report, &at, t)).collect(),
            }
        })
        .collect()
}

/// `type/subtype`, without parameters (RFC 9110 section 8.3.1).
fn media_type(report: &mut Report, at: &Scope, text: &Spanned<String>) -> Option<Arc<str>> {
    let well_formed =
        text.get_ref().split_once('/').is_some_and(|(kind, sub)| is_header_name(kind) && is_header_name(sub));
    if well_formed && !text.get_ref().contains('*') {
        return Some(text.get_ref().to_ascii_lowercase().into());
    }
    let message =
        format!("{:?} is not a media type such as \"application/json\", without parameters", text.get_ref());
    report.error(at.at(text), message);
    None
}
