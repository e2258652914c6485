//! This node's private keys, its own two and its agency's: made on the box, kept on the box, never overwritten.
//!
//! A key file that cannot be read is an error, never a reason to make a new one:
//! a new identity key would be a stranger to the network.

pub mod agency;

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use pnsbox_proto::key::{IdentityKey, WireguardKey};
use tracing::{info, warn};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::failpoint::step;
use crate::store::{STATE_FILE, new_file, sync_dir};

/// Private keys of a node.
pub struct NodeKeys {
    /// Proves who the node is, in TLS and in signatures.
    pub identity: SigningKey,
    /// Of the tunnels.
    pub wireguard: WireguardSecret,
    /// With which it can sign for its agency, newest last.
    pub agency: Vec<SigningKey>,
}

/// A WireGuard private key. Never printed; wiped from memory when dropped.
#[derive(Clone)]
pub struct WireguardSecret(StaticSecret);

/// Private bytes, wiped from memory when dropped.
pub type Secret = Zeroizing<[u8; 32]>;

/// Base64 of 32 bytes, and what a decoder wants to write it to.
const TEXT_BYTES: usize = 44;
const DECODED_AT_MOST: usize = 36;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file system refused.
    #[error("key file {} cannot be {what}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// `read` or `made`.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file does not hold a key.
    #[error(
        "key file {} is not a private key (32 bytes in base64, one line): restore it from a backup, \
         or remove it together with {STATE_FILE} and join again",
        path.display()
    )]
    Corrupt {
        /// Which.
        path: PathBuf,
    },
    /// The node has joined with a key that is no longer there.
    #[error(
        "key file {} is missing, but this box has joined with it: restore it from a backup, \
         or remove {STATE_FILE} and join again",
        path.display()
    )]
    Lost {
        /// Which.
        path: PathBuf,
    },
    /// No entropy.
    #[error("the system gives no random bytes for {}: {reason}", path.display())]
    NoEntropy {
        /// For which file.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
}

/// Reads the keys of `state_dir`; makes those that were never there.
pub fn load_or_create(state_dir: &Path) -> Result<NodeKeys, KeysError> {
    let joined = state_dir.join(STATE_FILE).exists();
    let identity = SigningKey::from_bytes(&*read_or_make(&state_dir.join(IDENTITY_FILE), joined)?);
    let wireguard =
        WireguardSecret::from_bytes(*read_or_make(&state_dir.join(WIREGUARD_FILE), joined)?);
    Ok(NodeKeys {
        identity,
        wireguard,
        agency: agency::load_or_create(state_dir)?,
    })
}

impl NodeKeys {
    /// What others know the node by.
    pub fn identity_key(&self) -> IdentityKey {
        IdentityKey(self.identity.verifying_key().to_bytes())
    }

    /// What others know its tunnels by.
    pub fn wireguard_key(&self) -> WireguardKey {
        WireguardKey(self.wireguard.public_key())
    }
}

impl WireguardSecret {
    /// Takes the bytes of a private key.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(StaticSecret::from(bytes))
    }

    /// The public key.
    pub fn public_key(&self) -> [u8; 32] {
        PublicKey::from(&self.0).to_bytes()
    }

    /// The private bytes, for the data plane only.
    pub fn expose(&self) -> Secret {
        Zeroizing::new(self.0.to_bytes())
    }
}

impl fmt::Debug for WireguardSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WireguardSecret(…)")
    }
}

impl fmt::Debug for NodeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeKeys")
            .field("identity", &self.identity_key())
            .field("wireguard", &self.wireguard_key())
            .finish_non_exhaustive()
    }
}

const IDENTITY_FILE: &str = "identity.key";
const WIREGUARD_FILE: &str = "wireguard.key";

