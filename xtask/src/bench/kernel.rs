//! The kernel's test run, and the small programs that a measurement needs besides the one measured.
//!
//! Comes in: a program's descriptor and a packet. Goes out: what it returned and how long a run took, by the kernel's
//! own clock; or, of a live run, frames on an interface. [`constant`] does nothing; [`draw`] writes another source into
//! the packet for each run and then goes on to the program measured, since a repeated packet would be answered from the
//! cache; [`send`] is a flood. All are assembled by hand: no compiler has a say in what they cost. Source:
//! `include/uapi/linux/bpf.h`, RFC 9669.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use gateway_ebpf::feeds::Line;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_PROG_ARRAY: u32 = 3;
const BPF_F_MMAPABLE: u32 = 1 << 10;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
/// `enum xdp_action`
pub(super) const XDP_DROP: u32 = 1;
/// `enum xdp_action`
pub(super) const XDP_PASS: u32 = 2;
/// Frames of [`live_run`] that are handed over together: what one poll of a driver takes.
const LIVE_BATCH: u32 = 64;

/// What came of a test run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tested {
    /// Mean over the repetitions.
    pub(super) ns: f64,
    /// `enum xdp_action` of the last one.
    pub(super) action: u32,
}

/// Runs a program on a packet again and again.
pub(super) fn test_run(program: BorrowedFd<'_>, packet: &[u8], repeat: u32) -> io::Result<Tested> {
    run(program, packet, repeat, 0, 0)
}

/// Has a program decide so often what becomes of a frame, and does that: [`send`] sends it. Each run has a page of its
/// own for the frame, which later runs find as it was left.
pub(super) fn live_run(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> io::Result<()> {
    run(program, frame, repeat, BPF_F_TEST_XDP_LIVE_FRAMES, LIVE_BATCH).map(drop)
}

fn run(program: BorrowedFd<'_>, packet: &[u8], repeat: u32, flags: u32, batch: u32) -> io::Result<Tested> {
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        program: u32,
        action: u32,
        data_in_bytes: u32,
        data_out_bytes: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration_ns: u32,
        context: [u64; 3],
        flags: u32,
        cpu: u32,
        batch: u32,
        padding: u32,
    }
    let mut attributes = Attributes {
        program: number(program),
        data_in_bytes: u32::try_from(packet.len()).unwrap_or(u32::MAX),
        data_in: packet.as_ptr() as u64,
        repeat,
        flags,
        batch,
        ..Attributes::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut attributes)?;
    Ok(Tested { ns: attributes.duration_ns.into(), action: attributes.action })
}

/// Where and how [`draw`] writes a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Draw {
    /// Offset of the four bytes in the frame.
    pub(super) at: i16,
    /// The number of different sources; 0: any at all.
    pub(super) sources: u32,
    /// Low bits of the four bytes that stay the same.
    pub(super) fixed_bits: u8,
}

/// Spreads neighbouring numbers over all 32 bits, each to a place of its own.
const SPREAD: u32 = 0x9e37_79b1;
/// What the fixed bits are.
const FIXED: u32 = 7;

impl Draw {
    /// The four bytes of the source with this number, as a big-endian number.
    pub(super) fn source(self, number: u32) -> u32 {
        let spread = number.wrapping_mul(SPREAD);
        if self.fixed_bits == 0 { spread } else { spread << self.fixed_bits | FIXED }
    }
}

/// A program that does nothing but say this.
pub(super) fn constant(action: u32) -> io::Result<OwnedFd> {
    load(&[instruction(MOVE_NUMBER, 0, 0, 0, action.cast_signed()), instruction(EXIT, 0, 0, 0, 0)])
}

/// How [`send`] sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sending {
    /// The interface, by its number.
    pub(super) ifindex: u32,
    /// Whether each frame comes from the next port: then 16 bits are counted up at the first offset, and what is missing
    /// to all ones is written to the second, so that a checksum over both stays right.
    pub(super) ports: Option<(i16, i16)>,
    /// Time for each frame: a burst of [`LIVE_BATCH`] goes when it is due, as cards hold back interrupts. 0: at once.
    pub(super) interval_ns: u32,
}

