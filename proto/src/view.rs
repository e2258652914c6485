//! What one node must do: a signed manifest and its records.
//!
//! A record travels and is stored as the text whose SHA-256 stands in the manifest.
//! So a delta is the new manifest and the records that the node lacks, and a record that one node cannot read
//! can be left out without doubt about the others.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
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
    /// Who may admit agencies.
    Admission(AdmissionRecord),
    /// Whose key is whose.
    Agency(AgencyRecord),
    /// A box or a device of this node's own agency.
    Member(MemberRecord),
    /// A link that policy wants and that lacks consent.
    Proposal(ProposalRecord),
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
            Self::Admission(admission) => {
                format!("admission {}", admission.certificate.payload_digest())
            }
            Self::Agency(agency) => format!("agency {}", agency.agency),
            Self::Member(member) => format!("member {}", member.name),
            Self::Proposal(proposal) => format!("proposal {}", proposal.with),
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
    /// A [`NodeClaim`](crate::agency::NodeClaim) of its agency: its keys, addresses and prefixes.
    pub claim: Envelope,
    /// Those of its claimed prefixes that this node may send to; empty towards a mere relay.
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
    /// A [`DeviceClaim`](crate::agency::DeviceClaim) of its agency.
    pub claim: Envelope,
    /// What this node opens to it: its part of what the link opens to the device's agency.
    pub opens: Vec<Opening>,
}

/// A plain WireGuard device that this node is the gateway of: a peer of the data plane, never a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalRecord {
    /// Its name, under which no node stands.
    pub device: NodeName,
    /// A [`DeviceClaim`](crate::agency::DeviceClaim) of this node's agency.
    pub claim: Envelope,
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
    /// The [`LinkConsent`](crate::agency::LinkConsent) of this node's agency.
    pub ours: Envelope,
    /// The other agency's.
    pub theirs: Envelope,
}

/// Who may admit agencies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionRecord {
    /// An [`AdmissionCertificate`](crate::certificate::AdmissionCertificate), signed by the root.
    pub certificate: Envelope,
}

/// The key of an agency, and how it came to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgencyRecord {
    /// Which.
    pub agency: AgencyName,
    /// An [`Admission`](crate::agency::Admission) of its first key.
    pub admission: Envelope,
    /// Every [`Succession`](crate::agency::Succession) since, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub successions: Vec<Envelope>,
}

/// A box or a device of this node's own agency, as it asked to be and as the agency claims it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Its name.
    pub name: NodeName,
    /// Its WireGuard key.
    pub wireguard: WireguardKey,
    /// Its overlay address, as allotted.
    pub overlay_v4: Ipv4Addr,
    /// What else it is.
    pub what: MemberKind,
    /// The agency's claim, if it was signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Envelope>,
}

/// A box, or a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberKind {
    /// A box that has joined.
    Box {
        /// Its identity key.
        identity: IdentityKey,
        /// LAN prefixes as it asked for them.
        prefixes: Vec<IpNet>,
    },
    /// A plain WireGuard device.
    Device {
        /// The node that it dials.
        gateway: NodeName,
    },
}

/// A link that the operator's policy wants, and that opens less than that, or nothing, for want of consent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposalRecord {
    /// The other agency.
    pub with: AgencyName,
    /// What policy would open of this node's agency.
    pub opens: Vec<Opening>,
    /// What it would open of the other.
    pub opened: Vec<Opening>,
    /// The consent of this node's agency, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ours: Option<Envelope>,
    /// Whether the other agency has consented.
    pub theirs: bool,
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
