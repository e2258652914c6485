//! Kinds and sizes of WireGuard messages (whitepaper section 5.4), and their places in a slab.

/// Byte 0 of a handshake initiation.
pub(crate) const HANDSHAKE_INITIATION: u8 = 1;
/// Byte 0 of a handshake response.
pub(crate) const HANDSHAKE_RESPONSE: u8 = 2;
/// Byte 0 of a cookie reply.
pub(crate) const COOKIE_REPLY: u8 = 3;
/// Byte 0 of a data message.
pub(crate) const DATA: u8 = 4;

/// Bytes of a data message before its packet: kind, three zeros, receiver, counter (section 5.4.6).
pub(crate) const DATA_HEADER: usize = 16;
/// Bytes behind the packet.
pub(crate) const TAG: usize = 16;
/// Bytes of the smallest message, a data message without a packet.
pub(crate) const SMALLEST: usize = DATA_HEADER + TAG;
/// Bytes of a buffer for any one message: the largest IP packet, and what encryption adds to it.
pub(crate) const BUFFER: usize = 65_535 + 64;

/// A message in a slab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Where the message begins, in bytes.
    pub(crate) start: usize,
    /// Length of the whole message, in bytes: header, packet with padding, tag.
    pub(crate) length: usize,
}

impl Frame {
    /// Where the packet of a data message is, with its padding.
    pub(crate) fn packet(self) -> std::ops::Range<usize> {
        self.start + DATA_HEADER..self.start + self.length - TAG
    }

    /// The whole message.
    pub(crate) fn message(self) -> std::ops::Range<usize> {
        self.start..self.start + self.length
    }
}

/// WireGuard pads the packet to 16 bytes, never beyond the MTU (section 5.4.6).
pub(crate) fn padded_length(length: usize, mtu: usize) -> usize {
    length.next_multiple_of(16).min(mtu.max(length))
}
