//! Rows 27 to 40: one path is routed, checked and sent, whatever its spelling. `/admin` is the gateway's own here and
//! all else an upstream's, so that a trick that works shows: the upstream would be asked for what is below `/admin`.

use std::{fmt::Write as _, time::Duration};

use xtask::lab::scripted::Scripted;

use crate::support::{Edge, HELLO, OPEN, TIME_MAX, answering};

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    /// 400 and a close: nobody is asked.
    Refused,
    /// It is `/admin`'s.
    Admin,
    /// The upstream is asked for this target.
    Sent(String),
}
use Way::{Admin, Refused};

fn sent(target: &str) -> Way {
    Way::Sent(target.to_owned())
}

struct Site {
    upstream: Scripted,
    edge: Edge,
}

impl Site {
    fn open() -> Self {
        let upstream = answering(HELLO);
        let denied = "public = true\nrespond = { status = 403, body = \"admin\" }\n";
        let sections = format!(
            "{OPEN}[routes.admin]\npath = \"/admin\"\n{denied}[routes.below]\npath = \"/admin/{{*rest}}\"\n{denied}"
        );
        let edge = Edge::start(upstream.address(), &sections);
        Self { upstream, edge }
    }

    /// Asks for `target`, byte for byte, on a connection of its own.
    #[track_caller]
    fn ask(&self, target: &str) -> Way {
        let mut client = self.edge.connect();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
        let response = client.receive("GET").unwrap_or_else(|error| panic!("{target}: {error}"));
        let way = match (response.status, response.text().as_str()) {
            (400, _) => {
                assert!(!response.keep_alive, "{target}");
                client.expect_close().unwrap_or_else(|error| panic!("{target}: {error}"));
                Refused
            }
            (403, "admin") => Admin,
            (200, "hello") => {
                let head = String::from_utf8(self.upstream.next_head(TIME_MAX).unwrap()).unwrap();
                Way::Sent(head.split(' ').nth(1).unwrap().to_owned())
            }
            other => panic!("{target}: {other:?}"),
        };
        assert!(self.upstream.next_head(Duration::ZERO).is_none(), "{target}: more than one request");
        way
    }

    #[track_caller]
    fn check(&self, cases: &[(&str, Way)]) {
        for (target, expected) in cases {
            assert_eq!(self.ask(target), *expected, "{target}");
        }
    }
}

#[test]
fn row_27_slashes_and_dot_segments_are_resolved_before_anything_is_decided() {
    Site::open().check(&[
        ("/admin", Admin),
        ("/admin/", Admin),
        ("//admin", Admin),
        ("///admin///x", Admin),
        ("/./admin", Admin),
        ("/x/../admin", Admin),
        ("/x/..//admin", Admin),
        ("/x//../admin", Admin),
        ("/x/y/../../admin/z", Admin),
        ("/admin/.", Admin),
        ("/admin/x/..", Admin),
        ("/admin/../admin", Admin),
        ("http://a//./x/../admin", Admin),
        ("/admin/..", sent("/")),
        ("/admin/../x", sent("/x")),
        ("/admin/x/../../y", sent("/y")),
        ("/x//y/./z/", sent("/x/y/z/")),
        ("//evil.example/x", sent("/evil.example/x")),
        ("/..", Refused),
        ("/../admin", Refused),
        ("/x/../../admin", Refused),
        ("/./../admin", Refused),
    ]);
}

/// CVE-2021-43557 (APISIX), CVE-2026-27587 (Caddy).
#[test]
fn row_28_escaped_letters_and_dots_are_decoded_before_anything_is_decided() {
    Site::open().check(&[
        ("/%61dmin", Admin),
        ("/%61%64%6d%69%6e", Admin),
        ("/%61%64%6D%69%6E/x", Admin),
        ("/%2e/admin", Admin),
        ("/x/%2e%2E/admin", Admin),
        ("/x/.%2e/admin", Admin),
        ("/x/%2e./%61dmin", Admin),
        ("/%2e%2e/admin", Refused),
        ("/%41dmin", sent("/Admin")),
        ("/%7e%2d%5f/x", sent("/~-_/x")),
        ("/%c3%a9%20", Refused),
        ("/%c3%a9", sent("/%C3%A9")),
    ]);
}

