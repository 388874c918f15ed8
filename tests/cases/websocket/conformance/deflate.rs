//! permessage-deflate (RFC 7692), as much of it as two peers need who agree on it.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// What a message's last block ends in and what is not sent (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

const WINDOW_BITS_MAX: u8 = 15;

/// One end of it.
pub(super) struct Deflate {
    compress: Compress,
    decompress: Decompress,
    /// Each message by itself, on the way out and on the way in.
    forgets: (bool, bool),
}

impl Deflate {
    /// What a server makes of a client's first offer, and the field that it answers with; nothing of none.
    pub(super) fn agreed(offers: &str) -> (Option<Self>, String) {
        let offer = offers.split(',').next().unwrap_or_default();
        let mut parts = offer.split(';').map(str::trim);
        if parts.next() != Some("permessage-deflate") {
            return (None, String::new());
        }
        // That a client could take a smaller window of its own is no wish.
        let granted: Vec<_> = parts.filter(|part| *part != "client_max_window_bits").collect();
        let deflate = Self::new(&granted, "server", "client");
        let agreed = [&["permessage-deflate"], &granted[..]].concat().join("; ");
        (Some(deflate), format!("Sec-WebSocket-Extensions: {agreed}\r\n"))
    }

    /// A client's end, by what the server has agreed to.
    pub(super) fn client(agreed: &str) -> Self {
        let parts: Vec<_> = agreed.split(';').map(str::trim).collect();
        Self::new(&parts, "client", "server")
    }

    fn new(parameters: &[&str], own: &str, peers: &str) -> Self {
        let forgets = |who: &str| parameters.contains(&format!("{who}_no_context_takeover").as_str());
        let bits = parameters.iter().find_map(|part| part.strip_prefix(&format!("{own}_max_window_bits=")));
        let bits = bits.map_or(WINDOW_BITS_MAX, |bits| bits.parse().expect("window bits"));
        // The library knows no window of 8 bits: blocks that are only stored need none.
        let level = if bits > 8 { Compression::default() } else { Compression::none() };
        Self {
            compress: Compress::new_with_window_bits(level, false, bits.max(9)),
            decompress: Decompress::new_with_window_bits(false, WINDOW_BITS_MAX),
            forgets: (forgets(own), forgets(peers)),
        }
    }

    /// A message on its way out.
    pub(super) fn pack(&mut self, message: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        let start = self.compress.total_in();
        loop {
            packed.reserve(message.len() / 2 + 64);
            let taken = usize::try_from(self.compress.total_in() - start).unwrap();
            self.compress.compress_vec(&message[taken..], &mut packed, FlushCompress::Sync).unwrap();
            if packed.len() < packed.capacity() {
                break;
            }
        }
        assert!(packed.ends_with(&TAIL), "a flush ends in an empty block");
        packed.truncate(packed.len() - TAIL.len());
        if self.forgets.0 {
            self.compress.reset();
        }
        packed
    }

    /// A message that has come; `None` when it is no such thing.
    pub(super) fn unpack(&mut self, packed: &[u8]) -> Option<Vec<u8>> {
        let packed = [packed, &TAIL].concat();
        let mut message = Vec::new();
        let start = self.decompress.total_in();
        loop {
            message.reserve(packed.len() * 2 + 64);
            let taken = usize::try_from(self.decompress.total_in() - start).unwrap();
            self.decompress.decompress_vec(&packed[taken..], &mut message, FlushDecompress::Sync).ok()?;
            if message.len() < message.capacity() {
                break;
            }
        }
        if self.forgets.1 {
            self.decompress.reset(false);
        }
        Some(message)
    }
}
