//! Durations, sizes and rates: text in, numbers out.
//!
//! A number without a unit is refused where one is needed, so that nobody has to know whether a timeout counts
//! seconds or milliseconds. Fractions are refused too: "1500ms" says what "1.5s" means without rounding.

use std::{num::NonZeroU64, time::Duration};

/// Longer than any timeout or block that makes sense; sums of two such durations never overflow a clock.
pub(super) const DURATION_MAX: Duration = Duration::from_hours(10 * 365 * 24);

const DURATIONS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZES: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
const RATES: [(&str, u64); 4] = [("/s", 1), ("/m", 60), ("/h", 3_600), ("/d", 86_400)];

/// `250ms`, `30s`, `5m`, `24h`, `7d`; the error is a sentence.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (count, unit_ms) = number_and_unit(text, &DURATIONS, "a duration", "30s")?;
    let duration = count.checked_mul(unit_ms).map(Duration::from_millis).filter(|d| *d <= DURATION_MAX);
    duration.ok_or_else(|| format!("{text:?} is longer than ten years"))
}

/// `512B`, `8KiB`, `8MiB`, `1GiB`, in bytes; the error is a sentence.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let (count, unit_bytes) = number_and_unit(text, &SIZES, "a size", "8KiB")?;
    count
        .checked_mul(unit_bytes)
        .filter(|n| *n <= i64::MAX.unsigned_abs())
        .ok_or_else(|| format!("{text:?} is too large"))
}

/// `100/s`, `6000/m`, per second; the error is a sentence.
pub(super) fn rate_per_s(text: &str) -> Result<f64, String> {
    let (count, unit_s) = number_and_unit(text, &RATES, "a rate", "100/s")?;
    let count = u32::try_from(count).map_err(|_| format!("{text:?} is too large"))?;
    let unit_s = u32::try_from(unit_s).map_err(|_| format!("{text:?} is too large"))?;
    Ok(f64::from(count) / f64::from(unit_s))
}

/// `500B/s`, `1KiB/s`, in bytes; the error is a sentence.
pub(super) fn bytes_per_s(text: &str) -> Result<NonZeroU64, String> {
    let Some(bytes) = text.strip_suffix("/s") else {
        return Err(format!("{text:?} is not a size per second: write for example \"500B/s\""));
    };
    NonZeroU64::new(size(bytes)?).ok_or_else(|| format!("{text:?} asks for nothing: write \"off\" instead"))
}

/// `20%`, 0 to 100; the error is a sentence.
pub(super) fn percent(text: &str) -> Result<u32, String> {
    let (count, _) = number_and_unit(text, &[("%", 1)], "a share", "20%")?;
    let percent = u32::try_from(count).ok().filter(|percent| *percent <= 100);
    percent.ok_or_else(|| format!("{text:?} is more than all: write 0% to 100%"))
}

/// Splits digits from the unit behind them. `_` groups digits, as in TOML.
fn number_and_unit(
    text: &str,
    units: &[(&str, u64)],
    what: &str,
    example: &str,
) -> Result<(u64, u64), String> {
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let names = || units.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(format!(
            "{text:?} is not {what}: write a whole number and one of {}, for example {example:?}",
            names()
        ));
    }
    if unit.is_empty() {
        return Err(format!("{text:?} needs a unit: one of {}, for example {example:?}", names()));
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("{unit:?} is not a unit of {what}: use one of {}", names()));
    };
    let count = digits.replace('_', "").parse().map_err(|_| format!("{text:?} is too large"))?;
    Ok((count, *factor))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check<T: PartialEq + std::fmt::Debug>(parsed: &Result<T, String>, expected: Result<T, &str>) {
        match (parsed, expected) {
            (Ok(value), Ok(expected)) => assert_eq!(*value, expected),
            (Err(message), Err(part)) => assert!(message.contains(part), "{message}"),
            (parsed, expected) => panic!("{parsed:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn durations() {
        check(&duration("250ms"), Ok(Duration::from_millis(250)));
        check(&duration("30s"), Ok(Duration::from_secs(30)));
        check(&duration("5m"), Ok(Duration::from_mins(5)));
        check(&duration("24h"), Ok(Duration::from_hours(24)));
        check(&duration("1_000ms"), Ok(Duration::from_secs(1)));
        check(&duration("3650d"), Ok(DURATION_MAX));
        check(&duration("3651d"), Err("longer than ten years"));
        check(&duration("18446744073709551615d"), Err("longer than ten years"));
        check(&duration("18446744073709551616s"), Err("too large"));
        check(&duration("30"), Err("needs a unit: one of ms, s, m, h, d"));
        check(&duration("30 s"), Err("\" s\" is not a unit of a duration"));
        check(&duration("1.5s"), Err("is not a unit"));
        check(&duration("-1s"), Err("is not a duration"));
        check(&duration("_1s"), Err("is not a duration"));
        check(&duration(""), Err("is not a duration"));
    }

    #[test]
    fn sizes() {
        check(&size("512B"), Ok(512));
        check(&size("8KiB"), Ok(8192));
        check(&size("8MiB"), Ok(8 << 20));
        check(&size("8388608"), Err("needs a unit"));
        check(&size("8MB"), Err("use one of B, KiB, MiB, GiB"));
        check(&size("9223372036854775808B"), Err("too large"));
    }

    #[test]
    fn byte_rates() {
        check(&bytes_per_s("500B/s").map(NonZeroU64::get), Ok(500));
        check(&bytes_per_s("1KiB/s").map(NonZeroU64::get), Ok(1024));
        check(&bytes_per_s("500B"), Err("is not a size per second"));
        check(&bytes_per_s("500/s"), Err("needs a unit"));
        check(&bytes_per_s("0B/s"), Err("write \"off\""));
        check(&bytes_per_s("1KB/s"), Err("use one of B, KiB, MiB, GiB"));
    }

    #[test]
    fn rates() {
        check(&rate_per_s("100/s"), Ok(100.0));
        check(&rate_per_s("6000/m"), Ok(100.0));
        check(&rate_per_s("30/m"), Ok(0.5));
        check(&rate_per_s("100"), Err("needs a unit"));
        check(&rate_per_s("100/w"), Err("is not a unit of a rate"));
        check(&rate_per_s("4294967296/s"), Err("too large"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(count in 0u64..=87_600, unit in 0usize..4) {
            let (name, ms) = DURATIONS[unit];
            prop_assert_eq!(duration(&format!("{count}{name}")), Ok(Duration::from_millis(count * ms)));
            let (name, bytes) = SIZES[unit];
            prop_assert_eq!(size(&format!("{count}{name}")), Ok(count * bytes));
            let (name, s) = RATES[unit];
            let per_s = rate_per_s(&format!("{count}{name}")).unwrap();
            let (count, s) = (u32::try_from(count).unwrap(), u32::try_from(s).unwrap());
            prop_assert!((per_s * f64::from(s) - f64::from(count)).abs() < 1e-6);
        }

        #[test]
        fn nothing_panics(text in ".{0,24}") {
            let _ = (duration(&text), size(&text), rate_per_s(&text), bytes_per_s(&text));
        }
    }
}
