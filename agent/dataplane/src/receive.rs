//! From the network to the host: bursts of datagrams are opened where they lie, and written as few packets.
//!
//! Data messages of one peer in a row are a group: one lookup, one lock, one opening. It knows no descriptor.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use crate::counters::DropReason;
use crate::message::{BUFFER, DATA, Frame, SMALLEST};
use crate::offload::coalesce::{Coalescer, Flushed};
use crate::output::{Output, Run};
use crate::packet;
use crate::peer::{Path, Peer};
use crate::plane::{Plane, Relayed};
use crate::probe::Probe;
use crate::relay;
use crate::table::Table;
use crate::tos::{self, Ecn, Tos};

/// Messages opened together.
const MOST_IN_GROUP: usize = 256;

/// What one receive gave: equal datagrams from one sender, the last may be shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received {
    /// The sender.
    pub(crate) from: SocketAddr,
    /// Where the first begins in the slab, in bytes.
    pub(crate) start: usize,
    /// Bytes of all together.
    pub(crate) length: usize,
    /// Bytes of each but the last; more than 0, unless it is one empty datagram.
    pub(crate) segment: usize,
    /// Class and congestion bits of the headers in front of them.
    pub(crate) tos: Tos,
}

impl Received {
    /// How many datagrams it has.
    pub(crate) fn count(&self) -> usize {
        self.length.div_ceil(self.segment.max(1)).max(1)
    }
}

/// What is done with datagrams. One worker's.
#[derive(Debug)]
pub(crate) struct Receiver {
    frames: Vec<Frame>,
    /// The mark with which each frame came.
    marks: Vec<Ecn>,
    opened: Vec<bool>,
    coalescer: Coalescer,
    message: Vec<u8>,
}

/// All that the datagrams of one burst have in common.
struct Burst<'b> {
    plane: &'b Plane,
    table: &'b Table,
    slab: &'b mut [u8],
    now: Instant,
    out: &'b mut dyn Output,
    group: Option<Group<'b>>,
    forward: Option<Forward<'b>>,
    /// The last relay frame's channel and sender, and what is done with those.
    relayed: Option<((u32, SocketAddr), Relayed<'b>)>,
    flushed: Flushed,
}

/// Data messages in a row for one receiver, [`Receiver::frames`].
#[derive(Clone, Copy)]
struct Group<'b> {
    peer: &'b Arc<Peer>,
    receiver: u32,
    source: Option<SocketAddr>,
}

/// Relay frames in a row for one member.
struct Forward<'b> {
    to: &'b Peer,
    run: Run,
}

impl Default for Receiver {
    fn default() -> Self {
        Self {
            frames: Vec::with_capacity(MOST_IN_GROUP),
            marks: Vec::with_capacity(MOST_IN_GROUP),
            opened: vec![false; MOST_IN_GROUP],
            coalescer: Coalescer::new(),
            message: vec![0; BUFFER],
        }
    }
}

impl Receiver {
    /// Takes a burst; `slab` holds it, and is scratch afterwards. What was written to the host.
    pub(crate) fn take(
        &mut self,
        plane: &Plane,
        table: &Table,
        slab: &mut [u8],
        received: &[Received],
        now: Instant,
        out: &mut dyn Output,
    ) -> Flushed {
        let mut burst = Burst {
            plane,
            table,
            slab,
            now,
            out,
            group: None,
            forward: None,
            relayed: None,
            flushed: Flushed::default(),
        };
        for one in received {
            if one.length == 0 {
                plane.tally.drop(DropReason::ShortDatagram);
                continue;
            }
            let end = one.start + one.length;
            for start in (one.start..end).step_by(one.segment) {
                let frame = Frame {
                    start,
                    length: one.segment.min(end - start),
                };
                self.datagram(&mut burst, frame, one.from, one.tos);
            }
        }
        burst.send_forward();
        self.open_group(&mut burst);
        self.write(&mut burst);
        plane
            .tally
            .drop_many(DropReason::TunWriteFailed, burst.flushed.failed as u64);
        burst.flushed
    }

