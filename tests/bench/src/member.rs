//! Who the hub and its peers are: keys and addresses, the same in both programs, from a peer's number.
//! The keys are no secrets and protect nothing.

use std::net::Ipv4Addr;

use boringtun::x25519::{PublicKey, StaticSecret};

/// Highest number of peers that the addresses below can hold.
pub(crate) const MOST_PEERS: u16 = 10_000;

/// The hub's private key.
pub(crate) const HUB_KEY: [u8; 32] = [7; 32];

/// Where every peer's inner packets go: behind the hub, and nobody there has it.
pub(crate) const DESTINATION: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// A peer's private key.
pub(crate) fn private_key(peer: u16) -> StaticSecret {
    let mut bytes = [9; 32];
    // Not at the ends, where some bits of a key do not count (RFC 7748, section 5).
    bytes[8..10].copy_from_slice(&peer.to_be_bytes());
    bytes.into()
}

/// A peer's public key.
pub(crate) fn public_key(peer: u16) -> [u8; 32] {
    PublicKey::from(&private_key(peer)).to_bytes()
}

/// A peer's address outside the tunnel: the network for benchmarks (RFC 2544, appendix C.2.2).
pub(crate) fn outer_address(peer: u16) -> Ipv4Addr {
    let [high, low] = peer.to_be_bytes();
    Ipv4Addr::new(198, 18, high, low)
}

/// A peer's address inside the tunnel.
pub(crate) fn inner_address(peer: u16) -> Ipv4Addr {
    let [high, low] = peer.to_be_bytes();
    Ipv4Addr::new(10, 97, high, low)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_peers_share_a_key_or_an_address() {
        let keys: BTreeSet<_> = (0..1000).map(public_key).collect();
        let addresses: BTreeSet<_> = (0..1000).map(outer_address).collect();
        assert_eq!((keys.len(), addresses.len()), (1000, 1000));
    }
}
