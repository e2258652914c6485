//! One peer: boringtun's `Tunn` with its known defects wrapped, the endpoint, and the counters.
//!
//! What is wrapped, and why: an expired `Tunn` stays silent for ever, so [`Session::tick`] begins again;
//! its keepalive cannot be changed and does not restart it, so keepalives are ours;
//! it panics on a small destination, so buffers are [`BUFFER_BYTES`]; it takes an empty datagram for a repeated call,
//! so short ones are refused before it; it does not pad, so [`padded_length`] does.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey as X25519Public, StaticSecret};
use parking_lot::Mutex;

use crate::counters::{DropReason, PeerCounters};
use crate::snapshot::{PathConfig, PeerConfig, PublicKey};

/// Size of every buffer: the largest IP packet, and what encryption adds to it.
pub(crate) const BUFFER_BYTES: usize = 65_535 + 64;

/// Bytes of the smallest WireGuard message, an empty data message (whitepaper section 5.4.6).
pub(crate) const SMALLEST_MESSAGE: usize = 32;

/// First pause before an expired or unanswered tunnel begins again, doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long after the last outgoing packet a tunnel still counts as wanted.
const WANTED: Duration = Duration::from_secs(180);

/// A tunnel and how it is reached.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) key: PublicKey,
    pub(crate) index: u32,
    /// Taken after a session's lock, a relay's too, and held for a copy only: so two sessions never wait for each other.
    route: Mutex<Route>,
    session: Mutex<Session>,
    rx_bytes: AtomicU64,
    tx_bytes: AtomicU64,
    rx_packets: AtomicU64,
    tx_packets: AtomicU64,
}

/// What a datagram turned into.
#[derive(Debug)]
pub(crate) enum Opened<'b> {
    /// An inner packet for the host.
    Packet(&'b [u8]),
    /// Nothing for the host.
    Nothing,
    /// Refused.
    Dropped(DropReason),
}

/// Takes datagrams for the peer; called while the session is locked, in order.
pub(crate) type Send<'a> = &'a mut dyn FnMut(&Path, &[u8]);

/// Where a datagram of this peer goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Path {
    /// Nowhere yet.
    Unknown,
    /// Straight to the peer.
    Direct(SocketAddr),
    /// In a frame through another peer.
    Relay {
        /// That peer.
        via: PublicKey,
        /// Its number for the pair.
        channel: u32,
    },
}

/// Where a peer is, and whether it proved that.
#[derive(Debug, Clone)]
struct Route {
    config: PathConfig,
    path: Path,
    is_authenticated: bool,
}

impl Route {
    fn configure(&mut self, config: &PathConfig) {
        if self.config == *config {
            return;
        }
        self.config = config.clone();
        self.path = match config {
            PathConfig::Passive if matches!(self.path, Path::Direct(_)) => return,
            PathConfig::Passive => Path::Unknown,
            PathConfig::Direct(address) => Path::Direct(*address),
            PathConfig::Relay { via, channel } => Path::Relay {
                via: *via,
                channel: *channel,
            },
        };
        self.is_authenticated = false;
    }
}

