//! One message, four translations: what a client of either version says is what a server of either version hears, and
//! back.

use std::net::SocketAddr;

use super::either::{Message, Speaks, TRANSLATIONS, Upstream, all, ask, edge_to};

/// Asks through each translation for `request`, of a server that replies with `reply`; hands over what both saw.
#[track_caller]
fn check(request: &Message, reply: fn(&Message) -> Message, expect: impl Fn(&str, &Message, &Message)) {
    for (client, server) in TRANSLATIONS {
        let name = format!("{client:?} to {server:?}");
        let upstream = Upstream::start(server, reply);
        let edge = edge_to(server, upstream.address, "", "", "");
        let answer = ask(client, edge.address, request);
        let answer = answer.unwrap_or_else(|error| panic!("{name}: {error}: {}", edge.gateway.output()));
        expect(&name, &upstream.seen(), &answer);
    }
}

/// The request's body and what it said of it, again.
fn echo(request: &Message) -> Message {
    let reply = Message::reply(200).with("x-method", &request.method);
    let reply = Message { body: request.body.clone(), is_chunked: request.is_chunked, ..reply };
    if request.trailers.is_empty() { reply } else { Message { trailers: request.trailers.clone(), ..reply } }
}

/// Octets that tell where they are.
fn octets(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[5]).collect()
}

#[test]
fn a_request_and_its_response_arrive_as_they_are() {
    let request = Message::ask("GET", "/a/b?c=d&e").with("x-one", "1").with("x-two", "a").with("x-two", "b");
    let reply = |_: &Message| {
        let reply = Message::reply(203).with("x-answer", "yes").with("set-cookie", "a=1").exactly("hello");
        reply.with("set-cookie", "b=2")
    };
    check(&request, reply, |name, seen, answer| {
        assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/a/b?c=d&e"), "{name}");
        assert_eq!(seen.host, "edge.example", "{name}");
        assert_eq!((seen.all("x-one"), seen.all("x-two")), (vec!["1"], vec!["a", "b"]), "{name}");
        assert_eq!(seen.all("x-forwarded-proto"), ["http"], "{name}");
        assert_eq!((answer.status, answer.body.as_slice()), (203, &b"hello"[..]), "{name}");
        assert_eq!(answer.all("content-length"), ["5"], "{name}");
        assert_eq!((answer.all("x-answer"), answer.all("set-cookie")), (vec!["yes"], vec!["a=1", "b=2"]));
        for field in ["connection", "transfer-encoding", "upgrade", "keep-alive"] {
            assert!(answer.all(field).is_empty(), "{name}: {field}");
        }
    });
}

#[test]
fn crumbs_are_one_cookie_again() {
    let request = Message::ask("GET", "/").with("cookie", "a=1").with("cookie", "b=2; c=3");
    for server in [Speaks::Http1, Speaks::Http2] {
        let upstream = Upstream::start(server, |_| Message::reply(200));
        let edge = edge_to(server, upstream.address, "", "", "");
        ask(Speaks::Http2, edge.address, &request).unwrap();
        assert_eq!(upstream.seen().all("cookie").join("; "), "a=1; b=2; c=3", "{server:?}");
    }
}

#[test]
fn what_has_no_body_has_none() {
    check(
        &Message::ask("HEAD", "/"),
        |_| Message::reply(200).with("content-length", "20000"),
        |name, seen, answer| {
            assert_eq!(seen.method, "HEAD", "{name}");
            assert_eq!((answer.status, answer.body.len()), (200, 0), "{name}");
            assert_eq!(answer.all("content-length"), ["20000"], "{name}");
        },
    );
    for status in [204, 304] {
        let reply = if status == 204 { |_: &_| Message::reply(204) } else { |_: &_| Message::reply(304) };
        check(&Message::ask("GET", "/"), reply, |name, _, answer| {
            assert_eq!((answer.status, answer.body.len()), (status, 0), "{name}");
            assert!(answer.all("content-length").is_empty(), "{name}");
        });
    }
    check(
        &Message::ask("DELETE", "/"),
        |_| Message::reply(200),
        |name, seen, answer| {
            assert_eq!(
                (seen.body.len(), seen.is_chunked && seen.all("transfer-encoding").len() == 1),
                (0, false)
            );
            assert_eq!((answer.status, answer.body.len()), (200, 0), "{name}");
        },
    );
}

