//! Every refusal and failure → status, problem document (RFC 9457), label and offence, in one exhaustive match.
//!
//! Comes in: the error of whichever stage ended the request. Goes out: an [`Answer`], and its bytes. It never looks
//! at the request again and never tells a client more than what the client did.

use std::{net::IpAddr, sync::Arc};

use crate::{
    codec::{self, GrpcStatus, HandshakeError, RequestError, Telling},
    decide::{Forbidden, Refusal},
    forward::ForwardError,
};

/// What ended a request before a server's response did.
#[derive(Debug)]
pub enum Failure<'e> {
    /// The head is not HTTP as we accept it.
    Request(&'e RequestError),
    /// The head did not come in time.
    HeadTimeout,
    /// Policy says no.
    Refused(&'e Refusal),
    /// The exchange with the server failed.
    Forward(&'e ForwardError),
    /// The policy names a server that is not there: a fault of ours.
    Internal,
}

/// What a source did that counts against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OffenceKind {
    /// 401
    Unauthorized,
    /// 403
    Forbidden,
    /// 429
    Limited,
    /// A request that is not HTTP, a desync attempt, TLS garbage.
    Malformed,
    /// 404
    NotFound,
    /// What a filter calls an attack.
    Attack,
}

impl OffenceKind {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 6] =
        [Self::Unauthorized, Self::Forbidden, Self::Limited, Self::Malformed, Self::NotFound, Self::Attack];

    /// Its key in `[escalation]`, which metrics, logs and `bans` use as well.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Limited => "limited",
            Self::Malformed => "malformed",
            Self::NotFound => "not_found",
            Self::Attack => "attack",
        }
    }

    /// Its place in [`OffenceKind::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// An offence on its way to the control thread. Its connection finished the TCP handshake, so the source is not forged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offence {
    /// What was done.
    pub kind: OffenceKind,
    /// Who did it.
    pub source: IpAddr,
    /// The source was named by a proxy's header: the packets come from the proxy.
    pub source_is_forwarded: bool,
    /// When, on `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// The route that was asked for, where one matched.
    pub route: Option<Arc<str>>,
    /// Of the request.
    pub request_id: RequestId,
}

/// 32 lower-case hexadecimal digits, not all of them 0: also the id of a trace (W3C Trace Context §3.2.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId([u8; 32]);

impl RequestId {
    /// Of a worker's random `prefix` and its `count` of requests.
    pub fn new(prefix: u64, count: u64) -> Self {
        let mut digits = [0; 32];
        // A multiplication by an odd number permutes the counts, so that neighbours do not look alike.
        let bytes = [prefix.max(1).to_be_bytes(), count.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes.as_flattened()) {
            pair.copy_from_slice(&[hex_digit(byte >> 4), hex_digit(byte & 15)]);
        }
        Self(digits)
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// As bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

fn hex_digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
}

/// What the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// For metrics, access log and the problem's `detail`: what happened, in one word.
    pub label: &'static str,
    /// One sentence for a person.
    pub detail: &'static str,
    /// What it counts as.
    pub offence: Option<OffenceKind>,
    /// Where the next request starts is unknown, or the peer is not to be trusted with one.
    pub close: bool,
    /// Fields that go with it.
    pub fields: Vec<(&'static str, String)>,
}

impl Answer {
    fn new(status: u16, label: &'static str, detail: &'static str) -> Self {
        Self { status, label, detail, offence: None, close: false, fields: Vec::new() }
    }

    fn counts_as(mut self, offence: OffenceKind) -> Self {
        self.offence = Some(offence);
        self
    }

    fn closes(mut self) -> Self {
        self.close = true;
        self
    }

