//! What a filter of an earlier version leaves to this one: its blocks, what led to them, and who was blocked how often.
//!
//! Comes in: the directory in which another version has pinned its maps. Goes out: the same entries in this version's
//! maps, and, once this version's program stands behind the links, nothing of the other one. The other's layouts are
//! read byte by byte here and nowhere else; what cannot be read is left, and said.
//!
//! Nothing is lost in between: blocks are copied before the program is swapped, and those that came meanwhile behind
//! it. Only the counts of packets that the old program dropped in the last moment are not taken along.

use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use aya::maps::MapInfo;
use gateway_ebpf::{
    Ban, BanOrigin,
    layout::{Note, NoteKey, Strikes},
};
use ipnet::IpNet;

use super::{
    Bans, NicError,
    maps::Plain,
    prefix::{source4, source6, trie4, trie6},
    sys,
};

/// A directory that is on its way out.
const RETIRED: &str = "-retired";

/// Other versions that are pinned below `pin_dir`, the latest last. What one was about to retire when it was cut short
/// is removed.
pub(super) fn others(pin_dir: &Path, own: &Path) -> Vec<(u32, PathBuf)> {
    let entries = fs::read_dir(pin_dir).into_iter().flatten().flatten();
    let mut others = Vec::new();
    for entry in entries {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = entry.path();
        if name.ends_with(RETIRED) {
            if let Err(error) = remove(&path) {
                log::warn!("{}: {error}", path.display());
            }
        } else if let Some(version) = name.strip_prefix('v').and_then(|number| number.parse().ok())
            && path != own
        {
            others.push((version, path));
        }
    }
    others.sort();
    others
}

/// Copies what the other version knows and this one does not; how many blocks that were.
pub(super) fn inherit(bans: &mut Bans, from: &Path) -> Result<usize, NicError> {
    let mut inherited = 0;
    for (name, prefix_of) in [
        ("BANS4", source_of_key4 as fn(&[u8], u8) -> Option<IpNet>),
        ("BANS6", source_of_key6),
        ("BLOCK4", |key, _| trie4(key)),
        ("BLOCK6", |key, _| trie6(key)),
    ] {
        each(&from.join(name), |key, value| {
            let Some(ban) = ban(value) else { return Ok(Reading::Unknown) };
            // The configuration's own blocks come from the configuration.
            if ban.origin != BanOrigin::Configuration as u8
                && let Some(prefix) = prefix_of(key, ban.prefix_bits)
                && !bans.knows(prefix)?
            {
                bans.write(prefix, ban)?;
                inherited += 1;
            }
            Ok(Reading::Read)
        })?;
    }
    each(&from.join("NOTES"), |key, value| {
        let (Some(key), Some(note)) = (plain::<NoteKey>(key), plain::<Note>(value)) else {
            return Ok(Reading::Unknown);
        };
        bans.policy.notes.insert(Plain(key), Plain(note), 0)?;
        Ok(Reading::Read)
    })?;
    each(&from.join("STRIKES"), |key, value| {
        let (Some(key), Some(strikes)) = (plain::<NoteKey>(key), plain::<Strikes>(value)) else {
            return Ok(Reading::Unknown);
        };
        bans.policy.strikes.insert(Plain(key), Plain(strikes), 0)?;
        Ok(Reading::Read)
    })?;
    Ok(inherited)
}

/// Takes the other version out of sight at once, then away. Links are held by their pins in this version's directory.
pub(super) fn retire(other: &Path) -> Result<(), NicError> {
    let mut name = other.file_name().unwrap_or_default().to_owned();
    name.push(RETIRED);
    let retired = other.with_file_name(name);
    fs::rename(other, &retired)
        .and_then(|()| remove(&retired))
        .map_err(NicError::io(format!("remove {}", other.display())))
}

/// Removes a directory of pins, without detaching anything.
fn remove(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        fs::remove_file(entry?.path())?;
    }
    fs::remove_dir(dir)
}

