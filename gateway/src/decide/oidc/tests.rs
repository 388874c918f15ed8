//! Sessions as a worker judges them, and tokens as the thread `auth` believes them.

use std::{hash::RandomState, sync::Arc, time::Duration};

use zeroize::Zeroizing;

use super::{revoked::Revoked, session::Session, *};
use crate::decide::testing::{NOW_S, token_rules, token_with, with_head};

const NOW_MS: u64 = NOW_S * 1000;

fn rules() -> config::Oidc {
    config::Oidc {
        client_id: "web".into(),
        client_secret: None,
        callback: "/oauth2/callback".into(),
        logout: "/oauth2/logout".into(),
        after_logout: "/".into(),
        cookie_keys: Box::new([config::Secret(Zeroizing::new(vec![7; 32]))]),
        request_scopes: "openid".into(),
        session: Duration::from_hours(12),
        timeout: Duration::from_secs(5),
        id_token: config::Jwt { issuer: Some("https://id.example".into()), ..token_rules() },
    }
}

fn named(name: &str, rules: &config::Oidc) -> Sessions {
    let mut sessions = Sessions::compile(&name.into(), rules).ok().unwrap();
    sessions.keep_revoked(&Arc::new(Revoked::new(64, RandomState::new())));
    sessions
}

fn sessions() -> Sessions {
    named("browser", &rules())
}

/// An ID token of the client's, with more claims.
fn id_token(more: &str) -> String {
    token_with(&format!(
        r#"{{"iss":"https://id.example","aud":"web","sub":"bob","iat":{NOW_S},"exp":{}{more}}}"#,
        NOW_S + 300
    ))
}

/// Begun just now, with tokens for an hour.
fn session(refresh_token: Option<&str>) -> Session {
    let session = Session {
        id: "one".to_owned(),
        id_token: id_token(""),
        sid: Some("theirs".to_owned()),
        refresh_token: refresh_token.map(str::to_owned),
        begun_ms: NOW_MS,
        renew_at_s: 0,
        ends_at_s: 0,
    };
    session.until(NOW_S, 3600, 36_000)
}

/// What a browser shows that was given it.
fn shown(sessions: &Sessions, session: &Session) -> Vec<u8> {
    let lines = sessions.seal(session, [1; NONCE_BYTES]).unwrap();
    let cookie = lines.strip_prefix("Set-Cookie: ").unwrap().split(';').next().unwrap();
    cookie::value_of("browser", [cookie.as_bytes()].into_iter()).unwrap().into_owned()
}

/// `None`: it has to be asked; else until when it is good, in seconds from now, or the fault.
#[track_caller]
fn check(sessions: &Sessions, sealed: &[u8], after_s: u64, expected: Option<Result<u64, SessionFault>>) {
    let judged = sessions.judge(sealed, &|_| None, NOW_S + after_s);
    let judged = judged.map(|answer| answer.map(|identity| identity.good_until_s - NOW_S));
    assert_eq!(judged, expected.map(|answer| answer.map_err(AuthFailure::Session)), "after {after_s} s");
}

#[test]
fn a_session_is_good_until_its_tokens_are_due_or_end() {
    let sessions = sessions();
    let sealed = shown(&sessions, &session(Some("refresh")));
    check(&sessions, &sealed, 0, Some(Ok(3540)));
    check(&sessions, &sealed, 3539, Some(Ok(3540)));
    check(&sessions, &sealed, 3540, None);
    // Also long after: its browser may have been asleep.
    check(&sessions, &sealed, 30_000, None);
    let sealed = shown(&sessions, &session(None));
    check(&sessions, &sealed, 3599, Some(Ok(3600)));
    check(&sessions, &sealed, 3600, Some(Err(SessionFault::Ended)));
}

#[test]
fn while_nobody_can_tell_a_session_goes_on_until_its_tokens_end() {
    let sessions = sessions();
    let sealed = shown(&sessions, &session(Some("refresh")));
    let good_for_s = |after_s| {
        let answer = sessions.judge_old(&sealed, &|_| None, NOW_S + after_s);
        answer.map(|identity| identity.good_until_s - NOW_S - after_s)
    };
    assert_eq!(good_for_s(3540), Ok(AWAY_S));
    assert_eq!(good_for_s(3599), Ok(1));
    assert_eq!(good_for_s(3600), Err(AuthFailure::Unavailable));
}

