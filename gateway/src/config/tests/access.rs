//! The sections that say who may do what: auth, key stores, roles, consumers, limits, filters, routes.

use std::{path::Path, sync::Arc, time::Duration};

use super::{Dir, HASH, accept, parse_in, refuse, refuse_in, repeat};
use crate::config::{
    AuthKind, Carrier, CertificateName, JwtKeys, KeySource, LimitPer, Loaded, ROUTES_MAX, Rate,
};

#[test]
fn api_keys() {
    let with = |lines: &str| format!("[auth.a]\nkind = \"api_key\"\n{lines}\n");
    let parsed = |lines: &str| match &accept(&with(lines)).auths[0].kind {
        AuthKind::ApiKey(api_key) => api_key.carrier.clone(),
        other => panic!("not an API key: {other:?}"),
    };
    assert_eq!(parsed("store = \"keys.db\""), Carrier::Header("x-api-key".into()));
    assert_eq!(parsed("store = \"keys.db\"\nheader = \"X-Key\""), Carrier::Header("x-key".into()));
    assert_eq!(parsed("store = \"keys.db\"\nquery = \"Api_Key\""), Carrier::Query("Api_Key".into()));
    refuse("[auth.a]\n", &["1:7: `auth.a` needs `kind`"]);
    refuse("[auth.a]\nkind = \"apikey\"\n", &["2:8: `auth.a.kind` cannot be \"apikey\""]);
    refuse(&with(""), &["1:7: `auth.a` needs `store`"]);
    let in_store = |lines: &str, expected: &[&str]| {
        refuse(&with(&format!("store = \"keys.db\"\n{lines}")), expected);
    };
    in_store("leeway = \"1s\"", &["4:10: `auth.a.leeway` has no meaning for kind \"api_key\""]);
    in_store("header = \"a b\"", &["4:10: `auth.a` names \"a b\", which is not a header"]);
    in_store("header = \"Host\"", &["4:10: `auth.a` names `host`, which only the proxy"]);
    in_store("query = \"a&b\"", &["4:9: `auth.a.query` is \"a&b\", not the name of a parameter"]);
    in_store("query = \"\"", &["4:9: `auth.a.query` is \"\", not the name of a parameter"]);
    in_store("query = \"k\"\nheader = \"k\"", &["4:9: `auth.a` has both `header` and `query`"]);
}

