//! SYN cookies in the kernel: whose a segment is, what cookie it gets, and the frame turned into the answer.
//!
//! Comes in: a segment as `syn_cookie` has read it. Goes out: what the kernel's tables of sockets and its cookies say of
//! it. The helpers that take the listener are used, not the raw ones: `bpf_tcp_gen_syncookie` notes in the listener's
//! group that cookies have been sent, without which the kernel would not believe the ACK.

use core::arch::asm;

use aya_ebpf::{
    bindings::{bpf_fib_lookup, bpf_sock, bpf_sock_tuple, tcphdr, xdp_md},
    helpers::{
        bpf_fib_lookup as fib_lookup, bpf_ktime_get_ns, bpf_sk_release, bpf_skc_lookup_tcp,
        bpf_tcp_check_syncookie, bpf_tcp_gen_syncookie, bpf_xdp_adjust_tail,
    },
};
use gateway_ebpf::{
    layout::CookieTerms,
    packet::{ETHERNET_BYTES, TAG_BYTES},
    syn_cookie::{Answer, Begin, Meeting, Segment},
};

const FIN: u16 = 0x01;
const SYN: u16 = 0x02;
const RST: u16 = 0x04;
const ACK: u16 = 0x10;

/// The namespace of the interface that the frame came in on.
const CURRENT_NETWORK: u64 = u64::MAX;
/// `TCP_LISTEN`
const LISTEN: u32 = 10;

/// See [`gateway_ebpf::syn_cookie::Handshakes::meet`].
#[inline(always)]
pub(crate) fn meet(context: *mut xdp_md, segment: &Segment, mss: u16) -> Meeting {
    let met = look_up(context, segment, mss);
    match met >> 32 {
        CONNECTION => Meeting::Connection,
        COOKIE => Meeting::Cookie(met as u32),
        NO_COOKIE => Meeting::NoCookie,
        VALID => Meeting::Valid,
        STRAY => Meeting::Stray,
        _ => Meeting::Nobody,
    }
}

// What `look_up` says, in its upper half: a function of its own gives back one integer.
const NOBODY: u64 = 0;
const CONNECTION: u64 = 1;
const COOKIE: u64 = 2;
const NO_COOKIE: u64 = 3;
const VALID: u64 = 4;
const STRAY: u64 = 5;

/// A function of its own, so that the verifier walks it once and its stack is not everybody's.
#[inline(never)]
fn look_up(context: *mut xdp_md, segment: &Segment, mss: u16) -> u64 {
    let ports = (u32::from(segment.source_port) << 16 | u32::from(segment.port)).to_be();
    let socket = if segment.version == 4 {
        let mut tuple = [(segment.source[1] as u32).to_be(), (segment.destination[1] as u32).to_be(), ports];
        find(context, &mut tuple)
    } else {
        let [a, b, c, d] = words(segment.source);
        let [e, f, g, h] = words(segment.destination);
        let mut tuple = [a, b, c, d, e, f, g, h, ports];
        find(context, &mut tuple)
    };
    if socket.is_null() {
        return NOBODY << 32;
    }
    // SAFETY: the kernel has given us a reference to this socket, and its state may be read.
    let met = if unsafe { (*socket).state } == LISTEN {
        at_listener(context, socket, segment, mss)
    } else {
        CONNECTION << 32
    };
    // SAFETY: the reference is given back once, and the socket not used after.
    unsafe { bpf_sk_release(socket.cast()) };
    met
}

#[inline(always)]
fn find<const WORDS: usize>(context: *mut xdp_md, tuple: &mut [u32; WORDS]) -> *mut bpf_sock {
    let tuple: *mut bpf_sock_tuple = tuple.as_mut_ptr().cast();
    // SAFETY: the helper reads as many bytes as it is told that there are.
    unsafe { bpf_skc_lookup_tcp(context.cast(), tuple, WORDS as u32 * 4, CURRENT_NETWORK, 0) }
}

#[inline(always)]
fn at_listener(context: *mut xdp_md, socket: *mut bpf_sock, segment: &Segment, mss: u16) -> u64 {
    if !is_ours(context, segment) {
        return NOBODY << 32;
    }
    let flags = segment.offset_and_flags;
    // RFC 9293 §3.1; the maximum segment size is the only option that cookies look at.
    let mut transport = [
        (u32::from(segment.source_port) << 16 | u32::from(segment.port)).to_be(),
        segment.sequence.to_be(),
        segment.acknowledgement.to_be(),
        (6 << 28 | u32::from(flags & 0x3f) << 16).to_be(),
        0,
        (0x0204_0000 | u32::from(mss)).to_be(),
    ];
    if segment.version == 4 {
        let mut network = [
            0x4500_0000_u32.to_be(),
            0,
            0,
            (segment.source[1] as u32).to_be(),
            (segment.destination[1] as u32).to_be(),
        ];
        cookie(socket, flags, &mut network, &mut transport)
    } else {
        let [a, b, c, d] = words(segment.source);
        let [e, f, g, h] = words(segment.destination);
        let mut network = [0x6000_0000_u32.to_be(), 0, a, b, c, d, e, f, g, h];
        cookie(socket, flags, &mut network, &mut transport)
    }
}

