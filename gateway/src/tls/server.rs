//! What a listener shows its clients: a certificate by the name that they ask for.

use std::{
    collections::{HashMap, hash_map::Entry},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    KeyLog, ServerConfig,
    crypto::aws_lc_rs::{Ticketer, default_provider},
    server::{NoServerSessionStorage, ProducesTickets, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};

use super::{TlsError, clients, names::Names, parse, unusable, x509};
use crate::config::{CertificatePem, Tls};

/// What settings are made with, beside the configuration.
#[derive(Clone, Default)]
pub struct Making<'m> {
    /// Protocols to agree on, best first.
    pub alpn: &'m [&'m [u8]],
    /// Where session keys are told, for debugging.
    pub key_log: Option<Arc<dyn KeyLog>>,
}

/// A listener's certificates, shared by its workers and swapped whole.
pub struct Server {
    certificates: Box<[Arc<Certificate>]>,
    /// The certificate of a name, in lower case.
    exact: HashMap<Box<str>, usize>,
    /// The certificate of all names one label below.
    wildcard: HashMap<Box<str>, usize>,
    /// One for all workers, so that a session resumes on any of them; none where clients show certificates.
    ticketer: Option<Arc<dyn ProducesTickets>>,
}

/// One certificate and how connections that get it are set up.
pub struct Certificate {
    config: Arc<ServerConfig>,
    names: Names,
    /// The listener has no other.
    is_alone: bool,
    file: PathBuf,
    not_after_s: Option<u64>,
}

/// What all certificates of a listener have in common.
#[derive(Clone)]
struct Shared {
    ticketer: Option<Arc<dyn ProducesTickets>>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl Server {
    /// From checked settings. `before` is what this takes the place of: sessions of its clients still resume.
    ///
    /// Where clients show certificates, no session resumes: each handshake asks anew whether a certificate has expired
    /// or was revoked, and a ticket of an older policy opens nothing.
    pub fn compile(tls: &Tls, making: &Making<'_>, before: Option<&Self>) -> Result<Self, TlsError> {
        let ticketer = match (&tls.clients, before.and_then(|before| before.ticketer.clone())) {
            (Some(_), _) => None,
            (None, Some(ticketer)) => Some(ticketer),
            (None, None) => Some(Ticketer::new().map_err(TlsError::Ticketer)?),
        };
        let verifier = tls.clients.as_ref().map(clients::verifier).transpose()?;
        let is_alone = tls.certificates.len() == 1;
        let shared = Shared { ticketer: ticketer.clone(), verifier };
        let certificates = tls
            .certificates
            .iter()
            .map(|pem| Certificate::compile(pem, tls.tls12, making, shared.clone(), is_alone).map(Arc::new));
        let certificates = certificates.collect::<Result<Box<[_]>, _>>()?;
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        for (index, certificate) in certificates.iter().enumerate() {
            let names = &certificate.names;
            // The first needs no name: it is for clients that ask for none.
            if index > 0 && names.exact().is_empty() && names.wildcard().is_empty() {
                return Err(TlsError::Nameless { file: certificate.file.clone() });
            }
            for (map, names, star) in
                [(&mut exact, names.exact(), ""), (&mut wildcard, names.wildcard(), "*.")]
            {
                for name in names {
                    match map.entry(name.clone()) {
                        Entry::Vacant(entry) => drop(entry.insert(index)),
                        Entry::Occupied(entry) => {
                            let other: usize = *entry.get();
                            let first = certificates.get(other).map(|c| c.file.clone()).unwrap_or_default();
                            let second = certificate.file.clone();
                            return Err(TlsError::SharedName {
                                name: format!("{star}{name}"),
                                first,
                                second,
                            });
                        }
                    }
                }
            }
        }
        Ok(Self { certificates, exact, wildcard, ticketer })
    }

    /// The certificate for a client that asks for `name` (SNI). The whole name first, then `*.` for its first label;
    /// one that asks for none gets the first certificate, and so does everybody where there is no other.
    /// `None`: nobody here has this name.
    pub fn choose(&self, name: Option<&str>) -> Option<&Arc<Certificate>> {
        let Some(name) = name else { return self.certificates.first() };
        let name = name.to_ascii_lowercase();
        let parent = name.split_once('.').map(|(_, parent)| parent);
        let index = self
            .exact
            .get(name.as_str())
            .or_else(|| self.wildcard.get(parent?))
            .copied()
            .or_else(|| (self.certificates.len() == 1).then_some(0))?;
        self.certificates.get(index)
    }

    /// All of them, in the order of the configuration.
    pub fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        self.certificates.iter().map(|certificate| &**certificate)
    }
}

