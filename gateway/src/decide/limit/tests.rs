//! Buckets against arithmetic, and the table against threads.

use std::{
    sync::atomic::AtomicU32,
    thread::{available_parallelism, scope},
};

use proptest::prelude::*;

use super::*;

const SECOND_NS: u64 = 1_000_000_000;
const NOW_NS: u64 = 1_000 * SECOND_NS;

fn bucket(per_s: f64, burst: u64) -> Bucket {
    Bucket::new(config::Rate { per_s, burst })
}

fn table(slots: usize) -> Table {
    Table::new(slots, RandomState::new())
}

fn source(n: u32) -> Subject<'static> {
    Subject::Source(IpAddr::V4(n.into()))
}

/// At least as many as there are CPUs, and never fewer than four, so that some lose theirs in mid-step.
fn threads() -> u32 {
    available_parallelism().map_or(4, |n| u32::try_from(n.get()).unwrap().clamp(4, 16))
}

#[test]
fn a_full_bucket_gives_its_burst_and_then_its_rate() {
    let (table, bucket) = (table(64), bucket(10.0, 3));
    let key = table.key("l", source(1));
    for _ in 0..3 {
        assert_eq!(table.admit(key, bucket, NOW_NS), Ok(()));
    }
    assert_eq!(table.admit(key, bucket, NOW_NS), Err(SECOND_NS / 10));
    assert_eq!(table.admit(key, bucket, NOW_NS + SECOND_NS / 10 - 1), Err(1));
    assert_eq!(table.admit(key, bucket, NOW_NS + SECOND_NS / 10), Ok(()));
    assert_eq!(table.admit(key, bucket, NOW_NS + SECOND_NS / 10), Err(SECOND_NS / 10));
    for _ in 0..3 {
        assert_eq!(table.admit(key, bucket, NOW_NS + 60 * SECOND_NS), Ok(()));
    }
    assert_eq!(table.admit(key, bucket, NOW_NS + 60 * SECOND_NS), Err(SECOND_NS / 10));
}

#[test]
fn every_subject_and_every_limit_has_its_own_bucket() {
    let (table, bucket) = (table(1024), bucket(1.0, 1));
    let subjects = [source(1), source(2), Subject::Consumer("a"), Subject::Route("a"), Subject::Header(b"a")];
    for limit in ["one", "two"] {
        for subject in subjects {
            assert_eq!(table.admit(table.key(limit, subject), bucket, NOW_NS), Ok(()), "{limit} {subject:?}");
            assert!(table.admit(table.key(limit, subject), bucket, NOW_NS).is_err(), "{limit} {subject:?}");
        }
    }
}

#[test]
fn an_ipv6_source_is_its_64_and_a_mapped_address_is_its_ipv4() {
    let same = |a: &str, b: &str| Subject::source(a.parse().unwrap()) == Subject::source(b.parse().unwrap());
    assert!(same("2001:db8::1", "2001:db8::ffff:1"));
    assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
    assert!(same("::ffff:192.0.2.1", "192.0.2.1"));
    assert!(!same("192.0.2.1", "192.0.2.2"));
}

#[test]
fn extreme_rates_and_times_neither_overflow_nor_let_all_pass() {
    for (per_s, burst) in [(1e-9, u64::MAX), (1e-30, 1), (1e30, 1), (1e30, u64::MAX), (f64::MAX, 1)] {
        for now_ns in [0, 1, TIME_NS_MAX, u64::MAX] {
            let table = table(8);
            let key = table.key("l", source(1));
            assert_eq!(table.admit(key, bucket(per_s, burst), now_ns), Ok(()));
            let again = table.admit(key, bucket(per_s, burst), now_ns);
            assert_eq!(again.is_ok(), burst > 1, "{per_s} {burst} {now_ns}");
        }
    }
}

#[test]
fn many_threads_on_one_key_get_exactly_its_burst() {
    const BURST: u64 = 1_000;
    for round in 0..20 {
        let (table, bucket) = (table(64), bucket(1.0, BURST));
        let key = table.key("l", source(round));
        let admitted = AtomicU64::new(0);
        scope(|scope| {
            for _ in 0..threads() {
                scope.spawn(|| {
                    let mine = (0..BURST).filter(|_| table.admit(key, bucket, NOW_NS).is_ok()).count();
                    admitted.fetch_add(u64::try_from(mine).unwrap(), SeqCst);
                });
            }
        });
        assert_eq!(admitted.into_inner(), BURST);
        assert_eq!((table.evictions(), table.overruns()), (0, 0));
    }
}

