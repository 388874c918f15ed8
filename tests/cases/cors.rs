//! Cross-origin reads as a browser asks for them (the Fetch standard).

use xtask::lab::client::{Request, Response};

use crate::support::{Edge, answering, free_address};

/// `/listed` names its origins and takes credentials, `/open` is for any, `/closed` has no rules, `/locked` asks who
/// is there, `/limited` takes one request.
const RULES: &str = "\
[runtime]\nworkers = 1\n\
[escalation]\nforbidden = { count = 1, within = \"10s\" }\n\
[upstreams.app]\nservers = [\"{upstream}\"]\nbalance = \"round_robin\"\nhealth = \"off\"\n\
[limits.one]\nper = \"source\"\nrate = \"1/d\"\nburst = 1\n\
[auth.staff]\nkind = \"jwt\"\nkey_file = \"hmac.key\"\nalgorithms = [\"HS256\"]\n\
[routes.listed]\npath = \"/listed\"\nmethods = [\"GET\", \"PUT\"]\npublic = true\nupstream = \"app\"\n\
cors = { origins = [\"https://shop.example\", \"https://*.apps.example\"], headers = [\"X-A\"], expose = [\"ETag\"], credentials = true, max_age = \"1h\" }\n\
[routes.open]\npath = \"/open\"\npublic = true\nupstream = \"app\"\ncors = { origins = [\"*\"] }\n\
[routes.closed]\npath = \"/closed\"\nmethods = [\"GET\"]\npublic = true\nupstream = \"app\"\n\
[routes.locked]\npath = \"/locked\"\nauth = [\"staff\"]\nupstream = \"app\"\n\
cors = { origins = [\"https://shop.example\"] }\n\
[routes.limited]\npath = \"/limited\"\npublic = true\nlimits = [\"one\"]\nrespond.status = 204\n\
cors = { origins = [\"https://shop.example\"] }\n";

const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nVary: Accept\r\nAccess-Control-Allow-Origin: *\r\n\
    Access-Control-Allow-Credentials: true\r\n\r\nok";

fn edge(upstream: std::net::SocketAddr) -> Edge {
    let directory = xtask::lab::scratch::Scratch::new().unwrap();
    let key = directory.path().join("hmac.key");
    std::fs::write(&key, [7; 32]).unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    Edge::start_with(directory, upstream, "", RULES)
}

fn ask(edge: &Edge, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
    edge.connect().request(&Request { method, ..Request::get(target).with(headers) }).unwrap()
}

/// Every field of this name.
fn all<'r>(response: &'r Response, name: &str) -> Vec<&'r str> {
    let named = response.headers.iter().filter(|(each, _)| each.eq_ignore_ascii_case(name));
    named.map(|(_, value)| value.as_str()).collect()
}

fn allowed(response: &Response) -> Vec<&str> {
    all(response, "access-control-allow-origin")
}

