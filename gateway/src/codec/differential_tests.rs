//! Our reading of a message against hyper's, on well-formed messages and on ones that are nearly so.
//!
//! What we accept, hyper must accept with the same meaning: whatever one party takes and another reads differently is
//! how requests are smuggled. That we refuse what hyper takes is meant. The differences that are known are told at
//! [`as_we_write_it`] and [`has_character_that_hyper_refuses`].

use std::{
    borrow::Cow,
    cell::RefCell,
    convert::Infallible,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    HeaderMap, Request, Response,
    body::{Bytes, Incoming},
    rt::{Read, ReadBufCursor, Write},
    service::service_fn,
};
use proptest::prelude::*;

use super::{
    BodyDecoder, BodyLength, Fields, HeadLimits, HeaderSlots,
    path::canonical,
    request_head, response_head,
    tests::{apply, change},
};

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 65536, headers_max: 64, target_bytes_max: 8192 };

/// What a message says, as far as both parsers tell.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    /// Method, path, query and authority; or the status.
    line: Vec<String>,
    /// By name; the order of those of one name is kept.
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

/// The wire, from hyper's side: what it reads, until the end; what it writes is forgotten.
struct Wire {
    input: Vec<u8>,
    at: usize,
    /// A client must have written before it is answered.
    waits: bool,
    waker: Option<Waker>,
}

