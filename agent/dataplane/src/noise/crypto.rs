//! The primitives of the handshake under the whitepaper's names (section 5.4), on the RustCrypto crates.
//! Data messages do not come here: `crate::aead` seals and opens those.

use blake2::digest::consts::U16;
use blake2::{Blake2s256, Blake2sMac, Digest};
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, XChaCha20Poly1305};
use hmac::{Mac, SimpleHmac};
use zeroize::Zeroizing;

/// A symmetric key that is wiped when dropped.
pub(super) type Secret = Zeroizing<[u8; 32]>;

/// Bytes of an AEAD tag and of a MAC.
pub(super) const TAG: usize = 16;

/// HASH of both parts, one behind the other.
pub(super) fn hash(first: &[u8], second: &[u8]) -> [u8; 32] {
    Blake2s256::new()
        .chain_update(first)
        .chain_update(second)
        .finalize()
        .into()
}

/// MAC: keyed BLAKE2s with 16 bytes of output. The key has 16 or 32 bytes.
pub(super) fn mac(key: &[u8], message: &[u8]) -> [u8; TAG] {
    keyed(key)
        .chain_update(message)
        .finalize()
        .into_bytes()
        .into()
}

/// Whether `expected` is the MAC of the message; in constant time.
pub(super) fn mac_matches(key: &[u8], message: &[u8], expected: &[u8]) -> bool {
    keyed(key)
        .chain_update(message)
        .verify_slice(expected)
        .is_ok()
}

fn keyed(key: &[u8]) -> Blake2sMac<U16> {
    <Blake2sMac<U16> as Mac>::new_from_slice(key).expect("BLAKE2s takes keys of up to 32 bytes")
}

fn hmac(key: &[u8; 32], first: &[u8], second: &[u8]) -> Secret {
    let hmac = <SimpleHmac<Blake2s256> as Mac>::new_from_slice(key)
        .expect("HMAC takes keys of any length");
    let output = hmac.chain_update(first).chain_update(second).finalize();
    Zeroizing::new(output.into_bytes().into())
}

/// KDF with N outputs: HKDF (RFC 5869) as the Noise framework has it (its section 4.3).
pub(super) fn kdf<const N: usize>(key: &[u8; 32], input: &[u8]) -> [Secret; N] {
    let extracted = hmac(key, input, &[]);
    let mut number = 0;
    let mut last: Option<Secret> = None;
    std::array::from_fn(|_| {
        number += 1;
        let before: &[u8] = last.as_ref().map_or(&[], |last| &last[..]);
        let output = hmac(&extracted, before, &[number]);
        last = Some(output.clone());
        output
    })
}

/// AEAD with nonce 0: `room` begins with the plaintext and ends with 16 bytes for the tag.
pub(super) fn seal(key: &Secret, room: &mut [u8], associated: &[u8]) {
    let (text, tag) = room.split_at_mut(room.len() - TAG);
    let made = ChaCha20Poly1305::new((&**key).into())
        .encrypt_in_place_detached(&Default::default(), associated, text)
        .expect("a handshake field is shorter than the cipher's limit");
    tag.copy_from_slice(&made);
}

/// Opens what [`seal`] made, at the other side: N bytes of plaintext.
pub(super) fn open<const N: usize>(
    key: &Secret,
    sealed: &[u8],
    associated: &[u8],
) -> Option<[u8; N]> {
    let (text, tag) = sealed.split_last_chunk::<TAG>()?;
    let mut text: [u8; N] = text.try_into().ok()?;
    ChaCha20Poly1305::new((&**key).into())
        .decrypt_in_place_detached(&Default::default(), associated, &mut text, tag.into())
        .ok()?;
    Some(text)
}

/// XAEAD, for cookies: `room` begins with the plaintext and ends with 16 bytes for the tag.
pub(super) fn xseal(key: &[u8; 32], nonce: &[u8; 24], room: &mut [u8; 32], associated: &[u8]) {
    let (text, tag) = room.split_at_mut(TAG);
    let made = XChaCha20Poly1305::new(key.into())
        .encrypt_in_place_detached(nonce.into(), associated, text)
        .expect("a cookie is shorter than the cipher's limit");
    tag.copy_from_slice(&made);
}

/// Opens what [`xseal`] made.
pub(super) fn xopen(
    key: &[u8; 32],
    nonce: &[u8; 24],
    sealed: &[u8; 32],
    associated: &[u8],
) -> Option<[u8; TAG]> {
    let (text, tag) = sealed.split_last_chunk::<TAG>()?;
    let mut text: [u8; TAG] = text.try_into().ok()?;
    XChaCha20Poly1305::new(key.into())
        .decrypt_in_place_detached(nonce.into(), associated, &mut text, tag.into())
        .ok()?;
    Some(text)
}
