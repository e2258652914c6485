//! Who has a tunnel with whom, and which way its datagrams take.

use std::collections::{BTreeMap, BTreeSet};

use pnsbox_proto::id::{AgencyName, NodeName};

use crate::policy::{Policies, Policy};
use crate::registry::{Channels, Node, Registry};

/// How one node reaches another, before channels have numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// The other has a public endpoint.
    Direct,
    /// Only this node has one.
    Passive,
    /// Neither has; this node relays.
    Relay(NodeName),
    /// Neither has, and nobody relays.
    None,
}

/// The relay of all pairs that need one: the first of the policy that has joined, is public and in no quarantine.
pub(super) fn relay<'a>(registry: &Registry, policy: &'a Policy) -> Option<&'a NodeName> {
    policy.relays.iter().find(|name| {
        let node = registry.nodes.get(name);
        node.is_some_and(|node| node.public_endpoint.is_some() && node.claim.is_some())
            && registry.quarantine_of(name).is_none()
    })
}

/// The nodes of the agencies that are linked with this node's agency, as both want it.
/// Who is in quarantine or not claimed by its agency has nobody, and nobody has it.
pub(super) fn linked(
    registry: &Registry,
    policies: Policies<'_>,
    name: &NodeName,
) -> BTreeSet<NodeName> {
    if !may_have_peers(registry, name) {
        return BTreeSet::new();
    }
    let own = name.agency();
    let is_linked = policies.linked(name);
    let linked = |other: &&NodeName| {
        is_linked(other)
            && may_have_peers(registry, other)
            && registry.both_consent(&own, &other.agency())
    };
    registry.nodes.keys().filter(linked).cloned().collect()
}

fn may_have_peers(registry: &Registry, name: &NodeName) -> bool {
    registry.is_claimed(name) && registry.quarantine_of(name).is_none()
}

/// The agencies that are linked with that of `name`, by policy and by what both signed.
fn partners(registry: &Registry, policy: &Policy, name: &NodeName) -> BTreeSet<AgencyName> {
    let own = name.agency();
    let linked = policy.linked_with(&own);
    linked
        .filter(|other| registry.both_consent(&own, other))
        .collect()
}

/// How `node` reaches `other`.
pub(super) fn way(node: &Node, other: &Node, relay: Option<&NodeName>) -> Way {
    match (node.public_endpoint, other.public_endpoint, relay) {
        (_, Some(_), _) => Way::Direct,
        (Some(_), None, _) => Way::Passive,
        (None, None, Some(relay)) => Way::Relay(relay.clone()),
        (None, None, None) => Way::None,
    }
}

/// Every pair that the relay forwards for, members in order of name.
pub(super) fn relayed_pairs(registry: &Registry, policy: &Policy) -> BTreeSet<[NodeName; 2]> {
    let hidden: Vec<&NodeName> = registry
        .nodes
        .iter()
        .filter(|(name, node)| node.public_endpoint.is_none() && may_have_peers(registry, name))
        .map(|(name, _)| name)
        .collect();
    let mut pairs = BTreeSet::new();
    if relay(registry, policy).is_none() {
        return pairs;
    }
    for name in &hidden {
        let agencies = partners(registry, policy, name);
        let others = hidden
            .iter()
            .filter(|other| name < other && agencies.contains(&other.agency()));
        pairs.extend(others.map(|other| [(*name).clone(), (*other).clone()]));
    }
    pairs
}

/// Pairs that a relay of before still serves, and of which `has_moved` says that both members use another.
pub fn moved(
    registry: &Registry,
    has_moved: impl Fn(&NodeName) -> bool,
) -> Vec<(NodeName, [NodeName; 2])> {
    let relays = registry.channels.iter();
    let leaving = relays.flat_map(|(relay, channels)| {
        let pairs = channels.leaving.keys();
        pairs.map(move |pair| (relay.clone(), pair.clone()))
    });
    leaving
        .filter(|(_, pair)| pair.iter().all(&has_moved))
        .collect()
}

/// A relay of before serves this pair no more.
pub fn leave(registry: &mut Registry, relay: &NodeName, pair: &[NodeName; 2]) {
    if let Some(channels) = registry.channels.get_mut(relay) {
        channels.leaving.remove(pair);
    }
}

/// What each relay is asked for: the pairs that meet there, and those that may have to again.
fn asked(
    registry: &Registry,
    policies: Policies<'_>,
) -> BTreeMap<NodeName, BTreeSet<[NodeName; 2]>> {
    let mut asked: BTreeMap<NodeName, BTreeSet<_>> = BTreeMap::new();
    for policy in policies.each() {
        let Some(relay) = relay(registry, policy) else {
            continue;
        };
        let pairs = relayed_pairs(registry, policy).into_iter();
        let pairs = pairs.filter(|pair| policies.may_serve(policy, pair));
        asked.entry(relay.clone()).or_default().extend(pairs);
    }
    asked
}

/// Gives every relayed pair a channel of the relay. A pair keeps its number; a number never changes hands.
/// A relay of before goes on until [`leave`]: a box may not be there yet, or go back.
pub(super) fn allocate_channels(registry: &mut Registry, policies: Policies<'_>) {
    let asked = asked(registry, policies);
    let all: BTreeSet<_> = asked.values().flatten().collect();
    for (name, channels) in &mut registry.channels {
        let pairs = asked.get(name);
        let by_pair = std::mem::take(&mut channels.by_pair);
        let (stay, mut leave) = by_pair
            .into_iter()
            .partition(|(pair, _)| pairs.is_some_and(|pairs| pairs.contains(pair)));
        channels.by_pair = stay;
        channels.leaving.append(&mut leave);
        channels.leaving.retain(|pair, _| all.contains(pair));
    }
    for (relay, pairs) in &asked {
        if !pairs.is_empty() || registry.channels.contains_key(relay) {
            give_channels(registry, relay, pairs);
        }
    }
}

fn give_channels(registry: &mut Registry, relay: &NodeName, pairs: &BTreeSet<[NodeName; 2]>) {
    let channels = registry.channels.entry(relay.clone());
    let channels = channels.or_insert_with(|| Channels {
        next: 1,
        ..Channels::default()
    });
    for pair in pairs.iter().cloned() {
        let back = channels.leaving.remove(&pair);
        channels.by_pair.entry(pair).or_insert_with(|| {
            back.unwrap_or_else(|| {
                let number = channels.next;
                channels.next = channels.next.wrapping_add(1);
                number
            })
        });
    }
}
