use std::{
    collections::hash_map::RandomState,
    net::{IpAddr, Ipv4Addr},
};

use proptest::prelude::*;

use super::*;

const S: u64 = 1_000_000_000;
const GUESSER: &str = "203.0.113.9";

fn settings() -> config::Escalation {
    let line = |count, within_s| Some(config::Threshold { count, within: Duration::from_secs(within_s) });
    config::Escalation {
        dry_run: false,
        block_for: Duration::from_mins(1),
        block_max: Duration::from_hours(24),
        memory: Duration::from_hours(24),
        exempt: vec![],
        admin_ports: config::AdminPorts::Unlimited,
        known_for: Duration::from_mins(15),
        throttle: Some(config::Rate { per_s: 100.0, burst: 200 }),
        unauthorized: line(20, 10),
        forbidden: line(50, 10),
        limited: line(100, 10),
        malformed: line(5, 10),
        attack: None,
        not_found: None,
    }
}

/// Nobody is known.
fn strangers() -> Arc<Known> {
    Arc::new(Known::new(64, RandomState::new()))
}

fn escalation(protected: &[&str]) -> Escalation {
    let nets = protected.iter().map(|net| net.parse().unwrap());
    Escalation::new(settings(), Protected::new(nets, 32, 64), strangers())
}

fn slowed_down() -> Action {
    Action::Throttle(settings().throttle.unwrap())
}

/// A consumer of the guesser's address has proved who it is at `seen_ns`.
fn shared(settings: config::Escalation, seen_ns: u64) -> Escalation {
    let known = strangers();
    known.note_proven(known::Source::of(GUESSER.parse().unwrap(), (32, 64)).unwrap(), seen_ns);
    Escalation::new(settings, Protected::new([], 32, 64), known)
}

fn offence(kind: OffenceKind, source: &str, at_ns: u64) -> Offence {
    Offence {
        kind,
        source: source.parse().unwrap(),
        source_is_forwarded: false,
        at_ns,
        route: Some("orders".into()),
        request_id: RequestId::new(7, 7),
    }
}

/// Observes each offence at its own time and gives the places (from 1) of those that led to a block.
fn blocks_at(escalation: &mut Escalation, source: &str, kind: OffenceKind, times: &[u64]) -> Vec<usize> {
    let seen = times.iter().enumerate().filter_map(|(place, &at_ns)| {
        escalation.observe(&offence(kind, source, at_ns), at_ns).map(|_| place + 1)
    });
    seen.collect()
}

/// `count` offences, `apart_ns` after one another.
fn train(from_ns: u64, count: usize, apart_ns: u64) -> Vec<u64> {
    (0..count as u64).map(|place| from_ns + place * apart_ns).collect()
}

/// Crosses the `unauthorized` line once at `at_ns`.
fn cross_line(escalation: &mut Escalation, at_ns: u64) -> Option<Block> {
    (0..20).fold(None, |block, _| {
        escalation.observe(&offence(OffenceKind::Unauthorized, GUESSER, at_ns), at_ns).or(block)
    })
}

#[track_caller]
fn check_line(times: &[u64], expected: &[usize]) {
    let found = blocks_at(&mut escalation(&[]), GUESSER, OffenceKind::Unauthorized, times);
    assert_eq!(found, expected);
}

#[test]
fn the_twentieth_crosses_the_line() {
    check_line(&train(S, 19, 1), &[]);
    check_line(&train(S, 20, 1), &[20]);
    check_line(&train(S, 20, 0), &[20]);
    check_line(&train(0, 20, 10 * S / 19), &[20]);
    // One nanosecond too long for twenty in the window: they never meet.
    check_line(&train(0, 200, 10 * S / 19 + 1), &[]);
    // Nineteen, silence, nineteen.
    check_line(&[train(S, 19, 1), train(12 * S, 19, 1)].concat(), &[]);
    // The window slides: the first ten have left when the second ten arrive, the third ten meet the second.
    check_line(&[train(0, 10, 1), train(11 * S, 10, 1), train(12 * S, 10, 1)].concat(), &[30]);
}

#[test]
fn the_window_includes_its_end() {
    check_line(&[train(S, 19, 0), vec![11 * S]].concat(), &[20]);
    check_line(&[train(S, 19, 0), vec![11 * S + 1]].concat(), &[]);
}

