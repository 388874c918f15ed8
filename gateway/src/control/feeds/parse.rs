//! A list's bytes in, ranges out. Pure.
//!
//! One entry a line: an address, a prefix or a range `a-b`, of IPv4 or IPv6; behind `;` or `#` a comment. So are
//! written Spamhaus DROP, the netsets of `FireHOL` and what people keep by hand. A line that begins with `{` is one of
//! Spamhaus's JSON: `cidr`, or the `metadata` that say how many entries there are, which a list that was cut off
//! contradicts. A list with one bad line is bad: half of it would be worse than the one before.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use serde::Deserialize;

use crate::nic::Ranges;

/// The largest file that is read; two million entries of the longest kind fit.
pub const FILE_BYTES_MAX: u64 = 128 << 20;
/// The most entries that one feed may have.
pub const ENTRIES_MAX: usize = 1 << 21;
/// The longest line.
pub const LINE_BYTES_MAX: usize = 4096;
/// So many bad lines are told.
const MISTAKES_MAX: usize = 3;
/// A single entry wider than this is a mistake, not a block list: an eighth of IPv4, or all of IPv6's unicast.
const ADDRESSES4_MAX: u64 = 1 << 29;
const ADDRESSES6_LOG2_MAX: u32 = 125;

/// What a list holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parsed {
    /// Its entries, merged.
    pub ranges: Ranges,
    /// How many entries it has.
    pub entries: usize,
}

/// Why a list is of no use: the first bad lines, each with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError(Vec<String>);

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for ParseError {}

/// Reads a whole list.
pub fn parse(bytes: &[u8]) -> Result<Parsed, ParseError> {
    let mut list = Reading::default();
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    for (number, line) in (1_u64..).zip(bytes.split(|byte| *byte == b'\n')) {
        if let Err(problem) = list.line(line) {
            list.mistakes.push(format!("line {number}: {problem}"));
            if list.mistakes.len() == MISTAKES_MAX {
                break;
            }
        }
        if list.entries > ENTRIES_MAX {
            list.mistakes.push(format!("line {number}: more than {ENTRIES_MAX} entries"));
            break;
        }
    }
    if let Some(told) = list.told
        && told != list.entries
        && list.mistakes.is_empty()
    {
        let mistake = format!("it says that it has {told} entries, and has {}", list.entries);
        list.mistakes.push(mistake);
    }
    if !list.mistakes.is_empty() {
        return Err(ParseError(list.mistakes));
    }
    Ok(Parsed { ranges: Ranges::new(list.v4, list.v6), entries: list.entries })
}

#[derive(Default)]
struct Reading {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
    entries: usize,
    /// How many entries the list itself says that it has.
    told: Option<usize>,
    mistakes: Vec<String>,
}

/// A line of Spamhaus's JSON; it has more members.
#[derive(Deserialize)]
struct JsonLine<'l> {
    #[serde(borrow)]
    cidr: Option<&'l str>,
    #[serde(borrow, rename = "type")]
    kind: Option<&'l str>,
    records: Option<usize>,
}

impl Reading {
    fn line(&mut self, line: &[u8]) -> Result<(), String> {
        if line.len() > LINE_BYTES_MAX {
            return Err(format!("it is longer than {LINE_BYTES_MAX} bytes"));
        }
        if line.trim_ascii_start().starts_with(b"{") {
            return self.json(line);
        }
        // A comment may be in any encoding.
        let entry = line.split(|byte| matches!(byte, b'#' | b';')).next().unwrap_or_default().trim_ascii();
        if entry.is_empty() {
            return Ok(());
        }
        let entry = str::from_utf8(entry).map_err(|_| "it is not text".to_owned())?;
        self.entry(entry)
    }

    fn json(&mut self, line: &[u8]) -> Result<(), String> {
        let line: JsonLine<'_> =
            serde_json::from_slice(line).map_err(|error| format!("it is not the JSON of a list: {error}"))?;
        match (line.cidr, line.kind) {
            (Some(cidr), _) => self.entry(cidr),
            (None, Some("metadata")) => {
                self.told = line.records.or(self.told);
                Ok(())
            }
            (None, _) => Err("it has neither `cidr` nor the type `metadata`".to_owned()),
        }
    }

