//! `bench nic`: what the filter costs a packet, by the kernel's test run: no network card has a part in it.
//!
//! Comes in: the object. Goes out: nanoseconds per packet and their ratio to a program that does nothing, in the same
//! rounds, next to xdp-filter's. Where sources are many, another program draws one for each packet and goes on to the
//! one measured; what drawing costs is measured the same way before the program that does nothing, and taken off. A
//! round measures everything once, so that what slows the machine slows all. Medians are told, and goals are held
//! against the shortest times, which other load does not touch.

mod filter;
pub(super) mod rival;

use std::{
    fmt::Write,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use xtask::lab::{
    frames::{Endpoints, Frame, Link, Segment},
    netns::{EDGE_MAC, EDGE_V4, EDGE_V6, Lab, WORLD_MAC},
};

use self::{
    filter::{Blocked, Filter, PORT},
    rival::Rival,
};
use super::{
    Options,
    chart::{self, Look},
    kernel::{self, Draw, Drawing, XDP_DROP, XDP_PASS, test_run},
    proxy::OWN,
    report::{self, BEST, Report, TIME, print_json},
};
use crate::{build, interrupt, project::Project, setup};

const BENCH: &str = "nic";
/// The program that does nothing.
const EMPTY: &str = "empty";

/// Packets of one measurement.
const REPEAT: u32 = 500_000;
const REPEAT_QUICK: u32 = 100_000;
/// Packets that warm the caches before the first round.
const REPEAT_WARM: u32 = 200_000;

/// Where the source's last four bytes lie in an IPv4 frame; and where those of an IPv6 source lie that tell one /48
/// from another.
const SOURCE_AT: i16 = 26;
const SOURCE6_AT: i16 = 24;

/// What a case blocks, and of what the packets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// Nobody; one source sends.
    Nobody,
    /// Nobody; everybody sends, or says so.
    Spoofed,
    /// So many sources, which all send.
    Sources(u32),
    /// So many IPv4 /24s or IPv6 /48s, which all send.
    Prefixes(u32),
}

/// One row of the table to come.
struct Case {
    name: &'static str,
    title: &'static str,
    v6: bool,
    what: What,
    /// Greatest ratio to the program that does nothing.
    goal: Option<f64>,
    /// Greatest ratio to xdp-filter on a packet of the same fate.
    goal_to_rival: Option<f64>,
    /// What is blocked stands in a feed.
    by_feed: bool,
}

const fn case(name: &'static str, title: &'static str, v6: bool, what: What, goal: Option<f64>) -> Case {
    Case { name, title, v6, what, goal, goal_to_rival: None, by_feed: false }
}

const fn feed(name: &'static str, title: &'static str, v6: bool, what: What, goal: f64) -> Case {
    Case { by_feed: true, ..case(name, title, v6, what, Some(goal)) }
}

const CASES: [Case; 16] = [
    Case {
        goal_to_rival: Some(0.75),
        ..case("pass-v4", "clean TCP, within limits", false, What::Nobody, Some(2.0))
    },
    case("pass-v6", "clean TCP, IPv6", true, What::Nobody, None),
    case("spoofed-v4", "random sources, limits", false, What::Spoofed, Some(8.0)),
    case("spoofed-v6", "random sources, IPv6", true, What::Spoofed, None),
    case("ban-v4", "one banned address", false, What::Sources(1), None),
    case("ban-10k-v4", "10 000 banned addresses", false, What::Sources(10_000), Some(2.7)),
    case("ban-10k-v6", "10 000 banned /64s", true, What::Sources(10_000), None),
    case("ban-1M-v4", "a million banned addresses", false, What::Sources(1_000_000), Some(7.0)),
    case("ban-1M-v6", "a million banned /64s", true, What::Sources(1_000_000), None),
    feed("feed-1M-v4", "a million addresses by a feed", false, What::Sources(1_000_000), 7.0),
    case("prefix-1k-v4", "1 000 blocked /24s", false, What::Prefixes(1_000), Some(2.7)),
    case("prefix-1k-v6", "1 000 blocked /48s", true, What::Prefixes(1_000), Some(2.7)),
    case("prefix-1M-v4", "a million blocked /24s", false, What::Prefixes(1_000_000), Some(2.7)),
    case("prefix-1M-v6", "a million blocked /48s", true, What::Prefixes(1_000_000), Some(5.5)),
    feed("feed-nets-1M-v4", "a million /24s by a feed", false, What::Prefixes(1_000_000), 2.7),
    feed("feed-nets-1M-v6", "a million /48s by a feed", true, What::Prefixes(1_000_000), 5.5),
];

