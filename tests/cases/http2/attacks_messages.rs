//! Rows 49 to 54, 61 and 62 of the catalogue of attacks: requests that HTTP/1.1 could not even carry, or would read
//! in another way. Each is refused as its row says, no server hears of it, and the connection goes on.

use xtask::lab::{
    client,
    http2::{
        Connection, Outcome,
        frame::{self, Code, flag},
        hpack,
    },
};

use super::{GET, POST, connect, h2_edge, origin::Origin, spec::brief};

type Field = (&'static [u8], &'static [u8]);

/// A request by name, as frames on stream 1.
type Case = (String, Vec<u8>);

/// What may become of it.
#[derive(Clone, Copy)]
enum Refusal {
    /// The stream is reset, or answered with 400 where HTTP/2 itself has nothing against it.
    Malformed,
    /// The same, or the connection ends: h2 takes some faults of a head for faults of its compression, which
    /// RFC 9113 §5.4.1 leaves to it.
    AtLeastMalformed,
    /// An answer with this status.
    Status(u16),
}

/// GET with these in place of its own pseudo-header fields, and with more fields.
fn get(pseudo: &[Field], more: &[Field]) -> Vec<u8> {
    head(&GET, pseudo, more, flag::END)
}

fn head(own: &[(&str, &str); 4], pseudo: &[Field], more: &[Field], flags: u8) -> Vec<u8> {
    let own = own.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    let own = own.map(|(name, value)| {
        let other = pseudo.iter().find(|(other, _)| *other == name);
        (name, other.map_or(value, |(_, value)| value))
    });
    frame::headers(1, flags, &hpack::block(&own.chain(more.iter().copied()).collect::<Vec<_>>()))
}

/// Each on a connection of its own, which then takes a request that is none of the kind.
#[track_caller]
fn check(refusal: Refusal, cases: impl IntoIterator<Item = Case>) {
    let origin = Origin::start();
    let edge = h2_edge(&origin, "");
    let mut failed = Vec::new();
    for (name, bytes) in cases {
        let mut client = connect(&edge);
        client.send(&bytes).unwrap();
        let is_right = match (client.outcome(1), refusal) {
            (Ok(Outcome::ConnectionError(Code::PROTOCOL_ERROR)), Refusal::AtLeastMalformed) => continue,
            (Ok(Outcome::Answer(response)), Refusal::Status(status)) if response.status == status => Ok(()),
            (_, Refusal::Status(status)) => Err(format!("not {status}")),
            (Ok(Outcome::StreamError(Code::PROTOCOL_ERROR)), _) => Ok(()),
            (Ok(Outcome::Answer(response)), _) if response.status == 400 => Ok(()),
            (Ok(other), _) => Err(brief(&other)),
            (Err(error), _) => Err(error.to_string()),
        };
        let mut goes_on = || match client.get(3, &GET) {
            Ok(Outcome::Answer(response)) if response.status == 200 => Ok(()),
            other => Err(format!("the next request: {other:?}")),
        };
        if let Err(why) = is_right.and_then(|()| goes_on()) {
            failed.push(format!("{name}: {why}"));
        }
    }
    let strange = |request: &super::origin::Request| request.target() != "GET /" || request.lines.len() > 9;
    failed.extend(
        origin.requests().iter().filter(|request| strange(request)).map(|r| format!("upstream: {r:?}")),
    );
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}

fn named(field: &Field) -> String {
    format!("{}: {}", field.0.escape_ascii(), field.1.escape_ascii())
}

/// GET with each of these fields, and POST with each as a trailer.
fn with_each(fields: &[Field]) -> Vec<Case> {
    let in_head = fields.iter().map(|field| (named(field), get(&[], &[*field])));
    let in_trailers = fields.iter().map(|field| {
        let bytes = [
            head(&POST, &[], &[], flag::END_HEADERS),
            frame::data(1, 0, b"test"),
            frame::headers(1, flag::END, &hpack::block(&[*field])),
        ];
        (format!("{} as a trailer", named(field)), bytes.concat())
    });
    in_head.chain(in_trailers).collect()
}

