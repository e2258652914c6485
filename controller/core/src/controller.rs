//! What can happen to the controller, and what follows: the only entrance to the core.
//!
//! One task owns it: it hands in what happened, commits [`Controller::take_transaction`], and only then lets
//! out what [`Controller::poll_output`] gives.

mod documents;
mod enrol;
mod external;
mod founding;
mod operate;
mod quarantine;
mod rollout;
mod root;
mod said;
mod storing;
#[cfg(test)]
mod tests;
mod versions;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use pnsbox_proto::PROTOCOL_VERSION;
use pnsbox_proto::frame;
use pnsbox_proto::health::HealthReport;
use pnsbox_proto::id::NodeName;
use pnsbox_proto::key::{Digest, IdentityKey};
use pnsbox_proto::message::{JoinRefusal, ToAgent, ToController, ViewOutcome};
use pnsbox_proto::service::Service;
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::AuditHead;
use tracing::{debug, error, info, warn};

use crate::audit::Origin;
use crate::fleet::{self, Live, NodeState};
use crate::image::{Deed, Image, LoadError, Refused};
use crate::plan::mesh;
use crate::rollout::watch::Watch;
use crate::session::{Session, SessionId};
use crate::store::{Entry, Transaction};

pub use founding::{ADMISSION_LIFE, Founding, certify_admission};

/// How long a session may last whose key is no node: enough for an admin's `pnsbox join`, too short to pile up.
const UNJOINED_LIFE: Duration = Duration::from_secs(30);

/// Services that one node may announce; the rest is dropped.
const MAX_SERVICES: usize = 256;

/// A moment, both ways: `monotonic` since the process started, for deadlines; `wall` for people and documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Never goes back.
    pub monotonic: Duration,
    /// May jump.
    pub wall: UnixTime,
}

/// Something must be done, after the transaction is on disk. In this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Say this to an agent.
    Send {
        /// Its session.
        session: SessionId,
        /// What.
        message: Box<ToAgent>,
    },
    /// End a session. The core has forgotten it.
    Close {
        /// Which.
        session: SessionId,
        /// Why, for the agent and for logs.
        reason: String,
    },
}

/// What happened since the process started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Boxes that joined, repeated answers included.
    pub joined: u64,
    /// Refused requests to join, by reason.
    pub joins_refused: BTreeMap<&'static str, u64>,
    /// Views sent.
    pub views_pushed: u64,
    /// Views that agents applied.
    pub views_applied: u64,
    /// Views that agents refused.
    pub views_refused: u64,
    /// Views of which agents lacked records.
    pub views_incomplete: u64,
    /// Bytes of views sent.
    pub view_bytes: u64,
    /// Rollouts that were halted.
    pub rollouts_halted: u64,
}

/// What Prometheus is to scrape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The node.
    pub node: NodeName,
    /// Where its metrics are.
    pub address: Ipv4Addr,
}

/// The controller.
#[derive(Debug)]
pub struct Controller {
    image: Image,
    key: SigningKey,
    admission: SigningKey,
    sessions: BTreeMap<SessionId, Session>,
    occupied: BTreeMap<NodeName, SessionId>,
    live: BTreeMap<NodeName, Live>,
    outputs: VecDeque<Output>,
    counters: Counters,
    serving: bool,
    store_failure: Option<String>,
    watch: Option<Watch>,
    /// Nodes that handed in what their agency signed, or acknowledged a view, and it is not on disk.
    untaken: BTreeSet<NodeName>,
    ticked: UnixTime,
}

/// The secret keys of a controller.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Of its sessions, and of views.
    pub controller: SigningKey,
    /// Admits agencies that have no key.
    pub admission: SigningKey,
}

/// Why stored state and key cannot make a controller.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The network was made by a version that knew no admission keys.
    #[error(
        "the network's entry has no readable certificate of an admission key; put the state directory back from a backup"
    )]
    NoAdmission,
    /// The key is another network's, or was replaced.
    #[error(
        "the key in {file} is {found}, but the network's root certified {expected}; put the right {file} back"
    )]
    WrongKey {
        /// In which file it should be.
        file: &'static str,
        /// Fingerprint of the key on disk.
        found: Digest,
        /// Fingerprint of the certified key.
        expected: Digest,
    },
}

