//! A new view on trial: it is kept only if the box is still where it was, in reach of the controller and of its peers.
//!
//! It decides; who speaks, listens and goes back is [`crate::agent`]. A view from disk, or a box's first, has no trial:
//! there is nothing to go back to.

use std::collections::BTreeSet;
use std::time::Duration;

use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::id::NodeName;

use crate::event::ViewId;
use crate::view::View;

/// How long a view has to prove itself. Going back takes a moment, so the box is as it was within a minute.
const TRIAL: Duration = Duration::from_secs(45);
/// How long a view has that was replaced before it could prove itself, when its successor failed: together they stay
/// within a minute.
const SECOND_CHANCE: Duration = Duration::from_secs(10);
/// Who is waited for is probed this often.
const PROBE: Duration = Duration::from_secs(1);

/// One view on trial.
#[derive(Debug)]
pub(crate) struct Trial {
    /// What to go back to.
    before: View,
    /// The trial of `before`, if that has not proved itself either.
    under: Option<Box<Self>>,
    /// The certificate of the controller that sent the one on trial.
    sent_by: Envelope,
    began: Duration,
    lasts: Duration,
    ask_at: Duration,
    controller_answered: bool,
    /// Peers whose link was up and whose record is another now: each must be heard.
    changed: Waited,
    /// Peers whose link was up and whose record is the same: half of them must be heard, as one may be switched off.
    same: Waited,
}

#[derive(Debug, Default)]
struct Waited {
    silent: BTreeSet<NodeName>,
    heard: usize,
}

impl Waited {
    fn heard(&mut self, node: &NodeName) {
        self.heard += usize::from(self.silent.remove(node));
    }
}

/// A view that was taken back. It is not tried again before the next start of the agent.
#[derive(Debug)]
pub(crate) struct TakenBack {
    /// Which.
    pub(crate) id: ViewId,
    /// Why, for people.
    pub(crate) reason: String,
}

/// How a trial stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Somebody was not heard yet.
    Waits,
    /// The view is kept.
    Holds,
    /// The view is taken back: why, for people.
    Fails(String),
}

impl Trial {
    /// Begins when `view` is in force in place of `before`; `up` are the peers whose links were up then.
    pub(crate) fn begin<'a>(
        view: &View,
        before: View,
        up: impl IntoIterator<Item = &'a NodeName>,
        sent_by: Envelope,
        now: Duration,
    ) -> Self {
        let (mut changed, mut same) = (Waited::default(), Waited::default());
        for node in up {
            match (before.peers.get(node), view.peers.get(node)) {
                (Some(old), Some(new)) if old == new => same.silent.insert(node.clone()),
                (Some(_), Some(_)) => changed.silent.insert(node.clone()),
                // Whoever is no peer any more is not missed.
                (None, _) | (_, None) => false,
            };
        }
        Self {
            before,
            under: None,
            sent_by,
            began: now,
            lasts: TRIAL,
            ask_at: now,
            controller_answered: false,
            changed,
            same,
        }
    }

    /// This one is replaced, before it is decided, by `next` in place of its view `current`.
    /// If it had little time, `current` is what `next` goes back to, and is tried again then.
    pub(crate) fn replaced_by(
        mut self,
        next: &View,
        current: View,
        mut up: BTreeSet<NodeName>,
        sent_by: Envelope,
        now: Duration,
    ) -> Self {
        // Whoever this one lost is waited for again.
        up.extend(self.silent().cloned());
        if let Some(under) = self.under.take() {
            self.before = under.before;
        }
        if now.saturating_sub(self.began) >= SECOND_CHANCE {
            return Self::begin(next, self.before, &up, sent_by, now);
        }
        let mut begun = Self::begin(next, current, &up, sent_by, now);
        for node in &self.changed.silent {
            if begun.same.silent.remove(node) {
                begun.changed.silent.insert(node.clone());
            }
        }
        begun.under = Some(Box::new(self));
        begun
    }

    /// The controller answered what it was asked since.
    pub(crate) fn controller_answered(&mut self) {
        self.controller_answered = true;
    }

    /// A probe that was sent then was echoed.
    pub(crate) fn heard(&mut self, node: &NodeName, sent: Duration) {
        if sent < self.began {
            return;
        }
        self.changed.heard(node);
        self.same.heard(node);
    }

    /// Who was not heard yet.
    pub(crate) fn silent(&self) -> impl Iterator<Item = &NodeName> {
        self.changed.silent.iter().chain(&self.same.silent)
    }

    /// Whom to probe now; whether the controller is to be asked is in the second value.
    pub(crate) fn asks(&mut self, now: Duration) -> (Vec<NodeName>, bool) {
        if now < self.ask_at {
            return (Vec::new(), false);
        }
        self.ask_at = now + PROBE;
        (self.silent().cloned().collect(), !self.controller_answered)
    }

    /// How it stands.
    pub(crate) fn verdict(&self, now: Duration) -> Verdict {
        let enough = self.same.heard >= self.same.silent.len();
        if self.controller_answered && self.changed.silent.is_empty() && enough {
            return Verdict::Holds;
        }
        if now < self.began + self.lasts {
            return Verdict::Waits;
        }
        let controller = (!self.controller_answered).then(|| "the controller".to_owned());
        let changed = self.changed.silent.iter().map(NodeName::to_string);
        let same = self.same.silent.iter().map(NodeName::to_string);
        let same = same.filter(|_| !enough);
        let missed: Vec<String> = controller.into_iter().chain(changed).chain(same).collect();
        Verdict::Fails(format!(
            "taken back after {} s, in which nothing was heard from {}",
            self.lasts.as_secs(),
            missed.join(", ")
        ))
    }

    /// What to go back to, and the trial that it is on then.
    pub(crate) fn into_before(self, now: Duration) -> (View, Option<Self>) {
        let again = self.under.map(|under| Self {
            began: now,
            lasts: SECOND_CHANCE,
            ask_at: now,
            ..*under
        });
        (self.before, again)
    }

    /// What to keep the view with.
    pub(crate) fn into_certificate(self) -> Envelope {
        self.sent_by
    }
}
