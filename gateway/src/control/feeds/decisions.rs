//! What a CrowdSec engine's stream says: its JSON in, blocks to write and to end out. Pure.
//!
//! Source: the local API of CrowdSec 1.4 to 1.7, `GET /v1/decisions/stream`. Durations are Go's.

use std::{borrow::Cow, net::IpAddr, time::Duration};

use ipnet::IpNet;
use serde::Deserialize;

use super::parse::is_too_wide;

/// Longer than any decision that makes sense; far from the clock's end.
const DURATION_MAX: Duration = Duration::from_hours(10 * 365 * 24);

/// What has changed, or, asked for the first time, all that there is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decisions {
    /// Blocks with what is left of them.
    pub new: Vec<(IpNet, Duration)>,
    /// Blocks that have ended or were lifted.
    pub deleted: Vec<IpNet>,
    /// What is not ours to carry out.
    pub ignored: Ignored,
}

/// Decisions that lead to no block, by cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ignored {
    /// On something else than an address or a range: a country, a user.
    pub scopes: u64,
    /// To do something else than to block: a captcha, a slower pace.
    pub types: u64,
    /// A value or a duration that can't be read, or a range that is most of the world.
    pub values: u64,
    /// Made to see what would happen.
    pub simulated: u64,
}

#[derive(Deserialize)]
struct Stream<'j> {
    #[serde(borrow)]
    new: Option<Vec<Decision<'j>>>,
    #[serde(borrow)]
    deleted: Option<Vec<Decision<'j>>>,
}

#[derive(Deserialize)]
struct Decision<'j> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'j, str>,
    #[serde(borrow)]
    scope: Cow<'j, str>,
    #[serde(borrow)]
    value: Cow<'j, str>,
    #[serde(borrow, default)]
    duration: Cow<'j, str>,
    #[serde(default)]
    simulated: Option<bool>,
}

/// Reads an answer of the engine. One decision that is odd does not keep the others out.
pub fn parse(body: &[u8]) -> Result<Decisions, serde_json::Error> {
    let stream: Stream<'_> = serde_json::from_slice(body)?;
    let mut decisions = Decisions::default();
    let ignored = &mut decisions.ignored;
    for decision in stream.new.unwrap_or_default() {
        let counter = match (target(&decision), duration(&decision.duration)) {
            _ if decision.simulated == Some(true) => &mut ignored.simulated,
            (Ok(prefix), Some(duration)) => {
                if !duration.is_zero() {
                    decisions.new.push((prefix, duration));
                }
                continue;
            }
            (Err(Odd::Scope), _) => &mut ignored.scopes,
            (Err(Odd::Type), _) => &mut ignored.types,
            (Err(Odd::Value), _) | (Ok(_), None) => &mut ignored.values,
        };
        *counter += 1;
    }
    let deleted = stream.deleted.unwrap_or_default();
    decisions.deleted.extend(deleted.iter().filter_map(|decision| target(decision).ok()));
    Ok(decisions)
}

enum Odd {
    Scope,
    Type,
    Value,
}

fn target(decision: &Decision<'_>) -> Result<IpNet, Odd> {
    let is_range = decision.scope.eq_ignore_ascii_case("range");
    if !is_range && !decision.scope.eq_ignore_ascii_case("ip") {
        return Err(Odd::Scope);
    }
    if !decision.kind.eq_ignore_ascii_case("ban") {
        return Err(Odd::Type);
    }
    let value = decision.value.trim();
    let prefix = value.parse::<IpAddr>().map(IpNet::from).or_else(|_| value.parse::<IpNet>());
    prefix.ok().filter(|prefix| !is_too_wide(prefix)).ok_or(Odd::Value)
}

