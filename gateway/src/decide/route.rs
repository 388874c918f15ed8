//! Which route takes a request: the most specific one, whatever the order in the file.
//!
//! Comes in: authority, canonical path and method of a request. Goes out: the route's index, or why there is none.
//! Hosts are tried from exact over `*.` (one label) to any; within a host, paths are matched by whole segments from
//! the left, a literal before `{name}` before `{*rest}`. The first host that has a path for the request decides:
//! a method that it does not take is a 405 there and never falls through to a less specific route, which might ask
//! for less. Where a host has no path for the request, the next less specific host is asked.
//!
//! - `{name}` takes exactly one segment and never an empty one.
//! - `{*rest}` takes what is left, also the empty segment after a final slash: `/files/{*rest}` takes `/files/` and
//!   `/files/a/b`, not `/files`; `/{*rest}` takes every path.
//! - `/orders` and `/orders/` are two paths.
//! - `HEAD` goes where `GET` goes unless a route lists it. A route that lists the method wins over one for any method.
//! - `OPTIONS *` is routed as `/` (RFC 9110 §9.3.7: it asks about the server as a whole).
//!
//! It never allocates for a request, and never takes longer than one visit of each node of one tree per host pattern;
//! how many routes there are beside those that match does not count (`tree`).

use std::{collections::BTreeMap, sync::Arc};

use super::PolicyError;
use crate::config;
use pattern::{Segment, host_fault, segments_of};
use tree::{ANY, EXACT, Growing, NodeId, Tree, WILDCARD};

mod pattern;
mod tree;

/// A route's place in the configuration.
pub type RouteId = u32;

/// No host name is longer, nor an address.
const HOST_BYTES_MAX: usize = 255;

/// All routes, compiled.
#[derive(Debug)]
pub struct Router {
    tree: Tree,
    /// What its leaves refer to.
    methods: Box<[Methods]>,
}

/// Why no route takes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Miss<'r> {
    /// No route has this host and path.
    NoRoute,
    /// Routes have the host and path, none the method.
    MethodNotAllowed {
        /// One of those routes: the first in the order of the file.
        route: RouteId,
        /// What they take, as the value of `Allow`.
        allow: &'r Arc<str>,
    },
}

/// The routes of one host and path: small, since there are as many as routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Leaf {
    /// Index into the router's methods.
    methods: u32,
    /// The first of them; the others are told as their distance from it.
    first: RouteId,
}

/// Which methods the routes of a leaf take. Leaves that are alike in this share it.
#[derive(Debug)]
struct Methods {
    by_method: Box<[(Arc<str>, u32)]>,
    any_method: Option<u32>,
    /// Value of `Allow`; unused with `any_method`.
    allow: Arc<str>,
}

/// The routes of one host and path while they are gathered: their methods (none: any) and who takes each.
type Claims = Vec<(Option<Arc<str>>, RouteId)>;

impl Router {
    /// Compiles routes; their ids are their places in `routes`.
    ///
    /// # Errors
    /// Every pattern that is not valid and every pair of routes of which neither is more specific.
    pub fn compile(routes: &[config::Route]) -> Result<Router, Vec<PolicyError>> {
        let mut tree = Growing::new();
        let mut errors = Vec::new();
        for (route, id) in routes.iter().zip(0..) {
            match segments_of(&route.path) {
                Ok(segments) => insert(&mut tree, routes, (route, id), &segments, &mut errors),
                Err(reason) => errors.push(PolicyError::Path { route: route.name.clone(), reason }),
            }
        }
        errors.dedup();
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut known = BTreeMap::new();
        let mut methods = Vec::new();
        let tree = tree.lay_out(|claims| {
            let first = claims.iter().map(|(_, route)| *route).min()?;
            let claims: Claims =
                claims.iter().map(|(method, route)| (method.clone(), route - first)).collect();
            let methods = *known.entry(claims).or_insert_with_key(|claims| {
                methods.push(Methods::of(claims));
                methods.len() - 1
            });
            Some(Leaf { methods: u32::try_from(methods).ok()?, first })
        });
        Ok(Router { tree, methods: methods.into() })
    }