/// All threads meet each key for the first time together, at times that differ a little, in sets that hold other
/// keys whose slots become idle meanwhile: every key still gets its burst and no more.
#[test]
fn a_key_that_many_claim_at_once_gets_one_bucket() {
    const KEYS: u32 = 4_000;
    const BURST: u32 = 2;
    let (table, bucket) = (table(usize::try_from(KEYS).unwrap() * 64), bucket(1.0, u64::from(BURST)));
    let idle_soon = Bucket { interval_ns: 1_000, tolerance_ns: 0 };
    let admitted: Vec<AtomicU32> = std::iter::repeat_with(AtomicU32::default).take(KEYS as usize).collect();
    let turn = AtomicU32::new(0);
    let threads = threads();
    scope(|scope| {
        for thread in 0..threads {
            let (table, admitted, turn) = (&table, &admitted, &turn);
            scope.spawn(move || {
                for (n, admitted) in (0u32..).zip(admitted) {
                    let now_ns = NOW_NS + u64::from(n) * 100 + u64::from(thread);
                    let _ = table.admit(table.key("other", source(n * threads + thread)), idle_soon, now_ns);
                    turn.fetch_add(1, SeqCst);
                    while turn.load(SeqCst) < (n + 1) * threads {
                        std::thread::yield_now();
                    }
                    for _ in 0..BURST {
                        if table.admit(table.key("l", source(n)), bucket, now_ns).is_ok() {
                            admitted.fetch_add(1, SeqCst);
                        }
                    }
                }
            });
        }
    });
    let wrong = admitted.iter().filter(|admitted| admitted.load(SeqCst) != BURST).count();
    assert_eq!((wrong, table.evictions(), table.overruns()), (0, 0, 0));
}

/// One set, more keys than slots, all threads at once: nothing is lost, stuck or left reserved.
#[test]
fn a_set_under_pressure_stays_whole() {
    let (table, bucket) = (table(SLOTS_PER_SET), bucket(1.0, 1));
    scope(|scope| {
        for thread in 0..threads() {
            let table = &table;
            scope.spawn(move || {
                for n in 0..5_000 {
                    let _ =
                        table.admit(table.key("l", source((n + thread) % 24)), bucket, NOW_NS + u64::from(n));
                }
            });
        }
    });
    assert_eq!(table.overruns(), 0);
    let slots = &table.sets[0].slots;
    assert!(slots.iter().all(|slot| !is_reserved(slot.arrival.load(SeqCst))));
    let mut keys: Vec<u64> =
        slots.iter().filter(|s| s.arrival.load(SeqCst) != FREE).map(|s| s.key.load(SeqCst)).collect();
    let owned = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), owned, "a key has two slots");
}

#[test]
fn a_slot_is_taken_from_the_idle_first_and_an_eviction_is_counted() {
    let table = table(SLOTS_PER_SET);
    let slow = bucket(1.0, 1);
    for n in 0..8 {
        assert_eq!(table.admit(table.key("l", source(n)), slow, NOW_NS + u64::from(n)), Ok(()));
    }
    assert_eq!(table.evictions(), 0);
    // All eight still hold back someone: the one that ends soonest goes.
    let later_ns = NOW_NS + 10;
    assert_eq!(table.admit(table.key("l", source(8)), slow, later_ns), Ok(()));
    assert_eq!(table.evictions(), 1);
    assert!(table.admit(table.key("l", source(1)), slow, later_ns).is_err());
    assert_eq!(table.admit(table.key("l", source(0)), slow, later_ns), Ok(()), "was forgotten");
    assert_eq!(table.evictions(), 2);
    // A second later all are idle, and taking their slots forgets nothing.
    for n in 20..28 {
        assert_eq!(table.admit(table.key("l", source(n)), slow, NOW_NS + 2 * SECOND_NS), Ok(()));
    }
    assert_eq!(table.evictions(), 2);
}

#[test]
fn a_reservation_whose_owner_vanished_is_pushed_aside() {
    let table = table(SLOTS_PER_SET);
    let key = table.key("l", source(1));
    let stuck = &table.sets[0].slots[0];
    stuck.key.store(key.0, SeqCst);
    stuck.arrival.store(RESERVED | PUBLISHED | 7, SeqCst);
    assert_eq!(table.admit(key, bucket(1.0, 1), NOW_NS), Ok(()));
    assert!(table.admit(key, bucket(1.0, 1), NOW_NS).is_err());
    assert_eq!(table.overruns(), 0);
}

proptest! {
    /// Whatever the pattern of arrivals, no more pass than the burst and what the time that went by has refilled,
    /// and one that is told to wait passes after exactly that wait.
    #[test]
    fn never_more_than_rate_times_time_and_burst(
        per_s in 1u32..10_000, burst in 1u64..100, steps_ns in prop::collection::vec(0u64..50_000_000, 1..400),
    ) {
        let (table, bucket) = (table(8), bucket(f64::from(per_s), burst));
        let key = table.key("l", source(1));
        let (mut now_ns, mut admitted) = (NOW_NS, 0u64);
        for step_ns in steps_ns {
            now_ns += step_ns;
            match table.admit(key, bucket, now_ns) {
                Ok(()) => admitted += 1,
                Err(wait_ns) => {
                    prop_assert!(wait_ns <= bucket.interval_ns);
                    prop_assert!(bucket.next(table.sets[0].slots[0].arrival.load(SeqCst), now_ns + wait_ns).is_ok());
                }
            }
            prop_assert!(admitted <= burst + (now_ns - NOW_NS) / bucket.interval_ns);
        }
    }
}
