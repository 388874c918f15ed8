//! Times of keys: seconds since the epoch, RFC 3339 in UTC where they are written. It never asks what time it is.

use jiff::{Timestamp, civil, tz::TimeZone};

/// A second as RFC 3339 has it.
pub fn rfc3339(unix_s: u64) -> String {
    timestamp(unix_s).to_string()
}

/// A time with its zone, or a day, which begins at midnight in UTC. None before 1970.
pub fn parse_date(text: &str) -> Option<u64> {
    let parsed = text.parse::<Timestamp>().ok().or_else(|| {
        // A time without its zone is no time.
        let day: civil::Date = (text.len() == "2027-01-01".len()).then(|| text.parse().ok())??;
        day.to_zoned(TimeZone::UTC).ok().map(|midnight| midnight.timestamp())
    });
    u64::try_from(parsed?.as_second()).ok()
}

/// The last second that can be written stands for all that come behind it.
fn timestamp(unix_s: u64) -> Timestamp {
    i64::try_from(unix_s).ok().and_then(|s| Timestamp::from_second(s).ok()).unwrap_or(Timestamp::MAX)
}

/// Serde's way with seconds.
pub(super) mod seconds {
    use std::borrow::Cow;

    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde calls")]
    pub(in crate::keys) fn serialize<S: Serializer>(unix_s: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&super::timestamp(*unix_s))
    }

    pub(in crate::keys) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let expected = || D::Error::custom("a time is written with its zone, such as 2027-01-01T00:00:00Z");
        super::parse_date(&text).ok_or_else(expected)
    }
}

/// The same, where there may be none.
pub(super) mod optional {
    use serde::{Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "the shape that serde calls")]
    pub(in crate::keys) fn serialize<S: Serializer>(
        unix_s: &Option<u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match unix_s {
            Some(unix_s) => super::seconds::serialize(unix_s, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(in crate::keys) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<u64>, D::Error> {
        super::seconds::deserialize(deserializer).map(Some)
    }
}
