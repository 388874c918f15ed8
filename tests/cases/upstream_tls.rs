//! Servers under TLS: always verified, with our own certificate where they ask for one.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::Arc,
};

use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned, server::WebPkiClientVerifier};
use xtask::lab::{place::Place, scratch::Scratch, scripted::Step, upstream::Nginx, wait};

use crate::{
    pki::{Authority, Issued},
    support::{Edge, TIME_MAX, free_address, scripted},
};

/// What nginx tells of the connection.
const TOLD: &str = "sni: $ssl_server_name\\nreused: $ssl_session_reused\\nclient: $ssl_client_s_dn\\n";

/// An nginx that shows `shown` and asks for certificates of `asked`, when given.
fn nginx(shown: &Issued, asked: Option<&Authority>) -> Nginx {
    let address = free_address();
    Nginx::start_with(&Place::here(), address, |directory| {
        std::fs::write(directory.join("crt"), shown.certificate.pem()).unwrap();
        std::fs::write(directory.join("key"), shown.key.serialize_pem()).unwrap();
        let d = directory.display();
        let verify = asked.map_or_else(String::new, |authority| {
            std::fs::write(directory.join("ca"), authority.pem()).unwrap();
            format!("ssl_client_certificate {d}/ca; ssl_verify_client on;")
        });
        format!(
            "server {{ listen {address} ssl; ssl_certificate {d}/crt; ssl_certificate_key {d}/key; {verify}
             location /files/ {{ alias {d}/; }} location /healthz {{ return 200; }}
             location / {{ return 200 \"{TOLD}\"; }} }}"
        )
    })
    .unwrap()
}

/// A gateway in front of `upstream` with these keys of its `tls`; `ca.pem` holds `authority`.
fn edge(upstream: std::net::SocketAddr, authority: &Authority, tls: &str, more: &str) -> Edge {
    let directory = Scratch::new().unwrap();
    directory.write("ca.pem", authority.pem()).unwrap();
    authority.issue(&["gateway.example"]).write(&directory, "gateway");
    edge_in(directory, upstream, tls, more)
}

fn edge_in(directory: Scratch, upstream: std::net::SocketAddr, tls: &str, more: &str) -> Edge {
    let more = if more.contains("health") { more.to_owned() } else { format!("{more}health = \"off\"\n") };
    let sections = format!(
        "[runtime]\nworkers = 1\n[upstreams.app]\nservers = [\"{{upstream}}\"]\ntls = {{ {tls} }}\n{more}\
         [routes.all]\npath = \"/{{*rest}}\"\npublic = true\nupstream = \"app\"\n"
    );
    Edge::start_with(directory, upstream, "", &sections)
}

const BY_NAME: &str = "ca_file = \"ca.pem\", server_name = \"app.example\"";

#[test]
fn a_server_is_verified_by_name_and_its_sessions_resume() {
    let authority = Authority::new("ca");
    let server = nginx(&authority.issue(&["app.example"]), None);
    let edge = edge(server.address(), &authority, BY_NAME, "connections = { idle_per_worker = 0 }\n");
    assert_eq!(edge.get("/", &[]).text(), "sni: app.example\nreused: .\nclient: \n");
    assert_eq!(
        edge.get("/", &[]).text(),
        "sni: app.example\nreused: r\nclient: \n",
        "a connection of its own"
    );
    assert_eq!(edge.get("/files/1m", &[]).body.len(), 1 << 20);
}

#[test]
fn a_connection_under_tls_is_used_again() {
    let authority = Authority::new("ca");
    let server = nginx(&authority.issue(&["app.example"]), None);
    let edge = edge(server.address(), &authority, BY_NAME, "");
    for target in ["/", "/files/16k", "/files/1m", "/"] {
        assert_eq!(edge.get(target, &[]).status, 200);
    }
    let events =
        |event| edge.gateway.metrics().unwrap().sum("portcullis_upstream_events_total", &[("event", event)]);
    assert_eq!((events("connected"), events("reused")), (1.0, 3.0));
}

#[test]
fn without_a_name_the_certificate_has_to_hold_the_address() {
    let authority = Authority::new("ca");
    let server = nginx(&authority.issue(&["127.0.0.1"]), None);
    let edge = edge(server.address(), &authority, "ca_file = \"ca.pem\"", "");
    assert_eq!(edge.get("/", &[]).text(), "sni: \nreused: .\nclient: \n");
}

#[test]
fn our_certificate_is_shown_to_who_asks() {
    let authority = Authority::new("ca");
    let server = nginx(&authority.issue(&["app.example"]), Some(&authority));
    let tls = format!("{BY_NAME}, client_chain_file = \"gateway.crt\", client_key_file = \"gateway.key\"");
    let edge = edge(server.address(), &authority, &tls, "");
    assert_eq!(edge.get("/", &[]).text(), "sni: app.example\nreused: .\nclient: CN=gateway.example\n");
}

#[track_caller]
fn check_refused(edge: &Edge) {
    let answer = edge.get("/", &[]);
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert!(answer.text().contains("\"upstream_tls\""), "{}", answer.text());
}

#[test]
fn who_cannot_prove_its_name_gets_no_request() {
    let (authority, stranger) = (Authority::new("ca"), Authority::new("stranger"));
    for shown in [
        authority.issue(&["other.example"]),
        authority.issue(&["127.0.0.1"]),
        authority.issue_expired(&["app.example"]),
        stranger.issue(&["app.example"]),
    ] {
        let server = nginx(&shown, None);
        check_refused(&edge(server.address(), &authority, BY_NAME, ""));
    }
    let by_address = nginx(&authority.issue(&["app.example"]), None);
    check_refused(&edge(by_address.address(), &authority, "ca_file = \"ca.pem\"", ""));
    check_refused(&edge(by_address.address(), &stranger, BY_NAME, ""));
    let in_clear = scripted(&[Step::Send(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()), Step::Stall]);
    check_refused(&edge(in_clear.address(), &authority, BY_NAME, ""));
}

/// A server of TLS 1.3 tells only after the handshake that it does not want us.
#[test]
fn a_server_that_refuses_us_is_told_as_such() {
    let authority = Authority::new("ca");
    let mut trusted = RootCertStore::empty();
    trusted.add(authority.der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(trusted.into(), Arc::clone(&provider));
    let (chain, key) = authority.issue(&["app.example"]).pair();
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain, key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (tcp, _) = listener.accept().unwrap();
        tcp.set_read_timeout(Some(TIME_MAX)).unwrap();
        let mut stream = StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), tcp);
        let refused = stream.read(&mut [0; 1]);
        let _gone = stream.flush();
        refused.is_err()
    });
    check_refused(&edge(address, &authority, BY_NAME, ""));
    assert!(server.join().unwrap());
}

