//! What an operator asks: agencies, invitations, policy, the fleet.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::IpNet;
use pnsbox_proto::anchor::Anchor;
use pnsbox_proto::id::{AgencyName, NodeName};
use pnsbox_proto::message::Token;

use super::{Controller, Now};
use crate::audit::Origin;
use crate::fleet;
use crate::image::Deed;
use crate::operator::{AgencyLine, Answer, Refusal, Request};
use crate::registry::{Agency, Invitation, Network, Registry, prefix};

/// Longest life of a token: an anchor in a forgotten mail must not be good for ever.
const MAX_INVITATION: Duration = Duration::from_secs(90 * 24 * 3600);

impl Controller {
    /// Answers an operator. `by` stands in the audit trail; `random` makes a token, if one is made.
    pub fn handle_request(
        &mut self,
        request: Request,
        by: &Origin,
        now: Now,
        random: [u8; 16],
    ) -> Result<Answer, Refusal> {
        if let Some(refusal) = self.unwritable(&request) {
            return Err(refusal);
        }
        match request {
            Request::AgencyAdd {
                name,
                prefixes,
                class,
                region,
            } => {
                let agency = Agency {
                    prefixes,
                    class,
                    region,
                    added: now.wall,
                    key: None,
                    keepers: BTreeSet::new(),
                };
                self.add_agency(name, agency, by, now)
            }
            Request::AgencyList => Ok(Answer::Agencies {
                agencies: self
                    .image
                    .registry
                    .agencies
                    .keys()
                    .filter_map(|name| self.agency_line(name))
                    .collect(),
            }),
            Request::Invite {
                agency,
                node,
                expires_in_s,
            } => self.invite(
                agency,
                &node,
                Duration::from_secs(expires_in_s),
                by,
                now,
                Token(random),
            ),
            Request::ExternalAdd { device, wireguard } => {
                self.add_external(device, wireguard, by, now)
            }
            Request::ExternalList => Ok(self.externals()),
            Request::ExternalShow { device } => self.external(&device),
            Request::ExternalRemove { device } => self.remove_external(device, by, now),
            Request::Plan { policy } => self.plan(&policy),
            Request::Apply { policy } => self.apply(policy, None, by, now),
            Request::History => Ok(self.history()),
            Request::Version { number } => self.version(number),
            Request::Diff { from, to } => self.changes(from, to),
            Request::Rollback { to, dry_run } => self.bring_back(to, dry_run, by, now),
            Request::RollOut {
                policy,
                canary,
                dry_run,
            } => self.roll_out(policy, canary, dry_run, by, now),
            Request::Rollout => Ok(Answer::Rollout {
                rollout: self.rollout_status(),
            }),
            Request::HaltRollout => self.stop_rollout(by, now),
            Request::Quarantine { subject, reason } => self.quarantine(subject, reason, by, now),
            Request::Release { subject } => self.release(subject, by, now),
            Request::AdmissionRenew { certificate } => self.renew_admission(certificate, by, now),
            Request::AgencySucceed { succession } => self.succeed(succession, by, now),
            Request::RootWork { agency } => Ok(self.root_work(agency.as_ref())),
            Request::Status => {
                let mut fleet = fleet::status(&self.image, &self.live, now.wall, self.serving);
                fleet.warnings.extend(self.store_failure.clone());
                fleet.rollout = self.rollout_to_see();
                Ok(Answer::Status {
                    fleet: Box::new(fleet),
                })
            }
        }
    }

    fn add_agency(
        &mut self,
        name: AgencyName,
        mut agency: Agency,
        by: &Origin,
        now: Now,
    ) -> Result<Answer, Refusal> {
        let registry = &self.image.registry;
        if let Some(line) = self.agency_line(&name) {
            return Err(Refusal::because(format!(
                "agency {name} is already registered, with {}; choose another name",
                list(&line.prefixes)
            )));
        }
        agency.prefixes.sort();
        agency.prefixes.dedup();
        let wrong: Vec<String> = agency
            .prefixes
            .iter()
            .filter_map(|prefix| judge_prefix(registry, prefix))
            .collect();
        if !wrong.is_empty() {
            return Err(Refusal::because(wrong.join("\n")));
        }
        let mut draft = self.image.draft();
        let what = format!("agency add {name} {}", list(&agency.prefixes));
        draft.registry.agencies.insert(name.clone(), agency);
        self.image.commit(
            draft,
            Some(&BTreeSet::new()),
            Deed {
                by,
                what: &what,
                when: now.wall,
            },
            &self.key,
        );
        let agency = self
            .agency_line(&name)
            .ok_or_else(|| Refusal::because(format!("agency {name} was not added")))?;
        Ok(Answer::AgencyAdded { agency })
    }

