//! What the tests of tunnels share: chance that can be repeated, a clock that can be set, and a tunnel with its mailbox.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use x25519_dalek::{PublicKey, StaticSecret};

use super::Tunnel;
use super::clock::HandshakeClock;
use super::cookie::{Cookies, Macs};
use super::environment::Environment;
use crate::core::{Core, Handled, Refused, Sealed, Ticked};
use crate::message::BUFFER;
use crate::message::{DATA_HEADER, Frame, TAG};

/// Repeatable chance: SplitMix64 (Steele, Lea and Flood 2014).
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to `end`, which is not among them.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(super) fn is_one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}

thread_local! {
    static ENTROPY: Cell<u64> = const { Cell::new(1) };
    static WALL: Cell<Duration> = const { Cell::new(Duration::from_secs(1_700_000_000)) };
}

/// Every tunnel of this thread draws from this seed now.
pub(super) fn seed(seed: u64) {
    ENTROPY.set(seed);
}

/// Sets the wall clock of every tunnel of this thread, since 1970.
pub(super) fn set_wall(wall: Duration) {
    WALL.set(wall);
}

fn fill(bytes: &mut [u8]) -> bool {
    let mut random = Random(ENTROPY.get());
    for byte in bytes {
        *byte = random.next() as u8;
    }
    ENTROPY.set(random.0);
    true
}

pub(super) const ENVIRONMENT: Environment = Environment { fill };

/// A clock of handshakes that reads the wall clock of this thread's tests.
pub(super) fn clock(reserved: Option<u64>) -> HandshakeClock {
    HandshakeClock::with_wall(reserved, || -> SystemTime { UNIX_EPOCH + WALL.get() })
}

pub(super) fn private(number: u8) -> StaticSecret {
    StaticSecret::from([number; 32])
}

pub(super) fn public(number: u8) -> PublicKey {
    PublicKey::from(&private(number))
}

/// Ticks come this often.
pub(super) const TICK: Duration = Duration::from_millis(200);

pub(super) const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A tunnel, and what went out of it at either end.
pub(super) struct Node {
    pub(super) tunnel: Tunnel,
    /// The first MACs are checked before a tunnel gets a message.
    cookies: Cookies,
    /// Datagrams for the peer.
    pub(super) outbox: Vec<Vec<u8>>,
    /// Packets for the host.
    pub(super) inbox: Vec<Vec<u8>>,
    buffer: Vec<u8>,
}

impl Node {
    pub(super) fn new(own: u8, peer: u8) -> Self {
        Self::with_clock(own, peer, clock(None))
    }

    pub(super) fn with_clock(own: u8, peer: u8, clock: HandshakeClock) -> Self {
        Self {
            tunnel: Tunnel::with_environment(
                &private(own),
                public(peer),
                u32::from(own),
                clock,
                ENVIRONMENT,
            ),
            cookies: Cookies::new(public(own)),
            outbox: Vec::new(),
            inbox: Vec::new(),
            buffer: vec![0; BUFFER],
        }
    }

    fn post(&mut self, length: usize) {
        self.outbox.push(self.buffer[..length].to_vec());
    }

    pub(super) fn send(&mut self, packet: &[u8], now: Instant) {
        let (mut slab, frames) = slab(&[packet]);
        match self.tunnel.seal(&mut slab, &frames, now, &mut self.buffer) {
            Sealed::InPlace => self.outbox.push(slab),
            Sealed::Kept(message) => {
                if let Some(length) = message {
                    self.post(length);
                }
            }
        }
    }

    pub(super) fn receive(&mut self, datagram: &[u8], now: Instant) -> Result<Handled, Refused> {
        let result = if datagram.first() == Some(&4) {
            self.open(datagram, now)
        } else if self.has_first_mac(datagram) {
            self.tunnel.handle(datagram, now, &mut self.buffer)
        } else {
            Err(Refused::Invalid)
        };
        if let Ok(Handled::Reply(length)) = result {
            self.post(length);
        }
        while let Some(waiting) = self.tunnel.waiting(now, &mut self.buffer) {
            self.post(waiting.length);
        }
        result
    }

    /// A cookie reply has none.
    fn has_first_mac(&self, datagram: &[u8]) -> bool {
        let matches = |macs| self.cookies.first_matches(&macs);
        datagram.first() == Some(&3) || Macs::of(datagram).is_some_and(matches)
    }

    fn open(&mut self, datagram: &[u8], now: Instant) -> Result<Handled, Refused> {
        let mut slab = datagram.to_vec();
        let frame = Frame {
            start: 0,
            length: slab.len(),
        };
        let mut opened = [false];
        self.tunnel
            .open(&mut slab, &[frame], now, &mut opened, &mut []);
        if !opened[0] {
            return Err(Refused::Invalid);
        }
        let packet = &slab[DATA_HEADER..slab.len() - TAG];
        if !packet.is_empty() {
            self.inbox.push(packet.to_vec());
        }
        Ok(Handled::Accepted)
    }

    /// True if the tunnel gave up.
    pub(super) fn tick(&mut self, now: Instant) -> bool {
        match self.tunnel.tick(now, &mut self.buffer) {
            Ticked::Quiet => false,
            Ticked::Send(length) => {
                self.post(length);
                false
            }
            Ticked::Expired => true,
        }
    }

    pub(super) fn initiate(&mut self, now: Instant) {
        let length = self.tunnel.initiate(now, &mut self.buffer).unwrap();
        self.post(length);
    }

    /// The types of what went out since the last call.
    pub(super) fn kinds(&mut self) -> Vec<u8> {
        self.outbox.drain(..).map(|datagram| datagram[0]).collect()
    }
}

/// Packets one behind the other, each with its room.
pub(super) fn slab(packets: &[&[u8]]) -> (Vec<u8>, Vec<Frame>) {
    let (mut slab, mut frames) = (Vec::new(), Vec::new());
    for packet in packets {
        let start = slab.len();
        slab.resize(start + DATA_HEADER, 0xee);
        slab.extend_from_slice(packet);
        slab.resize(slab.len() + TAG, 0xee);
        frames.push(Frame {
            start,
            length: slab.len() - start,
        });
    }
    (slab, frames)
}

/// Carries datagrams between both until there are none; what is refused is refused.
pub(super) fn exchange(a: &mut Node, b: &mut Node, now: Instant) {
    while !(a.outbox.is_empty() && b.outbox.is_empty()) {
        for datagram in std::mem::take(&mut a.outbox) {
            b.receive(&datagram, now).ok();
        }
        for datagram in std::mem::take(&mut b.outbox) {
            a.receive(&datagram, now).ok();
        }
    }
}

/// Two tunnels with each other, without a session.
pub(super) fn strangers() -> (Node, Node) {
    (Node::new(1, 2), Node::new(2, 1))
}

/// Two tunnels with a session that the first began.
pub(super) fn connected(now: Instant) -> (Node, Node) {
    let (mut a, mut b) = strangers();
    a.initiate(now);
    exchange(&mut a, &mut b, now);
    assert!(a.tunnel.sessions.sending(1, now).is_some());
    assert!(b.tunnel.sessions.sending(1, now).is_some());
    (a, b)
}
