//! What the core asks of a store: versioned keys and values, changed many at once or not at all.
//!
//! The contract is get, list, transactional compare-and-set, and changes since a revision.
//! It holds no storage itself; SQLite stands behind it in the shell, etcd may later.

use std::collections::BTreeMap;

/// A key with its value and the revision of the store that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// For example `node/kab-demak/gw1`.
    pub key: String,
    /// JSON; `None` if the key was deleted in this revision.
    pub value: Option<String>,
    /// Grows with every transaction, never used twice.
    pub revision: u64,
}

/// Changes that happen together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// By key.
    pub changes: BTreeMap<String, Change>,
}

/// What becomes of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Revision that the key must have for the transaction to happen; 0 means that it must not exist.
    pub expected: u64,
    /// The new value, or `None` to delete the key.
    pub value: Option<String>,
}

impl Transaction {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Sets what becomes of `key`. A change of the same key before is replaced and keeps its expectation.
    pub fn set(&mut self, key: String, expected: u64, value: Option<String>) {
        match self.changes.get_mut(&key) {
            Some(change) => change.value = value,
            None => {
                self.changes.insert(key, Change { expected, value });
            }
        }
    }
}
