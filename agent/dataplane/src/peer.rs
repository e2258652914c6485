//! One peer: its protocol core, the endpoint, keepalives, beginning again, and the counters.
//!
//! A core that has given up stays silent, so [`Session::expired`] begins again; persistent keepalive can change while
//! a session stands and must restart an expired one, so it is ours and not the core's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::core::{Core, Handled, Refused, Sealed, Ticked};
use crate::counters::{DropReason, PeerCounters};
use crate::lock::Mutex;
use crate::message::{
    COOKIE_REPLY, DATA, Frame, HANDSHAKE_INITIATION, HANDSHAKE_RESPONSE, SMALLEST,
};
use crate::path_mtu::{self, PathMtu, SMALLEST_MTU};
use crate::probe::{Kind, Probe};
use crate::snapshot::{PathConfig, PeerConfig, PublicKey};
use crate::tos::Tos;

/// First pause before an expired or unanswered tunnel begins again, doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The largest MTU of an interface, in bytes.
const LARGEST_PROBE: usize = 1500;
/// Probes go out while a session is surely alive; then a new one begins (whitepaper section 6.2).
const SESSION_LASTS: Duration = Duration::from_secs(170);
/// A tunnel that sent a packet within this time is used.
const USED: Duration = Duration::from_secs(10);

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
    /// Never taken with another lock held but a session's.
    path_mtu: Mutex<PathMtu>,
    /// Datagrams went out that are larger than every path carries, and that nobody on the way would fragment.
    is_trusted: AtomicBool,
    rx_bytes: AtomicU64,
    tx_bytes: AtomicU64,
    rx_packets: AtomicU64,
    tx_packets: AtomicU64,
}

/// Takes datagrams for the peer, each with the class and congestion bits of the packet in it, if it has one;
/// called while the session is locked, in order.
pub(crate) type Send<'a> = &'a mut dyn FnMut(&Path, Tos, &[u8]);

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

    /// Nobody answers: back to the configured address, if there is one. True if it was elsewhere.
    fn give_up(&mut self) -> bool {
        let PathConfig::Direct(configured) = self.config else {
            return false;
        };
        let configured = Path::Direct(configured);
        if self.path == configured {
            return false;
        }
        self.path = configured;
        self.is_authenticated = false;
        true
    }
}

struct Session {
    core: Box<dyn Core>,
    keepalive: Option<Duration>,
    last_sent: Instant,
    last_wanted: Option<Instant>,
    restart_at: Option<Instant>,
    pause: Duration,
    established: Option<Instant>,
    answered: bool,
    handshakes: u64,
    handshake_failures: u64,
    relay_handshakes: u64,
    /// Bytes of messages, whatever they carry.
    received_bytes: u64,
    sent_bytes: u64,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Peer {
    pub(crate) fn new(
        key: PublicKey,
        core: Box<dyn Core>,
        index: u32,
        mtu: u16,
        now: Instant,
    ) -> Self {
        let session = Session {
            core,
            keepalive: None,
            last_sent: now,
            last_wanted: None,
            restart_at: None,
            pause: FIRST_PAUSE,
            established: None,
            answered: false,
            handshakes: 0,
            handshake_failures: 0,
            relay_handshakes: 0,
            received_bytes: 0,
            sent_bytes: 0,
        };
        Self {
            key,
            index,
            route: Mutex::new(Route {
                config: PathConfig::Passive,
                path: Path::Unknown,
                is_authenticated: false,
            }),
            session: Mutex::new(session),
            path_mtu: Mutex::new(PathMtu::new(mtu)),
            is_trusted: AtomicBool::new(false),
            rx_bytes: AtomicU64::new(0),
            tx_bytes: AtomicU64::new(0),
            rx_packets: AtomicU64::new(0),
            tx_packets: AtomicU64::new(0),
        }
    }

    /// Takes over a new configuration; an unchanged one leaves a roamed endpoint alone.
    pub(crate) fn configure(&self, config: &PeerConfig, now: Instant) {
        let is_moved = {
            let mut route = self.route.lock();
            let before = route.path.clone();
            route.configure(&config.path);
            route.path != before
        };
        if is_moved {
            self.forget_path_mtu();
        }
        let mut session = self.session.lock();
        if session.keepalive != config.persistent_keepalive {
            session.keepalive = config.persistent_keepalive;
            if session.keepalive.is_some() {
                // Begin at the next tick, not after the first interval.
                session.restart_at = Some(now);
            }
        }
    }

    /// Seals packets where they lie, `bytes` in all without padding. False if there is no session yet:
    /// then they are kept, and sent when there is one. `message` is a [`crate::message::BUFFER`].
    pub(crate) fn seal(
        &self,
        slab: &mut [u8],
        frames: &[Frame],
        bytes: u64,
        now: Instant,
        message: &mut [u8],
        send: Send<'_>,
    ) -> bool {
        let mut session = self.session.lock();
        session.last_wanted = Some(now);
        let sealed = session.core.seal(slab, frames, now, message);
        match sealed {
            Sealed::InPlace => {
                session.last_sent = now;
                session.sent_bytes += frames.iter().map(|f| f.length as u64).sum::<u64>();
                drop(session);
                self.sent(frames.len() as u64, bytes);
                true
            }
            Sealed::Kept(initiation) => {
                if let Some(length) = initiation {
                    session.transmit(&self.path(), &message[..length], now, send);
                }
                false
            }
        }
    }

    /// Counts what the host sent and the peer is sent.
    fn sent(&self, packets: u64, bytes: u64) {
        self.tx_packets.fetch_add(packets, Ordering::Relaxed);
        self.tx_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Opens data messages where they lie; `opened[i]` tells whether frame i is authentic and new.
    /// `source` is the sender's address if they came straight, `None` through a relay:
    /// only a straight and authentic datagram moves the endpoint.
    #[expect(
        clippy::too_many_arguments,
        reason = "a run of datagrams with all that is known of it"
    )]
    pub(crate) fn open(
        &self,
        slab: &mut [u8],
        frames: &[Frame],
        source: Option<SocketAddr>,
        now: Instant,
        opened: &mut [bool],
        message: &mut [u8],
        send: Send<'_>,
    ) {
        let mut session = self.session.lock();
        session.core.open(slab, frames, now, opened, message);
        if !opened.contains(&true) {
            return;
        }
        let accepted = frames.iter().zip(&*opened).filter(|(_, opened)| **opened);
        session.received_bytes += accepted.map(|(f, _)| f.length as u64).sum::<u64>();
        session.heard(DATA, now);
        self.learn(DATA, source);
        let (packets, bytes) = session.flush(&self.path(), message, now, send);
        self.sent(packets, bytes);
    }

