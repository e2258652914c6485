//! What addresses may be, whoever says so: overlay addresses, and prefixes that cannot be a LAN of anybody.
//!
//! An overlay IPv6 address follows from a key and the network's root: nobody need be told it.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::key::{Digest, IdentityKey, WireguardKey};

/// Overlay IPv6 addresses of the network with this root: `fd`, then 40 bits of the root's fingerprint as the global
/// identifier (RFC 4193 section 3.1).
pub fn overlay_v6(root: &IdentityKey) -> Ipv6Net {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&root.fingerprint().0[..5]);
    Ipv6Net::new_assert(Ipv6Addr::from(octets), 48)
}

/// A node's: the network's 48 bits, then 80 of the fingerprint of its identity key.
pub fn node_v6(root: &IdentityKey, identity: &IdentityKey) -> Ipv6Addr {
    with_fingerprint(root, identity.fingerprint())
}

/// The same for a plain WireGuard device, which has no other key: its bits are of SHA-256 of its WireGuard key.
pub fn device_v6(root: &IdentityKey, wireguard: &WireguardKey) -> Ipv6Addr {
    with_fingerprint(root, Digest::of(wireguard.as_bytes()))
}

/// Ranges that a pool of overlay IPv4 addresses may lie in: RFC 1918, and the shared space of RFC 6598.
const POOL_RANGES: [Ipv4Net; 4] = [
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
];

/// Whether a pool of overlay IPv4 addresses is nobody's public space.
pub fn may_be_pool(pool: &Ipv4Net) -> bool {
    POOL_RANGES.iter().any(|range| range.contains(pool))
}

/// Ranges that are on no LAN which others could reach: loopback, link-local, multicast, unspecified.
const NEVER_V4: [Ipv4Net; 4] = [
    Ipv4Net::new_assert(Ipv4Addr::LOCALHOST, 8),
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4),
    Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 8),
];

/// The same, and IPv4 addresses in their IPv6 form (RFC 4291 section 2.5.5), which no router knows.
const NEVER_V6: [Ipv6Net; 4] = [
    Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 96),
    Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

/// Whether two prefixes share an address.
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// Why a prefix cannot be a LAN of anybody, if it cannot.
pub fn never_a_lan(prefix: &IpNet) -> Option<&'static str> {
    let mapped = NEVER_V6[1];
    let is_in = |special: IpNet| overlap(&special, prefix);
    if prefix.prefix_len() == 0 {
        Some("a default route is no LAN")
    } else if is_in(mapped.into()) {
        Some("an IPv4 prefix inside IPv6 is written as IPv4")
    } else if NEVER_V4.into_iter().any(|net| is_in(net.into()))
        || NEVER_V6.into_iter().any(|net| is_in(net.into()))
    {
        Some("loopback, link-local, multicast and unspecified addresses are no LAN")
    } else {
        None
    }
}

fn with_fingerprint(root: &IdentityKey, fingerprint: Digest) -> Ipv6Addr {
    let mut octets = overlay_v6(root).addr().octets();
    octets[6..].copy_from_slice(&fingerprint.0[..10]);
    octets.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_keys_share_the_networks_48_bits() {
        let root = IdentityKey([1; 32]);
        let (a, b) = (
            node_v6(&root, &IdentityKey([2; 32])),
            node_v6(&root, &IdentityKey([3; 32])),
        );
        assert_eq!(a.octets()[0], 0xfd);
        assert_eq!(a.octets()[..6], b.octets()[..6]);
        assert_ne!(a, b);
        let device = device_v6(&root, &WireguardKey([4; 32]));
        assert_eq!(a.octets()[..6], device.octets()[..6]);
        assert_ne!(device, device_v6(&root, &WireguardKey([5; 32])));
    }

    #[test]
    fn what_is_on_no_lan_is_refused_however_it_is_cut() {
        for (prefix, word) in [
            ("0.0.0.0/0", "default"),
            ("::/0", "default"),
            ("127.3.0.0/16", "loopback"),
            ("::1/128", "loopback"),
            ("169.254.7.0/24", "link-local"),
            ("169.0.0.0/8", "link-local"),
            ("fe80:1::/64", "link-local"),
            ("fe80::/9", "link-local"),
            ("239.1.0.0/16", "multicast"),
            ("ff00::/8", "multicast"),
            ("::ffff:10.0.0.0/104", "written as IPv4"),
        ] {
            let rule = never_a_lan(&prefix.parse().unwrap());
            assert!(
                rule.is_some_and(|rule| rule.contains(word)),
                "{prefix}: {rule:?}"
            );
        }
        for prefix in [
            "10.0.0.0/8",
            "169.253.0.0/16",
            "192.168.1.0/24",
            "fd00::/8",
            "2001:db8::/32",
            "2000::/3",
        ] {
            assert_eq!(
                never_a_lan(&prefix.parse().unwrap()),
                None,
                "{prefix} is fine"
            );
        }
    }
}
