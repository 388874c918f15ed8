//! Requests whose end, target or host could be read in two ways (RFC 9112 §2.2, §3, §5, §6, §7, §11.2): refused, and
//! nothing of them goes on. What is legal but rare works. Each is sent in one piece and byte by byte.

mod answers;
mod legal;
mod rows;

use std::time::Duration;

use xtask::lab::{
    client::{Connection, Request, Response},
    place::Place,
    scripted::{Scripted, Step},
};

use crate::support::{Edge, HELLO, OPEN, TIME_MAX, answering, scripted};

const CHUNKED_HEAD: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
const CHUNKED_END: &[u8] = b"0\r\n\r\n";

/// Sends bytes one by one. A refusal may come before the last: what is behind it need not be taken.
fn drip(client: &mut Connection, bytes: &[u8]) {
    for byte in bytes {
        if client.send(&[*byte]).is_err() {
            return;
        }
    }
}

#[track_caller]
fn refusal(client: &mut Connection, status: u16, name: &str) -> Response {
    let response = client.receive("POST").unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(response.status, status, "{name}: {}", response.text());
    assert_eq!(response.header("content-type"), Some("application/problem+json"), "{name}");
    assert!(!response.keep_alive, "{name} keeps the connection");
    client.expect_close().unwrap_or_else(|error| panic!("{name}: {error}"));
    response
}

/// Each is refused with its status and a close, and no connection to the server is even made.
#[track_caller]
fn check_refused(cases: &[rows::Case]) {
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), OPEN);
    for case in cases {
        let mut client = edge.connect();
        client.send(&case.bytes).unwrap();
        refusal(&mut client, case.status, &case.name);
        let mut client = edge.connect();
        drip(&mut client, &case.bytes);
        refusal(&mut client, case.status, &format!("{}, byte by byte", case.name));
    }
    assert_eq!(upstream.accepted(), 0, "nothing reached the upstream");
}

/// Rows 1 to 11. Among them what let CVE-2026-2833 and CVE-2026-2835 (Pingora) happen.
#[test]
fn a_request_with_an_ambiguous_end_is_refused_closed_and_never_forwarded() {
    check_refused(&rows::framing());
}

/// Rows 15 and 19 to 26. CVE-2021-32779 (Envoy) is the `#` in a target.
#[test]
fn an_ambiguous_request_line_or_host_is_refused_closed_and_never_forwarded() {
    check_refused(&rows::request_line());
}

/// The rows on paths that need no more than a look; `proxy.rs` and the codec's own tests have the rest.
#[test]
fn an_ambiguous_path_is_refused_closed_and_never_forwarded() {
    let paths = ["/a%2fb", "/a%5Cb", "/a%00b", "/a%0ab", "/a%252fb", "/a\\b", "/a/..;/b", "/a;b", "/a#b"];
    let paths =
        paths.iter().chain(&["/../a", "/a/../../b", "/%2e%2e/a", "/a%c0%af", "/%u002f", "/a%", "/a."]);
    let cases: Vec<_> = paths
        .map(|path| rows::Case {
            name: (*path).to_owned(),
            bytes: format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").into(),
            status: 400,
        })
        .collect();
    check_refused(&cases);
}

/// Row 18: at each place of a pipeline.
#[test]
fn a_refused_request_does_not_hide_the_ones_before_it_and_is_the_last() {
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), OPEN);
    let bad = "GET /bad HTTP/1.1\r\nHost : a\r\n\r\n";
    let good = "POST /good HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    for before in 0..4 {
        let pipeline = format!("{}{bad}{good}", "GET /good HTTP/1.1\r\nHost: a\r\n\r\n".repeat(before));
        let mut client = edge.connect();
        client.send(pipeline.as_bytes()).unwrap();
        for _ in 0..before {
            assert_eq!(client.receive("GET").unwrap().status, 200);
        }
        refusal(&mut client, 400, &pipeline);
        let heads: Vec<_> = std::iter::from_fn(|| upstream.next_head(Duration::ZERO)).collect();
        assert_eq!(heads.len(), before);
        assert!(heads.iter().all(|head| head.starts_with(b"GET /good HTTP/1.1\r\n")));
    }
}

/// Rows 12 to 14, all of it in one piece: known before a server is asked.
#[test]
fn a_malformed_chunk_in_hand_is_refused_closed_and_never_forwarded() {
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), OPEN);
    for (name, body) in rows::chunked_bodies() {
        let name = format!("{name}: {}", body.escape_ascii());
        let mut client = edge.connect();
        client.send(&[CHUNKED_HEAD.as_bytes(), &body].concat()).unwrap();
        refusal(&mut client, 400, &name);
    }
    assert_eq!(upstream.accepted(), 0, "nothing reached the upstream");
}