#[test]
fn nobody_elses_session_opens() {
    let sessions = sessions();
    let session = session(None);
    let other_client = config::Oidc { client_id: "shop".into(), ..rules() };
    let other_issuer = config::Oidc {
        id_token: config::Jwt { issuer: Some("https://other.example".into()), ..token_rules() },
        ..rules()
    };
    for other in [named("staff", &rules()), named("browser", &other_client), named("browser", &other_issuer)]
    {
        let sealed = other.seals.seal(&other.session, &session.encode(), [1; NONCE_BYTES]).unwrap();
        check(&sessions, sealed.as_bytes(), 0, Some(Err(SessionFault::Seal)));
    }
    check(&sessions, b"", 0, Some(Err(SessionFault::Seal)));
    check(&sessions, b"junk", 0, Some(Err(SessionFault::Seal)));
    let login = Login::begin(&[0; login::RANDOM_BYTES], "/", String::new(), NOW_S);
    let sealed = sessions.seals.seal(&sessions.login, &login.encode(), [1; NONCE_BYTES]).unwrap();
    check(&sessions, sealed.as_bytes(), 0, Some(Err(SessionFault::Seal)));
}

/// A logout token with this claim more.
fn logout_token(claim: &str) -> String {
    token_with(&format!(
        r#"{{"iss":"https://id.example","aud":"web",{claim},"iat":{NOW_S},"exp":{},"events":{{"{LOGOUT_EVENT}":{{}}}}}}"#,
        NOW_S + 60
    ))
}

#[test]
fn a_session_is_over_when_somebody_says_so_who_may() {
    let revoke: [fn(&Sessions, &Session); 3] = [
        |sessions, session| {
            assert!(sessions.revoke_session(session, NOW_MS, 1000).is_some());
            assert_eq!(sessions.revoke_session(session, NOW_MS + 1, 1000), None, "it is over already");
        },
        |sessions, _| {
            let token = logout_token("\"sid\":\"theirs\"");
            assert!(sessions.revoke_by(token.as_bytes(), 1000, NOW_S).unwrap().is_some());
        },
        |sessions, _| {
            let token = logout_token("\"sub\":\"bob\"");
            assert!(sessions.revoke_by(token.as_bytes(), 1000, NOW_S).unwrap().is_some());
        },
    ];
    for revoke in revoke {
        let sessions = sessions();
        let session = session(Some("refresh"));
        let sealed = shown(&sessions, &session);
        let generation = sessions.revoked().generation();
        check(&sessions, &sealed, 0, Some(Ok(3540)));
        revoke(&sessions, &session);
        check(&sessions, &sealed, 0, Some(Err(SessionFault::Revoked)));
        assert_eq!(sessions.judge_old(&sealed, &|_| None, NOW_S), Err(AuthFailure::Unavailable));
        assert_ne!(sessions.revoked().generation(), generation, "what is remembered is looked at again");
        let mut later = session.clone();
        (later.id, later.begun_ms) = ("two".to_owned(), NOW_MS + 1000);
        check(&sessions, &shown(&sessions, &later), 0, Some(Ok(3540)));
    }
}

