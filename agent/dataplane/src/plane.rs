//! The tunnels of a node and what they have in common, without sockets: the present peers, handshakes, timers, counters.
//!
//! Packets go through [`crate::transmit`] and [`crate::receive`], which ask here; results leave through an [`Output`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::{Packet, Tunn};
use boringtun::x25519::{PublicKey as X25519Public, StaticSecret};

use crate::admission::{Admission, Origin, Verdict};
use crate::core::{Boringtun, Core};
use crate::counters::{Counters, DropReason, Tally, WorkerCounters};
use crate::lock::Mutex;
use crate::message::{DATA, SMALLEST};
use crate::noise::{HandshakeClock, Tunnel};
use crate::output::Output;
use crate::peer::{Path, Peer};
use crate::relay;
use crate::snapshot::{PeerConfig, Snapshot};
use crate::table::{SnapshotError, Table, check};
use crate::tos::Tos;
use crate::{DscpPolicy, ProtocolCore};

/// What is to be done with a relay frame.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Relayed<'t> {
    /// It is for this member of the channel, who is there.
    Forward(&'t Peer, SocketAddr),
    /// It is for us, from this peer.
    Receive(&'t Arc<Peer>),
    /// Nothing.
    Drop(DropReason),
}

/// The tunnels of one node.
pub(crate) struct Plane {
    private: StaticSecret,
    public: X25519Public,
    core: ProtocolCore,
    clock: HandshakeClock,
    pub(crate) dscp: DscpPolicy,
    pub(crate) mtu: usize,
    table: ArcSwap<Table>,
    pub(crate) tally: Tally,
    admission: Mutex<Admission>,
    next_index: AtomicU32,
    jitter: AtomicU64,
    /// Held while a snapshot is built; no packet waits for it.
    applying: Mutex<()>,
}

impl std::fmt::Debug for Plane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plane")
            .field("mtu", &self.mtu)
            .finish_non_exhaustive()
    }
}

impl Plane {
    /// No peers yet. `seed` gives the jitter and the first index.
    pub(crate) fn new(
        private: StaticSecret,
        core: ProtocolCore,
        clock: HandshakeClock,
        dscp: DscpPolicy,
        mtu: u16,
        seed: u64,
        now: Instant,
    ) -> Self {
        let public = X25519Public::from(&private);
        Self {
            core,
            clock,
            dscp,
            mtu: usize::from(mtu),
            table: ArcSwap::default(),
            tally: Tally::default(),
            admission: Mutex::new(Admission::new(public, now)),
            next_index: AtomicU32::new(seed as u32 & INDEX_MASK),
            jitter: AtomicU64::new(seed),
            applying: Mutex::new(()),
            private,
            public,
        }
    }

    /// Replaces the snapshot, or refuses it and changes nothing. Peers that stay keep sessions and counters.
    pub(crate) fn apply(&self, snapshot: &Snapshot, now: Instant) -> Result<(), SnapshotError> {
        check(snapshot, self.public.as_bytes())?;
        let _one_at_a_time = self.applying.lock();
        let old = self.table.load();
        let table = Table::build(snapshot, |config| {
            let known = old.by_key(&config.public_key).cloned();
            let peer = known.unwrap_or_else(|| self.new_peer(config, &old, now));
            peer.configure(config, now);
            peer
        });
        self.know_endpoints(&table);
        self.table.store(Arc::new(table));
        Ok(())
    }

    fn know_endpoints(&self, table: &Table) {
        let endpoints = table.peers().filter_map(|peer| match peer.path() {
            Path::Direct(address) => Some(address),
            Path::Unknown | Path::Relay { .. } => None,
        });
        self.admission.lock().know(endpoints);
    }

    /// The present peers; for one burst of packets, so that a new snapshot is seen soon.
    pub(crate) fn table(&self) -> arc_swap::Guard<Arc<Table>> {
        self.table.load()
    }

    /// Whether a peer is there, as of the last tick or snapshot.
    pub(crate) fn is_endpoint(&self, address: SocketAddr) -> bool {
        self.admission.lock().knows(address)
    }

