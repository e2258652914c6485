//! A box joins: token, keys, prefixes, address, and everybody's new view, in one transaction.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use ipnet::IpNet;
use pnsbox_proto::agency::Admission;
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::id::{AgencyName, NodeName};
use pnsbox_proto::key::IdentityKey;
use pnsbox_proto::message::{JoinRefusal, JoinRequest, ToAgent};
use pnsbox_proto::time::UnixTime;
use tracing::{info, warn};

use super::{Controller, Now, Output};
use crate::audit::Origin;
use crate::image::{Deed, Draft};
use crate::plan::{self, address};
use crate::registry::signed::AgencyKey;
use crate::registry::{Node, Registry, Spent, TokenUse, endpoint, prefix};
use crate::session::SessionId;

/// Prefixes that one box may claim: a router with more LANs than this has aggregates.
const MAX_CLAIMS: usize = 64;

/// Refused requests after which a session ends: an admin who mistypes dials again.
const MAX_REFUSALS: u32 = 8;

impl Controller {
    pub(super) fn join(&mut self, id: SessionId, request: &JoinRequest, now: Now) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let (key, observed) = (session.key, session.observed);
        match self.try_join(key, observed, request, now) {
            Ok((node, touched)) => {
                self.counters.joined += 1;
                let network = &self.image.registry.network;
                let message = ToAgent::Joined {
                    network: network.name.clone(),
                    node: node.clone(),
                    controllers: network.addresses.clone(),
                };
                self.outputs.push_back(Output::Send {
                    session: id,
                    message: Box::new(message),
                });
                self.occupy(id, node.clone(), now);
                let others: BTreeSet<NodeName> = touched.into_iter().chain([node]).collect();
                self.push(&others, now);
            }
            Err(reason) => {
                warn!(session = id, %reason, "a box was not admitted");
                self.counters.refused_join(&reason);
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.refusals += 1;
                    if session.refusals > MAX_REFUSALS {
                        self.close(id, "too many refused requests to join", now);
                        return;
                    }
                }
                let message = Box::new(ToAgent::JoinRefused { reason });
                self.outputs.push_back(Output::Send {
                    session: id,
                    message,
                });
            }
        }
    }

    /// The node that the key now is, and whose views changed.
    fn try_join(
        &mut self,
        key: IdentityKey,
        observed: SocketAddr,
        request: &JoinRequest,
        now: Now,
    ) -> Result<(NodeName, Vec<NodeName>), JoinRefusal> {
        if self.store_failure.is_some() {
            let reason = "it cannot write its state now; the anchor is as good as before: try again later, or tell its operator";
            return Err(JoinRefusal::Invalid {
                reason: reason.to_owned(),
            });
        }
        let registry = &self.image.registry;
        let digest = request.token.digest();
        let name = match registry.judge_token(digest, &key, now.wall)? {
            TokenUse::Again(node) => return Ok((node, Vec::new())),
            TokenUse::Good(node) => node,
        };
        if registry.quarantine_of(&name).is_some() {
            let reason = format!("{name} is in quarantine; ask its operator");
            return Err(JoinRefusal::Invalid { reason });
        }
        if registry.externals.contains_key(&name) {
            // The clock went back: when the device came, the invitation had ended.
            let reason = format!("{name} is a plain WireGuard device now; ask for another anchor");
            return Err(JoinRefusal::Invalid { reason });
        }
        let claimed =
            judge_request(registry, request).map_err(|reason| JoinRefusal::Invalid { reason })?;
        let overlay_v4 = address::next_v4(registry.network.pool, &registry.taken_v4())
            .ok_or(JoinRefusal::PoolExhausted)?;
        let node = Node {
            identity: key,
            wireguard: request.wireguard,
            overlay_v4,
            public_endpoint: request.public_endpoint,
            second_endpoint: request.second_endpoint,
            claimed,
            active: Vec::new(),
            joined: now.wall,
            order: registry.next_order(),
            claim: None,
        };
        let mut draft = self.image.draft();
        let admitted = self.admit(&mut draft, &name.agency(), request.agency, now)?;
        if let Some(agency) = draft.registry.agencies.get_mut(&name.agency())
            && admitted.is_some()
        {
            agency.keepers.insert(name.clone());
        }
        draft.registry.nodes.insert(name.clone(), node);
        if let Some(invitation) = draft.registry.invitations.get_mut(&digest) {
            invitation.spent = Some(Spent {
                by: key,
                when: now.wall,
            });
        }
        draft.registry.forget_old_invitations(now.wall);
        let scope = plan::touched_by_join(&draft.registry, draft.policies(), &name);
        let by = Origin {
            who: format!("node {name}"),
            from: observed.to_string(),
        };
        let mut what = format!("join with key {} at {overlay_v4}", key.fingerprint());
        if let Some(agency) = admitted {
            what = format!("{what}; its agency's key is {}", agency.fingerprint());
        }
        let deed = Deed {
            by: &by,
            what: &what,
            when: now.wall,
        };
        let touched = self.image.commit(draft, Some(&scope), deed, &self.key);
        info!(node = %name, %overlay_v4, views = touched.len(), "joined");
        Ok((name, touched))
    }
}