#[test]
fn what_is_no_logout_token_ends_nothing() {
    let sessions = sessions();
    let revoke = |token: &str| sessions.revoke_by(token.as_bytes(), 1000, NOW_S);
    let event = format!(r#","events":{{"{LOGOUT_EVENT}":{{}}}}"#);
    // An ID token is none, nor what has a nonce, nor an event of another kind.
    assert_eq!(revoke(&id_token("")), Err(TokenFault::Binding));
    assert_eq!(revoke(&id_token(&format!("{event},\"nonce\":\"n\""))), Err(TokenFault::Binding));
    assert_eq!(revoke(&id_token(r#","events":{"other":{}}"#)), Err(TokenFault::Binding));
    assert_eq!(revoke(&id_token(r#","events":"x""#)), Err(TokenFault::Binding));
    let of_other_client = token_with(&format!(
        r#"{{"iss":"https://id.example","aud":"x","sub":"bob","iat":1,"exp":{}{event}}}"#,
        NOW_S + 9
    ));
    // The rules of the configuration say whom tokens are for.
    let mut strict = rules();
    strict.id_token.claims.audiences = vec!["web".into()];
    let strict = named("browser", &strict);
    assert_eq!(strict.revoke_by(of_other_client.as_bytes(), 1000, NOW_S), Err(TokenFault::Audience));
    let expired = token_with(&format!(
        r#"{{"iss":"https://id.example","aud":"web","sub":"bob","iat":1,"exp":{NOW_S}{event}}}"#
    ));
    assert_eq!(revoke(&expired), Err(TokenFault::Expired));
    assert_eq!(revoke(&logout_token("\"x\":1")), Err(TokenFault::Binding), "it names nobody");
    check(&sessions, &shown(&sessions, &session(None)), 0, Some(Ok(3600)));
}

#[test]
fn a_logout_token_that_comes_again_ends_nothing_that_began_since() {
    let sessions = sessions();
    let token = id_token(&format!(r#","events":{{"{LOGOUT_EVENT}":{{}}}}"#));
    let mut later = session(None);
    later.begun_ms = NOW_MS + 5000;
    let sealed = shown(&sessions, &later);
    for is_first in [true, false] {
        assert_eq!(sessions.revoke_by(token.as_bytes(), 1000, NOW_S + 9).unwrap().is_some(), is_first);
        check(&sessions, &sealed, 9, Some(Ok(3600)));
    }
}

#[test]
fn an_id_token_belongs_to_its_login_or_its_session() {
    let sessions = sessions();
    let prove =
        |more: &str, binding| sessions.prove(&id_token(more), binding, NOW_S).map(|proven| proven.sid);
    let nonce = Binding::Nonce("n");
    assert_eq!(prove(r#","nonce":"n","sid":"s""#, nonce), Ok(Some("s".to_owned())));
    assert_eq!(prove(r#","nonce":"m""#, nonce), Err(TokenFault::Binding));
    assert_eq!(prove("", nonce), Err(TokenFault::Binding));
    assert_eq!(prove(r#","nonce":"n","azp":"web""#, nonce), Ok(None));
    assert_eq!(prove(r#","nonce":"n","azp":"shop""#, nonce), Err(TokenFault::Audience));
    let session = session(None);
    assert_eq!(prove("", Binding::Session(&session)), Ok(None));
    let mut alices = session.clone();
    alices.id_token = token_with(r#"{"sub":"alice"}"#);
    assert_eq!(prove("", Binding::Session(&alices)), Err(TokenFault::Binding));
    let shared = token_with(&format!(
        r#"{{"iss":"https://id.example","aud":["web","shop"],"sub":"bob","nonce":"n","exp":{}}}"#,
        NOW_S + 9
    ));
    assert_eq!(sessions.prove(&shared, nonce, NOW_S), Err(TokenFault::Audience));
    assert!(sessions.prove(&id_token(r#","nonce":"n""#), nonce, NOW_S + 300).is_err());
}

#[track_caller]
fn check_navigation(request: &str, expected: bool) {
    with_head(request, |head| assert_eq!(is_navigation(head), expected, "{request}"));
}

#[test]
fn a_person_goes_to_pages_and_a_program_does_not() {
    check_navigation("GET / HTTP/1.1\nAccept: text/html", true);
    check_navigation("GET / HTTP/1.1\nAccept: application/json, TEXT/HTML;q=0.1", true);
    check_navigation("GET / HTTP/1.1\nAccept: */*\nSec-Fetch-Mode: navigate", true);
    check_navigation("GET / HTTP/1.1\nAccept: text/html\nSec-Fetch-Mode: cors", false);
    check_navigation("GET / HTTP/1.1\nAccept: */*", false);
    check_navigation("GET / HTTP/1.1\nAccept: text/htmlx", false);
    check_navigation("GET / HTTP/1.1\nX: y", false);
    check_navigation("POST / HTTP/1.1\nAccept: text/html\nContent-Length: 0", false);
    check_navigation("HEAD / HTTP/1.1\nAccept: text/html", false);
    check_navigation("GET / HTTP/1.1\nAccept: text/html\nConnection: upgrade\nUpgrade: websocket", false);
}

#[test]
fn a_visit_says_what_it_is_about() {
    let errand = |request: &str, page| with_head(request, |head| own_page((3, page), head));
    let callback =
        errand("GET /cb?code=a HTTP/1.1\nCookie: a=b\nCookie: c=d", config::OwnPage::Callback).unwrap();
    assert_eq!((callback.auth, callback.cookies.as_slice()), (3, &b"a=b; c=d"[..]));
    assert_eq!(callback.errand, Errand::Callback(Zeroizing::new("code=a".to_owned())));
    let logout = |request: &str| errand(request, config::OwnPage::Logout).map(|visit| visit.errand);
    assert_eq!(logout("GET /out HTTP/1.1"), Ok(Errand::Logout));
    assert_eq!(
        logout("POST /out HTTP/1.1\nContent-Length: 1"),
        Ok(Errand::BackChannel(Zeroizing::default()))
    );
    for (request, page) in [
        ("HEAD /cb HTTP/1.1", config::OwnPage::Callback),
        ("POST /cb HTTP/1.1\nContent-Length: 1", config::OwnPage::Callback),
        ("PUT /out HTTP/1.1\nContent-Length: 1", config::OwnPage::Logout),
    ] {
        assert!(matches!(errand(request, page), Err(Refusal::MethodNotAllowed { .. })), "{request}");
    }
    let page = with_head("GET /a%20b?c=d HTTP/1.1\nX: y", |head| login(1, head).errand);
    assert_eq!(page, Errand::Login("/a%20b?c=d".to_owned()));
}
