//! One TUN read, which may be a super-packet of up to 64 KiB, as packets of the wire's size with all checksums complete.
//!
//! It does what the kernel does for a device without offloads (`tcp_gso_segment`, `__udp_gso_segment`, `skb_checksum_help`),
//! and like the kernel takes the pseudo header's sum from the checksum field: it is right behind routing headers too.

use super::checksum::Sum;
use super::headers::{CWR, FIN, PSH, TCP_FLAGS, Transport, long, put_short, short};
use super::vnet::{GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VnetHeader};

/// Most packets of one super-packet: 65,535 bytes in segments of 48, below which the kernel's TCP does not go
/// (`net.ipv4.tcp_min_snd_mss`). More would only be work that somebody makes for us.
pub(crate) const MAX_SEGMENTS: usize = 65_535 / 48;

/// Why a read is no packet. The kernel does not make such; another program that writes packets might.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// Not TCP, not UDP, or not what the packet is.
    #[error("offload type {0:#x} is unknown, or is not that of the packet")]
    Type(u8),
    /// A super-packet without a checksum to complete, or with one that is not its protocol's.
    #[error("the checksum lies at {start} + {offset}, outside the header")]
    Checksum {
        /// `csum_start`, in bytes.
        start: u16,
        /// `csum_offset`, in bytes.
        offset: u16,
    },
    /// The headers end before they should, or behind the packet.
    #[error("the headers do not fit a packet of {0} bytes")]
    Headers(usize),
    /// No size, or one with which a packet would be longer than its length field can tell.
    #[error("segments of {0} bytes")]
    Size(u16),
    /// More than [`MAX_SEGMENTS`].
    #[error("{0} segments, more than {MAX_SEGMENTS}")]
    TooMany(usize),
}

/// A read as packets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segments<'p> {
    packet: &'p [u8],
    shape: Shape,
}

/// What is to be done.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// Nothing: one packet, complete.
    Complete,
    /// One packet; the checksum of all bytes from `start` belongs at `field`.
    Unsummed { start: usize, field: usize },
    /// A super-packet.
    Super(Super),
}

/// How a super-packet is cut.
#[derive(Debug, Clone, Copy)]
struct Super {
    is_v4: bool,
    transport: Transport,
    /// Where the transport header begins.
    ip: usize,
    /// Where the payload begins.
    header: usize,
    /// Payload of each packet but the last, in bytes.
    size: usize,
    count: usize,
    /// The IPv4 header without length, identification and checksum.
    ip_sum: Sum,
    /// Pseudo header and transport header without what differs from packet to packet.
    transport_sum: Sum,
}

impl<'p> Segments<'p> {
    /// Understands `packet`, which was read behind `vnet`. `hdr_len` is not looked at: on forwarded packets it lies.
    pub(crate) fn parse(vnet: VnetHeader, packet: &'p [u8]) -> Result<Self, Malformed> {
        let shape = match vnet.gso_type {
            GSO_NONE if vnet.flags & NEEDS_CSUM == 0 => Shape::Complete,
            GSO_NONE => unsummed(vnet, packet)?,
            _ => Shape::Super(Super::parse(vnet, packet)?),
        };
        Ok(Self { packet, shape })
    }

    /// Number of packets, at least 1 and at most [`MAX_SEGMENTS`].
    pub(crate) fn count(&self) -> usize {
        match self.shape {
            Shape::Complete | Shape::Unsummed { .. } => 1,
            Shape::Super(cut) => cut.count,
        }
    }

    /// Length of packet `index`, in bytes; none is longer than the first.
    pub(crate) fn length(&self, index: usize) -> usize {
        match self.shape {
            Shape::Complete | Shape::Unsummed { .. } => self.packet.len(),
            Shape::Super(cut) => {
                let from = cut.header + index * cut.size;
                cut.header + cut.size.min(self.packet.len() - from)
            }
        }
    }

    /// Writes packet `index` to the beginning of `into`, which has room for it.
    pub(crate) fn write(&self, index: usize, into: &mut [u8]) {
        let into = &mut into[..self.length(index)];
        match self.shape {
            Shape::Complete => into.copy_from_slice(self.packet),
            Shape::Unsummed { start, field } => {
                into[..start].copy_from_slice(&self.packet[..start]);
                let sum = Sum::copying(&mut into[start..], &self.packet[start..]);
                put_short(into, field, never_zero(sum.checksum()));
            }
            Shape::Super(cut) => cut.write(self.packet, index, into),
        }
    }
}

/// 0 says that there is no checksum (RFC 768); 0xFFFF is equal to it in ones' complement.
fn never_zero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

fn unsummed(vnet: VnetHeader, packet: &[u8]) -> Result<Shape, Malformed> {
    let start = usize::from(vnet.csum_start);
    let field = start + usize::from(vnet.csum_offset);
    if field + 2 > packet.len() {
        return Err(outside(vnet));
    }
    Ok(Shape::Unsummed { start, field })
}

fn outside(vnet: VnetHeader) -> Malformed {
    Malformed::Checksum {
        start: vnet.csum_start,
        offset: vnet.csum_offset,
    }
}

