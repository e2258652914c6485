//! What agencies signed comes in from the controller and from peers, is handed on, and changes what is in force.

use std::collections::BTreeMap;
use std::time::Duration;

use pnsbox_proto::agency::{AgencyDocument, SignedQuarantine, Statement};
use pnsbox_proto::id::{AgencyName, NodeName};
use pnsbox_proto::message::{LinkMessage, ToController};
use pnsbox_proto::view::AuditHead;
use tracing::{info, warn};

use super::Agent;
use crate::event::{ConnectionId, Now, Output};
use crate::force::Candidate;
use crate::trust::{Lesson, Pinned, Signed, Trust, agency_of};
use crate::view::{Accepted, View};

/// A controller that is online and was not told by itself what a peer knows has had time to be.
const HAND_ON_WITHIN: Duration = Duration::from_secs(60);

/// So many of one view's refused records are named to the admin.
const NAMED: usize = 3;

/// What a peer knew and the controller did not say.
#[derive(Debug, Clone)]
pub(crate) struct Ahead {
    pub(crate) peer: NodeName,
    pub(crate) sequence: u64,
    pub(crate) since: Duration,
}

/// What an honest controller never does.
#[derive(Debug, Default)]
pub(crate) struct Distrust {
    /// How often.
    pub(crate) times: u64,
    /// What it was last, and at which time.
    pub(crate) last: Option<(pnsbox_proto::time::UnixTime, String)>,
    /// Peers that knew more than the controller said, by agency.
    pub(crate) ahead: BTreeMap<AgencyName, Ahead>,
    /// The newest statement of each agency that the controller told of.
    told: BTreeMap<AgencyName, u64>,
}

impl Distrust {
    /// The controller told of a statement: it does not withhold it.
    fn is_told(&mut self, statement: &Statement) {
        let (agency, sequence) = (&statement.agency, statement.sequence);
        let told = self.told.entry(agency.clone()).or_default();
        *told = sequence.max(*told);
        self.ahead
            .retain(|of, ahead| of != agency || ahead.sequence > sequence);
    }

    /// Whether the controller told of this statement of `agency`, or of a newer one.
    fn has_told(&self, agency: &AgencyName, sequence: u64) -> bool {
        self.told.get(agency).is_some_and(|told| *told >= sequence)
    }

    /// The session is over: what the next one knows of `own` agency is not known, for an older copy may answer.
    pub(crate) fn session_ended(&mut self, own: &AgencyName) {
        self.told.remove(own);
    }

    /// Agencies of which the controller should have told by `now`.
    pub(crate) fn withheld(&self, now: Duration) -> impl Iterator<Item = (&AgencyName, &Ahead)> {
        let late = move |(_, ahead): &(&AgencyName, &Ahead)| {
            now.saturating_sub(ahead.since) >= HAND_ON_WITHIN
        };
        self.ahead.iter().filter(late)
    }
}

impl Agent {
    /// What is believed of an accepted view.
    pub(super) fn judge(&mut self, accepted: Accepted, now: Now) -> Option<View> {
        let trust = self.trust.as_mut()?;
        let view = trust.judge(accepted, now.wall);
        Some(view)
    }

    /// Notes what of a view from the controller is not believed: the first of it is most often what the rest follows from.
    pub(super) fn note_refused(&mut self, view: &View, now: Now) {
        let lies = view.refused.iter().filter(|refused| !refused.may_pass);
        let lies: Vec<String> = lies
            .map(|refused| format!("{}: {}", refused.id, refused.reason))
            .collect();
        if lies.is_empty() {
            return;
        }
        let mut said = lies[..lies.len().min(NAMED)].join("; ");
        if lies.len() > NAMED {
            said += &format!("; and {} more", lies.len() - NAMED);
        }
        self.distrust(said, now);
    }

    pub(super) fn distrust(&mut self, what: String, now: Now) {
        warn!(%what, "the controller sent what is not believed");
        self.distrust.times += 1;
        self.distrust.last = Some((now.wall, what));
        self.reporter.report_soon();
    }

