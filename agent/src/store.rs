//! What an agent knows after a reboot: one file, replaced atomically and durably. What is in it, the core decides.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use pnsbox_agent_core::event::SavedState;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use tracing::{debug, warn};

use crate::failpoint::step;

/// Name of the file in the state directory.
pub const STATE_FILE: &str = "state.json";

/// Why the state was not read or not written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("{} cannot be {what}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// `read` or `written`.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is not what [`save`] writes.
    #[error(
        "{} is damaged: restore it from a backup, or remove it and join again",
        path.display()
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Where and how.
        #[source]
        source: serde_json::Error,
    },
    /// Written by another version of the software.
    #[error(
        "{} has schema '{found}', this agent reads '{SCHEMA}': run the version that wrote it, or remove it and join again",
        path.display()
    )]
    Schema {
        /// Which.
        path: PathBuf,
        /// What it says.
        found: String,
    },
}

/// Makes the state directory where it is not there. A power cut does not lose what is then kept in it:
/// each name that leads there is durable.
pub fn make_dir(state_dir: &Path) -> io::Result<()> {
    let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let made: Vec<&Path> = state_dir.ancestors().take_while(missing).collect();
    std::fs::create_dir_all(state_dir)?;
    made.iter()
        .filter_map(|path| path.parent())
        .try_for_each(sync_dir)
}

/// Reads what was saved; `None` if nothing ever was.
pub fn load(state_dir: &Path) -> Result<Option<SavedState>, StoreError> {
    let path = state_dir.join(STATE_FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(StoreError::File {
                path,
                what: "read",
                source,
            });
        }
    };
    // The schema first: a newer file should be called newer, not damaged.
    let damaged = |source| StoreError::Damaged {
        path: path.clone(),
        source,
    };
    let Schema { schema } = serde_json::from_slice(&bytes).map_err(damaged)?;
    if schema != SCHEMA {
        return Err(StoreError::Schema {
            path,
            found: schema,
        });
    }
    let saved: Saved = serde_json::from_slice(&bytes).map_err(damaged)?;
    Ok(Some(saved.state))
}

/// Puts `state` in place of what was there. After it returns, a power cut does not lose it;
/// if it fails, what was there is still there.
pub fn save(state_dir: &Path, state: &SavedState) -> Result<(), StoreError> {
    let path = state_dir.join(STATE_FILE);
    replace(&path, &encode(state), &STEPS).map_err(|source| StoreError::File {
        path,
        what: "written",
        source,
    })
}

/// A file that has no name of its own yet, mode 0600.
pub(crate) fn new_file(dir: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(dir)
}

/// Removes files that a killed agent had not finished. What cannot be removed stays: it is never read.
pub fn remove_unfinished(state_dir: &Path) {
    let Ok(files) = std::fs::read_dir(state_dir) else {
        return;
    };
    for file in files.flatten() {
        if file
            .file_name()
            .as_bytes()
            .starts_with(UNFINISHED.as_bytes())
        {
            match std::fs::remove_file(file.path()) {
                Ok(()) => debug!(path = %file.path().display(), "removed an unfinished file"),
                Err(error) => {
                    warn!(path = %file.path().display(), %error, "an unfinished file stays");
                }
            }
        }
    }
}

/// Makes the names in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn encode(state: &SavedState) -> Vec<u8> {
    let saved = SavedRef {
        schema: SCHEMA,
        state,
    };
    serde_json::to_vec_pretty(&saved).expect("saved states are plain structs with string keys")
}

/// Puts a file in place of what was there, durably; if it fails, what was there is still there.
pub(crate) fn replace(path: &Path, bytes: &[u8], steps: &Steps) -> io::Result<()> {
    let dir = path.parent().unwrap_or_else(|| Path::new("."));
    step(steps.before_write);
    let mut file = new_file(dir)?;
    file.write_all(bytes)?;
    step(steps.written);
    file.as_file().sync_all()?;
    step(steps.synced);
    file.persist(path).map_err(|e| e.error)?;
    step(steps.renamed);
    sync_dir(dir)?;
    step(steps.durable);
    Ok(())
}

/// What the steps of [`replace`] are called for a file.
pub(crate) struct Steps {
    pub(crate) before_write: &'static str,
    pub(crate) written: &'static str,
    pub(crate) synced: &'static str,
    pub(crate) renamed: &'static str,
    pub(crate) durable: &'static str,
}

const STEPS: Steps = Steps {
    before_write: "state_before_write",
    written: "state_written",
    synced: "state_synced",
    renamed: "state_renamed",
    durable: "state_durable",
};

/// How names begin that are not yet what they will be.
const UNFINISHED: &str = ".unfinished-";
/// 1 (2026-11): first.
const SCHEMA: &str = "pnsbox.state/1";

#[derive(Deserialize)]
struct Schema {
    schema: String,
}

#[derive(Deserialize)]
struct Saved {
    state: SavedState,
}

#[derive(Serialize)]
struct SavedRef<'a> {
    schema: &'static str,
    state: &'a SavedState,
}

#[cfg(test)]
mod tests {
    use pnsbox_agent_core::event::Joined;
    use pnsbox_proto::key::IdentityKey;

    use super::*;

    #[test]
    fn what_was_saved_last_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()).unwrap(), None);
        save(dir.path(), &state(1)).unwrap();
        save(dir.path(), &state(2)).unwrap();
        assert_eq!(load(dir.path()).unwrap(), Some(state(2)));
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no temporary file stays"
        );
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &state(1)).unwrap();
        let path = dir.path().join(STATE_FILE);
        let whole = std::fs::read(&path).unwrap();
        let half = &whole[..whole.len() / 2];
        for bad in [&b""[..], half, b"{}", b"{\"schema\":\"pnsbox.state/1\"}"] {
            std::fs::write(&path, bad).unwrap();
            let error = load(dir.path()).unwrap_err();
            assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
            assert!(error.to_string().contains("state.json"), "{error}");
        }
    }

    #[test]
    fn a_file_of_another_version_is_called_so() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join(STATE_FILE),
            "{\"schema\":\"pnsbox.state/2\",\"state\":7}",
        )
        .unwrap();
        let error = load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("pnsbox.state/2"), "{error}");
    }

    #[test]
    fn what_a_killed_agent_had_not_finished_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &state(1)).unwrap();
        new_file(dir.path()).unwrap().keep().unwrap();
        std::fs::write(dir.path().join(".hidden"), "an admin's").unwrap();
        remove_unfinished(dir.path());
        let names = std::fs::read_dir(dir.path()).unwrap().flatten();
        let mut names: Vec<_> = names.map(|file| file.file_name()).collect();
        names.sort();
        assert_eq!(names, [".hidden", STATE_FILE]);
    }

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        let error = save(&gone, &state(1)).unwrap_err().to_string();
        assert!(error.contains("gone/state.json"), "{error}");
    }

    fn state(seed: u8) -> SavedState {
        SavedState {
            joined: Joined {
                network: "pns".parse().unwrap(),
                node: "kab-demak/gw1".parse().unwrap(),
            },
            root: IdentityKey([seed; 32]),
            controllers: vec!["203.0.113.10:443".parse().unwrap()],
            view: None,
            prefixes: Vec::new(),
            trust: Default::default(),
            endpoints: std::collections::BTreeMap::new(),
        }
    }
}