/// Go's `time.Duration` as text: `3h59m59.5s`, `-12.5ms`; what is below zero is over.
fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 8] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("\u{b5}s", 1e-6),
        ("\u{3bc}s", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    if text.starts_with('-') {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let (number, behind) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let (unit, behind) =
            behind.split_at(behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len()));
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        seconds += number.parse::<f64>().ok()? * factor;
        rest = behind;
    }
    if text.is_empty() {
        return None;
    }
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(DURATION_MAX).min(DURATION_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_go_s() {
        #[track_caller]
        fn check(text: &str, expected: Option<Duration>) {
            assert_eq!(duration(text), expected, "{text}");
        }
        check("3h59m59.5s", Some(Duration::from_millis(14_399_500)));
        check("4h", Some(Duration::from_hours(4)));
        check("1.5ms", Some(Duration::from_micros(1500)));
        check("7\u{b5}s", Some(Duration::from_micros(7)));
        check("-3h1m", Some(Duration::ZERO));
        check("0s", Some(Duration::ZERO));
        check("999999999h", Some(DURATION_MAX));
        check(&format!("{}h", "9".repeat(400)), Some(DURATION_MAX));
        for odd in ["", "4", "h", "4d", "1.2.3s", "4h5", "s4"] {
            check(odd, None);
        }
    }

    #[track_caller]
    fn check(json: &str, new: &[(&str, u64)], deleted: &[&str], ignored: Ignored) {
        let found = parse(json.as_bytes()).unwrap();
        let new: Vec<_> =
            new.iter().map(|(net, s)| (net.parse().unwrap(), Duration::from_secs(*s))).collect();
        let deleted: Vec<IpNet> = deleted.iter().map(|net| net.parse().unwrap()).collect();
        assert_eq!(found, Decisions { new, deleted, ignored });
    }

    #[test]
    fn what_an_engine_says_becomes_blocks() {
        check(r#"{"new":null,"deleted":null}"#, &[], &[], Ignored::default());
        check("{}", &[], &[], Ignored::default());
        check(
            r#"{"deleted":[
                {"duration":"-3h","id":1,"origin":"cscli","scenario":"manual 'ban'","scope":"Ip","type":"ban","value":"192.0.2.1"},
                {"duration":"-3h","scope":"Range","type":"captcha","value":"198.51.100.0/24"}],
               "new":[
                {"duration":"3h59m59s","id":2,"origin":"CAPI","scenario":"crowdsecurity\/ssh-bf","scope":"Ip","type":"ban","value":"192.0.2.2","uuid":"x"},
                {"duration":"1m","scope":"range","type":"ban","value":"2001:db8::/32"},
                {"duration":"-1s","scope":"Ip","type":"ban","value":"192.0.2.9"}]}"#,
            &[("192.0.2.2/32", 14_399), ("2001:db8::/32", 60)],
            &["192.0.2.1/32"],
            Ignored::default(),
        );
    }

    #[test]
    fn what_is_not_ours_is_counted() {
        check(
            r#"{"new":[
                {"duration":"1h","scope":"Country","type":"ban","value":"AQ"},
                {"duration":"1h","scope":"AS","type":"captcha","value":"64496"},
                {"duration":"1h","scope":"Ip","type":"captcha","value":"192.0.2.1"},
                {"duration":"1h","scope":"Ip","type":"throttle","value":"192.0.2.1"},
                {"duration":"1h","scope":"Ip","type":"ban","value":"here"},
                {"duration":"forever","scope":"Ip","type":"ban","value":"192.0.2.1"},
                {"duration":"1h","scope":"Range","type":"ban","value":"0.0.0.0/0"},
                {"duration":"1h","scope":"Ip","type":"ban","value":"192.0.2.3","simulated":true},
                {"duration":"1h","scope":"Ip","type":"ban","value":"192.0.2.4","simulated":false}]}"#,
            &[("192.0.2.4/32", 3600)],
            &[],
            Ignored { scopes: 2, types: 2, values: 3, simulated: 1 },
        );
    }

    #[test]
    fn what_is_no_stream_is_an_error() {
        for body in
            ["", "[]", "{\"new\":[{}]}", "{\"new\":[", "<html>", "{\"message\":\"access forbidden\"} x"]
        {
            assert!(parse(body.as_bytes()).is_err(), "{body}");
        }
    }
}
