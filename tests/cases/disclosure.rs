//! Rows 93 to 95: what strangers learn of the inside, and what they can write into it.

use std::{collections::BTreeSet, fs, net::SocketAddr, path::Path, process::Command};

use xtask::lab::{
    client::{Request, Response},
    gateway::{Gateway, Start, names},
    place::Place,
    scratch::Scratch,
    scripted::Step,
    wait,
};

use crate::support::{BINARY, Edge, HELLO, OPEN, TIME_MAX, answering, free_address, scripted};

/// Names that nobody outside has to know.
const INSIDE: &str = "[upstreams.innermost]\nservers = [\"{upstream}\"]\nhealth = \"off\"\nretry = { attempts = 0 }\n\
    timeouts = { head = \"300ms\" }\n\
    [routes.classified]\npath = \"/{*rest}\"\nmethods = [\"GET\", \"POST\"]\npublic = true\nupstream = \"innermost\"\n\
    body_size = \"16B\"\nwebsocket = true\n";

/// A problem that tells what the client did and nothing else.
#[track_caller]
fn check_tells_nothing(response: &Response, status: u16, server: SocketAddr) {
    assert_eq!(response.status, status, "{}", response.text());
    let problem: serde_json::Value = serde_json::from_slice(&response.body).expect("a problem is JSON");
    let members: BTreeSet<_> = problem.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["detail", "reason", "request_id", "status", "title", "type"];
    assert_eq!(members, BTreeSet::from(expected), "{problem}");
    let known = [
        "allow",
        "cache-control",
        "connection",
        "content-length",
        "content-type",
        "date",
        "retry-after",
        "sec-websocket-version",
        "upgrade",
        "x-request-id",
    ];
    for (name, _) in &response.headers {
        assert!(known.contains(&name.as_str()), "{status}: {name}");
    }
    let all = format!("{:?} {}", response.headers, response.text()).to_lowercase();
    let inside =
        ["innermost", "classified", "127.0.0.1", "os error", "portcullis", "rust", "panick", ".rs", "/tmp"];
    for word in inside.into_iter().chain([server.port().to_string().as_str()]) {
        assert!(!all.contains(word), "{status} tells {word}: {all}");
    }
}

#[test]
fn row_95_refusals_tell_nothing_of_the_inside() {
    let upstream = answering(HELLO);
    let listener =
        "timeouts = { head = \"300ms\" }\nlimits = { head_size = \"1KiB\", target_size = \"256B\" }";
    let edge = Edge::start_with(Scratch::new().unwrap(), upstream.address(), listener, INSIDE);
    let long = "x".repeat(300);
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n".to_owned(), 400),
        ("GET /%2f HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n".to_owned(), 400),
        ("GET http://x@a/ HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
        ("PUT / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 405),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 405),
        ("GET / HT".to_owned(), 408),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 17\r\n\r\n".to_owned(), 413),
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: x\r\n\r\n".to_owned(), 417),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_owned(), 426),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", format!("X: {long}\r\n").repeat(4)), 431),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n".to_owned(), 505),
    ] {
        let mut client = edge.connect();
        client.send(request.as_bytes()).unwrap();
        check_tells_nothing(&client.receive("GET").unwrap(), status, upstream.address());
    }
    let edge = Edge::start(upstream.address(), &INSIDE.replace("/{*rest}", "/known"));
    check_tells_nothing(&edge.get("/unknown", &[]), 404, upstream.address());
    assert_eq!(upstream.accepted(), 0);
}

#[test]
fn row_95_failures_of_a_server_tell_nothing_of_the_inside() {
    let nobody = free_address();
    let edge = Edge::start(nobody, INSIDE);
    check_tells_nothing(&edge.get("/", &[]), 502, nobody);
    let said = |text: &str| vec![Step::ReadHead, Step::Send(text.into()), Step::Close];
    for (script, status) in [
        (vec![Step::ReadHead, Step::Reset], 502),
        (said(""), 502),
        (said("java.lang.NullPointerException at innermost.App\r\n\r\n"), 502),
        (said("HTTP/1.1 200 OK\r\nX-Secret: innermost\r\nContent-Length: -1\r\n\r\n"), 502),
        (said("HTTP/1.1 200 OK\r\nX-Secret: innermost\r\n"), 502),
        (vec![Step::ReadHead, Step::Stall], 504),
    ] {
        let upstream = scripted(&script);
        let edge = Edge::start(upstream.address(), INSIDE);
        check_tells_nothing(&edge.get("/", &[]), status, upstream.address());
    }
}

