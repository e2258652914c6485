//! Whatever happens to an agent, in any order: it believes only a controller that the root certified, its view never
//! goes back, and what it wants done is bounded.

mod inputs;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arbitrary::Unstructured;
use pnsbox_agent_core::agent::Agent;
use pnsbox_agent_core::event::{
    ConnectionId, HostFacts, Identity, Input, Joined, Now, Output, SavedState, SavedView, Start,
};
use pnsbox_agent_core::host::HostConfig;
use pnsbox_agent_core::trust::TrustState;
use pnsbox_proto::certificate::ControllerCertificate;
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::id::{NetworkName, NodeName};
use pnsbox_proto::key::{Digest, IdentityKey, WireguardKey};
use pnsbox_proto::message::{LinkMessage, ToAgent, ToController, ViewOutcome};
use pnsbox_proto::service::Audience;
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::{Manifest, SignedView};

use super::byte;
use super::network::{self, CONTROLLER, FAR, HUB, ME, NEAR, NODES, ROOT, STRANGER, known};

use inputs::{service, view_of};

pub use inputs::seeds;

/// Throws `data` at an agent.
pub fn run(data: &[u8]) {
    let mut bytes = Unstructured::new(data);
    let mut world = World::new(byte(&mut bytes));
    for _ in 0..MAX_STEPS {
        if bytes.is_empty() {
            break;
        }
        let input = world.input(&mut bytes);
        world.handle(input);
    }
    world.every_join_is_answered();
}

/// What one input may make it want: a few things for each peer and connection.
const MAX_OUTPUTS: usize = 64;
/// More than this many rounds show nothing new.
const MAX_STEPS: usize = 200;
/// A join ends after 30 s, however it goes.
const JOIN_ENDS: Duration = Duration::from_secs(31);

/// An agent, and what a careful reader of its outputs knows.
struct World {
    agent: Agent,
    now: Now,
    session: Session,
    /// Network and root that a controller must be of: of the join under way, or of the place that the box has.
    place: Option<Place>,
    pending: Option<Place>,
    /// A join that is refused at once, because another is under way or done.
    refused: bool,
    joined: bool,
    joins: usize,
    outcomes: usize,
    /// Digests of views that the controller's key signed for this node, with their versions.
    signed: BTreeMap<Digest, u64>,
    /// Version of the view that was kept last.
    version: u64,
    /// Digest of the view that is on disk.
    on_disk: Option<Digest>,
    /// The view that the agent asked the controller about last.
    asked: Option<Digest>,
    /// Generation that the host was asked for and has not answered.
    applying: Option<u64>,
    generation: u64,
    connections: BTreeMap<ConnectionId, Link>,
    opened: ConnectionId,
}

/// A network and the fingerprint of its root.
type Place = (NetworkName, Digest);

/// What was really said in the session with a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Session {
    None,
    /// A key was proved.
    Up(IdentityKey),
    /// And the certificate was right, for that key.
    Believed,
}

#[derive(Debug, Clone, Copy, Default)]
struct Link {
    peer: Option<&'static str>,
    greeted: bool,
}

/// What a box comes back with from this saved view, on a host that looks like `facts`.
pub(super) fn configuration(view: &SignedView, facts: HostFacts) -> Option<HostConfig> {
    let now = Now {
        monotonic: Duration::ZERO,
        wall: UnixTime(1000),
    };
    let saved = SavedView {
        certificate: network::certificate(ROOT, CONTROLLER, "pns"),
        view: view.clone(),
    };
    let mut agent = Agent::new(start(Some(saved_state(Some(saved))), 1), now);
    agent.handle(Input::HostFacts(facts), now);
    let mut last = None;
    while let Some(output) = agent.poll_output() {
        if let Output::Apply { host, .. } = output {
            last = Some(*host);
        }
    }
    last
}

/// Tunnels have keys that agencies of this network claim, and prefixes and addresses that belong to them.
fn only_what_is_signed(host: &HostConfig) {
    for tunnel in &host.tunnels {
        let claims = NODES.iter().map(|(_, number)| *number).chain([90]);
        let mut claims = claims.filter(|number| tunnel.key.0 == [*number; 32]);
        let number = claims
            .next()
            .expect("a key that nobody claims has a tunnel");
        for prefix in &tunnel.allowed_prefixes {
            let is_overlay = network::overlay(number).contains(prefix);
            let is_lan = *prefix == network::lan(number) && number != 90;
            assert!(is_overlay || is_lan, "{prefix} leads to {number}");
        }
    }
}

fn saved_state(view: Option<SavedView>) -> SavedState {
    SavedState {
        joined: Joined {
            network: network::network(),
            node: known(ME),
        },
        root: network::public(ROOT),
        controllers: vec![network::controller_address()],
        view,
        prefixes: vec![network::lan(44)],
        trust: TrustState::default(),
        endpoints: BTreeMap::new(),
    }
}

