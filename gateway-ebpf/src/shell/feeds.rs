//! The feeds' tables in the kernel: one map of maps per family, with room for one table.
//!
//! User space fills a table that nobody sees yet and puts it in; the kernel keeps the one before until the last packet
//! that looks into it is done. No table: nothing is listed. The tables' sizes are fixed, so that a look-up is a bounds
//! check and an addition instead of a call.

use core::{ffi::c_void, marker::PhantomData, ptr};

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, ArrayOfMaps},
    helpers::bpf_map_lookup_elem,
    macros::btf_map,
};
use gateway_ebpf::feeds::{self, LINES4, LINES6, Line, Lines};

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

/// The table of IPv4.
#[btf_map]
static FEEDS4: ArrayOfMaps<Array<Line, LINES4, MMAPABLE>, 1> = ArrayOfMaps::new();
/// The table of IPv6.
#[btf_map]
static FEEDS6: ArrayOfMaps<Array<Line, LINES6, MMAPABLE>, 1> = ArrayOfMaps::new();

#[inline(always)]
pub(super) fn listed4(source: u32) -> bool {
    feed_lists4(source) != 0
}

#[inline(always)]
pub(super) fn listed6(upper: u64, lower: u64) -> bool {
    feed_lists6(upper, lower) != 0
}

/// Global functions, which the verifier walks once, whatever its callers know, instead of once for each way to them.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn feed_lists4(source: u32) -> u32 {
    match Table::of(&FEEDS4) {
        Some(table) => feeds::listed4(&table, source).into(),
        None => 0,
    }
}

/// As [`feed_lists4`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn feed_lists6(upper: u64, lower: u64) -> u32 {
    match Table::of(&FEEDS6) {
        Some(table) => feeds::listed6(&table, upper, lower).into(),
        None => 0,
    }
}

/// The table that holds while this packet is judged.
struct Table<'p> {
    map: *mut c_void,
    packet: PhantomData<&'p ()>,
}

impl Table<'_> {
    #[inline(always)]
    fn of<M>(tables: &'static M) -> Option<Self> {
        let first = 0_u32;
        let tables = ptr::from_ref(tables).cast_mut().cast::<c_void>();
        // SAFETY: the loader has put the map's address here; what is found is a map that the kernel keeps at least
        // until the program ends.
        let map = unsafe { bpf_map_lookup_elem(tables, ptr::from_ref(&first).cast()) };
        if map.is_null() { None } else { Some(Self { map, packet: PhantomData }) }
    }
}

impl Lines for Table<'_> {
    #[inline(always)]
    fn line(&self, index: u32) -> Option<&Line> {
        // SAFETY: the map is an array of lines, which nobody writes to once it is here.
        unsafe { bpf_map_lookup_elem(self.map, ptr::from_ref(&index).cast()).cast::<Line>().as_ref() }
    }
}
