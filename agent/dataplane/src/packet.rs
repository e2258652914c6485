//! As much of an inner IP header as routing and the source check need.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::relay;

/// Source, destination and length of an IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Sender.
    pub(crate) source: IpAddr,
    /// Receiver.
    pub(crate) destination: IpAddr,
    /// Length of the packet by its own header, in bytes; never more than there are.
    pub(crate) length: usize,
}

/// Reads the header of an IPv4 (RFC 791 section 3.1) or IPv6 (RFC 8200 section 3) packet; `None` for anything else.
pub(crate) fn parse(packet: &[u8]) -> Option<Header> {
    match packet.first()? >> 4 {
        4 => {
            let header = packet.first_chunk::<20>()?;
            let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
            let source: [u8; 4] = header[12..16].try_into().ok()?;
            let destination: [u8; 4] = header[16..20].try_into().ok()?;
            bounded(
                Ipv4Addr::from(source).into(),
                Ipv4Addr::from(destination).into(),
                length,
                20,
                packet,
            )
        }
        6 => {
            let header = packet.first_chunk::<40>()?;
            let length = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
            let source: [u8; 16] = header[8..24].try_into().ok()?;
            let destination: [u8; 16] = header[24..40].try_into().ok()?;
            bounded(
                Ipv6Addr::from(source).into(),
                Ipv6Addr::from(destination).into(),
                length,
                40,
                packet,
            )
        }
        _ => None,
    }
}

/// Where a tunnel's datagram inside a whole packet goes: the destination of a UDP datagram (RFC 768) that begins like a
/// WireGuard message or a relay frame; `None` for nearly everything else.
pub(crate) fn tunnelled_to(packet: &[u8], header: &Header) -> Option<SocketAddr> {
    let (protocol, length) = match header.destination {
        IpAddr::V4(_) => (packet.get(9)?, usize::from(packet.first()? & 0x0f) * 4),
        IpAddr::V6(_) => (packet.get(6)?, 40),
    };
    let is_first =
        header.destination.is_ipv6() || packet.get(6..8)?[0] & 0x1f == 0 && packet[7] == 0;
    if *protocol != UDP || !is_first {
        return None;
    }
    let datagram = packet.get(length..)?.first_chunk::<12>()?;
    let [_, _, high, low, _, _, _, _, 1..=4 | relay::KIND, 0, 0, 0] = *datagram else {
        return None;
    };
    let port = u16::from_be_bytes([high, low]);
    Some(SocketAddr::new(header.destination, port))
}

/// IP protocol number (IANA).
const UDP: u8 = 17;

fn bounded(
    source: IpAddr,
    destination: IpAddr,
    length: usize,
    least: usize,
    packet: &[u8],
) -> Option<Header> {
    (least..=packet.len()).contains(&length).then_some(Header {
        source,
        destination,
        length,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(port: u16, payload: &[u8]) -> [Vec<u8>; 2] {
        let length = u16::try_from(8 + payload.len()).unwrap();
        let mut datagram = [9u16, port, length, 0].map(u16::to_be_bytes).concat();
        datagram.extend(payload);
        let [a, b] = (20 + length).to_be_bytes();
        let mut v4 = vec![0x45, 0, a, b, 0, 0, 0x40, 0, 64, 17, 0, 0];
        v4.extend([10, 0, 0, 1, 192, 0, 2, 7]);
        let [a, b] = length.to_be_bytes();
        let mut v6 = vec![0x60, 0, 0, 0, a, b, 17, 64];
        v6.extend([1; 16]);
        v6.extend([2; 16]);
        [v4, v6].map(|header| [header, datagram.clone()].concat())
    }

    /// Empty if it is none.
    fn target(packet: &[u8]) -> String {
        let header = parse(packet).unwrap();
        let to = tunnelled_to(packet, &header);
        to.map_or_else(String::new, |to| to.to_string())
    }

    #[test]
    fn only_what_begins_like_a_tunnels_datagram_is_one() {
        for first in [1, 2, 3, 4, 0x70] {
            let [v4, v6] = udp(51820, &[first, 0, 0, 0, 9]);
            assert_eq!(target(&v4), "192.0.2.7:51820");
            assert_eq!(target(&v6), "[202:202:202:202:202:202:202:202]:51820");
        }
        for other in [
            &[0, 0, 0, 0][..],
            &[5, 0, 0, 0],
            &[4, 0, 1, 0],
            &[4, 0, 0],
            &[],
        ] {
            assert_eq!(udp(51820, other).map(|packet| target(&packet)), ["", ""]);
        }
        let [mut v4, mut v6] = udp(51820, &[4, 0, 0, 0]);
        (v4[7], v6[6]) = (1, 6);
        assert_eq!(target(&v4), "", "a later fragment has no ports");
        assert_eq!(target(&v6), "", "TCP");
    }
}