/// Runs all cases that were asked for; one that fails is told, and the others go on.
pub(super) fn run(project: &Project, options: &Options) -> Result<ExitCode> {
    let known = || CASES.map(|case| case.name).join(", ");
    ensure!(CASES.iter().any(|case| options.wants(case.name)), "no such case; there are {}", known());
    let toolchains = setup::toolchains(project)?;
    let toolchain = toolchains.first().context("no eBPF compiler works: run `cargo xtask setup`")?;
    let object = fs::read(build::embeddable(project, &build::ebpf(project, toolchain)?)?)?;
    interrupt::catch()?;
    let bench = Bench {
        object,
        empty: kernel::constant(XDP_PASS).context("loading a program")?,
        rounds: options.rounds(),
        repeat: if options.quick { REPEAT_QUICK } else { REPEAT },
    };
    let mut report = Report { bench: BENCH, ..Report::default() };
    // Taken off before its namespaces go.
    let rival = Lab::new().and_then(|lab| Ok((Rival::on(&lab)?, lab)));
    for case in CASES.iter().filter(|case| options.wants(case.name)) {
        let written = report.rows.len();
        match bench.measure(case, rival.as_ref().ok().map(|(rival, _)| rival)) {
            Ok(rows) => report.rows.extend(rows),
            Err(why) => {
                interrupt::check()?;
                report.skips.extend(report::skips(BENCH, case.name, vec![(OWN, why)]));
            }
        }
        if options.json {
            print_json(report.rows.get(written..).unwrap_or_default())?;
        }
    }
    if let Err(why) = rival {
        report.skips.extend(report::skips(BENCH, "every case", vec![(rival::NAME, why)]));
    }
    if options.json {
        print_json(&report.skips)?;
    } else {
        print!("{}{}", table(&report), report.table());
    }
    if let Some(file) = &options.svg {
        let titles = CASES.map(|case| (case.name, case.title));
        fs::write(file, chart::svg(&report, &LOOK, &titles)).with_context(|| file.display().to_string())?;
    }
    Ok(if report.lacks_own(OWN) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

struct Bench {
    object: Vec<u8>,
    empty: OwnedFd,
    rounds: u32,
    repeat: u32,
}

/// A program with a packet for it.
struct Lane<'a> {
    subject: &'static str,
    program: BorrowedFd<'a>,
    packet: &'a [u8],
    /// The same way to the program that does nothing; none: there is no way.
    way: Option<BorrowedFd<'a>>,
    action: u32,
    times: Vec<f64>,
}

impl Bench {
    fn measure(&self, case: &Case, rival: Option<&Rival>) -> Result<Vec<report::Row>> {
        let action = if matches!(case.what, What::Nobody | What::Spoofed) { XDP_PASS } else { XDP_DROP };
        let filter = Filter::new(&self.object, &blocked(case))?;
        let packet = packet(case)?;
        let drawing = |program: BorrowedFd<'_>| -> Result<Option<Drawing>> {
            draw_for(case).map(|draw| kernel::draw(program, draw).context("loading a program")).transpose()
        };
        let (to_filter, to_empty) = (drawing(filter.program.as_fd())?, drawing(self.empty.as_fd())?);
        let program = to_filter.as_ref().map_or(filter.program.as_fd(), |drawing| drawing.program.as_fd());
        let way = to_empty.as_ref().map(|drawing| drawing.program.as_fd());
        let mut lanes = vec![Lane { subject: OWN, program, packet: &packet, way, action, times: Vec::new() }];
        if let Some(rival) = rival.filter(|_| !case.v6 && draw_for(case).is_none()) {
            let program = rival.program.as_fd();
            rival.block(Ipv4Addr::from_bits(source4(case, ONE)), action == XDP_DROP)?;
            lanes.push(Lane {
                subject: rival::NAME,
                program,
                packet: &packet,
                way: None,
                action,
                times: vec![],
            });
        }
        let mut empty = Vec::new();
        for lane in &lanes {
            time(lane.program, lane.packet, REPEAT_WARM, lane.action)?;
        }
        for _ in 0..self.rounds {
            interrupt::check()?;
            let nothing_ns = time(self.empty.as_fd(), &packet, self.repeat, XDP_PASS)?;
            empty.push(nothing_ns);
            for lane in &mut lanes {
                let whole_ns = time(lane.program, lane.packet, self.repeat, lane.action)?;
                let way_ns = match lane.way {
                    Some(way) => time(way, lane.packet, self.repeat, XDP_PASS)? - nothing_ns,
                    None => 0.0,
                };
                lane.times.push(whole_ns - way_ns);
            }
        }
        let mut rows = report::times((BENCH, case.name, EMPTY), false, &empty, None, None);
        for lane in &lanes {
            let own = lane.subject == OWN;
            let goal = case.goal.filter(|_| own);
            rows.extend(report::times(
                (BENCH, case.name, lane.subject),
                own,
                &lane.times,
                Some((EMPTY, &empty)),
                goal,
            ));
        }
        if let (Some(goal), [ours, theirs]) = (case.goal_to_rival, &lanes[..]) {
            rows.extend(report::best_against(
                (BENCH, case.name, OWN),
                &ours.times,
                (theirs.subject, &theirs.times),
                goal,
            ));
        }
        Ok(rows)
    }
}

