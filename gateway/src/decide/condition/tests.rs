//! Conditions against requests, through a whole decision.

use std::rc::Rc;

use super::{
    super::{testing::*, *},
    *,
};
use crate::config;

/// Claims of bob's token, with which `config` is asked.
const CLAIMS: &str = r#""level":3,"ratio":0.5,"debt":-2,"groups":["team-a","team-b"],"org":{"id":"o1","admin":true},"none":null"#;

/// A route `/v1/{id}/{*rest}` with this condition.
fn config(when: &str) -> config::Config {
    let roles = ["reader".to_owned(), "clerk".to_owned()];
    let role = |name: &str, inherits: &[usize]| config::Role {
        name: name.into(),
        permissions: Vec::new(),
        inherits: inherits.to_vec(),
    };
    let condition = Condition::for_tests(when, "/v1/{id}/{*rest}", &roles);
    let guarded = config::Route {
        auths: vec![0],
        public: false,
        when: Some(Arc::new(condition)),
        ..route("guarded", "/v1/{id}/{*rest}")
    };
    config::Config {
        auths: vec![token_auth()],
        roles: vec![role("reader", &[]), role("clerk", &[0])],
        routes: vec![guarded],
        ..empty()
    }
}

/// What is said to `GET path` of bob, who is a clerk.
fn asked(when: &str, path: &str, certificate: Option<&ClientCertificate>) -> Result<(), Refusal> {
    let claims = format!(r#"{{"sub":"bob","exp":{},"roles":"clerk",{CLAIMS}}}"#, NOW_S + 60);
    let policy = Policy::compile(&config(when)).unwrap();
    let (limiter, mut memory, replays) = state();
    let keys = KeyTables::default();
    let text = format!("GET {path} HTTP/1.1\nauthorization: Bearer {}", token_with(&claims));
    let decided = with_head(&text, |head| {
        let source = "192.0.2.7".parse().unwrap();
        let peer = Peer { source, source_is_forwarded: false, tls: true, certificate };
        let now = Now { monotonic_ns: 1, unix_s: NOW_S };
        let mut state =
            State { limiter: &limiter, memory: &mut memory, keys: &keys, replays: &replays, answered: &[] };
        decide(&policy, head, &peer, &mut state, now)
    });
    match decided {
        Ok(_) => Ok(()),
        Err(Halt::Refused(Refused { refusal, identity, .. })) => {
            assert_eq!(identity.as_ref().map(|identity: &Rc<Identity>| &*identity.consumer), Some("bob"));
            Err(refusal)
        }
        Err(halt) => panic!("{halt:?}"),
    }
}

#[track_caller]
fn check(when: &str, path: &str, expected: bool) {
    let expected = if expected { Ok(()) } else { Err(Refusal::Forbidden(Forbidden::Unmet(Unmet::False))) };
    assert_eq!(asked(when, path, None), expected, "{when} for {path}");
}

/// What cannot be computed is a no, with these words in the log.
#[track_caller]
fn fails(when: &str, words: &str) {
    match asked(when, "/v1/bob/x", None) {
        Err(Refusal::Forbidden(Forbidden::Unmet(unmet @ (Unmet::Failed(_) | Unmet::NotBool)))) => {
            assert!(unmet.to_string().contains(words), "{when}: {unmet}");
        }
        other => panic!("{when}: {other:?}"),
    }
}

/// Row 84.
#[test]
fn a_path_parameter_has_to_be_the_callers_own() {
    let when = "path.id == claims.sub || 'support' in claims.groups";
    check(when, "/v1/bob/orders", true);
    check(when, "/v1/ada/orders", false);
    check(when, "/v1/BOB/orders", false);
    check(when, "/v1/%20bob/orders", false);
    check("path.id == claims.sub || 'team-a' in claims.groups", "/v1/ada/orders", true);
    // In whatever spelling it comes: it is compared as the upstream will read it.
    check("path.id == 'a b'", "/v1/a%20b/x", true);
    check("path.id != 'ä'", "/v1/%C3%A4/x", false);
    check("path.rest == 'a/b'", "/v1/x/a/b", true);
    check("path['rest'] == ''", "/v1/x/", true);
}

#[test]
fn every_fact_can_be_asked_for() {
    for (when, expected) in [
        ("method == 'GET'", true),
        ("method in ['PUT', 'POST']", false),
        ("source == '192.0.2.7'", true),
        ("source.within('192.0.2.0/24')", true),
        ("within(source, '192.0.2.0/29')", true),
        ("source.within('198.51.100.0/24') || source.within('2001:db8::/32')", false),
        ("consumer == 'bob' && auth == 'staff'", true),
        ("'clerk' in roles", true),
        // What is inherited is held.
        ("'reader' in roles && size(roles) == 2", true),
        ("size(scopes) == 0", true),
        ("certificate == null", true),
        ("claims.level >= 3 && claims.level < 4", true),
        ("claims.ratio > 0.25 && claims.debt < 0.0", true),
        ("claims.org.admin && claims.org.id == 'o1'", true),
        ("claims['org']['id'] == 'o2'", false),
        ("claims.none == null", true),
        ("claims.groups.exists(group, group.startsWith('team-'))", true),
        ("claims.groups.all(group, group == 'team-a')", false),
        // As a whole they are all there, whatever else names some of them.
        ("'level' in claims && claims['sub'] == 'bob' && !('sub2' in claims)", true),
        ("claims.sub == 'bob' && size(claims) == 9", true),
        ("has(claims.department)", false),
        ("has(claims.department) && claims.department == 'x'", false),
        ("'department' in claims", false),
        ("true", true),
        ("false", false),
    ] {
        check(when, "/v1/bob/x", expected);
    }
}

#[test]
fn what_cannot_be_computed_is_a_no() {
    fails("claims.department == 'x'", "there is no department");
    fails("!(claims.department == 'x')", "there is no department");
    fails("claims.sub", "neither true nor false");
    fails("claims.level", "neither true nor false");
    fails("claims.sub > 3", "cannot be computed");
    fails("claims.level / (claims.level - 3) == 1", "a division by zero");
    fails("certificate.sha256 == ''", "cannot be computed");
    fails("claims.groups[7] == ''", "cannot be computed");
    fails("within(claims.sub, '192.0.2.0/24')", "not an address");
    // Not in the log: what the claim is.
    match asked("claims.sub > 3", "/v1/bob/x", None) {
        Err(refusal) => assert!(!refusal.why().unwrap().contains("bob")),
        Ok(()) => panic!("it is no number"),
    }
}

#[test]
fn a_certificate_can_be_asked_for() {
    let made = rcgen::generate_simple_self_signed(vec!["machine.example".to_owned()]).unwrap();
    let certificate = ClientCertificate::of(made.cert.der());
    let own = format!("certificate.sha256 == '{}'", crate::audit::hex(&certificate.sha256));
    for (when, expected) in [
        ("'machine.example' in certificate.dns", true),
        ("'other.example' in certificate.dns", false),
        ("certificate.uri == [] && certificate.email == []", true),
        ("certificate.cn != ''", true),
        (own.as_str(), true),
        ("certificate != null", true),
    ] {
        assert_eq!(asked(when, "/v1/bob/x", Some(&certificate)).is_ok(), expected, "{when}");
        assert!(asked(when, "/v1/bob/x", None).is_err(), "{when} without one");
    }
}

/// Just inside, and one past it.
#[test]
fn a_long_list_of_claims_is_a_no() {
    let list = |count: usize| Json::List(vec![Json::Bool(true); count]);
    assert!(json(&list(ITEMS_MAX)).is_ok());
    assert!(json(&list(ITEMS_MAX + 1)).is_err());
    let claims = |count: usize| (0..count).map(|i| (i.to_string(), Json::Null)).collect::<Claims>();
    assert!(object(&claims(ITEMS_MAX)).is_ok());
    assert!(object(&claims(ITEMS_MAX + 1)).is_err());
    assert!(json(&Json::List(vec![list(ITEMS_MAX + 1)])).is_err(), "at any depth");
}

#[test]
fn escapes_are_undone_once_and_whole() {
    for (segment, expected) in [
        ("a", Some("a")),
        ("a%20b", Some("a b")),
        ("%2541", Some("%41")),
        ("%", None),
        ("%2", None),
        ("%FF", None),
    ] {
        assert_eq!(decoded(segment).as_deref(), expected, "{segment}");
    }
}
