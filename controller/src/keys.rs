//! Secret keys on disk: one line of 64 hexadecimal digits, readable by the owner only.

use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use ed25519_dalek::SigningKey;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use pnsbox_controller_core::controller::Keys;
use zeroize::Zeroizing;

use crate::failpoint;

/// The controller's key in the state directory.
pub const CONTROLLER_KEY: &str = "controller.key";

/// The key in the state directory that admits agencies.
pub const ADMISSION_KEY: &str = "admission.key";

/// The root key in the state directory, until it is taken offline.
pub const ROOT_KEY: &str = "root.key";

/// Hexadecimal digits of a key.
const DIGITS: usize = 64;

/// Reads a key.
pub fn load(path: &Path) -> anyhow::Result<SigningKey> {
    let place = || format!("the key {} cannot be read", path.display());
    let mode = std::fs::metadata(path).with_context(place)?.mode();
    if mode & 0o077 != 0 {
        bail!(
            "{} can be read by others (mode {:o}); say: chmod 600 {}",
            path.display(),
            mode & 0o777,
            path.display()
        );
    }
    // One buffer, erased when dropped; a longer file is no key.
    let mut text = Zeroizing::new([0; 2 * DIGITS]);
    let mut length = 0;
    let mut file = File::open(path).with_context(place)?;
    while let Some(rest) = text.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match file.read(rest).with_context(place)? {
            0 => break,
            count => length += count,
        }
    }
    match seed(text[..length].trim_ascii()) {
        Some(seed) => Ok(SigningKey::from_bytes(&seed)),
        None => bail!(
            "{} is no key: 64 hexadecimal digits expected; put the file back from its copy",
            path.display()
        ),
    }
}

/// Reads the keys that a controller runs with.
pub fn load_all(state_dir: &Path) -> anyhow::Result<Keys> {
    Ok(Keys {
        controller: load(&state_dir.join(CONTROLLER_KEY))?,
        admission: load(&state_dir.join(ADMISSION_KEY))?,
    })
}

/// Reads a key, or makes one where there is none.
pub fn load_or_make(path: &Path) -> anyhow::Result<SigningKey> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => load(path),
        Err(error) if error.kind() == ErrorKind::NotFound => make(path),
        Err(error) => Err(error).with_context(|| format!("{} cannot be looked at", path.display())),
    }
}

/// Makes a directory that only the owner enters, where it is not there. A power cut does not lose what is then kept
/// in it: each name that leads there is durable.
pub fn private_dir(path: &Path) -> anyhow::Result<()> {
    let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let made: Vec<&Path> = path.ancestors().take_while(missing).collect();
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    let make = || -> std::io::Result<()> {
        builder.create(path)?;
        made.iter().try_for_each(|dir| sync_dir(folder_of(dir)))
    };
    make().with_context(|| format!("the directory {} cannot be made", path.display()))
}

/// Where a name stands.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Makes the names in a directory durable.
fn sync_dir(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

/// A random array from the operating system.
pub fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).context("the operating system gave no random bytes")?;
    Ok(bytes)
}

/// Makes a key: written beside its place, and moved there when it is on the disk. A program killed at any step
/// leaves no key or all of it, and what lies beside is overwritten by the next.
fn make(path: &Path) -> anyhow::Result<SigningKey> {
    let seed = Zeroizing::new(random()?);
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    let write = || -> std::io::Result<()> {
        match std::fs::remove_file(beside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        failpoint::step("key_before_write");
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o600);
        let mut file = options.open(beside)?;
        let written = file.write_all(line(&seed).as_slice());
        failpoint::step("key_after_write_before_fsync");
        let written = written.and_then(|()| file.sync_all());
        failpoint::step("key_after_fsync_before_rename");
        let written = written.and_then(|()| {
            Ok(renameat2(
                AT_FDCWD,
                beside,
                AT_FDCWD,
                path,
                RenameFlags::RENAME_NOREPLACE,
            )?)
        });
        if written.is_err() {
            // A part of a key is of no use to anybody; what could not be written is told.
            drop(std::fs::remove_file(beside));
        }
        written?;
        failpoint::step("key_after_rename_before_dirsync");
        sync_dir(folder_of(path))
    };
    write().with_context(|| {
        format!(
            "the key {} cannot be written; look whether its file system has room and is mounted for writing",
            path.display()
        )
    })?;
    Ok(SigningKey::from_bytes(&seed))
}

/// The seed as it stands in the file. Digit by digit, so that no copy is left behind.
fn line(seed: &[u8; 32]) -> Zeroizing<[u8; DIGITS + 1]> {
    let digit = |value: u8| b"0123456789abcdef"[usize::from(value & 0xf)];
    let mut text = Zeroizing::new([b'\n'; DIGITS + 1]);
    for (pair, byte) in text.chunks_exact_mut(2).zip(seed) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(*byte)]);
    }
    text
}

fn seed(digits: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let value = |digit: u8| char::from(digit).to_digit(16);
    if digits.len() != DIGITS {
        return None;
    }
    let mut seed = Zeroizing::new([0; 32]);
    for (byte, pair) in seed.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::try_from(value(pair[0])? << 4 | value(pair[1])?).ok()?;
    }
    Some(seed)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(ROOT_KEY);
        let made = load_or_make(&path).unwrap();
        assert_eq!(load_or_make(&path).unwrap(), made);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            format!("{}\n", pnsbox_proto::key::hex_encode(made.as_bytes()))
        );
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);

        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("chmod 600"));
        std::fs::write(&path, "short").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("no key"));
    }
}
