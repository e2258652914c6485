//! Puts an accepted view into force: one at a time, the latest wins, and what the host refuses is tried again.

use std::time::Duration;

use pnsbox_proto::envelope::Envelope;

use crate::event::{HostFacts, Output, ViewId};
use crate::host::HostConfig;
use crate::host_config::{Settings, host_config};
use crate::view::View;

/// What the host refused may be possible later: a port gets free, an uplink changes.
pub(crate) const RETRY: Duration = Duration::from_secs(10);

/// The view in force, the one under way, and the one that waits.
#[derive(Debug)]
pub(crate) struct Force {
    settings: Settings,
    current: Option<InForce>,
    under_way: Option<UnderWay>,
    waiting: Option<Candidate>,
    refused: Option<String>,
    retry_at: Option<Duration>,
    /// The last attempt at [`Force::put_first`]: of what knowledge, and when.
    adapted: Option<(u64, Duration)>,
    /// The host's own network changed while an attempt was under way.
    facts_changed: bool,
    generation: u64,
}

#[derive(Debug)]
struct InForce {
    view: View,
    config: HostConfig,
}

#[derive(Debug)]
struct UnderWay {
    generation: u64,
    candidate: Candidate,
    config: HostConfig,
}

/// An accepted view on its way into force.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) view: View,
    /// The certificate of the controller that sent it: it must be saved and acknowledged.
    /// Absent for a view from disk, or one that is adapted to a change of the host.
    pub(crate) sent_by: Option<Envelope>,
}

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// In force.
    InForce {
        /// As in [`Candidate`].
        sent_by: Option<Envelope>,
        /// What was in force until now.
        before: Option<Box<View>>,
    },
    /// Refused; the view before is still in force.
    Refused {
        /// The view that was tried.
        id: ViewId,
        /// Why.
        reason: String,
        /// Whether the controller awaits an answer.
        is_awaited: bool,
    },
    /// Of an attempt that nobody waits for.
    Stale,
}

