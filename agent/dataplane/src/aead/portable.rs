//! The AEAD by the crate `ring`, packet by packet, on every CPU. No arithmetic of our own.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::{KEY_BYTES, Packet, TAG_BYTES, nonce};

/// See [`super::Key::seal`].
pub(super) fn seal(key: &[u8; KEY_BYTES], slab: &mut [u8], packets: &[Packet]) {
    let key = schedule(key);
    for packet in packets {
        let (text, rest) = slab[packet.start..].split_at_mut(packet.length);
        let nonce = Nonce::assume_unique_for_key(nonce(packet.counter));
        let tag = key
            .seal_in_place_separate_tag(nonce, Aad::empty(), text)
            .expect("ChaCha20-Poly1305 seals up to 256 GB (RFC 8439 section 2.8)");
        rest[..TAG_BYTES].copy_from_slice(tag.as_ref());
    }
}

/// See [`super::Key::open`].
pub(super) fn open(
    key: &[u8; KEY_BYTES],
    slab: &mut [u8],
    packets: &[Packet],
    verified: &mut [bool],
) {
    let key = schedule(key);
    for (packet, verified) in packets.iter().zip(verified) {
        let sealed = &mut slab[packet.start..packet.end() + TAG_BYTES];
        let nonce = Nonce::assume_unique_for_key(nonce(packet.counter));
        *verified = key.open_in_place(nonce, Aad::empty(), sealed).is_ok();
        if !*verified {
            // What ring leaves there is unspecified.
            sealed[..packet.length].fill(0);
        }
    }
}

fn schedule(key: &[u8; KEY_BYTES]) -> LessSafeKey {
    let unbound = UnboundKey::new(&CHACHA20_POLY1305, key).expect("the key has 32 bytes");
    LessSafeKey::new(unbound)
}