/// CVE-2025-66490 (Traefik).
#[test]
fn rows_29_to_33_what_another_reader_would_cut_or_decode_is_refused() {
    let refused: &[&str] = &[
        // 29: escaped slashes and backslashes.
        "/admin%2fx",
        "/admin%2F",
        "/%2fadmin",
        "/x%2f..%2fadmin",
        "/x%2F%2e%2e%2Fadmin",
        "/x/..%2fadmin",
        "/x%5c..%5cadmin",
        "/x%5Cadmin",
        // 30: NUL and line ends, whatever stands behind them.
        "/admin%00",
        "/%00admin",
        "/x%00/../admin",
        "/admin%0a",
        "/x%0d%0aX-Admin:1",
        "/admin%09",
        "/admin%1f",
        "/admin%7f",
        "/admin%c2%85",
        // 31: what is decoded twice by others.
        "/%2561dmin",
        "/x/%252e%252e/admin",
        "/x/%25252e%25252e/admin",
        "/x%252f..%252fadmin",
        "/100%25",
        // 32: backslashes.
        "/\\admin",
        "\\admin",
        "/x\\..\\admin",
        "/admin\\",
        "/x/..\\admin",
        // 33: parameters of segments.
        "/admin;x=1",
        "/;/admin",
        "/x/..;/admin",
        "/x/..;a=b/admin",
        "/x/.;/admin",
        "/admin;/x",
        "/admin%3bx",
        "/x;jsessionid=1",
        // 35: overlong forms, other escapes, look-alikes.
        "/%c0%ae%c0%ae/admin",
        "/x/%c0%af../admin",
        "/%e0%80%af",
        "/%f0%80%80%af",
        "/%c1%a1dmin",
        "/%u002e%u002e/admin",
        "/%u0061dmin",
        "/%ef%bc%8fadmin",
        "/%ef%bd%81dmin",
        "/x/%ef%bc%8e%ef%bc%8e/admin",
        "/x/%e2%80%a5/admin",
        "/%ff",
        "/%80",
        "/%ed%a0%80",
        "/%f4%90%80%80",
        "/%",
        "/%4",
        "/%zz",
        "/%%61dmin",
        // 36: fragments.
        "/#/../admin",
        "/admin#",
        "/x#/admin",
        "/x%23/../admin",
        "/x%3f/../admin",
        // 37: what some file systems cut off.
        "/admin.",
        "/admin%2e",
        "/admin..",
        "/admin%20",
        "/admin%20/x",
        "/admin./x",
        "/x/..%20/admin",
        "/x/.../admin",
        "/x/%20",
    ];
    let site = Site::open();
    for target in refused {
        assert_eq!(site.ask(target), Refused, "{target}");
    }
    assert_eq!(site.upstream.accepted(), 0, "nothing reached the upstream");
}

/// Row 34: case is kept, and two cases are two paths. Row 39: a prefix ends where a segment does.
#[test]
fn rows_34_and_39_other_names_are_other_paths_and_the_query_is_not_looked_at() {
    Site::open().check(&[
        ("/Admin", sent("/Admin")),
        ("/ADMIN/x", sent("/ADMIN/x")),
        ("/administrator", sent("/administrator")),
        ("/admins/x", sent("/admins/x")),
        ("/admin-x", sent("/admin-x")),
        ("/admin:x", sent("/admin:x")),
        ("/admin%3ax", sent("/admin:x")),
        ("/admin,x", sent("/admin,x")),
        ("/admin@x", sent("/admin@x")),
        ("/.admin", sent("/.admin")),
        ("/x/admin", sent("/x/admin")),
        ("/x?/../admin", sent("/x?/../admin")),
        ("/x?a=%2e%2e%2f;admin", sent("/x?a=%2e%2e%2f;admin")),
        ("/admin?x", Admin),
        ("/admin/?/../../x", Admin),
        ("http://a/admin", Admin),
        ("http://a", sent("/")),
        ("http://a?/admin", sent("/?/admin")),
    ]);
}

