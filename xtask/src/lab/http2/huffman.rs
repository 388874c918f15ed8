//! The Huffman code of HPACK: octets to bits and back. RFC 7541 §5.2 and Appendix B.
//!
//! The code is canonical: codes of one length are consecutive, in the order of their symbols. So two short tables
//! hold it: how many codes there are of each length, and the symbols in the order of their codes.

/// How many codes have so many bits; the last of 30 bits is the end of a string, which no string may hold.
const COUNTS: [u32; 31] =
    [0, 0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19, 29, 0, 4];

/// The octets in the order of their codes, shortest first.
const SYMBOLS: &[u8; 256] = b"012aceiost %-./3456789=A_bdfghlmnpru:BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz\
    &*,;XZ!\"()?'+|#>\x00$@[]~^}<`{\\\xc3\xd0\x80\x82\x83\xa2\xb8\xc2\xe0\xe2\x99\xa1\xa7\xac\xb0\xb1\
    \xb3\xd1\xd8\xd9\xe3\xe5\xe6\x81\x84\x85\x86\x88\x92\x9a\x9c\xa0\xa3\xa4\xa9\xaa\xad\xb2\xb5\xb9\
    \xba\xbb\xbd\xbe\xc4\xc6\xe4\xe8\xe9\x01\x87\x89\x8a\x8b\x8c\x8d\x8f\x93\x95\x96\x97\x98\x9b\x9d\
    \x9e\xa5\xa6\xa8\xae\xaf\xb4\xb6\xb7\xbc\xbf\xc5\xe7\xef\x09\x8e\x90\x91\x94\x9f\xab\xce\xd7\xe1\
    \xec\xed\xc7\xcf\xea\xeb\xc0\xc1\xc8\xc9\xca\xcd\xd2\xd5\xda\xdb\xee\xf0\xf2\xf3\xff\xcb\xcc\xd3\
    \xd4\xd6\xdd\xde\xdf\xf1\xf4\xf5\xf6\xf7\xf8\xfa\xfb\xfc\xfd\xfe\x02\x03\x04\x05\x06\x07\x08\x0b\
    \x0c\x0e\x0f\x10\x11\x12\x13\x14\x15\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x7f\xdc\xf9\x0a\x0d\x16";

/// The bits of `octets`, padded with ones.
pub(super) fn encode(octets: &[u8]) -> Vec<u8> {
    let mut bits: Vec<bool> = octets.iter().flat_map(|octet| code(*octet)).collect();
    bits.resize(bits.len().next_multiple_of(8), true);
    bits.chunks(8).map(|eight| eight.iter().fold(0, |octet, bit| octet << 1 | u8::from(*bit))).collect()
}

fn code(octet: u8) -> impl Iterator<Item = bool> {
    let place = SYMBOLS.iter().position(|symbol| *symbol == octet).unwrap_or_default();
    let (mut code, mut before) = (0, 0);
    let mut length = 0;
    for (bits, count) in (0_u32..).zip(COUNTS) {
        code <<= 1;
        let within = u32::try_from(place).unwrap_or_default() - before;
        if within < count {
            (code, length) = (code + within, bits);
            break;
        }
        (code, before) = (code + count, before + count);
    }
    (0..length).rev().map(move |bit| code >> bit & 1 == 1)
}

/// The octets that `bits` stand for; `None` when they hold the end of a string, or padding of a wrong kind.
pub(super) fn decode(bits: &[u8]) -> Option<Vec<u8>> {
    let mut octets = Vec::new();
    let (mut code, mut first, mut before, mut length) = (0_u32, 0_u32, 0_u32, 0_usize);
    for bit in bits.iter().flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1)) {
        (code, first, length) = (code << 1 | u32::from(bit), first << 1, length + 1);
        let count = *COUNTS.get(length)?;
        if code - first < count {
            octets.push(*SYMBOLS.get(usize::try_from(before + code - first).ok()?)?);
            (code, first, before, length) = (0, 0, 0, 0);
        } else {
            (first, before) = (first + count, before + count);
        }
    }
    // What is left is padding: fewer than eight bits, all of them ones.
    (length < 8 && code == (1 << length) - 1).then_some(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc_come_out() {
        // RFC 7541 Appendix C.4.1 and C.6.1.
        let cases: [(&[u8], &[u8]); 3] = [
            (b"www.example.com", b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"),
            (b"no-cache", b"\xa8\xeb\x10\x64\x9c\xbf"),
            (b"302", b"\x64\x02"),
        ];
        for (octets, bits) in cases {
            assert_eq!(encode(octets), bits);
            assert_eq!(decode(bits).unwrap(), octets);
        }
    }

    #[test]
    fn every_octet_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)).unwrap(), all);
        for octet in all {
            assert_eq!(decode(&encode(&[octet])).unwrap(), [octet]);
        }
    }

    #[test]
    fn wrong_padding_and_the_end_of_a_string_are_none() {
        assert_eq!(decode(b"\x64\x02\xff"), None, "eight bits of padding");
        assert_eq!(decode(b"\x00"), None, "padding of zeros");
        assert_eq!(decode(b"\xff\xff\xff\xff"), None, "the end of a string");
    }
}
