//! What an upstream's servers must show us, and what we show them. A server is always verified: there is no setting
//! that leaves it out.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::aws_lc_rs::default_provider,
    pki_types::{InvalidDnsNameError, ServerName},
    version::{TLS12, TLS13},
};

use thiserror::Error;

use super::{TlsError, parse, unusable};
use crate::config::{Config, ServerAddress, Upstream, UpstreamProtocol, UpstreamTls};

/// HTTP/1.1, for [`Client::compile`].
pub const ALPN_HTTP1: &[u8] = b"http/1.1";
/// HTTP/2.
pub const ALPN_HTTP2: &[u8] = b"h2";

/// Server names whose sessions a worker keeps per upstream, for resumption.
const RESUMPTION_NAMES_MAX: usize = 64;

/// An upstream's TLS that is of no use.
#[derive(Debug, Error)]
#[error("upstreams.{0}.tls: {1}")]
pub struct UpstreamTlsError(Arc<str>, TlsError);

/// The TLS of every upstream, in their order.
pub fn upstreams(config: &Config) -> Result<Box<[Option<Client>]>, UpstreamTlsError> {
    let of_one = |upstream: &Upstream| {
        let alpn = match upstream.protocol {
            UpstreamProtocol::Http1 => ALPN_HTTP1,
            UpstreamProtocol::Http2 => ALPN_HTTP2,
        };
        let compiled = upstream.tls.as_ref().map(|tls| Client::compile(tls, &[alpn])).transpose();
        compiled.map_err(|error| UpstreamTlsError(Arc::clone(&upstream.name), error))
    };
    config.upstreams.iter().map(of_one).collect()
}

/// An upstream's TLS, ready to connect with.
#[derive(Clone)]
pub struct Client {
    config: Arc<ClientConfig>,
    /// Instead of the server's own name.
    server_name: Option<ServerName<'static>>,
}

impl Client {
    /// From checked settings. `alpn` is offered, best first.
    pub fn compile(tls: &UpstreamTls, alpn: &[&[u8]]) -> Result<Self, TlsError> {
        let mut authorities = RootCertStore::empty();
        if tls.authorities_are_the_systems {
            // Some systems carry certificates that nobody can use any more.
            authorities.add_parsable_certificates(tls.authorities.iter().cloned());
        } else {
            for authority in tls.authorities.iter() {
                authorities.add(authority.clone()).map_err(TlsError::Authority)?;
            }
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(TlsError::Settings)?
            .with_root_certificates(authorities);
        let mut config = match &tls.client {
            Some(certificate) => {
                let (chain, key) = parse(certificate)?;
                builder.with_client_auth_cert(chain, key).map_err(unusable(certificate))?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Self { config: Arc::new(config), server_name: tls.server_name.clone() })
    }

    /// The same with a session store of its own, so that no two workers wait for each other's handshakes.
    #[must_use]
    pub fn for_one_worker(&self) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::in_memory_sessions(RESUMPTION_NAMES_MAX);
        Self { config: Arc::new(config), server_name: self.server_name.clone() }
    }

    /// The settings, for a connection.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// Whether HTTP/2 is what the server has to agree to.
    pub fn speaks_http2(&self) -> bool {
        self.config.alpn_protocols.iter().any(|protocol| protocol == ALPN_HTTP2)
    }

    /// What the certificate of a server has to name. An address is looked for among the certificate's addresses, and
    /// not sent as SNI (RFC 6066 §3).
    pub fn name_of(&self, server: &ServerAddress) -> Result<ServerName<'static>, InvalidDnsNameError> {
        match (&self.server_name, server) {
            (Some(name), _) => Ok(name.clone()),
            (None, ServerAddress::Fixed(address)) => Ok(address.ip().into()),
            (None, ServerAddress::Named(name, _)) => ServerName::try_from(name.to_string()),
        }
    }
}
