use super::*;
use crate::codec::{HeadLimits, HeaderSlots, request_head, switched_head};

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 4096, headers_max: 32, target_bytes_max: 512 };
/// The example of RFC 6455 §1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const GOOD: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

#[track_caller]
fn key_of(text: &str) -> Option<Result<WebSocketKey, HandshakeError>> {
    let mut slots = HeaderSlots::new();
    let head = request_head(text.as_bytes(), &mut slots, &LIMITS).expect("a head").expect("all of it");
    asks_for_websocket(&head).then(|| websocket_key(&head))
}

/// The good handshake with `from` replaced.
#[track_caller]
fn check(from: &str, to: &str, expected: Option<Result<(), HandshakeError>>) {
    assert!(GOOD.contains(from), "{from}");
    let found = key_of(&GOOD.replace(from, to)).map(|key| key.map(drop));
    assert_eq!(found, expected, "{from:?} → {to:?}");
}

#[test]
fn only_websocket_is_asked_for() {
    let ok = Some(Ok(()));
    check("websocket\r\n", "websocket\r\n", ok);
    check("websocket\r\n", "WebSocket\r\n", ok);
    check("websocket\r\n", "h2c, websocket\r\n", ok);
    check("websocket\r\n", "h2c\r\nUpgrade: websocket\r\n", ok);
    check("websocket\r\n", "h2c\r\n", None);
    check("websocket\r\n", "websocket/13\r\n", None);
    check("websocket\r\n", "websockets\r\n", None);
    check("Upgrade: websocket\r\n", "", None);
}

#[test]
fn the_request_is_a_bare_get_of_http_1_1() {
    use HandshakeError::Request;
    check("GET ", "POST ", Some(Err(Request)));
    check("GET ", "get ", Some(Err(Request)));
    check("HTTP/1.1", "HTTP/1.0", Some(Err(Request)));
    check("Host: a", "Host: a\r\nContent-Length: 1", Some(Err(Request)));
    check("Host: a", "Host: a\r\nTransfer-Encoding: chunked", Some(Err(Request)));
    check("Host: a", "Host: a\r\nContent-Length: 0", Some(Ok(())));
}

#[test]
fn connection_must_name_the_upgrade() {
    use HandshakeError::Connection;
    check("Connection: Upgrade", "Connection: keep-alive, upgrade", Some(Ok(())));
    check("Connection: Upgrade", "Connection: keep-alive\r\nConnection: UPGRADE", Some(Ok(())));
    check("Connection: Upgrade", "Connection: keep-alive", Some(Err(Connection)));
    check("Connection: Upgrade\r\n", "", Some(Err(Connection)));
    check("Connection: Upgrade", "Connection: upgraded", Some(Err(Connection)));
}

#[test]
fn the_version_is_13_once() {
    use HandshakeError::Version;
    check("Version: 13", "Version: 8", Some(Err(Version)));
    check("Version: 13", "Version: 13, 8", Some(Err(Version)));
    check("Version: 13", "Version: 013", Some(Err(Version)));
    check("Version: 13", "Version: 13\r\nSec-WebSocket-Version: 13", Some(Err(Version)));
    check("Sec-WebSocket-Version: 13\r\n", "", Some(Err(Version)));
}

#[test]
fn the_key_is_16_octets_in_base64_once() {
    use HandshakeError::Key;
    check(KEY, "AAAAAAAAAAAAAAAAAAAAAA==", Some(Ok(())));
    check(KEY, "", Some(Err(Key)));
    check(KEY, "dGhlIHNhbXBsZSBub25jZQ", Some(Err(Key)));
    check(KEY, "dGhlIHNhbXBsZSBub25j", Some(Err(Key)));
    check(KEY, "dGhlIHNhbXBsZSBub25jZXg=", Some(Err(Key)));
    check(KEY, "dGhlIHNhbXBsZSBub25jZXh4", Some(Err(Key)));
    check(KEY, "dGhlIHNhbXBsZSBub25jZR==", Some(Err(Key)));
    check(KEY, "dGhlIHNhbXBsZSBub25j!Q==", Some(Err(Key)));
    check(KEY, "dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", Some(Err(Key)));
    check("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", Some(Err(Key)));
}

#[test]
fn the_answer_shows_that_the_key_was_read() {
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    );
    let key = key_of(GOOD).expect("it asks").expect("it asks properly");
    let check = |from: &str, to: &str, expected: bool| {
        assert!(answer.contains(from), "{from}");
        let text = answer.replace(from, to);
        let mut slots = HeaderSlots::new();
        let head = switched_head(text.as_bytes(), &mut slots, &LIMITS).expect("a head").expect("all of it");
        assert_eq!(agrees(&head, key), expected, "{from:?} → {to:?}");
    };
    check("websocket\r\n", "WebSocket\r\n", true);
    check("Connection: Upgrade", "Connection: keep-alive, upgrade", true);
    check("Connection: Upgrade", "Connection: Upgrade\r\nContent-Length: 0", true);
    check(ACCEPT, "s3pPLMBiTxaQ9kYGzzhZRbK+xOO=", false);
    check(ACCEPT, &ACCEPT.to_lowercase(), false);
    check(ACCEPT, "", false);
    check(ACCEPT, &format!("{ACCEPT}\r\nSec-WebSocket-Accept: {ACCEPT}"), false);
    check("Upgrade: websocket\r\n", "", false);
    check("Upgrade: websocket", "Upgrade: h2c", false);
    check("Connection: Upgrade\r\n", "", false);
    check("HTTP/1.1", "HTTP/1.0", false);
    check("101", "200", false);
    check("Connection: Upgrade", "Connection: Upgrade\r\nContent-Length: 5", false);
    check("Connection: Upgrade", "Connection: Upgrade\r\nTransfer-Encoding: chunked", false);
}
