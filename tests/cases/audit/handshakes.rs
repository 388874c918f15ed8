//! Who is refused before there is a request: by the certificate that they show, or for want of one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::PathBuf,
};

use aws_lc_rs::digest::{SHA256, digest};
use portcullis::audit::hex;
use rustls::version::TLS13;
use serde_json::Value;
use xtask::lab::{client::Connection, scratch::Scratch, wait};

use super::{await_lines, lines_of, said, verify};
use crate::{
    cases::client_certificates::ask,
    pki::{Authority, Issued},
    support::{Edge, TIME_MAX, free_address},
    tls_client::{connect, settings},
};

/// A gateway that serves whoever shows a certificate of this authority's that it has not revoked.
struct Strict {
    edge: Edge,
    authority: Authority,
    file: PathBuf,
}

/// The number of the certificate that is revoked.
const REVOKED: u8 = 2;

impl Strict {
    fn start() -> Self {
        let (authority, directory) = (Authority::new("ca"), Scratch::new().unwrap());
        directory.write("ca.pem", authority.pem()).unwrap();
        directory.write("revoked.pem", authority.revoke(REVOKED)).unwrap();
        for (name, host) in [("0", "a.example"), ("1", "b.example")] {
            authority.issue(&[host]).write(&directory, name);
        }
        let listener = "tls = { certificates = [{ chain_file = \"0.crt\", key_file = \"0.key\" }, \
            { chain_file = \"1.crt\", key_file = \"1.key\" }], client_ca_file = \"ca.pem\", \
            client_crl_file = \"revoked.pem\", client_auth = \"required\" }";
        let sections = "[routes.all]\npath = \"/{*rest}\"\npublic = true\nrespond = { status = 200 }\n\
            [log]\naudit = { file = \"audit.jsonl\" }\n";
        let file = directory.path().join("audit.jsonl");
        let edge = Edge::start_with(directory, free_address(), listener, sections);
        Self { edge, authority, file }
    }

    #[track_caller]
    fn refuses(&self, shown: Option<&Issued>, tls13: bool) {
        let answer = ask(&self.edge, &self.authority, shown, tls13);
        assert!(answer.is_err(), "{answer:?}");
    }

    #[track_caller]
    fn serves(&self, shown: &Issued) {
        let answer = ask(&self.edge, &self.authority, Some(shown), true);
        assert!(answer.as_ref().is_ok_and(|line| line.contains("200")), "{answer:?}");
    }

    /// So many handshakes have failed like this.
    #[track_caller]
    fn await_counted(&self, reason: &str) {
        let counted = wait::until(TIME_MAX, || {
            let metrics = self.edge.gateway.metrics().unwrap();
            (metrics.sum("portcullis_tls_handshakes_failed_total", &[("reason", reason)]) > 0.0).then_some(())
        });
        assert!(counted.is_some(), "{reason}");
    }
}

#[test]
fn who_is_refused_for_a_certificate_is_told_with_it_and_why() {
    let strict = Strict::start();
    let good = strict.authority.issue_numbered(&["good.example"], 1);
    let stolen = strict.authority.issue_numbered(&["stolen.example"], 3).certificate;
    let thief = Authority::new("thief").issue(&["thief.example"]).key;
    let issued = [
        ("stolen.example", "BadSignature", Issued { certificate: stolen, key: thief }),
        ("expired.example", "expired", strict.authority.issue_expired(&["expired.example"])),
        ("unknown.example", "UnknownIssuer", Authority::new("stranger").issue(&["unknown.example"])),
        ("revoked.example", "Revoked", strict.authority.issue_numbered(&["revoked.example"], REVOKED)),
    ];
    strict.serves(&good);
    for tls13 in [true, false] {
        strict.refuses(None, tls13);
        for (.., shown) in &issued {
            strict.refuses(Some(shown), tls13);
        }
    }
    let lines = await_lines(&strict.file, "refused", 10);
    assert_eq!(lines.len(), 10, "{lines:?}");
    let mut by_name: BTreeMap<Option<&str>, Vec<&Value>> = BTreeMap::new();
    for line in &lines {
        by_name.entry(line["certificate_name"].as_str()).or_default().push(line);
    }
    let check = |name: Option<&str>, why: &str, sha256: Option<String>| {
        let lines = by_name.get(&name).expect("told");
        assert_eq!(lines.len(), 2, "{lines:?}");
        for line in lines {
            assert_eq!(line["certificate"].as_str(), sha256.as_deref(), "{line}");
            assert!(line["why"].as_str().expect("a text").contains(why), "{line}");
            let of = ["refusal", "source", "listener", "server_name"].map(|member| line[member].as_str());
            let expected = ["client_certificate", "127.0.0.1", "public", "a.example"].map(Some);
            assert_eq!(of, expected, "{line}");
        }
    };
    check(None, "no certificates", None);
    for (name, why, shown) in &issued {
        let sha256 = digest(&SHA256, shown.certificate.der());
        check(Some(name), why, Some(hex(sha256.as_ref())));
    }
    let ids: BTreeSet<&str> = lines.iter().filter_map(|line| line["request_id"].as_str()).collect();
    assert_eq!(ids.len(), lines.len());
    let verified = verify(&[], &[&strict.file]);
    assert!(verified.status.success(), "{}", said(&verified));
}

/// The beginning of TLS 1.1 with one suite and no extension (RFC 4346 §7.4.1.2).
fn hello_of_tls11() -> Vec<u8> {
    let body = [&[3, 2][..], &[7; 32], &[0], &[0, 2, 0, 47], &[1, 0]].concat();
    let length = u8::try_from(body.len()).unwrap();
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat()
}

/// What scanners do all day would fill the log: that is counted.
#[test]
fn what_is_no_question_of_who_asks_is_only_counted() {
    let strict = Strict::start();
    let open = || Connection::open(strict.edge.address, None, TIME_MAX).unwrap();
    drop(open());
    strict.await_counted("left");
    for (bytes, reason) in
        [(b"GET / HTTP/1.1\r\n\r\n".to_vec(), "malformed"), (hello_of_tls11(), "incompatible")]
    {
        let mut scanner = open();
        scanner.send(&bytes).unwrap();
        strict.await_counted(reason);
    }
    let config = settings(&strict.authority, None, &[&TLS13]);
    assert!(connect(&config.into(), strict.edge.address, "c.example").is_err());
    strict.await_counted("unrecognized_name");
    let Strict { edge, file, .. } = strict;
    let Edge { gateway, directory: _kept, .. } = edge;
    assert!(gateway.terminate(TIME_MAX).unwrap().success());
    let lines = lines_of(&file);
    assert!(lines.iter().any(|line| line["event"] == "stopped"), "{lines:?}");
    assert!(lines.iter().all(|line| line["event"] != "refused"), "{lines:?}");
}

/// Whoever holds the log's lock is as good as a disk that does not answer.
#[test]
fn refused_handshakes_wait_for_no_disk() {
    const REFUSED: usize = 50;
    let strict = Strict::start();
    let good = strict.authority.issue_numbered(&["good.example"], 1);
    let holder = File::open(&strict.file).unwrap();
    holder.lock().unwrap();
    for _ in 0..REFUSED {
        strict.refuses(None, true);
        strict.serves(&good);
    }
    holder.unlock().unwrap();
    assert_eq!(await_lines(&strict.file, "refused", REFUSED).len(), REFUSED);
}
