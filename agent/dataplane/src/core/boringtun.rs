//! boringtun as a protocol core. It keeps its keys, so it seals and opens packet by packet, through a buffer.

use std::sync::Arc;
use std::time::Instant;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};

use super::{Core, Handled, Refused, Sealed, Ticked, Waiting};
use crate::message::{DATA, Frame, SMALLEST};
use crate::tos::Tos;

/// A `Tunn`. Its time is its own: `now` is not used.
pub(crate) struct Boringtun(Tunn);

impl Boringtun {
    /// `index` has 24 bits; boringtun counts sessions in eight more below them.
    pub(crate) fn new(private: &StaticSecret, peer: PublicKey, index: u32) -> Self {
        // A limiter that is never under load: who may cost a handshake was decided before, and cookies have one owner.
        let limiter = RateLimiter::new(&PublicKey::from(private), u64::MAX);
        let limiter = Some(Arc::new(limiter));
        Self(Tunn::new(private.clone(), peer, None, None, index, limiter))
    }
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
            match written(self.0.encapsulate(packet, message)) {
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
            *opened = match self.0.decapsulate(None, datagram, message) {
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
        match self.0.decapsulate(None, datagram, message) {
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
        written(self.0.decapsulate(None, &[], message)).map(|length| Waiting {
            length,
            tos: Tos::default(),
            packet: length.saturating_sub(SMALLEST),
        })
    }

    fn tick(&mut self, _now: Instant, message: &mut [u8]) -> Ticked {
        match self.0.update_timers(message) {
            TunnResult::WriteToNetwork(message) => Ticked::Send(message.len()),
            TunnResult::Err(WireGuardError::ConnectionExpired) => Ticked::Expired,
            TunnResult::Done
            | TunnResult::Err(_)
            | TunnResult::WriteToTunnelV4(..)
            | TunnResult::WriteToTunnelV6(..) => Ticked::Quiet,
        }
    }

    fn initiate(&mut self, _now: Instant, message: &mut [u8]) -> Option<usize> {
        written(self.0.format_handshake_initiation(message, true))
    }

    fn keep_alive(&mut self, _now: Instant, message: &mut [u8]) -> Option<usize> {
        written(self.0.encapsulate(&[], message))
    }
}
