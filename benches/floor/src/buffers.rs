//! Buffers that the kernel takes from by itself (a provided buffer ring, io_uring_setup_buf_ring(3)).
//!
//! The kernel owns a buffer from [`Buffers::give_back`] until a completion names it; then it is ours until it is given
//! back. Given back are many at once: the tail is published once per turn of the loop.

use std::{
    alloc::{self, Layout},
    io,
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::{IoUring, types::BufRingEntry};

/// A power of two.
const BUFFERS: u16 = 1024;
/// Head and body of the largest message at once.
const BUFFER_BYTES: u32 = 20 * 1024;
const PAGE_BYTES: usize = 4096;

/// The group that receives name.
pub(crate) const GROUP: u16 = 1;

pub(crate) struct Buffers {
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    tail: u16,
}

impl Buffers {
    /// Registers them with the ring. They are never freed: the process ends with the ring.
    pub(crate) fn register(ring: &IoUring) -> io::Result<Self> {
        let entries = allocate(usize::from(BUFFERS) * size_of::<BufRingEntry>())?;
        let memory = allocate(usize::from(BUFFERS) * BUFFER_BYTES as usize)?;
        // SAFETY: the entries are page-aligned, as many as we say, zeroed, and live as long as the process.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries.as_ptr() as u64, BUFFERS, GROUP, 0)? };
        let mut buffers = Self { entries: entries.cast(), memory, tail: 0 };
        (0..BUFFERS).for_each(|id| buffers.give_back(id));
        buffers.publish();
        Ok(buffers)
    }

    /// The bytes that a completion has put into buffer `id`.
    pub(crate) fn bytes(&self, id: u16, length: usize) -> &[u8] {
        assert!(id < BUFFERS && length <= BUFFER_BYTES as usize, "the kernel names what it was given");
        // SAFETY: within the allocation by the assertion; the kernel has initialised that many bytes and does not
        // touch them until the buffer is given back, which needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.at(id), length) }
    }

    /// Lets the kernel have buffer `id` again, once it is published.
    pub(crate) fn give_back(&mut self, id: u16) {
        let index = usize::from(self.tail & (BUFFERS - 1));
        // SAFETY: the index is below the number of entries, and the kernel reads none beyond the published tail.
        let entry = unsafe { &mut *self.entries.as_ptr().add(index) };
        entry.set_addr(self.at(id) as u64);
        entry.set_len(BUFFER_BYTES);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel what was given back.
    pub(crate) fn publish(&mut self) {
        // SAFETY: the tail lies within the first entry, is aligned, and is shared with the kernel as an atomic.
        let tail = unsafe { &*BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    fn at(&self, id: u16) -> *mut u8 {
        // SAFETY: `id` is below the number of buffers wherever this is called.
        unsafe { self.memory.as_ptr().add(usize::from(id) * BUFFER_BYTES as usize) }
    }
}

fn allocate(bytes: usize) -> io::Result<NonNull<u8>> {
    let layout = Layout::from_size_align(bytes, PAGE_BYTES).map_err(io::Error::other)?;
    // SAFETY: the layout has a size above zero.
    NonNull::new(unsafe { alloc::alloc_zeroed(layout) }).ok_or(io::ErrorKind::OutOfMemory.into())
}
