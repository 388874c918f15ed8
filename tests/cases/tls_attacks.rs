//! Rows 25, 63 and 64, each in the octets of one who means it, before a server that must not hear of it. What TLS has
//! to offer besides is in `tls_conformance.rs`, client certificates and sessions in files of their own.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::version::{TLS12, TLS13};
use xtask::lab::{scratch::Scratch, scripted::Scripted};

use crate::{
    pki::Authority,
    support::{Edge, HELLO, OPEN, TIME_MAX, answering},
    tls_client::{connect, settings},
};

/// A gateway under TLS with these certificates and one server behind it.
fn secured(authority: &Authority, certificates: &[&str], sections: &str) -> (Edge, Scripted) {
    let directory = Scratch::new().unwrap();
    let pair = |name: &&str| {
        authority.issue(&[name]).write(&directory, name);
        format!("{{ chain_file = \"{name}.crt\", key_file = \"{name}.key\" }}")
    };
    let pairs = certificates.iter().map(pair).collect::<Vec<_>>().join(", ");
    let upstream = answering(HELLO);
    let tls = format!("tls = {{ certificates = [{pairs}] }}");
    (Edge::start_with(directory, upstream.address(), &tls, sections), upstream)
}

/// Row 25: a tenant's connection is not another tenant's, however the other one is spelt.
#[test]
fn row_25_a_host_of_another_tenant_is_421_and_its_server_hears_nothing() {
    let authority = Authority::new("ca");
    let route = |name: &str| {
        format!(
            "[routes.{name}]\nhosts = [\"{name}.example\"]\npath = \"/{{*rest}}\"\npublic = true\nupstream = \"app\"\n"
        )
    };
    let app = "[upstreams.app]\nservers = [\"{upstream}\"]\nhealth = \"off\"\n";
    let sections = format!("{app}{}{}", route("a"), route("b"));
    let (edge, upstream) = secured(&authority, &["a.example", "b.example"], &sections);
    let config = Arc::new(settings(&authority, None, &[&TLS13, &TLS12]));
    let mut session = connect(&config, edge.address, "a.example").unwrap();
    let mut ask = |line: &str, host: &str| {
        write!(session, "{line} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
        session.flush().unwrap();
        let head = read_until(&mut session, b"\r\n\r\n");
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        session.read_exact(&mut vec![0; length.expect("a length")]).unwrap();
        head.split(' ').nth(1).unwrap().to_owned()
    };
    for (line, host) in [
        ("GET /", "b.example"),
        ("GET /", "B.EXAMPLE"),
        ("GET /", "b.example."),
        ("GET /", "b.example:443"),
        ("GET /", "c.example"),
        ("GET /", "127.0.0.1"),
        ("GET https://b.example/", "a.example"),
        ("GET http://b.example:443/", "a.example"),
        ("OPTIONS https://b.example", "a.example"),
    ] {
        assert_eq!(ask(line, host), "421", "{line} of {host}");
    }
    assert_eq!(upstream.accepted(), 0, "nothing reached a server");
    for (line, host) in
        [("GET /", "a.example"), ("GET /", "A.example:443"), ("GET https://a.example/", "b.example")]
    {
        assert_eq!(ask(line, host), "200", "{line} of {host}");
    }
}

fn read_until(stream: &mut impl Read, end: &[u8]) -> String {
    let (mut read, mut byte) = (Vec::new(), [0]);
    while !read.ends_with(end) {
        stream.read_exact(&mut byte).expect("more");
        read.extend(byte);
    }
    String::from_utf8(read).unwrap()
}

/// A `ClientHello` of TLS 1.2 and before (RFC 5246 §7.4.1.2) that any server would understand.
fn client_hello(version: u16, suites: &[u16]) -> Vec<u8> {
    let sized = |bytes: Vec<u8>| [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), &bytes[..]].concat();
    let extension = |kind: u16, body: Vec<u8>| [&kind.to_be_bytes(), &sized(body)[..]].concat();
    let name = [&[0][..], &sized(b"a.example".to_vec())].concat();
    let extensions = [
        extension(0, sized(name)),
        // Groups P-256 and X25519, points uncompressed.
        extension(10, sized(vec![0, 0x17, 0, 0x1d])),
        extension(11, vec![1, 0]),
        // Signatures: ECDSA and RSA with SHA-256 and SHA-1.
        extension(13, sized(vec![4, 3, 4, 1, 2, 3, 2, 1])),
    ];
    let hello = [
        &version.to_be_bytes()[..],
        &[7; 32],
        // No session.
        &[0],
        &sized(suites.iter().flat_map(|suite| suite.to_be_bytes()).collect()),
        // No compression.
        &[1, 0],
        &sized(extensions.concat()),
    ]
    .concat();
    let length = u32::try_from(hello.len()).unwrap().to_be_bytes();
    let message = [&[1], &length[1..], &hello].concat();
    [&[0x16, 3, 1][..], &sized(message)].concat()
}

