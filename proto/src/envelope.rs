//! Signed documents: payload bytes as they were signed, the signer's key id and the signature.
//!
//! The payload is JSON so that a person can read it, and is carried as the very text that was signed:
//! it is never re-encoded, so two JSON libraries cannot disagree about a signature.

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::key::{Digest, IdentityKey, Signature};

/// What a signature is for. A signature of one kind is worthless for another.
pub trait Document: Serialize + DeserializeOwned {
    /// The domain of the signature, unique per kind of document.
    const DOMAIN: &'static str;
}

/// A signed document on the wire and on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The document's JSON, exactly as signed.
    pub payload: String,
    /// SHA-256 of the signer's public key.
    pub key_id: Digest,
    /// Ed25519 (RFC 8032) over the domain-separated SHA-256 of the payload.
    pub signature: Signature,
}

/// Why a document was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Signed by another key than the one expected.
    #[error("signed by key {found}, expected {expected}")]
    WrongSigner {
        /// Key id in the envelope.
        found: Digest,
        /// Key id of the key that should have signed.
        expected: Digest,
    },
    /// The signature does not match payload, domain and key.
    #[error("the signature of the {0} is not valid")]
    BadSignature(&'static str),
    /// Rightly signed, but not a document of this kind.
    #[error("the {domain} cannot be read: {reason}")]
    Malformed {
        /// Kind of document.
        domain: &'static str,
        /// What the parser said.
        reason: String,
    },
}

impl Envelope {
    /// Signs `document`.
    pub fn sign<D: Document>(document: &D, key: &SigningKey) -> Self {
        let payload =
            serde_json::to_string(document).expect("documents are plain structs with string keys");
        let signature = key.sign(&signed_hash(D::DOMAIN, payload.as_bytes()));
        let public = IdentityKey(key.verifying_key().to_bytes());
        Self {
            payload,
            key_id: public.fingerprint(),
            signature: Signature(signature.to_bytes()),
        }
    }

    /// Returns the document if `key` signed it as a `D`.
    pub fn open<D: Document>(&self, key: &IdentityKey) -> Result<D, EnvelopeError> {
        let expected = key.fingerprint();
        if self.key_id != expected {
            return Err(EnvelopeError::WrongSigner {
                found: self.key_id,
                expected,
            });
        }
        let bad = || EnvelopeError::BadSignature(D::DOMAIN);
        let verifier = VerifyingKey::from_bytes(&key.0).map_err(|_| bad())?;
        let signature = ed25519_dalek::Signature::from_bytes(&self.signature.0);
        verifier
            .verify_strict(&signed_hash(D::DOMAIN, self.payload.as_bytes()), &signature)
            .map_err(|_| bad())?;
        serde_json::from_str(&self.payload).map_err(|e| EnvelopeError::Malformed {
            domain: D::DOMAIN,
            reason: e.to_string(),
        })
    }

    /// SHA-256 of the payload: how a view is told from another.
    pub fn payload_digest(&self) -> Digest {
        Digest::of(self.payload.as_bytes())
    }
}

fn signed_hash(domain: &str, payload: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(b"pnsbox signed document 1\0")
        .chain_update(domain.as_bytes())
        .chain_update([0])
        .chain_update(payload)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Apple {
        weight_g: u32,
    }
    impl Document for Apple {
        const DOMAIN: &'static str = "apple";
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Pear {
        weight_g: u32,
    }
    impl Document for Pear {
        const DOMAIN: &'static str = "pear";
    }

    fn key(seed: u8) -> (SigningKey, IdentityKey) {
        let key = SigningKey::from_bytes(&[seed; 32]);
        let public = IdentityKey(key.verifying_key().to_bytes());
        (key, public)
    }

    #[test]
    fn only_the_signer_the_kind_and_the_bytes_open_it() {
        let (secret, public) = key(1);
        let envelope = Envelope::sign(&Apple { weight_g: 150 }, &secret);
        assert_eq!(
            envelope.open::<Apple>(&public).unwrap(),
            Apple { weight_g: 150 }
        );

        assert!(matches!(
            envelope.open::<Apple>(&key(2).1),
            Err(EnvelopeError::WrongSigner { .. })
        ));
        assert_eq!(
            envelope.open::<Pear>(&public),
            Err(EnvelopeError::BadSignature("pear"))
        );

        let mut heavier = envelope;
        heavier.payload = heavier.payload.replace("150", "151");
        assert_eq!(
            heavier.open::<Apple>(&public),
            Err(EnvelopeError::BadSignature("apple"))
        );

        let mut impostor = Envelope::sign(&Apple { weight_g: 150 }, &key(2).0);
        impostor.key_id = public.fingerprint();
        assert_eq!(
            impostor.open::<Apple>(&public),
            Err(EnvelopeError::BadSignature("apple"))
        );
    }

    #[test]
    fn a_change_of_white_space_breaks_the_signature() {
        let (secret, public) = key(1);
        let mut envelope = Envelope::sign(&Apple { weight_g: 1 }, &secret);
        envelope.payload.push(' ');
        assert!(envelope.open::<Apple>(&public).is_err());
    }
}
