//! Judges a view: who signed it, for whom, how old; what can be read of it and what cannot.
//!
//! A [`View`] in hand is accepted. Whether it can be put into force the host decides.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use pnsbox_proto::access::Opening;
use pnsbox_proto::envelope::EnvelopeError;
use pnsbox_proto::id::{AgencyName, NetworkName, NodeName};
use pnsbox_proto::key::{Digest, IdentityKey, WireguardKey};
use pnsbox_proto::view::{
    AdmissionRecord, AgencyRecord, AuditHead, ExternalRecord, LinkRecord, Manifest, MemberRecord,
    NodeRecord, PeerPath, PeerRecord, ProposalRecord, Record, RecordEntry, RelayRecord, SignedView,
};

use crate::event::ViewId;

/// A view as its controller signed it and as far as it can be read. What of it is believed, [`crate::trust`] decides.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// Which one.
    pub id: ViewId,
    /// Complete, as signed: what goes to disk.
    pub signed: SignedView,
    /// The controller's audit trail, as the manifest has it.
    pub audit: AuditHead,
    /// The node itself.
    pub node: NodeRecord,
    /// Who may admit agencies.
    pub admissions: Vec<AdmissionRecord>,
    /// Keys by agency.
    pub agencies: BTreeMap<AgencyName, AgencyRecord>,
    /// Peers by name.
    pub peers: BTreeMap<NodeName, PeerRecord>,
    /// Policy by the other agency.
    pub links: BTreeMap<AgencyName, LinkRecord>,
    /// Pairs to relay for.
    pub relays: Vec<RelayRecord>,
    /// Plain WireGuard devices by name.
    pub externals: BTreeMap<NodeName, ExternalRecord>,
    /// Boxes and devices of this node's agency.
    pub members: BTreeMap<NodeName, MemberRecord>,
    /// Links that lack consent, by the other agency.
    pub proposals: BTreeMap<AgencyName, ProposalRecord>,
    /// Ids of records that could not be read.
    pub quarantined: Vec<String>,
}

/// What is believed of an accepted view: everything in it was signed by whoever it concerns.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// All that the controller said.
    pub accepted: Accepted,
    /// The node itself.
    pub node: NodeRecord,
    /// Its overlay address derived from its key.
    pub overlay_v6: Ipv6Addr,
    /// Peers by name.
    pub peers: BTreeMap<NodeName, Peer>,
    /// Policy by the other agency.
    pub links: BTreeMap<AgencyName, LinkRecord>,
    /// Pairs to relay for.
    pub relays: Vec<RelayRecord>,
    /// Plain WireGuard devices by name: tunnels of this node, and nothing else of what peers are.
    pub externals: BTreeMap<NodeName, Device>,
    /// What is not believed.
    pub refused: Vec<RefusedRecord>,
    /// Of what knowledge it was judged; see [`crate::trust`].
    pub judged: u64,
}

/// A record, or a part of one, that is not believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRecord {
    /// Id of the record.
    pub id: String,
    /// Why, for people.
    pub reason: String,
    /// Whether news that are on their way may explain it.
    pub may_pass: bool,
}

/// A tunnel with another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
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
    pub devices: Vec<Behind>,
    /// Its agency is this node's own, or both consented to a link; else it forwards ciphertext and is told nothing.
    pub is_linked: bool,
}

/// A plain WireGuard device of another agency, whose packets come through the tunnel of its gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    /// Its overlay address from the pool.
    pub overlay_v4: Ipv4Addr,
    /// Its overlay address derived from its key.
    pub overlay_v6: Ipv6Addr,
    /// What this node opens to it.
    pub opens: Vec<Opening>,
}

/// A plain WireGuard device that this node is the gateway of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name.
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

impl View {
    /// Which one.
    pub fn id(&self) -> ViewId {
        self.accepted.id
    }

    /// Whether the host and everybody else would see no difference.
    pub fn does_the_same_as(&self, other: &Self) -> bool {
        (&self.node, &self.peers, &self.links) == (&other.node, &other.peers, &other.links)
            && (&self.relays, &self.externals) == (&other.relays, &other.externals)
    }
}

/// Why a view was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a manifest of this controller.
    #[error("the manifest is refused: {0}")]
    Envelope(#[from] EnvelopeError),
    /// Of another network.
    #[error("the view is for network {found}, this box belongs to {expected}")]
    OtherNetwork {
        /// In the manifest.
        found: NetworkName,
        /// This box's.
        expected: NetworkName,
    },
    /// For another node.
    #[error("the view is for {found}, this box is {expected}")]
    OtherNode {
        /// In the manifest.
        found: NodeName,
        /// This box.
        expected: NodeName,
    },
    /// Not newer than the one that was accepted.
    #[error("the view has version {offered}, version {held} was accepted before")]
    NotNewer {
        /// In the manifest.
        offered: u64,
        /// Accepted.
        held: u64,
    },
    /// Newer, and yet made with less or another history.
    #[error(
        "the view was made with the audit trail {offered}, the one before with {held}: \
         the controller's history was shortened or written anew; tell the operator"
    )]
    OtherHistory {
        /// In the manifest.
        offered: AuditHead,
        /// Accepted before.
        held: AuditHead,
    },
    /// Records are neither sent nor held.
    #[error("{0} records of the view are missing")]
    Incomplete(usize),
    /// Nothing says what this node is.
    #[error("the view has no readable record of the node itself")]
    NoNode,
}

