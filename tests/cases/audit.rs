//! The audit log: what stands in it, who can verify it, and what happens when it cannot be written.

mod full_disk;
mod handshakes;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use xtask::lab::{gateway::create_key, scratch::Scratch, wait};

use crate::support::{BINARY, Edge, HELLO, TIME_MAX, answering};

const SECTIONS: &str = "\
[upstreams.app]\nservers = [\"{upstream}\"]\nhealth = \"off\"\n\
[auth.keys]\nkind = \"api_key\"\nstore = \"keys.toml\"\nheader = \"x-api-key\"\n\
[roles.reader]\npermissions = [\"orders:read\"]\n\
[routes.orders]\npath = \"/orders/{id}\"\nupstream = \"app\"\nauth = [\"keys\"]\n\
permission = { GET = \"orders:read\", PUT = \"orders:write\" }\n\
[routes.open]\npath = \"/open\"\nupstream = \"app\"\npublic = true\n";

struct Watched {
    edge: Edge,
    file: PathBuf,
    key: String,
    _upstream: xtask::lab::scripted::Scripted,
}

impl Watched {
    fn start(keys: &str) -> Self {
        let directory = Scratch::new().unwrap();
        let file = directory.path().join("audit.jsonl");
        Self::start_in(directory, file, keys)
    }

    /// With its log elsewhere.
    fn start_in(directory: Scratch, file: PathBuf, keys: &str) -> Self {
        let key = create_key(BINARY.as_ref(), &directory.path().join("keys.toml"), "acme", "reader").unwrap();
        let upstream = answering(HELLO);
        let log = format!("[log]\naudit = {{ file = \"{}\"{keys} }}\n", file.display());
        let edge = Edge::start_with(directory, upstream.address(), "", &format!("{SECTIONS}{log}"));
        Self { edge, file, key, _upstream: upstream }
    }

    /// The lines of an event, once there are so many.
    #[track_caller]
    fn lines(&self, event: &str, count: usize) -> Vec<Value> {
        await_lines(&self.file, event, count)
    }

    fn hang_up(&mut self) {
        self.edge.gateway.process().signal(libc::SIGHUP).unwrap();
    }

    #[track_caller]
    fn await_output(&self, text: &str) {
        let told = wait::until(TIME_MAX, || self.edge.gateway.output().contains(text).then_some(()));
        assert!(told.is_some(), "{text}: {}", self.edge.gateway.output());
    }

    #[track_caller]
    fn await_metric(&self, name: &str) {
        let counted = wait::until(TIME_MAX, || {
            (self.edge.gateway.metrics().unwrap().sum(name, &[]) > 0.0).then_some(())
        });
        assert!(counted.is_some(), "{name}");
    }
}

/// The lines of an event in this log, once there are so many.
#[track_caller]
pub(super) fn await_lines(file: &Path, event: &str, count: usize) -> Vec<Value> {
    let found = wait::until(TIME_MAX, || {
        let lines = lines_of(file);
        let lines: Vec<Value> = lines.into_iter().filter(|line| line["event"] == event).collect();
        (lines.len() >= count).then_some(lines)
    });
    found.unwrap_or_else(|| panic!("{count} of {event}: {}", settled(file)))
}

