//! Services: which of ours are healthy and who is told; which of others are announced to us.
//!
//! A service leaves the catalogue when its owner withdraws it. Silence only hides it, and hearing shows it again.

use std::collections::BTreeMap;

use pnsbox_proto::health::ServiceHealth;
use pnsbox_proto::id::{AgencyName, NodeName, ServiceName};
use pnsbox_proto::service::Service;
use tracing::{info, warn};

use crate::event::ServiceConfig;
use crate::snapshot::{ServiceState, ServiceStatus};
use crate::view::View;

/// All services that this node knows of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Catalogue {
    own: Vec<Own>,
    announced: BTreeMap<NodeName, Vec<Service>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Own {
    config: ServiceConfig,
    healthy: bool,
    failures: u32,
    epoch: u64,
    last_error: Option<String>,
}

impl Catalogue {
    pub(crate) fn new(services: Vec<ServiceConfig>) -> Self {
        let own = |config| Own {
            config,
            healthy: false,
            failures: 0,
            epoch: 0,
            last_error: None,
        };
        Self {
            own: services.into_iter().map(own).collect(),
            announced: BTreeMap::new(),
        }
    }

    /// A check ended; returns whether the announcements change.
    pub(crate) fn checked(&mut self, label: &str, result: Result<(), String>) -> bool {
        let Some(own) = self.own.iter_mut().find(|own| own.config.name == label) else {
            return false;
        };
        match result {
            Ok(()) => {
                own.failures = 0;
                own.last_error = None;
                if own.healthy {
                    return false;
                }
                own.healthy = true;
                own.epoch += 1;
                info!(service = label, "healthy, announcing");
                true
            }
            Err(reason) => {
                own.failures = own.failures.saturating_add(1);
                let withdraw = own.healthy && own.failures >= own.config.failures;
                if withdraw {
                    own.healthy = false;
                    warn!(service = label, %reason, "unhealthy, withdrawing");
                }
                own.last_error = Some(reason);
                withdraw
            }
        }
    }

    /// Every healthy service of ours, as announced by `node`.
    pub(crate) fn healthy(&self, node: &NodeName) -> Vec<Service> {
        let agency = node.agency();
        let healthy = self.own.iter().filter(|own| own.healthy);
        healthy
            .filter_map(|own| {
                Some(own.announce(node, ServiceName::new(&agency, &own.config.name).ok()?))
            })
            .collect()
    }

    /// Those of them that `agency` is told of.
    pub(crate) fn for_agency(&self, node: &NodeName, agency: &AgencyName) -> Vec<Service> {
        let own_agency = node.agency();
        self.healthy(node)
            .into_iter()
            .filter(|s| s.audience.includes(agency, &own_agency))
            .collect()
    }

    /// A peer announced its list. What is not its own to announce, or not for us, is left out.
    pub(crate) fn announced(
        &mut self,
        peer: &NodeName,
        own_agency: &AgencyName,
        services: Vec<Service>,
    ) {
        let agency = peer.agency();
        let (kept, refused): (Vec<_>, Vec<_>) = services.into_iter().partition(|service| {
            service.name.agency() == agency
                && service.node == *peer
                && service.audience.includes(own_agency, &agency)
        });
        if !refused.is_empty() {
            warn!(%peer, count = refused.len(), "services were announced that are not this peer's or not for us");
        }
        self.announced.insert(peer.clone(), kept);
    }

    /// Forgets peers that are not in the view any more.
    pub(crate) fn retain(&mut self, view: &View) {
        self.announced
            .retain(|peer, _| view.peers.contains_key(peer));
    }

    /// Whether a service is announced between `node` and `peer`, either way.
    pub(crate) fn shares(&self, node: &NodeName, peer: &NodeName) -> bool {
        self.announced
            .get(peer)
            .is_some_and(|services| !services.is_empty())
            || !self.for_agency(node, &peer.agency()).is_empty()
    }

    /// What this node's LAN may know of: ours, and those of peers that `hears` says are not silent.
    pub(crate) fn listed(
        &self,
        view: &View,
        hears: impl Fn(&NodeName) -> bool,
    ) -> Vec<ServiceStatus> {
        let own_agency = view.node.node.agency();
        let ours = self
            .healthy(&view.node.node)
            .into_iter()
            .map(|s| status(s, ServiceState::Available));
        let theirs = self
            .announced
            .iter()
            .filter(|(peer, _)| hears(peer))
            .flat_map(|(_, services)| services);
        let theirs = theirs.map(|service| {
            let agency = service.name.agency();
            let opened = view.links.get(&agency).is_some_and(|link| {
                service
                    .endpoints
                    .iter()
                    .any(|e| link.opened.iter().any(|opening| opening.covers_tcp(*e)))
            });
            let usable = opened || agency == own_agency;
            let state = if usable {
                ServiceState::Available
            } else {
                ServiceState::BlockedByPolicy
            };
            status(service.clone(), state)
        });
        let mut listed: Vec<_> = ours.chain(theirs).collect();
        listed.sort_by(|a, b| (&a.name, a.priority, &a.node).cmp(&(&b.name, b.priority, &b.node)));
        listed
    }

    /// Ours, healthy or not, for reports.
    pub(crate) fn health(&self, node: &NodeName) -> Vec<ServiceHealth> {
        let agency = node.agency();
        let health = |own: &Own| {
            Some(ServiceHealth {
                name: ServiceName::new(&agency, &own.config.name).ok()?,
                kind: own.config.kind,
                endpoint: own.config.endpoint,
                healthy: own.healthy,
            })
        };
        self.own.iter().filter_map(health).collect()
    }

    /// Label and reason of each service of ours whose checks fail.
    pub(crate) fn failing(&self) -> impl Iterator<Item = (&str, &str)> {
        let failing = self.own.iter().filter(|own| !own.healthy);
        failing.filter_map(|own| Some((own.config.name.as_str(), own.last_error.as_deref()?)))
    }
}

impl Own {
    fn announce(&self, node: &NodeName, name: ServiceName) -> Service {
        Service {
            name,
            kind: self.config.kind,
            node: node.clone(),
            endpoints: vec![self.config.endpoint],
            priority: self.config.priority,
            audience: self.config.audience.clone(),
            epoch: self.epoch,
            virtual_address: None,
        }
    }
}

fn status(service: Service, state: ServiceState) -> ServiceStatus {
    ServiceStatus {
        name: service.name,
        kind: service.kind,
        node: service.node,
        endpoints: service.endpoints,
        priority: service.priority,
        state,
        virtual_address: service.virtual_address,
    }
}