    /// What the host gets of opened messages.
    pub(crate) fn delivered(&self, packets: u64, bytes: u64) {
        self.rx_packets.fetch_add(packets, Ordering::Relaxed);
        self.rx_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes a handshake message. `source` as for [`Peer::open`].
    pub(crate) fn handle(
        &self,
        datagram: &[u8],
        source: Option<SocketAddr>,
        now: Instant,
        message: &mut [u8],
        send: Send<'_>,
    ) -> Result<(), DropReason> {
        let Some(&kind) = datagram.first().filter(|_| datagram.len() >= SMALLEST) else {
            return Err(DropReason::ShortDatagram);
        };
        let mut session = self.session.lock();
        let handled = session.core.handle(datagram, now, message);
        match handled {
            Err(Refused::UnderLoad) => return Err(DropReason::RateLimited),
            Err(Refused::Invalid) => return Err(DropReason::InvalidDatagram),
            Ok(Handled::Accepted | Handled::Reply(_)) => {}
        }
        if kind != COOKIE_REPLY {
            session.received_bytes += datagram.len() as u64;
        }
        session.heard(kind, now);
        self.learn(kind, source);
        let path = self.path();
        if let Ok(Handled::Reply(length)) = handled {
            let to = match source {
                // Its datagrams may go elsewhere as long as it has not answered from there.
                Some(source) if !matches!(path, Path::Relay { .. }) => Path::Direct(source),
                Some(_) | None => path.clone(),
            };
            session.transmit(&to, &message[..length], now, &mut *send);
        }
        if kind == HANDSHAKE_RESPONSE {
            let (packets, bytes) = session.flush(&path, message, now, send);
            self.sent(packets, bytes);
        }
        Ok(())
    }

    /// Timers, keepalives and beginning again; about every 200 ms.
    pub(crate) fn tick(&self, now: Instant, jitter: Duration, message: &mut [u8], send: Send<'_>) {
        let mut path = self.path();
        let mut session = self.session.lock();
        let ticked = session.core.tick(now, message);
        if ticked == Ticked::Expired && self.route.lock().give_up() {
            path = self.path();
            self.forget_path_mtu();
        }
        match ticked {
            Ticked::Send(length) => {
                session.transmit(&path, &message[..length], now, &mut *send);
            }
            Ticked::Expired if session.restart_at.is_none() && path != Path::Unknown => {
                session.expired(now, jitter);
            }
            Ticked::Expired | Ticked::Quiet => {}
        }
        if session
            .keepalive
            .is_some_and(|interval| now.duration_since(session.last_sent) >= interval)
            && session.restart_at.is_none()
            && path != Path::Unknown
        {
            session.keep_alive(&path, now, message, &mut *send);
        }
        if session.restart_at.is_some_and(|at| at <= now) {
            session.restart(&path, now, message, send);
        }
    }

    /// Asks what passes to the peer, if that is due; about every 200 ms. Only to a peer that is reached straight.
    pub(crate) fn probe(
        &self,
        now: Instant,
        message: &mut [u8],
        send: &mut dyn FnMut(SocketAddr, &[u8]),
    ) {
        let Path::Direct(to) = self.path() else {
            return;
        };
        let within = |at: Option<Instant>, time| at.is_some_and(|at| now.duration_since(at) < time);
        let mut session = self.session.lock();
        if !within(session.established, SESSION_LASTS) {
            return;
        }
        let is_used = within(session.last_wanted, USED);
        let is_trusted = self.is_trusted.swap(false, Ordering::Relaxed);
        let due = self.path_mtu.lock().due(now, is_used, is_trusted);
        let Some(due) = due else { return };
        for size in due.sizes() {
            let probe = Probe {
                kind: Kind::Question,
                number: due.number,
                size,
            };
            session.send_probe(probe, now, message, &mut |datagram| send(to, datagram));
        }
    }

    /// The peer sent a probe, or the answer to one.
    pub(crate) fn probed(&self, probe: Probe, now: Instant, message: &mut [u8], send: Send<'_>) {
        match probe.kind {
            Kind::Question => {
                let answer = Probe {
                    kind: Kind::Answer,
                    ..probe
                };
                let path = self.path();
                let mut session = self.session.lock();
                session.send_probe(answer, now, message, &mut |datagram| {
                    send(&path, Tos::default(), datagram);
                });
            }
            Kind::Answer => {
                let mut path_mtu = self.path_mtu.lock();
                path_mtu.answered(probe.number, probe.size, now);
            }
        }
    }

    /// Datagrams go out that nobody on the way would fragment: so it must be seen that they still pass.
    pub(crate) fn trust_path(&self) {
        if !self.is_trusted.load(Ordering::Relaxed) {
            self.is_trusted.store(true, Ordering::Relaxed);
        }
    }

    fn forget_path_mtu(&self) {
        self.path_mtu.lock().moved();
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
        if !proved && !stays && matches!(route.config, PathConfig::Direct(_)) {
            return;
        }
        route.is_authenticated = proved || (stays && route.is_authenticated);
        route.path = Path::Direct(source);
        drop(route);
        if !stays {
            self.forget_path_mtu();
        }
    }

    /// What was counted. `endpoint` is where its datagrams go; `relay`, if they go through one, which is that, if it is known.
    pub(crate) fn counters(
        &self,
        endpoint: Option<SocketAddr>,
        relay: Option<Option<&Arc<Self>>>,
    ) -> PeerCounters {
        let session = self.session.lock();
        let found = match relay {
            None => self.path_mtu.lock().mtu(),
            Some(relay) => relay.and_then(|relay| path_mtu::relayed(relay.path_mtu.lock().mtu()?)),
        };
        // IPv6's routers do not fragment what turns out to be too large.
        let careful = endpoint.filter(SocketAddr::is_ipv6).map(|_| SMALLEST_MTU);
        PeerCounters {
            public_key: self.key,
            endpoint,
            relayed: relay.is_some(),
            path_mtu: found.or(careful),
            last_handshake: session.established,
            rx_bytes: self.rx_bytes.load(Ordering::Relaxed),
            tx_bytes: self.tx_bytes.load(Ordering::Relaxed),
            rx_wire_bytes: session.received_bytes,
            tx_wire_bytes: session.sent_bytes,
            rx_packets: self.rx_packets.load(Ordering::Relaxed),
            tx_packets: self.tx_packets.load(Ordering::Relaxed),
            handshakes: session.handshakes,
            handshake_failures: session.handshake_failures,
        }
    }
}

impl Session {
    /// A datagram of this kind was accepted.
    fn heard(&mut self, kind: u8, now: Instant) {
        match kind {
            // The initiator is done with the response, the responder with the first data.
            HANDSHAKE_RESPONSE => self.handshake_done(now),
            DATA if self.answered => self.handshake_done(now),
            HANDSHAKE_INITIATION => self.answered = true,
            _ => {}
        }
    }

