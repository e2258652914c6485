//! Inner packets of a bulk transfer: TCP segments of one connection, with right checksums and growing sequence
//! numbers, so that a receiver may merge them. Nobody acknowledges them.

use std::net::Ipv4Addr;

/// Headers without options (RFC 791 section 3.1, RFC 9293 section 3.1).
const IP_HEADER: usize = 20;
const TCP_HEADER: usize = 20;
const TCP: u8 = 6;
const ACK: u8 = 0x10;

/// One connection's packets, all of the same size. The payload is zeros, which add nothing to a checksum.
#[derive(Debug)]
pub(crate) struct Segments {
    packet: Vec<u8>,
    sequence: u32,
}

impl Segments {
    /// `bytes` is the size of a packet with its headers.
    pub(crate) fn new(source: Ipv4Addr, destination: Ipv4Addr, bytes: u16) -> Self {
        let mut packet = vec![0; usize::from(bytes).max(IP_HEADER + TCP_HEADER + 1)];
        let length = (packet.len() as u16).to_be_bytes();
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&length);
        // Don't fragment.
        packet[6] = 0x40;
        packet[8] = 64;
        packet[9] = TCP;
        packet[12..16].copy_from_slice(&source.octets());
        packet[16..20].copy_from_slice(&destination.octets());
        let checksum = checksum([&packet[..IP_HEADER]]);
        packet[10..12].copy_from_slice(&checksum);
        let tcp = &mut packet[IP_HEADER..];
        tcp[0..2].copy_from_slice(&40_000_u16.to_be_bytes());
        tcp[2..4].copy_from_slice(&5001_u16.to_be_bytes());
        tcp[12] = ((TCP_HEADER / 4) << 4) as u8;
        tcp[13] = ACK;
        tcp[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
        Self {
            packet,
            sequence: 0,
        }
    }

    /// The next packet of the connection.
    pub(crate) fn next_packet(&mut self) -> &[u8] {
        let payload = self.packet.len() - IP_HEADER - TCP_HEADER;
        let (ip, tcp) = self.packet.split_at_mut(IP_HEADER);
        tcp[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        self.sequence = self.sequence.wrapping_add(payload as u32);
        tcp[16..18].fill(0);
        let length = (tcp.len() as u16).to_be_bytes();
        let checksum = checksum([
            &ip[12..20],
            &[0, TCP, length[0], length[1]],
            &tcp[..TCP_HEADER],
        ]);
        tcp[16..18].copy_from_slice(&checksum);
        &self.packet
    }
}

/// The Internet checksum (RFC 1071) of parts with even lengths.
fn checksum<const N: usize>(parts: [&[u8]; N]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks_exact(2));
    let mut sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_follow_each_other_and_their_checksums_are_right() {
        let (source, destination) = (Ipv4Addr::new(10, 97, 3, 4), Ipv4Addr::new(10, 96, 0, 1));
        let mut segments = Segments::new(source, destination, 1420);
        for number in 0..3_u32 {
            let packet = segments.next_packet();
            assert_eq!(packet.len(), 1420);
            assert_eq!(checksum([&packet[..IP_HEADER]]), [0, 0]);
            // Over the whole segment with its pseudo-header the sum is all ones.
            let pseudo = [0, TCP, 0x05, 0x78];
            assert_eq!(
                checksum([&packet[12..20], &pseudo, &packet[IP_HEADER..]]),
                [0, 0]
            );
            assert_eq!(packet[24..28], (number * 1380).to_be_bytes());
        }
    }
}
