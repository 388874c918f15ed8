//! The running filter: open, follow the configuration, read back.

use std::{
    io,
    net::{IpAddr, Ipv6Addr},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use aya::{Ebpf, EbpfLoader, maps::MapInfo, programs::Xdp};
use aya_log::EbpfLogger;
use gateway_ebpf::{
    ABI, Ban, BanOrigin, Reason, Verdict,
    bucket::LINE_CELLS,
    front::{lines4_for, lines6_for},
    layout::{DRY_RUN, HAS_ALLOW4, HAS_ALLOW6, SYN_COOKIES, SYN_COOKIES_STRICT, Sample, Settings, USE_KNOWN},
};
use ipnet::IpNet;

use super::{
    NicError,
    bans::{Bans, ignore_missing},
    bpffs,
    cookies::{SynAnswers, Tcp, set_syncookies},
    heritage,
    known::Known,
    link::{self, Standing},
    maps::{PINNED, Plain, Runtime, of_version, versioned},
    prefix::{canonical, key4, key6, net4, net6},
    settings, sys,
};
use crate::config::{Prefilter, XdpMode};

#[cfg(nic_filter)]
static OBJECT: Option<&[u8]> =
    Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/portcullis-xdp.o")));
#[cfg(not(nic_filter))]
static OBJECT: Option<&[u8]> = None;

/// Whether this binary carries the XDP object.
pub const BUILT: bool = cfg!(nic_filter);

/// The filter, loaded and attached. Dropping it leaves it in place: the pins hold it.
pub struct Filter {
    /// Where this version's maps and links are pinned.
    dir: PathBuf,
    object: Ebpf,
    pub(super) bans: Bans,
    runtime: Runtime,
    attached: Vec<(String, XdpMode)>,
    /// The mode that the configuration wants.
    mode: XdpMode,
    pub(super) known: Known,
    /// The kernel has the helpers for SYN cookies.
    can_cookie: bool,
}

/// Packets and bytes of one reason and verdict, over all CPUs, since the maps were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    /// Why.
    pub reason: Reason,
    /// What became of them.
    pub verdict: Verdict,
    /// Packets.
    pub packets: u64,
    /// Bytes, link-layer header included.
    pub bytes: u64,
}

/// A packet that was dropped, or in a dry run would have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropSample {
    /// `CLOCK_MONOTONIC`, to the tick.
    pub at_ns: u64,
    /// Where it said it came from; `None`: it was too short to say.
    pub source: Option<IpAddr>,
    /// Destination port; 0: it was not read that far.
    pub port: u16,
    /// Why.
    pub reason: Reason,
    /// What became of it.
    pub verdict: Verdict,
    /// Its length.
    pub bytes: u32,
    /// Index of the interface.
    pub ifindex: u32,
}

/// The program's own diagnostics: a descriptor to wait for and `flush()` to log what came.
pub type LogSource = EbpfLogger<&'static dyn log::Log>;

impl Filter {
    /// Loads the program, adopts what an earlier process has pinned, writes the policy, and only then attaches.
    ///
    /// Where it fails, what an earlier process has pinned stays, and nothing new does: blocks in maps that no
    /// interface obeys would look as if they held.
    pub fn open(prefilter: &Prefilter, listener_ports: &[u16]) -> Result<Self, NicError> {
        Self::open_in_part(prefilter, listener_ports, ABI, true)
    }

    /// As [`Self::open`], pinned as if the maps' layouts were of this version: for tests of the way from one to the
    /// next.
    #[doc(hidden)]
    pub fn open_as(prefilter: &Prefilter, listener_ports: &[u16], version: u32) -> Result<Self, NicError> {
        Self::open_in_part(prefilter, listener_ports, version, true)
    }

    /// As [`Self::open`], as if the kernel had no helpers for SYN cookies: for tests.
    #[doc(hidden)]
    pub fn open_without_cookies(prefilter: &Prefilter, listener_ports: &[u16]) -> Result<Self, NicError> {
        Self::open_in_part(prefilter, listener_ports, ABI, false)
    }