/// Whether an entry could be read.
#[derive(PartialEq, Eq)]
enum Reading {
    Read,
    Unknown,
}

/// Hands over every entry of a pinned map; a map that is not there has none.
fn each(
    path: &Path,
    mut entry: impl FnMut(&[u8], &[u8]) -> Result<Reading, NicError>,
) -> Result<(), NicError> {
    if !path.exists() {
        return Ok(());
    }
    let describe = || NicError::io(format!("read {}", path.display()));
    let info = MapInfo::from_pin(path)?;
    let map = sys::open_pin(path).map_err(describe())?;
    let (mut key, mut next) = (vec![0; info.key_size() as usize], vec![0; info.key_size() as usize]);
    let mut value = vec![0; info.value_size() as usize];
    let mut has_key = false;
    let mut unknown = 0_usize;
    // Ends also where somebody changes the map meanwhile, which may send the walk back to its beginning.
    for _ in 0..u64::from(info.max_entries()) * 2 {
        let before = has_key.then_some(key.as_slice());
        if !sys::map_next_key(map.as_fd(), before, &mut next).map_err(describe())? {
            break;
        }
        std::mem::swap(&mut key, &mut next);
        has_key = true;
        if sys::map_look_up(map.as_fd(), &key, &mut value).map_err(describe())?
            && entry(&key, &value)? == Reading::Unknown
        {
            unknown += 1;
        }
    }
    if unknown > 0 {
        log::error!("{}: {unknown} entries are of a layout that this version does not know", path.display());
    }
    Ok(())
}

/// A block as this version has it. The sizes tell the layouts apart.
fn ban(value: &[u8]) -> Option<Ban> {
    plain(value).or_else(|| ban_of_version1(value))
}

/// ABI 1: 40 bytes.
fn ban_of_version1(value: &[u8]) -> Option<Ban> {
    const BYTES: usize = 40;
    let number = |at: usize| Some(u64::from_ne_bytes(*value.get(at..)?.first_chunk()?));
    if value.len() != BYTES {
        return None;
    }
    Some(Ban {
        expires_at_ns: number(0)?,
        offence_at_ns: number(8)?,
        first_drop_at_ns: number(16)?,
        drops: number(24)?,
        strikes: u16::from_ne_bytes(*value.get(32..)?.first_chunk()?),
        kind: *value.get(34)?,
        origin: *value.get(35)?,
        prefix_bits: *value.get(36)?,
        ..Ban::default()
    })
}

/// The struct that these bytes are, if they are as many.
fn plain<T>(bytes: &[u8]) -> Option<T>
where
    Plain<T>: aya::Pod,
{
    // SAFETY: as many bytes as the type has, which any bit pattern is a value of: that is what `Pod` promises.
    (bytes.len() == size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

fn source_of_key4(key: &[u8], prefix_bits: u8) -> Option<IpNet> {
    source4(u32::from_ne_bytes(key.try_into().ok()?), prefix_bits)
}

fn source_of_key6(key: &[u8], prefix_bits: u8) -> Option<IpNet> {
    source6(u64::from_ne_bytes(key.try_into().ok()?), prefix_bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_version_1_is_read() {
        let mut value = Vec::new();
        for number in [11_u64, 12, 13, 14] {
            value.extend(number.to_ne_bytes());
        }
        value.extend(3_u16.to_ne_bytes());
        value.extend([4, 1, 24, 0, 0, 0]);
        let expected = Ban {
            expires_at_ns: 11,
            offence_at_ns: 12,
            first_drop_at_ns: 13,
            drops: 14,
            strikes: 3,
            kind: 4,
            origin: 1,
            prefix_bits: 24,
            ..Ban::default()
        };
        assert_eq!(ban_of_version1(&value), Some(expected));
        assert_eq!(ban(&value), Some(expected));
        for bytes in (0..value.len()).chain([48]) {
            value.resize(bytes, 0);
            assert_eq!(ban_of_version1(&value), None, "{bytes} bytes");
        }
    }
}
