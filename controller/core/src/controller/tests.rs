//! The controller in virtual time over a store in memory that checks every expectation.

mod documents;
mod enrolment;
mod external;
mod policy;
mod quarantine;
mod rollout;
mod sessions;
mod signing;
mod trail;
mod trouble;
mod versions;

use std::collections::BTreeMap;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use ipnet::IpNet;
use pnsbox_proto::anchor::Anchor;
use pnsbox_proto::id::NodeName;
use pnsbox_proto::key::{Digest, IdentityKey, WireguardKey};
use pnsbox_proto::message::{JoinRefusal, JoinRequest, ToAgent, ToController, Token, ViewOutcome};
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::{Manifest, NodeRecord, Record, SignedView};
use serde_json::{Value, json};

use super::{Controller, Founding, Keys, Now, Output};
use crate::audit::{self, Origin};
use crate::fleet::{FleetStatus, NodeStatus};
use crate::operator::{Answer, Refusal, Request};
use crate::session::SessionId;
use crate::store::{Entry, Transaction};

/// A controller, its store, and what it sent.
struct World {
    controller: Controller,
    entries: BTreeMap<String, (u64, String)>,
    revision: u64,
    clock: Duration,
    sessions: SessionId,
    random: u8,
    sent: Vec<(SessionId, ToAgent)>,
    closed: Vec<(SessionId, String)>,
}

/// One box: its keys, its session, and the texts of the records it holds.
struct Box_ {
    seed: u8,
    /// Of its agent.
    run: u64,
    session: SessionId,
    manifest: Option<Manifest>,
    digest: Option<Digest>,
    records: BTreeMap<Digest, String>,
}

fn controller_key() -> SigningKey {
    SigningKey::from_bytes(&[200; 32])
}

fn keys() -> Keys {
    Keys {
        controller: controller_key(),
        admission: SigningKey::from_bytes(&[202; 32]),
    }
}

fn identity(seed: u8) -> IdentityKey {
    IdentityKey(
        SigningKey::from_bytes(&[seed; 32])
            .verifying_key()
            .to_bytes(),
    )
}

impl World {
    fn new() -> Self {
        Self::with_pool("100.127.0.0/16")
    }

    fn with_pool(pool: &str) -> Self {
        let founding = Founding {
            name: "pns".parse().unwrap(),
            addresses: vec!["203.0.113.10:443".parse().unwrap()],
            pool: pool.parse().unwrap(),
        };
        let root = SigningKey::from_bytes(&[201; 32]);
        let first = founding.transaction(&root, &keys(), &Origin::here("uid 0"), UnixTime(START));
        let mut entries = BTreeMap::new();
        commit(&mut entries, 1, &first);
        let mut controller = Controller::load(&listed(&entries), keys()).unwrap();
        let now = Now {
            monotonic: Duration::ZERO,
            wall: UnixTime(START),
        };
        controller.begin_serving(now);
        Self {
            controller,
            entries,
            revision: 1,
            clock: Duration::ZERO,
            sessions: 0,
            random: 0,
            sent: Vec::new(),
            closed: Vec::new(),
        }
    }

    fn now(&self) -> Now {
        Now {
            monotonic: self.clock,
            wall: UnixTime(START).plus(self.clock),
        }
    }

    /// Lets time go by, a tick each second.
    fn pass(&mut self, time: Duration) {
        for _ in 0..time.as_secs() {
            self.clock += Duration::from_secs(1);
            self.controller.handle_tick(self.now());
            self.settle();
        }
    }

    /// Commits and takes the outputs, as the shell does.
    fn settle(&mut self) {
        let transaction = self.controller.take_transaction();
        if !transaction.is_empty() {
            self.revision += 1;
            commit(&mut self.entries, self.revision, &transaction);
            self.controller.committed(&transaction, self.revision);
        }
        while let Some(output) = self.controller.poll_output() {
            match output {
                Output::Send { session, message } => self.sent.push((session, *message)),
                Output::Close { session, reason } => self.closed.push((session, reason)),
            }
        }
    }

    /// The process dies and comes back: only the store remains.
    fn restart(&mut self) {
        self.controller = Controller::load(&listed(&self.entries), keys()).unwrap();
        self.controller.begin_serving(self.now());
        self.settle();
    }

    fn ask(&mut self, request: Request) -> Result<Answer, Refusal> {
        self.random += 1;
        let answer = self.controller.handle_request(
            request,
            &Origin::here("uid 0"),
            self.now(),
            [self.random; 16],
        );
        self.settle();
        answer
    }

    fn add(&mut self, name: &str, prefixes: &[&str]) {
        let prefixes = prefixes.iter().map(|p| p.parse().unwrap()).collect();
        let name = name.parse().unwrap();
        self.ask(Request::AgencyAdd {
            name,
            prefixes,
            class: None,
            region: None,
        })
        .unwrap();
    }