/// A program that sends a frame out of an interface, or lets it be.
pub(super) fn send(sending: Sending) -> io::Result<OwnedFd> {
    let Sending { ifindex, ports, interval_ns } = sending;
    let state = create(BPF_MAP_TYPE_ARRAY, size_of::<[u64; 2]>(), 1, 0)?;
    let mut code = vec![instruction(MOVE_64, 6, 1, 0, 0)];
    if interval_ns != 0 {
        let burst = i32::try_from(LIVE_BATCH).map_err(io::Error::other)?;
        code.extend([
            // The time of the next burst, and what is left of this one.
            instruction(LOAD_MAP, 7, MAP_VALUE, 0, state.as_raw_fd()),
            0,
            instruction(LOAD_64, 8, 7, 8, 0),
            // A burst under way goes on: past the next six.
            instruction(JUMP_UNLESS_ZERO, 8, 0, 6, 0),
            instruction(CALL, 0, 0, 0, KTIME_GET_NS),
            instruction(LOAD_64, 2, 7, 0, 0),
            instruction(JUMP_IF_GREATER, 2, 0, TO_EXIT, 0),
            instruction(ADD_64_NUMBER, 0, 0, 0, interval_ns.saturating_mul(LIVE_BATCH).cast_signed()),
            instruction(STORE_64, 7, 0, 0, 0),
            instruction(MOVE_NUMBER, 8, 0, 0, burst),
            instruction(ADD_64_NUMBER, 8, 0, 0, -1),
            instruction(STORE_64, 7, 8, 8, 0),
        ]);
    }
    if let Some((port_at, balance_at)) = ports {
        code.extend([
            instruction(LOAD_32, 2, 6, 0, 0),
            instruction(LOAD_32, 3, 6, 4, 0),
            instruction(MOVE_64, 4, 2, 0, 0),
            instruction(ADD_64_NUMBER, 4, 0, 0, i32::from(port_at.max(balance_at)) + 2),
            instruction(JUMP_IF_GREATER, 4, 3, TO_EXIT, 0),
            instruction(LOAD_16, 5, 2, port_at, 0),
            instruction(ADD_64_NUMBER, 5, 0, 0, 1),
            instruction(STORE_16, 2, 5, port_at, 0),
            instruction(XOR_64_NUMBER, 5, 0, 0, 0xffff),
            instruction(STORE_16, 2, 5, balance_at, 0),
        ]);
    }
    code.extend([
        instruction(MOVE_NUMBER, 1, 0, 0, ifindex.cast_signed()),
        instruction(MOVE_NUMBER, 2, 0, 0, 0),
        instruction(CALL, 0, 0, 0, REDIRECT),
        instruction(EXIT, 0, 0, 0, 0),
        // What is not sent.
        instruction(MOVE_NUMBER, 0, 0, 0, XDP_DROP.cast_signed()),
        instruction(EXIT, 0, 0, 0, 0),
    ]);
    link(&mut code)?;
    // The program holds the map from now on.
    load(&code)
}

/// Marks a jump to the last two instructions.
const TO_EXIT: i16 = i16::MAX;

/// Fills in how far [`TO_EXIT`] is.
fn link(code: &mut [u64]) -> io::Result<()> {
    let exit = code.len().saturating_sub(2);
    for (at, slot) in code.iter_mut().enumerate() {
        let [operation, registers, ..] = slot.to_le_bytes();
        if operation == JUMP_IF_GREATER && *slot == with_offset(operation, registers, TO_EXIT) {
            let distance = i16::try_from(exit - at - 1).map_err(io::Error::other)?;
            *slot = with_offset(operation, registers, distance);
        }
    }
    Ok(())
}

