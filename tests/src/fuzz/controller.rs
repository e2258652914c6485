//! Whatever agents say to a controller, and strangers, in any order: nobody is sent a view but the box that it is for,
//! versions never go back, a token admits one key, and each view is one that an agent accepts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use arbitrary::Unstructured;
use pnsbox_agent_core::view::{Judge, Refusal, View};
use pnsbox_controller_core::controller::{Controller, Founding, Now, Output};
use pnsbox_controller_core::operator::{Answer, Request};
use pnsbox_controller_core::session::SessionId;
use pnsbox_controller_core::store::{Entry, Transaction};
use pnsbox_proto::anchor::Anchor;
use pnsbox_proto::id::NodeName;
use pnsbox_proto::key::{Digest, WireguardKey};
use pnsbox_proto::message::{JoinRequest, ToAgent, ToController, Token, ViewOutcome};
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::SignedView;
use serde_json::{Value, json};

use super::network::{self, CONTROLLER, ROOT, known};
use super::{below, byte, chunk, chunked, frames, short};

/// Throws `data` at a controller.
pub fn run(data: &[u8]) {
    let mut bytes = Unstructured::new(data);
    let mut world = World::new();
    for _ in 0..MAX_STEPS {
        if bytes.is_empty() {
            break;
        }
        world.step(&mut bytes);
        world.settle();
    }
    world.restart();
    world.settle();
}

/// More than this many rounds show nothing new.
const MAX_STEPS: usize = 100;
/// What one input may make it say, beside ending sessions: a view for each node, twice, and an answer.
const MAX_OUTPUTS: usize = 2 * BOXES + 2;
/// Boxes that there are, each with a key of its own.
const BOXES: usize = 5;
const FIRST_KEY: u8 = 100;
const AGENCIES: [(&str, &str); 3] = [
    ("kab-demak", "10.44.0.0/16"),
    ("prov-jateng", "10.33.0.0/16"),
    ("kota-malang", "10.55.0.0/16"),
];

/// A controller with its store, and what a careful reader of its outputs knows.
struct World {
    controller: Controller,
    entries: BTreeMap<String, (u64, String)>,
    revision: u64,
    clock: Duration,
    wall: u64,
    random: u8,
    tokens: Vec<Token>,
    boxes: [Member; BOXES],
    sessions: BTreeMap<SessionId, Open>,
    opened: SessionId,
}

/// One box.
#[derive(Default)]
struct Member {
    node: Option<NodeName>,
    /// What it accepted last, as an agent would.
    held: Option<View>,
    /// Version of the last view that it was sent.
    sent: u64,
    /// Digest of the last view that it was sent.
    offered: Option<Digest>,
}

/// A session that the controller has not closed.
#[derive(Clone, Copy)]
struct Open {
    member: usize,
    greeted: bool,
    welcomed: bool,
    /// It said that it holds something else than it does.
    lied: bool,
    /// It has not answered the view that it was sent last, so the next one may build on an older one.
    owes: bool,
}

impl World {
    fn new() -> Self {
        let founding = Founding {
            name: network::network(),
            addresses: vec![network::controller_address()],
            pool: known("100.127.0.0/16"),
        };
        let (root, key) = (network::secret(ROOT), network::secret(CONTROLLER));
        let first = founding.transaction(&root, &key, "fuzz", UnixTime(START));
        let mut entries = BTreeMap::new();
        commit(&mut entries, 1, &first);
        let mut world = Self {
            controller: load(&entries),
            entries,
            revision: 1,
            clock: Duration::ZERO,
            wall: START,
            random: 0,
            tokens: vec![Token([0; 16])],
            boxes: Default::default(),
            sessions: BTreeMap::new(),
            opened: 0,
        };
        world.controller.begin_serving(world.now());
        for (name, prefix) in AGENCIES {
            let added = Request::AgencyAdd {
                name: known(name),
                prefixes: vec![known(prefix)],
                class: None,
                region: None,
            };
            world.ask(added);
            world.settle();
        }
        world
    }

    fn now(&self) -> Now {
        Now {
            monotonic: self.clock,
            wall: UnixTime(self.wall),
        }
    }

