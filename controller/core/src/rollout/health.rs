//! What is well around the nodes of a rollout, and what of that is well no more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use pnsbox_proto::health::PeerHealth;
use pnsbox_proto::id::{NodeName, ServiceName};
use serde::{Deserialize, Serialize};

use crate::fleet::Live;
use crate::image::Image;

/// What is well.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Watched nodes with a session.
    pub online: BTreeSet<NodeName>,
    /// Links of which a watched node is an end or the relay, members in order of name.
    pub links: BTreeSet<[NodeName; 2]>,
    /// Services of watched nodes whose checks pass.
    pub services: BTreeSet<(NodeName, ServiceName)>,
}

/// Something that was well and is so no more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// A node has no session.
    Offline(NodeName),
    /// A node has one, and says nothing of how it is.
    Silent(NodeName),
    /// A link is down.
    Link([NodeName; 2]),
    /// A service's checks fail.
    Service(NodeName, ServiceName),
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offline(node) => write!(f, "{node} went offline"),
            Self::Silent(node) => write!(f, "{node} does not say how it is"),
            Self::Link([a, b]) => write!(f, "the link of {a} with {b} went down"),
            Self::Service(node, service) => write!(f, "service {service} at {node} fails"),
        }
    }
}

impl Health {
    /// How things are around `watched`.
    pub fn of(live: &BTreeMap<NodeName, Live>, watched: &BTreeMap<NodeName, u64>) -> Self {
        let mut health = Self::default();
        for (node, live) in live.iter().filter(|(_, live)| live.online_since.is_some()) {
            let is_watched = watched.contains_key(node);
            if is_watched {
                health.online.insert(node.clone());
            }
            let Some(report) = &live.report else { continue };
            let around = |peer: &&PeerHealth| {
                let relay = peer.relay.as_ref();
                peer.link
                    && (is_watched
                        || watched.contains_key(&peer.node)
                        || relay.is_some_and(|relay| watched.contains_key(relay)))
            };
            let up = report.peers.iter().filter(around);
            health.links.extend(up.map(|peer| pair(node, &peer.node)));
            if is_watched {
                let well = report.services.iter().filter(|service| service.healthy);
                let well = well.map(|service| (node.clone(), service.name.clone()));
                health.services.extend(well);
            }
        }
        health
    }

    /// What of it is lost, as far as reports since the moment `since` tell.
    /// Who is in quarantine is not missed, nor is a link that is no more, or whose other end is off by itself.
    pub fn lost(
        &self,
        image: &Image,
        live: &BTreeMap<NodeName, Live>,
        since: Duration,
    ) -> BTreeSet<Loss> {
        let mut lost = BTreeSet::new();
        let is_online = |node: &NodeName| {
            live.get(node)
                .is_some_and(|live| live.online_since.is_some())
        };
        let report = |node: &NodeName| {
            let live = live.get(node).filter(|live| live.online_since.is_some())?;
            let is_new = live.heard.is_some_and(|heard| heard >= since);
            live.report.as_ref().filter(|_| is_new)
        };
        for node in self.online.iter().filter(|node| is_expected(image, node)) {
            if !is_online(node) {
                lost.insert(Loss::Offline(node.clone()));
            } else if report(node).is_none() {
                lost.insert(Loss::Silent(node.clone()));
            }
        }
        for link in &self.links {
            let is_down = |node: &NodeName, other: &NodeName| {
                let peers = report(node).map(|report| &report.peers);
                let is_up = |peer: &PeerHealth| peer.node == *other && peer.link;
                peers.is_some_and(|peers| !peers.iter().any(is_up))
                    && is_online(other)
                    && is_wanted(image, node, other)
            };
            let [a, b] = link;
            if is_down(a, b) || is_down(b, a) {
                lost.insert(Loss::Link(link.clone()));
            }
        }
        for (node, service) in &self.services {
            let mut services = report(node).into_iter().flat_map(|report| &report.services);
            if services.any(|s| s.name == *service && !s.healthy) && is_expected(image, node) {
                lost.insert(Loss::Service(node.clone(), service.clone()));
            }
        }
        lost
    }
}

/// Whether a node is to be heard at all.
pub(super) fn is_expected(image: &Image, node: &NodeName) -> bool {
    image.registry.quarantine_of(node).is_none()
}

/// Whether the view that `node` should have has `other` as a peer.
fn is_wanted(image: &Image, node: &NodeName, other: &NodeName) -> bool {
    let id = format!("peer {other}");
    image.views.get(node).is_some_and(|view| {
        let found = view.records.binary_search_by(|record| record.id.cmp(&id));
        found.is_ok()
    })
}

fn pair(a: &NodeName, b: &NodeName) -> [NodeName; 2] {
    let mut pair = [a.clone(), b.clone()];
    pair.sort();
    pair
}
