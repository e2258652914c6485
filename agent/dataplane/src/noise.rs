//! Our own protocol core: WireGuard for one peer (whitepaper sections 5 and 6), with keys of our own, so that whole batches
//! are sealed and opened where they lie. It knows no socket, no endpoint, no allowed prefixes, and no persistent keepalive.
//!
//! | question | module |
//! |---|---|
//! | How do messages lie in a datagram? | `message` |
//! | What does a handshake compute? | `handshake`, on `crypto` |
//! | When was it begun, in the peer's eyes? | `clock`, on `timestamp` |
//! | Who gets what is sent to it? | `cookie`: the sender's half is a tunnel's, the receiver's one for all |
//! | Which keys are used? | `sessions`, `session` |
//! | Was a message seen before? | `replay` |
//! | What is due when? | `timers` |
//! | What waits for a session? | `kept` |

mod clock;
mod cookie;
mod crypto;
mod environment;
mod handshake;
mod kept;
mod message;
mod replay;
mod session;
mod sessions;
mod timers;
mod timestamp;

#[cfg(test)]
mod attack_tests;
#[cfg(test)]
mod interop_tests;
#[cfg(test)]
mod schedule_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod timer_tests;

use std::time::{Duration, Instant};

use x25519_dalek::{PublicKey, StaticSecret};

pub use clock::HandshakeClock;
pub(crate) use cookie::{Cookies, Macs};

use crate::core::{Core, Handled, Refused, Sealed, Ticked, Waiting};
use crate::message::{DATA_HEADER, Frame, TAG};
use crate::tos::Tos;
use environment::Environment;
use handshake::{Identity, Pending};
use kept::Kept;
use message::{COOKIE_BYTES, Handshake, INITIATION_BYTES, RESPONSE_BYTES};
use session::{REJECT_AFTER_TIME, Session};
use sessions::Sessions;
use timers::{KEEPALIVE_TIMEOUT, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME, REKEY_TIMEOUT, Timers};
use timestamp::Timestamp;

/// One peer's protocol state.
pub(crate) struct Tunnel {
    environment: Environment,
    identity: Identity,
    clock: HandshakeClock,
    /// Upper 24 bits: the tunnel. Lower 8: counts handshakes.
    next_index: u32,
    sessions: Sessions,
    /// Our initiation that waits for its response.
    pending: Option<Pending>,
    /// Of the peer's last accepted initiation, and when that came.
    greatest: Timestamp,
    accepted_at: Option<Instant>,
    sender: cookie::Sender,
    /// When a cookie was last answered with another initiation at once.
    cookie_used_at: Option<Instant>,
    timers: Timers,
    /// Drawn with each initiation.
    jitter: Duration,
    kept: Kept,
    /// We began the session, and the peer may not send on it until something comes from us.
    owes_confirmation: bool,
}

impl Tunnel {
    /// A tunnel without a session. `index` has 24 bits, and is what tells this tunnel's receiver indices from others':
    /// they are `index << 8` and up.
    pub(crate) fn new(
        private: &StaticSecret,
        peer: PublicKey,
        index: u32,
        clock: HandshakeClock,
    ) -> Self {
        Self::with_environment(private, peer, index, clock, Environment::system())
    }

    fn with_environment(
        private: &StaticSecret,
        peer: PublicKey,
        index: u32,
        clock: HandshakeClock,
        environment: Environment,
    ) -> Self {
        let identity = Identity::new(private, peer);
        let public = identity.public;
        Self {
            environment,
            identity,
            clock,
            next_index: index << 8,
            sessions: Sessions::new(public.as_bytes() > peer.as_bytes()),
            pending: None,
            greatest: Timestamp::ZERO,
            accepted_at: None,
            sender: cookie::Sender::new(peer),
            cookie_used_at: None,
            timers: Timers::default(),
            jitter: Duration::ZERO,
            kept: Kept::default(),
            owes_confirmation: false,
        }
    }
}

impl Core for Tunnel {
    fn seal(
        &mut self,
        slab: &mut [u8],
        frames: &[Frame],
        now: Instant,
        message: &mut [u8],
    ) -> Sealed {
        if self.seal_in_place(slab, frames, now) {
            return Sealed::InPlace;
        }
        for frame in frames {
            let packet = frame.start + DATA_HEADER..frame.start + frame.length - TAG;
            self.kept.push(&slab[packet]);
        }
        Sealed::Kept(self.initiate_if_idle(now, message))
    }

