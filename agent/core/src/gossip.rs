//! What peers know of agencies, so that each is told what it lacks: a revocation reaches a box that its controller
//! does not reach, or lies to.
//!
//! After each hello a peer says which agencies concern it and how far it is; from then on it is told what is newer.
//! Whether to believe what comes, [`crate::trust`] decides.

use std::collections::BTreeMap;

use pnsbox_proto::agency::AgencyDocument;
use pnsbox_proto::id::{AgencyName, NodeName};
use pnsbox_proto::message::LinkMessage;
use pnsbox_proto::view::ProposalRecord;

use crate::trust::Trust;
use crate::view::View;

/// Agencies that one peer may ask for; there are some 650.
const MAX_AGENCIES: usize = 4096;

/// Peers that have said what they know.
#[derive(Debug, Default)]
pub(crate) struct Gossip {
    peers: BTreeMap<NodeName, Knows>,
    /// What was learnt when everybody was told last.
    told: u64,
}

#[derive(Debug)]
struct Knows {
    statements: BTreeMap<AgencyName, u64>,
    quarantine: u64,
}

/// What this box wants to know, said after hello.
pub(crate) fn known(trust: &Trust, view: Option<&View>) -> LinkMessage {
    let own = trust.own_agency();
    let said = view.map(|view| &view.accepted);
    let links = said.into_iter().flat_map(|view| view.links.keys());
    let proposals = said.into_iter().flat_map(|view| view.proposals.values());
    let proposals = proposals.map(|proposal: &ProposalRecord| &proposal.with);
    let peers = said.into_iter().flat_map(|view| view.peers.keys());
    let agencies = links.chain(proposals).cloned();
    let agencies = agencies.chain(peers.map(NodeName::agency)).chain([own]);
    let sequence = |agency: &AgencyName| trust.pinned(agency).map_or(0, |pinned| pinned.sequence());
    LinkMessage::Known {
        statements: agencies
            .map(|agency| {
                let sequence = sequence(&agency);
                (agency, sequence)
            })
            .collect(),
        quarantine: trust.quarantine().map_or(0, |list| list.sequence),
    }
}

impl Gossip {
    /// A peer said what it knows.
    pub(crate) fn heard(
        &mut self,
        peer: NodeName,
        mut statements: BTreeMap<AgencyName, u64>,
        quarantine: u64,
    ) {
        while statements.len() > MAX_AGENCIES {
            statements.pop_last();
        }
        let knows = Knows {
            statements,
            quarantine,
        };
        self.peers.insert(peer, knows);
        self.told = 0;
    }

    /// A peer told of these: it knows them.
    pub(crate) fn has(&mut self, peer: &NodeName, trust: &Trust) {
        let Some(knows) = self.peers.get_mut(peer) else {
            return;
        };
        for (agency, known) in &mut knows.statements {
            let ours = trust.pinned(agency).map_or(0, |pinned| pinned.sequence());
            *known = (*known).max(ours);
        }
        let ours = trust.quarantine().map_or(0, |list| list.sequence);
        knows.quarantine = knows.quarantine.max(ours);
    }

    /// The link with a peer ended.
    pub(crate) fn lost(&mut self, peer: &NodeName) {
        self.peers.remove(peer);
    }

    /// What each peer lacks. Called again it says nothing, until something is learnt.
    pub(crate) fn owed(&mut self, trust: &Trust) -> Vec<(NodeName, LinkMessage)> {
        if self.told == trust.news() {
            return Vec::new();
        }
        self.told = trust.news();
        let list = trust.quarantine();
        let mut owed = Vec::new();
        for (peer, knows) in &mut self.peers {
            let mut documents: Vec<AgencyDocument> = Vec::new();
            for (agency, known) in &mut knows.statements {
                let newer = trust.newer_than(agency, *known, &peer.agency());
                if !newer.is_empty() {
                    *known = trust
                        .pinned(agency)
                        .map_or(*known, |pinned| pinned.sequence());
                    documents.extend(newer);
                }
            }
            let newest = list.as_ref().map_or(0, |list| list.sequence);
            let quarantine = (newest > knows.quarantine)
                .then(|| trust.state().quarantine.clone().map(Box::new))
                .flatten();
            knows.quarantine = knows.quarantine.max(newest);
            if !documents.is_empty() || quarantine.is_some() {
                let message = LinkMessage::Documents {
                    documents,
                    quarantine,
                };
                owed.push((peer.clone(), message));
            }
        }
        owed
    }
}
