//! Groups 1 to 5: messages of every size, pings and pongs, reserved bits, opcodes, fragments.

use super::*;

/// Payloads around the steps of the length field (RFC 6455 §5.2), and the pieces of the last one.
const SIZES: [(usize, Chop); 8] = [
    (0, Chop::Whole),
    (125, Chop::Whole),
    (126, Chop::Whole),
    (127, Chop::Whole),
    (128, Chop::Whole),
    (65_535, Chop::Whole),
    (65_536, Chop::Whole),
    (65_536, Chop::Octets(997)),
];

#[test]
fn group_1_messages_of_each_size_in_one_piece_and_chopped() {
    let cases = [(TEXT, b'*', 1), (BINARY, 0xfe, 2)].into_iter().flat_map(|(opcode, octet, group)| {
        SIZES.iter().zip(1..).map(move |((bytes, chop), n)| {
            let payload = vec![octet; *bytes];
            let (sent, back) = (frame(FIN | opcode, &payload), (FIN | opcode, &payload[..]));
            Case::echoed(format!("1.{group}.{n}"), &[sent], &[back]).chopped(*chop)
        })
    });
    Ways::open().check(BOTH, &cases.collect::<Vec<_>>());
}

#[test]
fn group_2_pings_are_answered_and_pongs_are_not() {
    let (hello, octets) = (b"Hello, world!", [0x00, 0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0x00, 0xff]);
    let (long, too_long) = ([0xfe; 125], [0xfe; 126]);
    let many: Vec<_> = (0..10).map(|n| format!("payload-{n}").into_bytes()).collect();
    let pings: Vec<_> = many.iter().map(|payload| frame(PING, payload)).collect();
    let pongs: Vec<_> = many.iter().map(|payload| (PONG, payload.as_slice())).collect();
    let unasked = b"unsolicited pong payload";
    Ways::open().check(
        BOTH,
        &[
            Case::echoed("2.1", &[frame(PING, b"")], &[(PONG, b"")]),
            Case::echoed("2.2", &[frame(PING, hello)], &[(PONG, hello)]),
            Case::echoed("2.3", &[frame(PING, &octets)], &[(PONG, &octets)]),
            Case::echoed("2.4", &[frame(PING, &long)], &[(PONG, &long)]),
            Case::failed("2.5", &[frame(PING, &too_long)], &[], PROTOCOL_ERROR),
            Case::echoed("2.6", &[frame(PING, &long)], &[(PONG, &long)]).chopped(Chop::Octets(1)),
            Case::echoed("2.7", &[frame(PONG, b"")], &[]),
            Case::echoed("2.8", &[frame(PONG, unasked)], &[]),
            Case::echoed(
                "2.9",
                &[frame(PONG, unasked), frame(PING, b"ping payload")],
                &[(PONG, b"ping payload")],
            ),
            Case::echoed("2.10", &pings, &pongs),
            Case::echoed("2.11", &pings, &pongs).chopped(Chop::Octets(1)),
        ],
    );
}

#[test]
fn group_3_reserved_bits_end_the_connection() {
    let hello = b"Hello, world!";
    let (text, ping, echo) = (frame(FIN | TEXT, hello), frame(PING, b""), (FIN | TEXT, &hello[..]));
    // An honest message, one with the bits, and a ping that nobody answers any more.
    let between = |bits: u8| [text.clone(), frame(FIN | TEXT | bits << 4, hello), ping.clone()];
    Ways::open().check(
        BOTH,
        &[
            Case::failed("3.1", &[frame(FIN | TEXT | 0x10, hello)], &[], PROTOCOL_ERROR),
            Case::failed("3.2", &between(2), &[echo], PROTOCOL_ERROR),
            Case::failed("3.3", &between(3), &[echo], PROTOCOL_ERROR).chopped(Chop::Frames),
            Case::failed("3.4", &between(4), &[echo], PROTOCOL_ERROR).chopped(Chop::Octets(1)),
            Case::failed(
                "3.5",
                &[frame(FIN | BINARY | 0x50, &[0x00, 0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0x00, 0xff])],
                &[],
                PROTOCOL_ERROR,
            ),
            Case::failed("3.6", &[frame(PING | 0x60, hello)], &[], PROTOCOL_ERROR),
            Case::failed("3.7", &[frame(CLOSE | 0x70, b"")], &[], PROTOCOL_ERROR),
        ],
    );
}