    fn entry(&mut self, entry: &str) -> Result<(), String> {
        let (first, last) = range(entry).ok_or_else(|| {
            format!("{:?} is no address, prefix or range", entry.chars().take(60).collect::<String>())
        })?;
        self.entries += 1;
        match (first.to_canonical(), last.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                let (first, last) = (first.to_bits(), last.to_bits());
                if u64::from(last) - u64::from(first) >= ADDRESSES4_MAX {
                    return Err(format!("{entry:?} is more than an eighth of all addresses"));
                }
                self.v4.push((first, last));
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                let (first, last) = (first.to_bits(), last.to_bits());
                if (last - first) >> ADDRESSES6_LOG2_MAX != 0
                    || last - first == (1 << ADDRESSES6_LOG2_MAX) - 1
                {
                    return Err(format!("{entry:?} is an eighth of all addresses or more"));
                }
                self.v6.push((first, last));
            }
            _ => return Err(format!("{entry:?} begins and ends in different families")),
        }
        Ok(())
    }
}

/// Whether a prefix is so wide that it must be a mistake.
pub(super) fn is_too_wide(prefix: &IpNet) -> bool {
    match prefix {
        IpNet::V4(net) => net.prefix_len() < 3,
        IpNet::V6(net) => net.prefix_len() < 4,
    }
}