#[test]
fn early_hints_come_before_the_answer() {
    let reply = |_: &Message| {
        let hints = |link: &str| (103, vec![("link".to_owned(), link.to_owned())]);
        let interim = vec![hints("</a.css>; rel=preload"), hints("</b.css>; rel=preload")];
        Message { interim, ..Message::reply(200).exactly("hello") }
    };
    check(&Message::ask("GET", "/"), reply, |name, _, answer| {
        let links: Vec<_> =
            answer.interim.iter().map(|(status, fields)| (*status, all(fields, "link"))).collect();
        assert_eq!(
            links,
            [(103, vec!["</a.css>; rel=preload"]), (103, vec!["</b.css>; rel=preload"])],
            "{name}"
        );
        assert_eq!(answer.body, b"hello", "{name}");
    });
}

#[test]
fn who_waits_for_leave_to_send_gets_it() {
    let request = Message::ask("POST", "/").with("expect", "100-continue").exactly("the body");
    check(&request, echo, |name, _, answer| {
        let interim: Vec<_> = answer.interim.iter().map(|(status, _)| *status).collect();
        // Over HTTP/1.1 the body came together with the head: nobody waits.
        let expected: &[u16] = if name.starts_with("Http2") { &[100] } else { &[] };
        assert_eq!(interim, expected, "{name}");
        assert_eq!(answer.body, b"the body", "{name}");
    });
}

#[test]
fn bodies_of_every_size_come_back_as_they_were() {
    for bytes in [0, 1, 20_000, 1024 * 1024] {
        for is_chunked in [false, true] {
            let body = octets(bytes);
            let request = Message { is_chunked, ..Message::ask("POST", "/") }.exactly(body.clone());
            check(&request, echo, |name, seen, answer| {
                let name = format!("{name}, {bytes} bytes, chunked: {is_chunked}");
                assert!(seen.body == body, "{name}: the server saw another body");
                assert!(answer.body == body, "{name}: another body came back");
                if !is_chunked && bytes > 0 {
                    assert_eq!(seen.all("content-length"), [bytes.to_string()], "{name}");
                    assert_eq!(answer.all("content-length"), [bytes.to_string()], "{name}");
                }
                if is_chunked {
                    assert!(seen.all("content-length").is_empty(), "{name}");
                }
            });
        }
    }
}

#[test]
fn trailers_pass_in_both_directions_and_forbidden_ones_do_not() {
    let request = Message::ask("POST", "/")
        .chunked(octets(20_000))
        .trailing("x-digest", "abc")
        .trailing("authorization", "Bearer stolen")
        .trailing("x-forwarded-for", "192.0.2.1")
        .trailing("host", "other.example");
    let reply = |request: &Message| {
        let reply = echo(request);
        let reply = Message { trailers: Vec::new(), ..reply };
        reply.trailing("x-answer", "def").trailing("content-length", "7").trailing("set-cookie", "a=b")
    };
    check(&request, reply, |name, seen, answer| {
        assert_eq!(seen.trailers, [("x-digest".to_owned(), "abc".to_owned())], "{name}");
        assert_eq!(all(&answer.trailers, "x-answer"), ["def"], "{name}");
        assert!(all(&answer.trailers, "content-length").is_empty(), "{name}");
        assert_eq!(answer.body, seen.body, "{name}");
    });
    // Without a byte of a body.
    let request = Message::ask("POST", "/").trailing("x-digest", "abc");
    check(&request, echo, |name, seen, answer| {
        assert_eq!(all(&seen.trailers, "x-digest"), ["abc"], "{name}");
        assert_eq!(all(&answer.trailers, "x-digest"), ["abc"], "{name}");
    });
}

#[test]
fn targets_that_are_rare_reach_both_kinds_of_servers() {
    for (target, expected) in [
        ("/a?q=\"x\"&r=<y>", "/a?q=%22x%22&r=%3Cy%3E"),
        ("/?a={b}|c^d`e", "/?a={b}|c^d`e"),
        ("/a%20b/c=d", "/a%20b/c=d"),
    ] {
        let request = Message::ask("GET", target);
        for server in [Speaks::Http1, Speaks::Http2] {
            let upstream = Upstream::start(server, |_| Message::reply(200));
            let edge = edge_to(server, upstream.address, "", "", "");
            assert_eq!(
                ask(Speaks::Http1, edge.address, &request).map(|answer| answer.status),
                Ok(200),
                "{target}"
            );
            let seen = upstream.seen().target;
            assert!(seen == target || seen == expected, "{target} became {seen}");
        }
    }
    let asterisk: [fn(SocketAddr) -> Result<Message, String>; 1] =
        [|edge| ask(Speaks::Http1, edge, &Message::ask("OPTIONS", "*"))];
    for server in [Speaks::Http1, Speaks::Http2] {
        let upstream = Upstream::start(server, |_| Message::reply(204));
        let edge = edge_to(server, upstream.address, "", "", "");
        for ask in asterisk {
            let first = ask(edge.address).unwrap();
            assert!(matches!(first.status, 204 | 404), "{server:?}: {}", first.status);
        }
    }
}