    fn invite(&mut self, agency: &str, node: &str) -> Anchor {
        let agency = agency.parse().unwrap();
        match self.ask(Request::Invite {
            agency,
            node: node.to_owned(),
            expires_in_s: 3600,
        }) {
            Ok(Answer::Invited { anchor, .. }) => anchor.parse().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn apply(&mut self, policy: Value) -> crate::difference::Difference {
        match self.ask(Request::Apply { policy }) {
            Ok(Answer::Difference {
                difference,
                applied: true,
            }) => *difference,
            other => panic!("{other:?}"),
        }
    }

    fn plan(&mut self, policy: Value) -> crate::difference::Difference {
        match self.ask(Request::Plan { policy }) {
            Ok(Answer::Difference {
                difference,
                applied: false,
            }) => *difference,
            other => panic!("{other:?}"),
        }
    }

    fn status(&mut self) -> FleetStatus {
        match self.ask(Request::Status) {
            Ok(Answer::Status { fleet }) => *fleet,
            other => panic!("{other:?}"),
        }
    }

    fn node_status(&mut self, node: &str) -> NodeStatus {
        self.status()
            .nodes
            .into_iter()
            .find(|status| status.node.as_str() == node)
            .unwrap()
    }

    /// Opens a session and says hello.
    fn connect(&mut self, member: &mut Box_) {
        self.sessions += 1;
        member.session = self.sessions;
        let observed = "198.51.100.7:40000".parse().unwrap();
        self.controller.handle_connected(
            member.session,
            identity(member.seed),
            observed,
            self.now(),
        );
        let hello = ToController::Hello {
            protocol: 1,
            software: "0.1.0".to_owned(),
            view: member.digest,
            audit: member.manifest.as_ref().map(|manifest| manifest.audit),
            run: Some(member.run),
        };
        self.say(member, hello);
    }

    fn say(&mut self, member: &Box_, message: ToController) {
        self.controller
            .handle_message(member.session, message, self.now());
        self.settle();
    }

    fn disconnect(&mut self, member: &Box_) {
        self.controller.handle_closed(member.session, self.now());
        self.settle();
    }

    /// What was sent to the session since the last look.
    fn received(&mut self, member: &Box_) -> Vec<ToAgent> {
        let (mine, others) = std::mem::take(&mut self.sent)
            .into_iter()
            .partition(|(id, _)| *id == member.session);
        self.sent = others;
        mine.into_iter().map(|(_, message)| message).collect()
    }

    /// Asks to join; returns the controller's answer. The view that follows stays unread.
    fn try_join(
        &mut self,
        member: &Box_,
        token: Token,
        lan: &[&str],
        public: Option<&str>,
    ) -> ToAgent {
        let agency = self.agency_of(&token);
        let request = JoinRequest {
            token,
            wireguard: WireguardKey([member.seed; 32]),
            agency,
            prefixes: lan.iter().map(|p| p.parse::<IpNet>().unwrap()).collect(),
            public_endpoint: public.map(|p| p.parse().unwrap()),
            second_endpoint: None,
        };
        self.say(member, ToController::Join(request));
        let session = member.session;
        let answer = |(id, message): &(SessionId, ToAgent)| {
            *id == session
                && matches!(
                    message,
                    ToAgent::Joined { .. } | ToAgent::JoinRefused { .. }
                )
        };
        let place = self.sent.iter().position(answer).unwrap();
        self.sent.remove(place).1
    }

    /// The key of the agency that an invitation is for.
    fn agency_of(&self, token: &Token) -> Option<IdentityKey> {
        let invitations = &self.controller.image.registry.invitations;
        let invitation = invitations.get(&token.digest())?;
        let key = signing::agency_key(&invitation.node.agency());
        Some(IdentityKey(key.verifying_key().to_bytes()))
    }

    fn refusal(&mut self, member: &Box_, token: Token, lan: &[&str]) -> JoinRefusal {
        match self.try_join(member, token, lan, None) {
            ToAgent::JoinRefused { reason } => reason,
            other => panic!("{other:?}"),
        }
    }

    /// Registers nothing: invites, joins, applies and acknowledges the first view.
    fn join(&mut self, seed: u8, node: &str, lan: &[&str], public: Option<&str>) -> Box_ {
        let mut member = self.join_unsigned(seed, node, lan, public);
        self.sign_all(&mut member);
        member
    }

    /// The same, of which its agency says nothing yet.
    fn join_unsigned(&mut self, seed: u8, node: &str, lan: &[&str], public: Option<&str>) -> Box_ {
        let (agency, label) = node.split_once('/').unwrap();
        let anchor = self.invite(agency, label);
        let mut member = Box_::new(seed);
        self.connect(&mut member);
        let answer = self.try_join(&member, anchor.token, lan, public);
        assert!(matches!(answer, ToAgent::Joined { .. }), "{answer:?}");
        assert_eq!(self.take_view(&mut member), Some(member.all()));
        member
    }

    /// Applies and acknowledges the view that was sent, if one was; returns the ids of the records that came.
    fn take_view(&mut self, member: &mut Box_) -> Option<Vec<String>> {
        let views: Vec<SignedView> = self
            .received(member)
            .into_iter()
            .filter_map(|message| {
                if let ToAgent::View(view) = message {
                    Some(view)
                } else {
                    None
                }
            })
            .collect();
        assert!(views.len() <= 1, "one view at a time");
        let view = views.into_iter().next()?;
        let came = member.apply(&view);
        self.say(member, member.applied());
        Some(came)
    }

    /// The audit chain as it is stored.
    fn audit(&self) -> Vec<audit::Entry> {
        let texts = self
            .entries
            .range("audit/".to_owned().."audit0".to_owned())
            .map(|(_, (_, text))| text.as_str());
        audit::Trail::verify(texts.clone()).unwrap();
        texts
            .map(|text| serde_json::from_str(text).unwrap())
            .collect()
    }
}

impl Box_ {
    fn new(seed: u8) -> Self {
        Self {
            seed,
            run: seed.into(),
            session: 0,
            manifest: None,
            digest: None,
            records: BTreeMap::new(),
        }
    }

    /// Takes over a view as an agent does: verifies it, keeps what it has, and lacks nothing.
    fn apply(&mut self, view: &SignedView) -> Vec<String> {
        let key = IdentityKey(controller_key().verifying_key().to_bytes());
        let manifest: Manifest = view.manifest.open(&key).unwrap();
        let version = self
            .manifest
            .as_ref()
            .map_or(0, |manifest| manifest.version);
        assert!(
            manifest.version > version,
            "{} follows {version}",
            manifest.version
        );
        let mut came = Vec::new();
        for text in &view.records {
            came.push(serde_json::from_str::<Record>(text).unwrap().id());
            self.records
                .insert(Digest::of(text.as_bytes()), text.clone());
        }
        let wanted: Vec<Digest> = manifest.records.iter().map(|entry| entry.sha256).collect();
        assert!(
            wanted
                .iter()
                .all(|digest| self.records.contains_key(digest)),
            "nothing is missing"
        );
        self.records.retain(|digest, _| wanted.contains(digest));
        self.digest = Some(view.manifest.payload_digest());
        self.manifest = Some(manifest);
        came
    }

    /// Acknowledges the view in force.
    fn applied(&self) -> ToController {
        ToController::ViewOutcome {
            version: self.version(),
            digest: self.digest.unwrap(),
            outcome: ViewOutcome::Applied,
            quarantined: Vec::new(),
        }
    }

    /// Ids of the view in force.
    fn all(&self) -> Vec<String> {
        self.manifest
            .iter()
            .flat_map(|manifest| &manifest.records)
            .map(|entry| entry.id.clone())
            .collect()
    }

    fn version(&self) -> u64 {
        self.manifest
            .as_ref()
            .map_or(0, |manifest| manifest.version)
    }

    fn own(&self) -> NodeRecord {
        let own =
            self.records
                .values()
                .find_map(|text| match serde_json::from_str(text).unwrap() {
                    Record::Node(node) => Some(node),
                    _ => None,
                });
        own.unwrap()
    }
}

fn commit(entries: &mut BTreeMap<String, (u64, String)>, revision: u64, transaction: &Transaction) {
    for (key, change) in &transaction.changes {
        let found = entries.get(key).map_or(0, |(revision, _)| *revision);
        assert_eq!(found, change.expected, "revision of {key}");
        match &change.value {
            Some(value) => entries.insert(key.clone(), (revision, value.clone())),
            None => entries.remove(key),
        };
    }
}

fn listed(entries: &BTreeMap<String, (u64, String)>) -> Vec<Entry> {
    let entry = |(key, (revision, value)): (&String, &(u64, String))| Entry {
        key: key.clone(),
        value: Some(value.clone()),
        revision: *revision,
    };
    entries.iter().map(entry).collect()
}

fn node(text: &str) -> NodeName {
    text.parse().unwrap()
}

/// A link with what each side opens of its LAN.
fn link(a: &str, a_opens: &[&str], b: &str, b_opens: &[&str]) -> Value {
    let open = |at: &str, allow: &[&str]| json!({ "at": at, "prefix": "lan", "allow": allow });
    let sides = [(a, a_opens), (b, b_opens)]
        .into_iter()
        .filter(|(_, allow)| !allow.is_empty());
    let openings: Vec<Value> = sides.map(|(at, allow)| open(at, allow)).collect();
    json!({ "between": [a, b], "open": openings })
}

/// 2026-11-23T00:00:00Z.
const START: u64 = 1_795_392_000;
