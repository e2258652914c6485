//! What one node must do: a signed manifest and its records.
//!
//! A record travels and is stored as the text whose SHA-256 stands in the manifest.
//! So a delta is the new manifest and the records that the node lacks, and a record that one node cannot read
//! can be left out without doubt about the others.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use crate::access::Opening;
use crate::envelope::{Document, Envelope};
use crate::health::HeldPrefix;
use crate::id::{AgencyName, NetworkName, NodeName};
use crate::key::{Digest, IdentityKey, WireguardKey};

/// The signed table of contents of one node's view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The network.
    pub network: NetworkName,
    /// The node that it is for, and no other.
    pub node: NodeName,
    /// Grows by one each time this node's records change.
    pub version: u64,
    /// Payload digest of the manifest before, if any.
    pub previous: Option<Digest>,
    /// The controller's audit trail when the view was made: never shorter than in the view before.
    pub audit: AuditHead,
    /// Every record, sorted by id.
    pub records: Vec<RecordEntry>,
}

/// The end of the controller's audit trail at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// How many entries there were.
    pub entries: u64,
    /// SHA-256 of the text of the last one, which holds that of the one before; all zero without any.
    pub digest: Digest,
}

impl AuditHead {
    /// The head of an empty trail.
    pub const EMPTY: Self = Self {
        entries: 0,
        digest: Digest([0; 32]),
    };
}

impl fmt::Display for AuditHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.entries, self.digest)
    }
}

impl FromStr for AuditHead {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rule = "must be ENTRIES:DIGEST, as 'pnsbox status --json' shows it under audit";
        let (entries, digest) = text.split_once(':').ok_or(rule)?;
        Ok(Self {
            entries: entries.parse().map_err(|_| rule)?,
            digest: digest.parse().map_err(|_| rule)?,
        })
    }
}

impl Document for Manifest {
    const DOMAIN: &'static str = "manifest";
}

/// One line of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordEntry {
    /// What the record is, for example `peer prov-jateng/gw1`; names it even when it cannot be read.
    pub id: String,
    /// SHA-256 of the record's text.
    pub sha256: Digest,
}

/// A manifest with records: all of them, or those that the node lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedView {
    /// A [`Manifest`], signed by the controller.
    pub manifest: Envelope,
    /// Records as the texts that were hashed, in any order.
    pub records: Vec<String>,
}

/// One thing that a node must do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record {
    /// The node itself; exactly one per view.
    Node(NodeRecord),
    /// A tunnel.
    Peer(PeerRecord),
    /// What passes between this node's agency and another.
    Link(LinkRecord),
    /// A pair of members to relay for.
    Relay(RelayRecord),
    /// A plain WireGuard device that this node is the gateway of.
    External(ExternalRecord),
}

impl Record {
    /// The id under which the record stands in a manifest.
    pub fn id(&self) -> String {
        match self {
            Self::Node(node) => format!("node {}", node.node),
            Self::Peer(peer) => format!("peer {}", peer.node),
            Self::Link(link) => format!("link {}", link.with),
            Self::Relay(relay) => format!("relay {}", relay.channel),
            Self::External(external) => format!("external {}", external.device),
        }
    }
}

/// The node itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its name.
    pub node: NodeName,
    /// Its overlay address from the pool.
    pub overlay_v4: Ipv4Addr,
    /// Its overlay address derived from its key.
    pub overlay_v6: Ipv6Addr,
    /// The network's pool.
    pub pool: Ipv4Net,
    /// Its LAN prefixes that the network routes.
    pub prefixes: Vec<IpNet>,
    /// Prefixes that it claims and the network does not route.
    pub held: Vec<HeldPrefix>,
    /// Nodes of linked agencies that cannot be reached, for want of a public address or a relay.
    pub unreachable: Vec<NodeName>,
    /// Why the node is shut out of the network, if it is; then it has no peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<String>,
}

/// A tunnel with another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRecord {
    /// The other node.
    pub node: NodeName,
    /// Its identity key, for links.
    pub identity: IdentityKey,
    /// Its WireGuard key.
    pub wireguard: WireguardKey,
    /// Its overlay address from the pool.
    pub overlay_v4: Ipv4Addr,
    /// Its overlay address derived from its key.
    pub overlay_v6: Ipv6Addr,
    /// LAN prefixes behind it that this node may send to; empty towards a mere relay.
    pub prefixes: Vec<IpNet>,
    /// How it is reached.
    pub path: PeerPath,
    /// Whether this side sends persistent keepalives.
    pub keepalive: bool,
    /// Plain WireGuard devices behind it to which this node opens something.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceBehind>,
}

/// A plain WireGuard device of another agency, whose packets come through the tunnel of its gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceBehind {
    /// Its overlay address from the pool.
    pub overlay_v4: Ipv4Addr,
    /// Its overlay address derived from its key.
    pub overlay_v6: Ipv6Addr,
    /// What this node opens to it: its part of what the link opens to the device's agency.
    pub opens: Vec<Opening>,
}

/// A plain WireGuard device that this node is the gateway of: a peer of the data plane, never a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalRecord {
    /// Its name, under which no node stands.
    pub device: NodeName,
    /// Its WireGuard key.
    pub wireguard: WireguardKey,
    /// Its overlay address from the pool.
    pub overlay_v4: Ipv4Addr,
    /// Its overlay address derived from its key.
    pub overlay_v6: Ipv6Addr,
    /// What this node opens to it of its own prefixes.
    pub opens: Vec<Opening>,
    /// What it may reach behind this node's peers.
    pub beyond: Vec<Opening>,
}

/// How a peer is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "via", rename_all = "lowercase")]
pub enum PeerPath {
    /// It dials this node.
    Passive,
    /// It listens on a public address.
    Direct {
        /// Where.
        endpoint: SocketAddr,
        /// Where in the other version of IP, for nodes without the first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        second: Option<SocketAddr>,
    },
    /// Both sides dial a third node, which forwards ciphertext.
    Relay {
        /// A peer of this node.
        relay: NodeName,
        /// The relay's number for the pair.
        channel: u32,
    },
}

/// What passes between this node's agency and another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRecord {
    /// The other agency.
    pub with: AgencyName,
    /// What this node opens to it.
    pub opens: Vec<Opening>,
    /// What it opens to this node's agency.
    pub opened: Vec<Opening>,
}

/// A pair of members for whom this node forwards ciphertext.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayRecord {
    /// Unique on this relay, stable while the pair exists.
    pub channel: u32,
    /// Both are peers of this node; in order of name.
    pub members: [NodeName; 2],
}

impl fmt::Display for PeerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passive => f.write_str("passive"),
            Self::Direct {
                endpoint,
                second: None,
            } => write!(f, "direct {endpoint}"),
            Self::Direct {
                endpoint,
                second: Some(second),
            } => {
                write!(f, "direct {endpoint} or {second}")
            }
            Self::Relay { relay, channel } => write!(f, "relay {relay} channel {channel}"),
        }
    }
}