    fn open_in_part(
        prefilter: &Prefilter,
        listener_ports: &[u16],
        version: u32,
        may_cookie: bool,
    ) -> Result<Self, NicError> {
        let object = OBJECT.ok_or(NicError::NotBuilt)?;
        sys::raise_memlock();
        let dir = of_version(&prefilter.pin_dir, version);
        let others = heritage::others(&prefilter.pin_dir, &dir);
        if let Some((later, _)) = others.iter().find(|(other, _)| *other > version) {
            return Err(NicError::LaterVersion { pin_dir: prefilter.pin_dir.clone(), version: *later });
        }
        let is_first = !dir.exists();
        bpffs::make_dir(&dir)?;
        let older: Vec<PathBuf> = others.into_iter().map(|(_, dir)| dir).collect();
        let opened = load_program(object, &dir, prefilter, may_cookie)
            .and_then(|program| Self::open_in(&dir, &older, program, prefilter, listener_ports));
        // Where an older version was there, this one may have taken over a part of its links by now.
        if opened.is_err()
            && is_first
            && older.is_empty()
            && let Err(error) = detach(&prefilter.pin_dir)
        {
            log::warn!("{}: what was pinned stays there: {error}", prefilter.pin_dir.display());
        }
        opened
    }

    fn open_in(
        dir: &Path,
        older: &[PathBuf],
        (object, can_cookie): (Ebpf, bool),
        prefilter: &Prefilter,
        listener_ports: &[u16],
    ) -> Result<Self, NicError> {
        let mut filter = Self {
            dir: dir.to_owned(),
            object,
            bans: Bans::open_in(dir)?,
            runtime: Runtime::open(dir)?,
            attached: Vec::new(),
            mode: prefilter.mode,
            known: Known::default(),
            can_cookie,
        };
        filter.heartbeat(sys::monotonic_ns())?;
        filter.apply_policy(prefilter, listener_ports)?;
        filter.inherit(older)?;
        filter.set_interfaces(prefilter, older)?;
        // What was blocked while the other program still ran.
        filter.inherit(older)?;
        for old in older {
            heritage::retire(old)?;
        }
        Ok(filter)
    }

    fn inherit(&mut self, older: &[PathBuf]) -> Result<(), NicError> {
        // What the latest says counts, so it comes first.
        for old in older.iter().rev() {
            let inherited = heritage::inherit(&mut self.bans, old)?;
            log::info!("{inherited} blocks are taken over from {}", old.display());
        }
        if older.is_empty() { Ok(()) } else { self.bans.settle() }
    }

    /// Brings the running filter to this configuration, live. Sizes of maps stay as they were made.
    ///
    /// What is new is added before what is old is removed, allow prefixes before blocks: at no moment is an address
    /// dropped that both configurations allow. What is claimed about a /24 is taken back before its rules change.
    pub fn apply(&mut self, prefilter: &Prefilter, listener_ports: &[u16]) -> Result<(), NicError> {
        self.apply_policy(prefilter, listener_ports)?;
        self.set_interfaces(prefilter, &[])
    }

    fn apply_policy(&mut self, prefilter: &Prefilter, listener_ports: &[u16]) -> Result<(), NicError> {
        let allow: Vec<IpNet> = prefilter.allow.iter().copied().map(canonical).collect();
        let block: Vec<IpNet> = prefilter.block.iter().copied().map(canonical).collect();
        self.add_allow(&allow)?;
        self.bans.policy.orders.set_ports(&settings::port_words(&prefilter.ports, listener_ports));
        // The old allow prefixes hold until the old blocks are gone.
        let had_allow = self.settings()?.flags & (HAS_ALLOW4 | HAS_ALLOW6);
        self.set_settings(prefilter, had_allow)?;
        self.add_block(&block)?;
        self.remove_block(&block)?;
        self.remove_allow(&allow)?;
        self.set_settings(prefilter, 0)?;
        self.bans.settle()
    }

