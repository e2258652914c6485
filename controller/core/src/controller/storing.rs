//! The store does not write: what was decided and is not on disk is taken back, nothing new is decided until it
//! writes again, and everything else goes on.

use pnsbox_proto::message::ToAgent;
use tracing::{error, info};

use super::{Controller, Now, Output};
use crate::image::{Image, LoadError};
use crate::operator::{Refusal, Request};
use crate::store::{Entry, Transaction};

impl Controller {
    /// Why nothing can be written, if so.
    pub fn store_failure(&self) -> Option<&str> {
        self.store_failure.as_deref()
    }

    /// `transaction` could not be written, for `reason`. Returns whether it decided something, and must be rolled back.
    /// If it only remembered what agents said, it waits here for the next that is taken.
    pub fn not_written(&mut self, transaction: Transaction, reason: String) -> bool {
        if self.store_failure.is_none() {
            error!(
                reason,
                "state cannot be written: nothing can be changed until it can; agents keep what they have"
            );
        }
        self.store_failure = Some(reason);
        let decided = transaction
            .changes
            .keys()
            .any(|key| !key.starts_with("agent/"));
        if !decided {
            self.image.put_back(transaction);
        }
        decided
    }

    /// Becomes what `entries` say again. Whoever would have been told something else dials anew.
    pub fn roll_back(&mut self, entries: &[Entry], now: Now) -> Result<(), LoadError> {
        let before = std::mem::replace(&mut self.image, Image::load(entries)?);
        // What these acknowledged is forgotten with it.
        let lost = before.agents.iter().filter(|(node, agent)| {
            let stored = self.image.agents.get(*node);
            stored.is_none_or(|stored| stored.held != agent.held)
        });
        self.untaken.extend(lost.map(|(node, _)| node.clone()));
        for output in std::mem::take(&mut self.outputs) {
            match output {
                Output::Send { session, message } => {
                    if matches!(*message, ToAgent::Joined { .. }) {
                        self.counters.joined = self.counters.joined.saturating_sub(1);
                    }
                    if self.sessions.contains_key(&session) {
                        self.close(session, "the controller cannot write its state now", now);
                    }
                }
                close @ Output::Close { .. } => self.outputs.push_back(close),
            }
        }
        let nodes = &self.image.registry.nodes;
        self.live.retain(|node, _| nodes.contains_key(node));
        self.image.forget_agents_without_node();
        Ok(())
    }

    /// The store writes again.
    pub fn store_recovered(&mut self, now: Now) {
        if self.store_failure.take().is_some() {
            info!("state can be written again");
            // What the last plan found may have been rolled back.
            self.begin_serving(now);
            self.release_relays(now);
            // Each says what its agency signed when it dials anew.
            for node in std::mem::take(&mut self.untaken) {
                if let Some(id) = self.occupied.get(&node).copied() {
                    self.close(id, "the controller can write its state again", now);
                }
            }
        }
    }

    /// What an operator is told instead of a change.
    pub(super) fn unwritable(&self, request: &Request) -> Option<Refusal> {
        let reason = self.store_failure.as_ref()?;
        match request {
            Request::AgencyAdd { .. }
            | Request::Invite { .. }
            | Request::ExternalAdd { .. }
            | Request::ExternalRemove { .. }
            | Request::Quarantine { .. }
            | Request::Release { .. }
            | Request::AdmissionRenew { .. }
            | Request::AgencySucceed { .. }
            | Request::Apply { .. }
            | Request::Rollback { dry_run: false, .. }
            | Request::RollOut { dry_run: false, .. }
            | Request::HaltRollout => {
                Some(Refusal::because(format!("{reason}; nothing was changed")))
            }
            Request::AgencyList
            | Request::ExternalList
            | Request::ExternalShow { .. }
            | Request::Plan { .. }
            | Request::History
            | Request::RootWork { .. }
            | Request::Version { .. }
            | Request::Diff { .. }
            | Request::Rollback { dry_run: true, .. }
            | Request::RollOut { dry_run: true, .. }
            | Request::Rollout
            | Request::Status => None,
        }
    }
}
