//! `upstreams.*.servers`: addresses, names and weights.

use std::net::SocketAddr;

use toml::Spanned;

use crate::config::{
    raw::{Field, RawServer},
    report::{Report, Scope},
    types::{Server, ServerAddress},
    values::TextOr,
};

/// A weight repeats a server in a table.
const WEIGHT_MAX: u32 = 256;

/// RFC 1035 §2.3.4
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

pub(super) fn servers(
    report: &mut Report,
    at: &Scope,
    list: Field<Vec<Spanned<TextOr<RawServer>>>>,
) -> Vec<Server> {
    if list.as_ref().is_none_or(|list| list.get_ref().is_empty()) {
        report.missing(at, "servers", "[\"192.0.2.10:8080\"]");
    }
    let mut servers: Vec<Server> = Vec::new();
    for (i, value) in list.map(Spanned::into_inner).unwrap_or_default().into_iter().enumerate() {
        let span = value.span();
        let inner = at.inner(&format!("servers[{i}]"), &value);
        let (address, weight) = match value.into_inner() {
            TextOr::Text(address) => (Some(Spanned::new(span, address)), 1),
            TextOr::More(raw) => {
                let weight = report.number_u32(&inner, "weight", raw.weight.as_ref(), 1, 1..=WEIGHT_MAX);
                (raw.address, weight)
            }
        };
        let Some(address) = address else {
            report.missing(&inner, "address", "\"192.0.2.10:8080\"");
            continue;
        };
        match server_address(address.get_ref()) {
            Ok(parsed) if servers.iter().any(|s| s.address == parsed) => {
                report.error(at.at(&address), format!("`{}` names the server {parsed} twice", at.path));
            }
            Ok(parsed) => servers.push(Server { address: parsed, weight }),
            Err(problem) => {
                report.error(
                    at.at(&address),
                    format!("`{}` is {:?}: {problem}", inner.path, address.get_ref()),
                );
            }
        }
    }
    servers
}

pub(in crate::config) fn server_address(text: &str) -> Result<ServerAddress, &'static str> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        let usable = address.port() != 0 && !address.ip().is_unspecified();
        return usable.then_some(ServerAddress::Fixed(address)).ok_or("nothing can be reached there");
    }
    if text.contains("://") {
        return Err(
            "write an address and a port only, such as \"192.0.2.10:8080\" or \"orders.internal:8080\"",
        );
    }
    let Some((name, port)) = text.rsplit_once(':').filter(|(name, _)| is_name(name)) else {
        return Err(
            "write an address and a port, such as \"192.0.2.10:8080\", \"[2001:db8::10]:8080\" or \"orders.internal:8080\"",
        );
    };
    match port.parse::<u16>() {
        // The dot that ends a full name is no part of it anywhere else.
        Ok(port) if port != 0 => {
            Ok(ServerAddress::Named(name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase().into(), port))
        }
        _ => Err("its port is not 1 to 65535"),
    }
}

/// Labels of letters, digits, `-` and `_`, and a last one that is no number: `192.0.2.300` is a slip, not a name.
fn is_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= NAME_BYTES_MAX && text.split('.').all(is_label) && !last.bytes().all(|b| b.is_ascii_digit())
}