impl Controller {
    /// The controller that `entries` describe, with its key.
    pub fn load(entries: &[Entry], keys: Keys) -> Result<Self, StartError> {
        let image = Image::load(entries)?;
        let network = &image.registry.network;
        let admits = network.admission_certificate();
        let admits = admits.ok_or(StartError::NoAdmission)?.admission;
        for (file, key, expected) in [
            ("controller.key", &keys.controller, network.controller),
            ("admission.key", &keys.admission, admits),
        ] {
            let found = IdentityKey(key.verifying_key().to_bytes());
            if found != expected {
                return Err(StartError::WrongKey {
                    file,
                    found: found.fingerprint(),
                    expected: expected.fingerprint(),
                });
            }
        }
        let Keys {
            controller: key,
            admission,
        } = keys;
        Ok(Self {
            image,
            key,
            admission,
            sessions: BTreeMap::new(),
            occupied: BTreeMap::new(),
            live: BTreeMap::new(),
            outputs: VecDeque::new(),
            counters: Counters::default(),
            serving: false,
            store_failure: None,
            watch: None,
            untaken: BTreeSet::new(),
            ticked: UnixTime(0),
        })
    }

    /// Sessions will come. Plans anew, in case this version plans otherwise than the last one.
    pub fn begin_serving(&mut self, now: Now) {
        self.serving = true;
        self.ticked = now.wall;
        if let Some(broken) = &self.image.audit_broken {
            error!(%broken, "who did what can no longer be proved; compare with a backup of the state directory");
        }
        let draft = self.image.draft();
        let by = Origin::here("controller");
        let deed = Deed {
            by: &by,
            what: "plan anew at start",
            when: now.wall,
        };
        let touched = self.image.commit(draft, None, deed, &self.key);
        if !touched.is_empty() {
            info!(
                views = touched.len(),
                "views differ from those of the last run"
            );
        }
    }

    /// A session stands; `key` is the one that TLS proved.
    pub fn handle_connected(
        &mut self,
        id: SessionId,
        key: IdentityKey,
        observed: SocketAddr,
        now: Now,
    ) {
        self.sessions
            .insert(id, Session::new(key, observed, now.monotonic));
    }

