//! Which claimed prefix is routed, and why another is held back.
//!
//! Who routes a prefix keeps it: a claim that comes later never takes it away.

use ipnet::IpNet;
pub use pnsbox_proto::address::{never_a_lan, overlap};
use pnsbox_proto::health::{HeldPrefix, HeldReason};
use pnsbox_proto::id::{AgencyName, NodeName};

use super::{Network, Node, Registry};
use crate::policy::{Policies, Policy};

/// The range of overlay addresses that `prefix` shares an address with, if it does.
pub fn overlay_under(network: &Network, prefix: &IpNet) -> Option<IpNet> {
    let mut ranges = network.overlay().into_iter();
    ranges.find(|range| overlap(range, prefix))
}

/// Whether the operator lets `node` claim `prefix`: registered for its agency, or accepted in the policy.
pub fn permitted(registry: &Registry, policy: &Policy, node: &NodeName, prefix: &IpNet) -> bool {
    let registered = |agency: &AgencyName| {
        registry
            .agencies
            .get(agency)
            .map_or(&[][..], |a| &a.prefixes)
    };
    registered(&node.agency())
        .iter()
        .any(|own| own.contains(prefix))
        || policy
            .accepted
            .iter()
            .any(|a| a.node == *node && a.prefix.contains(prefix))
}

/// Decides anew which claims act: first, what acts and still may goes on; then the others, in the order of joining.
pub fn settle(registry: &mut Registry, policies: Policies<'_>) {
    let mut order: Vec<(u64, NodeName)> = registry
        .nodes
        .iter()
        .map(|(n, node)| (node.order, n.clone()))
        .collect();
    order.sort();
    for (_, name) in &order {
        let Some(node) = registry.nodes.get(name) else {
            continue;
        };
        let keep: Vec<IpNet> = node
            .active
            .iter()
            .filter(|p| {
                let mut policies = policies.claims_of(name);
                policies.any(|policy| permitted(registry, policy, name, p))
            })
            .copied()
            .collect();
        if let Some(node) = registry.nodes.get_mut(name) {
            node.active = keep;
        }
    }
    for (_, name) in &order {
        let Some(node) = registry.nodes.get(name) else {
            continue;
        };
        let waiting: Vec<IpNet> = node
            .claimed
            .iter()
            .filter(|p| !node.active.contains(p))
            .copied()
            .collect();
        for prefix in waiting {
            let mut policies = policies.claims_of(name);
            if policies.any(|policy| reason(registry, policy, name, &prefix).is_none())
                && let Some(node) = registry.nodes.get_mut(name)
            {
                node.active.push(prefix);
                node.active.sort();
            }
        }
    }
}

/// The claims of a node that are held back, and why.
pub fn held(registry: &Registry, policy: &Policy, name: &NodeName, node: &Node) -> Vec<HeldPrefix> {
    let waiting = node
        .claimed
        .iter()
        .filter(|prefix| !node.active.contains(prefix));
    waiting
        .filter_map(|prefix| {
            reason(registry, policy, name, prefix).map(|reason| HeldPrefix {
                prefix: *prefix,
                reason,
            })
        })
        .collect()
}

/// Why a prefix is held back, for both people concerned.
pub fn held_message(node: &NodeName, held: &HeldPrefix) -> String {
    let (agency, prefix) = (node.agency(), held.prefix);
    match &held.reason {
        HeldReason::Overlap { holder, held } => format!(
            "{prefix} of {agency} is held back: {holder} of {} routes {held}. \
             One of the two must renumber, or join under another node name with another 'pnsbox join --lan'",
            holder.agency()
        ),
        HeldReason::Unregistered => format!(
            "{prefix} of {agency} waits: it is not registered for the agency. To accept it, add to the policy and apply: \
             [[accept]] node = \"{node}\" prefix = \"{prefix}\""
        ),
    }
}

/// Why `prefix` cannot act at `name`, if it cannot.
///
/// An overlap is told before a missing registration: it is what the admin can do something about.
fn reason(
    registry: &Registry,
    policy: &Policy,
    name: &NodeName,
    prefix: &IpNet,
) -> Option<HeldReason> {
    for (other, node) in registry.nodes.iter().filter(|(other, _)| *other != name) {
        if let Some(held) = node.active.iter().find(|active| overlap(active, prefix)) {
            return Some(HeldReason::Overlap {
                holder: other.clone(),
                held: *held,
            });
        }
    }
    (!permitted(registry, policy, name, prefix)).then_some(HeldReason::Unregistered)
}