/// Where keys are fetched is asked under TLS, or on this host.
#[test]
fn keys_that_are_fetched() {
    let dir = Dir::new();
    dir.write_certificate("ca.pem", "ca.key").write("jwks.json", r#"{"keys":[{"kty":"OKP"}]}"#, 0o644);
    let with = |lines: &str| format!("[auth.a]\nkind = \"jwt\"\n{lines}\n");
    let source = |lines: &str| {
        let Loaded { config, .. } = parse_in(dir.path(), &with(lines)).unwrap();
        let AuthKind::Jwt(jwt) = &config.auths[0].kind else { panic!("not a JWT") };
        let JwtKeys::Fetched(source) = &jwt.keys else { panic!("{:?}", jwt.keys) };
        (jwt.issuer.clone(), (**source).clone())
    };
    let issuer = source("issuer = \"https://id.example.com/realms/a\"\nca_file = \"ca.pem\"");
    let (Some(issuer), KeySource::Issuer { name, at }) = issuer else { panic!("{issuer:?}") };
    assert_eq!((&*issuer, &*name), ("https://id.example.com/realms/a", "https://id.example.com/realms/a"));
    assert_eq!(at.url.to_string(), "https://id.example.com/realms/a");
    assert!(at.tls.is_some_and(|tls| !tls.authorities_are_the_systems && tls.authorities.len() == 1));
    let jwks = source("issuer = \"anything\"\njwks_url = \"http://127.0.0.1:8080/jwks?a=b\"");
    let (Some(issuer), KeySource::Jwks(at)) = jwks else { panic!("{jwks:?}") };
    assert_eq!((&*issuer, at.url.to_string().as_str()), ("anything", "http://127.0.0.1:8080/jwks?a=b"));
    assert!(at.tls.is_none());

    let in_dir = |lines: &str, expected: &[&str]| refuse_in(dir.path(), &with(lines), expected);
    in_dir("issuer = \"anything\"", &["3:10: `auth.a.issuer` is \"anything\": write a URL"]);
    in_dir(
        "issuer = \"http://id.example.com\"",
        &["3:10: `auth.a.issuer` is \"http://id.example.com\": whoever"],
    );
    in_dir("issuer = \"http://127.0.0.1/?a\"", &["3:10: `auth.a.issuer` has a query"]);
    in_dir(
        "jwks_url = \"http://192.0.2.1/\"",
        &["3:12: `auth.a.jwks_url` is \"http://192.0.2.1/\": whoever"],
    );
    in_dir(
        "jwks_url = \"http://127.0.0.1/\"\nca_file = \"ca.pem\"",
        &["4:11: `auth.a.ca_file` has no meaning for what is asked in clear"],
    );
    in_dir(
        "jwks_file = \"jwks.json\"\nca_file = \"ca.pem\"",
        &["4:11: `auth.a.ca_file` has no meaning with `jwks_file`"],
    );
    in_dir(
        "jwks_file = \"jwks.json\"\njwks_url = \"http://127.0.0.1/\"",
        &["4:12: `auth.a` has both `jwks_file` and `jwks_url`"],
    );
    in_dir(
        "jwks_url = \"http://127.0.0.1/\"\nalgorithms = [\"HS256\"]",
        &["3:12: `auth.a.jwks_url` is where keys are fetched, but HMACs need a secret"],
    );
}

#[test]
fn jwts() {
    let dir = Dir::new();
    dir.write("jwks.json", r#"{"keys":[{"kty":"OKP"}]}"#, 0o644)
        .write("oct.json", r#"{"keys":[{"kty":"oct"}]}"#, 0o644)
        .write("none.json", r#"{"keys":[]}"#, 0o644)
        .write("page.html", "<html>", 0o644)
        .write("public.pem", "-----BEGIN PUBLIC KEY-----\n", 0o644)
        .write("private.pem", "-----BEGIN PRIVATE KEY-----\n", 0o600)
        .write("private.mode", [1; 32], 0o644)
        .write("short", [1; 31], 0o600)
        .write("secret", "0123456789abcdef0123456789abcdef\n", 0o600);
    let with = |lines: &str| format!("[auth.a]\nkind = \"jwt\"\n{lines}\n");
    let Loaded { config, .. } = parse_in(dir.path(), &with("jwks_file = \"jwks.json\"\nroles = \"realm.roles\"\nscopes = \"scope\"\nforward = { X-User = \"sub\" }\nleeway = \"0s\"")).unwrap();
    let AuthKind::Jwt(jwt) = &config.auths[0].kind else { panic!("not a JWT") };
    assert_eq!(jwt.algorithms, ["RS256", "ES256", "EdDSA"].map(Arc::from));
    let claims = &jwt.claims;
    assert_eq!((claims.consumer.as_ref(), claims.roles.as_deref()), ("sub", Some("realm.roles")));
    assert_eq!((&claims.forward[..], jwt.leeway), (&[("x-user".into(), "sub".into())][..], Duration::ZERO));
    assert_eq!((claims.scopes.as_deref(), claims.audiences.len()), (Some("scope"), 0));
    assert!(matches!(&jwt.keys, JwtKeys::Jwks(text) if text.contains("OKP")));
    let hmac = with("key_file = \"secret\"\nalgorithms = [\"HS256\"]");
    let Loaded { config, .. } = parse_in(dir.path(), &hmac).unwrap();
    let AuthKind::Jwt(jwt) = &config.auths[0].kind else { panic!("not a JWT") };
    assert!(
        matches!(&jwt.keys, JwtKeys::Key(key) if key.0.len() == 32),
        "the newline is no part of the secret"
    );

    let in_dir = |lines: &str, expected: &[&str]| refuse_in(dir.path(), &with(lines), expected);
    in_dir("", &["1:7: `auth.a` needs `issuer`, from where keys are fetched, or"]);
    in_dir(
        "jwks_file = \"jwks.json\"\nkey_file = \"public.pem\"",
        &["4:12: `auth.a` has both `jwks_file` and `key_file`"],
    );
    in_dir("jwks_file = \"none.json\"", &["3:13: none.json holds no keys"]);
    in_dir("jwks_file = \"page.html\"", &["3:13: page.html is not JSON"]);
    in_dir("jwks_file = \"oct.json\"", &["3:13: oct.json holds a secret that everybody may read"]);
    in_dir("key_file = \"secret\"", &["3:12: secret does not hold a public key in PEM"]);
    in_dir("key_file = \"private.pem\"", &["3:12: private.pem holds a private key"]);
    let hs = |file: &str| format!("key_file = \"{file}\"\nalgorithms = [\"HS256\"]");
    in_dir(&hs("public.pem"), &["3:12: public.pem holds a secret that everybody may read"]);
    in_dir(&hs("private.pem"), &["3:12: private.pem holds PEM, but an HMAC needs a shared secret"]);
    in_dir(&hs("private.mode"), &["3:12: private.mode holds a secret that everybody may read"]);
    in_dir(&hs("short"), &["3:12: short holds 31 bytes, but these algorithms need 32"]);
    let algorithms = |list: &str| format!("algorithms = [{list}]\njwks_file = \"jwks.json\"");
    in_dir(&algorithms("\"None\""), &["3:15: `auth.a.algorithms` never holds `none`"]);
    in_dir(&algorithms("\"RS255\""), &["3:15: `auth.a.algorithms` holds \"RS255\""]);
    in_dir(&algorithms("\"RS256\", \"HS256\""), &["3:14: `auth.a.algorithms` mixes HMACs with signatures"]);
    in_dir(&algorithms(""), &["3:14: `auth.a.algorithms` is empty"]);
    let forward = |table: &str| format!("forward = {table}\njwks_file = \"jwks.json\"");
    in_dir(
        &forward("{ Host = \"sub\" }"),
        &["3:13: `auth.a` names `host`, which only the proxy itself sets"],
    );
    in_dir(&forward("{ x = \"a..b\" }"), &["3:17: `auth.a.forward` is \"a..b\", not a claim"]);
    in_dir(
        "jwks_file = \"jwks.json\"\nstore = \"x\"",
        &["4:9: `auth.a.store` has no meaning for kind \"jwt\""],
    );
    in_dir(
        "jwks_file = \"jwks.json\"\nendpoint = \"x\"",
        &["4:12: `auth.a.endpoint` has no meaning for kind \"jwt\""],
    );
    in_dir("jwks_file = \"jwks.json\"\nscopes = \"\"", &["4:10: `auth.a.scopes` is \"\", not a claim"]);
}

#[test]
fn introspection() {
    let dir = Dir::new();
    dir.write("secret", "s3cr:et%\n", 0o600)
        .write("open", "s3cret", 0o644)
        .write("lines", "a\nb\n", 0o600)
        .write("empty", "\n", 0o600);
    let with = |lines: &str| {
        format!(
            "[auth.a]\nkind = \"introspection\"\nendpoint = \"http://127.0.0.1:1/i\"\nclient_id = \"g\"\n{lines}\n"
        )
    };
    let rules = |lines: &str| {
        let text = with(&format!("client_secret_file = \"secret\"\n{lines}"));
        let Loaded { config, .. } = parse_in(dir.path(), &text).unwrap();
        let AuthKind::Introspection(rules) = config.auths[0].kind.clone() else { panic!("another kind") };
        *rules
    };
    let plain = rules("");
    assert_eq!((plain.cache, plain.timeout), (Duration::from_secs(30), Duration::from_secs(2)));
    assert_eq!(
        (&plain.client_secret.0[..], plain.claims.scopes.as_deref()),
        (&b"s3cr:et%"[..], Some("scope"))
    );
    assert!(!format!("{plain:?}").contains("s3cr"), "a secret is never shown");
    let all = rules(
        "cache = \"0s\"\ntimeout = \"8s\"\non_failure = \"deny\"\nscopes = \"s\"\nroles = \"r\"\naudiences = [\"x\"]\nforward = { x-user = \"sub\" }",
    );
    assert_eq!((all.cache, all.claims.scopes.as_deref()), (Duration::ZERO, Some("s")));
    assert_eq!((all.claims.roles.as_deref(), all.claims.audiences.len()), (Some("r"), 1));

    let in_dir = |lines: &str, expected: &[&str]| refuse_in(dir.path(), &with(lines), expected);
    in_dir("", &["1:7: `auth.a` needs `client_secret_file`"]);
    in_dir("client_secret_file = \"open\"", &["5:22: open holds a secret that everybody may read"]);
    for file in ["lines", "empty"] {
        let expected = format!("5:22: {file} does not hold one secret");
        in_dir(&format!("client_secret_file = \"{file}\""), &[&expected]);
    }
    let secret = |lines: &str, expected: &str| {
        in_dir(&format!("client_secret_file = \"secret\"\n{lines}"), &[expected]);
    };
    secret("on_failure = \"allow\"", "6:14: `auth.a.on_failure` cannot be \"allow\"");
    secret("cache = \"2h\"", "6:9: `auth.a.cache` is longer than an hour");
    secret("timeout = \"9s\"", "6:11: `auth.a.timeout` is longer than the 8 seconds");
    secret("timeout = \"0s\"", "6:11: `auth.a.timeout` must be longer");
    secret("issuer = \"x\"", "6:10: `auth.a.issuer` has no meaning for kind \"introspection\"");
    refuse(
        "[auth.a]\nkind = \"introspection\"\nendpoint = \"http://192.0.2.1/\"\n",
        &[
            "1:7: `auth.a` needs `client_id`",
            "1:7: `auth.a` needs `client_secret_file`",
            "3:12: `auth.a.endpoint` is \"http://192.0.2.1/\": whoever is on the way",
        ],
    );
}

#[test]
fn roles_consumers_limits_filters() {
    refuse("[roles.a]\ninherits = [\"a\"]\n", &["1:8: roles inherit in a circle: a → a"]);
    refuse(
        "[roles.a]\ninherits = [\"b\"]\n[roles.b]\ninherits = [\"c\"]\n[roles.c]\ninherits = [\"a\"]\n[roles.d]\ninherits = [\"a\"]\n",
        &["1:8: roles inherit in a circle: a → b → c → a"],
    );
    refuse(
        "[roles.reader]\n[roles.a]\ninherits = [\"raeder\"]\n",
        &["3:13: `roles.a` names `raeder`, but there is no `[roles.raeder]`\n  did you mean `reader`?"],
    );
    for bad in ["", "a:", ":a", "a*", "*a:b", "a::b", "a b"] {
        refuse(&format!("[roles.a]\npermissions = [\"{bad}\"]\n"), &["2:16: "]);
    }
    for good in ["*", "a:*", "a", "a:b:c", "a:b:*", "*:a", "a:*:c"] {
        accept(&format!("[roles.a]\npermissions = [\"{good}\"]\n"));
    }
    refuse(
        "[consumers.a]\nroles = [\"r\"]\nlimits = [\"l\"]\n",
        &["2:10: `consumers.a` names `r`", "3:11: `consumers.a` names `l`"],
    );
    refuse("[roles.r]\n[consumers.a]\nroles = [\"r\", \"r\"]\n", &["3:15: `consumers.a` names `r` twice"]);
    let limit = |line: &str| format!("[limits.a]\nrate = \"2/s\"\n{line}\n");
    assert_eq!(accept(&limit("")).limits[0].rate, Rate { per_s: 2.0, burst: 2 });
    assert_eq!(accept(&limit("per = \"route\"")).limits[0].per, LimitPer::Route);
    accept(&limit("store = \"local\"\non_store_failure = \"local\""));
    refuse("[limits.a]\n", &["1:9: `limits.a` needs `rate`"]);
    refuse("[limits.a]\nquota = \"5/month\"\n", &["2:9: `limits.a.quota` is not supported yet"]);
    refuse(&limit("concurrency = 5"), &["3:15: `limits.a.concurrency` is not supported yet"]);
    refuse(&limit("store = \"fleet\""), &["3:9: `limits.a.store = \"fleet\"` is not supported yet"]);
    refuse(&limit("per = \"claim:sub\""), &["3:7: `limits.a.per = \"claim:sub\"` is not supported yet"]);
    refuse(&limit("per = \"header:\""), &["3:7: `limits.a.per` names \"\", which is not a header name"]);
    refuse(&limit("per = \"everyone\""), &["3:7: `limits.a.per` cannot be \"everyone\""]);
    refuse(
        "[filters.a]\nallow_types = [\"json\"]\nmode = \"block\"\n",
        &["2:16: \"json\" is not a media type", "3:8: `filters.a.mode` is not supported yet"],
    );
    refuse("[filters.a]\nallow_types = [\"text/*\"]\n", &["2:16: \"text/*\" is not a media type"]);
}

/// A route of these lines and its upstream.
fn with(lines: &str) -> String {
    format!("[routes.a]\npath = \"/a\"\n{lines}\n[upstreams.u]\nservers = [\"192.0.2.1:80\"]\n")
}

/// The same for a public route to the upstream.
fn open(lines: &str) -> String {
    with(&format!("public = true\nupstream = \"u\"\n{lines}"))
}

#[test]
fn websockets() {
    accept(&open("websocket = true"));
    accept(&open("websocket = { origins = [\"https://Shop.example\", \"http://[::1]:8080\"] }"));
    accept(&open("websocket = { idle_timeout = \"1h\" }\nmethods = [\"GET\"]"));
    refuse(&open("websocket = \"on\""), &["5:13: "]);
    refuse(&open("websocket = { origins = [] }"), &["5:25: `routes.a.websocket.origins` is empty"]);
    for no_origin in ["shop.example", "https://", "://a", "https://a/", "https://u@a", "null", "*"] {
        refuse(
            &open(&format!("websocket = {{ origins = [\"{no_origin}\"] }}")),
            &["5:26: `routes.a.websocket.origins` holds"],
        );
    }
    refuse(
        &open("websocket = { idle_timeout = \"0s\" }"),
        &["5:30: `routes.a.websocket.idle_timeout` must be"],
    );
    refuse(&open("websocket = true\nmethods = [\"POST\"]"), &["5:13: `routes.a.websocket` needs GET"]);
    refuse(
        &with("public = true\nrespond = { status = 200 }\nwebsocket = true"),
        &["5:13: `routes.a.websocket` needs `upstream`"],
    );
}

#[test]
fn routes() {
    accept(&open(""));
    refuse(
        "[routes.a]\npublic = true\nupstream = \"u\"\n[upstreams.u]\nservers = [\"192.0.2.1:80\"]\n",
        &["1:9: `routes.a` needs `path`"],
    );
    refuse(&with("upstream = \"u\""), &["1:9: `routes.a` says neither `auth` nor `public = true`"]);
    refuse(&with("upstream = \"u\"\nauth = []\npublic = false"), &["1:9: `routes.a` says neither"]);
    refuse(
        &open("auth = [\"k\"]"),
        &["5:8: `routes.a` has both `auth` and `public = true`", "5:9: `routes.a` names `k`"],
    );
    refuse(&with("public = true"), &["1:9: `routes.a` needs `upstream`"]);
    refuse(
        &with("public = true\nupstream = \"v\""),
        &["4:12: `routes.a` names `v`, but there is no `[upstreams.v]`"],
    );
    refuse(&open("respond = { status = 200 }"), &["5:11: `routes.a` has both `upstream` and `respond`"]);
    refuse(&with("public = true\nrespond = { body = \"x\" }"), &["4:11: `routes.a.respond` needs `status`"]);
    refuse(
        &with("public = true\nrespond = { status = 199 }"),
        &["4:22: `routes.a.respond.status` is 199, not 200 to 599"],
    );
    refuse(
        &with("public = true\nrespond = { status = 204, body = \"x\" }"),
        &["4:22: `routes.a.respond` has a body, but 204"],
    );
    accept(&with("public = true\nredirect = \"/b\""));
    refuse(&open("contract = \"c\""), &["5:12: `routes.a.contract` is not supported yet"]);
    accept(&open("websocket = false\nmatch_headers = {}\nredirect = \"\"\ncache = \"off\""));
    refuse(&open("hosts = [\"a:1\"]"), &["5:10: `routes.a.hosts` holds \"a:1\": leave the port out"]);
    refuse(&open("hosts = [\"*\"]"), &["5:10: `routes.a.hosts` holds \"*\": leave `hosts` out"]);
    refuse(
        &open("hosts = [\"a.*.b\"]"),
        &["5:10: `routes.a.hosts` holds \"a.*.b\": `*` stands for one whole label"],
    );
    refuse(
        &open("hosts = [\"é.example\"]"),
        &["5:10: `routes.a.hosts` holds \"é.example\": write an international"],
    );
    refuse(&open("hosts = [\"a..b\"]"), &["5:10: `routes.a.hosts` holds \"a..b\": write a name"]);
    accept(&open("hosts = [\"192.0.2.1\", \"[::1]\", \"localhost\"]"));
    refuse(
        &open("methods = [\"get\"]"),
        &[
            "5:12: `routes.a.methods` holds \"get\", which is not a method in upper case\n  did you mean `GET`?",
        ],
    );
    refuse(
        &open("methods = [\"TRACE\", \"CONNECT\"]"),
        &["5:12: `routes.a.methods` holds TRACE", "5:21: `routes.a.methods` holds CONNECT"],
    );
    refuse(
        &open("limits = [\"l\"]\nfilter = \"f\""),
        &["5:11: `routes.a` names `l`", "6:10: `routes.a` names `f`"],
    );
    refuse(&open("permission = \"x\""), &["5:14: `routes.a` is public"]);
    refuse(&open("timeouts = { request = \"0s\" }"), &["5:24: `routes.a.timeouts.request` must be longer"]);
    let two = |first: &str, second: &str| {
        format!(
            "[routes.a]\n{first}\npublic = true\nrespond.status = 200\n[routes.b]\n{second}\npublic = true\nrespond.status = 200\n"
        )
    };
    refuse(
        &two("path = \"/{a}\"", "path = \"/{b}\""),
        &["5:9: `routes.b` matches the same host, path and method as the route at portcullis.toml:1:9"],
    );
    refuse(
        &two("path = \"/\"\nmethods = [\"GET\"]", "path = \"/\"\nmethods = [\"PUT\", \"GET\"]"),
        &["6:9: `routes.b` matches the same"],
    );
    accept(&two("path = \"/\"\nmethods = [\"GET\"]", "path = \"/\"\nmethods = [\"PUT\"]"));
    accept(&two("path = \"/\"\nmethods = [\"GET\"]", "path = \"/\""));
    accept(&two("path = \"/\"\nhosts = [\"a\"]", "path = \"/\"\nhosts = [\"b\"]"));
    accept(&two("path = \"/{a}\"", "path = \"/{*b}\""));
    let routes =
        |n| repeat(n, |i| format!("[routes.r{i}]\npath = \"/{i}\"\npublic = true\nupstream = \"x\"\n"));
    let mistakes = parse_in(Path::new("."), &routes(ROUTES_MAX + 1)).unwrap_err();
    assert!(mistakes[0].contains("there are 131073 routes; at most 131072"), "{}", mistakes[0]);
    let mistakes = parse_in(Path::new("."), &routes(ROUTES_MAX)).unwrap_err();
    assert_eq!(mistakes.len(), ROUTES_MAX, "each names an upstream that is not there");
}

#[test]
fn permissions() {
    let with = |permission: &str| {
        format!(
            "[routes.a]\npath = \"/a\"\nmethods = [\"GET\", \"PUT\"]\nauth = [\"keys\"]\nrespond.status = 200\npermission = {permission}\n\
             [auth.keys]\nkind = \"api_key\"\nstore = \"keys.db\"\n[roles.reader]\npermissions = [\"orders:*\"]\n"
        )
    };
    let warned = |permission: &str| parse_in(Path::new("."), &with(permission)).unwrap().warnings;
    assert_eq!(warned("\"orders:read\""), []);
    assert!(warned("\"order:read\"")[0].message.starts_with("no role holds the permission `order:read`"));
    assert!(warned("{ GET = \"orders:read\" }")[0].message.ends_with("so PUT is always refused"));
    refuse(&with("{}"), &["6:14: `routes.a.permission` is empty"]);
    refuse(&with("\"*\""), &["6:14: `routes.a.permission` is \"*\", not a permission"]);
    refuse(
        &with("{ POST = \"a\" }"),
        &["6:16: `routes.a.permission` holds POST, which the route does not match"],
    );
}

#[test]
fn passwords_are_hashes_that_are_slow_to_guess_and_not_too_slow_to_check() {
    let dir = Dir::new();
    let with = |lines: &str| format!("[auth.a]\nkind = \"basic\"\n{lines}\n");
    let refuses = |content: String, expected: &str| {
        dir.write("passwords", content, 0o600);
        refuse_in(dir.path(), &with("file = \"passwords\""), &[&format!("3:8: passwords {expected}")]);
    };
    refuse(&with(""), &["1:7: `auth.a` needs `file`"]);
    refuse_in(dir.path(), &with("file = \"none\""), &["3:8: none cannot be read"]);
    refuses("# nobody\n".into(), "holds no users");
    refuses("ada\n".into(), "has no `user:hash` in line 1");
    refuses(format!(":{HASH}\n"), "has no `user:hash` in line 1");
    refuses(
        format!("ada:{HASH}\n\nbob:secret\n"),
        "has a hash that `portcullis keys password` has not made in line 3",
    );
    refuses(
        format!("ada:{}\n", HASH.replace("argon2id", "argon2i")),
        "has a hash that is not argon2id's in line 1",
    );
    refuses(
        format!("ada:{}\n", HASH.replace("19456", "262145")),
        "has a hash that takes too long to check in line 1",
    );
    refuses(format!("ada:{HASH}\nbob:{HASH}\nada:{HASH}\n"), "has the user \"ada\" twice");
    dir.write("passwords", format!("ada:{HASH}\n bob:{}\n", HASH.replace("19456", "262144")), 0o600);
    let loaded = parse_in(dir.path(), &with("file = \"passwords\"")).unwrap().config;
    let AuthKind::Basic(basic) = &loaded.auths[0].kind else { panic!("{loaded:?}") };
    assert_eq!(basic.users.iter().map(|(user, _)| &**user).collect::<Vec<_>>(), ["ada", "bob"]);
}

#[test]
fn a_certificate_is_read_for_one_kind_of_name() {
    let with = |lines: &str| format!("[auth.a]\nkind = \"mtls\"\n{lines}\n");
    let name = |lines: &str| accept(&with(lines)).auths[0].kind.clone();
    assert_eq!(name(""), AuthKind::Mtls(CertificateName::SanDns));
    assert_eq!(name("consumer = \"cn\""), AuthKind::Mtls(CertificateName::Cn));
    refuse(&with("consumer = \"dns\""), &["3:12: `auth.a.consumer` cannot be \"dns\""]);
    refuse(&with("leeway = \"1s\""), &["3:10: `auth.a.leeway` has no meaning for kind \"mtls\""]);
    assert!(accept(&with("forward_credential = true")).auths[0].forward_credential);
}

#[test]
fn scopes_and_conditions() {
    let with = |path: &str, keys: &str| {
        format!(
            "[roles.support]\n[auth.k]\nkind = \"mtls\"\n\
             [upstreams.u]\nservers = [\"192.0.2.1:80\"]\n[routes.a]\npath = \"{path}\"\nauth = [\"k\"]\n\
             upstream = \"u\"\n{keys}\n"
        )
    };
    let good = |keys: &str| accept(&with("/v1/{id}", keys)).routes.remove(0);
    let bad = |keys: &str, expected: &[&str]| refuse(&with("/v1/{id}", keys), expected);

    let scopes = good("scopes = [\"orders:read\", \"https://a.example/b\", \"orders:read\"]").scopes;
    assert_eq!(scopes, ["orders:read".into(), "https://a.example/b".into()]);
    bad("scopes = [\"a b\"]", &["10:11: `routes.a.scopes` holds \"a b\", which is not a scope"]);
    bad("scopes = [\"\"]", &["10:11: `routes.a.scopes` holds \"\""]);
    bad("scopes = ['a\"b', 'a\\b']", &["10:11: `routes.a.scopes` holds", "10:18: `routes.a.scopes` holds"]);
    refuse(&open("scopes = [\"a\"]"), &["5:10: `routes.a` is public, so nobody is asked for scopes"]);

    assert_eq!(good("when = \"\"").when, None);
    let when = good("when = \"path.id == claims.sub || 'support' in roles\"").when.unwrap();
    assert_eq!(when.text(), "path.id == claims.sub || 'support' in roles");
    // Places lie within the text, whatever its quotes; in front of it, where it does not stand there as it is.
    bad("when = \"true && cliams.sub == ''\"", &["10:17: `routes.a.when` names `cliams`, which is nothing"]);
    bad("when = 'true &&'", &["10:16: `routes.a.when` cannot be read"]);
    bad("when = '\"é\" == path.x'", &["10:20: `routes.a.when` names `path.x`, which is no parameter"]);
    bad("when = \"\\u0074rue && x\"", &["10:8: `routes.a.when` names `x`"]);
    bad("when = \"\"\"\ntrue && x\"\"\"", &["10:8: `routes.a.when` names `x`"]);
    bad("when = \"'suport' in roles\"", &["10:9: `routes.a.when` asks for the role `suport`"]);
    bad("when = \"x && y\"", &["10:9: `routes.a.when` names `x`", "10:14: `routes.a.when` names `y`"]);
    accept(&open("when = \"source.within('192.0.2.0/24')\""));
    refuse(
        &open("when = \"claims.sub == ''\""),
        &["5:9: `routes.a.when` asks for `claims`, but on a public"],
    );
}
