//! `[under_attack]`: the signs of an attack, and what strangers get.

use std::time::Duration;

use toml::Spanned;

use super::edge::absent;
use crate::config::{
    raw::{Field, RawSigns, RawUnderAttack},
    report::{Report, Scope},
    under_attack::{Signs, UnderAttack},
    values::{OrOff, PerSecond, Span},
};

const ELEVATED: Signs = Signs { drops_per_s: Some(1_000.0), syns_per_s: Some(500.0), packets_per_s: None };
const ATTACK: Signs = Signs { drops_per_s: Some(20_000.0), syns_per_s: Some(5_000.0), packets_per_s: None };

pub(super) fn under_attack(report: &mut Report, section: Option<(Scope, RawUnderAttack)>) -> UnderAttack {
    let (at, raw) = section.unwrap_or_else(|| absent("under_attack"));
    let strangers_percent = raw.strangers.as_ref().map_or(50, |percent| percent.get_ref().0);
    let attack_place = raw.attack.as_ref().map(|attack| at.at(attack));
    let (elevated, attack) = (signs(raw.elevated, ELEVATED), signs(raw.attack, ATTACK));
    let is_below =
        |low: Option<f64>, high: Option<f64>| matches!((low, high), (Some(low), Some(high)) if low > high);
    if is_below(elevated.drops_per_s, attack.drops_per_s)
        || is_below(elevated.syns_per_s, attack.syns_per_s)
        || is_below(elevated.packets_per_s, attack.packets_per_s)
    {
        let place = attack_place.unwrap_or_else(|| at.here());
        report.error(place, "`under_attack.attack` begins below `under_attack.elevated`");
    }
    UnderAttack {
        elevated,
        attack,
        calm_after: report.duration(&at, "calm_after", raw.calm_after.as_ref(), Duration::from_secs(30)),
        strangers_percent,
        long_lived: long_lived(report, &at, raw.long_lived),
    }
}

fn long_lived(report: &mut Report, at: &Scope, value: Field<OrOff<Span>>) -> Option<Duration> {
    const DEFAULT: Duration = Duration::from_mins(5);
    let Some(value) = value else { return Some(DEFAULT) };
    let span = value.span();
    match value.into_inner() {
        OrOff::Off => None,
        OrOff::On(age) => Some(report.duration(at, "long_lived", Some(&Spanned::new(span, age)), DEFAULT)),
    }
}

/// What is left out keeps its default.
fn signs(raw: Field<RawSigns>, default: Signs) -> Signs {
    let raw = raw.map(Spanned::into_inner).unwrap_or_default();
    let rate = |value: Field<OrOff<PerSecond>>, default: Option<f64>| match value.map(Spanned::into_inner) {
        None => default,
        Some(OrOff::Off) => None,
        Some(OrOff::On(rate)) => Some(rate.0),
    };
    Signs {
        drops_per_s: rate(raw.drops, default.drops_per_s),
        syns_per_s: rate(raw.syns, default.syns_per_s),
        packets_per_s: rate(raw.packets, default.packets_per_s),
    }
}