    /// Looks whether every interface still carries the filter. One that has lost it gets it again. Where a pin was
    /// removed, which opens the host while no gateway runs, the filter is taken off everywhere, until the next start or
    /// reload.
    pub fn look_after(&mut self) -> Result<(), NicError> {
        let dir = self.dir.clone();
        for (interface, mode) in self.attached.clone() {
            match link::standing(&dir, &interface)? {
                Standing::Attached => {}
                Standing::Lost if sys::ifindex(&interface).is_none() => {}
                Standing::Lost => {
                    log::warn!("{interface} had lost the filter ({mode:?}): attaching it again");
                    let program = program(&mut self.object)?.fd()?;
                    let program = program.try_clone().map_err(NicError::io("hold the program"))?;
                    link::attach((&dir, &[]), &interface, self.mode, program.as_fd())?;
                }
                Standing::Unpinned if !dir.exists() => {
                    log::error!(
                        "THE FILTER IS NO LONGER THIS PROCESS'S: another version has taken it over, or somebody has \
                         said `panic-open`"
                    );
                    self.attached.clear();
                    return Ok(());
                }
                Standing::Unpinned => {
                    log::error!(
                        "THE FILTER IS OFF: the pin of {interface} was removed; it stays off until the next start or reload"
                    );
                    self.attached.clear();
                    return link::pinned(&dir).iter().try_for_each(|interface| link::detach(&dir, interface));
                }
            }
        }
        Ok(())
    }

    /// Says that user space lives; without it for 5 s the limits go off. Call it every second.
    pub fn heartbeat(&mut self, now_ns: u64) -> Result<(), NicError> {
        self.bans.policy.orders.heartbeat(now_ns);
        Ok(())
    }

    /// Every counter that is not zero.
    pub fn counters(&self) -> Result<Vec<Counter>, NicError> {
        let cpus = self.runtime.state.get(&0, 0)?;
        let mut counters = Vec::new();
        for reason in Reason::ALL {
            for verdict in Verdict::ALL {
                let mut sum = Counter { reason, verdict, packets: 0, bytes: 0 };
                for Plain(cpu) in cpus.iter() {
                    let row = cpu.counts.get(reason as usize).copied().unwrap_or_default();
                    let count = row.get(verdict as usize).copied().unwrap_or_default();
                    sum.packets += count.packets;
                    sum.bytes += count.bytes;
                }
                if sum.packets > 0 {
                    counters.push(sum);
                }
            }
        }
        Ok(counters)
    }

    /// SYNs to limited ports, whatever became of them, since the maps were made.
    pub fn syns(&self) -> Result<u64, NicError> {
        Ok(self.runtime.state.get(&0, 0)?.iter().map(|Plain(cpu)| cpu.syns).sum())
    }

    /// Drops that had to be looked up though a claim could have spared that, since the maps were made.
    pub fn unclaimed_drops(&self) -> Result<u64, NicError> {
        Ok(self.runtime.state.get(&0, 0)?.iter().map(|Plain(cpu)| cpu.unclaimed_drops).sum())
    }

    /// Whether the program answers SYNs with cookies now.
    pub fn has_syn_cookies(&self) -> Result<bool, NicError> {
        Ok(self.settings()?.flags & SYN_COOKIES != 0)
    }

