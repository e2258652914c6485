//! A policy that is rolled out in waves: who has it, who is watched, what was well before, and how it ended.
//!
//! It is stored with every change that it makes, so a controller that restarts knows which half has what.
//! Which wave a node is in is decided in [`waves`], whether a wave holds in [`watch`]; what follows, the controller does.

pub mod health;
pub mod watch;
pub mod waves;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pnsbox_proto::id::NodeName;
use pnsbox_proto::time::UnixTime;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::health::Health;
use crate::policy::{Policies, Policy};

/// Longest watch of one wave: a rollout keeps others from changing the policy.
pub const LONGEST_WATCH: Duration = Duration::from_secs(24 * 3600);

/// How an operator wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// The first wave, in per cent of the nodes that the change touches.
    pub share: u8,
    /// For how long each wave is watched once it has the change, in seconds.
    pub watch_s: u64,
}

/// A rollout, under way or the last one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Counts rollouts.
    pub id: u64,
    /// The version that the policy becomes.
    pub number: u64,
    /// The policy.
    pub policy: Policy,
    /// The table of its file.
    pub file: Value,
    /// The version that it brings back, if it does.
    pub restores: Option<u64>,
    /// What it changes, one line each.
    pub changes: Vec<String>,
    /// Who began it.
    pub who: String,
    /// From where.
    pub from: String,
    /// When.
    pub began: UnixTime,
    /// For how long each wave is watched, in seconds.
    pub watch_s: u64,
    /// Who gets it when. With the last wave, everybody has it, also who joined meanwhile.
    pub waves: Vec<BTreeSet<NodeName>>,
    /// The wave that has it, counted from 0.
    pub wave: usize,
    /// The nodes of this wave and of those before.
    pub updated: BTreeSet<NodeName>,
    /// Nodes whose view this rollout changed, and since which version of it: a relay is among them before its turn.
    pub watched: BTreeMap<NodeName, u64>,
    /// What was well when the wave began.
    pub before: Health,
    /// Where it stands.
    pub state: State,
}

/// Where a rollout stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Under way.
    Running,
    /// Everybody has it.
    Done {
        /// Since when.
        when: UnixTime,
    },
    /// Taken back.
    Halted {
        /// When.
        when: UnixTime,
        /// Why, one line each.
        reasons: Vec<String>,
        /// Nodes that have the records of before again.
        reverted: usize,
    },
}

impl State {
    /// All, as metrics say them.
    pub const ALL: [&str; 3] = ["running", "done", "halted"];

    /// The word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done { .. } => "done",
            Self::Halted { .. } => "halted",
        }
    }
}

impl Rollout {
    /// Whether it is under way.
    pub fn is_running(&self) -> bool {
        self.state == State::Running
    }

    /// Whether no wave comes after this one.
    pub fn is_last_wave(&self) -> bool {
        self.wave + 1 >= self.waves.len()
    }

    /// Goes on to a wave: its nodes have the policy.
    pub fn enter(&mut self, wave: usize) {
        self.wave = wave;
        self.updated
            .extend(self.waves.get(wave).into_iter().flatten().cloned());
    }
}

/// Who has which policy, with `policy` in force and perhaps another under way.
pub fn policies<'a>(policy: &'a Policy, rollout: Option<&'a Rollout>) -> Policies<'a> {
    match rollout.filter(|rollout| rollout.is_running()) {
        None => policy.into(),
        Some(rollout) => {
            let updated = (!rollout.is_last_wave()).then_some(&rollout.updated);
            Policies::during(policy, &rollout.policy, updated)
        }
    }
}

/// A rollout as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutStatus {
    /// Counts rollouts.
    pub id: u64,
    /// The version that the policy becomes.
    pub number: u64,
    /// The version that it brings back, if it does.
    pub restores: Option<u64>,
    /// What it changes.
    pub changes: Vec<String>,
    /// Who began it.
    pub who: String,
    /// From where.
    pub from: String,
    /// When.
    pub began: UnixTime,
    /// For how long each wave is watched, in seconds.
    pub watch_s: u64,
    /// The wave that it came to, counted from 1.
    pub wave: usize,
    /// Who gets it when.
    pub waves: Vec<BTreeSet<NodeName>>,
    /// Whether the wave has the change and is watched now.
    pub watching: bool,
    /// Whether the controller runs; else nobody is watched, and no wave follows.
    pub serving: bool,
    /// Nodes that have a view with the change to apply or have done so.
    pub touched: usize,
    /// Those of them that are not online, and get it when they come.
    pub offline: usize,
    /// Where it stands.
    #[serde(flatten)]
    pub state: State,
}
