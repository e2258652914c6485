//! Overlay addresses: IPv4 from the operator's pool, IPv6 from keys.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv4Net;
use pnsbox_proto::key::{Digest, IdentityKey, WireguardKey};

use crate::registry::overlay_v6;

/// The first free address of the lowest three quarters of the pool; the top quarter is kept for services.
///
/// Addresses that end in .0 are skipped: old software takes them for networks.
pub fn next_v4(pool: Ipv4Net, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    let base = u32::from(pool.network());
    let size = 1u64 << (32 - u32::from(pool.prefix_len()));
    let end = u32::try_from(size / 4 * 3).ok()?;
    (1..end)
        .map(|offset| Ipv4Addr::from(base + offset))
        .find(|address| address.octets()[3] != 0 && !taken.contains(address))
}

/// The network's 48 bits, then 80 of the node's fingerprint.
pub fn v6(root: &IdentityKey, identity: &IdentityKey) -> Ipv6Addr {
    with_fingerprint(root, identity.fingerprint())
}

/// The same for a device, which has no other key: its bits are of SHA-256 of its WireGuard key.
pub fn external_v6(root: &IdentityKey, wireguard: &WireguardKey) -> Ipv6Addr {
    with_fingerprint(root, Digest::of(wireguard.as_bytes()))
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
    fn addresses_fill_three_quarters_without_the_zeros() {
        let pool: Ipv4Net = "100.127.0.0/22".parse().unwrap();
        let mut taken = BTreeSet::new();
        while let Some(address) = next_v4(pool, &taken) {
            assert!(taken.insert(address));
        }
        // 768 addresses are three quarters; .0.0, .1.0 and .2.0 are skipped.
        assert_eq!(taken.len(), 765);
        assert_eq!(taken.first(), Some(&"100.127.0.1".parse().unwrap()));
        assert_eq!(taken.last(), Some(&"100.127.2.255".parse().unwrap()));
        taken.remove(&"100.127.1.7".parse().unwrap());
        assert_eq!(next_v4(pool, &taken), Some("100.127.1.7".parse().unwrap()));
    }

    #[test]
    fn addresses_of_keys_share_the_networks_48_bits() {
        let root = IdentityKey([1; 32]);
        let (a, b) = (
            v6(&root, &IdentityKey([2; 32])),
            v6(&root, &IdentityKey([3; 32])),
        );
        assert_eq!(a.octets()[0], 0xfd);
        assert_eq!(a.octets()[..6], b.octets()[..6]);
        assert_ne!(a, b);
        let device = external_v6(&root, &WireguardKey([4; 32]));
        assert_eq!(a.octets()[..6], device.octets()[..6]);
        assert_ne!(device, external_v6(&root, &WireguardKey([5; 32])));
    }
}
