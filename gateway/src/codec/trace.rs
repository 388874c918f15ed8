//! Which trace a request belongs to (W3C Trace Context, <https://www.w3.org/TR/trace-context/>).
//!
//! Comes in: the fields of a head. Goes out: its `traceparent`, where there is exactly one and it is valid, to be
//! passed on as it came; else a trace begins here. It never reads `tracestate`: that goes with the `traceparent` or
//! not at all (§3.4).

use super::Fields;

/// Octets of a `traceparent` of version 00: version, trace id, parent id and flags, with dashes between them (§3.2).
const PARENT_BYTES: usize = 55;

/// Lower-case hexadecimal digits of a trace's id.
pub const TRACE_ID_DIGITS: usize = 32;

/// A `traceparent` that is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent<'h> {
    text: &'h str,
    trace_id: &'h [u8; TRACE_ID_DIGITS],
}

/// What of a trace goes upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace<'a> {
    /// The client's, with its `tracestate`.
    Client(TraceParent<'a>),
    /// One that begins with us, not sampled.
    Own {
        /// [`TRACE_ID_DIGITS`] of them, not all 0.
        trace_id: &'a str,
        /// Not 0.
        parent_id: u64,
    },
}

impl<'h> TraceParent<'h> {
    /// That of a head. Several are as good as none: nobody can say which of them is meant.
    pub fn of(fields: &Fields<'_, 'h>) -> Option<Self> {
        let mut values = fields.all("traceparent");
        match (values.next(), values.next()) {
            (Some(value), None) => Self::parse(value),
            _ => None,
        }
    }

    /// §3.2.2, and §4.1 for versions that do not exist yet: they may only add to the end.
    pub fn parse(value: &'h [u8]) -> Option<Self> {
        let (parent, rest) = value.split_at_checked(PARENT_BYTES)?;
        let mut fields = parent.split(|&byte| byte == b'-');
        let mut next = |digits: usize| {
            let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            fields.next().filter(|field| field.len() == digits && field.iter().all(is_digit))
        };
        let (version, trace_id, parent_id, _flags) = (next(2)?, next(TRACE_ID_DIGITS)?, next(16)?, next(2)?);
        let is_zero = |id: &[u8]| id.iter().all(|&byte| byte == b'0');
        let ends = match version {
            b"ff" => false,
            b"00" => rest.is_empty(),
            _ => rest.first().is_none_or(|&byte| byte == b'-'),
        };
        if !ends || is_zero(trace_id) || is_zero(parent_id) {
            return None;
        }
        Some(Self { text: str::from_utf8(value).ok()?, trace_id: trace_id.first_chunk()? })
    }

    /// As it came.
    pub fn as_str(&self) -> &'h str {
        self.text
    }

    /// The digits of its trace's id.
    pub fn trace_id(&self) -> &'h [u8; TRACE_ID_DIGITS] {
        self.trace_id
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[track_caller]
    fn check(value: &str, expected: bool) {
        let parent = TraceParent::parse(value.as_bytes());
        assert_eq!(parent.is_some(), expected, "{value}");
        if let Some(parent) = parent {
            assert_eq!((parent.as_str(), &parent.trace_id()[..]), (value, &value.as_bytes()[3..35]));
        }
    }

    #[test]
    fn version_00_has_one_form() {
        check(GOOD, true);
        check("00-00000000000000000000000000000001-0000000000000001-00", true);
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff", true);
        check("", false);
        check(&GOOD[..54], false);
        check(&format!("{GOOD}-"), false);
        check(&format!("{GOOD}-00"), false);
        check(&format!("{GOOD}0"), false);
        check(&GOOD.to_uppercase(), false);
        check(&GOOD.replace('-', "_"), false);
        check("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false);
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false);
        check("00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01", false);
        check("00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01", false);
        check("0-04bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false);
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x", false);
    }

    #[test]
    fn a_later_version_may_only_add_to_the_end() {
        check(&GOOD.replacen("00", "01", 1), true);
        check(&format!("{}-what-comes", GOOD.replacen("00", "cc", 1)), true);
        check(&format!("{}-", GOOD.replacen("00", "cc", 1)), true);
        check(&format!("{}.what", GOOD.replacen("00", "cc", 1)), false);
        check(&format!("{}0", GOOD.replacen("00", "cc", 1)), false);
        check(&GOOD.replacen("00", "ff", 1), false);
        check(&format!("{}-what", GOOD.replacen("00", "ff", 1)), false);
        check("cc-00000000000000000000000000000000-00f067aa0ba902b7-01-what", false);
    }

    proptest! {
        #[test]
        fn one_wrong_byte_makes_it_invalid(at in 0..PARENT_BYTES, byte: u8) {
            let mut value = GOOD.as_bytes().to_vec();
            value[at] = byte;
            // §3.2.1: what may stand there instead; the version is another matter.
            let may = if GOOD.as_bytes()[at] == b'-' {
                byte == b'-'
            } else {
                matches!(byte, b'0'..=b'9' | b'a'..=b'f')
            };
            prop_assert_eq!(TraceParent::parse(&value).is_some(), may);
        }

        #[test]
        fn no_bytes_panic_and_what_is_taken_is_in_form(value: Vec<u8>, tail in "[ -~]{0,8}", cut in 0..64usize) {
            let _ = TraceParent::parse(&value);
            let text = format!("{}{tail}", GOOD.replacen("00", "01", 1));
            if let Some(parent) = TraceParent::parse(&text.as_bytes()[..cut.min(text.len())]) {
                prop_assert!(parent.as_str().len() >= PARENT_BYTES);
            }
        }
    }
}
