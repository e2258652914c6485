//! What the operator allows: links between agencies, what each side opens, relays, accepted prefixes.
//!
//! Nothing is open that does not stand here. Two files that mean the same are equal once parsed.

mod parse;
mod policies;

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use pnsbox_proto::access::Allow;
use pnsbox_proto::id::{AgencyName, NodeName};
use serde::{Deserialize, Serialize};

pub use parse::{Parsed, parse};
pub use policies::Policies;

/// A parsed policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Nodes that relay for pairs that cannot reach each other, best first.
    pub relays: Vec<NodeName>,
    /// One per pair of agencies, sorted.
    pub links: Vec<Link>,
    /// Prefixes outside the registered ones that nodes may route, sorted.
    pub accepted: Vec<Accepted>,
    /// What plain WireGuard devices may reach, one per device, sorted.
    #[serde(default)]
    pub externals: Vec<External>,
}

/// What a plain WireGuard device may reach.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct External {
    /// Which; it may be admitted later.
    pub device: NodeName,
    /// What its own agency and linked ones open to it, sorted; one per agency and prefix.
    pub openings: Vec<PolicyOpening>,
}

/// A pair of agencies that may talk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Link {
    /// In order of name.
    pub between: [AgencyName; 2],
    /// What each side opens, sorted; one per side and prefix.
    pub openings: Vec<PolicyOpening>,
}

/// What an agency opens: to the other side of a link, or to a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PolicyOpening {
    /// Whose prefixes.
    pub at: AgencyName,
    /// Which of them.
    pub prefix: PrefixChoice,
    /// What may pass, sorted.
    pub allow: Vec<Allow>,
}

/// Prefixes of an agency, in the operator's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PrefixChoice {
    /// `lan`: every prefix that the agency's nodes route.
    Lan,
    /// What is routed of this prefix.
    Within(IpNet),
}

/// A prefix outside the registered ones that a node may route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Accepted {
    /// Which node.
    pub node: NodeName,
    /// What.
    pub prefix: IpNet,
}

impl Policy {
    /// The agencies that are linked with `agency`.
    pub fn linked_with(&self, agency: &AgencyName) -> impl Iterator<Item = AgencyName> {
        self.links
            .iter()
            .filter_map(move |link| link.other(agency).cloned())
    }

    /// The link of two agencies.
    pub fn link(&self, a: &AgencyName, b: &AgencyName) -> Option<&Link> {
        self.links.iter().find(|link| link.other(a) == Some(b))
    }

    /// What the operator opens to `device`.
    pub fn external_openings(&self, device: &NodeName) -> &[PolicyOpening] {
        let external = self.externals.iter().find(|e| e.device == *device);
        external.map_or(&[], |external| &external.openings)
    }
}

impl Link {
    /// The other side, if `agency` is one.
    pub fn other(&self, agency: &AgencyName) -> Option<&AgencyName> {
        match &self.between {
            [a, b] if a == agency => Some(b),
            [a, b] if b == agency => Some(a),
            [_, _] => None,
        }
    }
}

impl FromStr for PrefixChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "lan" {
            return Ok(Self::Lan);
        }
        match text.parse::<IpNet>() {
            Ok(prefix) if prefix.trunc() == prefix => Ok(Self::Within(prefix)),
            Ok(_) | Err(_) => Err(format!(
                "'{text}' is neither \"lan\" nor a prefix without host bits"
            )),
        }
    }
}

impl TryFrom<String> for PrefixChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<PrefixChoice> for String {
    fn from(choice: PrefixChoice) -> Self {
        choice.to_string()
    }
}

impl fmt::Display for PrefixChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lan => f.write_str("lan"),
            Self::Within(prefix) => prefix.fmt(f),
        }
    }
}
