//! What a policy would change, in words, and whom it touches.

use std::collections::BTreeSet;

use pnsbox_proto::id::{AgencyName, NodeName};
use serde::{Deserialize, Serialize};

use crate::image::{Draft, Image};
use crate::policy::{Policy, PolicyOpening};
use crate::registry::{Node, prefix};
use crate::view;

/// What a policy changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// One line each, begins with `+` or `-`.
    pub changes: Vec<String>,
    /// Whose view changes.
    pub nodes: Vec<TouchedNode>,
    /// Claims that stay held back, with what to do.
    pub held: Vec<String>,
    /// What an operator should know.
    pub warnings: Vec<String>,
    /// How far it reaches.
    #[serde(default)]
    pub radius: Radius,
    /// Who would get it when, if it were rolled out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waves: Vec<BTreeSet<NodeName>>,
}

/// How far a change reaches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Radius {
    /// Agencies with a node that is touched.
    pub agencies: usize,
    /// Pairs of agencies whose tunnels or openings change.
    pub links: usize,
    /// Touched nodes that are online now.
    pub online: usize,
    /// All nodes, touched or not.
    pub fleet: usize,
}

/// A node whose view changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TouchedNode {
    /// Which.
    pub node: NodeName,
    /// New tunnels.
    pub peers_added: Vec<String>,
    /// Tunnels that go away.
    pub peers_removed: Vec<String>,
    /// Ids of other records that are added, removed or changed.
    pub records: Vec<String>,
}

impl TouchedNode {
    /// The peers that it gets, loses or is told otherwise of.
    pub fn peers(&self) -> impl Iterator<Item = NodeName> {
        let changed = self
            .records
            .iter()
            .filter_map(|id| id.strip_prefix("peer "));
        let peers = self.peers_added.iter().chain(&self.peers_removed);
        let peers = peers.map(String::as_str).chain(changed);
        peers.filter_map(|peer| peer.parse().ok())
    }
}

impl Difference {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.nodes.is_empty()
    }
}

/// What `draft`, already allocated, would change.
pub fn difference(image: &Image, draft: &Draft, warnings: Vec<String>) -> Difference {
    let mut changes = policy_changes(&image.policy, &draft.policy);
    for (name, node) in &draft.registry.nodes {
        let before = image
            .registry
            .nodes
            .get(name)
            .map_or(&[][..], |node| &node.active);
        let gained = node
            .active
            .iter()
            .filter(|p| !before.contains(p))
            .map(|p| format!("+ {name} routes {p}"));
        changes.extend(gained);
        let lost = before
            .iter()
            .filter(|p| !node.active.contains(p))
            .map(|p| format!("- {name} routes {p}"));
        changes.extend(lost);
    }
    let nodes = image
        .changed_records(draft, None)
        .into_iter()
        .map(|(node, records)| {
            let before = image.views.get(&node).map_or(&[][..], |view| &view.records);
            touched(node, view::changes(before, &records))
        });
    let nodes: Vec<TouchedNode> = nodes.collect();
    let held = |(name, node): (&NodeName, &Node)| -> Vec<String> {
        let held = prefix::held(&draft.registry, draft.policies().for_node(name), name, node);
        held.iter()
            .map(|held| prefix::held_message(name, held))
            .collect()
    };
    Difference {
        changes,
        radius: radius(&nodes, draft.registry.nodes.len()),
        nodes,
        held: draft.registry.nodes.iter().flat_map(held).collect(),
        warnings,
        waves: Vec::new(),
    }
}

/// Who is online, only the controller knows.
fn radius(nodes: &[TouchedNode], fleet: usize) -> Radius {
    let agencies: BTreeSet<AgencyName> =
        nodes.iter().map(|touched| touched.node.agency()).collect();
    let mut links = BTreeSet::new();
    for touched in nodes {
        let own = touched.node.agency();
        let linked = touched.records.iter();
        let linked = linked.filter_map(|id| id.strip_prefix("link ")?.parse().ok());
        for other in touched.peers().map(|peer| peer.agency()).chain(linked) {
            let mut pair = [own.clone(), other];
            pair.sort();
            links.insert(pair);
        }
    }
    Radius {
        agencies: agencies.len(),
        links: links.len(),
        online: 0,
        fleet,
    }
}

fn touched(node: NodeName, changes: view::RecordChanges) -> TouchedNode {
    let peers = |ids: &[String]| -> Vec<String> {
        ids.iter()
            .filter_map(|id| id.strip_prefix("peer "))
            .map(str::to_owned)
            .collect()
    };
    let all = changes
        .added
        .iter()
        .chain(&changes.removed)
        .filter(|id| !id.starts_with("peer "));
    TouchedNode {
        peers_added: peers(&changes.added),
        peers_removed: peers(&changes.removed),
        records: all.chain(&changes.changed).cloned().collect(),
        node,
    }
}

/// One line for each thing that a policy says, and the other does not.
pub fn policy_changes(before: &Policy, after: &Policy) -> Vec<String> {
    let (before_lines, after_lines) = (lines(before), lines(after));
    let gone = before_lines
        .difference(&after_lines)
        .map(|line| (line, '-'));
    let new = after_lines
        .difference(&before_lines)
        .map(|line| (line, '+'));
    let mut changes: Vec<(&String, char)> = gone.chain(new).collect();
    changes.sort();
    let mut changes: Vec<String> = changes
        .into_iter()
        .map(|(line, sign)| format!("{sign} {line}"))
        .collect();
    if before.relays != after.relays {
        changes.push(format!("- {}", relays(before)));
        changes.push(format!("+ {}", relays(after)));
    }
    changes
}

fn lines(policy: &Policy) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for link in &policy.links {
        let [a, b] = &link.between;
        lines.insert(format!("link {a} - {b}"));
        for opening in &link.openings {
            let to = link.other(&opening.at).unwrap_or(a);
            for allow in &opening.allow {
                lines.insert(format!(
                    "link {a} - {b}: {to} may reach {} {}: {allow}",
                    opening.at, opening.prefix
                ));
            }
        }
    }
    for external in &policy.externals {
        let device = &external.device;
        for PolicyOpening { at, prefix, allow } in &external.openings {
            let allow = allow.iter();
            lines.extend(allow.map(|a| format!("external {device} may reach {at} {prefix}: {a}")));
        }
    }
    lines.extend(
        policy
            .accepted
            .iter()
            .map(|a| format!("accept {} of {}", a.prefix, a.node)),
    );
    lines
}

fn relays(policy: &Policy) -> String {
    let names: Vec<&str> = policy.relays.iter().map(NodeName::as_str).collect();
    if names.is_empty() {
        "no relay".to_owned()
    } else {
        format!("relays, best first: {}", names.join(", "))
    }
}
