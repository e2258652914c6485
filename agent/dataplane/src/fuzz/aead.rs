//! The batch AEAD as fuzzers drive it: whatever the packets and the forgeries, it does what `ring` does.

use crate::aead::{Implementation, KEY_BYTES, Key, Packet, TAG_BYTES};

/// Bytes that say what one packet is: its length in two, the gap before it, and what is done to it on the way.
const PACKET_BYTES: usize = 4;
/// Packets in a batch, so that an input is not slow.
const MAX_PACKETS: usize = 140;
/// Bytes in a slab, for the same reason.
const MAX_SLAB_BYTES: usize = 300_000;

/// Seals and opens the batch that `bytes` describe: a key, then four bytes for each packet. The same bytes are what
/// is sealed.
///
/// # Panics
/// When an implementation does not do what `ring` does, packet by packet.
pub fn aead_agrees_with_ring(bytes: &[u8]) {
    let mut secret = [0; KEY_BYTES];
    for (to, from) in secret.iter_mut().zip(bytes) {
        *to = *from;
    }
    let (packets, forgeries, size) = lay(bytes.get(KEY_BYTES..).unwrap_or_default());
    let plain: Vec<u8> = bytes
        .iter()
        .copied()
        .chain([0])
        .cycle()
        .take(size)
        .collect();
    let ring = Key::with_implementation(&secret, Implementation::Portable);
    for implementation in [Implementation::Avx512, Implementation::Fastest] {
        let key = Key::with_implementation(&secret, implementation);
        let (mut slab, mut expected) = (plain.clone(), plain.clone());
        key.seal(&mut slab, &packets);
        ring.seal(&mut expected, &packets);
        assert!(slab == expected, "{implementation:?} seals {packets:?}");

        for (packet, forgery) in packets.iter().zip(&forgeries) {
            if let Some(bit) = forgery {
                let position = packet.start + bit / 8 % (packet.length + TAG_BYTES);
                slab[position] ^= 1 << (bit % 8);
                expected[position] ^= 1 << (bit % 8);
            }
        }
        let mut verdicts = [vec![false; packets.len()], vec![false; packets.len()]];
        key.open(&mut slab, &packets, &mut verdicts[0]);
        ring.open(&mut expected, &packets, &mut verdicts[1]);
        let authentic: Vec<_> = forgeries.iter().map(Option::is_none).collect();
        assert_eq!(verdicts, [authentic.clone(), authentic.clone()]);
        for (packet, authentic) in packets.iter().zip(authentic) {
            // What is left of a forged packet may differ.
            if !authentic {
                let range = packet.start..packet.start + packet.length;
                slab[range.clone()].fill(0);
                expected[range].fill(0);
            }
        }
        assert!(slab == expected, "{implementation:?} opens {packets:?}");
    }
}

/// Packets, the bit of each that is turned over on the way, and the length of the slab.
fn lay(bytes: &[u8]) -> (Vec<Packet>, Vec<Option<usize>>, usize) {
    let (mut packets, mut forgeries, mut end) = (vec![], vec![], 0);
    for (number, &[low, high, gap, way]) in (0..).zip(bytes.as_chunks::<PACKET_BYTES>().0) {
        let start = end + usize::from(gap);
        let length = usize::from(u16::from_le_bytes([low, high]));
        if packets.len() == MAX_PACKETS || start + length + TAG_BYTES > MAX_SLAB_BYTES {
            break;
        }
        packets.push(Packet {
            start,
            length,
            counter: u64::from(way) << 32 | number,
        });
        // One in eight is forged.
        forgeries.push((way % 8 == 0).then_some(usize::from(way) * 37));
        end = start + length + TAG_BYTES;
    }
    (packets, forgeries, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_batches_agree() {
        for count in [0u8, 1, 31, 32, 33, 36, 100, 255] {
            let bytes: Vec<u8> = (0..count).map(|i| i.wrapping_mul(57) % 67).collect();
            aead_agrees_with_ring(&bytes);
        }
    }
}