    /// The route for `method` on `path` at `authority`.
    ///
    /// `authority` is a host with or without a port, in any case; `path` starts with a slash or is `*`.
    ///
    /// # Errors
    /// No route has the host and path, or none of those that have takes the method.
    pub fn find(&self, authority: &str, path: &str, method: &str) -> Result<RouteId, Miss<'_>> {
        let path = if path == "*" { "/" } else { path };
        let below_root = path.strip_prefix('/').ok_or(Miss::NoRoute)?;
        let mut buffer = [0; HOST_BYTES_MAX];
        let host = lower_case(&mut buffer, host_of(authority));
        let leaf = self.roots(host).find_map(|root| self.tree.find(root, Some(below_root)));
        let leaf = leaf.ok_or(Miss::NoRoute)?;
        let methods = self.methods.get(leaf.methods as usize).ok_or(Miss::NoRoute)?;
        match methods.pick(method) {
            Some(distance) => Ok(leaf.first + distance),
            None => Err(Miss::MethodNotAllowed { route: leaf.first, allow: &methods.allow }),
        }
    }

    /// Roots of the paths of those patterns that match `host`, the most specific first.
    fn roots(&self, host: &[u8]) -> impl Iterator<Item = NodeId> {
        let exact = self.tree.literal(EXACT, host);
        let parent = || {
            let dot = host.iter().position(|byte| *byte == b'.').filter(|dot| *dot > 0)?;
            self.tree.literal(WILDCARD, host.get(dot + 1..)?)
        };
        [exact, parent(), Some(ANY)].into_iter().flatten()
    }
}

fn insert(
    tree: &mut Growing,
    routes: &[config::Route],
    (route, id): (&config::Route, RouteId),
    segments: &[Segment<'_>],
    errors: &mut Vec<PolicyError>,
) {
    let mut roots = Vec::new();
    if route.hosts.is_empty() {
        roots.push(ANY);
    }
    for host in &route.hosts {
        let name = host.to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        roots.push(match name.strip_prefix("*.") {
            Some(parent) => tree.literal(WILDCARD, parent),
            None => tree.literal(EXACT, name),
        });
    }
    for root in roots {
        if let Err(first) = add(tree.claims(root, segments), id, &route.methods) {
            let first = routes.get(first as usize).map_or_else(|| route.name.clone(), |r| r.name.clone());
            errors.push(PolicyError::SameRoute { first, second: route.name.clone() });
        }
    }
    for reason in route.hosts.iter().filter_map(|host| host_fault(host)) {
        errors.push(PolicyError::Host { route: route.name.clone(), reason });
    }
}

/// Adds a route, or names the one that takes the same method here already.
fn add(claims: &mut Claims, route: RouteId, methods: &[Arc<str>]) -> Result<(), RouteId> {
    let any = [None];
    let listed: Vec<_> = methods.iter().cloned().map(Some).collect();
    for method in if methods.is_empty() { &any[..] } else { &listed } {
        match claims.iter().find(|(taken, _)| taken == method) {
            Some((_, first)) if *first == route && method.is_some() => {}
            Some((_, first)) => return Err(*first),
            None => claims.push((method.clone(), route)),
        }
    }
    Ok(())
}

/// The host of an authority: no port, no trailing dot; an IPv6 literal keeps its brackets.
pub fn host_of(authority: &str) -> &str {
    let after_literal = authority.rfind(']').map_or(0, |at| at + 1);
    let host = match authority.get(after_literal..).and_then(|tail| tail.find(':')) {
        Some(colon) => authority.get(..after_literal + colon).unwrap_or(authority),
        None => authority,
    };
    host.strip_suffix('.').unwrap_or(host)
}

impl Methods {
    fn of(claims: &Claims) -> Self {
        let listed = |(method, route): &(Option<Arc<str>>, u32)| Some((method.clone()?, *route));
        let by_method: Box<[_]> = claims.iter().filter_map(listed).collect();
        let any = claims.iter().find(|(method, _)| method.is_none());
        Self { allow: allow_of(&by_method), by_method, any_method: any.map(|(_, route)| *route) }
    }

    /// The distance from the first route to the one that takes `method`.
    fn pick(&self, method: &str) -> Option<u32> {
        let listed =
            |wanted: &str| self.by_method.iter().find(|(m, _)| **m == *wanted).map(|(_, route)| *route);
        // RFC 9110 §9.3.2: HEAD is GET without the content of the answer.
        let as_get = || if method == "HEAD" { listed("GET") } else { None };
        listed(method).or_else(as_get).or(self.any_method)
    }
}

/// RFC 9110 §10.2.1: every method once, `HEAD` beside `GET`.
fn allow_of(by_method: &[(Arc<str>, u32)]) -> Arc<str> {
    let mut methods: Vec<&str> = by_method.iter().map(|(method, _)| &**method).collect();
    if methods.contains(&"GET") {
        methods.push("HEAD");
    }
    methods.sort_unstable();
    methods.dedup();
    methods.join(", ").into()
}

/// A host as patterns are written; one that is too long is none.
fn lower_case<'b>(buffer: &'b mut [u8; HOST_BYTES_MAX], host: &str) -> &'b [u8] {
    let Some(lower) = buffer.get_mut(..host.len()) else { return b"" };
    lower.copy_from_slice(host.as_bytes());
    lower.make_ascii_lowercase();
    lower
}

#[cfg(test)]
mod tests;
