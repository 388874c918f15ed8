//! What was logged out stays so when the gateway does not.

use std::{fs, path::Path};

use serde_json::json;
use xtask::lab::wait;

use super::Site;
use crate::support::TIME_MAX;

/// What these sessions are answered.
fn statuses<const N: usize>(site: &Site, cookies: &[String; N]) -> [u16; N] {
    cookies.each_ref().map(|own| site.visitor().ask(&site.url("/"), &[own], &[]).status)
}

/// Sessions of alice, of bob, who both are logged out in different ways, and of carol.
#[track_caller]
fn three(site: &Site) -> [String; 3] {
    ["alice", "bob", "carol"].map(|name| {
        site.provider.order(&format!("login?as={name}"));
        site.known().cookies()
    })
}

#[track_caller]
fn log_two_out(site: &Site, cookies: &[String; 3]) {
    site.provider.order(&format!("logout?to={}&sub=alice", site.url("/oauth2/logout")));
    let bye = site.visitor().ask(&site.url("/oauth2/logout"), &[&cookies[1], super::NAVIGATES[1]], &[]);
    assert_eq!(bye.status, 303, "{bye:?}");
    assert_eq!(statuses(site, cookies), [401, 401, 200]);
}

#[test]
fn a_session_that_was_logged_out_is_not_good_again_after_a_crash() {
    const TEST: &str = "oidc::restart::a_session_that_was_logged_out_is_not_good_again_after_a_crash";
    let Some(site) = Site::start(TEST, &json!({})) else { return };
    let cookies = three(&site);
    log_two_out(&site, &cookies);
    let site = site.restarted();
    assert_eq!(statuses(&site, &cookies), [401, 401, 200]);
    let site = site.restarted();
    assert_eq!(statuses(&site, &cookies), [401, 401, 200], "nor after the next one");
    // Nobody else can read who it was.
    let file = site.edge.directory.path().join("state/sessions.db");
    for (path, mode) in [(file.parent().unwrap(), 0o700), (&file, 0o600)] {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
    }
    // Who logs in again is in.
    site.provider.order("login?as=bob");
    let again = site.known().cookies();
    let site = site.restarted();
    assert_eq!(statuses(&site, &[again]), [200]);
}

#[test]
fn a_reload_that_takes_logins_away_and_one_that_brings_them_back_bring_nobody_back() {
    const TEST: &str =
        "oidc::restart::a_reload_that_takes_logins_away_and_one_that_brings_them_back_bring_nobody_back";
    let Some(mut site) = Site::start(TEST, &json!({})) else { return };
    let cookies = three(&site);
    log_two_out(&site, &cookies);
    let with = fs::read_to_string(site.edge.gateway.config_file()).unwrap();
    let (before, rest) = with.split_once("[auth.browser]").unwrap();
    let after = &rest[rest.find("[roles.clerk]").unwrap()..];
    let without = format!("{before}{after}")
        .replace("auth = [\"browser\"]\npermission = \"orders:write\"", "public = true");
    let without = without.replace("auth = [\"browser\"]", "public = true");
    for (text, expected) in [(&without, [200; 3]), (&with, [401, 401, 200])] {
        site.edge.gateway.write_config(text).unwrap();
        site.edge.gateway.process().signal(libc::SIGHUP).unwrap();
        let seen = wait::until(TIME_MAX, || (statuses(&site, &cookies) == expected).then_some(()));
        assert!(seen.is_some(), "{:?}: {}", statuses(&site, &cookies), site.edge.gateway.output());
    }
}

/// A file where the directory should be, as root may write anywhere else.
fn spoil(state: &Path) {
    fs::rename(state, state.with_extension("away")).unwrap();
    fs::write(state, "no directory").unwrap();
}

fn mend(state: &Path) {
    fs::remove_file(state).unwrap();
    fs::rename(state.with_extension("away"), state).unwrap();
}

#[test]
fn what_cannot_be_written_down_counts_is_told_and_is_tried_again() {
    const TEST: &str = "oidc::restart::what_cannot_be_written_down_counts_is_told_and_is_tried_again";
    let Some(site) = Site::start(TEST, &json!({})) else { return };
    let cookies = three(&site);
    let state = site.edge.directory.path().join("state");
    let count = |result: &str| {
        let metrics = site.edge.gateway.metrics().unwrap();
        metrics.sum("portcullis_session_revocations_total", &[("result", result)])
    };
    spoil(&state);
    let order = format!("/test/logout?to={}&sub=alice", site.url("/oauth2/logout"));
    let request = xtask::lab::client::Request::get(&order);
    let told = site.provider.ask(&xtask::lab::client::Request { method: "POST", ..request });
    assert_eq!(told.status, 500, "the issuer hears that it was in vain: {}", told.text());
    assert!(told.text().contains("503"), "{}", told.text());
    assert_eq!(statuses(&site, &cookies), [401, 200, 200], "and yet it is over");
    // A person is out, whatever the disk says.
    let bye = site.visitor().ask(&site.url("/oauth2/logout"), &[&cookies[1], super::NAVIGATES[1]], &[]);
    assert_eq!((bye.status, statuses(&site, &cookies)), (303, [401, 401, 200]), "{bye:?}");
    let failed = wait::until(TIME_MAX, || (count("failed") > 0.0).then_some(()));
    assert!(failed.is_some() && count("kept") == 0.0);
    let output = site.edge.gateway.output();
    assert_eq!(output.matches("would not know which sessions were logged out").count(), 1, "{output}");
    mend(&state);
    let kept = wait::until(TIME_MAX, || (count("kept") >= 2.0).then_some(()));
    assert!(kept.is_some(), "{}", site.edge.gateway.output());
    let site = site.restarted();
    assert_eq!(statuses(&site, &cookies), [401, 401, 200]);

    spoil(&state);
    let Err(refused) = site.edge.restart().map(drop) else { panic!("it starts without its memory") };
    assert!(refused.contains("runtime.state_dir: ") && refused.contains("logged out"), "{refused}");
}