fn start(saved: Option<SavedState>, seed: u64) -> Start {
    Start {
        identity: Identity {
            identity: network::public(44),
            wireguard: WireguardKey([44; 32]),
        },
        agency_keys: vec![network::agency_secret(44)],
        saved,
        services: vec![
            service("arsip", Audience::All),
            service("data", Audience::Only(vec![known("prov-jateng")])),
        ],
        software: "fuzz".into(),
        link_port: 51821,
        http_port: 9586,
        mtu: 1380,
        seed,
    }
}

impl World {
    fn new(kind: u8) -> Self {
        let now = Now {
            monotonic: Duration::ZERO,
            wall: UnixTime(1000),
        };
        let joined = kind & 1 == 1;
        let first = view_of(5, 0x3f, 0, CONTROLLER);
        let mut signed = BTreeMap::new();
        let saved_view = match kind & 6 {
            0 => None,
            2 => {
                signed.insert(first.manifest.payload_digest(), 5);
                Some((network::certificate(ROOT, CONTROLLER, "pns"), first))
            }
            4 => Some((network::certificate(STRANGER, CONTROLLER, "pns"), first)),
            _ => Some((
                network::certificate(ROOT, STRANGER, "lain"),
                view_of(9, 1, 0, STRANGER),
            )),
        };
        let saved = saved_view.map(|(certificate, view)| SavedView { certificate, view });
        let on_disk = saved.as_ref().filter(|_| joined);
        let on_disk = on_disk.map(|saved| saved.view.manifest.payload_digest());
        let saved = joined.then(|| saved_state(saved));
        let start = start(saved, kind.into());
        let mut world = Self {
            agent: Agent::new(start, now),
            now,
            session: Session::None,
            place: joined.then(|| (network::network(), network::public(ROOT).fingerprint())),
            pending: None,
            refused: false,
            joined,
            joins: 0,
            outcomes: 0,
            signed: if joined { signed } else { BTreeMap::new() },
            version: 0,
            on_disk,
            asked: None,
            applying: None,
            generation: 0,
            connections: BTreeMap::new(),
            opened: 0,
        };
        world.drain();
        world
    }

    fn handle(&mut self, input: Input) {
        self.learn(&input);
        self.agent.handle(input, self.now);
        self.drain();
        let next = self.agent.next_timeout();
        assert!(
            next.is_some_and(|at| at > self.now.monotonic),
            "it wants to be called again at once, for ever"
        );
        let status = self.agent.status(self.now);
        // One that did not prove itself is taken back, one that did is not.
        assert!(
            status.view_applied >= self.version,
            "the view went back to {}",
            status.view_applied
        );
        assert!(
            self.joined || status.view_applied == 0,
            "a box without a network has a view"
        );
        for service in self.agent.services(self.now) {
            assert_eq!(
                service.name.agency(),
                service.node.agency(),
                "somebody else's service is shown"
            );
        }
    }

    /// What an input really means, whatever the agent makes of it.
    fn learn(&mut self, input: &Input) {
        match input {
            Input::Join(command) => {
                self.joins += 1;
                self.refused = self.joined || self.pending.is_some();
                if !self.refused {
                    let anchor = &command.anchor;
                    self.pending = Some((anchor.network.clone(), anchor.root));
                }
            }
            Input::ControlUp { key } => self.session = Session::Up(*key),
            Input::ControlDown { .. } => self.session = Session::None,
            Input::Control(message) => match &**message {
                ToAgent::Welcome {
                    root, certificate, ..
                } if self.is_certified(root, certificate) => self.session = Session::Believed,
                ToAgent::View(view) => {
                    if let Ok(manifest) =
                        view.manifest.open::<Manifest>(&network::public(CONTROLLER))
                    {
                        self.signed
                            .insert(view.manifest.payload_digest(), manifest.version);
                    }
                }
                _ => {}
            },
            Input::HostApplied { generation, .. } if self.applying == Some(*generation) => {
                self.applying = None;
            }
            Input::Link {
                connection,
                message: LinkMessage::Hello { node, .. },
            } => {
                if let Some(link) = self.connections.get_mut(connection) {
                    link.greeted |= link.peer.is_some_and(|peer| peer == node.as_str());
                }
            }
            Input::LinkDown { connection, .. } => drop(self.connections.remove(connection)),
            _ => {}
        }
    }

    /// Whether a root of the place that is wanted says that the key of this session is a controller there.
    fn is_certified(&self, root: &IdentityKey, certificate: &Envelope) -> bool {
        let (Session::Up(key), Some((network, fingerprint))) =
            (self.session, self.pending.as_ref().or(self.place.as_ref()))
        else {
            return false;
        };
        let certified = certificate.open::<ControllerCertificate>(root);
        root.fingerprint() == *fingerprint
            && certified.is_ok_and(|said| said.network == *network && said.controller == key)
    }

