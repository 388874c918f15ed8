//! What an interface is and which XDP program it carries: one question to the kernel by rtnetlink.
//!
//! Source: `include/uapi/linux/if_link.h`.

use std::io;

use super::netlink::{self, attributes, number};

/// What the kernel says about an interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Interface {
    /// Its name.
    pub(super) name: String,
    /// "bond", "veth", "vlan"; empty: hardware, or the driver does not say.
    pub(super) kind: String,
    /// The index of the bond or bridge that it is a port of.
    pub(super) master: Option<u32>,
    /// Its queues, as many as were made.
    pub(super) rx_queues: u32,
    /// As above.
    pub(super) tx_queues: u32,
    /// Bytes of a frame's payload.
    pub(super) mtu: u32,
    /// Its program runs in the generic hook, not in the driver.
    pub(super) generic: bool,
    /// Its program's id; 0: none.
    pub(super) program: u32,
}

const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const XDP_ATTACHED_SKB: u8 = 2;

/// `ifinfomsg`: family, type, index, flags, change.
const HEADER_BYTES: usize = 16;

/// Asks the kernel.
pub(super) fn interface(ifindex: u32) -> io::Result<Interface> {
    let mut found = Interface::default();
    // Family, type and flags say nothing; the index says which.
    let mut question = [0; HEADER_BYTES];
    for (to, from) in question.iter_mut().skip(4).zip(ifindex.to_ne_bytes()) {
        *to = from;
    }
    netlink::ask(libc::NETLINK_ROUTE, (libc::RTM_GETLINK, 0), &question, |answer| {
        found = read_answer(answer);
    })?;
    Ok(found)
}

fn read_answer(answer: &[u8]) -> Interface {
    let mut found = Interface::default();
    for (kind, value) in attributes(answer.get(HEADER_BYTES..).unwrap_or_default()) {
        match kind {
            IFLA_IFNAME => found.name = text(value),
            IFLA_MTU => found.mtu = word(value),
            IFLA_MASTER => found.master = Some(word(value)).filter(|master| *master != 0),
            IFLA_NUM_TX_QUEUES => found.tx_queues = word(value),
            IFLA_NUM_RX_QUEUES => found.rx_queues = word(value),
            IFLA_LINKINFO => {
                let kind = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                found.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
            }
            IFLA_XDP => {
                for (kind, value) in attributes(value) {
                    match kind {
                        IFLA_XDP_ATTACHED => found.generic = value.first() == Some(&XDP_ATTACHED_SKB),
                        IFLA_XDP_PROG_ID => found.program = word(value),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    found
}

fn word(value: &[u8]) -> u32 {
    number(value, 0).map_or(0, u32::from_ne_bytes)
}

/// Up to its NUL.
fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nic::netlink::attribute;

    #[test]
    fn the_loopback_interface_is_known_and_an_index_of_none_is_not() {
        let loopback = interface(1).unwrap();
        assert_eq!((loopback.name.as_str(), loopback.master), ("lo", None));
        assert!(loopback.mtu > 0 && loopback.rx_queues > 0);
        assert!(interface(0x7fff_ffff).is_err());
    }

    #[test]
    fn attributes_are_walked_within_their_bounds() {
        let mut answer = vec![0; HEADER_BYTES];
        answer.extend(attribute(IFLA_MASTER, &7_u32.to_ne_bytes()));
        answer.extend(attribute(IFLA_LINKINFO, &attribute(IFLA_INFO_KIND, b"bond\0")));
        let xdp = [attribute(IFLA_XDP_ATTACHED, &[2]), attribute(IFLA_XDP_PROG_ID, &77_u32.to_ne_bytes())];
        answer.extend(attribute(IFLA_XDP, &xdp.concat()));
        let whole = read_answer(&answer);
        let expected = Interface {
            master: Some(7),
            kind: "bond".into(),
            generic: true,
            program: 77,
            ..Interface::default()
        };
        assert_eq!(whole, expected);
        for cut in 0..answer.len() {
            assert_eq!(read_answer(&answer[..cut]).program, 0, "cut at {cut}");
        }
    }
}
