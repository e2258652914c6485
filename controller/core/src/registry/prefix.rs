//! Which claimed prefix is routed, and why another is held back.
//!
//! Who routes a prefix keeps it: a claim that comes later never takes it away.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use pnsbox_proto::health::{HeldPrefix, HeldReason};
use pnsbox_proto::id::{AgencyName, NodeName};

use super::{Network, Node, Registry};
use crate::policy::Policy;

/// Whether two prefixes share an address.
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The range of overlay addresses that `prefix` shares an address with, if it does.
pub fn overlay_under(network: &Network, prefix: &IpNet) -> Option<IpNet> {
    let mut ranges = network.overlay().into_iter();
    ranges.find(|range| overlap(range, prefix))
}

/// Ranges that are on no LAN which others could reach: loopback, link-local, multicast, unspecified.
const NEVER_V4: [Ipv4Net; 4] = [
    Ipv4Net::new_assert(Ipv4Addr::LOCALHOST, 8),
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4),
    Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 8),
];

/// The same, and IPv4 addresses in their IPv6 form (RFC 4291 section 2.5.5), which no router knows.
const NEVER_V6: [Ipv6Net; 4] = [
    Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 96),
    Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

/// Why a prefix cannot be a LAN of anybody, if it cannot.
pub fn never_a_lan(prefix: &IpNet) -> Option<&'static str> {
    let mapped = NEVER_V6[1];
    let is_in = |special: IpNet| overlap(&special, prefix);
    if prefix.prefix_len() == 0 {
        Some("a default route is no LAN")
    } else if is_in(mapped.into()) {
        Some("an IPv4 prefix inside IPv6 is written as IPv4")
    } else if NEVER_V4.into_iter().any(|net| is_in(net.into()))
        || NEVER_V6.into_iter().any(|net| is_in(net.into()))
    {
        Some("loopback, link-local, multicast and unspecified addresses are no LAN")
    } else {
        None
    }
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
pub fn settle(registry: &mut Registry, policy: &Policy) {
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
            .filter(|p| permitted(registry, policy, name, p))
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
            if reason(registry, policy, name, &prefix).is_none()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_no_lan_is_refused_however_it_is_cut() {
        for (prefix, word) in [
            ("0.0.0.0/0", "default"),
            ("::/0", "default"),
            ("127.3.0.0/16", "loopback"),
            ("::1/128", "loopback"),
            ("169.254.7.0/24", "link-local"),
            ("169.0.0.0/8", "link-local"),
            ("fe80:1::/64", "link-local"),
            ("fe80::/9", "link-local"),
            ("239.1.0.0/16", "multicast"),
            ("ff00::/8", "multicast"),
            ("::ffff:10.0.0.0/104", "written as IPv4"),
        ] {
            let rule = never_a_lan(&prefix.parse().unwrap());
            assert!(
                rule.is_some_and(|rule| rule.contains(word)),
                "{prefix}: {rule:?}"
            );
        }
        for prefix in [
            "10.0.0.0/8",
            "169.253.0.0/16",
            "192.168.1.0/24",
            "fd00::/8",
            "2001:db8::/32",
            "2000::/3",
        ] {
            assert_eq!(
                never_a_lan(&prefix.parse().unwrap()),
                None,
                "{prefix} is fine"
            );
        }
    }
}
