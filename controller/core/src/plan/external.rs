//! Plain WireGuard devices: what each may reach, and what their gateways and the nodes behind those are told.
//!
//! A device has one tunnel, with its gateway. It is no member: nothing here makes a peer of it for anybody else.

use std::collections::BTreeSet;

use ipnet::IpNet;
use pnsbox_proto::access::Opening;
use pnsbox_proto::id::NodeName;
use pnsbox_proto::view::{DeviceBehind, ExternalRecord};

use super::{Planner, access, mesh, signed};
use crate::policy::{Policies, Policy};
use crate::registry::{External, Node, Registry};

/// What a device may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// Behind its gateway.
    pub here: Vec<Opening>,
    /// Behind the gateway's peers.
    pub beyond: Vec<Opening>,
}

impl Reach {
    /// Its destinations, without overlaps, sorted.
    pub fn prefixes(&self) -> Vec<IpNet> {
        let openings = self.here.iter().chain(&self.beyond);
        let mut prefixes = IpNet::aggregate(&openings.map(|o| o.prefix).collect());
        prefixes.sort();
        prefixes
    }
}

/// What `device` may reach, as things are.
pub fn reach<'a>(
    registry: &Registry,
    policies: impl Into<Policies<'a>>,
    device: &NodeName,
    external: &External,
) -> Reach {
    let policies = policies.into();
    let opened = |name: &NodeName| {
        let node = registry.nodes.get(name);
        node.map_or_else(Vec::new, |node| {
            opened_at(registry, policies.for_node(name), device, name, node)
        })
    };
    let linked = mesh::linked(registry, policies, &external.gateway);
    let mut beyond: Vec<Opening> = linked.iter().flat_map(opened).collect();
    beyond.sort();
    Reach {
        here: opened(&external.gateway),
        beyond,
    }
}

/// The first node of the device's agency that a device can dial.
pub fn gateway<'a>(registry: &'a Registry, device: &NodeName) -> Option<&'a NodeName> {
    let agency = device.agency();
    let public = registry
        .nodes
        .iter()
        .find(|(name, node)| name.agency() == agency && node.public_endpoint.is_some());
    public.map(|(name, _)| name)
}

/// Whose records can differ after a device of `gateway` came or went.
pub fn touched<'a>(
    registry: &Registry,
    policies: impl Into<Policies<'a>>,
    gateway: &NodeName,
) -> BTreeSet<NodeName> {
    let mut touched = mesh::linked(registry, policies.into(), gateway);
    touched.insert(gateway.clone());
    let agency = registry.agencies.get(&gateway.agency());
    touched.extend(
        agency
            .into_iter()
            .flat_map(|agency| agency.keepers.iter().cloned()),
    );
    touched
}

/// What `node` opens to `device`: of its own agency's device, what the device's table says;
/// of another's, no more than the link of the two agencies opens as well.
fn opened_at(
    registry: &Registry,
    policy: &Policy,
    device: &NodeName,
    name: &NodeName,
    node: &Node,
) -> Vec<Opening> {
    let (own, at) = (device.agency(), name.agency());
    let nodes = || std::iter::once(node);
    let wanted = access::openings(policy.external_openings(device), &at, nodes());
    if at == own {
        return wanted;
    }
    let opened = signed::opened(registry, policy, &at, &own, node);
    access::intersection(&wanted, &opened)
}

impl Planner<'_> {
    /// The devices that dial this node.
    pub(super) fn externals(&self) -> impl Iterator<Item = ExternalRecord> {
        let externals = self.registry.externals.iter();
        let is_shut_out = self.registry.quarantine_of(self.name).is_some();
        let mine =
            externals.filter(move |(_, external)| external.gateway == *self.name && !is_shut_out);
        mine.filter_map(|(device, external)| {
            let reach = reach(self.registry, self.policies, device, external);
            Some(ExternalRecord {
                device: device.clone(),
                claim: external.claim.clone()?,
                opens: reach.here,
                beyond: reach.beyond,
            })
        })
    }

    /// The devices that come through `gateway`, a peer, to what this node opens to them.
    pub(super) fn devices_behind(&self, gateway: &NodeName) -> Vec<DeviceBehind> {
        let externals = self.registry.externals.iter();
        let behind = externals.filter(|(_, external)| external.gateway == *gateway);
        behind
            .filter_map(|(device, external)| {
                Some(DeviceBehind {
                    claim: external.claim.clone()?,
                    opens: opened_at(self.registry, self.policy, device, self.name, self.node),
                })
            })
            .filter(|device| !device.opens.is_empty())
            .collect()
    }
}
