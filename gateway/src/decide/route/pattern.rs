//! Host and path patterns, taken apart.
//!
//! Comes in: a pattern of the configuration. Goes out: its segments, or what is wrong with it.

use super::host_of;
use crate::codec::path::canonical;

/// Longest path pattern, in segments; bounds the depth of the tree and so of the walk.
pub(super) const PATTERN_SEGMENTS_MAX: usize = 64;

/// One part of a path pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Segment<'p> {
    Literal(&'p str),
    /// `{name}`
    Name,
    /// `{*rest}`
    Rest,
}

/// A path pattern, taken apart; or what is wrong with it.
pub(super) fn segments_of<'p>(pattern: &'p str) -> Result<Vec<Segment<'p>>, &'static str> {
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

pub(super) fn host_fault(host: &str) -> Option<&'static str> {
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
