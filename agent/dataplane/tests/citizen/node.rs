//! Data planes of ours in namespaces, as the checks want them.

use std::net::SocketAddr;

use pnsbox_dataplane::{
    Dataplane, DropReason, DscpPolicy, HandshakeClock, PathConfig, PeerConfig, PeerCounters,
    ProtocolCore, PublicKey, Settings, Snapshot, public_key, tun,
};

use crate::net::Net;

/// The interface of every node.
pub(crate) const INTERFACE: &str = "t0";
/// The port of every node.
pub(crate) const PORT: u16 = 51820;

/// One side's data plane.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) plane: Dataplane,
    pub(crate) private: [u8; 32],
}

impl Node {
    /// Starts one with these inner addresses; `number` is its key.
    pub(crate) fn up(net: &Net, side: &str, number: u8, addresses: &[&str], mtu: u16) -> Self {
        let private = [number; 32];
        let plane = net.enter(side, || {
            Dataplane::start(Settings {
                tun: tun::open(INTERFACE).unwrap(),
                private_key: private.into(),
                listen: PORT,
                fwmark: 0,
                mtu,
                core: ProtocolCore::Native,
                clock: HandshakeClock::new(None),
                dscp: DscpPolicy::default(),
            })
            .unwrap()
        });
        for address in addresses {
            let no_wait = if address.contains(':') { " nodad" } else { "" };
            net.ip(
                side,
                &format!("address add {address} dev {INTERFACE}{no_wait}"),
            );
        }
        net.ip(side, &format!("link set {INTERFACE} mtu {mtu} up"));
        Self { plane, private }
    }

    pub(crate) fn key(&self) -> PublicKey {
        public_key(&self.private)
    }

    /// Its peers are these.
    pub(crate) fn set(&self, peers: Vec<PeerConfig>) {
        let relays = Vec::new();
        self.plane.apply(Snapshot { peers, relays }).unwrap();
    }

    /// The counters of its peer.
    pub(crate) fn peer(&self, key: PublicKey) -> PeerCounters {
        let counters = self.plane.counters();
        let peer = counters.peers.into_iter().find(|p| p.public_key == key);
        peer.expect("the peer is in the snapshot")
    }

    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        let drops = self.plane.counters().drops;
        drops.into_iter().find(|(r, _)| *r == reason).unwrap().1
    }
}

/// A peer as others see it.
pub(crate) fn peer(key: PublicKey, prefixes: &[&str], path: PathConfig) -> PeerConfig {
    let allowed_prefixes = prefixes.iter().map(|prefix| prefix.parse().unwrap());
    PeerConfig {
        public_key: key,
        allowed_prefixes: allowed_prefixes.collect(),
        path,
        persistent_keepalive: None,
    }
}

/// Straight to this address.
pub(crate) fn at(address: &str) -> PathConfig {
    let address: SocketAddr = address.parse().unwrap();
    PathConfig::Direct(address)
}
