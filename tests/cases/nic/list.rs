//! The block list by hand: the configuration's part and the operator's.

use std::net::IpAddr;

use xtask::lab::{
    self,
    gateway::names,
    netns::{GUESSER_V4, HONEST_V4, HONEST_V6, ipv6},
};

use super::stage::{Sections, Stage, get};

#[test]
fn the_configuration_blocks_prefixes() {
    let test = "nic::the_configuration_blocks_prefixes";
    let prefilter = "block = [\"192.0.2.12/31\", \"2001:db8:0:12::/64\"]";
    let Some(mut stage) = Stage::set(test, Sections { prefilter, ..Sections::default() }) else { return };
    let [below, first, last, above] = HONEST_V4;
    for blocked in [first, last] {
        stage.check_dropped(blocked.into());
    }
    for served in [below, above] {
        stage.check_served(served.into());
    }
    if ipv6() {
        stage.check_served(HONEST_V6[0].into());
        stage.check_dropped(HONEST_V6[1].into());
    }
    let refusal = stage.run(&["bans", "del", "192.0.2.12/31"]);
    let message = String::from_utf8_lossy(&refusal.stderr).into_owned();
    assert!(!refusal.status.success() && message.contains("prefilter.block"), "{message}");

    stage.reload(Sections::default());
    stage.await_served(first.into());
    assert_eq!(stage.blocked(), [""; 0]);
}

#[track_caller]
fn check_by_hand(stage: &Stage, source: IpAddr, neighbour: IpAddr) {
    let name = source.to_string();
    stage.told(&["bans", "add", &name, "--for", "10m"]);
    stage.check_dropped(source);
    stage.check_served(neighbour);
    let why = stage.told(&["bans", "why", &name]);
    assert!(why.contains("manual (operator)") && why.contains("are dropped"), "{why}");
    let whole = if source.is_ipv4() { 32 } else { 128 };
    assert_eq!(stage.blocked(), [format!("{source}/{whole}")]);

    stage.told(&["bans", "del", &name]);
    stage.check_served(source);
    let why = stage.told(&["bans", "why", &name]);
    assert!(why.contains("pass"), "{why}");
    assert!(!stage.run(&["bans", "del", &name]).status.success(), "there is nothing left to remove");
}

#[test]
fn an_operator_adds_and_removes_blocks() {
    let test = "nic::an_operator_adds_and_removes_blocks";
    let Some(stage) = Stage::set(test, Sections::default()) else { return };
    check_by_hand(&stage, GUESSER_V4.into(), HONEST_V4[0].into());
    stage.told(&["bans", "add", &GUESSER_V4.to_string(), "--for", "1s"]);
    stage.await_served(GUESSER_V4.into());
}

#[test]
fn an_operator_adds_and_removes_ipv6_blocks() {
    let test = "nic::an_operator_adds_and_removes_ipv6_blocks";
    if !ipv6() {
        return lab::skip(test, "this kernel has no IPv6");
    }
    let Some(stage) = Stage::set(test, Sections::default()) else { return };
    check_by_hand(&stage, HONEST_V6[0].into(), HONEST_V6[1].into());
}

#[test]
fn a_list_goes_out_and_comes_back() {
    let test = "nic::a_list_goes_out_and_comes_back";
    let prefilter = "block = [\"203.0.113.0/24\"]\nallow = [\"192.0.2.13/32\"]";
    let escalation = "block_for = \"10m\"\nunauthorized = { count = 5, within = \"1m\" }";
    let Some(mut stage) = Stage::set(test, Sections { prefilter, escalation, ..Sections::default() }) else {
        return;
    };
    stage.offend_until_dropped(GUESSER_V4.into(), &get("/keyed", &[("x-api-key", "wrong")]));
    stage.told(&["bans", "add", "198.51.100.0/25", "--for", "1h"]);
    stage.told(&["bans", "add", "2001:db8:7::/48", "--for", "2h"]);
    let before = stage.gateway().bans().unwrap();
    let list = stage.told(&["bans", "export"]);
    assert_eq!(list.lines().count(), 3, "the configuration keeps its own: {list}");

    stage.told(&["panic-open"]);
    stage.take_gateway().kill().unwrap();
    stage.start(Sections { prefilter, escalation, ..Sections::default() });
    assert_eq!(stage.blocked(), ["203.0.113.0/24"]);
    let file = stage.write("bans.jsonl", &format!("# from before\n{list}"));
    let told = stage.told(&["bans", "import", &file]);
    assert!(told.starts_with("3 blocked, 0 had ended, 0 were"), "{told}");
    let after = stage.gateway().bans().unwrap();
    assert_eq!(after.len(), before.len());
    for old in &before {
        let new = after.iter().find(|new| new.source == old.source).expect("it has come back");
        let kept = |ban: &lab::gateway::Ban| {
            (ban.reason.clone(), ban.origin.clone(), ban.strikes, ban.route.clone(), ban.request_id.clone())
        };
        assert_eq!(kept(new), kept(old));
        if let (Some(new_ms), Some(old_ms)) = (new.expires_in_ms, old.expires_in_ms) {
            assert!(new_ms <= old_ms && new_ms > 0.0, "{new_ms} of {old_ms} ms");
        }
    }
    stage.check_dropped(GUESSER_V4.into());
    let told = stage.told(&["bans", "import", &file]);
    assert!(told.starts_with("0 blocked, 0 had ended, 3 were"), "once more changes nothing: {told}");
}

