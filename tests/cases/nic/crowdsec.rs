//! CrowdSec's engine as a feed: one that follows a script, with its faults, and Debian's own.

use std::{
    net::{IpAddr, SocketAddr},
    process::Command,
};

use xtask::lab::{
    self,
    netns::HONEST_V4,
    place::Place,
    process::Process,
    scratch::Scratch,
    scripted::{Scripted, Step},
    wait,
};

use super::stage::{Sections, Stage};
use crate::support::TIME_MAX;

pub(super) const KEY: &str = "0123456789abcdef";
pub(super) const FEED: &str = "[prefilter.feeds]\n\
    crowd = { crowdsec = \"http://127.0.0.1:8090\", api_key_file = \"crowdsec.key\", refresh = \"1s\" }";

pub(super) fn engine() -> SocketAddr {
    "127.0.0.1:8090".parse().unwrap()
}

fn feed() -> Sections<'static> {
    Sections { prefilter: FEED, ..Sections::default() }
}

/// A connection on which the engine answers with this.
pub(super) fn answer(status: &str, body: &str) -> Vec<Step> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    vec![Step::ReadHead, Step::Send((head + body).into()), Step::Close]
}

pub(super) fn stream(new: &[String], deleted: &[String]) -> Vec<Step> {
    answer("200 OK", &format!("{{\"new\":[{}],\"deleted\":[{}]}}", new.join(","), deleted.join(",")))
}

pub(super) fn decision(value: &str, kind: &str, duration: &str) -> String {
    let scope = if value.contains('/') { "Range" } else { "Ip" };
    format!(
        "{{\"id\":1,\"origin\":\"cscli\",\"scenario\":\"test\",\"scope\":\"{scope}\",\"type\":\"{kind}\",\
         \"value\":\"{value}\",\"duration\":\"{duration}\"}}"
    )
}

/// The path of the engine's next question, which must carry the key.
#[track_caller]
fn question(engine: &Scripted) -> String {
    let head = engine.next_head(TIME_MAX).expect("a question in time");
    let head = String::from_utf8(head).unwrap().to_lowercase();
    assert!(head.contains(&format!("\r\nx-api-key: {KEY}\r\n")), "{head}");
    assert!(head.contains("\r\nhost: 127.0.0.1:8090\r\n"), "{head}");
    let path = head.strip_prefix("get ").and_then(|rest| rest.split_once(' ')).expect("a GET").0;
    path.to_owned()
}

