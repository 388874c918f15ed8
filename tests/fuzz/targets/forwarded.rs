//! `X-Forwarded-For`, a field per line: only what trusted proxies wrote is believed, and what stands in front of it
//! changes nothing.
#![no_main]

use std::net::IpAddr;

use ipnet::IpNet;
use portcullis::decide::source::source_of;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let trusted: [IpNet; 2] =
        ["10.0.0.0/8".parse().expect("a prefix"), "2001:db8:f::/48".parse().expect("a prefix")];
    let is_trusted = |address: IpAddr| trusted.iter().any(|prefix| prefix.contains(&address));
    let proxy: IpAddr = "10.0.0.1".parse().expect("an address");
    let stranger: IpAddr = "203.0.113.1".parse().expect("an address");
    let fields = || bytes.split(|&byte| byte == b'\n');

    assert_eq!(source_of(stranger, &trusted, fields()), (stranger, false));
    let (source, is_forwarded) = source_of(proxy, &trusted, fields());
    if is_forwarded {
        assert!(!is_trusted(source) && source == source.to_canonical(), "{source}");
        let claimed = std::iter::once(&b"198.51.100.9, 10.1.1.1"[..]).chain(fields());
        assert_eq!(
            source_of(proxy, &trusted, claimed),
            (source, true),
            "the client's own claim is not believed"
        );
    } else {
        assert_eq!(source, proxy);
    }
});
