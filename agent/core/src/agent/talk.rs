//! The talk with the controller: when to dial, joining, greeting, and what is heard.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use ipnet::IpNet;
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::id::NodeName;
use pnsbox_proto::key::IdentityKey;
use pnsbox_proto::message::{JoinRequest, ToAgent, ToController};

use super::Agent;
use crate::control::{Expected, Session, judge_certificate};
use crate::event::{JoinCommand, Joined, Now, Output, SavedState};
use crate::links::Links;
use crate::trust::TrustState;

/// Prefixes as the controller keeps them.
fn in_order(prefixes: &[IpNet]) -> Vec<IpNet> {
    let sorted: BTreeSet<IpNet> = prefixes.iter().map(IpNet::trunc).collect();
    sorted.into_iter().collect()
}

impl Agent {
    pub(super) fn tick_control(&mut self, now: Now) {
        if self
            .control
            .join
            .as_ref()
            .is_some_and(|join| join.until <= now.monotonic)
        {
            let why = self
                .control
                .last_error
                .clone()
                .unwrap_or_else(|| "no controller answered".into());
            self.end_join(
                Err(format!(
                    "{why}; check that this box reaches the controller over UDP, then try again"
                )),
                now,
            );
        }
        if self.control.welcome_is_overdue(now.monotonic) {
            self.close_control("the controller did not introduce itself", now);
        }
        if self.control.dial_is_due(now.monotonic) {
            let controllers = match (&self.control.join, &self.saved) {
                (Some(join), _) => join.command.anchor.controllers.clone(),
                (None, Some(saved)) => saved.controllers.clone(),
                (None, None) => return,
            };
            self.control.session = Session::Dialling;
            self.dial(controllers);
        }
    }

    /// Tries the controllers in their order; first those in a version of IP that this host has an uplink for.
    fn dial(&mut self, mut controllers: Vec<SocketAddr>) {
        controllers.sort_by_key(|address| !self.facts.has_version_of(address));
        self.outputs.push_back(Output::DialControl { controllers });
    }

    pub(super) fn join(&mut self, command: JoinCommand, now: Now) {
        let refusal = match &self.saved {
            Some(SavedState { joined, .. }) if joined.network == command.anchor.network => {
                Some(format!(
                    "this box already is {} of network {}",
                    joined.node, joined.network
                ))
            }
            Some(SavedState { joined, .. }) => Some(format!(
                "this box already is {} of network {}, and the anchor is of network {}: \
                 a box belongs to one network; start with an empty state directory to change it",
                joined.node, joined.network, command.anchor.network
            )),
            None if self.control.join.is_some() => {
                Some("a join is already under way; wait for its answer".into())
            }
            None => None,
        };
        if let Some(reason) = refusal {
            self.outputs.push_back(Output::JoinOutcome(Err(reason)));
            return;
        }
        let controllers = command.anchor.controllers.clone();
        self.control.begin_join(command, now);
        self.dial(controllers);
    }

    fn end_join(&mut self, outcome: Result<Joined, String>, now: Now) {
        self.control.join = None;
        if outcome.is_err() {
            self.outputs.push_back(Output::CloseControl {
                reason: "the join failed".into(),
            });
            self.control.session = Session::Offline { dial_at: None };
            self.control.since = Some(now.monotonic);
        }
        self.outputs.push_back(Output::JoinOutcome(outcome));
    }

