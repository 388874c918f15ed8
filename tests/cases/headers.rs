//! Rows 41 to 48: fields by which a client would speak for somebody else, for another hop or about another request
//! than the one that was checked. The upstream sees none of them.

use std::time::Duration;

use xtask::lab::{
    client::Request,
    place::Place,
    scratch::Scratch,
    scripted::{Scripted, Step},
};

use crate::support::{Edge, HELLO, OPEN, TIME_MAX, answering};

/// What the upstream was sent, in lower case.
#[track_caller]
fn sent(upstream: &Scripted) -> String {
    let head = upstream.next_head(TIME_MAX).expect("a request reaches the upstream");
    String::from_utf8_lossy(&head).to_lowercase()
}

/// The values of a field in a head in lower case.
fn values<'h>(head: &'h str, name: &str) -> Vec<&'h str> {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(each, _)| *each == name).map(|(_, value)| value).collect()
}

/// A GET with these field lines behind `Host`; what the upstream sees of it.
#[track_caller]
fn through(edge: &Edge, upstream: &Scripted, fields: &str) -> String {
    let mut client = edge.connect();
    client.send(format!("GET /x HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n").as_bytes()).unwrap();
    assert_eq!(client.receive("GET").unwrap().text(), "hello", "{fields}");
    sent(upstream)
}

/// Each of these says `forged`.
fn forged(names: &[&str]) -> String {
    format!("{}: forged\r\n", names.join(": forged\r\n"))
}

/// What says where a request came from.
const FORWARDING: &[&str] = &[
    "Forwarded",
    "X-Real-IP",
    "X-Request-Id",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Server",
    "X-Forwarded-Scheme",
    "X-Forwarded-Ssl",
    "X-Forwarded-Uri",
    "X-Forwarded-Method",
    "X-Forwarded-By",
    "X-Forwarded-Client-Cert",
    "x-FORWARDED-anything",
];

/// Row 41. CVE-2026-2836 is what becomes of a server that believes a client's.
#[test]
fn row_41_a_stranger_does_not_say_where_a_request_came_from() {
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), OPEN);
    let twice = forged(FORWARDING).repeat(2);
    let head = through(&edge, &upstream, &twice);
    assert!(!head.contains("forged"), "{head}");
    assert_eq!(values(&head, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(values(&head, "x-forwarded-proto"), ["http"]);
    assert_eq!(values(&head, "x-forwarded-host"), ["a.example"]);
    let [id] = values(&head, "x-request-id")[..] else { panic!("{head}") };
    assert!(id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit()), "{id}");
}

/// Row 41: what a trusted peer says is believed as far as it says one thing.
#[test]
fn row_41_a_trusted_proxy_says_for_whom_it_speaks_and_how_it_was_asked() {
    let upstream = answering(HELLO);
    let trusted = "trusted_proxies = [\"127.0.0.1\"]";
    let edge = Edge::start_with(Scratch::new().unwrap(), upstream.address(), trusted, OPEN);
    let ask = |fields: &str| through(&edge, &upstream, fields);
    let head = ask("X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-For: 203.0.113.9\r\n");
    assert_eq!(values(&head, "x-forwarded-for"), ["198.51.100.7, 203.0.113.9, 127.0.0.1"]);
    let head = ask("X-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example:8443\r\n");
    assert_eq!(values(&head, "x-forwarded-proto"), ["https"]);
    assert_eq!(values(&head, "x-forwarded-host"), ["shop.example:8443"]);
    assert_eq!(values(&head, "host"), ["a.example"]);
    for fields in [
        "X-Forwarded-Proto: https\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: b\r\nX-Forwarded-Host: c\r\n",
        "X-Forwarded-Proto: https, http\r\nX-Forwarded-Host: b, c\r\n",
        "X-Forwarded-Proto: javascript\r\nX-Forwarded-Host: user@b\r\n",
        "X-Forwarded-Proto:\r\nX-Forwarded-Host:\r\n",
    ] {
        let head = ask(fields);
        assert_eq!(values(&head, "x-forwarded-proto"), ["http"], "{fields}");
        assert_eq!(values(&head, "x-forwarded-host"), ["a.example"], "{fields}");
    }
    let head = ask(&forged(&["Forwarded", "X-Real-IP"]));
    assert!(!head.contains("forged"), "{head}");
    // Also in the words of RFC 7239, where there are no others.
    let head = ask("Forwarded: for=198.51.100.7, for=\"[2001:db8::9]:4711\";proto=https\r\n");
    assert_eq!(values(&head, "x-forwarded-for"), ["2001:db8::9, 127.0.0.1"]);
    let head = ask("Forwarded: for=198.51.100.7, for=_hidden\r\n");
    assert_eq!(values(&head, "x-forwarded-for"), ["127.0.0.1"]);
    let head = ask("Forwarded: for=198.51.100.7\r\nX-Forwarded-For: 203.0.113.9\r\n");
    assert_eq!(values(&head, "x-forwarded-for"), ["203.0.113.9, 127.0.0.1"]);
    assert!(values(&head, "forwarded").is_empty(), "{head}");
}

