//! Tables against the ranges that they were made of.

use proptest::prelude::*;

use super::{
    CLEAN, LEAVES4_MAX, LINES4, LINES6, Line, PARTIAL_MIN, WHOLE, classes_at,
    fill::{Full, fill4, fill6},
    listed4, listed6,
};

fn table4(ranges: &[(u32, u32)]) -> Vec<Line> {
    let mut lines = vec![[0; 8]; LINES4];
    fill4(&mut lines, ranges.iter().copied()).unwrap();
    lines
}

fn table6(ranges: &[(u128, u128)]) -> Vec<Line> {
    let mut lines = vec![[0; 8]; LINES6];
    fill6(&mut lines, ranges.iter().copied()).unwrap();
    lines
}

#[track_caller]
fn check4(ranges: &[(u32, u32)]) {
    let lines = table4(ranges);
    let holds = |address: u32| ranges.iter().any(|(first, last)| (*first..=*last).contains(&address));
    for (first, last) in ranges {
        for edge in [*first, *last, first / 2 + last / 2, *first | 255, *last & !255] {
            for address in [edge.wrapping_sub(1), edge, edge.wrapping_add(1), edge ^ 256, edge ^ 1 << 31] {
                assert_eq!(
                    listed4(&lines.as_slice(), address),
                    holds(address),
                    "{address:#x} of {ranges:x?}"
                );
            }
        }
    }
}

#[track_caller]
fn check6(ranges: &[(u128, u128)]) {
    let lines = table6(ranges);
    let holds = |address: u128| ranges.iter().any(|(first, last)| (*first..=*last).contains(&address));
    for (first, last) in ranges {
        for edge in [*first, *last, first / 2 + last / 2, first | u128::from(u64::MAX), last >> 64 << 64] {
            for address in [edge.wrapping_sub(1), edge, edge.wrapping_add(1), edge ^ 1 << 64, edge ^ 1 << 127]
            {
                if (address >> 64) as u64 >= PARTIAL_MIN {
                    let found = listed6(&lines.as_slice(), (address >> 64) as u64, address as u64);
                    assert_eq!(found, holds(address), "{address:#x} of {ranges:x?}");
                }
            }
        }
    }
}

#[test]
fn ranges_of_ipv4_are_found_to_the_address() {
    check4(&[]);
    check4(&[(0, u32::MAX)]);
    check4(&[(0, 0), (u32::MAX, u32::MAX)]);
    check4(&[(0xc000_0200, 0xc000_02ff)]);
    check4(&[(0xc000_0201, 0xc000_02fe)]);
    check4(&[(0xc000_02ff, 0xc000_0300)]);
    check4(&[(0x0100_00f0, 0x0100_7f0f), (0xe000_0000, 0xefff_ffff)]);
    // As many ranges as a leaf holds, and more.
    check4(&[(0x0a00_0000, 0x0a00_0000), (0x0a00_0003, 0x0a00_0005)]);
    check4(&[(0x0a00_0000, 0x0a00_0000), (0x0a00_0003, 0x0a00_0005), (0x0a00_0080, 0x0a00_00ff)]);
    check4(&[
        (0x0a00_0000, 0x0a00_0001),
        (0x0a00_0003, 0x0a00_0005),
        (0x0a00_0080, 0x0a00_0081),
        (0x0a00_00ff, 0x0a00_0100),
    ]);
}

#[test]
fn every_other_address_of_a_24_is_told_from_its_neighbours() {
    let ranges: Vec<(u32, u32)> = (0..128).map(|n| (0x0a00_0000 + n * 2, 0x0a00_0000 + n * 2)).collect();
    let lines = table4(&ranges);
    for host in 0..256 {
        assert_eq!(listed4(&lines.as_slice(), 0x0a00_0000 + host), host % 2 == 0);
    }
}