    fn agency_line(&self, name: &AgencyName) -> Option<AgencyLine> {
        let agency = self.image.registry.agencies.get(name)?;
        Some(AgencyLine {
            name: name.clone(),
            prefixes: agency.prefixes.clone(),
            class: agency.class.clone(),
            region: agency.region.clone(),
            nodes: self
                .image
                .registry
                .nodes_of(name)
                .map(|(node, _)| node.clone())
                .collect(),
            key: agency.key.as_ref().map(|key| key.key),
            consents: (self.image.registry.consents.keys())
                .filter(|direction| direction.agency == *name)
                .map(|direction| direction.with.clone())
                .collect(),
        })
    }

    fn invite(
        &mut self,
        agency: AgencyName,
        node: &str,
        expires_in: Duration,
        by: &Origin,
        now: Now,
        token: Token,
    ) -> Result<Answer, Refusal> {
        let registry = &self.image.registry;
        if !registry.agencies.contains_key(&agency) {
            return Err(Refusal::because(format!(
                "agency {agency} is not registered; add it first: pnsbox-controller agency add {agency} --prefix PREFIX"
            )));
        }
        let name =
            NodeName::new(&agency, node).map_err(|error| Refusal::because(error.to_string()))?;
        if registry.nodes.contains_key(&name) {
            return Err(Refusal::because(format!(
                "{name} has already joined; for another box of {agency} choose another name with --node, for example --node gw2"
            )));
        }
        if registry.quarantine_of(&name).is_some() {
            return Err(Refusal::because(format!(
                "{agency} is in quarantine; let it in again first: pnsbox-controller release {agency}"
            )));
        }
        if registry.externals.contains_key(&name) {
            return Err(Refusal::because(format!(
                "{name} is a plain WireGuard device; choose another name with --node, or remove it: pnsbox-controller external remove {name}"
            )));
        }
        if expires_in.is_zero() || expires_in > MAX_INVITATION {
            return Err(Refusal::because(
                "--expires: must be from 1s to 90d".to_owned(),
            ));
        }
        let expires = now.wall.plus(expires_in);
        let mut draft = self.image.draft();
        let invitations = &mut draft.registry.invitations;
        let before = invitations.len();
        // An anchor that nobody used is withdrawn: one node, one good anchor.
        invitations.retain(|_, other| {
            other.node != name || other.spent.is_some() || other.expires <= now.wall
        });
        let replaced = invitations.len() < before;
        invitations.insert(
            token.digest(),
            Invitation {
                node: name.clone(),
                expires,
                spent: None,
            },
        );
        draft.registry.forget_old_invitations(now.wall);
        let what = format!("invite {name} until {expires}");
        self.image.commit(
            draft,
            Some(&BTreeSet::new()),
            Deed {
                by,
                what: &what,
                when: now.wall,
            },
            &self.key,
        );
        let Network {
            name: network,
            addresses,
            root,
            ..
        } = self.image.registry.network.clone();
        let anchor = Anchor {
            network,
            node: name.clone(),
            controllers: addresses,
            root: root.fingerprint(),
            token,
            expires,
        };
        Ok(Answer::Invited {
            anchor: anchor.to_string(),
            node: name,
            expires,
            replaced,
        })
    }
}

/// Why an agency cannot have `prefix`, if so.
fn judge_prefix(registry: &Registry, prefix: &IpNet) -> Option<String> {
    if prefix.trunc() != *prefix {
        return Some(format!(
            "--prefix {prefix}: has host bits; did you mean {}?",
            prefix.trunc()
        ));
    }
    if let Some(rule) = prefix::never_a_lan(prefix) {
        return Some(format!("--prefix {prefix}: {rule}"));
    }
    if let Some(range) = prefix::overlay_under(&registry.network, prefix) {
        return Some(format!(
            "--prefix {prefix}: overlaps the overlay pool {range}"
        ));
    }
    if let Some(address) = registry
        .network
        .addresses
        .iter()
        .find(|address| prefix.contains(&address.ip()))
    {
        return Some(format!(
            "--prefix {prefix}: contains the controller's address {address}, which must stay reachable"
        ));
    }
    registry.agencies.iter().find_map(|(other, agency)| {
        let held = agency
            .prefixes
            .iter()
            .find(|held| prefix::overlap(held, prefix))?;
        Some(format!(
            "--prefix {prefix}: overlaps {held}, which is registered for {other}"
        ))
    })
}

fn list(prefixes: &[IpNet]) -> String {
    let texts: Vec<String> = prefixes.iter().map(IpNet::to_string).collect();
    if texts.is_empty() {
        "no prefixes".to_owned()
    } else {
        texts.join(", ")
    }
}
