//! Block lists that others keep, in the kernel: what the program looks up, and who listed it.
//!
//! Comes in: lists of ranges, and what must not be blocked. Goes out: a table per family, filled while the program
//! still looks into the one before and then swapped in as one pointer; and a catalogue for `bans why` and for the
//! next start. Both are pinned like everything else. A family takes 21.3 MiB (IPv4) or 52.5 MiB (IPv6) of kernel memory
//! while anything of it is listed, twice that while it is swapped, and the catalogue 8 or 32 bytes per range. Calls
//! take up to a second: never on the control loop, never on a worker.

mod catalogue;
mod ranges;

use std::{
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use gateway_ebpf::{
    feeds::{LINES4, LINES6, Line, fill, listed4, listed6},
    layout::{LISTED4, LISTED6},
};
use ipnet::IpNet;

use super::{NicError, area::Area, maps::versioned, orders::Orders, sys};
pub use ranges::Ranges;

/// The longest name of a feed.
pub const NAME_BYTES_MAX: usize = 64;

/// The catalogue's pin.
const CATALOGUE: &str = "FEEDLISTS";

/// What one feed lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Its number, which a [`gateway_ebpf::Ban`] of this feed carries; not zero.
    pub number: u8,
    /// When it was last taken, seconds since the epoch.
    pub taken_at_unix_s: u64,
    /// What it lists; nothing, where its entries are blocks with an end of their own.
    pub ranges: Arc<Ranges>,
}

/// A feed that lists an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The feed's name.
    pub feed: Arc<str>,
    /// The prefix around the address.
    pub prefix: IpNet,
}

/// How a swap went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Published {
    /// Ranges of IPv4 and IPv6 that the program looks up.
    pub ranges: (usize, usize),
    /// Merging the lists.
    pub merge: Duration,
    /// Making and filling tables beside the living ones.
    pub fill: Duration,
    /// Putting them in place; until then, and for no packet longer, the old ones hold.
    pub swap: Duration,
    /// Writing down who listed what.
    pub catalogue: Duration,
}

/// A handle on the feeds' tables.
pub struct Feeds {
    dir: PathBuf,
    tables4: OwnedFd,
    tables6: OwnedFd,
    orders: Orders,
}

impl Feeds {
    /// Opens what a gateway has pinned.
    pub fn open_pinned(pin_dir: &Path) -> Result<Self, NicError> {
        Self::open_in(&versioned(pin_dir)).map_err(|error| match error {
            NicError::NotPinned(_) => NicError::NotPinned(pin_dir.to_owned()),
            error => error,
        })
    }

    /// Opens what is pinned in this very directory.
    pub(super) fn open_in(dir: &Path) -> Result<Self, NicError> {
        let open = |name: &str| {
            let path = dir.join(name);
            sys::open_pin(&path).map_err(NicError::io(format!("open {}", path.display())))
        };
        if !dir.join("FEEDS4").exists() {
            return Err(NicError::NotPinned(dir.to_owned()));
        }
        Ok(Self {
            tables4: open("FEEDS4")?,
            tables6: open("FEEDS6")?,
            orders: Orders::open(dir)?,
            dir: dir.to_owned(),
        })
    }

    /// What was published last, by whichever process.
    pub fn lists(&self) -> Result<Vec<List>, NicError> {
        Ok(self.unpack(catalogue::unpack)?.unwrap_or_default())
    }

    /// The feeds' numbers and names, without what they list.
    pub fn names(&self) -> Result<Vec<(u8, Arc<str>)>, NicError> {
        Ok(self.unpack(catalogue::names)?.unwrap_or_default())
    }

    /// The feeds that list this address, whether or not it is protected.
    pub fn listings(&self, address: IpAddr) -> Result<Vec<Listing>, NicError> {
        Ok(self.unpack(|lines| catalogue::listings(lines, address))?.unwrap_or_default())
    }

