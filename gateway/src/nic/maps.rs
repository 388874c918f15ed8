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
    layout::{CpuState, Note, NoteKey, Settings, Strikes},
};

use super::{NicError, classes::Classes};

/// A map's value from the other side of the fence, as aya wants it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Plain<T>(pub(super) T);

// SAFETY: all of these are `repr(C)`, hold only integers and arrays of them, and have no padding; their sizes are
// checked where they are declared.
unsafe impl Pod for Plain<Ban> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Settings> {}
// SAFETY: as above.
unsafe impl Pod for Plain<CpuState> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Note> {}
// SAFETY: as above.
unsafe impl Pod for Plain<NoteKey> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Strikes> {}

pub(super) type Key4 = Key<[u32; 2]>;
pub(super) type Key6 = Key<[u32; 4]>;
pub(super) type Trie4<V> = LpmTrie<MapData, [u32; 2], V>;
pub(super) type Trie6<V> = LpmTrie<MapData, [u32; 4], V>;

/// The maps that carry policy; `bans` and the filter hold one set each.
pub(super) struct Policy {
    pub(super) settings: Array<MapData, Plain<Settings>>,
    pub(super) active: Array<MapData, u32>,
    pub(super) classes: Classes,
    pub(super) allow4: Trie4<u32>,
    pub(super) allow6: Trie6<u32>,
    pub(super) bans4: HashMap<MapData, u32, Plain<Ban>>,
    pub(super) bans6: HashMap<MapData, u64, Plain<Ban>>,
    pub(super) block4: Trie4<Plain<Ban>>,
    pub(super) block6: Trie6<Plain<Ban>>,
    pub(super) notes: HashMap<MapData, Plain<NoteKey>, Plain<Note>>,
    pub(super) strikes: HashMap<MapData, Plain<NoteKey>, Plain<Strikes>>,
}

impl Policy {
    /// `dir` is that of one version.
    pub(super) fn open(dir: &Path) -> Result<Self, NicError> {
        if !dir.join("SETTINGS").exists() {
            return Err(NicError::NotPinned(dir.to_owned()));
        }
        Ok(Self {
            settings: open(dir, "SETTINGS")?,
            active: open(dir, "ACTIVE")?,
            classes: Classes::open(dir)?,
            allow4: open(dir, "ALLOW4")?,
            allow6: open(dir, "ALLOW6")?,
            bans4: open(dir, "BANS4")?,
            bans6: open(dir, "BANS6")?,
            block4: open(dir, "BLOCK4")?,
            block6: open(dir, "BLOCK6")?,
            notes: open(dir, "NOTES")?,
            strikes: open(dir, "STRIKES")?,
        })
    }

    /// The settings that hold now, and the bank that they stand in.
    pub(super) fn settings(&self) -> Result<(Settings, u32), NicError> {
        let bank = self.active.get(&0, 0)? & 1;
        let Plain(settings) = self.settings.get(&bank, 0)?;
        Ok((settings, bank))
    }

    /// Writes the idle bank, then flips: the program sees the old settings or the new ones. Only a packet that was
    /// under way through two flips could see a mixture of them, each value of which has been valid.
    pub(super) fn set_settings(&mut self, settings: Settings) -> Result<(), NicError> {
        let idle = (self.active.get(&0, 0)? & 1) ^ 1;
        self.settings.set(idle, Plain(settings), 0)?;
        self.active.set(0, idle, 0)?;
        Ok(())
    }
}

/// The maps that only the filter's owner uses.
pub(super) struct Runtime {
    pub(super) heartbeat: Array<MapData, u64>,
    pub(super) ports: Array<MapData, u64>,
    pub(super) state: PerCpuArray<MapData, Plain<CpuState>>,
    pub(super) events: RingBuf<MapData>,
    /// Cells that the limiter really has.
    pub(super) cells: u32,
}

impl Runtime {
    /// `dir` is that of one version.
    pub(super) fn open(dir: &Path) -> Result<Self, NicError> {
        let cells: Array<_, [u64; 2]> = open(dir, "CELLS")?;
        Ok(Self {
            heartbeat: open(dir, "HEARTBEAT")?,
            ports: open(dir, "PORTS")?,
            state: open(dir, "STATE")?,
            events: open(dir, "EVENTS")?,
            cells: cells.len(),
        })
    }
}

/// Every map that is pinned.
pub(super) const PINNED: [&str; 19] = [
    "SETTINGS",
    "ACTIVE",
    "HEARTBEAT",
    "PORTS",
    "CLASS24",
    "GUARD6",
    "ALLOW4",
    "ALLOW6",
    "BANS4",
    "BANS6",
    "BLOCK4",
    "BLOCK6",
    "CELLS",
    "STATE",
    "EVENTS",
    "NOTES",
    "FEEDS4",
    "FEEDS6",
    "STRIKES",
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
