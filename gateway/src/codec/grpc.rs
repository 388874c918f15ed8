//! What a gateway has to know of gRPC (the gRPC over HTTP/2 protocol): which requests are calls, how long they may
//! take, and how an answer says why there is none.
//!
//! Comes in: a request head, a code with its message. Goes out: a time, fields. It never looks at messages.

use std::time::Duration;

use super::{fields::Fields, framing::decimal};

/// Digits of a `grpc-timeout`, at most.
const TIMEOUT_DIGITS_MAX: usize = 8;

/// Why a call has no answer of a server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrpcStatus {
    /// 2: nothing else fits.
    Unknown = 2,
    /// 4: it took too long.
    DeadlineExceeded = 4,
    /// 7: the caller may not.
    PermissionDenied = 7,
    /// 8: it asks too much.
    ResourceExhausted = 8,
    /// 12: nobody here has the method.
    Unimplemented = 12,
    /// 13: something is broken.
    Internal = 13,
    /// 14: not now; it may be tried again.
    Unavailable = 14,
    /// 16: nobody is known.
    Unauthenticated = 16,
}

impl GrpcStatus {
    /// What gRPC makes of a status of HTTP.
    pub fn of_http(status: u16) -> Self {
        match status {
            400 | 431 | 500 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 | 405 => Self::Unimplemented,
            408 => Self::DeadlineExceeded,
            413 => Self::ResourceExhausted,
            429 | 502..=504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }

    /// Its number, as text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "2",
            Self::DeadlineExceeded => "4",
            Self::PermissionDenied => "7",
            Self::ResourceExhausted => "8",
            Self::Unimplemented => "12",
            Self::Internal => "13",
            Self::Unavailable => "14",
            Self::Unauthenticated => "16",
        }
    }
}

/// Whether a request is a call: its media type is `application/grpc`, alone or with a `+` or parameters behind it.
/// gRPC-Web is something else.
pub fn is_grpc(fields: &Fields<'_, '_>) -> bool {
    const MEDIA_TYPE: &[u8] = b"application/grpc";
    fields.get("content-type").and_then(|value| value.split_at_checked(MEDIA_TYPE.len())).is_some_and(
        |(media_type, rest)| {
            media_type.eq_ignore_ascii_case(MEDIA_TYPE)
                && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
        },
    )
}

/// How long a call may take, by its `grpc-timeout`: up to eight digits and a unit. None: it does not say, or not so
/// that it can be understood.
pub fn grpc_timeout(fields: &Fields<'_, '_>) -> Option<Duration> {
    let (unit, digits) = fields.get("grpc-timeout")?.split_last()?;
    if digits.len() > TIMEOUT_DIGITS_MAX {
        return None;
    }
    let number = decimal(digits)?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{HeadLimits, HeaderSlots, request_head};

    fn with<T>(field: &str, ask: impl FnOnce(&Fields<'_, '_>) -> T) -> T {
        let text = format!("POST /a.B/C HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n");
        let limits = HeadLimits { head_bytes_max: 4096, headers_max: 10, target_bytes_max: 100 };
        let mut slots = HeaderSlots::new();
        ask(&request_head(text.as_bytes(), &mut slots, &limits).unwrap().unwrap().headers)
    }

    #[test]
    fn calls_are_told_by_their_media_type() {
        for media_type in ["application/grpc", "application/grpc+proto", "Application/gRPC;x=y"] {
            assert!(with(&format!("Content-Type: {media_type}"), is_grpc), "{media_type}");
        }
        for media_type in ["application/grpc-web", "application/grpcx", "application/json", "application/grp"]
        {
            assert!(!with(&format!("Content-Type: {media_type}"), is_grpc), "{media_type}");
        }
        assert!(!with("X-A: b", is_grpc));
    }

    #[test]
    fn timeouts_have_units() {
        #[track_caller]
        fn check(value: &str, expected: Option<Duration>) {
            assert_eq!(with(&format!("grpc-timeout: {value}"), grpc_timeout), expected, "{value}");
        }
        check("5S", Some(Duration::from_secs(5)));
        check("2H", Some(Duration::from_hours(2)));
        check("3M", Some(Duration::from_mins(3)));
        check("250m", Some(Duration::from_millis(250)));
        check("7u", Some(Duration::from_micros(7)));
        check("99999999n", Some(Duration::from_nanos(99_999_999)));
        check("99999999H", Some(Duration::from_hours(99_999_999)));
        for bad in ["", "S", "5", "5s", "-5S", "5 S", "999999999S", "5.5S", "0x5S"] {
            check(bad, None);
        }
    }

    #[test]
    fn statuses_have_codes() {
        for (http, code) in [(401, "16"), (403, "7"), (404, "12"), (429, "14"), (503, "14"), (418, "2")] {
            assert_eq!(GrpcStatus::of_http(http).as_str(), code);
        }
        assert_eq!(GrpcStatus::Unavailable as u8, 14);
    }
}
