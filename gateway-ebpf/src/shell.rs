//! What only the kernel has: packet pointers, maps, clocks.
//!
//! The program counts every packet at one exit, by reason and verdict. Its own diagnostics go through aya-log and
//! only from paths that no healthy packet takes.

mod feeds;

use core::{arch::asm, ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{
        BPF_F_MMAPABLE, BPF_F_NO_PREALLOC,
        xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
        xdp_md,
    },
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
    helpers::{
        bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_map_lookup_elem, bpf_xdp_get_buff_len,
    },
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use aya_log_ebpf::{error, warn};
use gateway_ebpf::{
    Ban, Packet, Reason, Tables, Verdict,
    bucket::{self, LINE_CELLS},
    class::{CLASS_WORDS, Class, GUARD_WORDS},
    classify,
    front::{self, LINES_MAX},
    layout::{
        Cell, CpuState, EVENTS_BYTES, KNOWN_MAX, LISTED4, LISTED6, Note, NoteKey, Orders, PrefixKey4,
        PrefixKey6, REASONS_MAX, RECENTS, Recent, STRIKES_MAX, Sample, Settings, Strikes, Tick, VERDICTS_MAX,
        port_bit,
    },
    syn_cookie::{self, Begin, Handshakes, Judgement, Meeting, Segment, Sockets},
    verdict::Clock,
};

use crate::handshake;

// Sizes that the configuration sets are placeholders here; the loader puts in `entries_max` and `sources_max`.

/// Entries take memory when they are written, not when the map is made.
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

/// User space writes single words without asking the kernel each time.
const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

/// What user space tells.
#[btf_map]
static ORDERS: Array<Orders, 1, MMAPABLE> = Array::new();
/// What the tables below hold about each IPv4 /24, in two bits.
#[btf_map]
static CLASS24: Array<u64, CLASS_WORDS, MMAPABLE> = Array::new();
/// Whether the tables below hold anything about an IPv6 /48 or /32, in a hashed bit.
#[btf_map]
static GUARD6: Array<u64, GUARD_WORDS, MMAPABLE> = Array::new();
/// Which blocks of IPv4 sources certainly hold.
#[btf_map]
static FRONT4: Array<front::Line, { LINES_MAX as usize }, MMAPABLE> = Array::new();
/// Which blocks of IPv6 sources and prefixes certainly hold.
#[btf_map]
static FRONT6: Array<front::Line, { LINES_MAX as usize }, MMAPABLE> = Array::new();
/// Prefixes that win over every block.
#[btf_map]
static ALLOW4: LpmTrie<[u32; 2], u32, 65_536> = LpmTrie::new();
/// As `ALLOW4`.
#[btf_map]
static ALLOW6: LpmTrie<[u32; 4], u32, 65_536> = LpmTrie::new();
/// Blocked sources. Never an LRU: idle blocks would be flooded out. Not preallocated: only user space inserts, the
/// look-up costs the same, and a million entries of room take 27 MB instead of 113.
#[btf_map]
static BANS4: HashMap<u32, Ban, 65_536, NO_PREALLOC> = HashMap::new();
/// As `BANS4`.
#[btf_map]
static BANS6: HashMap<u64, Ban, 65_536, NO_PREALLOC> = HashMap::new();
/// Blocked prefixes.
#[btf_map]
static BLOCK4: LpmTrie<[u32; 2], Ban, 65_536> = LpmTrie::new();
/// As `BLOCK4`.
#[btf_map]
static BLOCK6: LpmTrie<[u32; 4], Ban, 65_536> = LpmTrie::new();
/// The limiter's cells, by lines. Mapped by nobody, but what may be begins with a page.
#[btf_map]
static CELLS: Array<[Cell; LINE_CELLS as usize], 16_384, MMAPABLE> = Array::new();
/// Buckets of sources of which something good is known. The key is the source as the limiter calls it.
#[btf_map]
static KNOWN: HashMap<u64, Cell, KNOWN_MAX, NO_PREALLOC> = HashMap::new();
/// Connections that have just begun with a cookie.
#[btf_map]
static RECENT: Array<Recent, RECENTS> = Array::new();
/// The SYN that is being answered.
#[btf_map]
static BEGIN: PerCpuArray<Begin, 1> = PerCpuArray::new();
/// Counters and the sampler's clock.
#[btf_map]
static STATE: PerCpuArray<CpuState, 1> = PerCpuArray::new();
/// Sampled drops.
#[btf_map]
static EVENTS: RingBuf<Sample, EVENTS_BYTES> = RingBuf::new();
/// What led to a block. Only user space reads and writes it.
#[btf_map]
static NOTES: LruHashMap<NoteKey, Note, 4_096> = LruHashMap::new();
/// What the escalation remembers of whom it has blocked. Only user space reads and writes it.
#[btf_map]
static STRIKES: HashMap<NoteKey, Strikes, STRIKES_MAX, NO_PREALLOC> = HashMap::new();

/// 0: this kernel has no helpers for SYN cookies, and the verifier must not see them. The loader sets it.
#[unsafe(no_mangle)]
static CAN_COOKIE: u8 = 1;

/// The filter. Part of its entry, however long it gets: a call would cost every packet.
#[xdp(frags)]
#[inline(always)]
fn portcullis(context: XdpContext) -> u32 {
    let (Some(orders), Some(state)) = (ORDERS.get(0), STATE.get_ptr_mut(0)) else {
        error!(&context, "orders or counters are missing: every packet passes");
        return XDP_PASS;
    };
    let settings = orders.holding();
    // SAFETY: the map's value lives as long as the program runs, and no other CPU has this copy of it.
    let state = unsafe { &mut *state };
    let frame = Frame { start: context.data(), end: context.data_end(), context: &context };
    let mut maps = Maps {
        context: &context,
        orders,
        whole_drops: &mut state.whole_drops,
        syns: &mut state.syns,
        unclaimed_drops: &mut state.unclaimed_drops,
    };
    let clock = Kernel { tick: &raw mut state.tick };
    let reason = classify(&frame, settings, &mut maps, &clock, &mut state.seen);
    let verdict = reason.verdict(settings.flags);
    let bytes = frame.bytes();
    if verdict == Verdict::Tx {
        return answer(&context, settings, state, reason, bytes);
    }
    count(state, reason, verdict, bytes);
    if reason.refuses() {
        sample(&context, settings, state, clock.now_ns(), reason, verdict, bytes);
    }
    match verdict {
        Verdict::Drop => XDP_DROP,
        _ => XDP_PASS,
    }
}

/// Turns the frame into the answer to itself. Where that fails, it is dropped: its sender will send it again.
#[inline(always)]
fn answer(
    context: &XdpContext,
    settings: &Settings,
    state: &mut CpuState,
    reason: Reason,
    bytes: u64,
) -> u32 {
    let begin = BEGIN.get_ptr(0);
    // SAFETY: the map's value lives as long as the program runs, and no other CPU has this copy of it.
    let sent = begin
        .is_some_and(|begin| handshake::answer(context.ctx, unsafe { &*begin }, &settings.cookies, bytes));
    let verdict = if sent { Verdict::Tx } else { Verdict::Drop };
    count(state, reason, verdict, bytes);
    if sent { XDP_TX } else { XDP_DROP }
}

#[inline(always)]
fn count(state: &mut CpuState, reason: Reason, verdict: Verdict, bytes: u64) {
    let row = &mut state.counts[reason as usize & (REASONS_MAX - 1)];
    let cell = &mut row[verdict as usize & (VERDICTS_MAX - 1)];
    cell.packets += 1;
    cell.bytes += bytes;
}

#[inline(always)]
fn sample(
    context: &XdpContext,
    settings: &Settings,
    state: &mut CpuState,
    at_ns: u64,
    reason: Reason,
    verdict: Verdict,
    bytes: u64,
) {
    /// `BPF_RB_NO_WAKEUP`: user space looks on its own timer, a flood must not wake it.
    const NO_WAKEUP: u64 = 1;
    if settings.samples.interval_ns == 0 {
        return;
    }
    // One row is enough: this CPU shares its budget with nobody.
    let mut unused_ns = state.samples_ns;
    if !bucket::admit(&mut state.samples_ns, &mut unused_ns, at_ns, settings.samples) {
        return;
    }
    let Some(mut entry) = EVENTS.reserve(0) else {
        state.samples_lost += 1;
        // Once is news, and the counter tells the rest.
        if state.samples_lost == 1 {
            warn!(context, "the ring buffer of samples is full");
        }
        return;
    };
    entry.write(Sample {
        at_ns,
        source: if state.seen.so_far == 0 { [0, 0] } else { state.seen.source.map(u64::to_be) },
        bytes: bytes as u32,
        ifindex: context.ingress_ifindex() as u32,
        port: state.seen.so_far as u16,
        reason: reason as u8,
        verdict: verdict as u8,
        reserved: 0,
    });
    entry.submit(NO_WAKEUP);
}

/// The frame between the packet pointers.
struct Frame<'a> {
    start: usize,
    end: usize,
    context: &'a XdpContext,
}