/// Nanoseconds per packet. What the program is measured for has to happen.
fn time(program: BorrowedFd<'_>, packet: &[u8], repeat: u32, action: u32) -> Result<f64> {
    let tested = test_run(program, packet, repeat).context("the kernel's test run")?;
    ensure!(tested.action == action, "the packet's fate was {}, not {action}", tested.action);
    Ok(tested.ns)
}

/// How sources are drawn; `None`: there is one.
fn draw_for(case: &Case) -> Option<Draw> {
    let at = if case.v6 { SOURCE6_AT } else { SOURCE_AT };
    let (sources, fixed_bits) = match case.what {
        What::Nobody | What::Sources(1) => return None,
        What::Spoofed => (0, 0),
        What::Sources(count) => (count, 0),
        What::Prefixes(count) => (count, if case.v6 { 0 } else { 8 }),
    };
    Some(Draw { at, sources, fixed_bits })
}

/// The sources of a case: what tells them apart, by number, as they are drawn.
fn spread(case: &Case, number: u32) -> u32 {
    let alone = Draw { at: 0, sources: 0, fixed_bits: 0 };
    draw_for(case).unwrap_or(alone).source(number)
}

/// The number of the source that a packet starts with.
const ONE: u32 = 1;

fn source4(case: &Case, number: u32) -> u32 {
    spread(case, number)
}

/// The upper half: each source has a /48 of its own.
fn source6(case: &Case, number: u32) -> u64 {
    0x2a00 << 48 | u64::from(spread(case, number)) << 16 | 1
}

