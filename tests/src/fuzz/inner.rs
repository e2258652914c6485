//! Inner packets by their fields, for the fuzz targets of the offloads. Sums are made word by word, unlike the data plane's.

use arbitrary::Unstructured;

use super::{below, byte, short};

pub(super) const ACK: u8 = 0x10;
pub(super) const PSH: u8 = 0x08;
pub(super) const CWR: u8 = 0x80;
pub(super) const FIN: u8 = 0x01;

/// TCP or UDP over IPv4 or IPv6.
#[derive(Debug, Clone, Default)]
pub(super) struct Inner {
    pub(super) is_v6: bool,
    pub(super) is_udp: bool,
    /// Last bytes of the addresses.
    pub(super) hosts: [u8; 2],
    pub(super) ports: [u16; 2],
    /// Type of service or traffic class.
    pub(super) class: u8,
    /// Time to live or hop limit.
    pub(super) hops: u8,
    /// IPv4 only, as the next.
    pub(super) id: u16,
    pub(super) fragment: u16,
    pub(super) sequence: u32,
    pub(super) acknowledged: u32,
    pub(super) flags: u8,
    pub(super) window: u16,
    /// A multiple of four bytes.
    pub(super) options: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

impl Inner {
    /// One of few connections, with whatever else the bytes say; no payload.
    pub(super) fn read(bytes: &mut Unstructured<'_>) -> Self {
        let kind = byte(bytes);
        Self {
            is_v6: kind & 1 != 0,
            is_udp: kind & 2 != 0,
            hosts: [kind >> 2 & 1, 2 + (kind >> 3 & 1)],
            ports: [u16::from(kind >> 4 & 3), 9],
            class: byte(bytes),
            hops: 64,
            id: short(bytes),
            fragment: if kind & 0x40 != 0 { 0x4000 } else { 0 },
            sequence: u32::from(short(bytes)) << 16 | u32::from(short(bytes)),
            acknowledged: 1,
            flags: ACK,
            window: 500,
            options: vec![1; 4 * below(bytes, 11)],
            payload: Vec::new(),
        }
    }

    /// As its sender would have sent it when `size` bytes fit a packet.
    pub(super) fn in_pieces(&self, size: usize) -> Vec<Vec<u8>> {
        let count = self.payload.len().div_ceil(size);
        let pieces = self.payload.chunks(size).enumerate();
        let pieces = pieces.map(|(index, payload)| {
            let mut piece = self.clone();
            piece.payload = payload.to_vec();
            piece.id = piece.id.wrapping_add(index as u16);
            piece.sequence = piece.sequence.wrapping_add((index * size) as u32);
            if index > 0 {
                piece.flags &= !CWR;
            }
            if index + 1 < count {
                piece.flags &= !(FIN | PSH);
            }
            piece.build()
        });
        pieces.collect()
    }

    /// The packet, complete.
    pub(super) fn build(&self) -> Vec<u8> {
        let mut packet = self.unsummed();
        let (ip, at) = (self.ip(), self.checksum_at());
        packet[at..at + 2].fill(0);
        let length = packet.len() - ip;
        let mut checksum = !sum(&packet[ip..], self.pseudo_header(length));
        if self.is_udp && checksum == 0 {
            checksum = 0xffff;
        }
        packet[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    /// The packet with the sum of its pseudo header for a checksum, as a TUN gives it.
    pub(super) fn unsummed(&self) -> Vec<u8> {
        let mut packet = self.ip_header();
        let ip = packet.len();
        for port in self.ports {
            packet.extend(port.to_be_bytes());
        }
        if self.is_udp {
            let length = 8 + self.payload.len();
            packet.extend((length as u16).to_be_bytes());
            packet.extend([0; 2]);
        } else {
            packet.extend(self.sequence.to_be_bytes());
            packet.extend(self.acknowledged.to_be_bytes());
            packet.extend([(5 + self.options.len() as u8 / 4) << 4, self.flags]);
            packet.extend(self.window.to_be_bytes());
            packet.extend([0; 4]);
            packet.extend(&self.options);
        }
        packet.extend(&self.payload);
        let (at, length) = (self.checksum_at(), packet.len() - ip);
        let pseudo = sum(&[], self.pseudo_header(length));
        packet[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        packet
    }

    /// Type (TCPV4, TCPV6, UDP_L4) and the rest of the vnet header (VIRTIO 1.3 section 5.1.6) of a super-packet.
    pub(super) fn vnet(&self, size: u16) -> Vec<u8> {
        let kind = match (self.is_udp, self.is_v6) {
            (true, _) => 5,
            (false, true) => 4,
            (false, false) => 1,
        };
        let (ip, offset) = (self.ip(), self.checksum_at() - self.ip());
        let mut vnet = vec![1, kind];
        for field in [0, size, ip as u16, offset as u16] {
            vnet.extend(field.to_ne_bytes());
        }
        vnet
    }

    /// Where the transport header begins.
    fn ip(&self) -> usize {
        if self.is_v6 { 40 } else { 20 }
    }

    fn checksum_at(&self) -> usize {
        self.ip() + if self.is_udp { 6 } else { 16 }
    }

    fn transport(&self) -> u8 {
        if self.is_udp { 17 } else { 6 }
    }

    fn ip_header(&self) -> Vec<u8> {
        let header = if self.is_udp {
            8
        } else {
            20 + self.options.len()
        };
        let above = header + self.payload.len();
        let mut ip;
        if self.is_v6 {
            ip = (6 << 28 | u32::from(self.class) << 20)
                .to_be_bytes()
                .to_vec();
            ip.extend((above as u16).to_be_bytes());
            ip.extend([self.transport(), self.hops]);
            ip.extend(self.addresses());
        } else {
            ip = vec![0x45, self.class];
            for field in [20 + above as u16, self.id, self.fragment] {
                ip.extend(field.to_be_bytes());
            }
            ip.extend([self.hops, self.transport(), 0, 0]);
            ip.extend(self.addresses());
            let checksum = !sum(&ip, 0);
            ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        ip
    }

    fn addresses(&self) -> Vec<u8> {
        let network: &[u8] = if self.is_v6 {
            &[0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        } else {
            &[10, 1, 1]
        };
        self.hosts
            .iter()
            .flat_map(|host| [network, &[*host]].concat())
            .collect()
    }

    fn pseudo_header(&self, length: usize) -> u32 {
        let mut bytes = self.addresses();
        bytes.extend((length as u32).to_be_bytes());
        bytes.extend([0, self.transport()]);
        sum(&bytes, 0).into()
    }
}

/// The ones' complement sum (RFC 1071 section 4.1), folded.
fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start;
    for word in bytes.chunks(2) {
        let low = word.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([word[0], low]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
