//! Group 7: the closing handshake, its codes and its reasons, and that nothing behind it counts.

use super::*;

/// What the suite counts as valid and as invalid (RFC 6455 §7.4).
const VALID_CODES: [u16; 13] = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999];
const INVALID_CODES: [u16; 9] = [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999];

#[test]
fn group_7_1_what_follows_a_close_is_not_answered() {
    let hello = frame(FIN | TEXT, b"Hello World!");
    let echo = (FIN | TEXT, &b"Hello World!"[..]);
    let normal = close(NORMAL, b"");
    let long = b"BAsd7&jh23".iter().copied().cycle().take(256 * 1024).collect::<Vec<_>>();
    let case = |id, sent: &[&[u8]], answers: &[(u8, &[u8])]| {
        let sent: Vec<_> = sent.iter().map(|frame| frame.to_vec()).collect();
        Case::failed(id, &sent, answers, NORMAL)
    };
    let (first, last) = (frame(TEXT, b"fragment1"), frame(FIN, b"fragment2"));
    let (ping, long_frame) = (frame(PING, b""), frame(FIN | TEXT, &long));
    Ways::open().check(
        BOTH,
        &[
            case("7.1.1", &[&hello, &normal], &[echo]),
            case("7.1.2", &[&normal, &normal], &[]),
            case("7.1.3", &[&normal, &ping], &[]),
            case("7.1.4", &[&normal, &hello], &[]),
            case("7.1.5", &[&first, &normal, &last], &[]),
            case("7.1.6", &[&long_frame, &hello, &normal, &ping], &[(FIN | TEXT, &long), echo]),
        ],
    );
}

#[test]
fn groups_7_3_and_7_5_a_close_may_be_empty_or_have_a_code_and_a_text_behind_it() {
    let surrogate = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited";
    let case = |id, sent: Vec<u8>, code| Case::failed(id, &[sent], &[], code);
    Ways::open().check(
        BOTH,
        &[
            case("7.3.1", frame(CLOSE, b""), NO_CODE),
            case("7.3.2", frame(CLOSE, b"a"), PROTOCOL_ERROR),
            case("7.3.3", close(NORMAL, b""), NORMAL),
            case("7.3.4", close(NORMAL, b"Hello World!"), NORMAL),
            case("7.3.5", close(NORMAL, &[b'*'; 123]), NORMAL),
            case("7.3.6", close(NORMAL, &[b'*'; 124]), PROTOCOL_ERROR),
            case("7.5.1", close(NORMAL, surrogate), INVALID_PAYLOAD),
        ],
    );
}

#[test]
fn groups_7_7_7_9_and_7_13_a_code_that_may_be_told_comes_back_and_no_other() {
    let told = VALID_CODES.iter().zip(1..).map(|(&code, n)| (format!("7.7.{n}"), code, code));
    let forbidden =
        INVALID_CODES.iter().zip(1..).map(|(&code, n)| (format!("7.9.{n}"), code, PROTOCOL_ERROR));
    // Of these two the suite only notes what becomes of them: RFC 6455 §7.4.2 has no use for them.
    let beyond =
        [5000, 65_535].into_iter().zip(1..).map(|(code, n)| (format!("7.13.{n}"), code, PROTOCOL_ERROR));
    let cases = told.chain(forbidden).chain(beyond);
    let cases: Vec<_> =
        cases.map(|(id, code, back)| Case::failed(id, &[close(code, b"")], &[], back)).collect();
    Ways::open().check(BOTH, &cases);
}
