//! Group 6: text is UTF-8 as a whole message, wherever its frames cut it, and what is not ends the connection at once.

use super::*;

/// `κόσμε`: characters of two and three octets.
const COSMOS: &[u8] = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5";
/// The same, and then half a surrogate pair.
const SURROGATE: &[u8] = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited";
/// The same, and then a code point above the last.
const PARTS: [&[u8]; 3] = [COSMOS, b"\xf4\x90\x80\x80", b"edited"];

/// A text in frames of these payloads.
fn text(parts: &[&[u8]]) -> Vec<Vec<u8>> {
    let last = parts.len() - 1;
    let first = |n: usize| if n == 0 { TEXT } else { CONTINUATION } | if n == last { FIN } else { 0 };
    parts.iter().enumerate().map(|(n, part)| frame(first(n), part)).collect()
}

fn octets(payload: &[u8]) -> Vec<&[u8]> {
    payload.chunks(1).collect()
}

#[test]
fn groups_6_1_and_6_2_valid_text_is_echoed_wherever_it_is_cut() {
    let euro = "Hello-µ@ßöäüàá-UTF-8!!".as_bytes();
    let cases = [
        ("6.1.1", text(&[b""]), &b""[..]),
        ("6.1.2", text(&[b"", b"", b""]), b""),
        ("6.1.3", text(&[b"", b"middle frame payload", b""]), b"middle frame payload"),
        ("6.2.1", text(&[euro]), euro),
        ("6.2.2", text(&["Hello-µ@ßöä".as_bytes(), "üàá-UTF-8!!".as_bytes()]), euro),
        ("6.2.3", text(&octets(euro)), euro),
        ("6.2.4", text(&octets(COSMOS)), COSMOS),
    ];
    let cases = cases.map(|(id, sent, back)| Case::echoed(id, &sent, &[(FIN | TEXT, back)]));
    Ways::open().check(BOTH, &cases);
}

#[test]
fn group_6_3_invalid_text_ends_the_connection() {
    Ways::open().check(
        BOTH,
        &[
            Case::failed("6.3.1", &text(&[SURROGATE]), &[], INVALID_PAYLOAD),
            Case::failed("6.3.2", &text(&octets(SURROGATE)), &[], INVALID_PAYLOAD),
        ],
    );
}

/// The client waits for the end before it has sent the rest: a server behind the gateway can be as quick as in front
/// of it, so no octet is held back.
#[test]
fn group_6_4_invalid_text_ends_the_connection_before_the_rest_has_come() {
    let ways = Ways::open();
    let cut = [COSMOS, &PARTS[1][..1]].concat();
    for (id, first, second) in [("6.4.1", PARTS[0], PARTS[1]), ("6.4.2", &cut, &PARTS[1][1..2])] {
        let sent = [frame(TEXT, first), frame(CONTINUATION, second)];
        let case = Case::failed(id, &sent, &[], INVALID_PAYLOAD).chopped(Chop::Frames);
        ways.check(BOTH, &[case]);
    }
    // In one frame, which only who looks at each octet can leave so early.
    let whole = frame(FIN | TEXT, &PARTS.concat());
    let header_bytes = whole.len() - PARTS.concat().len();
    for (id, first_bytes, second_bytes) in [("6.4.3", 11, 4), ("6.4.4", 12, 1)] {
        let (first, rest) = whole.split_at(header_bytes + first_bytes);
        let sent = [first.to_vec(), rest[..second_bytes].to_vec()];
        let case = Case::failed(id, &sent, &[], INVALID_PAYLOAD).chopped(Chop::Frames);
        ways.check(&[Server::Strict], &[case]);
    }
}

/// Sequences whose last octet is missing.
const CUT: [&[u8]; 10] = [
    b"\xc0",
    b"\xe0\x80",
    b"\xf0\x80\x80",
    b"\xf8\x80\x80\x80",
    b"\xfc\x80\x80\x80\x80",
    b"\xdf",
    b"\xef\xbf",
    b"\xf7\xbf\xbf",
    b"\xfb\xbf\xbf\xbf",
    b"\xfd\xbf\xbf\xbf\xbf",
];

/// Halves of UTF-16 pairs: the first and the last high ones, then low ones.
const SURROGATES: [&[u8]; 7] = [
    b"\xed\xa0\x80",
    b"\xed\xad\xbf",
    b"\xed\xae\x80",
    b"\xed\xaf\xbf",
    b"\xed\xb0\x80",
    b"\xed\xbe\x80",
    b"\xed\xbf\xbf",
];

/// A payload, and whether it is UTF-8.
type Sequence = (bool, Vec<u8>);