    fn step(&mut self, bytes: &mut Unstructured<'_>) {
        match below(bytes, 13) {
            0 => self.connect(bytes),
            1 => self.hello(bytes),
            2 => self.join(bytes),
            3 => self.outcome(bytes),
            4 => {
                let report = network::health(&words(bytes));
                self.say(bytes, ToController::Health(report));
            }
            5 => self.announce(bytes),
            6 => {
                let session = self.session(bytes);
                self.sessions.remove(&session);
                self.controller.handle_closed(session, self.now());
            }
            7 => {
                self.clock += Duration::from_secs(byte(bytes).into());
                // The wall clock may jump, back as well.
                self.wall = START + u64::from(short(bytes));
                self.controller.handle_tick(self.now());
            }
            8 => {
                let (agency, _) = AGENCIES[below(bytes, 3)];
                let node = ["gw1", "gw2"][below(bytes, 2)].to_owned();
                self.invite(agency, node, 1 + u64::from(short(bytes)));
            }
            9 => self.apply(bytes),
            10 => self.restart(),
            11 => {
                if let Some(message) = frames::message(bytes, &frames::to_controller()) {
                    self.say(bytes, message);
                }
            }
            _ => self.look(),
        }
    }

    fn connect(&mut self, bytes: &mut Unstructured<'_>) {
        self.opened += 1;
        let member = below(bytes, BOXES);
        let open = Open {
            member,
            greeted: false,
            welcomed: false,
            lied: false,
            owes: false,
        };
        self.sessions.insert(self.opened, open);
        let key = network::public(FIRST_KEY + member as u8);
        let observed = SocketAddr::from(([198, 51, 100, 7], 40_000));
        self.controller
            .handle_connected(self.opened, key, observed, self.now());
    }

    fn hello(&mut self, bytes: &mut Unstructured<'_>) {
        let session = self.session(bytes);
        let held = self
            .sessions
            .get(&session)
            .and_then(|open| self.boxes[open.member].held.as_ref());
        let held = held.map(|view| view.id.digest);
        let view = match below(bytes, 4) {
            0 | 1 => held,
            2 => None,
            _ => Some(Digest([byte(bytes); 32])),
        };
        let protocol = if byte(bytes) == 7 { 2 } else { 1 };
        if let Some(open) = self.sessions.get_mut(&session) {
            open.greeted = true;
            open.lied |= view != held;
        }
        let software = words(bytes);
        self.controller.handle_message(
            session,
            ToController::Hello {
                protocol,
                software,
                view,
            },
            self.now(),
        );
    }

    fn join(&mut self, bytes: &mut Unstructured<'_>) {
        let session = self.session(bytes);
        let token = self.tokens[below(bytes, self.tokens.len())].clone();
        let mut prefixes = Vec::new();
        for _ in 0..below(bytes, 4) {
            let address = [
                10,
                [33, 44, 55, byte(bytes)][below(bytes, 4)],
                byte(bytes),
                0,
            ];
            if let Ok(prefix) = ipnet::Ipv4Net::new(address.into(), byte(bytes) % 33) {
                prefixes.push(prefix.into());
            }
        }
        let public_endpoint = (byte(bytes) & 1 == 1)
            .then(|| SocketAddr::from(([203, 0, 113, byte(bytes)], short(bytes))));
        let member = self.sessions.get(&session).map_or(0, |open| open.member) as u8;
        let request = JoinRequest {
            token,
            wireguard: WireguardKey(
                [if byte(bytes) == 9 {
                    0
                } else {
                    FIRST_KEY + member
                }; 32],
            ),
            prefixes,
            public_endpoint,
        };
        self.controller
            .handle_message(session, ToController::Join(request), self.now());
    }

