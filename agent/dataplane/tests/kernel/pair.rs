//! Our data plane on side a, an interface of the kernel's on side b, and what is asked of both.

use std::fs;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pnsbox_dataplane::snapshot::{PathConfig, PeerConfig, PublicKey, Snapshot};
use pnsbox_dataplane::{
    Dataplane, DropReason, DscpPolicy, HandshakeClock, PeerCounters, ProtocolCore, Settings,
    generate_private_key, public_key, tun,
};

use crate::net::{Net, OUTER_A, OUTER_B, UPLINK, wait};

/// Inner addresses, IPv4 and IPv6.
pub(crate) const INNER_OURS: [&str; 2] = ["10.200.0.1", "fd00:200::1"];
pub(crate) const INNER_KERNEL: [&str; 2] = ["10.200.0.2", "fd00:200::2"];
/// Outer addresses, IPv4 and IPv6.
pub(crate) const OUTER_OURS: [&str; 2] = [OUTER_A, "2001:db8:2::1"];
pub(crate) const OUTER_KERNEL: [&str; 2] = [OUTER_B, "2001:db8:2::2"];
/// UDP port of both.
pub(crate) const PORT: u16 = 51820;
/// Of the inner interfaces, in bytes: what the kernel takes by itself on Ethernet.
pub(crate) const MTU: u16 = 1420;
/// The inner interface on our side.
pub(crate) const TUN: &str = "t0";
/// The kernel's interface.
pub(crate) const KERNEL: &str = "wg0";

/// Who of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Ours,
    Kernel,
}

impl Side {
    /// Its name in [`Net`].
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "a",
            Self::Kernel => "b",
        }
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::Ours => Self::Kernel,
            Self::Kernel => Self::Ours,
        }
    }

    /// Its inner addresses, IPv4 and IPv6.
    pub(crate) fn inner(self) -> [&'static str; 2] {
        match self {
            Self::Ours => INNER_OURS,
            Self::Kernel => INNER_KERNEL,
        }
    }
}

/// Both ends of a tunnel.
pub(crate) struct Pair {
    pub(crate) net: Net,
    core: ProtocolCore,
    our_key: [u8; 32],
    kernel_key: [u8; 32],
    plane: Option<Dataplane>,
}

impl Pair {
    /// Two hosts with addresses and keys; no tunnel.
    pub(crate) fn bare(core: ProtocolCore) -> Self {
        let net = Net::up();
        for (side, address) in [("a", OUTER_OURS[1]), ("b", OUTER_KERNEL[1])] {
            net.ip(
                side,
                &format!("address add {address}/64 dev {UPLINK} nodad"),
            );
        }
        Self {
            net,
            core,
            our_key: generate_private_key().unwrap(),
            kernel_key: generate_private_key().unwrap(),
            plane: None,
        }
    }

    /// Both ends stand, and `first` knows where the other is; nothing was sent yet.
    pub(crate) fn up(core: ProtocolCore, first: Side) -> Self {
        let mut pair = Self::bare(core);
        let endpoint = (first == Side::Kernel).then_some(outer(OUTER_OURS[0]));
        pair.start_kernel(endpoint);
        pair.start_ours();
        pair.apply(match first {
            Side::Ours => PathConfig::Direct(outer(OUTER_KERNEL[0])),
            Side::Kernel => PathConfig::Passive,
        });
        pair
    }

    /// The kernel's interface with its key and us as its peer.
    pub(crate) fn start_kernel(&self, endpoint: Option<SocketAddr>) {
        self.net
            .ip("b", &format!("link add {KERNEL} type wireguard"));
        self.set_kernel_key();
        self.wg(&format!("set {KERNEL} listen-port {PORT}"));
        self.add_peer_to_kernel(endpoint);
        for (address, length) in INNER_KERNEL.iter().zip([24, 64]) {
            let add = format!("address add {address}/{length} dev {KERNEL}");
            self.net.ip("b", &add);
        }
        self.net.ip("b", &format!("link set {KERNEL} mtu {MTU} up"));
    }

    /// The interface goes, and all that it knew.
    pub(crate) fn stop_kernel(&self) {
        self.net.ip("b", &format!("link del {KERNEL}"));
    }

    fn set_kernel_key(&self) {
        let file = std::env::temp_dir().join(format!("{}.key", self.net.namespace("b")));
        fs::write(&file, STANDARD.encode(self.kernel_key)).unwrap();
        self.wg(&format!("set {KERNEL} private-key {}", file.display()));
        fs::remove_file(file).unwrap();
    }

    fn add_peer_to_kernel(&self, endpoint: Option<SocketAddr>) {
        let [v4, v6] = INNER_OURS;
        self.set_peer(&format!("allowed-ips {v4}/32,{v6}/128"));
        if let Some(endpoint) = endpoint {
            self.set_peer(&format!("endpoint {endpoint}"));
        }
    }

    /// `wg set` of what the kernel knows of us.
    pub(crate) fn set_peer(&self, words: &str) {
        let ours = STANDARD.encode(self.our_public());
        self.wg(&format!("set {KERNEL} peer {ours} {words}"));
    }

    /// `wg` on the kernel's side; what it printed.
    pub(crate) fn wg(&self, words: &str) -> String {
        self.command("b", &format!("wg {words}"))
    }

    /// `nft` on a side; what it printed.
    pub(crate) fn nft(&self, side: &str, words: &str) -> String {
        self.command(side, &format!("nft {words}"))
    }

