//! How messages lie in a datagram (whitepaper section 5.4). It checks lengths and types, and no content.

use std::ops::Range;

pub(super) const INITIATION_BYTES: usize = 148;
pub(super) const RESPONSE_BYTES: usize = 92;
pub(super) const COOKIE_BYTES: usize = 64;

pub(super) const INITIATION: u32 = 1;
pub(super) const RESPONSE: u32 = 2;
pub(super) const COOKIE: u32 = 3;
pub(super) const DATA: u32 = 4;

/// Both MACs, at the end of an initiation and of a response.
pub(super) const MACS_BYTES: usize = 32;

/// Where fields lie in an initiation (section 5.4.2).
pub(super) mod initiation {
    use super::Range;
    pub(crate) const SENDER: usize = 4;
    pub(crate) const EPHEMERAL: Range<usize> = 8..40;
    pub(crate) const STATIC: Range<usize> = 40..88;
    pub(crate) const TIMESTAMP: Range<usize> = 88..116;
}

/// Where fields lie in a response (section 5.4.3).
pub(super) mod response {
    use super::Range;
    pub(crate) const SENDER: usize = 4;
    pub(crate) const RECEIVER: usize = 8;
    pub(crate) const EPHEMERAL: Range<usize> = 12..44;
    pub(crate) const NOTHING: Range<usize> = 44..60;
}

/// Where fields lie in a cookie reply (section 5.4.7).
pub(super) mod cookie {
    use super::Range;
    pub(crate) const RECEIVER: usize = 4;
    pub(crate) const NONCE: Range<usize> = 8..32;
    pub(crate) const COOKIE: Range<usize> = 32..64;
}

/// Where fields lie in a data message (section 5.4.6).
pub(super) mod data {
    pub(crate) const RECEIVER: usize = 4;
    pub(crate) const COUNTER: usize = 8;
}

/// The message that a datagram is, by its type, its reserved zeros and its length.
#[derive(Debug, Clone, Copy)]
pub(super) enum Handshake<'d> {
    Initiation(&'d [u8; INITIATION_BYTES]),
    Response(&'d [u8; RESPONSE_BYTES]),
    Cookie(&'d [u8; COOKIE_BYTES]),
}

impl<'d> Handshake<'d> {
    pub(super) fn parse(datagram: &'d [u8]) -> Option<Self> {
        match read_u32(datagram, 0)? {
            INITIATION => datagram.try_into().ok().map(Self::Initiation),
            RESPONSE => datagram.try_into().ok().map(Self::Response),
            COOKIE => datagram.try_into().ok().map(Self::Cookie),
            _ => None,
        }
    }
}

/// The little-endian number at `at`; `None` beyond the end.
pub(super) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*four))
}

/// The little-endian number at `at`; `None` beyond the end.
pub(super) fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    let eight = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*eight))
}

/// Writes a little-endian number at `at`, which lies within.
pub(super) fn write_u32(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_length_with_reserved_zeros_is_a_handshake_message() {
        for (kind, length) in [
            (INITIATION, INITIATION_BYTES),
            (RESPONSE, RESPONSE_BYTES),
            (COOKIE, COOKIE_BYTES),
        ] {
            let mut datagram = vec![0; length];
            write_u32(&mut datagram, 0, kind);
            assert!(Handshake::parse(&datagram).is_some());
            assert!(Handshake::parse(&datagram[..length - 1]).is_none());
            datagram.push(0);
            assert!(Handshake::parse(&datagram).is_none());
            datagram.pop();
            datagram[2] = 1;
            assert!(
                Handshake::parse(&datagram).is_none(),
                "reserved is not zero"
            );
        }
        assert!(Handshake::parse(&[]).is_none());
        assert!(Handshake::parse(&[4, 0, 0, 0]).is_none());
    }
}
