//! Routing as a table: routes as `name HOSTS METHODS PATH`, requests as `METHOD AUTHORITY PATH`.

use proptest::prelude::*;

use super::{pattern::PATTERN_SEGMENTS_MAX, *};
use crate::decide::testing;

/// `"*"` stands for any host or any method; lists are separated by commas.
fn router(routes: &[&str]) -> Result<Router, Vec<PolicyError>> {
    let routes: Vec<config::Route> = routes.iter().map(|line| route(line)).collect();
    Router::compile(&routes)
}

fn route(line: &str) -> config::Route {
    let [hosts, methods, path] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let list = |text: &str| match text {
        "*" => Vec::new(),
        text => text.split(',').map(Arc::from).collect(),
    };
    config::Route { hosts: list(hosts), methods: list(methods), ..testing::route(line, path) }
}

/// `expected`: a route by its line, "404", or "405 ALLOW".
#[track_caller]
fn check(routes: &[&str], request: &str, expected: &str) {
    let [method, authority, path] = request.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let router = router(routes).unwrap();
    let answer = match router.find(authority, path, method) {
        Ok(route) => routes[route as usize].to_owned(),
        Err(Miss::NoRoute) => "404".to_owned(),
        Err(Miss::MethodNotAllowed { allow, .. }) => format!("405 {allow}"),
    };
    assert_eq!(answer, expected, "{request}");
}

#[test]
fn paths_match_whole_segments_only() {
    let routes = ["* * /admin", "* * /v1/orders/{id}"];
    check(&routes, "GET h /admin", "* * /admin");
    check(&routes, "GET h /administrator", "404");
    check(&routes, "GET h /admin/", "404");
    check(&routes, "GET h /Admin", "404");
    check(&routes, "GET h /v1/orders/7", "* * /v1/orders/{id}");
    check(&routes, "GET h /v1/orders/", "404");
    check(&routes, "GET h /v1/orders", "404");
    check(&routes, "GET h /v1/orders/7/items", "404");
    check(&routes, "GET h admin", "404");
}

#[test]
fn a_literal_wins_over_a_name_wins_over_the_rest() {
    let routes = ["* * /{*rest}", "* * /a/{x}", "* * /{y}/b", "* * /a/b", "* * /a/{x}/c"];
    check(&routes, "GET h /a/b", "* * /a/b");
    check(&routes, "GET h /a/z", "* * /a/{x}");
    check(&routes, "GET h /z/b", "* * /{y}/b");
    check(&routes, "GET h /z/z", "* * /{*rest}");
    check(&routes, "GET h /", "* * /{*rest}");
    // The literal /a/b leads nowhere here: back to the name.
    check(&routes, "GET h /a/b/c", "* * /a/{x}/c");
    check(&routes, "GET h /a/b/d", "* * /{*rest}");
}

#[test]
fn the_rest_takes_everything_below_and_not_the_prefix_itself() {
    let routes = ["* * /files/{*rest}"];
    check(&routes, "GET h /files/a", "* * /files/{*rest}");
    check(&routes, "GET h /files/a/b/", "* * /files/{*rest}");
    check(&routes, "GET h /files/", "* * /files/{*rest}");
    check(&routes, "GET h /files", "404");
    check(&routes, "GET h /filesystem/a", "404");
}

#[test]
fn hosts_are_tried_from_exact_to_any() {
    let routes =
        ["* * /{*rest}", "*.example.com * /{*rest}", "api.example.com * /{*rest}", "api.example.com * /only"];
    check(&routes, "GET api.example.com /x", "api.example.com * /{*rest}");
    check(&routes, "GET API.Example.COM:8443 /x", "api.example.com * /{*rest}");
    check(&routes, "GET api.example.com. /x", "api.example.com * /{*rest}");
    check(&routes, "GET api.example.com.:443 /only", "api.example.com * /only");
    check(&routes, "GET shop.example.com /x", "*.example.com * /{*rest}");
    check(&routes, "GET a.b.example.com /x", "* * /{*rest}");
    check(&routes, "GET .example.com /x", "* * /{*rest}");
    check(&routes, "GET example.com /x", "* * /{*rest}");
    check(&routes, "GET [2001:db8::1]:80 /x", "* * /{*rest}");
}

#[test]
fn a_host_without_the_path_leaves_the_request_to_the_next() {
    let routes = ["api.example.com * /only", "*.example.com * /wild", "* * /any"];
    check(&routes, "GET api.example.com /only", "api.example.com * /only");
    check(&routes, "GET api.example.com /wild", "*.example.com * /wild");
    check(&routes, "GET api.example.com /any", "* * /any");
    check(&routes, "GET other.example.com /only", "404");
}

#[test]
fn addresses_are_hosts_too() {
    let routes = ["[2001:db8::1] * /", "192.0.2.1 * /"];
    check(&routes, "GET [2001:DB8::1]:8080 /", "[2001:db8::1] * /");
    check(&routes, "GET [2001:db8::1] /", "[2001:db8::1] * /");
    check(&routes, "GET 192.0.2.1:80 /", "192.0.2.1 * /");
}

#[test]
fn methods_decide_last_and_never_fall_through_to_another_path() {
    let routes = ["* GET /o/{id}", "* PUT,DELETE /o/{id}", "* * /{*rest}", "* POST /p", "* * /p"];
    check(&routes, "GET h /o/1", "* GET /o/{id}");
    check(&routes, "HEAD h /o/1", "* GET /o/{id}");
    check(&routes, "PUT h /o/1", "* PUT,DELETE /o/{id}");
    check(&routes, "POST h /o/1", "405 DELETE, GET, HEAD, PUT");
    check(&routes, "put h /o/1", "405 DELETE, GET, HEAD, PUT");
    check(&routes, "POST h /p", "* POST /p");
    check(&routes, "GET h /p", "* * /p");
    check(&["* GET /", "* HEAD /"], "HEAD h /", "* HEAD /");
    check(&["a.example POST /", "* * /"], "GET a.example /", "405 POST");
}

