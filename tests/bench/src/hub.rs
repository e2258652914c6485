//! The hub: a data plane without an agent, whose peers wait for others to call.
//! The only place here that uses the data plane.

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use pnsbox_dataplane::{
    Dataplane, DscpPolicy, HandshakeClock, PathConfig, PeerConfig, ProtocolCore, Settings,
    Snapshot, tun,
};
use serde_json::{Value, json};

use crate::commands::Serve;
use crate::member::{self, HUB_KEY, MOST_PEERS};

/// A running hub.
pub(crate) struct Hub {
    plane: Dataplane,
}

impl Hub {
    /// Makes the interface and listens; without peers.
    pub(crate) fn start(interface: &str, port: u16, mtu: u16) -> Result<Self> {
        let settings = Settings {
            tun: tun::open(interface)?,
            private_key: HUB_KEY.into(),
            listen: port,
            fwmark: 0,
            mtu,
            core: ProtocolCore::default(),
            clock: HandshakeClock::new(None),
            dscp: DscpPolicy::default(),
        };
        let plane = Dataplane::start(settings)?;
        Ok(Self { plane })
    }

    fn peers(&self, count: u16) -> Result<Value> {
        let peers = (0..count).map(peer).collect();
        self.plane.apply(Snapshot {
            peers,
            relays: Vec::new(),
        })?;
        Ok(json!({ "peers": count }))
    }

    fn counters(&self) -> Value {
        let peers = self.plane.counters().peers;
        let up = peers.iter().filter(|peer| peer.handshakes > 0).count();
        let bytes: u64 = peers.iter().map(|peer| peer.rx_bytes).sum();
        json!({ "peers_up": up, "rx_bytes": bytes })
    }
}

impl Serve for Hub {
    fn command(&mut self, words: &[&str]) -> Result<Value> {
        match words {
            ["peers", count] => {
                let count = count.parse().with_context(|| format!("peers '{count}'"))?;
                anyhow::ensure!(count <= MOST_PEERS, "{count} peers: at most {MOST_PEERS}");
                self.peers(count)
            }
            ["counters"] => Ok(self.counters()),
            _ => bail!("unknown command {words:?}; known: peers N, counters"),
        }
    }
}

fn peer(number: u16) -> PeerConfig {
    PeerConfig {
        public_key: member::public_key(number),
        allowed_prefixes: vec![IpNet::from(std::net::IpAddr::from(member::inner_address(
            number,
        )))],
        path: PathConfig::Passive,
        persistent_keepalive: None,
    }
}
