//! What the audit log tells of the NIC: who was blocked and why, who ended it, and what others' lists have changed.

use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};
use portcullis::audit::hex;
use serde_json::Value;
use xtask::lab::{
    netns::{GUESSER_V4, HONEST_V4},
    scripted::Scripted,
    wait,
};

use super::{
    crowdsec::{self, answer, decision, stream},
    lockout::{self, SSH},
    stage::{Sections, Stage, get},
};
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

#[test]
fn who_turns_out_to_administer_the_host_is_let_go_and_that_is_told() {
    let test = "nic::audited::who_turns_out_to_administer_the_host_is_let_go_and_that_is_told";
    let sections = Sections { escalation: ESCALATION, ..Sections::default() };
    let Some(mut stage) = Stage::set(test, sections) else { return };
    let source = IpAddr::from(HONEST_V4[0]);
    let _sshd = lockout::listen(&stage, SSH);
    // Too young for this process; the next one finds it there.
    let _session = lockout::connect(&stage, source, SSH).unwrap();
    stage.offend_until_dropped(source, &get("/keyed", &[("x-api-key", "wrong")]));
    stage.take_gateway().kill().unwrap();
    stage.start(sections);
    let line = told(&stage, "unblocked", 1).pop().expect("one");
    assert_eq!(line["source"], format!("{source}/32"));
    assert_eq!(line["why"], "it administers this host");
    stage.check_served(source);
}

/// Waits until a feed was read or asked twice more with this result: the second time began after now.
#[track_caller]
fn await_refreshes(stage: &mut Stage, feed: &str, result: &str) {
    let labels = [("feed", feed), ("result", result)];
    let mut count = || stage.gateway().metrics().unwrap().sum("portcullis_feed_refreshes_total", &labels);
    let before = count();
    let counted = wait::until(TIME_MAX, || (count() >= before + 2.0).then_some(()));
    assert!(counted.is_some(), "{result}: {}", stage.gateway().output());
}

#[test]
fn a_list_that_changes_is_one_line_whatever_its_length() {
    let test = "nic::audited::a_list_that_changes_is_one_line_whatever_its_length";
    let prefilter = "[prefilter.feeds]\nbots = { file = \"bots.txt\", refresh = \"1s\" }";
    let sections = Sections { prefilter, escalation: ESCALATION, ..Sections::default() };
    let Some(mut stage) = Stage::set(test, sections) else { return };
    let every_other: Vec<String> = (0..100).map(|n| format!("198.51.100.{}\n", 2 * n)).collect();
    let every_other = every_other.concat();
    let file = stage.write("bots.txt", &every_other);
    let check = |stage: &Stage, count: usize, content: &str, listed: [u64; 3]| {
        let line = told(stage, "feed_changed", count).pop().expect("one");
        assert_eq!((&line["feed"], &line["file"]), (&"bots".into(), &file.clone().into()));
        assert_eq!(line["sha256"], hex(digest(&SHA256, content.as_bytes()).as_ref()));
        let found = ["listed_before", "listed", "entries"].map(|member| line[member].as_u64());
        assert_eq!(found, listed.map(Some));
    };
    check(&stage, 1, &every_other, [0, 100, 100]);

    // What says the same in other words has changed nothing, nor has what cannot be read.
    stage.write("bots.txt", &format!("# bots\n{every_other}"));
    await_refreshes(&mut stage, "bots", "unchanged");
    stage.write("bots.txt", "nobody\n");
    await_refreshes(&mut stage, "bots", "failed");
    let less = "198.51.100.0/25\n198.51.100.0/26\n";
    stage.write("bots.txt", less);
    check(&stage, 2, less, [100, 1, 2]);

    // The next process finds what this one has left.
    stage.take_gateway().kill().unwrap();
    stage.start(sections);
    await_refreshes(&mut stage, "bots", "unchanged");
    assert_eq!(told(&stage, "feed_changed", 2).len(), 2);
    assert_eq!(told(&stage, "started", 2).len(), 2);
}

#[test]
fn an_engines_answer_is_one_line_if_it_changes_anything() {
    let test = "nic::audited::an_engines_answer_is_one_line_if_it_changes_anything";
    let sections = Sections { escalation: ESCALATION, ..Sections::default() };
    let Some(mut stage) = Stage::set(test, sections) else { return };
    let [first, second, third, _] = HONEST_V4.map(|source| source.to_string());
    let ban = |source: &String| decision(source, "ban", "4h");
    let lift = |source: &String| decision(source, "ban", "-1h");
    let scripts = vec![
        stream(&[ban(&first), ban(&second)], &[]),
        stream(&[ban(&third)], &[lift(&first)]),
        // It is asked for everything again, which is what is known already.
        answer("500 Internal Server Error", "{}"),
        stream(&[ban(&second), ban(&third)], &[]),
        stream(&[], &[lift(&second)]),
        stream(&[], &[]),
    ];
    let _engine = Scripted::start(&stage.lab.edge.place(), crowdsec::engine(), scripts).unwrap();
    stage.write("crowdsec.key", crowdsec::KEY);
    stage.reload(Sections { prefilter: crowdsec::FEED, ..sections });
    let lines = told(&stage, "feed_changed", 3);
    let expected = [[2, 0, 0, 2], [1, 1, 2, 2], [0, 1, 2, 1]];
    for (line, expected) in lines.iter().zip(expected) {
        assert_eq!(line["feed"], "crowd");
        let found = ["added", "lifted", "listed_before", "listed"].map(|member| line[member].as_u64());
        assert_eq!(found, expected.map(Some), "{line}");
    }
    await_refreshes(&mut stage, "crowd", "taken");
    assert_eq!(told(&stage, "feed_changed", 3).len(), 3);
    let text = std::fs::read_to_string(stage.file("audit.jsonl")).unwrap();
    assert!(!text.contains(crowdsec::KEY), "the key is nowhere");
}
