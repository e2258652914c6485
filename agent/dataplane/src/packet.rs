//! As much of an inner IP header as routing and the source check need.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
