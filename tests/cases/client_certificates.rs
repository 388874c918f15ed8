//! Client certificates: rows 65 and 66 of what must not work.

use std::{io, sync::Arc};

use rustls::{
    AlertDescription, ClientConfig, HandshakeKind,
    version::{TLS12, TLS13},
};
use xtask::lab::scratch::Scratch;

use super::certificates::{edge, edge_in};
use crate::{
    pki::{Authority, Issued},
    support::{Edge, free_address},
    tls_client::{Shameless, connect, get, settings},
};

/// What a client that shows `shown` gets: a status line, or the alert.
pub(super) fn ask(
    edge: &Edge,
    authority: &Authority,
    shown: Option<&Issued>,
    tls13: bool,
) -> Result<String, io::Error> {
    let version = if tls13 { &TLS13 } else { &TLS12 };
    let config: ClientConfig = settings(authority, shown, &[version]);
    // In TLS 1.3 the refusal comes after the client's end of the handshake.
    connect(&config.into(), edge.address, "a.example").and_then(|mut stream| get(&mut stream, "a.example"))
}

#[track_caller]
fn check(edge: &Edge, authority: &Authority, shown: Option<&Issued>, expected: Option<AlertDescription>) {
    for tls13 in [true, false] {
        match (ask(edge, authority, shown, tls13), expected) {
            (Ok(line), None) => assert!(line.contains("200"), "{line}"),
            (Ok(line), Some(alert)) => panic!("{line} instead of {alert:?}"),
            (Err(error), None) => panic!("{error}"),
            (Err(error), Some(alert)) => {
                let told = rustls::Error::AlertReceived(alert);
                assert_eq!(error.get_ref().and_then(|inner| inner.downcast_ref()), Some(&told), "{error}");
            }
        }
    }
}

const REQUIRED: &str = ", client_ca_file = \"ca.pem\", client_auth = \"required\"";

#[test]
fn who_has_to_prove_who_it_is_and_cannot_gets_no_connection() {
    let (authority, stranger) = (Authority::new("ca"), Authority::new("stranger"));
    let edge = edge(&authority, &[&["a.example"]], REQUIRED);
    check(&edge, &authority, Some(&authority.issue(&["client.example"])), None);
    check(&edge, &authority, None, Some(AlertDescription::CertificateRequired));
    let expired = authority.issue_expired(&["client.example"]);
    check(&edge, &authority, Some(&expired), Some(AlertDescription::CertificateExpired));
    let unknown = stranger.issue(&["client.example"]);
    check(&edge, &authority, Some(&unknown), Some(AlertDescription::UnknownCA));
    let failed = edge
        .gateway
        .metrics()
        .unwrap()
        .sum("portcullis_tls_handshakes_failed_total", &[("reason", "client_certificate")]);
    assert!((failed - 6.0).abs() < 0.5, "{failed}");
}

#[test]
fn optional_means_none_or_a_good_one() {
    let (authority, stranger) = (Authority::new("ca"), Authority::new("stranger"));
    let edge = edge(&authority, &[&["a.example"]], &REQUIRED.replace("required", "optional"));
    check(&edge, &authority, None, None);
    check(&edge, &authority, Some(&authority.issue(&["client.example"])), None);
    let unknown = stranger.issue(&["client.example"]);
    check(&edge, &authority, Some(&unknown), Some(AlertDescription::UnknownCA));
}

#[test]
fn a_revoked_certificate_is_refused() {
    let authority = Authority::new("ca");
    let [good, revoked] = [1, 2].map(|number| authority.issue_numbered(&["client.example"], number));
    let directory = Scratch::new().unwrap();
    directory.write("ca.pem", authority.pem()).unwrap();
    directory.write("revoked.pem", authority.revoke(2)).unwrap();
    authority.issue(&["a.example"]).write(&directory, "0");
    let edge = edge_in(directory, 1, &format!("{REQUIRED}, client_crl_file = \"revoked.pem\""));
    check(&edge, &authority, Some(&good), None);
    check(&edge, &authority, Some(&revoked), Some(AlertDescription::CertificateRevoked));
}

/// Row 66: a session that was made without a certificate opens no listener that wants one, nor does one that was made
/// with a certificate spare the next connection from showing it.
#[test]
fn no_session_spares_anybody_a_certificate() {
    let authority = Authority::new("ca");
    let directory = Scratch::new().unwrap();
    directory.write("ca.pem", authority.pem()).unwrap();
    authority.issue(&["a.example"]).write(&directory, "0");
    let strict = free_address();
    let pair = "certificates = [{ chain_file = \"0.crt\", key_file = \"0.key\" }]";
    let sections = format!(
        "[listeners.strict]\naddress = \"{strict}\"\ntls = {{ {pair}{REQUIRED} }}\n\
         [routes.all]\npath = \"/{{*rest}}\"\npublic = true\nrespond = {{ status = 200, body = \"here\" }}\n"
    );
    let edge = Edge::start_with(directory, free_address(), &format!("tls = {{ {pair} }}"), &sections);
    let client = authority.issue(&["client.example"]);
    for version in [&TLS12, &TLS13] {
        let mut config = settings(&authority, None, &[version]);
        config.resumption = Shameless::store();
        let config = Arc::new(config);
        let kind = |config: &Arc<ClientConfig>, address| {
            let mut stream = connect(config, address, "a.example")?;
            get(&mut stream, "a.example")?;
            Ok::<_, io::Error>(stream.conn.handshake_kind())
        };
        assert_eq!(kind(&config, edge.address).unwrap(), Some(HandshakeKind::Full));
        assert_eq!(kind(&config, edge.address).unwrap(), Some(HandshakeKind::Resumed));
        assert!(kind(&config, strict).is_err(), "a session is no certificate");

        let mut config = settings(&authority, Some(&client), &[version]);
        config.resumption = Shameless::store();
        let config = Arc::new(config);
        assert_eq!(kind(&config, strict).unwrap(), Some(HandshakeKind::Full));
        assert_eq!(kind(&config, strict).unwrap(), Some(HandshakeKind::Full));
        assert_eq!(kind(&config, edge.address).unwrap(), Some(HandshakeKind::Full));
    }
}
