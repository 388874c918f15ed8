//! What this machine's kernel and interfaces can do for the filter: facts only, each asked for by itself.
//!
//! Comes in: names of interfaces. Goes out: a [`Survey`]. It changes nothing, but for [`try_native`], which is only
//! done when asked for, since some drivers set their queues up anew for an XDP program, and the link is gone meanwhile.

use std::{
    ffi::CStr,
    fs, io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use super::{
    bpffs, features,
    link::{pinned, program_name},
    maps::versioned,
    sys, xdp,
};

/// The facts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// `uname -r`
    pub kernel: String,
    /// The kernel describes its own types.
    pub has_btf: bool,
    /// Pins can be made where the configuration wants them; else why not.
    pub pins: Option<Result<PathBuf, String>>,
    /// Bits of the effective capabilities (capabilities(7)).
    pub capabilities: u64,
    /// An XDP program can be loaded; else what the kernel says.
    pub loads: Option<Result<(), String>>,
    /// CPUs that this process may run on.
    pub cpus: usize,
    /// Descriptors that a process may have.
    pub descriptors_max: u64,
    /// Settings below `/proc/sys` by name, those that are there.
    pub settings: Vec<(&'static str, u64)>,
    /// The interfaces, in the order in which they were asked about.
    pub interfaces: Vec<Surveyed>,
}

/// An interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surveyed {
    /// Its name.
    pub name: String,
    /// There is one of this name; without, nothing below says anything.
    pub exists: bool,
    /// "bond", "veth", "vlan"; empty: hardware.
    pub kind: String,
    /// Its driver, where it tells.
    pub driver: Option<String>,
    /// Bytes of a frame's payload.
    pub mtu: u32,
    /// Queues that receive now.
    pub rx_queues: u32,
    /// Queues that send now.
    pub tx_queues: u32,
    /// Name and kind of what it is a port of.
    pub master: Option<(String, String)>,
    /// What its driver says that it can do (`enum netdev_xdp_act`); none: the kernel does not tell (before 6.3).
    pub features: Option<u64>,
    /// The XDP program that it carries.
    pub program: Option<Carried>,
    /// What came of attaching a program to it in its driver, where that was asked for.
    pub native: Option<Result<(), String>>,
}

/// An attached XDP program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Carried {
    /// The kernel's id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// In the generic hook.
    pub is_generic: bool,
    /// Its link is pinned where the configuration says: it is ours.
    pub is_ours: bool,
}

/// Settings that are looked at.
const SETTINGS: [&str; 5] = [
    "net/core/bpf_jit_enable",
    "net/core/somaxconn",
    "net/ipv4/tcp_max_syn_backlog",
    "net/ipv4/tcp_syncookies",
    "kernel/io_uring_disabled",
];

/// Gathers the facts. `pin_dir` is looked at where a configuration names one.
pub fn survey(interfaces: &[String], pin_dir: Option<&Path>) -> Survey {
    Survey {
        kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
        has_btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        pins: pin_dir.map(|dir| bpffs::can_make_dir(dir).map(|()| dir.to_owned()).map_err(|e| e.to_string())),
        capabilities: capabilities().unwrap_or(0),
        loads: Some(sys::load_pass().map(drop).map_err(|error| error.to_string())),
        cpus: std::thread::available_parallelism().map_or(1, Into::into),
        descriptors_max: descriptors_max(),
        settings: SETTINGS
            .into_iter()
            .filter_map(|name| Some((name, read(&format!("/proc/sys/{name}"))?.parse().ok()?)))
            .collect(),
        interfaces: interfaces.iter().map(|name| interface(name, pin_dir)).collect(),
    }
}

/// Attaches a program that passes everything to an interface's driver, and takes it off again.
pub fn try_native(interface: &str) -> Result<(), String> {
    let ifindex = sys::ifindex(interface).ok_or("there is no such interface")?;
    let program = sys::load_pass().map_err(|error| error.to_string())?;
    let link = sys::link_create(program.as_fd(), ifindex, sys::NATIVE).map_err(|error| error.to_string())?;
    sys::link_detach(link.as_fd()).map_err(|error| error.to_string())
}

