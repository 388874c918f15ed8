//! Row 38: what a template makes of a request is one clear thing, or nothing.

use std::path::Path;

use super::{Refusal, Values, push_location, push_response_fields, rewrite};
use crate::{
    config::{self, Action, AuthKind},
    decide::{Policy, PolicyError, testing::token_rules},
};

/// The policy of one route, beside an auth that forwards `X-User`.
fn policy(route: &str) -> Result<Policy, Vec<PolicyError>> {
    let text = format!("[upstreams.u]\nservers = [\"192.0.2.1:80\"]\n[routes.a]\npublic = true\n{route}\n");
    let loaded = config::parse(&text, Path::new("/nonexistent"), &|_| None);
    let mut config = loaded.unwrap_or_else(|errors| panic!("{errors:#?}")).config;
    let forward = vec![("X-User".into(), "sub".into())];
    let mut rules = token_rules();
    rules.claims.forward = forward;
    config.auths.push(config::Auth {
        name: "t".into(),
        forward_credential: false,
        kind: AuthKind::Jwt(Box::new(rules)),
    });
    Policy::compile(&config)
}

fn values<'a>(path: &'a str, query: Option<&'a str>) -> Values<'a> {
    Values {
        path,
        query,
        authority: "Shop.example:8443",
        source: "2001:db8::7".parse().unwrap(),
        consumer: "ann\r\nX-Admin: 1",
        request_id: "id-1",
    }
}

/// A route of `pattern` with this rewrite, met by `path`: path, host and lines that go on.
fn rewritten(pattern: &str, table: &str, path: &str) -> Result<(String, String, String), Refusal> {
    let policy = policy(&format!("path = \"{pattern}\"\nupstream = \"u\"\nrewrite = {table}")).unwrap();
    let mut scratch = Vec::new();
    let done = rewrite(&mut scratch, policy.route(0).unwrap(), &values(path, Some("q=1")))?;
    let owned = |text: Option<&str>| text.unwrap_or("-").to_owned();
    Ok((owned(done.path), owned(done.host), String::from_utf8(done.lines.to_vec()).unwrap()))
}

#[track_caller]
fn path(pattern: &str, template: &str, asked: &str, expected: Result<&str, Refusal>) {
    let done = rewritten(pattern, &format!("{{ path = \"{template}\" }}"), asked);
    assert_eq!(done.map(|(path, ..)| path), expected.map(ToOwned::to_owned), "{template} of {asked}");
}

#[test]
fn paths_are_rewritten() {
    path("/v1/orders/{id}", "/orders/{id}", "/v1/orders/7", Ok("/orders/7"));
    path("/v1/orders/{id}", "/orders/{id}", "/v1/orders/caf%C3%A9", Ok("/orders/caf%C3%A9"));
    path("/v1/{*rest}", "/{*rest}", "/v1/a/b/", Ok("/a/b/"));
    path("/v1/{*rest}", "/{rest}", "/v1/", Ok("/"));
    path("/{a}/{b}", "/{b}/{a}", "/1/2", Ok("/2/1"));
    path("/{a}/{b}", "/x-{a}.json", "/1/2", Ok("/x-1.json"));
    path("/{*rest}", "/base{path}", "/a/b", Ok("/base/a/b"));
    path("/{*rest}", "/fixed", "/a/b", Ok("/fixed"));
    path("/{*rest}", "/t/{host}{path}", "/a", Ok("/t/Shop.example/a"));
    path("/{*rest}", "/fixed", "*", Ok("-"));
}

#[test]
fn row_38_what_is_no_longer_canonical_is_refused() {
    path("/v1/{a}/{*rest}", "/{rest}/{a}", "/v1/a/", Err(Refusal::UnclearRewrite));
    path("/v1/{a}/{*rest}", "/{a}/..{rest}", "/v1/a/", Err(Refusal::UnclearRewrite));
    path("/v1/{a}/{*rest}", "/{a}/..{rest}", "/v1/a/b", Ok("/a/..b"));
    path("/v1/{*rest}", "/.{rest}", "/v1/", Err(Refusal::UnclearRewrite));
    path("/v1/{a}/{b}", "/{a}{b}", "/v1/x/%20y", Ok("/x%20y"));
}

