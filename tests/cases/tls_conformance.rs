//! Rows 63 and 64 of what must not work, and what has to: by `openssl s_client`, a rustls client and testssl.sh.

use std::{
    process::{Command, Stdio},
    sync::Arc,
};

use rustls::{ClientConfig, NamedGroup, version::TLS13};

use xtask::lab::{process::Process, scratch::Scratch, wait};

use super::certificates::{edge, edge_in};
use crate::{
    pki::Authority,
    support::{BINARY, Edge, TIME_MAX, free_address},
    tls_client::{connect, settings},
};

/// What `openssl s_client` says of a handshake with these arguments; `says` goes to its standard input.
fn s_client(edge: &Edge, arguments: &[&str], says: &str) -> (bool, String) {
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &edge.address.to_string(), "-servername", "a.example"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl starts");
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), says.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[test]
fn old_versions_and_weak_ciphers_find_nobody() {
    let authority = Authority::new("ca");
    let edge = edge(&authority, &[&["a.example"]], "");
    // Security level 0, lest it is openssl that refuses.
    for refused in [
        vec!["-tls1", "-cipher", "ALL:@SECLEVEL=0"],
        vec!["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
        vec!["-tls1_2", "-cipher", "AES128-SHA:AES256-SHA256:@SECLEVEL=0"],
        vec!["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES256-SHA:@SECLEVEL=0"],
        vec!["-tls1_2", "-cipher", "AES128-GCM-SHA256:@SECLEVEL=0"],
    ] {
        let (ok, text) = s_client(&edge, &refused, "");
        assert!(!ok && text.contains("alert"), "{refused:?}: {text}");
    }
    for accepted in [vec!["-tls1_2"], vec!["-tls1_3"]] {
        let (ok, text) = s_client(&edge, &accepted, "");
        assert!(ok, "{accepted:?}: {text}");
    }
}

#[test]
fn nobody_renegotiates() {
    let authority = Authority::new("ca");
    let directory = Scratch::new().unwrap();
    authority.issue(&["a.example"]).write(&directory, "0");
    // openssl waits for more than the refusal.
    let edge = edge_in(directory, 1, " }\ntimeouts = { keep_alive = \"500ms\"");
    // "R" alone on a line asks for it.
    let (ok, text) = s_client(&edge, &["-tls1_2", "-msg"], "R\n");
    assert!(!ok && text.contains("RENEGOTIATING"), "{text}");
    assert_eq!(text.matches(", ClientHello\n").count(), 2, "{text}");
    assert_eq!(text.matches(", ServerHello\n").count(), 1, "{text}");
}

/// Row 64.
#[test]
fn no_ticket_allows_early_data() {
    let authority = Authority::new("ca");
    let edge = edge(&authority, &[&["a.example"]], "");
    let request = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
    let (_, text) = s_client(&edge, &["-tls1_3", "-ign_eof"], request);
    assert!(text.contains("TLS session ticket:"), "{text}");
    assert!(text.contains("Max Early Data: 0"), "{text}");
    assert!(!text.lines().any(|line| line.contains("Max Early Data") && !line.ends_with(": 0")), "{text}");
}

#[test]
fn keys_are_agreed_on_so_that_a_quantum_computer_finds_nothing() {
    let authority = Authority::new("ca");
    let edge = edge(&authority, &[&["a.example"]], "");
    let config: Arc<ClientConfig> = settings(&authority, None, &[&TLS13]).into();
    let stream = connect(&config, edge.address, "a.example").unwrap();
    let group = stream.conn.negotiated_key_exchange_group().map(rustls::crypto::SupportedKxGroup::name);
    assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
    let (ok, text) = s_client(&edge, &["-tls1_3", "-groups", "X25519"], "");
    assert!(ok, "and who has no such group is served as well: {text}");
}

#[test]
fn session_keys_are_told_only_to_the_file_that_was_named() {
    let authority = Authority::new("ca");
    let directory = Scratch::new().unwrap();
    authority.issue(&["a.example"]).write(&directory, "0");
    let address = free_address();
    let config = format!(
        "[listeners.public]\naddress = \"{address}\"\n\
         tls = {{ certificates = [{{ chain_file = \"0.crt\", key_file = \"0.key\" }}] }}\n"
    );
    directory.write("portcullis.toml", config).unwrap();
    let mut command = Command::new(BINARY);
    command
        .args(["run", "--config", "portcullis.toml", "--tls-key-log", "keys"])
        .current_dir(directory.path());
    let process = Process::start(command, directory.path().join("output")).unwrap();
    let config: Arc<ClientConfig> = settings(&authority, None, &[&TLS13]).into();
    wait::until(TIME_MAX, || connect(&config, address, "a.example").ok()).expect("a handshake");
    let keys = wait::until(TIME_MAX, || {
        std::fs::read_to_string(directory.path().join("keys"))
            .ok()
            .filter(|keys| keys.contains("TRAFFIC_SECRET"))
    });
    assert!(keys.unwrap().starts_with("CLIENT_HANDSHAKE_TRAFFIC_SECRET "));
    let mode = std::fs::metadata(directory.path().join("keys")).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
    assert!(process.output().contains("TLS KEYS ARE WRITTEN TO keys"), "{}", process.output());
}

/// Debian's testssl.sh: protocols, kinds of ciphers, forward secrecy and what is known to be broken in TLS.
#[test]
fn a_scanner_finds_nothing_to_complain_of() {
    if Command::new("testssl").arg("--version").output().is_err() {
        return xtask::lab::skip("a_scanner_finds_nothing_to_complain_of", "testssl is not installed");
    }
    let authority = Authority::new("ca");
    let directory = Scratch::new().unwrap();
    authority.issue(&["a.example"]).write(&directory, "0");
    // It waits for the end of a connection on which it has asked for a renegotiation.
    let edge = edge_in(directory, 1, " }\ntimeouts = { keep_alive = \"1s\"");
    let port = edge.address.port();
    let output = Command::new("testssl")
        .args(["--quiet", "--color", "0", "--warnings", "off", "--fast", "--ip", "127.0.0.1"])
        .args(["-p", "-s", "-f", "-U", "--jsonfile", "found.json", &format!("a.example:{port}")])
        .current_dir(edge.directory.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let found = std::fs::read_to_string(edge.directory.path().join("found.json")).unwrap_or_default();
    let found: Vec<serde_json::Value> =
        serde_json::from_str(&found).unwrap_or_else(|error| panic!("{error}: {found}\n{said}"));
    let text = |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let bad: Vec<_> = found
        .iter()
        .filter(|finding| matches!(&*text(finding, "severity"), "HIGH" | "CRITICAL" | "FATAL"))
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
    for (id, expected) in [
        ("SSLv2", "not offered"),
        ("SSLv3", "not offered"),
        ("TLS1", "not offered"),
        ("TLS1_1", "not offered"),
        ("TLS1_2", "offered"),
        ("TLS1_3", "offered"),
        ("cipherlist_STRONG", "offered"),
        ("cipherlist_3DES_IDEA", "not offered"),
        ("heartbleed", "not vulnerable"),
        ("secure_renego", "supported"),
    ] {
        let finding = found.iter().find(|finding| text(finding, "id") == id);
        let finding = finding.map(|finding| text(finding, "finding")).unwrap_or_default();
        assert!(finding.starts_with(expected), "{id}: {finding:?}\n{said}");
    }
}