    fn outcome(&mut self, bytes: &mut Unstructured<'_>) {
        let session = self.session(bytes);
        let Some(open) = self.sessions.get_mut(&session) else {
            return;
        };
        let offered = self.boxes[open.member].offered;
        let digest = match below(bytes, 3) {
            0 | 1 => offered.unwrap_or(Digest([1; 32])),
            _ => Digest([byte(bytes); 32]),
        };
        let outcome = match below(bytes, 4) {
            0 | 1 => ViewOutcome::Applied,
            2 => ViewOutcome::Refused {
                reason: words(bytes),
            },
            _ => ViewOutcome::Incomplete,
        };
        // An agent that says so has the view; one that lies may be sent less than it lacks.
        let held = self.boxes[open.member]
            .held
            .as_ref()
            .map(|view| view.id.digest);
        open.lied |= matches!(outcome, ViewOutcome::Applied) && held != Some(digest);
        open.owes &= offered != Some(digest);
        let message = ToController::ViewOutcome {
            version: byte(bytes).into(),
            digest,
            outcome,
            quarantined: vec![words(bytes)],
        };
        self.controller.handle_message(session, message, self.now());
    }

    fn announce(&mut self, bytes: &mut Unstructured<'_>) {
        let mut services = Vec::new();
        for _ in 0..below(bytes, 3) {
            let node = ["kab-demak/gw1", "prov-jateng/gw1", "kota-malang/gw2"][below(bytes, 3)];
            services.push(network::service(node, pnsbox_proto::service::Audience::All));
        }
        self.say(bytes, ToController::Services { services });
    }

    fn say(&mut self, bytes: &mut Unstructured<'_>, message: ToController) {
        let session = self.session(bytes);
        if let Some(open) = self.sessions.get_mut(&session) {
            open.greeted |= matches!(message, ToController::Hello { .. });
            open.lied |= matches!(
                message,
                ToController::Hello { .. } | ToController::ViewOutcome { .. }
            );
        }
        self.controller.handle_message(session, message, self.now());
    }

    fn session(&self, bytes: &mut Unstructured<'_>) -> SessionId {
        self.opened.saturating_sub(u64::from(byte(bytes)) % 8)
    }

    fn invite(&mut self, agency: &str, node: String, expires_in_s: u64) {
        let agency = known(agency);
        let answer = self.ask(Request::Invite {
            agency,
            node,
            expires_in_s,
        });
        if let Some(Answer::Invited { anchor, .. }) = answer {
            let anchor: Anchor = known(&anchor);
            self.tokens.push(anchor.token);
        }
    }

    fn apply(&mut self, bytes: &mut Unstructured<'_>) {
        let kind = byte(bytes);
        let mut links = Vec::new();
        for (bit, (a, b)) in [(0, 1), (0, 2), (1, 2)].into_iter().enumerate() {
            if kind & (1 << bit) != 0 {
                let (a, b) = (AGENCIES[a].0, AGENCIES[b].0);
                let allow = ["icmp", "tcp/445", "udp/5060-5080"][below(bytes, 3)];
                links.push(json!({ "between": [a, b], "open": [{ "at": b, "prefix": "lan", "allow": [allow] }] }));
            }
        }
        let relays: &[&str] = if kind & 8 == 0 {
            &[]
        } else {
            &["prov-jateng/gw1"]
        };
        let policy = match kind >> 6 {
            3 => serde_json::from_slice(chunk(bytes)).unwrap_or(Value::Null),
            _ => json!({ "relays": relays, "link": links }),
        };
        let planned = self.ask(Request::Plan {
            policy: policy.clone(),
        });
        let applied = self.ask(Request::Apply {
            policy: policy.clone(),
        });
        assert_eq!(
            planned.is_some(),
            applied.is_some(),
            "what can be planned can be applied"
        );
        self.settle();
        if let Some(Answer::Difference { difference, .. }) = self.ask(Request::Plan { policy }) {
            assert!(
                difference.changes.is_empty(),
                "applying twice is not applying once: {:?}",
                difference.changes
            );
        }
    }

    fn ask(&mut self, request: Request) -> Option<Answer> {
        self.random = self.random.wrapping_add(1);
        let random = [self.random; 16];
        self.controller
            .handle_request(request, "fuzz", self.now(), random)
            .ok()
    }