#[test]
fn a_preflight_is_answered_before_anybody_is_known() {
    let upstream = answering(ANSWER);
    let edge = edge(upstream.address());
    let preflight = |target: &str, origin: &str, method: &str| {
        ask(&edge, "OPTIONS", target, &[("origin", origin), ("access-control-request-method", method)])
    };
    let leave = preflight("/listed", "https://shop.example", "PUT");
    assert_eq!((leave.status, leave.body.len()), (204, 0));
    assert_eq!(allowed(&leave), ["https://shop.example"]);
    assert_eq!(leave.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(leave.header("access-control-allow-methods"), Some("GET, PUT"));
    assert_eq!(leave.header("access-control-allow-headers"), Some("X-A"));
    assert_eq!(leave.header("access-control-max-age"), Some("3600"));
    assert!(leave.header("vary").is_some_and(|vary| vary.contains("Origin")));
    assert_eq!(allowed(&preflight("/listed", "HTTPS://a.Apps.example", "GET")), ["HTTPS://a.Apps.example"]);
    // The route has no DELETE; the browser sees that in what is listed.
    assert_eq!(preflight("/listed", "https://shop.example", "DELETE").status, 204);
    assert_eq!(allowed(&preflight("/open", "null", "PATCH")), ["*"]);
    assert_eq!(preflight("/locked", "https://shop.example", "GET").status, 204);
    for stranger in ["https://evil.example", "null", "https://a.b.apps.example", "http://shop.example", ""] {
        let refused = preflight("/listed", stranger, "GET");
        assert_eq!((refused.status, allowed(&refused)), (403, vec![]), "{stranger}");
        assert_eq!(refused.header("access-control-allow-methods"), None);
    }
    assert_eq!(preflight("/closed", "https://shop.example", "GET").status, 405, "no rules, no leave");
    assert_eq!(upstream.accepted(), 0);
    // Any page can make a browser ask: that must not get the browser's address blocked.
    assert_eq!(preflight("/locked", "https://shop.example", "GET").status, 204);
}

#[test]
fn what_is_no_preflight_is_routed_as_it_is() {
    let upstream = answering(ANSWER);
    let edge = edge(upstream.address());
    let origin = ("origin", "https://shop.example");
    assert_eq!(ask(&edge, "OPTIONS", "/listed", &[origin]).status, 405, "it asks about no method");
    assert_eq!(ask(&edge, "OPTIONS", "/open", &[("access-control-request-method", "GET")]).status, 200);
    assert_eq!(ask(&edge, "OPTIONS", "/locked", &[origin]).status, 401);
    let twice = [origin, ("access-control-request-method", "GET"), ("access-control-request-method", "PUT")];
    assert_eq!(ask(&edge, "OPTIONS", "/listed", &twice).status, 405);
}

#[test]
fn an_answer_says_who_may_read_it_in_place_of_the_upstream() {
    let upstream = answering(ANSWER);
    let edge = edge(upstream.address());
    let response = edge.get("/listed", &[("origin", "https://shop.example")]);
    assert_eq!((response.status, allowed(&response)), (200, vec!["https://shop.example"]));
    assert_eq!(all(&response, "access-control-allow-credentials"), ["true"]);
    assert_eq!(response.header("access-control-expose-headers"), Some("ETag"));
    assert_eq!(all(&response, "vary"), ["Accept", "Origin"]);
    for headers in [
        &[][..],
        &[("origin", "https://evil.example")],
        &[("origin", "https://shop.example"), ("origin", "https://shop.example")],
    ] {
        let response = edge.get("/listed", headers);
        assert_eq!((response.status, allowed(&response)), (200, vec![]), "{headers:?}");
        assert_eq!(response.header("access-control-allow-credentials"), None, "not the upstream's either");
        assert_eq!(all(&response, "vary"), ["Accept", "Origin"]);
    }
    let open = edge.get("/open", &[("origin", "https://evil.example")]);
    assert_eq!((allowed(&open), all(&open, "vary")), (vec!["*"], vec!["Accept"]));
    assert_eq!(open.header("access-control-allow-credentials"), None);
    assert_eq!(allowed(&edge.get("/closed", &[])), ["*"], "without rules it is the upstream's affair");
}

#[test]
fn a_page_sees_why_it_was_refused() {
    let edge = edge(free_address());
    let origin = [("origin", "https://shop.example")];
    let refused = edge.get("/locked", &origin);
    assert_eq!((refused.status, allowed(&refused)), (401, vec!["https://shop.example"]));
    assert_eq!(allowed(&edge.get("/locked", &[("origin", "https://evil.example")])), Vec::<&str>::new());
    let unreachable = edge.get("/listed", &origin);
    assert_eq!((unreachable.status, allowed(&unreachable)), (502, vec!["https://shop.example"]));
    let wrong_method = ask(&edge, "DELETE", "/listed", &origin);
    assert_eq!((wrong_method.status, allowed(&wrong_method)), (405, vec!["https://shop.example"]));
    let first = edge.get("/limited", &origin);
    assert_eq!((first.status, allowed(&first)), (204, vec!["https://shop.example"]));
    let limited = edge.get("/limited", &origin);
    assert_eq!((limited.status, allowed(&limited)), (429, vec!["https://shop.example"]));
    let counted = [origin[0], ("access-control-request-method", "GET")];
    assert_eq!(ask(&edge, "OPTIONS", "/limited", &counted).status, 429, "a preflight counts as well");
}
