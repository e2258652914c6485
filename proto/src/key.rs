//! Public keys, signatures and digests, as text: standard base64 for keys and signatures (as `wg` prints them),
//! lower-case hexadecimal for digests.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Why a text is not a key, signature or digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not {what}: {bytes} bytes in {encoding} expected")]
pub struct KeyError {
    what: &'static str,
    bytes: usize,
    encoding: &'static str,
}

macro_rules! bytes_type {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal, $encoding:literal, $encode:expr, $decode:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// The bytes.
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<Self, KeyError> {
                let decode: fn(&str) -> Option<Vec<u8>> = $decode;
                decode(text)
                    .and_then(|bytes| bytes.try_into().ok())
                    .map(Self)
                    .ok_or(KeyError { what: $what, bytes: $len, encoding: $encoding })
            }
        }

        impl TryFrom<String> for $name {
            type Error = KeyError;

            fn try_from(text: String) -> Result<Self, KeyError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let encode: fn(&[u8]) -> String = $encode;
                f.write_str(&encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

bytes_type!(
    /// An Ed25519 public key: of a node, a controller, an agency or the network's root.
    IdentityKey, 32, "an Ed25519 public key", "base64",
    |b| STANDARD.encode(b), |t| STANDARD.decode(t).ok()
);

bytes_type!(
    /// An X25519 public key of a node's WireGuard.
    WireguardKey, 32, "a WireGuard public key", "base64",
    |b| STANDARD.encode(b), |t| STANDARD.decode(t).ok()
);

bytes_type!(
    /// An Ed25519 signature.
    Signature, 64, "an Ed25519 signature", "base64",
    |b| STANDARD.encode(b), |t| STANDARD.decode(t).ok()
);

bytes_type!(
    /// A SHA-256 digest.
    Digest, 32, "a SHA-256 digest", "hexadecimal", hex_encode, hex_decode
);

impl Digest {
    /// SHA-256 of `bytes` (FIPS 180-4).
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl IdentityKey {
    /// What people compare and anchors carry: SHA-256 of the key.
    pub fn fingerprint(&self) -> Digest {
        Digest::of(&self.0)
    }
}

/// Lower-case hexadecimal.
pub fn hex_encode(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The bytes of a hexadecimal text, or `None`.
pub fn hex_decode(text: &str) -> Option<Vec<u8>> {
    // `from_str_radix` takes a sign as well.
    if !text.bytes().all(|b| b.is_ascii_hexdigit()) || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_text() {
        let key = IdentityKey([7; 32]);
        assert_eq!(key.to_string().parse::<IdentityKey>().unwrap(), key);
        let digest = Digest::of(b"abc");
        // FIPS 180-4 example, "abc".
        assert_eq!(
            digest.to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        for bad in ["", "zz", "é", "ba78"] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        assert!(
            "+f".repeat(32).parse::<Digest>().is_err(),
            "a sign is no digit"
        );
        assert!("AAAA".parse::<WireguardKey>().is_err());
    }
}