#[test]
fn offences_may_come_out_of_order() {
    let mut shuffled = train(S, 20, 100);
    shuffled.reverse();
    let mut table = escalation(&[]);
    let found = shuffled.iter().filter(|&&at_ns| {
        table.observe(&offence(OffenceKind::Unauthorized, GUESSER, at_ns), 2 * S).is_some()
    });
    assert_eq!(found.count(), 1);
}

#[test]
fn an_offence_from_the_future_lies_at_now() {
    let mut table = escalation(&[]);
    let found =
        (0..20).filter_map(|_| table.observe(&offence(OffenceKind::Unauthorized, GUESSER, u64::MAX), 5 * S));
    assert_eq!(found.map(|block| block.offence_at_ns).collect::<Vec<_>>(), [5 * S]);
}

#[test]
fn kinds_and_sources_are_counted_apart() {
    let mut table = escalation(&[]);
    assert_eq!(blocks_at(&mut table, GUESSER, OffenceKind::Malformed, &train(S, 4, 1)), [0; 0]);
    assert_eq!(blocks_at(&mut table, GUESSER, OffenceKind::Unauthorized, &train(S, 19, 1)), [0; 0]);
    assert_eq!(blocks_at(&mut table, "203.0.113.10", OffenceKind::Malformed, &train(S, 4, 1)), [0; 0]);
    assert_eq!(blocks_at(&mut table, GUESSER, OffenceKind::NotFound, &train(S, 1000, 1)), [0; 0]);
    assert_eq!(blocks_at(&mut table, GUESSER, OffenceKind::Malformed, &[2 * S]), [1]);
}

#[test]
fn every_kind_has_a_line_of_its_own() {
    let line = |count| Some(config::Threshold { count, within: Duration::from_secs(10) });
    let settings = config::Escalation {
        unauthorized: line(2),
        forbidden: line(3),
        limited: line(4),
        malformed: line(5),
        not_found: line(6),
        attack: line(7),
        ..settings()
    };
    for (place, kind) in OffenceKind::ALL.into_iter().enumerate() {
        let mut table = Escalation::new(settings.clone(), Protected::new([], 32, 64), strangers());
        let crossed = blocks_at(&mut table, GUESSER, kind, &train(S, 10, 1));
        assert_eq!(crossed, [place + 2], "{kind:?}");
    }
}

#[test]
fn a_block_says_why() {
    let block = cross_line(&mut escalation(&[]), 3 * S).unwrap();
    let expected = Block {
        source: "203.0.113.9/32".parse().unwrap(),
        action: Action::Drop,
        kind: OffenceKind::Unauthorized,
        offences: 20,
        route: Some("orders".into()),
        request_id: RequestId::new(7, 7),
        strikes: 1,
        offence_at_ns: 3 * S,
        until_ns: 63 * S,
        lasts: Duration::from_mins(1),
        dry_run: false,
    };
    assert_eq!(block, expected);
}

#[test]
fn ipv6_rotation_within_a_64_is_one_source() {
    let mut table = escalation(&[]);
    let found: Vec<_> = (1..=20)
        .filter_map(|host| {
            let source = format!("2001:db8:0:7::{host:x}");
            table.observe(&offence(OffenceKind::Unauthorized, &source, S), S)
        })
        .collect();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].source, "2001:db8:0:7::/64".parse().unwrap());
}

#[test]
fn each_further_block_doubles_until_the_cap() {
    let mut table = escalation(&[]);
    let mut now_ns = S;
    for (round, expected_s) in
        [60, 120, 240, 480, 960, 1920, 3840, 7680, 15360, 30720, 61440, 86400, 86400].into_iter().enumerate()
    {
        let block = cross_line(&mut table, now_ns).unwrap();
        assert_eq!(block.lasts, Duration::from_secs(expected_s));
        assert_eq!(block.strikes as usize, round + 1);
        assert_eq!(block.until_ns, now_ns + expected_s * S);
        now_ns = block.until_ns;
    }
}

#[track_caller]
fn check_second_block(after_end: Duration, expected: Duration) {
    let mut table = escalation(&[]);
    let first = cross_line(&mut table, S).unwrap();
    let now_ns = first.until_ns + nanos(after_end);
    table.forget(now_ns);
    assert_eq!(cross_line(&mut table, now_ns).unwrap().lasts, expected);
}

#[test]
fn memory_runs_from_the_end_of_a_block() {
    check_second_block(Duration::ZERO, Duration::from_mins(2));
    check_second_block(Duration::from_hours(24), Duration::from_mins(2));
    check_second_block(Duration::from_hours(24) + Duration::from_nanos(1), Duration::from_mins(1));
}