/// Rows 12 to 14, byte by byte behind a head that is already with the server: it never sees an end.
#[test]
fn a_malformed_chunk_on_its_way_is_refused_and_never_looks_whole_to_the_server() {
    let upstream = scripted(&[Step::ReadHead, Step::ReadUntil(CHUNKED_END.to_vec())]);
    let edge = Edge::start(upstream.address(), OPEN);
    for (name, body) in rows::chunked_bodies().into_iter().chain(rows::unbounded_bodies()) {
        let name = format!("{name}: {}", body[..body.len().min(60)].escape_ascii());
        let mut client = edge.connect();
        client.send(CHUNKED_HEAD.as_bytes()).unwrap();
        upstream.next_head(TIME_MAX).unwrap_or_else(|| panic!("{name}: the head goes on at once"));
        if body.len() < 100 {
            drip(&mut client, &body);
        } else {
            client.send(&body).unwrap();
        }
        refusal(&mut client, 400, &name);
        let sent =
            upstream.next_head(TIME_MAX).unwrap_or_else(|| panic!("{name}: the connection is dropped"));
        assert!(!sent.ends_with(CHUNKED_END), "{name}: {}", sent.escape_ascii());
    }
}

/// Row 13: what is just inside the bounds of [`rows::unbounded_bodies`].
#[test]
fn long_extensions_and_trailers_within_their_bounds_pass() {
    let upstream = answering_bodies(3);
    let edge = Edge::start(upstream.address(), OPEN);
    let bodies = [
        format!("5;a={}\r\nhello\r\n0\r\n\r\n", "b".repeat(16_000)),
        format!("{}0\r\n\r\n", format!("1;{}\r\nx\r\n", "a".repeat(300)).repeat(40)),
        format!("0\r\nX: {}\r\n\r\n", "y".repeat(8_000)),
    ];
    for body in bodies {
        let mut client = edge.connect();
        client.send(format!("{CHUNKED_HEAD}{body}").as_bytes()).unwrap();
        assert_eq!(client.receive("POST").unwrap().status, 200);
    }
}

/// Takes a chunked body and answers, on each of so many connections.
fn answering_bodies(connections: usize) -> Scripted {
    let end = b"\r\n\r\n".to_vec();
    let close = HELLO.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    let script = vec![Step::ReadHead, Step::ReadUntil(end), Step::Send(close.into())];
    Scripted::start(&Place::here(), "127.0.0.1:0".parse().unwrap(), vec![script; connections]).unwrap()
}

/// Row 14: what frames, routes or authenticates a request is no trailer (RFC 9110 §6.5.1).
#[test]
fn forbidden_trailers_are_dropped_and_others_kept() {
    let forbidden = [
        "Content-Length",
        "Transfer-Encoding",
        "Host",
        "Authorization",
        "Cookie",
        "Connection",
        "Trailer",
        "TE",
        "Upgrade",
        "Expect",
        "Content-Type",
        "Content-Encoding",
        "Content-Range",
        "Cache-Control",
        "Max-Forwards",
        "Range",
        "X-Forwarded-For",
        "X-Real-IP",
        "Forwarded",
        "X-Request-Id",
        "X-Original-URL",
        "Proxy",
        "Proxy-Authorization",
        "Keep-Alive",
        "content_length",
        "Via",
    ];
    let trailers = format!("{}: 5\r\n", forbidden.join(": 5\r\n"));
    let upstream = answering_bodies(2);
    let edge = Edge::start(upstream.address(), OPEN);
    for dripped in [false, true] {
        let request = format!("{CHUNKED_HEAD}5\r\nhello\r\n0\r\nX-A: 1\r\n{trailers}X-B:  2 \r\n\r\n");
        let mut client = edge.connect();
        if dripped {
            drip(&mut client, request.as_bytes());
        } else {
            client.send(request.as_bytes()).unwrap();
        }
        assert_eq!(client.receive("POST").unwrap().text(), "hello");
        upstream.next_head(TIME_MAX).unwrap();
        let body = String::from_utf8(upstream.next_head(TIME_MAX).unwrap()).unwrap();
        // How the payload is cut into chunks is the gateway's affair.
        assert!(body.ends_with("\r\n0\r\nX-A: 1\r\nX-B: 2\r\n\r\n"), "{body:?}");
    }
}

