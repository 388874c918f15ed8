//! Ranges in, a table out: what user space does before it shows the table to the program.
//!
//! It writes into memory that it is given, all of it zero, and allocates nothing. It never sees a list's name.

use super::{
    CLASS_WORDS, CLASSES_AT, DEEPER, DEEPER_BITS, HOST_INDEX_BITS, HOSTS_AT, HOSTS6_MAX, LEAF_EMPTY,
    LEAF_RANGES, LEAVES_AT, LEAVES4_MAX, Line, PARTIAL_MIN, RANGES_AT, RANGES6_MAX, ROOT_AT, ROOT_SLOTS,
    SETS_AT, SETS4_MAX, STARTS_AT, WHOLE, classes_at,
};

/// The lists do not fit into a table; what it was filled with so far is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// Fills a table of [`super::LINES4`] zero lines. `ranges`, first and last address each, ascend and neither overlap
/// nor touch.
pub fn fill4(lines: &mut [Line], ranges: impl IntoIterator<Item = (u32, u32)>) -> Result<(), Full> {
    let mut table = Table4 { words: lines.as_flattened_mut(), leaves: 0, sets: 0, open: None };
    for (first, last) in ranges {
        table.add(first, last)?;
    }
    table.close()?;
    table.rank()
}

/// A /24 that is listed in part, while its parts come in.
struct Open {
    block: u32,
    leaf: u32,
    ranges: u32,
    set: [u64; 4],
}

struct Table4<'l> {
    words: &'l mut [u64],
    leaves: u32,
    sets: u32,
    open: Option<Open>,
}

impl Table4<'_> {
    fn add(&mut self, first: u32, last: u32) -> Result<(), Full> {
        let (first_block, last_block) = (first >> 8, last >> 8);
        if first_block == last_block {
            return self.part(first_block, first & 255, last & 255);
        }
        self.part(first_block, first & 255, 255)?;
        for block in first_block + 1..last_block {
            self.mark(block, WHOLE)?;
        }
        self.part(last_block, 0, last & 255)
    }

    /// Hosts `first` to `last` of a /24.
    fn part(&mut self, block: u32, first: u32, last: u32) -> Result<(), Full> {
        if first == 0 && last == 255 {
            return self.mark(block, WHOLE);
        }
        if self.open.as_ref().is_none_or(|open| open.block != block) {
            self.close()?;
            let empty = LEAF_EMPTY | LEAF_EMPTY << 16;
            self.open = Some(Open { block, leaf: empty, ranges: 0, set: [0; 4] });
        }
        let Some(open) = &mut self.open else { return Err(Full) };
        if open.ranges < LEAF_RANGES {
            let shift = open.ranges * 16;
            open.leaf = open.leaf & !(0xffff << shift) | (first | last << 8) << shift;
        }
        open.ranges += 1;
        for host in first..=last {
            if let Some(word) = open.set.get_mut((host >> 6) as usize) {
                *word |= 1 << (host & 63);
            }
        }
        Ok(())
    }

    /// No more parts of the open /24 will come.
    fn close(&mut self) -> Result<(), Full> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let mut leaf = open.leaf;
        if open.ranges > LEAF_RANGES {
            if self.sets == SETS4_MAX {
                return Err(Full);
            }
            for (word, bits) in (self.sets * 4..).zip(open.set) {
                *self.word(SETS_AT, word)? = bits;
            }
            leaf = ((self.sets >> 16) + 1) | self.sets << 16;
            self.sets += 1;
        }
        if self.leaves == LEAVES4_MAX {
            return Err(Full);
        }
        *self.word(LEAVES_AT, self.leaves / 2)? |= u64::from(leaf) << ((self.leaves & 1) * 32);
        self.leaves += 1;
        self.mark(open.block, DEEPER)
    }

    fn mark(&mut self, block: u32, class: u64) -> Result<(), Full> {
        let (line, word) = classes_at(block << 8);
        *self.word(line, word)? |= class << ((block & 31) * 2);
        Ok(())
    }

    /// Leaves lie in the order of their /24s, so a /24's leaf is how many of them come before it.
    fn rank(&mut self) -> Result<(), Full> {
        let mut before = 0;
        for line in CLASSES_AT..LEAVES_AT {
            let (before_line, mut before_word) = (before, 0);
            for word in 0..CLASS_WORDS {
                before_word |= (before - before_line) << (word * 8);
                before += u64::from((*self.word(line, word)? & DEEPER_BITS).count_ones());
            }
            *self.word(line, CLASS_WORDS)? = before_line;
            *self.word(line, CLASS_WORDS + 1)? = before_word;
        }
        Ok(())
    }

    fn word(&mut self, at: u32, index: u32) -> Result<&mut u64, Full> {
        self.words.get_mut(at as usize * 8 + index as usize).ok_or(Full)
    }
}

