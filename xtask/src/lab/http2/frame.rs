//! Frames: octets of every kind to be sent, well formed or not, and what a peer's frames say. RFC 9113 §4, §6.

use std::fmt;

use super::hpack::Field;

/// Octets of a frame's header.
pub(super) const HEADER_BYTES: usize = 9;

/// What a frame is; RFC 9113 §6.
pub mod kind {
    #![expect(missing_docs, reason = "the RFC's own names")]
    pub const DATA: u8 = 0x0;
    pub const HEADERS: u8 = 0x1;
    pub const PRIORITY: u8 = 0x2;
    pub const RST_STREAM: u8 = 0x3;
    pub const SETTINGS: u8 = 0x4;
    pub const PUSH_PROMISE: u8 = 0x5;
    pub const PING: u8 = 0x6;
    pub const GOAWAY: u8 = 0x7;
    pub const WINDOW_UPDATE: u8 = 0x8;
    pub const CONTINUATION: u8 = 0x9;
}

/// Its flags.
pub mod flag {
    #![expect(missing_docs, reason = "the RFC's own names")]
    pub const ACK: u8 = 0x1;
    pub const END_STREAM: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
    /// A head without a body.
    pub const END: u8 = END_STREAM | END_HEADERS;
}

/// What a SETTINGS frame may set; RFC 9113 §6.5.2, RFC 8441 §3.
pub mod setting {
    #![expect(missing_docs, reason = "the RFC's own names")]
    pub const HEADER_TABLE_SIZE: u16 = 0x1;
    pub const ENABLE_PUSH: u16 = 0x2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 0x3;
    pub const INITIAL_WINDOW_SIZE: u16 = 0x4;
    pub const MAX_FRAME_SIZE: u16 = 0x5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 0x6;
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 0x8;
}

/// Why a stream or a connection ended; RFC 9113 §7.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub u32);

#[expect(missing_docs, reason = "the RFC's own names")]
impl Code {
    pub const NO_ERROR: Self = Self(0x0);
    pub const PROTOCOL_ERROR: Self = Self(0x1);
    pub const INTERNAL_ERROR: Self = Self(0x2);
    pub const FLOW_CONTROL_ERROR: Self = Self(0x3);
    pub const STREAM_CLOSED: Self = Self(0x5);
    pub const FRAME_SIZE_ERROR: Self = Self(0x6);
    pub const REFUSED_STREAM: Self = Self(0x7);
    pub const CANCEL: Self = Self(0x8);
    pub const COMPRESSION_ERROR: Self = Self(0x9);
    pub const ENHANCE_YOUR_CALM: Self = Self(0xb);
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0x0 => "NO_ERROR",
            0x1 => "PROTOCOL_ERROR",
            0x2 => "INTERNAL_ERROR",
            0x3 => "FLOW_CONTROL_ERROR",
            0x4 => "SETTINGS_TIMEOUT",
            0x5 => "STREAM_CLOSED",
            0x6 => "FRAME_SIZE_ERROR",
            0x7 => "REFUSED_STREAM",
            0x8 => "CANCEL",
            0x9 => "COMPRESSION_ERROR",
            0xa => "CONNECT_ERROR",
            0xb => "ENHANCE_YOUR_CALM",
            0xc => "INADEQUATE_SECURITY",
            0xd => "HTTP_1_1_REQUIRED",
            unknown => return write!(f, "error {unknown:#x}"),
        })
    }
}

/// A frame with the length that it has.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&header(payload.len(), kind, flags, stream), payload].concat()
}

/// The header alone, of whatever length one likes to claim.
pub fn header(length: usize, kind: u8, flags: u8, stream: u32) -> Vec<u8> {
    let [.., high, middle, low] = length.to_be_bytes();
    [&[high, middle, low, kind, flags][..], &stream.to_be_bytes()].concat()
}

/// HEADERS with a whole block or the start of one.
pub fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(kind::HEADERS, flags, stream, block)
}

/// CONTINUATION of a block.
pub fn continuation(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(kind::CONTINUATION, flags, stream, block)
}

/// DATA.
pub fn data(stream: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    frame(kind::DATA, flags, stream, bytes)
}

