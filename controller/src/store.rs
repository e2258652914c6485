//! The store: versioned keys and values in SQLite, owned by one process at a time.
//!
//! The contract is get, list, transactional compare-and-set, and changes since a revision.
//! What the keys mean is the core's business.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use pnsbox_controller_core::store::{Entry, Transaction};
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension as _, Row, TransactionBehavior, params,
};

use crate::failpoint;

/// The file in the state directory.
pub const FILE: &str = "pnsbox.db";

/// The lock beside it.
pub const LOCK: &str = "lock";

/// Steps from one version of the schema to the next; `PRAGMA user_version` counts those that were done.
///
/// A deleted key stays as a row without value, so that revisions never go back and a deletion is a change.
const MIGRATIONS: [&str; 1] = [
    "CREATE TABLE entries (key TEXT NOT NULL PRIMARY KEY, value TEXT, revision INTEGER NOT NULL) STRICT;
     CREATE INDEX entries_by_revision ON entries (revision);",
];

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process owns it.
    #[error("the store {} is in use by another pnsbox-controller; wait until it ends, or stop it", .0.display())]
    Locked(PathBuf),
    /// The lock file.
    #[error("the store's lock {} cannot be taken; look whether its directory is there and its file system has room and is mounted for writing", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The schema is from the future.
    #[error("the store {} was written by a newer pnsbox-controller (schema {found}, this one knows {known})", path.display())]
    TooNew {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The newest schema known here.
        known: u32,
    },
    /// A key was changed by somebody else meanwhile; nothing was written.
    #[error("the store's entry {key} has revision {found}, not {expected}; nothing was written")]
    Conflict {
        /// Which.
        key: String,
        /// Revision in the store; 0 if it does not exist.
        found: u64,
        /// Revision that the writer knew.
        expected: u64,
    },
    /// The database cannot be opened.
    #[error("the store {} cannot be opened; {}", path.display(), advice(source))]
    Open {
        /// The database.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// A transaction was not written, and changed nothing.
    #[error("the store {} cannot be written; {}", path.display(), advice(source))]
    Write {
        /// The database.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// SQLite.
    #[error("the store failed")]
    Sqlite(#[from] rusqlite::Error),
}

/// What a person can do about an error of SQLite.
fn advice(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            "its file system is full: make room there, then it goes on by itself"
        }
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            "look whether its directory is there and its file system is mounted for writing"
        }
        Some(ErrorCode::SystemIoFailure) => "its disk fails: see the kernel's log, and back it up",
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            "it is damaged: put the last backup of the state directory back"
        }
        _ => "see the reason",
    }
}

/// The open store. Nobody else can open it until it is dropped.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
    _lock: Flock<File>,
}

impl Store {
    /// Opens the store of a state directory, which must exist; waits up to `patience` for another owner to end.
    pub fn open(state_dir: &Path, patience: Duration) -> Result<Self, StoreError> {
        let lock = lock(&state_dir.join(LOCK), patience)?;
        let path = state_dir.join(FILE);
        let connection = open(&path).map_err(|error| match error {
            StoreError::Sqlite(source) => StoreError::Open {
                path: path.clone(),
                source,
            },
            other => other,
        })?;
        Ok(Self {
            connection,
            path,
            _lock: lock,
        })
    }

    /// Every entry whose key begins with `prefix`, by key, of the store of a state directory as it is now:
    /// without its lock, so also while a controller serves.
    pub fn read(state_dir: &Path, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        let path = state_dir.join(FILE);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(&path, flags)
            .map_err(StoreError::Sqlite)
            .and_then(|connection| list(&connection, prefix));
        opened.map_err(|error| match error {
            StoreError::Sqlite(source) => StoreError::Open { path, source },
            other => other,
        })
    }

    /// Whether something could be written: a transaction that writes and changes nothing.
    pub fn probe(&mut self) -> Result<(), StoreError> {
        let sql =
            "CREATE TABLE probe (a); INSERT INTO probe VALUES (zeroblob(16384)); DROP TABLE probe";
        self.named(|store| {
            let transaction = store
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute_batch(sql)?;
            Ok(transaction.commit()?)
        })
    }

