//! Views on their way into force: from disk or from the controller, through the host, back to both.

use std::collections::BTreeSet;

use pnsbox_proto::certificate::ControllerCertificate;
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::id::NodeName;
use pnsbox_proto::key::Digest;
use pnsbox_proto::message::{ToController, ViewOutcome};
use pnsbox_proto::view::SignedView;
use tracing::{info, warn};

use super::Agent;
use crate::control::Session;
use crate::event::{Now, SavedState, SavedView};
use crate::force::{Candidate, Ended};
use crate::links::Links;
use crate::view::{Accepted, Judge, Refusal, View};

impl Agent {
    /// Puts the saved view into force, without asking anybody.
    pub(super) fn restore(&mut self, now: Now) {
        let Some(saved) = &self.saved else { return };
        let Some(view) = &saved.view else { return };
        match judge_saved(saved, view) {
            Ok(accepted) => {
                let Some(view) = self.judge(accepted, now) else {
                    return;
                };
                let (mut out, sent_by) = (Vec::new(), None);
                let candidate = Candidate { view, sent_by };
                // At the start there are no facts, and so nothing to refuse for.
                drop(
                    self.force
                        .put(candidate, &self.facts, now.monotonic, &mut out),
                );
                self.outputs.extend(out);
            }
            Err(reason) => {
                warn!(%reason, "the saved view is not used");
                self.broken_state = Some(reason);
            }
        }
    }

    pub(super) fn offered(&mut self, offered: &SignedView, now: Now) {
        let (Some(saved), Session::Online { key, certificate }) =
            (&self.saved, &self.control.session)
        else {
            return;
        };
        let digest = offered.manifest.payload_digest();
        if self
            .force
            .view()
            .is_some_and(|view| view.id().digest == digest)
        {
            return self.acknowledge();
        }
        if let Some(back) = &self.taken_back
            && back.id.digest == digest
        {
            return self.say_taken_back();
        }
        if self
            .force
            .newest()
            .is_some_and(|view| view.id().digest == digest)
        {
            // On its way into force; it is answered when the attempt ends.
            return;
        }
        let joined = &saved.joined;
        let judge = Judge {
            network: &joined.network,
            node: &joined.node,
            controller: key,
        };
        let held = self.force.newest().map(|view| &view.accepted);
        match judge.accept(offered, held) {
            Ok(accepted) => {
                let sent_by = Some(certificate.clone());
                let Some(view) = self.judge(accepted, now) else {
                    return;
                };
                self.note_refused(&view, now);
                if !view.accepted.quarantined.is_empty() {
                    warn!(records = ?view.accepted.quarantined, "records of the view cannot be read and are left out");
                }
                info!(version = view.id().version, "a view is accepted");
                let mut out = Vec::new();
                let candidate = Candidate { view, sent_by };
                let ended = self
                    .force
                    .put(candidate, &self.facts, now.monotonic, &mut out);
                self.outputs.extend(out);
                if let Some(ended) = ended {
                    self.attempt_ended(ended, now);
                }
            }
            Err(Refusal::Incomplete(missing)) => {
                info!(missing, "the view needs records that are not here");
                self.refuse(offered, digest, ViewOutcome::Incomplete);
            }
            Err(refusal) => {
                warn!(%refusal, "a view is refused");
                self.distrust_refusal(&refusal, now);
                self.tally.views_refused += 1;
                self.refuse(
                    offered,
                    digest,
                    ViewOutcome::Refused {
                        reason: refusal.to_string(),
                    },
                );
            }
        }
    }

    /// What only a controller sends that lost its history, or another's.
    fn distrust_refusal(&mut self, refusal: &Refusal, now: Now) {
        match refusal {
            Refusal::Incomplete(_) | Refusal::NoNode => {}
            Refusal::Envelope(_)
            | Refusal::OtherNetwork { .. }
            | Refusal::OtherNode { .. }
            | Refusal::NotNewer { .. }
            | Refusal::OtherHistory { .. } => self.distrust(refusal.to_string(), now),
        }
    }