/// A payload for the flag PADDED: so many octets of padding behind `bytes`.
pub fn padded(padding: u8, bytes: &[u8]) -> Vec<u8> {
    [&[padding], bytes, &vec![0; usize::from(padding)]].concat()
}

/// What PRIORITY holds, and HEADERS with the flag PRIORITY before its block.
pub fn dependency(on: u32, weight: u8) -> Vec<u8> {
    [&on.to_be_bytes()[..], &[weight]].concat()
}

/// PRIORITY.
pub fn priority(stream: u32, on: u32, weight: u8) -> Vec<u8> {
    frame(kind::PRIORITY, 0, stream, &dependency(on, weight))
}

/// `RST_STREAM`.
pub fn rst_stream(stream: u32, code: Code) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code.0.to_be_bytes())
}

/// SETTINGS.
pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let one = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(kind::SETTINGS, 0, 0, &values.iter().flat_map(one).collect::<Vec<_>>())
}

/// That the peer's SETTINGS hold now.
pub fn settings_ack() -> Vec<u8> {
    frame(kind::SETTINGS, flag::ACK, 0, &[])
}

/// PING.
pub fn ping(octets: [u8; 8]) -> Vec<u8> {
    frame(kind::PING, 0, 0, &octets)
}

/// GOAWAY.
pub fn goaway(last: u32, code: Code, debug: &[u8]) -> Vec<u8> {
    frame(kind::GOAWAY, 0, 0, &[&last.to_be_bytes()[..], &code.0.to_be_bytes(), debug].concat())
}

/// `WINDOW_UPDATE`; stream 0 is the connection.
pub fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

/// What a frame of the peer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// DATA, its padding left out.
    Data {
        /// Its stream.
        stream: u32,
        /// Whether the stream ends with it.
        is_end: bool,
        /// What it carries.
        bytes: Vec<u8>,
    },
    /// HEADERS with all their CONTINUATION.
    Headers {
        /// Their stream.
        stream: u32,
        /// Whether the stream ends with them.
        is_end: bool,
        /// The fields, pseudo-header fields among them.
        fields: Vec<Field>,
    },
    /// `RST_STREAM`.
    Reset {
        /// Its stream.
        stream: u32,
        /// Why.
        code: Code,
    },
    /// SETTINGS of the peer.
    Settings(Vec<(u16, u32)>),
    /// Ours hold.
    SettingsAck,
    /// PING of the peer.
    Ping([u8; 8]),
    /// Our PING has come back.
    Pong([u8; 8]),
    /// GOAWAY.
    GoAway {
        /// The last stream that was or may be acted on.
        last: u32,
        /// Why.
        code: Code,
        /// What is said to people.
        debug: Vec<u8>,
    },
    /// `WINDOW_UPDATE`.
    Window {
        /// Its stream, or 0.
        stream: u32,
        /// By how much.
        increment: u32,
    },
    /// A frame of another kind.
    Other(u8),
}

/// A frame's header and payload, as they came.
pub(super) struct Raw {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

/// The frame at the front of `bytes` and its length; `None` when more has to come, an error when it is too long.
pub(super) fn take(bytes: &[u8], payload_bytes_max: usize) -> Result<Option<(Raw, usize)>, &'static str> {
    let Some((&[high, middle, low, kind, flags, ref stream @ ..], behind)) =
        bytes.split_first_chunk::<HEADER_BYTES>()
    else {
        return Ok(None);
    };
    let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
    if length > payload_bytes_max {
        return Err("a frame longer than we allow");
    }
    let Some(payload) = behind.get(..length).map(<[u8]>::to_vec) else { return Ok(None) };
    let raw = Raw { kind, flags, stream: u32::from_be_bytes(*stream), payload };
    Ok(Some((raw, HEADER_BYTES + length)))
}

