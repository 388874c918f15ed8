//! One policy for both sides: the host's tables here, the kernel's maps through the gateway's handle.

use std::collections::HashMap;

use gateway_ebpf::{
    Ban, Packet, Tables,
    layout::{Cell, PrefixKey4, PrefixKey6, Settings},
    syn_cookie::{self, Begin, Handshakes, Judgement},
    verdict::Clock,
};
use ipnet::IpNet;

use super::sockets::Sockets;

/// Ports with limits.
pub(crate) const PORTS: [u16; 2] = [443, 53];

/// Allow prefixes.
pub(crate) const ALLOW: [&str; 4] =
    ["198.51.100.128/25", "203.0.113.77/32", "2001:db8:a::/48", "2001:db8:bad::7/128"];

/// Blocks of the configuration: no end.
pub(crate) const BLOCK: [&str; 3] = ["203.0.113.0/24", "198.51.100.200/32", "2001:db8:bad::/48"];

/// Blocks with an end: still live?
pub(crate) const BANS: [(&str, bool); 22] = [
    ("198.51.100.66/32", true),
    ("198.51.100.67/32", false),
    ("198.51.100.201/32", true),
    ("2001:db8:66::/64", true),
    ("2001:db8:67::/64", false),
    ("2001:db8:a:66::/64", true),
    // A host of a source prefix goes to the trie.
    ("2001:db8:68::1/128", true),
    // Nests: expired prefixes in front of a live one, four of them and then five.
    ("100.64.0.0/16", true),
    ("100.64.0.0/20", false),
    ("100.64.0.0/22", false),
    ("100.64.0.0/24", false),
    ("100.64.0.0/26", false),
    ("100.64.0.0/28", false),
    ("100.65.0.0/16", true),
    ("100.65.0.0/24", false),
    ("2001:db8:70::/44", true),
    ("2001:db8:70::/46", false),
    ("2001:db8:70::/47", false),
    ("2001:db8:70::/48", false),
    ("2001:db8:70::/56", false),
    ("2001:db8:70::/63", false),
    ("100.66.0.0/16", false),
];

/// What time it is on the host; live blocks end far behind it, expired ones have ended at 1.
pub(crate) const NOW_NS: u64 = 1 << 50;
/// When a live block ends.
pub(crate) const LIVE_NS: u64 = u64::MAX >> 1;
/// When an expired block ended.
pub(crate) const EXPIRED_NS: u64 = 1;

/// The maps, on the host.
pub(crate) struct Host {
    allow: Vec<IpNet>,
    blocks: Vec<(IpNet, Ban)>,
    bans4: HashMap<u32, Ban>,
    bans6: HashMap<u64, Ban>,
    cells: Vec<Cell>,
    pub(crate) heartbeat_ns: u64,
    /// What SYN cookies ask of the kernel.
    pub(crate) sockets: Sockets,
    /// The last SYN that was answered.
    pub(crate) begin: Option<Begin>,
}

impl Host {
    /// The policy above, as the gateway's handle spreads it over the maps.
    pub(crate) fn new(settings: &Settings) -> Self {
        let mut host = Self {
            allow: ALLOW.iter().map(|text| text.parse().unwrap()).collect(),
            blocks: Vec::new(),
            bans4: HashMap::new(),
            bans6: HashMap::new(),
            cells: vec![Cell::default(); settings.cell_mask as usize + 1],
            heartbeat_ns: NOW_NS,
            sockets: Sockets::default(),
            begin: None,
        };
        for text in BLOCK {
            let prefix: IpNet = text.parse().unwrap();
            host.blocks.push((prefix, Ban { prefix_bits: prefix.prefix_len(), ..Ban::default() }));
        }
        for (text, live) in BANS {
            let prefix: IpNet = text.parse().unwrap();
            let expires_at_ns = if live { LIVE_NS } else { EXPIRED_NS };
            let ban = Ban { expires_at_ns, prefix_bits: prefix.prefix_len(), ..Ban::default() };
            match prefix {
                IpNet::V4(net) if net.prefix_len() == 32 => {
                    host.bans4.insert(net.addr().to_bits().to_be(), ban);
                }
                IpNet::V6(net) if net.prefix_len() == 64 => {
                    host.bans6.insert(((net.addr().to_bits() >> 64) as u64).to_be(), ban);
                }
                _ => host.blocks.push((prefix, ban)),
            }
        }
        host
    }

    fn longest(&mut self, address: IpNet) -> Option<&mut Ban> {
        let holding = self.blocks.iter_mut().filter(|(prefix, _)| prefix.contains(&address));
        holding.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, ban)| ban)
    }

    /// Drops counted in all blocks.
    pub(crate) fn drops(&self) -> u64 {
        let bans =
            self.bans4.values().chain(self.bans6.values()).chain(self.blocks.iter().map(|(_, ban)| ban));
        bans.map(|ban| ban.drops).sum()
    }
}

fn net4(key: &PrefixKey4) -> IpNet {
    let address = std::net::Ipv4Addr::from_bits(u32::from_be(key.address[0]));
    IpNet::new(address.into(), key.prefix_bits as u8).unwrap()
}

fn net6(key: &PrefixKey6) -> IpNet {
    let words = key.address.map(u32::from_be);
    let bits = words.into_iter().fold(0, |bits: u128, word| bits << 32 | u128::from(word));
    IpNet::new(std::net::Ipv6Addr::from_bits(bits).into(), key.prefix_bits as u8).unwrap()
}

impl Handshakes for Host {
    fn judge<P: Packet>(&mut self, packet: &P, start: usize, settings: &Settings, now_ns: u64) -> Judgement {
        let mut begin = Begin::default();
        let judgement = syn_cookie::judge(packet, start, settings, now_ns, &mut self.sockets, &mut begin);
        self.begin = Some(begin);
        judgement
    }
}

impl Tables for Host {
    fn allowed4(&self, key: &PrefixKey4) -> bool {
        self.allow.iter().any(|prefix| prefix.contains(&net4(key)))
    }

    fn allowed6(&self, key: &PrefixKey6) -> bool {
        self.allow.iter().any(|prefix| prefix.contains(&net6(key)))
    }

    fn ban4(&mut self, key: u32) -> Option<&mut Ban> {
        self.bans4.get_mut(&key)
    }

    fn ban6(&mut self, key: u64) -> Option<&mut Ban> {
        self.bans6.get_mut(&key)
    }

    fn block4(&mut self, key: &PrefixKey4) -> Option<&mut Ban> {
        self.longest(net4(key))
    }

    fn block6(&mut self, key: &PrefixKey6) -> Option<&mut Ban> {
        self.longest(net6(key))
    }

    fn limited(&self, port: u16) -> bool {
        PORTS.contains(&port)
    }

    fn cells(&mut self, even: u32, odd: u32) -> Option<(&mut Cell, &mut Cell)> {
        let [first, second] = self.cells.get_disjoint_mut([even as usize, odd as usize]).ok()?;
        Some((first, second))
    }

    fn heartbeat_ns(&self) -> u64 {
        self.heartbeat_ns
    }
}

/// A clock that stands.
pub(crate) struct Standing(pub(crate) u64);

impl Clock for Standing {
    fn now_ns(&self) -> u64 {
        self.0
    }

    fn precise_now_ns(&self) -> u64 {
        self.0
    }
}