impl Frame<'_> {
    /// Where `bytes` bytes may be loaded.
    #[inline(always)]
    fn at(&self, offset: usize, bytes: usize) -> Option<usize> {
        let at = self.start + offset;
        if at + bytes > self.end { None } else { Some(at) }
    }

    /// Asks the kernel how many bytes the frame has in all its buffers.
    #[inline(always)]
    fn all_bytes(&self) -> u64 {
        // SAFETY: the helper only reads the context that the kernel gave us.
        unsafe { bpf_xdp_get_buff_len(self.context.ctx) }
    }
}

/// Loads an integer that the language calls misaligned and the instruction set does not mind: one instruction, where
/// `read_unaligned` would assemble it byte by byte.
macro_rules! load {
    ($size:literal, $at:expr) => {{
        let value: u64;
        // SAFETY: the caller has compared the address with the end of the frame, and the verifier has seen it.
        unsafe {
            asm!(
                concat!("{value} = *(", $size, " *)({at} + 0)"),
                value = out(reg) value,
                at = in(reg) $at,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        value
    }};
}

impl Packet for Frame<'_> {
    #[inline(always)]
    fn be16(&self, offset: usize) -> Option<u16> {
        let at = self.at(offset, 2)?;
        Some(u16::from_be(load!("u16", at) as u16))
    }

    #[inline(always)]
    fn be32(&self, offset: usize) -> Option<u32> {
        let at = self.at(offset, 4)?;
        Some(u32::from_be(load!("u32", at) as u32))
    }

    #[inline(always)]
    fn be64(&self, offset: usize) -> Option<u64> {
        let at = self.at(offset, 8)?;
        Some(u64::from_be(load!("u64", at)))
    }

    #[inline(always)]
    fn has(&self, bytes: usize) -> bool {
        bytes <= self.end - self.start || bytes as u64 <= self.all_bytes()
    }

    /// Does not ask the kernel about frames whose first buffer is shorter than any driver's that splits frames: the
    /// question costs 9 ns, and floods are made of short frames.
    #[inline(always)]
    fn bytes(&self) -> u64 {
        const WHOLE_BELOW: usize = 256;
        let bytes = self.end - self.start;
        if bytes < WHOLE_BELOW { bytes as u64 } else { self.all_bytes() }
    }
}

/// The kernel's clocks.
struct Kernel {
    /// This CPU's own.
    tick: *mut Tick,
}

impl Clock for Kernel {
    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: the pointer is into this CPU's value, which nothing else reads or writes while the program runs; the
        // helpers take nothing and only read clocks.
        unsafe {
            let tick = &mut *self.tick;
            let jiffies = bpf_jiffies64();
            if tick.jiffies != jiffies {
                *tick = Tick { jiffies, now_ns: bpf_ktime_get_coarse_ns() };
            }
            tick.now_ns
        }
    }

    #[inline(always)]
    fn precise_now_ns(&self) -> u64 {
        // SAFETY: the helper takes nothing and only reads a clock.
        unsafe { bpf_ktime_get_ns() }
    }
}

