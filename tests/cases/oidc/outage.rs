//! An issuer that is down, slow, or sends garbage.

use std::thread;

use serde_json::json;
use xtask::lab::wait;

use super::{NAVIGATES, Site};
use crate::support::TIME_MAX;

/// A deadline that a test need not wait for.
const IMPATIENT: &str = "timeout = \"1s\"";
/// And one that it does not come to.
const PATIENT: &str = "timeout = \"8s\"";

#[test]
fn without_an_issuer_people_are_told_so_and_log_in_when_it_is_back() {
    const TEST: &str = "oidc::outage::without_an_issuer_people_are_told_so_and_log_in_when_it_is_back";
    for fault in ["garbage", "slow", "trickle"] {
        let order = |is: &str| format!("fault?of=/&is={is}");
        let away = |provider: &crate::openid::Provider| provider.order(&order(fault));
        let Some(site) = Site::start_after(TEST, &json!({}), "", away) else { return };
        let visitor = site.visitor();
        let answer = visitor.visit("/orders");
        assert_eq!(answer.status, 503, "{fault}: {answer:?}");
        assert!(answer.body.contains("Login is not available"), "{fault}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
        assert!(answer.header("retry-after").is_some(), "{fault}: {answer:?}");
        // Nobody has to be asked to see that there is no session.
        assert_eq!(visitor.fetch("/orders").status, 401);
        assert_eq!(visitor.visit("/open/page").status, 200);
        site.provider.order(&order(""));
        let page = wait::until(TIME_MAX, || {
            let page = visitor.walk(&site.url("/orders"));
            (page.status == 200).then_some(page)
        });
        assert!(page.is_some(), "{fault}: a login when it is back");
    }
}

#[test]
fn a_login_that_the_issuer_interrupts_can_be_finished() {
    const TEST: &str = "oidc::outage::a_login_that_the_issuer_interrupts_can_be_finished";
    let Some(site) = Site::start_after(TEST, &json!({}), IMPATIENT, |_| {}) else { return };
    let visitor = site.visitor();
    let callback = visitor.callback_after(visitor.visit("/orders").location());
    for fault in ["error", "garbage", "down", "slow", "trickle", "forged"] {
        site.provider.order(&format!("fault?of=/token&is={fault}"));
        let before = site.provider.count("/token");
        // Until it is not left alone any more.
        let asked = wait::until(TIME_MAX, || {
            let answer = visitor.ask(&callback, &NAVIGATES, &[]);
            assert_eq!(
                (answer.status, answer.headers("set-cookie").count()),
                (503, 0),
                "{fault}: {answer:?}"
            );
            assert!(answer.body.contains("Login is not available"), "{fault}: {answer:?}");
            (site.provider.count("/token") > before).then_some(())
        });
        assert!(asked.is_some(), "{fault}");
    }
    site.provider.order("fault?of=/token&is=");
    let done = wait::until(TIME_MAX, || {
        let answer = visitor.ask(&callback, &NAVIGATES, &[]);
        (answer.status == 303).then_some(answer)
    });
    assert_eq!(done.expect("it is asked again").location(), "/orders");
}

/// Everybody else is served while one waits: that one is let in at the end, so that nobody has waited for its deadline.
#[test]
fn while_the_issuer_takes_its_time_nobody_waits_but_who_logs_in() {
    const TEST: &str = "oidc::outage::while_the_issuer_takes_its_time_nobody_waits_but_who_logs_in";
    let Some(site) = Site::start_after(TEST, &json!({}), PATIENT, |_| {}) else { return };
    let (known, visitor) = (site.known(), site.visitor());
    let callback = visitor.callback_after(visitor.visit("/orders").location());
    let before = site.provider.count("/token");
    site.provider.order("fault?of=/token&is=held");
    thread::scope(|scope| {
        let login = scope.spawn(|| visitor.ask(&callback, &NAVIGATES, &[]));
        let asked = wait::until(TIME_MAX, || (site.provider.count("/token") > before).then_some(()));
        assert!(asked.is_some(), "it is asked");
        // On each worker, whichever takes the connection.
        for _ in 0..6 {
            assert_eq!(known.fetch("/").status, 200);
            assert_eq!(known.visit("/open/page").status, 200);
        }
        assert_eq!(site.visitor().visit("/").status, 303, "who comes to log in is sent on");
        site.provider.order("fault?of=/token&is=");
        assert_eq!(login.join().unwrap().location(), "/orders");
    });
    assert_eq!(visitor.fetch("/").status, 200);
}

/// The same of tokens that are due: the one whose they are waits for them, and goes on with the new ones.
#[test]
fn while_the_issuer_takes_its_time_nobody_waits_but_whose_tokens_are_due() {
    const TEST: &str = "oidc::outage::while_the_issuer_takes_its_time_nobody_waits_but_whose_tokens_are_due";
    // Due after six seconds of eight.
    let options = json!({ "access_token_s": 8 });
    let Some(site) = Site::start_after(TEST, &options, PATIENT, |_| {}) else { return };
    let visitor = site.known();
    let before = site.provider.count("/token");
    site.provider.order("fault?of=/token&is=held");
    thread::scope(|scope| {
        let due = scope.spawn(|| {
            let renewed = wait::until(TIME_MAX, || {
                let answer = visitor.fetch("/");
                assert_eq!(answer.status, 200, "{answer:?}");
                answer.header("set-cookie").is_some().then_some(())
            });
            assert!(renewed.is_some());
        });
        let asked = wait::until(TIME_MAX, || (site.provider.count("/token") > before).then_some(()));
        assert!(asked.is_some(), "it is asked");
        for _ in 0..6 {
            assert_eq!(site.visitor().fetch("/").status, 401);
            assert_eq!(site.visitor().visit("/open/page").status, 200);
        }
        site.provider.order("fault?of=/token&is=");
        due.join().unwrap();
    });
    assert_eq!(site.provider.count("/token"), before + 1);
}

#[test]
fn who_is_logged_in_logs_out_while_the_issuer_is_slow() {
    const TEST: &str = "oidc::outage::who_is_logged_in_logs_out_while_the_issuer_is_slow";
    let Some(site) = Site::start(TEST, &json!({})) else { return };
    let (visitor, other) = (site.known(), site.known());
    let copy = visitor.cookies();
    site.provider.order("fault?of=/&is=slow");
    let asked = site.provider.count("/token");
    assert!(visitor.visit("/oauth2/logout").location().starts_with(&site.provider.issuer()));
    assert_eq!(site.visitor().ask(&site.url("/"), &[&copy], &[]).status, 401);
    assert_eq!((other.fetch("/").status, site.provider.count("/token")), (200, asked));
}

#[test]
fn sessions_go_on_while_the_issuer_is_away() {
    check_sessions("oidc::outage::sessions_go_on_while_the_issuer_is_away", &["down", "garbage", "error"]);
}

#[test]
fn sessions_go_on_while_the_issuer_is_slow() {
    check_sessions("oidc::outage::sessions_go_on_while_the_issuer_is_slow", &["slow", "trickle"]);
}

#[test]
fn sessions_go_on_while_the_issuer_s_tokens_are_none() {
    check_sessions("oidc::outage::sessions_go_on_while_the_issuer_s_tokens_are_none", &["forged"]);
}

/// Commits these faults one after the other.
#[track_caller]
fn check_sessions(test: &str, faults: &[&str]) {
    for fault in faults {
        // Due for new tokens after three quarters of this.
        let options = json!({ "access_token_s": 12 });
        let Some(site) = Site::start_after(test, &options, IMPATIENT, |_| {}) else { return };
        let visitor = site.known();
        site.provider.order(&format!("fault?of=/&is={fault}"));
        let tried = site.provider.count("/token");
        let asked = wait::until(TIME_MAX, || {
            assert_eq!(visitor.fetch("/").status, 200, "{fault}");
            (site.provider.count("/token") > tried).then_some(())
        });
        assert!(asked.is_some(), "{fault}: new tokens were asked for");
        assert_eq!(visitor.fetch("/").status, 200, "{fault}");
        // Until its tokens end: then nobody can tell.
        let over = wait::until(TIME_MAX, || {
            let status = visitor.fetch("/").status;
            (status != 200).then_some(status)
        });
        assert_eq!(over, Some(503), "{fault}");
        site.provider.order("fault?of=/&is=");
        let again = wait::until(TIME_MAX, || (visitor.fetch("/").status == 200).then_some(()));
        assert!(again.is_some(), "{fault}: the same session, when the issuer is back");
    }
}
