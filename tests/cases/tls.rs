//! TLS as curl speaks it.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    process::Command,
    sync::Arc,
};

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use xtask::lab::{place::Place, scratch::Scratch, scripted::Step, upstream::Nginx, wait};

use crate::support::{Edge, OPEN, TIME_MAX, free_address, scripted};

struct Secured {
    edge: Edge,
    _upstream: Option<Nginx>,
}

fn secured() -> Secured {
    let upstream = Nginx::start(&Place::here(), free_address(), "one").unwrap();
    let secured = secured_with(upstream.address(), "");
    Secured { _upstream: Some(upstream), ..secured }
}

/// With another upstream and more keys of the listener.
fn secured_with(upstream: SocketAddr, keys: &str) -> Secured {
    let directory = Scratch::new().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["edge.example".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    directory.write("edge.crt", certificate.pem()).unwrap();
    let key_file = directory.write("edge.key", key.serialize_pem()).unwrap();
    std::fs::set_permissions(&key_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let tls = "tls = { certificates = [{ chain_file = \"edge.crt\", key_file = \"edge.key\" }] }\n";
    // The lab waits for an answer in clear, which a TLS listener gives as an alert: that is an answer.
    let (listener, sections) = (format!("{tls}{keys}"), format!("[runtime]\nworkers = 1\n{OPEN}"));
    let edge = Edge::start_with(directory, upstream, &listener, &sections);
    Secured { edge, _upstream: None }
}

#[test]
fn a_proxy_header_stands_before_the_handshake() {
    let upstream = Nginx::start(&Place::here(), free_address(), "one").unwrap();
    let secured = secured_with(upstream.address(), "proxy_protocol_from = [\"127.0.0.1\"]");
    let url = format!("https://edge.example:{}/", secured.edge.address.port());
    let (served, said) = secured.curl(&["--haproxy-protocol", &url]);
    assert!(served, "{said}");
    let (served, said) = secured.curl(&[&url]);
    assert!(!served, "without one there is no handshake: {said}");
}

impl Secured {
    fn curl(&self, arguments: &[&str]) -> (bool, String) {
        let address = self.edge.address;
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "20", "--http1.1", "--noproxy", "*"])
            .arg("--cacert")
            .arg(self.edge.directory.path().join("edge.crt"))
            .args(["--resolve", &format!("edge.example:{}:{}", address.port(), address.ip())])
            .args(arguments)
            .output()
            .expect("curl starts");
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    /// A connection on which the test says where a record begins and how the connection ends.
    fn connect(&self) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        let certificate = self.edge.directory.path().join("edge.crt");
        roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("edge.example").unwrap();
        let tcp = TcpStream::connect(self.edge.address).unwrap();
        tcp.set_read_timeout(Some(TIME_MAX)).unwrap();
        rustls::StreamOwned::new(rustls::ClientConnection::new(Arc::new(config), name).unwrap(), tcp)
    }

    fn url(&self, path: &str) -> String {
        format!("https://edge.example:{}{path}", self.edge.address.port())
    }
}

#[test]
fn both_versions_are_spoken_and_the_upstream_hears_of_it() {
    let secured = secured();
    for version in [&["--tlsv1.2", "--tls-max", "1.2"], &["--tlsv1.3", "--tls-max", "1.3"]] {
        let url = secured.url("/echo");
        let mut arguments = version.to_vec();
        arguments.push(&url);
        let (ok, text) = secured.curl(&arguments);
        assert!(ok && text.contains("x-forwarded-proto: https\n"), "{version:?}: {text}");
    }
}

#[test]
fn bodies_of_every_size_come_through_over_one_connection() {
    let secured = secured();
    let urls = [secured.url("/files/128"), secured.url("/files/16k"), secured.url("/files/1m")];
    let format = "%{http_code} %{size_download} %{num_connects}\n";
    let (ok, text) = secured.curl(&[
        "--write-out",
        format,
        "--output",
        "/dev/null",
        &urls[0],
        "--output",
        "/dev/null",
        &urls[1],
        "--output",
        "/dev/null",
        &urls[2],
    ]);
    assert!(ok, "{text}");
    assert_eq!(text, "200 128 1\n200 16384 0\n200 1048576 0\n");
}

#[test]
fn clear_text_on_a_tls_port_is_refused() {
    let secured = secured();
    let (ok, text) = secured.curl(&[&format!("http://{}/", secured.edge.address)]);
    assert!(!ok, "{text}");
    let (ok, _) = secured.curl(&["--tlsv1.0", "--tls-max", "1.1", &secured.url("/")]);
    assert!(!ok, "TLS 1.1 is not spoken");
    let (ok, _) = secured.curl(&[&secured.url("/")]);
    assert!(ok, "and the next honest client is served");
}

#[test]
fn records_mean_nothing_to_requests_and_a_farewell_is_answered_with_one() {
    let secured = secured();
    let mut client = secured.connect();
    let request = b"GET /files/16k HTTP/1.1\r\nHost: edge.example\r\n\r\n";
    client.write_all(&request.repeat(3)).unwrap();
    for byte in request {
        client.write_all(&[*byte]).unwrap();
    }
    client.conn.send_close_notify();
    client.flush().unwrap();
    let mut answers = Vec::new();
    // An end without a farewell would be an error.
    client.read_to_end(&mut answers).unwrap();
    let heads = answers.windows(15).filter(|bytes| bytes == b"HTTP/1.1 200 OK").count();
    assert_eq!((heads, answers.len() > 4 * 16 * 1024), (4, true), "four whole answers");
}

#[test]
fn a_body_that_ends_without_a_farewell_is_not_waited_for() {
    let secured = secured();
    let mut client = secured.connect();
    client.write_all(b"POST /echo HTTP/1.1\r\nHost: edge.example\r\nContent-Length: 10\r\n\r\n123").unwrap();
    client.flush().unwrap();
    client.sock.shutdown(Shutdown::Write).unwrap();
    let closed = wait::until(TIME_MAX, || {
        let active = secured.edge.gateway.metrics().unwrap().sum("portcullis_connections_active", &[]);
        (active < 0.5).then_some(())
    });
    assert!(closed.is_some(), "the connection stays");
}

#[test]
fn bytes_behind_a_close_notify_stop_nobody() {
    let secured = secured();
    let mut session = secured.connect();
    session.write_all(b"GET /health HTTP/1.1\r\nHost: edge.example\r\n\r\n").unwrap();
    session.read_exact(&mut [0; 12]).expect("an answer");
    session.conn.send_close_notify();
    let mut behind = Vec::new();
    session.conn.write_tls(&mut behind).unwrap();
    behind.extend([0; 16 * 1024]);
    session.sock.write_all(&behind).unwrap();
    let (ok, text) = secured.curl(&[&secured.url("/")]);
    assert!(ok, "the worker serves the next client: {text}");
}

#[test]
fn a_late_head_or_body_under_tls_is_told_so() {
    let upstream = scripted(&[Step::ReadHead, Step::Stall]);
    let secured =
        secured_with(upstream.address(), "timeouts = { head = \"300ms\", body_idle = \"300ms\" }\n");
    for request in ["GET / HT", "POST / HTTP/1.1\r\nHost: edge.example\r\nContent-Length: 10\r\n\r\n123"] {
        let mut session = secured.connect();
        session.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 12];
        session.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, *b"HTTP/1.1 408", "{request}");
    }
}