impl Controller {
    /// An agency whose first box joins has the key that this box can sign with; returns that, if so.
    fn admit(
        &self,
        draft: &mut Draft,
        agency: &AgencyName,
        offered: Option<IdentityKey>,
        now: Now,
    ) -> Result<Option<IdentityKey>, JoinRefusal> {
        let network = &self.image.registry.network;
        let known = draft.registry.agencies.get_mut(agency);
        let (Some(known), Some(key)) = (known.filter(|known| known.key.is_none()), offered) else {
            return Ok(None);
        };
        let ends = network
            .admission_certificate()
            .map_or(UnixTime(0), |c| c.ends);
        if ends < now.wall {
            let reason = format!(
                "its right to admit agencies ended at {ends}; its operator must renew it with the network's root key"
            );
            return Err(JoinRefusal::Invalid { reason });
        }
        let admission = Admission {
            network: network.name.clone(),
            agency: agency.clone(),
            key,
            issued: now.wall,
        };
        known.key = Some(AgencyKey {
            key,
            certificate: network.admission.clone(),
            admission: Envelope::sign(&admission, &self.admission),
            successions: Vec::new(),
        });
        Ok(Some(key))
    }
}

/// The claimed prefixes, or what is wrong with the request.
fn judge_request(registry: &Registry, request: &JoinRequest) -> Result<Vec<IpNet>, String> {
    if request.wireguard.0 == [0; 32] {
        return Err("the WireGuard key is all zero".to_owned());
    }
    if let Some(other) = registry.holder_of(&request.wireguard) {
        return Err(format!(
            "the WireGuard key is already that of {other}; make this box a key of its own"
        ));
    }
    for endpoint in request
        .public_endpoint
        .iter()
        .chain(&request.second_endpoint)
    {
        judge_endpoint(registry, *endpoint)?;
    }
    if let Some(second) = request.second_endpoint
        && request
            .public_endpoint
            .is_none_or(|first| first.is_ipv4() == second.is_ipv4())
    {
        return Err(format!(
            "--public {second}: a second address must be of the other version of IP"
        ));
    }
    if request.prefixes.len() > MAX_CLAIMS {
        let count = request.prefixes.len();
        return Err(format!(
            "{count} prefixes are claimed, at most {MAX_CLAIMS} may be; name aggregates with --lan"
        ));
    }
    let claimed: BTreeSet<IpNet> = request.prefixes.iter().map(IpNet::trunc).collect();
    for prefix in &claimed {
        if let Some(rule) = prefix::never_a_lan(prefix) {
            return Err(format!("--lan {prefix}: {rule}"));
        }
        if let Some(range) = prefix::overlay_under(&registry.network, prefix) {
            return Err(format!(
                "--lan {prefix} overlaps the network's overlay pool {range}; name only LANs outside it, or use --no-lan"
            ));
        }
    }
    Ok(claimed.into_iter().collect())
}

fn judge_endpoint(registry: &Registry, endpoint: SocketAddr) -> Result<(), String> {
    let loopback = || {
        let is_loopback = endpoint.ip().to_canonical().is_loopback();
        is_loopback.then_some("a loopback address is this machine's own")
    };
    if let Some(rule) = endpoint::never_dialled(endpoint).or_else(loopback) {
        return Err(format!(
            "--public {endpoint}: must be an address and port that other members can dial; {rule}"
        ));
    }
    let same = |node: &Node| [node.public_endpoint, node.second_endpoint].contains(&Some(endpoint));
    match registry.nodes.iter().find(|(_, node)| same(node)) {
        Some((other, _)) => Err(format!("--public {endpoint}: is already that of {other}")),
        None => Ok(()),
    }
}
