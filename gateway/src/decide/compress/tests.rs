//! What clients say they accept, and which responses are worth it.

use proptest::prelude::*;

use super::{Agreed, Coding, negotiate, recode, weight};
use crate::codec::{HeadLimits, HeaderSlots, request_head, response_head};

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 8192, headers_max: 64, target_bytes_max: 1024 };
use Coding::{Brotli, Gzip, Zstd};

fn negotiated(fields: &str, offered: &[Coding]) -> Option<Coding> {
    let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let mut slots = HeaderSlots::new();
    match negotiate(&request_head(bytes.as_bytes(), &mut slots, &LIMITS).unwrap().unwrap(), offered) {
        Agreed::Coded(coding) => Some(coding),
        Agreed::Plain | Agreed::NotOffered => None,
    }
}

#[track_caller]
fn accepts(value: &str, expected: Option<Coding>) {
    let got = negotiated(&format!("Accept-Encoding: {value}\r\n"), &[Zstd, Brotli, Gzip]);
    assert_eq!(got, expected, "{value:?}");
}

#[test]
fn the_best_weight_wins_and_then_our_order() {
    accepts("gzip", Some(Gzip));
    accepts("GZIP", Some(Gzip));
    accepts("x-gzip", Some(Gzip));
    accepts("gzip, deflate, br, zstd", Some(Zstd));
    accepts("gzip, br", Some(Brotli));
    accepts("br;q=0.5, gzip;q=0.8", Some(Gzip));
    accepts("br ; q=0.5 ,gzip; Q=0.501", Some(Gzip));
    accepts("*", Some(Zstd));
    accepts("*;q=0.1, zstd;q=0", Some(Brotli));
    accepts("gzip;q=0, *", Some(Zstd));
    accepts("identity;q=0, gzip;q=0.001", Some(Gzip));
    accepts("identity;q=0.5, gzip;q=0.5", Some(Gzip));
}

#[test]
fn without_a_wish_it_stays_plain() {
    accepts("", None);
    accepts("identity", None);
    accepts("identity, gzip;q=0.5", None);
    accepts("deflate", None);
    accepts("gzip;q=0", None);
    accepts("gzip;q=0.000, br;q=0", None);
    accepts("*;q=0", None);
    accepts("gzip, gzip;q=0", None);
    for malformed in [
        "gzip;q=1.1",
        "gzip;q=2",
        "gzip;q=0.1234",
        "gzip;q=",
        "gzip;q=-1",
        "gzip;q=1.0.0",
        "gzip;level=9",
        "gzip br",
        ";q=1",
    ] {
        accepts(malformed, None);
    }
    accepts("gzip;q=x, br", Some(Brotli));
    assert_eq!(negotiated("", &[Gzip]), None);
    assert_eq!(negotiated("Accept-Encoding: gzip\r\n", &[]), None);
    assert_eq!(negotiated("Accept-Encoding: gzip\r\n", &[Zstd, Brotli]), None);
    assert_eq!(
        negotiated("Accept-Encoding: br;q=0.1\r\nAccept-Encoding: gzip\r\n", &[Brotli, Gzip]),
        Some(Gzip)
    );
    assert_eq!(
        negotiated("Accept-Encoding: gzip\r\nCache-Control: max-age=0, No-Transform\r\n", &[Gzip]),
        None
    );
}

proptest! {
    #[test]
    fn what_is_negotiated_was_offered_and_not_refused(value in "[a-z*;=q0-9., \t-]{0,60}", refused in 0..3_usize) {
        let refused = Coding::ALL[refused];
        let fields = format!("Accept-Encoding: {value}\r\nAccept-Encoding: {};q=0\r\n", refused.name());
        prop_assert_ne!(negotiated(&fields, &Coding::ALL), Some(refused));
        prop_assert!(negotiated(&fields, &[Gzip]).is_none_or(|coding| coding == Gzip));
    }

    #[test]
    fn weights_are_thousandths(thousandths in 0..=1000_u16) {
        let text = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
        prop_assert_eq!(weight(text.as_bytes()), Some(thousandths));
    }
}

/// Whether a GET's response of these lines is coded, and whether its head says that it could have been.
#[track_caller]
fn worth(lines: &str, expected: (bool, bool)) {
    let (status, fields) = lines.split_once('\n').unwrap_or((lines, ""));
    let fields = fields.replace('\n', "\r\n");
    let bytes = format!("HTTP/1.1 {status} R\r\n{fields}\r\n\r\n");
    let mut slots = HeaderSlots::new();
    let head = response_head(bytes.as_bytes(), &mut slots, "GET", &LIMITS).unwrap().unwrap();
    let recode = recode(&head, Agreed::Coded(Gzip));
    assert_eq!((recode.coding.is_some(), recode.vary), expected, "{lines}");
}

#[test]
fn what_is_text_and_long_enough_is_coded() {
    for media_type in [
        "text/html; charset=utf-8",
        "Text/CSS",
        "application/json",
        "application/problem+json",
        "application/atom+xml",
        "image/svg+xml",
        "application/wasm",
    ] {
        worth(&format!("200\nContent-Type: {media_type}"), (true, true));
    }
    worth("404\nContent-Type: text/html\nContent-Length: 1024", (true, true));
    worth("200\nContent-Type: text/html\nContent-Length: 1023", (false, true));
    worth("200\nContent-Type: text/html\nTransfer-Encoding: chunked", (true, true));
}

#[test]
fn what_is_not_worth_it_or_not_ours_to_change_is_left_alone() {
    worth("200", (false, false));
    for media_type in [
        "image/png",
        "video/mp4",
        "application/zip",
        "text/event-stream",
        "Text/Event-Stream; a=b",
        "text",
        "+jso",
        "",
    ] {
        worth(&format!("200\nContent-Type: {media_type}"), (false, false));
    }
    let with = |line: &str| format!("200\nContent-Type: text/html\n{line}");
    worth(&with("Content-Encoding: gzip"), (false, false));
    worth(&with("Content-Encoding: identity"), (false, false));
    worth(&with("Cache-Control: private, no-transform"), (false, false));
    worth(&with("Content-Digest: sha-256=:x:"), (false, false));
    worth(&with("Content-Range: bytes 0-1/2"), (false, false));
    for status in ["204", "205", "206"] {
        worth(&format!("{status}\nContent-Type: text/html"), (false, false));
    }
    worth("304\nContent-Type: text/html", (false, true));
}