#[test]
fn group_4_unknown_opcodes_end_the_connection() {
    let hello = b"Hello, world!";
    let echo = (FIN | TEXT, &hello[..]);
    let mut cases = Vec::new();
    for (group, first_opcode) in [(1, 3), (2, 11)] {
        for n in 1..=5 {
            let id = format!("4.{group}.{n}");
            let opcode = first_opcode + n - 1;
            let payload: &[u8] = if n == 1 || n == 3 { b"" } else { b"reserved opcode payload" };
            let unknown = frame(FIN | opcode, payload);
            let case = if n <= 2 {
                Case::failed(id, &[unknown], &[], PROTOCOL_ERROR)
            } else {
                let sent = [frame(FIN | TEXT, hello), unknown, frame(PING, b"")];
                Case::failed(id, &sent, &[echo], PROTOCOL_ERROR)
            };
            cases.push(if n == 5 { case.chopped(Chop::Octets(1)) } else { case });
        }
    }
    Ways::open().check(BOTH, &cases);
}

#[test]
fn group_5_messages_in_fragments_with_pings_between_them() {
    let parts: [&[u8]; 5] = [b"fragment1", b"fragment2", b"fragment3", b"fragment4", b"fragment5"];
    let two = [frame(TEXT, parts[0]), frame(FIN, parts[1])];
    let both = (FIN | TEXT, &b"fragment1fragment2"[..]);
    let ping = frame(PING, b"ping payload");
    let pong = (PONG, &b"ping payload"[..]);
    let around = [two[0].clone(), ping.clone(), two[1].clone()];
    let hello = frame(FIN | TEXT, b"Hello, world!");
    let last = [frame(FIN, b"non-continuation payload"), hello.clone()];
    let middle = [frame(CONTINUATION, b"non-continuation payload"), hello.clone()];
    let astray = |fin: u8| {
        let once = [frame(fin, parts[0]), frame(TEXT, parts[1]), frame(FIN, parts[2])];
        [once.clone(), once].concat()
    };
    let [pinged, again] =
        [(PING, b"pongme 1!"), (PING, b"pongme 2!")].map(|(first, said)| frame(first, said));
    let five = [
        frame(TEXT, parts[0]),
        frame(CONTINUATION, parts[1]),
        pinged,
        frame(CONTINUATION, parts[2]),
        frame(CONTINUATION, parts[3]),
        again,
        frame(FIN, parts[4]),
    ];
    let whole = parts.concat();
    let answers = [(PONG, &b"pongme 1!"[..]), (PONG, b"pongme 2!"), (FIN | TEXT, &whole)];
    let error = PROTOCOL_ERROR;
    Ways::open().check(
        BOTH,
        &[
            Case::failed("5.1", &[frame(PING & !FIN, parts[0]), frame(FIN, parts[1])], &[], error),
            Case::failed("5.2", &[frame(PONG & !FIN, parts[0]), frame(FIN, parts[1])], &[], error),
            Case::echoed("5.3", &two, &[both]),
            Case::echoed("5.4", &two, &[both]).chopped(Chop::Frames),
            Case::echoed("5.5", &two, &[both]).chopped(Chop::Octets(1)),
            Case::echoed("5.6", &around, &[pong, both]),
            Case::echoed("5.7", &around, &[pong, both]).chopped(Chop::Frames),
            Case::echoed("5.8", &around, &[pong, both]).chopped(Chop::Octets(1)),
            Case::failed("5.9", &last, &[], error),
            Case::failed("5.10", &last, &[], error).chopped(Chop::Frames),
            Case::failed("5.11", &last, &[], error).chopped(Chop::Octets(1)),
            Case::failed("5.12", &middle, &[], error),
            Case::failed("5.13", &middle, &[], error).chopped(Chop::Frames),
            Case::failed("5.14", &middle, &[], error).chopped(Chop::Octets(1)),
            Case::failed(
                "5.15",
                &[two[0].clone(), two[1].clone(), frame(CONTINUATION, parts[2]), hello],
                &[both],
                error,
            ),
            Case::failed("5.16", &astray(0), &[], error),
            Case::failed("5.17", &astray(FIN), &[], error),
            Case::failed("5.18", &[two[0].clone(), frame(FIN | TEXT, parts[1])], &[], error),
            Case::echoed("5.19", &five, &answers),
            Case::echoed("5.20", &five, &answers).chopped(Chop::Frames),
        ],
    );
}
