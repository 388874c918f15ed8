//! What a peer sends that carries nothing: counted frame by frame, before anything is done for it.
//!
//! Pings, settings, priorities, window updates, resets, empty DATA and frames of unknown types cost their sender nine
//! bytes and us some work; honest peers send them in proportion to what they ask and what they get, and now and then to
//! see whether we are there. Comes in: the bytes that were received and when, how many were sent, and when a stream came
//! to a good end. Goes out: whether it is too much
//! (CVE-2019-9512, 9514, 9515, 9516, 9518; CVE-2023-44487). It reads nothing but the nine bytes in front of each frame
//! (RFC 9113 §4.1), and keeps no more.

use super::PREFACE;

/// Frames that carry nothing which any connection may send, however little it asks.
const FREE_FRAMES: i64 = 1000;
/// More of them for each frame that carries something.
const FRAMES_PER_LOAD: i64 = 10;
/// One more for so many bytes that the peer got: it has to open its window for them.
const BYTES_PER_FRAME: u64 = 128;
/// One more for so many seconds: pings keep a connection alive (the shortest interval that gRPC's clients take is 10 s).
const S_PER_FRAME: u64 = 5;
/// Streams that may be reset by their client before it matters how many came to a good end.
const FREE_RESETS: u64 = 100;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const CONTINUATION: u8 = 0x9;
/// Of SETTINGS: it answers ours.
const ACK: u8 = 0x1;
/// Of DATA.
const END_STREAM: u8 = 0x1;

const FRAME_HEAD_BYTES: usize = 9;

/// What there was too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    /// Frames that carry nothing.
    Frames,
    /// Streams that their client has reset.
    Resets,
    /// Anything at all in front of the settings that a connection begins with.
    Start,
}

/// The account of one connection.
#[derive(Debug)]
pub struct Tally {
    /// Bytes of the preface, or of a frame's payload, that are still to pass.
    skip_bytes: u64,
    head: [u8; FRAME_HEAD_BYTES],
    head_bytes: usize,
    /// Frames that may still come.
    credit: i64,
    sent_bytes: u64,
    /// Up to when time has been credited; none: not begun.
    credited_s: Option<u64>,
    /// Of a server, what it resets costs only itself: we asked for it.
    bounds_resets: bool,
    resets: u64,
    ended: u64,
    frames: u64,
    /// The first of them has come whole.
    has_frame: bool,
}

impl Tally {
    /// Of a connection whose peer begins with the preface.
    pub fn of_client() -> Self {
        Self::new(PREFACE.len() as u64, true)
    }

    /// Of a connection to a server.
    pub fn of_server() -> Self {
        Self::new(0, false)
    }

    fn new(skip_bytes: u64, bounds_resets: bool) -> Self {
        Self {
            skip_bytes,
            head: [0; FRAME_HEAD_BYTES],
            head_bytes: 0,
            credit: FREE_FRAMES,
            sent_bytes: 0,
            credited_s: None,
            bounds_resets,
            resets: 0,
            ended: 0,
            frames: 0,
            has_frame: false,
        }
    }

    /// Counts what was received. The result does not depend on how the bytes arrived.
    ///
    /// # Errors
    /// It is too much, now and for good.
    pub fn count(&mut self, mut bytes: &[u8]) -> Result<(), Excess> {
        loop {
            let skipped = bytes.len().min(usize::try_from(self.skip_bytes).unwrap_or(usize::MAX));
            self.skip_bytes -= skipped as u64;
            bytes = bytes.get(skipped..).unwrap_or_default();
            self.has_frame |= self.frames > 0 && self.skip_bytes == 0;
            let Some((&byte, rest)) = bytes.split_first() else { return Ok(()) };
            bytes = rest;
            if let Some(place) = self.head.get_mut(self.head_bytes) {
                *place = byte;
            }
            self.head_bytes += 1;
            if self.head_bytes == FRAME_HEAD_BYTES {
                self.head_bytes = 0;
                self.frame()?;
            }
        }
    }