    /// What an operator is shown cannot drive a terminal.
    fn look(&mut self) {
        let status = self
            .ask(Request::Status)
            .expect("the fleet can always be seen");
        harmless(&serde_json::to_value(status).expect("a status is a plain struct"));
        self.ask(Request::AgencyList);
        let states: usize = self.controller.node_states().values().sum();
        assert!(states >= self.controller.targets().len());
        let addresses: BTreeSet<_> = self
            .controller
            .targets()
            .iter()
            .map(|t| t.address)
            .collect();
        assert_eq!(
            addresses.len(),
            self.controller.targets().len(),
            "two nodes have one address"
        );
    }

    /// The process dies and comes back: only the store remains.
    fn restart(&mut self) {
        self.settle();
        self.controller = load(&self.entries);
        self.sessions.clear();
        self.clock = Duration::ZERO;
        self.controller.begin_serving(self.now());
        let again = self.controller.take_transaction();
        assert!(
            again.is_empty(),
            "the same version plans otherwise after a restart"
        );
    }

    /// Commits and takes the outputs, as the shell does.
    fn settle(&mut self) {
        let transaction = self.controller.take_transaction();
        if !transaction.is_empty() {
            self.revision += 1;
            commit(&mut self.entries, self.revision, &transaction);
            self.controller.committed(&transaction, self.revision);
        }
        let (mut count, most) = (0, MAX_OUTPUTS + self.sessions.len());
        while let Some(output) = self.controller.poll_output() {
            count += 1;
            assert!(
                count <= most,
                "one input is followed by more than {most} outputs"
            );
            match output {
                Output::Send { session, message } => self.sent(session, *message),
                Output::Close { session, .. } => {
                    assert!(
                        self.sessions.remove(&session).is_some(),
                        "a session is closed twice"
                    );
                }
            }
        }
    }

    fn sent(&mut self, session: SessionId, message: ToAgent) {
        let open = self
            .sessions
            .get_mut(&session)
            .expect("only open sessions are spoken to");
        assert!(open.greeted, "it speaks before hello");
        let Open { member, .. } = *open;
        let is_welcome = matches!(message, ToAgent::Welcome { .. });
        assert_ne!(open.welcomed, is_welcome, "welcome comes first, and once");
        open.welcomed = true;
        match message {
            ToAgent::Welcome { node, .. } => assert_eq!(node, self.boxes[member].node),
            ToAgent::Joined { node, .. } => self.joins(member, node),
            ToAgent::JoinRefused { .. } => {}
            ToAgent::View(view) => {
                let may_lack = open.lied || open.owes;
                open.owes = true;
                self.offers(member, may_lack, &view);
            }
        }
    }

    /// One key has one node for ever, and a node one key.
    fn joins(&mut self, member: usize, node: NodeName) {
        let before = self.boxes[member].node.replace(node.clone());
        assert!(
            before.is_none_or(|before| before == node),
            "a key has two nodes"
        );
        let owners = self
            .boxes
            .iter()
            .filter(|other| other.node.as_ref() == Some(&node));
        assert_eq!(owners.count(), 1, "{node} has two keys");
    }

    /// The view is for this box and no other, newer than the one before, and such that an agent accepts it whole.
    fn offers(&mut self, member: usize, may_lack: bool, offered: &SignedView) {
        let member = &mut self.boxes[member];
        let node = member
            .node
            .as_ref()
            .expect("only a box that joined is sent a view");
        let (network, controller) = (network::network(), network::public(CONTROLLER));
        let judge = Judge {
            network: &network,
            node,
            controller: &controller,
        };
        member.offered = Some(offered.manifest.payload_digest());
        let again = member
            .held
            .as_ref()
            .is_some_and(|view| Some(view.id.digest) == member.offered);
        match judge.accept(offered, member.held.as_ref()) {
            Ok(view) => {
                assert!(
                    view.id.version >= member.sent,
                    "version {} after {}",
                    view.id.version,
                    member.sent
                );
                assert_eq!(
                    view.quarantined,
                    Vec::<String>::new(),
                    "the controller makes records that nobody can read"
                );
                member.sent = view.id.version;
                member.held = Some(view);
            }
            Err(Refusal::NotNewer { offered, held }) if again => assert_eq!(offered, held),
            Err(Refusal::Incomplete(_)) if may_lack => {}
            Err(refusal) => panic!("an honest agent refuses the view: {refusal}"),
        }
    }
}

