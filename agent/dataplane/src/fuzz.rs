//! The plane as tests and fuzzers drive it, without sockets and threads: bytes in, what it would have sent and delivered out.
//!
//! Built in tests, and with the feature `fuzz`. It adds no way into the plane that the workers do not have.

mod aead;
pub mod offload;

use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::Instant;

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn};
use boringtun::x25519::{PublicKey as X25519Public, StaticSecret};

pub use self::aead::aead_agrees_with_ring;
use crate::counters::Counters;
use crate::message::BUFFER;
use crate::noise::HandshakeClock;
use crate::offload::coalesce::Outcome;
use crate::offload::segment::Segments;
use crate::offload::vnet::{VNET_HEADER, VnetHeader};
use crate::output::{Output, Run, Sent};
use crate::plane::Plane;
use crate::receive::{Received, Receiver};
use crate::relay;
use crate::snapshot::{PublicKey, Snapshot};
use crate::table::SnapshotError;
use crate::tos::Tos;
use crate::transmit::Transmitter;
use crate::{DscpPolicy, ProtocolCore};

/// One node's plane.
#[derive(Debug)]
pub struct MemoryPlane {
    plane: Plane,
    transmitter: Transmitter,
    receiver: Receiver,
    message: Vec<u8>,
}

/// What one input made the plane do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caught {
    /// Datagrams with their destinations, relay headers included.
    pub datagrams: Vec<(SocketAddr, Vec<u8>)>,
    /// Type of service or traffic class of each datagram.
    pub tos: Vec<u8>,
    /// Inner packets for the host.
    pub packets: Vec<Vec<u8>>,
}

impl Output for Caught {
    fn datagram(&mut self, to: SocketAddr, tos: Tos, header: &[u8], datagram: &[u8]) -> bool {
        self.tos.push(tos.0);
        self.datagrams.push((to, [header, datagram].concat()));
        true
    }

    fn probe(&mut self, to: SocketAddr, datagram: &[u8]) {
        self.datagram(to, Tos::default(), &[], datagram);
    }

    fn runs(&mut self, slab: &[u8], runs: &[Run]) -> Sent {
        for run in runs {
            let datagrams = run.datagrams();
            self.tos.extend((0..run.count()).map(|_| run.tos.0));
            self.datagrams
                .extend(datagrams.map(|(at, length)| (run.to, slab[at..at + length].to_vec())));
        }
        Sent {
            runs: runs.len(),
            ..Sent::default()
        }
    }

    fn packet(&mut self, pieces: &[IoSlice<'_>]) -> Outcome {
        let whole: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
        let cut = whole
            .split_first_chunk::<VNET_HEADER>()
            .and_then(|(vnet, packet)| Segments::parse(VnetHeader::decode(vnet), packet).ok());
        // A host that is given what it cannot read gets it all the same, and a test sees it.
        let Some(segments) = cut else {
            self.packets.push(whole);
            return Outcome::Written;
        };
        for index in 0..segments.count() {
            let mut packet = vec![0; segments.length(index)];
            segments.write(index, &mut packet);
            self.packets.push(packet);
        }
        Outcome::Written
    }
}

impl MemoryPlane {
    /// No peers yet.
    pub fn new(
        private_key: [u8; 32],
        core: ProtocolCore,
        dscp: DscpPolicy,
        mtu: u16,
        seed: u64,
        now: Instant,
    ) -> Self {
        let clock = HandshakeClock::new(None);
        Self {
            plane: Plane::new(private_key.into(), core, clock, dscp, mtu, seed, now),
            transmitter: Transmitter::default(),
            receiver: Receiver::default(),
            message: vec![0; BUFFER],
        }
    }

    /// Replaces the snapshot, or refuses it.
    pub fn apply(&self, snapshot: &Snapshot, now: Instant) -> Result<(), SnapshotError> {
        self.plane.apply(snapshot, now)
    }

    /// A datagram came from `source`, with nothing in the header to tell.
    pub fn handle_datagram(&mut self, datagram: &[u8], source: SocketAddr, now: Instant) -> Caught {
        self.handle_datagrams(&[(datagram, 0)], source, now)
    }

    /// Datagrams came from `source` in one burst, each with its type of service or traffic class.
    pub fn handle_datagrams(
        &mut self,
        datagrams: &[(&[u8], u8)],
        source: SocketAddr,
        now: Instant,
    ) -> Caught {
        let mut caught = Caught::default();
        let mut slab = Vec::new();
        let mut received: Vec<Received> = Vec::new();
        for (datagram, tos) in datagrams {
            let (start, length, tos) = (slab.len(), datagram.len(), Tos(*tos));
            slab.extend_from_slice(datagram);
            // As the kernel merges them.
            if let Some(run) = received.last_mut()
                && run.tos == tos
                && (1..=run.segment).contains(&length)
                && run.length % run.segment == 0
            {
                run.length += length;
                continue;
            }
            received.push(Received {
                from: source,
                start,
                length,
                segment: length,
                tos,
            });
        }
        let (plane, table) = (&self.plane, self.plane.table());
        self.receiver
            .take(plane, &table, &mut slab, &received, now, &mut caught);
        caught
    }

    /// The host sent an inner packet.
    pub fn handle_packet(&mut self, packet: &[u8], now: Instant) -> Caught {
        self.handle_reads(&[[&[0; VNET_HEADER], packet].concat()], now)
    }

    /// The TUN gave this, virtio headers included.
    pub fn handle_reads(&mut self, reads: &[Vec<u8>], now: Instant) -> Caught {
        let mut caught = Caught::default();
        self.transmit(reads, now, &mut caught);
        caught
    }

    /// Takes what the TUN gives until `out` takes no more; how many of the reads it took.
    pub(crate) fn transmit(
        &mut self,
        reads: &[Vec<u8>],
        now: Instant,
        out: &mut dyn Output,
    ) -> usize {
        let (plane, table) = (&self.plane, self.plane.table());
        let transmitter = &mut self.transmitter;
        if transmitter.is_blocked() && !transmitter.resume(plane, out) {
            return 0;
        }
        let mut taken = 0;
        for read in reads {
            if transmitter.is_blocked() {
                break;
            }
            transmitter.take(plane, &table, read, now, out);
            taken += 1;
        }
        transmitter.finish(plane, &table, now, out);
        taken
    }

    /// Time went by.
    pub fn tick(&mut self, now: Instant) -> Caught {
        let mut caught = Caught::default();
        self.plane.tick(now, &mut self.message, &mut caught);
        caught
    }

    /// Everything that was counted.
    pub fn counters(&self) -> Counters {
        self.plane.counters(Vec::new())
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