    /// Has the program answer SYNs with cookies, or no longer. Says how far that goes; call it again now and then, since
    /// the host's settings may change.
    pub fn set_syn_cookies(&mut self, on: bool) -> Result<SynAnswers, NicError> {
        let old = self.settings()?;
        let mut new = old;
        new.flags &= !(SYN_COOKIES | SYN_COOKIES_STRICT);
        if !on {
            self.publish(&old, new);
            self.restore_syncookies()?;
            return Ok(SynAnswers::Off);
        }
        let tcp = Tcp::read().map_err(NicError::io("read the host's TCP settings"))?;
        if tcp.syncookies == 0 || !self.can_cookie {
            self.publish(&old, new);
            return Ok(SynAnswers::Kernel);
        }
        new.flags |= SYN_COOKIES;
        new.cookies = tcp.terms(self.mtu_bytes());
        // A dry run changes nothing on this host.
        let raised = tcp.syncookies == 1 && old.flags & DRY_RUN == 0 && set_syncookies(2).is_ok();
        if raised {
            new.syncookies_before = tcp.syncookies + 1;
        }
        let strict = raised || tcp.syncookies == 2;
        if strict {
            new.flags |= SYN_COOKIES_STRICT;
        }
        self.publish(&old, new);
        Ok(if strict { SynAnswers::Filter } else { SynAnswers::FilterWhenFull })
    }

    /// Puts `net.ipv4.tcp_syncookies` back to what it was, unless somebody else has changed it meanwhile.
    fn restore_syncookies(&mut self) -> Result<(), NicError> {
        let old = self.settings()?;
        let Some(before) = old.syncookies_before.checked_sub(1) else { return Ok(()) };
        let now = Tcp::read().map_err(NicError::io("read the host's TCP settings"))?.syncookies;
        if now == 2 {
            set_syncookies(before).map_err(NicError::io("restore net.ipv4.tcp_syncookies"))?;
        }
        self.publish(&old, Settings { syncookies_before: 0, ..old });
        Ok(())
    }

    fn publish(&mut self, old: &Settings, new: Settings) {
        if new != *old {
            self.bans.policy.orders.set_settings(new);
        }
    }

    /// Of all interfaces, the least.
    fn mtu_bytes(&self) -> u32 {
        const ETHERNET: u32 = 1500;
        let mtus = self.attached.iter().filter_map(|(interface, _)| sys::mtu_bytes(interface));
        mtus.min().unwrap_or(ETHERNET)
    }

    /// Samples that were lost because nobody read them in time.
    pub fn samples_lost(&self) -> Result<u64, NicError> {
        Ok(self.runtime.state.get(&0, 0)?.iter().map(|Plain(cpu)| cpu.samples_lost).sum())
    }

    /// Hands over the samples that have come since the last call.
    pub fn samples(&mut self, mut each: impl FnMut(DropSample)) {
        while let Some(bytes) = self.runtime.events.next() {
            if let Some(sample) = read_sample(&bytes) {
                each(sample);
            }
        }
    }

    /// The block list.
    pub fn bans(&mut self) -> &mut Bans {
        &mut self.bans
    }

    /// Interfaces that the filter is attached to, with the mode in effect.
    pub fn attached(&self) -> &[(String, XdpMode)] {
        &self.attached
    }

    /// The program's diagnostics, once; `None`: already taken.
    pub fn take_log_source(&mut self) -> Option<LogSource> {
        EbpfLogger::init(&mut self.object).ok()
    }

    /// What the program goes by now.
    pub fn settings(&self) -> Result<Settings, NicError> {
        Ok(self.bans.policy.orders.settings())
    }

    /// The program itself, for the kernel's test run.
    pub fn program(&mut self) -> Result<&mut Xdp, NicError> {
        program(&mut self.object)
    }

    /// `flags` are set whatever the configuration says.
    fn set_settings(&mut self, prefilter: &Prefilter, flags: u32) -> Result<(), NicError> {
        let policy = &mut self.bans.policy;
        let old = policy.orders.settings();
        let seed = if old.seed == 0 { random()? } else { old.seed };
        let mut new = settings::settings(prefilter, seed, self.runtime.cells);
        let known = if self.known.is_used { USE_KNOWN } else { 0 };
        // Whoever turns these on and off does so beside the configuration.
        new.flags |= flags | known | old.flags & (SYN_COOKIES | SYN_COOKIES_STRICT);
        (new.cookies, new.syncookies_before) = (old.cookies, old.syncookies_before);
        if new == old {
            return Ok(());
        }
        let has_other_sources =
            (old.source_mask_v4, old.source_mask_v6) != (new.source_mask_v4, new.source_mask_v6);
        if has_other_sources {
            policy.front.clear();
        }
        policy.orders.set_settings(new);
        if has_other_sources && old.seed != 0 {
            self.bans.rehome(&old)?;
        }
        Ok(())
    }