/// The maps as [`Tables`], and this CPU's own counter.
struct Maps<'a> {
    context: &'a XdpContext,
    orders: &'a Orders,
    whole_drops: &'a mut u64,
    syns: &'a mut u64,
    unclaimed_drops: &'a mut u64,
}

impl Handshakes for Maps<'_> {
    #[inline(always)]
    fn judge<P: Packet>(&mut self, _: &P, start: usize, _: &Settings, now_ns: u64) -> Judgement {
        // SAFETY: the loader writes it before the program runs, and then nobody.
        if unsafe { ptr::read_volatile(&raw const CAN_COOKIE) } == 0 {
            return Judgement::Known;
        }
        match judge_handshake(self.context.ctx, start as u64, now_ns) {
            ANSWER => Judgement::Answer,
            ACCEPT => Judgement::Accept,
            REFUSE => Judgement::Refuse,
            FULL => Judgement::Full,
            _ => Judgement::Known,
        }
    }
}

const ANSWER: u32 = Judgement::Answer as u32;
const ACCEPT: u32 = Judgement::Accept as u32;
const REFUSE: u32 = Judgement::Refuse as u32;
const FULL: u32 = Judgement::Full as u32;

/// A global function: the verifier walks it once, whatever its callers know, and what it needs of registers and stack is
/// not taken from packets that it is not for. A [`Judgement`]; numbers are all that such a function takes and gives.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn judge_handshake(context: *mut xdp_md, start: u64, now_ns: u64) -> u32 {
    /// More than any transport header's, and less than the verifier lets a packet pointer be moved.
    const START_MASK: u64 = 1023;
    let context = XdpContext::new(context);
    let (Some(orders), Some(begin)) = (ORDERS.get(0), BEGIN.get_ptr_mut(0)) else {
        return Judgement::Known as u32;
    };
    let frame = Frame { start: context.data(), end: context.data_end(), context: &context };
    let mut sockets = OfKernel { context: context.ctx };
    let start = (start & START_MASK) as usize;
    // SAFETY: the map's value lives as long as the program runs, and no other CPU has this copy of it.
    let begin = unsafe { &mut *begin };
    syn_cookie::judge(&frame, start, orders.holding(), now_ns, &mut sockets, begin) as u32
}

