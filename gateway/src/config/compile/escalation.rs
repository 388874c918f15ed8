//! `[escalation]`: what becomes a block, whom it spares, and for how long it is remembered.

use std::time::Duration;

use toml::Spanned;

use super::edge::{absent, bucket_or_off};
use crate::config::{
    escalation::{AdminPorts, Escalation, OFFENCE_COUNT_MAX, Threshold},
    raw::{Field, RawAdminPorts, RawEscalation, RawThreshold},
    report::{Report, Scope},
    types::Rate,
    values::OrOff,
};

pub(super) fn escalation(report: &mut Report, section: Option<(Scope, RawEscalation)>) -> Escalation {
    let (at, raw) = section.unwrap_or_else(|| absent("escalation"));
    let block_for = report.duration(&at, "block_for", raw.block_for.as_ref(), Duration::from_mins(1));
    let block_max = report.duration(&at, "block_max", raw.block_max.as_ref(), Duration::from_hours(24));
    if block_for > block_max {
        let place =
            raw.block_max.as_ref().or(raw.block_for.as_ref()).map_or_else(|| at.here(), |value| at.at(value));
        report.error(place, "`escalation.block_max` is shorter than `escalation.block_for`");
    }
    Escalation {
        dry_run: raw.dry_run.is_some_and(Spanned::into_inner),
        block_for,
        block_max,
        memory: report.duration(&at, "memory", raw.memory.as_ref(), Duration::from_hours(24)),
        exempt: report.prefixes(&at, "exempt", raw.exempt),
        admin_ports: raw.admin_ports.map_or(AdminPorts::Unlimited, |ports| admin_ports(report, &at, ports)),
        known_for: report.duration(&at, "known_for", raw.known_for.as_ref(), Duration::from_mins(15)),
        throttle: bucket_or_off(
            report,
            &at,
            "throttle",
            raw.throttle,
            Some(Rate { per_s: 100.0, burst: 200 }),
        ),
        unauthorized: threshold(report, &at, "unauthorized", raw.unauthorized, (20, 10)),
        forbidden: threshold(report, &at, "forbidden", raw.forbidden, (50, 10)),
        limited: threshold(report, &at, "limited", raw.limited, (100, 10)),
        malformed: threshold(report, &at, "malformed", raw.malformed, (5, 10)),
        attack: threshold(report, &at, "attack", raw.attack, (3, 60)),
        not_found: threshold(report, &at, "not_found", raw.not_found, (100, 60)),
    }
}

fn admin_ports(report: &mut Report, at: &Scope, raw: Spanned<RawAdminPorts>) -> AdminPorts {
    let place = at.at(&raw);
    match raw.into_inner() {
        RawAdminPorts::Word(_) => AdminPorts::Unlimited,
        RawAdminPorts::Ports(mut ports) => {
            if ports.contains(&0) {
                report.error(place, "`escalation.admin_ports` holds 0, which is not a port");
            }
            ports.sort_unstable();
            ports.dedup();
            AdminPorts::Ports(ports)
        }
    }
}

fn threshold(
    report: &mut Report,
    at: &Scope,
    key: &str,
    value: Field<OrOff<RawThreshold>>,
    (count, within_s): (u32, u64),
) -> Option<Threshold> {
    let within = Duration::from_secs(within_s);
    let Some(value) = value else { return Some(Threshold { count, within }) };
    let inner = at.inner(key, &value);
    match value.into_inner() {
        OrOff::Off => None,
        OrOff::On(raw) => Some(Threshold {
            count: report.number_u32(&inner, "count", raw.count.as_ref(), count, 1..=OFFENCE_COUNT_MAX),
            within: report.duration(&inner, "within", raw.within.as_ref(), within),
        }),
    }
}