const fn with_offset(code: u8, registers: u8, offset: i16) -> u64 {
    instruction(code, registers & 0xf, registers >> 4, offset, 0)
}

/// A program that draws a source and goes on to `next`; the random state lies in the frame's source MAC. The array
/// has to live as long as the program is used.
pub(super) fn draw(next: BorrowedFd<'_>, draw: Draw) -> io::Result<Drawing> {
    let array = array_of(next)?;
    let mut code = vec![
        instruction(MOVE_64, 6, 1, 0, 0),
        instruction(LOAD_32, 2, 1, 0, 0),
        instruction(LOAD_32, 3, 1, 4, 0),
        instruction(MOVE_64, 4, 2, 0, 0),
        instruction(ADD_64_NUMBER, 4, 0, 0, i32::from(draw.at) + 4),
        instruction(JUMP_IF_GREATER, 4, 3, TO_EXIT, 0),
        instruction(LOAD_32, 5, 2, 6, 0),
    ];
    // Marsaglia's xorshift, 32 bits.
    for (shift, by) in [(SHIFT_LEFT, 13), (SHIFT_RIGHT, 17), (SHIFT_LEFT, 5)] {
        code.extend([
            instruction(MOVE_32, 0, 5, 0, 0),
            instruction(shift, 0, 0, 0, by),
            instruction(XOR_32, 5, 0, 0, 0),
        ]);
    }
    code.push(instruction(STORE_32, 2, 5, 6, 0));
    if draw.sources != 0 {
        code.push(instruction(MODULO_32, 5, 0, 0, draw.sources.cast_signed()));
    }
    code.push(instruction(MULTIPLY_32, 5, 0, 0, SPREAD.cast_signed()));
    if draw.fixed_bits != 0 {
        code.push(instruction(SHIFT_LEFT, 5, 0, 0, draw.fixed_bits.into()));
        code.push(instruction(OR_32, 5, 0, 0, FIXED.cast_signed()));
    }
    code.extend([
        instruction(TO_BIG_ENDIAN, 5, 0, 0, 32),
        instruction(STORE_32, 2, 5, draw.at, 0),
        instruction(MOVE_64, 1, 6, 0, 0),
        instruction(LOAD_MAP, 2, 1, 0, array.as_raw_fd()),
        0,
        instruction(MOVE_NUMBER, 3, 0, 0, 0),
        instruction(CALL, 0, 0, 0, TAIL_CALL),
        instruction(MOVE_NUMBER, 0, 0, 0, XDP_PASS.cast_signed()),
        instruction(EXIT, 0, 0, 0, 0),
    ]);
    link(&mut code)?;
    Ok(Drawing { program: load(&code)?, _array: array })
}

/// The program made by [`draw`], with what it needs.
pub(super) struct Drawing {
    pub(super) program: OwnedFd,
    _array: OwnedFd,
}

const MOVE_NUMBER: u8 = 0xb7;
const MOVE_64: u8 = 0xbf;
const MOVE_32: u8 = 0xbc;
const ADD_64_NUMBER: u8 = 0x07;
const LOAD_32: u8 = 0x61;
const STORE_32: u8 = 0x63;
const LOAD_16: u8 = 0x69;
const STORE_16: u8 = 0x6b;
const LOAD_64: u8 = 0x79;
const STORE_64: u8 = 0x7b;
const LOAD_MAP: u8 = 0x18;
/// Of [`LOAD_MAP`]: the address of an array's first value.
const MAP_VALUE: u8 = 2;
const SHIFT_LEFT: u8 = 0x64;
const SHIFT_RIGHT: u8 = 0x74;
const XOR_32: u8 = 0xac;
const XOR_64_NUMBER: u8 = 0xa7;
const OR_32: u8 = 0x44;
const MODULO_32: u8 = 0x94;
const MULTIPLY_32: u8 = 0x24;
const TO_BIG_ENDIAN: u8 = 0xdc;
const JUMP_IF_GREATER: u8 = 0x2d;
const JUMP_UNLESS_ZERO: u8 = 0x55;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const TAIL_CALL: i32 = 12;
const REDIRECT: i32 = 23;
const KTIME_GET_NS: i32 = 5;