    fn datagram<'b>(&mut self, burst: &mut Burst<'b>, frame: Frame, from: SocketAddr, tos: Tos) {
        let Some((channel, _)) = relay::parse(&burst.slab[frame.message()]) else {
            return self.message(burst, frame, tos.ecn(), Some(from), None);
        };
        let relayed = match burst.relayed {
            Some((last, relayed)) if last == (channel, from) => relayed,
            Some(_) | None => burst.plane.relayed(burst.table, channel, from),
        };
        burst.relayed = Some(((channel, from), relayed));
        let inner = Frame {
            start: frame.start + relay::HEADER_BYTES,
            length: frame.length - relay::HEADER_BYTES,
        };
        match relayed {
            _ if inner.length < SMALLEST => burst.plane.tally.drop(DropReason::ShortDatagram),
            Relayed::Forward(to, address) => burst.forward(frame, tos, to, address),
            Relayed::Receive(peer) => self.message(burst, inner, tos.ecn(), None, Some(peer)),
            Relayed::Drop(reason) => burst.plane.tally.drop(reason),
        }
    }

    /// A WireGuard message; `expected` is the peer whose channel it came through.
    fn message<'b>(
        &mut self,
        burst: &mut Burst<'b>,
        frame: Frame,
        mark: Ecn,
        source: Option<SocketAddr>,
        expected: Option<&'b Arc<Peer>>,
    ) {
        let Some(receiver) = data_receiver(&burst.slab[frame.message()]) else {
            self.open_group(burst);
            return burst.handshake(frame, source, expected, &mut self.message);
        };
        let group = match burst.group {
            Some(group) if group.receiver == receiver => group.peer,
            // The peer's index is in the upper 24 bits; the lower 8 count its sessions.
            Some(_) | None => match burst.table.by_index(receiver >> 8) {
                Some(peer) => peer,
                None => return burst.plane.tally.drop(DropReason::UnknownReceiver),
            },
        };
        if expected.is_some_and(|expected| !Arc::ptr_eq(expected, group)) {
            return burst.plane.tally.drop(DropReason::RelayRefused);
        }
        let group = Group {
            peer: group,
            receiver,
            source,
        };
        let goes_on = burst
            .group
            .is_some_and(|open| open.receiver == receiver && open.source == source);
        if !goes_on || self.frames.len() == MOST_IN_GROUP {
            self.open_group(burst);
        }
        burst.group = Some(group);
        self.frames.push(frame);
        self.marks.push(mark);
    }

    /// Opens the group, and hands its packets on to the coalescer.
    fn open_group(&mut self, burst: &mut Burst<'_>) {
        let Some(group) = burst.group.take() else {
            return;
        };
        let opened = &mut self.opened[..self.frames.len()];
        opened.fill(false);
        let (plane, table, out) = (burst.plane, burst.table, &mut *burst.out);
        group.peer.open(
            burst.slab,
            &self.frames,
            group.source,
            burst.now,
            opened,
            &mut self.message,
            &mut |path: &Path, tos: Tos, datagram: &[u8]| {
                plane.send(table, path, tos, datagram, out)
            },
        );
        self.deliver(burst, group.peer);
        self.frames.clear();
        self.marks.clear();
    }

    fn deliver(&mut self, burst: &mut Burst<'_>, peer: &Arc<Peer>) {
        let tally = &burst.plane.tally;
        let (mut packets, mut bytes) = (0, 0);
        let mut allowed: Option<IpAddr> = None;
        for index in 0..self.frames.len() {
            let place = self.frames[index].packet();
            if !self.opened[index] {
                tally.drop(DropReason::InvalidDatagram);
                continue;
            }
            // A keepalive.
            if place.is_empty() {
                continue;
            }
            let Some(header) = packet::parse(&burst.slab[place.clone()]) else {
                tally.drop(DropReason::MalformedPacket);
                continue;
            };
            if allowed != Some(header.source) {
                if !burst.table.is_owner(peer, header.source) {
                    let packet = &burst.slab[place.start..place.start + header.length];
                    match Probe::read(header.source, packet) {
                        Some(probe) => burst.probed(peer, probe, &mut self.message),
                        None => tally.drop(DropReason::WrongSource),
                    }
                    continue;
                }
                allowed = Some(header.source);
            }
            packets += 1;
            bytes += header.length as u64;
            let packet = &mut burst.slab[place.start..place.start + header.length];
            if !tos::receive(packet, self.marks[index]) {
                tally.drop(DropReason::EcnCeNotEct);
                continue;
            }
            if self.coalescer.is_full() {
                self.write(burst);
            }
            self.coalescer.push(burst.slab, place.start, header.length);
        }
        peer.delivered(packets, bytes);
    }

    fn write(&mut self, burst: &mut Burst<'_>) {
        let out = &mut *burst.out;
        let flushed = self
            .coalescer
            .flush(burst.slab, &mut |pieces| out.packet(pieces));
        burst.flushed.packets += flushed.packets;
        burst.flushed.writes += flushed.writes;
        burst.flushed.failed += flushed.failed;
    }
}

