//! What a driver says that it can do with XDP: the kernel's `netdev` family of generic netlink, since Linux 6.3.
//!
//! Source: `include/uapi/linux/netdev.h`, `include/uapi/linux/genetlink.h`.

use std::io;

use super::netlink::{self, attribute, attributes, number};

/// `NETDEV_XDP_ACT_BASIC`: programs run in the driver.
pub const BASIC: u64 = 1;
/// `NETDEV_XDP_ACT_RX_SG`: frames that need several buffers, too.
pub const FRAGMENTS: u64 = 1 << 5;

const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
/// `genlmsghdr`: command, version, two bytes of nothing.
const HEADER_BYTES: usize = 4;

/// The features of an interface's driver; none: the kernel knows of no such thing.
pub(super) fn of(ifindex: u32) -> io::Result<Option<u64>> {
    let mut family = None;
    let name = attribute(CTRL_ATTR_FAMILY_NAME, b"netdev\0");
    let asked = ask(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, &name, |answer| {
        family = find(answer, CTRL_ATTR_FAMILY_ID).and_then(|id| number(id, 0)).map(u16::from_ne_bytes);
    });
    let family = match (asked, family) {
        (Ok(()), Some(family)) => family,
        (Ok(()), None) => return Ok(None),
        (Err(error), _) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        (Err(error), _) => return Err(error),
    };
    let mut features = None;
    let index = attribute(NETDEV_A_DEV_IFINDEX, &ifindex.to_ne_bytes());
    ask(family, NETDEV_CMD_DEV_GET, &index, |answer| {
        features = find(answer, NETDEV_A_DEV_XDP_FEATURES)
            .and_then(|value| number(value, 0))
            .map(u64::from_ne_bytes);
    })?;
    Ok(features)
}

fn ask(family: u16, command: u8, attributes: &[u8], each: impl FnMut(&[u8])) -> io::Result<()> {
    const VERSION: u8 = 1;
    let mut body = vec![command, VERSION, 0, 0];
    body.extend(attributes);
    netlink::ask(libc::NETLINK_GENERIC, (family, 0), &body, each)
}

fn find(answer: &[u8], wanted: u16) -> Option<&[u8]> {
    let rest = answer.get(HEADER_BYTES..)?;
    attributes(rest).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_runs_no_program_in_its_driver() {
        // Where the kernel tells at all.
        assert!(matches!(of(1), Ok(None | Some(0))), "{:?}", of(1));
    }
}