    /// Answers for a view that was not accepted. Its version is only what it claims.
    fn refuse(&mut self, offered: &SignedView, digest: Digest, outcome: ViewOutcome) {
        let claimed = serde_json::from_str::<serde_json::Value>(&offered.manifest.payload).ok();
        let version = claimed
            .and_then(|manifest| manifest["version"].as_u64())
            .unwrap_or(0);
        self.say(ToController::ViewOutcome {
            version,
            digest,
            outcome,
            quarantined: Vec::new(),
        });
    }

    pub(super) fn attempt_ended(&mut self, ended: Ended, now: Now) {
        match ended {
            Ended::Stale => {}
            Ended::InForce { sent_by, before } => self.in_force(sent_by, before, now),
            Ended::Refused {
                id,
                reason,
                is_awaited,
            } => {
                warn!(version = id.version, %reason, "the view is not in force");
                self.tally.views_refused += 1;
                if is_awaited {
                    let outcome = ViewOutcome::Refused { reason };
                    let quarantined = Vec::new();
                    self.say(ToController::ViewOutcome {
                        version: id.version,
                        digest: id.digest,
                        outcome,
                        quarantined,
                    });
                }
                self.reporter.report_soon();
            }
        }
    }

    fn in_force(&mut self, sent_by: Option<Envelope>, before: Option<Box<View>>, now: Now) {
        let links = self.links.iter().flat_map(Links::up);
        let up: BTreeSet<NodeName> = links.map(|(node, _)| node.clone()).collect();
        let Some(view) = self.force.view() else {
            return;
        };
        let id = view.id();
        info!(version = id.version, "the view is in force");
        self.going_back.take_if(|back| back.is_to(id));
        self.tally.views_applied += 1;
        self.broken_state = None;
        let mut out = Vec::new();
        if let Some(links) = &mut self.links {
            links.reconcile(view, self.link_port, now.monotonic, &mut out);
        }
        self.catalogue.retain(view);
        self.reporter.in_force(now);
        self.outputs.extend(out);
        match (sent_by, before) {
            (Some(certificate), Some(before)) => self.try_view(certificate, *before, up, now),
            (Some(certificate), None) => self.keep(certificate),
            // Also of a view from disk: the controller may have greeted before it was in force.
            (None, _) => self.acknowledge(),
        }
        self.announce();
        self.tell_unheard(now);
        self.reporter.report_soon();
    }

    /// The view in force stays: from now on it is what the box comes back with.
    pub(super) fn keep(&mut self, certificate: Envelope) {
        let (Some(saved), Some(view)) = (&mut self.saved, self.force.view()) else {
            return;
        };
        saved.view = Some(SavedView {
            certificate,
            view: view.accepted.signed.clone(),
        });
        let version = view.id().version;
        self.taken_back.take_if(|back| back.id.version < version);
        self.save();
        self.acknowledge();
    }

    /// Says that the view in force is in force, and whether it is kept.
    pub(super) fn acknowledge(&mut self) {
        let Some(view) = self.force.view() else {
            return;
        };
        if self.going_back.is_some() {
            // It was said that this one is taken back.
            return;
        }
        let outcome = match self.trial {
            Some(_) => ViewOutcome::OnTrial,
            None => ViewOutcome::Applied,
        };
        let message = ToController::ViewOutcome {
            version: view.id().version,
            digest: view.id().digest,
            outcome,
            quarantined: view.accepted.quarantined.clone(),
        };
        self.say(message);
    }
}

/// Judges what was on disk as if it came from the network: root, certificate, manifest.
fn judge_saved(saved: &SavedState, view: &SavedView) -> Result<Accepted, String> {
    let certificate: ControllerCertificate = view
        .certificate
        .open(&saved.root)
        .map_err(|e| format!("the saved certificate is not used: {e}"))?;
    if certificate.network != saved.joined.network {
        return Err(format!(
            "the saved certificate is not used: it is of network {}, this box belongs to {}",
            certificate.network, saved.joined.network
        ));
    }
    let judge = Judge {
        network: &saved.joined.network,
        node: &saved.joined.node,
        controller: &certificate.controller,
    };
    judge
        .accept(&view.view, None)
        .map_err(|e| format!("the saved view is not used: {e}"))
}
