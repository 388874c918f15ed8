//! Every entry of a map, thousands of them at a system call.
//!
//! Comes in: a map. Goes out: its entries, in no order. A kernel that does not know how to read a map of that kind so is
//! asked for one entry after the other, as aya does it, at two system calls each.

use std::{
    cell::Cell,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd},
};

use aya::{
    Pod,
    maps::{IterableMap, MapError},
};

use super::{NicError, sys};

const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
/// Entries that are asked for at once. A bucket of a hash is given whole or not at all, and none holds so many.
const ENTRIES_MAX: usize = 4_096;
/// Where the kernel stands between two calls: a number, or the last key.
const POSITION_WORDS: usize = 4;
/// What a kernel calls a command that it has not for a map of this kind (`include/linux/errno.h`).
const ENOTSUPP: i32 = 524;

/// Shows every entry that is there throughout; what comes or goes meanwhile may be among them.
pub(super) fn each<K, V, M>(map: &M, mut show: impl FnMut(K, V)) -> Result<(), NicError>
where
    K: Pod,
    V: Pod,
    M: IterableMap<K, V>,
    for<'m> &'m M: IntoIterator<Item = Result<(K, V), MapError>>,
{
    match batches(map.map().fd().as_fd(), &mut show) {
        Ok(true) => Ok(()),
        Ok(false) => {
            for entry in map {
                let (key, value) = entry?;
                show(key, value);
            }
            Ok(())
        }
        Err(error) => Err(NicError::io("read a map")(error)),
    }
}

/// False: this kernel can't, and nothing was shown.
fn batches<K: Pod, V: Pod>(map: BorrowedFd<'_>, show: &mut impl FnMut(K, V)) -> io::Result<bool> {
    let mut keys = vec![MaybeUninit::<K>::uninit(); ENTRIES_MAX];
    let mut values = vec![MaybeUninit::<V>::uninit(); ENTRIES_MAX];
    let mut positions = [[0_u64; POSITION_WORDS]; 2];
    let mut is_first = true;
    loop {
        let [before, behind] = &mut positions;
        let attributes = Attributes {
            before: if is_first { 0 } else { before.as_ptr() as u64 },
            behind: behind.as_mut_ptr() as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: Cell::new(u32::try_from(ENTRIES_MAX).unwrap_or(0)),
            map: sys::number(map),
            element_flags: 0,
            flags: 0,
        };
        let is_last = match sys::bpf(BPF_MAP_LOOKUP_BATCH, &attributes) {
            Ok(_) => false,
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT) => true,
                Some(libc::EINVAL | ENOTSUPP) if is_first => return Ok(false),
                _ => return Err(error),
            },
        };
        let count = usize::try_from(attributes.count.get()).unwrap_or(0).min(ENTRIES_MAX);
        for (key, value) in keys.iter().zip(&values).take(count) {
            // SAFETY: the kernel has written so many keys and values, and every pattern of bits is one of either.
            unsafe { show(key.assume_init(), value.assume_init()) };
        }
        if is_last {
            return Ok(true);
        }
        positions.swap(0, 1);
        is_first = false;
    }
}

/// The kernel's member of `union bpf_attr`; it writes `count`.
#[repr(C)]
struct Attributes {
    before: u64,
    behind: u64,
    keys: u64,
    values: u64,
    count: Cell<u32>,
    map: u32,
    element_flags: u64,
    flags: u64,
}
