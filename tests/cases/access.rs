//! Who may do what, and how much of it: keys, tokens, roles, limits, and what a refusal says.

use xtask::lab::{
    client::{Request, Response},
    gateway::create_key,
    scratch::Scratch,
};

use crate::support::{BINARY, Edge, HELLO, TIME_MAX, answering};

const SECTIONS: &str = "\
[upstreams.app]\nservers = [\"{upstream}\"]\nbalance = \"round_robin\"\nhealth = \"off\"\n\
[auth.keys]\nkind = \"api_key\"\nstore = \"keys.db\"\nheader = \"x-api-key\"\n\
[auth.staff]\nkind = \"jwt\"\nkey_file = \"jwt.secret\"\nalgorithms = [\"HS256\"]\nissuer = \"https://id.example\"\n\
audiences = [\"orders\"]\nconsumer = \"sub\"\nroles = \"realm.roles\"\nforward = { x-user = \"sub\" }\n\
[roles.reader]\npermissions = [\"orders:read\"]\n\
[roles.clerk]\ninherits = [\"reader\"]\npermissions = [\"orders:write\"]\n\
[limits.few]\nper = \"consumer\"\nrate = \"1/m\"\nburst = 3\n\
[limits.strangers]\nper = \"source\"\nrate = \"1/m\"\nburst = 5\n\
[filters.json]\nallow_types = [\"application/json\"]\n\
[routes.orders]\npath = \"/orders/{id}\"\nmethods = [\"GET\", \"PUT\"]\nupstream = \"app\"\nauth = [\"keys\", \"staff\"]\n\
permission = { GET = \"orders:read\", PUT = \"orders:write\" }\nfilter = \"json\"\nbody_size = \"1KiB\"\n\
[routes.limited]\npath = \"/limited\"\nupstream = \"app\"\nauth = [\"keys\"]\nlimits = [\"few\"]\n\
[routes.public]\npath = \"/public\"\nupstream = \"app\"\npublic = true\nlimits = [\"strangers\"]\n";

struct Shop {
    edge: Edge,
    upstream: xtask::lab::scripted::Scripted,
    reader: String,
    clerk: String,
}

fn shop() -> Shop {
    let directory = Scratch::new().unwrap();
    let store = directory.path().join("keys.db");
    let reader = create_key(BINARY.as_ref(), &store, "acme", "reader").unwrap();
    let clerk = create_key(BINARY.as_ref(), &store, "zeta", "clerk").unwrap();
    let secret = directory.write("jwt.secret", SECRET).unwrap();
    owner_only(&secret);
    let upstream = answering(HELLO);
    let edge = Edge::start_with(directory, upstream.address(), "", SECTIONS);
    Shop { edge, upstream, reader, clerk }
}

const SECRET: &str = "a secret of thirty-two octets or more";

fn owner_only(file: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn token(claims: &serde_json::Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256), claims, &key).unwrap()
}

fn claims(roles: &[&str], exp: u64) -> serde_json::Value {
    serde_json::json!({
        "iss": "https://id.example", "aud": "orders", "sub": "ada", "exp": exp, "realm": { "roles": roles }
    })
}

const FAR_FUTURE_S: u64 = 4_000_000_000;

#[track_caller]
fn check_problem(response: &Response, status: u16) {
    assert_eq!(response.status, status, "{}", response.text());
    assert_eq!(response.header("content-type"), Some("application/problem+json"));
    let problem: serde_json::Value = serde_json::from_slice(&response.body).expect("a problem is JSON");
    assert_eq!(problem["status"], status);
    assert_eq!(problem["request_id"].as_str(), response.header("x-request-id"));
}

#[test]
fn a_key_opens_what_its_role_may_do_and_no_more() {
    let shop = shop();
    let get = |key: &str| shop.edge.get("/orders/1", &[("x-api-key", key)]);
    assert_eq!(get(&shop.reader).status, 200);
    let head = String::from_utf8(shop.upstream.next_head(TIME_MAX).unwrap()).unwrap().to_lowercase();
    assert!(
        !head.contains("x-api-key") && !head.contains(&shop.reader.to_lowercase()),
        "no credential goes on: {head}"
    );
    let put = |key: &str| {
        let headers = [("content-type", "application/json"), ("x-api-key", key)];
        let request = Request { method: "PUT", body: b"{}", ..Request::get("/orders/1").with(&headers) };
        shop.edge.connect().request(&request).unwrap()
    };
    check_problem(&put(&shop.reader), 403);
    assert_eq!(put(&shop.clerk).status, 200, "a role has what it inherits and its own");
    assert_eq!(get(&shop.clerk).status, 200);
}

