//! Whatever agents say to a controller, and strangers, in any order: nobody is sent a view but the box that it is for,
//! versions never go back, a token admits one key, and each view is one that an agent accepts.

mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arbitrary::Unstructured;
use pnsbox_agent_core::view::{Accepted, Judge, Refusal};
use pnsbox_controller_core::audit::Origin;
use pnsbox_controller_core::controller::{Controller, Founding, Keys, Now, Output};
use pnsbox_controller_core::operator::{Answer, Request};
use pnsbox_controller_core::session::SessionId;
use pnsbox_controller_core::store::{Entry, Transaction};
use pnsbox_proto::id::NodeName;
use pnsbox_proto::key::Digest;
use pnsbox_proto::message::{ToAgent, Token};
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::SignedView;
use serde_json::Value;

use super::network::{self, ADMISSION, CONTROLLER, ROOT, known};

pub use steps::seeds;

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
/// What one input may make it say, beside ending sessions: a view for each node, twice, news of agencies, and an answer.
const MAX_OUTPUTS: usize = 3 * BOXES + 2;
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
    held: Option<Accepted>,
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
        let root = network::secret(ROOT);
        let first = founding.transaction(&root, &keys(), &Origin::here("fuzz"), UnixTime(START));
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

    fn ask(&mut self, request: Request) -> Option<Answer> {
        self.random = self.random.wrapping_add(1);
        let random = [self.random; 16];
        self.controller
            .handle_request(request, &Origin::here("fuzz"), self.now(), random)
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
            ToAgent::Checked { .. } | ToAgent::Documents { .. } => {
                assert!(self.boxes[member].node.is_some());
            }
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

fn keys() -> Keys {
    Keys {
        controller: network::secret(CONTROLLER),
        admission: network::secret(ADMISSION),
    }
}

fn load(entries: &BTreeMap<String, (u64, String)>) -> Controller {
    let entry = |(key, (revision, value)): (&String, &(u64, String))| Entry {
        key: key.clone(),
        value: Some(value.clone()),
        revision: *revision,
    };
    let listed: Vec<Entry> = entries.iter().map(entry).collect();
    Controller::load(&listed, keys()).expect("what was stored can be loaded")
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

/// 2026-11-23T00:00:00Z.
const START: u64 = 1_795_392_000;