#[test]
fn a_shared_address_is_slowed_down_before_it_is_shut_out() {
    let mut table = shared(settings(), S);
    let mut now_ns = S;
    for (action, strikes, expected_s) in
        [(slowed_down(), 1, 60), (Action::Drop, 2, 60), (Action::Drop, 3, 120), (Action::Drop, 4, 240)]
    {
        let block = cross_line(&mut table, now_ns).unwrap();
        assert_eq!((block.action, block.strikes), (action, strikes));
        assert_eq!(block.lasts, Duration::from_secs(expected_s));
        now_ns = block.until_ns;
    }
}

#[test]
fn one_who_is_slowed_down_and_goes_on_is_shut_out() {
    let mut table = shared(settings(), S);
    let source: IpAddr = GUESSER.parse().unwrap();
    let throttle = cross_line(&mut table, S).unwrap();
    assert_eq!(throttle.action, slowed_down());
    assert_eq!(table.blocked(source, 2 * S), Some(throttle.source), "the filter has an entry of it");
    assert!(cross_line(&mut table, S + nanos(UNDER_WAY_MAX) - 1).is_none(), "under way");
    let block = cross_line(&mut table, S + nanos(UNDER_WAY_MAX)).unwrap();
    assert_eq!(block.action, Action::Drop);
    assert_eq!(table.blocked(source, block.until_ns - 1), Some(block.source));
}

#[test]
fn whoever_was_known_long_ago_is_a_stranger() {
    let known_for_ns = nanos(settings().known_for);
    let action = |settings, at_ns| cross_line(&mut shared(settings, S), at_ns).unwrap().action;
    assert_eq!(action(settings(), S + known_for_ns), slowed_down());
    assert_eq!(action(settings(), S + known_for_ns + 1), Action::Drop);
    assert_eq!(action(config::Escalation { throttle: None, ..settings() }, S), Action::Drop);
}

#[test]
fn what_one_process_remembers_the_next_one_goes_on_with() {
    let mut first = escalation(&[]);
    let block = cross_line(&mut first, S).unwrap();
    let remembered = first.remembered(&block.source).unwrap();
    assert_eq!(remembered, Remembered { strikes: 1, throttles: 0, until_ns: block.until_ns });

    let mut second = escalation(&[]);
    second.remember(block.source, remembered, 2 * S);
    assert_eq!(second.blocked(GUESSER.parse().unwrap(), 2 * S), Some(block.source));
    let again = cross_line(&mut second, block.until_ns).unwrap();
    assert_eq!((again.strikes, again.lasts), (2, Duration::from_mins(2)));

    let stale_ns = block.until_ns + nanos(settings().memory) + 1;
    let mut late = escalation(&[]);
    late.remember(block.source, remembered, stale_ns);
    assert_eq!(late.sources(), 0);
    let mut protected = escalation(&["203.0.113.0/24"]);
    protected.remember(block.source, remembered, 2 * S);
    assert_eq!(protected.sources(), 0, "who is protected now has no past");
    assert_eq!(escalation(&[]).remembered(&block.source), None);
}

#[test]
fn that_a_source_was_slowed_down_is_remembered_too() {
    let mut first = shared(settings(), S);
    let block = cross_line(&mut first, S).unwrap();
    let mut second = shared(settings(), S);
    second.remember(block.source, first.remembered(&block.source).unwrap(), S);
    let again = cross_line(&mut second, block.until_ns).unwrap();
    assert_eq!((again.action, again.strikes, again.lasts), (Action::Drop, 2, Duration::from_mins(1)));
}

#[test]
fn strikes_never_overflow() {
    let mut settings = settings();
    settings.block_max = Duration::MAX;
    settings.block_for = Duration::from_hours(24);
    assert_eq!(block_length(&settings, u32::MAX), Duration::from_hours(24) * u32::MAX);
    settings.block_max = Duration::from_hours(48);
    assert_eq!(block_length(&settings, u32::MAX), Duration::from_hours(48));
}

#[test]
fn what_was_under_way_when_a_block_began_does_not_double_it() {
    let mut table = escalation(&[]);
    cross_line(&mut table, S).unwrap();
    assert_eq!(blocks_at(&mut table, GUESSER, OffenceKind::Unauthorized, &train(S, 500, 1)), [0; 0]);
    assert_eq!(table.tally().under_way, 500);
    assert!(cross_line(&mut table, S + nanos(UNDER_WAY_MAX) - 1).is_none());
}

