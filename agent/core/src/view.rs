//! Judges a view: who signed it, for whom, how old; what can be read of it and what cannot.
//!
//! A [`View`] in hand is accepted. Whether it can be put into force the host decides.

use std::collections::BTreeMap;

use pnsbox_proto::envelope::EnvelopeError;
use pnsbox_proto::id::{AgencyName, NetworkName, NodeName};
use pnsbox_proto::key::{Digest, IdentityKey};
use pnsbox_proto::view::{
    AuditHead, ExternalRecord, LinkRecord, Manifest, NodeRecord, PeerRecord, Record, RecordEntry,
    RelayRecord, SignedView,
};

use crate::event::ViewId;

/// An accepted view, parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Which one.
    pub id: ViewId,
    /// Complete, as signed: what goes to disk.
    pub signed: SignedView,
    /// The controller's audit trail, as the manifest has it.
    pub audit: AuditHead,
    /// The node itself.
    pub node: NodeRecord,
    /// Peers by name.
    pub peers: BTreeMap<NodeName, PeerRecord>,
    /// Policy by the other agency.
    pub links: BTreeMap<AgencyName, LinkRecord>,
    /// Pairs to relay for.
    pub relays: Vec<RelayRecord>,
    /// Plain WireGuard devices by name: tunnels of this node, and nothing else of what peers are.
    pub externals: BTreeMap<NodeName, ExternalRecord>,
    /// Ids of records that could not be read.
    pub quarantined: Vec<String>,
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
    pub fn accept(&self, offered: &SignedView, held: Option<&View>) -> Result<View, Refusal> {
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
    held: Option<&View>,
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
) -> Result<View, Refusal> {
    let (mut own, mut peers, mut links) = (None, BTreeMap::new(), BTreeMap::new());
    let (mut relays, mut externals, mut quarantined) = (Vec::new(), BTreeMap::new(), Vec::new());
    for (entry, text) in manifest.records.iter().zip(&signed.records) {
        match serde_json::from_str::<Record>(text) {
            Ok(record) if record.id() != entry.id => quarantined.push(entry.id.clone()),
            Ok(Record::Node(record)) if record.node == *node => own = Some(record),
            Ok(Record::Node(_)) | Err(_) => quarantined.push(entry.id.clone()),
            Ok(Record::Peer(record)) => drop(peers.insert(record.node.clone(), record)),
            Ok(Record::Link(record)) => drop(links.insert(record.with.clone(), record)),
            Ok(Record::Relay(record)) => relays.push(record),
            Ok(Record::External(record)) => drop(externals.insert(record.device.clone(), record)),
        }
    }
    let node = own.ok_or(Refusal::NoNode)?;
    Ok(View {
        id,
        signed,
        audit: manifest.audit,
        node,
        peers,
        links,
        relays,
        externals,
        quarantined,
    })
}
