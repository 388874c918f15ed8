use proptest::prelude::*;

use super::*;
use crate::codec::{self, BodyLength, HeadLimits, HeaderSlots};

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 65_536, headers_max: 100, target_bytes_max: 8192 };

fn parts(request: request::Builder) -> request::Parts {
    request.body(()).unwrap().into_parts().0
}

#[track_caller]
fn check(request: request::Builder, is_whole: bool, expected: Result<&str, TextError>) {
    let mut out = Vec::new();
    let pushed = push_request(&mut out, &parts(request), is_whole);
    let text = String::from_utf8(out).unwrap();
    assert_eq!(pushed.map(|_| text.as_str()), expected);
}

#[test]
fn a_request_is_http_1_1_text() {
    let get = || Request::get("https://api.example.com/a/b?c=d");
    check(get(), true, Ok("GET /a/b?c=d HTTP/1.1\r\nHost: api.example.com\r\n\r\n"));
    check(
        Request::post("https://api.example.com/").header("x-a", "1").header("x-a", "2"),
        false,
        Ok(
            "POST / HTTP/1.1\r\nHost: api.example.com\r\nx-a: 1\r\nx-a: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
    );
    check(
        Request::post("https://api.example.com/").header("content-length", "5"),
        false,
        Ok("POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 5\r\n\r\n"),
    );
    check(
        get().header("cookie", "a=b").header("cookie", "c=d"),
        true,
        Ok("GET /a/b?c=d HTTP/1.1\r\nHost: api.example.com\r\nCookie: a=b; c=d\r\n\r\n"),
    );
}

#[test]
fn hosts_agree() {
    let get = || Request::get("https://a.example/");
    check(get().header("host", "A.example"), true, Ok("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"));
    check(get().header("host", "b.example"), true, Err(TextError::TwoHosts));
    check(get().header("host", "a.example").header("host", "a.example"), true, Err(TextError::TwoHosts));
    check(
        Request::get("/").header("host", "a.example"),
        true,
        Ok("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"),
    );
}

#[test]
fn white_space_around_a_value_is_malformed() {
    let get = || Request::get("https://a.example/");
    check(get().header("x-a", " 1"), true, Err(TextError::FieldValue));
    check(get().header("x-a", "1\t"), true, Err(TextError::FieldValue));
    check(get().header("x-a", "1 2"), true, Ok("GET / HTTP/1.1\r\nHost: a.example\r\nx-a: 1 2\r\n\r\n"));
}

#[test]
fn an_extended_connect_is_a_handshake() {
    let key_of = |fields: &[(&str, &str)]| {
        let mut connect = Request::builder().method("CONNECT").uri("https://a.example/chat");
        for (name, value) in fields {
            connect = connect.header(*name, *value);
        }
        let mut connect = parts(connect);
        connect.extensions.insert(h2::ext::Protocol::from_static("websocket"));
        let mut out = Vec::new();
        push_request(&mut out, &connect, false).unwrap();
        let mut slots = HeaderSlots::new();
        let head = codec::request_head(&out, &mut slots, &LIMITS).unwrap().unwrap();
        assert!(codec::asks_for_websocket(&head));
        assert_eq!(head.path, "/chat");
        codec::websocket_key(&head).map(|_| ())
    };
    let version = ("sec-websocket-version", "13");
    key_of(&[version]).unwrap();
    key_of(&[version, ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")]).unwrap();
    for fields in [&[][..], &[version, version], &[("sec-websocket-version", "8")]] {
        assert_eq!(key_of(fields), Err(codec::HandshakeError::Version), "{fields:?}");
    }
}

#[test]
fn a_version_that_the_client_says_is_said_once() {
    let mut connect = parts(
        Request::builder()
            .method("CONNECT")
            .uri("https://a.example/chat")
            .header("sec-websocket-version", "13"),
    );
    connect.extensions.insert(h2::ext::Protocol::from_static("websocket"));
    let mut out = Vec::new();
    push_request(&mut out, &connect, false).unwrap();
    let mut slots = HeaderSlots::new();
    let head = codec::request_head(&out, &mut slots, &LIMITS).unwrap().unwrap();
    codec::websocket_key(&head).unwrap();
}

#[test]
fn a_success_of_an_extended_connect_agrees_to_the_handshake() {
    let text = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let mut slots = HeaderSlots::new();
    let request = codec::request_head(text, &mut slots, &LIMITS).unwrap().unwrap();
    let key = codec::websocket_key(&request).unwrap();
    let response = Response::builder()
        .header("content-length", "7")
        .header("sec-websocket-accept", "its own")
        .header("sec-websocket-protocol", "chat");
    let mut out = Vec::new();
    push_switched(&mut out, &response.body(()).unwrap().into_parts().0, key).unwrap();
    let mut slots = HeaderSlots::new();
    let head = codec::switched_head(&out, &mut slots, &LIMITS).unwrap().unwrap();
    assert!(codec::agrees(&head, key), "{}", String::from_utf8_lossy(&out));
    assert_eq!(head.headers.get("sec-websocket-protocol"), Some(&b"chat"[..]));
}

#[test]
fn any_other_connect_is_refused() {
    for protocol in [None, Some(h2::ext::Protocol::from_static("connect-udp"))] {
        let mut connect = parts(Request::builder().method("CONNECT").uri("a.example:443"));
        if let Some(protocol) = protocol {
            connect.extensions.insert(protocol);
        }
        let mut out = Vec::new();
        push_request(&mut out, &connect, false).unwrap();
        let mut slots = HeaderSlots::new();
        let error = codec::request_head(&out, &mut slots, &LIMITS).map(|_| ()).unwrap_err();
        assert_eq!(error, codec::RequestError::Connect);
    }
}

#[test]
fn a_response_says_how_its_body_ends() {
    #[track_caller]
    fn check(response: response::Builder, whole: (bool, bool), expected: &str) {
        let mut out = Vec::new();
        push_response(&mut out, &response.body(()).unwrap().into_parts().0, whole.0, whole.1).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
    let ok = || Response::builder().status(200);
    check(ok(), (false, false), "HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n");
    check(ok(), (true, false), "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n");
    check(ok().header("content-length", "7"), (false, false), "HTTP/1.1 200 \r\nContent-Length: 7\r\n\r\n");
    check(ok().header("content-length", "7"), (true, true), "HTTP/1.1 200 \r\nContent-Length: 7\r\n\r\n");
    check(Response::builder().status(304), (true, true), "HTTP/1.1 304 \r\n\r\n");
    check(Response::builder().status(103), (false, false), "HTTP/1.1 103 \r\n\r\n");
}

#[test]
fn what_a_request_of_ours_says_of_its_connection_stays_behind() {
    let text = b"POST /x?y HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\n\r\n";
    let mut slots = HeaderSlots::new();
    let head = codec::request_head(text, &mut slots, &LIMITS).unwrap().unwrap();
    let request = request(&head, "https", false).unwrap();
    assert_eq!(request.uri(), "https://a.example/x?y");
    let names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
    assert_eq!(names, ["x-a", "te"]);
}

#[test]
fn what_no_uri_holds_is_escaped_in_a_query() {
    let text = b"GET /x?q=\"a\"&r=<b> HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let mut slots = HeaderSlots::new();
    let head = codec::request_head(text, &mut slots, &LIMITS).unwrap().unwrap();
    let request = request(&head, "http", false).unwrap();
    assert_eq!(request.uri(), "http://a.example/x?q=%22a%22&r=%3Cb%3E");
}

#[test]
fn trailers_go_both_ways() {
    let map = trailers(b"grpc-status: 0\r\nX-Sum:  abc \r\n").unwrap();
    assert_eq!((&map["grpc-status"], &map["x-sum"]), (&"0".parse().unwrap(), &"abc".parse().unwrap()));
    let mut out = Vec::new();
    push_trailers(&mut out, &map).unwrap();
    assert_eq!(out, b"0\r\ngrpc-status: 0\r\nx-sum: abc\r\n\r\n");
    assert!(trailers(b"").unwrap().is_empty());
}

proptest! {
    #[test]
    fn what_comes_out_is_one_head(
        path in "/[!-~]{0,20}",
        fields in prop::collection::vec(("[a-z][a-z-]{0,10}", "[ -~\t\u{80}-\u{ff}]{0,20}"), 0..10),
        is_whole in any::<bool>(),
    ) {
        let mut builder = Request::builder().method("PUT").uri(format!("http://a.example{path}"));
        for (name, value) in &fields {
            builder = builder.header(name, value.as_bytes());
        }
        let Ok(request) = builder.body(()) else { return Ok(()) };
        let mut out = Vec::new();
        if push_request(&mut out, &request.into_parts().0, is_whole).is_ok() {
            let mut slots = HeaderSlots::new();
            if let Ok(head) = codec::request_head(&out, &mut slots, &LIMITS) {
                let head = head.expect("a whole head");
                prop_assert_eq!(head.head_bytes, out.len(), "nothing hides behind it");
                prop_assert_eq!(head.authority, "a.example");
                if is_whole {
                    prop_assert!(matches!(head.body, BodyLength::None | BodyLength::Exact(_)));
                }
            }
        }
    }
}
