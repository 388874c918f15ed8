//! Many certificates on one listener, and their renewal while it serves.

use std::sync::Arc;

use rustls::{
    AlertDescription, ClientConfig, Error, HandshakeKind,
    client::Resumption,
    version::{TLS12, TLS13},
};
use xtask::lab::{scratch::Scratch, wait};

use crate::{
    pki::Authority,
    support::{Edge, TIME_MAX, free_address},
    tls_client::{Secured, Shameless, connect, get, settings},
};

const ANSWERS: &str =
    "[routes.all]\npath = \"/{*rest}\"\npublic = true\nrespond = { status = 200, body = \"here\" }\n";

/// A gateway with one certificate per list of names, in files `0.crt`, `0.key` and so on.
pub(super) fn edge(authority: &Authority, certificates: &[&[&str]], keys: &str) -> Edge {
    let directory = Scratch::new().unwrap();
    directory.write("ca.pem", authority.pem()).unwrap();
    for (index, names) in certificates.iter().enumerate() {
        authority.issue(names).write(&directory, &index.to_string());
    }
    edge_in(directory, certificates.len(), keys)
}

/// The same with files that are there already.
pub(super) fn edge_in(directory: Scratch, certificates: usize, keys: &str) -> Edge {
    Edge::start_with(directory, free_address(), &listener(certificates, keys), ANSWERS)
}

fn listener(certificates: usize, keys: &str) -> String {
    let pairs: Vec<String> = (0..certificates)
        .map(|index| format!("{{ chain_file = \"{index}.crt\", key_file = \"{index}.key\" }}"))
        .collect();
    format!("tls = {{ certificates = [{}]{keys} }}", pairs.join(", "))
}

fn client(authority: &Authority) -> Arc<ClientConfig> {
    let mut config = settings(authority, None, &[&TLS13, &TLS12]);
    config.resumption = Resumption::disabled();
    config.into()
}

fn shown(stream: &Secured) -> Vec<u8> {
    stream.conn.peer_certificates().unwrap()[0].to_vec()
}

