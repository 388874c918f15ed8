//! What a login must not be talked into: RFC 9700, and the rows of the design's attacks that concern it.

use serde_json::json;

use super::{NAVIGATES, SESSION, Site, Visitor};

/// Begins a login: where the provider is asked.
#[track_caller]
fn begin(visitor: &Visitor<'_>, target: &str) -> String {
    visitor.visit(target).location().to_owned()
}

#[test]
fn a_session_that_was_changed_or_sealed_elsewhere_is_none() {
    const TEST: &str = "oidc::attacks::a_session_that_was_changed_or_sealed_elsewhere_is_none";
    let Some(site) = Site::start(TEST, &json!({})) else { return };
    let cookies = site.known().cookies();
    let status = |cookies: &str| site.visitor().ask(&site.url("/"), &[cookies], &[]).status;
    assert_eq!(status(&cookies), 200);
    let length = cookies.len();
    let start = cookies.find("=1").unwrap() + 2;
    for at in [start, start + 20, usize::midpoint(start, length), length - 1] {
        let mut changed = cookies.clone();
        let other = if &cookies[at..=at] == "A" { "B" } else { "A" };
        changed.replace_range(at..=at, other);
        assert_eq!(status(&changed), 401, "{at}");
    }
    assert_eq!(status(&cookies[..length - 1]), 401);
    assert_eq!(status(&format!("{cookies}A")), 401);
    assert_eq!(status(&cookies.replace("=1", "=2")), 401);
    // Twice: an upstream might read the other one.
    assert_eq!(status(&format!("{cookies}; {}", cookies.strip_prefix("Cookie: ").unwrap())), 401);
    // A login of ours is sealed with the same key, and is no session.
    let visitor = site.visitor();
    begin(&visitor, "/");
    let login = visitor.cookies();
    assert!(login.contains(&format!("{SESSION}.login0=1")), "{login}");
    assert_eq!(status(&login.replace(".login0", "")), 401);
}

#[test]
fn a_code_counts_for_the_browser_that_asked_for_it_and_once() {
    const TEST: &str = "oidc::attacks::a_code_counts_for_the_browser_that_asked_for_it_and_once";
    let Some(site) = Site::start(TEST, &json!({})) else { return };
    let (honest, victim) = (site.visitor(), site.visitor());
    let callback = honest.callback_after(&begin(&honest, "/orders"));
    let ask = |visitor: &Visitor<'_>, url: &str| visitor.ask(url, &NAVIGATES, &[]);
    // Injected into a browser that has begun nothing, and into one that has begun something else.
    for _ in 0..2 {
        let answer = ask(&victim, &callback);
        assert_eq!((answer.status, answer.headers("set-cookie").count()), (400, 0), "{answer:?}");
        begin(&victim, "/");
    }
    assert_eq!(site.provider.count("/token"), 0, "the code was not used up");
    let logins = honest.cookies();
    assert_eq!(ask(&honest, &callback).location(), "/orders");
    assert_eq!(honest.fetch("/").status, 200);
    // Again: the browser has forgotten the login, and with a copy of it the provider knows the code no more.
    assert_eq!(ask(&honest, &callback).status, 400);
    let answer = site.visitor().ask(&callback, &[&logins, NAVIGATES[1]], &[]);
    assert_eq!(answer.status, 400, "{answer:?}");
    let set: Vec<&str> = answer.headers("set-cookie").collect();
    assert!(set.iter().all(|cookie| cookie.ends_with("; Max-Age=0")), "{set:?}");
}

#[test]
fn an_id_token_of_another_login_logs_nobody_in() {
    const TEST: &str = "oidc::attacks::an_id_token_of_another_login_logs_nobody_in";
    let Some(site) = Site::start(TEST, &json!({})) else { return };
    let visitor = site.visitor();
    let authorization = begin(&visitor, "/");
    let (before, after) = authorization.split_once("&nonce=").unwrap();
    let wrong = format!("{before}&nonce=wrong&{}", after.split_once('&').unwrap().1);
    let answer = visitor.ask(&visitor.callback_after(&wrong), &NAVIGATES, &[]);
    assert_eq!(answer.status, 400, "{answer:?}");
    assert_eq!(site.provider.count("/token"), 1, "it was the ID token that was refused");
    assert!(!visitor.cookies().contains(SESSION), "{answer:?}");
}

#[test]
fn a_code_without_its_verifier_is_worth_nothing() {
    const TEST: &str = "oidc::attacks::a_code_without_its_verifier_is_worth_nothing";
    let Some(site) = Site::start(TEST, &json!({})) else { return };
    let visitor = site.visitor();
    let authorization = begin(&visitor, "/");
    assert!(authorization.contains("&code_challenge_method=S256"), "{authorization}");
    let (before, after) = authorization.split_once("&code_challenge=").unwrap();
    let challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
    let wrong = format!("{before}&code_challenge={challenge}&{}", after.split_once('&').unwrap().1);
    assert_eq!(visitor.ask(&visitor.callback_after(&wrong), &NAVIGATES, &[]).status, 400);
    assert_eq!(visitor.fetch("/").status, 401);
}

