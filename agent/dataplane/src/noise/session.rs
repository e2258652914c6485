//! One session: its keys, counters and replay window; seals and opens batches where they lie.
//! Which session is used, and when a new one is wanted, is not its business.

use std::time::{Duration, Instant};

use super::handshake::Agreed;
use super::message::{DATA, data, read_u32, read_u64, write_u32};
use super::replay::Window;
use crate::aead::{Key, Packet};
use crate::message::{DATA_HEADER, Frame, TAG};

/// A session is not used any more after this (whitepaper section 6.1).
pub(super) const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);

/// The counter that is never used: 2^64 - 2^13 - 1 (whitepaper section 6.1).
pub(super) const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// Keys that both sides agreed on.
pub(super) struct Session {
    /// The receiver index of what comes.
    pub(super) local: u32,
    /// The receiver index of what goes.
    remote: u32,
    sending: Key,
    receiving: Key,
    /// Of the next message.
    pub(super) counter: u64,
    window: Window,
    pub(super) born: Instant,
    /// When the last authentic message came.
    pub(super) heard: Option<Instant>,
    /// Whether we began it: then it is ours to renew.
    pub(super) is_initiator: bool,
}

/// What a run of messages brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Opened {
    /// At least one was authentic and new.
    pub(super) any: bool,
    /// At least one of those was not empty.
    pub(super) data: bool,
}

impl Session {
    pub(super) fn new(agreed: &Agreed, is_initiator: bool, now: Instant) -> Box<Self> {
        Box::new(Self {
            local: agreed.local,
            remote: agreed.remote,
            sending: Key::new(&agreed.sending),
            receiving: Key::new(&agreed.receiving),
            counter: 0,
            window: Window::new(),
            born: now,
            heard: None,
            is_initiator,
        })
    }

    pub(super) fn age(&self, now: Instant) -> Duration {
        now.duration_since(self.born)
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.age(now) >= REJECT_AFTER_TIME
    }

    /// Whether so many more messages may be sent.
    pub(super) fn can_send(&self, messages: usize, now: Instant) -> bool {
        !self.is_over(now) && messages as u64 <= REJECT_AFTER_MESSAGES.saturating_sub(self.counter)
    }

    /// Makes each frame a data message. [`Session::can_send`] was asked for so many.
    pub(super) fn seal(&mut self, slab: &mut [u8], frames: &[Frame]) {
        for frames in frames.chunks(CHUNK) {
            let mut packets = [EMPTY; CHUNK];
            for (packet, frame) in packets.iter_mut().zip(frames) {
                let header = &mut slab[frame.start..frame.start + DATA_HEADER];
                write_u32(header, 0, DATA);
                write_u32(header, data::RECEIVER, self.remote);
                header[data::COUNTER..].copy_from_slice(&self.counter.to_le_bytes());
                *packet = packet_in(frame, self.counter);
                self.counter += 1;
            }
            self.sending.seal(slab, &packets[..frames.len()]);
        }
    }

    /// Opens messages for this session, all of them within the slab; `opened` is as long as `frames`.
    pub(super) fn open(
        &mut self,
        slab: &mut [u8],
        frames: &[Frame],
        opened: &mut [bool],
        now: Instant,
    ) -> Opened {
        let mut result = Opened::default();
        if self.is_over(now) {
            return result;
        }
        for (frames, opened) in frames.chunks(CHUNK).zip(opened.chunks_mut(CHUNK)) {
            let (mut packets, mut places, mut count) = ([EMPTY; CHUNK], [0; CHUNK], 0);
            for (place, frame) in frames.iter().enumerate() {
                let Some(counter) = read_u64(slab, frame.start + data::COUNTER) else {
                    continue;
                };
                if counter < REJECT_AFTER_MESSAGES && self.window.is_new(counter) {
                    packets[count] = packet_in(frame, counter);
                    places[count] = place;
                    count += 1;
                }
            }
            let (packets, mut verified) = (&packets[..count], [false; CHUNK]);
            self.receiving.open(slab, packets, &mut verified[..count]);
            for ((packet, place), verified) in packets.iter().zip(places).zip(verified) {
                if verified && self.window.mark(packet.counter) {
                    opened[place] = true;
                    result.any = true;
                    result.data |= packet.length > 0;
                }
            }
        }
        if result.any {
            self.heard = Some(now);
        }
        result
    }
}

/// For which session a data message is; `None` if it is none, or does not lie within the slab.
pub(super) fn receiver(slab: &[u8], frame: &Frame) -> Option<u32> {
    let message = slab.get(frame.start..frame.start.checked_add(frame.length)?)?;
    if message.len() < DATA_HEADER + TAG || read_u32(message, 0)? != DATA {
        return None;
    }
    read_u32(message, data::RECEIVER)
}

fn packet_in(frame: &Frame, counter: u64) -> Packet {
    Packet {
        start: frame.start + DATA_HEADER,
        length: frame.length - DATA_HEADER - TAG,
        counter,
    }
}

/// Messages that go to the AEAD at a time: enough for its lanes, and little stack.
const CHUNK: usize = 128;

const EMPTY: Packet = Packet {
    start: 0,
    length: 0,
    counter: 0,
};
