//! Which feed lists what, as words that lie in a map beside the tables: for people, and for the next start. Pure.
//!
//! The program never reads it. A catalogue that cannot be read is no catalogue: the feeds are read again.

use std::{net::IpAddr, sync::Arc};

use gateway_ebpf::feeds::Line;

use super::{List, Listing, NAME_BYTES_MAX, ranges::Ranges};

/// "feeds", and the version of what follows.
const MAGIC: u64 = u64::from_le_bytes(*b"feeds\0\0\x01");
const NAME_WORDS: usize = NAME_BYTES_MAX / 8;

/// As lines, the last one filled up.
pub(super) fn pack(lists: &[List]) -> Vec<Line> {
    let mut words = vec![MAGIC, lists.len() as u64];
    for list in lists {
        let mut name = [0; NAME_BYTES_MAX];
        for (to, from) in name.iter_mut().zip(list.name.as_bytes()) {
            *to = *from;
        }
        words.extend(name.as_chunks().0.iter().copied().map(u64::from_le_bytes));
        words.extend([
            u64::from(list.number),
            list.taken_at_unix_s,
            list.ranges.v4().len() as u64,
            list.ranges.v6().len() as u64,
        ]);
        words.extend(list.ranges.v4().iter().map(|(first, last)| u64::from(*first) << 32 | u64::from(*last)));
        words.extend(list.ranges.v6().iter().flat_map(|(first, last)| [*first, *last]).flat_map(halves));
    }
    words.resize(words.len().next_multiple_of(8), 0);
    words.as_chunks().0.to_vec()
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
fn halves(address: u128) -> [u64; 2] {
    [(address >> 64) as u64, address as u64]
}

/// `None`: it is of another version, or broken.
pub(super) fn unpack(lines: &[Line]) -> Option<Vec<List>> {
    each(lines, |words| {
        let head = words.head()?;
        let v4 = words.take(head.words4)?.iter().map(|word| range4(*word)).collect();
        let v6 = words.take(head.words6)?.as_chunks().0.iter().map(range6).collect();
        Some(List {
            name: head.name,
            number: head.number,
            taken_at_unix_s: head.taken_at_unix_s,
            ranges: Ranges::new(v4, v6).into(),
        })
    })
}

/// Numbers and names alone.
pub(super) fn names(lines: &[Line]) -> Option<Vec<(u8, Arc<str>)>> {
    each(lines, |words| {
        let head = words.head()?;
        words.take(head.words4)?;
        words.take(head.words6)?;
        Some((head.number, head.name))
    })
}

/// The feeds that list an address: the ranges are searched where they lie.
pub(super) fn listings(lines: &[Line], address: IpAddr) -> Option<Vec<Listing>> {
    let found = each(lines, |words| {
        let head = words.head()?;
        let (words4, words6) = (words.take(head.words4)?, words.take(head.words6)?.as_chunks().0);
        let ranges = match address.to_canonical() {
            IpAddr::V4(address) => {
                let after = words4.partition_point(|word| range4(*word).0 <= address.to_bits());
                let last = words4.get(..after)?.last();
                Ranges::new(last.map(|word| range4(*word)).into_iter().collect(), Vec::new())
            }
            IpAddr::V6(address) => {
                let after = words6.partition_point(|words| range6(words).0 <= address.to_bits());
                let last = words6.get(..after)?.last();
                Ranges::new(Vec::new(), last.map(range6).into_iter().collect())
            }
        };
        Some(ranges.prefix_of(address).map(|prefix| Listing { feed: head.name, prefix }))
    })?;
    Some(found.into_iter().flatten().collect())
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
fn range4(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

fn range6(&[a, b, c, d]: &[u64; 4]) -> (u128, u128) {
    let number = |upper: u64, lower: u64| u128::from(upper) << 64 | u128::from(lower);
    (number(a, b), number(c, d))
}

fn each<T>(lines: &[Line], read: impl Fn(&mut Words<'_>) -> Option<T>) -> Option<Vec<T>> {
    let mut words = Words(lines.as_flattened());
    if words.next()? != MAGIC {
        return None;
    }
    let count = words.next()?;
    (0..count).map(|_| read(&mut words)).collect()
}

/// What stands before a feed's ranges.
struct Head {
    name: Arc<str>,
    number: u8,
    taken_at_unix_s: u64,
    words4: usize,
    words6: usize,
}

struct Words<'w>(&'w [u64]);

impl<'w> Words<'w> {
    fn head(&mut self) -> Option<Head> {
        let name: Vec<u8> = self.take(NAME_WORDS)?.iter().flat_map(|word| word.to_le_bytes()).collect();
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        Some(Head {
            name: str::from_utf8(name).ok()?.into(),
            number: self.next()?.try_into().ok()?,
            taken_at_unix_s: self.next()?,
            words4: self.next()?.try_into().ok()?,
            words6: usize::try_from(self.next()?).ok()?.checked_mul(4)?,
        })
    }

    fn next(&mut self) -> Option<u64> {
        self.take(1)?.first().copied()
    }

    fn take(&mut self, count: usize) -> Option<&'w [u64]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists() -> Vec<List> {
        let ranges =
            |prefixes: &[&str]| Ranges::of_prefixes(prefixes.iter().map(|text| text.parse().unwrap()));
        let list = |name: &str, number, prefixes: &[&str]| List {
            name: name.into(),
            number,
            taken_at_unix_s: 1_795_000_000 + u64::from(number),
            ranges: ranges(prefixes).into(),
        };
        vec![
            list("spamhaus", 1, &["192.0.2.0/24", "198.51.100.7/32", "2001:db8::/32", "2001:db9::1/128"]),
            list("empty", 2, &[]),
            list(&"n".repeat(NAME_BYTES_MAX), 63, &["::/0"]),
        ]
    }

    #[test]
    fn what_was_packed_is_unpacked() {
        assert_eq!(unpack(&pack(&lists())), Some(lists()));
        assert_eq!(unpack(&pack(&[])), Some(Vec::new()));
        let named = lists().into_iter().map(|list| (list.number, list.name)).collect();
        assert_eq!(names(&pack(&lists())), Some(named));
    }

    #[test]
    fn an_address_is_found_where_it_is_listed() {
        #[track_caller]
        fn check(address: &str, expected: &[(&str, &str)]) {
            let found = listings(&pack(&lists()), address.parse().unwrap()).unwrap();
            let found: Vec<(String, String)> =
                found.iter().map(|listing| (listing.feed.to_string(), listing.prefix.to_string())).collect();
            let expected: Vec<(String, String)> =
                expected.iter().map(|(feed, prefix)| ((*feed).to_owned(), (*prefix).to_owned())).collect();
            assert_eq!(found, expected);
        }
        let all = "n".repeat(NAME_BYTES_MAX);
        check("192.0.2.9", &[("spamhaus", "192.0.2.0/24")]);
        check("::ffff:198.51.100.7", &[("spamhaus", "198.51.100.7/32")]);
        check("198.51.100.8", &[]);
        check("1.1.1.1", &[]);
        check("2001:db8::7", &[("spamhaus", "2001:db8::/32"), (&all, "::/0")]);
        check("2001:db9::2", &[(&all, "::/0")]);
    }

    #[test]
    fn a_broken_catalogue_is_none() {
        let lines = pack(&lists());
        for cut in 0..lines.len() {
            assert_eq!(unpack(&lines[..cut]), None, "cut at line {cut}");
        }
        let mut other = lines.clone();
        other[0][0] += 1;
        assert_eq!(unpack(&other), None);
        let mut endless = lines;
        endless[0][1] = u64::MAX;
        assert_eq!(unpack(&endless), None);
    }
}
