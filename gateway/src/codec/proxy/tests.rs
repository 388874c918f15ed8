use proptest::prelude::*;

use super::*;

fn ends(source: &str, destination: &str) -> Told {
    Told::Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

/// The answer to all of it, which no prefix may contradict: only the end of the header decides.
#[track_caller]
fn check(bytes: &[u8], expected: Result<Told, ProxyError>) {
    let followed = [bytes, b"GET / HTTP/1.1\r\n"].concat();
    let whole = proxy_header(&followed);
    assert_eq!(whole, expected.map(|told| Some((told, bytes.len()))), "{}", bytes.escape_ascii());
    for end in 0..bytes.len() {
        match proxy_header(&bytes[..end]) {
            Ok(None) => {}
            early => assert!(expected.is_err() && early == whole, "{end} bytes are {early:?}"),
        }
    }
}

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [V2_SIGNATURE, &[command, family], &length, block].concat()
}

const TCP4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0x30, 0x39, 1, 0xbb];

#[test]
fn version_1_is_one_line() {
    let told = ends("192.0.2.1:12345", "198.51.100.2:443");
    check(b"PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\r\n", Ok(told));
    let told = ends("[2001:db8::1]:1", "[2001:db8::2]:65535");
    check(b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n", Ok(told));
    check(b"PROXY UNKNOWN\r\n", Ok(Told::Nothing));
    check(b"PROXY UNKNOWN ffff::1 what ever\r\n", Ok(Told::Nothing));
}

#[test]
fn version_1_has_one_form() {
    for line in [
        &b"PROXY TCP4 192.0.2.1 198.51.100.2 12345\r\n"[..],
        b"PROXY TCP4 192.0.2.1 198.51.100.2 12345 443 1\r\n",
        b"PROXY TCP4  192.0.2.1 198.51.100.2 12345 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 12345 65536\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 +1 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 01 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 443 \r\n",
        b"PROXY TCP4 192.0.2.01 198.51.100.2 1 443\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 1 443\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.2 1 443\r\n",
        b"PROXY UDP4 192.0.2.1 198.51.100.2 1 443\r\n",
        b"PROXY \r\n",
        b"PROXY TCP4 \xff 198.51.100.2 1 443\r\n",
    ] {
        check(line, Err(ProxyError::Malformed));
    }
    for other in [&b"PROXX TCP4"[..], b"proxy TCP4", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"\r\n\r\nG"] {
        check(other, Err(ProxyError::Missing));
    }
}

#[test]
fn lengths_have_bounds() {
    let unknown = |bytes: usize| [&b"PROXY UNKNOWN "[..], &vec![b'x'; bytes - 16], b"\r\n"].concat();
    check(&unknown(V1_BYTES_MAX), Ok(Told::Nothing));
    assert_eq!(proxy_header(&unknown(V1_BYTES_MAX + 1)), Err(ProxyError::TooLong));
    let padded = |bytes: usize| v2(V2_LOCAL, 0, &vec![0; bytes - V2_FIXED_BYTES]);
    check(&padded(PROXY_HEADER_BYTES_MAX), Ok(Told::Nothing));
    assert_eq!(proxy_header(&padded(PROXY_HEADER_BYTES_MAX + 1)), Err(ProxyError::TooLong));
}

#[test]
fn version_2_has_addresses_and_what_follows_them_is_skipped() {
    let told = ends("192.0.2.1:12345", "198.51.100.2:443");
    check(&v2(V2_PROXY, V2_TCP4, &TCP4), Ok(told));
    check(&v2(V2_PROXY, V2_TCP4, &[&TCP4[..], &[3, 0, 1, 9]].concat()), Ok(told));
    let mut block = [0; 36];
    (block[15], block[31], block[33], block[35]) = (1, 2, 80, 81);
    check(&v2(V2_PROXY, V2_TCP6, &block), Ok(ends("[::1]:80", "[::2]:81")));
    check(&v2(V2_LOCAL, V2_TCP4, &TCP4), Ok(Told::Nothing));
    check(&v2(V2_LOCAL, 0, &[]), Ok(Told::Nothing));
    check(&v2(V2_PROXY, 0, &[]), Ok(Told::Nothing));
    check(&v2(V2_PROXY, 0x31, &[0; 216]), Ok(Told::Nothing));
}

#[test]
fn version_2_that_is_none_is_refused() {
    check(&v2(V2_PROXY, V2_TCP4, &TCP4[..11]), Err(ProxyError::Malformed));
    check(&v2(V2_PROXY, V2_TCP6, &TCP4), Err(ProxyError::Malformed));
    check(&v2(0x22, V2_TCP4, &TCP4), Err(ProxyError::Unknown));
    check(&v2(0x11, V2_TCP4, &TCP4), Err(ProxyError::Unknown));
}

#[track_caller]
fn check_sent(version: ProxyVersion, told: Told, expected: Told) {
    let mut header = Vec::new();
    write_proxy_header(&mut header, version, &told);
    check(&header, Ok(expected));
}

#[test]
fn what_is_sent_is_what_is_read() {
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        check_sent(version, Told::Nothing, Told::Nothing);
        let told = ends("192.0.2.1:1", "198.51.100.2:443");
        check_sent(version, told, told);
        check_sent(version, ends("[::ffff:192.0.2.1]:1", "198.51.100.2:443"), told);
        let told = ends("[2001:db8::1]:1", "[::ffff:198.51.100.2]:443");
        check_sent(version, ends("[2001:db8::1]:1", "198.51.100.2:443"), told);
    }
}

proptest! {
    #[test]
    fn any_bytes_give_one_answer_however_they_come(
        start in prop::sample::select(vec![&b""[..], V1_SIGNATURE, b"PROXY TCP4 1.2.3.4 ", V2_SIGNATURE]),
        rest in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let bytes = [start, &rest].concat();
        let whole = proxy_header(&bytes);
        for end in 0..bytes.len() {
            let early = proxy_header(&bytes[..end]);
            prop_assert!(early == Ok(None) || early == whole, "{end}: {early:?}, then {whole:?}");
        }
        if let Ok(Some((_, header_bytes))) = whole {
            prop_assert!(header_bytes <= bytes.len().min(PROXY_HEADER_BYTES_MAX));
        }
    }
}
