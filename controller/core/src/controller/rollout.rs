//! A policy goes to everybody in waves: begun, carried on each second, finished, halted and shown.

use std::collections::{BTreeMap, BTreeSet};

use pnsbox_proto::id::NodeName;
use tracing::{error, info};

use super::{Controller, Now};
use crate::audit::Origin;
use crate::difference::{Difference, TouchedNode};
use crate::history::Version;
use crate::image::{Deed, Draft};
use crate::operator::{Answer, Refusal, Source};
use crate::plan;
use crate::policy::Policies;
use crate::rollout::health::Health;
use crate::rollout::watch::{Verdict, Watch};
use crate::rollout::waves::{Candidate, waves};
use crate::rollout::{Canary, LONGEST_WATCH, Rollout, RolloutStatus, State};
use crate::view::texts;

impl Controller {
    pub(super) fn roll_out(
        &mut self,
        source: Source,
        canary: Canary,
        dry_run: bool,
        by: &Origin,
        now: Now,
    ) -> Result<Answer, Refusal> {
        judge(canary)?;
        let (file, restores) = match source {
            Source::File(file) => (file, None),
            Source::Version(number) => (self.file(number)?, Some(number)),
        };
        let (mut difference, draft) = self.difference(&file)?;
        let number = self.image.history.current() + 1;
        difference.waves = self.waves(&difference, &draft, canary, number);
        if dry_run {
            return Ok(Answer::Difference {
                difference: Box::new(difference),
                applied: false,
            });
        }
        self.refuse_during_rollout()?;
        if !self.serving {
            return Err(Refusal::because(
                "the controller is not running, so nobody can watch a rollout; start it, or apply without --canary"
                    .to_owned(),
            ));
        }
        if difference.nodes.is_empty() {
            // Nobody does anything else for it, so there is nothing to watch.
            return self.apply(file, restores, by, now);
        }
        let rollout = Rollout {
            id: self.image.rollout.as_ref().map_or(1, |last| last.id + 1),
            number,
            policy: draft.policy,
            file,
            restores,
            changes: difference.changes,
            who: by.who.clone(),
            from: by.from.clone(),
            began: now.wall,
            watch_s: canary.watch_s,
            waves: difference.waves,
            wave: 0,
            updated: BTreeSet::new(),
            watched: BTreeMap::new(),
            before: Health::default(),
            state: State::Running,
        };
        self.enter(rollout, 0, by, now);
        Ok(Answer::Rollout {
            rollout: self.rollout_status(),
        })
    }

    /// Takes back what the rollout under way has done, because an operator wants it.
    pub(super) fn stop_rollout(&mut self, by: &Origin, now: Now) -> Result<Answer, Refusal> {
        let Some(rollout) = self.running() else {
            return Err(Refusal::because(
                "no rollout is under way; to go back to an earlier policy: pnsbox-controller rollback"
                    .to_owned(),
            ));
        };
        let reasons = vec![format!("stopped by {}", by.who)];
        self.halt(rollout, reasons, by, now);
        Ok(Answer::Rollout {
            rollout: self.rollout_status(),
        })
    }

    /// Time went by.
    pub(super) fn step_rollout(&mut self, now: Now) {
        if self.store_failure.is_some() {
            return;
        }
        let Some(rollout) = self.image.rollout.as_ref().filter(|r| r.is_running()) else {
            self.watch = None;
            return;
        };
        let is_its = |watch: &Watch| (watch.rollout, watch.wave) == (rollout.id, rollout.wave);
        let watch = self.watch.take().filter(is_its);
        let mut watch = watch.unwrap_or_else(|| Watch::new(rollout, now.monotonic));
        let verdict = watch.judge(rollout, &self.image, &self.live, now.monotonic);
        self.watch = Some(watch);
        let by = Origin::here("controller");
        match (verdict, rollout.clone()) {
            (Verdict::Wait, _) => {}
            (Verdict::Fell(reasons), rollout) => self.halt(rollout, reasons, &by, now),
            (Verdict::Holds, rollout) if rollout.is_last_wave() => self.finish(rollout, now),
            (Verdict::Holds, rollout) => {
                let next = rollout.wave + 1;
                self.enter(rollout, next, &by, now);
            }
        }
    }

