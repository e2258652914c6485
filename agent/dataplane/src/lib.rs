//! Packets: TUN ⇄ WireGuard (boringtun) ⇄ UDP, on plain threads.
//!
//! It knows no policy source, no QUIC and no configuration: it is told a [`snapshot::Snapshot`] and does that.
//!
//! | question | module |
//! |---|---|
//! | What is it told? | [`snapshot`] |
//! | What happens to a packet of the host? | `transmit` |
//! | What happens to a datagram? | `receive` |
//! | What do they have in common? | `plane` |
//! | What is a peer? | `peer` |
//! | Who may cost us a handshake? | `admission` |
//! | Who speaks WireGuard? | `core`, and our own: `noise` |
//! | How are many packets sealed at once? | `aead` |
//! | How large may a packet be? | `path_mtu`, `probe` |
//! | Which peer is meant? | `table` |
//! | What does a message look like? | `message`, `relay`, `packet` |
//! | How are packets cut and merged? | `offload` |
//! | What do outer headers tell of class and congestion, and inner ones take over? | `tos` |
//! | Which threads run? | `worker` |
//! | How are bytes moved? | [`tun`], `udp` |
//! | What is counted? | [`counters`], `queues` |

mod admission;
mod aead;
mod core;
pub mod counters;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod lock;
mod message;
#[cfg(test)]
#[path = "../tests/net/mod.rs"]
mod net;
mod noise;
mod offload;
mod output;
mod packet;
mod path_mtu;
mod peer;
mod plane;
#[cfg(test)]
mod plane_tests;
mod probe;
mod queues;
mod receive;
mod relay;
pub mod snapshot;
mod table;
mod tos;
mod transmit;
pub mod tun;
mod udp;
mod worker;

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use x25519_dalek::{PublicKey as X25519Public, StaticSecret};

pub use counters::{Counters, DropReason, PeerCounters, WorkerCounters};
pub use noise::HandshakeClock;
pub use snapshot::{PathConfig, PeerConfig, PublicKey, RelayChannel, Snapshot};
pub use table::SnapshotError;
pub use tos::{DscpPolicy, UnknownDscpPolicy};

use crate::aead::Implementation;
use crate::plane::Plane;
use crate::tun::Tun;
use crate::udp::Udp;
use crate::worker::Shared;

/// What a data plane needs to start.
#[derive(Debug)]
pub struct Settings {
    /// From [`tun::open`].
    pub tun: Tun,
    /// This node's X25519 key.
    pub private_key: PrivateKey,
    /// UDP port; 0 lets the kernel choose.
    pub listen: u16,
    /// Mark of outgoing datagrams, for routing rules; 0 for none.
    pub fwmark: u32,
    /// MTU of the interface, in bytes: bounds the padding.
    pub mtu: u16,
    /// Who speaks WireGuard.
    pub core: ProtocolCore,
    /// Of the timestamps of [`ProtocolCore::Native`]; to be handed to the next data plane of the same key, too.
    pub clock: HandshakeClock,
    /// What outer headers tell of a packet's class.
    pub dscp: DscpPolicy,
}

/// Who speaks WireGuard: the same protocol, another program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ProtocolCore {
    /// Our own, which seals many packets at once.
    #[default]
    Native,
    /// The crate boringtun, packet by packet.
    Boringtun,
}

impl FromStr for ProtocolCore {
    type Err = UnknownCore;

    fn from_str(name: &str) -> Result<Self, UnknownCore> {
        match name {
            "native" => Ok(Self::Native),
            "boringtun" => Ok(Self::Boringtun),
            _ => Err(UnknownCore),
        }
    }
}

/// A name that is no protocol core's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a protocol core is native or boringtun")]
pub struct UnknownCore;

/// An X25519 private key. Prints as `…`, and is wiped from memory when dropped.
#[derive(Clone)]
pub struct PrivateKey(StaticSecret);

impl From<[u8; 32]> for PrivateKey {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

/// Why a data plane could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Somebody else listens there.
    #[error(
        "UDP port {port} is in use by another program: find it with 'ss -lunp sport = {port}', or set [wireguard] port to another"
    )]
    PortInUse {
        /// The port.
        port: u16,
    },
    /// The mark needs a capability.
    #[error(
        "the WireGuard socket cannot be marked without CAP_NET_ADMIN: run as root, or through the systemd unit"
    )]
    NotPermitted,
    /// Anything else.
    #[error("the data plane cannot start on UDP port {port}")]
    Other {
        /// The port.
        port: u16,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Running tunnels. Dropping it stops them and removes the interface.
#[derive(Debug)]
pub struct Dataplane {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    port: u16,
}

impl Dataplane {
    /// Starts the threads; there are no peers until [`Dataplane::apply`].
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        let Settings {
            tun,
            private_key,
            listen,
            fwmark,
            mtu,
            core,
            clock,
            dscp,
        } = settings;
        let error = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => StartError::PortInUse { port: listen },
            io::ErrorKind::PermissionDenied => StartError::NotPermitted,
            _ => StartError::Other {
                port: listen,
                source,
            },
        };
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(|e| error(io::Error::other(e)))?;
        let udp = Udp::bind(listen, fwmark).map_err(error)?;
        let seed = u64::from_ne_bytes(seed);
        let plane = Plane::new(private_key.0, core, clock, dscp, mtu, seed, Instant::now());
        let shared = Arc::new(Shared::new(plane, udp, tun).map_err(error)?);
        let port = shared.port().map_err(error)?;
        let threads = worker::start(&shared).map_err(error)?;
        let encryption = match core {
            ProtocolCore::Native => Implementation::here(),
            ProtocolCore::Boringtun => "packet by packet",
        };
        tracing::info!(?core, encryption, "packets flow");
        Ok(Self {
            shared,
            threads,
            port,
        })
    }

    /// Replaces the snapshot, or refuses it and changes nothing.
    pub fn apply(&self, snapshot: Snapshot) -> Result<(), SnapshotError> {
        self.shared.plane.apply(&snapshot, Instant::now())
    }

    /// Everything that was counted.
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }

    /// Moves while every worker goes round; a worker that hangs stops it.
    pub fn progress(&self) -> u64 {
        self.shared.progress()
    }

    /// The UDP port in use.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The interface is gone; only a new data plane brings it back.
    pub fn tun_lost(&self) -> bool {
        self.shared.tun_lost()
    }

    /// Stops the threads and removes the interface.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        self.shared.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a data-plane thread had panicked");
            }
        }
    }
}

/// A new X25519 private key from the system's entropy.
pub fn generate_private_key() -> Result<[u8; 32], getrandom::Error> {
    let mut key = [0; 32];
    getrandom::fill(&mut key)?;
    Ok(StaticSecret::from(key).to_bytes())
}

/// The public key of a private key.
pub fn public_key(private: &[u8; 32]) -> PublicKey {
    X25519Public::from(&StaticSecret::from(*private)).to_bytes()
}
