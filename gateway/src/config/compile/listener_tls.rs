//! `[listeners.*.tls]`: certificates, and who may show one.

use toml::Spanned;

use super::{edge::choose_or, pem};
use crate::config::{
    files,
    raw::{Field, RawCertificate, RawTls},
    report::{Choice::Works, Report, Scope},
    types::{ClientAuth, Protocols, Tls},
    values::OrOff,
};

/// `client_auth`
#[derive(Debug, Clone, Copy, PartialEq)]
enum Clients {
    Off,
    Optional,
    Required,
}

pub(super) fn tls(
    report: &mut Report,
    at: &Scope,
    value: Spanned<OrOff<RawTls>>,
    protocols: Protocols,
) -> Option<Tls> {
    let at = at.inner("tls", &value);
    let raw = match value.into_inner() {
        OrOff::Off => return None,
        OrOff::On(raw) => raw,
    };
    let clients = clients(report, &at, raw.client_auth, raw.client_ca_file, raw.client_crl_file);
    let versions = [("1.2", Works(true)), ("1.3", Works(false))];
    let tls12 = choose_or(report, &at, "min_version", raw.min_version, &versions, true);
    let empty = raw.certificates.as_ref().is_none_or(|list| list.get_ref().is_empty());
    if empty {
        report.missing(&at, "certificates", "[{ chain_file = \"api.crt\", key_file = \"api.key\" }]");
    }
    let list = raw.certificates.map(Spanned::into_inner).unwrap_or_default();
    let certificates = list.into_iter().enumerate().filter_map(|(i, raw)| {
        let at = at.inner(&format!("certificates[{i}]"), &raw);
        let RawCertificate { chain_file, key_file } = raw.into_inner();
        pem::certificate(report, &at, ("chain_file", chain_file), ("key_file", key_file))
    });
    Some(Tls { protocols, tls12, certificates: certificates.collect(), clients })
}

fn clients(
    report: &mut Report,
    at: &Scope,
    word: Field<String>,
    authorities: Field<String>,
    revoked: Field<String>,
) -> Option<ClientAuth> {
    let words = [
        ("off", Works(Clients::Off)),
        ("optional", Works(Clients::Optional)),
        ("required", Works(Clients::Required)),
    ];
    let asked = choose_or(report, at, "client_auth", word, &words, Clients::Off);
    let path =
        |file: &Field<String>| file.as_ref().map(|file| report.resolve_path(at.source, file.get_ref()));
    let (authorities_file, revoked_file) = (path(&authorities), path(&revoked));
    let was_named = authorities.is_some();
    let authorities = pem::read(report, at, authorities, &pem::AUTHORITIES);
    let revoked = pem::read(report, at, revoked, &pem::REVOKED);
    if asked == Clients::Off {
        return None;
    }
    if !was_named {
        report.missing(at, "client_ca_file", "\"clients.pem\"");
    }
    Some(ClientAuth {
        required: asked == Clients::Required,
        authorities: files::certificates(&authorities?)?,
        revoked: revoked.and_then(|pem| files::revocation_lists(&pem)).unwrap_or_default(),
        authorities_file: authorities_file?,
        revoked_file,
    })
}
