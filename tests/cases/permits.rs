//! What a route asks for beyond knowing who asks: permissions, scopes, conditions; and what `portcullis can` says of it.

use std::{
    fs,
    process::{Command, Output},
};

use serde_json::Value;
use xtask::lab::{
    client::Request,
    http2::{self, Outcome},
    scratch::Scratch,
    wait,
};

use crate::support::{BINARY, Edge, HELLO, TIME_MAX, answering};

const SECTIONS: &str = "\
[upstreams.app]\nservers = [\"{upstream}\"]\nhealth = \"off\"\n\
[auth.staff]\nkind = \"jwt\"\nkey_file = \"jwt.secret\"\nalgorithms = [\"HS256\"]\nconsumer = \"sub\"\nroles = \"roles\"\nscopes = \"scope\"\n\
[roles.reader]\npermissions = [\"orders:read\"]\n\
[roles.clerk]\ninherits = [\"reader\"]\npermissions = [\"orders:write\"]\n\
[roles.support]\n\
[consumers.ada]\nroles = [\"clerk\"]\n\
[routes.orders]\npath = \"/orders/{id}\"\nupstream = \"app\"\nauth = [\"staff\"]\n\
permission = { GET = \"orders:read\", PUT = \"orders:write\" }\n\
[routes.users]\npath = \"/users/{id}/{*rest}\"\nupstream = \"app\"\nauth = [\"staff\"]\n\
when = \"path.id == claims.sub || 'support' in roles\"\n\
[routes.scoped]\npath = \"/scoped\"\nupstream = \"app\"\nauth = [\"staff\"]\nscopes = [\"orders:read\", \"orders:write\"]\n\
[routes.inside]\npath = \"/inside\"\nupstream = \"app\"\npublic = true\nwhen = \"source.within('192.0.2.0/24')\"\n\
[routes.here]\npath = \"/here\"\nupstream = \"app\"\npublic = true\nwhen = \"source.within('127.0.0.0/8')\"\n";

const SECRET: &str = "a secret of thirty-two octets or more";

struct Office {
    edge: Edge,
    upstream: xtask::lab::scripted::Scripted,
}

fn office() -> Office {
    let directory = Scratch::new().unwrap();
    let secret = directory.write("jwt.secret", SECRET).unwrap();
    owner_only(&secret);
    let upstream = answering(HELLO);
    let edge =
        Edge::start_with(directory, upstream.address(), "protocols = [\"h2\", \"http/1.1\"]", SECTIONS);
    Office { edge, upstream }
}

fn owner_only(file: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

fn bearer(subject: &str, roles: &[&str]) -> String {
    bearer_with(&serde_json::json!({ "sub": subject, "roles": roles, "exp": 4_000_000_000_u64 }))
}

fn bearer_with(claims: &Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    format!("Bearer {}", jsonwebtoken::encode(&header, claims, &key).unwrap())
}

impl Office {
    /// The status of a `GET`, which is the same over HTTP/2.
    #[track_caller]
    fn get(&self, target: &str, authorization: &str) -> u16 {
        let status = self.edge.get(target, &[("authorization", authorization)]).status;
        let outcome = self.multiplexed().get(1, &h2_fields(target, authorization)).unwrap();
        assert_eq!(status_of(&outcome), status, "{target} over HTTP/2");
        status
    }

    /// A connection of HTTP/2.
    #[track_caller]
    fn multiplexed(&self) -> http2::Connection {
        let mut client = http2::Connection::open(self.edge.address, TIME_MAX).unwrap();
        client.greet(&[]).unwrap();
        client
    }

    fn reload(&mut self, from: &str, to: &str) {
        let text = fs::read_to_string(self.edge.gateway.config_file()).unwrap();
        assert!(text.contains(from));
        self.edge.gateway.write_config(&text.replace(from, to)).unwrap();
        let before = self.edge.gateway.output().matches("configuration reloaded").count();
        self.edge.gateway.process().signal(libc::SIGHUP).unwrap();
        let reloaded = wait::until(TIME_MAX, || {
            (self.edge.gateway.output().matches("configuration reloaded").count() > before).then_some(())
        });
        assert!(reloaded.is_some(), "{}", self.edge.gateway.output());
    }

    fn can(&self, arguments: &[&str]) -> Output {
        let config = self.edge.gateway.config_file();
        Command::new(BINARY).arg("can").args(arguments).arg("--config").arg(config).output().unwrap()
    }

    /// Holds what `portcullis can` ends with and says, on either stream, against what it should.
    #[track_caller]
    fn says(&self, arguments: &[&str], code: i32, expected: &[&str]) {
        let output = self.can(arguments);
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        for part in expected {
            assert!(text.contains(part), "{arguments:?}: {part} is missing in {text}");
        }
    }
}

fn h2_fields<'f>(target: &'f str, authorization: &'f str) -> [(&'f str, &'f str); 5] {
    [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", target),
        (":authority", "a"),
        ("authorization", authorization),
    ]
}