#[test]
fn what_no_issuer_sends_is_refused() {
    const TEST: &str = "oidc::attacks::what_no_issuer_sends_is_refused";
    let Some(site) = Site::start(TEST, &json!({})) else { return };
    let visitor = site.visitor();
    let callback = visitor.callback_after(&begin(&visitor, "/"));
    let (page, query) = callback.split_once('?').unwrap();
    let issuer = format!("iss={}", site.provider.issuer().replace(':', "%3A").replace('/', "%2F"));
    assert!(query.contains(&issuer), "{query}");
    for wrong in [
        String::new(),
        "code=a".to_owned(),
        "state=a".to_owned(),
        format!("{query}&code=a"),
        format!("{query}&state=a"),
        // Mix-up: RFC 9207 §2.4
        query.replace(&issuer, "iss=https%3A%2F%2Fevil.example"),
        format!("{query}&error=access_denied"),
    ] {
        let answer = visitor.ask(&format!("{page}?{wrong}"), &NAVIGATES, &[]);
        assert_eq!(answer.status, 400, "{wrong}");
        assert!(answer.body.contains("Login failed") && !answer.body.contains("code"), "{answer:?}");
    }
    for flags in [&["--head"][..], &["--http1.1", "--data", query]] {
        assert_eq!(visitor.ask(page, &[], flags).status, 405, "{flags:?}");
    }
    assert_eq!(site.provider.count("/token"), 0);
}

#[test]
fn no_login_ends_on_another_host() {
    const TEST: &str = "oidc::attacks::no_login_ends_on_another_host";
    let Some(site) = Site::start(TEST, &json!({})) else { return };
    for target in [
        "//evil.example/",
        "///evil.example",
        "/.//evil.example",
        "/%2F%2Fevil.example",
        "/%5Cevil.example",
        "/a?next=https://evil.example",
        "/a?\\evil.example",
        "/https://evil.example",
        "/@evil.example",
    ] {
        let visitor = site.visitor();
        let answer = visitor.visit(target);
        if answer.status == 400 {
            continue;
        }
        let callback = visitor.callback_after(answer.location());
        let answer = visitor.ask(&callback, &NAVIGATES, &[]);
        let back_to = answer.location();
        assert!(back_to.starts_with('/') && !back_to.starts_with("//"), "{target}: {back_to}");
        assert!(!back_to.contains('\\'), "{target}: {back_to}");
    }
    // Whom the request calls itself is where the issuer is asked to send the code, and the issuer says no.
    let visitor = site.visitor();
    let answer = visitor.ask(&site.url("/"), &["Host: evil.example", NAVIGATES[1]], &["--http1.1"]);
    if answer.status == 303 {
        let answer = visitor.ask(answer.location(), &NAVIGATES, &[]);
        assert_eq!((answer.status, answer.header("location")), (400, None), "{answer:?}");
    }
}

#[test]
fn a_browser_may_log_in_in_several_tabs_but_not_without_end() {
    const TEST: &str = "oidc::attacks::a_browser_may_log_in_in_several_tabs_but_not_without_end";
    let Some(site) = Site::start(TEST, &json!({})) else { return };
    let visitor = site.visitor();
    let tabs: Vec<String> = (0..4).map(|tab| begin(&visitor, &format!("/{tab}"))).collect();
    for (tab, authorization) in tabs.iter().enumerate() {
        let callback = visitor.callback_after(authorization);
        assert_eq!(visitor.ask(&callback, &NAVIGATES, &[]).location(), format!("/{tab}"));
    }
    let visitor = site.visitor();
    for tab in 0..10 {
        begin(&visitor, &format!("/{tab}"));
    }
    assert_eq!(visitor.cookies().matches(".login").count(), 4);
}

#[test]
fn only_the_issuer_ends_sessions_from_outside() {
    const TEST: &str = "oidc::attacks::only_the_issuer_ends_sessions_from_outside";
    let Some(site) = Site::start(TEST, &json!({})) else { return };
    let visitor = site.known();
    let token = site.provider.token("machine", "grant_type=client_credentials&resource=urn:api:jwt");
    let token = token["access_token"].as_str().unwrap();
    let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.";
    for form in [
        String::new(),
        "logout_token=".to_owned(),
        "logout_token=a.b.c".to_owned(),
        format!("logout_token={none}"),
        format!("logout_token={token}"),
        format!("logout_token={token}&logout_token={token}"),
        format!("token={token}"),
    ] {
        // Where there is nothing to be read, curl 7.88 takes the stream's end for a fault.
        let versions: &[&str] = if form.is_empty() { &["--http1.1"] } else { &["--http1.1", "--http2"] };
        for version in versions {
            let flags = &[*version, "--data", &form];
            let answer = site.visitor().ask(&site.url("/oauth2/logout"), &[], flags);
            assert_eq!((answer.status, answer.body.as_str()), (400, ""), "{form}");
        }
    }
    let long = format!("logout_token={}", "a".repeat(20_000));
    let answer = site.visitor().ask(&site.url("/oauth2/logout"), &[], &["--http1.1", "--data", &long]);
    assert_eq!(answer.status, 413, "{answer:?}");
    assert_eq!(visitor.fetch("/").status, 200);
}
