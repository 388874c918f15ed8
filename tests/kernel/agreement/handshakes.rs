//! Handshakes by cookie, for both sides: the kernel's cookie is its secret, so the host is told.

use portcullis::nic::Reason;

use super::{
    super::{
        syn_cookies,
        table::{
            frames::{ACK, PSH, RST, SYN, extension, ipv4, ipv6, tagged},
            mutate::Random,
            sockets::flow,
        },
    },
    Sides,
};

/// Where clients' ports begin. No port of the table's packets is like one with a bit or a byte changed.
const PORTS_FROM: u16 = 10_000;
const PORTS: usize = 20_000;

/// Options of a SYN: none, only a segment size, all that Linux offers, what contradicts itself.
const OPTIONS: [&[u8]; 4] = [
    &[],
    &[2, 4, 5, 0xb4],
    &[2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7],
    &[2, 4, 0, 0, 3, 40, 1, 1],
];

/// The lowest bits of a cookie say which of four segment sizes was offered: its next neighbours are valid, too.
const SIZE_BITS: usize = 2;

/// A handshake that may be under way.
pub(super) struct Handshake {
    wrap: Wrap,
    port: u16,
    sequence: u32,
    /// The kernel's cookie, once it has said one.
    cookie: u32,
}

/// What is around its segments.
struct Wrap {
    source: String,
    tags: &'static [u16],
    /// IPv4 options or IPv6 extension headers, in words of eight bytes.
    more: usize,
}

impl Wrap {
    fn around(&self, segment: &[u8]) -> Vec<u8> {
        let frame = match (self.source.contains(':'), self.more) {
            (false, more) => ipv4(&self.source, 6, &[1; 8].repeat(more), segment),
            (true, 0) => ipv6(&self.source, 6, 64, segment),
            (true, more) => {
                let headers = [extension(60, 0).repeat(more - 1), extension(6, 0)].concat();
                ipv6(&self.source, 60, 64, &[headers, segment.to_vec()].concat())
            }
        };
        tagged(&frame, self.tags)
    }
}

impl Handshake {
    /// A SYN of somebody new.
    pub(super) fn begin(random: &mut Random) -> (Vec<u8>, Self) {
        let (network, host) = (random.below(256), random.below(64));
        let source = match random.below(2) {
            0 => format!("10.7.{network}.{host}"),
            _ => format!("2001:db8:c:{network:x}::{host:x}"),
        };
        let wrap = Wrap {
            source,
            tags: [&[][..], &[0x8100], &[0x88a8, 0x8100]][random.below(3)],
            more: random.below(3),
        };
        let port = PORTS_FROM + u16::try_from(random.below(PORTS)).unwrap_or(0);
        let handshake =
            Self { wrap, port, sequence: u32::try_from(random.next() >> 32).unwrap_or(0), cookie: 0 };
        let options = OPTIONS[random.below(OPTIONS.len())];
        let data = vec![7; [0, 0, 0, 1, 500][random.below(5)]];
        let syn = [handshake.segment(SYN, 0, 0, options), data].concat();
        (handshake.wrap.around(&syn), handshake)
    }

    fn segment(&self, flags: u8, behind: u32, acknowledgement: u32, options: &[u8]) -> Vec<u8> {
        let sequence = self.sequence.wrapping_add(behind);
        syn_cookies::segment_from(self.port, flags, sequence, acknowledgement, options)
    }

    /// Both sides get the SYN. Where it was answered, what was answered goes on to the host.
    #[track_caller]
    pub(super) fn meet(self, sides: &mut Sides, syn: &[u8]) -> Option<Self> {
        let (found, _, answer) = syn_cookies::run(&mut sides.lab, syn);
        assert_eq!(found, sides.expect(syn), "{syn:02x?}");
        if found != Reason::SynCookie {
            return None;
        }
        let header_bytes = if self.wrap.source.contains(':') { 40 } else { 20 };
        let tcp = &answer[14 + 4 * self.wrap.tags.len() + header_bytes..];
        let cookie = u32::from_be_bytes(*tcp[4..].first_chunk().expect("a sequence number"));
        let begin = sides.host.begin.expect("the host has answered, too");
        let of_flow = cookie.wrapping_sub(begin.segment.sequence);
        sides.host.sockets.learned.insert(flow(&begin.segment), of_flow);
        Some(Self { cookie, ..self })
    }

    /// What may come behind the answer: what should, and what is almost that.
    pub(super) fn next(&self, random: &mut Random) -> Vec<u8> {
        let asked_for = self.cookie.wrapping_add(1);
        let (flags, behind, acknowledgement) = match random.below(8) {
            0 => (ACK, 1, asked_for ^ 1 << (SIZE_BITS + random.below(32 - SIZE_BITS))),
            1 => (ACK, (2 + u32::try_from(random.below(1_000)).unwrap_or(0)) << SIZE_BITS, asked_for),
            2 => (RST, 1, asked_for),
            3 => (SYN | ACK, 1, asked_for),
            4 => (ACK | PSH, 1, asked_for),
            _ => (ACK, 1, asked_for),
        };
        self.wrap.around(&self.segment(flags, behind, acknowledgement, &[]))
    }
}