/// Sequences by group: those of Markus Kuhn's stress test for decoders of UTF-8.
fn sequences() -> Vec<(u8, Vec<Sequence>)> {
    let valid = |list: &[&[u8]]| list.iter().map(|each| (true, each.to_vec())).collect::<Vec<_>>();
    let invalid = |list: &[&[u8]]| list.iter().map(|each| (false, each.to_vec())).collect::<Vec<_>>();
    let prefixes = (1..=COSMOS.len()).map(|end| {
        let prefix = &COSMOS[..end];
        (str::from_utf8(prefix).is_ok(), prefix.to_vec())
    });
    let boundaries: [&[u8]; 4] = [b"\xed\x9f\xbf", b"\xee\x80\x80", b"\xef\xbf\xbd", b"\xf4\x8f\xbf\xbf"];
    let continuations: Vec<u8> = (0x80..0xbf).collect();
    let alternating = b"\x80\xbf\x80\xbf\x80\xbf";
    let lonely = [0xc0_u8..0xdf, 0xe0..0xef, 0xf0..0xf7, 0xf8..0xfb, 0xfc..0xfd]
        .map(|starts| (false, starts.flat_map(|start| [start, b' ']).collect()));
    let pairs = SURROGATES[..4]
        .iter()
        .flat_map(|high| [&SURROGATES[4], &SURROGATES[6]].map(|low| (false, [*high, *low].concat())));
    // The last two of each plane: no characters, but code points (RFC 3629).
    let none = (0_u32..=16)
        .flat_map(|plane| [0xfffe, 0xffff].map(|last| char::from_u32(plane << 16 | last).unwrap()));
    let none = none.map(|each| (true, each.to_string().into_bytes()));
    let specials = ('\u{fff9}'..='\u{ffff}').map(|each| (true, each.to_string().into_bytes()));
    vec![
        (
            5,
            valid(&[
                b"hello\x24world",
                b"hello\xc2\xa2world",
                b"hello\xe2\x82\xacworld",
                b"hello\xf0\xa4\xad\xa2world",
                COSMOS,
            ]),
        ),
        (6, prefixes.collect()),
        (7, valid(&[b"\x00", b"\xc2\x80", b"\xe0\xa0\x80", b"\xf0\x90\x80\x80"])),
        (8, invalid(&[b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80"])),
        (9, valid(&[b"\x7f", b"\xdf\xbf", b"\xef\xbf\xbf", b"\xf4\x8f\xbf\xbf"])),
        (10, invalid(&[b"\xf7\xbf\xbf\xbf", b"\xfb\xbf\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf\xbf"])),
        (11, [valid(&boundaries), invalid(&[b"\xf4\x90\x80\x80"])].concat()),
        (
            12,
            invalid(&[
                b"\x80",
                b"\xbf",
                &alternating[..2],
                &alternating[..3],
                &alternating[..4],
                &alternating[..5],
                alternating,
                &continuations,
            ]),
        ),
        (13, lonely.to_vec()),
        (14, invalid(&CUT)),
        (15, invalid(&[&CUT.concat()])),
        (16, invalid(&[b"\xfe", b"\xff", b"\xfe\xfe\xff\xff"])),
        (
            17,
            invalid(&[
                b"\xc0\xaf",
                b"\xe0\x80\xaf",
                b"\xf0\x80\x80\xaf",
                b"\xf8\x80\x80\x80\xaf",
                b"\xfc\x80\x80\x80\x80\xaf",
            ]),
        ),
        (
            18,
            invalid(&[
                b"\xc1\xbf",
                b"\xe0\x9f\xbf",
                b"\xf0\x8f\xbf\xbf",
                b"\xf8\x87\xbf\xbf\xbf",
                b"\xfc\x83\xbf\xbf\xbf\xbf",
            ]),
        ),
        (
            19,
            invalid(&[
                b"\xc0\x80",
                b"\xe0\x80\x80",
                b"\xf0\x80\x80\x80",
                b"\xf8\x80\x80\x80\x80",
                b"\xfc\x80\x80\x80\x80\x80",
            ]),
        ),
        (20, invalid(&SURROGATES)),
        (21, pairs.collect()),
        (22, none.collect()),
        (23, specials.collect()),
    ]
}

#[test]
fn groups_6_5_to_6_23_each_sequence_is_echoed_or_ends_the_connection() {
    let cases = sequences().into_iter().flat_map(|(group, sequences)| {
        sequences.into_iter().zip(1..).map(move |((valid, payload), n)| {
            let id = format!("6.{group}.{n}");
            let sent = [frame(FIN | TEXT, &payload)];
            if valid {
                Case::echoed(id, &sent, &[(FIN | TEXT, &payload)])
            } else {
                Case::failed(id, &sent, &[], INVALID_PAYLOAD)
            }
        })
    });
    let cases: Vec<_> = cases.collect();
    assert_eq!(cases.len(), 132, "as many as there are");
    Ways::open().check(BOTH, &cases);
}