struct Session {
    tunn: Tunn,
    keepalive: Option<Duration>,
    last_sent: Instant,
    last_wanted: Option<Instant>,
    restart_at: Option<Instant>,
    pause: Duration,
    last_handshake: Option<SystemTime>,
    answered: bool,
    handshakes: u64,
    handshake_failures: u64,
    relay_handshakes: u64,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Peer {
    pub(crate) fn new(
        config: &PeerConfig,
        private_key: &StaticSecret,
        index: u32,
        now: Instant,
    ) -> Self {
        let public = X25519Public::from(config.public_key);
        // No shared limiter: boringtun then makes one per tunnel and resets it itself,
        // and one flooded tunnel does not put the others into cookie mode.
        let tunn = Tunn::new(private_key.clone(), public, None, None, index, None);
        let session = Session {
            tunn,
            keepalive: None,
            last_sent: now,
            last_wanted: None,
            restart_at: None,
            pause: FIRST_PAUSE,
            last_handshake: None,
            answered: false,
            handshakes: 0,
            handshake_failures: 0,
            relay_handshakes: 0,
        };
        Self {
            key: config.public_key,
            index,
            route: Mutex::new(Route {
                config: PathConfig::Passive,
                path: Path::Unknown,
                is_authenticated: false,
            }),
            session: Mutex::new(session),
            rx_bytes: AtomicU64::new(0),
            tx_bytes: AtomicU64::new(0),
            rx_packets: AtomicU64::new(0),
            tx_packets: AtomicU64::new(0),
        }
    }

    /// Takes over a new configuration; an unchanged one leaves a roamed endpoint alone.
    pub(crate) fn configure(&self, config: &PeerConfig, now: Instant) {
        self.route.lock().configure(&config.path);
        let mut session = self.session.lock();
        if session.keepalive != config.persistent_keepalive {
            session.keepalive = config.persistent_keepalive;
            if session.keepalive.is_some() {
                // Begin at the next tick, not after the first interval.
                session.restart_at = Some(now);
            }
        }
    }

    /// Encrypts an inner packet; `scratch` and `buffer` have [`BUFFER_BYTES`].
    pub(crate) fn seal(
        &self,
        packet: &[u8],
        mtu: usize,
        now: Instant,
        scratch: &mut [u8],
        buffer: &mut [u8],
        send: Send<'_>,
    ) -> Result<(), DropReason> {
        let padded = padded_length(packet.len(), mtu);
        scratch[..packet.len()].copy_from_slice(packet);
        scratch[packet.len()..padded].fill(0);
        let mut session = self.session.lock();
        session.last_wanted = Some(now);
        let path = self.path();
        if path == Path::Unknown {
            return Err(DropReason::NoEndpoint);
        }
        if let TunnResult::WriteToNetwork(datagram) =
            session.tunn.encapsulate(&scratch[..padded], buffer)
        {
            send(&path, datagram);
            session.last_sent = now;
        }
        self.tx_packets.fetch_add(1, Ordering::Relaxed);
        self.tx_bytes
            .fetch_add(packet.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Decrypts a datagram. `source` is the sender's address if it came straight, `None` through a relay:
    /// only a straight and authenticated datagram moves the endpoint.
    pub(crate) fn open<'b>(
        &self,
        datagram: &[u8],
        source: Option<SocketAddr>,
        now: Instant,
        buffer: &'b mut [u8],
        send: Send<'_>,
    ) -> Opened<'b> {
        if datagram.len() < SMALLEST_MESSAGE {
            return Opened::Dropped(DropReason::ShortDatagram);
        }
        let mut session = self.session.lock();
        let from = source.map(|s| s.ip());
        let reply = match session.tunn.decapsulate(from, datagram, buffer) {
            TunnResult::Done => None,
            TunnResult::Err(WireGuardError::UnderLoad) => {
                return Opened::Dropped(DropReason::RateLimited);
            }
            TunnResult::Err(_) => return Opened::Dropped(DropReason::InvalidDatagram),
            TunnResult::WriteToNetwork(reply) => Some(reply.len()),
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                let length = packet.len();
                session.heard(DATA);
                self.learn(DATA, source);
                drop(session);
                self.rx_packets.fetch_add(1, Ordering::Relaxed);
                self.rx_bytes.fetch_add(length as u64, Ordering::Relaxed);
                return Opened::Packet(&buffer[..length]);
            }
        };
        if let Some(length) = reply {
            let is_cookie = buffer.first() == Some(&COOKIE_REPLY);
            if is_cookie {
                // Not authenticated: answered to where it came from, and nothing is learnt.
                let to = source.map_or_else(|| self.path(), Path::Direct);
                send(&to, &buffer[..length]);
                return Opened::Dropped(DropReason::RateLimited);
            }
            session.heard(datagram[0]);
            self.learn(datagram[0], source);
            let path = self.path();
            session.transmit(&path, &buffer[..length], now, send);
            session.flush(&path, buffer, now, send);
        } else {
            session.heard(datagram[0]);
            self.learn(datagram[0], source);
        }
        Opened::Nothing
    }
}

impl Peer {
    /// Timers, keepalives and beginning again; about every 200 ms.
    pub(crate) fn tick(&self, now: Instant, jitter: Duration, buffer: &mut [u8], send: Send<'_>) {
        let path = self.path();
        let mut session = self.session.lock();
        match session.tunn.update_timers(buffer) {
            TunnResult::WriteToNetwork(datagram) => {
                send(&path, datagram);
                session.last_sent = now;
            }
            TunnResult::Err(WireGuardError::ConnectionExpired)
                if session.restart_at.is_none() && path != Path::Unknown =>
            {
                session.expired(now, jitter);
            }
            TunnResult::Done
            | TunnResult::Err(_)
            | TunnResult::WriteToTunnelV4(..)
            | TunnResult::WriteToTunnelV6(..) => {}
        }
        if session
            .keepalive
            .is_some_and(|interval| now.duration_since(session.last_sent) >= interval)
            && session.restart_at.is_none()
            && path != Path::Unknown
        {
            session.keep_alive(&path, now, buffer, send);
        }
        if session.restart_at.is_some_and(|at| at <= now) {
            session.restart(&path, now, buffer, send);
        }
    }

