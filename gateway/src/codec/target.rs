//! The request target and the authority (RFC 9112 §3.2, RFC 3986 §3.2).
//!
//! Comes in: the target of a request line, the value of `Host`. Goes out: path, query and authority as parts.
//! An authority is a name, an IPv4 or a bracketed IPv6 address with an optional port: no userinfo, no escapes.
//! It resolves no name, and it keeps the case and the port as they came.

use std::{borrow::Cow, net::Ipv6Addr};

use super::{head::RequestError, path};

/// A request target, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target<'b> {
    /// Canonical path, or `*`.
    pub(crate) path: Cow<'b, str>,
    /// What follows the first `?`, as it came.
    pub(crate) query: Option<&'b str>,
    /// The absolute-form's authority, which wins over `Host`.
    pub(crate) authority: Option<&'b str>,
}

/// Takes a target apart.
pub(crate) fn target<'b>(method: &str, target: &'b str) -> Result<Target<'b>, RequestError> {
    // Above 0x7e: 8-bit bytes pass httparse. `#`: a client keeps its fragment (CVE-2021-32779).
    if target.bytes().any(|byte| !(0x21..0x7f).contains(&byte) || byte == b'#') {
        return Err(RequestError::MalformedTarget);
    }
    if target.starts_with('/') {
        return origin_form(target, None);
    }
    if target == "*" && method == "OPTIONS" {
        return Ok(Target { path: Cow::Borrowed("*"), query: None, authority: None });
    }
    let rest = after_scheme(target).ok_or(RequestError::MalformedTarget)?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (name, rest) = rest.split_at_checked(end).unwrap_or((rest, ""));
    check_authority(name)?;
    if rest.starts_with('/') {
        return origin_form(rest, Some(name));
    }
    // Without a path it is the root, or the server itself (RFC 9112 §3.2.4).
    let path = if method == "OPTIONS" && rest.is_empty() { "*" } else { "/" };
    Ok(Target { path: Cow::Borrowed(path), query: rest.strip_prefix('?'), authority: Some(name) })
}

fn origin_form<'b>(target: &'b str, authority: Option<&'b str>) -> Result<Target<'b>, RequestError> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    Ok(Target { path: path::canonical(path)?, query, authority })
}

fn after_scheme(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    (scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")).then_some(rest)
}

/// Whether this is a host with an optional port, and nothing else.
pub fn is_authority(text: &str) -> bool {
    check_authority(text).is_ok()
}

/// Checks an authority, and why it is none.
pub(crate) fn check_authority(authority: &str) -> Result<(), RequestError> {
    if authority.contains('@') {
        return Err(RequestError::UserinfoInAuthority);
    }
    is_host_and_port(authority).then_some(()).ok_or(RequestError::MalformedHost)
}

fn is_host_and_port(authority: &str) -> bool {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(address, port)| {
            address.parse::<Ipv6Addr>().is_ok()
                && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
        });
    }
    match authority.split_once(':') {
        Some((name, port)) => is_name(name) && is_port(port),
        None => is_name(authority),
    }
}

/// Labels of letters, digits, `-` and `_`; one dot may end them. IPv4 addresses are such names.
fn is_name(name: &str) -> bool {
    let labels = name.strip_suffix('.').unwrap_or(name);
    name.len() <= 255
        && labels.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        })
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests;