    /// One entry, if the key exists.
    pub fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let sql = "SELECT key, value, revision FROM entries WHERE key = ?1 AND value IS NOT NULL";
        Ok(self.connection.query_row(sql, [key], entry).optional()?)
    }

    /// Every existing entry whose key begins with `prefix`, by key.
    pub fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        list(&self.connection, prefix)
    }

    /// What became of every key that changed after `revision`, oldest change first; deleted keys are without value.
    pub fn changes_since(&self, revision: u64) -> Result<Vec<Entry>, StoreError> {
        let sql =
            "SELECT key, value, revision FROM entries WHERE revision > ?1 ORDER BY revision, key";
        let mut statement = self.connection.prepare(sql)?;
        Ok(statement
            .query_map([signed(revision)], entry)?
            .collect::<Result<_, _>>()?)
    }

    /// Does all of `transaction` or nothing; returns the new revision.
    pub fn transact(&mut self, transaction: &Transaction) -> Result<u64, StoreError> {
        failpoint::step("store_before_transaction");
        let revision = self.named(|store| store.write(transaction))?;
        failpoint::step("store_after_commit");
        Ok(revision)
    }

    /// Names the database in what SQLite says.
    fn named<T>(
        &mut self,
        write: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        write(self).map_err(|error| match error {
            StoreError::Sqlite(source) => StoreError::Write {
                path: self.path.clone(),
                source,
            },
            other => other,
        })
    }

    fn write(&mut self, transaction: &Transaction) -> Result<u64, StoreError> {
        let sql = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let last: i64 = sql.query_row(
            "SELECT coalesce(max(revision), 0) FROM entries",
            [],
            |row| row.get(0),
        )?;
        let revision = last + 1;
        {
            let mut read = sql.prepare_cached(
                "SELECT revision FROM entries WHERE key = ?1 AND value IS NOT NULL",
            )?;
            let mut write = sql.prepare_cached(
                "INSERT INTO entries (key, value, revision) VALUES (?1, ?2, ?3)
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = excluded.revision",
            )?;
            for (key, change) in &transaction.changes {
                let found: Option<i64> = read.query_row([key], |row| row.get(0)).optional()?;
                let found = found.map_or(0, i64::cast_unsigned);
                if found != change.expected {
                    return Err(StoreError::Conflict {
                        key: key.clone(),
                        found,
                        expected: change.expected,
                    });
                }
                write.execute(params![key, change.value, revision])?;
                failpoint::step("store_between_writes");
            }
        }
        failpoint::step("store_before_commit");
        sql.commit()?;
        Ok(revision.cast_unsigned())
    }
}

fn list(connection: &Connection, prefix: &str) -> Result<Vec<Entry>, StoreError> {
    let sql = "SELECT key, value, revision FROM entries
               WHERE substr(key, 1, length(?1)) = ?1 AND value IS NOT NULL ORDER BY key";
    let mut statement = connection.prepare(sql)?;
    Ok(statement
        .query_map([prefix], entry)?
        .collect::<Result<_, _>>()?)
}

fn lock(path: &Path, patience: Duration) -> Result<Flock<File>, StoreError> {
    let failed = |source: std::io::Error| StoreError::Lock {
        path: path.to_owned(),
        source,
    };
    let mut file = File::create(path).map_err(failed)?;
    let begun = Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, Errno::EWOULDBLOCK)) if begun.elapsed() >= patience => {
                let folder = path.parent().unwrap_or(path);
                return Err(StoreError::Locked(folder.join(FILE)));
            }
            Err((back, Errno::EWOULDBLOCK)) => {
                file = back;
                std::thread::sleep(LOCK_POLL);
            }
            Err((_, errno)) => return Err(failed(errno.into())),
        }
    }
}

/// How often the lock is tried: a command's work takes a few milliseconds.
const LOCK_POLL: Duration = Duration::from_millis(20);