impl Force {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            current: None,
            under_way: None,
            waiting: None,
            refused: None,
            retry_at: None,
            adapted: None,
            facts_changed: false,
            generation: 0,
        }
    }

    /// The view in force.
    pub(crate) fn view(&self) -> Option<&View> {
        self.current.as_ref().map(|current| &current.view)
    }

    /// The newest accepted view, in force or not: what a delta builds on and a newer one must exceed.
    pub(crate) fn newest(&self) -> Option<&View> {
        let waiting = self.waiting.as_ref().map(|candidate| &candidate.view);
        let under_way = self
            .under_way
            .as_ref()
            .map(|under_way| &under_way.candidate.view);
        waiting
            .or(under_way)
            .into_iter()
            .chain(self.view())
            .max_by_key(|view| view.id().version)
    }

    /// The view in force is this one as well: the same for the host, judged again.
    pub(crate) fn is_also(&mut self, view: View) {
        if let Some(current) = &mut self.current {
            current.view = view;
        }
    }

    /// Whether a view is on its way into force, or next. One that the host refused is neither.
    pub(crate) fn is_busy(&self) -> bool {
        self.under_way.is_some() || (self.waiting.is_some() && self.retry_at.is_none())
    }

    /// Whether this view is the next to be tried, at once or after the host refused it.
    pub(crate) fn waits_for(&self, id: ViewId) -> bool {
        let waiting = self.waiting.as_ref();
        waiting.is_some_and(|candidate| candidate.view.id() == id)
    }

    /// Why the newest view is not in force.
    pub(crate) fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Puts a view into force, after the attempt under way. It takes the place of any that waited:
    /// what is put is never older, and what is older never comes back.
    pub(crate) fn put(
        &mut self,
        candidate: Candidate,
        facts: &HostFacts,
        now: Duration,
        out: &mut Vec<Output>,
    ) -> Option<Ended> {
        if self.under_way.is_some() {
            self.waiting = Some(candidate);
            return None;
        }
        self.waiting = None;
        self.retry_at = None;
        self.attempt(candidate, facts, now, out)
    }

    /// Puts a view into force that takes nobody's place: a newer one that the host refused goes on waiting.
    pub(crate) fn put_first(
        &mut self,
        candidate: Candidate,
        facts: &HostFacts,
        now: Duration,
        out: &mut Vec<Output>,
    ) -> Option<Ended> {
        self.adapted = Some((candidate.view.judged, now));
        self.attempt(candidate, facts, now, out)
    }

    /// Whether what is known now was tried with the view in force, and need not be tried again yet.
    pub(crate) fn adapted_lately(&self, judged: u64, now: Duration) -> bool {
        self.adapted
            .is_some_and(|(tried, at)| tried == judged && now < at + RETRY)
    }

    fn attempt(
        &mut self,
        candidate: Candidate,
        facts: &HostFacts,
        now: Duration,
        out: &mut Vec<Output>,
    ) -> Option<Ended> {
        match host_config(&candidate.view, facts, &self.settings) {
            Ok(config) => {
                self.generation += 1;
                let host = Box::new(config.clone());
                out.push(Output::Apply {
                    generation: self.generation,
                    host,
                });
                self.under_way = Some(UnderWay {
                    generation: self.generation,
                    candidate,
                    config,
                });
                None
            }
            Err(reason) => Some(self.refuse(candidate, reason, now)),
        }
    }

    /// The host is done with an attempt.
    pub(crate) fn applied(
        &mut self,
        generation: u64,
        result: Result<(), String>,
        now: Duration,
    ) -> Ended {
        match self.under_way.take() {
            Some(done) if done.generation == generation => match result {
                Ok(()) => {
                    let Candidate { view, sent_by } = done.candidate;
                    let config = done.config;
                    let before = self.current.replace(InForce { view, config });
                    self.refused = None;
                    Ended::InForce {
                        sent_by,
                        before: before.map(|before| Box::new(before.view)),
                    }
                }
                Err(reason) => self.refuse(done.candidate, reason, now),
            },
            other => {
                self.under_way = other;
                Ended::Stale
            }
        }
    }

    /// The next attempt: a newer view that waited, one that was refused and is due again,
    /// or the one in force, if the host changed meanwhile.
    /// What waited may rest on less than is known by now: `again` judges it anew.
    pub(crate) fn next(
        &mut self,
        facts: &HostFacts,
        now: Duration,
        again: impl FnOnce(View) -> View,
        out: &mut Vec<Output>,
    ) -> Option<Ended> {
        let due = self.retry_at.is_none_or(|at| at <= now);
        if self.under_way.is_some() || !due {
            return None;
        }
        if let Some(waited) = self.waiting.take() {
            let view = again(waited.view);
            let candidate = Candidate { view, ..waited };
            return self.put(candidate, facts, now, out);
        }
        if self.facts_changed {
            self.facts_changed(facts, now, out);
        }
        None
    }

    /// The host's own network changed: the same view may need another configuration.
    pub(crate) fn facts_changed(
        &mut self,
        facts: &HostFacts,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        self.facts_changed = self.under_way.is_some();
        if self.waiting.is_some() {
            self.retry_at = None;
        }
        if self.waiting.is_some() || self.under_way.is_some() {
            return;
        }
        let Some(current) = &self.current else { return };
        match host_config(&current.view, facts, &self.settings) {
            // What is in force stays: taking it away would help nobody.
            Err(collision) => self.refused = Some(collision),
            Ok(config) if config == current.config => self.refused = None,
            Ok(_) => {
                let candidate = Candidate {
                    view: current.view.clone(),
                    sent_by: None,
                };
                // A configuration was just made from these facts, so nothing is refused here.
                drop(self.put(candidate, facts, now, out));
            }
        }
    }

    fn refuse(&mut self, candidate: Candidate, reason: String, now: Duration) -> Ended {
        self.refused = Some(reason.clone());
        let (id, is_awaited) = (candidate.view.id(), candidate.sent_by.is_some());
        // A newer view that waits takes its place, at once.
        if self.waiting.is_none() {
            self.retry_at = Some(now + RETRY);
            self.waiting = Some(candidate);
        }
        Ended::Refused {
            id,
            reason,
            is_awaited,
        }
    }
}