fn read_or_make(path: &Path, joined: bool) -> Result<Secret, KeysError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && joined => {
            return Err(KeysError::Lost {
                path: path.to_owned(),
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return make(path),
        Err(source) => return Err(file_error(path, "read", source)),
    };
    close_to_others(path).map_err(|source| file_error(path, "closed to other users", source))?;
    let mut text = Zeroizing::new([0; TEXT_BYTES + 2]);
    let length = read_up_to(&mut file, &mut *text).map_err(|e| file_error(path, "read", e))?;
    decode(text[..length].trim_ascii_end()).ok_or_else(|| KeysError::Corrupt {
        path: path.to_owned(),
    })
}

fn random(path: &Path) -> Result<Secret, KeysError> {
    let mut bytes = Secret::default();
    getrandom::fill(&mut *bytes).map_err(|e| KeysError::NoEntropy {
        path: path.to_owned(),
        reason: e.to_string(),
    })?;
    Ok(bytes)
}

fn make(path: &Path) -> Result<Secret, KeysError> {
    let bytes = random(path)?;
    write_new(path, &bytes).map_err(|source| file_error(path, "made", source))?;
    info!(path = %path.display(), "made a private key");
    Ok(bytes)
}

/// Appears complete and durable under its name, or not at all.
fn write_new(path: &Path, bytes: &Secret) -> io::Result<()> {
    let dir = path.parent().unwrap_or_else(|| Path::new("."));
    let mut text = Zeroizing::new([b'\n'; TEXT_BYTES + 1]);
    STANDARD
        .encode_slice(**bytes, &mut text[..TEXT_BYTES])
        .map_err(io::Error::other)?;
    step("key_before_write");
    let mut file = new_file(dir)?;
    file.write_all(&*text)?;
    file.as_file().sync_all()?;
    step("key_synced");
    file.persist_noclobber(path).map_err(|e| e.error)?;
    step("key_renamed");
    sync_dir(dir)
}

/// Fills as much of `buffer` as the file has.
fn read_up_to(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    loop {
        match file.read(&mut buffer[length..])? {
            0 => return Ok(length),
            read => length += read,
        }
    }
}

fn decode(text: &[u8]) -> Option<Secret> {
    let mut bytes = Zeroizing::new([0; DECODED_AT_MOST]);
    let length = STANDARD.decode_slice(text, &mut *bytes).ok()?;
    let key: [u8; 32] = bytes[..length].try_into().ok()?;
    Some(Zeroizing::new(key))
}

fn close_to_others(path: &Path) -> io::Result<()> {
    let mode = std::fs::metadata(path)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        warn!(path = %path.display(), mode = format!("{mode:o}"), "private key was open to other users; set to 600");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

fn file_error(path: &Path, what: &'static str, source: io::Error) -> KeysError {
    KeysError::File {
        path: path.to_owned(),
        what,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_create(dir.path()).unwrap();
        let second = load_or_create(dir.path()).unwrap();
        assert_eq!(first.identity_key(), second.identity_key());
        assert_eq!(first.wireguard_key(), second.wireguard_key());
        for name in [IDENTITY_FILE, WIREGUARD_FILE] {
            let mode = std::fs::metadata(dir.path().join(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o7777, 0o600, "{name}");
        }
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            3,
            "no temporary file stays"
        );
        assert_ne!(first.identity.to_bytes(), *first.wireguard.expose());
    }

    #[test]
    fn a_key_open_to_others_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        load_or_create(dir.path()).unwrap();
        let path = dir.path().join(IDENTITY_FILE);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        load_or_create(dir.path()).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o600
        );
    }

    #[test]
    fn a_corrupt_key_is_an_error_that_names_the_file_and_is_left_alone() {
        for bad in [&b""[..], b"AAAA\n", b"not base64 at all", &[0xff, 0xfe]] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(WIREGUARD_FILE);
            std::fs::write(&path, bad).unwrap();
            let error = load_or_create(dir.path()).unwrap_err().to_string();
            assert!(
                error.contains("wireguard.key") && error.contains("backup"),
                "{error}"
            );
            assert_eq!(std::fs::read(&path).unwrap(), bad);
        }
    }

    #[test]
    fn a_joined_box_does_not_invent_a_new_identity() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(STATE_FILE), "{}").unwrap();
        let error = load_or_create(dir.path()).unwrap_err();
        assert!(matches!(error, KeysError::Lost { .. }), "{error}");
        assert!(!dir.path().join(IDENTITY_FILE).exists());
    }

    #[test]
    fn secrets_are_not_printed() {
        let dir = tempfile::tempdir().unwrap();
        let keys = load_or_create(dir.path()).unwrap();
        let printed = format!("{keys:?} {:?}", keys.wireguard);
        for name in [IDENTITY_FILE, WIREGUARD_FILE] {
            let secret = std::fs::read_to_string(dir.path().join(name)).unwrap();
            assert!(!printed.contains(secret.trim()), "{printed}");
        }
    }
}
