//! A [`HostConfig`] in the data plane's words.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use pnsbox_agent_core::host::{HostConfig, Tunnel, TunnelPath};
use pnsbox_dataplane::PeerCounters;
use pnsbox_dataplane::snapshot::{PathConfig, PeerConfig, RelayChannel, Snapshot};

use super::netlink::FWMARK;
use crate::uapi::text::{self as uapi, Device};

/// What the data plane is told.
pub(super) fn snapshot(config: &HostConfig) -> Snapshot {
    let relays = config.relays.iter().map(|relay| RelayChannel {
        channel: relay.channel,
        members: relay.members.map(|member| member.0),
    });
    Snapshot {
        peers: config.tunnels.iter().map(peer).collect(),
        relays: relays.collect(),
    }
}

fn peer(tunnel: &Tunnel) -> PeerConfig {
    PeerConfig {
        public_key: tunnel.key.0,
        allowed_prefixes: tunnel.allowed_prefixes.clone(),
        path: match tunnel.path {
            TunnelPath::Passive => PathConfig::Passive,
            TunnelPath::Direct(endpoint) => PathConfig::Direct(endpoint),
            TunnelPath::Relay { via, channel } => PathConfig::Relay {
                via: via.0,
                channel,
            },
        },
        persistent_keepalive: tunnel.keepalive.then_some(KEEPALIVE),
    }
}

/// What the data plane does, in WireGuard's words.
pub(super) fn device(config: &HostConfig, listen_port: u16, counted: &[PeerCounters]) -> Device {
    let counted: BTreeMap<_, _> = counted.iter().map(|peer| (peer.public_key, peer)).collect();
    let peers = config.tunnels.iter().filter_map(|tunnel| {
        let peer = counted.get(&tunnel.key.0)?;
        Some(uapi::Peer {
            public_key: peer.public_key,
            endpoint: peer.endpoint.filter(|_| !peer.relayed),
            allowed_prefixes: tunnel.allowed_prefixes.clone(),
            // By the wall clock as it is set now.
            last_handshake: peer
                .last_handshake
                .map(|at| SystemTime::now() - at.elapsed()),
            rx_bytes: peer.rx_wire_bytes,
            tx_bytes: peer.tx_wire_bytes,
            persistent_keepalive: if tunnel.keepalive {
                KEEPALIVE.as_secs()
            } else {
                0
            },
        })
    });
    Device {
        listen_port,
        fwmark: FWMARK,
        peers: peers.collect(),
    }
}

/// The interval that WireGuard's own documentation gives for NAT: below the 30 s of impatient ones.
const KEEPALIVE: Duration = Duration::from_secs(25);

#[cfg(test)]
mod tests {
    use pnsbox_agent_core::host::Relay;
    use pnsbox_proto::key::WireguardKey;

    use super::*;

    #[test]
    fn every_path_and_relay_is_said() {
        let key = |n| WireguardKey([n; 32]);
        let tunnel = |n, path, keepalive| Tunnel {
            key: key(n),
            allowed_prefixes: vec!["10.44.1.0/24".parse().unwrap()],
            path,
            keepalive,
        };
        let endpoint = "203.0.113.30:51820".parse().unwrap();
        let snapshot = snapshot(&HostConfig {
            tunnels: vec![
                tunnel(1, TunnelPath::Passive, false),
                tunnel(2, TunnelPath::Direct(endpoint), true),
                tunnel(
                    3,
                    TunnelPath::Relay {
                        via: key(2),
                        channel: 7,
                    },
                    false,
                ),
            ],
            relays: vec![Relay {
                channel: 9,
                members: [key(1), key(2)],
            }],
            ..HostConfig::default()
        });
        let paths: Vec<_> = snapshot
            .peers
            .iter()
            .map(|p| (p.path.clone(), p.persistent_keepalive))
            .collect();
        assert_eq!(
            paths,
            [
                (PathConfig::Passive, None),
                (PathConfig::Direct(endpoint), Some(Duration::from_secs(25))),
                (
                    PathConfig::Relay {
                        via: [2; 32],
                        channel: 7
                    },
                    None
                ),
            ]
        );
        assert_eq!(
            snapshot.relays,
            [RelayChannel {
                channel: 9,
                members: [[1; 32], [2; 32]]
            }]
        );
    }
}
