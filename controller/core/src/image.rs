//! All that is stored, in memory, and the changes of it that are not on disk yet.
//!
//! It reads and writes keys; what a change should be is decided by its callers.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::SigningKey;
use pnsbox_proto::agency::{QuarantineList, SignedQuarantine};
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::id::{AgencyName, NodeName};
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::Manifest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::audit::{self, Origin, Trail};
use crate::history::{History, Version};
use crate::plan;
use crate::policy::{Policies, Policy};
use crate::registry::quarantine::Subject;
use crate::registry::{Network, Registry};
use crate::rollout::{self, Rollout};
use crate::store::{Entry, Transaction};
use crate::view::{self, Author, Held, NodeView, TextRecord};

/// What is remembered of an agent between its sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentState {
    /// The view that it acknowledged last.
    pub held: Option<Held>,
    /// A later view that it refused.
    pub refused: Option<Refused>,
    /// End of its last session, if it ended while the controller ran.
    pub last_seen: Option<UnixTime>,
}

/// A view that an agent refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Its version.
    pub version: u64,
    /// The agent's reason.
    pub reason: String,
}

/// Who is changing something, what, and when.
#[derive(Debug, Clone, Copy)]
pub struct Deed<'a> {
    /// Who, and from where.
    pub by: &'a Origin,
    /// In words.
    pub what: &'a str,
    /// When.
    pub when: UnixTime,
}

/// What is decided, as it is to be.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The registry.
    pub registry: Registry,
    /// The policy.
    pub policy: Policy,
    /// Another that is rolled out, or was.
    pub rollout: Option<Rollout>,
}

impl Draft {
    /// Decides what outlives a plan.
    pub fn allocate(&mut self) {
        let policies = rollout::policies(&self.policy, self.rollout.as_ref());
        plan::allocate(&mut self.registry, policies);
    }

    /// Who has which policy.
    pub fn policies(&self) -> Policies<'_> {
        rollout::policies(&self.policy, self.rollout.as_ref())
    }
}

/// Why what is stored cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Nothing is stored.
    #[error(
        "there is no network here; make one with: pnsbox-controller init --network NAME --address ADDR:PORT"
    )]
    NoNetwork,
    /// A value is not what its key says.
    #[error("the store's entry {key} cannot be read")]
    Unreadable {
        /// Which.
        key: String,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A key that this version does not know.
    #[error(
        "the store has an entry {key} that this version does not know; it was written by a newer pnsbox-controller"
    )]
    Unknown {
        /// Which.
        key: String,
    },
}

/// All that is stored.
#[derive(Debug)]
pub struct Image {
    /// Who is in the network.
    pub registry: Registry,
    /// What the operator allows.
    pub policy: Policy,
    /// The rollout under way, or the last one.
    pub rollout: Option<Rollout>,
    /// Every policy that was in force.
    pub history: History,
    /// What each node should have.
    pub views: BTreeMap<NodeName, NodeView>,
    /// What each agent said last.
    pub agents: BTreeMap<NodeName, AgentState>,
    /// Where the audit trail is broken, if it is.
    pub audit_broken: Option<audit::Broken>,
    /// Who did what.
    pub audit: Trail,
    /// How far each agency is; signed anew every few minutes.
    pub statements: BTreeMap<AgencyName, Envelope>,
    /// Who is shut out, signed for those who hear of it from each other.
    pub quarantine: Option<SignedQuarantine>,
    revisions: BTreeMap<String, u64>,
    pending: Transaction,
}

impl Image {
    /// A new network; its first entries are pending.
    pub fn found(network: Network, deed: Deed<'_>) -> Self {
        let mut image = Self::empty(network);
        let network = image.registry.network.clone();
        image.put("network".to_owned(), &network);
        image.append_audit(deed);
        image
    }