/// Row 15: who waits for `100 Continue` before a body that is not wanted is told so, and not to send it.
#[test]
fn a_refusal_is_told_instead_of_100_continue_and_ends_the_connection() {
    let sections = OPEN.replace("/{*rest}", "/known");
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), &sections);
    for framing in ["Content-Length: 40", "Transfer-Encoding: chunked"] {
        let mut client = edge.connect();
        let head = format!("POST /unknown HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n{framing}\r\n\r\n");
        client.send(head.as_bytes()).unwrap();
        refusal(&mut client, 404, framing);
    }
    assert_eq!(upstream.accepted(), 0);
}

/// Row 16, CVE-2026-2835: an HTTP/1.0 request without a length has no body, and what follows is no request.
#[test]
fn an_http_1_0_request_without_length_has_no_body_and_ends_the_connection() {
    for option in ["", "Connection: keep-alive\r\n"] {
        let upstream = answering(HELLO);
        let edge = Edge::start(upstream.address(), OPEN);
        let mut client = edge.connect();
        let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
        client.send(format!("POST /one HTTP/1.0\r\nHost: a\r\n{option}\r\n{smuggled}").as_bytes()).unwrap();
        let response = client.receive("POST").unwrap();
        assert_eq!((response.status, response.header("connection")), (200, Some("close")));
        client.expect_close().unwrap();
        let heads: Vec<_> = std::iter::from_fn(|| upstream.next_head(Duration::ZERO)).collect();
        assert_eq!(heads.len(), 1, "{heads:?}");
        let head = String::from_utf8_lossy(&heads[0]).to_lowercase();
        assert!(head.starts_with("post /one http/1.1\r\n"), "{head}");
        assert!(!head.contains("content-length: 3") && !head.contains("transfer-encoding"), "{head}");
    }
}

/// Row 17, CVE-2026-2833: nothing that follows a request to upgrade is passed on before the upgrade is granted.
#[test]
fn what_follows_a_request_to_upgrade_is_a_request_of_its_own() {
    let sections = OPEN.replace("/{*rest}", "/chat");
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), &sections);
    for protocol in ["h2c", "TLS/1.0", "foo/2"] {
        let mut client = edge.connect();
        let upgrade = format!(
            "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {protocol}\r\n\
             HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        client.send(upgrade.as_bytes()).unwrap();
        assert_eq!(client.receive("GET").unwrap().text(), "hello");
        assert_eq!(client.receive("GET").unwrap().status, 404, "authorised by itself");
        let head = upstream.next_head(TIME_MAX).unwrap();
        let head = String::from_utf8_lossy(&head).to_lowercase();
        assert!(
            head.starts_with("get /chat ") && !head.contains("upgrade") && !head.contains("http2-settings")
        );
        assert!(upstream.next_head(Duration::ZERO).is_none());
    }
}

/// Row 22: routed and sent by the absolute-form's authority, whatever `Host` says (RFC 9112 §3.2.2).
#[test]
fn an_absolute_form_is_routed_by_its_own_authority() {
    let upstream = answering(HELLO);
    let sections = format!(
        "{}[routes.own]\npath = \"/{{*rest}}\"\nhosts = [\"own.example\"]\npublic = true\n\
         respond = {{ status = 200, body = \"own\" }}\n",
        OPEN.replace("public = true", "hosts = [\"app.example\"]\npublic = true")
    );
    let edge = Edge::start(upstream.address(), &sections);
    for (target, host, expected) in [
        ("http://app.example/x", "own.example", "hello"),
        ("http://own.example/x", "app.example", "own"),
        ("HTTP://APP.example:80/x", "own.example", "hello"),
        ("/x", "own.example", "own"),
    ] {
        let response = edge.connect().request(&Request { host, ..Request::get(target) }).unwrap();
        assert_eq!(response.text(), expected, "{target} against {host}");
    }
    for expected in ["app.example", "APP.example:80"] {
        let head = upstream.next_head(TIME_MAX).unwrap();
        let head = String::from_utf8_lossy(&head).into_owned();
        assert!(head.starts_with("GET /x HTTP/1.1\r\n"), "{head}");
        assert!(
            head.contains(&format!("\r\nHost: {expected}\r\n")) && !head.contains("own.example"),
            "{head}"
        );
    }
}

