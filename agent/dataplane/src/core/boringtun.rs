//! boringtun as a protocol core. It keeps its keys, so it seals and opens packet by packet, through a buffer.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};

use super::{Core, Handled, Refused, Sealed, Ticked, Waiting};
use crate::message::{DATA, Frame, SMALLEST};
use crate::tos::Tos;

/// A `Tunn`. Its time is its own: `now` is not used, but to see the wall clock being set.
pub(crate) struct Boringtun {
    tunn: Tunn,
    private: StaticSecret,
    peer: PublicKey,
    index: u32,
    wall: fn() -> SystemTime,
    /// Both clocks when `tunn` was made.
    made: (SystemTime, Instant),
}

impl Boringtun {
    /// `index` has 24 bits; boringtun counts sessions in eight more below them.
    pub(crate) fn new(private: &StaticSecret, peer: PublicKey, index: u32, now: Instant) -> Self {
        Self::with_wall(private, peer, index, now, SystemTime::now)
    }

    fn with_wall(
        private: &StaticSecret,
        peer: PublicKey,
        index: u32,
        now: Instant,
        wall: fn() -> SystemTime,
    ) -> Self {
        Self {
            tunn: tunn(private, peer, index),
            private: private.clone(),
            peer,
            index,
            wall,
            made: (wall(), now),
        }
    }

    /// A `Tunn` reads the wall clock when it is made, and counts its timestamps on from there. So one that was made before
    /// the clock of the box was set right would be refused by the peer for ever: without a session it is made anew, and
    /// begins. The length of its initiation.
    fn follow_wall_clock(&mut self, now: Instant, message: &mut [u8]) -> Option<usize> {
        let wall = (self.wall)();
        let (made_wall, made) = self.made;
        let expected = made_wall + now.saturating_duration_since(made);
        if wall <= expected + CLOCK_WAS_SET {
            return None;
        }
        let session = self.tunn.time_since_last_handshake();
        if session.is_some_and(|age| age < REJECT_AFTER_TIME) {
            return None;
        }
        self.tunn = tunn(&self.private, self.peer, self.index);
        self.made = (wall, now);
        written(self.tunn.format_handshake_initiation(message, true))
    }
}

fn tunn(private: &StaticSecret, peer: PublicKey, index: u32) -> Tunn {
    // A limiter that is never under load: who may cost a handshake was decided before, and cookies have one owner.
    let limiter = RateLimiter::new(&PublicKey::from(private), u64::MAX);
    let limiter = Some(Arc::new(limiter));
    Tunn::new(private.clone(), peer, None, None, index, limiter)
}

/// Length of what boringtun wants to be sent.
fn written(result: TunnResult<'_>) -> Option<usize> {
    match result {
        TunnResult::WriteToNetwork(message) => Some(message.len()),
        TunnResult::Done
        | TunnResult::Err(_)
        | TunnResult::WriteToTunnelV4(..)
        | TunnResult::WriteToTunnelV6(..) => None,
    }
}

impl Core for Boringtun {
    fn seal(
        &mut self,
        slab: &mut [u8],
        frames: &[Frame],
        _now: Instant,
        message: &mut [u8],
    ) -> Sealed {
        let mut initiation = None;
        let mut kept = false;
        for frame in frames {
            let packet = &slab[frame.packet()];
            match written(self.tunn.encapsulate(packet, message)) {
                Some(length) if message[0] == DATA => {
                    slab[frame.message()].copy_from_slice(&message[..length]);
                }
                // Without a session boringtun keeps the packets; only the first begins a handshake, the others write nothing.
                Some(length) => {
                    initiation = Some(length);
                    kept = true;
                }
                None => kept = true,
            }
        }
        if kept {
            Sealed::Kept(initiation)
        } else {
            Sealed::InPlace
        }
    }

