//! The packets by which two data planes ask each other what passes. No host ever sees one.
//!
//! A probe is a valid IPv6 packet between addresses that nobody has (RFC 6666), so that any WireGuard takes it for a packet
//! and drops it where it means nothing. When to ask is for [`crate::path_mtu`] to decide.

use std::net::{IpAddr, Ipv6Addr};

/// From and to nobody: the discard prefix `100::/64` (RFC 6666 section 3).
const NOBODY: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0x706e, 0x7362);
/// Behind the IPv6 header: what it is, in the first bytes.
const MAGIC: [u8; 8] = *b"pns path";
/// IPv6 header, magic, kind and a reserved byte, size, number.
const BYTES: usize = 40 + 8 + 2 + 2 + 4;
/// "No next header" (RFC 8200 section 4.7).
const NO_NEXT_HEADER: u8 = 59;
/// Bytes of an answer; less than any probe has, so that nothing is gained by asking.
pub(crate) const ANSWER: usize = 64;

/// What a probe or its answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probe {
    /// A question or its answer.
    pub(crate) kind: Kind,
    /// The asker's number.
    pub(crate) number: u32,
    /// Bytes of the question, from its IPv6 header to its end.
    pub(crate) size: u16,
}

/// A question or its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Question = 1,
    Answer = 2,
}

impl Probe {
    /// Bytes of the packet.
    pub(crate) fn length(self) -> usize {
        match self.kind {
            Kind::Question => self.size.into(),
            Kind::Answer => ANSWER,
        }
    }

    /// Writes the packet; `packet` has [`Probe::length`] bytes, at least [`ANSWER`].
    pub(crate) fn write(self, packet: &mut [u8]) {
        let payload = (packet.len() - 40) as u16;
        packet.fill(0);
        packet[0] = 6 << 4;
        packet[4..6].copy_from_slice(&payload.to_be_bytes());
        packet[6] = NO_NEXT_HEADER;
        packet[7] = 1;
        packet[8..24].copy_from_slice(&NOBODY.octets());
        packet[24..40].copy_from_slice(&NOBODY.octets());
        packet[40..48].copy_from_slice(&MAGIC);
        packet[48] = self.kind as u8;
        packet[50..52].copy_from_slice(&self.size.to_be_bytes());
        packet[52..BYTES].copy_from_slice(&self.number.to_be_bytes());
    }

    /// Reads a packet of `source`; `None` for any other. A question must have the size that it names.
    pub(crate) fn read(source: IpAddr, packet: &[u8]) -> Option<Self> {
        if source != NOBODY {
            return None;
        }
        let (header, body) = packet.split_first_chunk::<40>()?;
        let body = body.first_chunk::<{ BYTES - 40 }>()?;
        if header[6] != NO_NEXT_HEADER || header[24..] != NOBODY.octets() || body[..8] != MAGIC {
            return None;
        }
        let kind = match body[8] {
            1 => Kind::Question,
            2 => Kind::Answer,
            _ => return None,
        };
        let probe = Self {
            kind,
            size: u16::from_be_bytes([body[10], body[11]]),
            number: u32::from_be_bytes([body[12], body[13], body[14], body[15]]),
        };
        (probe.length() == packet.len()).then_some(probe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet;

    fn written(probe: Probe) -> Vec<u8> {
        let mut bytes = vec![0xff; probe.length()];
        probe.write(&mut bytes);
        bytes
    }

    #[test]
    fn a_probe_is_a_packet_and_comes_back_as_it_was() {
        for kind in [Kind::Question, Kind::Answer] {
            let probe = Probe {
                kind,
                number: 0x0102_0304,
                size: 1296,
            };
            let bytes = written(probe);
            let header = packet::parse(&bytes).unwrap();
            assert_eq!(header.length, bytes.len());
            assert_eq!(Probe::read(header.source, &bytes), Some(probe));
            assert!(bytes.len() >= ANSWER);
        }
    }

    #[test]
    fn what_is_cut_or_lies_about_its_size_is_none() {
        let probe = Probe {
            kind: Kind::Question,
            number: 7,
            size: 1280,
        };
        let bytes = written(probe);
        for length in 0..bytes.len() {
            assert_eq!(Probe::read(NOBODY.into(), &bytes[..length]), None);
        }
        for (place, value) in [(6, 17), (24, 0), (40, 0), (48, 0), (48, 3), (51, 1)] {
            let mut other = bytes.clone();
            other[place] = value;
            assert_eq!(Probe::read(NOBODY.into(), &other), None, "{place}");
        }
        assert_eq!(Probe::read("100::1".parse().unwrap(), &bytes), None);
    }
}