    /// What `entries` say.
    pub fn load(entries: &[Entry]) -> Result<Self, LoadError> {
        let network = entries
            .iter()
            .find(|entry| entry.key == "network")
            .ok_or(LoadError::NoNetwork)?;
        let mut image = Self::empty(parse(
            "network",
            network.value.as_deref().unwrap_or_default(),
        )?);
        let (mut deeds, mut versions) = (Vec::new(), Vec::new());
        for entry in entries {
            if let Some(value) = &entry.value {
                image.revisions.insert(entry.key.clone(), entry.revision);
                match entry.key.split_once('/') {
                    Some(("audit", number)) => deeds.push((number, value.as_str())),
                    Some(("history", _)) => versions.push(parse(&entry.key, value)?),
                    _ => image.read(&entry.key, value)?,
                }
            }
        }
        image.history = History::of(versions);
        deeds.sort_unstable();
        let texts = || deeds.iter().map(|(_, text)| *text);
        let verified = Trail::verify(texts());
        image.audit = Trail::unverified(texts());
        image.audit_broken = verified.and_then(|_| image.views_are_witnesses()).err();
        Ok(image)
    }

    /// Every view was signed with the trail as it was then: who writes it anew would have to sign them all.
    fn views_are_witnesses(&self) -> Result<(), audit::Broken> {
        for (node, view) in &self.views {
            let witness = || format!("the view of {node}");
            let opened = view.manifest.open(&self.registry.network.controller);
            let manifest: Manifest = opened.map_err(|error| audit::Broken::Witness {
                witness: witness(),
                reason: error.to_string(),
            })?;
            self.audit.contains(manifest.audit, &witness())?;
        }
        Ok(())
    }

    /// Registry and policy, to be changed and committed.
    pub fn draft(&self) -> Draft {
        Draft {
            registry: self.registry.clone(),
            policy: self.policy.clone(),
            rollout: self.rollout.clone(),
        }
    }

