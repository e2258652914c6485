//! The keys with which this box can sign for its agency: made before it first joins, kept on the box, and carried to
//! another only as the one line that its admin asks for.
//!
//! One file, `agency.key`: a private key in base64 on each line, the newest last. Which of them the agency has, the
//! network says; the others are of before, or of a box that joined an agency with a key of its own.

use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::SigningKey;
use pnsbox_proto::key::Digest;
use tracing::info;
use zeroize::Zeroizing;

use super::{KeysError, Secret, TEXT_BYTES, close_to_others, decode, file_error, random};
use crate::failpoint::step;
use crate::store::{STATE_FILE, new_file, sync_dir};

/// Name of the file in the state directory.
pub const AGENCY_FILE: &str = "agency.key";
/// A box has one key, or a few more after rotations; a longer file is none of ours.
const MAX_KEYS: usize = 64;

/// Reads the keys; makes the first before the box joins. A box that has joined and has none signs nothing.
pub fn load_or_create(state_dir: &Path) -> Result<Vec<SigningKey>, KeysError> {
    let path = state_dir.join(AGENCY_FILE);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if state_dir.join(STATE_FILE).exists() {
                return Ok(Vec::new());
            }
            let made = make(&path)?;
            store(state_dir, std::slice::from_ref(&made))?;
            return Ok(vec![made]);
        }
        Err(source) => return Err(file_error(&path, "read", source)),
    };
    close_to_others(&path).map_err(|source| file_error(&path, "closed to other users", source))?;
    let corrupt = || KeysError::Corrupt { path: path.clone() };
    let mut text = Zeroizing::new(vec![0; MAX_KEYS * (TEXT_BYTES + 1) + 1]);
    let length = super::read_up_to(&mut file, &mut text)
        .map_err(|source| file_error(&path, "read", source))?;
    let lines = text[..length].trim_ascii_end().split(|byte| *byte == b'\n');
    let keys = lines.map(|line| decode(line).map(|seed| SigningKey::from_bytes(&seed)));
    let keys: Option<Vec<SigningKey>> = keys.collect();
    keys.filter(|keys| keys.len() <= MAX_KEYS)
        .ok_or_else(corrupt)
}

/// Makes a key and keeps it after `known`.
pub fn add_new(state_dir: &Path, known: &[SigningKey]) -> Result<SigningKey, KeysError> {
    let key = make(&state_dir.join(AGENCY_FILE))?;
    add(state_dir, known, &key)?;
    Ok(key)
}

/// Keeps `key` after `known`, if it is not among them.
pub fn add(state_dir: &Path, known: &[SigningKey], key: &SigningKey) -> Result<(), KeysError> {
    let others = known
        .iter()
        .filter(|other| other.to_bytes() != key.to_bytes());
    let keys: Vec<SigningKey> = others.chain([key]).cloned().collect();
    store(state_dir, &keys)
}

fn make(path: &Path) -> Result<SigningKey, KeysError> {
    let seed = random(path)?;
    info!(path = %path.display(), "made a private key");
    Ok(SigningKey::from_bytes(&seed))
}

/// Appears complete and durable in the place of what was there, or not at all.
fn store(state_dir: &Path, keys: &[SigningKey]) -> Result<(), KeysError> {
    let path = state_dir.join(AGENCY_FILE);
    let write = || -> io::Result<()> {
        step("agency_key_before_write");
        let mut file = new_file(state_dir)?;
        for key in keys {
            let seed = Secret::new(key.to_bytes());
            let mut line = Zeroizing::new([b'\n'; TEXT_BYTES + 1]);
            STANDARD
                .encode_slice(*seed, &mut line[..TEXT_BYTES])
                .map_err(io::Error::other)?;
            file.write_all(&*line)?;
        }
        file.as_file().sync_all()?;
        step("agency_key_synced");
        file.persist(&path).map_err(|e| e.error)?;
        step("agency_key_renamed");
        sync_dir(state_dir)
    };
    write().map_err(|source| file_error(&path, "made", source))
}

/// A key as its admin backs it up and carries it to another box: `pnsagency1.KEY.CHECK`. It is not printed by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Backup(SigningKey);

const PREFIX: &str = "pnsagency1";

/// Why a text is no backup of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no backup of an agency's key: it is one line that begins with '{PREFIX}.', as 'pnsbox agency backup' prints it; copy the whole line again"
)]
pub struct NoBackup;

impl Backup {
    /// Of this key.
    pub fn of(key: SigningKey) -> Self {
        Self(key)
    }

    /// The key.
    pub fn into_key(self) -> SigningKey {
        self.0
    }

    /// The line. Whoever has it signs for the agency.
    pub fn expose(&self) -> Zeroizing<String> {
        let body = Zeroizing::new(URL_SAFE_NO_PAD.encode(*Secret::new(self.0.to_bytes())));
        Zeroizing::new(format!("{PREFIX}.{}.{}", *body, check(&body)))
    }
}

impl FromStr for Backup {
    type Err = NoBackup;

    fn from_str(text: &str) -> Result<Self, NoBackup> {
        let mut parts = text.trim().split('.');
        let (Some(PREFIX), Some(body), Some(digits), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NoBackup);
        };
        if check(body) != digits {
            return Err(NoBackup);
        }
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(body).map_err(|_| NoBackup)?);
        let seed: [u8; 32] = bytes.as_slice().try_into().map_err(|_| NoBackup)?;
        Ok(Self(SigningKey::from_bytes(&Secret::new(seed))))
    }
}

impl fmt::Debug for Backup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backup(…)")
    }
}

fn check(body: &str) -> String {
    Digest::of(body.as_bytes()).to_string()[..8].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(keys: &[SigningKey]) -> Vec<[u8; 32]> {
        keys.iter().map(SigningKey::to_bytes).collect()
    }

    #[test]
    fn a_key_is_made_before_the_box_joins_and_others_come_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_create(dir.path()).unwrap();
        assert_eq!(first.len(), 1);
        let second = add_new(dir.path(), &first).unwrap();
        let both = load_or_create(dir.path()).unwrap();
        assert_eq!(bytes(&both), bytes(&[first[0].clone(), second]));
        // One that is there already becomes the newest.
        add(dir.path(), &both, &first[0]).unwrap();
        let turned = load_or_create(dir.path()).unwrap();
        assert_eq!(bytes(&turned), bytes(&[both[1].clone(), both[0].clone()]));
    }

    #[test]
    fn a_box_that_has_joined_makes_none_and_a_damaged_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(STATE_FILE), "{}").unwrap();
        assert!(load_or_create(dir.path()).unwrap().is_empty());
        let path = dir.path().join(AGENCY_FILE);
        for bad in [&b""[..], b"AAAA\n", b"not base64", &[0xff, 0xfe]] {
            std::fs::write(&path, bad).unwrap();
            let error = load_or_create(dir.path()).unwrap_err().to_string();
            assert!(error.contains(AGENCY_FILE), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), bad);
        }
    }

    #[test]
    fn a_backup_survives_a_line_of_text_and_a_slip_is_told() {
        let backup = Backup::of(SigningKey::from_bytes(&[7; 32]));
        let line = backup.expose();
        assert_eq!(
            format!(" {}\n", *line).parse::<Backup>(),
            Ok(backup.clone())
        );
        for bad in [
            &line[..line.len() - 1],
            &line.replacen('B', "C", 1),
            "pns1.a.b",
        ] {
            assert_eq!(bad.parse::<Backup>(), Err(NoBackup), "{bad}");
        }
        assert!(!format!("{backup:?}").contains(&line[11..20]));
    }
}