/// Row 42: many servers read an underscore as a hyphen.
#[test]
fn row_42_an_alias_with_an_underscore_goes_nowhere() {
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), OPEN);
    let names: Vec<String> = FORWARDING
        .iter()
        .filter(|name| name.contains('-'))
        .flat_map(|name| [name.replace('-', "_"), name.replacen('-', "_", 1)])
        .chain(["Content_Length", "Transfer_Encoding", "x_original_url", "_", "a_b"].map(str::to_owned))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    // As many as a head may have.
    for names in names.chunks(40) {
        let head = through(&edge, &upstream, &forged(names));
        assert!(!head.contains("forged") && !head.contains('_'), "{head}");
    }
}

/// Row 43: `Connection` ends what it names at this hop, but never what decisions were made on, nor what we say
/// (CVE-2024-45410).
#[test]
fn row_43_connection_removes_its_own_and_nothing_else() {
    let upstream = Scripted::start(
        &Place::here(),
        "127.0.0.1:0".parse().unwrap(),
        vec![vec![Step::ReadHead, Step::ReadBody(2), Step::Send(HELLO.into())]],
    )
    .unwrap();
    let sections = format!("{OPEN}rewrite = {{ set_headers = {{ X-Tenant = \"ours\" }} }}\n");
    let edge = Edge::start(upstream.address(), &sections);
    let mut client = edge.connect();
    let head = "POST /x HTTP/1.1\r\nHost: a.example\r\nAuthorization: Bearer t\r\nCookie: c=1\r\n\
        Content-Type: text/plain\r\nContent-Encoding: identity\r\nContent-Length: 2\r\nX-Hop: 1\r\nX-End: 1\r\n\
        X-Tenant: forged\r\nConnection: Host, authorization, COOKIE, content-type, content-encoding\r\n\
        Connection: content-length, X-Forwarded-For, x-forwarded-proto, x-forwarded-host\r\n\
        Connection: x-request-id, via, x-tenant, x-hop, keep-alive\r\n\r\nok";
    client.send(head.as_bytes()).unwrap();
    assert_eq!(client.receive("POST").unwrap().text(), "hello");
    let head = sent(&upstream);
    for (name, value) in [
        ("host", "a.example"),
        ("authorization", "bearer t"),
        ("cookie", "c=1"),
        ("content-type", "text/plain"),
        ("content-encoding", "identity"),
        ("content-length", "2"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "a.example"),
        ("via", "1.1 portcullis"),
        ("x-tenant", "ours"),
        ("x-end", "1"),
    ] {
        assert_eq!(values(&head, name), [value], "{name}: {head}");
    }
    assert_eq!(values(&head, "x-request-id").len(), 1, "{head}");
    assert!(!head.contains("x-hop") && !head.contains("\r\nconnection:"), "{head}");
}

/// Row 43: a list that nobody needs is an attempt at making the removal dear.
#[test]
fn row_43_a_connection_without_end_is_refused() {
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), OPEN);
    let options = |count: usize| (0..count).map(|n| format!("x{n}")).collect::<Vec<_>>().join(",");
    through(&edge, &upstream, &format!("Connection: {}\r\n", options(16)));
    for fields in [
        format!("Connection: {}\r\n", options(17)),
        "Connection: x\r\n".repeat(17),
        format!("Connection: {}\r\n", options(2_000)),
    ] {
        let mut client = edge.connect();
        client.send(format!("GET /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes()).unwrap();
        let response = client.receive("GET").unwrap();
        assert_eq!((response.status, response.keep_alive), (400, false));
    }
    assert!(upstream.next_head(Duration::ZERO).is_none());
}

/// Row 44: a field that `forward` sets is nobody's to send, on any route, in whatever spelling, and not as a trailer.
#[test]
fn row_44_an_identity_comes_from_a_token_only() {
    let directory = Scratch::new().unwrap();
    let secret = directory.write("jwt.secret", "a secret of thirty-two octets or more").unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let sections = format!(
        "[auth.staff]\nkind = \"jwt\"\nkey_file = \"jwt.secret\"\nalgorithms = [\"HS256\"]\n\
         forward = {{ x-user = \"sub\", x-email = \"email\" }}\n\
         [routes.own]\npath = \"/own\"\nauth = [\"staff\"]\nupstream = \"app\"\n{OPEN}"
    );
    // It says that it closes: a request that came while it does, and may not be repeated, would be 502.
    let close = HELLO.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    let chunked = vec![Step::ReadHead, Step::ReadUntil(b"\r\n\r\n".into()), Step::Send(close.into())];
    let any = "127.0.0.1:0".parse().unwrap();
    let upstream = Scripted::start(&Place::here(), any, vec![chunked]).unwrap();
    let edge = Edge::start_with(directory, upstream.address(), "", &sections);
    let claims = serde_json::json!({ "sub": "ada", "exp": 4_000_000_000_u64 });
    let key = jsonwebtoken::EncodingKey::from_secret(b"a secret of thirty-two octets or more");
    let token =
        jsonwebtoken::encode(&jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256), &claims, &key)
            .unwrap();
    let names = ["X-User", "x-email", "X-USER", "x_user", "X_Email"];
    for (path, user) in [("/own", &["ada"][..]), ("/public", &[])] {
        let mut client = edge.connect();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nConnection: x-user, close\r\n{}\
             Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 7\r\n{}\r\n",
            forged(&names),
            forged(&names)
        );
        client.send(head.as_bytes()).unwrap();
        assert_eq!(client.receive("POST").unwrap().text(), "hello", "{path}");
        let head = sent(&upstream);
        assert_eq!(values(&head, "x-user"), user, "{path}: {head}");
        assert!(values(&head, "x-email").is_empty() && !head.contains("forged"), "{path}: {head}");
        let body = sent(&upstream);
        assert!(body.ends_with("0\r\nx-sum: 7\r\n\r\n"), "{path}: {body}");
    }
}