/// All lines of this log that are whole.
pub(super) fn lines_of(file: &Path) -> Vec<Value> {
    let text = settled(file);
    let whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    whole.map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

/// The file between two writes: whoever appends holds its lock.
fn settled(file: &Path) -> String {
    let Ok(open) = File::open(file) else { return String::new() };
    open.lock_shared().unwrap();
    fs::read_to_string(file).unwrap()
}

pub(super) fn verify(arguments: &[&str], files: &[&Path]) -> Output {
    Command::new(BINARY).args(["audit", "verify"]).args(arguments).args(files).output().unwrap()
}

pub(super) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn every_refusal_is_told_and_nothing_that_passed() {
    let watched = Watched::start("");
    let key = [("x-api-key", watched.key.as_str())];
    assert_eq!(watched.edge.get("/orders/1?token=geheim", &key).status, 200);
    let answers = [
        watched.edge.get("/orders/1?token=geheim", &[("x-api-key", "ptc_guess")]),
        watched.edge.connect().request(&put(&key)).unwrap(),
        watched.edge.get("/nowhere", &[("x-forwarded-for", "198.51.100.1")]),
    ];
    let mut client = watched.edge.connect();
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: {\"seq\":1}\n\"\r\n\r\n").unwrap();
    let malformed = client.receive("GET").unwrap();
    let lines = watched.lines("refused", 4);
    assert_eq!(lines.len(), 4, "{lines:?}");
    let of = |id: Option<&str>| lines.iter().find(|line| line["request_id"].as_str() == id).expect("told");
    for (answer, consumer, why, route) in [
        (&answers[0], None, "Malformed", Some("orders")),
        (&answers[1], Some("acme"), "orders:write", Some("orders")),
        (&answers[2], None, "", None),
        (&malformed, None, "", None),
    ] {
        let line = of(answer.header("x-request-id"));
        assert_eq!(line["status"], answer.status);
        assert_eq!(line["source"], "127.0.0.1", "nobody's claim");
        assert_eq!((line["consumer"].as_str(), line["route"].as_str()), (consumer, route), "{line}");
        assert!(line["why"].as_str().unwrap_or_default().contains(why), "{line}");
        let problem: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(line["refusal"], problem["reason"]);
    }
    let line = of(answers[1].header("x-request-id"));
    assert_eq!((line["method"].as_str(), line["path"].as_str()), (Some("PUT"), Some("/orders/1")));
    let text = fs::read_to_string(&watched.file).unwrap();
    let secret = watched.key.rsplit('_').next().unwrap();
    assert!(!text.contains("geheim") && !text.contains("ptc_guess") && !text.contains(secret), "{text}");
}

fn put<'a>(headers: &'a [(&'a str, &'a str)]) -> xtask::lab::client::Request<'a> {
    xtask::lab::client::Request {
        method: "PUT",
        ..xtask::lab::client::Request::get("/orders/1").with(headers)
    }
}

#[test]
fn what_operators_do_is_told_and_all_of_it_verifies_elsewhere() {
    let mut watched = Watched::start("");
    let config = fs::read_to_string(watched.edge.gateway.config_file()).unwrap();
    watched.edge.gateway.write_config(&config.replace("[routes.open]", "[routes.offen]")).unwrap();
    watched.hang_up();
    let configured = watched.lines("configured", 1);
    assert_eq!(configured[0]["generation"], 2);
    let file = configured[0]["files"][0].as_str().expect("a file with its hash");
    assert!(file.ends_with("portcullis.toml") && file.len() > 64, "{file}");
    watched.edge.gateway.write_config("version = 2").unwrap();
    watched.hang_up();
    assert!(watched.lines("configuration_refused", 1)[0]["why"].as_str().unwrap().contains("version 2"));
    watched.edge.gateway.write_config(&config).unwrap();
    // There is nothing to detach, which is told all the same.
    let _ = watched.edge.gateway.command(&["panic-open"]).unwrap();
    let told = wait::until(TIME_MAX, || {
        lines_of(&watched.file).into_iter().find(|line| line["command"] == "panic-open")
    });
    assert!(told.expect("commands are told").get("uid").is_some());
    watched.edge.get("/nowhere", &[]);
    watched.lines("refused", 1);

    let directory = Scratch::new().unwrap();
    let key = watched.edge.gateway.command(&["audit", "key"]).unwrap();
    let key_file = directory.write("audit.pem", &key.stdout).unwrap();
    let key_file = key_file.to_str().unwrap().to_owned();
    let Watched { edge, file, .. } = watched;
    let Edge { gateway, directory: _kept, .. } = edge;
    assert!(gateway.terminate(TIME_MAX).unwrap().success());
    let events: Vec<String> =
        lines_of(&file).iter().map(|line| line["event"].as_str().unwrap().to_owned()).collect();
    assert_eq!(
        (events.first().unwrap().as_str(), events.last().unwrap().as_str()),
        ("started", "checkpoint")
    );
    assert!(events.contains(&"stopping".to_owned()) && events.contains(&"stopped".to_owned()), "{events:?}");

    let good = verify(&["--public-key", &key_file], &[&file]);
    assert!(good.status.success() && said(&good).contains("signed up to line"), "{}", said(&good));
    let head = said(&good).split_once("head ").unwrap().1.split_once(": ").unwrap().0.to_owned();
    let text = fs::read_to_string(&file).unwrap();
    let check = |changed: &str, arguments: &[&str], expected: &str| {
        let other = directory.write("changed.jsonl", changed).unwrap();
        let output = verify(arguments, &[&other]);
        assert_eq!(output.status.code(), Some(i32::from(!expected.is_empty())), "{}", said(&output));
        assert!(said(&output).contains(expected), "{expected}: {}", said(&output));
    };
    check(&text.replacen("\"generation\":2", "\"generation\":3", 1), &[], " was changed");
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    check(&(lines[..2].concat() + &lines[3..].concat()), &[], "line 3 is missing");
    let swapped = [&lines[..2], &[lines[3], lines[2]], &lines[4..]].concat().concat();
    check(&swapped, &[], "was moved here");
    let cut = lines[..lines.len() - 2].concat();
    check(&cut, &[], "");
    check(&cut, &["--known", &head], "the log was cut");
    let other = Command::new("openssl").args(["genpkey", "-algorithm", "ed25519"]).output();
    if let Ok(other) = other {
        let private = directory.write("other.key", &other.stdout).unwrap();
        let public = Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&private).output().unwrap();
        let public = directory.write("other.pem", &public.stdout).unwrap();
        check(&text, &["--public-key", public.to_str().unwrap()], "not trusted");
    }
}

