//! Two data planes of ours with a tunnel between two namespaces.

use std::net::{Ipv4Addr, SocketAddr};

use pnsbox_dataplane::snapshot::{PathConfig, PeerConfig, Snapshot};
use pnsbox_dataplane::{
    Dataplane, DscpPolicy, HandshakeClock, ProtocolCore, Settings, public_key, tun,
};

use crate::net::{Net, OUTER_B, wait};

/// Inner address of side a.
pub(crate) const INNER_A: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
/// Inner address of side b.
pub(crate) const INNER_B: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 2);
/// Of the inner interfaces, in bytes.
pub(crate) const MTU: u16 = 1420;
/// Name of the inner interfaces.
pub(crate) const TUNNEL: &str = "t0";
/// Private keys of both.
pub(crate) const KEYS: [[u8; 32]; 2] = [[1; 32], [2; 32]];
/// UDP port of both.
pub(crate) const PORT: u16 = 51820;

/// Both ends of a tunnel.
#[derive(Debug)]
pub(crate) struct Planes {
    /// Of side a, which knows where b is.
    pub(crate) a: Dataplane,
    /// Of side b.
    pub(crate) b: Dataplane,
}

impl Planes {
    /// Starts both and waits for the tunnel.
    pub(crate) fn up(net: &Net, dscp: DscpPolicy) -> Self {
        let start = |side: &'static str, own: usize, address: Ipv4Addr| {
            let plane = net.enter(side, || {
                let tun = tun::open(TUNNEL).unwrap();
                Dataplane::start(Settings {
                    tun,
                    private_key: KEYS[own].into(),
                    listen: PORT,
                    fwmark: 0,
                    mtu: MTU,
                    core: ProtocolCore::default(),
                    clock: HandshakeClock::new(None),
                    dscp,
                })
                .unwrap()
            });
            net.ip(side, &format!("address add {address}/24 dev {TUNNEL}"));
            net.ip(side, &format!("link set {TUNNEL} mtu {MTU} up"));
            plane
        };
        let planes = Self {
            a: start("a", 0, INNER_A),
            b: start("b", 1, INNER_B),
        };
        let peer = |other: usize, address: Ipv4Addr, path| Snapshot {
            peers: vec![PeerConfig {
                public_key: public_key(&KEYS[other]),
                allowed_prefixes: vec![format!("{address}/32").parse().unwrap()],
                path,
                persistent_keepalive: None,
            }],
            relays: Vec::new(),
        };
        let there = SocketAddr::new(OUTER_B.parse().unwrap(), PORT);
        let direct = PathConfig::Direct(there);
        planes
            .b
            .apply(peer(0, INNER_A, PathConfig::Passive))
            .unwrap();
        planes.a.apply(peer(1, INNER_B, direct)).unwrap();
        wait("the tunnel stands", || {
            let ping = format!("ping -nq -W 2 -c 1 {INNER_B}");
            net.run("a", &ping).status.success()
        });
        planes
    }
}