#[inline(always)]
fn cookie<const WORDS: usize>(
    socket: *mut bpf_sock,
    flags: u16,
    network: &mut [u32; WORDS],
    transport: &mut [u32; 6],
) -> u64 {
    let network = network.as_mut_ptr().cast();
    let (network_bytes, transport_bytes) = (WORDS as u32 * 4, size_of_val(transport) as u32);
    let transport: *mut tcphdr = transport.as_mut_ptr().cast();
    if flags & (SYN | ACK | RST | FIN) == SYN {
        // SAFETY: the helper reads as many bytes as it is told that there are, and the socket's reference is ours.
        let made = unsafe {
            bpf_tcp_gen_syncookie(socket.cast(), network, network_bytes, transport, transport_bytes)
        };
        return if made < 0 { NO_COOKIE << 32 } else { COOKIE << 32 | u64::from(made as u32) };
    }
    if flags & (SYN | ACK | RST) != ACK {
        return STRAY << 32;
    }
    // SAFETY: as above.
    let checked =
        unsafe { bpf_tcp_check_syncookie(socket.cast(), network, network_bytes, transport, transport_bytes) };
    if checked == 0 { VALID << 32 } else { STRAY << 32 }
}

/// Whether the segment is for this host. A listener on every address is found for any destination, and a router must
/// not answer for those behind it.
#[inline(always)]
fn is_ours(context: *mut xdp_md, segment: &Segment) -> bool {
    const FAMILY_V4: u32 = 2;
    const FAMILY_V6: u32 = 10;
    const SKIP_NEIGHBOUR: u32 = 4;
    const NOT_FORWARDED: i64 = 4;
    const FORWARDING_DISABLED: i64 = 5;
    // `struct bpf_fib_lookup`, in words: family, then interface (2), source (4 to 7) and destination (8 to 11).
    let mut question = [0_u32; 16];
    // SAFETY: the context is the kernel's own.
    question[2] = unsafe { (*context).ingress_ifindex };
    if segment.version == 4 {
        question[0] = FAMILY_V4;
        question[4] = (segment.source[1] as u32).to_be();
        question[8] = (segment.destination[1] as u32).to_be();
    } else {
        question[0] = FAMILY_V6;
        [question[4], question[5], question[6], question[7]] = words(segment.source);
        [question[8], question[9], question[10], question[11]] = words(segment.destination);
    }
    let bytes = size_of_val(&question) as i32;
    let question: *mut bpf_fib_lookup = question.as_mut_ptr().cast();
    // SAFETY: the helper reads and writes as many bytes as it is told that there are.
    let answer = unsafe { fib_lookup(context.cast(), question, bytes, SKIP_NEIGHBOUR) };
    answer < 0 || answer == NOT_FORWARDED || answer == FORWARDING_DISABLED
}

/// An IPv6 address as the wire has it.
#[inline(always)]
fn words([upper, lower]: [u64; 2]) -> [u32; 4] {
    [(upper >> 32) as u32, upper as u32, (lower >> 32) as u32, lower as u32].map(u32::to_be)
}

/// Turns the frame into the answer. False: there was no room for it, and the frame is to be dropped.
///
/// Tags stay where they are, and so does what they say.
#[inline(never)]
pub(crate) fn answer(context: *mut xdp_md, begin: &Begin, terms: &CookieTerms, bytes: u64) -> bool {
    // SAFETY: the helper takes nothing and only reads a clock.
    let answer = Answer::new(begin, terms, unsafe { bpf_ktime_get_ns() });
    let Some(link_bytes) = turn(context) else { return false };
    let excess = bytes as i64 - (link_bytes + answer.bytes()) as i64;
    // SAFETY: the helper changes nothing but the frame's end.
    if excess != 0 && unsafe { bpf_xdp_adjust_tail(context, -excess as i32) } != 0 {
        return false;
    }
    let mut at = link_bytes;
    for (index, word) in answer.network.iter().enumerate() {
        if index < answer.network_words {
            if !store(context, at, *word) {
                return false;
            }
            at += 4;
        }
    }
    for (index, word) in answer.transport.iter().enumerate() {
        if index < answer.transport_words {
            if !store(context, at, *word) {
                return false;
            }
            at += 4;
        }
    }
    true
}

/// Swaps the hardware addresses; where the network layer begins.
#[inline(always)]
fn turn(context: *mut xdp_md) -> Option<usize> {
    // SAFETY: the context is the kernel's own.
    let (start, end) = unsafe { ((*context).data as usize, (*context).data_end as usize) };
    if start + ETHERNET_BYTES + 2 * TAG_BYTES > end {
        return None;
    }
    let words: *mut u16 = start as *mut u16;
    // SAFETY: the verifier has seen that so many bytes are there; an Ethernet header is aligned to two of them.
    unsafe {
        for word in 0..3 {
            let (to, from) = (words.add(word), words.add(word + 3));
            let kept = to.read();
            to.write(from.read());
            from.write(kept);
        }
        let is_tag = |ethertype: u16| ethertype == 0x8100_u16.to_be() || ethertype == 0x88a8_u16.to_be();
        if !is_tag(words.add(6).read()) {
            return Some(ETHERNET_BYTES);
        }
        if words.add(8).read() != 0x8100_u16.to_be() {
            return Some(ETHERNET_BYTES + TAG_BYTES);
        }
    }
    Some(ETHERNET_BYTES + 2 * TAG_BYTES)
}

/// Writes a word at an offset. False: the frame ends before.
#[inline(always)]
fn store(context: *mut xdp_md, offset: usize, word: u32) -> bool {
    // SAFETY: the context is the kernel's own.
    let (start, end) = unsafe { ((*context).data as usize, (*context).data_end as usize) };
    let at = start + offset;
    if at + 4 > end {
        return false;
    }
    // SAFETY: the word lies within the frame, as the verifier has seen; the instruction set does not mind that it is
    // not aligned.
    unsafe {
        asm!("*(u32 *)({at} + 0) = {word}", at = in(reg) at, word = in(reg) u64::from(word.to_be()), options(nostack));
    }
    true
}