#[track_caller]
fn status_of(outcome: &Outcome) -> u16 {
    match outcome {
        Outcome::Answer(response) => response.status,
        other => panic!("{other:?}"),
    }
}

/// Row 84: broken object level authorization.
#[test]
fn a_path_parameter_that_is_not_the_callers_own_is_403() {
    let office = office();
    let ada = bearer("ada", &[]);
    assert_eq!(office.get("/users/ada/orders", &ada), 200);
    let served = office.upstream.accepted();
    for other in
        ["/users/bob/orders", "/users/ad%61%20/orders", "/users/ADA/orders", "/users/bob/../ada%2Fx/y"]
    {
        assert!(matches!(office.edge.get(other, &[("authorization", &ada)]).status, 400 | 403), "{other}");
    }
    assert_eq!(office.get("/users/bob/orders", &ada), 403);
    assert_eq!(office.upstream.accepted(), served, "nothing of it reached the upstream");
    assert_eq!(office.get("/users/ad%61/orders", &ada), 200, "another spelling of one's own");
    assert_eq!(office.get("/users/bob/orders", &bearer("ada", &["support"])), 200);
    // A claim that cannot be compared, and one that is not there.
    assert_eq!(office.get("/users/bob/orders", "Bearer junk"), 401);
}

#[test]
fn a_condition_on_the_source_guards_a_public_route() {
    let office = office();
    assert_eq!(office.get("/here", ""), 200);
    assert_eq!(office.get("/inside", ""), 403);
    let claimed = office.edge.get("/inside", &[("x-forwarded-for", "192.0.2.1")]);
    assert_eq!(claimed.status, 403, "nobody's claim");
}

/// RFC 6750 §3.1
#[test]
fn a_missing_scope_is_403_with_what_is_needed() {
    let office = office();
    let response = office.edge.get("/scoped", &[("authorization", &bearer("ada", &[]))]);
    assert_eq!(response.status, 403, "{}", response.text());
    assert_eq!(
        response.header("www-authenticate"),
        Some("Bearer realm=\"staff\", error=\"insufficient_scope\", scope=\"orders:read orders:write\"")
    );
    assert!(response.text().contains("\"reason\":\"insufficient_scope\""), "{}", response.text());
    assert_eq!(office.edge.get("/scoped", &[]).status, 401);
    for (scope, expected) in
        [("orders:read", 403), ("orders:read orders:writ", 403), ("orders:write orders:read x", 200)]
    {
        let claims = serde_json::json!({ "sub": "ada", "scope": scope, "exp": 4_000_000_000_u64 });
        assert_eq!(office.get("/scoped", &bearer_with(&claims)), expected, "{scope}");
    }
}

/// Row 85, on connections that stay open: the roles of a consumer, what a role holds, and a consumer of its own.
#[test]
fn a_role_that_is_taken_away_counts_from_the_next_request_on() {
    let mut office = office();
    let ada = bearer("ada", &[]);
    let mut keep_alive = office.edge.connect();
    let mut multiplexed = office.multiplexed();
    let mut stream = 1;
    let mut check = |expected: u16| {
        let request = [("authorization", ada.as_str())];
        let status = keep_alive.request(&Request::get("/orders/1").with(&request)).unwrap().status;
        assert_eq!(status, expected, "HTTP/1.1");
        let outcome = multiplexed.get(stream, &h2_fields("/orders/1", &ada)).unwrap();
        assert_eq!(status_of(&outcome), expected, "HTTP/2");
        stream += 2;
    };
    check(200);
    office.reload("[consumers.ada]\nroles = [\"clerk\"]", "[consumers.ada]\nroles = []");
    check(403);
    office.reload("[consumers.ada]\nroles = []", "[consumers.ada]\nroles = [\"reader\"]");
    check(200);
    office.reload("permissions = [\"orders:read\"]", "permissions = [\"orders:list\"]");
    check(403);
    office.reload("permissions = [\"orders:list\"]", "permissions = [\"orders:*\"]");
    check(200);
    office.reload("[consumers.ada]", "[consumers.eve]");
    check(403);
}

