//! The filter's links: one per interface, pinned, taken over without a gap.
//!
//! A pinned link outlives the process. The next start puts its own program behind it, so that no packet goes
//! unfiltered; removing the pin detaches. The descriptor is closed as soon as the pin stands, so that a pin removed
//! by somebody else detaches and does not wait for the gateway's end.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::programs::{ProgramInfo, loaded_programs};

use super::{
    NicError,
    error::DISPATCHER,
    sys,
    xdp::{self, Interface},
};
use crate::config::XdpMode;

/// Interface names hold no colon, and the BPF file system wants no dot.
const PREFIX: &str = "link:";

/// Attaches `program` to an interface, or puts it behind the link that is pinned for it, here or by an `older` version.
/// Gives the mode in effect, which is never [`XdpMode::Auto`].
pub(super) fn attach(
    (dir, older): (&Path, &[PathBuf]),
    interface: &str,
    mode: XdpMode,
    program: BorrowedFd<'_>,
) -> Result<XdpMode, NicError> {
    let ifindex = sys::ifindex(interface).ok_or_else(|| NicError::NoInterface(interface.into()))?;
    if let Some(link) = adopt(dir, interface, mode, ifindex)? {
        sys::link_update(link.as_fd(), program).map_err(NicError::io(format!("take over {interface}")))?;
        return mode_in_effect(ifindex);
    }
    for old in older {
        if let Some(link) = adopt(old, interface, mode, ifindex)? {
            sys::link_update(link.as_fd(), program)
                .map_err(NicError::io(format!("take over {interface}")))?;
            let path = pin_of(dir, interface);
            sys::pin(link.as_fd(), &path).map_err(NicError::io(format!("pin {}", path.display())))?;
            return mode_in_effect(ifindex);
        }
    }
    let link = match mode {
        XdpMode::Native => create(interface, ifindex, program, sys::NATIVE)?,
        XdpMode::Generic => create(interface, ifindex, program, sys::GENERIC)?,
        XdpMode::Auto => match create(interface, ifindex, program, sys::NATIVE) {
            Err(NicError::Io { source, .. }) => {
                log::warn!(
                    "{interface}: its driver takes no XDP program ({source}); attaching in the slower generic mode"
                );
                create(interface, ifindex, program, sys::GENERIC)?
            }
            native => native?,
        },
    };
    let path = pin_of(dir, interface);
    sys::pin(link.as_fd(), &path).map_err(NicError::io(format!("pin {}", path.display())))?;
    tell(ifindex);
    mode_in_effect(ifindex)
}

/// How the link of an interface stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It holds this very interface.
    Attached,
    /// Its interface is gone or is another one, or somebody has detached it.
    Lost,
    /// Its pin was removed.
    Unpinned,
}

/// Looks at the link of an interface.
pub(super) fn standing(dir: &Path, interface: &str) -> Result<Standing, NicError> {
    let path = pin_of(dir, interface);
    let link = match sys::open_pin(&path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Standing::Unpinned),
        Err(error) => return Err(NicError::io(format!("open {}", path.display()))(error)),
    };
    let holds = sys::link_ifindex(link.as_fd()).map_err(NicError::io("read the pinned link"))?;
    Ok(if holds.is_some() && holds == sys::ifindex(interface) { Standing::Attached } else { Standing::Lost })
}

/// Detaches an interface.
pub(super) fn detach(dir: &Path, interface: &str) -> Result<(), NicError> {
    let path = pin_of(dir, interface);
    let link = sys::open_pin(&path).map_err(NicError::io(format!("open {}", path.display())))?;
    release(&link, &path)
}

/// Detaches a link, unless its interface is gone already, and removes its pin.
fn release(link: &OwnedFd, path: &Path) -> Result<(), NicError> {
    if let Err(error) = sys::link_detach(link.as_fd()) {
        log::debug!("{}: {error}", path.display());
    }
    fs::remove_file(path).map_err(NicError::io(format!("remove {}", path.display())))
}

/// Interfaces whose links are pinned.
pub(super) fn pinned(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| Some(name.strip_prefix(PREFIX)?.replace(':', "."))).collect()
}

/// The pinned link of this very interface in a fitting mode; any other pin of its name is removed.
fn adopt(dir: &Path, interface: &str, mode: XdpMode, ifindex: u32) -> Result<Option<OwnedFd>, NicError> {
    let path = pin_of(dir, interface);
    let link = match sys::open_pin(&path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(NicError::io(format!("open {}", path.display()))(error)),
    };
    let holds = sys::link_ifindex(link.as_fd()).map_err(NicError::io("read the pinned link"))?;
    if holds == Some(ifindex) {
        let in_effect = mode_in_effect(ifindex)?;
        if mode == XdpMode::Auto || mode == in_effect {
            return Ok(Some(link));
        }
        log::warn!("{interface}: attached as {in_effect:?}, wanted as {mode:?}: attaching again, with a gap");
    } else {
        log::info!("{interface}: the pinned link belonged to an interface that is gone");
    }
    release(&link, &path)?;
    Ok(None)
}