/// As [`fill4`], for [`super::LINES6`] zero lines.
pub fn fill6(lines: &mut [Line], ranges: impl IntoIterator<Item = (u128, u128)>) -> Result<(), Full> {
    let mut table =
        Table6 { words: lines.as_flattened_mut(), ranges: 0, hosts: 0, open: None, first: None, last: 0 };
    for (first, last) in ranges {
        table.add(first, last)?;
    }
    table.close()?;
    table.index()
}

/// A /64 that is listed in part: where its ranges begin.
struct Partial {
    upper: u64,
    hosts: u32,
}

struct Table6<'l> {
    words: &'l mut [u64],
    ranges: u32,
    hosts: u32,
    open: Option<Partial>,
    first: Option<u64>,
    last: u64,
}

impl Table6<'_> {
    fn add(&mut self, first: u128, last: u128) -> Result<(), Full> {
        let (upper, last_upper) = ((first >> 64) as u64, (last >> 64) as u64);
        let (lower, last_lower) = (first as u64, last as u64);
        if upper == last_upper {
            return if lower == 0 && last_lower == u64::MAX {
                self.whole(upper, upper)
            } else {
                self.part(upper, lower, last_lower)
            };
        }
        let mut whole_from = upper;
        let mut whole_to = last_upper;
        if lower != 0 {
            self.part(upper, lower, u64::MAX)?;
            whole_from += 1;
        }
        if last_lower != u64::MAX {
            whole_to -= 1;
        }
        if whole_from <= whole_to {
            self.whole(whole_from, whole_to)?;
        }
        if last_lower != u64::MAX {
            self.part(last_upper, 0, last_lower)?;
        }
        Ok(())
    }

    fn whole(&mut self, first: u64, last: u64) -> Result<(), Full> {
        self.close()?;
        self.push(first, last, last)
    }

    fn part(&mut self, upper: u64, first: u64, last: u64) -> Result<(), Full> {
        if upper < PARTIAL_MIN {
            return Ok(());
        }
        if self.open.as_ref().is_none_or(|open| open.upper != upper) {
            self.close()?;
            self.open = Some(Partial { upper, hosts: self.hosts });
        }
        if self.hosts == HOSTS6_MAX {
            return Err(Full);
        }
        *self.word(HOSTS_AT, self.hosts * 2)? = first;
        *self.word(HOSTS_AT, self.hosts * 2 + 1)? = last;
        self.hosts += 1;
        Ok(())
    }

    fn close(&mut self) -> Result<(), Full> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let more = u64::from(self.hosts - open.hosts - 1);
        self.push(open.upper, more << HOST_INDEX_BITS | u64::from(open.hosts), open.upper)
    }

    fn push(&mut self, start: u64, end: u64, last: u64) -> Result<(), Full> {
        if self.ranges == RANGES6_MAX {
            return Err(Full);
        }
        if self.ranges.is_multiple_of(4) {
            *self.word(STARTS_AT, self.ranges / 4)? = start;
        }
        // The rest of the last line repeats its last range, which changes no answer.
        for place in self.ranges..(self.ranges / 4 + 1) * 4 {
            *self.word(RANGES_AT, place * 2)? = start;
            *self.word(RANGES_AT, place * 2 + 1)? = end;
        }
        self.ranges += 1;
        self.first.get_or_insert(start);
        self.last = last;
        Ok(())
    }

    /// The root: for each slot the last line that begins before it, and how many more begin in it.
    fn index(&mut self) -> Result<(), Full> {
        let lines = self.ranges.div_ceil(4);
        // An empty table begins behind its end.
        let first = self.first.unwrap_or(u64::MAX);
        let span = self.last.saturating_sub(first);
        let shift = (u64::BITS - span.leading_zeros()).saturating_sub(ROOT_SLOTS.trailing_zeros());
        for (index, value) in (0..).zip([first, self.last, u64::from(shift)]) {
            *self.word(0, index)? = value;
        }
        let mut line = 0;
        for slot in 0..ROOT_SLOTS {
            let low = u64::from(line.max(1) - 1_u32);
            while line < lines && (*self.word(STARTS_AT, line)? - first) >> shift <= u64::from(slot) {
                line += 1;
            }
            *self.word(ROOT_AT, slot)? = (u64::from(line.max(1) - 1) - low) << 32 | low;
        }
        Ok(())
    }

    fn word(&mut self, at: u32, index: u32) -> Result<&mut u64, Full> {
        self.words.get_mut(at as usize * 8 + index as usize).ok_or(Full)
    }
}
