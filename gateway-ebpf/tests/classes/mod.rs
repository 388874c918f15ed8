//! Classes and guard are short cuts: no verdict may change for them. Held against the bare tables, with rules and
//! addresses that are drawn to meet.
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "bits are drawn, and any of them make an address"
)]

use gateway_ebpf::{Ban, Reason, layout::THROTTLE};
use ipnet::IpNet;
use proptest::prelude::*;

use crate::{
    judge, settings,
    table::{
        frames::{ACK, tcp4, tcp6},
        world::{EXPIRED_NS, Host, LIVE_NS, NOW_NS, THROTTLE_NS},
    },
};

/// An address in few /24s and /48s, with bits that differ where prefixes of all lengths end.
fn address(number: u64, v6: bool) -> std::net::IpAddr {
    let number = number & 0x0307_0101_0301_0703;
    if v6 {
        std::net::Ipv6Addr::from_bits(0x2001_0db8_0000_0000_0000_0000_0000_0000 ^ u128::from(number) << 56)
            .into()
    } else {
        std::net::Ipv4Addr::from_bits(
            0x0a00_0000 | (number >> 16) as u32 & 0x0303_0303 | number as u32 & 0x701,
        )
        .into()
    }
}

fn prefix() -> impl Strategy<Value = IpNet> {
    (any::<u64>(), any::<bool>(), 0_u8..=128).prop_map(|(number, v6, bits)| {
        let bits = if v6 { bits } else { bits % 33 };
        IpNet::new(address(number, v6), bits).unwrap().trunc()
    })
}

/// Blocks for good, that end, that have ended, and throttles that are used up.
fn ban() -> impl Strategy<Value = Ban> {
    (0_u8..4).prop_map(|kind| match kind {
        0 => Ban::default(),
        1 => Ban { expires_at_ns: LIVE_NS, ..Ban::default() },
        2 => Ban { expires_at_ns: EXPIRED_NS, ..Ban::default() },
        _ => Ban {
            action: THROTTLE,
            interval_ns: THROTTLE_NS,
            burst: 1,
            arrival_ns: NOW_NS + THROTTLE_NS,
            ..Ban::default()
        },
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn no_verdict_changes_for_a_class(
        allow in prop::collection::vec(prefix(), 0..3),
        bans in prop::collection::btree_map(prefix(), ban(), 0..4),
        sources in prop::collection::vec((any::<u64>(), any::<bool>()), 1..40),
    ) {
        let settings = settings();
        let bans: Vec<(IpNet, Ban)> = bans.into_iter().collect();
        let mut bare = Host::with(&settings, allow.clone(), bans.clone());
        let mut settled = Host::with(&settings, allow.clone(), bans.clone());
        settled.settle();
        let edges = allow.iter().chain(bans.iter().map(|(prefix, _)| prefix));
        let edges = edges.flat_map(|prefix| [prefix.network(), prefix.broadcast()]);
        for source in sources.into_iter().map(|(number, v6)| address(number, v6)).chain(edges) {
            let frame = if source.is_ipv4() { tcp4 } else { tcp6 }(&source.to_string(), 443, ACK);
            let [plain, short] = [&mut bare, &mut settled].map(|host| judge(&frame, &settings, host, NOW_NS));
            // A /24 that is dropped whole does not say by which entry, nor what else its source has earned.
            let whole = short == Reason::BlockedPrefix
                && matches!(plain, Reason::BlockedSource | Reason::Throttled);
            prop_assert!(short == plain || whole, "{source}: {plain:?} became {short:?}");
        }
    }
}
