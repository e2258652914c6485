//! Every policy that was in force, as the operator wrote it: what `history`, `diff` and `rollback` are about.
//!
//! Versions count policies, not changes: boxes that join change views and no policy. Those are in the audit trail.

use pnsbox_proto::time::UnixTime;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A policy that came into force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// Counts from 1; version 0 is the empty policy of a new network.
    pub number: u64,
    /// When.
    pub when: UnixTime,
    /// Who put it into force.
    pub who: String,
    /// From where.
    pub from: String,
    /// The version that this one brought back, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restores: Option<u64>,
    /// What it changed, one line each.
    pub changes: Vec<String>,
    /// The table of the policy file.
    pub file: Value,
}

/// All of them, oldest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    versions: Vec<Version>,
}

impl History {
    /// These versions, by number.
    pub fn of(mut versions: Vec<Version>) -> Self {
        versions.sort_by_key(|version| version.number);
        Self { versions }
    }

    /// Number of the policy in force.
    pub fn current(&self) -> u64 {
        self.versions.last().map_or(0, |version| version.number)
    }

    /// Every version but 0.
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// The table of a version, if there is such a one.
    pub fn file(&self, number: u64) -> Option<Value> {
        if number == 0 {
            return Some(Value::Object(serde_json::Map::new()));
        }
        let version = self.versions.iter().find(|v| v.number == number)?;
        Some(version.file.clone())
    }

    /// Adds the one that comes into force; its number must be [`Self::current`] and 1.
    pub fn push(&mut self, version: Version) {
        self.versions.push(version);
    }
}
