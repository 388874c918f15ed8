//! One policy for both sides: the host's tables here, the kernel's maps through the gateway's handle.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use gateway_ebpf::{
    Ban, Class, Packet, Tables,
    class::{self, CLASS_WORDS, Effect, GUARD_WORDS, Rule4, TOUCHED_WORDS, classify24},
    front,
    layout::{Cell, PrefixKey4, PrefixKey6, Settings, THROTTLE},
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
pub(crate) const BLOCK: [&str; 4] =
    ["203.0.113.0/24", "198.51.100.200/32", "2001:db8:bad::/48", "100.68.0.0/20"];

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

/// Throttles with their bursts; after that, a packet a day. The last two lie within blocks.
pub(crate) const THROTTLES: [(&str, u16); 6] = [
    ("198.51.100.90/32", 4),
    ("192.0.2.160/27", 4),
    ("2001:db8:90::/64", 4),
    ("2001:db8:91::/56", 4),
    ("100.65.0.32/27", 4),
    ("2001:db8:bad:90::/64", 4),
];

/// Time that a packet of a throttle uses up.
pub(crate) const THROTTLE_NS: u64 = 86_400_000_000_000;

/// What the feeds list; two of them are allowed.
pub(crate) const FEED: [&str; 7] = [
    "100.67.0.0/23",
    "100.67.7.64/28",
    "100.67.7.200/32",
    "198.51.100.140/32",
    "2001:db8:feed::/48",
    "2001:db8:fee::4/126",
    "2001:db8:a:fee::/64",
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
    touched: Vec<u64>,
    classes: Vec<u64>,
    guard: Vec<u64>,
    whole_drops: u64,
    syns: u64,
    unclaimed_drops: u64,
    cells: Vec<Cell>,
    /// Buckets of known sources, by what the limiter calls them.
    pub(crate) known: HashMap<u64, Cell>,
    pub(crate) heartbeat_ns: u64,
    /// What SYN cookies ask of the kernel.
    pub(crate) sockets: Sockets,
    /// The last SYN that was answered.
    pub(crate) begin: Option<Begin>,
    feed: Vec<IpNet>,
    /// Claims of blocks; none unless a test makes them.
    pub(crate) claimed_until_ns: u64,
    pub(crate) claimed_lengths6: u64,
    pub(crate) front4: HashMap<u32, front::Line>,
    pub(crate) front6: HashMap<u32, front::Line>,
    /// All slots count in one.
    pub(crate) front_drops: u8,
}

impl Host {
    /// The policy above, as the gateway's handle spreads it over the maps.
    pub(crate) fn new(settings: &Settings) -> Self {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let allow = ALLOW.map(net).to_vec();
        let mut host = Self::with(settings, allow, Vec::new());
        host.feed = FEED.map(net).to_vec();
        for prefix in BLOCK.map(net) {
            // The configuration's own blocks lie in the trie, however long they are.
            host.blocks.push((prefix, Ban { prefix_bits: prefix.prefix_len(), ..Ban::default() }));
        }
        for (text, live) in BANS {
            let expires_at_ns = if live { LIVE_NS } else { EXPIRED_NS };
            host.add(net(text), Ban { expires_at_ns, ..Ban::default() });
        }
        for (text, burst) in THROTTLES {
            let throttle = Ban { action: THROTTLE, interval_ns: THROTTLE_NS, burst, ..Ban::default() };
            host.add(net(text), Ban { expires_at_ns: LIVE_NS, ..throttle });
        }
        host.settle();
        host
    }

    /// A policy of its own; classes and guard claim nothing yet.
    pub(crate) fn with(settings: &Settings, allow: Vec<IpNet>, bans: Vec<(IpNet, Ban)>) -> Self {
        let mut host = Self {
            allow,
            blocks: Vec::new(),
            bans4: HashMap::new(),
            bans6: HashMap::new(),
            touched: vec![u64::MAX; TOUCHED_WORDS],
            classes: vec![Class::Any.pattern(); CLASS_WORDS],
            guard: vec![u64::MAX; GUARD_WORDS],
            whole_drops: 0,
            syns: 0,
            unclaimed_drops: 0,
            cells: vec![Cell::default(); settings.cell_mask as usize + 1],
            known: HashMap::new(),
            heartbeat_ns: NOW_NS,
            feed: Vec::new(),
            sockets: Sockets::default(),
            begin: None,
            claimed_until_ns: 0,
            claimed_lengths6: 0,
            front4: HashMap::new(),
            front6: HashMap::new(),
            front_drops: 0,
        };
        for (prefix, ban) in bans {
            host.add(prefix, ban);
        }
        host
    }

    fn add(&mut self, prefix: IpNet, ban: Ban) {
        let ban = Ban { prefix_bits: prefix.prefix_len(), ..ban };
        match prefix {
            IpNet::V4(net) if net.prefix_len() == 32 => {
                self.bans4.insert(net.addr().to_bits().to_be(), ban);
            }
            IpNet::V6(net) if net.prefix_len() == 64 => {
                self.bans6.insert(((net.addr().to_bits() >> 64) as u64).to_be(), ban);
            }
            _ => {
                // As in the kernel, a prefix has one entry.
                self.blocks.retain(|(known, _)| *known != prefix);
                self.blocks.push((prefix, ban));
            }
        }
    }