#[test]
fn many_24s_have_a_set_of_their_own() {
    // More than the lower part of a set's number tells apart.
    let blocks = (0..70_000_u32).flat_map(|block| [1, 3, 5].map(|host| (block << 8 | host, block << 8 | host)));
    let lines = table4(&blocks.collect::<Vec<_>>());
    for block in [0, 1, 65_535, 65_536, 69_999, 70_000] {
        for host in 0..8 {
            let is_listed = block < 70_000 && host % 2 == 1 && host < 7;
            assert_eq!(listed4(&lines.as_slice(), block << 8 | host), is_listed, "{block:x}, {host}");
        }
    }
}

#[test]
fn ranges_of_ipv6_are_found_to_the_address() {
    let net = 0x2001_0db8_u128 << 96;
    check6(&[]);
    check6(&[(0, u128::MAX)]);
    check6(&[(u128::MAX, u128::MAX)]);
    check6(&[(net, net + u128::from(u64::MAX))]);
    check6(&[(net + 5, net + 5)]);
    check6(&[(net + 5, net + (9 << 64) + 7)]);
    check6(&[(net + 5, net + (1 << 64) + 7)]);
    check6(&[(net, net | u128::MAX >> 32), (net << 1, (net << 1) + 9)]);
    let hosts: Vec<(u128, u128)> = (0..300).map(|n| (net + n * 3, net + n * 3 + 1)).collect();
    check6(&hosts);
    let mixed: Vec<(u128, u128)> = (0..300_u128).map(|n| (net + (n << 60), net + (n << 60) + 3)).collect();
    check6(&mixed);
}

#[test]
fn all_of_a_24_needs_no_leaf() {
    let lines = table4(&[(0x0a00_0000, 0x0aff_ffff)]);
    let class = |address: u32| {
        let (line, word) = classes_at(address);
        lines[line as usize][word as usize] >> ((address >> 8 & 31) * 2) & 3
    };
    assert_eq!([0x0a00_0000, 0x0aff_ff00, 0x0b00_0000].map(class), [WHOLE, WHOLE, CLEAN]);
}

#[test]
fn a_table_says_when_it_is_full() {
    let one_in_each = |count: u32| (0..count).map(|block| (block << 8, block << 8));
    let mut lines = vec![[0; 8]; LINES4];
    assert_eq!(fill4(&mut lines, one_in_each(LEAVES4_MAX)), Ok(()));
    lines.fill([0; 8]);
    assert_eq!(fill4(&mut lines, one_in_each(LEAVES4_MAX + 1)), Err(Full));
    assert_eq!(fill4(&mut lines[..1000], [(0x0a00_0001, 0x0a00_0001)]), Err(Full));
}

/// Ascending ranges with gaps, out of gaps and lengths.
fn ranges(steps: Vec<(u64, u64)>, unit: u128, start: u128, max: u128) -> Vec<(u128, u128)> {
    let mut next = start;
    let mut ranges = Vec::new();
    for (gap, length) in steps {
        let first = next + u128::from(gap) * unit + 1;
        let last = first + u128::from(length) * unit;
        if last >= max {
            break;
        }
        ranges.push((first, last));
        next = last + 1;
    }
    ranges
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_ranges_of_ipv4_are_found(
        steps in prop::collection::vec((0_u64..600, prop_oneof![Just(0_u64), 0_u64..700]), 0..300),
        start in 0_u32..u32::MAX,
    ) {
        let found = ranges(steps, 1, start.into(), u32::MAX.into());
        check4(&found.iter().map(|(first, last)| (*first as u32, *last as u32)).collect::<Vec<_>>());
    }

    #[test]
    fn any_ranges_of_ipv6_are_found(
        steps in prop::collection::vec((0_u64..u64::MAX, prop_oneof![Just(0_u64), 0..u64::MAX]), 0..60),
        unit in prop_oneof![Just(1_u128), Just(1 << 20), Just(1 << 40), Just(3 << 50)],
        start in (PARTIAL_MIN..u64::MAX >> 1, any::<u64>()),
    ) {
        let start = u128::from(start.0) << 64 | u128::from(start.1);
        check6(&ranges(steps, unit, start, u128::MAX >> 1));
    }
}
