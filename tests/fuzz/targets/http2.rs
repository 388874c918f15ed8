//! Frames of HTTP/2: the tally of what carries nothing, and the text that a request's fields become.
//!
//! The tally says the same however the bytes arrive. Text that comes out is one head to its last byte, in which no
//! field came in that HTTP/2 did not say.
#![no_main]

use libfuzzer_sys::{fuzz_target, Corpus};
use portcullis::{
    codec::{HEADERS_MAX, HeadLimits, HeaderSlots, request_head},
    http2::{tally::Tally, text},
};

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 65_536, headers_max: HEADERS_MAX, target_bytes_max: 8192 };

fuzz_target!(|bytes: &[u8]| -> Corpus {
    tallied(bytes);
    request(bytes)
});

fn tallied(bytes: &[u8]) {
    let at_once = Tally::of_client().count(bytes);
    let mut piecemeal = Tally::of_client();
    let one_by_one = bytes.iter().try_for_each(|byte| piecemeal.count(std::slice::from_ref(byte)));
    assert_eq!(at_once, one_by_one);
}

/// Lines: method, target, then names and values in turn.
fn request(bytes: &[u8]) -> Corpus {
    let mut lines = bytes.split(|&byte| byte == b'\n');
    let (Some(method), Some(target)) = (lines.next(), lines.next()) else { return Corpus::Reject };
    let mut builder = http::Request::builder().method(method).uri(target);
    let mut fields = 0;
    while let (Some(name), Some(value)) = (lines.next(), lines.next()) {
        builder = builder.header(name, value);
        fields += 1;
    }
    let Ok(request) = builder.body(()) else { return Corpus::Reject };
    let parts = request.into_parts().0;
    for is_whole in [false, true] {
        let mut out = Vec::new();
        if text::push_request(&mut out, &parts, is_whole).is_err() {
            continue;
        }
        let mut slots = HeaderSlots::new();
        if let Ok(Some(head)) = request_head(&out, &mut slots, &LIMITS) {
            assert_eq!(head.head_bytes, out.len());
            // Host and how the body comes are said in another way.
            assert!(head.headers.len() <= fields + 2);
        }
    }
    Corpus::Keep
}