    /// Handshakes completed with this peer.
    pub(crate) fn handshakes(&self) -> u64 {
        self.session.lock().handshakes
    }

    /// The peer's relay completed handshake number `count` with us: only now it knows where we are,
    /// so a handshake through it that was begun before is lost, and is begun again.
    pub(crate) fn relay_is_up(&self, count: u64, now: Instant) {
        let mut session = self.session.lock();
        if session.relay_handshakes != count {
            session.relay_handshakes = count;
            if session.handshakes == 0 {
                session.restart_at = Some(now);
            }
        }
    }

    /// Where its datagrams go now.
    pub(crate) fn path(&self) -> Path {
        self.route.lock().path.clone()
    }

    /// Where it proved to be, straight.
    pub(crate) fn authenticated_endpoint(&self) -> Option<SocketAddr> {
        match &*self.route.lock() {
            Route {
                path: Path::Direct(address),
                is_authenticated: true,
                ..
            } => Some(*address),
            Route { .. } => None,
        }
    }

    /// An accepted datagram of this kind came straight from `source`, or through a relay: then nothing is learnt.
    fn learn(&self, kind: u8, source: Option<SocketAddr>) {
        // A cookie reply proves nothing about its sender's address.
        let (Some(source), true) = (source, kind != COOKIE_REPLY) else {
            return;
        };
        let mut route = self.route.lock();
        if matches!(route.path, Path::Relay { .. }) {
            return;
        }
        // An initiation alone may be an old one that was replayed to a box that lost its memory.
        let proved = kind != HANDSHAKE_INITIATION;
        let stays = route.path == Path::Direct(source);
        route.is_authenticated = proved || (stays && route.is_authenticated);
        route.path = Path::Direct(source);
    }

    /// What was counted; `relay_endpoint` is shown for a relayed peer.
    pub(crate) fn counters(
        &self,
        relay_endpoint: impl Fn(&PublicKey) -> Option<SocketAddr>,
    ) -> PeerCounters {
        let session = self.session.lock();
        let (endpoint, relayed) = match &self.path() {
            Path::Unknown => (None, false),
            Path::Direct(address) => (Some(*address), false),
            Path::Relay { via, .. } => (relay_endpoint(via), true),
        };
        PeerCounters {
            public_key: self.key,
            endpoint,
            relayed,
            last_handshake: session.last_handshake,
            rx_bytes: self.rx_bytes.load(Ordering::Relaxed),
            tx_bytes: self.tx_bytes.load(Ordering::Relaxed),
            rx_packets: self.rx_packets.load(Ordering::Relaxed),
            tx_packets: self.tx_packets.load(Ordering::Relaxed),
            handshakes: session.handshakes,
            handshake_failures: session.handshake_failures,
        }
    }
}

impl Session {
    /// A datagram of this kind was accepted.
    fn heard(&mut self, kind: u8) {
        match kind {
            // The initiator is done with the response, the responder with the first data.
            HANDSHAKE_RESPONSE => self.handshake_done(),
            DATA if self.answered => self.handshake_done(),
            HANDSHAKE_INITIATION => self.answered = true,
            _ => {}
        }
    }

    fn handshake_done(&mut self) {
        self.answered = false;
        self.handshakes += 1;
        self.last_handshake = Some(SystemTime::now());
        self.restart_at = None;
        self.pause = FIRST_PAUSE;
    }

    fn transmit(&mut self, path: &Path, datagram: &[u8], now: Instant, send: Send<'_>) {
        send(path, datagram);
        self.last_sent = now;
    }

    /// Sends what waited for the session: `decapsulate` with nothing gives one datagram after the other.
    fn flush(&mut self, path: &Path, buffer: &mut [u8], now: Instant, send: Send<'_>) {
        while let TunnResult::WriteToNetwork(datagram) = self.tunn.decapsulate(None, &[], buffer) {
            send(path, datagram);
            self.last_sent = now;
        }
    }

