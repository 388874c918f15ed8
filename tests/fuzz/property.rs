//! What must hold for any bytes that a client or an upstream sends.
//!
//! 1. Nothing panics, and a result does not depend on how the bytes arrived.
//! 2. What is sent onwards is read by the same strict reader as one message, to its last byte, with the same meaning.
//! 3. A body that is decoded and framed again is the same body.

use std::ops::Range;

use crate::codec::{
    BodyDecoder, BodyError, BodyLength, CHUNK_END, HEADERS_MAX, HeadLimits, HeaderSlots, Recode, RequestEdit,
    ResponseEdit, Rewrite, Trace, TraceParent, Version, chunk_head, client_framing, client_response,
    last_chunk, request_head, response_head, upstream_request,
};

/// Small, so that they are met.
pub(crate) const LIMITS: HeadLimits =
    HeadLimits { head_bytes_max: 2048, headers_max: 32, target_bytes_max: 512 };
/// Bodies up to this long are cut at every pair of places.
const PAIRS_BYTES_MAX: usize = 32;
const WIDE: HeadLimits =
    HeadLimits { head_bytes_max: usize::MAX, headers_max: HEADERS_MAX, target_bytes_max: usize::MAX };

/// A request, with its body.
pub(crate) fn request_holds(bytes: &[u8]) {
    let mut slots = HeaderSlots::new();
    let whole = request_head(bytes, &mut slots, &LIMITS);
    for end in prefixes(bytes) {
        let mut slots = HeaderSlots::new();
        match (request_head(&bytes[..end], &mut slots, &LIMITS), &whole) {
            (Ok(None), _) => {}
            (Ok(Some(early)), Ok(Some(head))) => assert_eq!(early.head_bytes, head.head_bytes),
            (Err(early), Err(error)) => assert_eq!(early, *error),
            (early, whole) => panic!("{end} bytes are {early:?}, all are {whole:?}"),
        }
    }
    let Ok(Some(head)) = whole else { return };

    let edit = RequestEdit {
        forwarded_for: "192.0.2.1",
        proto: "https",
        forwarded_host: head.authority,
        request_id: "id",
        trace: TraceParent::of(&head.headers)
            .map_or(Trace::Own { trace_id: "0af7651916cd43dd8448eb211c80319c", parent_id: 7 }, Trace::Client),
        query: head.query,
        remove: &["authorization"],
        set: &[("X-User", "ann")],
        rewrite: Rewrite::default(),
        body: head.body,
    };
    let mut sent = Vec::new();
    upstream_request(&mut sent, &head, &edit);
    // HTTP/1.0 without Host has an empty one, which we would not take ourselves.
    if !head.authority.is_empty() {
        let mut slots = HeaderSlots::new();
        let again = request_head(&sent, &mut slots, &WIDE).expect("well-formed").expect("complete");
        assert_eq!(again.head_bytes, sent.len());
        assert_eq!((again.method, &again.path, again.query), (head.method, &head.path, head.query));
        assert_eq!(
            (again.authority, again.body, again.version),
            (head.authority, head.body, Version::Http11)
        );
        assert!(again.keep_alive && !again.expect_continue);
        for ours in
            ["host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id", "x-user"]
        {
            assert_eq!(again.headers.all(ours).count(), 1, "{ours}");
        }
        let trace = TraceParent::of(&again.headers).expect("each request has a trace");
        assert_eq!(TraceParent::of(&head.headers).unwrap_or(trace), trace);
        for gone in [
            "authorization",
            "connection",
            "te",
            "trailer",
            "upgrade",
            "proxy",
            "forwarded",
            "x-original-url",
        ] {
            assert_eq!(again.headers.get(gone), None, "{gone}");
        }
        assert!(again.headers.iter().all(|(name, _)| !name.contains('_')));
    }
    body_holds(head.body, &bytes[head.head_bytes..]);
}

