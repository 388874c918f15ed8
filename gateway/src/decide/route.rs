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
//! It never allocates for a request, and never takes longer than one visit of each node of one tree per host pattern.

use std::{cmp::Ordering, sync::Arc};

use super::PolicyError;
use crate::{codec::path::canonical, config};

/// Longest path pattern, in segments; bounds the depth of the tree and so of the walk.
pub const PATTERN_SEGMENTS_MAX: usize = 64;

/// All routes, compiled.
#[derive(Debug, Default)]
pub struct Router {
    /// Lower-case host names, sorted.
    exact: Vec<(Box<str>, Node)>,
    /// What follows `*.`, lower case, sorted.
    wildcard: Vec<(Box<str>, Node)>,
    any: Node,
}

/// Why no route takes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Miss<'r> {
    /// No route has this host and path.
    NoRoute,
    /// Routes have the host and path, none the method.
    MethodNotAllowed {
        /// One of those routes: the first in the order of the file.
        route: u16,
        /// What they take, as the value of `Allow`.
        allow: &'r Arc<str>,
    },
}

/// What may follow one prefix of segments.
#[derive(Debug, Default)]
struct Node {
    /// Sorted by segment.
    literals: Vec<(Box<str>, Node)>,
    name: Option<Box<Node>>,
    rest: Option<Leaf>,
    here: Option<Leaf>,
}

/// The routes of one host and path.
#[derive(Debug, Default)]
struct Leaf {
    by_method: Vec<(Arc<str>, u16)>,
    any_method: Option<u16>,
    /// Value of `Allow`; unused with `any_method`.
    allow: Arc<str>,
}

impl Router {
    /// Compiles routes; their indices are their places in `routes`.
    ///
    /// # Errors
    /// Every pattern that is not valid and every pair of routes of which neither is more specific.
    pub fn compile(routes: &[config::Route]) -> Result<Router, Vec<PolicyError>> {
        let mut router = Router::default();
        let mut errors = Vec::new();
        for (route, index) in routes.iter().zip(0u16..) {
            match segments_of(&route.path) {
                Ok(segments) => router.insert(routes, route, index, &segments, &mut errors),
                Err(reason) => errors.push(PolicyError::Path { route: route.name.clone(), reason }),
            }
        }
        errors.dedup();
        if errors.is_empty() { Ok(router) } else { Err(errors) }
    }