fn open(path: &Path) -> Result<Connection, StoreError> {
    let mut connection = Connection::open(path)?;
    // FULL: a token that was spent stays spent after a power cut.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    migrate(&mut connection, path)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let done: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known: u32 = MIGRATIONS.iter().map(|_| 1).sum();
    if done > known {
        return Err(StoreError::TooNew {
            path: path.to_owned(),
            found: done,
            known,
        });
    }
    for (number, step) in (1u32..)
        .zip(MIGRATIONS)
        .skip_while(|(number, _)| *number <= done)
    {
        let sql = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        sql.execute_batch(step)?;
        sql.pragma_update(None, "user_version", number)?;
        failpoint::step("store_mid_migration");
        sql.commit()?;
    }
    Ok(())
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let revision: i64 = row.get(2)?;
    Ok(Entry {
        key: row.get(0)?,
        value: row.get(1)?,
        revision: revision.cast_unsigned(),
    })
}

/// SQLite counts to 2^63.
fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(transaction: &mut Transaction, key: &str, expected: u64, value: &str) {
        transaction.set(key.to_owned(), expected, Some(value.to_owned()));
    }

    fn reopen(folder: &tempfile::TempDir) -> Store {
        Store::open(folder.path(), Duration::ZERO).unwrap()
    }

    #[test]
    fn what_was_committed_is_there_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = reopen(&folder);
        let mut first = Transaction::default();
        put(&mut first, "node/a/1", 0, "one");
        put(&mut first, "node/b/1", 0, "two");
        put(&mut first, "policy", 0, "{}");
        assert_eq!(store.transact(&first).unwrap(), 1);
        drop(store);

        let store = reopen(&folder);
        assert_eq!(
            store.get("node/a/1").unwrap().unwrap().value.as_deref(),
            Some("one")
        );
        assert_eq!(store.get("node").unwrap(), None);
        let keys: Vec<String> = store
            .list("node/")
            .unwrap()
            .into_iter()
            .map(|entry| entry.key)
            .collect();
        assert_eq!(keys, ["node/a/1", "node/b/1"]);
    }

    #[test]
    fn a_conflict_writes_nothing_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = reopen(&folder);
        let mut first = Transaction::default();
        put(&mut first, "b", 0, "old");
        store.transact(&first).unwrap();

        let mut second = Transaction::default();
        put(&mut second, "a", 0, "new");
        put(&mut second, "b", 7, "new");
        let error = store.transact(&second).unwrap_err();
        assert!(
            matches!(&error, StoreError::Conflict { key, found: 1, expected: 7 } if key == "b"),
            "{error}"
        );
        assert_eq!(store.get("a").unwrap(), None);
        assert_eq!(store.changes_since(1).unwrap(), []);
        let mut exists = Transaction::default();
        put(&mut exists, "b", 0, "new");
        assert!(matches!(
            store.transact(&exists),
            Err(StoreError::Conflict { .. })
        ));
    }

    #[test]
    fn a_deletion_is_a_change_and_a_deleted_key_can_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = reopen(&folder);
        let mut change = Transaction::default();
        put(&mut change, "a", 0, "1");
        store.transact(&change).unwrap();
        let mut change = Transaction::default();
        change.set("a".to_owned(), 1, None);
        assert_eq!(store.transact(&change).unwrap(), 2);
        assert_eq!(store.get("a").unwrap(), None);
        let seen = store.changes_since(1).unwrap();
        assert_eq!(
            seen,
            [Entry {
                key: "a".to_owned(),
                value: None,
                revision: 2
            }]
        );
        let mut change = Transaction::default();
        put(&mut change, "a", 0, "2");
        assert_eq!(store.transact(&change).unwrap(), 3);
    }

    #[test]
    fn two_owners_cannot_be_and_a_newer_schema_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = reopen(&folder);
        assert!(matches!(
            Store::open(folder.path(), Duration::from_millis(50)),
            Err(StoreError::Locked(_))
        ));
        store
            .connection
            .pragma_update(None, "user_version", 99)
            .unwrap();
        drop(store);
        assert!(matches!(
            Store::open(folder.path(), Duration::ZERO),
            Err(StoreError::TooNew { found: 99, .. })
        ));
    }
}