/// What answers a `method`, with its body.
pub(crate) fn response_holds(method: &str, bytes: &[u8]) {
    let mut slots = HeaderSlots::new();
    let whole = response_head(bytes, &mut slots, method, &LIMITS);
    for end in prefixes(bytes) {
        let mut slots = HeaderSlots::new();
        match (response_head(&bytes[..end], &mut slots, method, &LIMITS), &whole) {
            (Ok(None), _) => {}
            (Ok(Some(early)), Ok(Some(head))) => assert_eq!(early.head_bytes, head.head_bytes),
            (Err(early), Err(error)) => assert_eq!(early, *error),
            (early, whole) => panic!("{end} bytes are {early:?}, all are {whole:?}"),
        }
    }
    let Ok(Some(head)) = whole else { return };

    for client_version in [Version::Http10, Version::Http11] {
        let body = client_framing(head.body, client_version);
        let edit = ResponseEdit {
            keep_alive: true,
            client_version,
            request_id: "id",
            date: "now",
            remove: &[],
            lines: b"",
            recode: Recode::default(),
            body,
        };
        let mut sent = Vec::new();
        client_response(&mut sent, &head, &edit);
        let mut slots = HeaderSlots::new();
        let again = response_head(&sent, &mut slots, method, &WIDE).expect("well-formed").expect("complete");
        assert_eq!(again.head_bytes, sent.len());
        assert_eq!((again.status, again.reason, again.body), (head.status, head.reason, body));
        assert_eq!(again.keep_alive, head.is_interim() || body != BodyLength::UntilClose);
        assert_eq!(again.headers.all("x-request-id").count(), 1);
    }
    body_holds(head.body, &bytes[head.head_bytes..]);
}

/// A chunked body.
pub(crate) fn chunked_holds(bytes: &[u8]) {
    body_holds(BodyLength::Chunked, bytes);
}

/// Payload and trailers, and how many bytes the body took; `None`: it has not ended.
type Read = Option<(Vec<u8>, Vec<u8>, usize)>;

fn body_holds(length: BodyLength, bytes: &[u8]) {
    let whole = read(length, bytes, bytes.len().max(1));
    for piece in [1, 2, 3, 7, 64] {
        assert_eq!(read(length, bytes, piece), whole, "in pieces of {piece}");
    }
    if bytes.len() <= PAIRS_BYTES_MAX {
        for (first, second) in
            (1..bytes.len()).flat_map(|first| (first..bytes.len()).map(move |second| (first, second)))
        {
            assert_eq!(read_cut_at(length, bytes, &[first, second]), whole, "cut at {first} and {second}");
        }
    }
    let Ok(Some((payload, trailers, _))) = whole else { return };
    let mut sent = Vec::new();
    for piece in payload.chunks(10) {
        chunk_head(&mut sent, piece.len());
        sent.extend_from_slice(piece);
        sent.extend_from_slice(CHUNK_END);
    }
    last_chunk(&mut sent, &trailers);
    let bytes = sent.len();
    assert_eq!(read(BodyLength::Chunked, &sent, 5), Ok(Some((payload, trailers, bytes))));
}

fn read(length: BodyLength, bytes: &[u8], piece: usize) -> Result<Read, BodyError> {
    let cuts: Vec<usize> = (1..bytes.len().div_ceil(piece)).map(|n| n * piece).collect();
    read_cut_at(length, bytes, &cuts)
}

/// Arrives in pieces that end at `cuts`, in order.
fn read_cut_at(length: BodyLength, bytes: &[u8], cuts: &[usize]) -> Result<Read, BodyError> {
    let mut decoder = BodyDecoder::new(length);
    let (mut payload, mut consumed) = (Vec::new(), 0);
    let mut cuts = cuts.iter().copied().peekable();
    while consumed < bytes.len() && !decoder.is_done() {
        while cuts.next_if(|&cut| cut <= consumed).is_some() {}
        let input = &bytes[consumed..cuts.peek().copied().unwrap_or(bytes.len())];
        let decoded = decoder.decode(input)?;
        assert!(decoded.consumed > 0 && decoded.data.end <= decoded.consumed);
        payload.extend_from_slice(&input[decoded.data]);
        consumed += decoded.consumed;
    }
    Ok(decoder.is_done().then(|| (payload, decoder.trailers().to_vec(), consumed)))
}

/// Prefixes that are read as well: all of a usual head.
fn prefixes(bytes: &[u8]) -> Range<usize> {
    0..bytes.len().min(600)
}