#[test]
fn row_49_names_and_values_that_http_1_1_would_read_otherwise() {
    let fields: [Field; 26] = [
        (b"X-Upper", b"1"),
        (b"x-uppeR", b"1"),
        (b"", b"1"),
        (b"x y", b"1"),
        (b" x", b"1"),
        (b"x ", b"1"),
        (b"x\t", b"1"),
        (b"x:", b"1"),
        (b"x:y", b"1"),
        (b"x\0", b"1"),
        (b"x\r\nhost", b"1"),
        (b"x\ny", b"1"),
        (b"x\x7f", b"1"),
        (b"x\xe9", b"1"),
        (b"x(y)", b"1"),
        (b"x", b"a\0b"),
        (b"x", b"a\rb"),
        (b"x", b"a\nb"),
        (b"x", b"a\r\nhost: b"),
        (b"x", b"a\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: b\r\n\r\n"),
        (b"x", b"\n"),
        (b"x", b"a\x01b"),
        (b"x", b"a\x7fb"),
        (b"x", b" a"),
        (b"x", b"a\t"),
        (b"x", b" "),
    ];
    check(Refusal::AtLeastMalformed, with_each(&fields));
}

#[test]
fn row_50_fields_of_a_connection() {
    let fields: [Field; 12] = [
        (b"connection", b"close"),
        (b"connection", b"keep-alive"),
        (b"connection", b"host"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"keep-alive"),
        (b"transfer-encoding", b"chunked"),
        (b"transfer-encoding", b"identity"),
        (b"transfer-encoding", b""),
        (b"upgrade", b"websocket"),
        (b"upgrade", b"h2c"),
        (b"te", b"gzip"),
        (b"te", b"trailers, gzip"),
    ];
    let in_head = fields.iter().map(|field| (named(field), get(&[], &[*field])));
    // What Host and Transfer-Encoding would have smuggled past HTTP/1.1: CVE-2021-32779 and its kin.
    let body = [
        head(&POST, &[], &[(b"transfer-encoding", b"chunked"), (b"content-length", b"5")], flag::END_HEADERS),
        frame::data(1, flag::END_STREAM, b"0\r\n\r\n"),
    ];
    check(Refusal::Malformed, in_head.chain([("chunked with a body".to_owned(), body.concat())]));
}

#[test]
fn row_50_te_of_trailers_is_no_fault_and_stays_here() {
    let origin = Origin::start();
    let edge = h2_edge(&origin, "");
    let mut client = connect(&edge);
    client.send(&get(&[], &[(b"te", b"trailers"), (b"http2-settings", b"AAMAAABk")])).unwrap();
    assert_eq!(brief(&client.outcome(1).unwrap()), "200 and 5 octets");
    let [request] = &origin.requests()[..] else { panic!("one request") };
    assert_eq!(request.values("http2-settings"), [""; 0]);
    assert_eq!(request.values("upgrade"), [""; 0]);
}

#[test]
fn row_51_pseudo_header_fields_where_or_as_they_must_not_be() {
    let twice = [":method", ":scheme", ":path", ":authority"].map(|name| {
        let value: &[u8] = GET.iter().find(|(own, _)| *own == name).unwrap().1.as_bytes();
        (format!("{name} twice"), get(&[], &[(name.as_bytes(), value)]))
    });
    let absent = [":method", ":scheme", ":path"].map(|name| {
        let rest: Vec<_> = GET.into_iter().filter(|(own, _)| *own != name).collect();
        (format!("no {name}"), frame::headers(1, flag::END, &hpack::block(&rest)))
    });
    let late = [":method", ":scheme", ":path", ":authority"].map(|name| {
        let (late, early): (Vec<_>, Vec<_>) = GET.into_iter().partition(|(own, _)| *own == name);
        let fields = [&early[..], &[("x", "1")], &late[..]].concat();
        (format!("{name} late"), frame::headers(1, flag::END, &hpack::block(&fields)))
    });
    let unknown: [Field; 8] = [
        (b":unknown", b"1"),
        (b":", b"1"),
        (b":status", b"200"),
        (b":protocol", b"websocket"),
        (b":Path", b"/admin"),
        (b":path ", b"/admin"),
        (b"::path", b"/admin"),
        (b":host", b"b.example"),
    ];
    let unknown = unknown.map(|field| (named(&field), get(&[], &[field])));
    check(Refusal::Malformed, twice.into_iter().chain(absent).chain(late));
    check(Refusal::AtLeastMalformed, unknown);
}