    /// A peer was shown the controller's audit trail at some length: this box must have been shown the same.
    pub(super) fn compare_trails(&mut self, peer: &NodeName, theirs: AuditHead, now: Now) {
        if let Some(ours) = self.trails.heard(peer.clone(), theirs) {
            self.two_trails(peer, theirs, ours, now);
        }
    }

    fn two_trails(&mut self, peer: &NodeName, theirs: AuditHead, ours: AuditHead, now: Now) {
        let what = format!("{peer} was shown the audit trail {theirs}, this box {ours}");
        self.distrust(what, now);
    }

    /// Tells a peer which audit trail this box was shown.
    pub(super) fn tell_trail(&mut self, connection: ConnectionId) {
        if let Some(view) = self.force.newest() {
            let audit = view.accepted.audit;
            let message = LinkMessage::Trail { audit };
            self.outputs.push_back(Output::SendLink {
                connection,
                message,
            });
        }
    }

    /// A view with another audit trail came: peers hear of it.
    fn tick_trails(&mut self, now: Now) {
        let Some(ours) = self.force.newest().map(|view| view.accepted.audit) else {
            return;
        };
        let Some(others) = self.trails.shown(ours) else {
            return;
        };
        for (peer, theirs) in others {
            self.two_trails(&peer, theirs, ours, now);
        }
        let up = self.links.iter().flat_map(|links| links.up());
        let up: Vec<ConnectionId> = up.map(|(_, connection)| connection).collect();
        for connection in up {
            self.tell_trail(connection);
        }
    }

    /// Documents from the controller.
    pub(super) fn controller_told(
        &mut self,
        documents: &[AgencyDocument],
        quarantine: Option<&SignedQuarantine>,
        now: Now,
    ) {
        for (agency, lesson) in self.learn(documents, now) {
            if let Lesson::Refused {
                reason,
                is_older: false,
            } = lesson
            {
                self.distrust(format!("a document of {agency}: {reason}"), now);
            }
        }
        if let Some(Lesson::Refused {
            reason,
            is_older: false,
        }) = self.learn_quarantine(quarantine)
        {
            self.distrust(format!("the list of who is shut out: {reason}"), now);
        }
        self.compare_with_peers(documents);
    }

    /// What the controller told of is not withheld.
    fn compare_with_peers(&mut self, documents: &[AgencyDocument]) {
        for document in documents {
            if let AgencyDocument::Statement(envelope) = document
                && let Some(statement) = crate::trust::read::<Statement>(envelope)
                && let Some(trust) = &self.trust
                && trust.pinned(&statement.agency).is_some()
            {
                self.distrust.is_told(&statement);
            }
        }
    }

    /// Documents from a peer.
    pub(super) fn peer_told(
        &mut self,
        peer: &NodeName,
        documents: &[AgencyDocument],
        quarantine: Option<&SignedQuarantine>,
        now: Now,
    ) {
        let lessons = self.learn(documents, now);
        if let Some(Lesson::Refused {
            reason,
            is_older: false,
        }) = self.learn_quarantine(quarantine)
        {
            warn!(%peer, %reason, "a peer's list of who is shut out is not believed");
        }
        let Some(trust) = &self.trust else { return };
        let own = trust.own_agency();
        for (agency, lesson) in &lessons {
            let sequence = trust.pinned(agency).map_or(0, |pinned| pinned.sequence());
            match lesson {
                Lesson::New if *agency != own && *agency != peer.agency() => {
                    info!(%peer, %agency, sequence, "a peer knew more");
                }
                Lesson::Refused {
                    reason,
                    is_older: false,
                } => {
                    warn!(%peer, %agency, %reason, "a peer told what is not believed");
                }
                Lesson::New | Lesson::Known | Lesson::Early | Lesson::Refused { .. } => continue,
            }
        }
        for (agency, lesson) in lessons {
            if lesson == Lesson::New && agency != own {
                let sequence = trust.pinned(&agency).map_or(0, |pinned| pinned.sequence());
                // What is new beside it comes with a view.
                if self.distrust.has_told(&agency, sequence) {
                    continue;
                }
                let ahead = Ahead {
                    peer: peer.clone(),
                    sequence,
                    since: now.monotonic,
                };
                self.distrust.ahead.entry(agency).or_insert(ahead).sequence = sequence;
            }
        }
        self.gossip.has(peer, trust);
    }