    /// Who has which policy.
    pub fn policies(&self) -> Policies<'_> {
        rollout::policies(&self.policy, self.rollout.as_ref())
    }

    /// The nodes of `scope` (all, if `None`) whose records `draft` would change, with the new records.
    pub fn changed_records(
        &self,
        draft: &Draft,
        scope: Option<&BTreeSet<NodeName>>,
    ) -> BTreeMap<NodeName, Vec<TextRecord>> {
        let planned = match scope {
            Some(scope) => plan::plan_for(&draft.registry, draft.policies(), scope),
            None => plan::plan(&draft.registry, draft.policies()),
        };
        let texts = planned
            .into_iter()
            .map(|(node, records)| (node, view::texts(&records)));
        texts
            .filter(|(node, records)| {
                self.views
                    .get(node)
                    .is_none_or(|view| view.records != *records)
            })
            .collect()
    }

    /// Makes `draft` true: registry, policy, audit and the views that change. Returns whose views did.
    /// Nothing is written if nothing differs.
    pub fn commit(
        &mut self,
        mut draft: Draft,
        scope: Option<&BTreeSet<NodeName>>,
        deed: Deed<'_>,
        key: &SigningKey,
    ) -> Vec<NodeName> {
        draft.allocate();
        let changed = self.changed_records(&draft, scope);
        let same = draft.registry == self.registry
            && draft.policy == self.policy
            && draft.rollout == self.rollout;
        if same && changed.is_empty() {
            return Vec::new();
        }
        let before = std::mem::replace(&mut self.registry, draft.registry.clone());
        let after = draft.registry;
        if before.network != after.network {
            self.put("network".to_owned(), &after.network);
        }
        self.put_differences("agency", &before.agencies, &after.agencies);
        self.put_differences("node", &before.nodes, &after.nodes);
        self.put_differences("external", &before.externals, &after.externals);
        self.put_differences("token", &before.invitations, &after.invitations);
        self.put_differences("consent", &before.consents, &after.consents);
        self.put_differences("quarantine", &before.quarantined, &after.quarantined);
        self.put_differences("channels", &before.channels, &after.channels);
        if draft.policy != self.policy {
            self.put("policy".to_owned(), &draft.policy);
            self.policy = draft.policy;
        }
        if draft.rollout != self.rollout {
            self.put("rollout".to_owned(), &draft.rollout);
            self.rollout = draft.rollout;
        }
        self.append_audit(deed);
        if before.quarantined != after.quarantined {
            self.sign_quarantine(&after, deed.when, key);
        }
        let author = Author {
            network: &after.network.name,
            key,
            audit: self.audit.head(),
        };
        let mut touched = Vec::new();
        for (node, records) in changed {
            let view = author.sign(&node, self.views.get(&node), records);
            self.put(format!("view/{node}"), &view);
            self.views.insert(node.clone(), view);
            touched.push(node);
        }
        touched
    }

    /// An agency said how far it is, or its key changed and what it said before is void.
    pub fn state(&mut self, agency: &AgencyName, statement: Option<Envelope>) {
        if let Some(statement) = statement {
            self.put(format!("statement/{agency}"), &statement);
            self.statements.insert(agency.clone(), statement);
        }
    }

    /// What an agency said with a key that it has no more says nothing.
    pub fn forget_statement(&mut self, agency: &AgencyName) {
        if self.statements.remove(agency).is_some() {
            let key = format!("statement/{agency}");
            let expected = self.revision(&key);
            self.pending.set(key, expected, None);
        }
    }

    fn sign_quarantine(&mut self, registry: &Registry, issued: UnixTime, key: &SigningKey) {
        let (mut nodes, mut agencies) = (Vec::new(), Vec::new());
        for subject in registry.quarantined.keys() {
            match subject {
                Subject::Node(node) => nodes.push(node.clone()),
                Subject::Agency(agency) => agencies.push(agency.clone()),
            }
        }
        let list = QuarantineList {
            network: registry.network.name.clone(),
            // The trail only grows.
            sequence: self.audit.head().entries,
            issued,
            nodes,
            agencies,
        };
        let signed = SignedQuarantine {
            certificate: registry.network.certificate.clone(),
            list: Envelope::sign(&list, key),
        };
        self.put("quarantine-list".to_owned(), &signed);
        self.quarantine = Some(signed);
    }

    /// Adds a version of the policy, to be written with the change that it makes.
    pub fn remember(&mut self, version: Version) {
        self.put(format!("history/{:010}", version.number), &version);
        self.history.push(version);
    }

    /// Changes what is remembered of an agent.
    pub fn update_agent(&mut self, node: &NodeName, change: impl FnOnce(&mut AgentState)) {
        let mut state = self.agents.get(node).cloned().unwrap_or_default();
        change(&mut state);
        if self.agents.get(node) != Some(&state) {
            self.put(format!("agent/{node}"), &state);
            self.agents.insert(node.clone(), state);
        }
    }

    /// What must be written before any message leaves.
    pub fn take_transaction(&mut self) -> Transaction {
        std::mem::take(&mut self.pending)
    }

    /// `transaction`, taken before, was not written; what changed since stands.
    pub fn put_back(&mut self, transaction: Transaction) {
        let since = std::mem::replace(&mut self.pending, transaction);
        for (key, change) in since.changes {
            self.pending.set(key, change.expected, change.value);
        }
    }

    /// Drops what is remembered of agents whose join was taken back.
    pub fn forget_agents_without_node(&mut self) {
        let nodes = &self.registry.nodes;
        self.agents.retain(|node, _| nodes.contains_key(node));
        self.pending.changes.retain(|key, _| {
            let node = key.strip_prefix("agent/").and_then(|n| n.parse().ok());
            node.is_none_or(|node: NodeName| nodes.contains_key(&node))
        });
    }

    /// `transaction` is on disk.
    pub fn committed(&mut self, transaction: &Transaction, revision: u64) {
        for (key, change) in &transaction.changes {
            match change.value {
                Some(_) => self.revisions.insert(key.clone(), revision),
                None => self.revisions.remove(key),
            };
        }
    }

    fn empty(network: Network) -> Self {
        Self {
            registry: Registry::new(network),
            policy: Policy::default(),
            rollout: None,
            history: History::default(),
            views: BTreeMap::new(),
            agents: BTreeMap::new(),
            audit_broken: None,
            audit: Trail::default(),
            statements: BTreeMap::new(),
            quarantine: None,
            revisions: BTreeMap::new(),
            pending: Transaction::default(),
        }
    }

    fn read(&mut self, key: &str, value: &str) -> Result<(), LoadError> {
        let (kind, name) = key.split_once('/').unwrap_or((key, ""));
        let unknown = || LoadError::Unknown {
            key: key.to_owned(),
        };
        let node = || name.parse::<NodeName>().map_err(|_| unknown());
        match kind {
            "network" => {}
            "policy" => self.policy = parse(key, value)?,
            "rollout" => self.rollout = parse(key, value)?,
            "agency" => {
                let agency = name.parse().map_err(|_| unknown())?;
                self.registry.agencies.insert(agency, parse(key, value)?);
            }
            "node" => {
                self.registry.nodes.insert(node()?, parse(key, value)?);
            }
            "external" => {
                self.registry.externals.insert(node()?, parse(key, value)?);
            }
            "token" => {
                let token = name.parse().map_err(|_| unknown())?;
                self.registry.invitations.insert(token, parse(key, value)?);
            }
            "quarantine" => {
                let subject = name.parse().map_err(|_| unknown())?;
                let quarantine = parse(key, value)?;
                self.registry.quarantined.insert(subject, quarantine);
            }
            "consent" => {
                let direction = name.parse().map_err(|_| unknown())?;
                self.registry.consents.insert(direction, parse(key, value)?);
            }
            "statement" => {
                let agency = name.parse().map_err(|_| unknown())?;
                self.statements.insert(agency, parse(key, value)?);
            }
            "quarantine-list" => self.quarantine = Some(parse(key, value)?),
            "channels" => {
                self.registry.channels.insert(node()?, parse(key, value)?);
            }
            "view" => {
                self.views.insert(node()?, parse(key, value)?);
            }
            "agent" => {
                self.agents.insert(node()?, parse(key, value)?);
            }
            _ => return Err(unknown()),
        }
        Ok(())
    }

    fn put_differences<K: Ord + ToString, V: PartialEq + Serialize>(
        &mut self,
        kind: &str,
        before: &BTreeMap<K, V>,
        after: &BTreeMap<K, V>,
    ) {
        for (name, value) in after {
            if before.get(name) != Some(value) {
                self.put(format!("{kind}/{}", name.to_string()), value);
            }
        }
        for name in before.keys().filter(|name| !after.contains_key(name)) {
            let key = format!("{kind}/{}", name.to_string());
            let expected = self.revision(&key);
            self.pending.set(key, expected, None);
        }
    }

    fn append_audit(&mut self, deed: Deed<'_>) {
        let (number, text) = self.audit.append(deed.when, deed.by, deed.what);
        // Ten digits keep the order of keys the order of entries.
        let key = format!("audit/{number:010}");
        let expected = self.revision(&key);
        self.pending.set(key, expected, Some(text));
    }

    fn put<T: Serialize>(&mut self, key: String, value: &T) {
        let text = serde_json::to_string(value)
            .expect("what is stored are plain structs with string keys");
        let expected = self.revision(&key);
        self.pending.set(key, expected, Some(text));
    }

    fn revision(&self, key: &str) -> u64 {
        self.revisions.get(key).copied().unwrap_or(0)
    }
}

fn parse<T: DeserializeOwned>(key: &str, value: &str) -> Result<T, LoadError> {
    serde_json::from_str(value).map_err(|source| LoadError::Unreadable {
        key: key.to_owned(),
        source,
    })
}
