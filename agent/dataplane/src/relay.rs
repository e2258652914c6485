//! Relay frames: a WireGuard datagram with eight bytes in front, on the same socket.

/// Byte 0 of a frame. WireGuard's own types are 1 to 4 (whitepaper section 5.4), so they never collide.
pub(crate) const KIND: u8 = 0x70;

/// Bytes in front of the datagram: kind, three zeros, channel.
pub(crate) const HEADER_BYTES: usize = 8;

/// The header of a frame for `channel`.
pub(crate) fn header(channel: u32) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = channel.to_be_bytes();
    [KIND, 0, 0, 0, a, b, c, d]
}

/// Channel and datagram of a frame; `None` if it is none.
pub(crate) fn parse(datagram: &[u8]) -> Option<(u32, &[u8])> {
    let (header, inner) = datagram.split_first_chunk::<HEADER_BYTES>()?;
    let [KIND, 0, 0, 0, a, b, c, d] = *header else {
        return None;
    };
    Some((u32::from_be_bytes([a, b, c, d]), inner))
}
