//! An issuer that is down, slow, or sends garbage.

use serde_json::json;
use xtask::lab::wait;

use super::{NAVIGATES, Site};
use crate::support::TIME_MAX;

#[test]
fn without_an_issuer_people_are_told_so_and_log_in_when_it_is_back() {
    const TEST: &str = "oidc::outage::without_an_issuer_people_are_told_so_and_log_in_when_it_is_back";
    let down = |provider: &crate::openid::Provider| provider.order("fault?of=/&is=garbage");
    let Some(site) = Site::start_after(TEST, &json!({}), down) else { return };
    let visitor = site.visitor();
    let answer = visitor.visit("/orders");
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.body.contains("Login is not available"), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    // Nobody has to be asked to see that there is no session.
    assert_eq!(visitor.fetch("/orders").status, 401);
    assert_eq!(visitor.visit("/open/page").status, 200);
    site.provider.order("fault?of=/&is=");
    let page = wait::until(TIME_MAX, || {
        let page = visitor.walk(&site.url("/orders"));
        (page.status == 200).then_some(page)
    });
    assert!(page.is_some(), "a login when it is back");
}

#[test]
fn a_login_that_the_issuer_interrupts_can_be_finished() {
    const TEST: &str = "oidc::outage::a_login_that_the_issuer_interrupts_can_be_finished";
    let Some(site) = Site::start(TEST, &json!({})) else { return };
    let visitor = site.visitor();
    let callback = visitor.callback_after(visitor.visit("/orders").location());
    for fault in ["error", "garbage", "down"] {
        site.provider.order(&format!("fault?of=/token&is={fault}"));
        let answer = visitor.ask(&callback, &NAVIGATES, &[]);
        assert_eq!((answer.status, answer.headers("set-cookie").count()), (503, 0), "{fault}: {answer:?}");
    }
    site.provider.order("fault?of=/token&is=");
    let done = wait::until(TIME_MAX, || {
        let answer = visitor.ask(&callback, &NAVIGATES, &[]);
        (answer.status == 303).then_some(answer)
    });
    assert_eq!(done.expect("it is asked again").location(), "/orders");
}

#[test]
fn sessions_go_on_while_the_issuer_is_away() {
    const TEST: &str = "oidc::outage::sessions_go_on_while_the_issuer_is_away";
    for fault in ["down", "garbage", "error"] {
        // Due for new tokens after three quarters of this.
        let Some(site) = Site::start(TEST, &json!({ "access_token_s": 8 })) else { return };
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
