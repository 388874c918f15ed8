//! What is measured, and what was promised: the table of `bench proxy`.

use super::{
    load::Pace,
    report::{CPU, Goal, P99},
    subject::Protocol,
};

/// The subject that the others are compared with.
pub(super) const BASELINE: &str = "nginx";
/// The other peer that HTTP/2 is held against.
const ENVOY: &str = "envoy";

/// One row of the table to come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Case {
    /// Protocol, body, clients.
    pub(super) name: &'static str,
    /// What it says in the chart.
    pub(super) title: &'static str,
    pub(super) protocol: Protocol,
    pub(super) target: &'static str,
    pub(super) body_bytes: u32,
    pub(super) connections: u32,
    pub(super) pacing: Pacing,
    pub(super) goals: &'static [Goal],
}

/// [`Pace`], as far as it is known beforehand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pacing {
    Known(Pace),
    /// A constant rate: this share of what the baseline does at most.
    ShareOfBaseline(f64),
}

const CLOSED: Pacing = Pacing::Known(Pace::Closed);
/// Requests at once on each HTTP/2 connection.
const STREAMS: u32 = 16;

const fn cpu(ratio_max: f64) -> Goal {
    Goal { metric: CPU, ratio_max, to: BASELINE }
}

pub(super) const CASES: [Case; 9] = [
    Case {
        name: "h1-128B-64c",
        title: "HTTP/1.1, 128 B",
        protocol: Protocol::Http1,
        target: "/files/128",
        body_bytes: 128,
        connections: 64,
        pacing: CLOSED,
        goals: &[cpu(0.75)],
    },
    Case {
        name: "h1-16KiB-64c",
        title: "HTTP/1.1, 16 KiB",
        protocol: Protocol::Http1,
        target: "/files/16k",
        body_bytes: 16 * 1024,
        connections: 64,
        pacing: CLOSED,
        goals: &[cpu(0.75)],
    },
    Case {
        name: "h1-1MiB-16c",
        title: "HTTP/1.1, 1 MiB",
        protocol: Protocol::Http1,
        target: "/files/1m",
        body_bytes: 1024 * 1024,
        connections: 16,
        pacing: CLOSED,
        goals: &[cpu(0.50)],
    },
    Case {
        name: "tls-128B-64c",
        title: "TLS, 128 B",
        protocol: Protocol::Http1Tls,
        target: "/files/128",
        body_bytes: 128,
        connections: 64,
        pacing: CLOSED,
        goals: &[cpu(0.70)],
    },
    Case {
        name: "tls-16KiB-64c",
        title: "TLS, 16 KiB",
        protocol: Protocol::Http1Tls,
        target: "/files/16k",
        body_bytes: 16 * 1024,
        connections: 64,
        pacing: CLOSED,
        goals: &[cpu(0.60)],
    },
    Case {
        name: "tls-fresh-128B-16c",
        title: "TLS handshake each",
        protocol: Protocol::Http1Tls,
        target: "/files/128",
        body_bytes: 128,
        connections: 16,
        pacing: Pacing::Known(Pace::Fresh),
        goals: &[cpu(0.70)],
    },
    Case {
        name: "h2-128B-16c",
        title: "HTTP/2 over TLS, 16 × 16",
        protocol: Protocol::Http2Tls,
        target: "/files/128",
        body_bytes: 128,
        connections: 16,
        pacing: Pacing::Known(Pace::Streams(STREAMS)),
        goals: &[cpu(0.50), Goal { metric: CPU, ratio_max: 0.50, to: ENVOY }],
    },
    Case {
        name: "h2c-128B-16c",
        title: "HTTP/2, 16 × 16",
        protocol: Protocol::Http2,
        target: "/files/128",
        body_bytes: 128,
        connections: 16,
        pacing: Pacing::Known(Pace::Streams(STREAMS)),
        goals: &[cpu(0.50), Goal { metric: CPU, ratio_max: 0.50, to: ENVOY }],
    },
    Case {
        name: "paced-128B-64c",
        title: "HTTP/1.1, 128 B, at 70 % of nginx's most",
        protocol: Protocol::Http1,
        target: "/files/128",
        body_bytes: 128,
        connections: 64,
        pacing: Pacing::ShareOfBaseline(0.70),
        goals: &[Goal { metric: P99, ratio_max: 1.00, to: BASELINE }],
    },
];

/// Memory of idle connections.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct IdleCase {
    pub(super) name: &'static str,
    pub(super) protocol: Protocol,
    /// Bytes that each connection may cost us.
    pub(super) bytes_max: f64,
}

/// How many connections idle at once: so many that what is allocated in pieces of megabytes counts as what it is.
pub(super) const IDLE_CONNECTIONS: u32 = 6000;

pub(super) const IDLE_CASES: [IdleCase; 2] = [
    IdleCase { name: "idle-plain", protocol: Protocol::Http1, bytes_max: 1024.0 },
    IdleCase { name: "idle-tls", protocol: Protocol::Http1Tls, bytes_max: 12.0 * 1024.0 },
];

/// The gateway with few and with many routes.
pub(super) const ROUTES_CASE: &str = "routes-100000";
pub(super) const ROUTES_FEW: u32 = 10;
pub(super) const ROUTES_MANY: u32 = 100_000;
/// What finding one among many may cost.
pub(super) const ROUTES_RATIO_MAX: f64 = 1.05;

/// Every name, for messages and for `--case`.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let loads = CASES.iter().map(|case| case.name);
    loads.chain(IDLE_CASES.iter().map(|case| case.name)).chain([ROUTES_CASE])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_named_after_what_they_do() {
        for case in CASES {
            let body = match case.body_bytes {
                bytes if bytes >= 1 << 20 => format!("{}MiB", bytes >> 20),
                bytes if bytes >= 1 << 10 => format!("{}KiB", bytes >> 10),
                bytes => format!("{bytes}B"),
            };
            let protocol = match (case.pacing, case.protocol) {
                (Pacing::ShareOfBaseline(_), _) => "paced",
                (Pacing::Known(Pace::Fresh), _) => "tls-fresh",
                (_, Protocol::Http1) => "h1",
                (_, Protocol::Http1Tls) => "tls",
                (_, Protocol::Http2) => "h2c",
                (_, Protocol::Http2Tls) => "h2",
            };
            assert_eq!(case.name, format!("{protocol}-{body}-{}c", case.connections));
        }
    }

    #[test]
    fn names_are_told_apart() {
        let mut all: Vec<_> = names().collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), CASES.len() + IDLE_CASES.len() + 1);
    }
}
