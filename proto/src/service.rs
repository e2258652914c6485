//! One record for every kind of service.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{AgencyName, NodeName, ServiceName};

/// What a service is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceKind {
    /// File sharing.
    Files,
    /// A content cache.
    Cdn,
    /// Replication to a disaster recovery centre.
    Drc,
    /// An HTTP application or API.
    Http,
    /// Anything else over TCP.
    Tcp,
}

impl ServiceKind {
    /// All kinds, as an admin writes them.
    pub const ALL: [Self; 5] = [Self::Files, Self::Cdn, Self::Drc, Self::Http, Self::Tcp];

    /// The word in configuration, CLI and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Cdn => "cdn",
            Self::Drc => "drc",
            Self::Http => "http",
            Self::Tcp => "tcp",
        }
    }
}

impl FromStr for ServiceKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        known.ok_or_else(|| format!("'{text}' is not one of files, cdn, drc, http, tcp"))
    }
}

impl fmt::Display for ServiceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Who is told of a service. It opens nothing: only policy does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Audience {
    /// Every agency of the network.
    All,
    /// These agencies only (and the provider's own).
    Only(Vec<AgencyName>),
}

impl Audience {
    /// Whether `agency` is told of a service of `provider`.
    pub fn includes(&self, agency: &AgencyName, provider: &AgencyName) -> bool {
        match self {
            Self::All => true,
            Self::Only(agencies) => agency == provider || agencies.contains(agency),
        }
    }
}

/// A healthy service as its node announces it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Unique in the network; several nodes of the agency may announce the same.
    pub name: ServiceName,
    /// What it is for.
    pub kind: ServiceKind,
    /// The node that announces it.
    pub node: NodeName,
    /// Where it listens, on the provider's LAN.
    pub endpoints: Vec<SocketAddr>,
    /// Lower is preferred among nodes that announce the same service.
    pub priority: u16,
    /// Who is told.
    pub audience: Audience,
    /// Moves each time the node starts to announce it anew.
    pub epoch: u64,
    /// Stable address answered by the local agent; absent while services have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_address: Option<IpAddr>,
}
