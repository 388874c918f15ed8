//! RFC 7541: what is no header block, and so the end of a connection.

use xtask::lab::http2::{
    frame::{self, Code, flag, setting},
    hpack,
};

use super::{Case, Must, acts, check, request, sends};

const COMPRESSION: &[Code] = &[Code::COMPRESSION_ERROR, Code::PROTOCOL_ERROR];

/// A GET whose block ends so.
fn ends_with(name: &'static str, representation: &[u8]) -> Case {
    let block = [&request("GET", "/"), representation].concat();
    sends(name, frame::headers(1, flag::END, &block), Must::FailConnection(COMPRESSION))
}

#[test]
fn what_is_no_block_is_an_error_of_the_connection() {
    check(vec![
        ends_with("hpack/2.3.3/1 an index of no entry", &hpack::indexed(126)),
        ends_with("hpack/4.2/1 a size of the table at the end", &hpack::table_size(1)),
        ends_with(
            "hpack/5.2/1 padding of more than 7 bits",
            b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff",
        ),
        ends_with("hpack/5.2/2 padding of zeros", b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90"),
        ends_with(
            "hpack/5.2/3 the end of a string within it",
            b"\x00\x85\xf2\xb2\x4a\x87\xff\xff\xff\xfd\x25\x42\x7f",
        ),
        ends_with("hpack/6.1/1 index 0", b"\x80"),
        acts(
            "hpack/6.3/1 a table larger than was said",
            |client| {
                let bytes = client.setting(setting::HEADER_TABLE_SIZE).unwrap_or(4096);
                let bytes = usize::try_from(bytes).unwrap();
                let block = [hpack::table_size(bytes + 1), request("GET", "/")].concat();
                client.send(&frame::headers(1, flag::END, &block))
            },
            Must::FailConnection(COMPRESSION),
        ),
        ends_with("a name of an index of no entry", b"\x0f\x60\x01x"),
        ends_with("a string longer than the block", b"\x00\x7fabc"),
        ends_with("an integer that overflows", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),
        ends_with("a literal without a value", b"\x00\x01x"),
    ]);
}