/// They are malformed as well, but h2 drops them without a word: nothing of them goes on.
#[test]
fn row_51_pseudo_header_fields_in_trailers() {
    let origin = Origin::start();
    let edge = h2_edge(&origin, "");
    let fields: [Field; 4] =
        [(b":path", b"/admin"), (b":method", b"GET"), (b":status", b"200"), (b":authority", b"b")];
    for field in fields {
        let mut client = connect(&edge);
        client.send(&head(&POST, &[], &[], flag::END_HEADERS)).unwrap();
        client.send(&frame::headers(1, flag::END, &hpack::block(&[field, (b"x-trailer", b"1")]))).unwrap();
        client.outcome(1).unwrap();
    }
    for request in origin.requests() {
        assert_eq!(request.target(), "POST /echo");
        assert_eq!(request.values("host"), ["a.example"]);
        assert!(request.trailers.iter().all(|line| line.starts_with("x-trailer: ")), "{request:?}");
    }
}

#[test]
fn row_52_content_length_against_data() {
    let post = |lengths: &[&'static [u8]], flags| {
        let fields: Vec<Field> = lengths.iter().map(|length| (&b"content-length"[..], *length)).collect();
        head(&POST, &[], &fields, flags)
    };
    let test = |lengths: &[&'static [u8]]| {
        let name =
            lengths.iter().map(|length| length.escape_ascii().to_string()).collect::<Vec<_>>().join(" and ");
        let bytes = [post(lengths, flag::END_HEADERS), frame::data(1, flag::END_STREAM, b"test")].concat();
        (format!("{name} for 4 octets"), bytes)
    };
    let trailers = frame::headers(1, flag::END, &hpack::block(&[("x", "1")]));
    let short = [post(&[b"5"], flag::END_HEADERS), frame::data(1, 0, b"test"), trailers].concat();
    let padded = frame::data(1, flag::END_STREAM | flag::PADDED, &frame::padded(1, b"test"));
    let with_padding = [post(&[b"6"], flag::END_HEADERS), padded].concat();
    check(
        Refusal::Malformed,
        [
            test(&[b"3"]),
            test(&[b"5"]),
            test(&[b"4", b"5"]),
            test(&[b"5", b"4"]),
            test(&[b"+4"]),
            test(&[b"-4"]),
            test(&[b"0x4"]),
            test(&[b"4, 4"]),
            test(&[b"4 4"]),
            test(&[b"4;"]),
            test(&[b""]),
            test(&[b"18446744073709551620"]),
            ("4 without a body".to_owned(), post(&[b"4"], flag::END)),
            ("5 for 4 octets and trailers".to_owned(), short),
            ("6 for 4 octets and padding".to_owned(), with_padding),
        ],
    );
}

/// The head alone is a whole request, which may have gone on before the first octet came: it goes on without any.
#[test]
fn row_52_content_length_of_0_against_data() {
    let origin = Origin::start();
    let edge = h2_edge(&origin, "");
    let mut client = connect(&edge);
    client.send(&head(&POST, &[], &[(b"content-length", b"0")], flag::END_HEADERS)).unwrap();
    client.send(&frame::data(1, flag::END_STREAM, b"GET /smuggled HTTP/1.1\r\n\r\n")).unwrap();
    client.outcome(1).unwrap();
    assert_eq!(brief(&client.get(3, &GET).unwrap()), "200 and 5 octets");
    for request in origin.requests() {
        assert_ne!(request.target(), "GET /smuggled");
        assert_eq!(request.body, b"");
    }
}

/// Whatever a client leaves unfinished never looks whole to a server.
#[test]
fn row_52_an_upload_that_is_reset_is_never_whole() {
    let origin = Origin::start();
    let edge = h2_edge(&origin, "");
    for length in [None, Some((&b"content-length"[..], &b"9"[..]))] {
        let mut client = connect(&edge);
        client.send(&head(&POST, &[], length.as_slice(), flag::END_HEADERS)).unwrap();
        client.send(&[frame::data(1, 0, b"half"), frame::rst_stream(1, Code::CANCEL)].concat()).unwrap();
        assert_eq!(brief(&client.get(3, &GET).unwrap()), "200 and 5 octets");
        // A connection that ends, in order or not, is no end of a request either.
        let mut client = connect(&edge);
        client.send(&head(&POST, &[], length.as_slice(), flag::END_HEADERS)).unwrap();
        client.send(&frame::data(1, 0, b"half")).unwrap();
        client.ping(*b"received").unwrap();
        client.finish_sending().unwrap();
        client.end().unwrap();
    }
    let targets: Vec<_> = origin.requests().iter().map(|request| request.target().to_owned()).collect();
    assert_eq!(targets, ["GET /"; 2]);
}

