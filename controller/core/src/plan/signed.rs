//! What nodes are given of what agencies signed: whose key is whose, who is of their own agency, which links wait.

use std::collections::{BTreeMap, BTreeSet};

use pnsbox_proto::access::Opening;
use pnsbox_proto::id::{AgencyName, NodeName};
use pnsbox_proto::view::{
    AdmissionRecord, AgencyRecord, LinkRecord, MemberKind, MemberRecord, ProposalRecord, Record,
};

use super::{Planner, access};
use crate::policy::Policy;
use crate::registry::{Node, Registry};

/// What the link of two agencies opens of the prefixes behind `node`, a node of `at`: what policy says and `at` consents to.
pub(super) fn opened(
    registry: &Registry,
    policy: &Policy,
    at: &AgencyName,
    to: &AgencyName,
    node: &Node,
) -> Vec<Opening> {
    let wanted = wanted(policy, at, to, node);
    match registry.consent(at, to).map(|consent| &consent.opens) {
        None => Vec::new(),
        Some(None) => wanted,
        Some(Some(most)) => access::intersection(&wanted, most),
    }
}

/// What policy would open, whatever the agency consents to.
fn wanted(policy: &Policy, at: &AgencyName, to: &AgencyName, node: &Node) -> Vec<Opening> {
    policy.link(at, to).map_or_else(Vec::new, |link| {
        access::openings(&link.openings, at, std::iter::once(node))
    })
}

fn box_of(name: &NodeName, node: &Node) -> MemberRecord {
    MemberRecord {
        name: name.clone(),
        wireguard: node.wireguard,
        overlay_v4: node.overlay_v4,
        what: MemberKind::Box {
            identity: node.identity,
            prefixes: node.claimed.clone(),
        },
        claim: node.claim.clone(),
    }
}

impl Planner<'_> {
    /// The node's agency, and those of these.
    pub(super) fn agencies(&self, others: BTreeSet<AgencyName>) -> Vec<Record> {
        let mut records = Vec::new();
        let mut admissions = BTreeMap::new();
        for agency in others
            .into_iter()
            .chain([self.name.agency()])
            .collect::<BTreeSet<_>>()
        {
            let key = self
                .registry
                .agencies
                .get(&agency)
                .and_then(|a| a.key.as_ref());
            let Some(key) = key else { continue };
            admissions.insert(key.certificate.payload_digest(), key.certificate.clone());
            records.push(Record::Agency(AgencyRecord {
                agency,
                admission: key.admission.clone(),
                successions: key.successions.clone(),
            }));
        }
        let admissions = admissions.into_values();
        records.extend(
            admissions.map(|certificate| Record::Admission(AdmissionRecord { certificate })),
        );
        records
    }

    /// The node itself; to who signs for its agency, every box and device of that.
    pub(super) fn members(&self) -> Vec<Record> {
        let agency = self.name.agency();
        let known = self.registry.agencies.get(&agency);
        if !known.is_some_and(|known| known.keepers.contains(self.name)) {
            return vec![Record::Member(box_of(self.name, self.node))];
        }
        let boxes = self.registry.nodes_of(&agency);
        let boxes = boxes.map(|(name, node)| box_of(name, node));
        let devices = self.registry.externals.iter();
        let devices = devices.filter(|(name, _)| name.agency() == agency);
        let devices = devices.map(|(name, device)| MemberRecord {
            name: name.clone(),
            wireguard: device.wireguard,
            overlay_v4: device.overlay_v4,
            what: MemberKind::Device {
                gateway: device.gateway.clone(),
            },
            claim: device.claim.clone(),
        });
        boxes.chain(devices).map(Record::Member).collect()
    }

    /// Links of the node's agency to which both agencies consent, and what waits for consent.
    /// `peers` are those by links: during a rollout some are of agencies that the node's own policy does not name,
    /// and a peer without a link is refused.
    pub(super) fn links(&self, peers: &BTreeSet<NodeName>) -> Vec<Record> {
        let agency = self.name.agency();
        if self.registry.quarantine_of(self.name).is_some() {
            return Vec::new();
        }
        let mut records = Vec::new();
        let partners = self.policy.linked_with(&agency);
        let partners = partners.chain(peers.iter().map(NodeName::agency));
        for with in partners.collect::<BTreeSet<_>>() {
            let ours = self.registry.consent(&agency, &with);
            let theirs = self.registry.consent(&with, &agency);
            let opens = opened(self.registry, self.policy, &agency, &with, self.node);
            if let (Some(ours), Some(theirs)) = (ours, theirs) {
                records.push(Record::Link(LinkRecord {
                    with: with.clone(),
                    opens: opens.clone(),
                    opened: self.opened_at(&with, opened),
                    ours: ours.envelope.clone(),
                    theirs: theirs.envelope.clone(),
                }));
            }
            let wants = wanted(self.policy, &agency, &with, self.node);
            if ours.is_none() || theirs.is_none() || wants != opens {
                let all = |_: &Registry,
                           policy: &Policy,
                           at: &AgencyName,
                           to: &AgencyName,
                           node: &Node| { wanted(policy, at, to, node) };
                records.push(Record::Proposal(ProposalRecord {
                    with: with.clone(),
                    opens: wants,
                    opened: self.opened_at(&with, all),
                    ours: ours.map(|ours| ours.envelope.clone()),
                    theirs: theirs.is_some(),
                }));
            }
        }
        records
    }

    /// What `with` opens to the node's agency behind all its nodes.
    fn opened_at(
        &self,
        with: &AgencyName,
        of: impl Fn(&Registry, &Policy, &AgencyName, &AgencyName, &Node) -> Vec<Opening>,
    ) -> Vec<Opening> {
        let agency = self.name.agency();
        let nodes = self.registry.nodes_of(with);
        let opened =
            nodes.flat_map(|(_, node)| of(self.registry, self.policy, with, &agency, node));
        access::merged(opened)
    }
}
