//! Which feed lists what, as words that lie in a map beside the tables: for people, and for the next start. Pure.
//!
//! The program never reads it. A catalogue that cannot be read is no catalogue: the feeds are read again.

use gateway_ebpf::feeds::Line;

use super::{List, NAME_BYTES_MAX, ranges::Ranges};

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
    let mut words = Words(lines.as_flattened());
    if words.next()? != MAGIC {
        return None;
    }
    let count = words.next()?;
    (0..count).map(|_| words.list()).collect()
}

struct Words<'w>(&'w [u64]);

impl Words<'_> {
    fn list(&mut self) -> Option<List> {
        let name: Vec<u8> = self.take(NAME_WORDS)?.iter().flat_map(|word| word.to_le_bytes()).collect();
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = str::from_utf8(name).ok()?.into();
        let number = u8::try_from(self.next()?).ok()?;
        let taken_at_unix_s = self.next()?;
        let [count4, count6] = [self.next()?, self.next()?].map(|count| usize::try_from(count).ok());
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
        let v4 = self.take(count4?)?.iter().map(|word| ((word >> 32) as u32, *word as u32)).collect();
        let words = self.take(count6?.checked_mul(4)?)?;
        let number_of = |upper: u64, lower: u64| u128::from(upper) << 64 | u128::from(lower);
        let v6 = words.as_chunks().0.iter().map(|[a, b, c, d]| (number_of(*a, *b), number_of(*c, *d)));
        Some(List { name, number, taken_at_unix_s, ranges: Ranges::new(v4, v6.collect()).into() })
    }

    fn next(&mut self) -> Option<u64> {
        self.take(1)?.first().copied()
    }

    fn take(&mut self, count: usize) -> Option<&[u64]> {
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
