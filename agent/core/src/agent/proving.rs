//! Views on trial: asking controller and peers, keeping the view or going back to the one before.

use std::collections::BTreeSet;
use std::time::Duration;

use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::id::NodeName;
use pnsbox_proto::key::Digest;
use pnsbox_proto::message::{ToController, ViewOutcome};
use pnsbox_proto::probe::Probe;
use tracing::{info, warn};

use super::Agent;
use crate::event::{Now, ViewId};
use crate::force::{Candidate, RETRY};
use crate::trial::{TakenBack, Trial, Verdict};
use crate::view::View;

/// A view did not prove itself, and the one before is not in force yet: the host may refuse that too.
#[derive(Debug)]
pub(crate) struct GoingBack {
    view: Box<View>,
    /// When it is tried next.
    due: Duration,
}

impl GoingBack {
    pub(super) fn is_to(&self, id: ViewId) -> bool {
        self.view.id() == id
    }
}

impl Agent {
    /// The view that came into force has to prove itself against `before`, with these peers' links `up`.
    pub(super) fn try_view(
        &mut self,
        sent_by: Envelope,
        before: View,
        up: BTreeSet<NodeName>,
        now: Now,
    ) {
        let Some(view) = self.force.view() else {
            return;
        };
        let since = now.monotonic;
        // What did not prove itself is nothing to go back to.
        let before = self.going_back.take().map_or(before, |back| *back.view);
        self.trial = Some(match self.trial.take() {
            Some(trial) => trial.replaced_by(view, before, up, sent_by, since),
            None => Trial::begin(view, before, &up, sent_by, since),
        });
        self.acknowledge();
        self.tick_trial(now);
    }

    /// Asks whoever has not answered yet, and decides.
    pub(super) fn tick_trial(&mut self, now: Now) {
        let (Some(trial), Some(view)) = (&mut self.trial, self.force.view()) else {
            return;
        };
        let view = view.id().digest;
        let (peers, asks_controller) = trial.asks(now.monotonic);
        self.with_links(|links, out| {
            for peer in peers {
                links.probe(&peer, now.monotonic, out);
            }
        });
        if asks_controller {
            self.say(ToController::Check { view });
        }
        self.judge_trial(now);
    }

    pub(super) fn controller_answered(&mut self, view: Digest, now: Now) {
        let is_it = self.force.view().is_some_and(|v| v.id().digest == view);
        if let Some(trial) = self.trial.as_mut().filter(|_| is_it) {
            trial.controller_answered();
            self.judge_trial(now);
        }
    }

    pub(super) fn peer_answered(&mut self, node: Option<NodeName>, probe: Probe, now: Now) {
        if let (Some(trial), Some(node)) = (&mut self.trial, node) {
            trial.heard(&node, Duration::from_micros(probe.sent_us));
            self.judge_trial(now);
        }
    }

    fn judge_trial(&mut self, now: Now) {
        // A newer view decides itself what to go back to.
        let is_settled = !self.force.is_busy() && self.going_back.is_none();
        let Some(trial) = self.trial.take_if(|_| is_settled) else {
            return;
        };
        match trial.verdict(now.monotonic) {
            Verdict::Waits => self.trial = Some(trial),
            Verdict::Holds => {
                info!("the view has proved itself");
                self.keep(trial.into_certificate());
            }
            Verdict::Fails(reason) => self.take_back(trial, reason, now),
        }
    }

    fn take_back(&mut self, trial: Trial, reason: String, now: Now) {
        let Some(id) = self.force.view().map(|view| view.id()) else {
            return;
        };
        warn!(version = id.version, %reason, "the view before comes back");
        self.tally.views_refused += 1;
        let (before, again) = trial.into_before(now.monotonic);
        // The newest of them is what the controller waits to hear of.
        let is_newest = |back: &TakenBack| back.id.version <= id.version;
        if self.taken_back.as_ref().is_none_or(is_newest) {
            self.taken_back = Some(TakenBack { id, reason });
        }
        self.say_taken_back();
        self.trial = again;
        self.going_back = Some(GoingBack {
            view: Box::new(before),
            due: now.monotonic,
        });
        self.go_back(now);
    }

    /// Puts the view before into force; also again, where the host refused it and a newer view waits in its place.
    pub(super) fn go_back(&mut self, now: Now) {
        let Some(back) = &mut self.going_back else {
            return;
        };
        let waits = self.force.is_busy() || self.force.waits_for(back.view.id());
        if waits || now.monotonic < back.due {
            return;
        }
        back.due = now.monotonic + RETRY;
        // More may be known by now than when it was in force.
        let accepted = back.view.accepted.clone();
        let Some(view) = self.judge(accepted, now) else {
            return;
        };
        let (mut out, sent_by) = (Vec::new(), None);
        let candidate = Candidate { view, sent_by };
        let ended = self
            .force
            .put_first(candidate, &self.facts, now.monotonic, &mut out);
        self.outputs.extend(out);
        if let Some(ended) = ended {
            self.attempt_ended(ended, now);
        }
    }

    /// Tells the controller of the view that did not prove itself.
    pub(super) fn say_taken_back(&mut self) {
        let Some(TakenBack { id, reason }) = &self.taken_back else {
            return;
        };
        let outcome = ViewOutcome::RolledBack {
            reason: reason.clone(),
        };
        self.say(ToController::ViewOutcome {
            version: id.version,
            digest: id.digest,
            outcome,
            quarantined: Vec::new(),
        });
    }
}
