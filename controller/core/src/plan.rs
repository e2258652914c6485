//! From registry and policy to what each node must do: pure, and the same each time.
//!
//! It makes records, not views: versions and signatures are in [`crate::view`].

pub mod address;
pub mod external;

pub mod mesh;

mod access;
mod signed;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use pnsbox_proto::id::{AgencyName, NodeName};
use pnsbox_proto::view::{NodeRecord, PeerPath, PeerRecord, Record, RelayRecord};

use crate::policy::{Policies, Policy};
use crate::registry::{Node, Registry, prefix};

/// Decides what outlives a plan: which claims act, and the numbers of relay channels. Call it before [`plan`].
pub fn allocate<'a>(registry: &mut Registry, policies: impl Into<Policies<'a>>) {
    let policies = policies.into();
    prefix::settle(registry, policies);
    mesh::allocate_channels(registry, policies);
}

/// The records of every node.
pub fn plan<'a>(
    registry: &'a Registry,
    policies: impl Into<Policies<'a>>,
) -> BTreeMap<NodeName, Vec<Record>> {
    plan_for(registry, policies, registry.nodes.keys())
}

/// The records of these nodes.
pub fn plan_for<'a>(
    registry: &'a Registry,
    policies: impl Into<Policies<'a>>,
    nodes: impl IntoIterator<Item = &'a NodeName>,
) -> BTreeMap<NodeName, Vec<Record>> {
    let policies = policies.into();
    let registry = &*policies.routed(registry);
    let nodes = nodes
        .into_iter()
        .filter_map(|name| Some((name, registry.nodes.get(name)?)));
    nodes
        .map(|(name, node)| {
            (
                name.clone(),
                Planner {
                    registry,
                    policies,
                    policy: policies.for_node(name),
                    name,
                    node,
                }
                .records(),
            )
        })
        .collect()
}

/// Whose records can differ after `name` joined: its own, those of linked agencies, of relays,
/// and of nodes whose claims are held back. A node that the policy names as a relay concerns everybody.
pub fn touched_by_join<'a>(
    registry: &Registry,
    policies: impl Into<Policies<'a>>,
    name: &NodeName,
) -> BTreeSet<NodeName> {
    let policies = policies.into();
    if policies.each().any(|policy| policy.relays.contains(name)) {
        return registry.nodes.keys().cloned().collect();
    }
    let mut touched = mesh::linked(registry, policies, name);
    touched.extend(
        policies
            .each()
            .flat_map(|policy| policy.relays.iter().cloned()),
    );
    let waiting = registry
        .nodes
        .iter()
        .filter(|(_, node)| node.active.len() < node.claimed.len());
    touched.extend(waiting.map(|(other, _)| other.clone()));
    touched.insert(name.clone());
    let agency = registry.agencies.get(&name.agency());
    touched.extend(
        agency
            .into_iter()
            .flat_map(|agency| agency.keepers.iter().cloned()),
    );
    touched
}

/// Whose records can differ after these agencies signed something: theirs, those of their partners, and of relays.
pub fn touched_by_signing<'a>(
    registry: &Registry,
    policies: impl Into<Policies<'a>>,
    agencies: &BTreeSet<AgencyName>,
) -> BTreeSet<NodeName> {
    let policies = policies.into();
    let relays = || policies.each().flat_map(|policy| &policy.relays);
    if relays().any(|relay| agencies.contains(&relay.agency())) {
        return registry.nodes.keys().cloned().collect();
    }
    let partners = agencies.iter().flat_map(|agency| policies.partners(agency));
    let all = partners.chain(agencies.iter().cloned()).collect();
    let mut touched = registry.nodes_of_all(&all);
    touched.extend(relays().cloned());
    touched
}

/// One node's part of the plan.
struct Planner<'a> {
    registry: &'a Registry,
    policies: Policies<'a>,
    /// The node's own.
    policy: &'a Policy,
    name: &'a NodeName,
    node: &'a Node,
}