#[test]
fn row_53_host_against_authority() {
    let host =
        |value: &'static [u8]| (format!("host: {}", value.escape_ascii()), get(&[], &[(b"host", value)]));
    let authority = |value: &'static [u8]| {
        (format!(":authority: {}", value.escape_ascii()), get(&[(b":authority", value)], &[]))
    };
    let twice = get(&[], &[(b"host", b"a.example"), (b"host", b"a.example")]);
    check(
        Refusal::Malformed,
        [
            host(b"b.example"),
            host(b"a.example:81"),
            host(b"a.example, b.example"),
            host(b""),
            host(b"user@a.example"),
            ("host twice".to_owned(), twice),
            authority(b""),
            authority(b"user@a.example"),
            authority(b"user:secret@a.example"),
            authority(b"a.example/"),
            authority(b"a.example?"),
            authority(b"a.example#"),
            authority(b"a example"),
            authority(b"a.example,b.example"),
            authority(b"a.example:port"),
            authority(b"a.example:99999"),
            authority(b"[::1"),
            authority(b"http://a.example"),
            authority(b"a\\b"),
            authority(b"a%00b"),
        ],
    );
}

#[test]
fn row_53_one_host_goes_on() {
    let origin = Origin::start();
    let edge = h2_edge(&origin, "");
    let host: Field = (b"host", b"a.example");
    let without: Vec<Field> =
        GET[..3].iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    let host_alone = frame::headers(1, flag::END, &hpack::block(&[&without[..], &[host]].concat()));
    for (name, bytes) in
        [("both", get(&[], &[host])), ("neither differs", get(&[], &[])), ("Host", host_alone)]
    {
        let mut client = connect(&edge);
        client.send(&bytes).unwrap();
        assert_eq!(brief(&client.outcome(1).unwrap()), "200 and 5 octets", "{name}");
        assert_eq!(origin.requests().last().unwrap().values("host"), ["a.example"], "{name}");
    }
}

#[test]
fn row_54_methods_and_paths_that_would_split_a_request_line() {
    let methods: [&[u8]; 10] = [
        b"GET /admin HTTP/1.1\r\nx:",
        b"GET ",
        b" GET",
        b"G ET",
        b"GET\t",
        b"GET\0",
        b"GET\r\n",
        b"G\xc9T",
        b"",
        b"GET/",
    ];
    let paths: [&[u8]; 27] = [
        b"/ HTTP/1.1\r\nhost: b.example\r\n\r\n",
        b"/a b",
        b"/ ",
        b" /",
        b"/\t",
        b"/a\0",
        b"/a\r\nx: y",
        b"/a\n",
        b"/\x7f",
        b"/\xe9",
        b"",
        b"a",
        b"admin",
        b"?q",
        b"*",
        b"http://b.example/",
        b"//b.example/../..",
        b"/a%2fb",
        b"/a%5Cb",
        b"/a%00b",
        b"/a%0d%0ab",
        b"/a\\b",
        b"/../a",
        b"/a/../../b",
        b"/%2e%2e/a",
        b"/a/..;/b",
        b"/a%c0%af",
    ];
    let methods = methods
        .map(|method| (format!(":method {}", method.escape_ascii()), get(&[(b":method", method)], &[])));
    let paths = paths.map(|path| (format!(":path {}", path.escape_ascii()), get(&[(b":path", path)], &[])));
    let scheme = |scheme: &'static [u8]| {
        (format!(":scheme {}", scheme.escape_ascii()), get(&[(b":scheme", scheme)], &[]))
    };
    let schemes = [scheme(b"http://b.example/?"), scheme(b"ht tp"), scheme(b"http\r\n")];
    check(Refusal::AtLeastMalformed, methods.into_iter().chain(paths).chain(schemes));
}

/// Row 36. The `http` crate, which reads `:path` for h2, cuts it off before we see it: what is decided on and what is
/// sent is the path before it.
#[test]
fn row_54_a_fragment_goes_no_farther() {
    let origin = Origin::start();
    let edge = h2_edge(&origin, "");
    for path in [&b"/a#b"[..], b"/a#/../admin", b"/a?b#c"] {
        let mut client = connect(&edge);
        client.send(&get(&[(b":path", path)], &[])).unwrap();
        client.outcome(1).unwrap();
    }
    let known = ["GET /a", "GET /a?b"];
    for request in origin.requests() {
        assert!(known.contains(&request.target()), "{request:?}");
    }
}