#[test]
fn a_host_is_a_host() {
    let host = |template: &str, path: &str| {
        rewritten("/{id}", &format!("{{ set_headers = {{ Host = \"{template}\" }} }}"), path)
    };
    assert_eq!(host("app.internal", "/1").unwrap().1, "app.internal");
    assert_eq!(host("{host}", "/1").unwrap().1, "Shop.example");
    assert_eq!(host("{id}.internal:8080", "/eu").unwrap().1, "eu.internal:8080");
    for evil in ["/a@b", "/a:80", "/a%20b", "/a,b"] {
        assert_eq!(host("{id}.internal", evil), Err(Refusal::UnclearRewrite), "{evil}");
    }
}

#[test]
fn fields_are_filled_in_and_stay_one_line_each() {
    let table = "{ set_headers = { X-Who = \"{consumer}@{source}\" }, add_headers = { X-Id = \"{request_id} {id} {query}\" } }";
    let (_, host, lines) = rewritten("/{id}", table, "/7").unwrap();
    assert_eq!(host, "-");
    assert_eq!(lines, "X-Id: id-1 7 q=1\r\nX-Who: ann  X-Admin: 1@2001:db8::7\r\n");
}

#[test]
fn fields_of_the_response_are_filled_in() {
    let policy = policy(
        "path = \"/\"\nupstream = \"u\"\n\
         rewrite = { response = { set_headers = { Server = \"us\" }, add_headers = { Via-Host = \"{host}\" }, remove_headers = [\"X-Powered-By\"] } }",
    )
    .unwrap();
    let route = policy.route(0).unwrap();
    assert!(route.adds_response_fields());
    assert_eq!(*route.response_removed, ["x-powered-by".into(), "server".into()]);
    let mut lines = Vec::new();
    push_response_fields(&mut lines, route, &values("/", None));
    assert_eq!(lines, b"Via-Host: Shop.example\r\nServer: us\r\n");
}

#[track_caller]
fn location(to: &str, path: &str, query: Option<&str>, expected: Result<&str, Refusal>) {
    let policy = policy(&format!("path = \"/{{a}}/{{*rest}}\"\nredirect = \"{to}\"")).unwrap();
    let Action::Redirect(redirect) = &policy.route(0).unwrap().action else { panic!("it redirects") };
    let mut line = Vec::new();
    let done =
        push_location(&mut line, redirect, &values(path, query)).map(|()| String::from_utf8(line).unwrap());
    assert_eq!(done, expected.map(|url| format!("Location: {url}\r\n")), "{to}");
}

#[test]
fn locations_are_filled_in() {
    location("https://{host}{path}", "/a/b", Some("q=1"), Ok("https://Shop.example/a/b?q=1"));
    location("https://{host}:8443{path}", "/a/b", None, Ok("https://Shop.example:8443/a/b"));
    location("https://new.example/x", "/a/b", Some("q"), Ok("https://new.example/x?q"));
    location("https://new.example", "/a/b", None, Ok("https://new.example/"));
    location("/x/{rest}?from={a}&{query}", "/a/b", Some("q=1"), Ok("/x/b?from=a&q=1"));
    location("/x?", "/a/b", Some("q=1"), Ok("/x"));
    location("{path}", "/a/b", Some("<\"\\>"), Ok("/a/b?%3C%22%5C%3E"));
}

/// A path that begins with `//` names a host (RFC 3986 §4.2).
#[test]
fn no_value_becomes_a_host() {
    location("/{rest}/{a}", "/evil.example/", None, Ok("/evil.example"));
    location("/{rest}/{a}", "/@evil.example/", None, Ok("/@evil.example"));
    location("/{rest}", "/a/", None, Ok("/"));
    location("/..{rest}", "/b/", None, Err(Refusal::UnclearRewrite));
    location("/..{rest}", "/b/c", None, Ok("/..c"));
}

#[test]
fn what_can_never_come_out_well_is_refused_at_load() {
    let fault = |route: &str| policy(route).err().map(|errors| errors[0].to_string()).unwrap_or_default();
    assert!(fault("path = \"/\"\nupstream = \"u\"\nrewrite = { path = \"/a;b\" }").contains("canonical"));
    assert!(fault("path = \"/\"\nredirect = \"/a;b\"").contains("canonical"));
    let host = "path = \"/\"\nupstream = \"u\"\nrewrite = { set_headers = { host = \"a b\" } }";
    assert!(fault(host).contains("a host that is none"), "{}", fault(host));
    let identity = "path = \"/\"\nupstream = \"u\"\nrewrite = { set_headers = { X-User = \"root\" } }";
    assert!(fault(identity).contains("who is asking"), "{}", fault(identity));
}