    fn drain(&mut self) {
        let mut count = 0;
        while let Some(output) = self.agent.poll_output() {
            count += 1;
            assert!(
                count <= MAX_OUTPUTS,
                "one input is followed by more than {MAX_OUTPUTS} outputs"
            );
            self.output(output);
        }
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::SendControl(message) => {
                self.says(&message);
                if let ToController::Check { view } = *message {
                    self.asked = Some(view);
                }
            }
            Output::CloseControl { .. } => self.session = Session::None,
            Output::DialControl { controllers } => {
                assert!(!controllers.is_empty() && self.wants_a_controller());
            }
            Output::Apply { generation, host } => {
                assert!(generation > self.generation, "a generation comes again");
                assert_eq!(self.applying, None, "two configurations are under way");
                assert!(self.joined && host.interface.is_some());
                only_what_is_signed(&host);
                self.generation = generation;
                self.applying = Some(generation);
            }
            Output::Persist(saved) => self.persists(&saved),
            Output::AcceptLinks { keys } => {
                let peers: BTreeSet<IdentityKey> = [33, 55, 66].map(network::public).into();
                assert!(
                    keys.iter().all(|key| peers.contains(key)),
                    "a stranger's links are accepted"
                );
            }
            Output::DialLink { node, key, address } => {
                assert!([HUB, FAR, NEAR].contains(&node.as_str()));
                assert!(key != network::public(STRANGER) && address.port() == 51821);
            }
            Output::SendLink {
                connection,
                message,
            } => self.says_to_peer(connection, &message),
            Output::SendProbe { connection, .. } => {
                let link = self.connections.get(&connection);
                assert!(
                    link.is_some_and(|link| link.greeted),
                    "a probe goes to whoever has not said hello"
                );
            }
            Output::CloseLink { connection, .. } => drop(self.connections.remove(&connection)),
            Output::JoinOutcome(outcome) => {
                self.outcomes += 1;
                assert!(self.outcomes <= self.joins, "a join is answered twice");
                if !std::mem::take(&mut self.refused) {
                    self.pending = None;
                }
                if outcome.is_ok() {
                    assert_eq!(self.session, Session::Believed, "joined by a stranger");
                }
            }
            Output::Status(line) => assert!(!line.is_empty() && line.len() < 1000),
        }
    }

    fn wants_a_controller(&self) -> bool {
        self.joined || self.outcomes < self.joins
    }

    /// Only the greeting goes to a controller that is not believed; the token above all does not.
    fn says(&self, message: &ToController) {
        match message {
            ToController::Hello { .. } => assert_ne!(self.session, Session::None),
            message => assert_eq!(
                self.session,
                Session::Believed,
                "a stranger is told {message:?}"
            ),
        }
        if let ToController::ViewOutcome {
            version,
            digest,
            outcome: ViewOutcome::Applied,
            ..
        } = message
        {
            assert_eq!(
                self.signed.get(digest),
                Some(version),
                "it applied what nobody signed"
            );
            assert!(*version >= self.version);
        }
    }

    fn persists(&mut self, saved: &SavedState) {
        self.joined = true;
        assert_eq!(saved.joined.node.as_str(), ME);
        let place = (saved.joined.network.clone(), saved.root.fingerprint());
        let expected = self.place.get_or_insert_with(|| place.clone());
        assert_eq!(*expected, place, "it moved to another network");
        assert!(
            self.pending
                .as_ref()
                .is_none_or(|pending| *pending == place)
        );
        let Some(SavedView { view, certificate }) = &saved.view else {
            return;
        };
        let digest = view.manifest.payload_digest();
        if self.on_disk.replace(digest) == Some(digest) {
            // Written again for what was learnt since, whether it is in force again or not.
            return;
        }
        let version = self.signed.get(&digest).copied();
        let version = version.expect("saved is what was signed");
        assert!(version >= self.version, "saved is an older one");
        self.version = version;
        assert!(
            certificate
                .open::<ControllerCertificate>(&saved.root)
                .is_ok()
        );
    }

    /// Services go to a peer only after its hello, and only those that its agency may know.
    fn says_to_peer(&self, connection: ConnectionId, message: &LinkMessage) {
        let link = self
            .connections
            .get(&connection)
            .copied()
            .unwrap_or_default();
        let LinkMessage::Services { services } = message else {
            return;
        };
        assert!(link.greeted, "services are told before hello");
        let agency = link.peer.map(|peer| known::<NodeName>(peer).agency());
        for service in services {
            let told = match &service.audience {
                Audience::All => true,
                Audience::Only(agencies) => agency
                    .as_ref()
                    .is_some_and(|agency| agencies.contains(agency)),
            };
            assert!(told, "{} is told outside its audience", service.name);
        }
    }

    fn every_join_is_answered(mut self) {
        self.now.monotonic += JOIN_ENDS;
        self.handle(Input::Timeout);
        assert_eq!(self.outcomes, self.joins, "a join has no answer");
    }
}