const PROTOCOL_VERSION: u8 = 70;
const HANDSHAKE_FAILURE: u8 = 40;

/// Row 63, whatever openssl may still be able to offer.
#[test]
fn row_63_old_versions_and_broken_ciphers_get_an_alert_and_no_server_hello() {
    const GOOD: &[u16] = &[0xc02b, 0xc02f, 0xc030, 0xc02c];
    let authority = Authority::new("ca");
    let (edge, upstream) = secured(&authority, &["a.example"], OPEN);
    let answer_to = |hello: &[u8]| {
        let mut stream = TcpStream::connect(edge.address).unwrap();
        stream.set_read_timeout(Some(TIME_MAX)).unwrap();
        stream.write_all(hello).unwrap();
        let mut record = [0; 7];
        let read = stream.read_exact(&mut record);
        (read.is_ok(), record)
    };
    let check = |name: &str, hello: &[u8], alert: u8| {
        let (came, record) = answer_to(hello);
        assert!(came, "{name}: no alert");
        assert_eq!((record[0], record[5], record[6]), (0x15, 2, alert), "{name}: {record:02x?}");
    };
    for version in [0x0300, 0x0301, 0x0302] {
        check(&format!("version {version:x}"), &client_hello(version, GOOD), PROTOCOL_VERSION);
    }
    for (name, suites) in [
        ("RC4", &[0x0004, 0x0005, 0xc002, 0xc007, 0xc00c, 0xc011][..]),
        ("3DES", &[0x000a, 0x0013, 0x0016, 0xc003, 0xc008, 0xc00d, 0xc012]),
        ("CBC with RSA", &[0x002f, 0x0035, 0x003c, 0x003d, 0x0041, 0x0084]),
        ("CBC with ECDHE", &[0xc009, 0xc00a, 0xc013, 0xc014, 0xc023, 0xc024, 0xc027, 0xc028]),
        ("no forward secrecy", &[0x009c, 0x009d, 0xc02d, 0xc031]),
        ("finite fields", &[0x0033, 0x0039, 0x0067, 0x006b, 0x009e, 0x009f, 0xccaa]),
        (
            "NULL, export and nobody's",
            &[0x0000, 0x0001, 0x0002, 0x0003, 0x0006, 0x0008, 0x0018, 0x003b, 0xc006, 0xc018],
        ),
        ("DES and IDEA", &[0x0007, 0x0009, 0x000c, 0x000f, 0x0012, 0x0015]),
        ("none but a signal", &[0x00ff, 0x5600]),
    ] {
        check(name, &client_hello(0x0303, suites), HANDSHAKE_FAILURE);
    }
    // SSL 2: a record of its own kind.
    let (came, record) =
        answer_to(b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80\x03\x00\x80\x07\x00\xc0");
    assert!(!came || record[0] == 0x15, "SSL 2: {record:02x?}");
    let (came, record) = answer_to(&client_hello(0x0303, GOOD));
    assert!(came && record[0] == 0x16, "it is a hello, then: {record:02x?}");
    assert_eq!(upstream.accepted(), 0, "nothing reached the server");
}

/// Row 64: a client that sends early data although no ticket allows it. Its session says so because the test has
/// written that in; what comes early is nobody's, and the handshake goes on.
#[test]
fn row_64_early_data_is_thrown_away() {
    let authority = Authority::new("ca");
    let (edge, upstream) = secured(&authority, &["a.example"], OPEN);
    let directory = edge.directory.path();
    let request = |path: &str, close: &str| format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n{close}\r\n");
    let s_client = |arguments: &[&str], path: &str| {
        let mut child = Command::new("openssl")
            .args(["s_client", "-connect", &edge.address.to_string(), "-servername", "a.example", "-tls1_3"])
            .args(["-ign_eof"])
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl starts");
        child.stdin.take().unwrap().write_all(request(path, "Connection: close\r\n").as_bytes()).unwrap();
        String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned()
    };
    let first = s_client(&["-sess_out", "session.pem"], "/first");
    assert!(first.contains("HTTP/1.1 200"), "{first}");
    let session = std::fs::read_to_string(directory.join("session.pem")).unwrap();
    std::fs::write(directory.join("early.pem"), allowing_early_data(&session)).unwrap();
    std::fs::write(directory.join("early.txt"), request("/early", "")).unwrap();
    let second = s_client(&["-sess_in", "early.pem", "-early_data", "early.txt"], "/second");
    assert!(second.contains("Reused, TLSv1.3") && second.contains("Early data was rejected"), "{second}");
    assert!(second.contains("HTTP/1.1 200"), "{second}");
    let heads: Vec<_> = std::iter::from_fn(|| upstream.next_head(Duration::ZERO)).collect();
    let lines: Vec<_> = heads.iter().map(|head| head.split(|byte| *byte == b'\r').next().unwrap()).collect();
    assert_eq!(lines, [&b"GET /first HTTP/1.1"[..], b"GET /second HTTP/1.1"]);
}

/// openssl's own session file, in DER under base64, with 16 KiB of early data allowed: element 15 of the sequence.
fn allowing_early_data(pem: &str) -> String {
    const EARLY: [u8; 6] = [0xaf, 4, 2, 2, 0x40, 0];
    let lines: Vec<&str> = pem.lines().collect();
    let der = STANDARD.decode(lines[1..lines.len() - 1].concat()).unwrap();
    let (_, mut rest) = element(&der);
    let mut elements = Vec::new();
    while !rest.is_empty() {
        let (this, behind) = rest.split_at(element(rest).0);
        elements.push(this);
        rest = behind;
    }
    // They stand in the order of their numbers, behind those that have none.
    let place = elements.partition_point(|element| element[0] < EARLY[0]);
    elements.insert(place, &EARLY);
    let elements = elements.concat();
    let length = u16::try_from(elements.len()).unwrap().to_be_bytes();
    let der = [&[0x30, 0x82], &length[..], &elements].concat();
    format!("{}\n{}\n{}\n", lines[0], STANDARD.encode(der), lines[lines.len() - 1])
}

/// How many bytes the first element of some DER takes, and what is in it.
fn element(der: &[u8]) -> (usize, &[u8]) {
    let long = usize::from(der[1] & 0x7f);
    let (header, length) = if der[1] < 0x80 {
        (2, long)
    } else {
        (2 + long, der[2..2 + long].iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
    };
    (header + length, &der[header..header + length])
}

/// Bytes that are not TLS count against whoever sends them, as bytes that are not HTTP do.
#[test]
fn garbage_instead_of_a_handshake_is_an_offence() {
    let authority = Authority::new("ca");
    let (edge, _upstream) = secured(&authority, &["a.example"], OPEN);
    let malformed = || {
        edge.gateway.metrics().unwrap().sum("portcullis_offences_total", &[("kind", "malformed")]).to_string()
    };
    for (sent, garbage) in [
        &b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"[..],
        b"\x16\x03\x01\xff\xff\x01\x00\x00\x01\x00",
        b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00",
        &[0; 64],
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = TcpStream::connect(edge.address).unwrap();
        client.set_read_timeout(Some(TIME_MAX)).unwrap();
        client.write_all(garbage).unwrap();
        // An alert, and the end.
        let _ = client.read_to_end(&mut Vec::new());
        let counted =
            xtask::lab::wait::until(TIME_MAX, || (malformed() == (sent + 1).to_string()).then_some(()));
        assert!(counted.is_some(), "{garbage:?}: {}", malformed());
    }
}
