//! Clients that the tools cannot be: they upload, are refused, or leave in the middle of something.

use std::time::Duration;

use anyhow::{Context, ensure};

use crate::bench::subject::{HOST, Protocol, Subject};
use xtask::lab::client::{Connection, Request};

/// For any one answer: everything else goes on meanwhile.
const TIME_MAX: Duration = Duration::from_secs(30);
const UPLOAD_BYTES: usize = 256 * 1024;
const UPLOADS: u32 = 4;
const CHUNK_BYTES: usize = 10_000;
/// Of a body of 1 MiB, before its client leaves.
const TAKEN_BYTES: usize = 64 * 1024;

/// Somebody with a key.
#[derive(Debug)]
pub(super) struct Visitor<'s> {
    subject: &'s Subject,
    /// Fields beside `host`.
    headers: Vec<(&'s str, &'s str)>,
    body: Vec<u8>,
}

impl<'s> Visitor<'s> {
    pub(super) fn new(subject: &'s Subject) -> Self {
        let headers = subject.headers.iter().filter_map(|header| header.split_once(": "));
        let headers = headers.filter(|(name, _)| *name != "Host").collect();
        Self { subject, headers, body: vec![b'x'; UPLOAD_BYTES] }
    }

    fn connect(&self, protocol: Protocol) -> anyhow::Result<Connection> {
        Connection::open(self.subject.address(protocol), None, TIME_MAX).context("connecting")
    }

    fn request<'r>(&'r self, method: &'r str, target: &'r str) -> Request<'r> {
        Request { method, host: HOST, ..Request::get(target).with(&self.headers) }
    }
}

/// Uploads with a length and in chunks, on one connection.
pub(super) fn upload(visitor: &Visitor<'_>) -> anyhow::Result<u32> {
    let mut connection = visitor.connect(Protocol::Http1)?;
    for _ in 0..UPLOADS {
        let known = Request { body: &visitor.body, ..visitor.request("POST", "/uploads") };
        expect(&mut connection, &known, 200)?;
        let chunked = [&visitor.headers[..], &[("transfer-encoding", "chunked")]].concat();
        let mut bytes = Request { headers: &chunked, ..visitor.request("POST", "/uploads") }.bytes();
        for chunk in visitor.body.chunks(CHUNK_BYTES) {
            bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        connection.send(&bytes)?;
        let status = connection.receive("POST")?.status;
        ensure!(status == 200, "an upload in chunks: {status}");
    }
    Ok(2 * UPLOADS)
}

/// No key, no permission, nowhere, and two lengths.
pub(super) fn be_refused(visitor: &Visitor<'_>) -> anyhow::Result<u32> {
    let mut connection = visitor.connect(Protocol::Http1)?;
    expect(&mut connection, &Request { host: HOST, ..Request::get("/files/128") }, 401)?;
    expect(&mut connection, &visitor.request("GET", "/nothing/here"), 403)?;
    expect(&mut connection, &Request { host: "elsewhere.test", ..visitor.request("GET", "/") }, 404)?;
    let ambiguous = [("transfer-encoding", "chunked"), ("content-length", "1")];
    expect(&mut connection, &Request { headers: &ambiguous, ..visitor.request("POST", "/uploads") }, 400)?;
    connection.expect_close()?;
    Ok(4)
}

/// Leaves in mid-head, in mid-response, in mid-upload and in mid-handshake.
pub(super) fn abort(visitor: &Visitor<'_>) -> anyhow::Result<u32> {
    let mut in_head = visitor.connect(Protocol::Http1)?;
    in_head.send(b"GET /files/128 HTTP/1.1\r\nHost: api.exam")?;
    in_head.reset()?;
    let mut in_response = visitor.connect(Protocol::Http1)?;
    in_response.send(&visitor.request("GET", "/files/1m").bytes())?;
    in_response.read_until(|taken| taken.len() > TAKEN_BYTES)?;
    in_response.reset()?;
    let mut in_upload = visitor.connect(Protocol::Http1)?;
    let upload = Request { body: &visitor.body, ..visitor.request("POST", "/uploads") }.bytes();
    let (half, _) = upload.split_at(upload.len() / 2);
    in_upload.send(half)?;
    drop(in_upload);
    let mut in_handshake = visitor.connect(Protocol::Http1Tls)?;
    // The start of a record that holds a ClientHello (RFC 8446 §5.1).
    in_handshake.send(&[22, 3, 1, 2, 0, 1, 0, 1])?;
    drop(in_handshake);
    Ok(4)
}

fn expect(connection: &mut Connection, request: &Request<'_>, status: u16) -> anyhow::Result<()> {
    let said = || format!("{} {}", request.method, request.target);
    let answered = connection.request(request).with_context(said)?.status;
    ensure!(answered == status, "{} answered {answered} instead of {status}", said());
    Ok(())
}