#[test]
fn the_asterisk_form_is_routed_as_the_root() {
    check(&["* * /{*rest}"], "OPTIONS h *", "* * /{*rest}");
    check(&["* GET /"], "OPTIONS h *", "405 GET, HEAD");
    check(&["* * /a"], "OPTIONS h *", "404");
}

#[test]
fn each_of_a_hundred_thousand_siblings_is_found() {
    let path = |i: usize| match i % 2 {
        0 => format!("/many/{i}/{{id}}"),
        _ => format!("/many/longer-than-what-lies-in-a-node-{i}/{{id}}"),
    };
    let routes: Vec<config::Route> = (0..100_000).map(|i| testing::route("many", &path(i))).collect();
    let router = Router::compile(&routes).unwrap();
    for (i, route) in (0..).zip(&routes) {
        assert_eq!(router.find("h", &route.path.replace("{id}", "7"), "GET"), Ok(i));
    }
    assert_eq!(router.find("h", "/many/100000/7", "GET"), Err(Miss::NoRoute));
    assert_eq!(router.find("h", "/many/longer-than-what-lies-in-a-node-2/7", "GET"), Err(Miss::NoRoute));
}

#[test]
fn hosts_are_as_long_as_names_may_be() {
    let host = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
    check(&[&format!("{host} * /")], &format!("GET {} /", host.to_ascii_uppercase()), &format!("{host} * /"));
    check(&[&format!("{host} * /")], &format!("GET {host}.longer /"), "404");
    check(&[&format!("{host} * /"), "* * /"], &format!("GET {} /", "x".repeat(300)), "* * /");
}

#[track_caller]
fn refuses(routes: &[&str], expected: &str) {
    let errors: Vec<String> = router(routes).unwrap_err().iter().map(ToString::to_string).collect();
    assert!(errors.iter().any(|error| error.contains(expected)), "{errors:?}");
}

#[test]
fn patterns_that_cannot_mean_what_they_say_are_refused() {
    refuses(&["* * orders"], "must start with a slash");
    refuses(&["* * /a//b"], "empty segment");
    refuses(&["* * /a/../b"], "canonical form");
    refuses(&["* * /a%41"], "canonical form");
    refuses(&["* * /a%2fb"], "canonical form");
    refuses(&["* * /é"], "canonical form");
    refuses(&["* * /a?b"], "no part of a path");
    refuses(&["* * /{*rest}/a"], "must be the last");
    refuses(&["* * /a{id}"], "never a mixture");
    refuses(&["* * /{}"], "made of letters");
    refuses(&["* * /{*}"], "made of letters");
    refuses(&["a.*.example * /"], "one whole label");
    refuses(&["a.example:80 * /"], "no port");
    refuses(&[&format!("* * {}", "/a".repeat(PATTERN_SEGMENTS_MAX + 1))], "too many segments");
    router(&[&format!("* * {}", "/a".repeat(PATTERN_SEGMENTS_MAX))]).unwrap();
}

#[test]
fn two_routes_of_which_neither_is_more_specific_are_refused() {
    refuses(&["* GET /a", "* PUT,GET /a"], "already takes");
    refuses(&["* * /{x}", "* * /{y}"], "already takes");
    refuses(&["a.example,b.example * /", "B.example * /"], "already takes");
    router(&["* GET /a", "* PUT /a", "* * /a", "x.example GET /a"]).unwrap();
}

proptest! {
    /// The tree agrees with the rule read out loud: of all matching patterns the one that is smallest, segment by
    /// segment from the left, in the order literal, name, rest.
    #[test]
    fn the_tree_agrees_with_the_rule(
        patterns in prop::collection::btree_set("(/(a|b|c|\\{x\\})){1,4}(/\\{\\*r\\})?|/\\{\\*r\\}", 1..12),
        path in "(/(a|b|c|d)){1,5}/?",
    ) {
        let lines: Vec<String> = patterns.iter().map(|p| format!("* * {p}")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let found = router(&lines).unwrap().find("h", &path, "GET").ok().map(|route| route as usize);
        let best = patterns.iter().enumerate().filter_map(|(at, p)| Some((ranks(p, &path)?, at))).min();
        prop_assert_eq!(found, best.map(|(_, at)| at));
    }

    #[test]
    fn no_input_panics(authority in "\\PC{0,40}", path in "\\PC{0,40}", method in "\\PC{0,8}") {
        let router = router(&["*.a.example GET /{x}/b", "[::1] * /", "* PUT /{*r}"]).unwrap();
        let _ = router.find(&authority, &path, &method);
    }
}

/// One rank per segment, lower is more specific; `None` where the pattern does not match.
fn ranks(pattern: &str, path: &str) -> Option<Vec<u8>> {
    let mut path = path.split('/').skip(1);
    let mut ranks = Vec::new();
    for segment in pattern.split('/').skip(1) {
        let text = path.next()?;
        match segment {
            "{*r}" => {
                ranks.push(2);
                return Some(ranks);
            }
            "{x}" if !text.is_empty() => ranks.push(1),
            literal if literal == text => ranks.push(0),
            _ => return None,
        }
    }
    path.next().is_none().then_some(ranks)
}
