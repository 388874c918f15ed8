//! `kind = "basic"`: users with passwords, whose hashes are too slow for a worker.

use std::{
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use xtask::lab::{
    client::{Request, Response},
    scratch::Scratch,
    wait,
};

use crate::support::{BINARY, Edge, HELLO, TIME_MAX, answering};

const SECTIONS: &str = "\
[upstreams.app]\nservers = [\"{upstream}\"]\nbalance = \"round_robin\"\nhealth = \"off\"\n\
[auth.legacy]\nkind = \"basic\"\nfile = \"passwords\"\n\
[auth.keys]\nkind = \"api_key\"\nstore = \"keys.toml\"\n\
[roles.reader]\npermissions = [\"orders:read\"]\n\
[consumers.ada]\nroles = [\"reader\"]\n\
[routes.orders]\npath = \"/orders\"\nupstream = \"app\"\nauth = [\"keys\", \"legacy\"]\npermission = \"orders:read\"\n\
[routes.public]\npath = \"/public\"\nupstream = \"app\"\npublic = true\n";

/// What `portcullis keys password` says to a password, and whether it is pleased.
fn hash(user: &str, password: &str) -> (bool, String) {
    let mut command = Command::new(BINARY);
    command
        .args(["keys", "password", user])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8(said).unwrap())
}

fn write_passwords(directory: &Path, lines: &str) {
    let file = directory.join("passwords");
    std::fs::write(&file, lines).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn authorization(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

fn edge(upstream: std::net::SocketAddr) -> Edge {
    let directory = Scratch::new().unwrap();
    let (made, ada) = hash("ada", "correct horse: battery\n");
    assert!(made, "{ada}");
    let bob = hash("bob", "bob's").1;
    write_passwords(directory.path(), &format!("# people\n\n{ada}{bob}"));
    xtask::lab::gateway::create_key(BINARY.as_ref(), &directory.path().join("keys.toml"), "acme", "reader")
        .unwrap();
    Edge::start_with(directory, upstream, "protocols = [\"http/1.1\", \"h2\"]", SECTIONS)
}

#[test]
fn a_password_opens_what_its_user_may_do_and_stays_at_the_gateway() {
    let upstream = answering(HELLO);
    let edge = edge(upstream.address());
    let get = |value: &str| edge.get("/orders", &[("authorization", value)]).status;
    assert_eq!(get(&authorization("ada", "correct horse: battery")), 200);
    let head = String::from_utf8(upstream.next_head(TIME_MAX).unwrap()).unwrap().to_lowercase();
    assert!(!head.contains("authorization") && !head.contains("battery"), "{head}");
    assert_eq!(get(&authorization("ada", "correct horse: batter")), 401);
    assert_eq!(get(&authorization("bob", "bob's")), 403, "bob has no role");
    assert_eq!(get(&authorization("eve", "correct horse: battery")), 401);
    assert_eq!(get(&authorization("nobody", "")), 401);
    assert_eq!(get("Basic ada:password"), 401);
    let refused = edge.get("/orders", &[]);
    let challenge = "ApiKey realm=\"keys\", header=\"x-api-key\", Basic realm=\"legacy\", charset=\"UTF-8\"";
    assert_eq!(refused.header("www-authenticate"), Some(challenge));
}

/// A body that comes behind a head whose password is being checked is not lost, and neither is the next request.
#[test]
fn what_follows_a_head_waits_with_it() {
    let upstream = answering(HELLO);
    let edge = edge(upstream.address());
    let right = authorization("ada", "correct horse: battery");
    let mut connection = edge.connect();
    let post = format!(
        "POST /orders HTTP/1.1\r\nHost: a.example\r\nAuthorization: {right}\r\nContent-Length: 5\r\n\r\nhello\
         GET /public HTTP/1.1\r\nHost: a.example\r\n\r\n"
    );
    connection.send(post.as_bytes()).unwrap();
    for _ in 0..2 {
        assert_eq!(connection.receive("GET").unwrap().status, 200);
    }
}

/// While passwords are being guessed, others are served: the hashes are off the workers.
#[test]
fn guesses_wait_and_nobody_waits_for_them() {
    let upstream = answering(HELLO);
    let edge = edge(upstream.address());
    let (sender, answers) = mpsc::channel();
    thread::scope(|scope| {
        for guess in 0..100 {
            let (sender, edge) = (sender.clone(), &edge);
            scope.spawn(move || {
                let value = authorization("ada", &format!("guess {guess}"));
                sender.send(edge.get("/orders", &[("authorization", &value)]).status).unwrap();
            });
        }
        drop(sender);
        for _ in 0..20 {
            assert_eq!(edge.get("/public", &[]).status, 200);
        }
    });
    let answers: Vec<u16> = answers.iter().collect();
    assert_eq!(answers.len(), 100);
    assert!(answers.iter().all(|status| matches!(status, 401 | 503)), "{answers:?}");
    let answered = |status| answers.iter().filter(|answer| **answer == status).count();
    assert!(answered(401) >= 1 && answered(503) <= 40, "65 of them find a place: {answers:?}");
}

/// A password that was right is remembered until the configuration is read again.
#[test]
fn a_changed_file_counts_from_the_next_reload() {
    let upstream = answering(HELLO);
    let mut edge = edge(upstream.address());
    let right = authorization("ada", "correct horse: battery");
    let mut connection = edge.connect();
    let mut ask = |value: &str| -> Response {
        connection.request(&Request::get("/orders").with(&[("authorization", value)])).unwrap()
    };
    assert_eq!(ask(&right).status, 200);
    write_passwords(edge.directory.path(), &hash("ada", "another").1);
    edge.gateway.process().signal(libc::SIGHUP).unwrap();
    let reloaded = wait::until(TIME_MAX, || edge.gateway.output().contains("reloaded").then_some(()));
    assert!(reloaded.is_some(), "{}", edge.gateway.output());
    assert_eq!(ask(&right).status, 401);
    assert_eq!(ask(&authorization("ada", "another")).status, 200);
}

#[test]
fn what_is_no_password_is_refused_with_a_reason() {
    for (user, password, expected) in
        [("ada", "", "empty"), ("a:b", "p", "colon"), ("ada", "p\tq", "control characters")]
    {
        let (made, said) = hash(user, password);
        assert!(!made && said.contains(expected), "{user:?} {password:?}: {said}");
    }
}