impl Certificate {
    fn compile(
        pem: &CertificatePem,
        tls12: bool,
        making: &Making<'_>,
        shared: Shared,
        is_alone: bool,
    ) -> Result<Self, TlsError> {
        let versions: &[_] = if tls12 { &[&TLS13, &TLS12] } else { &[&TLS13] };
        let (chain, key) = parse(pem)?;
        let leaf = chain.first().ok_or_else(|| unusable(pem)(rustls::Error::NoCertificatesPresented))?;
        let names =
            Names::of(leaf).map_err(|error| unusable(pem)(rustls::Error::General(error.to_string())))?;
        // Clients check the whole chain: it is of use as long as all of it is.
        let not_after_s = chain.iter().filter_map(|certificate| x509::not_after_s(certificate)).min();
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .map_err(TlsError::Settings)?;
        let builder = match shared.verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(unusable(pem))?;
        config.alpn_protocols = making.alpn.iter().map(|protocol| protocol.to_vec()).collect();
        // Sessions are in tickets only: a store would be a lock that all workers share.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        match shared.ticketer {
            Some(ticketer) => config.ticketer = ticketer,
            None => config.send_tls13_tickets = 0,
        }
        if let Some(key_log) = &making.key_log {
            config.key_log = Arc::clone(key_log);
        }
        Ok(Self { config: Arc::new(config), names, is_alone, file: pem.chain_file.clone(), not_after_s })
    }

    /// The settings, for a connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Where it came from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// When the first certificate of its chain expires, in seconds since the epoch.
    pub fn not_after_s(&self) -> Option<u64> {
        self.not_after_s
    }

    /// Whether a client that asked for `sni` and got this certificate may ask for `host` (RFC 9110 §7.4): the name
    /// that it asked for, or another one that the certificate holds. Where there is but one certificate, a client that
    /// asked for no name may ask for any host.
    pub fn may_serve(&self, sni: Option<&str>, host: &str) -> bool {
        sni.is_some_and(|name| name.eq_ignore_ascii_case(host))
            || (sni.is_none() && self.is_alone)
            || self.names.covers(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn pem(file: &str, names: &[&str]) -> CertificatePem {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let key = made.signing_key.serialize_pem().into_bytes();
        CertificatePem {
            chain: made.cert.pem().into_bytes(),
            key: Secret(zeroize::Zeroizing::new(key)),
            chain_file: file.into(),
            key_file: file.into(),
        }
    }

    fn server(certificates: &[(&str, &[&str])]) -> Result<Server, TlsError> {
        let certificates = certificates.iter().map(|(file, names)| pem(file, names)).collect();
        let protocols = crate::config::Protocols { http1: true, http2: false };
        let tls = Tls { protocols, tls12: true, certificates, clients: None };
        Server::compile(&tls, &Making::default(), None)
    }

    #[track_caller]
    fn check(server: &Server, name: Option<&str>, expected: Option<&str>) {
        let chosen = server.choose(name).map(|certificate| certificate.file().to_str().unwrap());
        assert_eq!(chosen, expected, "{name:?}");
    }

    #[test]
    fn names_choose_certificates() {
        let server = server(&[
            ("first", &["a.example", "*.w.example"]),
            ("second", &["b.example", "x.w.example"]),
            ("third", &["*.x.w.example"]),
        ])
        .unwrap();
        check(&server, None, Some("first"));
        check(&server, Some("a.example"), Some("first"));
        check(&server, Some("B.Example"), Some("second"));
        check(&server, Some("x.w.example"), Some("second"));
        check(&server, Some("y.w.example"), Some("first"));
        check(&server, Some("y.x.w.example"), Some("third"));
        check(&server, Some("w.example"), None);
        check(&server, Some("z.y.w.example"), None);
        check(&server, Some("c.example"), None);
        check(&server, Some("localhost"), None);
    }

    #[test]
    fn one_certificate_is_for_everybody() {
        let server = server(&[("only", &["a.example"])]).unwrap();
        check(&server, None, Some("only"));
        check(&server, Some("whatever.example"), Some("only"));
    }

    #[test]
    fn a_name_belongs_to_one_certificate_and_each_has_one() {
        let told =
            |certificates: &[(&str, &[&str])]| server(certificates).err().map(|error| error.to_string());
        let both = told(&[("first", &["a.example"]), ("second", &["A.EXAMPLE"])]).unwrap();
        assert_eq!(both, "second: the name a.example is in first already");
        let star = told(&[("first", &["*.w.example"]), ("second", &["*.w.example"])]).unwrap();
        assert_eq!(star, "second: the name *.w.example is in first already");
        assert_eq!(told(&[("first", &["*.w.example"]), ("second", &["a.w.example"])]), None);
        let nameless = told(&[("first", &["a.example"]), ("second", &["192.0.2.1"])]).unwrap();
        assert!(nameless.starts_with("second: "), "{nameless}");
        assert_eq!(told(&[("first", &["192.0.2.1"]), ("second", &["a.example"])]), None);
    }

    #[test]
    fn host_and_name_agree() {
        let several = server(&[("first", &["a.example", "b.example"]), ("second", &["c.example"])]).unwrap();
        let alone = server(&[("only", &["a.example"])]).unwrap();
        for (server, sni, host, expected) in [
            (&several, Some("a.example"), "a.example", true),
            (&several, Some("a.example"), "A.Example", true),
            (&several, Some("a.example"), "b.example", true),
            (&several, Some("a.example"), "c.example", false),
            (&several, None, "b.example", true),
            (&several, None, "c.example", false),
            (&alone, Some("a.example"), "c.example", false),
            (&alone, Some("c.example"), "c.example", true),
            (&alone, Some("c.example"), "a.example", true),
            (&alone, None, "c.example", true),
        ] {
            let certificate = server.choose(sni).unwrap();
            assert_eq!(certificate.may_serve(sni, host), expected, "{sni:?} {host}");
        }
    }
}
