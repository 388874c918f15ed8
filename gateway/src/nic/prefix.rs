//! Prefixes as the maps' keys. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::maps::lpm_trie::Key;
use gateway_ebpf::layout::{NoteKey, Settings};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    maps::{Key4, Key6},
    settings::{mask_v4, mask_v6},
};

/// Where a block lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// `BANS4`
    Source4(u32),
    /// `BANS6`
    Source6(u64),
    /// `BLOCK4`
    Prefix4(Ipv4Net),
    /// `BLOCK6`
    Prefix6(Ipv6Net),
}

/// A prefix that is exactly one source lies in the hash, any other in the trie.
pub(super) fn place(prefix: IpNet, settings: &Settings) -> Place {
    match canonical(prefix) {
        IpNet::V4(net) if mask_v4(net.prefix_len()) == settings.source_mask_v4 => {
            Place::Source4(net.network().to_bits().to_be())
        }
        IpNet::V6(net) if net.prefix_len() <= 64 && mask_v6(net.prefix_len()) == settings.source_mask_v6 => {
            Place::Source6(upper(net.network()).to_be())
        }
        IpNet::V4(net) => Place::Prefix4(net),
        IpNet::V6(net) => Place::Prefix6(net),
    }
}

/// Host bits cleared; `::ffff:a.b.c.d` is the IPv4 address that a dual-stack socket saw.
pub(super) fn canonical(prefix: IpNet) -> IpNet {
    if let IpNet::V6(net) = prefix
        && net.prefix_len() >= 96
        && let Some(address) = net.addr().to_ipv4_mapped()
        && let Ok(net) = Ipv4Net::new(address, net.prefix_len() - 96)
    {
        return IpNet::V4(net.trunc());
    }
    prefix.trunc()
}

/// The source that an address belongs to.
pub(super) fn source_of(address: IpAddr, settings: &Settings) -> IpNet {
    let bits = match address.to_canonical() {
        IpAddr::V4(_) => settings.source_mask_v4.count_ones(),
        IpAddr::V6(_) => settings.source_mask_v6.count_ones(),
    };
    let bits = u8::try_from(bits).unwrap_or_default();
    IpNet::new(address.to_canonical(), bits).unwrap_or(address.into()).trunc()
}

pub(super) fn key4(net: Ipv4Net) -> Key4 {
    Key::new(net.prefix_len().into(), [net.network().to_bits().to_be(), 0])
}

pub(super) fn key6(net: Ipv6Net) -> Key6 {
    let bits = net.network().to_bits();
    #[expect(clippy::cast_possible_truncation, reason = "each word is the lowest 32 bits of a shift")]
    let word = |shift: u32| ((bits >> shift) as u32).to_be();
    Key::new(net.prefix_len().into(), [word(96), word(64), word(32), word(0)])
}

/// `None`: no key of ours.
pub(super) fn net4(key: &Key4) -> Option<Ipv4Net> {
    let [address, _] = key.data();
    Ipv4Net::new(Ipv4Addr::from_bits(u32::from_be(address)), key.prefix_len().try_into().ok()?).ok()
}

/// `None`: no key of ours.
pub(super) fn net6(key: &Key6) -> Option<Ipv6Net> {
    let bits = key.data().into_iter().fold(0, |bits: u128, word| bits << 32 | u128::from(u32::from_be(word)));
    Ipv6Net::new(Ipv6Addr::from_bits(bits), key.prefix_len().try_into().ok()?).ok()
}

/// The prefix behind the bytes of a key of `BLOCK4`: its length, then the address.
pub(super) fn trie4(key: &[u8]) -> Option<IpNet> {
    let (bits, address) = (key.first_chunk::<4>()?, key.get(4..)?.first_chunk::<4>()?);
    let bits = u8::try_from(u32::from_ne_bytes(*bits)).ok()?;
    Some(Ipv4Net::new(Ipv4Addr::from(*address), bits).ok()?.into())
}

/// As [`trie4`], of `BLOCK6`.
pub(super) fn trie6(key: &[u8]) -> Option<IpNet> {
    let (bits, address) = (key.first_chunk::<4>()?, key.get(4..)?.first_chunk::<16>()?);
    let bits = u8::try_from(u32::from_ne_bytes(*bits)).ok()?;
    Some(Ipv6Net::new(Ipv6Addr::from(*address), bits).ok()?.into())
}