    fn unpack<T>(&self, unpack: impl FnOnce(&[Line]) -> Option<T>) -> Result<Option<T>, NicError> {
        let area =
            Area::pinned(&self.dir.join(CATALOGUE)).map_err(NicError::io("open the feeds' catalogue"))?;
        let Some(area) = area else { return Ok(None) };
        let mapped = area.read().map_err(NicError::io("read the feeds' catalogue"))?;
        Ok(unpack(mapped.lines()))
    }

    /// From the next packet on the program goes by these lists, less what is `protected`. An error changes nothing
    /// of the family that it is about.
    pub fn publish(&mut self, lists: &[List], protected: &Ranges) -> Result<Published, NicError> {
        let mut published = Published::default();
        let timed = Timed::start();
        let union = Ranges::union(lists.iter().map(|list| &*list.ranges)).without(protected);
        published.ranges = (union.v4().len(), union.v6().len());
        published.merge = timed.so_far();
        let timed = Timed::start();
        let (v4, v6) = (union.v4().iter().copied(), union.v6().iter().copied());
        let table4 = table("feed4", LINES4, !union.v4().is_empty(), |lines| fill::fill4(lines, v4))?;
        let table6 = table("feed6", LINES6, !union.v6().is_empty(), |lines| fill::fill6(lines, v6))?;
        published.fill = timed.so_far();
        let timed = Timed::start();
        for (table, place, bit) in [(table4, &self.tables4, LISTED4), (table6, &self.tables6, LISTED6)] {
            let put =
                table.as_ref().map_or_else(|| Area::clear(place.as_fd()), |table| table.put(place.as_fd()));
            put.map_err(NicError::io("swap the feeds' table"))?;
            self.orders.set_listed(bit, table.is_some());
        }
        published.swap = timed.so_far();
        let timed = Timed::start();
        self.write_catalogue(lists).map_err(NicError::io("write the feeds' catalogue"))?;
        published.catalogue = timed.so_far();
        Ok(published)
    }

    /// Whether the program takes this address for listed.
    pub fn is_listed(&self, address: IpAddr) -> Result<bool, NicError> {
        let describe = || NicError::io("look into the feeds' table");
        let place = if address.to_canonical().is_ipv4() { &self.tables4 } else { &self.tables6 };
        let Some(area) = Area::in_place(place.as_fd()).map_err(describe())? else { return Ok(false) };
        let mapped = area.read().map_err(describe())?;
        Ok(match address.to_canonical() {
            IpAddr::V4(address) => listed4(&mapped.lines(), address.to_bits()),
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
                let lower = bits as u64;
                listed6(&mapped.lines(), (bits >> 64) as u64, lower)
            }
        })
    }

    fn write_catalogue(&self, lists: &[List]) -> std::io::Result<()> {
        let lines = catalogue::pack(lists);
        let mut area = Area::new("feedlists", lines.len())?;
        area.write()?.lines().copy_from_slice(&lines);
        area.pin(&self.dir.join(CATALOGUE))
    }
}

/// A filled table that nobody sees yet; none for a family of which nothing is listed.
fn table(
    name: &str,
    lines: usize,
    is_needed: bool,
    fill: impl FnOnce(&mut [Line]) -> Result<(), fill::Full>,
) -> Result<Option<Area>, NicError> {
    if !is_needed {
        return Ok(None);
    }
    let mut area = Area::new(name, lines).map_err(NicError::io("make a feeds' table"))?;
    let mut written = area.write().map_err(NicError::io("map a feeds' table"))?;
    fill(written.lines()).map_err(|fill::Full| NicError::FeedsFull)?;
    Ok(Some(area))
}

/// A stopwatch.
struct Timed(u64);

impl Timed {
    fn start() -> Self {
        Self(sys::monotonic_ns())
    }

    fn so_far(&self) -> Duration {
        Duration::from_nanos(sys::monotonic_ns().saturating_sub(self.0))
    }
}