/// What a careless server makes of a path: decodes until nothing changes, takes backslashes for slashes, drops the
/// parameters of segments and what follows a NUL, merges slashes, resolves dots.
fn careless(path: &str) -> String {
    let mut bytes = path.as_bytes().to_vec();
    for _ in 0..4 {
        let mut decoded = Vec::new();
        let mut rest = &bytes[..];
        while let [first, after @ ..] = rest {
            let digits = after.get(..2).and_then(|digits| str::from_utf8(digits).ok());
            let escape = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
            let (byte, left) = match escape {
                Some(byte) if *first == b'%' => (byte, &after[2..]),
                _ => (*first, after),
            };
            decoded.push(byte);
            rest = left;
        }
        bytes = decoded;
    }
    let text = String::from_utf8_lossy(&bytes).replace('\\', "/");
    let text = text.split('\0').next().unwrap_or_default();
    let mut segments = Vec::new();
    for segment in text.split('/') {
        match segment.split(';').next().unwrap_or_default().trim_end_matches([' ', '.']) {
            "" if segment.starts_with("..") && !segment.starts_with("...") => {
                segments.pop();
            }
            "" => {}
            kept => segments.push(kept.to_owned()),
        }
    }
    format!("/{}", segments.join("/"))
}

/// All rows at once: every spelling of a way to `/admin` from these parts is refused, `/admin`'s, or another path to
/// everybody, a careless server included.
#[test]
fn no_spelling_of_it_reaches_what_is_behind() {
    let slashes = ["/", "//", "/./", "%2f", "\\", "%5c", "/;/", "%252f", "/%2e/"];
    let ups = ["", "..", "%2e%2e", ".%2e", "%252e%252e", "..;", "..%00", "%c0%ae%c0%ae"];
    let names = ["admin", "%61dmin", "admin;x", "admin%20", "admin.", "%2561dmin", "admin%00", "admin%2fx"];
    let site = Site::open();
    let mut ways = [0; 3];
    for (slash, (up, name)) in
        slashes.iter().flat_map(|slash| ups.iter().flat_map(move |up| names.map(|name| (slash, (up, name)))))
    {
        let mut target = "/x".to_owned();
        let _ = if up.is_empty() {
            write!(target, "{slash}{name}")
        } else {
            write!(target, "{slash}{up}{slash}{name}")
        };
        match site.ask(&target) {
            Refused => ways[0] += 1,
            Admin => ways[1] += 1,
            Way::Sent(path) => {
                ways[2] += 1;
                let seen = careless(&path);
                assert!(!seen.starts_with("/admin"), "{target} is {seen} to the upstream");
            }
        }
    }
    assert!(ways.iter().all(|&count| count > 0), "each happens: {ways:?}");
    assert_eq!(careless("/x%2f..;%5cadmin%00y"), "/admin", "it is as careless as can be");
}

/// Row 40: each part of a pattern is looked at once, so that the dearest request of 512 routes costs no more than 1023
/// comparisons.
#[test]
fn row_40_patterns_that_nearly_match_are_each_tried_once() {
    let upstream = answering(HELLO);
    let mut sections = String::new();
    for n in 0..512 {
        let path: String = (0..9)
            .map(|bit| if n >> bit & 1 == 0 { "/a".to_owned() } else { format!("/{{n{bit}}}") })
            .collect();
        let _ = writeln!(
            sections,
            "[routes.r{n}]\npath = \"{path}/end\"\npublic = true\nrespond = {{ status = 200, body = \"{n}\" }}"
        );
    }
    let edge = Edge::start(upstream.address(), &sections);
    let deep = "/a".repeat(9);
    assert_eq!(edge.get(&format!("{deep}/end"), &[]).text(), "0", "a literal before a name");
    assert_eq!(edge.get(&format!("{}/end", "/b".repeat(9)), &[]).text(), "511");
    for _ in 0..100 {
        assert_eq!(edge.get(&format!("{deep}/no"), &[]).status, 404);
    }
    assert_eq!(edge.get(&"/a".repeat(4_000), &[]).status, 404);
}
