//! Header blocks: single representations to put together at will, and a decoder for what a peer sends. RFC 7541.
//!
//! Comes in: names and values as octets, whether or not HTTP allows them. Goes out: a block, octet for octet as
//! asked. The decoder forgives nothing.

use std::collections::VecDeque;

use super::huffman;

/// A name and a value.
pub type Field = (Vec<u8>, Vec<u8>);

/// RFC 7541 Appendix A, from index 1 on.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];
/// What an entry of the dynamic table counts beside its octets: RFC 7541 §4.1.
const ENTRY_BYTES: usize = 32;
/// `SETTINGS_HEADER_TABLE_SIZE` until somebody says otherwise: RFC 9113 §6.5.2.
const TABLE_BYTES: usize = 4096;

/// How a literal is to be remembered: RFC 7541 §6.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Indexing {
    /// It enters the dynamic table.
    Incremental,
    /// It does not.
    Without,
    /// Nor may anybody put it into one.
    Never,
}

impl Indexing {
    /// The pattern of the first octet, and how many bits it leaves to the index.
    fn pattern(self) -> (u8, u32) {
        match self {
            Self::Incremental => (0x40, 6),
            Self::Without => (0x00, 4),
            Self::Never => (0x10, 4),
        }
    }
}

/// All of `fields` as literals that nobody remembers, without Huffman coding.
pub fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(Indexing::Without, name, value)).collect()
}

/// A literal with a new name, without Huffman coding.
pub fn literal(indexing: Indexing, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    [vec![indexing.pattern().0], plain(name), plain(value)].concat()
}

/// The same with Huffman coding.
pub fn literal_huffman(indexing: Indexing, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    [vec![indexing.pattern().0], coded(name), coded(value)].concat()
}

/// A literal whose name stands in a table.
pub fn literal_named(indexing: Indexing, index: usize, value: impl AsRef<[u8]>) -> Vec<u8> {
    let (pattern, bits) = indexing.pattern();
    [integer(pattern, bits, index), plain(value)].concat()
}

/// An entry of a table: RFC 7541 §6.1.
pub fn indexed(index: usize) -> Vec<u8> {
    integer(0x80, 7, index)
}

/// A new size of the dynamic table: RFC 7541 §6.3.
pub fn table_size(bytes: usize) -> Vec<u8> {
    integer(0x20, 5, bytes)
}

/// RFC 7541 §5.1: `value` behind a pattern that leaves it so many bits.
pub fn integer(pattern: u8, bits: u32, value: usize) -> Vec<u8> {
    let max = (1_usize << bits) - 1;
    let octet = |value: usize| u8::try_from(value & 0xff).unwrap_or_default();
    if value < max {
        return vec![pattern | octet(value)];
    }
    let (mut octets, mut rest) = (vec![pattern | octet(max)], value - max);
    while rest >= 0x80 {
        octets.push(octet(rest & 0x7f) | 0x80);
        rest >>= 7;
    }
    octets.push(octet(rest));
    octets
}

fn plain(string: impl AsRef<[u8]>) -> Vec<u8> {
    let string = string.as_ref();
    [&integer(0, 7, string.len()), string].concat()
}

fn coded(string: impl AsRef<[u8]>) -> Vec<u8> {
    let bits = huffman::encode(string.as_ref());
    [integer(0x80, 7, bits.len()), bits].concat()
}

/// The peer's header blocks, in the order in which they come.
#[derive(Debug)]
pub struct Decoder {
    /// The newest first.
    entries: VecDeque<Field>,
    size_bytes: usize,
    size_bytes_max: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { entries: VecDeque::new(), size_bytes: 0, size_bytes_max: TABLE_BYTES }
    }
}

impl Decoder {
    /// The fields of a block; the error says what was wrong with it.
    pub fn decode(&mut self, block: &[u8]) -> Result<Vec<Field>, &'static str> {
        let (mut rest, mut fields) = (block, Vec::new());
        while let Some(first) = rest.first().copied() {
            if first & 0x80 != 0 {
                fields.push(self.entry(take_integer(&mut rest, 7)?)?);
            } else if first & 0xe0 == 0x20 {
                if !fields.is_empty() {
                    return Err("a table size behind a field");
                }
                self.size_bytes_max = take_integer(&mut rest, 5)?;
                if self.size_bytes_max > TABLE_BYTES {
                    return Err("a table larger than allowed");
                }
                self.evict();
            } else {
                let is_remembered = first & 0x40 != 0;
                let index = take_integer(&mut rest, if is_remembered { 6 } else { 4 })?;
                let name = if index == 0 { take_string(&mut rest)? } else { self.entry(index)?.0 };
                let field = (name, take_string(&mut rest)?);
                if is_remembered {
                    self.remember(field.clone());
                }
                fields.push(field);
            }
        }
        Ok(fields)
    }

    fn entry(&self, index: usize) -> Result<Field, &'static str> {
        if let Some((name, value)) = index.checked_sub(1).and_then(|place| STATIC.get(place)) {
            return Ok(((*name).into(), (*value).into()));
        }
        let place = index.checked_sub(STATIC.len() + 1);
        place.and_then(|place| self.entries.get(place)).cloned().ok_or("an index of no entry")
    }

    fn remember(&mut self, field: Field) {
        self.size_bytes += entry_bytes(&field);
        self.entries.push_front(field);
        self.evict();
    }

    fn evict(&mut self) {
        while self.size_bytes > self.size_bytes_max {
            let Some(oldest) = self.entries.pop_back() else { return };
            self.size_bytes -= entry_bytes(&oldest);
        }
    }
}