/// Row 41: whatever `:scheme` says, a server hears how it was asked.
#[test]
fn row_54_a_scheme_is_not_believed() {
    let origin = Origin::start();
    let edge = h2_edge(&origin, "");
    for scheme in [&b"https"[..], b"HTTP", b"ftp", b"gopher", b""] {
        let mut client = connect(&edge);
        client.send(&get(&[(b":scheme", scheme)], &[])).unwrap();
        client.outcome(1).unwrap();
    }
    for request in origin.requests() {
        assert_eq!(request.values("x-forwarded-proto"), ["http"]);
        assert_eq!(request.target(), "GET /");
    }
}

/// Rows 19 and 20, in HTTP/2.
#[test]
fn connect_and_trace_are_405() {
    let connect = frame::headers(
        1,
        flag::END,
        &hpack::block(&[(":method", "CONNECT"), (":authority", "internal.example:22")]),
    );
    check(
        Refusal::Status(405),
        [("CONNECT".to_owned(), connect), ("TRACE".to_owned(), get(&[(b":method", b"TRACE")], &[]))],
    );
    check(Refusal::Malformed, [("CONNECT with a path".to_owned(), get(&[(b":method", b"CONNECT")], &[]))]);
}

/// RFC 8441: whether or not the gateway says that it takes such, this route does not.
#[test]
fn row_61_extended_connect_without_websockets_on_the_route() {
    let origin = Origin::start();
    let edge = h2_edge(&origin, "");
    for protocol in ["websocket", "connect-udp", "x", ""] {
        let fields = [
            (":method", "CONNECT"),
            (":protocol", protocol),
            (":scheme", "http"),
            (":path", "/chat"),
            (":authority", "a.example"),
            ("sec-websocket-version", "13"),
        ];
        let mut client = connect(&edge);
        client.send(&frame::headers(1, flag::END_HEADERS, &hpack::block(&fields))).unwrap();
        client.send(&frame::data(1, 0, b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n")).unwrap();
        match client.outcome(1).unwrap() {
            Outcome::Answer(response) if (400..500).contains(&response.status) => {}
            Outcome::StreamError(Code::PROTOCOL_ERROR) => {}
            other => panic!("{protocol}: {}", brief(&other)),
        }
        assert_eq!(brief(&client.get(3, &GET).unwrap()), "200 and 5 octets", "{protocol}");
    }
    assert!(origin.requests().iter().all(|request| request.target() == "GET /"));
}

#[test]
fn row_62_an_upgrade_to_h2c_is_ignored() {
    let origin = Origin::start();
    let edge = h2_edge(&origin, "");
    let upgrades = [
        ("Upgrade, HTTP2-Settings", "h2c"),
        ("Upgrade", "h2c"),
        ("upgrade, http2-settings", "H2C, websocket"),
        ("HTTP2-Settings", "h2c"),
    ];
    for (options, protocol) in upgrades {
        let fields = [("Connection", options), ("Upgrade", protocol), ("HTTP2-Settings", "AAMAAABkAAQAAP__")];
        let mut client = edge.connect();
        for _ in 0..2 {
            let response = client.request(&client::Request::get("/").with(&fields)).unwrap();
            assert_eq!((response.status, response.text().as_str()), (200, "hello"), "{options}: {protocol}");
        }
        let requests = origin.requests();
        let request = requests.last().unwrap();
        for field in ["upgrade", "http2-settings"] {
            assert_eq!(request.values(field), [""; 0], "{options}: {protocol}");
        }
    }
}

/// Row 48, in HTTP/2: a refusal of the stream alone.
#[test]
fn row_48_a_head_beyond_its_bounds_is_431() {
    let origin = Origin::start();
    let edge = h2_edge(&origin, "limits = { head_size = \"4KiB\", target_size = \"1KiB\", headers = 20 }");
    let value = "x".repeat(8 * 1024);
    let large = [&GET[..], &[("x-large", &value)]].concat();
    let many = [&GET[..], &[("x", "1"); 30]].concat();
    // An entry counts 32 octets more than it has: RFC 9113 §6.5.2.
    let inside = [&GET[..], &[("x-large", &value[..3 * 1024]), ("x", "1")]].concat();
    let mut client: Connection = connect(&edge);
    assert_eq!(client.get(1, &large).map(|outcome| status(&outcome)).unwrap(), 431, "large");
    assert_eq!(client.get(3, &many).map(|outcome| status(&outcome)).unwrap(), 431, "many");
    assert_eq!(client.get(5, &inside).map(|outcome| status(&outcome)).unwrap(), 200, "inside");
    assert_eq!(origin.count(), 1);
}

fn status(outcome: &Outcome) -> u16 {
    let Outcome::Answer(response) = outcome else { panic!("{outcome:?}") };
    response.status
}