    fn add_allow(&mut self, allow: &[IpNet]) -> Result<(), NicError> {
        for prefix in allow {
            if self.bans.longest_allow(*prefix)? == Some(u32::from(prefix.prefix_len())) {
                continue;
            }
            let policy = &mut self.bans.policy;
            policy.classes.unclaim(*prefix);
            match prefix {
                IpNet::V4(net) => policy.allow4.insert(&key4(*net), u32::from(net.prefix_len()), 0)?,
                IpNet::V6(net) => policy.allow6.insert(&key6(*net), u32::from(net.prefix_len()), 0)?,
            }
        }
        Ok(())
    }

    fn remove_allow(&mut self, allow: &[IpNet]) -> Result<(), NicError> {
        let policy = &mut self.bans.policy;
        for key in policy.allow4.keys().collect::<Result<Vec<_>, _>>()? {
            let net = net4(&key).map(IpNet::from);
            if net.is_none_or(|net| !allow.contains(&net)) {
                if let Some(net) = net {
                    policy.classes.unclaim(net);
                }
                ignore_missing(policy.allow4.remove(&key))?;
            }
        }
        for key in policy.allow6.keys().collect::<Result<Vec<_>, _>>()? {
            let net = net6(&key).map(IpNet::from);
            if net.is_none_or(|net| !allow.contains(&net)) {
                ignore_missing(policy.allow6.remove(&key))?;
            }
        }
        Ok(())
    }

    fn add_block(&mut self, block: &[IpNet]) -> Result<(), NicError> {
        for prefix in block {
            let known = self.bans.find_prefix(*prefix)?;
            if known.is_none_or(|ban| ban.origin != BanOrigin::Configuration as u8) {
                self.bans.write(*prefix, Ban { origin: BanOrigin::Configuration as u8, ..Ban::default() })?;
            }
        }
        Ok(())
    }

    fn remove_block(&mut self, block: &[IpNet]) -> Result<(), NicError> {
        for (prefix, ban) in self.bans.entries()? {
            if ban.origin == BanOrigin::Configuration as u8 && !block.contains(&prefix) {
                self.bans.erase_prefix(prefix)?;
            }
        }
        Ok(())
    }

    fn set_interfaces(&mut self, prefilter: &Prefilter, older: &[PathBuf]) -> Result<(), NicError> {
        let dir = self.dir.clone();
        let program =
            program(&mut self.object)?.fd()?.try_clone().map_err(NicError::io("hold the program"))?;
        self.attached.clear();
        self.mode = prefilter.mode;
        for interface in &prefilter.interfaces {
            let mode = link::attach((&dir, older), interface, prefilter.mode, program.as_fd())?;
            self.attached.push((interface.clone(), mode));
        }
        for dir in older.iter().chain([&dir]) {
            for interface in link::pinned(dir) {
                if !prefilter.interfaces.contains(&interface) {
                    log::info!("{interface}: the filter is detached");
                    link::detach(dir, &interface)?;
                }
            }
        }
        Ok(())
    }
}

/// Removes every pin, which detaches the filter everywhere and forgets its blocks: the host stands open.
pub fn detach(pin_dir: &Path) -> Result<(), NicError> {
    let own = versioned(pin_dir);
    let mut dirs: Vec<PathBuf> = heritage::others(pin_dir, &own).into_iter().map(|(_, dir)| dir).collect();
    dirs.extend(own.exists().then_some(own));
    if dirs.is_empty() {
        return Err(NicError::NotPinned(pin_dir.to_owned()));
    }
    // Links first: as soon as they are gone nothing is dropped any more.
    for dir in &dirs {
        for interface in link::pinned(dir) {
            link::detach(dir, &interface)?;
        }
    }
    dirs.iter().try_for_each(|dir| heritage::retire(dir))
}

