//! From records to a signed view, and from what an agent holds to what it lacks.
//!
//! A node's version moves only if its records change.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::SigningKey;
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::id::{NetworkName, NodeName};
use pnsbox_proto::key::Digest;
use pnsbox_proto::view::{AuditHead, Manifest, Record, RecordEntry, SignedView};
use serde::{Deserialize, Serialize};

/// The view that a node should have, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its version.
    pub version: u64,
    /// Payload digest of its manifest.
    pub digest: Digest,
    /// The manifest, signed.
    pub manifest: Envelope,
    /// The records, sorted by id.
    pub records: Vec<TextRecord>,
}

/// A record as the text that is hashed and sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextRecord {
    /// As in the manifest.
    pub id: String,
    /// SHA-256 of the text.
    pub sha256: Digest,
    /// JSON of a [`Record`].
    pub text: String,
}

/// What an agent is known to have on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Version of the view.
    pub version: u64,
    /// Payload digest of its manifest.
    pub digest: Digest,
    /// Digests of its records.
    pub records: BTreeSet<Digest>,
}

/// Ids of records that differ between two views.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordChanges {
    /// Only in the new one.
    pub added: Vec<String>,
    /// Only in the old one.
    pub removed: Vec<String>,
    /// In both, with another text.
    pub changed: Vec<String>,
}

/// Whose view is made, by whom.
#[derive(Debug)]
pub struct Author<'a> {
    /// The network.
    pub network: &'a NetworkName,
    /// The controller's key.
    pub key: &'a SigningKey,
    /// The audit trail as it is.
    pub audit: AuditHead,
}

/// The texts of records, sorted by id.
pub fn texts(records: &[Record]) -> Vec<TextRecord> {
    let mut texts: Vec<TextRecord> = records
        .iter()
        .map(|record| {
            let text =
                serde_json::to_string(record).expect("records are plain structs with string keys");
            TextRecord {
                id: record.id(),
                sha256: Digest::of(text.as_bytes()),
                text,
            }
        })
        .collect();
    texts.sort_by(|a, b| a.id.cmp(&b.id));
    texts
}

impl Author<'_> {
    /// The view after `before`, with these records.
    pub fn sign(
        &self,
        node: &NodeName,
        before: Option<&NodeView>,
        records: Vec<TextRecord>,
    ) -> NodeView {
        let version = before.map_or(1, |view| view.version + 1);
        let manifest = Manifest {
            network: self.network.clone(),
            node: node.clone(),
            version,
            previous: before.map(|view| view.digest),
            audit: self.audit,
            records: records
                .iter()
                .map(|r| RecordEntry {
                    id: r.id.clone(),
                    sha256: r.sha256,
                })
                .collect(),
        };
        let manifest = Envelope::sign(&manifest, self.key);
        NodeView {
            version,
            digest: manifest.payload_digest(),
            manifest,
            records,
        }
    }
}

impl NodeView {
    /// The view as it is sent to an agent that holds `held`: with the records that it lacks, or all.
    pub fn delta(&self, held: Option<&Held>) -> SignedView {
        let lacks =
            |record: &&TextRecord| held.is_none_or(|held| !held.records.contains(&record.sha256));
        SignedView {
            manifest: self.manifest.clone(),
            records: self
                .records
                .iter()
                .filter(lacks)
                .map(|record| record.text.clone())
                .collect(),
        }
    }

    /// What an agent has that has applied this view.
    pub fn as_held(&self) -> Held {
        Held {
            version: self.version,
            digest: self.digest,
            records: self.records.iter().map(|record| record.sha256).collect(),
        }
    }
}

/// What differs between two lists of records.
pub fn changes(before: &[TextRecord], after: &[TextRecord]) -> RecordChanges {
    let index = |records: &[TextRecord]| -> BTreeMap<String, Digest> {
        records
            .iter()
            .map(|record| (record.id.clone(), record.sha256))
            .collect()
    };
    let (before, after) = (index(before), index(after));
    let mut changes = RecordChanges::default();
    for (id, sha256) in &after {
        match before.get(id) {
            None => changes.added.push(id.clone()),
            Some(old) if old != sha256 => changes.changed.push(id.clone()),
            Some(_) => {}
        }
    }
    changes.removed = before
        .into_keys()
        .filter(|id| !after.contains_key(id))
        .collect();
    changes
}
