//! What a link opens, resolved from the operator's words to prefixes that are really routed.

use std::collections::BTreeMap;

use ipnet::IpNet;
use pnsbox_proto::access::{Allow, Opening};
use pnsbox_proto::id::AgencyName;

use crate::policy::{Link, PrefixChoice};
use crate::registry::Node;

/// What `link` opens of the prefixes behind `nodes`, which belong to the agency `at`.
pub(super) fn openings<'a>(
    link: &Link,
    at: &AgencyName,
    nodes: impl Iterator<Item = &'a Node>,
) -> Vec<Opening> {
    let mut opened: BTreeMap<IpNet, Vec<Allow>> = BTreeMap::new();
    for node in nodes {
        for opening in link.openings.iter().filter(|opening| opening.at == *at) {
            for prefix in node
                .active
                .iter()
                .filter_map(|active| chosen(&opening.prefix, active))
            {
                opened.entry(prefix).or_default().extend(&opening.allow);
            }
        }
    }
    let sorted = |mut allow: Vec<Allow>| {
        allow.sort();
        allow.dedup();
        allow
    };
    opened
        .into_iter()
        .map(|(prefix, allow)| Opening {
            prefix,
            allow: sorted(allow),
        })
        .collect()
}

/// The part of a routed prefix that the operator's words mean.
fn chosen(choice: &PrefixChoice, active: &IpNet) -> Option<IpNet> {
    match choice {
        PrefixChoice::Lan => Some(*active),
        PrefixChoice::Within(prefix) if active.contains(prefix) => Some(*prefix),
        PrefixChoice::Within(prefix) if prefix.contains(active) => Some(*active),
        PrefixChoice::Within(_) => None,
    }
}
