//! Clients as people have them: curl, Python's and Node's own. A client that is not here is named as skipped.

use std::process::Command;

use xtask::lab::{
    place::Place,
    scripted::{Scripted, Step},
    skip,
    upstream::Nginx,
};

use crate::support::{Edge, HELLO, OPEN, TIME_MAX, free_address, scripted};

/// What a client has written to its standard output; none where it is not installed.
#[track_caller]
pub(super) fn said_by(test: &str, command: &mut Command) -> Option<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            skip(test, &format!("{program} is not installed"));
            return None;
        }
        output => output.unwrap(),
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program}: {}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Some(said)
}

pub(super) fn curl(arguments: &[&str]) -> Command {
    let mut command = Command::new("curl");
    // No configuration and no proxy of the machine's.
    command
        .args(["--disable", "--noproxy", "*", "--silent", "--show-error", "--max-time", "20"])
        .args(arguments);
    command
}

/// A gateway in front of files; the server goes last.
fn files() -> (Edge, Nginx) {
    let upstream = Nginx::start(&Place::here(), free_address(), "one").unwrap();
    (Edge::start(upstream.address(), OPEN), upstream)
}

/// Takes one request whose body ends so, and answers.
fn taking(body_end: &str) -> Scripted {
    scripted(&[Step::ReadHead, Step::ReadUntil(body_end.into()), Step::Send(HELLO.into()), Step::Stall])
}

#[test]
fn curl_reuses_its_connection_over_both_versions_and_gets_ranges_and_heads() {
    const TEST: &str = "curl_reuses_its_connection_over_both_versions_and_gets_ranges_and_heads";
    let (edge, _upstream) = files();
    let file = format!("http://{}/files/16k", edge.address);
    let told = "%{http_code} %{http_version} %{size_download} %{num_connects}\n";
    for (flags, expected) in [
        (&["--http1.1"][..], "200 1.1 16384 1\n200 1.1 16384 0\n200 1.1 16384 0\n"),
        (&["--http1.0"], "200 1.1 16384 1\n200 1.1 16384 1\n200 1.1 16384 1\n"),
        (
            &["--http1.0", "-H", "Connection: keep-alive"],
            "200 1.1 16384 1\n200 1.1 16384 0\n200 1.1 16384 0\n",
        ),
        (&["--range", "5-9"], "206 1.1 5 1\n206 1.1 5 0\n206 1.1 5 0\n"),
        (&["--head"], "200 1.1 0 1\n200 1.1 0 0\n200 1.1 0 0\n"),
        (&["--header", "Connection: close"], "200 1.1 16384 1\n200 1.1 16384 1\n200 1.1 16384 1\n"),
    ] {
        let bodies = edge.directory.path().join("bodies");
        let out = bodies.to_string_lossy().into_owned();
        let mut command = curl(flags);
        command.args(["--write-out", told]);
        for _ in 0..3 {
            command.args(["--output", &out, &file]);
        }
        let Some(said) = said_by(TEST, &mut command) else { return };
        assert_eq!(said, expected, "{flags:?}");
        let body = std::fs::read(&bodies).unwrap();
        assert!(flags.contains(&"--head") || body.iter().all(|&byte| byte == b'x'), "{flags:?}");
    }
}

#[test]
fn curl_uploads_in_chunks_and_waits_for_continue() {
    const TEST: &str = "curl_uploads_in_chunks_and_waits_for_continue";
    let body = "0123456789".repeat(30_000);
    for (flags, framing, end) in [
        (&["--header", "Transfer-Encoding: chunked"][..], "transfer-encoding: chunked", "\r\n0\r\n\r\n"),
        (&["--header", "Expect: 100-continue"], "content-length: 30", "9z"),
        (&["--header", "Expect:"], "content-length: 30", "9z"),
        (&["--http1.0"], "content-length: 30", "9z"),
    ] {
        // Not more than the upstream reports.
        let sent = format!("{}9z", &body[..60 * 512 - 20]);
        let framing = framing.replace("30", &sent.len().to_string());
        let upstream = taking(end);
        let edge = Edge::start(upstream.address(), OPEN);
        let file = edge.directory.path().join("upload");
        std::fs::write(&file, &sent).unwrap();
        let url = format!("http://{}/up", edge.address);
        let file = file.to_string_lossy().into_owned();
        let mut command = curl(flags);
        command.args(["--upload-file", &file, "--write-out", " %{http_code}", &url]);
        let Some(said) = said_by(TEST, &mut command) else { return };
        assert_eq!(said, "hello 200", "{flags:?}");
        let head = String::from_utf8(upstream.next_head(TIME_MAX).unwrap()).unwrap().to_lowercase();
        assert!(head.contains(&framing) && !head.contains("expect"), "{flags:?}: {head}");
        let taken = upstream.next_head(TIME_MAX).unwrap();
        if framing.starts_with("content-length") {
            assert!(taken == sent.as_bytes(), "{flags:?}");
        }
    }
}

#[test]
fn curl_sees_the_chunks_and_trailers_of_an_answer() {
    const TEST: &str = "curl_sees_the_chunks_and_trailers_of_an_answer";
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n";
    let upstream = scripted(&[Step::ReadHead, Step::Send(answer.into()), Step::Stall]);
    let edge = Edge::start(upstream.address(), OPEN);
    let Some(said) = said_by(TEST, &mut curl(&["--raw", &format!("http://{}/", edge.address)])) else {
        return;
    };
    assert_eq!(said, "3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n");
}

/// A script beside this file; it fails by itself.
#[track_caller]
fn run_script(test: &str, program: &str, script: &str) {
    let (edge, _upstream) = files();
    let taking = taking("\r\n0\r\nX-Sum: 7\r\n\r\n");
    let uploads = Edge::start(taking.address(), OPEN);
    let path = format!("{}/../tests/cases/clients/{script}", env!("CARGO_MANIFEST_DIR"));
    let arguments = [path, edge.address.to_string(), uploads.address.to_string()];
    let Some(said) = said_by(test, Command::new(program).args(arguments)) else { return };
    assert_eq!(said.trim(), "in order");
    let head = String::from_utf8(taking.next_head(TIME_MAX).unwrap()).unwrap().to_lowercase();
    assert!(head.starts_with("post /up ") && head.contains("transfer-encoding: chunked"), "{head}");
    let body = taking.next_head(TIME_MAX).unwrap();
    assert!(body.ends_with(b"\r\n0\r\nX-Sum: 7\r\n\r\n"), "the trailer is there: {}", body.escape_ascii());
}

#[test]
fn pythons_clients_are_served() {
    run_script("pythons_clients_are_served", "python3", "http1.py");
}

#[test]
fn nodes_clients_are_served() {
    run_script("nodes_clients_are_served", "node", "http1.mjs");
}
