//! Puts an accepted view into force: one at a time, the latest wins, and what the host refuses is tried again.

use std::time::Duration;

use pnsbox_proto::envelope::Envelope;

use crate::event::{HostFacts, Output, ViewId};
use crate::host::HostConfig;
use crate::host_config::{Settings, host_config};
use crate::view::View;

/// What the host refused may be possible later: a port gets free, an uplink changes.
const RETRY: Duration = Duration::from_secs(10);

/// The view in force, the one under way, and the one that waits.
#[derive(Debug)]
pub(crate) struct Force {
    settings: Settings,
    current: Option<InForce>,
    under_way: Option<UnderWay>,
    waiting: Option<Candidate>,
    refused: Option<String>,
    retry_at: Option<Duration>,
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
            .max_by_key(|view| view.id.version)
    }

    /// Why the newest view is not in force.
    pub(crate) fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Puts a view into force, after the attempt under way.
    pub(crate) fn put(
        &mut self,
        candidate: Candidate,
        facts: &HostFacts,
        out: &mut Vec<Output>,
    ) -> Option<Ended> {
        if self.under_way.is_some() {
            self.waiting = Some(candidate);
            return None;
        }
        self.retry_at = None;
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
            Err(reason) => Some(self.refuse(candidate, reason, Duration::ZERO)),
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
                    self.current = Some(InForce {
                        view,
                        config: done.config,
                    });
                    self.refused = None;
                    Ended::InForce { sent_by }
                }
                Err(reason) => self.refuse(done.candidate, reason, now),
            },
            other => {
                self.under_way = other;
                Ended::Stale
            }
        }
    }

    /// The next attempt: a newer view that waited, or one that was refused and is due again.
    pub(crate) fn next(
        &mut self,
        facts: &HostFacts,
        now: Duration,
        out: &mut Vec<Output>,
    ) -> Option<Ended> {
        let due = self.retry_at.is_none_or(|at| at <= now);
        if self.under_way.is_some() || !due {
            return None;
        }
        let candidate = self.waiting.take()?;
        self.put(candidate, facts, out)
    }

    /// The host's own network changed: the same view may need another configuration.
    pub(crate) fn facts_changed(&mut self, facts: &HostFacts, out: &mut Vec<Output>) {
        if self.waiting.is_some() {
            self.retry_at = None;
            return;
        }
        let Some(current) = &self.current else { return };
        let changed = host_config(&current.view, facts, &self.settings)
            .is_ok_and(|config| config != current.config);
        if changed && self.under_way.is_none() {
            let candidate = Candidate {
                view: current.view.clone(),
                sent_by: None,
            };
            // A configuration was just made from these facts, so nothing is refused here.
            drop(self.put(candidate, facts, out));
        }
    }

    fn refuse(&mut self, candidate: Candidate, reason: String, now: Duration) -> Ended {
        self.refused = Some(reason.clone());
        self.retry_at = Some(now + RETRY);
        let (id, is_awaited) = (candidate.view.id, candidate.sent_by.is_some());
        // A newer view that waits takes its place.
        self.waiting.get_or_insert(candidate);
        Ended::Refused {
            id,
            reason,
            is_awaited,
        }
    }
}