#[test]
fn a_wrong_key_and_no_key_are_401_with_the_ways_in() {
    let shop = shop();
    let mut typo = shop.reader.clone();
    typo.pop();
    for headers in [&[][..], &[("x-api-key", "guess")], &[("x-api-key", typo.as_str())]] {
        let response = shop.edge.get("/orders/1", headers);
        check_problem(&response, 401);
        assert!(
            response.header("www-authenticate").is_some_and(|ways| ways.contains("Bearer")),
            "{response:?}"
        );
    }
    assert_eq!(shop.upstream.accepted(), 0);
}

#[test]
fn a_token_is_believed_only_as_far_as_it_is_true() {
    let shop = shop();
    let with = |token: &str| {
        shop.edge.get("/orders/1", &[("authorization", &format!("Bearer {token}")), ("x-user", "root")])
    };
    assert_eq!(with(&token(&claims(&["reader"], FAR_FUTURE_S))).status, 200);
    let head = String::from_utf8(shop.upstream.next_head(TIME_MAX).unwrap()).unwrap().to_lowercase();
    assert!(
        head.contains("\r\nx-user: ada\r\n") && !head.contains("root"),
        "identity comes from the token: {head}"
    );
    assert!(!head.contains("authorization"), "no credential goes on: {head}");
    check_problem(&with(&token(&claims(&[], FAR_FUTURE_S))), 403);
    check_problem(&with(&token(&claims(&["reader"], 1_000_000_000))), 401);
    let mut other = claims(&["reader"], FAR_FUTURE_S);
    other["aud"] = "billing".into();
    check_problem(&with(&token(&other)), 401);
    let good = token(&claims(&["reader"], FAR_FUTURE_S));
    let unsigned = good.rsplit_once('.').unwrap().0;
    check_problem(&with(&format!("{unsigned}.")), 401);
}

#[test]
fn what_is_not_there_not_allowed_or_too_much_says_so() {
    let shop = shop();
    let key = [("x-api-key", shop.clerk.as_str())];
    check_problem(&shop.edge.get("/nowhere", &[]), 404);
    let delete = Request { method: "DELETE", ..Request::get("/orders/1") };
    let response = shop.edge.connect().request(&delete).unwrap();
    check_problem(&response, 405);
    assert!(response.header("allow").is_some_and(|allow| allow.contains("GET") && allow.contains("PUT")));
    let put = |media_type: &str, body: &[u8]| {
        let headers = [("content-type", media_type), key[0]];
        let request = Request { method: "PUT", body, ..Request::get("/orders/1").with(&headers) };
        shop.edge.connect().request(&request).unwrap()
    };
    assert_eq!(put("application/json; charset=utf-8", &[b' '; 1024]).status, 200, "just inside both lines");
    check_problem(&put("application/json", &[b' '; 1025]), 413);
    check_problem(&put("text/xml", b"<a/>"), 415);
    check_problem(&shop.edge.get(&format!("/{}", "a".repeat(9000)), &[]), 414);
    check_problem(&shop.edge.get("/public", &[("x-big", &"b".repeat(40_000))]), 431);
    let many: Vec<_> = (0..101).map(|_| ("x-many", "1")).collect();
    check_problem(&shop.edge.get("/public", &many), 431);
}

#[test]
fn a_chunked_body_past_the_limit_is_413_too() {
    let shop = shop();
    let mut client = shop.edge.connect();
    let head = format!(
        "PUT /orders/1 HTTP/1.1\r\nHost: a\r\nX-Api-Key: {}\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
        shop.clerk
    );
    // In one piece: the upstream answers as soon as it has seen the head.
    client.send(format!("{head}401\r\n{}\r\n0\r\n\r\n", " ".repeat(0x401)).as_bytes()).unwrap();
    check_problem(&client.receive("PUT").unwrap(), 413);
}

#[test]
fn a_limit_is_exact_across_workers_and_connections() {
    let shop = shop();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..12)
            .map(|_| scope.spawn(|| shop.edge.get("/limited", &[("x-api-key", &shop.reader)]).status))
            .collect();
        tries.into_iter().map(|handle| handle.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|&&status| status == 200).count(), 3, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|&&status| status == 429).count(), 9, "{statuses:?}");
    let response = shop.edge.get("/limited", &[("x-api-key", &shop.reader)]);
    check_problem(&response, 429);
    let wait_s: u64 = response.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait_s), "{wait_s}");
    assert_eq!(
        shop.edge.get("/limited", &[("x-api-key", &shop.clerk)]).status,
        200,
        "another consumer is not affected"
    );
}

#[test]
fn a_source_limit_holds_for_strangers() {
    let shop = shop();
    for n in 0..7 {
        let status = shop.edge.get("/public", &[("x-forwarded-for", &format!("203.0.113.{n}"))]).status;
        assert_eq!(status, if n < 5 { 200 } else { 429 }, "request {n}: an invented address changes nothing");
    }
}
