//! The kinds of value that TOML has no word for: numbers with a unit, "off", a text or a table.
//!
//! Comes in: what serde hands over. Goes out: a checked value, or an error that says what to write instead.

use std::{fmt, marker::PhantomData, num::NonZeroU64, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{
        Error, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};

use super::units;

/// A duration with its unit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span(pub(super) Duration);

/// A size with its unit, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size(pub(super) u64);

/// A rate with its unit, per second.
#[derive(Debug, Clone, Copy)]
pub(super) struct PerSecond(pub(super) f64);

/// A size per second, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct ByteRate(pub(super) NonZeroU64);

/// A share in whole percent, 0 to 100.
#[derive(Debug, Clone, Copy)]
pub(super) struct Percent(pub(super) u32);

/// A value that "off" switches off.
#[derive(Debug, Clone)]
pub(super) enum OrOff<T> {
    /// "off"
    Off,
    /// Anything else.
    On(T),
}

/// A text, or something with more to it.
#[derive(Debug, Clone)]
pub(super) enum TextOr<T> {
    /// A string.
    Text(String),
    /// Not a string.
    More(T),
}

/// A switch, or something with more to it.
#[derive(Debug, Clone)]
pub(super) enum FlagOr<T> {
    /// `true` or `false`
    Flag(bool),
    /// Not a switch.
    More(T),
}

/// The value of a key that does not work yet. "off", `false`, and what is empty ask for nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Later {
    asks: bool,
}

impl Later {
    /// Whether it asks for something.
    pub(super) fn asks(self) -> bool {
        self.asks
    }
}

/// Reads a string by one of the functions of `units`.
struct UnitVisitor<T> {
    parse: fn(&str) -> Result<T, String>,
    expecting: &'static str,
    unit: &'static str,
}

impl<T> Visitor<'_> for UnitVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        Err(E::custom(format_args!("{number} needs a unit, for example \"{number}{}\"", self.unit)))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let expecting = "a duration such as \"30s\"";
        from.deserialize_any(UnitVisitor { parse: units::duration, expecting, unit: "s" }).map(Self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let expecting = "a size such as \"8KiB\"";
        from.deserialize_any(UnitVisitor { parse: units::size, expecting, unit: "B" }).map(Self)
    }
}

impl<'de> Deserialize<'de> for PerSecond {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let expecting = "a rate such as \"100/s\"";
        from.deserialize_any(UnitVisitor { parse: units::rate_per_s, expecting, unit: "/s" }).map(Self)
    }
}

impl<'de> Deserialize<'de> for ByteRate {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let expecting = "a size per second such as \"500B/s\"";
        from.deserialize_any(UnitVisitor { parse: units::bytes_per_s, expecting, unit: "B/s" }).map(Self)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let expecting = "a share such as \"20%\"";
        from.deserialize_any(UnitVisitor { parse: units::percent, expecting, unit: "%" }).map(Self)
    }
}

/// Hands what is not the special string on to `T`.
macro_rules! hand_on {
    ($wrap:expr) => {
        fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
            T::deserialize(value.into_deserializer()).map($wrap)
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
            T::deserialize(value.into_deserializer()).map($wrap)
        }

        fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
            T::deserialize(value.into_deserializer()).map($wrap)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
            T::deserialize(SeqAccessDeserializer::new(seq)).map($wrap)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map)).map($wrap)
        }
    };
}

struct OrOffVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OrOffVisitor<T> {
    type Value = OrOff<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or \"off\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        if text == "off" { Ok(OrOff::Off) } else { T::deserialize(text.into_deserializer()).map(OrOff::On) }
    }

    hand_on!(OrOff::On);
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OrOff<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(OrOffVisitor(PhantomData))
    }
}

struct TextOrVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for TextOrVisitor<T> {
    type Value = TextOr<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a table")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(TextOr::Text(text.to_owned()))
    }

    hand_on!(TextOr::More);
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for TextOr<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TextOrVisitor(PhantomData))
    }
}

struct FlagOrVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for FlagOrVisitor<T> {
    type Value = FlagOr<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true, false or a table")
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Self::Value, E> {
        Ok(FlagOr::Flag(flag))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(FlagOr::More)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for FlagOr<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(FlagOrVisitor(PhantomData))
    }
}

struct LaterVisitor;

impl<'de> Visitor<'de> for LaterVisitor {
    type Value = Later;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Later, E> {
        Ok(Later { asks: !matches!(text, "" | "off") })
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Later, E> {
        Ok(Later { asks: value })
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Later, E> {
        Ok(Later { asks: true })
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Later, E> {
        Ok(Later { asks: true })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Later, A::Error> {
        let mut asks = false;
        while seq.next_element::<IgnoredAny>()?.is_some() {
            asks = true;
        }
        Ok(Later { asks })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Later, A::Error> {
        let mut asks = false;
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            asks = true;
        }
        Ok(Later { asks })
    }
}

impl<'de> Deserialize<'de> for Later {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(LaterVisitor)
    }
}
