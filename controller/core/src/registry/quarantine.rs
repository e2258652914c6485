//! Who is shut out for now: nodes, and agencies with all their nodes and devices.
//!
//! What they have stays theirs: keys, addresses and prefixes wait for the release.

use std::fmt;
use std::str::FromStr;

use pnsbox_proto::id::{AgencyName, NodeName};
use pnsbox_proto::time::UnixTime;
use serde::{Deserialize, Serialize};

use super::Registry;

/// A node or an agency.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Subject {
    /// Every node of an agency, also those that join later.
    Agency(AgencyName),
    /// One node.
    Node(NodeName),
}

/// Why somebody is shut out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// In the operator's words.
    pub reason: String,
    /// Since when.
    pub since: UnixTime,
}

impl Registry {
    /// Why this node is shut out, if it is.
    pub fn quarantine_of(&self, node: &NodeName) -> Option<&Quarantine> {
        if self.quarantined.is_empty() {
            return None;
        }
        let subjects = [Subject::Agency(node.agency()), Subject::Node(node.clone())];
        subjects
            .iter()
            .find_map(|subject| self.quarantined.get(subject))
    }

    /// The nodes that a subject means.
    pub fn nodes_meant(&self, subject: &Subject) -> Vec<NodeName> {
        let is_meant = |node: &&NodeName| match subject {
            Subject::Agency(agency) => node.agency() == *agency,
            Subject::Node(name) => *node == name,
        };
        self.nodes.keys().filter(is_meant).cloned().collect()
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agency(agency) => agency.fmt(f),
            Self::Node(node) => node.fmt(f),
        }
    }
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = match text.contains('/') {
            true => text.parse().map(Self::Node),
            false => text.parse().map(Self::Agency),
        };
        parsed.map_err(|error| {
            format!(
                "neither an agency, for example kab-demak, nor a node, for example kab-demak/gw1: {error}"
            )
        })
    }
}

impl TryFrom<String> for Subject {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Subject> for String {
    fn from(subject: Subject) -> Self {
        subject.to_string()
    }
}
