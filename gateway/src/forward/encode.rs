//! Content codings of a body on its way: bytes in, coded bytes out, in pieces.
//!
//! Comes in: payload, a buffer at a time, and when nothing more is there for now. Goes out: coded bytes that decode
//! to exactly that payload after every [`Encoder::flush`]. Its memory is bounded by windows and levels, and how many
//! there are by [`ENCODERS_MAX`]. It knows no framing and no connection, so that any sink can use it.

use std::{
    cell::Cell,
    io::{self, Write as _},
};

use crate::config::Coding;

/// Encoders at once per worker: each holds one to two MiB for as long as its client takes to read. Past it, bodies go
/// out as they are.
const ENCODERS_MAX: usize = 64;

/// Levels and windows of what servers use for content that is made on demand.
const ZSTD_LEVEL: i32 = 3;
/// 512 KiB; browsers take up to 8 MiB (RFC 9659).
const ZSTD_WINDOW_LOG: u32 = 19;
const BROTLI_QUALITY: u32 = 4;
/// 256 KiB
const BROTLI_WINDOW_LOG: u32 = 18;
const BROTLI_OUTPUT_BYTES: usize = 4096;
const GZIP_LEVEL: u32 = 6;

/// How many encoders a worker has under way.
#[derive(Debug, Default)]
pub struct Encoders {
    live: Cell<usize>,
}

impl Encoders {
    /// A new one; `None` where there are too many, or no memory for it.
    pub(super) fn take(&self, coding: Coding) -> Option<Box<Encoder<'_>>> {
        if self.live.get() >= ENCODERS_MAX {
            return None;
        }
        let state = State::new(coding).ok()?;
        self.live.set(self.live.get() + 1);
        Some(Box::new(Encoder { state, has_more: false, _slot: Slot(self) }))
    }
}

/// Frees its place.
struct Slot<'e>(&'e Encoders);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.live.set(self.0.live.get().saturating_sub(1));
    }
}

/// One body's encoder.
pub(super) struct Encoder<'e> {
    state: State,
    /// Something was put in since the last flush.
    has_more: bool,
    _slot: Slot<'e>,
}

/// Each writes into a vector of its own, which is exchanged for the caller's while it works.
enum State {
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
}

impl Encoder<'_> {
    /// Codes `input`, and appends to `out` what comes of it so far.
    pub(super) fn encode(&mut self, input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.has_more = true;
        self.state.swap(out);
        let done = match &mut self.state {
            State::Zstd(state) => state.write_all(input),
            State::Brotli(state) => state.write_all(input),
            State::Gzip(state) => state.write_all(input),
        };
        self.state.swap(out);
        done
    }

    /// Appends whatever is still inside, so that the client can read all that was put in.
    pub(super) fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        if !std::mem::take(&mut self.has_more) {
            return Ok(());
        }
        self.state.swap(out);
        let done = match &mut self.state {
            State::Zstd(state) => state.flush(),
            State::Brotli(state) => state.flush(),
            State::Gzip(state) => state.flush(),
        };
        self.state.swap(out);
        done
    }

    /// Appends the end.
    pub(super) fn finish(mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.state.swap(out);
        *out = match self.state {
            State::Zstd(state) => state.finish()?,
            State::Brotli(state) => state.into_inner(),
            State::Gzip(state) => state.finish()?,
        };
        Ok(())
    }
}

impl State {
    fn new(coding: Coding) -> io::Result<Self> {
        Ok(match coding {
            Coding::Zstd => {
                let mut state = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
                state.set_parameter(zstd::zstd_safe::CParameter::WindowLog(ZSTD_WINDOW_LOG))?;
                Self::Zstd(state)
            }
            Coding::Brotli => Self::Brotli(Box::new(brotli::CompressorWriter::new(
                Vec::new(),
                BROTLI_OUTPUT_BYTES,
                BROTLI_QUALITY,
                BROTLI_WINDOW_LOG,
            ))),
            Coding::Gzip => {
                Self::Gzip(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL)))
            }
        })
    }

    fn swap(&mut self, out: &mut Vec<u8>) {
        let own = match self {
            Self::Zstd(state) => state.get_mut(),
            Self::Brotli(state) => state.get_mut(),
            Self::Gzip(state) => state.get_mut(),
        };
        std::mem::swap(own, out);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::{Coding, ENCODERS_MAX, Encoders};

    /// What a client makes of `coded`, be it whole or cut off behind a flush.
    fn decoded(coding: Coding, coded: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        // The end of what is there is an error to each of them, behind all that could be read.
        let _cut_off = match coding {
            Coding::Zstd => zstd::stream::read::Decoder::new(coded).unwrap().read_to_end(&mut plain),
            Coding::Brotli => brotli::Decompressor::new(coded, 4096).read_to_end(&mut plain),
            Coding::Gzip => flate2::read::GzDecoder::new(coded).read_to_end(&mut plain),
        };
        plain
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// After each flush the client has all that was put in, and after the end just that.
        #[test]
        fn a_body_comes_out_as_it_went_in(pieces in proptest::collection::vec("[a-f ]{0,3000}", 0..6)) {
            for coding in Coding::ALL {
                let encoders = Encoders::default();
                let mut encoder = encoders.take(coding).unwrap();
                let (mut coded, mut plain) = (b"before".to_vec(), Vec::new());
                for piece in &pieces {
                    plain.extend_from_slice(piece.as_bytes());
                    encoder.encode(piece.as_bytes(), &mut coded).unwrap();
                    encoder.flush(&mut coded).unwrap();
                    let flushed_bytes = coded.len();
                    encoder.flush(&mut coded).unwrap();
                    prop_assert_eq!(coded.len(), flushed_bytes, "nothing is flushed twice");
                    prop_assert_eq!(&decoded(coding, &coded[6..]), &plain);
                }
                encoder.finish(&mut coded).unwrap();
                prop_assert_eq!(&coded[..6], b"before");
                prop_assert_eq!(&decoded(coding, &coded[6..]), &plain);
                prop_assert_eq!(encoders.live.get(), 0);
            }
        }
    }

    #[test]
    fn there_is_an_end_to_how_many_there_are() {
        let encoders = Encoders::default();
        let mut taken: Vec<_> = (0..ENCODERS_MAX).map(|_| encoders.take(Coding::Gzip).unwrap()).collect();
        assert!(encoders.take(Coding::Gzip).is_none());
        taken.pop();
        assert!(encoders.take(Coding::Gzip).is_some());
    }
}
