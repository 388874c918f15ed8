//! The few `bpf(2)` commands on links, by hand, and arrays that are mapped into memory.
//!
//! aya can do them too, but on `EINVAL` it attaches by netlink instead, which cannot be pinned and would end with the
//! process; and it tells neither the interface of a link nor the error number. Source: `include/uapi/linux/bpf.h`.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr::NonNull,
    sync::atomic::AtomicU64,
    time::Duration,
};

pub(super) const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;
const BPF_XDP: u32 = 37;
const BPF_PROG_TYPE_XDP: u32 = 6;

/// `XDP_FLAGS_SKB_MODE`
pub(super) const GENERIC: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE`
pub(super) const NATIVE: u32 = 1 << 2;

/// Loads a program that passes everything.
pub(super) fn load_pass() -> io::Result<OwnedFd> {
    /// The start of the kernel's struct; what is left out counts as zero.
    #[repr(C)]
    struct Attributes {
        kind: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
    }
    /// `r0 = XDP_PASS; exit`, two of `struct bpf_insn`.
    static PASS: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    let attributes = Attributes {
        kind: BPF_PROG_TYPE_XDP,
        instruction_count: 2,
        instructions: PASS.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    descriptor(bpf(BPF_PROG_LOAD, &attributes)?)
}

/// Attaches `program` to an interface; the link ends with the last descriptor or pin of it.
pub(super) fn link_create(program: BorrowedFd<'_>, ifindex: u32, mode: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        program: u32,
        ifindex: u32,
        kind: u32,
        flags: u32,
    }
    let program = number(program);
    descriptor(bpf(BPF_LINK_CREATE, &Attributes { program, ifindex, kind: BPF_XDP, flags: mode })?)
}

/// Puts another program behind a link; no packet goes unfiltered in between.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        link: u32,
        program: u32,
        flags: u32,
        old_program: u32,
    }
    let (link, program) = (number(link), number(program));
    bpf(BPF_LINK_UPDATE, &Attributes { link, program, flags: 0, old_program: 0 }).map(drop)
}

/// Detaches a link at once. Dropping its last reference does it as well, but some time later.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(BPF_LINK_DETACH, &number(link)).map(drop)
}

/// The key behind `before`, or the first one; false: there is none.
pub(super) fn map_next_key(map: BorrowedFd<'_>, before: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
    let before = before.map_or(0, |key| key.as_ptr() as u64);
    let attributes = ElementAttributes::new(map, before, next.as_mut_ptr() as u64);
    found(bpf(BPF_MAP_GET_NEXT_KEY, &attributes))
}

/// Reads a value; false: there is none of this key.
pub(super) fn map_look_up(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let attributes = ElementAttributes::new(map, key.as_ptr() as u64, value.as_mut_ptr() as u64);
    found(bpf(BPF_MAP_LOOKUP_ELEM, &attributes))
}

/// The caller's slices are as long as the map's keys and values.
#[repr(C)]
struct ElementAttributes {
    map: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl ElementAttributes {
    fn new(map: BorrowedFd<'_>, key: u64, value: u64) -> Self {
        Self { map: number(map), reserved: 0, key, value, flags: 0 }
    }
}

fn found(answer: io::Result<libc::c_long>) -> io::Result<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Pins a descriptor of a program, map or link.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    bpf(BPF_OBJ_PIN, &PathAttributes::new(&path, number(object))).map(drop)
}

/// Opens a pin.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    descriptor(bpf(BPF_OBJ_GET, &PathAttributes::new(&path, 0))?)
}

#[repr(C)]
struct PathAttributes {
    path: u64,
    object: u32,
    flags: u32,
}

impl PathAttributes {
    fn new(path: &CString, object: u32) -> Self {
        Self { path: path.as_ptr() as u64, object, flags: 0 }
    }
}

/// Words of an array map, shared with the program and with other processes.
pub(super) struct Words {
    first: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and its words are atomic.
unsafe impl Send for Words {}

impl Words {
    /// Maps the first `count` values of an array of 64-bit words that is made with `BPF_F_MMAPABLE`.
    pub(super) fn of_map(map: &OwnedFd, count: usize) -> io::Result<Self> {
        Self::map(map.as_raw_fd(), libc::MAP_SHARED, count)
    }

    /// Words of our own, for tests.
    #[cfg(test)]
    pub(super) fn anonymous(count: usize) -> io::Result<Self> {
        Self::map(-1, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, count)
    }

    fn map(descriptor: i32, flags: i32, count: usize) -> io::Result<Self> {
        let bytes = count * size_of::<AtomicU64>();
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping wherever the kernel finds room; the descriptor may be closed afterwards.
        let first = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, flags, descriptor, 0) };
        if first == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let first = NonNull::new(first.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { first, count })
    }

    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping holds so many words, is aligned to a page, and ends with `self`; every access to it in
        // this process is atomic.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: made by `map` with this length; no reference into it outlives `self`.
        unsafe { libc::munmap(self.first.as_ptr().cast(), self.count * size_of::<AtomicU64>()) };
    }
}

/// The interface that a link is attached to; `None`: it has gone away.
pub(super) fn link_ifindex(link: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd()))?;
    let ifindex = text.lines().find_map(|line| line.strip_prefix("ifindex:")).map(str::trim);
    Ok(ifindex.and_then(|number| number.parse().ok()).filter(|ifindex| *ifindex != 0))
}

/// The index of the interface of this name.
pub(super) fn ifindex(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the kernel only reads the string, which lives until the call returns.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

/// The largest packet that an interface takes.
pub(super) fn mtu_bytes(interface: &str) -> Option<u32> {
    // SAFETY: `ifreq` is plain data, for which zero is a value of every field.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero, and ends the name.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().take(room).zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    // SAFETY: a new descriptor or an error; nothing else is touched.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return None;
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: the kernel reads the name and writes the number, both within the struct.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) } != 0 {
        return None;
    }
    // SAFETY: the call has succeeded, so this is the member that the kernel has written.
    u32::try_from(unsafe { request.ifr_ifru.ifru_mtu }).ok()
}

/// A duration in nanoseconds, or the most there can be.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// `CLOCK_MONOTONIC`, the filter's own clock.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes the struct behind the pointer and keeps nothing.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// Kernels before 5.11 charge maps to this limit; later ones ignore it, and so does who may not raise it.
pub(super) fn raise_memlock() {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the kernel only reads the struct.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) } != 0 {
        log::debug!("RLIMIT_MEMLOCK stays as it is: {}", io::Error::last_os_error());
    }
}

pub(super) fn bpf<A>(command: libc::c_long, attributes: &A) -> io::Result<libc::c_long> {
    // SAFETY: the struct is laid out as the kernel's union member of this command, its size is given, and whatever it
    // points to lives in the caller until the call returns.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub(super) fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    let number = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

pub(super) fn number(descriptor: BorrowedFd<'_>) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}
