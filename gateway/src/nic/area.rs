//! Arrays of cache lines in the kernel that are made, written through memory and handed to the program whole.
//!
//! aya neither maps arrays into memory nor makes maps that are put into another. Source: `include/uapi/linux/bpf.h`.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr::NonNull,
    slice,
};

use gateway_ebpf::feeds::Line;

use super::sys::{BPF_MAP_LOOKUP_ELEM, bpf, descriptor, number};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_MAP_GET_FD_BY_ID: libc::c_long = 14;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// An array of lines.
pub(super) struct Area {
    map: OwnedFd,
    lines: usize,
}

impl Area {
    /// Makes one, all zero.
    pub(super) fn new(name: &str, lines: usize) -> io::Result<Self> {
        #[repr(C)]
        struct Attributes {
            kind: u32,
            key_bytes: u32,
            value_bytes: u32,
            entries: u32,
            flags: u32,
            inner: u32,
            numa_node: u32,
            name: [u8; 16],
        }
        let mut attributes = Attributes {
            kind: BPF_MAP_TYPE_ARRAY,
            key_bytes: 4,
            value_bytes: LINE_BYTES,
            entries: u32::try_from(lines).map_err(io::Error::other)?,
            flags: BPF_F_MMAPABLE,
            inner: 0,
            numa_node: 0,
            name: [0; 16],
        };
        // The last byte stays zero.
        for (to, from) in attributes.name.iter_mut().take(15).zip(name.as_bytes()) {
            *to = *from;
        }
        Ok(Self { map: descriptor(bpf(BPF_MAP_CREATE, &attributes)?)?, lines })
    }

    /// The one that stands in the only place of a map of maps.
    pub(super) fn in_place(outer: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        let (key, mut id) = (0_u32, 0_u32);
        match element(BPF_MAP_LOOKUP_ELEM, outer, &key, Some(&mut id)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        let map = descriptor(bpf(BPF_MAP_GET_FD_BY_ID, &[id, 0, 0])?)?;
        Self::of(map).map(Some)
    }

    /// One that is pinned; `None`: nothing is pinned there.
    pub(super) fn pinned(path: &Path) -> io::Result<Option<Self>> {
        match super::sys::open_pin(path) {
            Ok(map) => Self::of(map).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn of(map: OwnedFd) -> io::Result<Self> {
        /// The beginning of `struct bpf_map_info`.
        #[repr(C)]
        #[derive(Default)]
        struct Info {
            kind: u32,
            id: u32,
            key_bytes: u32,
            value_bytes: u32,
            entries: u32,
            flags: u32,
        }
        #[repr(C)]
        struct Attributes {
            map: u32,
            info_bytes: u32,
            info: u64,
        }
        let mut info = Info::default();
        let attributes = Attributes {
            map: number(map.as_fd()),
            info_bytes: u32::try_from(size_of::<Info>()).map_err(io::Error::other)?,
            info: &raw mut info as u64,
        };
        bpf(BPF_OBJ_GET_INFO_BY_FD, &attributes)?;
        if (info.kind, info.value_bytes) != (BPF_MAP_TYPE_ARRAY, LINE_BYTES)
            || info.flags & BPF_F_MMAPABLE == 0
        {
            return Err(io::Error::other("a map of another kind"));
        }
        Ok(Self { map, lines: info.entries as usize })
    }

    /// Puts it into the only place of a map of maps. Once this returns, no packet looks into the one before, which
    /// goes with its last holder.
    pub(super) fn put(&self, outer: BorrowedFd<'_>) -> io::Result<()> {
        let mut map = number(self.map.as_fd());
        element(BPF_MAP_UPDATE_ELEM, outer, &0, Some(&mut map))
    }

    /// Clears the only place of a map of maps.
    pub(super) fn clear(outer: BorrowedFd<'_>) -> io::Result<()> {
        match element(BPF_MAP_DELETE_ELEM, outer, &0, None) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Pins it in place of what is pinned there: whoever opens the path gets the old one or this.
    pub(super) fn pin(&self, path: &Path) -> io::Result<()> {
        let mut name = path.as_os_str().to_owned();
        name.push("-new");
        let new = Path::new(&name);
        // Left behind by one that was killed in between.
        match std::fs::remove_file(new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        super::sys::pin(self.map.as_fd(), new)?;
        let (from, to) =
            (CString::new(new.as_os_str().as_bytes())?, CString::new(path.as_os_str().as_bytes())?);
        // SAFETY: the kernel only reads the two strings, which live until the call returns.
        if unsafe { libc::rename(from.as_ptr(), to.as_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Its lines, for reading.
    pub(super) fn read(&self) -> io::Result<Mapped> {
        Mapped::new(self.map.as_fd(), self.lines, libc::PROT_READ)
    }

    /// Its lines, for writing: only before anybody else knows it.
    pub(super) fn write(&mut self) -> io::Result<Written> {
        Mapped::new(self.map.as_fd(), self.lines, libc::PROT_READ | libc::PROT_WRITE).map(Written)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a cache line is 64 bytes")]
const LINE_BYTES: u32 = size_of::<Line>() as u32;

/// Lines in memory.
pub(super) struct Mapped {
    start: NonNull<Line>,
    lines: usize,
}

/// Lines in memory that may be written.
pub(super) struct Written(Mapped);

impl Mapped {
    fn new(map: BorrowedFd<'_>, lines: usize, protection: libc::c_int) -> io::Result<Self> {
        let bytes = lines * size_of::<Line>();
        // SAFETY: a new mapping at an address that the kernel chooses; it touches no other memory.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_SHARED, map.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at zero"))?;
        Ok(Self { start, lines })
    }

    pub(super) fn lines(&self) -> &[Line] {
        // SAFETY: the mapping has so many lines until it is dropped, at a page's start. Nobody writes to an area once
        // it is put in place or pinned, and until then there is only the one `Written`.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.lines) }
    }
}

impl Written {
    pub(super) fn lines(&mut self) -> &mut [Line] {
        // SAFETY: as for `Mapped::lines`; `Area::write` is called once, before anybody else knows the area.
        unsafe { slice::from_raw_parts_mut(self.0.start.as_ptr(), self.0.lines) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it outlives this.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.lines * size_of::<Line>()) };
    }
}

fn element(command: libc::c_long, map: BorrowedFd<'_>, key: &u32, value: Option<&mut u32>) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        map: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let attributes = Attributes {
        map: number(map),
        padding: 0,
        key: std::ptr::from_ref(key) as u64,
        value: value.map_or(0, |value| std::ptr::from_mut(value) as u64),
        flags: 0,
    };
    bpf(command, &attributes).map(drop)
}