#[test]
fn a_bad_list_changes_nothing_and_allow_wins() {
    let test = "nic::a_bad_list_changes_nothing_and_allow_wins";
    let prefilter = "allow = [\"192.0.2.13/32\"]";
    let Some(stage) = Stage::set(test, Sections { prefilter, ..Sections::default() }) else { return };
    stage.told(&["bans", "add", "198.51.100.7", "--for", "1h"]);
    let line = |source: &str, until: &str| {
        format!(
            "{{\"source\":\"{source}\",\"reason\":\"manual\",\"origin\":\"operator\",\"expires_at_unix_ms\":{until}}}\n"
        )
    };
    let far = "9999999999999";
    let bad = [line("192.0.2.11", far), line("192.0.2.12", far), line("192.0.2.300", far)].concat();
    let refused = stage.run(&["bans", "import", &stage.write("bad.jsonl", &bad)]);
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && message.contains("line 3: `source` is"), "{message}");
    assert!(message.contains("nothing changed"), "{message}");
    assert_eq!(stage.blocked(), ["198.51.100.7/32"]);

    let good = [line("192.0.2.13", far), line("192.0.2.14", "1"), line("192.0.2.11", far)].concat();
    let told = stage.told(&["bans", "import", &stage.write("good.jsonl", &good)]);
    assert_eq!(
        told.trim(),
        "1 blocked, 1 had ended, 0 were blocked for as long already, 1 lie in prefilter.allow"
    );
    stage.check_served("192.0.2.13".parse().unwrap());
    stage.check_dropped("192.0.2.11".parse().unwrap());

    let told = stage.told(&["bans", "add", "192.0.2.0/24", "--for", "10m"]);
    assert!(told.contains("192.0.2.13/32 in it is not"), "{told}");
    stage.check_served("192.0.2.13".parse().unwrap());
}

#[test]
fn the_doctor_tells_what_the_machine_can_do_and_what_is_in_the_way() {
    let test = "nic::the_doctor_tells_what_the_machine_can_do_and_what_is_in_the_way";
    let prefilter = "allow = [\"192.0.2.11\"]";
    let Some(stage) = Stage::set(test, Sections { prefilter, ..Sections::default() }) else { return };
    let told = stage.told(&["doctor", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let state = |check: &str| {
        let checks = told["checks"].as_array().unwrap();
        let found = checks.iter().find(|one| one["check"] == check);
        found.unwrap_or_else(|| panic!("no {check} in {told}"))["state"].as_str().unwrap().to_owned()
    };
    for check in
        ["kernel", "io_uring", "capabilities", "xdp", "pins", "allow", "edge0 driver", "edge0 program"]
    {
        assert_eq!(state(check), "ok", "{check}: {told}");
    }
    let text = stage.told(&["doctor"]);
    assert!(
        text.contains("veth: native, in use") && text.contains("pinned where the configuration says"),
        "{text}"
    );

    // Another interface, tried; and ours, seen by one who knows nothing of our pins.
    stage.lab.edge.ip("link add extra0 type veth peer name extra1").unwrap();
    let text = stage.told(&["doctor", "--interface", "extra0", "--try"]);
    assert!(text.contains("veth: native, tried"), "{text}");
    let config = stage.config(Sections { prefilter, ..Sections::default() });
    let elsewhere =
        stage.write("elsewhere.toml", &config.replace("pin_dir = \"", "pin_dir = \"/sys/fs/bpf/ptc-none"));
    let refused = stage
        .lab
        .edge
        .command(crate::support::BINARY)
        .args(["doctor", "--config", &elsewhere])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(text.contains("another gateway's"), "{text}");
    let refused = stage.run(&["doctor", "--interface", "none0"]);
    assert!(!refused.status.success());
}

#[test]
fn a_dry_run_of_the_filter_counts_and_drops_nothing() {
    let test = "nic::a_dry_run_of_the_filter_counts_and_drops_nothing";
    let blocked = HONEST_V4[1];
    let prefilter = format!("dry_run = true\nblock = [\"{blocked}\"]");
    let sections = Sections { prefilter: &prefilter, ..Sections::default() };
    let Some(mut stage) = Stage::set(test, sections) else { return };
    stage.check_served(blocked.into());
    let metrics = stage.gateway().metrics().unwrap();
    let passed = metrics.sum(names::NIC_PACKETS, &[("reason", "blocked_prefix"), ("verdict", "pass")]);
    assert!(passed > 0.0);
    let dropped = metrics.sum_by(names::NIC_PACKETS, "reason", &[("verdict", names::VERDICT_DROP)]);
    assert!(dropped.is_empty(), "{dropped:?}");
}
