//! Whether a wave holds: a judgement each second, from what the agents said.
//!
//! It lives in memory. A controller that restarts watches its wave anew, against the same "before".

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pnsbox_proto::id::NodeName;

use super::Rollout;
use super::health::{Health, Loss, is_expected};
use crate::fleet::Live;
use crate::image::Image;

/// How long a wave may take to apply: 45 s of trial, and the way there and back (`docs/decisions/0015`).
/// After a restart of the controller it is also the time in which agents dial again.
const APPLY_WITHIN: Duration = Duration::from_secs(60);

/// How long something must be lost: links are dialled again within 10 s, health is said every 10 s.
const PERSISTS: Duration = Duration::from_secs(30);

/// One in so many may be lost by chance: in a wave of hundreds, somebody's power fails each minute.
const CHANCE: usize = 50;

/// Reasons that are told one by one.
const MOST_REASONS: usize = 20;

/// The wave under way.
#[derive(Debug)]
pub struct Watch {
    /// Of which rollout.
    pub rollout: u64,
    /// Which of its waves.
    pub wave: usize,
    phase: Phase,
    missed: BTreeMap<NodeName, String>,
    lost: BTreeMap<Loss, Duration>,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Applying { since: Duration },
    Watching { since: Duration },
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Wait,
    /// The wave holds.
    Holds,
    /// Health fell.
    Fell(Vec<String>),
}

impl Watch {
    /// A wave that begins `now`, or that a restarted controller finds.
    pub fn new(rollout: &Rollout, now: Duration) -> Self {
        Self {
            rollout: rollout.id,
            wave: rollout.wave,
            phase: Phase::Applying { since: now },
            missed: BTreeMap::new(),
            lost: BTreeMap::new(),
        }
    }

    /// Whether the wave has its views and is watched.
    pub fn is_watching(&self) -> bool {
        matches!(self.phase, Phase::Watching { .. })
    }

    /// Judges the wave of `rollout`.
    pub fn judge(
        &mut self,
        rollout: &Rollout,
        image: &Image,
        live: &BTreeMap<NodeName, Live>,
        now: Duration,
    ) -> Verdict {
        let refused = refused(rollout, image, live);
        if !refused.is_empty() {
            return Verdict::Fell(told(refused));
        }
        match self.phase {
            Phase::Applying { since } => {
                let pending = pending(rollout, image, live);
                let late = now.saturating_sub(since) >= APPLY_WITHIN;
                if !pending.is_empty() && !late {
                    return Verdict::Wait;
                }
                self.missed = pending;
                self.phase = Phase::Watching { since: now };
                if self.missed.len() > by_chance(rollout.before.online.len()) {
                    return Verdict::Fell(told(self.missed.values().cloned()));
                }
                Verdict::Wait
            }
            Phase::Watching { since } => {
                let now_lost = rollout.before.lost(image, live, since);
                self.lost.retain(|loss, _| now_lost.contains(loss));
                for loss in now_lost {
                    self.lost.entry(loss).or_insert(now);
                }
                let ends = since + Duration::from_secs(rollout.watch_s);
                self.conclude(&rollout.before, ends, now)
            }
        }
    }

    fn conclude(&self, before: &Health, ends: Duration, now: Duration) -> Verdict {
        let is_ripe = |began: Duration| now.saturating_sub(began) >= PERSISTS;
        let ripe = self.lost.iter().filter(|(_, began)| is_ripe(**began));
        let (mut nodes, mut links, mut services) = (self.missed.clone(), Vec::new(), Vec::new());
        for (loss, _) in ripe {
            match loss {
                Loss::Offline(node) | Loss::Silent(node) => {
                    nodes
                        .entry(node.clone())
                        .or_insert_with(|| loss.to_string());
                }
                Loss::Link(_) => links.push(loss.to_string()),
                Loss::Service(..) => services.push(loss.to_string()),
            }
        }
        let nodes: Vec<String> = nodes.into_values().collect();
        let fell = [
            (nodes, before.online.len()),
            (links, before.links.len()),
            (services, before.services.len()),
        ];
        let fell = fell
            .into_iter()
            .filter(|(lost, of)| lost.len() > by_chance(*of));
        let reasons: Vec<String> = fell.flat_map(|(lost, _)| lost).collect();
        let unsure = |began: &Duration| *began < ends && !is_ripe(*began);
        if !reasons.is_empty() {
            Verdict::Fell(told(reasons))
        } else if now < ends || self.lost.values().any(unsure) {
            Verdict::Wait
        } else {
            Verdict::Holds
        }
    }
}

/// Who says itself that it does not take the change.
fn refused(rollout: &Rollout, image: &Image, live: &BTreeMap<NodeName, Live>) -> Vec<String> {
    let mut reasons = Vec::new();
    for (node, since) in &rollout.watched {
        if !is_expected(image, node) {
            continue;
        }
        let agent = image.agents.get(node);
        if let Some(refused) = agent.and_then(|agent| agent.refused.as_ref())
            && refused.version >= *since
        {
            let text = format!(
                "{node} refused view {}: {}",
                refused.version, refused.reason
            );
            reasons.push(text);
        }
        let live = live.get(node);
        if let Some(unsendable) = live.and_then(|live| live.unsendable.as_ref())
            && unsendable.version >= *since
        {
            let (version, reason) = (unsendable.version, &unsendable.reason);
            reasons.push(format!("{node} cannot be sent view {version}: {reason}"));
        }
    }
    reasons
}

/// Who was online, and does not have its view and a session yet; with the reason if it stays so.
fn pending(
    rollout: &Rollout,
    image: &Image,
    live: &BTreeMap<NodeName, Live>,
) -> BTreeMap<NodeName, String> {
    let limit = APPLY_WITHIN.as_secs();
    let expected: BTreeSet<&NodeName> = rollout.before.online.iter().collect();
    let expected = expected.into_iter().filter(|node| is_expected(image, node));
    let pending = expected.filter_map(|node| {
        let version = *rollout.watched.get(node)?;
        let is_online = live
            .get(node)
            .is_some_and(|live| live.online_since.is_some());
        let held = image.agents.get(node).and_then(|agent| agent.held.as_ref());
        let has_it = held.is_some_and(|held| held.version >= version);
        let reason = match (is_online, has_it) {
            (true, true) => return None,
            (true, false) => format!("{node} did not apply view {version} within {limit} s"),
            (false, true) => format!("{node} went offline after it applied view {version}"),
            (false, false) => format!("{node} went offline and did not apply view {version}"),
        };
        Some((node.clone(), reason))
    });
    pending.collect()
}

fn by_chance(of: usize) -> usize {
    of / CHANCE
}

fn told(reasons: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut reasons: Vec<String> = reasons.into_iter().collect();
    if reasons.len() > MOST_REASONS {
        let more = reasons.len() - MOST_REASONS;
        reasons.truncate(MOST_REASONS);
        reasons.push(format!("and {more} more"));
    }
    reasons
}