impl Planner<'_> {
    fn records(&self) -> Vec<Record> {
        let linked = mesh::linked(self.registry, self.policies, self.name);
        let mut unreachable = Vec::new();
        let mut peers = BTreeMap::new();
        for other in &linked {
            let Some(node) = self.registry.nodes.get(other) else {
                continue;
            };
            match self.path(other, node) {
                Some(path) => {
                    let peer = self.peer(other, node, node.active.clone(), path);
                    peers.extend(peer.map(|peer| (other.clone(), peer)));
                }
                None => unreachable.push(other.clone()),
            }
        }
        let relays_used: BTreeSet<NodeName> = peers
            .values()
            .filter_map(|peer| match &peer.path {
                PeerPath::Relay { relay, .. } => Some(relay.clone()),
                PeerPath::Direct { .. } | PeerPath::Passive => None,
            })
            .collect();
        let channels = self.registry.channels.get(self.name);
        let served: Vec<RelayRecord> = channels.map_or_else(Vec::new, |channels| {
            let pairs = channels.by_pair.iter().chain(&channels.leaving);
            pairs
                .map(|(members, channel)| RelayRecord {
                    channel: *channel,
                    members: members.clone(),
                })
                .collect()
        });
        let served_members = served.iter().flat_map(|relay| relay.members.clone());
        for other in relays_used.into_iter().chain(served_members) {
            if let Some(node) = self.registry.nodes.get(&other)
                && !peers.contains_key(&other)
                && let Some(path) = self.path(&other, node)
            {
                // There is no link: nothing of its LAN or its devices is let through.
                let peer = self.peer(&other, node, Vec::new(), path);
                let mere = peer.map(|peer| PeerRecord {
                    devices: Vec::new(),
                    ..peer
                });
                peers.extend(mere.map(|peer| (other.clone(), peer)));
            }
        }
        let links = self.links(&linked);
        let mut agencies: BTreeSet<AgencyName> = peers.keys().map(NodeName::agency).collect();
        // Also of those whose consent is there and whose boxes are not: it is judged by their key.
        agencies.extend(links.iter().filter_map(|record| match record {
            Record::Link(link) => Some(link.with.clone()),
            _ => None,
        }));
        let mut records = vec![Record::Node(self.own(unreachable))];
        records.extend(peers.into_values().map(Record::Peer));
        records.extend(links);
        records.extend(self.agencies(agencies));
        records.extend(self.members());
        records.extend(served.into_iter().map(Record::Relay));
        records.extend(self.externals().map(Record::External));
        records.sort_by_key(Record::id);
        records
    }

    fn own(&self, unreachable: Vec<NodeName>) -> NodeRecord {
        let network = &self.registry.network;
        NodeRecord {
            node: self.name.clone(),
            overlay_v4: self.node.overlay_v4,
            pool: network.pool,
            prefixes: self.node.active.clone(),
            held: prefix::held(self.registry, self.policy, self.name, self.node),
            unreachable,
            quarantine: self
                .registry
                .quarantine_of(self.name)
                .map(|quarantine| quarantine.reason.clone()),
        }
    }

    fn path(&self, other: &NodeName, node: &Node) -> Option<PeerPath> {
        let relay = mesh::relay(self.registry, self.policies.for_pair(self.name, other));
        match mesh::way(self.node, node, relay) {
            mesh::Way::Direct => Some(PeerPath::Direct {
                endpoint: node.public_endpoint?,
                second: node.second_endpoint,
            }),
            mesh::Way::Passive => Some(PeerPath::Passive),
            mesh::Way::Relay(relay) => {
                let mut pair = [self.name.clone(), other.clone()];
                pair.sort();
                let channel = *self.registry.channels.get(&relay)?.by_pair.get(&pair)?;
                Some(PeerPath::Relay { relay, channel })
            }
            mesh::Way::None => None,
        }
    }

    fn peer(
        &self,
        other: &NodeName,
        node: &Node,
        prefixes: Vec<ipnet::IpNet>,
        path: PeerPath,
    ) -> Option<PeerRecord> {
        let keepalive = match path {
            // The side behind NAT holds its own mapping open; two public sides need none.
            PeerPath::Direct { .. } => self.node.public_endpoint.is_none(),
            PeerPath::Passive => false,
            // One side is enough to notice silence; both would double the traffic.
            PeerPath::Relay { .. } => self.name < other,
        };
        Some(PeerRecord {
            node: other.clone(),
            claim: node.claim.clone()?,
            prefixes,
            path,
            keepalive,
            devices: self.devices_behind(other),
        })
    }
}