#[test]
fn an_engines_decisions_are_carried_out_and_end() {
    const WHOLE: &str = "/v1/decisions/stream?startup=true";
    const CHANGES: &str = "/v1/decisions/stream?startup=false";
    let test = "nic::an_engines_decisions_are_carried_out_and_end";
    let Some(mut stage) = Stage::set(test, Sections::default()) else { return };
    let [first, second, third, fourth] = HONEST_V4.map(IpAddr::from);
    let country = decision("AQ", "ban", "1h").replace("\"Ip\"", "\"Country\"");
    let last = stream(&[decision(&third.to_string(), "ban", "4h")], &[]);
    let scripts = vec![
        stream(
            &[
                decision(&first.to_string(), "ban", "3h59m59.5s"),
                decision(&fourth.to_string(), "captcha", "1h"),
                country,
            ],
            &[],
        ),
        stream(
            &[decision(&format!("{second}/32"), "ban", "6s")],
            &[decision(&first.to_string(), "ban", "-1h")],
        ),
        answer("500 Internal Server Error", "{}"),
        answer("200 OK", "<html>"),
        last,
        stream(&[], &[]),
    ];
    let engine = Scripted::start(&stage.lab.edge.place(), engine(), scripts).unwrap();
    stage.write("crowdsec.key", KEY);
    stage.reload(feed());

    assert_eq!(question(&engine), WHOLE);
    stage.await_dropped(first);
    stage.check_served(fourth);
    assert_eq!(question(&engine), CHANGES);
    stage.await_dropped(second);
    stage.await_served(first);
    // Faults: what was decided holds until it ends, and everything is asked for again.
    assert_eq!([question(&engine), question(&engine), question(&engine)], [CHANGES, WHOLE, WHOLE]);
    stage.await_dropped(third);
    stage.await_served(second);
    let metrics = stage.gateway().metrics().unwrap();
    let ignored = metrics.sum_by("portcullis_feed_ignored_total", "cause", &[("feed", "crowd")]);
    assert_eq!((ignored["scope"], ignored["type"], ignored["value"]), (1.0, 1.0, 0.0));
    let failed = metrics.sum_by("portcullis_feed_refreshes_total", "result", &[("feed", "crowd")]);
    let entries = metrics.sum_by("portcullis_feed_entries", "feed", &[]);
    assert_eq!((failed["failed"], entries["crowd"]), (2.0, 1.0));
    assert!(!stage.gateway().output().contains(KEY), "the key is never logged");
    let why = stage.told(&["bans", "why", &third.to_string()]);
    assert!(why.contains("listed (feed crowd)") && why.contains("are dropped"), "{why}");

    // While the engine is away, and over a restart.
    drop(engine);
    stage.take_gateway().kill().unwrap();
    stage.start(feed());
    stage.check_dropped(third);
    assert_eq!(stage.blocked(), [format!("{third}/32")]);
    stage.reload(Sections::default());
    stage.await_served(third);
    assert_eq!(stage.blocked(), [""; 0]);
}

#[test]
fn others_blocks_are_not_an_engines_to_end() {
    let test = "nic::others_blocks_are_not_an_engines_to_end";
    let Some(mut stage) = Stage::set(test, Sections::default()) else { return };
    let [own, allowed, ..] = HONEST_V4.map(IpAddr::from);
    stage.told(&["bans", "add", &own.to_string(), "--for", "1h"]);
    let both = [decision(&own.to_string(), "ban", "1h"), decision(&allowed.to_string(), "ban", "1h")];
    let scripts =
        vec![stream(&both, &[]), stream(&[], &[decision(&own.to_string(), "ban", "-1h")]), stream(&[], &[])];
    let engine = Scripted::start(&stage.lab.edge.place(), engine(), scripts).unwrap();
    stage.write("crowdsec.key", KEY);
    let prefilter = format!("allow = [\"{allowed}\"]\n{FEED}");
    stage.reload(Sections { prefilter: &prefilter, ..Sections::default() });
    for _ in 0..4 {
        question(&engine);
    }
    stage.check_dropped(own);
    stage.check_served(allowed);
    let metrics = stage.gateway().metrics().unwrap();
    let ignored = metrics.sum_by("portcullis_feed_ignored_total", "cause", &[("feed", "crowd")]);
    assert_eq!((ignored["held"], ignored["protected"]), (1.0, 1.0));
    let why = stage.told(&["bans", "why", &own.to_string()]);
    assert!(why.contains("manual (operator)"), "{why}");
}

/// Debian's engine, with a directory of its own and nothing to read.
struct Engine {
    directory: Scratch,
    edge: Place,
    _process: Process,
}

