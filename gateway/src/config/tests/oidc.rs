//! `kind = "oidc"`: what it means, what is refused, and which pages come of it.

use super::*;
use crate::config::{JwtKeys, KeySource, Oidc, OwnPage};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn directory() -> Dir {
    let dir = Dir::new();
    dir.write("cookie.key", format!("# new\n{KEY}\n\n{KEY}\n"), 0o600).write("secret", "s3cret\n", 0o600);
    dir
}

fn auth(keys: &str) -> String {
    format!(
        "[auth.web]\nkind = \"oidc\"\nissuer = \"http://127.0.0.1:8080/realm\"\nclient_id = \"web\"\n\
         cookie_key_file = \"cookie.key\"\n{keys}\n"
    )
}

#[track_caller]
fn config_of(dir: &Dir, text: &str) -> Config {
    parse_in(dir.path(), text).expect("the text should be accepted").config
}

fn rules(config: &Config) -> &Oidc {
    match &config.auths[0].kind {
        AuthKind::Oidc(rules) => rules,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_login_has_defaults() {
    let dir = directory();
    let config = config_of(&dir, &auth(""));
    let rules = rules(&config);
    assert_eq!(
        (&*rules.callback, &*rules.logout, &*rules.after_logout),
        ("/oauth2/callback", "/oauth2/logout", "/")
    );
    assert_eq!((&*rules.request_scopes, rules.session), ("openid", Duration::from_hours(12)));
    assert_eq!(rules.timeout, Duration::from_secs(5));
    assert_eq!((rules.cookie_keys.len(), &rules.client_secret), (2, &None));
    assert_eq!(rules.id_token.issuer.as_deref(), Some("http://127.0.0.1:8080/realm"));
    assert_eq!(rules.id_token.claims.audiences, [Arc::from("web")], "an ID token is for the client");
    let JwtKeys::Fetched(source) = &rules.id_token.keys else { panic!("{:?}", rules.id_token.keys) };
    assert!(matches!(&**source, KeySource::Issuer { name, .. } if &**name == "http://127.0.0.1:8080/realm"));
    let config = config_of(
        &dir,
        &auth(
            "client_secret_file = \"secret\"\ncallback = \"/cb\"\nlogout = \"/out\"\nafter_logout = \"/bye\"\n\
             request_scopes = [\"openid\", \"email\"]\nsession = \"1h\"\nconsumer = \"email\"",
        ),
    );
    let rules = self::rules(&config);
    assert_eq!((&*rules.callback, &*rules.logout, &*rules.after_logout), ("/cb", "/out", "/bye"));
    assert_eq!((&*rules.request_scopes, rules.session), ("openid email", Duration::from_hours(1)));
    assert_eq!(rules.client_secret.as_ref().map(|secret| secret.0.as_slice()), Some(&b"s3cret"[..]));
}

#[test]
fn what_could_not_work_is_refused() {
    let dir = directory();
    dir.write("short", "AAEC\n", 0o600).write("open", KEY, 0o644).write("none", "# none\n", 0o600);
    let missing = "[auth.web]\nkind = \"oidc\"\n";
    let expected =
        ["client_id", "cookie_key_file", "issuer"].map(|key| format!("1:7: `auth.web` needs `{key}`"));
    refuse_in(dir.path(), missing, &expected.each_ref().map(String::as_str));
    for (keys, expected) in [
        ("callback = \"cb\"", "6:12: `auth.web.callback` is \"cb\", not a path"),
        ("callback = \"//evil.example\"", "6:12: `auth.web.callback` is"),
        ("logout = \"/a/../b\"", "6:10: `auth.web.logout` is"),
        ("after_logout = \"https://a\"", "6:16: `auth.web.after_logout` is"),
        ("callback = \"/oauth2/logout\"", "1:7: `auth.web`: `callback` and `logout` are the same"),
        ("request_scopes = [\"email\"]", "6:18: `auth.web.request_scopes` has to be"),
        ("request_scopes = [\"openid\", \"a b\"]", "6:18: `auth.web.request_scopes` has to be"),
        ("session = \"0s\"", "6:11: `auth.web.session`"),
        ("session = \"721h\"", "6:11: `auth.web.session` is longer than 30 days"),
        ("timeout = \"9s\"", "6:11: `auth.web.timeout` is longer than the 8 seconds"),
        ("algorithms = [\"HS256\"]", "1:7: `auth.web.algorithms` holds HMACs"),
        ("audiences = [\"a\"]", "6:13: `auth.web.audiences` has no meaning for kind \"oidc\""),
        ("forward_credential = true", "6:22: `auth.web.forward_credential`: nobody else"),
        ("client_secret_file = \"nowhere\"", "6:22: nowhere"),
    ] {
        refuse_in(dir.path(), &auth(keys), &[expected]);
    }
    for (file, expected) in [
        ("short", "5:19: short has no 32 bytes in base64 in line 1"),
        ("open", "5:19: open "),
        ("none", "5:19: none holds no keys"),
    ] {
        refuse_in(dir.path(), &auth("").replace("cookie.key", file), &[expected]);
    }
    for name in ["\"a.1\"", &"a".repeat(49)] {
        let renamed = auth("").replace("auth.web]", &format!("auth.{name}]"));
        refuse_in(dir.path(), &renamed, &["1:7: `auth.a"]);
    }
    let in_clear = auth("").replace("127.0.0.1:8080", "id.example.com");
    refuse_in(dir.path(), &in_clear, &["3:10: `auth.web.issuer` is"]);
}

#[test]
fn its_pages_are_on_every_host_that_uses_it() {
    let dir = directory();
    let route = |name: &str, hosts: &str, auth: &str| {
        format!("[routes.{name}]\npath = \"/{name}\"\n{hosts}\n{auth}\nrespond = {{ status = 204 }}\n")
    };
    let text = [
        auth(""),
        route("a", "hosts = [\"a.example\", \"*.b.example\"]", "auth = [\"web\"]"),
        route("b", "hosts = [\"a.example\"]", "auth = [\"web\"]"),
        route("c", "hosts = [\"c.example\"]", "public = true"),
    ];
    let config = config_of(&dir, &text.concat());
    let own: Vec<_> = config.routes.iter().filter(|route| matches!(route.action, Action::Own(..))).collect();
    let names: Vec<&str> = own.iter().map(|route| &*route.name).collect();
    assert_eq!(names, ["auth.web.callback", "auth.web.logout"]);
    for (route, (path, page)) in
        own.iter().zip([("/oauth2/callback", OwnPage::Callback), ("/oauth2/logout", OwnPage::Logout)])
    {
        assert_eq!((&*route.path, &route.action), (path, &Action::Own(0, page)));
        assert_eq!(route.hosts, [Arc::from("*.b.example"), Arc::from("a.example")]);
    }
    let anywhere = config_of(&dir, &[&text.concat(), &*route("d", "", "auth = [\"web\"]")].concat());
    let hosts: Vec<usize> = anywhere
        .routes
        .iter()
        .filter(|route| matches!(route.action, Action::Own(_, OwnPage::Callback)))
        .map(|route| route.hosts.len())
        .collect();
    assert_eq!(hosts, [2, 0]);
    // Nobody uses it: nobody comes back from it.
    assert!(config_of(&dir, &auth("")).routes.is_empty());
}
