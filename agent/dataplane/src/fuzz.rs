//! The plane as fuzzers drive it, without sockets and threads: bytes in, what it would have sent and delivered out.
//!
//! Built with the feature `fuzz` only. It adds no way into the plane that the workers do not have.

use std::net::SocketAddr;
use std::time::Instant;

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn};
use boringtun::x25519::{PublicKey as X25519Public, StaticSecret};

use crate::counters::Counters;
use crate::plane::{Buffers, Output, Plane};
use crate::relay;
use crate::snapshot::{PublicKey, Snapshot};
use crate::table::SnapshotError;

/// One node's plane.
#[derive(Debug)]
pub struct FuzzPlane {
    plane: Plane,
    buffers: Buffers,
}

/// What one input made the plane do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caught {
    /// Datagrams with their destinations, relay headers included.
    pub datagrams: Vec<(SocketAddr, Vec<u8>)>,
    /// Inner packets for the host.
    pub packets: Vec<Vec<u8>>,
}

impl Output for Caught {
    fn datagram(&mut self, to: SocketAddr, header: &[u8], datagram: &[u8]) -> bool {
        self.datagrams.push((to, [header, datagram].concat()));
        true
    }

    fn packet(&mut self, packet: &[u8]) -> bool {
        self.packets.push(packet.to_vec());
        true
    }
}

impl FuzzPlane {
    /// No peers yet.
    pub fn new(private_key: [u8; 32], mtu: u16, seed: u64, now: Instant) -> Self {
        Self {
            plane: Plane::new(private_key.into(), mtu, seed, now),
            buffers: Buffers::default(),
        }
    }

    /// Replaces the snapshot, or refuses it.
    pub fn apply(&self, snapshot: &Snapshot, now: Instant) -> Result<(), SnapshotError> {
        self.plane.apply(snapshot, now)
    }

    /// A datagram came from `source`.
    pub fn handle_datagram(&mut self, datagram: &[u8], source: SocketAddr, now: Instant) -> Caught {
        let mut caught = Caught::default();
        let Self { plane, buffers } = self;
        plane.handle_datagram(datagram, source, now, buffers, &mut caught);
        caught
    }

    /// The host sent an inner packet.
    pub fn handle_packet(&mut self, packet: &[u8], now: Instant) -> Caught {
        let mut caught = Caught::default();
        self.plane
            .handle_packet(packet, now, &mut self.buffers, &mut caught);
        caught
    }

    /// Time went by.
    pub fn tick(&mut self, now: Instant) -> Caught {
        let mut caught = Caught::default();
        self.plane.tick(now, &mut self.buffers, &mut caught);
        caught
    }

    /// Everything that was counted.
    pub fn counters(&self) -> Counters {
        self.plane.counters()
    }
}

/// Whether `datagram` is a handshake message whose first MAC is right for the node with `private_key`
/// (whitepaper section 5.4.4): only then may anything be answered. Asks boringtun, not the plane.
pub fn first_mac_is_right(private_key: [u8; 32], datagram: &[u8]) -> bool {
    let public = X25519Public::from(&StaticSecret::from(private_key));
    let is_handshake = matches!(
        Tunn::parse_incoming_packet(datagram),
        Ok(Packet::HandshakeInit(_) | Packet::HandshakeResponse(_))
    );
    let mut unused = [0; 64];
    is_handshake
        && RateLimiter::new(&public, u64::MAX)
            .verify_packet(None, datagram, &mut unused)
            .is_ok()
}

/// Who began the handshake in `datagram`; `None` unless it is an initiation whose static key opens.
pub fn initiator(private_key: [u8; 32], datagram: &[u8]) -> Option<PublicKey> {
    let private = StaticSecret::from(private_key);
    let public = X25519Public::from(&private);
    let Ok(Packet::HandshakeInit(initiation)) = Tunn::parse_incoming_packet(datagram) else {
        return None;
    };
    let half = parse_handshake_anon(&private, &public, &initiation).ok()?;
    Some(half.peer_static_public)
}

/// `datagram` in a relay frame of `channel`.
pub fn relay_frame(channel: u32, datagram: &[u8]) -> Vec<u8> {
    [&relay::header(channel), datagram].concat()
}