impl Engine {
    /// Starts it; also the key for its bouncer.
    fn start(edge: Place) -> (Self, String) {
        let directory = Scratch::new().unwrap();
        let dir = directory.path().display();
        for empty in ["hub", "plugins", "notifications"] {
            std::fs::create_dir(directory.path().join(empty)).unwrap();
        }
        directory.write("simulation.yaml", "simulation: off\n").unwrap();
        directory.write("credentials.yaml", "").unwrap();
        let profile = "name: all\nfilters:\n - Alert.Remediation == true\ndecisions:\n - type: ban\n   duration: 1h\non_success: break\n";
        directory.write("profiles.yaml", profile).unwrap();
        let config = format!(
            "common: {{ daemonize: false, log_media: stdout, log_level: info }}\n\
             config_paths: {{ config_dir: {dir}, data_dir: {dir}, hub_dir: {dir}/hub, index_path: {dir}/hub/.index.json, \
             simulation_path: {dir}/simulation.yaml, notification_dir: {dir}/notifications, plugin_dir: {dir}/plugins }}\n\
             db_config: {{ type: sqlite, db_path: {dir}/crowdsec.db, use_wal: true }}\n\
             api: {{ client: {{ credentials_path: {dir}/credentials.yaml }}, \
             server: {{ listen_uri: \"{}\", profiles_path: {dir}/profiles.yaml }} }}\n\
             prometheus: {{ enabled: false }}\n",
            engine(),
        );
        let config = directory.write("config.yaml", config).unwrap();
        let credentials = format!("{dir}/credentials.yaml");
        cscli(&edge, &directory, &["machines", "add", "lab", "--auto", "-f", &credentials]);
        let key = cscli(&edge, &directory, &["bouncers", "add", "portcullis", "-o", "raw"]).trim().to_owned();
        let mut command = edge.command("crowdsec");
        command.arg("-c").arg(config).arg("-no-cs");
        let process = Process::start(command, directory.path().join("engine.log")).unwrap();
        let is_listening = || process.output().contains("Local API listening").then_some(());
        assert!(wait::until(TIME_MAX, is_listening).is_some(), "{}", process.output());
        (Self { directory, edge, _process: process }, key)
    }

    fn decisions(&self, arguments: &[&str]) {
        cscli(&self.edge, &self.directory, &[&["decisions"], arguments].concat());
    }
}

/// Runs `cscli` in its directory; what it printed.
#[track_caller]
fn cscli(edge: &Place, directory: &Scratch, arguments: &[&str]) -> String {
    let mut command = edge.command("cscli");
    command.arg("-c").arg(directory.path().join("config.yaml")).args(arguments);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn debians_engine_is_obeyed() {
    let test = "nic::debians_engine_is_obeyed";
    if Command::new("crowdsec").arg("-version").output().is_err() {
        return lab::skip(test, "there is no crowdsec: run `cargo xtask setup`");
    }
    let Some(mut stage) = Stage::set(test, Sections::default()) else { return };
    let [first, second, third, fourth] = HONEST_V4.map(IpAddr::from);
    let (engine, key) = Engine::start(stage.lab.edge.place());
    engine.decisions(&["add", "--ip", &first.to_string(), "--duration", "1h"]);
    stage.write("crowdsec.key", &key);
    stage.reload(feed());
    stage.await_dropped(first);
    engine.decisions(&["add", "--range", &format!("{second}/31"), "--duration", "1h"]);
    engine.decisions(&["add", "--ip", &fourth.to_string(), "--type", "captcha"]);
    stage.await_dropped(second);
    stage.check_dropped(third);
    engine.decisions(&["delete", "--ip", &first.to_string()]);
    stage.await_served(first);
    stage.check_served(fourth);
    let metrics = stage.gateway().metrics().unwrap();
    assert!(metrics.sum("portcullis_feed_ignored_total", &[("feed", "crowd"), ("cause", "type")]) >= 1.0);
    let results = metrics.sum_by("portcullis_feed_refreshes_total", "result", &[("feed", "crowd")]);
    assert_eq!((results["failed"], results["taken"] >= 3.0), (0.0, true), "{results:?}");

    // One that ends by itself, and the others while the engine is away.
    engine.decisions(&["add", "--ip", &first.to_string(), "--duration", "6s"]);
    stage.await_dropped(first);
    drop(engine);
    stage.await_served(first);
    stage.check_dropped(third);
    let why = stage.told(&["bans", "why", &third.to_string()]);
    assert!(why.contains("listed (feed crowd)"), "{why}");
}