    /// An agent said something.
    pub fn handle_message(&mut self, id: SessionId, message: ToController, now: Now) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let node = session.node.clone();
        match (message, session.greeted, node) {
            (
                ToController::Hello {
                    protocol,
                    software,
                    view,
                    audit,
                    run,
                },
                false,
                _,
            ) => {
                let greeting = Greeting {
                    protocol,
                    software,
                    view,
                    audit,
                    run,
                };
                self.greet(id, greeting, now);
            }
            (ToController::Join(request), true, _) => self.join(id, &request, now),
            (ToController::Check { view }, true, Some(_)) => {
                self.outputs.push_back(Output::Send {
                    session: id,
                    message: Box::new(ToAgent::Checked { view }),
                });
            }
            (ToController::Documents { documents }, true, Some(node)) => {
                self.signed(id, &node, documents, now);
            }
            (ToController::Health(report), true, Some(node)) => self.report(&node, report, now),
            (ToController::Services { services }, true, Some(node)) => {
                self.announce(&node, services)
            }
            (
                ToController::ViewOutcome {
                    version,
                    digest,
                    outcome,
                    quarantined,
                },
                true,
                Some(node),
            ) => {
                self.outcome(
                    id,
                    &node,
                    Acknowledgement {
                        version,
                        digest,
                        outcome,
                        quarantined,
                    },
                    now,
                );
            }
            (_, true, None) => self.close(id, "this box has not joined", now),
            (_, _, _) => self.close(id, "hello must come first, and once", now),
        }
    }

    /// A session ended.
    pub fn handle_closed(&mut self, id: SessionId, now: Now) {
        self.forget(id, now);
    }

    /// Time went by; about once a second.
    pub fn handle_tick(&mut self, now: Now) {
        self.ticked = now.wall;
        let idle = |session: &Session| {
            session.node.is_none() && now.monotonic.saturating_sub(session.since) >= UNJOINED_LIFE
        };
        let ended: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, s)| idle(s))
            .map(|(id, _)| *id)
            .collect();
        for id in ended {
            self.close(id, "it did not join in time", now);
        }
        self.step_rollout(now);
        let all = self.occupied.keys().cloned().collect();
        self.push(&all, now);
    }

    /// What is to be done next, once the transaction is on disk.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What must be on disk before any output leaves.
    pub fn take_transaction(&mut self) -> Transaction {
        self.image.take_transaction()
    }

    /// `transaction` is on disk, as `revision`.
    pub fn committed(&mut self, transaction: &Transaction, revision: u64) {
        self.image.committed(transaction, revision);
        if self.store_failure.is_none() {
            self.untaken.clear();
        }
    }

    /// The network's name.
    pub fn network(&self) -> &crate::registry::Network {
        &self.image.registry.network
    }

    /// What happened since the process started.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Sessions, of nodes and of strangers.
    pub fn session_counts(&self) -> (usize, usize) {
        (
            self.occupied.len(),
            self.sessions.len().saturating_sub(self.occupied.len()),
        )
    }

    /// Number of nodes by state, as of the last tick.
    pub fn node_states(&self) -> BTreeMap<NodeState, usize> {
        let mut counts: BTreeMap<NodeState, usize> = NodeState::ALL.map(|state| (state, 0)).into();
        for name in self.image.registry.nodes.keys() {
            *counts
                .entry(fleet::state(&self.image, name, self.live.get(name)))
                .or_default() += 1;
        }
        let invitations = self.image.registry.invitations.values();
        let waiting = invitations.filter(|i| {
            i.spent.is_none()
                && i.expires > self.ticked
                && !self.image.registry.nodes.contains_key(&i.node)
        });
        counts.insert(NodeState::Invited, waiting.count());
        counts
    }

    /// Every joined node, and whether its session stands.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeName, bool)> {
        let nodes = self.image.registry.nodes.keys();
        nodes.map(|name| {
            let state = fleet::state(&self.image, name, self.live.get(name));
            (name, state == NodeState::Online)
        })
    }

    /// Number of claimed prefixes that are routed, and that are held back.
    pub fn prefix_counts(&self) -> (usize, usize) {
        let nodes = self.image.registry.nodes.values();
        nodes.fold((0, 0), |(active, held), node| {
            (
                active + node.active.len(),
                held + node.claimed.len().saturating_sub(node.active.len()),
            )
        })
    }

    /// Number of agencies.
    pub fn agency_count(&self) -> usize {
        self.image.registry.agencies.len()
    }

    /// What Prometheus is to scrape.
    pub fn targets(&self) -> Vec<Target> {
        let nodes = self.image.registry.nodes.iter();
        nodes
            .map(|(node, record)| Target {
                node: node.clone(),
                address: record.overlay_v4,
            })
            .collect()
    }

    fn greet(&mut self, id: SessionId, greeting: Greeting, now: Now) {
        let Greeting {
            protocol,
            software,
            view,
            audit,
            run,
        } = greeting;
        if protocol != PROTOCOL_VERSION {
            let reason = format!("protocol {protocol} is not spoken here, only {PROTOCOL_VERSION}");
            return self.close(id, &reason, now);
        }
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let node = self.image.registry.node_of(&session.key).cloned();
        let acknowledged = node
            .as_ref()
            .and_then(|node| self.image.agents.get(node)?.held.as_ref());
        let wanted = node.as_ref().and_then(|node| self.image.views.get(node));
        session.greet(view, acknowledged, wanted);
        let network = &self.image.registry.network;
        let welcome = ToAgent::Welcome {
            root: network.root,
            certificate: network.certificate.clone(),
            observed: session.observed,
            now: now.wall,
            node: node.clone(),
        };
        self.outputs.push_back(Output::Send {
            session: id,
            message: Box::new(welcome),
        });
        let Some(node) = node else { return };
        self.occupy(id, node.clone(), now);
        let witnessed = audit.map(|seen| self.image.audit.contains(seen, node.as_str()));
        let live = self.live.entry(node.clone()).or_default();
        live.software = Some(said::line(&software));
        if let (Some(run), Some(observed)) = (run, live.observed)
            && live.runs.came(run, observed, now.wall)
        {
            error!(%node, %observed, "one key is used by two boxes");
        }
        live.audit = witnessed.and_then(Result::err);
        if let Some(broken) = &live.audit {
            error!(%node, %broken, "an agent has seen another audit trail than this controller has");
        }
        self.push(&[node.clone()].into(), now);
        self.tell(&node);
    }

    /// The session now is that of `node`; an older one of the node ends.
    fn occupy(&mut self, id: SessionId, node: NodeName, now: Now) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.node = Some(node.clone());
        let observed = session.observed;
        let older = self
            .occupied
            .insert(node.clone(), id)
            .filter(|older| *older != id);
        if let Some(older) = older {
            self.sessions.remove(&older);
            let reason = "replaced by a newer session of the same box".to_owned();
            self.outputs.push_back(Output::Close {
                session: older,
                reason,
            });
        }
        let live = self.live.entry(node.clone()).or_default();
        live.observed = Some(observed);
        live.online_since.get_or_insert(now.wall);
        info!(%node, %observed, replaced = older.is_some(), "online");
    }

    fn report(&mut self, node: &NodeName, report: HealthReport, now: Now) {
        let report = said::report(report);
        let live = self.live.entry(node.clone()).or_default();
        live.software = Some(report.software.clone());
        live.report = Some(report);
        live.reported = Some(now.wall);
        live.heard = Some(now.monotonic);
    }

    fn announce(&mut self, node: &NodeName, mut services: Vec<Service>) {
        let announced = services.len();
        services.retain(|service| service.node == *node && service.name.agency() == node.agency());
        services.truncate(MAX_SERVICES);
        if services.len() < announced {
            warn!(%node, dropped = announced - services.len(), "announced services that are not its own, or too many");
        }
        self.live.entry(node.clone()).or_default().services = services;
    }

    fn outcome(&mut self, id: SessionId, node: &NodeName, said: Acknowledgement, now: Now) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        match said.outcome {
            ViewOutcome::Applied => {
                let Some(held) = session.applied(said.digest) else {
                    return debug!(%node, version = said.version, "acknowledged a view that is not under way");
                };
                self.counters.views_applied += 1;
                self.image.update_agent(node, |agent| {
                    // One that went back to this view refused a later one, and still does.
                    agent.refused.take_if(|r| r.version <= held.version);
                    agent.held = Some(held);
                });
                if !said.quarantined.is_empty() {
                    warn!(%node, records = ?said.quarantined, "records of its view could not be read");
                }
                let live = self.live.entry(node.clone()).or_default();
                live.quarantined = said::lines(said.quarantined);
                if let Some(report) = &mut live.report {
                    // The report that says so is on its way.
                    report.view_applied = said.version;
                }
                self.release_relays(now);
            }
            ViewOutcome::Refused { reason } | ViewOutcome::RolledBack { reason } => {
                if !session.refused(said.digest) {
                    return debug!(%node, version = said.version, "refused a view that is not under way");
                }
                warn!(%node, version = said.version, reason, "view refused");
                self.counters.views_refused += 1;
                let reason = said::line(&reason);
                let refused = Refused {
                    version: said.version,
                    reason,
                };
                self.image
                    .update_agent(node, |agent| agent.refused = Some(refused));
            }
            ViewOutcome::OnTrial => session.tries(said.digest),
            ViewOutcome::Incomplete => {
                if session.incomplete(said.digest) {
                    self.counters.views_incomplete += 1;
                }
            }
        }
        self.push(&[node.clone()].into(), now);
    }

    /// A relay serves a pair until both members have applied the view that leads them to another.
    fn release_relays(&mut self, now: Now) {
        if self.store_failure.is_some() {
            return;
        }
        let has_moved = |node: &NodeName| {
            let held = self.image.agents.get(node).and_then(|a| a.held.as_ref());
            let wanted = self.image.views.get(node);
            held.map(|held| held.digest) == wanted.map(|view| view.digest)
        };
        let mut all = BTreeSet::new();
        for (relay, pair) in mesh::moved(&self.image.registry, has_moved) {
            let mut draft = self.image.draft();
            mesh::leave(&mut draft.registry, &relay, &pair);
            let what = format!("{} and {} have left relay {relay}", pair[0], pair[1]);
            let by = Origin::here("controller");
            let deed = Deed {
                by: &by,
                what: &what,
                when: now.wall,
            };
            let scope = [relay].into();
            all.extend(self.image.commit(draft, Some(&scope), deed, &self.key));
        }
        // Once, after the last: one transaction stores the last view of a relay alone, and no other is to be sent.
        self.push(&all, now);
    }

    /// Sends each of these nodes that is online what it lacks.
    fn push(&mut self, nodes: &BTreeSet<NodeName>, now: Now) {
        for node in nodes {
            let Some(id) = self.occupied.get(node).copied() else {
                continue;
            };
            let (Some(session), Some(wanted)) =
                (self.sessions.get_mut(&id), self.image.views.get(node))
            else {
                continue;
            };
            let Some(view) = session.next_view(wanted, now.monotonic) else {
                continue;
            };
            let message = ToAgent::View(view);
            let bytes = match frame::encode(&message) {
                Ok(frame) => u64::try_from(frame.len()).unwrap_or(u64::MAX),
                Err(reason) => {
                    error!(%node, version = wanted.version, %reason, "a view cannot be sent");
                    let live = self.live.entry(node.clone()).or_default();
                    live.unsendable = Some(Refused {
                        version: wanted.version,
                        reason: reason.to_string(),
                    });
                    continue;
                }
            };
            debug!(%node, version = wanted.version, bytes, "view sent");
            self.counters.views_pushed += 1;
            self.counters.view_bytes += bytes;
            self.live.entry(node.clone()).or_default().view_bytes_sent += bytes;
            self.outputs.push_back(Output::Send {
                session: id,
                message: Box::new(message),
            });
            // What is judged by keys that the view shows.
            self.tell(node);
        }
    }

    fn close(&mut self, id: SessionId, reason: &str, now: Now) {
        self.forget(id, now);
        self.outputs.push_back(Output::Close {
            session: id,
            reason: reason.to_owned(),
        });
    }

    fn forget(&mut self, id: SessionId, now: Now) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        let Some(node) = session.node else { return };
        if self.occupied.get(&node) != Some(&id) {
            return;
        }
        self.occupied.remove(&node);
        info!(%node, "offline");
        if let Some(live) = self.live.get_mut(&node) {
            live.online_since = None;
        }
        self.image
            .update_agent(&node, |agent| agent.last_seen = Some(now.wall));
    }
}

/// What an agent says first.
struct Greeting {
    protocol: u32,
    software: String,
    view: Option<Digest>,
    audit: Option<AuditHead>,
    run: Option<u64>,
}

/// What an agent says of a view.
struct Acknowledgement {
    version: u64,
    digest: Digest,
    outcome: ViewOutcome,
    quarantined: Vec<String>,
}

impl Counters {
    fn refused_join(&mut self, reason: &JoinRefusal) {
        *self.joins_refused.entry(refusal_word(reason)).or_default() += 1;
    }
}

/// Every reason for which a join is refused, as metrics say it.
pub const REFUSALS: [&str; 6] = [
    "unknown_token",
    "expired",
    "spent",
    "already_joined",
    "pool_exhausted",
    "invalid",
];

fn refusal_word(reason: &JoinRefusal) -> &'static str {
    match reason {
        JoinRefusal::UnknownToken => "unknown_token",
        JoinRefusal::Expired { .. } => "expired",
        JoinRefusal::Spent { .. } => "spent",
        JoinRefusal::AlreadyJoined { .. } => "already_joined",
        JoinRefusal::PoolExhausted => "pool_exhausted",
        JoinRefusal::Invalid { .. } => "invalid",
    }
}
