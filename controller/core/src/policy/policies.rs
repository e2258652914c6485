//! Which policy is for whom: everybody the same, or, while one is rolled out, the next for the nodes that have it.
//!
//! What concerns a pair follows the next policy only when both have it: neither is led to where the other is not.

use std::borrow::Cow;
use std::collections::BTreeSet;

use pnsbox_proto::id::{AgencyName, NodeName};

use super::Policy;
use crate::registry::{Registry, prefix};

/// The policy of each node and of each pair.
#[derive(Debug, Clone, Copy)]
pub struct Policies<'a> {
    before: &'a Policy,
    next: Option<Next<'a>>,
}

#[derive(Debug, Clone, Copy)]
struct Next<'a> {
    policy: &'a Policy,
    updated: Option<&'a BTreeSet<NodeName>>,
}

impl<'a> From<&'a Policy> for Policies<'a> {
    fn from(policy: &'a Policy) -> Self {
        Self {
            before: policy,
            next: None,
        }
    }
}

impl<'a> Policies<'a> {
    /// `next` for the nodes that are `updated`, all if `None`; `before` for the others.
    pub fn during(
        before: &'a Policy,
        next: &'a Policy,
        updated: Option<&'a BTreeSet<NodeName>>,
    ) -> Self {
        let policy = next;
        Self {
            before,
            next: Some(Next { policy, updated }),
        }
    }

    /// Every policy that somebody has, or had and may go back to.
    pub fn each(self) -> impl Iterator<Item = &'a Policy> {
        std::iter::once(self.before).chain(self.next.map(|next| next.policy))
    }

    /// The policy of a node.
    pub fn for_node(self, name: &NodeName) -> &'a Policy {
        self.next_of(name).unwrap_or(self.before)
    }

    /// The policy of what concerns two nodes.
    pub fn for_pair(self, a: &NodeName, b: &NodeName) -> &'a Policy {
        match (self.next_of(a), self.next_of(b)) {
            (Some(next), Some(_)) => next,
            _ => self.before,
        }
    }

    /// The agencies with which some policy links this one.
    pub fn partners(self, agency: &AgencyName) -> impl Iterator<Item = AgencyName> {
        self.each()
            .flat_map(move |policy| policy.linked_with(agency))
    }

    /// The policies whose word counts for what a node may claim: until a rollout is through, nothing is given away.
    pub fn claims_of(self, name: &NodeName) -> impl Iterator<Item = &'a Policy> {
        std::iter::once(self.before).chain(self.next_of(name))
    }

    /// Whether a pair does what `policy`, one of [`Self::each`], says, or may have to again.
    pub fn may_serve(self, policy: &Policy, [a, b]: &[NodeName; 2]) -> bool {
        std::ptr::eq(policy, self.before) || std::ptr::eq(policy, self.for_pair(a, b))
    }

    /// Whether another node's agency is linked with that of `name`, as far as the two are concerned.
    pub fn linked(self, name: &NodeName) -> impl Fn(&NodeName) -> bool + use<'a> {
        let agency = name.agency();
        let linked = |policy: &Policy| {
            policy
                .linked_with(&agency)
                .collect::<BTreeSet<AgencyName>>()
        };
        let before = linked(self.before);
        let next = self.next_of(name).map(linked);
        move |other| match (&next, self.next_of(other)) {
            (Some(next), Some(_)) => next.contains(&other.agency()),
            _ => before.contains(&other.agency()),
        }
    }

    /// The registry with the routes that the policy of each node lets it have.
    pub fn routed(self, registry: &'a Registry) -> Cow<'a, Registry> {
        let lost = |name: &NodeName, active: &ipnet::IpNet| {
            let next = self.next_of(name);
            next.is_some_and(|next| !prefix::permitted(registry, next, name, active))
        };
        let mut nodes = registry.nodes.iter();
        if self.next.is_none() || !nodes.any(|(name, n)| n.active.iter().any(|p| lost(name, p))) {
            return Cow::Borrowed(registry);
        }
        let mut routed = registry.clone();
        for (name, node) in &mut routed.nodes {
            node.active.retain(|active| !lost(name, active));
        }
        Cow::Owned(routed)
    }

    fn next_of(self, name: &NodeName) -> Option<&'a Policy> {
        let next = self.next?;
        let has_it = next.updated.is_none_or(|updated| updated.contains(name));
        has_it.then_some(next.policy)
    }
}
