//! What a route answers by itself and what it changes: `respond`, `redirect`, `rewrite`.

use xtask::lab::{client::Request, scripted::Scripted};

use crate::support::{Edge, HELLO, TIME_MAX, answering};

const UPSTREAM: &str = "[runtime]\nworkers = 1\n\
    [upstreams.app]\nservers = [\"{upstream}\"]\nbalance = \"round_robin\"\nhealth = \"off\"\n";

fn head(upstream: &Scripted) -> String {
    String::from_utf8(upstream.next_head(TIME_MAX).expect("a request reaches the upstream")).unwrap()
}

#[test]
fn a_fixed_answer_has_its_type_and_fields_and_no_body_where_none_belongs() {
    let upstream = answering(HELLO);
    let edge = Edge::start(
        upstream.address(),
        "[routes.json]\npath = \"/json/{id}\"\npublic = true\n\
         respond = { status = 410, body = \"{}\", content_type = \"application/json\", headers = { X-Id = \"{id}\" } }\n\
         [routes.none]\npath = \"/none\"\npublic = true\nrespond = { status = 304, headers = { ETag = '\"a\"' } }\n",
    );
    let mut client = edge.connect();
    let gone = client.request(&Request::get("/json/7")).unwrap();
    assert_eq!((gone.status, gone.text().as_str(), gone.header("x-id")), (410, "{}", Some("7")));
    assert_eq!(gone.header("content-type"), Some("application/json"));
    let head = client.request(&Request { method: "HEAD", ..Request::get("/json/7") }).unwrap();
    assert_eq!((head.header("content-length"), head.body.len()), (Some("2"), 0));
    let none = client.request(&Request::get("/none")).unwrap();
    assert_eq!((none.status, none.header("content-type"), none.header("content-length")), (304, None, None));
    assert_eq!(client.request(&Request::get("/json/8")).unwrap().header("x-id"), Some("8"), "it goes on");
}

#[test]
fn a_redirect_leads_where_the_route_says_and_nowhere_else() {
    let upstream = answering(HELLO);
    let edge = Edge::start(
        upstream.address(),
        "[routes.https]\npath = \"/{*rest}\"\npublic = true\nredirect = \"https://{host}{path}\"\n\
         [routes.old]\npath = \"/old/{a}/{*rest}\"\npublic = true\nredirect = { to = \"/{rest}/{a}\", status = 302 }\n",
    );
    let to = |target: &str| {
        let response = edge.get(target, &[]);
        (response.status, response.header("location").unwrap_or_default().to_owned())
    };
    assert_eq!(to("/a/b?q=1"), (308, "https://localhost/a/b?q=1".into()));
    assert_eq!(to("/a%0d%0aX:1").0, 400, "an escaped line end is no path");
    assert_eq!(to("/?a=%0d%0aX:1"), (308, "https://localhost/?a=%0d%0aX:1".into()), "it stays escaped");
    assert_eq!(to("/old/evil.example/"), (302, "/evil.example".into()), "no `//evil.example`");
    assert_eq!(to("//evil.example/%2e%2e"), (308, "https://localhost/".into()));
    assert_eq!(upstream.accepted(), 0);
}

#[test]
fn a_request_is_rewritten_on_its_way_and_so_is_its_response() {
    let upstream = answering(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: secret/1.0\r\nX-Powered-By: it\r\nX-Kept: 1\r\n\r\nok",
    );
    let edge = Edge::start(
        upstream.address(),
        &format!(
            "{UPSTREAM}[routes.a]\npath = \"/v1/orders/{{id}}\"\npublic = true\nupstream = \"app\"\n\
             [routes.a.rewrite]\npath = \"/orders/{{id}}\"\nremove_headers = [\"Cookie\"]\n\
             add_headers = {{ X-Tag = \"two\" }}\nset_headers = {{ Host = \"app.internal\", X-From = \"{{source}} {{host}}\" }}\n\
             response = {{ set_headers = {{ Server = \"edge {{id}}\" }}, add_headers = {{ X-Kept = \"2\" }}, remove_headers = [\"x-powered-by\"] }}\n"
        ),
    );
    let headers = [("cookie", "c=1"), ("x-from", "forged"), ("x-tag", "one"), ("x_from", "forged")];
    let response = edge.get("/v1/orders/caf%c3%a9?q=1", &headers);
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    assert_eq!((response.header("server"), response.header("x-powered-by")), (Some("edge caf%C3%A9"), None));
    let kept: Vec<_> =
        response.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-kept")).collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    let head = head(&upstream);
    assert!(head.starts_with("GET /orders/caf%C3%A9?q=1 HTTP/1.1\r\nHost: app.internal\r\n"), "{head}");
    assert!(head.contains("\r\nX-From: 127.0.0.1 localhost\r\n") && !head.contains("forged"), "{head}");
    assert!(head.contains("\r\nx-tag: one\r\n") && head.contains("\r\nX-Tag: two\r\n"), "{head}");
    assert!(
        head.contains("X-Forwarded-Host: localhost\r\n") && !head.to_lowercase().contains("cookie"),
        "{head}"
    );
}

/// Row 38. The next request on the same connection is served: nothing was wrong with its framing.
#[test]
fn a_rewrite_that_would_change_its_meaning_is_refused() {
    let upstream = answering(HELLO);
    let edge = Edge::start(
        upstream.address(),
        &format!(
            "{UPSTREAM}[routes.a]\npath = \"/v1/{{a}}/{{*rest}}\"\npublic = true\nupstream = \"app\"\n\
             rewrite = {{ path = \"/{{rest}}/{{a}}\" }}\n"
        ),
    );
    let mut client = edge.connect();
    let refused = client.request(&Request::get("/v1/admin/")).unwrap();
    assert_eq!((refused.status, refused.keep_alive), (400, true));
    assert!(refused.text().contains("unclear_rewrite"), "{}", refused.text());
    assert_eq!(client.request(&Request::get("/v1/admin/x")).unwrap().status, 200);
    assert!(head(&upstream).starts_with("GET /x/admin HTTP/1.1\r\n"));
    assert_eq!(upstream.accepted(), 1);
}
