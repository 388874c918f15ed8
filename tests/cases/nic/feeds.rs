//! Block lists in files: read when they change, kept when they go bad, gone when nobody names them.

use std::net::IpAddr;

use xtask::lab::{
    netns::{GUESSER_V4, HONEST_V4, HONEST_V6, ipv6},
    wait,
};

use super::stage::{Sections, Stage};
use crate::support::TIME_MAX;

const BOTS: Sections<'_> = Sections {
    prefilter: "[prefilter.feeds]\nbots = { file = \"bots.txt\" }\nworms = { file = \"worms.txt\", refresh = \"1s\" }",
    escalation: "",
    listener: "",
    servers: &[],
};

/// Waits until this figure of a feed is at least so much.
#[track_caller]
fn await_figure(stage: &mut Stage, name: &str, labels: &[(&str, &str)], at_least: f64) {
    let mut last = 0.0;
    let reached = wait::until(TIME_MAX, || {
        last = stage.gateway().metrics().unwrap().sum(name, labels);
        (last >= at_least).then_some(())
    });
    assert!(reached.is_some(), "{name}{labels:?} is {last}\n{}", stage.gateway().output());
}

#[test]
fn a_list_follows_its_file() {
    let test = "nic::a_list_follows_its_file";
    // A server's address is never blocked, whoever lists it.
    let server = IpAddr::from(GUESSER_V4);
    let sections = Sections { servers: &[server], ..BOTS };
    let Some(mut stage) = Stage::set(test, sections) else { return };
    let [other, first, second, _] = HONEST_V4.map(IpAddr::from);
    stage.check_served(first);
    let of = |feed: &'static str, result: &'static str| [("feed", feed), ("result", result)];
    await_figure(&mut stage, "portcullis_feed_refreshes_total", &of("worms", "failed"), 2.0);

    let listed6 = if ipv6() { format!("{}/64\n", HONEST_V6[0]) } else { String::new() };
    stage.write("bots.txt", &format!("# bots\n{first} ; the first\n{server}\n{listed6}"));
    stage.await_dropped(first);
    stage.check_served(second);
    stage.check_served(server);
    if ipv6() {
        stage.check_dropped(HONEST_V6[0].into());
        stage.check_served(HONEST_V6[1].into());
    }
    let why = stage.told(&["bans", "why", &first.to_string()]);
    assert!(why.contains("listed by feed bots") && why.contains("are dropped"), "{why}");
    let why = stage.told(&["bans", "why", &server.to_string()]);
    assert!(why.contains("without effect") && why.contains("pass"), "{why}");
    let list = stage.told(&["bans", "list"]);
    assert!(list.contains("feed bots: 2 ranges of IPv4"), "{list}");
    let entries = stage.told(&["bans", "list", "--feed", "bots"]);
    assert!(entries.starts_with(&format!("{first}/32\n{server}/32\n")), "{entries}");
    let ranges = if ipv6() { 3.0 } else { 2.0 };
    await_figure(&mut stage, "portcullis_feed_entries", &[("feed", "bots")], ranges);

    stage.write("bots.txt", &format!("{second}\nnobody\n"));
    let told =
        wait::until(TIME_MAX, || stage.gateway().output().contains("line 2: \"nobody\"").then_some(()));
    assert!(told.is_some(), "{}", stage.gateway().output());
    stage.check_dropped(first);
    stage.check_served(second);

    stage.write("worms.txt", &second.to_string());
    stage.await_dropped(second);
    stage.check_dropped(first);
    let before = stage.gateway().metrics().unwrap();
    let unchanged = before.sum("portcullis_feed_refreshes_total", &of("worms", "unchanged"));
    await_figure(&mut stage, "portcullis_feed_refreshes_total", &of("worms", "unchanged"), unchanged + 2.0);

    // The next process takes the lists over, also the one whose file is bad.
    stage.take_gateway().kill().unwrap();
    stage.check_dropped(first);
    stage.start(sections);
    stage.check_dropped(first);
    stage.check_dropped(second);
    stage.check_served(other);
    stage.write("bots.txt", &other.to_string());
    stage.await_dropped(other);
    stage.await_served(first);

    stage.reload(Sections { prefilter: "[prefilter.feeds]\nworms = { file = \"worms.txt\" }", ..sections });
    stage.await_served(other);
    stage.check_dropped(second);
    stage.reload(Sections { servers: &[server], ..Sections::default() });
    stage.await_served(second);
    let list = stage.told(&["bans", "list"]);
    assert!(!list.contains("feed"), "{list}");
}
