//! Secret keys on disk: one line of 64 hexadecimal digits, readable by the owner only.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use ed25519_dalek::SigningKey;
use pnsbox_proto::key::{hex_decode, hex_encode};

/// The controller's key in the state directory.
pub const CONTROLLER_KEY: &str = "controller.key";

/// The root key in the state directory, until it is taken offline.
pub const ROOT_KEY: &str = "root.key";

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
    let text = std::fs::read_to_string(path).with_context(place)?;
    let seed = hex_decode(text.trim()).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    match seed {
        Some(seed) => Ok(SigningKey::from_bytes(&seed)),
        None => bail!(
            "{} is no key: 64 hexadecimal digits expected",
            path.display()
        ),
    }
}

/// Reads a key, or makes one where there is none.
pub fn load_or_make(path: &Path) -> anyhow::Result<SigningKey> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => load(path),
        Err(error) if error.kind() == ErrorKind::NotFound => make(path),
        Err(error) => Err(error).with_context(|| format!("{} cannot be looked at", path.display())),
    }
}

/// Makes a directory that only the owner enters.
pub fn private_dir(path: &Path) -> anyhow::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
        .create(path)
        .with_context(|| format!("the directory {} cannot be made", path.display()))
}

/// A random array from the operating system.
pub fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).context("the operating system gave no random bytes")?;
    Ok(bytes)
}

fn make(path: &Path) -> anyhow::Result<SigningKey> {
    let key = SigningKey::from_bytes(&random()?);
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.as_file()
            .set_permissions(Permissions::from_mode(0o600))?;
        writeln!(file, "{}", hex_encode(key.as_bytes()))?;
        file.as_file().sync_all()?;
        file.persist_noclobber(path)?;
        File::open(folder)?.sync_all()
    };
    write().with_context(|| format!("the key {} cannot be written", path.display()))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(ROOT_KEY);
        let made = load_or_make(&path).unwrap();
        assert_eq!(load_or_make(&path).unwrap(), made);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);

        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("chmod 600"));
        std::fs::write(&path, "short").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("no key"));
    }
}
