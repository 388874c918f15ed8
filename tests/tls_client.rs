//! A TLS client of which a test sees the handshake: what it was shown, what was agreed on, what was refused.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, NamedGroup, RootCertStore, StreamOwned,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
        Tls13ClientSessionValue,
    },
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::ServerName,
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::{
    pki::{Authority, Issued},
    support::TIME_MAX,
};

/// A connection under TLS.
pub(crate) type Secured = StreamOwned<ClientConnection, TcpStream>;

/// A client's settings: whom it trusts, what it shows, of which versions.
pub(crate) fn settings(
    trusted: &Authority,
    shown: Option<&Issued>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    match shown {
        Some(issued) => {
            let (chain, key) = issued.pair();
            // Nobody asks whether they belong together, as whoever has found a certificate somewhere does not.
            let shown = CertifiedKey::new(chain, any_supported_type(&key).unwrap());
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown)))
        }
        None => builder.with_no_client_auth(),
    }
}

/// Makes the handshake as one who asks for `name`; the error is the server's alert, or our own.
pub(crate) fn connect(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    name: &str,
) -> Result<Secured, io::Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(TIME_MAX))?;
    let mut stream = StreamOwned::new(ClientConnection::new(Arc::clone(config), name).unwrap(), tcp);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// One request for `/` of `host`; the status line. An alert that comes after the handshake is an error.
pub(crate) fn get(stream: &mut Secured, host: &str) -> Result<String, io::Error> {
    let head = ask(stream, &format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"))?;
    Ok(head.lines().next().unwrap_or_default().to_owned())
}

/// Sends a request; the head of its answer.
pub(crate) fn ask(stream: &mut Secured, request: &str) -> Result<String, io::Error> {
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        answer.push(byte[0]);
    }
    let head = String::from_utf8(answer).unwrap();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
    });
    stream.read_exact(&mut vec![0; length.unwrap_or(0)])?;
    Ok(head)
}

/// Offers every session to every server, whomever it was made with.
#[derive(Debug)]
pub(crate) struct Shameless(ClientSessionMemoryCache);

impl Shameless {
    /// Without a session so far.
    pub(crate) fn store() -> Resumption {
        Resumption::store(Arc::new(Self(ClientSessionMemoryCache::new(32))))
    }

    fn anybody() -> ServerName<'static> {
        ServerName::try_from("anybody.example").unwrap()
    }
}

impl ClientSessionStore for Shameless {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(Self::anybody(), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&Self::anybody())
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(Self::anybody(), value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&Self::anybody())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&Self::anybody());
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(Self::anybody(), value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&Self::anybody())
    }
}
