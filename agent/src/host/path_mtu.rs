//! What the data plane found out about paths, as MTUs of routes. It probes nothing itself.

use std::collections::BTreeMap;

use ipnet::IpNet;
use pnsbox_agent_core::host::HostConfig;
use pnsbox_dataplane::{PeerCounters, PublicKey};

/// Paths that carry less than the interface does, by peer, in bytes of inner packets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PathMtus(BTreeMap<PublicKey, u16>);

impl PathMtus {
    /// Of these peers, over an interface with this MTU.
    pub(super) fn of(peers: &[PeerCounters], interface: u16) -> Self {
        let narrow = peers.iter().filter_map(|peer| {
            let mtu = peer.path_mtu.filter(|mtu| *mtu < interface)?;
            Some((peer.public_key, mtu))
        });
        Self(narrow.collect())
    }

    /// Peers whose paths carry less than the interface.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Destinations whose routes have an MTU of their own.
    pub(super) fn by_destination(&self, config: &HostConfig) -> BTreeMap<IpNet, u16> {
        let tunnels = config.tunnels.iter().filter_map(|tunnel| {
            let mtu = *self.0.get(&tunnel.key.0)?;
            Some(
                tunnel
                    .allowed_prefixes
                    .iter()
                    .map(move |net| (net.trunc(), mtu)),
            )
        });
        tunnels.flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use pnsbox_agent_core::host::{Tunnel, TunnelPath};
    use pnsbox_proto::key::WireguardKey;

    use super::*;

    fn peer(key: u8, path_mtu: Option<u16>) -> PeerCounters {
        PeerCounters {
            public_key: [key; 32],
            path_mtu,
            ..PeerCounters::default()
        }
    }

    #[test]
    fn only_destinations_behind_narrower_paths_have_an_mtu() {
        let tunnel = |key, prefixes: [&str; 2]| Tunnel {
            key: WireguardKey([key; 32]),
            allowed_prefixes: prefixes.map(|prefix| prefix.parse().unwrap()).to_vec(),
            path: TunnelPath::Passive,
            keepalive: false,
        };
        let config = HostConfig {
            tunnels: vec![
                tunnel(1, ["10.1.0.0/16", "fd01::/64"]),
                tunnel(2, ["10.2.0.0/16", "fd02::/64"]),
                tunnel(3, ["10.3.0.0/16", "fd03::/64"]),
            ],
            ..HostConfig::default()
        };
        let peers = [
            peer(1, Some(1296)),
            peer(2, Some(1380)),
            peer(3, None),
            peer(4, Some(1280)),
        ];
        let mtus = PathMtus::of(&peers, 1380).by_destination(&config);
        let expected = ["10.1.0.0/16", "fd01::/64"].map(|net| (net.parse().unwrap(), 1296));
        assert_eq!(mtus, BTreeMap::from(expected));
    }
}
