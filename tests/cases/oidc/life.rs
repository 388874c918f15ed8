//! How sessions go on and how they end.

use std::thread;

use serde_json::json;
use xtask::lab::wait;

use super::{Answer, Site};
use crate::support::TIME_MAX;

/// Asks with a session as it is, until it is told to keep another one.
fn renewed(site: &Site, cookies: &str) -> Answer {
    wait::until(TIME_MAX, || {
        let answer = site.visitor().ask(&site.url("/"), &[cookies], &[]);
        assert_eq!(answer.status, 200, "a session that can be renewed is never refused: {answer:?}");
        answer.header("set-cookie").is_some().then_some(answer)
    })
    .expect("new tokens in time")
}

#[test]
fn tokens_are_renewed_in_time_once_for_all_that_a_browser_asks_at_once() {
    const TEST: &str = "oidc::life::tokens_are_renewed_in_time_once_for_all_that_a_browser_asks_at_once";
    // Due after eight seconds of ten.
    let Some(site) = Site::start(TEST, &json!({ "access_token_s": 10 })) else { return };
    let visitor = site.known();
    let old = visitor.cookies();
    renewed(&site, &old);
    assert_eq!(site.provider.count("/token"), 2);
    // Whoever still shows the old session, on whichever worker, is given the same one: the provider takes a refresh
    // token that comes twice for a stolen one, and would end the session.
    let answers = thread::scope(|scope| {
        let ask = || {
            let jarless = site.edge.address;
            let (old, authority) = (old.clone(), site.edge.directory.path().join("ca.crt"));
            scope.spawn(move || {
                let mut command = super::curl(&["--include", "--header", &old]);
                let url = format!("https://localhost:{}/", jarless.port());
                let output = command.arg("--cacert").arg(authority).arg(url).output().unwrap();
                String::from_utf8(output.stdout).unwrap()
            })
        };
        let all: Vec<_> = std::iter::repeat_with(ask).take(8).collect();
        all.into_iter().map(|asked| asked.join().unwrap()).collect::<Vec<String>>()
    });
    for answer in &answers {
        assert!(answer.contains(" 200") && answer.to_lowercase().contains("set-cookie: "), "{answer}");
    }
    assert_eq!(site.provider.count("/token"), 2);
    // And on it goes with the one that it was told to keep.
    assert_eq!(visitor.fetch("/").status, 200);
    let new = visitor.cookies();
    assert_ne!(new, old);
    renewed(&site, &new);
    assert_eq!(site.provider.count("/token"), 3);
}

#[test]
fn a_session_ends_with_its_tokens_where_the_issuer_gives_no_more() {
    const TEST: &str = "oidc::life::a_session_ends_with_its_tokens_where_the_issuer_gives_no_more";
    let Some(site) = Site::start(TEST, &json!({ "access_token_s": 2 })) else { return };
    let visitor = site.known();
    site.provider.order("fault?of=/token&is=refused");
    let ended = wait::until(TIME_MAX, || {
        let answer = visitor.fetch("/");
        (answer.status == 401).then_some(answer)
    });
    assert!(ended.is_some(), "nobody vouches for it any more");
    site.provider.order("fault?of=/token&is=");
    // A person only notices that the page takes a moment.
    assert_eq!(visitor.walk(&site.url("/again")).status, 200);
}

#[test]
fn who_logs_out_is_out_with_every_copy_of_the_session() {
    const TEST: &str = "oidc::life::who_logs_out_is_out_with_every_copy_of_the_session";
    let Some(site) = Site::start(TEST, &json!({})) else { return };
    let (visitor, other) = (site.known(), site.known());
    let copy = visitor.cookies();
    let status = |cookies: &str| site.visitor().ask(&site.url("/"), &[cookies], &[]).status;
    assert_eq!(status(&copy), 200);
    let answer = visitor.visit("/oauth2/logout");
    let location = answer.location();
    assert!(
        location.starts_with(&format!("{}/session/end?id_token_hint=", site.provider.issuer())),
        "{location}"
    );
    let back_to = form_value(&site.url("/open/bye"));
    assert!(location.contains(&format!("&post_logout_redirect_uri={back_to}")), "{location}");
    // On each worker, whichever takes the connection.
    for _ in 0..8 {
        assert_eq!(status(&copy), 401);
    }
    assert_eq!(other.fetch("/").status, 200, "another session of the same user goes on");
    // Without a session there is nobody to log out, and that is no fault.
    let answer = site.visitor().visit("/oauth2/logout");
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains("Logged out"), "{answer:?}");
}

fn form_value(text: &str) -> String {
    text.replace(':', "%3A").replace('/', "%2F")
}

#[test]
fn the_issuer_ends_sessions_on_all_workers_at_once() {
    const TEST: &str = "oidc::life::the_issuer_ends_sessions_on_all_workers_at_once";
    let Some(site) = Site::start(TEST, &json!({})) else { return };
    site.provider.order(&format!("logout?to={}", site.url("/oauth2/logout")));
    let (alice, other) = (site.known(), site.known());
    site.provider.order("login?as=bob");
    let bob = site.known();
    let cookies = [alice.cookies(), other.cookies(), bob.cookies()];
    let statuses = || cookies.each_ref().map(|own| site.visitor().ask(&site.url("/"), &[own], &[]).status);
    assert_eq!(statuses(), [200; 3]);
    // A session that nobody has ends nothing; a user's end with the user.
    site.provider.order("logout?sub=alice&sid=nobody");
    assert_eq!(statuses(), [200; 3]);
    site.provider.order("logout?sub=alice");
    for _ in 0..8 {
        assert_eq!(statuses(), [401, 401, 200]);
    }
    // Sessions that begin later are none of those that have ended.
    site.provider.order("login?as=alice");
    let again = wait::until(TIME_MAX, || {
        let visitor = site.visitor();
        let answer = visitor.ask(&site.url("/"), &super::NAVIGATES, &[]);
        let callback = visitor.callback_after(answer.location());
        visitor.ask(&callback, &super::NAVIGATES, &[]);
        (visitor.fetch("/").status == 200).then_some(())
    });
    assert!(again.is_some());
}

#[test]
fn new_keys_of_the_issuer_are_found() {
    const TEST: &str = "oidc::life::new_keys_of_the_issuer_are_found";
    let Some(site) = Site::start(TEST, &json!({})) else { return };
    let before = site.known();
    site.provider.order("rotate?");
    // Asked again at most every few seconds: until then nobody can tell.
    let after = wait::until(TIME_MAX, || {
        let visitor = site.visitor();
        (visitor.walk(&site.url("/")).status == 200).then_some(visitor)
    });
    assert_eq!(after.expect("a login with the new key").fetch("/").status, 200);
    assert_eq!(before.fetch("/").status, 200, "who is logged in stays so");
}