    pub(super) fn controller_said(&mut self, message: ToAgent, now: Now) {
        match message {
            ToAgent::Welcome {
                root,
                certificate,
                observed,
                node,
                now: theirs,
            } => {
                let Session::Greeting { key, .. } = self.control.session else {
                    return;
                };
                match self.welcome(&root, &certificate, &key, node.as_ref()) {
                    Ok(()) => {
                        self.control.online(key, certificate, observed, now);
                        self.tally.sessions += 1;
                        if let Some(trust) = &mut self.trust {
                            trust.compare_clock(theirs, now.wall);
                        }
                        self.greeted(now);
                    }
                    Err(reason) if self.control.join.is_some() => self.end_join(Err(reason), now),
                    Err(reason) => self.close_control(&reason, now),
                }
            }
            ToAgent::Joined {
                network,
                node,
                controllers,
            } if self.control.is_online() => {
                let Some(join) = self.control.join.clone() else {
                    return;
                };
                let Some(root) = self.control.root else {
                    return;
                };
                if network != join.command.anchor.network {
                    return self.end_join(
                        Err(format!(
                            "the controller let this box into network {network}"
                        )),
                        now,
                    );
                }
                let joined = Joined { network, node };
                let prefixes = in_order(&join.command.prefixes);
                self.belong(joined.clone(), root, controllers, prefixes);
                self.end_join(Ok(joined), now);
                self.announce();
            }
            ToAgent::JoinRefused { reason }
                if self.control.is_online() && self.control.join.is_some() =>
            {
                self.end_join(Err(reason.to_string()), now);
            }
            ToAgent::View(offered) if self.control.is_online() => self.offered(&offered, now),
            ToAgent::Documents {
                documents,
                quarantine,
            } if self.control.is_online() => {
                self.controller_told(&documents, quarantine.as_ref(), now);
            }
            ToAgent::Checked { view } if self.control.is_online() => {
                self.controller_answered(view, now);
            }
            ToAgent::Joined { .. }
            | ToAgent::JoinRefused { .. }
            | ToAgent::View(_)
            | ToAgent::Documents { .. }
            | ToAgent::Checked { .. } => {}
        }
    }

    /// The box has a place in a network, which it keeps.
    fn belong(
        &mut self,
        joined: Joined,
        root: IdentityKey,
        controllers: Vec<SocketAddr>,
        prefixes: Vec<IpNet>,
    ) {
        self.links = Some(Links::new(joined.node.clone()));
        self.saved = Some(SavedState {
            joined,
            root,
            controllers,
            view: None,
            prefixes,
            trust: TrustState::default(),
            endpoints: BTreeMap::new(),
        });
        self.begin_trust();
        self.save();
    }

    /// Whether to believe the controller that introduced itself.
    fn welcome(
        &mut self,
        root: &IdentityKey,
        certificate: &Envelope,
        tls_key: &IdentityKey,
        known_as: Option<&NodeName>,
    ) -> Result<(), String> {
        let expected = match (&self.control.join, &self.saved) {
            (Some(join), _) => Expected {
                network: &join.command.anchor.network,
                root: join.command.anchor.root,
            },
            (None, Some(saved)) => Expected {
                network: &saved.joined.network,
                root: saved.root.fingerprint(),
            },
            (None, None) => return Err("nobody asked this box to join".into()),
        };
        judge_certificate(expected, root, certificate, tls_key)?;
        if let (Some(saved), known_as) = (&self.saved, known_as)
            && known_as != Some(&saved.joined.node)
        {
            let known =
                known_as.map_or_else(|| "not at all".to_owned(), |node| format!("as {node}"));
            return Err(format!(
                "the controller knows this box {known}, not as {}",
                saved.joined.node
            ));
        }
        self.control.root = Some(*root);
        Ok(())
    }

    /// The controller is believed: say what it waits for.
    fn greeted(&mut self, now: Now) {
        if let Some(join) = &self.control.join {
            let request = JoinRequest {
                token: join.command.anchor.token.clone(),
                wireguard: self.identity.wireguard,
                agency: self.newest_agency_key(),
                prefixes: join.command.prefixes.clone(),
                public_endpoint: join.command.public_endpoint,
                second_endpoint: join.command.second_endpoint,
            };
            self.say(ToController::Join(request));
        } else {
            self.tell_controller_services();
            self.reporter.report_soon();
            // The outcome may have been lost with the session before.
            self.acknowledge();
            self.tell_unheard(now);
        }
    }

    pub(super) fn control_lost(&mut self, reason: String, now: Now) {
        let may_dial = self.saved.is_some() || self.control.join.is_some();
        if let Some(trust) = &self.trust {
            self.distrust.session_ended(&trust.own_agency());
        }
        self.control.lost(reason, may_dial, now, &mut self.jitter);
    }

    fn close_control(&mut self, reason: &str, now: Now) {
        self.outputs.push_back(Output::CloseControl {
            reason: reason.into(),
        });
        self.control_lost(reason.into(), now);
    }
}