/// First and last address of an entry; the last is not before the first.
fn range(entry: &str) -> Option<(IpAddr, IpAddr)> {
    if let Some((first, last)) = entry.split_once('-') {
        let (first, last): (IpAddr, IpAddr) =
            (first.trim_end().parse().ok()?, last.trim_start().parse().ok()?);
        return (first.is_ipv4() == last.is_ipv4() && first <= last).then_some((first, last));
    }
    if let Ok(address) = entry.parse::<IpAddr>() {
        return Some((address, address));
    }
    // Bits behind the prefix are of no account, as everywhere where such lists are used.
    let net = entry.parse::<IpNet>().ok()?;
    Some((net.network(), net.broadcast()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(list: &str, expected: &[&str]) {
        let parsed = parse(list.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
        let prefixes: Vec<String> = parsed.ranges.prefixes().map(|prefix| prefix.to_string()).collect();
        assert_eq!(prefixes, expected);
    }

    #[track_caller]
    fn refuse(list: &[u8], expected: &str) {
        let error = parse(list).expect_err("it is bad").to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn lists_as_others_write_them() {
        // Spamhaus DROP, as text and as JSON lines.
        check(
            "; Spamhaus DROP List 2025/11/25\n; Expires: …\n192.0.2.0/24 ; SBL1\n198.51.100.0/25 ; SBL2\n",
            &["192.0.2.0/24", "198.51.100.0/25"],
        );
        check(
            "{\"cidr\":\"192.0.2.0/24\",\"sblid\":\"SBL1\",\"rir\":\"arin\"}\n\
             {\"cidr\":\"2001:db8::/32\",\"sblid\":\"SBL2\",\"rir\":\"ripencc\"}\n\
             {\"type\":\"metadata\",\"timestamp\":1764000000,\"size\":99,\"records\":2,\"copyright\":\"(c)\"}\n",
            &["192.0.2.0/24", "2001:db8::/32"],
        );
        // A netset of FireHOL.
        check(
            "#\n# firehol_level1\n#\n0.0.0.0/8\n10.0.0.0/8\n224.0.0.0/3\n192.0.2.7\n",
            &["0.0.0.0/8", "10.0.0.0/8", "192.0.2.7/32", "224.0.0.0/3"],
        );
        // By hand.
        check(
            "\u{feff}192.0.2.4 - 192.0.2.9\r\n\r\n  2001:db8::1-2001:db8::2 # two\r\n::ffff:198.51.100.7\n192.0.2.10",
            &[
                "192.0.2.4/30",
                "192.0.2.8/31",
                "192.0.2.10/32",
                "198.51.100.7/32",
                "2001:db8::1/128",
                "2001:db8::2/128",
            ],
        );
        check("192.0.2.77/24", &["192.0.2.0/24"]);
        check("# nothing yet\n", &[]);
    }

    #[test]
    fn a_bad_line_has_its_number() {
        refuse(b"192.0.2.1\nhere\n192.0.2.2\n", "line 2: \"here\" is no address, prefix or range");
        refuse(b"\n\n192.0.2.0/33\n", "line 3: \"192.0.2.0/33\"");
        refuse(b"192.0.2.9-192.0.2.1\n", "line 1");
        refuse(b"192.0.2.9-2001:db8::\n", "line 1");
        refuse(b"1.1.1.1 \xff\n", "line 1: it is not text");
        refuse(b"a\nb\nc\nd\n", "line 1: \"a\" is no address, prefix or range; line 2");
        refuse(&vec![b'1'; LINE_BYTES_MAX + 1], "line 1: it is longer than 4096 bytes");
        refuse(b"{\"cidr\":\"192.0.2.0/24\"\n", "line 1: it is not the JSON of a list");
        refuse(b"{\"net\":\"192.0.2.0/24\"}\n", "line 1: it has neither");
        refuse(b"{\"cidr\":\"nowhere\"}\n", "line 1: \"nowhere\"");
    }

    #[test]
    fn what_is_too_much_is_refused() {
        refuse(b"0.0.0.0/0\n", "more than an eighth");
        refuse(b"0.0.0.0/2\n", "more than an eighth");
        refuse(b"::/0\n", "an eighth");
        refuse(b"2000::/3\n", "an eighth");
        check("2000::/4\n224.0.0.0/3\n", &["224.0.0.0/3", "2000::/4"]);
        let many = "192.0.2.1\n".repeat(ENTRIES_MAX);
        assert_eq!(parse(many.as_bytes()).map(|parsed| parsed.entries), Ok(ENTRIES_MAX));
        refuse(format!("{many}192.0.2.1\n").as_bytes(), "line 2097153: more than 2097152 entries");
    }

    #[test]
    fn a_list_that_was_cut_off_is_refused() {
        refuse(
            b"{\"cidr\":\"192.0.2.0/24\"}\n{\"type\":\"metadata\",\"records\":2}\n",
            "it says that it has 2 entries, and has 1",
        );
    }

    proptest! {
        #[test]
        fn anything_is_a_list_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        /// Written out, a list reads as itself; comments, blank lines and order change nothing.
        #[test]
        fn what_is_written_is_what_is_read(
            nets in prop::collection::vec((any::<u32>(), 8_u8..=32, any::<u64>(), 10_u8..=128), 0..40),
            comment in "[ ;#][ a-z;#.0-9-]{0,20}",
        ) {
            let nets: Vec<IpNet> = nets
                .into_iter()
                .flat_map(|(v4, bits4, v6, bits6)| {
                    let v6 = u128::from(v6 | 1 << 61) << 64 | u128::from(v6);
                    [IpNet::new(IpAddr::V4(v4.into()), bits4), IpNet::new(IpAddr::V6(v6.into()), bits6)]
                })
                .flatten()
                .collect();
            let lines = |nets: &mut dyn Iterator<Item = &IpNet>| -> String {
                nets.flat_map(|net| [net.to_string(), format!(" ;{comment}\n\n")]).collect()
            };
            let parsed = parse(lines(&mut nets.iter()).as_bytes()).unwrap();
            prop_assert_eq!(&parse(lines(&mut nets.iter().rev()).as_bytes()).unwrap(), &parsed);
            prop_assert_eq!(&parsed.ranges, &Ranges::of_prefixes(nets.iter().map(IpNet::trunc)));
            let again: Vec<IpNet> = parsed.ranges.prefixes().collect();
            prop_assert_eq!(&parse(lines(&mut again.iter()).as_bytes()).unwrap().ranges, &parsed.ranges);
        }
    }
}
