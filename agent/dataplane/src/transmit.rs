//! From the host to the peers: what the TUN gave becomes sealed datagrams, one after the other in a slab, sent in runs.
//!
//! Packets of one peer in a row are a batch: one lookup, one lock, one sealing. It knows no descriptor.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::counters::DropReason;
use crate::message::{BUFFER, DATA_HEADER, Frame, SMALLEST, padded_length};
use crate::offload::segment::Segments;
use crate::offload::vnet::{VNET_HEADER, VnetHeader};
use crate::output::{Output, Run};
use crate::packet;
use crate::path_mtu::SMALLEST_MTU;
use crate::peer::{Path, Peer};
use crate::plane::Plane;
use crate::relay;
use crate::table::Table;
use crate::tos::Tos;

/// Bytes that one send can carry: the largest UDP datagram over IPv4.
const LARGEST_RUN: usize = 65_507;
/// Datagrams that one send can carry: `UDP_MAX_SEGMENTS` of kernels before 6.9.
const MOST_IN_RUN: usize = 64;
/// The largest datagram of a packet that is as large as every path is believed to carry.
const PASSES: usize = SMALLEST_MTU as usize + SMALLEST;
/// Packets sealed together.
const MOST_IN_BATCH: usize = 2 * MOST_IN_RUN;
/// Sealed bytes that are sent without waiting for more: what a super-packet leaves over a full run goes with that run.
const ENOUGH: usize = 100_000;
/// A batch on top of nearly enough, and the packets of one read, however small: it is cut while the kernel takes nothing.
const SLAB: usize = ENOUGH + LARGEST_RUN + 2 * BUFFER;

/// Packets on their way to peers. One worker's.
#[derive(Debug)]
pub(crate) struct Transmitter {
    slab: Vec<u8>,
    /// Bytes of the slab in use.
    end: usize,
    batch: Option<Batch>,
    frames: Vec<Frame>,
    /// Of the outer header of each frame.
    outer: Vec<Tos>,
    /// Sealed and not sent.
    runs: Vec<Run>,
    /// The kernel took no more of them.
    is_blocked: bool,
    message: Vec<u8>,
}

/// Packets for one peer that are not sealed yet.
#[derive(Debug)]
struct Batch {
    peer: Arc<Peer>,
    /// `None` while its relay is not found yet: what waits for a session may outlast that.
    to: Option<SocketAddr>,
    /// Bytes in front of each message, if it goes through a relay.
    header: Option<[u8; relay::HEADER_BYTES]>,
    relay: Option<Arc<Peer>>,
    start: usize,
    /// Inner bytes without padding.
    bytes: u64,
}

impl Batch {
    fn header_bytes(&self) -> usize {
        self.header.map_or(0, |header| header.len())
    }

    /// Who receives its datagrams.
    fn hop(&self) -> &Peer {
        self.relay.as_ref().unwrap_or(&self.peer)
    }
}

impl Default for Transmitter {
    fn default() -> Self {
        Self {
            slab: vec![0; SLAB],
            end: 0,
            batch: None,
            frames: Vec::with_capacity(MOST_IN_BATCH),
            outer: Vec::with_capacity(MOST_IN_BATCH),
            runs: Vec::with_capacity(SLAB / SMALLEST),
            is_blocked: false,
            message: vec![0; BUFFER],
        }
    }
}

impl Transmitter {
    /// Whether the kernel takes no more for now: then nothing is to be read until [`Transmitter::resume`] succeeds.
    pub(crate) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Takes what one read of the TUN gave: so many packets. They are sent at the latest by [`Transmitter::finish`].
    pub(crate) fn take(
        &mut self,
        plane: &Plane,
        table: &Table,
        read: &[u8],
        now: Instant,
        out: &mut dyn Output,
    ) -> u64 {
        self.try_take(plane, table, read, now, out)
            .unwrap_or_else(|reason| {
                plane.tally.drop(reason);
                1
            })
    }

    /// Sends everything that was taken, or what the kernel takes of it: see [`Transmitter::is_blocked`].
    pub(crate) fn finish(
        &mut self,
        plane: &Plane,
        table: &Table,
        now: Instant,
        out: &mut dyn Output,
    ) {
        self.close(plane, table, now, out);
        if !self.is_blocked {
            self.resume(plane, out);
        }
    }