    /// It is `now_s` by a clock that never steps. Patience earns no more than what any connection begins with.
    pub fn pass_time(&mut self, now_s: u64) {
        let since_s = *self.credited_s.get_or_insert(now_s);
        let earned = now_s.saturating_sub(since_s) / S_PER_FRAME;
        self.credited_s = Some(since_s + earned * S_PER_FRAME);
        if self.credit < FREE_FRAMES {
            self.credit = self.credit.saturating_add_unsigned(earned).min(FREE_FRAMES);
        }
    }

    /// So many bytes went to the peer.
    pub fn sent(&mut self, bytes: usize) {
        let before = self.sent_bytes / BYTES_PER_FRAME;
        self.sent_bytes = self.sent_bytes.wrapping_add(bytes as u64);
        let earned = (self.sent_bytes / BYTES_PER_FRAME).saturating_sub(before);
        self.credit = self.credit.saturating_add(i64::try_from(earned).unwrap_or(0));
    }

    /// Whether the first frame has come, all of it.
    pub fn has_frame(&self) -> bool {
        self.has_frame
    }

    /// A stream came to a good end.
    pub fn stream_ended(&mut self) {
        self.ended = self.ended.saturating_add(1);
    }

    fn frame(&mut self) -> Result<(), Excess> {
        let [high, middle, low, kind, flags, ..] = self.head;
        let payload_bytes = u32::from_be_bytes([0, high, middle, low]);
        self.skip_bytes = u64::from(payload_bytes);
        self.frames = self.frames.saturating_add(1);
        // RFC 9113 §3.4
        if self.frames == 1 && (kind != SETTINGS || flags & ACK != 0) {
            return Err(Excess::Start);
        }
        let earned = match kind {
            HEADERS | CONTINUATION | DATA if payload_bytes > 0 => FRAMES_PER_LOAD,
            // The end of a stream that HEADERS have begun.
            DATA if flags & END_STREAM != 0 => 0,
            // Answers to our own settings and pings as well: we send few.
            _ => -1,
        };
        self.credit = self.credit.saturating_add(earned);
        if kind == RST_STREAM {
            self.resets += 1;
            if self.bounds_resets && self.resets > FREE_RESETS && self.resets > self.ended {
                return Err(Excess::Resets);
            }
        }
        if self.credit < 0 { Err(Excess::Frames) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PING: u8 = 0x6;
    const WINDOW_UPDATE: u8 = 0x8;

    /// The account of a client that has begun as it should.
    fn begun() -> Tally {
        let mut tally = Tally::of_client();
        tally.count(&[PREFACE, &frame(SETTINGS, 0, 0)].concat()).unwrap();
        tally
    }

    fn frame(kind: u8, flags: u8, payload_bytes: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, payload_bytes, kind, flags, 0, 0, 0, 1];
        frame.extend(std::iter::repeat_n(b'x', usize::from(payload_bytes)));
        frame
    }

    /// After how many of `frame` a new connection is too much; none: not even after 100 000.
    #[track_caller]
    fn check(frame: &[u8], expected: Option<(i64, Excess)>) {
        let mut tally = begun();
        let broken = (1..=100_000).find_map(|n| tally.count(frame).err().map(|excess| (n, excess)));
        assert_eq!(broken, expected);
    }

    #[test]
    fn what_carries_nothing_is_counted() {
        let at_once = Some((FREE_FRAMES, Excess::Frames));
        check(&frame(PING, 0, 8), at_once);
        check(&frame(SETTINGS, 0, 6), at_once);
        check(&frame(PING, ACK, 8), at_once);
        check(&frame(0x2, 0, 5), at_once);
        check(&frame(WINDOW_UPDATE, 0, 4), at_once);
        check(&frame(DATA, 0, 0), at_once);
        check(&frame(CONTINUATION, 0, 0), at_once);
        check(&frame(0xfe, 0, 3), at_once);
        check(&frame(RST_STREAM, 0, 4), Some((101, Excess::Resets)));
    }

    #[test]
    fn it_begins_with_settings() {
        for first in [frame(HEADERS, 4, 20), frame(PING, 0, 8), frame(SETTINGS, ACK, 0)] {
            let start = [PREFACE, &first].concat();
            assert_eq!(Tally::of_client().count(&start), Err(Excess::Start));
            assert_eq!(Tally::of_server().count(&first), Err(Excess::Start));
        }
        begun();
    }

    #[test]
    fn what_carries_something_pays_for_the_rest() {
        check(&frame(DATA, 0, 1), None);
        check(&frame(DATA, END_STREAM, 0), None);
        check(&frame(HEADERS, 4, 20), None);
        let request = [frame(HEADERS, 4, 20), frame(WINDOW_UPDATE, 0, 4), frame(PING, 0, 8)].concat();
        check(&request, None);
    }

    #[test]
    fn whoever_gets_much_may_open_its_window_often() {
        let mut tally = begun();
        for _ in 0..100_000 {
            tally.sent(256);
            tally.count(&frame(WINDOW_UPDATE, 0, 4)).unwrap();
            tally.count(&frame(WINDOW_UPDATE, 0, 4)).unwrap();
        }
    }

    #[test]
    fn a_server_resets_what_it_likes_and_is_known_by_its_first_frame() {
        let settings = frame(SETTINGS, 0, 6);
        for end in 0..settings.len() {
            let mut tally = Tally::of_server();
            tally.count(&settings[..end]).unwrap();
            assert!(!tally.has_frame(), "{end} of {} bytes", settings.len());
        }
        let mut tally = Tally::of_server();
        tally.count(&settings).unwrap();
        assert!(tally.has_frame());
        for _ in 0..FREE_FRAMES - 1 {
            tally.count(&frame(RST_STREAM, 0, 4)).unwrap();
        }
        assert_eq!(tally.count(&frame(RST_STREAM, 0, 4)), Err(Excess::Frames), "but it answers nothing");
    }

    #[test]
    fn whoever_only_pings_now_and_then_may_do_so_for_days() {
        let pings = |every_s: u64| {
            let mut tally = begun();
            tally.pass_time(7);
            (1..=100_000).find(|n| {
                tally.pass_time(7 + n * every_s);
                tally.count(&frame(PING, 0, 8)).is_err()
            })
        };
        assert_eq!(pings(10), None);
        assert_eq!(pings(S_PER_FRAME), None);
        assert!(pings(1).is_some_and(|n| (1240..=1260).contains(&n)), "five times as fast as it earns");
        let mut patient = begun();
        patient.pass_time(0);
        patient.pass_time(1 << 40);
        let broken = (1..=100_000).find(|_| patient.count(&frame(PING, 0, 8)).is_err());
        assert_eq!(broken, Some(FREE_FRAMES + 1), "it earns no more than what it began with");
    }

    #[test]
    fn half_of_the_streams_may_be_reset() {
        let mut tally = begun();
        for _ in 0..10_000 {
            tally.count(&frame(HEADERS, 4, 9)).unwrap();
            tally.stream_ended();
            tally.count(&frame(RST_STREAM, 0, 4)).unwrap();
        }
        let broken = (1..10).find(|_| tally.count(&frame(RST_STREAM, 0, 4)).is_err());
        assert_eq!(broken, Some(1), "there are as many already");
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_bytes_arrive(
            frames in prop::collection::vec((0u8..12, any::<u8>(), 0u8..12), 0..300),
            cuts in prop::collection::vec(1usize..40, 1..20),
        ) {
            let bytes: Vec<u8> = std::iter::once(PREFACE.to_vec())
                .chain(frames.into_iter().map(|(kind, flags, bytes)| frame(kind, flags, bytes)))
                .flatten()
                .collect();
            let mut whole = Tally::of_client();
            let at_once = whole.count(&bytes);
            let mut pieces = Tally::of_client();
            let (mut rest, mut cuts) = (&bytes[..], cuts.into_iter().cycle());
            let mut result = Ok(());
            while !rest.is_empty() && result.is_ok() {
                let (piece, others) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
                result = pieces.count(piece);
                rest = others;
            }
            prop_assert_eq!(result, at_once);
            prop_assert_eq!(pieces.credit, whole.credit);
        }

        #[test]
        fn no_bytes_are_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
            let _ = Tally::of_server().count(&bytes);
        }
    }
}