    fn command(&self, side: &str, command: &str) -> String {
        let output = self.net.run(side, command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Our data plane, without peers.
    pub(crate) fn start_ours(&mut self) {
        let mut free = None;
        // A program that another check starts holds all that is open here until it runs.
        wait("the interface and the port of before are free", || {
            free = self.net.enter("a", || {
                UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).ok()?;
                tun::open(TUN).ok()
            });
            free.is_some()
        });
        let tun = free.unwrap();
        let plane = self.net.enter("a", || {
            Dataplane::start(Settings {
                tun,
                private_key: self.our_key.into(),
                listen: PORT,
                fwmark: 0,
                mtu: MTU,
                core: self.core,
                clock: HandshakeClock::new(None),
                dscp: DscpPolicy::default(),
            })
            .unwrap()
        });
        self.plane = Some(plane);
        for (address, length) in INNER_OURS.iter().zip(["/24", "/64 nodad"]) {
            let (length, rest) = length.split_once(' ').unwrap_or((length, ""));
            let add = format!("address add {address}{length} dev {TUN} {rest}");
            self.net.ip("a", add.trim());
        }
        self.net.ip("a", &format!("link set {TUN} mtu {MTU} up"));
    }

    /// The threads end, and all that they knew.
    pub(crate) fn stop_ours(&mut self) {
        self.plane = None;
    }

    pub(crate) fn ours(&self) -> &Dataplane {
        self.plane.as_ref().unwrap()
    }

    /// The kernel is our peer, and is reached so.
    pub(crate) fn apply(&self, path: PathConfig) {
        self.apply_with_keepalive(path, None);
    }

    pub(crate) fn apply_with_keepalive(&self, path: PathConfig, keepalive: Option<Duration>) {
        let allowed = INNER_KERNEL.iter().zip(["32", "128"]);
        let peer = PeerConfig {
            public_key: self.kernel_public(),
            allowed_prefixes: allowed
                .map(|(address, length)| format!("{address}/{length}").parse().unwrap())
                .collect(),
            path,
            persistent_keepalive: keepalive,
        };
        let snapshot = Snapshot {
            peers: vec![peer],
            relays: Vec::new(),
        };
        self.ours().apply(snapshot).unwrap();
    }

    /// We know nobody.
    pub(crate) fn forget_kernel(&self) {
        self.ours().apply(Snapshot::default()).unwrap();
    }

    pub(crate) fn kernel_public(&self) -> PublicKey {
        public_key(&self.kernel_key)
    }

    pub(crate) fn our_public(&self) -> PublicKey {
        public_key(&self.our_key)
    }

    /// The kernel takes another key; whoever knew the old one is not told.
    pub(crate) fn change_kernel_key(&mut self) {
        self.kernel_key = generate_private_key().unwrap();
        self.set_kernel_key();
    }

    /// From the next start on, we have another key.
    pub(crate) fn change_our_key(&mut self) {
        self.our_key = generate_private_key().unwrap();
    }

    /// The kernel drops what it knows of us.
    pub(crate) fn remove_peer(&self) {
        self.set_peer("remove");
    }

    /// The kernel learns us anew.
    pub(crate) fn add_peer(&self, endpoint: Option<SocketAddr>) {
        self.add_peer_to_kernel(endpoint);
    }

    /// What we counted for the kernel.
    pub(crate) fn counters(&self) -> PeerCounters {
        let counters = self.ours().counters();
        let is_kernel = |peer: &PeerCounters| peer.public_key == self.kernel_public();
        counters.peers.into_iter().find(is_kernel).unwrap()
    }

    /// Datagrams that we dropped for a reason.
    pub(crate) fn drops(&self, reason: DropReason) -> u64 {
        let drops = self.ours().counters().drops;
        let is_it = |(listed, _): &(DropReason, u64)| *listed == reason;
        drops.into_iter().find(is_it).unwrap().1
    }

    /// What the kernel says of us: `wg show dump`.
    pub(crate) fn dump(&self) -> Dump {
        let text = self.wg(&format!("show {KERNEL} dump"));
        let peer: Vec<&str> = text.lines().nth(1).unwrap().split('\t').collect();
        Dump {
            preshared_key: peer[1].to_owned(),
            endpoint: peer[2].to_owned(),
            last_handshake: peer[4].parse().unwrap(),
            rx_bytes: peer[5].parse().unwrap(),
            tx_bytes: peer[6].parse().unwrap(),
        }
    }

    /// One echo from a side to the other's inner IPv4 address.
    pub(crate) fn ping(&self, from: Side) -> bool {
        self.ping_with(from, "-W 5")
    }

    pub(crate) fn ping_with(&self, from: Side, options: &str) -> bool {
        let to = from.other().inner()[0];
        let ping = format!("ping -nq -c 1 {options} {to}");
        self.net.run(from.name(), &ping).status.success()
    }

    /// Tries to ping until an answer comes; how long that took, in seconds.
    pub(crate) fn reaches_after(&self, from: Side, limit: Duration) -> Option<f64> {
        let begun = Instant::now();
        while begun.elapsed() < limit {
            if self.ping_with(from, "-W 1") {
                return Some(begun.elapsed().as_secs_f64());
            }
        }
        None
    }
}

/// A peer as the kernel shows it.
#[derive(Debug)]
pub(crate) struct Dump {
    pub(crate) preshared_key: String,
    pub(crate) endpoint: String,
    /// Seconds since the epoch; 0 for never.
    pub(crate) last_handshake: u64,
    /// Bytes of datagrams, handshakes and padding with them.
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
}

/// An outer address with the port of both.
pub(crate) fn outer(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), PORT)
}