    /// Goes on sending what the kernel did not take. True if nothing is left.
    pub(crate) fn resume(&mut self, plane: &Plane, out: &mut dyn Output) -> bool {
        let sent = out.runs(&self.slab, &self.runs);
        plane.tally.drop_many(DropReason::SendFailed, sent.lost);
        self.runs.drain(..sent.runs);
        self.is_blocked = !self.runs.is_empty();
        if let Some(first) = self.runs.first_mut() {
            first.skip(sent.partial);
            return false;
        }
        if self.batch.is_none() {
            self.end = 0;
        }
        true
    }

    fn try_take(
        &mut self,
        plane: &Plane,
        table: &Table,
        read: &[u8],
        now: Instant,
        out: &mut dyn Output,
    ) -> Result<u64, DropReason> {
        let (vnet, packet) = read
            .split_first_chunk::<VNET_HEADER>()
            .ok_or(DropReason::MalformedPacket)?;
        let header = packet::parse(packet).ok_or(DropReason::MalformedPacket)?;
        let segments = Segments::parse(VnetHeader::decode(vnet), &packet[..header.length])
            .map_err(|_| DropReason::MalformedPacket)?;
        let count = segments.count();
        let refuse = |reason, packets: usize| {
            plane.tally.drop_many(reason, packets as u64);
            Ok(count as u64)
        };
        let Some(peer) = table.by_address(header.destination) else {
            return refuse(DropReason::NoPeer, count);
        };
        // Sealed and sent again it would come back again, for ever.
        let comes_back = |to| peer.path() == Path::Direct(to) || plane.is_endpoint(to);
        if packet::tunnelled_to(packet, &header).is_some_and(comes_back) {
            return refuse(DropReason::RoutingLoop, count);
        }
        // One for all that the host merged: what differs there is not merged.
        let outer = plane.dscp.outer(Tos::of(packet));
        for index in 0..count {
            let length = segments.length(index);
            let padded = padded_length(length, plane.mtu);
            if !self.has_room(peer, padded) {
                self.close(plane, table, now, out);
                if self.end >= ENOUGH {
                    self.resume(plane, out);
                }
            }
            let slot = match self.slot(table, peer, padded) {
                Ok(slot) => slot,
                Err(reason) => return refuse(reason, count - index),
            };
            self.outer.push(outer);
            let (to, padding) = self.slab[slot..slot + padded].split_at_mut(length);
            segments.write(index, to);
            padding.fill(0);
            self.batch.as_mut().expect("a slot is of a batch").bytes += length as u64;
        }
        Ok(count as u64)
    }

    /// Whether the open batch is this peer's and takes another packet of so many bytes, padding included;
    /// if there is none, whether one could begin with it.
    fn has_room(&self, peer: &Arc<Peer>, padded: usize) -> bool {
        if self.end + relay::HEADER_BYTES + padded + SMALLEST > self.slab.len() {
            return false;
        }
        let Some(batch) = &self.batch else {
            return true;
        };
        let used = self.end - batch.start;
        Arc::ptr_eq(&batch.peer, peer)
            && self.frames.len() < MOST_IN_BATCH
            && used + batch.header_bytes() + padded + SMALLEST <= LARGEST_RUN
    }

    /// Room for another packet of the peer: where it begins in the slab.
    fn slot(
        &mut self,
        table: &Table,
        peer: &Arc<Peer>,
        padded: usize,
    ) -> Result<usize, DropReason> {
        let length = padded + SMALLEST;
        if self.end + relay::HEADER_BYTES + length > self.slab.len() {
            return Err(DropReason::QueueFull);
        }
        let batch = match &mut self.batch {
            Some(batch) => batch,
            None => self.batch.insert(begin(table, peer, self.end)?),
        };
        let start = self.end + batch.header_bytes();
        if let Some(header) = batch.header {
            self.slab[self.end..start].copy_from_slice(&header);
        }
        self.frames.push(Frame { start, length });
        self.end = start + length;
        Ok(start + DATA_HEADER)
    }