    /// What is to be done with frames of `channel` that come from `source`.
    pub(crate) fn relayed<'t>(
        &self,
        table: &'t Table,
        channel: u32,
        source: SocketAddr,
    ) -> Relayed<'t> {
        let is_at = |peer: &Peer| peer.authenticated_endpoint() == Some(source);
        let members = table.relay(channel);
        if let Some([a, b]) = members {
            let other = if is_at(a) {
                Some(b)
            } else if is_at(b) {
                Some(a)
            } else {
                None
            };
            if let Some(other) = other {
                return match other.authenticated_endpoint() {
                    // Both claim one address: it would come back for ever.
                    Some(address) if address == source => Relayed::Drop(DropReason::RelayRefused),
                    Some(address) => Relayed::Forward(other, address),
                    None => Relayed::Drop(DropReason::NoEndpoint),
                };
            }
        }
        let through = table.by_channel(channel);
        let from_relay = through
            .iter()
            .find(|(via, _)| table.by_key(via).is_some_and(|relay| is_at(relay)));
        match from_relay {
            Some((_, peer)) => Relayed::Receive(peer),
            None if members.is_none() && through.is_empty() => {
                Relayed::Drop(DropReason::RelayUnknownChannel)
            }
            None => Relayed::Drop(DropReason::RelayRefused),
        }
    }

    /// Timers of every peer; about every 200 ms.
    pub(crate) fn tick(&self, now: Instant, message: &mut [u8], out: &mut dyn Output) {
        let table = self.table.load();
        self.know_endpoints(&table);
        for peer in table.peers() {
            if let Path::Relay { via, .. } = peer.path()
                && let Some(relay) = table.by_key(&via)
            {
                peer.relay_is_up(relay.handshakes(), now);
            }
            let jitter = self.jitter();
            let send = &mut |path: &Path, tos: Tos, datagram: &[u8]| {
                self.send(&table, path, tos, datagram, out)
            };
            peer.tick(now, jitter, message, send);
            peer.probe(now, message, &mut |to, datagram| out.probe(to, datagram));
        }
    }

    /// Everything that was counted.
    pub(crate) fn counters(&self, workers: Vec<WorkerCounters>) -> Counters {
        let table = self.table.load();
        let peers = table.peers().map(|peer| match peer.path() {
            Path::Unknown => peer.counters(None, None),
            Path::Direct(address) => peer.counters(Some(address), None),
            Path::Relay { via, .. } => {
                let relay = table.by_key(&via);
                let endpoint = relay.and_then(|relay| match relay.path() {
                    Path::Direct(address) => Some(address),
                    Path::Unknown | Path::Relay { .. } => None,
                });
                peer.counters(endpoint, Some(relay))
            }
        });
        self.tally.read(peers.collect(), workers)
    }

    /// A handshake message, or what is none at all; `expected` is the peer whose channel it came through.
    #[expect(
        clippy::too_many_arguments,
        reason = "one message with all that is known of it"
    )]
    pub(crate) fn handshake(
        &self,
        table: &Table,
        datagram: &[u8],
        source: Option<SocketAddr>,
        expected: Option<&Arc<Peer>>,
        now: Instant,
        message: &mut [u8],
        out: &mut dyn Output,
    ) -> Result<(), DropReason> {
        let origin = match (source, expected) {
            (Some(source), _) => Origin::Straight(source),
            (None, Some(peer)) => Origin::Relayed(peer.index),
            (None, None) => return Err(DropReason::RelayRefused),
        };
        let mut admit = || match self.admission.lock().judge(datagram, origin, now, message) {
            Verdict::Admit => Ok(()),
            Verdict::Refuse(reason) => Err(reason),
            Verdict::Cookie(length) => {
                // Not authenticated: answered to where it came from, and nothing is learnt.
                if let Some(source) = source {
                    let reply = &message[..length];
                    self.send(table, &Path::Direct(source), Tos::default(), reply, out);
                }
                Err(DropReason::RateLimited)
            }
        };
        let peer = self.receiver(table, datagram, &mut admit)?;
        if expected.is_some_and(|expected| !Arc::ptr_eq(expected, peer)) {
            return Err(DropReason::RelayRefused);
        }
        let send = &mut |path: &Path, tos: Tos, datagram: &[u8]| {
            self.send(table, path, tos, datagram, out)
        };
        peer.handle(datagram, source, now, message, send)
    }

    /// The peer that a handshake message is for. `admit` is asked before it costs anything.
    fn receiver<'t>(
        &self,
        table: &'t Table,
        datagram: &[u8],
        admit: &mut dyn FnMut() -> Result<(), DropReason>,
    ) -> Result<&'t Arc<Peer>, DropReason> {
        if datagram.len() < SMALLEST {
            return Err(DropReason::ShortDatagram);
        }
        // boringtun keeps the peer's index in the upper 24 bits and counts sessions in the lower 8.
        let by_index = |index: u32| {
            let peer = table.by_index(index >> 8);
            peer.ok_or(DropReason::UnknownReceiver)
        };
        match Tunn::parse_incoming_packet(datagram).map_err(|_| DropReason::InvalidDatagram)? {
            Packet::HandshakeInit(initiation) => {
                admit()?;
                let half = parse_handshake_anon(&self.private, &self.public, &initiation)
                    .map_err(|_| DropReason::InvalidDatagram)?;
                table
                    .by_key(&half.peer_static_public)
                    .ok_or(DropReason::UnknownPeer)
            }
            Packet::HandshakeResponse(response) => {
                let peer = by_index(response.receiver_idx)?;
                admit()?;
                Ok(peer)
            }
            Packet::PacketCookieReply(reply) => by_index(reply.receiver_idx),
            // Taken apart before; a data message is never handled alone.
            Packet::PacketData(_) => Err(DropReason::InvalidDatagram),
        }
    }

    /// Sends a datagram of a peer along its path; `tos` is that of the packet in it, if it has one.
    /// Called with that peer's session locked, so no other session may be.
    pub(crate) fn send(
        &self,
        table: &Table,
        path: &Path,
        tos: Tos,
        datagram: &[u8],
        out: &mut dyn Output,
    ) {
        let tos = match datagram.first() {
            Some(&DATA) => self.dscp.outer(tos),
            Some(_) | None => self.dscp.handshake(),
        };
        let sent = match path {
            Path::Unknown => return self.tally.drop(DropReason::NoEndpoint),
            Path::Direct(address) => out.datagram(*address, tos, &[], datagram),
            Path::Relay { via, channel } => match table.by_key(via).map(|relay| relay.path()) {
                Some(Path::Direct(address)) => {
                    out.datagram(address, tos, &relay::header(*channel), datagram)
                }
                Some(Path::Unknown | Path::Relay { .. }) | None => {
                    return self.tally.drop(DropReason::NoEndpoint);
                }
            },
        };
        if !sent {
            self.tally.drop(DropReason::SendFailed);
        }
    }

    fn new_peer(&self, config: &PeerConfig, table: &Table, now: Instant) -> Arc<Peer> {
        let index = self.free_index(table);
        let public = config.public_key.into();
        let core: Box<dyn Core> = match self.core {
            ProtocolCore::Native => {
                let clock = self.clock.clone();
                Box::new(Tunnel::new(&self.private, public, index, clock))
            }
            ProtocolCore::Boringtun => Box::new(Boringtun::new(&self.private, public, index, now)),
        };
        let mtu = u16::try_from(self.mtu).unwrap_or(u16::MAX);
        Arc::new(Peer::new(config.public_key, core, index, mtu, now))
    }

    fn free_index(&self, table: &Table) -> u32 {
        loop {
            let index = self.next_index.fetch_add(1, Ordering::Relaxed) & INDEX_MASK;
            if table.by_index(index).is_none() {
                return index;
            }
        }
    }

    /// Up to 333 ms, as WireGuard itself spreads handshakes (whitepaper section 6.1); SplitMix64 (Steele et al., 2014).
    fn jitter(&self) -> Duration {
        let mut z = self
            .jitter
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Duration::from_millis((z ^ (z >> 31)) % 334)
    }
}

/// boringtun's indices have 24 bits.
const INDEX_MASK: u32 = 0x00ff_ffff;