impl Raw {
    /// What a frame says that carries no part of a header block.
    pub(super) fn read(self) -> Result<Frame, &'static str> {
        let is_ack = self.flags & flag::ACK != 0;
        let stream = self.stream;
        Ok(match self.kind {
            kind::DATA => {
                let is_end = self.flags & flag::END_STREAM != 0;
                Frame::Data { stream, is_end, bytes: self.unpadded()?.to_vec() }
            }
            kind::RST_STREAM => Frame::Reset { stream, code: Code(number(&self.payload)?) },
            kind::SETTINGS if is_ack => Frame::SettingsAck,
            kind::SETTINGS => Frame::Settings(read_settings(&self.payload)?),
            kind::PING => {
                let octets = self.payload.try_into().map_err(|_| "a PING of a wrong length")?;
                if is_ack { Frame::Pong(octets) } else { Frame::Ping(octets) }
            }
            kind::GOAWAY => {
                let (last, rest) = self.payload.split_at_checked(4).ok_or("a short GOAWAY")?;
                let (code, debug) = rest.split_at_checked(4).ok_or("a short GOAWAY")?;
                Frame::GoAway { last: number(last)?, code: Code(number(code)?), debug: debug.to_vec() }
            }
            kind::WINDOW_UPDATE => Frame::Window { stream, increment: number(&self.payload)? },
            other => Frame::Other(other),
        })
    }

    /// The payload without padding: RFC 9113 §6.1.
    pub(super) fn unpadded(&self) -> Result<&[u8], &'static str> {
        if self.flags & flag::PADDED == 0 {
            return Ok(&self.payload);
        }
        let (padding, rest) = self.payload.split_first().ok_or("no length of the padding")?;
        let length = rest.len().checked_sub(usize::from(*padding));
        length.and_then(|length| rest.get(..length)).ok_or("more padding than payload")
    }
}

fn number(payload: &[u8]) -> Result<u32, &'static str> {
    payload.try_into().map(u32::from_be_bytes).map_err(|_| "a payload of a wrong length")
}

fn read_settings(payload: &[u8]) -> Result<Vec<(u16, u32)>, &'static str> {
    let (values, rest) = payload.as_chunks::<6>();
    if !rest.is_empty() {
        return Err("SETTINGS of a wrong length");
    }
    let value =
        |&[a, b, c, d, e, f]: &[u8; 6]| (u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f]));
    Ok(values.iter().map(value).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: &Frame) {
        for end in 0..bytes.len() {
            assert!(take(&bytes[..end], 16_384).unwrap().is_none(), "{end}");
        }
        let (raw, length) = take(&[bytes, b"next"].concat(), 16_384).unwrap().unwrap();
        assert_eq!((raw.read().unwrap(), length), (expected.clone(), bytes.len()));
    }

    #[test]
    fn what_is_built_can_be_read() {
        check(&ping(*b"whatever"), &Frame::Ping(*b"whatever"));
        check(
            &settings(&[(1, 2), (0xffff, 0xffff_ffff)]),
            &Frame::Settings(vec![(1, 2), (65_535, u32::MAX)]),
        );
        check(&settings_ack(), &Frame::SettingsAck);
        check(
            &goaway(3, Code::CANCEL, b"why"),
            &Frame::GoAway { last: 3, code: Code::CANCEL, debug: b"why".to_vec() },
        );
        check(&window_update(1, 7), &Frame::Window { stream: 1, increment: 7 });
        check(&rst_stream(1, Code(77)), &Frame::Reset { stream: 1, code: Code(77) });
        let bytes = data(5, flag::PADDED | flag::END_STREAM, &padded(3, b"hello"));
        check(&bytes, &Frame::Data { stream: 5, is_end: true, bytes: b"hello".to_vec() });
        check(&priority(3, 1, 16), &Frame::Other(kind::PRIORITY));
    }

    #[test]
    fn what_is_malformed_is_told() {
        let bad = [
            frame(kind::PING, 0, 0, b"short"),
            frame(kind::SETTINGS, 0, 0, b"seven77"),
            frame(kind::GOAWAY, 0, 0, b"short"),
            frame(kind::RST_STREAM, 0, 1, b"abc"),
            frame(kind::DATA, flag::PADDED, 1, b""),
            frame(kind::DATA, flag::PADDED, 1, b"\x02x"),
        ];
        for bytes in bad {
            assert!(take(&bytes, 16_384).unwrap().unwrap().0.read().is_err());
        }
        assert!(take(&header(16_385, kind::DATA, 0, 1), 16_384).is_err());
    }
}