#[test]
fn legal_but_rare_requests_keep_working_in_one_piece_and_byte_by_byte() {
    let cases = legal::cases();
    let scripts = cases.iter().flat_map(|case| {
        let body = Step::ReadUntil(case.body_end.clone());
        let answer =
            Step::Send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello".to_vec());
        let script = if case.body_end.is_empty() {
            vec![Step::ReadHead, answer]
        } else {
            vec![Step::ReadHead, body, answer]
        };
        [script.clone(), script]
    });
    let any = "127.0.0.1:0".parse().unwrap();
    let upstream = Scripted::start(&Place::here(), any, scripts.collect()).unwrap();
    let edge = Edge::start(upstream.address(), OPEN);
    for case in &cases {
        for dripped in [false, true] {
            let name = format!("{}, dripped: {dripped}", case.bytes.escape_ascii());
            let mut client = edge.connect();
            if dripped {
                drip(&mut client, &case.bytes);
            } else {
                client.send(&case.bytes).unwrap();
            }
            let response = client.receive(case.method()).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(response.status, 200, "{name}: {}", response.text());
            let head = upstream.next_head(TIME_MAX).unwrap();
            let line = format!("{}\r\n", case.line);
            assert!(head.starts_with(line.as_bytes()), "{name}: {}", head.escape_ascii());
            for field in &case.fields {
                let line = [b"\r\n", *field, b"\r\n"].concat();
                let is_there = head.windows(line.len()).any(|bytes| bytes.eq_ignore_ascii_case(&line));
                assert!(is_there, "{name}: {} in {}", field.escape_ascii(), head.escape_ascii());
            }
            if !case.body_end.is_empty() {
                let body = upstream.next_head(TIME_MAX).unwrap();
                assert!(body.ends_with(&case.body_end), "{name}: {}", body.escape_ascii());
            }
        }
    }
}

/// A gateway before a server whose n-th connection reads a request and goes on with the n-th of `answers`.
fn answered(answers: Vec<Vec<Step>>) -> (Scripted, Edge) {
    let script = |answer: Vec<Step>| [vec![Step::ReadHead], answer].concat();
    let any = "127.0.0.1:0".parse().unwrap();
    let scripts = answers.into_iter().map(script).collect();
    let upstream = Scripted::start(&Place::here(), any, scripts).unwrap();
    // Each case has a connection of its own, never a pooled one, and no second try hides what became of the first.
    let sections = OPEN.replace(
        "health = \"off\"",
        "health = \"off\"\nretry = { attempts = 0 }\nconnections = { idle_per_worker = 0 }",
    );
    let edge = Edge::start(upstream.address(), &format!("[runtime]\nworkers = 1\n{sections}"));
    (upstream, edge)
}

/// Row 47, fault row 5.
#[test]
fn a_malformed_answer_is_502_and_nothing_of_it_is_told() {
    let cases = answers::malformed();
    let (_upstream, edge) =
        answered(cases.iter().map(|answer| vec![Step::Send(answer.clone()), Step::Stall]).collect());
    for answer in &cases {
        let response = edge.get("/", &[]);
        assert_eq!(response.status, 502, "{}", answer.escape_ascii());
        assert_eq!(
            response.header("content-type"),
            Some("application/problem+json"),
            "{}",
            answer.escape_ascii()
        );
    }
}

/// Fault row 2: a client sees that what it got is not all there is.
#[test]
fn a_malformed_chunk_of_an_answer_never_looks_whole_to_the_client() {
    let cases = answers::malformed_chunks();
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (_upstream, edge) =
        answered(cases.iter().map(|body| vec![Step::Send([&head[..], body].concat())]).collect());
    for body in cases {
        let answer = edge.connect().request(&Request::get("/"));
        let is_cut = answer.as_ref().map_or(true, |response| response.status == 502);
        assert!(is_cut, "{}: {answer:?}", body.escape_ascii());
    }
}

#[test]
fn legal_but_rare_answers_come_through_in_one_piece_and_byte_by_byte() {
    let cases = answers::legal();
    let steps = cases.iter().flat_map(|(answer, _, closes)| {
        let end = if *closes { Step::Close } else { Step::Stall };
        let drop = |byte: &u8| [Step::Send(vec![*byte]), Step::Pause(Duration::from_micros(10))];
        let drip = answer.iter().flat_map(drop).chain([end.clone()]).collect();
        [vec![Step::Send(answer.to_vec()), end], drip]
    });
    let (_upstream, edge) = answered(steps.collect());
    for (answer, body, _) in cases {
        for dripped in [false, true] {
            let name = format!("{}, dripped: {dripped}", answer.escape_ascii());
            let response = edge.get("/", &[]);
            assert_eq!((response.status, response.text().as_str()), (200, body), "{name}");
            assert!(response.keep_alive, "{name}");
        }
    }
}