#[test]
fn can_says_what_the_gateway_would_do_and_why() {
    let office = office();
    let check = |arguments: &[&str], code: i32, expected: &[&str]| office.says(arguments, code, expected);
    let url = "https://api.example/orders/1?x=1";
    check(
        &["ada", "GET", url],
        0,
        &[
            "allowed: upstream app",
            "orders\n",
            "staff",
            "clerk (of the consumer), reader (through clerk)",
            "orders:read: held by clerk, reader",
        ],
    );
    check(
        &["bob", "GET", "/orders/1"],
        1,
        &[
            "refused: 403 forbidden: none of its roles holds the permission orders:read",
            "no role of theirs holds it",
        ],
    );
    check(&["bob", "PUT", "/orders/1", "--role", "reader"], 1, &["orders:write: no role of theirs"]);
    check(&["bob", "PUT", "/orders/1", "--role", "clerk"], 0, &["clerk (of the credential)"]);
    check(
        &["bob", "DELETE", "/orders/1", "--role", "clerk"],
        1,
        &["the route has no permission for this method"],
    );
    check(&["ada", "GET", "/users/ada/x"], 0, &["'support' in roles: true"]);
    check(
        &["ada", "GET", "/users/bob/x"],
        1,
        &["the route's condition is false", "'support' in roles: not met"],
    );
    check(&["ada", "GET", "/users/bob/x", "--claim", "sub=bob"], 0, &[]);
    check(&["ada", "GET", "/users/bob/x", "--role", "support"], 0, &[]);
    check(&["ada", "GET", "/users/7/x", "--claim", "sub=7"], 1, &["condition is false"]);
    check(
        &["ada", "GET", "/scoped", "--scope", "orders:read"],
        1,
        &[
            "403 insufficient_scope: its credential lacks the scope orders:write",
            "orders:read (has it), orders:write (missing)",
        ],
    );
    check(&["ada", "GET", "/scoped", "--scope", "orders:read", "--scope", "orders:write"], 0, &[]);
    check(&["ada", "GET", "/inside"], 1, &["none: the route is public", "403"]);
    check(&["ada", "GET", "/inside", "--source", "192.0.2.9"], 0, &[]);
    check(&["ada", "GET", "/nowhere"], 1, &["refused: 404 no_route"]);
    check(&["ada", "GET", "/a%2fb"], 1, &["refused: 400 ambiguous_path"]);
    for bad in [
        &["ada", "GET", "/x", "--role", "cleark"][..],
        &["ada", "GET", "orders/1"],
        &["ada", "GET", "/x y"],
        &["ada", "GET /x HTTP/1.1\r\nX:", "/"],
        &["ada", "GET", "/x", "--claim", "sub"],
        &["ada", "GET", "/x", "--claim", "a=1", "--claim", "a=2"],
        &["ada", "GET", "/x", "--source", "here"],
        &["ada", "GET"],
    ] {
        check(bad, 2, &[]);
    }
    let output = office.can(&["ada", "GET", "/users/bob/x", "--json"]);
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((said["allowed"].as_bool(), said["status"].as_u64()), (Some(false), Some(403)));
    assert_eq!((&said["route"], &said["when"]["result"]), (&"users".into(), &"not met".into()));
    assert_eq!(said["roles"][1], serde_json::json!({ "name": "reader", "through": "through clerk" }));
}

#[test]
fn a_condition_that_cannot_be_is_told_with_its_place() {
    let office = office();
    let text = fs::read_to_string(office.edge.gateway.config_file()).unwrap();
    office.edge.gateway.write_config(&text.replace("path.id ==", "path.idd ==")).unwrap();
    let output = office.edge.gateway.command(&["check"]).unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{told}");
    let line = text.lines().position(|line| line.contains("path.id ==")).unwrap() + 1;
    assert!(
        told.contains(&format!("portcullis.toml:{line}:13: `routes.users.when` names `path.idd`")),
        "{told}"
    );
    assert!(told.contains("did you mean `id`?"), "{told}");
}

const KEYED: &str = "\
[upstreams.app]\nservers = [\"{upstream}\"]\nhealth = \"off\"\n\
[auth.keys]\nkind = \"api_key\"\nstore = \"keys.db\"\n\
[auth.staff]\nkind = \"jwt\"\nkey_file = \"jwt.secret\"\nalgorithms = [\"HS256\"]\nroles = \"roles\"\n\
[roles.reader]\npermissions = [\"orders:read\"]\n\
[roles.clerk]\ninherits = [\"reader\"]\npermissions = [\"orders:write\"]\n\
[consumers.initech]\nroles = [\"clerk\"]\n\
[routes.orders]\npath = \"/orders/{id}\"\nupstream = \"app\"\nauth = [\"keys\"]\n\
permission = { GET = \"orders:read\", PUT = \"orders:write\" }\n\
[routes.scoped]\npath = \"/scoped\"\nupstream = \"app\"\nauth = [\"keys\"]\nscopes = [\"orders\"]\n\
[routes.own]\npath = \"/own/{id}\"\nupstream = \"app\"\nauth = [\"keys\"]\nwhen = \"path.id == consumer\"\n\
[routes.token]\npath = \"/token/{id}\"\nupstream = \"app\"\nauth = [\"keys\"]\nwhen = \"path.id == claims.sub\"\n\
[routes.both]\npath = \"/both\"\nupstream = \"app\"\nauth = [\"staff\", \"keys\"]\npermission = \"orders:write\"\n\
[routes.open]\npath = \"/open\"\nupstream = \"app\"\npublic = true\n";

