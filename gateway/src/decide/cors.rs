//! Cross-origin reads (the Fetch standard, "HTTP extensions for cross-origin requests").
//!
//! Comes in: a route's rules and the `Origin` of a request. Goes out: the fields by which a browser lets a page read
//! the answer, or none. A preflight is routed by the method that it asks about and answered by us, before anybody
//! has to be known: browsers send no credentials with it. What is told without an `Origin`, or with one that is not
//! allowed, carries none of these fields but `Vary`, so that no cache mixes the two up.

use super::{
    authn::Presented,
    policy::Policy,
    route::{Miss, RouteId},
};
use crate::{
    codec::{self, RequestHead},
    config::{Cors, OriginPattern, Origins},
};

/// Fields that only we may set on a route with rules of its own.
pub(super) const FIELDS: [&str; 6] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "access-control-max-age",
];

/// The route whose rules answer this request, where it is a preflight: the one that would take the real request.
pub(super) fn preflight_route(policy: &Policy, head: &RequestHead<'_, '_>) -> Option<RouteId> {
    if head.method != "OPTIONS" || head.headers.get("origin").is_none() {
        return None;
    }
    let Presented::One(method) = Presented::of(head.headers.all("access-control-request-method")) else {
        return None;
    };
    let method = str::from_utf8(method).ok()?;
    let route = match policy.router.find(head.authority, &head.path, method) {
        // Where no route has the method, any of them says which there are.
        Ok(route) | Err(Miss::MethodNotAllowed { route, .. }) => route,
        Err(Miss::NoRoute) => return None,
    };
    policy.route(route).filter(|policy| policy.cors.is_some()).map(|_| route)
}

/// Whether the page that asks may read the answer.
pub fn is_allowed(cors: &Cors, head: &RequestHead<'_, '_>) -> bool {
    match &cors.origins {
        Origins::Any => true,
        Origins::Listed(_) => allowed_origin(cors, head).is_some(),
    }
}

/// Appends what every answer on the route says, its refusals among them: a page has to see why.
pub fn push_fields(out: &mut Vec<u8>, cors: &Cors, head: &RequestHead<'_, '_>) {
    push_origin(out, cors, head, "Origin");
    if is_allowed(cors, head) {
        push_some(out, "Access-Control-Expose-Headers", &cors.expose);
    }
}

/// Appends what answers a preflight of an origin that is allowed.
pub fn push_preflight_fields(out: &mut Vec<u8>, cors: &Cors, head: &RequestHead<'_, '_>) {
    push_origin(out, cors, head, "Origin, Access-Control-Request-Method");
    push_some(out, "Access-Control-Allow-Methods", &cors.methods);
    push_some(out, "Access-Control-Allow-Headers", &cors.headers);
    push_some(out, "Access-Control-Max-Age", &cors.max_age);
}

fn push_origin(out: &mut Vec<u8>, cors: &Cors, head: &RequestHead<'_, '_>, vary: &str) {
    let Origins::Listed(_) = &cors.origins else {
        return push_some(out, "Access-Control-Allow-Origin", "*");
    };
    push_some(out, "Vary", vary);
    if let Some(origin) = allowed_origin(cors, head) {
        codec::push_field_line(out, "Access-Control-Allow-Origin", |out| out.extend_from_slice(origin));
        push_some(out, "Access-Control-Allow-Credentials", if cors.credentials { "true" } else { "" });
    }
}

fn push_some(out: &mut Vec<u8>, name: &str, value: &str) {
    if !value.is_empty() {
        codec::push_field_line(out, name, |out| out.extend_from_slice(value.as_bytes()));
    }
}

/// The request's one origin, where the list holds it.
fn allowed_origin<'b>(cors: &Cors, head: &RequestHead<'_, 'b>) -> Option<&'b [u8]> {
    let Presented::One(origin) = Presented::of(head.headers.all("origin")) else { return None };
    let Origins::Listed(listed) = &cors.origins else { return None };
    listed.iter().any(|pattern| matches(pattern, origin)).then_some(origin)
}

/// Scheme and host know no case, and the port is a number: so all of it is compared without case.
fn matches(pattern: &OriginPattern, origin: &[u8]) -> bool {
    match pattern {
        OriginPattern::Exact(exact) => origin.eq_ignore_ascii_case(exact.as_bytes()),
        OriginPattern::OneLabel(before, after) => {
            let Some(label_bytes) = origin.len().checked_sub(before.len() + after.len()) else {
                return false;
            };
            let (scheme, rest) = origin.split_at_checked(before.len()).unwrap_or_default();
            let (label, parent) = rest.split_at_checked(label_bytes).unwrap_or_default();
            !label.is_empty()
                && label.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
                && scheme.eq_ignore_ascii_case(before.as_bytes())
                && parent.eq_ignore_ascii_case(after.as_bytes())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{OriginPattern, matches};

    #[track_caller]
    fn check(pattern: &OriginPattern, origin: &str, expected: bool) {
        assert_eq!(matches(pattern, origin.as_bytes()), expected, "{origin} by {pattern:?}");
    }

    #[test]
    fn origins_match_as_a_whole() {
        let exact = OriginPattern::Exact("https://shop.example.com:8443".into());
        check(&exact, "https://shop.example.com:8443", true);
        check(&exact, "HTTPS://Shop.Example.Com:8443", true);
        for other in [
            "https://shop.example.com",
            "https://shop.example.com:84430",
            "http://shop.example.com:8443",
            "https://shop.example.com:8443/",
            "https://shop.example.com.evil:8443",
            " https://shop.example.com:8443",
            "null",
            "",
        ] {
            check(&exact, other, false);
        }
        check(&OriginPattern::Exact("null".into()), "null", true);
    }

    #[test]
    fn a_star_is_one_label() {
        let below = OriginPattern::OneLabel("https://".into(), ".example.com".into());
        check(&below, "https://a.example.com", true);
        check(&below, "https://A-1.Example.COM", true);
        for other in [
            "https://example.com",
            "https://.example.com",
            "https://a.b.example.com",
            "https://evil.com/.example.com",
            "https://evil.com#.example.com",
            "https://evil.com:80.example.com",
            "https://user@a.example.com",
            "http://a.example.com",
            "https://a.example.com:8443",
            "https://aexample.com",
        ] {
            check(&below, other, false);
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_no_host_of_another_domain_matches(origin in "(https://)?[a-z.:@/#-]{0,20}(.example.com)?.{0,3}") {
            let below = OriginPattern::OneLabel("https://".into(), ".example.com".into());
            if matches(&below, origin.as_bytes()) {
                let label = origin.strip_prefix("https://").and_then(|rest| rest.strip_suffix(".example.com"));
                prop_assert!(label.is_some_and(|label| !label.contains(['.', ':', '@', '/', '#'])));
            }
        }
    }
}
