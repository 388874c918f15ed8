//! `X-Forwarded-For` and `Forwarded`, a field per line: only what trusted proxies wrote is believed, and what stands in
//! front of it changes nothing.
#![no_main]

use std::{iter::empty, net::IpAddr};

use ipnet::IpNet;
use portcullis::decide::source::source_of;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let fields: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
    holds(&fields, b"198.51.100.9, 10.1.1.1", |peer, trusted, fields| {
        source_of(peer, trusted, fields.iter().copied(), empty())
    });
    holds(&fields, b"for=198.51.100.9, for=10.1.1.1", |peer, trusted, fields| {
        source_of(peer, trusted, empty(), fields.iter().copied())
    });
});

/// `claim` is what a client says of itself.
fn holds(fields: &[&[u8]], claim: &[u8], source_of: fn(IpAddr, &[IpNet], &[&[u8]]) -> (IpAddr, bool)) {
    let trusted: [IpNet; 2] =
        ["10.0.0.0/8".parse().expect("a prefix"), "2001:db8:f::/48".parse().expect("a prefix")];
    let is_trusted = |address: IpAddr| trusted.iter().any(|prefix| prefix.contains(&address));
    let proxy: IpAddr = "10.0.0.1".parse().expect("an address");
    let stranger: IpAddr = "203.0.113.1".parse().expect("an address");

    assert_eq!(source_of(stranger, &trusted, fields), (stranger, false));
    let (source, is_forwarded) = source_of(proxy, &trusted, fields);
    if is_forwarded {
        assert!(!is_trusted(source) && source == source.to_canonical(), "{source}");
        let claimed: Vec<&[u8]> = std::iter::once(claim).chain(fields.iter().copied()).collect();
        assert_eq!(
            source_of(proxy, &trusted, &claimed),
            (source, true),
            "the client's own claim is not believed"
        );
    } else {
        assert_eq!(source, proxy);
    }
}