const fn instruction(code: u8, to: u8, from: u8, offset: i16, number: i32) -> u64 {
    code as u64
        | (to as u64) << 8
        | (from as u64) << 12
        | (offset.cast_unsigned() as u64) << 16
        | (number.cast_unsigned() as u64) << 32
}

fn load(code: &[u64]) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        kind: u32,
        instructions: u32,
        code: u64,
        license: u64,
        log: [u32; 2],
        log_buffer: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        ifindex: u32,
        attach_type: u32,
    }
    let license = c"GPL";
    let mut attributes = Attributes {
        kind: BPF_PROG_TYPE_XDP,
        instructions: u32::try_from(code.len()).map_err(io::Error::other)?,
        code: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        // A program may only go on to another of its own sort.
        flags: BPF_F_XDP_HAS_FRAGS,
        attach_type: BPF_XDP,
        ..Attributes::default()
    };
    descriptor(bpf(BPF_PROG_LOAD, &mut attributes)?)
}

/// An array of programs with one in it.
fn array_of(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let array = create(BPF_MAP_TYPE_PROG_ARRAY, 4, 1, 0)?;
    put(array.as_fd(), program)?;
    Ok(array)
}

/// An array of lines, as a feed's table is.
pub(super) fn table(lines: &[Line]) -> io::Result<OwnedFd> {
    let count = u32::try_from(lines.len()).map_err(io::Error::other)?;
    let table = create(BPF_MAP_TYPE_ARRAY, size_of::<Line>(), count, BPF_F_MMAPABLE)?;
    for (index, line) in (0_u32..).zip(lines).filter(|(_, line)| **line != Line::default()) {
        update(table.as_fd(), index, line)?;
    }
    Ok(table)
}

/// Puts a program or a map first into an array of such.
pub(super) fn put(array: BorrowedFd<'_>, what: BorrowedFd<'_>) -> io::Result<()> {
    update(array, 0, &number(what))
}

fn create(kind: u32, value_bytes: usize, entries_max: u32, flags: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        kind: u32,
        key_bytes: u32,
        value_bytes: u32,
        entries_max: u32,
        flags: u32,
    }
    let value_bytes = u32::try_from(value_bytes).map_err(io::Error::other)?;
    let mut attributes = Attributes { kind, key_bytes: 4, value_bytes, entries_max, flags };
    descriptor(bpf(BPF_MAP_CREATE, &mut attributes)?)
}

fn update<V>(map: BorrowedFd<'_>, key: u32, value: &V) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        map: u32,
        reserved: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let mut attributes = Attributes {
        map: number(map),
        reserved: 0,
        key: &raw const key as u64,
        value: std::ptr::from_ref(value) as u64,
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut attributes).map(drop)
}

fn bpf<A>(command: libc::c_long, attributes: &mut A) -> io::Result<libc::c_long> {
    // SAFETY: the struct is laid out as the kernel's union member of this command, its size is given, and whatever it
    // points to lives in the caller until the call returns.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    let number = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn number(descriptor: BorrowedFd<'_>) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_number_has_a_source_of_its_own() {
        for fixed_bits in [0, 8] {
            let draw = Draw { at: 26, sources: 100_000, fixed_bits };
            let sources: HashSet<u32> = (0..draw.sources).map(|number| draw.source(number)).collect();
            assert_eq!(sources.len(), 100_000);
        }
    }

    #[test]
    fn instructions_are_laid_out_as_the_kernel_reads_them() {
        let bytes = instruction(STORE_32, 2, 5, -2, 7).to_le_bytes();
        assert_eq!(bytes, [0x63, 0x52, 0xfe, 0xff, 7, 0, 0, 0]);
    }
}