    pub(super) fn rollout_runs(&self) -> bool {
        self.running().is_some()
    }

    /// What else would change the policy.
    pub(super) fn refuse_during_rollout(&self) -> Result<(), Refusal> {
        let Some(rollout) = self.running() else {
            return Ok(());
        };
        Err(Refusal::because(format!(
            "policy version {} is being rolled out, wave {} of {}; wait for its end ('pnsbox-controller rollout status'), \
             or take it back: pnsbox-controller rollout halt",
            rollout.number,
            rollout.wave + 1,
            rollout.waves.len()
        )))
    }

    pub(super) fn rollout_status(&self) -> Option<Box<RolloutStatus>> {
        let rollout = self.image.rollout.as_ref()?;
        let offline = rollout.watched.keys().filter(|node| !self.is_online(node));
        Some(Box::new(RolloutStatus {
            id: rollout.id,
            number: rollout.number,
            restores: rollout.restores,
            changes: rollout.changes.clone(),
            who: rollout.who.clone(),
            from: rollout.from.clone(),
            began: rollout.began,
            watch_s: rollout.watch_s,
            wave: rollout.wave + 1,
            waves: rollout.waves.clone(),
            watching: self.watch.as_ref().is_some_and(Watch::is_watching),
            serving: self.serving,
            touched: rollout.watched.len(),
            offline: offline.count(),
            state: rollout.state.clone(),
        }))
    }

    /// Where the last rollout stands, unless another policy came after it.
    pub fn rollout_state(&self) -> Option<&State> {
        let last = self.image.rollout.as_ref()?;
        let current = self.image.history.current();
        let is_last = match &last.state {
            State::Running => true,
            State::Done { .. } => last.number == current,
            State::Halted { .. } => last.number > current,
        };
        is_last.then_some(&last.state)
    }

    /// What an operator should see who looks at the fleet: one under way, or one that was halted.
    pub(super) fn rollout_to_see(&self) -> Option<Box<RolloutStatus>> {
        let state = self.rollout_state()?;
        let is_over = matches!(state, State::Done { .. });
        (!is_over).then(|| self.rollout_status()).flatten()
    }

    pub(super) fn is_online(&self, node: &NodeName) -> bool {
        self.occupied.contains_key(node)
    }

    fn running(&self) -> Option<Rollout> {
        self.image.rollout.clone().filter(Rollout::is_running)
    }

    /// Who would get the policy of `draft` when.
    fn waves(
        &self,
        difference: &Difference,
        draft: &Draft,
        canary: Canary,
        number: u64,
    ) -> Vec<BTreeSet<NodeName>> {
        let touched: BTreeSet<&NodeName> = difference.nodes.iter().map(|t| &t.node).collect();
        if touched.is_empty() {
            return Vec::new();
        }
        let candidate = |of: &TouchedNode| Candidate {
            node: of.node.clone(),
            online: self.is_online(&of.node),
            public: self
                .image
                .registry
                .nodes
                .get(&of.node)
                .is_some_and(|n| n.public_endpoint.is_some()),
            partners: of
                .peers()
                .filter(|partner| touched.contains(partner))
                .collect(),
        };
        let candidates: Vec<Candidate> = difference.nodes.iter().map(candidate).collect();
        waves(&candidates, canary.share, number, |first| {
            let mut registry = self.image.registry.clone();
            let policies = Policies::during(&self.image.policy, &draft.policy, Some(first));
            plan::allocate(&mut registry, policies);
            let planned = plan::plan(&registry, policies).into_iter();
            planned
                .map(|(node, records)| (node, texts(&records)))
                .any(|(node, records)| {
                    let view = self.image.views.get(&node);
                    view.is_none_or(|view| view.records != records)
                })
        })
    }