fn create(interface: &str, ifindex: u32, program: BorrowedFd<'_>, mode: u32) -> Result<OwnedFd, NicError> {
    sys::link_create(program, ifindex, mode).map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => busy(interface, ifindex),
        _ => NicError::io(format!("attach to {interface}"))(error),
    })
}

/// Who is in the way: on the interface itself, or on the bond that it is a port of.
fn busy(interface: &str, ifindex: u32) -> NicError {
    let own = xdp::interface(ifindex).unwrap_or_default();
    let above = own.master.and_then(|master| xdp::interface(master).ok());
    match above {
        Some(above) if own.program == 0 && above.program != 0 => NicError::Above {
            interface: interface.into(),
            name: program_name(above.program),
            id: above.program,
            above: above.name,
        },
        _ => {
            let (id, name) = (own.program, program_name(own.program));
            let runs = if name == DISPATCHER { dispatched(ifindex, id) } else { Vec::new() };
            NicError::Busy { interface: interface.into(), id, name, runs }
        }
    }
}

/// The programs that libxdp has put behind its dispatcher, in their order: where it pins them (`libxdp/libxdp.c`).
fn dispatched(ifindex: u32, dispatcher: u32) -> Vec<(String, u32)> {
    let dir = PathBuf::from(format!("/sys/fs/bpf/xdp/dispatch-{ifindex}-{dispatcher}"));
    let programs = (0..DISPATCHED_MAX)
        .map_while(|slot| ProgramInfo::from_pin(dir.join(format!("prog{slot}-prog"))).ok());
    programs.map(|program| (program.name_as_str().unwrap_or_default().to_owned(), program.id())).collect()
}

/// Slots of a dispatcher.
const DISPATCHED_MAX: u32 = 10;

/// As the kernel knows it; empty where it is gone or nameless.
pub(super) fn program_name(id: u32) -> String {
    let mut programs = loaded_programs().flatten();
    let program = programs.find(|program| program.id() == id);
    program.and_then(|program| Some(program.name_as_str()?.to_owned())).unwrap_or_default()
}

fn mode_in_effect(ifindex: u32) -> Result<XdpMode, NicError> {
    let interface = xdp::interface(ifindex).map_err(NicError::io("ask for the XDP mode"))?;
    Ok(if interface.generic { XdpMode::Generic } else { XdpMode::Native })
}

/// What an operator should know of where the filter now stands, if anything.
fn advice(interface: &Interface, master: Option<&Interface>) -> Option<String> {
    let name = &interface.name;
    match (interface.kind.as_str(), master) {
        ("bond", _) => {
            Some(format!("{name} is a bond: the filter is on the bond itself and covers all its ports"))
        }
        ("vlan", _) => Some(format!(
            "{name} is a VLAN: the filter reads tags, and on the interface below it would see this and every other \
             VLAN earlier"
        )),
        (_, Some(master)) if master.kind == "bond" => Some(format!(
            "{name} is a port of the bond {bond}: what comes in by its other ports is not filtered; name {bond} in \
             prefilter.interfaces instead",
            bond = master.name
        )),
        _ => None,
    }
}

fn tell(ifindex: u32) {
    let Ok(interface) = xdp::interface(ifindex) else { return };
    let master = interface.master.and_then(|master| xdp::interface(master).ok());
    if let Some(advice) = advice(&interface, master.as_ref()) {
        log::info!("{advice}");
    }
}

fn pin_of(dir: &Path, interface: &str) -> PathBuf {
    dir.join(format!("{PREFIX}{}", interface.replace('.', ":")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: &str, master: Option<&str>, expected: Option<&str>) {
        let interface = Interface { name: "eth1".into(), kind: kind.into(), ..Interface::default() };
        let master =
            master.map(|kind| Interface { name: "above0".into(), kind: kind.into(), ..Interface::default() });
        let advice = advice(&interface, master.as_ref());
        match expected {
            Some(part) => assert!(advice.as_ref().is_some_and(|advice| advice.contains(part)), "{advice:?}"),
            None => assert_eq!(advice, None),
        }
    }

    #[test]
    fn where_bonds_and_vlans_are_filtered_is_told() {
        check("", None, None);
        check("veth", None, None);
        check("", Some("bridge"), None);
        check("bond", None, Some("on the bond itself"));
        check("", Some("bond"), Some("name above0 in prefilter.interfaces"));
        check("vlan", None, Some("is a VLAN"));
    }
}
