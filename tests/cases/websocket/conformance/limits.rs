//! Groups 9 and 10: messages of up to 16 MiB, in many fragments and in many pieces; many messages, one after another.
//!
//! One server answers: what counts here is how much passes and in how many pieces.

use super::*;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Text and binary, and the number of their groups.
fn kinds(text_group: u8, binary_group: u8) -> [(u8, u8, u8); 2] {
    [(TEXT, b'*', text_group), (BINARY, 0xfe, binary_group)]
}

fn echoed(id: String, opcode: u8, payload: &[u8], frame_bytes_max: usize) -> Case {
    Case::echoed(id, &fragments(opcode, payload, frame_bytes_max), &[(FIN | opcode, payload)])
}

#[test]
fn groups_9_1_and_9_2_messages_up_to_16_mib() {
    let ways = Ways::open();
    for (opcode, octet, group) in kinds(1, 2) {
        for (bytes, n) in [64 * KIB, 256 * KIB, MIB, 4 * MIB, 8 * MIB, 16 * MIB].into_iter().zip(1..) {
            let case = echoed(format!("9.{group}.{n}"), opcode, &vec![octet; bytes], usize::MAX);
            ways.check(&[Server::Tungstenite], &[case]);
        }
    }
}

#[test]
fn groups_9_3_and_9_4_a_message_of_4_mib_in_fragments() {
    let ways = Ways::open();
    let sizes = [64, 256, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB];
    for (opcode, octet, group) in kinds(3, 4) {
        for (frame_bytes_max, n) in sizes.into_iter().zip(1..) {
            let case = echoed(format!("9.{group}.{n}"), opcode, &vec![octet; 4 * MIB], frame_bytes_max);
            ways.check(&[Server::Tungstenite], &[case]);
        }
    }
}

#[test]
fn groups_9_5_and_9_6_a_message_of_1_mib_in_pieces() {
    let ways = Ways::open();
    for (opcode, octet, group) in kinds(5, 6) {
        for (piece_bytes, n) in [64, 128, 256, 512, KIB, 2 * KIB].into_iter().zip(1..) {
            let case = echoed(format!("9.{group}.{n}"), opcode, &vec![octet; MIB], usize::MAX);
            ways.check(&[Server::Tungstenite], &[case.chopped(Chop::Octets(piece_bytes))]);
        }
    }
}

#[test]
fn groups_9_7_and_9_8_a_thousand_messages_each_after_the_answer_to_the_last() {
    let ways = Ways::open();
    for (opcode, octet, group) in kinds(7, 8) {
        for (bytes, n) in [0, 16, 64, 256, KIB, 4 * KIB].into_iter().zip(1..) {
            let payload = vec![octet; bytes];
            let sent = vec![frame(FIN | opcode, &payload); 1_000];
            let answers = vec![(FIN | opcode, &payload[..]); 1_000];
            let case = Case::echoed(format!("9.{group}.{n}"), &sent, &answers);
            ways.check(&[Server::Strict], &[case.chopped(Chop::RoundTrips)]);
        }
    }
}

#[test]
fn group_10_1_a_message_that_its_sender_cuts_into_fragments() {
    let case = echoed("10.1.1".into(), TEXT, &vec![b'*'; 65_536], 1_300);
    Ways::open().check(BOTH, &[case]);
}