#[test]
fn a_block_that_is_not_in_force_is_ordered_again() {
    let mut table = escalation(&[]);
    cross_line(&mut table, S).unwrap();
    assert_eq!(cross_line(&mut table, S + nanos(UNDER_WAY_MAX)).unwrap().strikes, 2);
}

#[test]
fn a_dry_run_tells_once_per_block() {
    let dry_run = config::Escalation { dry_run: true, ..settings() };
    let mut table = Escalation::new(dry_run, Protected::new([], 32, 64), strangers());
    let block = cross_line(&mut table, S).unwrap();
    assert!(block.dry_run);
    assert!(cross_line(&mut table, block.until_ns - 1).is_none());
    assert!(cross_line(&mut table, block.until_ns).is_some());
}

#[test]
fn a_protected_address_is_never_blocked() {
    let mut table = escalation(&["203.0.113.0/24"]);
    assert!(cross_line(&mut table, S).is_none());
    assert_eq!((table.tally().protected, table.sources()), (20, 0));
    assert!(cross_line(&mut escalation(&["203.0.112.0/24"]), S).is_some());
}

#[test]
fn an_address_that_a_proxy_named_is_never_blocked() {
    let mut table = escalation(&[]);
    for _ in 0..1000 {
        let named = Offence { source_is_forwarded: true, ..offence(OffenceKind::Unauthorized, GUESSER, S) };
        assert_eq!(table.observe(&named, S), None);
    }
    assert_eq!((table.tally().forwarded, table.sources()), (1000, 0));
    // Nor do they bring a real offender any closer to the line.
    assert_eq!(blocks_at(&mut table, GUESSER, OffenceKind::Unauthorized, &train(S, 20, 1)), [20]);
}

#[test]
fn a_block_should_hold_until_its_end_unless_it_is_a_dry_run() {
    let mut table = escalation(&[]);
    let source: IpAddr = GUESSER.parse().unwrap();
    assert_eq!(table.blocked(source, S), None);
    let block = cross_line(&mut table, S).unwrap();
    assert_eq!(table.blocked(source, block.until_ns - 1), Some(block.source));
    assert_eq!(table.blocked(source, block.until_ns), None);
    table.reconfigure(config::Escalation { dry_run: true, ..settings() }, Protected::new([], 32, 64));
    assert_eq!(table.blocked(source, block.until_ns - 1), None);
}

#[test]
fn a_pardon_forgets_counts_strikes_and_block() {
    let mut table = escalation(&[]);
    let block = cross_line(&mut table, S).unwrap();
    table.pardon(&block.source);
    assert_eq!((table.sources(), table.stamps), (0, 0));
    assert_eq!(cross_line(&mut table, S).unwrap().strikes, 1);
}

#[test]
fn new_settings_hold_for_the_next_offence_and_keep_counts() {
    let mut table = escalation(&[]);
    assert_eq!(blocks_at(&mut table, GUESSER, OffenceKind::Unauthorized, &train(S, 10, 1)), [0; 0]);
    let lower = config::Threshold { count: 5, within: Duration::from_secs(10) };
    let tightened = config::Escalation { unauthorized: Some(lower), ..settings() };
    table.reconfigure(tightened, Protected::new([], 32, 64));
    assert_eq!(blocks_at(&mut table, GUESSER, OffenceKind::Unauthorized, &[2 * S]), [1]);
}

#[test]
fn forgetting_leaves_what_still_counts() {
    let mut table = escalation(&[]);
    table.observe(&offence(OffenceKind::Unauthorized, "198.51.100.1", S), S);
    let block = cross_line(&mut table, S).unwrap();
    table.forget(11 * S);
    assert_eq!(table.sources(), 2);
    table.forget(11 * S + 1);
    assert_eq!(table.sources(), 1, "one offence is older than every window, the strike is not");
    table.forget(block.until_ns + nanos(settings().memory) + nanos(settings().block_max) + 11 * S);
    assert_eq!((table.sources(), table.stamps), (0, 0));
}