    /// Seals the open batch.
    fn close(&mut self, plane: &Plane, table: &Table, now: Instant, out: &mut dyn Output) {
        let Some(batch) = self.batch.take() else {
            return;
        };
        if self.frames.is_empty() {
            return;
        }
        let send = &mut |path: &Path, tos: Tos, datagram: &[u8]| {
            plane.send(table, path, tos, datagram, out)
        };
        let is_sealed = batch.peer.seal(
            &mut self.slab,
            &self.frames,
            batch.bytes,
            now,
            &mut self.message,
            send,
        );
        match batch.to {
            Some(to) if is_sealed => {
                let first = self.runs.len();
                let header = batch.header_bytes();
                cut(&self.frames, &self.outer, header, to, &mut self.runs);
                // Nobody on the way would fragment these.
                if to.is_ipv6() && self.runs[first..].iter().any(|run| run.segment > PASSES) {
                    batch.hop().trust_path();
                }
            }
            Some(_) => self.end = batch.start,
            None => {
                let lost = if is_sealed { self.frames.len() } else { 0 };
                plane.tally.drop_many(DropReason::NoEndpoint, lost as u64);
                self.end = batch.start;
            }
        }
        self.frames.clear();
        self.outer.clear();
    }
}

/// A batch for a peer, if it is known where it is.
fn begin(table: &Table, peer: &Arc<Peer>, start: usize) -> Result<Batch, DropReason> {
    let (to, header, relay) = match peer.path() {
        Path::Unknown => return Err(DropReason::NoEndpoint),
        Path::Direct(address) => (Some(address), None, None),
        Path::Relay { via, channel } => {
            let relay = table.by_key(&via);
            let address = match relay.map(|relay| relay.path()) {
                Some(Path::Direct(address)) => Some(address),
                Some(Path::Unknown | Path::Relay { .. }) | None => None,
            };
            (address, Some(relay::header(channel)), relay.cloned())
        }
    };
    Ok(Batch {
        peer: Arc::clone(peer),
        to,
        header,
        relay,
        start,
        bytes: 0,
    })
}

/// Cuts a sealed batch into runs: equal lengths, but for a shorter last, and equal outer headers.
/// `header` bytes stand in front of each message.
fn cut(frames: &[Frame], outer: &[Tos], header: usize, to: SocketAddr, runs: &mut Vec<Run>) {
    let mut open: Option<Run> = None;
    for (frame, &tos) in frames.iter().zip(outer) {
        let length = header + frame.length;
        if let Some(run) = &mut open
            && length <= run.segment
            && run.length % run.segment == 0
            && run.tos == tos
            && run.count() < MOST_IN_RUN
            && run.length + length <= LARGEST_RUN
        {
            run.length += length;
            continue;
        }
        runs.extend(open.replace(Run {
            to,
            start: frame.start - header,
            length,
            segment: length,
            tos,
            is_probe: false,
        }));
    }
    runs.extend(open);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Datagrams of each run that frames of these lengths and outer headers become.
    fn shape(frames: &[(usize, u8)], header: usize) -> Vec<(usize, u8)> {
        let mut start = 0;
        let (mut sealed, mut outer) = (Vec::new(), Vec::new());
        for (length, tos) in frames {
            start += header;
            sealed.push(Frame {
                start,
                length: *length,
            });
            outer.push(Tos(*tos));
            start += length;
        }
        let mut runs = Vec::new();
        let to = SocketAddr::from(([192, 0, 2, 1], 51820));
        cut(&sealed, &outer, header, to, &mut runs);
        let all: Vec<_> = runs.iter().flat_map(Run::datagrams).collect();
        let expected: Vec<_> = sealed
            .iter()
            .map(|frame| (frame.start - header, frame.length + header))
            .collect();
        assert_eq!(all, expected, "every datagram is in one run, in order");
        runs.iter().map(|run| (run.count(), run.tos.0)).collect()
    }

    #[test]
    fn a_run_has_equal_lengths_and_one_class_and_mark() {
        for header in [0, relay::HEADER_BYTES] {
            assert_eq!(shape(&[(96, 0); 5], header), [(5, 0)]);
            assert_eq!(
                shape(&[(96, 0), (96, 0), (64, 0), (64, 0)], header),
                [(3, 0), (1, 0)]
            );
            let marked = [(96, 2), (96, 2), (96, 3), (96, 2), (96, 2)];
            assert_eq!(shape(&marked, header), [(2, 2), (1, 3), (2, 2)]);
            assert_eq!(shape(&[(96, 0xb8), (64, 0)], header), [(1, 0xb8), (1, 0)]);
        }
        assert_eq!(shape(&[(96, 1); 65], 0), [(64, 1), (1, 1)]);
    }
}