    /// Claims by classes and guard what the tables allow to claim.
    pub(crate) fn settle(&mut self) {
        let bans4 = self.bans4.iter().map(|(key, ban)| (Ipv4Addr::from_bits(u32::from_be(*key)).into(), ban));
        let bans6 = self
            .bans6
            .iter()
            .map(|(key, ban)| (Ipv6Addr::from_bits(u128::from(u64::from_be(*key)) << 64).into(), ban));
        let exact = bans4
            .chain(bans6)
            .map(|(address, ban): (IpAddr, _)| (IpNet::new(address, ban.prefix_bits).unwrap(), ban));
        let blocks =
            exact.chain(self.blocks.iter().map(|(prefix, ban)| (*prefix, ban))).map(|(prefix, ban)| {
                let for_good = ban.expires_at_ns == 0 && ban.action != THROTTLE;
                (prefix, if for_good { Effect::DropForGood } else { Effect::Look })
            });
        let (mut rules4, mut guard, mut touched) = (Vec::new(), vec![0; GUARD_WORDS], vec![0; TOUCHED_WORDS]);
        for (prefix, effect) in blocks.chain(self.allow.iter().map(|prefix| (*prefix, Effect::Allow))) {
            match prefix {
                IpNet::V4(net) => {
                    let address = net.network().to_bits();
                    rules4.push(Rule4 { address, prefix_bits: net.prefix_len(), effect });
                    class::touch4(address, net.prefix_len(), |word, bits| touched[word] |= bits);
                }
                IpNet::V6(net) => {
                    let upper = (net.network().to_bits() >> 64) as u64;
                    class::touch6(upper, net.prefix_len(), |word, bits| touched[word] |= bits);
                    class::guard(upper, net.prefix_len(), effect == Effect::Allow, |word, bit| {
                        guard[word] |= bit;
                    });
                }
            }
        }
        let mut classes = vec![0; CLASS_WORDS];
        classify24(&mut classes, &rules4);
        (self.classes, self.guard, self.touched) = (classes, guard, touched);
    }

    fn longest(&mut self, address: IpNet) -> Option<&mut Ban> {
        let holding = self.blocks.iter_mut().filter(|(prefix, _)| prefix.contains(&address));
        holding.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, ban)| ban)
    }

    /// Drops by the class of a /24, charged to their entries or not.
    pub(crate) fn dropped_whole(&self) -> u64 {
        self.whole_drops
    }

    /// Drops counted in all blocks.
    pub(crate) fn drops(&self) -> u64 {
        let bans =
            self.bans4.values().chain(self.bans6.values()).chain(self.blocks.iter().map(|(_, ban)| ban));
        bans.map(|ban| ban.drops).sum()
    }
}

fn net4(key: &PrefixKey4) -> IpNet {
    let address = Ipv4Addr::from_bits(u32::from_be(key.address[0]));
    IpNet::new(address.into(), key.prefix_bits as u8).unwrap()
}

fn net6(key: &PrefixKey6) -> IpNet {
    let words = key.address.map(u32::from_be);
    let bits = words.into_iter().fold(0, |bits: u128, word| bits << 32 | u128::from(word));
    IpNet::new(Ipv6Addr::from_bits(bits).into(), key.prefix_bits as u8).unwrap()
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
    fn touched_word(&self, index: u32) -> u64 {
        self.touched[index as usize]
    }

    fn class_word(&self, index: u32) -> u64 {
        self.classes[index as usize]
    }

    fn guard_word(&self, index: u32) -> u64 {
        self.guard[index as usize]
    }

    fn whole_drops(&mut self) -> &mut u64 {
        &mut self.whole_drops
    }

    fn unclaimed_drops(&mut self) -> &mut u64 {
        &mut self.unclaimed_drops
    }

    fn syns(&mut self) -> &mut u64 {
        &mut self.syns
    }

    fn allowed4(&self, key: &PrefixKey4) -> bool {
        self.allow.iter().any(|prefix| prefix.contains(&net4(key)))
    }

    fn allowed6(&self, key: &PrefixKey6) -> bool {
        self.allow.iter().any(|prefix| prefix.contains(&net6(key)))
    }

    fn claimed_until_ns(&self) -> u64 {
        self.claimed_until_ns
    }

    fn claimed_shift4(&self) -> u32 {
        0
    }

    fn claimed_shift6(&self) -> u32 {
        0
    }

    fn claimed_lengths6(&self) -> u64 {
        self.claimed_lengths6
    }

    fn front4(&self, line: u32) -> Option<&front::Line> {
        self.front4.get(&line)
    }

    fn front6(&self, line: u32) -> Option<&front::Line> {
        self.front6.get(&line)
    }

    fn front4_drops(&mut self, _: u32, _: u32) -> Option<&mut u8> {
        Some(&mut self.front_drops)
    }

    fn front6_drops(&mut self, _: u32, _: u32) -> Option<&mut u8> {
        Some(&mut self.front_drops)
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

    fn listed4(&self, source: u32) -> bool {
        let address = IpAddr::V4(source.into());
        self.feed.iter().any(|prefix| prefix.contains(&address))
    }

    fn listed6(&self, upper: u64, lower: u64) -> bool {
        let address = IpAddr::V6((u128::from(upper) << 64 | u128::from(lower)).into());
        self.feed.iter().any(|prefix| prefix.contains(&address))
    }

    fn limited(&self, port: u16) -> bool {
        PORTS.contains(&port)
    }

    fn cells(&mut self, first: u32, second: u32) -> Option<(&mut Cell, &mut Cell)> {
        let [first, second] = self.cells.get_disjoint_mut([first as usize, second as usize]).ok()?;
        Some((first, second))
    }

    fn known(&mut self, source: u64) -> Option<&mut Cell> {
        self.known.get_mut(&source)
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
