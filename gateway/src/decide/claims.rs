//! JSON out of tokens: read strictly, so that two readers can't see two different documents.
//!
//! Comes in: the bytes of a token's header or payload. Goes out: a tree in which no object has two members of one
//! name (RFC 7515 §4 and RFC 7519 §4 let a reader refuse them; taking the last is how filters are slipped past).
//! Depth is bounded by the JSON reader (128), size by the caller. It knows nothing of signatures.

use std::{collections::BTreeMap, fmt};

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A whole number that is not negative, written without fraction and exponent.
    Whole(u64),
    /// Any other number.
    Number(f64),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Json>),
    /// An object.
    Object(Claims),
}

/// The members of an object.
pub(crate) type Claims = BTreeMap<String, Json>;

/// Reads one object and nothing after it; none: it is not one, or has a member twice.
pub(super) fn parse(bytes: &[u8]) -> Option<Claims> {
    match serde_json::from_slice(bytes).ok()? {
        Json::Object(claims) => Some(claims),
        _ => None,
    }
}

/// Reads any value and nothing after it; none: it is none, or has a member twice.
pub(super) fn value(bytes: &[u8]) -> Option<Json> {
    serde_json::from_slice(bytes).ok()
}

/// The claim at `path`: a member of that very name (`https://example.com/roles` holds dots), else the dots lead
/// downwards (`realm_access.roles`).
pub(super) fn at<'c>(claims: &'c Claims, path: &str) -> Option<&'c Json> {
    if let Some(claim) = claims.get(path) {
        return Some(claim);
    }
    let (name, below) = path.split_once('.')?;
    match claims.get(name)? {
        Json::Object(inner) => at(inner, below),
        _ => None,
    }
}

impl Json {
    /// The string that this is.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The strings that this is: one, or a list of nothing else.
    pub(super) fn texts(&self) -> Option<Vec<&str>> {
        match self {
            Json::Text(text) => Some(vec![text]),
            Json::List(items) => items.iter().map(Json::text).collect(),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(Strict)
    }
}

struct Strict;

impl<'de> Visitor<'de> for Strict {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without doubled members")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Whole(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        #[expect(clippy::cast_precision_loss, reason = "JSON's numbers are those of IEEE 754 (RFC 8259 §6)")]
        Ok(u64::try_from(value).map_or(Json::Number(value as f64), Json::Whole))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Json::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut claims = Claims::new();
        while let Some((name, value)) = map.next_entry()? {
            if claims.insert(name, value).is_some() {
                return Err(A::Error::custom("a member stands twice"));
            }
        }
        Ok(Json::Object(claims))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(json: &str, path: &str, expected: Option<&Json>) {
        assert_eq!(at(&parse(json.as_bytes()).unwrap(), path), expected, "{json} {path}");
    }

    #[track_caller]
    fn refuses(json: impl AsRef<[u8]>) {
        assert_eq!(parse(json.as_ref()), None);
    }

    #[test]
    fn claims_are_found_by_name_and_by_path() {
        let text = |t: &str| Json::Text(t.to_owned());
        check(r#"{"sub":"a"}"#, "sub", Some(&text("a")));
        check(r#"{"sub":"a"}"#, "su", None);
        check(r#"{"a":{"b":{"c":"x"}}}"#, "a.b.c", Some(&text("x")));
        check(r#"{"a":{"b.c":"x"}}"#, "a.b.c", Some(&text("x")));
        check(r#"{"a.b":"x","a":{"b":"y"}}"#, "a.b", Some(&text("x")));
        check(r#"{"a":"x"}"#, "a.b", None);
        check(r#"{"https://e.example/roles":"x"}"#, "https://e.example/roles", Some(&text("x")));
        check(r#"{"n":1}"#, "n", Some(&Json::Whole(1)));
        check(r#"{"n":-1}"#, "n", Some(&Json::Number(-1.0)));
        check(r#"{"n":1.0}"#, "n", Some(&Json::Number(1.0)));
        check(r#"{"n":1e3}"#, "n", Some(&Json::Number(1000.0)));
        check(r#"{"n":18446744073709551616}"#, "n", Some(&Json::Number(18_446_744_073_709_551_616.0)));
    }

    /// Row 77.
    #[test]
    fn a_member_that_stands_twice_is_refused_at_any_depth_and_in_any_spelling() {
        refuses(r#"{"sub":"a","sub":"a"}"#);
        refuses(r#"{"sub":"a","\u0073ub":"b"}"#);
        refuses(r#"{"a":{"b":1,"b":2}}"#);
        refuses(r#"{"a":[{"b":1,"b":2}]}"#);
        assert!(parse(br#"{"a":{"b":1},"b":{"b":2}}"#).is_some());
    }

    #[test]
    fn what_is_not_one_object_is_refused() {
        refuses("");
        refuses("[]");
        refuses("\"a\"");
        refuses("{} {}");
        refuses(r#"{"exp":NaN}"#);
        refuses(r#"{"exp":1e999}"#);
        refuses(b"{\"a\":\"\xff\"}");
        refuses("{\"a\":".repeat(200) + "1" + &"}".repeat(200));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&bytes);
        }
    }
}
