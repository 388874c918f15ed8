//! Rows 22 to 26: forms of the target, authorities.

use super::{RequestError, check_authority, target};

#[track_caller]
fn check(method: &str, text: &str, expected: Result<(&str, Option<&str>, Option<&str>), RequestError>) {
    let got = target(method, text);
    let got =
        got.as_ref().map(|target| (&*target.path, target.query, target.authority)).map_err(|error| *error);
    assert_eq!(got, expected, "{method} {text}");
}

#[test]
fn origin_form_keeps_its_query_as_it_came() {
    check("GET", "/", Ok(("/", None, None)));
    check("GET", "/a?", Ok(("/a", Some(""), None)));
    check("GET", "/a?b=c?d/../e&&%zz%2f;|\"\\", Ok(("/a", Some("b=c?d/../e&&%zz%2f;|\"\\"), None)));
    check("GET", "//other.example/a", Ok(("/other.example/a", None, None)));
}

#[test]
fn row_22_absolute_form_has_an_authority_that_wins() {
    check("GET", "http://a.example/x?y", Ok(("/x", Some("y"), Some("a.example"))));
    check("GET", "HTTPS://a.example:8443", Ok(("/", None, Some("a.example:8443"))));
    check("GET", "http://a.example?y", Ok(("/", Some("y"), Some("a.example"))));
    check("OPTIONS", "http://a.example", Ok(("*", None, Some("a.example"))));
    check("OPTIONS", "http://a.example/", Ok(("/", None, Some("a.example"))));
    check("GET", "ftp://a.example/", Err(RequestError::MalformedTarget));
    check("GET", "http:/a.example/", Err(RequestError::MalformedTarget));
    check("GET", "http:///x", Err(RequestError::MalformedHost));
}

#[test]
fn asterisk_is_for_options_alone() {
    check("OPTIONS", "*", Ok(("*", None, None)));
    check("GET", "*", Err(RequestError::MalformedTarget));
    check("OPTIONS", "*x", Err(RequestError::MalformedTarget));
    check("GET", "a.example:80", Err(RequestError::MalformedTarget));
}

#[test]
fn row_23_authorities_are_a_host_and_a_port() {
    for good in [
        "a",
        "a.example",
        "A.Example.",
        "a_b.example:80",
        "127.0.0.1:65535",
        "[::1]",
        "[2001:db8::1]:443",
        "xn--e-ufa.example",
    ] {
        assert_eq!(check_authority(good), Ok(()), "{good}");
    }
    for bad in [
        "",
        ".",
        ".a",
        "a..b",
        "a b",
        "a/b",
        "a:",
        "a:b",
        "a:65536",
        "a:+1",
        "a:1:2",
        "::1",
        "[::1",
        "[::1]x",
        "[::1]:",
        "[fe80::1%25eth0]",
        "[a]",
        "a%2eb",
        "a,b",
        "a\"b",
        "a?b",
        "a#b",
        "a\\b",
        "\u{e9}",
    ] {
        assert_eq!(check_authority(bad), Err(RequestError::MalformedHost), "{bad}");
    }
}

#[test]
fn row_24_userinfo_is_refused() {
    check("GET", "http://user:password@a.example/", Err(RequestError::UserinfoInAuthority));
    check("GET", "http://a.example@b.example/", Err(RequestError::UserinfoInAuthority));
    check("GET", "http://a.example/@b", Ok(("/@b", None, Some("a.example"))));
}

/// Also CVE-2023-27491 (Envoy passed a malformed request line on).
#[test]
fn rows_26_36_other_bytes_are_refused() {
    for bad in ["/\u{e9}", "/a?\u{e9}", "/a\u{0}", "/a?b\u{7f}", "/a#b", "/a?b#c", "#"] {
        check("GET", bad, Err(RequestError::MalformedTarget));
    }
    check("GET", "/a?%C3%A9", Ok(("/a", Some("%C3%A9"), None)));
}