/// The kernel's sockets, and the slots for what has just begun.
struct OfKernel {
    context: *mut xdp_md,
}

impl Sockets for OfKernel {
    #[inline(always)]
    fn meet(&mut self, segment: &Segment, mss: u16) -> Meeting {
        handshake::meet(self.context, segment, mss)
    }

    #[inline(always)]
    fn recent(&mut self, index: u32) -> Option<&mut Recent> {
        let recent = RECENT.get_ptr_mut(index)?;
        // SAFETY: the map's value lives as long as the program runs.
        Some(unsafe { &mut *recent })
    }
}

impl Tables for Maps<'_> {
    #[inline(always)]
    fn touched_word(&self, index: u32) -> u64 {
        self.orders.touched.get(index as usize).copied().unwrap_or(u64::MAX)
    }

    #[inline(always)]
    fn class_word(&self, index: u32) -> u64 {
        CLASS24.get(index).copied().unwrap_or(Class::Any.pattern())
    }

    #[inline(always)]
    fn guard_word(&self, index: u32) -> u64 {
        GUARD6.get(index).copied().unwrap_or(u64::MAX)
    }

    #[inline(always)]
    fn whole_drops(&mut self) -> &mut u64 {
        self.whole_drops
    }

    #[inline(always)]
    fn syns(&mut self) -> &mut u64 {
        self.syns
    }

    #[inline(always)]
    fn unclaimed_drops(&mut self) -> &mut u64 {
        self.unclaimed_drops
    }

    #[inline(always)]
    fn allowed4(&self, key: &PrefixKey4) -> bool {
        find(&ALLOW4, key).is_some()
    }

    #[inline(always)]
    fn allowed6(&self, key: &PrefixKey6) -> bool {
        find(&ALLOW6, key).is_some()
    }

    #[inline(always)]
    fn claimed_until_ns(&self) -> u64 {
        self.orders.claimed_until_ns
    }

    #[inline(always)]
    fn claimed_shift4(&self) -> u32 {
        self.orders.claimed_shift4 as u32
    }

    #[inline(always)]
    fn claimed_shift6(&self) -> u32 {
        self.orders.claimed_shift6 as u32
    }

    #[inline(always)]
    fn claimed_lengths6(&self) -> u64 {
        self.orders.claimed_lengths6
    }

    #[inline(always)]
    fn front4(&self, line: u32) -> Option<&front::Line> {
        FRONT4.get(line)
    }

    #[inline(always)]
    fn front6(&self, line: u32) -> Option<&front::Line> {
        FRONT6.get(line)
    }

    #[inline(always)]
    fn front4_drops(&mut self, line: u32, slot: u32) -> Option<&mut u8> {
        let line = FRONT4.get_ptr_mut(line)?.cast::<u8>();
        // SAFETY: the map's value lives as long as the program runs, and has 16 slots of four bytes, the lowest first.
        Some(unsafe { &mut *line.add((slot & 15) as usize * 4) })
    }

    #[inline(always)]
    fn front6_drops(&mut self, line: u32, slot: u32) -> Option<&mut u8> {
        let line = FRONT6.get_ptr_mut(line)?.cast::<u8>();
        // SAFETY: as above, 8 slots of eight bytes.
        Some(unsafe { &mut *line.add((slot & 7) as usize * 8) })
    }

    #[inline(always)]
    fn ban4(&mut self, key: u32) -> Option<&mut Ban> {
        find(&BANS4, &key)
    }

    #[inline(always)]
    fn ban6(&mut self, key: u64) -> Option<&mut Ban> {
        find(&BANS6, &key)
    }

    #[inline(always)]
    fn block4(&mut self, key: &PrefixKey4) -> Option<&mut Ban> {
        find(&BLOCK4, key)
    }

    #[inline(always)]
    fn block6(&mut self, key: &PrefixKey6) -> Option<&mut Ban> {
        find(&BLOCK6, key)
    }

    #[inline(always)]
    fn listed4(&self, source: u32) -> bool {
        self.orders.listed & LISTED4 != 0 && feeds::listed4(source)
    }

    #[inline(always)]
    fn listed6(&self, upper: u64, lower: u64) -> bool {
        self.orders.listed & LISTED6 != 0 && feeds::listed6(upper, lower)
    }

    #[inline(always)]
    fn limited(&self, port: u16) -> bool {
        let (word, bit) = port_bit(port);
        self.orders.ports.get(word as usize).is_some_and(|bits| *bits >> bit & 1 == 1)
    }

    #[inline(always)]
    fn cells(&mut self, first: u32, second: u32) -> Option<(&mut Cell, &mut Cell)> {
        let line = CELLS.get_ptr_mut(first / LINE_CELLS)?.cast::<Cell>();
        let within = |index: u32| (index & (LINE_CELLS - 1)) as usize;
        // SAFETY: the map's value is a line of cells, which lives as long as the program runs, and both are in it, at
        // different places.
        Some(unsafe { (&mut *line.add(within(first)), &mut *line.add(within(second))) })
    }

    #[inline(always)]
    fn known(&mut self, source: u64) -> Option<&mut Cell> {
        find(&KNOWN, &source)
    }

    #[inline(always)]
    fn heartbeat_ns(&self) -> u64 {
        self.orders.heartbeat_ns
    }
}