fn blocked(case: &Case) -> Blocked {
    let mut blocked = Blocked { by_feed: case.by_feed, ..Blocked::default() };
    let (numbers, prefixes) = match case.what {
        What::Nobody | What::Spoofed => return blocked,
        What::Sources(1) => (ONE..ONE + 1, false),
        What::Sources(count) => (0..count, false),
        What::Prefixes(count) => (0..count, true),
    };
    match (case.v6, prefixes) {
        (false, false) => blocked.sources4 = numbers.map(|number| source4(case, number)).collect(),
        (false, true) => {
            blocked.prefixes4 = numbers.map(|number| (source4(case, number) & !0xff, 24)).collect();
        }
        (true, false) => blocked.sources6 = numbers.map(|number| source6(case, number)).collect(),
        (true, true) => {
            blocked.prefixes6 = numbers.map(|number| (source6(case, number) & !0xffff, 48)).collect();
        }
    }
    blocked
}

/// A packet of an established connection; one who spoofs begins connections.
fn packet(case: &Case) -> Result<Vec<u8>> {
    let (source, destination): (IpAddr, IpAddr) = if case.v6 {
        let address = u128::from(source6(case, ONE)) << 64 | 1;
        (Ipv6Addr::from_bits(address).into(), EDGE_V6.into())
    } else {
        (Ipv4Addr::from_bits(source4(case, ONE)).into(), EDGE_V4.into())
    };
    let endpoints = Endpoints::between(SocketAddr::new(source, 40_000), SocketAddr::new(destination, PORT))?;
    let segment = if case.what == What::Spoofed { Segment::syn(1) } else { Segment::ack(1, 1) };
    let link = Link { source: WORLD_MAC, destination: EDGE_MAC, tags: Vec::new() };
    Frame { link, endpoints, segment }.bytes()
}

/// The chart.
const LOOK: Look = Look {
    head: "Time per packet, relative to an empty XDP program",
    note: "the kernel's test run, best of alternating rounds; shorter is better",
    metrics: &[BEST],
    better: "shorter",
    subjects: &[OWN, rival::NAME],
    baseline: EMPTY,
    ratio_shown_max: 8.0,
};

fn table(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string does not fail, here and below.
    let _ = writeln!(
        text,
        "{:<18} {:<12} {:>8} {:>6} {:>10} {:>6}",
        "case", "subject", "best ns", "×", "median ns", "×"
    );
    for row in report.rows.iter().filter(|row| row.metric == TIME) {
        let best = report.main_row(row.case, row.subject, BEST);
        let ratio = |ratio: Option<f64>| ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let _ = writeln!(
            text,
            "{:<18} {:<12} {:>8.0} {:>6} {:>10.0} {:>6}",
            row.case,
            row.subject,
            best.map_or(f64::NAN, |best| best.median),
            ratio(best.and_then(|best| best.ratio)),
            row.median,
            ratio(row.ratio),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_from_what_is_blocked() {
        for case in &CASES {
            let packet = packet(case).unwrap();
            let blocked = blocked(case);
            let count = blocked.sources4.len()
                + blocked.sources6.len()
                + blocked.prefixes4.len()
                + blocked.prefixes6.len();
            let expected = match case.what {
                What::Nobody | What::Spoofed => 0,
                What::Sources(count) | What::Prefixes(count) => count as usize,
            };
            assert_eq!(count, expected, "{}", case.name);
            let word = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
            let upper = u64::from(word(22)) << 32 | u64::from(word(26));
            let inside = blocked.sources4.contains(&word(26))
                || blocked.sources6.contains(&upper)
                || blocked.prefixes4.contains(&(word(26) & !0xff, 24))
                || blocked.prefixes6.contains(&(upper & !0xffff, 48));
            assert_eq!(inside, expected > 0, "{}", case.name);
        }
    }

    #[test]
    fn what_is_drawn_tells_sources_apart() {
        for case in &CASES {
            if let Some(draw) = draw_for(case) {
                // The four bytes that are drawn lie in the source, and no others differ between two of them.
                let at = usize::try_from(draw.at).unwrap();
                let range = if case.v6 { 22..38 } else { 26..30 };
                assert!(range.contains(&at) && range.contains(&(at + 3)), "{}", case.name);
            }
        }
    }
}
