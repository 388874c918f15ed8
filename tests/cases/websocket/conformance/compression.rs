//! Groups 12 and 13: permessage-deflate (RFC 7692) is between client and server. What they agree on passes the
//! gateway as it is, and so do the frames whose first reserved bit says that they are compressed.

use super::{deflate::Deflate, *};

/// Octets of each message, and of the fragments that it is sent in.
const SIZES: [(usize, usize); 18] = [
    (16, usize::MAX),
    (64, usize::MAX),
    (256, usize::MAX),
    (1_024, usize::MAX),
    (4_096, usize::MAX),
    (8_192, usize::MAX),
    (16_384, usize::MAX),
    (32_768, usize::MAX),
    (65_536, usize::MAX),
    (131_072, usize::MAX),
    (8_192, 256),
    (16_384, 256),
    (32_768, 256),
    (65_536, 256),
    (131_072, 256),
    (131_072, 1_024),
    (131_072, 4_096),
    (131_072, 32_768),
];

/// The suite sends a thousand of each; so many are enough to meet the last ones' context, and bounded by octets.
fn messages(bytes: usize) -> usize {
    (512 * 1024 / bytes).clamp(3, 100)
}

/// What is sent, in the suite's kinds: prose, a picture, a file that is compressed already, JSON, HTML.
fn material(kind: u8) -> Vec<u8> {
    const BYTES: usize = 400_000;
    let mut state = 0x2545_f491_4f6c_dd1d_u64 ^ u64::from(kind);
    // xorshift: the same on each run.
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words = ["Habe", "nun", "ach", "Philosophie", "Juristerei", "und", "Medizin", "durchaus", "studiert"];
    let mut word = move || words[usize::try_from(next() % 9).unwrap()];
    match kind {
        1 => std::iter::repeat_with(|| format!("{} ", word()))
            .flat_map(String::into_bytes)
            .take(BYTES)
            .collect(),
        2 => (0..BYTES).map(|at| u8::try_from((at / 512 + at % 512 / 7) % 256).unwrap()).collect(),
        3 => {
            let mut seed = 88_172_645_463_325_252_u64;
            let noise = std::iter::repeat_with(|| {
                seed ^= seed << 7;
                seed ^= seed >> 9;
                seed.to_le_bytes()
            });
            noise.flatten().take(BYTES).collect()
        }
        4 => std::iter::repeat_with(|| format!("{{\"{}\":[\"{}\",1]}},", word(), word()))
            .flat_map(String::into_bytes)
            .take(BYTES)
            .collect(),
        _ => std::iter::repeat_with(|| format!("<p class=\"{}\">{}</p>\n", word(), word()))
            .flat_map(String::into_bytes)
            .take(BYTES)
            .collect(),
    }
}

/// Agrees on what `offer` asks for and has messages echoed, compressed both ways.
#[track_caller]
fn check(
    ways: &Ways,
    id: &str,
    offer: &str,
    agreed: &str,
    opcode: u8,
    material: &[u8],
    sizes: (usize, usize),
) {
    let (bytes, frame_bytes_max) = sizes;
    let mut client = Deflate::client(agreed);
    let mut plain = material.chunks_exact(bytes).cycle();
    let plain: Vec<_> = std::iter::repeat_with(|| plain.next().unwrap()).take(messages(bytes)).collect();
    let mut sent: Vec<_> = plain
        .iter()
        .map(|each| fragments(opcode | RSV1, &client.pack(each), frame_bytes_max).concat())
        .collect();
    sent.push(close(NORMAL, b""));
    let case = Case { id: id.to_owned(), sent, chop: Chop::RoundTrips, answers: Vec::new(), code: NORMAL };
    let fields = format!("Sec-WebSocket-Extensions: {offer}\r\n");
    let (extensions, transcript) = ways.play(Server::Strict, &fields, &case);
    assert_eq!(extensions.as_deref(), Some(agreed), "{id}");
    assert_eq!(transcript.end, Ok(()), "{id}");
    let mut frames = transcript.frames();
    assert_eq!(frames.pop(), Some((CLOSE, NORMAL.to_be_bytes().to_vec())), "{id}");
    assert_eq!(frames.len(), plain.len(), "{id}");
    for ((first, packed), plain) in frames.iter().zip(plain) {
        assert_eq!(*first, FIN | RSV1 | opcode, "{id}");
        assert!(client.unpack(packed).as_deref() == Some(plain), "{id}: another message came back");
    }
}

const OFFER: &str = "permessage-deflate; client_no_context_takeover; client_max_window_bits";
const AGREED: &str = "permessage-deflate; client_no_context_takeover";

#[test]
fn group_12_compressed_messages_of_each_kind_and_size() {
    let ways = Ways::open();
    for kind in 1..=5 {
        let opcode = if kind <= 3 { BINARY } else { TEXT };
        let material = material(kind);
        for (sizes, n) in SIZES.into_iter().zip(1..) {
            let id = format!("12.{kind}.{n}");
            check(&ways, &id, "permessage-deflate", "permessage-deflate", opcode, &material, sizes);
        }
    }
}

#[test]
fn group_13_what_client_and_server_agree_on_passes_as_it_is() {
    let ways = Ways::open();
    let material = material(4);
    let asked = [
        "",
        "; server_no_context_takeover",
        "; server_max_window_bits=8",
        "; server_max_window_bits=15",
        "; server_no_context_takeover; server_max_window_bits=8",
        "; server_no_context_takeover; server_max_window_bits=15",
        "; server_no_context_takeover; server_max_window_bits=8",
    ];
    for (asked, group) in asked.into_iter().zip(1..) {
        let mut offer = format!("{OFFER}{asked}");
        if group == 7 {
            // More than one offer, the best first.
            offer = format!("{offer}, {OFFER}; server_no_context_takeover, {OFFER}");
        }
        for (sizes, n) in SIZES.into_iter().zip(1..) {
            check(
                &ways,
                &format!("13.{group}.{n}"),
                &offer,
                &format!("{AGREED}{asked}"),
                TEXT,
                &material,
                sizes,
            );
        }
    }
}

/// Without the extension the bit is nobody's: the server behind the gateway ends the connection, as one before it.
#[test]
fn what_was_not_agreed_on_is_the_server_s_to_refuse() {
    let packed = Deflate::client("permessage-deflate").pack(b"Hello, world!");
    let case =
        Case::failed("compressed, not agreed", &[frame(FIN | TEXT | RSV1, &packed)], &[], PROTOCOL_ERROR);
    Ways::open().check(BOTH, &[case]);
}