/// A map whose keys look like `K`, as user space writes them.
trait Keyed<K> {
    /// What it holds.
    type Value: 'static;
}

impl<const N: usize> Keyed<PrefixKey4> for LpmTrie<[u32; 2], u32, N> {
    type Value = u32;
}
impl<const N: usize> Keyed<PrefixKey6> for LpmTrie<[u32; 4], u32, N> {
    type Value = u32;
}
impl<const N: usize> Keyed<PrefixKey4> for LpmTrie<[u32; 2], Ban, N> {
    type Value = Ban;
}
impl<const N: usize> Keyed<PrefixKey6> for LpmTrie<[u32; 4], Ban, N> {
    type Value = Ban;
}
impl<K, V: 'static, const N: usize, const FLAGS: usize> Keyed<K> for HashMap<K, V, N, FLAGS> {
    type Value = V;
}

/// Looks a key up. aya's own look-up in a trie takes a packed key, which is written byte by byte onto the stack, and
/// gives no way to write what it finds.
#[inline(always)]
fn find<M: Keyed<K>, K>(map: &'static M, key: &K) -> Option<&'static mut M::Value> {
    let map = ptr::from_ref(map).cast_mut().cast::<c_void>();
    // SAFETY: the loader has put the map's address here; `Keyed` ties the key's and the value's type to the map; a
    // value found stays readable until the program ends, and other CPUs' stores to it are words that may win or lose.
    unsafe { bpf_map_lookup_elem(map, ptr::from_ref(key).cast()).cast::<M::Value>().as_mut() }
}

/// The license that the kernel's helpers ask for.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The verifier proves that nothing here panics; the language wants a handler nevertheless.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