/// Rows 45 and 46: what makes a server act on another target or method, or is about this connection.
#[test]
fn rows_45_and_46_overrides_and_fields_of_one_hop_go_nowhere() {
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), OPEN);
    let names = [
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "Proxy",
        "Proxy-Connection",
        "Proxy-Authorization",
        "Proxy-Authenticate",
        "Proxy-Authentication-Info",
        "Proxy-Anything",
        "Keep-Alive",
        "TE",
        "Trailer",
        "Upgrade",
        "HTTP2-Settings",
    ];
    let upper: Vec<String> = names.iter().map(|name| name.to_uppercase()).collect();
    let upper: Vec<&str> = upper.iter().map(String::as_str).collect();
    let connection = "Connection: keep-alive, Upgrade, HTTP2-Settings, TE\r\n";
    for names in [&names[..], &upper] {
        let head = through(&edge, &upstream, &format!("{}{connection}X-End: 1\r\n", forged(names)));
        assert!(!head.contains("forged") && !head.contains("\r\nconnection:"), "{head}");
        assert_eq!(values(&head, "x-end"), ["1"]);
    }
}

/// Row 48: what is just inside passes whole, and of what is too much nothing does. Slow heads are in `faults.rs`.
#[test]
fn row_48_a_head_that_is_too_large_or_has_too_many_fields_is_431() {
    let upstream = answering(HELLO);
    let limits = "limits = { head_size = \"8KiB\", headers = 20, target_size = \"1KiB\" }";
    let edge = Edge::start_with(Scratch::new().unwrap(), upstream.address(), limits, OPEN);
    let get = |target: &str, fields: &str| {
        let mut client = edge.connect();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes()).unwrap();
        let response = client.receive("GET").unwrap();
        if response.status != 200 {
            client.expect_close().unwrap();
        }
        response.status
    };
    let wide = |bytes: usize| format!("X: {}\r\n", "x".repeat(bytes));
    let rest = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
    let target = |bytes: usize| format!("/{}", "t".repeat(bytes - 1));
    for (target, fields) in
        [("/", wide(8192 - rest)), ("/", "X: 1\r\n".repeat(19)), (&target(1024), String::new())]
    {
        assert_eq!(get(target, &fields), 200);
        sent(&upstream);
    }
    for (target, fields, status) in [
        ("/", wide(8193 - rest), 431),
        ("/", wide(1024 * 1024), 431),
        ("/", "X: 1\r\n".repeat(20), 431),
        ("/", "a:\r\n".repeat(100_000), 431),
        ("/", format!("{}: 1\r\n", "n".repeat(9_000)), 431),
        (&target(1025), String::new(), 414),
        (&target(1024 * 1024), String::new(), 414),
    ] {
        let name = format!("{} octets of target, {} of fields", target.len(), fields.len());
        assert_eq!(get(target, &fields), status, "{name}");
    }
    assert!(upstream.next_head(Duration::ZERO).is_none());
}

/// What a server says to the gateway is not what the client hears of the way.
#[test]
fn row_46_fields_of_the_server_s_hop_go_nowhere_either() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: x-hop, keep-alive\r\nX-Hop: forged\r\n\
        Keep-Alive: forged\r\nProxy-Authenticate: forged\r\nProxy-Connection: forged\r\nUpgrade: forged\r\n\
        X-Request-Id: forged\r\nX-End: 1\r\n\r\nhello";
    let upstream = answering(answer);
    let edge = Edge::start(upstream.address(), OPEN);
    let response = edge.connect().request(&Request::get("/")).unwrap();
    assert!(response.headers.iter().all(|(_, value)| value != "forged"), "{:?}", response.headers);
    assert_eq!((response.text().as_str(), response.header("x-end")), ("hello", Some("1")));
}