fn entry_bytes((name, value): &Field) -> usize {
    name.len() + value.len() + ENTRY_BYTES
}

fn take_octet(rest: &mut &[u8]) -> Result<u8, &'static str> {
    let (first, behind) = rest.split_first().ok_or("it ends in the middle")?;
    *rest = behind;
    Ok(*first)
}

fn take_integer(rest: &mut &[u8], bits: u32) -> Result<usize, &'static str> {
    let max = (1 << bits) - 1;
    let mut value = usize::from(take_octet(rest)?) & max;
    if value < max {
        return Ok(value);
    }
    // Three more octets hold whatever a table or a string may measure.
    for shift in [0, 7, 14, 21] {
        let octet = take_octet(rest)?;
        value += usize::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("an integer out of bounds")
}

fn take_string(rest: &mut &[u8]) -> Result<Vec<u8>, &'static str> {
    let is_coded = rest.first().is_some_and(|octet| octet & 0x80 != 0);
    let length = take_integer(rest, 7)?;
    let (string, behind) = rest.split_at_checked(length).ok_or("it ends in a string")?;
    *rest = behind;
    if is_coded { huffman::decode(string).ok_or("no Huffman code") } else { Ok(string.to_vec()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(fields: &[(&str, &str)]) -> Vec<Field> {
        fields.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn responses_of_the_rfc_are_read_with_a_table_that_evicts() {
        // RFC 7541 Appendix C.6 has a table of 256 octets.
        let mut decoder = Decoder { size_bytes_max: 256, ..Decoder::default() };
        let first =
            b"\x48\x82\x64\x02\x58\x85\xae\xc3\x77\x1a\x4b\x61\x96\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\
            \x20\x05\x95\x04\x0b\x81\x66\xe0\x82\xa6\x2d\x1b\xff\x6e\x91\x9d\x29\xad\x17\x18\x63\xc7\x8f\x0b\
            \x97\xc8\xe9\xae\x82\xae\x43\xd3";
        let expected = [
            (":status", "302"),
            ("cache-control", "private"),
            ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
            ("location", "https://www.example.com"),
        ];
        assert_eq!(decoder.decode(first).unwrap(), fields(&expected));
        assert_eq!(decoder.size_bytes, 222);
        let expected = [&[(":status", "307")], &expected[1..]].concat();
        assert_eq!(decoder.decode(b"\x48\x83\x64\x0e\xff\xc1\xc0\xbf").unwrap(), fields(&expected));
        assert_eq!((decoder.size_bytes, decoder.entries.len()), (222, 4));
    }

    #[test]
    fn what_is_put_together_comes_back() {
        let mut decoder = Decoder::default();
        let block = [
            table_size(100),
            table_size(4096),
            indexed(2),
            literal(Indexing::Incremental, "x-a", "1"),
            literal_huffman(Indexing::Never, "x-b", "two"),
            literal_named(Indexing::Without, 58, "curl"),
            indexed(62),
            literal(Indexing::Without, "long", vec![b'x'; 3000]),
        ]
        .concat();
        let long = "x".repeat(3000);
        let expected = [
            (":method", "GET"),
            ("x-a", "1"),
            ("x-b", "two"),
            ("user-agent", "curl"),
            ("x-a", "1"),
            ("long", &long),
        ];
        assert_eq!(decoder.decode(&block).unwrap(), fields(&expected));
    }

    #[test]
    fn integers_are_those_of_the_rfc() {
        // RFC 7541 Appendix C.1.
        assert_eq!(integer(0, 5, 10), [0b0_1010]);
        assert_eq!(integer(0, 5, 1337), [0b1_1111, 0b1001_1010, 0b0000_1010]);
        assert_eq!(integer(0, 8, 42), [0b0010_1010]);
    }

    #[test]
    fn what_is_no_block_is_refused() {
        let mut decoder = Decoder::default();
        let blocks: [&[u8]; 7] = [
            b"\x80",
            b"\xbe",
            b"\x40",
            b"\x00\x05abc",
            b"\x82\x20",
            b"\x3f\xe2\x1f",
            b"\xff\xff\xff\xff\xff\xff\x01",
        ];
        for block in blocks {
            assert!(decoder.decode(block).is_err(), "{}", block.escape_ascii());
        }
    }
}