impl Super {
    fn parse(vnet: VnetHeader, packet: &[u8]) -> Result<Self, Malformed> {
        let version = packet.first().map_or(0, |byte| byte >> 4);
        let (is_v4, transport) = match (vnet.gso_type & !GSO_ECN, version) {
            (GSO_TCPV4, 4) => (true, Transport::Tcp),
            (GSO_TCPV6, 6) => (false, Transport::Tcp),
            (GSO_UDP_L4, 4 | 6) if vnet.gso_type & GSO_ECN == 0 => (version == 4, Transport::Udp),
            _ => return Err(Malformed::Type(vnet.gso_type)),
        };
        let ip = usize::from(vnet.csum_start);
        let field_is = vnet.flags & NEEDS_CSUM != 0
            && usize::from(vnet.csum_offset) == transport.checksum_offset();
        if !field_is {
            return Err(outside(vnet));
        }
        let header = Self::headers(packet, is_v4, transport, ip)?;
        let size = usize::from(vnet.gso_size);
        let payload = packet.len() - header;
        let longest = header + size.min(payload) - if is_v4 { 0 } else { 40 };
        if size == 0 || longest > 65_535 {
            return Err(Malformed::Size(vnet.gso_size));
        }
        let count = payload.div_ceil(size).max(1);
        if count > MAX_SEGMENTS {
            return Err(Malformed::TooMany(count));
        }
        let (ip_sum, transport_sum) = sums(packet, is_v4, transport, ip, header);
        Ok(Self {
            is_v4,
            transport,
            ip,
            header,
            size,
            count,
            ip_sum,
            transport_sum,
        })
    }

    /// Length of all headers.
    fn headers(
        packet: &[u8],
        is_v4: bool,
        transport: Transport,
        ip: usize,
    ) -> Result<usize, Malformed> {
        let begins_right = if is_v4 {
            ip >= 20 && ip == usize::from(packet[0] & 15) * 4
        } else {
            ip >= 40
        };
        let length = match transport {
            Transport::Udp => 8,
            Transport::Tcp => packet
                .get(ip + 12)
                .map_or(0, |byte| usize::from(byte >> 4) * 4),
        };
        let least = if transport == Transport::Tcp { 20 } else { 8 };
        if begins_right && length >= least && ip + length <= packet.len() {
            Ok(ip + length)
        } else {
            Err(Malformed::Headers(packet.len()))
        }
    }

    fn write(&self, packet: &[u8], index: usize, into: &mut [u8]) {
        let from = self.header + index * self.size;
        let payload = &packet[from..from + into.len() - self.header];
        let (headers, to) = into.split_at_mut(self.header);
        headers.copy_from_slice(&packet[..self.header]);
        let (ip, transport) = headers.split_at_mut(self.ip);
        let above_ip = transport.len() + payload.len();
        self.finish_ip(ip, above_ip, index);
        let sum = self
            .finish_transport(transport, above_ip, index)
            .plus(Sum::copying(to, payload));
        let checksum = match self.transport {
            Transport::Tcp => sum.checksum(),
            Transport::Udp => never_zero(sum.checksum()),
        };
        put_short(transport, self.transport.checksum_offset(), checksum);
    }

    fn finish_ip(&self, ip: &mut [u8], above_ip: usize, index: usize) {
        let total = ip.len() + above_ip;
        if self.is_v4 {
            let (length, id) = (total as u16, short(ip, 4).wrapping_add(index as u16));
            put_short(ip, 2, length);
            put_short(ip, 4, id);
            put_short(ip, 10, self.ip_sum.word(length).word(id).checksum());
        } else {
            put_short(ip, 4, (total - 40) as u16);
        }
    }

    /// Everything but the checksum; the sum of pseudo header and header.
    fn finish_transport(&self, header: &mut [u8], above_ip: usize, index: usize) -> Sum {
        let length = above_ip as u16;
        let sum = self.transport_sum.word(length);
        match self.transport {
            Transport::Udp => {
                put_short(header, 4, length);
                sum.word(length)
            }
            Transport::Tcp => {
                let sequence = long(header, 4).wrapping_add((index * self.size) as u32);
                header[4..8].copy_from_slice(&sequence.to_be_bytes());
                if index > 0 {
                    header[TCP_FLAGS] &= !CWR;
                }
                if index + 1 < self.count {
                    header[TCP_FLAGS] &= !(FIN | PSH);
                }
                sum.words(sequence).word(short(header, TCP_FLAGS - 1))
            }
        }
    }
}

/// The sums of [`Super`].
fn sums(packet: &[u8], is_v4: bool, transport: Transport, ip: usize, header: usize) -> (Sum, Sum) {
    let mut ip_sum = Sum::default();
    if is_v4 {
        ip_sum = Sum::of(&packet[..2])
            .plus(Sum::of(&packet[6..10]))
            .plus(Sum::of(&packet[12..ip]));
    }
    let fields = &packet[ip..header];
    // The field sums the pseudo header with the length of the whole; in ones' complement, adding the inverse takes it away.
    let pseudo = Sum::default()
        .word(short(fields, transport.checksum_offset()))
        .words(!((packet.len() - ip) as u32));
    let transport_sum = match transport {
        Transport::Udp => pseudo.plus(Sum::of(&fields[..4])),
        Transport::Tcp => pseudo
            .plus(Sum::of(&fields[..4]))
            .plus(Sum::of(&fields[8..12]))
            .plus(Sum::of(&fields[14..16]))
            .plus(Sum::of(&fields[18..])),
    };
    (ip_sum, transport_sum)
}