impl<'b> Burst<'b> {
    /// Anything but a data message.
    fn handshake(
        &mut self,
        frame: Frame,
        source: Option<SocketAddr>,
        expected: Option<&Arc<Peer>>,
        message: &mut [u8],
    ) {
        let datagram = &self.slab[frame.message()];
        if let Err(reason) = self.plane.handshake(
            self.table, datagram, source, expected, self.now, message, self.out,
        ) {
            self.plane.tally.drop(reason);
        }
    }

    /// A probe of the peer's data plane, or its answer to one of ours.
    fn probed(&mut self, peer: &Peer, probe: Probe, message: &mut [u8]) {
        let (plane, table, out) = (self.plane, self.table, &mut *self.out);
        let send = &mut |path: &Path, tos: Tos, datagram: &[u8]| {
            plane.send(table, path, tos, datagram, out);
        };
        peer.probed(probe, self.now, message, send);
    }

    /// A frame for another member; its bytes stay as they are, and the congestion mark that it came with.
    fn forward(&mut self, frame: Frame, tos: Tos, to: &'b Peer, address: SocketAddr) {
        let tos = self.plane.dscp.outer(tos);
        if let Some(Forward { to: open, run }) = &mut self.forward
            && std::ptr::eq(*open, to)
            && run.to == address
            && run.start + run.length == frame.start
            && run.length % run.segment == 0
            && frame.length <= run.segment
            && run.tos == tos
        {
            run.length += frame.length;
            return;
        }
        self.send_forward();
        self.forward = Some(Forward {
            to,
            run: Run {
                to: address,
                start: frame.start,
                length: frame.length,
                segment: frame.length,
                tos,
                is_probe: false,
            },
        });
    }

    fn send_forward(&mut self) {
        let Some(Forward { run, .. }) = self.forward.take() else {
            return;
        };
        let tally = &self.plane.tally;
        let sent = self.out.runs(self.slab, &[run]);
        let count = sent.datagrams(&[run]);
        tally.drop_many(DropReason::SendFailed, sent.lost);
        let queued = run.count() as u64 - count - sent.lost;
        tally.drop_many(DropReason::QueueFull, queued);
        // Which were lost is not told: they count as long ones.
        let missing = (queued + sent.lost) * run.segment as u64;
        let bytes = (run.length as u64).saturating_sub(missing);
        tally.relayed(
            count,
            bytes.saturating_sub(count * relay::HEADER_BYTES as u64),
        );
    }
}

/// The receiver index of a data message (whitepaper section 5.4.6); `None` for anything else.
fn data_receiver(datagram: &[u8]) -> Option<u32> {
    let [DATA, 0, 0, 0, a, b, c, d] = *datagram.first_chunk::<8>()? else {
        return None;
    };
    (datagram.len() >= SMALLEST).then_some(u32::from_le_bytes([a, b, c, d]))
}