fn load(entries: &BTreeMap<String, (u64, String)>) -> Controller {
    let entry = |(key, (revision, value)): (&String, &(u64, String))| Entry {
        key: key.clone(),
        value: Some(value.clone()),
        revision: *revision,
    };
    let listed: Vec<Entry> = entries.iter().map(entry).collect();
    Controller::load(&listed, network::secret(CONTROLLER)).expect("what was stored can be loaded")
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

fn harmless(value: &Value) {
    match value {
        Value::String(text) => {
            assert!(
                !text.chars().any(char::is_control),
                "{text:?} is shown on a terminal"
            );
            assert!(
                text.chars().count() <= 1000,
                "{} bytes are shown",
                text.len()
            );
        }
        Value::Array(values) => values.iter().for_each(harmless),
        Value::Object(values) => values.values().for_each(harmless),
        _ => {}
    }
}

fn words(bytes: &mut Unstructured<'_>) -> String {
    String::from_utf8_lossy(chunk(bytes)).into_owned()
}

/// 2026-11-23T00:00:00Z.
const START: u64 = 1_795_392_000;

/// Boxes that join, talk, go and come back; strangers; policies; restarts.
pub fn seeds() -> Vec<Vec<u8>> {
    let connect = |member: u8| vec![0, member, 1, 0, 0, 0, 1, 0, b'v'];
    let invite = |agency: u8, node: u8| vec![8, agency, node, 0xff, 0];
    // Session, token, one prefix (second byte of three, third, length), endpoint, key.
    let join = |token: u8, lan: u8, public: u8| {
        let mut bytes = vec![2, 0, token, 1, 0, lan, 1, 24, public];
        if public == 1 {
            bytes.extend([7, 1, 2]);
        }
        bytes.push(0);
        bytes
    };
    let applied: &[u8] = &[3, 0, 0, 0, 1, 0, 0];
    let two = [
        invite(1, 0),
        connect(0),
        join(1, 0, 1),
        applied.to_vec(),
        invite(0, 0),
        connect(1),
        join(2, 1, 0),
        applied.to_vec(),
    ]
    .concat();
    let three = [
        &two[..],
        &invite(2, 0),
        &connect(2),
        &join(3, 2, 0),
        applied,
    ]
    .concat();
    let policy: &[u8] = &[9, 0x0f, 0, 1, 2];
    let less: &[u8] = &[9, 0x01, 1];
    let health: &[u8] = &[4, 3, 0, 0x1b, b'[', b'J', 0];
    let look: &[u8] = &[12];
    let later: &[u8] = &[7, 11, 20, 0];
    let again = [connect(0), applied.to_vec()].concat();
    let mut parts = vec![
        two.clone(),
        [&three[..], policy, applied, later, applied, less, look].concat(),
        [policy, &three, applied, later, look].concat(),
        [
            &three[..],
            policy,
            &again,
            less,
            &[10],
            &again,
            policy,
            applied,
        ]
        .concat(),
        [&two[..], health, look, &[5, 2, 0, 1, 1], look].concat(),
        [&two[..], &[3, 0, 0, 2, 1, 0, b'x', 1, 0, 0], look, later].concat(),
        [&two[..], policy, &[3, 0, 0, 3, 1, 0, 0], later, look].concat(),
        [&two[..], &[6, 0], look, &connect(1), &[1, 0, 3, 5, 0, 0, 0]].concat(),
        [&two[..], &connect(3), &join(1, 2, 0), &join(2, 2, 0), look].concat(),
        [&connect(3)[..], &join(0, 1, 0), &join(0, 1, 0).repeat(9)].concat(),
        [&connect(3)[..], &[7, 31, 0, 0], look].concat(),
        [&[0, 1][..], &join(0, 1, 0)].concat(),
        [&[0, 1, 1, 0, 0, 7, 0, 0][..]].concat(),
    ];
    for (number, message) in frames::to_controller().iter().enumerate() {
        let json = serde_json::to_vec(message).expect("a plain struct");
        parts.push([&two[..], &[11, number as u8, 0], look].concat());
        parts.push([&connect(2)[..], &[11, 0xff], &chunked(&json), &[0]].concat());
    }
    parts
}
