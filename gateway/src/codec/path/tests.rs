//! Rows 26 to 37 of the attacks on paths; Debian's nginx 1.22 lets 16, HAProxy 2.6 59 of 135 such tricks past a
//! deny rule.

use std::borrow::Cow;

use proptest::prelude::*;

use super::{PathError, canonical, is_kept_bare, is_unreserved};

#[track_caller]
fn check(path: &str, expected: Result<&str, PathError>) {
    assert_eq!(canonical(path), expected.map(Cow::Borrowed), "{path}");
}

#[test]
fn a_canonical_path_is_borrowed() {
    for path in
        ["/", "/a", "/a/", "/a/b.c", "/v1/orders/17", "/.well-known/x", "/a.b/..c", "/~u/x:y@z,(1)*=+$&'!"]
    {
        assert!(matches!(canonical(path), Ok(Cow::Borrowed(same)) if same == path), "{path}");
    }
}

#[test]
fn row_27_slashes_and_dot_segments_are_resolved() {
    check("//", Ok("/"));
    check("//a", Ok("/a"));
    check("/a//b", Ok("/a/b"));
    check("/a//", Ok("/a/"));
    check("/a/./b", Ok("/a/b"));
    check("/a/.", Ok("/a/"));
    check("/a/../b", Ok("/b"));
    check("/a//../b", Ok("/b"));
    check("/a/b/..", Ok("/a/"));
    check("/a/..", Ok("/"));
    check("/..", Err(PathError::AboveRoot));
    check("/a/../..", Err(PathError::AboveRoot));
    check("/a/../../a", Err(PathError::AboveRoot));
}

/// Also CVE-2021-43557 (APISIX matched on the raw target) and CVE-2026-27587 (Caddy matched escapes by case).
#[test]
fn row_28_escaped_letters_and_dots_are_decoded_before_matching() {
    check("/%61dmin", Ok("/admin"));
    check("/%41dmin", Ok("/Admin"));
    check("/a/%2e%2E/admin", Ok("/admin"));
    check("/a/%2e/b", Ok("/a/b"));
    check("/a/.%2e/b", Ok("/b"));
    check("/%7euser%2d%5F", Ok("/~user-_"));
    check("/%2e%2e/admin", Err(PathError::AboveRoot));
}

/// Also CVE-2025-66490 (Traefik let encoded delimiters past its middlewares).
#[test]
fn rows_29_to_31_escaped_delimiters_and_controls_are_refused() {
    for path in ["/a%2fb", "/a%2Fb", "/a%5cb", "/a%00", "/a%0a", "/a%0d%0aX", "/%1f", "/%7f", "/%c2%85"] {
        check(path, Err(PathError::ForbiddenEscape));
    }
    for path in ["/%252e%252e/admin", "/%2561", "/a%3bb", "/a%3Fb", "/a%23b"] {
        check(path, Err(PathError::ForbiddenEscape));
    }
    check("/a%20b", Ok("/a%20b"));
}

/// A rule on `/a:b` must hold for `/a%3ab`, which servers take for the same (RFC 3986 §3.3).
#[test]
fn escaped_characters_that_delimit_nothing_are_decoded() {
    check("/a%3ab", Ok("/a:b"));
    check("/a%3Ab", Ok("/a:b"));
    check("/%21%24%26%27%28%29%2a%2b%2C%3d%3a%40", Ok("/!$&'()*+,=:@"));
    check("/a%3bb", Err(PathError::ForbiddenEscape));
    check("/a%5eb", Ok("/a%5Eb"));
}

/// Also CVE-2021-32779 (Envoy matched on a path with its fragment).
#[test]
fn rows_32_33_36_delimiters_of_others_are_refused() {
    for path in ["/a\\b", "/a;b", "/a/..;/admin", "/a#b", "/a b", "/a\tb", "/a\u{7f}", "/\u{e9}"] {
        check(path, Err(PathError::ForbiddenByte));
    }
    check("/a,b", Ok("/a,b"));
}

#[test]
fn row_34_case_is_kept() {
    check("/ADMIN/%61", Ok("/ADMIN/a"));
}

#[test]
fn row_35_malformed_escapes_and_disguises_are_refused() {
    for path in ["/%u002f", "/%zz", "/%", "/%4", "/a%4/b", "/%c3%", "/%c3%zz"] {
        check(path, Err(PathError::MalformedEscape));
    }
    for path in [
        "/%c0%af",
        "/%c0%ae%c0%ae/",
        "/%e0%80%af",
        "/%f0%80%80%af",
        "/%ff",
        "/%80",
        "/%c3",
        "/%c3x",
        "/%ed%a0%80",
    ] {
        check(path, Err(PathError::NotUtf8));
    }
    for path in ["/%ef%bc%8f", "/%ef%bc%8e%ef%bc%8e", "/%ef%bc%a1dmin", "/%e2%80%a5", "/%ef%b9%92"] {
        check(path, Err(PathError::Lookalike));
    }
    check("/caf%c3%a9", Ok("/caf%C3%A9"));
    check("/%E6%97%A5%f0%9f%98%80", Ok("/%E6%97%A5%F0%9F%98%80"));
}

#[test]
fn row_37_trailing_dots_and_spaces_are_refused() {
    for path in ["/admin.", "/admin%2e", "/admin%20", "/admin./x", "/admin%20/x", "/...", "/a/%20", "/..%20/"]
    {
        check(path, Err(PathError::TrailingDotOrSpace));
    }
    check("/.admin", Ok("/.admin"));
    check("/%20admin", Ok("/%20admin"));
}

#[test]
fn what_browsers_send_bare_has_one_form() {
    check("/a|b{c}", Ok("/a%7Cb%7Bc%7D"));
    check("/a%7cb%7Bc%7d", Ok("/a%7Cb%7Bc%7D"));
    check("relative", Err(PathError::NotAbsolute));
    check("", Err(PathError::NotAbsolute));
}

/// Paths made of what tricks are made of.
fn tricky() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("/".to_owned()),
        Just(".".to_owned()),
        Just("%2e".to_owned()),
        Just("%C3%A9".to_owned()),
        Just("%20".to_owned()),
        Just("%3a".to_owned()),
        Just("|".to_owned()),
        "[a-zA-Z%:]",
        "%[0-9a-fA-F]{2}",
        "[ -~]",
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #[test]
    fn canonical_twice_is_canonical_once(path in tricky()) {
        if let Ok(once) = canonical(&path) {
            let twice = canonical(&once);
            prop_assert_eq!(twice.as_deref(), Ok(&*once));
            prop_assert!(once.starts_with('/'));
            // One form for each: nothing is left escaped that may stand bare.
            for escape in once.split('%').skip(1) {
                let byte = u8::from_str_radix(&escape[..2], 16).unwrap();
                prop_assert!(!is_unreserved(byte) && !is_kept_bare(byte), "{}", once);
            }
            prop_assert!(!once.contains("//"));
            prop_assert!(once.split('/').all(|segment| !segment.ends_with('.')));
            prop_assert!(once.bytes().all(|byte| (0x21..0x7f).contains(&byte) && !b"\\;#?".contains(&byte)));
        }
    }

    #[test]
    fn any_text_gives_a_result(path in "\\PC*") {
        let _ = canonical(&path);
    }
}
