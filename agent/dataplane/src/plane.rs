//! What happens to a packet, without sockets: bytes in, bytes out through an [`Output`].
//!
//! The threads in [`crate::worker`] do the reading and writing; tests wire several planes together in memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn};
use boringtun::x25519::{PublicKey as X25519Public, StaticSecret};
use parking_lot::Mutex;

use crate::counters::{Counters, DropReason, Tally};
use crate::limiter::Limiter;
use crate::packet;
use crate::peer::{BUFFER_BYTES, Opened, Path, Peer, SMALLEST_MESSAGE};
use crate::relay;
use crate::snapshot::{PublicKey, Snapshot};
use crate::table::{SnapshotError, Table, check};

/// Where results go.
pub(crate) trait Output {
    /// A datagram for `to`: `header`, which may be empty, then `datagram`. False if the kernel did not take it.
    fn datagram(&mut self, to: SocketAddr, header: &[u8], datagram: &[u8]) -> bool;
    /// An inner packet for the host. False if the kernel did not take it.
    fn packet(&mut self, packet: &[u8]) -> bool;
}

/// Memory of one worker, so that no packet allocates.
#[derive(Debug)]
pub(crate) struct Buffers {
    scratch: Vec<u8>,
    sealed: Vec<u8>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self {
            scratch: vec![0; BUFFER_BYTES],
            sealed: vec![0; BUFFER_BYTES],
        }
    }
}

