//! Packets of a burst, in their order, as few TUN writes as possible: adjacent packets of a flow become one super-packet,
//! which the kernel takes through its stack as one. Nothing is copied but headers.
//!
//! A super-packet is what [`super::segment`] would cut into exactly its packets again (only the identification of IPv4
//! packets that nobody may fragment can differ). A packet is appended only to the last write of its connection, so order
//! within a connection is kept; between connections it is not. Checksums are verified before merging, and only then: the
//! super-packet carries none, and a broken packet must not become a right one. Packets that stay alone are verified by
//! whoever receives them.

use std::io::IoSlice;

use super::checksum::Sum;
use super::flows::{Flows, Hashes, WriteIndex};
use super::headers::{
    Kind, Layout, MAX_HEADERS, PSH, TCP_FLAGS, Transport, Version, classify, continues, is_intact,
    pseudo_header, put_short,
};
use super::vnet::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VNET_HEADER, VnetHeader};

/// Packets between two flushes.
pub(crate) const CAPACITY: usize = 1024;
/// Packets of one write: what the kernel takes of UDP (`UDP_MAX_SEGMENTS` before Linux 6.9).
pub(crate) const MAX_PACKETS: usize = 64;
/// Bytes of one write behind the vnet header: what an IPv4 length field can tell.
pub(crate) const MAX_BYTES: usize = 65_535;

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The kernel has it.
    Written,
    /// The kernel does not take such a write (`EINVAL`).
    Refused,
    /// It is lost.
    Failed,
}

/// What a flush did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Flushed {
    /// Packets that were written, merged or alone.
    pub(crate) packets: usize,
    /// Calls of `write`, whatever became of them.
    pub(crate) writes: usize,
    /// Packets that were lost.
    pub(crate) failed: usize,
}

/// The packets of a burst.
#[derive(Debug)]
pub(crate) struct Coalescer {
    packets: Vec<Packet>,
    writes: Vec<Write>,
    flows: Flows,
    /// Until the kernel refuses one: super-packets of TCP, of UDP.
    merges_tcp: bool,
    merges_udp: bool,
    /// Packets that came when there was no more room.
    overflown: usize,
}

/// A packet in the slab.
#[derive(Debug, Clone, Copy)]
struct Packet {
    start: usize,
    length: usize,
    /// The one behind it in the same write; its own number if none is.
    next: u16,
}

/// What one call of `write` will give.
#[derive(Debug, Clone, Copy)]
struct Write {
    first: u16,
    last: u16,
    packets: usize,
    /// Headers once, and all payloads.
    bytes: usize,
    /// Payload of the first packet, in bytes.
    segment: usize,
    /// `None` if the packet stays alone.
    layout: Option<Layout>,
    /// The first packet's checksums were found right.
    is_verified: bool,
}

impl Coalescer {
    /// Allocates everything that it ever needs.
    pub(crate) fn new() -> Self {
        Self::with_flows(Flows::new())
    }

    /// With a table of flows of the caller's.
    pub(crate) fn with_flows(flows: Flows) -> Self {
        Self {
            packets: Vec::with_capacity(CAPACITY),
            writes: Vec::with_capacity(CAPACITY),
            flows,
            merges_tcp: true,
            merges_udp: true,
            overflown: 0,
        }
    }

    /// Whether there is no room for another packet before a flush.
    pub(crate) fn is_full(&self) -> bool {
        self.packets.len() == CAPACITY
    }

    /// Takes the IP packet at `slab[start..start + length]`, which has the length that its header says.
    /// The slab stays as it is until the flush. A packet that comes when this is full counts as failed in the next flush.
    pub(crate) fn push(&mut self, slab: &[u8], start: usize, length: usize) {
        if self.is_full() {
            self.overflown += 1;
            return;
        }
        let number = self.packets.len() as u16;
        self.packets.push(Packet {
            start,
            length,
            next: number,
        });
        let packet = &slab[start..start + length];
        let write = self.writes.len() as WriteIndex;
        match classify(packet) {
            Kind::Other => self.writes.push(Write::alone(number)),
            Kind::Segment(layout) if !self.merges(layout.transport) => {
                self.writes.push(Write::alone(number));
            }
            Kind::Hosts(version) => {
                self.writes.push(Write::alone(number));
                self.flows.bar(packet, version, write);
            }
            Kind::Connection(version, protocol, ports) => {
                let hashes = self.flows.hashes(packet, version, protocol, ports);
                self.writes.push(Write::alone(number));
                *self.flows.entry(hashes).0 = write;
            }
            Kind::Segment(layout) => {
                let protocol = layout.transport.protocol();
                let hashes = self
                    .flows
                    .hashes(packet, layout.version, protocol, layout.ip);
                self.push_segment(slab, number, layout, hashes);
            }
        }
    }