    fn open(
        &mut self,
        slab: &mut [u8],
        frames: &[Frame],
        now: Instant,
        opened: &mut [bool],
        _message: &mut [u8],
    ) {
        opened.fill(false);
        let mut from = 0;
        while from < frames.len().min(opened.len()) {
            let first = session::receiver(slab, &frames[from]);
            let run = frames[from..]
                .iter()
                .take_while(|frame| session::receiver(slab, frame) == first)
                .count();
            let run = from..(from + run).min(opened.len());
            from = run.end;
            if let Some(receiver) = first {
                let opened = &mut opened[run.clone()];
                self.open_run(receiver, slab, &frames[run], opened, now);
            }
        }
    }

    fn handle(
        &mut self,
        datagram: &[u8],
        now: Instant,
        message: &mut [u8],
    ) -> Result<Handled, Refused> {
        match Handshake::parse(datagram).ok_or(Refused::Invalid)? {
            Handshake::Initiation(initiation) => self.handle_initiation(initiation, now, message),
            Handshake::Response(response) => self.handle_response(response, now),
            Handshake::Cookie(reply) => self.handle_cookie(reply, now, message),
        }
    }

    fn waiting(&mut self, now: Instant, message: &mut [u8]) -> Option<Waiting> {
        self.sessions.sending(1, now)?;
        let packet = match self.kept.pop() {
            Some(packet) => packet,
            None if self.owes_confirmation => Vec::new(),
            None => return None,
        };
        Some(Waiting {
            length: self.seal_message(&packet, now, message)?,
            tos: Tos::of(&packet),
            packet: crate::packet::parse(&packet).map_or(packet.len(), |header| header.length),
        })
    }

    fn tick(&mut self, now: Instant, message: &mut [u8]) -> Ticked {
        self.sessions.expire(now);
        if self.pending.is_some() && self.timers.gives_up(now) {
            self.pending = None;
            self.kept.clear();
            return Ticked::Expired;
        }
        let is_due = match self.pending {
            Some(_) => self.timers.retries(now),
            None => self.timers.wants_handshake(now),
        };
        let sent = if is_due {
            self.send_initiation(now, message)
        } else if self.timers.takes_keepalive(now) {
            self.keep_alive(now, message)
        } else {
            None
        };
        sent.map_or(Ticked::Quiet, Ticked::Send)
    }

    fn initiate(&mut self, now: Instant, message: &mut [u8]) -> Option<usize> {
        self.timers.begin_anew();
        self.send_initiation(now, message)
    }

    fn keep_alive(&mut self, now: Instant, message: &mut [u8]) -> Option<usize> {
        if self.sessions.sending(1, now).is_some() {
            return self.seal_message(&[], now, message);
        }
        self.initiate_if_idle(now, message)
    }
}

/// Data.
impl Tunnel {
    /// False if there is no session for so many frames.
    fn seal_in_place(&mut self, slab: &mut [u8], frames: &[Frame], now: Instant) -> bool {
        let Some(session) = self.sessions.sending(frames.len(), now) else {
            return false;
        };
        session.seal(slab, frames);
        // Crossed handshakes with messages out of order can leave each side sending on a session that the other began.
        // Nobody would renew either, so the responder does, after the initiator should have (whitepaper section 6.2).
        let renewed_at = if session.is_initiator {
            REKEY_AFTER_TIME
        } else {
            REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT
        };
        let is_old = session.counter > REKEY_AFTER_MESSAGES || session.age(now) >= renewed_at;
        if is_old {
            self.timers.rekey();
        }
        self.owes_confirmation = false;
        self.timers.sent();
        if frames.iter().any(|frame| frame.length > DATA_HEADER + TAG) {
            self.timers.sent_data(now, self.jitter);
        }
        true
    }

    /// Seals a copy of a packet into `message`; its length.
    fn seal_message(&mut self, packet: &[u8], now: Instant, message: &mut [u8]) -> Option<usize> {
        let length = DATA_HEADER + packet.len() + TAG;
        let room = message.get_mut(..length)?;
        room[DATA_HEADER..length - TAG].copy_from_slice(packet);
        let frame = Frame { start: 0, length };
        self.seal_in_place(room, &[frame], now).then_some(length)
    }

    /// Opens messages that are all for the session with the index `receiver`.
    fn open_run(
        &mut self,
        receiver: u32,
        slab: &mut [u8],
        frames: &[Frame],
        opened: &mut [bool],
        now: Instant,
    ) {
        let (result, is_confirmed) = self.sessions.open(receiver, slab, frames, opened, now);
        if is_confirmed {
            self.pending = None;
            self.timers.completed();
        }
        if !result.any {
            return;
        }
        self.timers.received();
        if result.data {
            self.timers.received_data(now);
        }
        let is_old = |session: &Session| {
            session.is_initiator
                && session.age(now) >= REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT
        };
        if self.sessions.current().is_some_and(is_old) {
            self.timers.rekey();
        }
    }
}

