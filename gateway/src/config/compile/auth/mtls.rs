//! `kind = "mtls"`

use super::refuse_all_but;
use crate::config::{
    auth::{AuthKind, CertificateName},
    compile::edge::choose_or,
    raw::RawAuth,
    report::{Choice::Works, Report, Scope},
};

pub(super) fn compile(report: &mut Report, at: &Scope, raw: RawAuth) -> AuthKind {
    refuse_all_but(report, at, "mtls", &["consumer"], &raw);
    let names = [
        ("san_dns", Works(CertificateName::SanDns)),
        ("san_uri", Works(CertificateName::SanUri)),
        ("san_email", Works(CertificateName::SanEmail)),
        ("cn", Works(CertificateName::Cn)),
    ];
    AuthKind::Mtls(choose_or(report, at, "consumer", raw.consumer, &names, CertificateName::SanDns))
}
