//! `respond`, `redirect` and `rewrite`: what is accepted, and what is refused where and in which words.

use std::path::Path;

use crate::config::Coding;

use super::{accept, parse_in, refuse};

fn route(lines: &str) -> String {
    format!("[routes.a]\npath = \"/a/{{id}}\"\npublic = true\n{lines}\n")
}

fn upstream(lines: &str) -> String {
    format!("{}[upstreams.u]\nservers = [\"192.0.2.1:80\"]\n", route(&format!("upstream = \"u\"\n{lines}")))
}

/// One mistake, which says `part`.
#[track_caller]
fn told(text: &str, part: &str) {
    let errors = parse_in(Path::new("/nonexistent"), text).expect_err("the text should be refused");
    assert!(errors.len() == 1 && errors[0].contains(part), "{errors:#?} instead of {part}");
}

#[test]
fn fixed_answers() {
    accept(&route(
        "respond = { status = 200, body = \"{}\", content_type = \"application/json\", headers = { Cache-Control = \"no-store\", X-Id = \"{id}\" } }",
    ));
    accept(&route("respond = { status = 204 }"));
    refuse(
        &route("respond = { status = 205, body = \"x\" }"),
        &["4:22: `routes.a.respond` has a body, but 205"],
    );
    refuse(
        &route("respond = { status = 200, content_type = \"json\" }"),
        &["4:42: `routes.a.respond.content_type` is not a media type"],
    );
    refuse(
        &route("respond = { status = 200, headers = { Content-Type = \"text/html\" } }"),
        &["4:11: `routes.a.respond.headers` holds Content-Type: write `content_type`"],
    );
    refuse(
        &route("respond = { status = 200, headers = { Content-Length = \"1\" } }"),
        &["4:39: `routes.a.respond.headers` holds \"Content-Length\", which is about one connection"],
    );
}

#[test]
fn redirects() {
    for to in [
        "/b",
        "/b/{id}?x={query}",
        "{path}",
        "https://{host}{path}",
        "http://[::1]:80/x",
        "https://{host}:8443/",
    ] {
        accept(&route(&format!("redirect = \"{to}\"")));
    }
    accept(&route("redirect = { to = \"/b\", status = 301 }"));
    let bad = |to: &str, part: &str| told(&route(&format!("redirect = \"{to}\"")), part);
    bad("b", "4:12: `routes.a.redirect` does not begin with `/`");
    bad("//evil.example/", "4:12: `routes.a.redirect` begins with `//`");
    bad("ftp://a/", "4:12: `routes.a.redirect` does not begin with `/`");
    bad("https:///x", "4:12: `routes.a.redirect` names no host");
    bad("https://{id}.example/", "cannot stand in the host of a URL");
    bad("https://x{host}/", "only as all of its host");
    bad("https://{host}.evil/", "only as all of its host");
    bad("https://{host}@evil/", "names no host");
    bad("https://user@a/", "names no host");
    bad("/b#c", "holds a fragment");
    bad("/b?x y", "a query of other than visible");
    bad("/{consumer}", "cannot stand in a path");
    bad("/{nobody}", "no parameter of the path");
    refuse(
        &route("redirect = { to = \"/b\", status = 200 }"),
        &["4:34: `routes.a.redirect.status` is 200, not one of"],
    );
    refuse(&route("redirect = { status = 301 }"), &["4:12: `routes.a.redirect` needs `to`"]);
    refuse(
        &route("redirect = \"/b\"\nrespond = { status = 200 }"),
        &["4:12: `routes.a` has both `respond` and `redirect`"],
    );
    refuse(&upstream("redirect = \"/b\""), &["5:12: `routes.a` has both `upstream` and `redirect`"]);
}

#[test]
fn codings() {
    let config = accept(&upstream("compress = [\"br\", \"gzip\"]"));
    assert_eq!(config.routes[0].compress, [Coding::Brotli, Coding::Gzip]);
    assert_eq!(accept(&upstream("compress = \"off\"")).routes[0].compress, []);
    told(&upstream("compress = [\"gz\"]"), "`routes.a.compress` cannot be \"gz\"");
    told(&upstream("compress = [\"gzip\", \"gzip\"]"), "`routes.a.compress` holds \"gzip\" twice");
    told(&upstream("compress = \"gzip\""), "compress");
}

#[test]
fn rewrites() {
    accept(&upstream(
        "rewrite = { path = \"/b/{id}\", add_headers = { X-A = \"{consumer}\" }, set_headers = { Host = \"b\", X-B = \"{{}}\" }, remove_headers = [\"Cookie\"], \
         response = { set_headers = { Server = \"x\" }, add_headers = {}, remove_headers = [\"ETag\"] } }",
    ));
    accept(&upstream("rewrite = {}"));
    let bad = |table: &str, part: &str| told(&upstream(&format!("rewrite = {{ {table} }}")), part);
    bad("path = \"b\"", "5:20: `routes.a.rewrite.path` does not begin with `/`");
    bad("path = \"/b?c\"", "holds `?`: the client's query is kept");
    bad("path = \"/b/..\"", "holds the segment `..`");
    bad("path = \"/b/{query}\"", "cannot stand in a path");
    bad("path = \"/b/{idd}\"", "did you mean `id`?");
    for name in ["Connection", "content-length", "Transfer-Encoding", "TE", "Upgrade", "Proxy-Authorization"]
    {
        bad(&format!("set_headers = {{ {name} = \"x\" }}"), "which is about one connection");
        bad(&format!("remove_headers = [\"{name}\"]"), "which is about one connection");
        bad(&format!("response = {{ add_headers = {{ {name} = \"x\" }} }}"), "which is about one connection");
    }
    for name in ["X-Forwarded-For", "forwarded", "X-Request-Id", "Via", "traceparent"] {
        bad(&format!("add_headers = {{ {name} = \"x\" }}"), "which is set by the gateway itself");
    }
    for name in ["Date", "X-Request-Id", "via"] {
        bad(&format!("response = {{ remove_headers = [\"{name}\"] }}"), "which is set by the gateway itself");
    }
    bad("set_headers = { \"X A\" = \"x\" }", "which is not the name of a header");
    bad(
        "set_headers = { X-A = \"a\\r\\nb\" }",
        "`routes.a.rewrite.set_headers.X-A` holds a control character",
    );
    bad("set_headers = { X-A = \"{nobody}\" }", "no parameter of the path");
    bad("add_headers = { host = \"b\" }", "of which there is one");
    bad("remove_headers = [\"Host\"]", "which every request has");
    refuse(
        &route("respond = { status = 200 }\nrewrite = { path = \"/b\" }"),
        &["5:11: `routes.a.rewrite` needs an `upstream`"],
    );
}
