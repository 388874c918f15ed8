//! A path: what comes out is in canonical form, has no second one, and hides nothing.
#![no_main]

use portcullis::codec::path::canonical;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(once) = canonical(text) else { return };
    assert_eq!(canonical(&once).as_deref(), Ok(&*once), "canonical is canonical");
    assert!(once.starts_with('/'));
    assert!(once.bytes().all(|byte| (0x21..0x7f).contains(&byte) && !b"\\;#?".contains(&byte)), "{once}");
    assert!(!once.contains("//"), "{once}");
    for segment in once.split('/') {
        assert!(!segment.ends_with('.') && !segment.ends_with("%20"), "{once}");
    }
    for (at, _) in once.match_indices('%') {
        let digits = &once[at + 1..at + 3];
        assert_eq!(digits, digits.to_ascii_uppercase(), "{once}");
        let byte = u8::from_str_radix(digits, 16).expect("two digits");
        assert!(byte > 0x1f && byte != 0x7f && !b"/\\%;?#.-_~".contains(&byte), "{once}");
        assert!(!byte.is_ascii_alphanumeric(), "{once}");
    }
    let decoded = decoded(&once);
    let decoded = String::from_utf8(decoded).expect("UTF-8");
    assert!(!decoded.chars().any(char::is_control), "{once}");
});

/// As a server would.
fn decoded(path: &str) -> Vec<u8> {
    let mut bytes = path.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        out.push(if byte == b'%' {
            let digits = [bytes.next().expect("digit"), bytes.next().expect("digit")];
            u8::from_str_radix(str::from_utf8(&digits).expect("ASCII"), 16).expect("digits")
        } else {
            byte
        });
    }
    out
}