    fn handshake_done(&mut self, now: Instant) {
        self.answered = false;
        self.established = Some(now);
        self.handshakes += 1;
        self.restart_at = None;
        self.pause = FIRST_PAUSE;
    }

    /// Sends a message that has no packet of the host.
    fn transmit(&mut self, path: &Path, datagram: &[u8], now: Instant, send: Send<'_>) {
        self.transmit_with(path, Tos::default(), datagram, now, send);
    }

    fn transmit_with(
        &mut self,
        path: &Path,
        tos: Tos,
        datagram: &[u8],
        now: Instant,
        send: Send<'_>,
    ) {
        send(path, tos, datagram);
        self.sent_bytes += datagram.len() as u64;
        self.last_sent = now;
    }

    /// Seals and sends a probe, if there is a session.
    fn send_probe(
        &mut self,
        probe: Probe,
        now: Instant,
        message: &mut [u8],
        send: &mut dyn FnMut(&[u8]),
    ) {
        let mut slab = [0; LARGEST_PROBE + SMALLEST];
        let frame = Frame {
            start: 0,
            length: probe.length() + SMALLEST,
        };
        let Some(packet) = slab.get_mut(frame.packet()) else {
            return;
        };
        probe.write(packet);
        if self.core.seal(&mut slab, &[frame], now, message) == Sealed::InPlace {
            send(&slab[frame.message()]);
            self.last_sent = now;
        }
    }