    /// The nodes of a wave get the policy.
    fn enter(&mut self, mut rollout: Rollout, wave: usize, by: &Origin, now: Now) {
        rollout.enter(wave);
        let mut draft = self.image.draft();
        draft.rollout = Some(rollout.clone());
        draft.allocate();
        for node in self.image.changed_records(&draft, None).into_keys() {
            let next = self
                .image
                .views
                .get(&node)
                .map_or(1, |view| view.version + 1);
            rollout.watched.insert(node, next);
        }
        rollout.before = Health::of(&self.live, &rollout.watched);
        let mut what = format!(
            "roll out policy version {}, wave {} of {}, to {}",
            rollout.number,
            wave + 1,
            rollout.waves.len(),
            names(&rollout.waves[wave]),
        );
        if wave == 0 {
            what = format!("{what}: {}", rollout.changes.join("; "));
        }
        self.watch = Some(Watch::new(&rollout, now.monotonic));
        draft.rollout = Some(rollout);
        self.decide(draft, &what, by, now);
    }

    /// Everybody has it: it is the policy.
    fn finish(&mut self, mut rollout: Rollout, now: Now) {
        rollout.state = State::Done { when: now.wall };
        let (number, changes) = (rollout.number, rollout.changes.clone());
        let what = match rollout.restores {
            None => format!("apply policy, version {number}: {}", changes.join("; ")),
            Some(old) => format!(
                "roll back to policy version {old}, version {number}: {}",
                changes.join("; ")
            ),
        };
        self.image.remember(Version {
            number,
            when: now.wall,
            who: rollout.who.clone(),
            from: rollout.from.clone(),
            restores: rollout.restores,
            changes,
            file: rollout.file.clone(),
        });
        let by = Origin {
            who: rollout.who.clone(),
            from: rollout.from.clone(),
        };
        let mut draft = self.image.draft();
        draft.policy = rollout.policy.clone();
        draft.rollout = Some(rollout);
        self.watch = None;
        self.decide(draft, &what, &by, now);
        self.release_relays(now);
    }

    /// Everybody has the policy of before again.
    fn halt(&mut self, mut rollout: Rollout, reasons: Vec<String>, by: &Origin, now: Now) {
        let what = format!(
            "halt the rollout of policy version {} in wave {} of {}: {}",
            rollout.number,
            rollout.wave + 1,
            rollout.waves.len(),
            reasons.join("; ")
        );
        error!(
            version = rollout.number,
            wave = rollout.wave + 1,
            reasons = reasons.join("; "),
            "rollout halted"
        );
        rollout.state = State::Halted {
            when: now.wall,
            reasons,
            reverted: rollout.watched.len(),
        };
        let mut draft = self.image.draft();
        draft.rollout = Some(rollout);
        self.watch = None;
        self.counters.rollouts_halted += 1;
        self.decide(draft, &what, by, now);
    }

    fn decide(&mut self, draft: Draft, what: &str, by: &Origin, now: Now) {
        let when = now.wall;
        let touched = self
            .image
            .commit(draft, None, Deed { by, what, when }, &self.key);
        info!(views = touched.len(), what, "rollout");
        self.push(&touched.into_iter().collect(), now);
    }
}

fn judge(Canary { share, watch_s }: Canary) -> Result<(), Refusal> {
    if !(1..=100).contains(&share) {
        return Err(Refusal::because(format!(
            "--canary {share}%: must be from 1% to 100%"
        )));
    }
    if !(1..=LONGEST_WATCH.as_secs()).contains(&watch_s) {
        return Err(Refusal::because(format!(
            "--watch {watch_s}s: must be from 1s to 24h"
        )));
    }
    Ok(())
}

/// For the audit trail: who, as long as that can be read.
fn names(nodes: &BTreeSet<NodeName>) -> String {
    const MOST: usize = 20;
    let shown: Vec<&str> = nodes.iter().take(MOST).map(NodeName::as_str).collect();
    let more = nodes.len().saturating_sub(MOST);
    match more {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