/// Who this box is, for judging views.
#[derive(Debug, Clone, Copy)]
pub struct Judge<'a> {
    /// Its network.
    pub network: &'a NetworkName,
    /// Its name.
    pub node: &'a NodeName,
    /// The key of a controller that the root certified.
    pub controller: &'a IdentityKey,
}

impl Judge<'_> {
    /// Accepts `offered`, whose missing records `held` may have, or says why not.
    pub fn accept(
        &self,
        offered: &SignedView,
        held: Option<&Accepted>,
    ) -> Result<Accepted, Refusal> {
        let manifest: Manifest = offered.manifest.open(self.controller)?;
        if manifest.network != *self.network {
            return Err(Refusal::OtherNetwork {
                found: manifest.network,
                expected: self.network.clone(),
            });
        }
        if manifest.node != *self.node {
            return Err(Refusal::OtherNode {
                found: manifest.node,
                expected: self.node.clone(),
            });
        }
        if let Some(held) = held
            && manifest.version <= held.id.version
        {
            return Err(Refusal::NotNewer {
                offered: manifest.version,
                held: held.id.version,
            });
        }
        if let Some(held) = held
            && !follows(manifest.audit, held.audit)
        {
            return Err(Refusal::OtherHistory {
                offered: manifest.audit,
                held: held.audit,
            });
        }
        let id = ViewId {
            version: manifest.version,
            digest: offered.manifest.payload_digest(),
        };
        let records = assemble(&manifest.records, offered, held)?;
        let signed = SignedView {
            manifest: offered.manifest.clone(),
            records,
        };
        parse(id, &manifest, signed, self.node)
    }
}

/// Whether one trail can be the other, gone on.
fn follows(later: AuditHead, earlier: AuditHead) -> bool {
    later.entries > earlier.entries || later == earlier
}

/// The texts of all records, in the manifest's order.
fn assemble(
    entries: &[RecordEntry],
    offered: &SignedView,
    held: Option<&Accepted>,
) -> Result<Vec<String>, Refusal> {
    let held = held.into_iter().flat_map(|view| &view.signed.records);
    let known: BTreeMap<Digest, &String> = held
        .chain(&offered.records)
        .map(|text| (Digest::of(text.as_bytes()), text))
        .collect();
    let texts: Vec<Option<&&String>> = entries
        .iter()
        .map(|entry| known.get(&entry.sha256))
        .collect();
    match texts.iter().filter(|text| text.is_none()).count() {
        0 => Ok(texts
            .into_iter()
            .flatten()
            .map(|text| (*text).clone())
            .collect()),
        missing => Err(Refusal::Incomplete(missing)),
    }
}

fn parse(
    id: ViewId,
    manifest: &Manifest,
    signed: SignedView,
    node: &NodeName,
) -> Result<Accepted, Refusal> {
    let mut own = None;
    let (mut admissions, mut relays, mut quarantined) = (Vec::new(), Vec::new(), Vec::new());
    let (mut agencies, mut links, mut proposals) =
        (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let (mut peers, mut externals, mut members) =
        (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (entry, text) in manifest.records.iter().zip(&signed.records) {
        match serde_json::from_str::<Record>(text) {
            Ok(record) if record.id() != entry.id => quarantined.push(entry.id.clone()),
            Ok(Record::Node(record)) if record.node == *node => own = Some(record),
            Ok(Record::Node(_)) | Err(_) => quarantined.push(entry.id.clone()),
            Ok(Record::Peer(record)) => drop(peers.insert(record.node.clone(), record)),
            Ok(Record::Link(record)) => drop(links.insert(record.with.clone(), record)),
            Ok(Record::Relay(record)) => relays.push(record),
            Ok(Record::External(record)) => drop(externals.insert(record.device.clone(), record)),
            Ok(Record::Admission(record)) => admissions.push(record),
            Ok(Record::Agency(record)) => drop(agencies.insert(record.agency.clone(), record)),
            Ok(Record::Member(record)) => drop(members.insert(record.name.clone(), record)),
            Ok(Record::Proposal(record)) => drop(proposals.insert(record.with.clone(), record)),
        }
    }
    let node = own.ok_or(Refusal::NoNode)?;
    Ok(Accepted {
        id,
        signed,
        audit: manifest.audit,
        node,
        admissions,
        agencies,
        peers,
        links,
        relays,
        externals,
        members,
        proposals,
        quarantined,
    })
}