/// The tunnels of one node.
pub(crate) struct Plane {
    private: StaticSecret,
    public: X25519Public,
    mtu: usize,
    table: ArcSwap<Table>,
    tally: Tally,
    limiter: Mutex<Limiter>,
    /// Judges the first MAC of handshakes, which only a sender who knows our key can make (whitepaper section 5.4.4).
    /// Never under load: each peer's own limiter is.
    first_mac: RateLimiter,
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
    pub(crate) fn new(private: StaticSecret, mtu: u16, seed: u64, now: Instant) -> Self {
        let public = X25519Public::from(&private);
        Self {
            mtu: usize::from(mtu),
            table: ArcSwap::default(),
            tally: Tally::default(),
            limiter: Mutex::new(Limiter::new(now)),
            first_mac: RateLimiter::new(&public, u64::MAX),
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
            let peer = old.by_key(&config.public_key).cloned().unwrap_or_else(|| {
                Arc::new(Peer::new(config, &self.private, self.free_index(&old), now))
            });
            peer.configure(config, now);
            peer
        });
        self.table.store(Arc::new(table));
        Ok(())
    }

    /// A packet of the host, for whichever peer has its destination.
    pub(crate) fn handle_packet(
        &self,
        packet: &[u8],
        now: Instant,
        buffers: &mut Buffers,
        out: &mut dyn Output,
    ) {
        let table = self.table.load();
        let Some(header) = packet::parse(packet) else {
            return self.tally.drop(DropReason::MalformedPacket);
        };
        let Some(peer) = table.by_address(header.destination) else {
            return self.tally.drop(DropReason::NoPeer);
        };
        let Buffers { scratch, sealed } = buffers;
        let send = &mut |path: &Path, datagram: &[u8]| self.send(&table, path, datagram, out);
        if let Err(reason) = peer.seal(
            &packet[..header.length],
            self.mtu,
            now,
            scratch,
            sealed,
            send,
        ) {
            self.tally.drop(reason);
        }
    }

    /// A datagram from the network.
    pub(crate) fn handle_datagram(
        &self,
        datagram: &[u8],
        source: SocketAddr,
        now: Instant,
        buffers: &mut Buffers,
        out: &mut dyn Output,
    ) {
        let table = self.table.load();
        let Some((channel, inner)) = relay::parse(datagram) else {
            return self.receive(&table, datagram, Some(source), None, now, buffers, out);
        };
        let is_at = |peer: &Peer| peer.authenticated_endpoint() == Some(source);
        if let Some([a, b]) = table.relay(channel) {
            let other = if is_at(a) {
                Some(b)
            } else if is_at(b) {
                Some(a)
            } else {
                None
            };
            if let Some(other) = other {
                return self.forward(channel, inner, other, out);
            }
        }
        let mut known = table.relay(channel).is_some();
        for (via, peer) in table.by_channel(channel) {
            known = true;
            if table.by_key(via).is_some_and(|relay| is_at(relay)) {
                return self.receive(&table, inner, None, Some(peer), now, buffers, out);
            }
        }
        self.tally.drop(if known {
            DropReason::RelayRefused
        } else {
            DropReason::RelayUnknownChannel
        });
    }

    /// Timers of every peer; about every 200 ms.
    pub(crate) fn tick(&self, now: Instant, buffers: &mut Buffers, out: &mut dyn Output) {
        let table = self.table.load();
        for peer in table.peers() {
            if let Path::Relay { via, .. } = peer.path()
                && let Some(relay) = table.by_key(&via)
            {
                peer.relay_is_up(relay.handshakes(), now);
            }
            let jitter = self.jitter();
            let send = &mut |path: &Path, datagram: &[u8]| self.send(&table, path, datagram, out);
            peer.tick(now, jitter, &mut buffers.sealed, send);
        }
    }

    /// Everything that was counted.
    pub(crate) fn counters(&self) -> Counters {
        let table = self.table.load();
        let relay_endpoint = |key: &PublicKey| match table.by_key(key)?.path() {
            Path::Direct(address) => Some(address),
            Path::Unknown | Path::Relay { .. } => None,
        };
        self.tally.read(
            table
                .peers()
                .map(|peer| peer.counters(relay_endpoint))
                .collect(),
        )
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one datagram with all that is known of it"
    )]
    fn receive(
        &self,
        table: &Table,
        datagram: &[u8],
        source: Option<SocketAddr>,
        expected: Option<&Arc<Peer>>,
        now: Instant,
        buffers: &mut Buffers,
        out: &mut dyn Output,
    ) {
        let peer = match self.receiver(table, datagram, source, now) {
            Ok(peer) => peer,
            Err(reason) => return self.tally.drop(reason),
        };
        if expected.is_some_and(|expected| !Arc::ptr_eq(expected, peer)) {
            return self.tally.drop(DropReason::RelayRefused);
        }
        let send = &mut |path: &Path, datagram: &[u8]| self.send(table, path, datagram, out);
        match peer.open(datagram, source, now, &mut buffers.sealed, send) {
            Opened::Nothing => {}
            Opened::Dropped(reason) => self.tally.drop(reason),
            Opened::Packet(packet) => self.deliver(table, peer, packet, out),
        }
    }

    /// The peer that a datagram is for.
    fn receiver<'t>(
        &self,
        table: &'t Table,
        datagram: &[u8],
        source: Option<SocketAddr>,
        now: Instant,
    ) -> Result<&'t Arc<Peer>, DropReason> {
        if datagram.len() < SMALLEST_MESSAGE {
            return Err(DropReason::ShortDatagram);
        }
        let index =
            match Tunn::parse_incoming_packet(datagram).map_err(|_| DropReason::InvalidDatagram)? {
                Packet::HandshakeInit(initiation) => {
                    let mut unused = [0; SMALLEST_MESSAGE * 2];
                    self.first_mac
                        .verify_packet(None, datagram, &mut unused)
                        .map_err(|_| DropReason::InvalidDatagram)?;
                    if !self
                        .limiter
                        .lock()
                        .allows(source.map(|source| source.ip()), now)
                    {
                        return Err(DropReason::RateLimited);
                    }
                    let half = parse_handshake_anon(&self.private, &self.public, &initiation)
                        .map_err(|_| DropReason::InvalidDatagram)?;
                    return table
                        .by_key(&half.peer_static_public)
                        .ok_or(DropReason::UnknownPeer);
                }
                Packet::HandshakeResponse(response) => response.receiver_idx,
                Packet::PacketCookieReply(reply) => reply.receiver_idx,
                Packet::PacketData(data) => data.receiver_idx,
            };
        // boringtun keeps the peer's index in the upper 24 bits and counts sessions in the lower 8.
        table
            .by_index(index >> 8)
            .ok_or(DropReason::UnknownReceiver)
    }

    fn deliver(&self, table: &Table, peer: &Arc<Peer>, packet: &[u8], out: &mut dyn Output) {
        let Some(header) = packet::parse(packet) else {
            return self.tally.drop(DropReason::MalformedPacket);
        };
        if !table
            .by_address(header.source)
            .is_some_and(|owner| Arc::ptr_eq(owner, peer))
        {
            return self.tally.drop(DropReason::WrongSource);
        }
        if !out.packet(&packet[..header.length]) {
            self.tally.drop(DropReason::TunWriteFailed);
        }
    }

    fn forward(&self, channel: u32, inner: &[u8], to: &Peer, out: &mut dyn Output) {
        if inner.len() < SMALLEST_MESSAGE {
            return self.tally.drop(DropReason::ShortDatagram);
        }
        let Some(address) = to.authenticated_endpoint() else {
            return self.tally.drop(DropReason::NoEndpoint);
        };
        if out.datagram(address, &relay::header(channel), inner) {
            self.tally.relayed(inner.len());
        } else {
            self.tally.drop(DropReason::SendFailed);
        }
    }

    /// Sends a datagram of a peer along its path. Called with that peer's session locked, so no other session may be.
    fn send(&self, table: &Table, path: &Path, datagram: &[u8], out: &mut dyn Output) {
        let sent = match path {
            Path::Unknown => return self.tally.drop(DropReason::NoEndpoint),
            Path::Direct(address) => out.datagram(*address, &[], datagram),
            Path::Relay { via, channel } => match table.by_key(via).map(|relay| relay.path()) {
                Some(Path::Direct(address)) => {
                    out.datagram(address, &relay::header(*channel), datagram)
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