/// Fault rows 15 and 16: whoever holds the log's lock is as good as a disk that does not answer.
#[test]
fn a_log_that_cannot_be_written_refuses_changes_while_requests_are_served() {
    let mut watched = Watched::start("");
    let key = watched.key.clone();
    let key = [("x-api-key", key.as_str())];
    let holder = File::open(&watched.file).unwrap();
    holder.lock().unwrap();
    assert_eq!(watched.edge.get("/nowhere", &[]).status, 404);
    watched.hang_up();
    watched.await_output("the audit log cannot be written");
    let mut client = watched.edge.connect();
    for _ in 0..100 {
        assert_eq!(
            client.request(&xtask::lab::client::Request::get("/orders/1").with(&key)).unwrap().status,
            200
        );
    }
    assert!(
        !watched.edge.gateway.output().contains("configuration reloaded"),
        "{}",
        watched.edge.gateway.output()
    );
    holder.unlock().unwrap();
    watched.lines("refused", 1);
    watched.lines("configuration_refused", 1);
    watched.hang_up();
    watched.await_output("configuration reloaded");
    let verified = verify(&[], &[&watched.file]);
    assert!(verified.status.success(), "{}", said(&verified));
}

#[test]
fn what_was_lost_is_counted_and_told_in_the_log() {
    for (on_failure, taken) in [("refuse", false), ("continue", true)] {
        let mut watched = Watched::start(&format!(", on_failure = \"{on_failure}\""));
        let good = fs::read(&watched.file).unwrap();
        fs::write(&watched.file, [&good[..], b"not ours\n"].concat()).unwrap();
        assert_eq!(watched.edge.get("/nowhere", &[]).status, 404);
        watched.await_metric("portcullis_audit_lost_total");
        watched.await_metric("portcullis_audit_errors_total");
        watched.hang_up();
        watched.await_output(if taken { "configuration reloaded" } else { "not reloaded" });
        fs::write(&watched.file, &good).unwrap();
        let lost = watched.lines("lost", 1);
        assert!(lost[0]["lines"].as_u64() >= Some(2), "{lost:?}");
        let verified = verify(&[], &[&watched.file]);
        assert!(
            verified.status.success() && said(&verified).contains("could not write"),
            "{}",
            said(&verified)
        );
    }
}

#[test]
fn a_log_that_cannot_be_begun_refuses_the_start_if_it_is_to() {
    let directory = Scratch::new().unwrap();
    fs::create_dir(directory.path().join("audit.jsonl")).unwrap();
    let listener = crate::support::free_address();
    let config = format!(
        "[listeners.public]\naddress = \"{listener}\"\n[routes.all]\npath = \"/\"\npublic = true\n\
         respond = {{ status = 204 }}\n[log]\naudit = {{ file = \"audit.jsonl\" }}\n"
    );
    let file = directory.write("portcullis.toml", &config).unwrap();
    let output = Command::new(BINARY).args(["run", "--config"]).arg(&file).output().unwrap();
    assert!(!output.status.success() && said(&output).contains("log.audit: "), "{}", said(&output));
}