    fn with(mut self, name: &'static str, value: String) -> Self {
        self.fields.push((name, value));
        self
    }
}

/// The answer to `failure`; `None` where nobody is left to hear one.
pub fn answer(failure: &Failure<'_>) -> Option<Answer> {
    Some(match failure {
        Failure::Request(error) => malformed_head(**error),
        Failure::HeadTimeout => {
            Answer::new(408, "head_timeout", "The request head did not arrive in time.").closes()
        }
        Failure::Refused(refusal) => refused(refusal),
        Failure::Forward(error) => return not_forwarded(error),
        Failure::Internal => Answer::new(500, "internal", "The gateway failed."),
    })
}

fn malformed_head(error: RequestError) -> Answer {
    use OffenceKind::Malformed;
    let bad = |label, detail| Answer::new(400, label, detail).closes();
    match error {
        RequestError::MalformedMethod => {
            bad("malformed_method", "The method is not a token.").counts_as(Malformed)
        }
        RequestError::MalformedTarget => {
            bad("malformed_target", "The request target is malformed.").counts_as(Malformed)
        }
        RequestError::Path(_) => {
            bad("ambiguous_path", "The path could be read in more than one way.").counts_as(Malformed)
        }
        RequestError::MalformedVersion => {
            bad("malformed_version", "The protocol version is malformed.").counts_as(Malformed)
        }
        RequestError::UnsupportedVersion => {
            Answer::new(505, "unsupported_version", "Only HTTP/1.0 and HTTP/1.1 are spoken here.").closes()
        }
        RequestError::Connect => {
            Answer::new(405, "connect", "CONNECT is not supported.").closes().with("Allow", String::new())
        }
        RequestError::Trace => {
            Answer::new(405, "trace", "TRACE is not supported.").closes().with("Allow", String::new())
        }
        RequestError::LineEnd => bad("malformed_line", "A line does not end in CRLF.").counts_as(Malformed),
        RequestError::TooManyEmptyLines => {
            bad("empty_lines", "Too many empty lines before the request.").counts_as(Malformed)
        }
        RequestError::FieldName => {
            bad("malformed_field_name", "A field name is malformed.").counts_as(Malformed)
        }
        RequestError::FieldValue => {
            bad("malformed_field_value", "A field value is malformed.").counts_as(Malformed)
        }
        RequestError::TargetTooLong => {
            Answer::new(414, "target_too_long", "The request target is too long.").closes()
        }
        RequestError::HeadTooLarge => {
            Answer::new(431, "head_too_large", "The request head is too large.").closes()
        }
        RequestError::TooManyFields => {
            Answer::new(431, "too_many_fields", "Too many header fields.").closes()
        }
        RequestError::MissingHost => bad("missing_host", "Host is missing.").counts_as(Malformed),
        RequestError::RepeatedHost => {
            bad("repeated_host", "There is more than one Host.").counts_as(Malformed)
        }
        RequestError::MalformedHost => bad("malformed_host", "The host is malformed.").counts_as(Malformed),
        RequestError::UserinfoInAuthority => {
            bad("userinfo", "The authority must not hold userinfo.").counts_as(Malformed)
        }
        RequestError::UnknownExpectation => {
            Answer::new(417, "unknown_expectation", "Only 100-continue can be expected.").closes()
        }
        RequestError::Framing(_) => {
            bad("ambiguous_length", "Where the request ends is ambiguous.").counts_as(Malformed)
        }
    }
}

/// The answer to a request for a host that its connection is not for (RFC 9110 §15.5.20).
pub fn misdirected() -> Answer {
    Answer::new(421, "misdirected", "This connection is not for this host: open another one.")
}

/// The answer to what policy refuses.
pub fn refused(refusal: &Refusal) -> Answer {
    match refusal {
        Refusal::NoRoute => {
            Answer::new(404, "no_route", "Nothing is served here.").counts_as(OffenceKind::NotFound)
        }
        Refusal::MethodNotAllowed { allow } => {
            Answer::new(405, "method_not_allowed", "The method is not allowed here.")
                .with("Allow", allow.to_string())
        }
        Refusal::Unauthenticated { challenge, .. } => {
            Answer::new(401, "unauthenticated", "A valid credential is needed.")
                .counts_as(OffenceKind::Unauthorized)
                .with("WWW-Authenticate", challenge.to_string())
        }
        Refusal::AuthUnavailable => {
            Answer::new(503, "auth_unavailable", "Who is asking cannot be found out at the moment.")
                .with("Retry-After", "1".to_owned())
        }
        Refusal::Forbidden(reason) => forbidden(reason),
        Refusal::Limited { retry_after_s, .. } => Answer::new(429, "limited", "Too many requests.")
            .counts_as(OffenceKind::Limited)
            .with("Retry-After", retry_after_s.to_string()),
        Refusal::BodyTooLarge { .. } => body_too_large(),
        Refusal::UnsupportedMediaType => {
            Answer::new(415, "unsupported_media_type", "This media type is not accepted here.")
        }
        Refusal::OriginNotAllowed => {
            Answer::new(403, "origin_not_allowed", "Pages of this origin may not ask.")
        }
        Refusal::UnclearRewrite => {
            Answer::new(400, "unclear_rewrite", "The path cannot be rewritten as it is meant to be.")
        }
        Refusal::BadHandshake(error) => bad_handshake(*error),
        // No offence: any page that a person visits can make their browser ask, and get their address blocked.
        Refusal::ForeignOrigin => {
            Answer::new(403, "foreign_origin", "Pages of this origin may not open a WebSocket here.").closes()
        }
    }
}

fn forbidden(reason: &Forbidden) -> Answer {
    let answer = |label, detail| Answer::new(403, label, detail).counts_as(OffenceKind::Forbidden);
    match reason {
        Forbidden::MissingPermission(_) | Forbidden::MethodWithoutPermission | Forbidden::Unmet(_) => {
            answer("forbidden", "The caller may not do this.")
        }
        Forbidden::MissingScope { challenge, .. } => {
            let answer = answer("insufficient_scope", "The credential lacks a scope.");
            match challenge {
                Some(challenge) => answer.with("WWW-Authenticate", challenge.to_string()),
                None => answer,
            }
        }
    }
}

/// What follows such a head may be frames and not a request, so that the connection ends.
fn bad_handshake(error: HandshakeError) -> Answer {
    match error {
        HandshakeError::Version => {
            Answer::new(426, "websocket_version", "Only version 13 of the WebSocket protocol is spoken here.")
                .closes()
                .with("Sec-WebSocket-Version", codec::websocket::VERSION.to_owned())
                .with("Upgrade", "websocket".to_owned())
                .with("Connection", "upgrade".to_owned())
        }
        HandshakeError::EarlyBytes => {
            Answer::new(400, "websocket_early_bytes", "Bytes came before the handshake was answered.")
                .closes()
                .counts_as(OffenceKind::Malformed)
        }
        HandshakeError::Request | HandshakeError::Connection | HandshakeError::Key => {
            Answer::new(400, "websocket_handshake", "The WebSocket handshake is malformed.").closes()
        }
    }
}

/// The answer where memory is short.
pub fn overloaded() -> Answer {
    Answer::new(503, "overloaded", "The gateway is too busy.").with("Retry-After", "1".to_owned())
}

fn body_too_large() -> Answer {
    Answer::new(413, "body_too_large", "The request body is too large.").closes()
}

fn not_forwarded(error: &ForwardError) -> Option<Answer> {
    Some(match error {
        ForwardError::NoLiveServer => Answer::new(503, "no_live_server", "No server is available."),
        ForwardError::Unresolved => Answer::new(503, "name_unresolved", "No server's name is resolved yet.")
            .with("Retry-After", "1".to_owned()),
        ForwardError::PoolExhausted => {
            Answer::new(503, "upstream_busy", "All servers are busy.").with("Retry-After", "1".to_owned())
        }
        ForwardError::PendingTimeout => Answer::new(503, "upstream_wait_timeout", "All servers are busy.")
            .with("Retry-After", "1".to_owned()),
        ForwardError::NoDescriptor => overloaded(),
        ForwardError::ConnectTimeout => {
            Answer::new(504, "connect_timeout", "The server did not accept a connection in time.")
        }
        ForwardError::Unreachable(_) => Answer::new(502, "unreachable", "The server cannot be reached."),
        ForwardError::Tls(_) => {
            Answer::new(502, "upstream_tls", "No trusted connection to the server can be made.")
        }
        ForwardError::ClosedBeforeResponse => {
            Answer::new(502, "closed_before_response", "The server closed before it answered.")
        }
        ForwardError::Unprocessed => Answer::new(503, "unprocessed", "The server did not take the request.")
            .with("Retry-After", "1".to_owned()),
        ForwardError::ResponseTimeout => {
            Answer::new(504, "response_timeout", "The server did not answer in time.")
        }
        ForwardError::UpgradeNotAgreed => {
            Answer::new(502, "upgrade_not_agreed", "The server's answer to the WebSocket handshake is wrong.")
        }
        ForwardError::TooManyInterim => {
            Answer::new(502, "too_many_interim", "The server sent interim answers without end.")
        }
        ForwardError::BadResponse(_) => {
            Answer::new(502, "bad_response", "The server's answer is not valid HTTP.")
        }
        ForwardError::TruncatedResponse => {
            Answer::new(502, "truncated_response", "The server's answer ended early.")
        }
        ForwardError::Encoding => Answer::new(500, "encoding", "The gateway could not compress the answer."),
        ForwardError::BadRequestBody(_) => {
            Answer::new(400, "malformed_body", "The body's framing is malformed.")
                .counts_as(OffenceKind::Malformed)
                .closes()
        }
        ForwardError::RequestBodyTooLarge => body_too_large(),
        ForwardError::RequestBodyTimeout => {
            Answer::new(408, "body_timeout", "The request body did not arrive in time.").closes()
        }
        ForwardError::RequestBodyTooSlow => {
            Answer::new(408, "body_too_slow", "The request body arrived too slowly.").closes()
        }
        // Seldom told: by then the client mostly has the status of the response that it does not take.
        ForwardError::ResponseTooSlow => {
            Answer::new(408, "response_too_slow", "The response was taken too slowly.").closes()
        }
        ForwardError::ClientGone => return None,
    })
}

/// Every label that an [`Answer`] can carry: the names of the refusal counters.
pub const LABELS: &[&str] = &[
    "head_timeout",
    "internal",
    "malformed_method",
    "malformed_target",
    "ambiguous_path",
    "malformed_version",
    "unsupported_version",
    "connect",
    "trace",
    "malformed_line",
    "empty_lines",
    "malformed_field_name",
    "malformed_field_value",
    "target_too_long",
    "head_too_large",
    "too_many_fields",
    "missing_host",
    "repeated_host",
    "malformed_host",
    "userinfo",
    "unknown_expectation",
    "ambiguous_length",
    "misdirected",
    "no_route",
    "method_not_allowed",
    "unauthenticated",
    "login_unavailable",
    "login_failed",
    "logout_token",
    "auth_unavailable",
    "forbidden",
    "insufficient_scope",
    "limited",
    "unsupported_media_type",
    "unclear_rewrite",
    "origin_not_allowed",
    "body_too_large",
    "websocket_version",
    "websocket_early_bytes",
    "websocket_handshake",
    "foreign_origin",
    "upgrade_not_agreed",
    "overloaded",
    "no_live_server",
    "name_unresolved",
    "upstream_busy",
    "upstream_wait_timeout",
    "connect_timeout",
    "unreachable",
    "upstream_tls",
    "closed_before_response",
    "unprocessed",
    "response_timeout",
    "too_many_interim",
    "bad_response",
    "truncated_response",
    "encoding",
    "malformed_body",
    "body_timeout",
    "body_too_slow",
    "response_too_slow",
    "client_gone",
];

/// The place of a label in [`LABELS`]; one past the end for a label that is not there.
pub fn label_index(label: &str) -> usize {
    LABELS.iter().position(|known| *known == label).unwrap_or(LABELS.len())
}

/// Writes `answer` into `out`: as a problem document, or as the status of a call where it `is_grpc`.
pub fn encode(
    out: &mut Vec<u8>,
    answer: &Answer,
    (request_id, is_grpc): (&str, bool),
    telling: &Telling<'_>,
) {
    if is_grpc {
        return encode_grpc(out, answer, request_id, telling);
    }
    // Every text here is ours and needs no escape.
    let body = format!(
        "{{\"type\":\"about:blank\",\"title\":\"{}\",\"status\":{},\"detail\":\"{}\",\"reason\":\"{}\",\
         \"request_id\":\"{}\"}}\n",
        reason(answer.status),
        answer.status,
        answer.detail,
        answer.label,
        request_id,
    );
    let mut fields = vec![
        ("Content-Type", "application/problem+json"),
        ("Cache-Control", "no-store"),
        ("X-Request-Id", request_id),
    ];
    fields.extend(answer.fields.iter().map(|(name, value)| (*name, value.as_str())));
    codec::simple_response(out, answer.status, reason(answer.status), &fields, body.as_bytes(), telling);
}

/// The answer to a call: trailers alone, in the head of a response that has no body (gRPC over HTTP/2).
fn encode_grpc(out: &mut Vec<u8>, answer: &Answer, request_id: &str, telling: &Telling<'_>) {
    let status = match answer.label {
        // By the call's own deadline or by ours: it took too long.
        "response_timeout" => GrpcStatus::DeadlineExceeded,
        _ => GrpcStatus::of_http(answer.status),
    };
    // Every detail is ours: printable, without the percent sign that would need an escape.
    let mut fields = vec![
        ("Content-Type", "application/grpc"),
        ("grpc-status", status.as_str()),
        ("grpc-message", answer.detail),
        ("X-Request-Id", request_id),
    ];
    fields.extend(answer.fields.iter().map(|(name, value)| (*name, value.as_str())));
    codec::simple_response(out, 200, "OK", &fields, b"", telling);
}

/// The phrase of a status that this gateway answers by itself (RFC 9110 §15).
pub fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        410 => "Gone",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Version;

