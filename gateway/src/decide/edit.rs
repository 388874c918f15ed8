//! What a route changes in a request or answers to it, with the request's values filled in.
//!
//! Comes in: a route's templates and what a request says. Goes out: bytes at the end of the caller's buffer. What is
//! a path is made canonical, or has to be so already, once it has been filled in: no value brings in a segment that
//! was not checked (attacks, row 38). It never allocates for a request whose path is plainly canonical.

use std::{io::Write as _, net::IpAddr};

use super::{Refusal, policy::RoutePolicy, route::host_of};
use crate::{
    codec::{self, path::canonical, target::check_authority},
    config::{Piece, Placeholder, Redirect, Respond, Template},
};

/// What a request says, for templates.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    /// Its canonical path.
    pub path: &'a str,
    /// Its query, without credentials.
    pub query: Option<&'a str>,
    /// Its authority.
    pub authority: &'a str,
    /// Whom it counts as.
    pub source: IpAddr,
    /// Who is asking; empty where nobody is known.
    pub consumer: &'a str,
    /// Its id.
    pub request_id: &'a str,
}

/// What a route changes in a request, filled in.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rewritten<'s> {
    /// The path to send.
    pub path: Option<&'s str>,
    /// `Host` to send.
    pub host: Option<&'s str>,
    /// Fields to send, each with its CRLF.
    pub lines: &'s [u8],
}

/// Fills in what `route` changes in a request. `scratch` is empty, and holds what the answer refers to.
///
/// # Errors
/// The path or the host that came of it has another meaning than it was checked for.
pub fn rewrite<'s>(
    scratch: &'s mut Vec<u8>,
    route: &RoutePolicy,
    values: &Values<'_>,
) -> Result<Rewritten<'s>, Refusal> {
    let Some(rewrite) = &route.rewrite else { return Ok(Rewritten::default()) };
    // `OPTIONS *` has no path to change.
    if let Some(path) = rewrite.path.as_ref().filter(|_| values.path != "*") {
        fill_in(scratch, path, values);
    }
    let path_bytes = scratch.len();
    if let Some(host) = &rewrite.host {
        fill_in(scratch, host, values);
    }
    let host_bytes = scratch.len() - path_bytes;
    push_fields(scratch, &rewrite.request.add, values);
    push_fields(scratch, &rewrite.request.set, values);
    let (path, rest) = scratch.split_at_checked(path_bytes).unwrap_or_default();
    let (host, lines) = rest.split_at_checked(host_bytes).unwrap_or_default();
    let text = |bytes| str::from_utf8(bytes).map_err(|_| Refusal::UnclearRewrite);
    let (path, host) = (text(path)?, text(host)?);
    let is_clear = path.is_empty() || canonical(path).is_ok_and(|canonical| canonical == path);
    if !is_clear || (!host.is_empty() && check_authority(host).is_err()) {
        return Err(Refusal::UnclearRewrite);
    }
    Ok(Rewritten {
        path: Some(path).filter(|path| !path.is_empty()),
        host: rewrite.host.as_ref().map(|_| host),
        lines,
    })
}

/// Appends the fields that `route` adds to the upstream's responses.
pub fn push_response_fields(out: &mut Vec<u8>, route: &RoutePolicy, values: &Values<'_>) {
    if let Some(rewrite) = &route.rewrite {
        push_fields(out, &rewrite.response.add, values);
        push_fields(out, &rewrite.response.set, values);
    }
}

/// Appends the fields of a fixed answer.
pub fn push_answer_fields(out: &mut Vec<u8>, respond: &Respond, values: &Values<'_>) {
    if !respond.body.is_empty() {
        codec::push_field_line(out, "Content-Type", |out| push(out, &respond.content_type));
    }
    push_fields(out, &respond.headers, values);
}

/// Appends the field that says where to go instead.
///
/// # Errors
/// The path that came of it has no canonical form.
pub fn push_location(out: &mut Vec<u8>, redirect: &Redirect, values: &Values<'_>) -> Result<(), Refusal> {
    let mut path = Vec::new();
    fill_in(&mut path, &redirect.path, values);
    let path = str::from_utf8(&path).map_err(|_| Refusal::UnclearRewrite)?;
    // `//` would begin a host (RFC 3986 §4.2); the canonical form has none.
    let path = canonical(path).map_err(|_| Refusal::UnclearRewrite)?;
    codec::push_field_line(out, "Location", |out| {
        fill_in(out, &redirect.origin, values);
        push(out, &path);
        let start = out.len();
        match &redirect.query {
            None => push(out, values.query.unwrap_or_default()),
            Some(query) => fill_in(out, query, values),
        }
        escape_query(out, start);
    });
    Ok(())
}

/// Puts a `?` before the query that begins at `start`, and escapes what a URI cannot hold (RFC 3986 §3.4).
fn escape_query(out: &mut Vec<u8>, start: usize) {
    let query: &[u8] = out.get(start..).unwrap_or_default();
    if query.is_empty() {
        return;
    }
    let escaped: Vec<u8> = query
        .iter()
        .flat_map(|&byte| {
            let kept = byte.is_ascii_graphic() && !b"\"#<>\\^`{|}".contains(&byte);
            let digit = |nibble: u8| b"0123456789ABCDEF".get(usize::from(nibble)).copied().unwrap_or(b'0');
            let bytes = if kept { [byte, 0, 0] } else { [b'%', digit(byte >> 4), digit(byte & 15)] };
            bytes.into_iter().take(if kept { 1 } else { 3 })
        })
        .collect();
    out.truncate(start);
    out.push(b'?');
    out.extend_from_slice(&escaped);
}

fn push_fields(out: &mut Vec<u8>, fields: &[(std::sync::Arc<str>, Template)], values: &Values<'_>) {
    for (name, template) in fields {
        codec::push_field_line(out, name, |out| fill_in(out, template, values));
    }
}

fn fill_in(out: &mut Vec<u8>, template: &Template, values: &Values<'_>) {
    for piece in &template.0 {
        match piece {
            Piece::Text(text) => push(out, text),
            Piece::Value(Placeholder::Segment(at)) => {
                push(out, segments(values.path).nth(*at).unwrap_or_default());
            }
            Piece::Value(Placeholder::Rest(at)) => push(out, below(values.path, *at)),
            Piece::Value(Placeholder::Path) => push(out, values.path),
            Piece::Value(Placeholder::Query) => push(out, values.query.unwrap_or_default()),
            Piece::Value(Placeholder::Host) => push(out, host_of(values.authority)),
            Piece::Value(Placeholder::Consumer) => push(out, values.consumer),
            Piece::Value(Placeholder::RequestId) => push(out, values.request_id),
            // Writing to a vector does not fail.
            Piece::Value(Placeholder::Source) => {
                let _ = write!(out, "{}", values.source);
            }
        }
    }
}

fn push(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').unwrap_or_default().split('/')
}

/// What is left of a path behind its first `count` segments.
fn below(path: &str, count: usize) -> &str {
    path.strip_prefix('/').unwrap_or_default().splitn(count + 1, '/').nth(count).unwrap_or_default()
}

#[cfg(test)]
mod tests;