/// Handshakes.
impl Tunnel {
    fn initiate_if_idle(&mut self, now: Instant, message: &mut [u8]) -> Option<usize> {
        if self.pending.is_some() {
            return None;
        }
        self.send_initiation(now, message)
    }

    fn send_initiation(&mut self, now: Instant, message: &mut [u8]) -> Option<usize> {
        let message = message.first_chunk_mut()?;
        let ephemeral = self.environment.ephemeral()?;
        let index = self.new_index();
        let stamp = self.clock.next();
        let pending = handshake::initiate(&self.identity, index, ephemeral, stamp, message)?;
        self.sender.write_macs(message, index, now);
        self.pending = Some(pending);
        self.jitter = self.environment.jitter();
        self.timers.initiated(now, self.jitter);
        Some(INITIATION_BYTES)
    }

    fn handle_initiation(
        &mut self,
        datagram: &[u8; INITIATION_BYTES],
        now: Instant,
        message: &mut [u8],
    ) -> Result<Handled, Refused> {
        let message = message.first_chunk_mut().ok_or(Refused::Invalid)?;
        let initiation =
            handshake::read_initiation(&self.identity, datagram).ok_or(Refused::Invalid)?;
        let timestamp = initiation.timestamp;
        if timestamp <= self.greatest {
            return Err(Refused::Invalid);
        }
        let is_too_soon = |at| now.duration_since(at) < INITIATION_INTERVAL;
        if self.accepted_at.is_some_and(is_too_soon) {
            return Err(Refused::UnderLoad);
        }
        let ephemeral = self.environment.ephemeral().ok_or(Refused::UnderLoad)?;
        let index = self.new_index();
        let agreed = handshake::respond(&self.identity, initiation, index, &ephemeral, message)
            .ok_or(Refused::Invalid)?;
        self.sender.write_macs(message, index, now);
        self.greatest = timestamp;
        self.accepted_at = Some(now);
        self.sessions
            .add_responded(Session::new(&agreed, false, now));
        self.timers.received();
        self.timers.sent();
        Ok(Handled::Reply(RESPONSE_BYTES))
    }

    fn handle_response(
        &mut self,
        datagram: &[u8; RESPONSE_BYTES],
        now: Instant,
    ) -> Result<Handled, Refused> {
        let pending = self.pending.as_ref().ok_or(Refused::Invalid)?;
        let agreed =
            handshake::read_response(&self.identity, pending, datagram).ok_or(Refused::Invalid)?;
        self.pending = None;
        self.sessions
            .add_initiated(Session::new(&agreed, true, now));
        self.owes_confirmation = true;
        self.timers.completed();
        self.timers.received();
        Ok(Handled::Accepted)
    }

    /// The peer is flooded and wants a proof of our address. Whoever has to be reached within seconds cannot wait for
    /// the next attempt, so it gets the proof at once; once for each attempt, as anybody on the way can forge a reply.
    fn handle_cookie(
        &mut self,
        reply: &[u8; COOKIE_BYTES],
        now: Instant,
        message: &mut [u8],
    ) -> Result<Handled, Refused> {
        if !self.sender.read_reply(reply, now) {
            return Err(Refused::Invalid);
        }
        let is_recent = |at| now.duration_since(at) < REKEY_TIMEOUT;
        if self.pending.is_none() || self.cookie_used_at.is_some_and(is_recent) {
            return Ok(Handled::Accepted);
        }
        self.cookie_used_at = Some(now);
        let sent = self.send_initiation(now, message);
        Ok(sent.map_or(Handled::Accepted, Handled::Reply))
    }

    /// An index that no session of this tunnel has. At most four are taken, so one of the 256 is free.
    fn new_index(&mut self) -> u32 {
        loop {
            let index = self.next_index;
            self.next_index = (index & !0xff) | (index.wrapping_add(1) & 0xff);
            let is_pending = |pending: &Pending| pending.index == index;
            if !self.sessions.has(index) && !self.pending.as_ref().is_some_and(is_pending) {
                return index;
            }
        }
    }
}

/// Initiations of a peer are not accepted faster than 50 a second, as in Linux.
const INITIATION_INTERVAL: Duration = Duration::from_millis(20);