    #[track_caller]
    fn check(failure: &Failure<'_>, status: u16, offence: Option<OffenceKind>, close: bool) {
        let answer = answer(failure).expect("somebody hears it");
        assert_eq!((answer.status, answer.offence, answer.close), (status, offence, close), "{failure:?}");
        assert!(!reason(status).is_empty(), "{status} has a phrase");
    }

    #[test]
    fn each_failure_has_its_status_and_offence() {
        use OffenceKind::{Forbidden, Limited, Malformed, NotFound, Unauthorized};
        check(&Failure::Request(&RequestError::LineEnd), 400, Some(Malformed), true);
        check(&Failure::Request(&RequestError::TargetTooLong), 414, None, true);
        check(&Failure::Request(&RequestError::HeadTooLarge), 431, None, true);
        check(&Failure::Request(&RequestError::Trace), 405, None, true);
        check(&Failure::Request(&RequestError::UnsupportedVersion), 505, None, true);
        check(&Failure::HeadTimeout, 408, None, true);
        check(&Failure::Refused(&Refusal::NoRoute), 404, Some(NotFound), false);
        check(&Failure::Refused(&Refusal::UnsupportedMediaType), 415, None, false);
        check(&Failure::Refused(&Refusal::Limited { limit: 0, retry_after_s: 2 }), 429, Some(Limited), false);
        check(&Failure::Forward(&ForwardError::ResponseTimeout), 504, None, false);
        check(&Failure::Forward(&ForwardError::ClosedBeforeResponse), 502, None, false);
        let not_trusted = std::io::ErrorKind::InvalidData.into();
        check(&Failure::Forward(&ForwardError::Tls(not_trusted)), 502, None, false);
        check(&Failure::Forward(&ForwardError::RequestBodyTooLarge), 413, None, true);
        assert!(answer(&Failure::Forward(&ForwardError::ClientGone)).is_none());
        check(&Failure::Refused(&Refusal::BadHandshake(HandshakeError::Version)), 426, None, true);
        check(&Failure::Refused(&Refusal::BadHandshake(HandshakeError::Key)), 400, None, true);
        check(&Failure::Refused(&Refusal::ForeignOrigin), 403, None, true);
        check(&Failure::Forward(&ForwardError::UpgradeNotAgreed), 502, None, false);
        check(
            &Failure::Refused(&Refusal::BadHandshake(HandshakeError::EarlyBytes)),
            400,
            Some(Malformed),
            true,
        );
        let overloaded = overloaded();
        assert_eq!((overloaded.status, overloaded.offence, overloaded.close), (503, None, false));
        let _ = (Forbidden, Unauthorized);
    }

