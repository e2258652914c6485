//! What a protocol core does for one peer: handshakes, sessions, and sealing and opening data messages where they lie.
//!
//! It knows no socket, no endpoint, no allowed prefixes and no other peer; `peer` wraps it.
//! boringtun's implements it in [`boringtun`].

mod boringtun;

use std::time::Instant;

pub(crate) use self::boringtun::Boringtun;
use crate::message::Frame;
use crate::tos::Tos;

/// What became of packets that were to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sealed {
    /// Every frame is a data message now.
    InPlace,
    /// There is no session. The core keeps copies of the packets (a bounded number; the oldest go first), and
    /// [`Core::waiting`] gives them back when there is one. A handshake message of so many bytes is to be sent, if any:
    /// none while one is under way.
    Kept(Option<usize>),
}

/// Why a message was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// Not WireGuard, forged, replayed, too old, or for a session that is gone.
    #[error("invalid")]
    Invalid,
    /// The tunnel answers no more handshakes of this peer for now.
    #[error("under load")]
    UnderLoad,
}

/// What a handshake message (types 1 to 3) led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handled {
    /// Accepted, nothing to say.
    Accepted,
    /// Accepted; the reply has so many bytes. It goes to the peer.
    Reply(usize),
}

/// A data message that waited for the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Its bytes.
    pub(crate) length: usize,
    /// Of the packet in it, if the core knows.
    pub(crate) tos: Tos,
    /// Bytes of the packet in it, with its padding if the core cannot tell them apart; 0 if there is none.
    pub(crate) packet: usize,
}

/// What time brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ticked {
    /// Nothing.
    Quiet,
    /// A message of so many bytes is to be sent: a handshake, or an empty data message.
    Send(usize),
    /// The core gave up: no session, and no handshake is tried any more until [`Core::initiate`] or a packet.
    Expired,
}

/// One peer's protocol state. Every `message` buffer has at least [`crate::message::BUFFER`] bytes.
pub(crate) trait Core: Send {
    /// Makes each frame a data message. In `slab`, from `frame.start`: [`crate::message::DATA_HEADER`] bytes of room, the packet with its
    /// padding, [`crate::message::TAG`] bytes of room; `frame.length` covers all three.
    fn seal(
        &mut self,
        slab: &mut [u8],
        frames: &[Frame],
        now: Instant,
        message: &mut [u8],
    ) -> Sealed;

    /// Opens data messages (type 4, at least [`crate::message::SMALLEST`] bytes) where they lie. `opened[i]` tells whether frame i was authentic and new;
    /// then its packet is between header and tag, with its padding; no byte for a keepalive.
    /// The bytes of a refused frame are undefined. `message` is scratch.
    /// An accepted frame may have made [`Core::waiting`] non-empty (the responder's session is confirmed by the first data).
    fn open(
        &mut self,
        slab: &mut [u8],
        frames: &[Frame],
        now: Instant,
        opened: &mut [bool],
        message: &mut [u8],
    );

    /// An initiation or a response that [`crate::admission`] let pass, which checks their MACs; or a cookie reply.
    fn handle(
        &mut self,
        datagram: &[u8],
        now: Instant,
        message: &mut [u8],
    ) -> Result<Handled, Refused>;

    /// The next message that was kept, or that the protocol owes now that there is a session
    /// (the initiator's confirming empty message, whitepaper section 6); sealed into `message`.
    fn waiting(&mut self, now: Instant, message: &mut [u8]) -> Option<Waiting>;

    /// Timers; called about every 200 ms.
    fn tick(&mut self, now: Instant, message: &mut [u8]) -> Ticked;

    /// Begins a handshake now, whether one is under way or not; the length of the initiation.
    fn initiate(&mut self, now: Instant, message: &mut [u8]) -> Option<usize>;

    /// An empty data message (keepalive), or an initiation if there is no session and none is under way; its length.
    fn keep_alive(&mut self, now: Instant, message: &mut [u8]) -> Option<usize>;
}
