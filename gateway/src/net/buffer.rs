//! Buffers that the kernel reads into and writes from, in two fixed classes, recycled per worker.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use monoio::buf::{IoBuf, IoBufMut};

/// Holds a 4 KiB head and a 16 KiB body in one receive: a smaller one costs a second receive per response.
pub const BUFFER_BYTES: usize = 20 * 1024 + HEADROOM_BYTES;
/// For bodies of which much is still to come: fewer, longer operations.
pub const BULK_BUFFER_BYTES: usize = 256 * 1024;
/// Left free in front of what is received, so that a longer head can be written before a body without a copy.
pub const HEADROOM_BYTES: usize = 1024;

/// Free buffers kept per worker and class; more are given back to the allocator.
const FREE_MAX: usize = 1024;
const BULK_FREE_MAX: usize = 64;

/// A fixed block of memory of which `start..end` holds data. Receiving appends, consuming takes from the front.
pub struct Buffer {
    block: Box<[u8]>,
    start: usize,
    end: usize,
    /// Where it is counted while it is in use; a free one, and one of no size, is not.
    counted: Option<Rc<Cell<usize>>>,
}

impl Buffer {
    fn with_capacity(bytes: usize) -> Self {
        let block = vec![0; bytes].into_boxed_slice();
        Self { block, start: HEADROOM_BYTES, end: HEADROOM_BYTES, counted: None }
    }

    /// A buffer of no size: what stays behind while the real one is with the kernel.
    pub fn placeholder() -> Self {
        Self { block: Box::default(), start: 0, end: 0, counted: None }
    }

    /// What was received and not yet consumed.
    pub fn data(&self) -> &[u8] {
        self.block.get(self.start..self.end).unwrap_or_default()
    }

    /// Whether it is of the larger class.
    pub fn is_bulk(&self) -> bool {
        self.block.len() == BULK_BUFFER_BYTES
    }

    /// Bytes that still fit behind the data.
    pub fn free_bytes(&self) -> usize {
        self.block.len() - self.end
    }

    /// Takes `count` bytes (at most all) from the front.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.start == self.end {
            self.clear();
        }
    }

    /// Keeps only the first `count` bytes of the data.
    pub fn truncate(&mut self, count: usize) {
        self.end = self.end.min(self.start + count);
    }

    /// Empties it and restores the headroom.
    pub fn clear(&mut self) {
        self.start = HEADROOM_BYTES.min(self.block.len());
        self.end = self.start;
    }

    /// Moves the data to the front of the block, so that as much as possible fits behind it.
    pub fn compact(&mut self) {
        self.block.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
    }

    /// Writes `bytes` in front of the data; false, and nothing written, where the room is too small.
    pub fn prepend(&mut self, bytes: &[u8]) -> bool {
        let Some(start) = self.start.checked_sub(bytes.len()) else { return false };
        let Some(room) = self.block.get_mut(start..self.start) else { return false };
        room.copy_from_slice(bytes);
        self.start = start;
        true
    }

    /// Copies as much of `bytes` as fits behind the data and returns how much that was.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.free_bytes());
        if let (Some(room), Some(bytes)) =
            (self.block.get_mut(self.end..self.end + count), bytes.get(..count))
        {
            room.copy_from_slice(bytes);
        }
        self.end += count;
        count
    }

    /// The room behind the data, to be filled in place; [`Buffer::filled`] then says how much was.
    pub fn room(&mut self) -> &mut [u8] {
        self.block.get_mut(self.end..).unwrap_or_default()
    }

    /// Counts `count` bytes of the room as data.
    pub fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.block.len());
    }
}

/// However a buffer in use ends, it is no longer one.
impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(counted) = self.counted.take() {
            counted.set(counted.get() - self.block.len());
        }
    }
}

// SAFETY: the block is boxed, so its address stays while the `Buffer` moves; `start..end` is within it and was
// initialised when the block was made.
unsafe impl IoBuf for Buffer {
    fn read_ptr(&self) -> *const u8 {
        self.data().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.end - self.start
    }
}

// SAFETY: as above; the kernel writes behind `end` only, into memory that is initialised already.
unsafe impl IoBufMut for Buffer {
    fn write_ptr(&mut self) -> *mut u8 {
        self.room().as_mut_ptr()
    }

    fn bytes_total(&mut self) -> usize {
        self.free_bytes()
    }

    unsafe fn set_init(&mut self, count: usize) {
        self.filled(count);
    }
}

