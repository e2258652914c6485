//! What links and devices' tables open, resolved from the operator's words to prefixes that are really routed.

use std::collections::BTreeMap;

use ipnet::IpNet;
use pnsbox_proto::access::{Allow, Opening};
use pnsbox_proto::id::AgencyName;

use crate::policy::{PolicyOpening, PrefixChoice};
use crate::registry::Node;

/// What `words` open of the prefixes behind `nodes`, which belong to the agency `at`.
pub(super) fn openings<'a>(
    words: &[PolicyOpening],
    at: &AgencyName,
    nodes: impl Iterator<Item = &'a Node>,
) -> Vec<Opening> {
    let mut opened: BTreeMap<IpNet, Vec<Allow>> = BTreeMap::new();
    for node in nodes {
        for opening in words.iter().filter(|opening| opening.at == *at) {
            for prefix in node
                .active
                .iter()
                .filter_map(|active| chosen(&opening.prefix, active))
            {
                opened.entry(prefix).or_default().extend(&opening.allow);
            }
        }
    }
    sorted(opened)
}

/// What both open.
pub(super) fn intersection(a: &[Opening], b: &[Opening]) -> Vec<Opening> {
    let mut both: BTreeMap<IpNet, Vec<Allow>> = BTreeMap::new();
    for (a, b) in a.iter().flat_map(|a| b.iter().map(move |b| (a, b))) {
        let Some(prefix) = narrower(a.prefix, b.prefix) else {
            continue;
        };
        let pairs = a
            .allow
            .iter()
            .flat_map(|a| b.allow.iter().map(move |b| (a, b)));
        let allow: Vec<Allow> = pairs.filter_map(|(a, b)| a.intersection(b)).collect();
        if !allow.is_empty() {
            both.entry(prefix).or_default().extend(allow);
        }
    }
    sorted(both)
}

/// Openings of several nodes, as one list.
pub(super) fn merged(openings: impl Iterator<Item = Opening>) -> Vec<Opening> {
    let mut opened: BTreeMap<IpNet, Vec<Allow>> = BTreeMap::new();
    for opening in openings {
        opened
            .entry(opening.prefix)
            .or_default()
            .extend(opening.allow);
    }
    sorted(opened)
}

fn sorted(opened: BTreeMap<IpNet, Vec<Allow>>) -> Vec<Opening> {
    let opened = opened.into_iter().map(|(prefix, mut allow)| {
        allow.sort();
        allow.dedup();
        Opening { prefix, allow }
    });
    opened.collect()
}

fn narrower(a: IpNet, b: IpNet) -> Option<IpNet> {
    if a.contains(&b) {
        Some(b)
    } else {
        b.contains(&a).then_some(a)
    }
}

/// The part of a routed prefix that the operator's words mean.
fn chosen(choice: &PrefixChoice, active: &IpNet) -> Option<IpNet> {
    match choice {
        PrefixChoice::Lan => Some(*active),
        PrefixChoice::Within(prefix) => narrower(*active, *prefix),
    }
}
