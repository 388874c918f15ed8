//! The filter's maps as typed handles, opened from their pins.
//!
//! Comes in: the directory of pins. Goes out: handles that any number of processes may hold at once: the gateway's
//! control thread, `portcullis bans`, the tests. Nothing here decides anything.

use std::path::{Path, PathBuf};

use aya::{
    Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, RingBuf, lpm_trie::Key},
};
use gateway_ebpf::{
    ABI, Ban,
    bucket::LINE_CELLS,
    layout::{Cell, CpuState, Note, NoteKey, Strikes},
};

use super::{NicError, classes::Classes, front::Front, orders::Orders};

/// A map's value from the other side of the fence, as aya wants it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Plain<T>(pub(super) T);

// SAFETY: all of these are `repr(C)`, hold only integers and arrays of them, and have no padding; their sizes are
// checked where they are declared.
unsafe impl Pod for Plain<Ban> {}
// SAFETY: as above.
unsafe impl Pod for Plain<CpuState> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Note> {}
// SAFETY: as above.
unsafe impl Pod for Plain<NoteKey> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Strikes> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Cell> {}
// SAFETY: as above.
unsafe impl Pod for Plain<[Cell; LINE_CELLS as usize]> {}

pub(super) type Key4 = Key<[u32; 2]>;
pub(super) type Key6 = Key<[u32; 4]>;
pub(super) type Trie4<V> = LpmTrie<MapData, [u32; 2], V>;
pub(super) type Trie6<V> = LpmTrie<MapData, [u32; 4], V>;

/// The maps that carry policy; `bans` and the filter hold one set each.
pub(super) struct Policy {
    pub(super) orders: Orders,
    pub(super) classes: Classes,
    pub(super) front: Front,
    pub(super) allow4: Trie4<u32>,
    pub(super) allow6: Trie6<u32>,
    pub(super) bans4: HashMap<MapData, u32, Plain<Ban>>,
    pub(super) bans6: HashMap<MapData, u64, Plain<Ban>>,
    pub(super) block4: Trie4<Plain<Ban>>,
    pub(super) block6: Trie6<Plain<Ban>>,
    pub(super) notes: HashMap<MapData, Plain<NoteKey>, Plain<Note>>,
    pub(super) strikes: HashMap<MapData, Plain<NoteKey>, Plain<Strikes>>,
    pub(super) known: HashMap<MapData, u64, Plain<Cell>>,
}

impl Policy {
    /// `dir` is that of one version.
    pub(super) fn open(dir: &Path) -> Result<Self, NicError> {
        if !dir.join("ORDERS").exists() {
            return Err(NicError::NotPinned(dir.to_owned()));
        }
        Ok(Self {
            orders: Orders::open(dir)?,
            classes: Classes::open(dir)?,
            front: Front::open(dir)?,
            allow4: open(dir, "ALLOW4")?,
            allow6: open(dir, "ALLOW6")?,
            bans4: open(dir, "BANS4")?,
            bans6: open(dir, "BANS6")?,
            block4: open(dir, "BLOCK4")?,
            block6: open(dir, "BLOCK6")?,
            notes: open(dir, "NOTES")?,
            strikes: open(dir, "STRIKES")?,
            known: open(dir, "KNOWN")?,
        })
    }
}

/// The maps that only the filter's owner uses.
pub(super) struct Runtime {
    pub(super) state: PerCpuArray<MapData, Plain<CpuState>>,
    pub(super) events: RingBuf<MapData>,
    /// Cells that the limiter really has.
    pub(super) cells: u32,
}

impl Runtime {
    /// `dir` is that of one version.
    pub(super) fn open(dir: &Path) -> Result<Self, NicError> {
        let lines: Array<_, Plain<[Cell; LINE_CELLS as usize]>> = open(dir, "CELLS")?;
        Ok(Self {
            state: open(dir, "STATE")?,
            events: open(dir, "EVENTS")?,
            cells: lines.len().saturating_mul(LINE_CELLS),
        })
    }
}

/// Every map that is pinned.
pub(super) const PINNED: [&str; 19] = [
    "ORDERS", "CLASS24", "GUARD6", "FRONT4", "FRONT6", "ALLOW4", "ALLOW6", "BANS4", "BANS6", "BLOCK4",
    "BLOCK6", "CELLS", "STATE", "EVENTS", "NOTES", "FEEDS4", "FEEDS6", "STRIKES", "KNOWN",
];

/// Where this version's maps and links are pinned.
pub(super) fn versioned(pin_dir: &Path) -> PathBuf {
    of_version(pin_dir, ABI)
}

/// Where those of another one are.
pub(super) fn of_version(pin_dir: &Path, version: u32) -> PathBuf {
    pin_dir.join(format!("v{version}"))
}

fn open<M: TryFrom<Map, Error = MapError>>(dir: &Path, name: &str) -> Result<M, NicError> {
    Ok(Map::from_map_data(MapData::from_pin(dir.join(name))?)?.try_into()?)
}