    fn open(
        &mut self,
        slab: &mut [u8],
        frames: &[Frame],
        _now: Instant,
        opened: &mut [bool],
        message: &mut [u8],
    ) {
        for (frame, opened) in frames.iter().zip(opened) {
            let datagram = &slab[frame.message()];
            *opened = match self.tunn.decapsulate(None, datagram, message) {
                // A keepalive.
                TunnResult::Done => frame.length == SMALLEST,
                TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                    let start = frame.packet().start;
                    slab[start..start + packet.len()].copy_from_slice(packet);
                    true
                }
                TunnResult::Err(_) | TunnResult::WriteToNetwork(_) => false,
            };
        }
    }

    fn handle(
        &mut self,
        datagram: &[u8],
        _now: Instant,
        message: &mut [u8],
    ) -> Result<Handled, Refused> {
        match self.tunn.decapsulate(None, datagram, message) {
            TunnResult::Done => Ok(Handled::Accepted),
            TunnResult::Err(WireGuardError::UnderLoad) => Err(Refused::UnderLoad),
            TunnResult::WriteToNetwork(reply) => Ok(Handled::Reply(reply.len())),
            TunnResult::Err(_)
            | TunnResult::WriteToTunnelV4(..)
            | TunnResult::WriteToTunnelV6(..) => Err(Refused::Invalid),
        }
    }

    fn waiting(&mut self, _now: Instant, message: &mut [u8]) -> Option<Waiting> {
        // With nothing, decapsulate gives one message after the other, and does not tell of which packet.
        written(self.tunn.decapsulate(None, &[], message)).map(|length| Waiting {
            length,
            tos: Tos::default(),
            packet: length.saturating_sub(SMALLEST),
        })
    }

    fn tick(&mut self, now: Instant, message: &mut [u8]) -> Ticked {
        if let Some(length) = self.follow_wall_clock(now, message) {
            return Ticked::Send(length);
        }
        match self.tunn.update_timers(message) {
            TunnResult::WriteToNetwork(message) => Ticked::Send(message.len()),
            TunnResult::Err(WireGuardError::ConnectionExpired) => Ticked::Expired,
            TunnResult::Done
            | TunnResult::Err(_)
            | TunnResult::WriteToTunnelV4(..)
            | TunnResult::WriteToTunnelV6(..) => Ticked::Quiet,
        }
    }

    fn initiate(&mut self, _now: Instant, message: &mut [u8]) -> Option<usize> {
        written(self.tunn.format_handshake_initiation(message, true))
    }

    fn keep_alive(&mut self, _now: Instant, message: &mut [u8]) -> Option<usize> {
        written(self.tunn.encapsulate(&[], message))
    }
}

/// More than a daemon that keeps the time slews by within the life of a tunnel without a session.
const CLOCK_WAS_SET: Duration = Duration::from_secs(1);
/// Whitepaper section 6.1.
const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::message::{BUFFER, HANDSHAKE_INITIATION};

    thread_local!(static WALL: Cell<Duration> = const { Cell::new(Duration::ZERO) });

    fn tunnel(own: u8, peer: u8, now: Instant) -> Boringtun {
        let peer = PublicKey::from(&StaticSecret::from([peer; 32]));
        let wall = || UNIX_EPOCH + WALL.get();
        Boringtun::with_wall(&[own; 32].into(), peer, own.into(), now, wall)
    }

    #[test]
    fn a_clock_that_is_set_forward_begins_anew_without_a_session_only() {
        let (mut now, mut message) = (Instant::now(), vec![0; BUFFER]);
        WALL.set(Duration::from_secs(30));
        let (mut a, mut b) = (tunnel(1, 2, now), tunnel(2, 1, now));
        now += Duration::from_secs(9);
        WALL.set(Duration::from_secs(40));
        assert_eq!(a.tick(now, &mut message), Ticked::Quiet, "it was slewed");

        WALL.set(Duration::from_secs(1_800_000_000));
        let Ticked::Send(length) = a.tick(now, &mut message) else {
            panic!("it was set");
        };
        assert_eq!(message[0], HANDSHAKE_INITIATION);
        assert_eq!(a.tick(now, &mut message), Ticked::Quiet, "once");

        let initiation = message[..length].to_vec();
        let Ok(Handled::Reply(length)) = b.handle(&initiation, now, &mut message) else {
            panic!("the peer answers")
        };
        let response = message[..length].to_vec();
        assert!(a.handle(&response, now, &mut message).is_ok());
        WALL.set(Duration::from_secs(1_900_000_000));
        assert_eq!(
            a.tick(now, &mut message),
            Ticked::Quiet,
            "a session is kept"
        );
        assert!(a.tunn.time_since_last_handshake().is_some());
    }
}