    /// Sends what waited for the session: so many packets, of so many bytes.
    fn flush(
        &mut self,
        path: &Path,
        message: &mut [u8],
        now: Instant,
        send: Send<'_>,
    ) -> (u64, u64) {
        let (mut packets, mut bytes) = (0, 0);
        while let Some(waiting) = self.core.waiting(now, message) {
            let datagram = &message[..waiting.length];
            self.transmit_with(path, waiting.tos, datagram, now, &mut *send);
            packets += u64::from(waiting.packet > 0);
            bytes += waiting.packet as u64;
        }
        (packets, bytes)
    }

    /// The core gave up: begins again after a pause, if anybody wants the tunnel.
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

    fn restart(&mut self, path: &Path, now: Instant, message: &mut [u8], send: Send<'_>) {
        self.restart_at = None;
        if *path == Path::Unknown {
            return;
        }
        if let Some(length) = self.core.initiate(now, message) {
            self.transmit(path, &message[..length], now, send);
        }
    }

    /// An empty packet; without a session it begins a handshake.
    fn keep_alive(&mut self, path: &Path, now: Instant, message: &mut [u8], send: Send<'_>) {
        if let Some(length) = self.core.keep_alive(now, message) {
            self.transmit(path, &message[..length], now, send);
        }
        // Without a session the core may be waiting for an answer already: that counts as tried.
        self.last_sent = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Boringtun;
    use crate::message::BUFFER;
    use crate::public_key;

    const KEEPALIVE: Duration = Duration::from_secs(25);

    fn peer(keepalive: Option<Duration>, now: Instant) -> Peer {
        let config = PeerConfig {
            public_key: public_key(&[2; 32]),
            allowed_prefixes: Vec::new(),
            path: PathConfig::Direct(SocketAddr::from(([192, 0, 2, 2], 51820))),
            persistent_keepalive: keepalive,
        };
        let core = Boringtun::new(&[1; 32].into(), config.public_key.into(), 1, now);
        let peer = Peer::new(config.public_key, Box::new(core), 1, 1380, now);
        peer.configure(&config, now);
        peer.session.lock().restart_at = None;
        peer
    }

    /// What the peer sends in its next tick, after `later`.
    fn tick(peer: &Peer, now: Instant) -> Vec<u8> {
        let mut kinds = Vec::new();
        let mut send = |_: &Path, _: Tos, datagram: &[u8]| kinds.push(datagram[0]);
        peer.tick(now, Duration::ZERO, &mut vec![0; BUFFER], &mut send);
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
        peer.session.lock().handshake_done(now);
        assert_eq!(peer.session.lock().pause, FIRST_PAUSE);
    }

    #[test]
    fn an_expired_tunnel_that_nobody_wants_stays_silent_until_data_flows() {
        let now = Instant::now();
        let peer = peer(None, now);
        expire(&peer, now);
        assert_eq!(tick(&peer, now + LONGEST_PAUSE), []);

        let mut sent = Vec::new();
        let mut send = |_: &Path, _: Tos, datagram: &[u8]| sent.push(datagram[0]);
        let (mut slab, mut message) = (vec![0x45; 64], vec![0; BUFFER]);
        let frame = Frame {
            start: 0,
            length: 64,
        };
        let is_sealed = peer.seal(&mut slab, &[frame], 32, now, &mut message, &mut send);
        assert!(!is_sealed);
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