    /// Gives all writes to `write`, each as a vnet header with what belongs to it: at most [`MAX_PACKETS`] + 1 slices,
    /// [`MAX_BYTES`] and the vnet header. `slab` is that of the packets.
    ///
    /// When a super-packet is refused, its packets are given one by one as they came, and those of that protocol never
    /// again become super-packets: some kernels know none of UDP, some refuse right ones.
    pub(crate) fn flush(
        &mut self,
        slab: &[u8],
        write: &mut dyn FnMut(&[IoSlice<'_>]) -> Outcome,
    ) -> Flushed {
        let mut flushed = Flushed {
            failed: std::mem::take(&mut self.overflown),
            ..Flushed::default()
        };
        for index in 0..self.writes.len() {
            let planned = self.writes[index];
            match planned.layout {
                Some(layout) if planned.packets > 1 && self.merges(layout.transport) => {
                    flushed.writes += 1;
                    match self.write_merged(slab, planned, layout, write) {
                        Outcome::Written => flushed.packets += planned.packets,
                        Outcome::Failed => flushed.failed += planned.packets,
                        Outcome::Refused => {
                            self.stop_merging(layout.transport);
                            self.write_each(slab, planned, write, &mut flushed);
                        }
                    }
                }
                Some(_) | None => self.write_each(slab, planned, write, &mut flushed),
            }
        }
        self.packets.clear();
        self.writes.clear();
        self.flows.clear();
        flushed
    }

    fn merges(&self, transport: Transport) -> bool {
        match transport {
            Transport::Tcp => self.merges_tcp,
            Transport::Udp => self.merges_udp,
        }
    }

    fn stop_merging(&mut self, transport: Transport) {
        match transport {
            Transport::Tcp => self.merges_tcp = false,
            Transport::Udp => self.merges_udp = false,
        }
    }

    fn push_segment(&mut self, slab: &[u8], number: u16, layout: Layout, hashes: Hashes) {
        let (before, is_known) = self.flows.entry(hashes);
        let before = *before;
        let appended = if is_known && !self.flows.is_barred(hashes, before) {
            self.append(slab, before, number, layout)
        } else {
            Appended::No
        };
        let write = match appended {
            Appended::Yes => return,
            Appended::No => {
                Write::segment(number, layout, slab_packet(slab, &self.packets, number))
            }
            Appended::Broken => Write::alone(number),
        };
        *self.flows.entry(hashes).0 = self.writes.len() as WriteIndex;
        self.writes.push(write);
    }

    /// Appends packet `number` to a write, if it continues it.
    fn append(&mut self, slab: &[u8], write: WriteIndex, number: u16, layout: Layout) -> Appended {
        let into = &mut self.writes[usize::from(write)];
        let packet = slab_packet(slab, &self.packets, number);
        let payload = packet.len() - layout.all;
        let has_room = into.layout == Some(layout)
            && payload <= into.segment
            && into.packets < MAX_PACKETS
            && into.bytes + payload <= MAX_BYTES;
        let last = slab_packet(slab, &self.packets, into.last);
        let continues = has_room
            && last.len() == layout.all + into.segment
            && !is_pushed(last, layout)
            && continues(last, packet, layout);
        if !continues {
            return Appended::No;
        }
        if !into.is_verified {
            let first = slab_packet(slab, &self.packets, into.first);
            if !is_intact(first, layout) {
                into.layout = None;
                return Appended::No;
            }
            into.is_verified = true;
        }
        if !is_intact(packet, layout) {
            return Appended::Broken;
        }
        self.packets[usize::from(into.last)].next = number;
        into.last = number;
        into.packets += 1;
        into.bytes += payload;
        Appended::Yes
    }

    fn write_merged(
        &self,
        slab: &[u8],
        planned: Write,
        layout: Layout,
        write: &mut dyn FnMut(&[IoSlice<'_>]) -> Outcome,
    ) -> Outcome {
        let mut headers = [0; VNET_HEADER + MAX_HEADERS];
        let headers = &mut headers[..VNET_HEADER + layout.all];
        self.merged_headers(slab, planned, layout, headers);
        let mut slices = [IoSlice::new(&[]); MAX_PACKETS + 1];
        slices[0] = IoSlice::new(headers);
        let mut number = planned.first;
        for slice in &mut slices[1..=planned.packets] {
            let packet = slab_packet(slab, &self.packets, number);
            *slice = IoSlice::new(&packet[layout.all..]);
            number = self.packets[usize::from(number)].next;
        }
        write(&slices[..=planned.packets])
    }

    /// The vnet header and the headers of a super-packet: those of its first packet, with what tells of them all.
    fn merged_headers(&self, slab: &[u8], planned: Write, layout: Layout, into: &mut [u8]) {
        let first = slab_packet(slab, &self.packets, planned.first);
        let last = slab_packet(slab, &self.packets, planned.last);
        let (vnet, headers) = into.split_at_mut(VNET_HEADER);
        headers.copy_from_slice(&first[..layout.all]);
        let (ip, transport) = headers.split_at_mut(layout.ip);
        let above_ip = planned.bytes - layout.ip;
        match layout.version {
            Version::V4 => {
                put_short(ip, 2, planned.bytes as u16);
                put_short(ip, 10, 0);
                put_short(ip, 10, Sum::of(ip).checksum());
            }
            Version::V6 => put_short(ip, 4, above_ip as u16),
        }
        match layout.transport {
            Transport::Tcp => transport[TCP_FLAGS] |= last[layout.ip + TCP_FLAGS] & PSH,
            Transport::Udp => put_short(transport, 4, above_ip as u16),
        }
        let offset = layout.transport.checksum_offset();
        // Not complemented: the kernel adds the rest.
        put_short(
            transport,
            offset,
            pseudo_header(first, layout, above_ip).folded(),
        );
        let header = VnetHeader {
            flags: NEEDS_CSUM,
            gso_type: match (layout.transport, layout.version) {
                (Transport::Tcp, Version::V4) => GSO_TCPV4,
                (Transport::Tcp, Version::V6) => GSO_TCPV6,
                (Transport::Udp, _) => GSO_UDP_L4,
            },
            hdr_len: layout.all as u16,
            gso_size: planned.segment as u16,
            csum_start: layout.ip as u16,
            csum_offset: offset as u16,
        };
        vnet.copy_from_slice(&header.encode());
    }

    /// The packets of a write one by one, as they came.
    fn write_each(
        &self,
        slab: &[u8],
        planned: Write,
        write: &mut dyn FnMut(&[IoSlice<'_>]) -> Outcome,
        flushed: &mut Flushed,
    ) {
        const PLAIN: [u8; VNET_HEADER] = [0; VNET_HEADER];
        let mut number = planned.first;
        for _ in 0..planned.packets {
            let packet = slab_packet(slab, &self.packets, number);
            flushed.writes += 1;
            match write(&[IoSlice::new(&PLAIN), IoSlice::new(packet)]) {
                Outcome::Written => flushed.packets += 1,
                Outcome::Refused | Outcome::Failed => flushed.failed += 1,
            }
            number = self.packets[usize::from(number)].next;
        }
    }
}

/// What became of a packet that might be appended.
enum Appended {
    Yes,
    No,
    /// It would have been, but its checksum is wrong.
    Broken,
}

impl Write {
    fn alone(number: u16) -> Self {
        Self {
            first: number,
            last: number,
            packets: 1,
            bytes: 0,
            segment: 0,
            layout: None,
            is_verified: false,
        }
    }

    fn segment(number: u16, layout: Layout, packet: &[u8]) -> Self {
        Self {
            bytes: packet.len(),
            segment: packet.len() - layout.all,
            layout: Some(layout),
            ..Self::alone(number)
        }
    }
}

/// Whether nothing may follow in the same super-packet: only its last packet has PSH when it is cut.
fn is_pushed(packet: &[u8], layout: Layout) -> bool {
    layout.transport == Transport::Tcp && packet[layout.ip + TCP_FLAGS] & PSH != 0
}

fn slab_packet<'s>(slab: &'s [u8], packets: &[Packet], number: u16) -> &'s [u8] {
    let packet = packets[usize::from(number)];
    &slab[packet.start..packet.start + packet.length]
}
