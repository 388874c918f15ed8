//! Compression as clients negotiate it, read back by the reference decoders.

use std::io::Read as _;

use xtask::lab::{
    client::{Request, Response},
    scripted::Step,
};

use crate::support::{Edge, answering, scripted};

const ROUTE: &str = "[runtime]\nworkers = 1\n\
    [upstreams.app]\nservers = [\"{upstream}\"]\nbalance = \"round_robin\"\nhealth = \"off\"\n\
    [routes.all]\npath = \"/{*rest}\"\npublic = true\nupstream = \"app\"\ncompress = [\"zstd\", \"br\", \"gzip\"]\n\
    [routes.plain]\npath = \"/plain\"\npublic = true\nupstream = \"app\"\n";

/// Text that is worth compressing.
fn page(bytes: usize) -> String {
    "All work and no play makes Jack a dull boy.\n".chars().cycle().take(bytes).collect()
}

fn whole(fields: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{fields}\r\n{body}", body.len())
}

fn decoded(response: &Response) -> String {
    let mut text = String::new();
    let body = response.body.as_slice();
    match response.header("content-encoding") {
        Some("zstd") => zstd::stream::read::Decoder::new(body).unwrap().read_to_string(&mut text),
        Some("br") => brotli::Decompressor::new(body, 4096).read_to_string(&mut text),
        Some("gzip") => flate2::read::GzDecoder::new(body).read_to_string(&mut text),
        other => panic!("a coding that nobody asked for: {other:?}"),
    }
    .unwrap();
    text
}

#[test]
fn a_page_is_compressed_as_its_client_likes_it() {
    let body = page(300_000);
    let upstream = answering(&whole("Content-Type: text/html\r\nETag: \"v1\"\r\nVary: Cookie\r\n", &body));
    let edge = Edge::start(upstream.address(), ROUTE);
    let mut client = edge.connect();
    for (accepts, coding) in
        [("gzip, deflate, br, zstd", "zstd"), ("gzip, br", "br"), ("br;q=0.1, gzip", "gzip"), ("*", "zstd")]
    {
        let response = client.request(&Request::get("/").with(&[("accept-encoding", accepts)])).unwrap();
        assert_eq!((response.status, response.header("content-encoding")), (200, Some(coding)), "{accepts}");
        assert_eq!((response.header("etag"), response.header("content-length")), (Some("W/\"v1\""), None));
        let vary: Vec<_> = response
            .headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("vary"))
            .map(|(_, v)| v)
            .collect();
        assert_eq!(vary, ["Cookie", "Accept-Encoding"]);
        assert!(response.body.len() < body.len() / 10, "{coding}: {} bytes", response.body.len());
        assert!(decoded(&response) == body, "{coding} decodes to what was sent");
    }
    for accepts in ["identity", "deflate", "gzip;q=0", ""] {
        let response = client.request(&Request::get("/").with(&[("accept-encoding", accepts)])).unwrap();
        assert_eq!((response.header("content-encoding"), response.header("etag")), (None, Some("\"v1\"")));
        assert!(
            response.headers.iter().any(|(_, value)| value == "Accept-Encoding"),
            "{accepts}: it may vary"
        );
        assert!(response.text() == body, "{accepts}");
    }
    let plain = client.request(&Request::get("/plain").with(&[("accept-encoding", "gzip")])).unwrap();
    assert_eq!((plain.header("content-encoding"), plain.header("vary")), (None, Some("Cookie")));
    assert_eq!(upstream.accepted(), 1, "the server's connection is used again and again");
    assert!(edge.gateway.output().is_empty() || !edge.gateway.output().contains("panic"));
}

#[test]
fn what_is_not_worth_it_goes_as_it_came() {
    let gzip = [("accept-encoding", "gzip")];
    let plain = |answer: &str| {
        let upstream = answering(answer);
        let edge = Edge::start(upstream.address(), ROUTE);
        let response = edge.get("/", &gzip);
        assert!(answer.ends_with(&response.text()), "{answer:.80}");
        (response.header("content-encoding").map(ToOwned::to_owned), response.header("vary").is_some())
    };
    assert_eq!(plain(&whole("Content-Type: text/html\r\n", &page(1023))), (None, true));
    assert_eq!(plain(&whole("Content-Type: image/png\r\n", &page(2048))), (None, false));
    let coded = whole("Content-Type: text/html\r\nContent-Encoding: x\r\n", &page(2048));
    assert_eq!(plain(&coded), (Some("x".into()), false));
    let partial = whole("Content-Type: text/html\r\nContent-Range: bytes 0-1/2\r\n", &page(2048));
    assert_eq!(plain(&partial.replacen("200 OK", "206 Partial", 1)), (None, false));
    let fixed = whole("Content-Type: text/html\r\nCache-Control: no-transform\r\n", &page(2048));
    assert_eq!(plain(&fixed), (None, false));
}