/// A worker's free buffers, and how much of its memory those in use take.
pub struct Buffers {
    free: RefCell<Vec<Buffer>>,
    bulk_free: RefCell<Vec<Buffer>>,
    used_bytes: Rc<Cell<usize>>,
    used_bytes_max: usize,
}

impl Default for Buffers {
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl Buffers {
    /// None yet. With more than `used_bytes_max` in use, they [are short](Self::are_short).
    pub fn new(used_bytes_max: usize) -> Self {
        Self {
            free: RefCell::default(),
            bulk_free: RefCell::default(),
            used_bytes: Rc::default(),
            used_bytes_max,
        }
    }

    /// So much is in use that nothing new should be begun.
    pub fn are_short(&self) -> bool {
        self.used_bytes.get() > self.used_bytes_max
    }

    /// An empty buffer of [`BUFFER_BYTES`].
    pub fn take(&self) -> Buffer {
        let free = self.free.borrow_mut().pop();
        self.lend(free.unwrap_or_else(|| Buffer::with_capacity(BUFFER_BYTES)))
    }

    /// An empty buffer of [`BULK_BUFFER_BYTES`].
    pub fn take_bulk(&self) -> Buffer {
        let free = self.bulk_free.borrow_mut().pop();
        self.lend(free.unwrap_or_else(|| Buffer::with_capacity(BULK_BUFFER_BYTES)))
    }

    fn lend(&self, mut buffer: Buffer) -> Buffer {
        self.used_bytes.set(self.used_bytes.get() + buffer.block.len());
        buffer.counted = Some(Rc::clone(&self.used_bytes));
        buffer
    }

    /// Returns a buffer of either class.
    pub fn give(&self, mut buffer: Buffer) {
        buffer.clear();
        if let Some(counted) = buffer.counted.take() {
            counted.set(counted.get() - buffer.block.len());
        }
        let (list, max) = match buffer.block.len() {
            BUFFER_BYTES => (&self.free, FREE_MAX),
            BULK_BUFFER_BYTES => (&self.bulk_free, BULK_FREE_MAX),
            _ => return,
        };
        let mut list = list.borrow_mut();
        if list.len() < max {
            list.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_appended_consumed_and_preceded_by_a_head() {
        let mut buffer = Buffer::with_capacity(HEADROOM_BYTES + 8);
        assert_eq!(buffer.append(b"0123456789"), 8, "what does not fit is left");
        buffer.consume(3);
        assert_eq!(buffer.data(), b"34567");
        assert!(buffer.prepend(b"head "));
        assert_eq!(buffer.data(), b"head 34567");
        buffer.consume(5);
        assert!(!buffer.prepend(&[0; HEADROOM_BYTES + 8]), "a head without room is refused");
        buffer.compact();
        assert_eq!((buffer.data(), buffer.free_bytes()), (&b"34567"[..], HEADROOM_BYTES + 3));
        buffer.truncate(2);
        buffer.consume(99);
        assert_eq!(buffer.data(), b"");
        assert_eq!(buffer.free_bytes(), 8, "an empty buffer has its headroom back");
    }

    #[test]
    fn classes_are_told_apart() {
        let buffers = Buffers::default();
        assert_eq!((buffers.take().is_bulk(), buffers.take_bulk().is_bulk()), (false, true));
    }

    #[test]
    fn what_is_in_use_is_counted_however_it_ends() {
        let buffers = Buffers::new(BULK_BUFFER_BYTES);
        let bulk = buffers.take_bulk();
        assert!(!buffers.are_short(), "just as much as may be");
        let small = buffers.take();
        assert!(buffers.are_short());
        buffers.give(small);
        assert!(!buffers.are_short());
        let small = buffers.take();
        assert!(buffers.are_short());
        drop(small);
        assert!(!buffers.are_short());
        drop(bulk);
        assert_eq!(buffers.used_bytes.get(), 0);
    }

    #[test]
    fn a_returned_buffer_comes_back_empty() {
        let buffers = Buffers::default();
        let mut bulk = buffers.take_bulk();
        bulk.append(b"secret");
        buffers.give(bulk);
        assert_eq!(buffers.take_bulk().data(), b"");
        buffers.give(Buffer::placeholder());
        assert_eq!(buffers.take().free_bytes(), BUFFER_BYTES - HEADROOM_BYTES, "a placeholder is not kept");
    }
}