/// Loads the program, on a kernel without the helpers for SYN cookies without these; whether it has them.
fn load_program(
    object: &[u8],
    dir: &Path,
    prefilter: &Prefilter,
    may_cookie: bool,
) -> Result<(Ebpf, bool), NicError> {
    let mut first = load(object, dir, prefilter, may_cookie)?;
    let Err(error) = program(&mut first)?.load() else { return Ok((first, may_cookie)) };
    let mut without = load(object, dir, prefilter, false)?;
    // What else is wrong is told as it was at first.
    program(&mut without)?.load().map_err(|_| error)?;
    Ok((without, false))
}

fn load(object: &[u8], dir: &Path, prefilter: &Prefilter, can_cookie: bool) -> Result<Ebpf, NicError> {
    let sizes = [
        ("BANS4", prefilter.entries_max.max(1)),
        ("BANS6", prefilter.entries_max.max(1)),
        ("BLOCK4", prefilter.entries_max.max(1)),
        ("BLOCK6", prefilter.entries_max.max(1)),
        ("CELLS", settings::cells(prefilter.sources_max) / LINE_CELLS),
        ("FRONT4", lines4_for(prefilter.entries_max)),
        ("FRONT6", lines6_for(prefilter.entries_max)),
    ];
    let paths = PINNED.map(|name| (name, dir.join(name)));
    let log_level = u8::try_from(log::max_level() as usize).unwrap_or_default();
    let mut loader = EbpfLoader::new();
    loader.override_global("AYA_LOG_LEVEL", &log_level, false);
    let can_cookie = u8::from(can_cookie);
    loader.override_global("CAN_COOKIE", &can_cookie, true);
    for (name, path) in &paths {
        loader.map_pin_path(name, path.as_path());
    }
    for (name, wanted) in sizes {
        let pinned = MapInfo::from_pin(dir.join(name)).ok().map(|info| info.max_entries());
        if let Some(pinned) = pinned.filter(|pinned| *pinned != wanted) {
            log::warn!(
                "the pinned map {name} keeps its room for {pinned} entries; {wanted} takes effect after the filter \
                 has been detached"
            );
        }
        loader.map_max_entries(name, pinned.unwrap_or(wanted));
    }
    Ok(loader.load(object)?)
}

fn program(object: &mut Ebpf) -> Result<&mut Xdp, NicError> {
    let program = object.program_mut("portcullis").ok_or(NicError::NotBuilt)?;
    Ok(program.try_into()?)
}

/// From the kernel; never 0, which stands for "none yet".
fn random() -> Result<u64, NicError> {
    let mut bytes = [0; 8];
    // SAFETY: the kernel writes at most the given eight bytes, which live until the call returns.
    let read = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if read != 8 {
        return Err(NicError::io("draw the limiter's seed")(io::Error::last_os_error()));
    }
    Ok(u64::from_ne_bytes(bytes).max(1))
}

fn read_sample(bytes: &[u8]) -> Option<DropSample> {
    if bytes.len() < size_of::<Sample>() {
        return None;
    }
    // SAFETY: the bytes are there, and a sample is integers without padding, which every bit pattern is one of.
    let sample: Sample = unsafe { bytes.as_ptr().cast::<Sample>().read_unaligned() };
    let [upper, lower] = sample.source.map(u64::from_be);
    let address = u128::from(upper) << 64 | u128::from(lower);
    Some(DropSample {
        at_ns: sample.at_ns,
        source: (address != 0).then(|| Ipv6Addr::from_bits(address).to_canonical()),
        port: sample.port,
        reason: Reason::from_u8(sample.reason)?,
        verdict: if sample.verdict == Verdict::Drop as u8 { Verdict::Drop } else { Verdict::Pass },
        bytes: sample.bytes,
        ifindex: sample.ifindex,
    })
}