    fn learn(&mut self, documents: &[AgencyDocument], now: Now) -> Vec<(AgencyName, Lesson)> {
        let Some(trust) = &mut self.trust else {
            return Vec::new();
        };
        let mut lessons = Vec::new();
        for document in documents {
            let Some(agency) = agency_of(document) else {
                continue;
            };
            let lesson = trust.learn(&agency, document, now.wall);
            lessons.push((agency, lesson));
        }
        lessons
    }

    fn learn_quarantine(&mut self, list: Option<&SignedQuarantine>) -> Option<Lesson> {
        let lesson = self.trust.as_mut()?.learn_quarantine(list?);
        info!(?lesson, "a list of whom the controller shut out");
        Some(lesson)
    }

    /// What follows from what was learnt: another view of things, a statement of ours, news for peers and controller.
    pub(super) fn tick_trust(&mut self, now: Now) {
        if !self.control.is_online() {
            // It cannot have told.
            for ahead in self.distrust.ahead.values_mut() {
                ahead.since = now.monotonic;
            }
        }
        let Some(trust) = &mut self.trust else { return };
        let signed = trust.restate(now.wall);
        if !signed.is_empty() {
            self.issued(signed);
        }
        self.judge_again(now);
        self.tick_trails(now);
        self.save_signed();
        self.hand_on();
    }

    /// What this box signed goes to the disk and to the controller; peers follow with the next tick.
    pub(super) fn issued(&mut self, signed: Signed) {
        self.save_signed();
        if self.control.is_online() {
            self.say(ToController::Documents { documents: signed });
        }
        self.reporter.report_soon();
    }

    /// Nobody hears of a document that a power cut could take back: its number would be given twice.
    fn save_signed(&mut self) {
        if self.trust.as_mut().is_some_and(Trust::take_must_save) {
            self.save();
        }
    }

    /// Tells the controller what it does not show of what this agency signed. Also a box without the key does, until the
    /// controller has told it of as much: the box that has the key may be gone, or never have reached the controller.
    pub(super) fn tell_unheard(&mut self, now: Now) {
        let (Some(trust), Some(view)) = (&mut self.trust, self.force.newest()) else {
            return;
        };
        trust.claim_own(&view.accepted, now.wall);
        let (Some(trust), Some(view)) = (&self.trust, self.force.newest()) else {
            return;
        };
        let own = trust.own_agency();
        let sequence = trust.pinned(&own).map_or(0, Pinned::sequence);
        if trust.key().is_err() && self.distrust.has_told(&own, sequence) {
            return;
        }
        let documents = trust.unheard(&view.accepted);
        self.save_signed();
        if !documents.is_empty() && self.control.is_online() {
            self.say(ToController::Documents { documents });
        }
    }

    fn judge_again(&mut self, now: Now) {
        let (Some(trust), Some(view)) = (&mut self.trust, self.force.view()) else {
            return;
        };
        let is_stale = view.judged != trust.revision() || trust.something_ended(now.wall);
        let tried = self.force.adapted_lately(trust.revision(), now.monotonic);
        if self.force.is_busy() || !is_stale || tried {
            return;
        }
        let judged = trust.judge(view.accepted.clone(), now.wall);
        if judged.does_the_same_as(view) {
            return self.force.is_also(judged);
        }
        info!("what is known changes what is in force");
        let candidate = Candidate {
            view: judged,
            sent_by: None,
        };
        let mut out = Vec::new();
        let ended = self
            .force
            .put_first(candidate, &self.facts, now.monotonic, &mut out);
        self.outputs.extend(out);
        if let Some(ended) = ended {
            self.attempt_ended(ended, now);
        }
    }

    fn hand_on(&mut self) {
        let (Some(trust), Some(links)) = (&self.trust, &self.links) else {
            return;
        };
        let owed = self.gossip.owed(trust).into_iter();
        let owed: Vec<(_, LinkMessage)> = owed
            .filter_map(|(peer, message)| Some((links.connection(&peer)?, message)))
            .collect();
        for (connection, message) in owed {
            self.outputs.push_back(Output::SendLink {
                connection,
                message,
            });
        }
    }
}