    /// boringtun gave up: begins again after a pause, if anybody wants the tunnel.
    fn expired(&mut self, now: Instant, jitter: Duration) {
        let wanted = self
            .last_wanted
            .is_some_and(|last| now.duration_since(last) < WANTED);
        if !(wanted || self.keepalive.is_some()) {
            return;
        }
        self.handshake_failures += 1;
        self.restart_at = Some(now + self.pause + jitter);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    fn restart(&mut self, path: &Path, now: Instant, buffer: &mut [u8], send: Send<'_>) {
        self.restart_at = None;
        if *path == Path::Unknown {
            return;
        }
        if let TunnResult::WriteToNetwork(datagram) =
            self.tunn.format_handshake_initiation(buffer, true)
        {
            let length = datagram.len();
            self.transmit(path, &buffer[..length], now, send);
        }
    }

    /// An empty packet; without a session it begins a handshake.
    fn keep_alive(&mut self, path: &Path, now: Instant, buffer: &mut [u8], send: Send<'_>) {
        if let TunnResult::WriteToNetwork(datagram) = self.tunn.encapsulate(&[], buffer) {
            let length = datagram.len();
            self.transmit(path, &buffer[..length], now, send);
        }
        // Without a session boringtun may be waiting for an answer already: that counts as tried.
        self.last_sent = now;
    }
}

/// WireGuard pads the inner packet to 16 bytes, never beyond the MTU (whitepaper section 5.4.6).
pub(crate) fn padded_length(length: usize, mtu: usize) -> usize {
    length.next_multiple_of(16).min(mtu.max(length))
}

const HANDSHAKE_INITIATION: u8 = 1;
const HANDSHAKE_RESPONSE: u8 = 2;
const COOKIE_REPLY: u8 = 3;
const DATA: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const KEEPALIVE: Duration = Duration::from_secs(25);

    fn peer(keepalive: Option<Duration>, now: Instant) -> Peer {
        let key = X25519Public::from(&StaticSecret::from([2; 32])).to_bytes();
        let config = PeerConfig {
            public_key: key,
            allowed_prefixes: Vec::new(),
            path: PathConfig::Direct(SocketAddr::from(([192, 0, 2, 2], 51820))),
            persistent_keepalive: keepalive,
        };
        let peer = Peer::new(&config, &StaticSecret::from([1; 32]), 1, now);
        peer.configure(&config, now);
        peer.session.lock().restart_at = None;
        peer
    }

    /// What the peer sends in its next tick, after `later`.
    fn tick(peer: &Peer, now: Instant) -> Vec<u8> {
        let mut kinds = Vec::new();
        let mut send = |_: &Path, datagram: &[u8]| kinds.push(datagram[0]);
        peer.tick(now, Duration::ZERO, &mut vec![0; BUFFER_BYTES], &mut send);
        kinds
    }

    fn expire(peer: &Peer, now: Instant) {
        peer.session.lock().expired(now, Duration::ZERO);
    }

    #[test]
    fn an_expired_tunnel_begins_again_after_pauses_that_grow_to_half_a_minute() {
        let mut now = Instant::now();
        let peer = peer(Some(KEEPALIVE), now);
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            expire(&peer, now);
            let pause = Duration::from_secs(pause);
            assert_eq!(tick(&peer, now + pause - Duration::from_millis(1)), []);
            now += pause;
            assert_eq!(tick(&peer, now), [HANDSHAKE_INITIATION]);
        }
        assert_eq!(peer.session.lock().handshake_failures, 7);
        peer.session.lock().handshake_done();
        assert_eq!(peer.session.lock().pause, FIRST_PAUSE);
    }

    #[test]
    fn an_expired_tunnel_that_nobody_wants_stays_silent_until_data_flows() {
        let now = Instant::now();
        let peer = peer(None, now);
        expire(&peer, now);
        assert_eq!(tick(&peer, now + LONGEST_PAUSE), []);

        let mut sent = Vec::new();
        let mut send = |_: &Path, datagram: &[u8]| sent.push(datagram[0]);
        let (mut scratch, mut buffer) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
        peer.seal(&[0x45; 20], 1380, now, &mut scratch, &mut buffer, &mut send)
            .unwrap();
        assert_eq!(
            sent,
            [HANDSHAKE_INITIATION],
            "data begins a handshake on either side"
        );
        expire(&peer, now);
        assert_eq!(
            tick(&peer, now + FIRST_PAUSE),
            [HANDSHAKE_INITIATION],
            "and it was wanted"
        );
    }
}