fn alert(error: &std::io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref::<Error>()? {
        Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

#[test]
fn each_name_gets_its_certificate_and_unknown_ones_none() {
    let authority = Authority::new("ca");
    let edge = edge(&authority, &[&["a.example", "127.0.0.1"], &["b.example", "*.b.example"]], "");
    for version in [&TLS12, &TLS13] {
        let config: Arc<ClientConfig> = settings(&authority, None, &[version]).into();
        let connect = |name| connect(&config, edge.address, name);
        let first = shown(&connect("a.example").unwrap());
        let second = shown(&connect("b.example").unwrap());
        assert_ne!(first, second);
        assert_eq!(shown(&connect("x.b.example").unwrap()), second);
        assert_eq!(shown(&connect("127.0.0.1").unwrap()), first, "no name: the first certificate");
        for unknown in ["c.example", "x.y.b.example"] {
            let refused = connect(unknown).expect_err("a refusal");
            assert_eq!(alert(&refused), Some(AlertDescription::UnrecognisedName), "{unknown}: {refused}");
        }
    }
    let refused = edge
        .gateway
        .metrics()
        .unwrap()
        .sum("portcullis_tls_handshakes_failed_total", &[("reason", "unrecognized_name")]);
    assert!((refused - 4.0).abs() < 0.5, "{refused}");
}

#[test]
fn a_connection_serves_the_hosts_of_its_certificate_only() {
    let authority = Authority::new("ca");
    let edge = edge(&authority, &[&["a.example", "also.example", "127.0.0.1"], &["b.example"]], "");
    let config = client(&authority);
    let mut stream = connect(&config, edge.address, "a.example").unwrap();
    for (host, status) in [
        ("a.example", "200"),
        ("A.Example:443", "200"),
        ("also.example", "200"),
        ("127.0.0.1", "200"),
        ("b.example", "421"),
        ("c.example", "421"),
        ("127.0.0.2", "421"),
        ("a.example", "200"),
    ] {
        let line = get(&mut stream, host).unwrap();
        assert!(line.contains(status), "{host}: {line}");
    }
    let mut nameless = connect(&config, edge.address, "127.0.0.1").unwrap();
    assert!(get(&mut nameless, "a.example").unwrap().contains("200"));
    assert!(get(&mut nameless, "b.example").unwrap().contains("421"));
}

#[test]
fn a_single_certificate_serves_who_asks_for_no_name() {
    let authority = Authority::new("ca");
    let edge = edge(&authority, &[&["a.example", "127.0.0.1"]], "");
    let config = client(&authority);
    let mut nameless = connect(&config, edge.address, "127.0.0.1").unwrap();
    assert!(get(&mut nameless, "whatever.example").unwrap().contains("200"));
    let mut named = connect(&config, edge.address, "a.example").unwrap();
    assert!(get(&mut named, "whatever.example").unwrap().contains("421"));
}

/// Row 66: a session belongs to the name that it was made for.
#[test]
fn a_session_resumes_for_its_own_name_only() {
    let authority = Authority::new("ca");
    let names: &[&str] = &["a.example", "b.example"];
    let edge = edge(&authority, &[names], "");
    for version in [&TLS12, &TLS13] {
        let mut config = settings(&authority, None, &[version]);
        config.resumption = Shameless::store();
        let config = Arc::new(config);
        let kind = |name| {
            let mut stream = connect(&config, edge.address, name).unwrap();
            // Tickets of TLS 1.3 come with the first answer.
            get(&mut stream, name).unwrap();
            stream.conn.handshake_kind()
        };
        assert_eq!(kind("a.example"), Some(HandshakeKind::Full));
        assert_eq!(kind("a.example"), Some(HandshakeKind::Resumed));
        assert_eq!(kind("b.example"), Some(HandshakeKind::Full));
    }
}

#[test]
fn what_changes_in_the_files_is_shown_without_losing_a_connection() {
    let authority = Authority::new("ca");
    let edge = edge(&authority, &[&["a.example"]], "");
    let config = client(&authority);
    let show = || shown(&connect(&config, edge.address, "a.example").unwrap());
    let renewals =
        |result| edge.gateway.metrics().unwrap().sum("portcullis_tls_renewals_total", &[("result", result)]);
    let mut open = connect(&config, edge.address, "a.example").unwrap();
    let before = show();

    // A key that fits no certificate is kept out, and so is what is no key at all.
    for (expected, bad) in [(1.0, authority.issue(&["a.example"]).key.serialize_pem()), (2.0, "x".to_owned())]
    {
        edge.directory.write("0.key", bad).unwrap();
        wait::until(TIME_MAX, || (renewals("refused") >= expected).then_some(())).expect("a refusal");
        assert_eq!(show(), before);
    }
    assert!(edge.gateway.output().contains("certificates not renewed, the old ones stay"));

    let renewed = authority.issue(&["a.example"]);
    renewed.write(&edge.directory, "0");
    wait::until(TIME_MAX, || (renewals("taken") >= 1.0).then_some(())).expect("a renewal");
    assert_eq!(show(), renewed.certificate.der().to_vec());
    assert!(get(&mut open, "a.example").unwrap().contains("200"), "the old connection goes on");
}

#[test]
fn sighup_takes_other_certificates_and_another_minimum() {
    let authority = Authority::new("ca");
    let mut edge = edge(&authority, &[&["a.example"]], "");
    authority.issue(&["b.example"]).write(&edge.directory, "1");
    let text = std::fs::read_to_string(edge.gateway.config_file()).unwrap();
    let other = text.replace(&listener(1, ""), &listener(2, ", min_version = \"1.3\""));
    assert_ne!(text, other);
    edge.gateway.write_config(&other).unwrap();
    edge.gateway.process().signal(libc::SIGHUP).unwrap();
    let config = client(&authority);
    wait::until(TIME_MAX, || connect(&config, edge.address, "b.example").ok())
        .expect("the other certificate");
    let old: Arc<ClientConfig> = settings(&authority, None, &[&TLS12]).into();
    let refused = connect(&old, edge.address, "b.example").expect_err("a refusal");
    assert_eq!(alert(&refused), Some(AlertDescription::ProtocolVersion));
}

#[test]
fn an_expired_certificate_is_told_and_still_serves() {
    let authority = Authority::new("ca");
    let directory = Scratch::new().unwrap();
    authority.issue_expired(&["a.example"]).write(&directory, "0");
    let edge = edge_in(directory, 1, "");
    let told = wait::until(TIME_MAX, || edge.gateway.output().contains("0.crt HAS EXPIRED").then_some(()));
    assert!(told.is_some(), "{}", edge.gateway.output());
    let left = edge.gateway.metrics().unwrap().sum("portcullis_tls_certificate_expires_seconds", &[]);
    assert!(left < 0.0, "{left}");
    let refused = connect(&client(&authority), edge.address, "a.example").expect_err("our own refusal");
    assert!(refused.to_string().contains("xpired"), "{refused}");
}