/// The source behind a key of `BANS4`.
pub(super) fn source4(key: u32, prefix_bits: u8) -> Option<IpNet> {
    Some(Ipv4Net::new(Ipv4Addr::from_bits(u32::from_be(key)), prefix_bits).ok()?.into())
}

/// The source behind a key of `BANS6`.
pub(super) fn source6(key: u64, prefix_bits: u8) -> Option<IpNet> {
    let address = Ipv6Addr::from_bits(u128::from(u64::from_be(key)) << 64);
    Some(Ipv6Net::new(address, prefix_bits).ok()?.into())
}

pub(super) fn note_key(prefix: IpNet) -> NoteKey {
    match canonical(prefix) {
        IpNet::V4(net) => NoteKey {
            address: net.network().to_ipv6_mapped().octets(),
            prefix_bits: u32::from(net.prefix_len()) + 96,
        },
        IpNet::V6(net) => NoteKey { address: net.network().octets(), prefix_bits: net.prefix_len().into() },
    }
}

/// The upper half of an address.
pub(super) fn upper(address: Ipv6Addr) -> u64 {
    (address.to_bits() >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn one_source_goes_to_the_hash_and_the_rest_to_the_trie() {
        #[track_caller]
        fn check(settings: &Settings, prefix: &str, exact: bool) {
            let exact_place = matches!(place(net(prefix), settings), Place::Source4(_) | Place::Source6(_));
            assert_eq!(exact_place, exact, "{prefix}");
        }
        let settings = Settings { source_mask_v4: u32::MAX, source_mask_v6: u64::MAX, ..Settings::default() };
        check(&settings, "192.0.2.1/32", true);
        check(&settings, "192.0.2.0/31", false);
        check(&settings, "::ffff:192.0.2.1/128", true);
        check(&settings, "2001:db8::/64", true);
        check(&settings, "2001:db8::1/128", false);
        check(&settings, "2001:db8::/48", false);
        let wide = Settings { source_mask_v4: mask_v4(24), source_mask_v6: mask_v6(48), ..settings };
        check(&wide, "192.0.2.1/24", true);
        check(&wide, "192.0.2.1/32", false);
        check(&wide, "2001:db8:1::/48", true);
        check(&wide, "2001:db8:1::/64", false);
    }

    #[test]
    fn keys_come_back_as_the_prefixes_that_they_were_made_of() {
        for text in ["0.0.0.0/0", "192.0.2.0/25", "198.51.100.7/32"] {
            let IpNet::V4(prefix) = net(text) else { unreachable!() };
            assert_eq!(net4(&key4(prefix)), Some(prefix));
        }
        for text in ["::/0", "2001:db8::/33", "2001:db8:1:2:3:4:5:6/128"] {
            let IpNet::V6(prefix) = net(text) else { unreachable!() };
            assert_eq!(net6(&key6(prefix)), Some(prefix));
        }
        assert_eq!(key4("192.0.2.1/32".parse().unwrap()).data()[0].to_ne_bytes(), [192, 0, 2, 1]);
    }

    #[test]
    fn a_key_can_be_read_from_its_bytes() {
        let bytes = |bits: u32, address: &[u8]| [&bits.to_ne_bytes(), address].concat();
        assert_eq!(trie4(&bytes(24, &[192, 0, 2, 0, 0, 0, 0, 0])), Some(net("192.0.2.0/24")));
        let address = "2001:db8:1::".parse::<Ipv6Addr>().unwrap();
        assert_eq!(trie6(&bytes(48, &address.octets())), Some(net("2001:db8:1::/48")));
        assert_eq!(trie4(&bytes(33, &[192, 0, 2, 0])), None);
        assert_eq!(trie4(&[24, 0, 0, 0, 192]), None);
    }

    #[test]
    fn an_address_belongs_to_a_source() {
        let settings =
            Settings { source_mask_v4: mask_v4(24), source_mask_v6: mask_v6(64), ..Settings::default() };
        assert_eq!(source_of("192.0.2.77".parse().unwrap(), &settings), net("192.0.2.0/24"));
        assert_eq!(source_of("::ffff:192.0.2.77".parse().unwrap(), &settings), net("192.0.2.0/24"));
        assert_eq!(source_of("2001:db8::77".parse().unwrap(), &settings), net("2001:db8::/64"));
    }
}