#[test]
fn a_full_table_forgets_whoever_was_quiet_longest() {
    let mut table = Escalation::bounded(settings(), Protected::new([], 32, 64), strangers(), (3, STAMPS_MAX));
    for (place, source) in
        ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.1", "192.0.2.4"].iter().enumerate()
    {
        let at_ns = S + place as u64;
        table.observe(&offence(OffenceKind::Malformed, source, at_ns), at_ns);
    }
    let mut left: Vec<_> = table.sources.keys().map(IpNet::addr).collect();
    left.sort();
    let expected: [IpAddr; 3] = ["192.0.2.1", "192.0.2.3", "192.0.2.4"].map(|source| source.parse().unwrap());
    assert_eq!(left, expected);
    assert_eq!(table.tally().evicted, 1);
}

#[test]
fn times_are_bounded_over_all_sources() {
    let mut table = Escalation::bounded(settings(), Protected::new([], 32, 64), strangers(), (1000, 25));
    for source in ["192.0.2.1", "192.0.2.2"] {
        assert_eq!(blocks_at(&mut table, source, OffenceKind::Limited, &train(S, 15, 1)), [0; 0]);
    }
    assert_eq!((table.sources(), table.stamps, table.tally().evicted), (1, 15, 1));
}

/// The definition, without bounds or cleverness: did any `count` of `times` fit into the window?
fn fits(times: &[u64], threshold: config::Threshold) -> bool {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let within_ns = nanos(threshold.within);
    sorted.windows(threshold.count as usize).any(|run| run[run.len() - 1] - run[0] <= within_ns)
}

proptest! {
    #[test]
    fn the_line_is_exact(gaps in prop::collection::vec(0_u64..1_200, 0..120), count in 1_u32..24) {
        let threshold = config::Threshold { count, within: Duration::from_micros(10) };
        let settings = config::Escalation { unauthorized: Some(threshold), ..settings() };
        let mut table = Escalation::new(settings, Protected::new([], 32, 64), strangers());
        let mut times = vec![];
        for gap in gaps {
            times.push(times.last().copied().unwrap_or(S) + gap);
            let at_ns = times[times.len() - 1];
            let block = table.observe(&offence(OffenceKind::Unauthorized, GUESSER, at_ns), at_ns);
            prop_assert_eq!(block.is_some(), fits(&times, threshold));
            if block.is_some() {
                break;
            }
        }
    }

    #[test]
    fn disorder_never_invents_a_block(times in prop::collection::vec(0_u64..40_000, 0..120), count in 1_u32..24) {
        let threshold = config::Threshold { count, within: Duration::from_micros(10) };
        let settings = config::Escalation { unauthorized: Some(threshold), ..settings() };
        let mut table = Escalation::new(settings, Protected::new([], 32, 64), strangers());
        for seen in 1..=times.len() {
            let offence = offence(OffenceKind::Unauthorized, GUESSER, times[seen - 1]);
            if table.observe(&offence, 40_000).is_some() {
                prop_assert!(fits(&times[..seen], threshold));
                break;
            }
        }
    }

    #[test]
    fn whatever_happens_every_bound_holds_and_every_block_ends(
        offences in prop::collection::vec((0_u8..24, 0_usize..KINDS, any::<bool>(), 0_u64..3 * S), 0..400),
    ) {
        let settings = config::Escalation { block_max: Duration::from_mins(3), ..settings() };
        let protected: Vec<IpNet> = vec!["192.0.2.0/30".parse().unwrap()];
        let mut table = Escalation::bounded(settings, Protected::new(protected.clone(), 30, 64), strangers(), (4, 40));
        let mut now_ns = S;
        for (host, kind, forwarded, gap) in offences {
            now_ns += gap;
            let offence = Offence {
                kind: OffenceKind::ALL[kind],
                source: IpAddr::V4(Ipv4Addr::new(192, 0, 2, host)),
                source_is_forwarded: forwarded,
                at_ns: now_ns,
                route: None,
                request_id: RequestId::new(0, 0),
            };
            if let Some(block) = table.observe(&offence, now_ns) {
                prop_assert!(!forwarded);
                prop_assert!(!protected[0].contains(&offence.source));
                prop_assert!(block.source.contains(&offence.source));
                prop_assert!(!protected[0].contains(&block.source) && !block.source.contains(&protected[0]));
                prop_assert!(block.until_ns > now_ns && block.until_ns <= now_ns + 180 * S);
            }
            let held: usize = table.sources.values().map(Source::stamps).sum();
            prop_assert_eq!(held, table.stamps);
            prop_assert!(table.sources.len() <= 4 && table.stamps <= 40);
            prop_assert_eq!(table.clean.len() + table.struck.len(), table.sources.len());
        }
    }
}