impl Wire {
    fn new(input: &[u8], waits: bool) -> Self {
        Self { input: input.to_vec(), at: 0, waits, waker: None }
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.waits {
            self.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let count = buffer.remaining().min(self.input.len() - self.at);
        buffer.put_slice(&self.input[self.at..self.at + count]);
        self.at += count;
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.waits = false;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn sorted(mut fields: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    fields
}

fn hyper_fields(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    sorted(
        headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect(),
    )
}

fn our_fields(fields: &Fields<'_, '_>) -> Vec<(String, Vec<u8>)> {
    sorted(fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec())).collect())
}

/// What hyper reads first on a connection that `bytes` come over, if it takes it whole.
fn hyper_request(bytes: &[u8]) -> Option<Said> {
    let said = Rc::new(RefCell::new(Vec::new()));
    let heard = Rc::clone(&said);
    let service = service_fn(move |request: Request<Incoming>| {
        let heard = Rc::clone(&heard);
        async move {
            let uri = request.uri();
            let host = request.headers().get("host").map(|host| host.as_bytes().to_vec());
            let authority = uri.authority().map_or_else(
                || String::from_utf8(host.unwrap_or_default()).unwrap_or_default(),
                |authority| authority.as_str().to_owned(),
            );
            let line = vec![
                request.method().as_str().to_owned(),
                uri.path().to_owned(),
                uri.query().unwrap_or("none").to_owned(),
                authority,
            ];
            let fields = hyper_fields(request.headers());
            let body = request.into_body().collect().await.ok();
            heard.borrow_mut().push(body.map(|body| Said { line, fields, body: body.to_bytes().to_vec() }));
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let wire = Wire::new(bytes, false);
    // What is wrong behind the first request is not the question.
    let _ended =
        run(hyper::server::conn::http1::Builder::new().half_close(true).serve_connection(wire, service));
    said.take().into_iter().next().flatten()
}

/// What hyper takes for the answer to a GET.
fn hyper_response(bytes: &[u8]) -> Option<Said> {
    run(async {
        let wire = Wire::new(bytes, true);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(wire).await.ok()?;
        let exchange = async move {
            let request = Request::get("/").header("host", "a").body(Empty::<Bytes>::new()).ok()?;
            let response = sender.send_request(request).await.ok()?;
            let line = vec![response.status().as_str().to_owned()];
            let fields = hyper_fields(response.headers());
            let body = response.into_body().collect().await.ok()?;
            Some(Said { line, fields, body: body.to_bytes().to_vec() })
        };
        tokio::join!(connection, exchange).1
    })
}

/// The payload of a body that ends within `bytes`, or with them.
fn our_body(length: BodyLength, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut decoder = BodyDecoder::new(length);
    let (mut body, mut at) = (Vec::new(), 0);
    while at < bytes.len() && !decoder.is_done() {
        let decoded = decoder.decode(&bytes[at..]).ok()?;
        body.extend_from_slice(&bytes[at..][decoded.data]);
        at += decoded.consumed;
    }
    decoder.finish_at_eof().ok()?;
    Some(body)
}

fn our_request(bytes: &[u8]) -> Option<Said> {
    let mut slots = HeaderSlots::new();
    let head = request_head(bytes, &mut slots, &LIMITS).ok()??;
    let line = vec![
        head.method.to_owned(),
        head.path.clone().into_owned(),
        head.query.unwrap_or("none").to_owned(),
        head.authority.to_owned(),
    ];
    let body = our_body(head.body, &bytes[head.head_bytes..])?;
    Some(Said { line, fields: our_fields(&head.headers), body })
}

fn our_response(bytes: &[u8]) -> Option<Said> {
    let mut rest = bytes;
    loop {
        let mut slots = HeaderSlots::new();
        let head = response_head(rest, &mut slots, "GET", &LIMITS).ok()??;
        if !head.is_interim() {
            let body = our_body(head.body, &rest[head.head_bytes..])?;
            return Some(Said {
                line: vec![head.status.to_string()],
                fields: our_fields(&head.headers),
                body,
            });
        }
        rest = &rest[head.head_bytes..];
    }
}

/// hyper's path in our canonical form: both must lead to the same resource. `OPTIONS` of an absolute-form without a
/// path asks about the server itself (RFC 9112 §3.2.4); the `http` crate writes a `/` there, which we do not.
fn as_we_write_it(mut said: Said, ours: &Said) -> Said {
    if let [method, path, _, authority] = said.line.as_mut_slice() {
        let of_the_server = method == "OPTIONS" && path == "/" && !authority.is_empty();
        if of_the_server && ours.line.get(1).is_some_and(|ours| ours == "*") {
            "*".clone_into(path);
        } else if path != "*" {
            *path = canonical(path).map_or_else(|error| format!("{path}: {error}"), Cow::into_owned);
        }
    }
    said
}

/// The `http` crate takes fewer characters in a target than browsers send. Such a path goes on escaped, and in a query
/// they delimit nothing.
fn has_character_that_hyper_refuses(bytes: &[u8]) -> bool {
    let target = bytes.trim_ascii_start().split(|&byte| byte == b' ').nth(1).unwrap_or_default();
    target.iter().any(|byte| b"\"<>[]^`{|}\\".contains(byte))
}

#[track_caller]
fn request_agrees(bytes: &[u8]) {
    let Some(ours) = our_request(bytes) else { return };
    match hyper_request(bytes).map(|said| as_we_write_it(said, &ours)) {
        Some(hypers) => assert_eq!(ours, hypers, "{}", bytes.escape_ascii()),
        None => assert!(has_character_that_hyper_refuses(bytes), "only we take {}", bytes.escape_ascii()),
    }
}

#[track_caller]
fn response_agrees(bytes: &[u8]) {
    let Some(ours) = our_response(bytes) else { return };
    match hyper_response(bytes) {
        Some(hypers) => assert_eq!(ours, hypers, "{}", bytes.escape_ascii()),
        None => panic!("only we take {}", bytes.escape_ascii()),
    }
}

/// A body in one of its framings: field lines, and the octets.
fn body() -> impl Strategy<Value = (String, Vec<u8>)> {
    let payload = prop::collection::vec(any::<u8>(), 0..40);
    let chunk = (
        prop::collection::vec(any::<u8>(), 1..20),
        prop::sample::select(&["", ";a", ";a=b", ";a=\"b c\""][..]),
        0..4_usize,
    );
    let trailers = prop::sample::select(&["", "X-T: 1\r\n", "X-T: 1\r\nX-U:\r\n"][..]);
    prop_oneof![
        Just((String::new(), Vec::new())),
        (payload, "[ \t]{0,2}", 0..3_usize).prop_map(|(payload, space, zeros)| {
            (format!("Content-Length:{space}{}{}{space}\r\n", "0".repeat(zeros), payload.len()), payload)
        }),
        (
            prop::collection::vec(chunk, 0..4),
            trailers,
            prop::sample::select(&["chunked", "Chunked", " CHUNKED "][..])
        )
            .prop_map(|(chunks, trailers, coding)| {
                let mut body = Vec::new();
                for (payload, extension, zeros) in chunks {
                    body.extend(
                        format!("{}{:x}{extension}\r\n", "0".repeat(zeros), payload.len()).into_bytes(),
                    );
                    body.extend(payload);
                    body.extend(b"\r\n");
                }
                body.extend(format!("0\r\n{trailers}\r\n").into_bytes());
                (format!("Transfer-Encoding: {coding}\r\n"), body)
            }),
    ]
}

/// Field lines that say nothing about framing.
fn fields() -> impl Strategy<Value = String> {
    let value = "[ -~\t]{0,20}";
    prop::collection::vec(("[A-Za-z!#$%&'*+.^_`|~0-9-]{1,12}", value), 0..5).prop_map(|fields| {
        let line = |(name, value): (String, String)| format!("X-{name}: {value}\r\n");
        fields.into_iter().map(line).collect::<Vec<_>>().concat()
    })
}

fn well_formed_request() -> impl Strategy<Value = Vec<u8>> {
    let method =
        prop::sample::select(&["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "M-SEARCH", "HEAD"][..]);
    let target = prop_oneof![
        "(/[a-zA-Z0-9_~!$&'()*+,=:@-]{0,8}){1,4}",
        "(/[a-z]{1,4}){1,3}[?][a-zA-Z0-9=&/?:@!$'()*+,;~._-]{0,20}",
        "http://[a-z]{1,5}\\.example(:[1-9][0-9]{0,3})?/[a-z]{0,5}",
        "http://[a-z]{1,5}\\.example",
        "/%[46][1-9a-f]/x",
        "/a/\\.{1,2}/b//c",
    ];
    (method, target, fields(), body(), any::<bool>()).prop_map(
        |(method, target, fields, (framing, body), first)| {
            let mut fields = format!("Host: a.example\r\n{fields}");
            if first {
                fields.insert_str(0, &framing);
            } else {
                fields.push_str(&framing);
            }
            [format!("{method} {target} HTTP/1.1\r\n{fields}\r\n").as_bytes(), &body].concat()
        },
    )
}

fn well_formed_response() -> impl Strategy<Value = Vec<u8>> {
    let line = "HTTP/1\\.1 (2[0-9]{2}|[345][0-9]{2}) [ -~]{0,10}\r\n";
    let interim = prop::sample::select(
        &["", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"][..],
    );
    (interim, line, fields(), body()).prop_map(|(interim, line, fields, (framing, body))| {
        [format!("{interim}{line}{fields}{framing}\r\n").as_bytes(), &body].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1500) })]

    #[test]
    fn well_formed_requests_mean_the_same_to_both(bytes in well_formed_request()) {
        prop_assert!(our_request(&bytes).is_some(), "we refuse {}", bytes.escape_ascii());
        request_agrees(&bytes);
    }

    #[test]
    fn what_is_nearly_a_request_and_taken_by_us_means_the_same_to_hyper(
        mut bytes in well_formed_request(),
        changes in prop::collection::vec(change(), 1..4),
    ) {
        for change in &changes {
            apply(&mut bytes, change);
        }
        request_agrees(&bytes);
    }

    #[test]
    fn well_formed_responses_mean_the_same_to_both(bytes in well_formed_response()) {
        prop_assert!(our_response(&bytes).is_some(), "we refuse {}", bytes.escape_ascii());
        response_agrees(&bytes);
    }

    #[test]
    fn what_is_nearly_a_response_and_taken_by_us_means_the_same_to_hyper(
        mut bytes in well_formed_response(),
        changes in prop::collection::vec(change(), 1..4),
    ) {
        for change in &changes {
            apply(&mut bytes, change);
        }
        response_agrees(&bytes);
    }
}