#[test]
fn the_handshake_ends_with_the_connect_deadline() {
    let authority = Authority::new("ca");
    let silent = scripted(&[Step::Stall]);
    let edge = edge(silent.address(), &authority, BY_NAME, "timeouts = { connect = \"300ms\" }\n");
    let answer = edge.get("/", &[]);
    assert_eq!(answer.status, 504);
    assert!(answer.text().contains("\"connect_timeout\""), "{}", answer.text());
}

#[test]
fn health_is_asked_for_over_tls() {
    let authority = Authority::new("ca");
    let health = "health = { interval = \"50ms\", unhealthy = 2 }\n";
    let server = nginx(&authority.issue(&["app.example"]), None);
    for (tls, live) in [(BY_NAME, 1.0), ("ca_file = \"ca.pem\"", 0.0)] {
        let edge = edge(server.address(), &authority, tls, health);
        let settled = wait::until(TIME_MAX, || {
            let now = edge.gateway.metrics().unwrap().sum("portcullis_upstream_live", &[]);
            ((now - live).abs() < 0.5).then_some(())
        });
        assert!(settled.is_some(), "{tls}: {}", edge.gateway.output());
        assert_eq!(edge.get("/", &[]).status, if live > 0.5 { 200 } else { 503 });
        let told = edge.gateway.output().contains("is dead: invalid peer certificate");
        assert_eq!(told, live < 0.5, "{}", edge.gateway.output());
    }
}
