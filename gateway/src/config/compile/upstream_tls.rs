//! `[upstreams.*.tls]`: who may vouch for a server, what it has to be called, and what we show it.

use std::{cell::OnceCell, sync::Arc};

use rustls::pki_types::{CertificateDer, ServerName};
use toml::Spanned;

use super::pem;
use crate::config::{
    files,
    raw::RawUpstreamTls,
    report::{Report, Scope},
    types::UpstreamTls,
    values::OrOff,
};

/// The system's authorities, read once per configuration, and only where an upstream needs them.
#[derive(Default)]
pub(super) struct Authorities(OnceCell<Result<Arc<[CertificateDer<'static>]>, String>>);

impl Authorities {
    pub(super) fn of_the_system(&self) -> Result<Arc<[CertificateDer<'static>]>, String> {
        self.0.get_or_init(read_system).clone()
    }

    /// What a server has to show that they vouch for under its own name.
    pub(super) fn vouch_for_servers(&self) -> Result<UpstreamTls, String> {
        let authorities = self.of_the_system()?;
        Ok(UpstreamTls { authorities, authorities_are_the_systems: true, server_name: None, client: None })
    }
}

fn read_system() -> Result<Arc<[CertificateDer<'static>]>, String> {
    let found = rustls_native_certs::load_native_certs();
    if !found.certs.is_empty() {
        return Ok(found.certs.into());
    }
    let why = found.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
    Err(format!(
        "this system has no certificate authorities{why}: install ca-certificates, or name a `ca_file`"
    ))
}

pub(super) fn tls(
    report: &mut Report,
    at: &Scope,
    value: Spanned<OrOff<RawUpstreamTls>>,
    authorities: &Authorities,
) -> Option<UpstreamTls> {
    let at = at.inner("tls", &value);
    let OrOff::On(raw) = value.into_inner() else { return None };
    let from_system = raw.ca_file.is_none();
    let authorities = match raw.ca_file {
        Some(file) => {
            let pem = pem::read(report, &at, Some(file), &pem::AUTHORITIES);
            pem.and_then(|pem| files::certificates(&pem)).map(Arc::from)
        }
        None => match authorities.of_the_system() {
            Ok(authorities) => Some(authorities),
            Err(problem) => {
                report.error(at.here(), problem);
                None
            }
        },
    };
    let server_name = raw.server_name.and_then(|name| server_name(report, &at, &name));
    let client = (raw.client_chain_file.is_some() || raw.client_key_file.is_some()).then(|| {
        let chain = ("client_chain_file", raw.client_chain_file);
        pem::certificate(report, &at, chain, ("client_key_file", raw.client_key_file))
    });
    Some(UpstreamTls {
        authorities: authorities?,
        authorities_are_the_systems: from_system,
        server_name,
        client: client.flatten(),
    })
}

fn server_name(report: &mut Report, at: &Scope, name: &Spanned<String>) -> Option<ServerName<'static>> {
    let parsed = ServerName::try_from(name.get_ref().clone());
    if parsed.is_err() {
        let message =
            format!("`{}.server_name` is {:?}, neither a host name nor an address", at.path, name.get_ref());
        report.error(at.at(name), message);
    }
    parsed.ok()
}
