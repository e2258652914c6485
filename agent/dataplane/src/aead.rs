//! ChaCha20-Poly1305 (RFC 8439) over many packets at once, in place, as WireGuard's data messages use it: no additional
//! data, and a nonce of four zero bytes and the message's counter.
//!
//! It knows no message format, no replay window and no session; whether a counter may be used is the caller's affair.
//! One packet fills the wide registers of today's processors poorly, a batch of them well, so the interface is a batch.
//!
//! | question | module |
//! |---|---|
//! | What does a CPU with AVX-512 do? | `avx512` |
//! | What does any other do? | `portable` |

use std::fmt;

use zeroize::Zeroizing;

#[cfg_attr(not(target_arch = "x86_64"), path = "aead/absent.rs")]
mod avx512;
mod portable;
#[cfg(test)]
mod tests;

/// Length of a key, in bytes (RFC 8439 section 2.8).
pub(crate) const KEY_BYTES: usize = 32;
/// Length of a tag, in bytes (RFC 8439 section 2.8).
pub(crate) const TAG_BYTES: usize = 16;
/// The longest packet, in bytes: nothing longer fits a datagram.
pub(crate) const MAX_PACKET_BYTES: usize = 65_535;

/// A packet in a slab, with room for its tag right behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packet {
    /// Where its plaintext or ciphertext begins in the slab, in bytes.
    pub(crate) start: usize,
    /// Length without the tag, in bytes, at most [`MAX_PACKET_BYTES`].
    pub(crate) length: usize,
    /// The message's counter, which makes the nonce (WireGuard whitepaper section 5.4.6).
    pub(crate) counter: u64,
}

impl Packet {
    /// Where its tag begins in the slab.
    fn end(&self) -> usize {
        self.start + self.length
    }
}

/// Who does the arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Implementation {
    /// For each packet of a batch whichever is faster here.
    Fastest,
    /// Our own kernels, many packets at once: x86-64 with AVX-512 F, BW, VL and IFMA.
    #[cfg_attr(
        not(any(test, feature = "fuzz")),
        expect(dead_code, reason = "only comparisons insist on it")
    )]
    Avx512,
    /// The crate `ring`, packet by packet: everywhere.
    Portable,
}

impl Implementation {
    /// What this CPU has, for the log.
    pub(crate) fn here() -> &'static str {
        match Self::Fastest.or_portable() {
            Self::Portable => "packet by packet",
            Self::Fastest | Self::Avx512 => "AVX-512",
        }
    }

    /// This one if the CPU can do it, else the portable one.
    fn or_portable(self) -> Self {
        if avx512::is_supported() {
            self
        } else {
            Self::Portable
        }
    }
}

/// A key of one direction of a session. Wiped from memory when dropped; moving it leaves no copy behind.
pub(crate) struct Key {
    bytes: Box<Zeroizing<[u8; KEY_BYTES]>>,
    implementation: Implementation,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    /// With what is fastest on this CPU.
    pub(crate) fn new(key: &[u8; KEY_BYTES]) -> Self {
        Self::with_implementation(key, Implementation::Fastest)
    }

    /// With `implementation`, or the portable one on a CPU that lacks AVX-512.
    pub(crate) fn with_implementation(
        key: &[u8; KEY_BYTES],
        implementation: Implementation,
    ) -> Self {
        let mut bytes = Box::new(Zeroizing::new([0; KEY_BYTES]));
        bytes.copy_from_slice(key);
        Self {
            bytes,
            implementation: implementation.or_portable(),
        }
    }

    /// Encrypts every packet where it lies and writes its tag right behind it.
    ///
    /// # Panics
    /// When packets or their tags overlap, do not ascend, leave the slab, or are longer than [`MAX_PACKET_BYTES`]: the
    /// caller laid them out wrongly, whatever came from outside.
    pub(crate) fn seal(&self, slab: &mut [u8], packets: &[Packet]) {
        check(slab, packets);
        let (batch, single) = packets.split_at(self.batch(packets));
        if !batch.is_empty() {
            avx512::seal(&self.bytes, slab, batch);
        }
        if !single.is_empty() {
            portable::seal(&self.bytes, slab, single);
        }
    }

    /// Verifies the tag behind every packet and decrypts the authentic ones where they lie; `verified[i]` says
    /// whether packet i was authentic. Of one that was not, its ciphertext stays, or zeros are there instead.
    ///
    /// # Panics
    /// As [`Key::seal`], and when `verified` is not as long as `packets`.
    pub(crate) fn open(&self, slab: &mut [u8], packets: &[Packet], verified: &mut [bool]) {
        check(slab, packets);
        assert_eq!(packets.len(), verified.len(), "one verdict for each packet");
        let count = self.batch(packets);
        let (batch, single) = packets.split_at(count);
        let (verified_batch, verified_single) = verified.split_at_mut(count);
        if !batch.is_empty() {
            avx512::open(&self.bytes, slab, batch, verified_batch);
        }
        if !single.is_empty() {
            portable::open(&self.bytes, slab, single, verified_single);
        }
    }

    /// How many of the packets, from the first on, go to the kernels for many packets.
    fn batch(&self, packets: &[Packet]) -> usize {
        match (self.implementation, packets) {
            (Implementation::Portable, _) => 0,
            (Implementation::Avx512, _) => packets.len(),
            (Implementation::Fastest, [] | [_] | [_, _]) => 0,
            (Implementation::Fastest, [batch @ .., last])
                if batch.len().is_multiple_of(SIDE_BY_SIDE) && last.length > SINGLE_BYTES =>
            {
                batch.len()
            }
            (Implementation::Fastest, _) => packets.len(),
        }
    }
}

/// Packets whose tags the AVX-512 kernels compute side by side; one more costs them as much as eight more.
const SIDE_BY_SIDE: usize = 8;
/// A single packet longer than this is sooner done by `ring` (measured on Zen 4).
const SINGLE_BYTES: usize = 256;

/// The nonce of a data message (WireGuard whitepaper section 5.4.6, RFC 8439 section 2.8).
fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

/// Refuses a layout in which one packet's work could touch another's bytes.
fn check(slab: &[u8], packets: &[Packet]) {
    let mut free = 0;
    for packet in packets {
        assert!(
            packet.length <= MAX_PACKET_BYTES
                && packet.start >= free
                && packet.start <= slab.len()
                && slab.len() - packet.start >= packet.length + TAG_BYTES,
            "{packet:?} in a slab of {} bytes, of which {free} are taken",
            slab.len()
        );
        free = packet.end() + TAG_BYTES;
    }
}
