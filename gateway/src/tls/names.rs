//! What a certificate is for: the names and addresses among its subject's alternative names. The common name counts
//! for nothing (RFC 9525 §2).

use std::{cmp::Ordering, net::IpAddr};

use rustls::{
    client::verify_server_name,
    pki_types::{CertificateDer, ServerName},
    server::ParsedCertificate,
};
use webpki::EndEntityCert;

/// The names of one certificate.
#[derive(Debug)]
pub(super) struct Names {
    /// Lower case, sorted.
    exact: Box<[Box<str>]>,
    /// What stands behind `*.`; lower case, sorted.
    wildcard: Box<[Box<str>]>,
    leaf: CertificateDer<'static>,
}

impl Names {
    /// Those of `leaf`; an error says why it is no certificate.
    pub(super) fn of(leaf: &CertificateDer<'static>) -> Result<Self, webpki::Error> {
        let parsed = EndEntityCert::try_from(leaf)?;
        let mut names: Vec<String> = parsed.valid_dns_names().map(str::to_ascii_lowercase).collect();
        names.sort_unstable();
        names.dedup();
        let (wildcard, exact): (Vec<&str>, Vec<&str>) =
            names.iter().map(String::as_str).partition(|name| name.starts_with("*."));
        Ok(Self {
            exact: exact.into_iter().map(Box::from).collect(),
            wildcard: wildcard.into_iter().filter_map(|name| name.get(2..)).map(Box::from).collect(),
            leaf: leaf.clone(),
        })
    }

    /// Names without a `*`.
    pub(super) fn exact(&self) -> &[Box<str>] {
        &self.exact
    }

    /// What stands behind `*.`
    pub(super) fn wildcard(&self) -> &[Box<str>] {
        &self.wildcard
    }

    /// Whether the certificate may speak for `host`: a name without a port, or an address (IPv6 in brackets). A `*`
    /// stands for exactly one label.
    pub(super) fn covers(&self, host: &str) -> bool {
        let is_one = |names: &[Box<str>], name: &str| {
            names.binary_search_by(|known| compare_ignoring_case(known, name)).is_ok()
        };
        is_one(&self.exact, host)
            || host.split_once('.').is_some_and(|(_, parent)| is_one(&self.wildcard, parent))
            || self.covers_address(host)
    }

    /// Hosts that are addresses are rare: the certificate is read again.
    fn covers_address(&self, host: &str) -> bool {
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let Ok(address) = literal.parse::<IpAddr>() else { return false };
        ParsedCertificate::try_from(&self.leaf)
            .is_ok_and(|leaf| verify_server_name(&leaf, &ServerName::from(address)).is_ok())
    }
}

/// Orders `known`, which is in lower case, against a name in any case.
fn compare_ignoring_case(known: &str, name: &str) -> Ordering {
    known.bytes().cmp(name.bytes().map(|byte| byte.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(subject: &[&str]) -> Names {
        let names: Vec<String> = subject.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        Names::of(made.cert.der()).unwrap()
    }

    #[test]
    fn a_star_stands_for_one_label_and_an_address_for_itself() {
        let names = names(&["b.example", "A.example", "*.c.example", "192.0.2.1", "2001:db8::1"]);
        for (host, covered) in [
            ("a.example", true),
            ("A.EXAMPLE", true),
            ("b.example", true),
            ("c.example", false),
            ("x.c.example", true),
            ("X.C.Example", true),
            ("x.y.c.example", false),
            (".c.example", true),
            ("xa.example", false),
            ("", false),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("[2001:db8::1]", true),
            ("[2001:db8::2]", false),
            ("*.c.example", true),
        ] {
            assert_eq!(names.covers(host), covered, "{host}");
        }
    }
}
