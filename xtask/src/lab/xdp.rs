//! Programs on interfaces, and the least XDP program there is: it passes every frame.
//!
//! Comes in: an interface of the caller's namespace. Goes out: a program attached to it for as long as the guard
//! lives. Loading the least shows whether this process may load any; attached to one end of a veth pair it lets that
//! end take the frames that a program on the other end sends back (`drivers/net/veth.c`). bpf(2).

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;

/// Loads it.
pub(super) fn pass() -> io::Result<OwnedFd> {
    /// The start of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes what is left out as zero.
    #[repr(C)]
    #[derive(Default)]
    struct ProgramLoad {
        program_type: u32,
        instructions_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buffer: u64,
        kernel_version: u32,
        program_flags: u32,
    }
    /// `r0 = XDP_PASS; exit`, as `struct bpf_insn` of a little-endian machine.
    static PASS: [u64; 2] = [0xb7 | (2 << 32), 0x95];

    bpf(
        BPF_PROG_LOAD,
        &ProgramLoad {
            program_type: BPF_PROG_TYPE_XDP,
            instructions_count: 2,
            instructions: PASS.as_ptr() as u64,
            license: c"MIT".as_ptr() as u64,
            ..ProgramLoad::default()
        },
    )
}

/// Attaches a program to an interface of the caller's namespace; it is detached when the link is dropped.
pub fn attach(interface: &str, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct LinkCreate {
        program: i32,
        ifindex: u32,
        kind: u32,
        flags: u32,
    }
    let ifindex = ifindex(interface)?;
    bpf(BPF_LINK_CREATE, &LinkCreate { program: program.as_raw_fd(), ifindex, kind: BPF_XDP, flags: 0 })
}

/// The number of an interface of the caller's namespace.
pub fn ifindex(interface: &str) -> io::Result<u32> {
    let name = CString::new(interface)?;
    // SAFETY: the kernel only reads the string, which lives until the call returns.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        ifindex => Ok(ifindex),
    }
}

/// A command that gives back a descriptor.
fn bpf<A>(command: libc::c_long, attributes: &A) -> io::Result<OwnedFd> {
    // SAFETY: the struct is laid out as the kernel's union member of this command, its size is given, and whatever it
    // points to lives in the caller until the call returns.
    let descriptor =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<A>()) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given us this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
