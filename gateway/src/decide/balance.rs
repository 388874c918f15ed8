//! Which server of an upstream gets the request.
//!
//! Comes in: who is live, how busy each is, whose turn it is, a random number. Goes out: a server's index, or none
//! where no live server is left to try (answer 503 at once). It holds the weights and never counts, remembers or
//! measures: turn and load belong to the caller.

use crate::config;

/// A weight counts as at most this, which bounds the order of turns.
const WEIGHT_MAX: u32 = 256;

/// How the servers of one upstream share its requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balancer {
    how: config::Balance,
    weights: Box<[u32]>,
    /// Server indices, each as often as its weight (divided by what all have in common), spread evenly.
    turns: Box<[u32]>,
}

/// What is known about the servers at this moment.
pub struct Servers<'s> {
    /// Whether a server may be asked.
    pub live: &'s dyn Fn(usize) -> bool,
    /// Requests that it is answering for this worker.
    pub in_flight: &'s dyn Fn(usize) -> u32,
    /// Servers that this request has been to already.
    pub tried: &'s [usize],
}

impl Balancer {
    /// For the servers of an upstream, by their order in it.
    pub fn compile(upstream: &config::Upstream) -> Balancer {
        let weights: Box<[u32]> = upstream.servers.iter().map(|s| s.weight.clamp(1, WEIGHT_MAX)).collect();
        Balancer { how: upstream.balance, turns: turns_of(&weights), weights }
    }

    /// A server that is live and was not tried.
    ///
    /// `turn` is this worker's counter for this upstream: it is moved on. `random` is any 64 random bits.
    pub fn pick(&self, servers: &Servers<'_>, turn: &mut u32, random: u64) -> Option<usize> {
        let usable = |server: &usize| (servers.live)(*server) && !servers.tried.contains(server);
        let count = (0..self.weights.len()).filter(usable).count();
        if count < 2 {
            return (0..self.weights.len()).find(usable);
        }
        match self.how {
            config::Balance::RoundRobin => self.next_in_turn(usable, turn),
            config::Balance::Random => self.any_by_weight(usable, random),
            config::Balance::LeastRequests => self.less_busy_of_two(usable, count, servers.in_flight, random),
        }
    }

    fn next_in_turn(&self, usable: impl Fn(&usize) -> bool, turn: &mut u32) -> Option<usize> {
        let start = *turn as usize % self.turns.len().max(1);
        let (before, from_start) = self.turns.split_at_checked(start)?;
        for (passed, server) in (1u32..).zip(from_start.iter().chain(before)) {
            let server = *server as usize;
            if usable(&server) {
                *turn = u32::try_from(start).unwrap_or_default().wrapping_add(passed);
                return Some(server);
            }
        }
        None
    }

    fn any_by_weight(&self, usable: impl Fn(&usize) -> bool, random: u64) -> Option<usize> {
        let weighted = || self.weights.iter().enumerate().filter(|(server, _)| usable(server));
        let total: u64 = weighted().map(|(_, weight)| u64::from(*weight)).sum();
        let mut left = random.checked_rem(total)?;
        for (server, weight) in weighted() {
            match left.checked_sub(u64::from(*weight)) {
                Some(less) => left = less,
                None => return Some(server),
            }
        }
        None
    }

    /// Two of the `count` usable servers (at least two) at random; the one with less to do for its weight, the first
    /// drawn where both have the same (Mitzenmacher, The Power of Two Choices).
    fn less_busy_of_two(
        &self,
        usable: impl Fn(&usize) -> bool,
        count: usize,
        in_flight: impl Fn(usize) -> u32,
        random: u64,
    ) -> Option<usize> {
        let half = |bits: u64| usize::try_from(bits).unwrap_or_default();
        let (high, low) = (half(random >> 32), half(random & u64::from(u32::MAX)));
        let first = high.checked_rem(count)?;
        // Any but the first: so many steps further round.
        let second = (first + 1 + low.checked_rem(count - 1)?) % count;
        let nth = |n| (0..self.weights.len()).filter(&usable).nth(n);
        let (first, second) = (nth(first)?, nth(second)?);
        let weight = |server: usize| u64::from(self.weights.get(server).copied().unwrap_or(1));
        // With the request that is about to come, so that at rest the weights count as well.
        let load = |server: usize| u64::from(in_flight(server)) + 1;
        let second_is_less_busy = load(second) * weight(first) < load(first) * weight(second);
        Some(if second_is_less_busy { second } else { first })
    }
}

