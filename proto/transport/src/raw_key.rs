//! An Ed25519 key as a TLS raw public key: the `SubjectPublicKeyInfo` of RFC 7250 section 3, in the DER of RFC 8410.

use pnsbox_proto::key::IdentityKey;

/// DER of `SEQUENCE { SEQUENCE { OID 1.3.101.112 } BIT STRING (33 bytes) }` up to the key (RFC 8410 section 4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// DER of a PKCS #8 `OneAsymmetricKey` version 0 up to the seed (RFC 8410 section 7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// The key as TLS carries it.
pub fn to_spki(key: &IdentityKey) -> Vec<u8> {
    [&SPKI_PREFIX[..], &key.0].concat()
}

/// The key in `spki`, or `None` if it is no Ed25519 key.
pub fn from_spki(spki: &[u8]) -> Option<IdentityKey> {
    let key = spki.strip_prefix(&SPKI_PREFIX)?;
    Some(IdentityKey(key.try_into().ok()?))
}

/// A signing key's seed as PKCS #8, which rustls reads.
pub(crate) fn to_pkcs8(seed: &[u8; 32]) -> Vec<u8> {
    [&PKCS8_PREFIX[..], seed].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spki_survives_and_other_keys_are_nothing() {
        let key = IdentityKey([3; 32]);
        let spki = to_spki(&key);
        assert_eq!(from_spki(&spki), Some(key));
        assert_eq!(from_spki(&spki[..43]), None);
        assert_eq!(from_spki(&[]), None);
        let mut x25519 = spki;
        x25519[8] = 0x6e;
        assert_eq!(from_spki(&x25519), None);
    }
}
