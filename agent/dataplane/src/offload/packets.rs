//! Packets and random numbers for the tests of this module. Checksums are summed word by word here, not by what is tested.

use super::headers::{ACK, Transport, Version};
use super::vnet::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VnetHeader};

/// SplitMix64 (Steele et al., 2014).
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// True once in `n`.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next().to_ne_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.fill(&mut bytes);
        bytes
    }
}

/// A packet by its fields.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) version: Version,
    pub(crate) transport: Transport,
    /// The last byte of each address.
    pub(crate) hosts: [u8; 2],
    pub(crate) ports: [u16; 2],
    /// Type of service or traffic class.
    pub(crate) class: u8,
    /// Time to live or hop limit.
    pub(crate) hops: u8,
    /// IPv4 only.
    pub(crate) id: u16,
    /// IPv4: flags and fragment offset.
    pub(crate) fragment: u16,
    /// IPv6: flow label.
    pub(crate) label: u16,
    /// IPv6: extension headers, which begin with their type. IPv4: options.
    pub(crate) extension: Vec<u8>,
    pub(crate) sequence: u32,
    pub(crate) acknowledged: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

/// Networks of the samples' addresses.
pub(crate) const NETWORK_V4: [u8; 3] = [10, 77, 1];
pub(crate) const NETWORK_V6: [u8; 15] = [0xfd, 0x77, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

impl Sample {
    pub(crate) fn new(version: Version, transport: Transport, payload: &[u8]) -> Self {
        Self {
            version,
            transport,
            hosts: [2, 3],
            ports: [40_000, 443],
            class: 0,
            hops: 64,
            id: 100,
            fragment: 0x4000,
            label: 7,
            extension: Vec::new(),
            sequence: 1000,
            acknowledged: 5000,
            flags: ACK,
            window: 512,
            options: Vec::new(),
            payload: payload.to_vec(),
        }
    }

    pub(crate) fn tcp4(payload: &[u8]) -> Self {
        Self::new(Version::V4, Transport::Tcp, payload)
    }

    pub(crate) fn tcp6(payload: &[u8]) -> Self {
        Self::new(Version::V6, Transport::Tcp, payload)
    }

    pub(crate) fn udp4(payload: &[u8]) -> Self {
        Self::new(Version::V4, Transport::Udp, payload)
    }

    pub(crate) fn udp6(payload: &[u8]) -> Self {
        Self::new(Version::V6, Transport::Udp, payload)
    }

    /// This packet with some fields changed.
    pub(crate) fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut changed = self.clone();
        change(&mut changed);
        changed
    }

    /// The packet of the same connection that comes after this one, with another payload.
    pub(crate) fn next(&self, payload: &[u8]) -> Self {
        self.with(|sample| {
            sample.id = sample.id.wrapping_add(1);
            sample.sequence = sample.sequence.wrapping_add(sample.payload.len() as u32);
            sample.payload = payload.to_vec();
        })
    }

    /// Bytes before the payload.
    pub(crate) fn headers(&self) -> usize {
        self.ip() + self.transport_header()
    }

    /// Bytes before the transport header.
    pub(crate) fn ip(&self) -> usize {
        self.extension.len()
            + match self.version {
                Version::V4 => 20,
                Version::V6 => 40,
            }
    }

    /// The packet with right lengths and checksums.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut packet = self.unsummed();
        let ip = self.ip();
        let mut checksum = !plain_sum(&packet[ip..], self.pseudo_header(packet.len() - ip));
        if self.transport == Transport::Udp && checksum == 0 {
            checksum = 0xffff;
        }
        let at = ip + self.transport.checksum_offset();
        packet[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    /// As a TUN gives it when it is a super-packet of segments of `size` bytes.
    pub(crate) fn super_packet(&self, size: u16) -> (VnetHeader, Vec<u8>) {
        let mut packet = self.unsummed();
        let ip = self.ip();
        let sum = plain_sum(&[], self.pseudo_header(packet.len() - ip));
        let at = ip + self.transport.checksum_offset();
        packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let vnet = VnetHeader {
            flags: NEEDS_CSUM,
            gso_type: match (self.transport, self.version) {
                (Transport::Tcp, Version::V4) => GSO_TCPV4,
                (Transport::Tcp, Version::V6) => GSO_TCPV6,
                (Transport::Udp, _) => GSO_UDP_L4,
            },
            hdr_len: self.headers() as u16,
            gso_size: size,
            csum_start: ip as u16,
            csum_offset: self.transport.checksum_offset() as u16,
        };
        (vnet, packet)
    }

    /// All but the transport checksum, which is 0.
    fn unsummed(&self) -> Vec<u8> {
        let above = self.transport_header() + self.payload.len();
        let mut packet = match self.version {
            Version::V4 => self.ipv4(above),
            Version::V6 => self.ipv6(above),
        };
        for port in self.ports {
            packet.extend(port.to_be_bytes());
        }
        match self.transport {
            Transport::Udp => {
                packet.extend((above as u16).to_be_bytes());
                packet.extend([0, 0]);
            }
            Transport::Tcp => {
                packet.extend(self.sequence.to_be_bytes());
                packet.extend(self.acknowledged.to_be_bytes());
                packet.extend([(self.transport_header() as u8 / 4) << 4, self.flags]);
                packet.extend(self.window.to_be_bytes());
                packet.extend([0; 4]);
                packet.extend(&self.options);
            }
        }
        packet.extend(&self.payload);
        packet
    }

    fn transport_header(&self) -> usize {
        match self.transport {
            Transport::Tcp => 20 + self.options.len(),
            Transport::Udp => 8,
        }
    }

    fn ipv4(&self, above: usize) -> Vec<u8> {
        let total = self.ip() + above;
        let mut header = vec![0x40 | (self.ip() / 4) as u8, self.class];
        for short in [total as u16, self.id, self.fragment] {
            header.extend(short.to_be_bytes());
        }
        header.extend([self.hops, self.transport.protocol(), 0, 0]);
        for host in self.hosts {
            header.extend(NETWORK_V4);
            header.push(host);
        }
        header.extend(&self.extension);
        let checksum = !plain_sum(&header, 0);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    fn ipv6(&self, above: usize) -> Vec<u8> {
        let payload = self.extension.len() + above;
        let first = 6 << 28 | u32::from(self.class) << 20 | u32::from(self.label);
        let mut header = first.to_be_bytes().to_vec();
        header.extend((payload as u16).to_be_bytes());
        let extension = &self.extension;
        let next = extension
            .first()
            .copied()
            .unwrap_or_else(|| self.transport.protocol());
        header.extend([next, self.hops]);
        for host in self.hosts {
            header.extend(NETWORK_V6);
            header.push(host);
        }
        if let Some((_, rest)) = extension.split_first() {
            header.push(self.transport.protocol());
            header.extend(rest);
        }
        header
    }

    fn pseudo_header(&self, length: usize) -> u32 {
        let mut bytes = Vec::new();
        for host in self.hosts {
            match self.version {
                Version::V4 => bytes.extend(NETWORK_V4),
                Version::V6 => bytes.extend(NETWORK_V6),
            }
            bytes.push(host);
        }
        bytes.extend((length as u32).to_be_bytes());
        bytes.extend([0, self.transport.protocol()]);
        plain_sum(&bytes, 0).into()
    }
}

/// A sum word by word, folded.
fn plain_sum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start;
    for word in bytes.chunks(2) {
        let low = word.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([word[0], low]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// All four kinds of connections.
pub(crate) const KINDS: [(Version, Transport); 4] = [
    (Version::V4, Transport::Tcp),
    (Version::V6, Transport::Tcp),
    (Version::V4, Transport::Udp),
    (Version::V6, Transport::Udp),
];

/// Packets of several flows, in a row and interleaved, mostly what merges, with everything in between that must not.
pub(crate) fn random_burst(random: &mut Random) -> Vec<Vec<u8>> {
    let mut flows: Vec<(Sample, usize)> = (0..1 + random.below(12))
        .map(|_| random_flow(random))
        .collect();
    let length = 1 + random.below(250);
    let mut burst = Vec::new();
    let mut flow = 0;
    while burst.len() < length {
        if random.one_in(4) {
            flow = random.below(flows.len());
        }
        let (sample, size) = &mut flows[flow];
        if random.one_in(12) {
            change_flow(sample, size, random);
        }
        let bytes = if random.one_in(10) {
            random.below(*size + 1)
        } else {
            *size
        };
        *sample = sample.next(&random.bytes(bytes));
        let packet = if random.one_in(12) {
            odd_packet(sample, random)
        } else {
            sample.build()
        };
        burst.push(packet);
    }
    burst
}

fn random_flow(random: &mut Random) -> (Sample, usize) {
    let (version, transport) = KINDS[random.below(4)];
    let mut sample = Sample::new(version, transport, &[]);
    sample.hosts = [2 + random.below(2) as u8, 4 + random.below(2) as u8];
    sample.ports = [1 + random.below(3) as u16, 9];
    sample.sequence = random.next() as u32;
    sample.id = random.next() as u16;
    if random.one_in(3) {
        sample.fragment = 0;
    }
    if random.one_in(2) {
        sample.options = random.bytes(12);
    }
    (sample, 1 + random.below(1400))
}

/// Something that a flow does from now on.
fn change_flow(sample: &mut Sample, size: &mut usize, random: &mut Random) {
    match random.below(8) {
        0 => sample.acknowledged += 100,
        1 => sample.window ^= 1,
        2 => sample.hops -= 1,
        3 => sample.class ^= 0xb8,
        4 => sample.sequence = sample.sequence.wrapping_add(1),
        5 => sample.id = sample.id.wrapping_add(5),
        6 => sample.options = random.bytes(12),
        _ => *size = 1 + random.below(1400),
    }
}

/// A packet of the flow that is not like the others.
fn odd_packet(sample: &Sample, random: &mut Random) -> Vec<u8> {
    let mut packet = match random.below(4) {
        0 => sample.with(|s| s.flags |= [0x01, 0x02, 0x04, 0x08, 0x08, 0x08][random.below(6)]),
        1 if sample.version == Version::V4 => sample.with(|s| s.fragment = 0x2000),
        2 => sample.with(|s| {
            s.extension = match s.version {
                Version::V4 => vec![1, 1, 1, 0],
                Version::V6 => vec![60, 0, 1, 4, 0, 0, 0, 0],
            }
        }),
        _ => sample.clone(),
    }
    .build();
    let at = match random.below(3) {
        0 => random.below(packet.len()).max(8),
        1 => sample.ip() + sample.transport.checksum_offset(),
        _ => return packet,
    };
    packet[at] ^= 1 << random.below(8);
    packet
}