/// Every interface but loopback.
pub fn interfaces() -> Vec<String> {
    let mut names = Vec::new();
    // SAFETY: the call has no preconditions; its answer is freed below.
    let list = unsafe { libc::if_nameindex() };
    if list.is_null() {
        return names;
    }
    let mut at = list;
    // SAFETY: the list ends with an entry whose index is 0, its names are strings, and it lives until it is freed, which
    // is done once and last.
    unsafe {
        while (*at).if_index != 0 && !(*at).if_name.is_null() {
            names.push(CStr::from_ptr((*at).if_name).to_string_lossy().into_owned());
            at = at.add(1);
        }
        libc::if_freenameindex(list);
    }
    names.retain(|name| name != "lo");
    names
}

fn interface(name: &str, pin_dir: Option<&Path>) -> Surveyed {
    let found = sys::ifindex(name).and_then(|ifindex| Some((ifindex, xdp::interface(ifindex).ok()?)));
    let Some((ifindex, found)) = found else {
        return Surveyed { name: name.to_owned(), ..Surveyed::default() };
    };
    let master = found.master.and_then(|master| xdp::interface(master).ok());
    let (rx_queues, tx_queues) = channels(name).unwrap_or((found.rx_queues, found.tx_queues));
    let is_ours = pin_dir.is_some_and(|dir| pinned(&versioned(dir)).iter().any(|own| own == name));
    Surveyed {
        name: name.to_owned(),
        exists: true,
        kind: found.kind,
        driver: driver(name),
        mtu: found.mtu,
        rx_queues,
        tx_queues,
        master: master.map(|master| (master.name, master.kind)),
        features: features::of(ifindex).ok().flatten(),
        program: (found.program != 0).then(|| Carried {
            id: found.program,
            name: program_name(found.program),
            is_generic: found.generic,
            is_ours,
        }),
        native: None,
    }
}

fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn capabilities() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(effective.trim(), 16).ok()
}

fn descriptors_max() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes the struct behind the pointer and keeps nothing.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 0;
    }
    limit.rlim_max
}

/// `ETHTOOL_GDRVINFO`
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

fn driver(interface: &str) -> Option<String> {
    const GET_DRIVER: u32 = 3;
    let mut info = DriverInfo { command: GET_DRIVER, driver: [0; 32], rest: [0; 160] };
    ethtool(interface, &mut info)?;
    let name = info.driver.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(String::from_utf8_lossy(name).into_owned()).filter(|name| !name.is_empty())
}

/// Queues in use, to receive and to send, by `ETHTOOL_GCHANNELS`: what was made may be far more.
fn channels(interface: &str) -> Option<(u32, u32)> {
    const GET_CHANNELS: u32 = 0x3c;
    // Command, the four maxima (receive, send, other, combined), then the four counts.
    let mut channels = [GET_CHANNELS, 0, 0, 0, 0, 0, 0, 0, 0];
    ethtool(interface, &mut channels)?;
    let [.., receive, send, _, combined] = channels;
    Some((receive + combined, send + combined)).filter(|(receive, _)| *receive > 0)
}

/// Asks an interface's driver (`include/uapi/linux/ethtool.h`); `question` begins with the command, and is as large as the
/// kernel's struct of that command.
fn ethtool<T>(interface: &str, question: &mut T) -> Option<()> {
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    #[repr(C)]
    struct Request<T> {
        name: [u8; libc::IFNAMSIZ],
        data: *mut T,
        rest: [u8; 16],
    }
    let mut request =
        Request { name: [0; libc::IFNAMSIZ], data: std::ptr::from_mut(question), rest: [0; 16] };
    // The last byte stays zero.
    for (to, from) in request.name.iter_mut().take(libc::IFNAMSIZ - 1).zip(interface.bytes()) {
        *to = from;
    }
    // SAFETY: a new descriptor or an error; nothing else is touched.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return None;
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: `request` is no smaller than the kernel's `ifreq`, `question` as large as the struct of its command, and
    // both live until the call returns.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) } != 0 {
        log::debug!("{interface}: its driver does not tell: {}", io::Error::last_os_error());
        return None;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_looked_at() {
        let names = [String::from("lo"), String::from("none-such")];
        let survey = survey(&names, Some(Path::new("/")));
        assert!(survey.kernel.starts_with(|c: char| c.is_ascii_digit()), "{survey:?}");
        assert!(survey.descriptors_max > 0);
        assert!(
            matches!(&survey.pins, Some(Err(why)) if why.contains("not in a BPF file system")),
            "{survey:?}"
        );
        let [lo, none] = &survey.interfaces[..] else { panic!("{survey:?}") };
        assert!(lo.exists && lo.mtu > 0 && !none.exists);
        assert!(!interfaces().contains(&"lo".to_owned()));
    }
}