#[test]
fn heads_without_a_body_say_what_a_body_would_be() {
    let head = whole("Content-Type: text/html\r\nETag: \"v1\"\r\n", &page(2048));
    let (head, _) = head.split_once("\r\n\r\n").unwrap();
    let send = |text: &str| Step::Send(format!("{text}\r\n\r\n").into_bytes());
    let upstream = scripted(&[
        Step::ReadHead,
        send(head),
        Step::ReadHead,
        send("HTTP/1.1 304 Not Modified\r\nETag: \"v1\""),
        Step::ReadHead,
        send("HTTP/1.1 204 No Content\r\nContent-Type: text/html"),
    ]);
    let edge = Edge::start(upstream.address(), ROUTE);
    let mut client = edge.connect();
    let gzip = [("accept-encoding", "gzip")];
    let response = client.request(&Request { method: "HEAD", ..Request::get("/").with(&gzip) }).unwrap();
    let told = |name: &str| response.header(name);
    assert_eq!(
        (told("content-encoding"), told("content-length"), told("etag")),
        (Some("gzip"), None, Some("W/\"v1\""))
    );
    let response = client.request(&Request::get("/").with(&gzip)).unwrap();
    assert_eq!((response.status, response.header("etag")), (304, Some("W/\"v1\"")));
    let response = client.request(&Request::get("/").with(&gzip)).unwrap();
    assert_eq!((response.status, response.header("content-encoding")), (204, None));
}

/// The client has each piece in full before the server sends the next.
#[test]
fn what_a_server_has_sent_does_not_wait_for_more() {
    let chunk = |text: &str| Step::Send(format!("{:x}\r\n{text}\r\n", text.len()).into_bytes());
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    let upstream = scripted(&[Step::ReadHead, Step::Send(head.into()), chunk("{\"one\":1}\n"), Step::Stall]);
    let edge = Edge::start(upstream.address(), ROUTE);
    for coding in ["zstd", "br", "gzip"] {
        let mut client = edge.connect();
        client.send(&Request::get("/").with(&[("accept-encoding", coding)]).bytes()).unwrap();
        let text = client.read_until(|received| {
            let Some(at) = received.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
            plain_so_far(coding, &received[at + 4..]) == b"{\"one\":1}\n"
        });
        assert!(text.is_ok(), "{coding}: {text:?}");
    }
}

/// What can be decoded of a chunked, coded body of which the end has not come.
fn plain_so_far(coding: &str, mut chunked: &[u8]) -> Vec<u8> {
    let mut coded = Vec::new();
    while let Ok(httparse::Status::Complete((line, size))) = httparse::parse_chunk_size(chunked) {
        let size = usize::try_from(size).unwrap();
        let Some(chunk) = chunked.get(line..line + size) else { break };
        coded.extend_from_slice(chunk);
        chunked = chunked.get(line + size + 2..).unwrap_or_default();
    }
    let mut plain = Vec::new();
    let coded = coded.as_slice();
    let _cut_off = match coding {
        "zstd" => zstd::stream::read::Decoder::new(coded).unwrap().read_to_end(&mut plain),
        "br" => brotli::Decompressor::new(coded, 4096).read_to_end(&mut plain),
        _ => flate2::read::GzDecoder::new(coded).read_to_end(&mut plain),
    };
    plain
}

#[test]
fn an_http_1_0_client_reads_until_the_close_and_a_cut_body_never_looks_whole() {
    let body = page(5000);
    let answer = whole("Content-Type: text/plain\r\n", &body);
    let upstream = answering(&answer);
    let edge = Edge::start(upstream.address(), ROUTE);
    let mut client = edge.connect();
    client.send(b"GET / HTTP/1.0\r\nAccept-Encoding: gzip\r\n\r\n").unwrap();
    let response = client.receive("GET").unwrap();
    assert_eq!((response.header("transfer-encoding"), response.header("connection")), (None, Some("close")));
    assert!(decoded(&response) == body);
    let upstream = scripted(&[Step::ReadHead, Step::Send(answer.as_bytes()[..4000].to_vec()), Step::Close]);
    let edge = Edge::start(upstream.address(), ROUTE);
    let cut = edge.connect().request(&Request::get("/").with(&[("accept-encoding", "gzip")]));
    assert!(cut.is_err(), "{cut:?}");
}
