//! `cors`: which rules there can be.

use std::path::Path;

use crate::config::{OriginPattern, Origins};

use super::{accept, parse_in};

fn route(table: &str) -> String {
    format!(
        "[routes.a]\npath = \"/a\"\npublic = true\nmethods = [\"GET\", \"PUT\"]\nrespond.status = 200\ncors = {{ {table} }}\n"
    )
}

#[track_caller]
fn told(table: &str, part: &str) {
    let errors = parse_in(Path::new("/nonexistent"), &route(table)).expect_err("it should be refused");
    assert!(errors.len() == 1 && errors[0].contains(part), "{errors:#?} instead of {part}");
}

#[test]
fn rules_are_put_together() {
    let config = accept(&route(
        "origins = [\"https://A.example\", \"null\", \"http://*.b.example:8080\"], headers = [\"X-A\", \"X-B\"], \
         expose = [\"ETag\"], credentials = true, max_age = \"1h\"",
    ));
    let cors = config.routes[0].cors.as_deref().unwrap();
    let exact = |text: &str| OriginPattern::Exact(text.into());
    assert_eq!(
        cors.origins,
        Origins::Listed(vec![
            exact("https://a.example"),
            exact("null"),
            OriginPattern::OneLabel("http://".into(), ".b.example:8080".into())
        ])
    );
    assert_eq!((&*cors.methods, &*cors.headers, &*cors.expose), ("GET, PUT", "X-A, X-B", "ETag"));
    assert_eq!((&*cors.max_age, cors.credentials), ("3600", true));
    let config = accept(&route("origins = [\"*\"], methods = [\"*\"], headers = [\"*\"]"));
    let cors = config.routes[0].cors.as_deref().unwrap();
    assert_eq!((&cors.origins, &*cors.methods, &*cors.max_age), (&Origins::Any, "*", ""));
    accept(&route("origins = [\"app://localhost\", \"http://[::1]:3000\", \"http://localhost:3000\"]"));
}

#[test]
fn rules_that_mean_nothing_or_too_much_are_refused() {
    told("", "`routes.a.cors` needs `origins`");
    told("origins = []", "`routes.a.cors` needs `origins`");
    told("origins = [\"*\"], credentials = true", "lets any origin use its visitors' credentials");
    told("origins = [\"*\", \"https://a.example\"]", "it stands for all");
    told(
        "origins = [\"https://a\"], headers = [\"*\"], credentials = true",
        "means nothing with credentials",
    );
    told("origins = [\"https://a\"], methods = [\"G T\"]", "which is not a name");
    for (origin, part) in [
        ("a.example", "write scheme, host"),
        ("https://a.example/", "not even a final slash"),
        ("https://a.example:443", "leave the scheme's own port out"),
        ("http://a.example:80", "leave the scheme's own port out"),
        ("https://a.example:99999", "write scheme, host"),
        ("https://*.com", "a name of at least two"),
        ("https://*", "one whole label at the front"),
        ("https://a.*.example", "one whole label at the front"),
        ("https://user@a.example", "write scheme, host"),
        ("https://é.example", "write scheme, host"),
    ] {
        told(&format!("origins = [\"{origin}\"]"), part);
    }
    let text = "[upstreams.u]\nservers = [\"192.0.2.1:80\"]\n[routes.a]\npath = \"/a\"\npublic = true\nupstream = \"u\"\n\
        cors = { origins = [\"*\"] }\nrewrite = { response = { set_headers = { Access-Control-Allow-Origin = \"x\" } } }\n";
    let errors = parse_in(Path::new("/nonexistent"), text).expect_err("both set it");
    assert!(errors.len() == 1 && errors[0].contains("which `cors` is about"), "{errors:#?}");
}