/// Who stands in a key store alone: what one key may and another may not, and what the gateway itself says to each.
#[test]
fn can_answers_for_each_key_that_a_consumer_holds() {
    let directory = Scratch::new().unwrap();
    owner_only(&directory.write("jwt.secret", SECRET).unwrap());
    let store = directory.path().join("keys.db");
    let keys = |arguments: &[&str]| {
        let (word, options) = arguments.split_first().unwrap();
        let made =
            Command::new(BINARY).args(["keys", word, "--store"]).arg(&store).args(options).output().unwrap();
        assert!(made.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    };
    let create = |consumer: &str, options: &[&str]| {
        let key = keys(&[&["create", "--consumer", consumer], options].concat());
        let id = portcullis::decide::api_key::id_of(key.as_bytes()).unwrap().to_owned();
        (id, key)
    };
    let reads = create("acme", &["--role", "reader"]);
    let writes = create("acme", &["--role", "clerk", "--role", "cleark", "--scope", "orders"]);
    let gone = create("acme", &["--role", "clerk"]);
    let theirs = create("globex", &["--role", "clerk"]);
    keys(&["revoke", &gone.0, &theirs.0]);
    let upstream = answering(HELLO);
    let edge = Edge::start_with(directory, upstream.address(), "", KEYED);
    let office = Office { edge, upstream };
    let check = |arguments: &[&str], code: i32, expected: &[&str]| office.says(arguments, code, expected);

    check(
        &["acme", "GET", "/orders/1"],
        0,
        &[
            &format!("{} of keys\n", reads.0),
            "reader (of the credential)\n",
            &format!("{} of keys\n", writes.0),
            "clerk (of the credential), reader (through clerk)\n",
            &format!("no longer good: {} of keys, revoked 20", gone.0),
            "does not know: cleark\n",
        ],
    );
    check(&["acme", "PUT", "/orders/1"], 3, &["refused: 403 forbidden", "allowed: upstream app"]);
    for (key, code) in [(&reads.0, 1), (&writes.0, 0), (&writes.1, 0)] {
        check(&["acme", "PUT", "/orders/1", "--key", key], code, &[]);
    }
    check(&["acme", "GET", "/orders/1", "--key", &gone.0], 1, &["refused: 401", "revoked 20"]);
    check(&["acme", "GET", "/orders/1", "--key", &theirs.0], 2, &["acme holds no key"]);
    check(&["acme", "PUT", "/orders/1", "--role", "clerk"], 0, &["clerk (of the credential)"]);
    check(&["globex", "GET", "/orders/1"], 1, &["refused: 401", "hold no key that is good", &theirs.0]);
    // What the configuration gives a consumer lets nobody in who has nothing to show.
    check(&["initech", "GET", "/orders/1"], 1, &["refused: 401", "hold no key that is good"]);
    check(&["initech", "GET", "/both"], 0, &["clerk (of the consumer)"]);
    check(&["acme", "GET", "/both"], 3, &["with a credential of staff instead"]);
    check(&["acme", "GET", "/open"], 0, &["the route is public"]);

    // What is said is what happens.
    for target in ["/orders/1", "/scoped", "/own/acme", "/own/globex", "/token/acme", "/both", "/nowhere"] {
        for (id, key) in [&reads, &writes, &gone] {
            let output = office.can(&["acme", "GET", target, "--key", id, "--json"]);
            let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            let answered = office.edge.get(target, &[("x-api-key", key)]).status;
            assert_eq!(said["status"].as_u64().unwrap_or(200), u64::from(answered), "{target} with {id}");
        }
    }
    let output = office.can(&["acme", "GET", "/scoped", "--json"]);
    let said: Vec<Value> =
        serde_json::Deserializer::from_slice(&output.stdout).into_iter().collect::<Result<_, _>>().unwrap();
    let told = |id: &str| said.iter().find(|said| said["key"] == *id).map(|said| said["allowed"].as_bool());
    assert_eq!((told(&reads.0), told(&writes.0), said.len()), (Some(Some(false)), Some(Some(true)), 2));

    fs::remove_file(&store).unwrap();
    check(&["acme", "GET", "/orders/1"], 2, &["keys.db is not there", "--role"]);
    check(&["acme", "GET", "/orders/1", "--role", "reader"], 0, &[]);
}
