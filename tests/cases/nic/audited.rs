//! What the audit log tells of the NIC: who was blocked and why, and who ended it.

use std::net::IpAddr;

use serde_json::Value;
use xtask::lab::{
    netns::{GUESSER_V4, HONEST_V4},
    wait,
};

use super::stage::{Sections, Stage, get};
use crate::{
    cases::audit::{await_lines, lines_of, said, verify},
    support::TIME_MAX,
};

const COUNT: usize = 5;
const ESCALATION: &str = "block_for = \"10m\"\nunauthorized = { count = 5, within = \"1m\" }\n\
    [log]\naudit = { file = \"audit.jsonl\" }";

/// The lines of an event, once there are so many, and then no more.
#[track_caller]
fn told(stage: &Stage, event: &str, count: usize) -> Vec<Value> {
    let lines = await_lines(&stage.file("audit.jsonl"), event, count);
    assert_eq!(lines.len(), count, "{lines:?}");
    lines
}

#[test]
fn a_block_is_told_with_what_led_to_it_and_with_who_ended_it() {
    let test = "nic::audited::a_block_is_told_with_what_led_to_it_and_with_who_ended_it";
    let Some(mut stage) = Stage::set(test, Sections { escalation: ESCALATION, ..Sections::default() }) else {
        return;
    };
    let (source, prefix) = (IpAddr::from(GUESSER_V4), format!("{GUESSER_V4}/32"));
    let guess = get("/keyed", &[("x-api-key", "wrong")]);
    for block in 1..=2 {
        stage.offend_until_dropped(source, &guess);
        let line = told(&stage, "blocked", block).pop().expect("one");
        let of = |member: &str| line[member].as_str().unwrap_or_default().to_owned();
        assert_eq!([of("source"), of("action")], [prefix.clone(), "blocked".to_owned()]);
        assert_eq!([of("reason"), of("route")], ["unauthorized", "keyed"]);
        assert_eq!((&line["offences"], &line["seconds"]), (&COUNT.into(), &600.into()));
        // An operator's end clears the slate.
        assert_eq!(line["strikes"], 1);
        let ban = stage.ban(&prefix);
        assert_eq!(ban.request_id, Some(of("request_id")));
        // The request that crossed the line stands there itself, with where it came from.
        let crossed = wait::until(TIME_MAX, || {
            let mut lines = lines_of(&stage.file("audit.jsonl")).into_iter();
            lines.find(|line| line["event"] == "refused" && line["request_id"] == of("request_id"))
        });
        let crossed = crossed.expect("told");
        assert_eq!((&crossed["source"], &crossed["status"]), (&source.to_string().into(), &401.into()));

        stage.told(&["bans", "del", &prefix]);
        let line = told(&stage, "command", block).pop().expect("one");
        assert_eq!((&line["command"], &line["target"]), (&"bans del".into(), &prefix.clone().into()));
        assert!(line["uid"].is_u64(), "{line}");
        stage.check_served(source);
    }

    // What an operator does alone, and what goes wrong.
    let other = HONEST_V4[0].to_string();
    stage.told(&["bans", "add", &other, "--for", "10m"]);
    let line = told(&stage, "command", 3).pop().expect("one");
    let target = line["target"].as_str().expect("a text");
    assert!(line["command"] == "bans add" && target.starts_with(&other) && target.contains("10m"), "{line}");
    assert!(!stage.run(&["bans", "del", &prefix]).status.success(), "it is not blocked");
    let failed = told(&stage, "command_failed", 1);
    assert!(failed[0]["why"].as_str().expect("a text").contains("is not blocked"), "{failed:?}");
    assert_eq!(told(&stage, "blocked", 2).len(), 2, "an operator's block is the operator's");

    let file = stage.file("audit.jsonl");
    let verified = verify(&[], &[&file]);
    assert!(verified.status.success(), "{}", said(&verified));
    assert!(lines_of(&file).iter().all(|line| line["event"] != "lost"));
}