/// Each server's n-th turn lies at (n + ½) / weight of the round; sorted by that, turns alternate as evenly as
/// weights allow.
fn turns_of(weights: &[u32]) -> Box<[u32]> {
    const ROUND: u64 = 1 << 40;
    let common = weights.iter().copied().reduce(gcd).unwrap_or(1).max(1);
    let mut turns: Vec<(u64, u32)> = Vec::new();
    for (server, weight) in (0u32..).zip(weights) {
        let weight = u64::from(weight / common);
        turns.extend((0..weight).map(|n| ((2 * n + 1) * ROUND / (2 * weight), server)));
    }
    turns.sort_unstable();
    turns.into_iter().map(|(_, server)| server).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use config::Balance::{LeastRequests, Random, RoundRobin};

    const ALL: [config::Balance; 3] = [RoundRobin, Random, LeastRequests];

    fn balancer(balance: config::Balance, weights: &[u32]) -> Balancer {
        let address = config::ServerAddress::Fixed("192.0.2.1:80".parse().unwrap());
        Balancer::compile(&config::Upstream {
            protocol: config::UpstreamProtocol::Http1,
            name: "u".into(),
            servers: weights
                .iter()
                .map(|weight| config::Server { address: address.clone(), weight: *weight })
                .collect(),
            tls: None,
            balance,
            connect_timeout: Duration::from_secs(1),
            head_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(1),
            connections_per_worker: 1,
            idle_per_worker: 1,
            connections_pending: 0,
            connection_age_max: None,
            retry: config::Retry {
                attempts: 1,
                on_connect: true,
                on_reset_before_head: true,
                budget_percent: None,
            },
            proxy_protocol: None,
            health: None,
        })
    }

    /// `turns` picks in a row by a cheap generator of random numbers.
    fn picks(balancer: &Balancer, dead: &[usize], tried: &[usize], turns: u32) -> Vec<Option<usize>> {
        let servers = Servers { live: &|s| !dead.contains(&s), in_flight: &|_| 0, tried };
        let (mut turn, mut random) = (0, 0x9e37_79b9_7f4a_7c15u64);
        let mut pick = || {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            balancer.pick(&servers, &mut turn, random.rotate_left(29))
        };
        (0..turns).map(|_| pick()).collect()
    }

    #[track_caller]
    fn check_turns(weights: &[u32], dead: &[usize], expected: &str) {
        let picks = picks(&balancer(RoundRobin, weights), dead, &[], u32::try_from(expected.len()).unwrap());
        let picks: String = picks
            .iter()
            .map(|p| p.map_or('-', |server| char::from(b'a' + u8::try_from(server).unwrap())))
            .collect();
        assert_eq!(picks, expected);
    }

    #[test]
    fn round_robin_takes_turns_by_weight_and_skips_the_dead() {
        check_turns(&[1, 1, 1], &[], "abcabc");
        check_turns(&[5, 1, 1], &[], "aaabcaaaaabcaa");
        check_turns(&[200, 100], &[], "abaaba");
        check_turns(&[1, 1, 1], &[1], "acacac");
        check_turns(&[1, 1], &[0, 1], "--");
        check_turns(&[1], &[], "aa");
        check_turns(&[], &[], "--");
    }

    #[test]
    fn a_turn_counter_wraps() {
        let balancer = balancer(RoundRobin, &[1, 1, 1]);
        let servers = Servers { live: &|_| true, in_flight: &|_| 0, tried: &[] };
        let mut turn = u32::MAX;
        assert!(balancer.pick(&servers, &mut turn, 0).is_some());
        assert!(turn <= 3);
    }

    #[test]
    fn none_live_or_all_tried_is_none() {
        for how in ALL {
            assert_eq!(picks(&balancer(how, &[1, 1]), &[0, 1], &[], 3), [None; 3]);
            assert_eq!(picks(&balancer(how, &[1, 1]), &[0], &[1], 3), [None; 3]);
            assert_eq!(picks(&balancer(how, &[1, 1]), &[0], &[], 3), [Some(1); 3]);
            assert_eq!(picks(&balancer(how, &[1, 1]), &[], &[1], 3), [Some(0); 3]);
        }
    }

    #[test]
    fn random_follows_the_weights() {
        let picks = picks(&balancer(Random, &[3, 1]), &[], &[], 8_000);
        let first = picks.iter().filter(|p| **p == Some(0)).count();
        assert!((5_700..6_300).contains(&first), "{first}");
    }

    #[test]
    fn the_less_busy_of_two_wins_for_its_weight() {
        let pick = |weights: &[u32], load: &'static [u32], random| {
            let servers = Servers { live: &|_| true, in_flight: &|s| load[s], tried: &[] };
            balancer(LeastRequests, weights).pick(&servers, &mut 0, random)
        };
        for random in [0, 1, 1 << 32, u64::MAX] {
            assert_eq!(pick(&[1, 1], &[4, 3], random), Some(1));
            assert_eq!(pick(&[1, 1], &[3, 4], random), Some(0));
            assert_eq!(pick(&[2, 1], &[7, 4], random), Some(0), "8 halves are fewer than 5");
            assert_eq!(pick(&[2, 1], &[10, 4], random), Some(1));
        }
        assert_ne!(pick(&[1, 1], &[0, 0], 0), pick(&[1, 1], &[0, 0], 1 << 32), "a tie is left to chance");
    }

    proptest! {
        #[test]
        fn what_is_picked_is_live_and_untried_and_only_none_when_there_is_none(
            weights in prop::collection::vec(1u32..=256, 0..12), dead: u16, tried: u16, turn: u32, random: u64,
            how in prop::sample::select(ALL.to_vec()), loads: [u16; 16],
        ) {
            let usable = |s: &usize| dead & (1 << s) == 0 && tried & (1 << s) == 0;
            let tried: Vec<usize> = (0..16).filter(|s| tried & (1 << s) != 0).collect();
            let servers = Servers {
                live: &|s| dead & (1 << s) == 0, in_flight: &|s| u32::from(loads[s]), tried: &tried,
            };
            let picked = balancer(how, &weights).pick(&servers, &mut turn.clone(), random);
            prop_assert_eq!(picked.is_some(), (0..weights.len()).any(|s| usable(&s)));
            prop_assert!(picked.is_none_or(|s| s < weights.len() && usable(&s)));
        }
    }
}
