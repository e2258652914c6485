//! The nodes of the datagrams' world: their keys, addresses, planes and packets.

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use arbitrary::Unstructured;
use pnsbox_dataplane::fuzz::MemoryPlane;
use pnsbox_dataplane::{
    DscpPolicy, PathConfig, PeerConfig, ProtocolCore, PublicKey, RelayChannel, Snapshot, public_key,
};

use crate::fuzz::below;
use crate::fuzz::network::known;

/// The node under test; a peer straight to it, a member of its relay; a peer that it reaches through that one;
/// a node that knows it and is not known.
pub(super) const US: usize = 0;
pub(super) const PEER: usize = 1;
pub(super) const MEMBER: usize = 2;
pub(super) const BEHIND: usize = 3;
pub(super) const UNKNOWN: usize = 4;
pub(super) const NODES: usize = 5;

/// The channel that we relay for [`PEER`] and [`MEMBER`], and the one through which we reach [`BEHIND`].
pub(super) const OURS: u32 = 5;
pub(super) const THEIRS: u32 = 7;

pub(super) const MTU: u16 = 1380;

pub(super) fn plane(node: usize, now: Instant) -> MemoryPlane {
    // Some of the others speak as we do, some with the other core.
    let core = match node {
        US | MEMBER => ProtocolCore::Native,
        _ => ProtocolCore::Boringtun,
    };
    let plane = MemoryPlane::new(SECRETS[node], core, DSCP[node], MTU, node as u64, now);
    if node == US {
        return plane;
    }
    let mut peers = vec![peer(US, PathConfig::Direct(address(US)))];
    let mut relays = Vec::new();
    if node == PEER {
        peers[0].persistent_keepalive = Some(Duration::from_secs(25));
        peers.push(peer(BEHIND, PathConfig::Passive));
        relays.push(RelayChannel {
            channel: THEIRS,
            members: [KEYS[US], KEYS[BEHIND]],
        });
    }
    let snapshot = Snapshot { peers, relays };
    plane
        .apply(&snapshot, now)
        .expect("a right snapshot is applied");
    plane
}

pub(super) fn peer(node: usize, path: PathConfig) -> PeerConfig {
    PeerConfig {
        public_key: KEYS[node],
        allowed_prefixes: if node == US {
            vec![known("10.0.0.0/8")]
        } else {
            vec![lan(node)]
        },
        path,
        persistent_keepalive: None,
    }
}

pub(super) fn lan(node: usize) -> ipnet::IpNet {
    known(&format!("10.0.{node}.0/24"))
}

pub(super) fn address(node: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, node as u8 + 1], 51820))
}

/// Where a datagram comes from: a node's address, or one that is nobody's.
pub(super) fn source(bytes: &mut Unstructured<'_>) -> SocketAddr {
    match below(bytes, NODES + 1) {
        US => SocketAddr::from(([198, 51, 100, 9], 4000)),
        node => address(node),
    }
}

/// An IPv4 packet between LANs of two nodes.
pub(super) fn packet(from: usize, to: usize, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(1400)];
    let length = u16::try_from(20 + payload.len())
        .unwrap_or(20)
        .to_be_bytes();
    let mut packet = vec![0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, 253, 0, 0];
    packet.extend([10, 0, from as u8, 1, 10, 0, to as u8, 1]);
    packet.extend(payload);
    packet
}

/// The source of an IPv4 packet whose length is possible (RFC 791 section 3.1).
pub(super) fn source_of(packet: &[u8]) -> Option<IpAddr> {
    let header = packet.first_chunk::<20>()?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let is_right = header[0] >> 4 == 4 && (20..=packet.len()).contains(&length);
    is_right.then(|| IpAddr::from([header[12], header[13], header[14], header[15]]))
}

/// Channel and content of a relay frame, read from its description.
pub(super) fn as_frame(datagram: &[u8]) -> Option<(u32, &[u8])> {
    let (header, inner) = datagram.split_first_chunk::<8>()?;
    let channel = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    (header[..4] == [0x70, 0, 0, 0]).then_some((channel, inner))
}

/// What each node shows of classes.
pub(super) const DSCP: [DscpPolicy; NODES] = [
    DscpPolicy::Map,
    DscpPolicy::Copy,
    DscpPolicy::None,
    DscpPolicy::Copy,
    DscpPolicy::Copy,
];

/// Secret keys by node.
pub(super) const SECRETS: [[u8; 32]; NODES] = [[11; 32], [12; 32], [13; 32], [14; 32], [15; 32]];

pub(super) static KEYS: LazyLock<[PublicKey; NODES]> =
    LazyLock::new(|| SECRETS.map(|secret| public_key(&secret)));

/// Every run begins at the same moment; boringtun's own clock goes on.
pub(super) static START: LazyLock<Instant> = LazyLock::new(Instant::now);