/// Row 93: every line is one request's, whatever was in it, and nothing that a terminal would obey.
#[test]
fn row_93_nobody_writes_lines_into_the_logs() {
    let upstream = answering(HELLO);
    let sections = format!("[log]\nlevel = \"trace\"\naccess = {{ file = \"access.jsonl\" }}\n{OPEN}");
    let edge = Edge::start(upstream.address(), &sections);
    let forged = "\\\"}\u{1b}[2J{\\\"status\\\":200,\\\"path\\\":\\\"/forged\\\"}";
    let requests: [Vec<u8>; 11] = [
        b"GET /honest HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"GET /a%22%7d%5b HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"GET /a\"}{\"forged\":\"1 HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"GET /%E2%80%A8%E2%80%AE HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"GET /a%0aforged HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"GET /a\n{\"forged\":1} HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"GET /a\x1b[31mforged HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"A'`|!FORGED / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"GET\x1b[2J / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        format!("GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: {forged}\r\nReferer: {forged}\r\n\r\n").into_bytes(),
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\"forged\r\nX-Request-Id: forged\"\xff\r\n\r\n"
            .to_vec(),
    ];
    for request in &requests {
        let mut client = edge.connect();
        client.send(request).unwrap();
        client.receive("GET").unwrap_or_else(|error| panic!("{}: {error}", request.escape_ascii()));
    }
    let file = edge.directory.path().join("access.jsonl");
    let log = wait::until(TIME_MAX, || {
        fs::read_to_string(&file).ok().filter(|text| text.lines().count() >= requests.len())
    });
    let log = log.expect("a line for each request");
    assert_eq!(log.lines().count(), requests.len(), "{log}");
    assert!(!log.chars().any(|c| c != '\n' && c.is_control()), "{}", log.escape_debug());
    let members = |line: &str| -> BTreeSet<String> {
        let record: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(record["source"], "127.0.0.1", "{line}");
        record.as_object().unwrap().keys().cloned().collect()
    };
    let honest = members(log.lines().find(|line| line.contains("/honest")).unwrap());
    for line in log.lines() {
        assert_eq!(members(line), honest, "{line}");
    }
    let output = edge.gateway.output();
    assert!(!output.contains('\u{1b}') && !output.lines().any(|line| line.starts_with('{')), "{output}");
}

/// Addresses that a process listens on, as the kernel knows them.
fn listening(pid: u32) -> BTreeSet<String> {
    let inodes: BTreeSet<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()?.to_str().map(ToOwned::to_owned))
        .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let tables = ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap());
    let sockets = tables.iter().flat_map(|table| table.lines().skip(1));
    sockets
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        // 0A is LISTEN.
        .filter(|columns| columns[3] == "0A" && inodes.contains(columns[9]))
        .map(|columns| columns[1].to_owned())
        .collect()
}

#[test]
fn row_94_without_an_admin_listener_there_is_none() {
    let upstream = answering(HELLO);
    let directory = Scratch::new().unwrap();
    let listener = free_address();
    let config = format!(
        "[listeners.public]\naddress = \"{listener}\"\n{}",
        OPEN.replace("{upstream}", &upstream.address().to_string())
    );
    let start = Start {
        binary: Path::new(BINARY),
        place: Place::here(),
        directory: directory.path(),
        config: &config,
        listener,
        admin: None,
    };
    let gateway = Gateway::start(&start).unwrap();
    let SocketAddr::V4(address) = listener else { panic!("{listener}") };
    // The kernel writes the address as it lies in memory.
    let address = format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port());
    assert_eq!(listening(gateway.pid()), BTreeSet::from([address]));
}

#[test]
fn row_94_the_admin_listener_is_nobody_s_from_outside() {
    for address in
        ["0.0.0.0:9901", "[::]:9901", "192.0.2.1:9901", "[2001:db8::1]:9901", "[::ffff:192.0.2.1]:9901"]
    {
        let directory = Scratch::new().unwrap();
        let config = format!(
            "[listeners.public]\naddress = \"{}\"\n[listeners.admin]\nkind = \"admin\"\naddress = \"{address}\"\n",
            free_address()
        );
        directory.write("portcullis.toml", config).unwrap();
        for command in ["check", "run"] {
            let output = Command::new(BINARY)
                .args([command, "--config", "portcullis.toml"])
                .current_dir(directory.path())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && said.contains("not loopback"), "{command} {address}: {said}");
        }
    }
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), OPEN);
    // What it serves is the upstream's affair at the public listener.
    for target in [names::METRICS, names::HEALTH, "/bans"] {
        assert_eq!(edge.get(target, &[]).text(), "hello", "{target}");
    }
    // A page that has made its own name point here (DNS rebinding) is refused.
    let config = fs::read_to_string(edge.gateway.config_file()).unwrap();
    let admin = config.lines().rev().find_map(|line| line.strip_prefix("address = \"")?.strip_suffix('"'));
    let admin: SocketAddr = admin.unwrap().parse().unwrap();
    for (host, served) in [(admin.to_string().as_str(), true), ("localhost", true), ("evil.example", false)] {
        let mut client = xtask::lab::client::Connection::open(admin, None, TIME_MAX).unwrap();
        let response = client.request(&Request { host, ..Request::get(names::METRICS) }).unwrap();
        assert_eq!(response.status == 200, served, "{host}: {}", response.status);
    }
}