    #[test]
    fn the_problem_document_is_json_and_names_the_request() {
        let request_id = RequestId::new(7, 1);
        let mut out = Vec::new();
        let refusal = Refusal::Limited { limit: 0, retry_after_s: 2 };
        let answer = answer(&Failure::Refused(&refusal)).expect("a limit answers");
        let telling = Telling {
            date: "now",
            keep_alive: true,
            client_version: Version::Http11,
            for_head: false,
            lines: b"",
        };
        encode(&mut out, &answer, (request_id.as_str(), false), &telling);
        let text = String::from_utf8(out).expect("ASCII");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{head}");
        assert!(head.contains("\r\nRetry-After: 2"), "{head}");
        let problem: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(problem["status"], 429);
        assert_eq!(problem["request_id"], request_id.as_str());
    }

    #[test]
    fn a_call_is_answered_as_a_call() {
        let mut out = Vec::new();
        let answer = answer(&Failure::Forward(&ForwardError::ResponseTimeout)).expect("a timeout answers");
        let telling = Telling {
            date: "now",
            keep_alive: true,
            client_version: Version::Http2,
            for_head: false,
            lines: b"",
        };
        encode(&mut out, &answer, (RequestId::new(7, 1).as_str(), true), &telling);
        let text = String::from_utf8(out).expect("ASCII");
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(
            text.contains("\r\nContent-Type: application/grpc\r\ngrpc-status: 4\r\ngrpc-message: "),
            "{text}"
        );
        assert!(text.ends_with("\r\nContent-Length: 0\r\n\r\n"), "{text}");
    }

    #[test]
    fn details_need_no_escape_in_a_grpc_message() {
        let failures = [Failure::HeadTimeout, Failure::Internal, Failure::Refused(&Refusal::NoRoute)];
        for failure in failures {
            let detail = answer(&failure).expect("it answers").detail;
            assert!(detail.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'%'), "{detail}");
        }
    }

    #[test]
    fn request_ids_differ() {
        let ids: std::collections::HashSet<_> = (0..1000).map(|n| *RequestId::new(7, n).as_bytes()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(RequestId::new(7, 1).as_str().starts_with("0000000000000007"));
    }
}
