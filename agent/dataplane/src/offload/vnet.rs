//! The header before each packet of a TUN opened with `IFF_VNET_HDR` (VIRTIO 1.3 section 5.1.6), in the machine's byte order.
//!
//! It only names the fields; what they make of a packet is known to [`super::segment`] and [`super::coalesce`].

/// Length of the header, in bytes; `TUNSETVNETHDRSZ` is left at this default.
pub(crate) const VNET_HEADER: usize = 10;

/// The checksum from `csum_start` on is to be completed.
pub(crate) const NEEDS_CSUM: u8 = 1;

/// One packet, not a super-packet.
pub(crate) const GSO_NONE: u8 = 0;
/// TCP over IPv4.
pub(crate) const GSO_TCPV4: u8 = 1;
/// TCP over IPv6.
pub(crate) const GSO_TCPV6: u8 = 4;
/// UDP, cut into datagrams (Linux 6.2 and newer).
pub(crate) const GSO_UDP_L4: u8 = 5;
/// Added to a TCP type: the first segment has CWR.
pub(crate) const GSO_ECN: u8 = 0x80;

/// The fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct VnetHeader {
    /// [`NEEDS_CSUM`] and others.
    pub(crate) flags: u8,
    /// One of the `GSO_` constants.
    pub(crate) gso_type: u8,
    /// Length of all headers, in bytes; a hint that is wrong on forwarded packets.
    pub(crate) hdr_len: u16,
    /// Payload of each segment, in bytes.
    pub(crate) gso_size: u16,
    /// Where checksumming begins, in bytes from the packet's beginning.
    pub(crate) csum_start: u16,
    /// Where the checksum stands, in bytes from `csum_start`.
    pub(crate) csum_offset: u16,
}

impl VnetHeader {
    /// The fields of `bytes`.
    pub(crate) fn decode(bytes: &[u8; VNET_HEADER]) -> Self {
        let short = |at| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: short(2),
            gso_size: short(4),
            csum_start: short(6),
            csum_offset: short(8),
        }
    }

    /// As the kernel reads it.
    pub(crate) fn encode(self) -> [u8; VNET_HEADER] {
        let mut bytes = [0; VNET_HEADER];
        bytes[0] = self.flags;
        bytes[1] = self.gso_type;
        let shorts = [
            self.hdr_len,
            self.gso_size,
            self.csum_start,
            self.csum_offset,
        ];
        for (to, short) in bytes[2..].chunks_exact_mut(2).zip(shorts) {
            to.copy_from_slice(&short.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_kernel_has_them() {
        let header = VnetHeader {
            flags: NEEDS_CSUM,
            gso_type: GSO_TCPV6,
            hdr_len: 0x0102,
            gso_size: 0x0304,
            csum_start: 0x0506,
            csum_offset: 0x0708,
        };
        let mut expected = vec![1, 4];
        for short in [0x0102u16, 0x0304, 0x0506, 0x0708] {
            expected.extend(short.to_ne_bytes());
        }
        assert_eq!(header.encode().as_slice(), expected);
        assert_eq!(VnetHeader::decode(&header.encode()), header);
        assert_eq!(VnetHeader::default().encode(), [0; VNET_HEADER]);
    }
}