    /// The route for `method` on `path` at `authority`.
    ///
    /// `authority` is a host with or without a port, in any case; `path` starts with a slash or is `*`.
    ///
    /// # Errors
    /// No route has the host and path, or none of those that have takes the method.
    pub fn find(&self, authority: &str, path: &str, method: &str) -> Result<u16, Miss<'_>> {
        let path = if path == "*" { "/" } else { path };
        let below_root = path.strip_prefix('/').ok_or(Miss::NoRoute)?;
        let leaf = self.trees(host_of(authority)).find_map(|tree| tree.find(Some(below_root)));
        leaf.ok_or(Miss::NoRoute)?.pick(method)
    }

    /// Trees of the patterns that match `host`, the most specific first.
    fn trees<'r>(&'r self, host: &str) -> impl Iterator<Item = &'r Node> {
        let exact = child(&self.exact, |name| cmp_ignore_case(name, host));
        let wildcard = host
            .split_once('.')
            .filter(|(label, _)| !label.is_empty())
            .and_then(|(_, parent)| child(&self.wildcard, |name| cmp_ignore_case(name, parent)));
        exact.into_iter().chain(wildcard).chain([&self.any])
    }

    fn insert(
        &mut self,
        routes: &[config::Route],
        route: &config::Route,
        index: u16,
        segments: &[Segment<'_>],
        errors: &mut Vec<PolicyError>,
    ) {
        let mut add_to = |tree: &mut Node| {
            if let Err(first) = tree.leaf_mut(segments).add(index, &route.methods) {
                let first =
                    routes.get(usize::from(first)).map_or_else(|| route.name.clone(), |r| r.name.clone());
                errors.push(PolicyError::SameRoute { first, second: route.name.clone() });
            }
        };
        if route.hosts.is_empty() {
            add_to(&mut self.any);
        }
        for host in &route.hosts {
            let name = host.to_ascii_lowercase();
            let name = name.strip_suffix('.').unwrap_or(&name);
            let (table, name) = match name.strip_prefix("*.") {
                Some(parent) => (&mut self.wildcard, parent),
                None => (&mut self.exact, name),
            };
            add_to(child_mut(table, name));
        }
        for reason in route.hosts.iter().filter_map(|host| host_fault(host)) {
            errors.push(PolicyError::Host { route: route.name.clone(), reason });
        }
    }
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

impl Node {
    /// The leaf for what is left of a path after this node's segment; `None` where nothing is left.
    fn find(&self, rest: Option<&str>) -> Option<&Leaf> {
        let Some(rest) = rest else { return self.here.as_ref() };
        let (segment, below) = match rest.split_once('/') {
            Some((segment, below)) => (segment, Some(below)),
            None => (rest, None),
        };
        child(&self.literals, |literal| literal.cmp(segment))
            .and_then(|node| node.find(below))
            .or_else(|| self.name.as_ref().filter(|_| !segment.is_empty())?.find(below))
            .or(self.rest.as_ref())
    }

    fn leaf_mut(&mut self, segments: &[Segment<'_>]) -> &mut Leaf {
        match segments {
            [] => self.here.get_or_insert_default(),
            [Segment::Rest, ..] => self.rest.get_or_insert_default(),
            [Segment::Name, below @ ..] => self.name.get_or_insert_default().leaf_mut(below),
            [Segment::Literal(text), below @ ..] => child_mut(&mut self.literals, text).leaf_mut(below),
        }
    }
}

impl Leaf {
    /// Adds a route, or names the one that takes the same method here already.
    fn add(&mut self, route: u16, methods: &[Arc<str>]) -> Result<(), u16> {
        if methods.is_empty() {
            return match self.any_method.replace(route) {
                Some(first) => Err(first),
                None => Ok(()),
            };
        }
        for method in methods {
            if let Some((_, first)) =
                self.by_method.iter().find(|(taken, first)| taken == method && *first != route)
            {
                return Err(*first);
            }
            self.by_method.push((method.clone(), route));
        }
        self.allow = allow_of(&self.by_method);
        Ok(())
    }

    fn pick(&self, method: &str) -> Result<u16, Miss<'_>> {
        let listed =
            |wanted: &str| self.by_method.iter().find(|(m, _)| **m == *wanted).map(|(_, route)| *route);
        // RFC 9110 §9.3.2: HEAD is GET without the content of the answer.
        let as_get = || if method == "HEAD" { listed("GET") } else { None };
        listed(method).or_else(as_get).or(self.any_method).ok_or(Miss::MethodNotAllowed {
            route: self.by_method.iter().map(|(_, route)| *route).min().unwrap_or_default(),
            allow: &self.allow,
        })
    }
}

/// RFC 9110 §10.2.1: every method once, `HEAD` beside `GET`.
fn allow_of(by_method: &[(Arc<str>, u16)]) -> Arc<str> {
    let mut methods: Vec<&str> = by_method.iter().map(|(method, _)| &**method).collect();
    if methods.contains(&"GET") {
        methods.push("HEAD");
    }
    methods.sort_unstable();
    methods.dedup();
    methods.join(", ").into()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Segment<'p> {
    Literal(&'p str),
    Name,
    Rest,
}

/// A path pattern, taken apart; or what is wrong with it.
fn segments_of<'p>(pattern: &'p str) -> Result<Vec<Segment<'p>>, &'static str> {
    let below_root = pattern.strip_prefix('/').ok_or("must start with a slash")?;
    if pattern.contains(['?', '#']) {
        return Err("a query or a fragment is no part of a path");
    }
    let texts: Vec<&str> = below_root.split('/').collect();
    if texts.len() > PATTERN_SEGMENTS_MAX {
        return Err("has too many segments");
    }
    let last = texts.len() - 1;
    let segment = |(at, text): (usize, &'p str)| match segment_of(text)? {
        Segment::Rest if at < last => Err("{*rest} must be the last segment"),
        Segment::Literal("") if at < last => Err("has an empty segment, which no canonical path has"),
        // What is matched has been through the codec: another spelling would never match, or not as it was meant.
        Segment::Literal(text) if !is_canonical(text) => {
            Err("is not in its canonical form, which requests are matched in")
        }
        segment => Ok(segment),
    };
    texts.into_iter().enumerate().map(segment).collect()
}

fn is_canonical(segment: &str) -> bool {
    let path = format!("/{segment}");
    canonical(&path).is_ok_and(|canonical| *canonical == *path)
}

fn segment_of(text: &str) -> Result<Segment<'_>, &'static str> {
    let Some(inner) = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) else {
        return if text.contains(['{', '}']) {
            Err("a segment is a literal, {name} or {*rest}, never a mixture")
        } else {
            Ok(Segment::Literal(text))
        };
    };
    let (name, segment) = match inner.strip_prefix('*') {
        Some(name) => (name, Segment::Rest),
        None => (inner, Segment::Name),
    };
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || !name.chars().all(is_word) {
        return Err("a name in braces is made of letters, digits, _ and -");
    }
    Ok(segment)
}

fn host_fault(host: &str) -> Option<&'static str> {
    let name = host.strip_prefix("*.").unwrap_or(host);
    if name.contains('*') {
        Some("* stands for one whole label at the start")
    } else if host_of(name).len() != name.strip_suffix('.').unwrap_or(name).len() {
        Some("a host has no port here: the listener has it")
    } else if name.is_empty() {
        Some("is empty")
    } else {
        None
    }
}

/// Both tables, of hosts and of segments, are sorted by the order that `cmp` compares in.
fn child(table: &[(Box<str>, Node)], cmp: impl Fn(&str) -> Ordering) -> Option<&Node> {
    let at = table.binary_search_by(|(name, _)| cmp(name)).ok()?;
    table.get(at).map(|(_, node)| node)
}

fn child_mut<'t>(table: &'t mut Vec<(Box<str>, Node)>, name: &str) -> &'t mut Node {
    let at = match table.binary_search_by(|(n, _)| (**n).cmp(name)) {
        Ok(at) => at,
        Err(at) => {
            table.insert(at, (name.into(), Node::default()));
            at
        }
    };
    #[expect(clippy::indexing_slicing, reason = "the search found `at`, or the line above put it there")]
    &mut table[at].1
}

/// Compares a lower-case name with one in any case.
fn cmp_ignore_case(lower: &str, other: &str) -> Ordering {
    lower.bytes().cmp(other.bytes().map(|b| b.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests;
