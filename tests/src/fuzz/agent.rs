//! Whatever happens to an agent, in any order: it believes only a controller that the root certified, its view never
//! goes back, and what it wants done is bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use arbitrary::Unstructured;
use pnsbox_agent_core::agent::Agent;
use pnsbox_agent_core::event::{
    ConnectionId, Identity, Input, JoinCommand, Joined, Now, Output, SavedState, SavedView,
    ServiceConfig, Start, TunnelState,
};
use pnsbox_proto::certificate::ControllerCertificate;
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::id::{NetworkName, NodeName};
use pnsbox_proto::key::{Digest, IdentityKey, WireguardKey};
use pnsbox_proto::message::{JoinRefusal, LinkMessage, ToAgent, ToController, ViewOutcome};
use pnsbox_proto::probe::Probe;
use pnsbox_proto::service::{Audience, ServiceKind};
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::{Manifest, SignedView};

use super::documents::facts;
use super::network::{self, CONTROLLER, FAR, HUB, ME, NEAR, NODES, ROOT, STRANGER, known};
use super::{below, byte, chunk, chunked, frames, short};

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
    /// Version in force.
    version: u64,
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
        let saved = SavedState {
            joined: Joined {
                network: network::network(),
                node: known(ME),
            },
            root: network::public(ROOT),
            controllers: vec![network::controller_address()],
            view: saved_view.map(|(certificate, view)| SavedView { certificate, view }),
            endpoints: BTreeMap::new(),
        };
        let start = Start {
            identity: Identity {
                identity: network::public(44),
                wireguard: WireguardKey([44; 32]),
            },
            saved: joined.then_some(saved),
            services: vec![
                service("arsip", Audience::All),
                service("data", Audience::Only(vec![known("prov-jateng")])),
            ],
            software: "fuzz".into(),
            link_port: 51821,
            http_port: 9586,
            mtu: 1380,
            seed: kind.into(),
        };
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
            applying: None,
            generation: 0,
            connections: BTreeMap::new(),
            opened: 0,
        };
        world.drain();
        world
    }

    fn input(&mut self, bytes: &mut Unstructured<'_>) -> Input {
        match below(bytes, 18) {
            0 => self.join(bytes),
            1 => Input::ControlUp {
                key: network::public([CONTROLLER, STRANGER][below(bytes, 2)]),
            },
            2 => Self::control(welcome(bytes)),
            3 => Self::control(joined(bytes)),
            4 => {
                let view = self.view(bytes);
                Self::control(ToAgent::View(view))
            }
            5 => Self::control(ToAgent::JoinRefused {
                reason: JoinRefusal::UnknownToken,
            }),
            6 => Input::ControlDown {
                reason: words(bytes),
            },
            7 => self.host_applied(bytes),
            8 => self.link_up(bytes),
            9 => Input::Link {
                connection: self.connection(bytes),
                message: link_message(bytes),
            },
            10 => Input::Probe {
                connection: self.connection(bytes),
                probe: Probe {
                    echo: byte(bytes) & 1 == 1,
                    sequence: byte(bytes).into(),
                    sent_us: short(bytes).into(),
                },
            },
            11 => Input::LinkDown {
                connection: self.connection(bytes),
                reason: words(bytes),
            },
            12 => Input::LinkFailed {
                node: node(bytes),
                reason: words(bytes),
            },
            13 => Input::Check {
                service: known(
                    ["kab-demak/arsip", "kab-demak/data", "xx/nothing"][below(bytes, 3)],
                ),
                result: if byte(bytes) & 1 == 0 {
                    Ok(())
                } else {
                    Err(words(bytes))
                },
            },
            14 => tunnels(bytes),
            15 => Input::HostFacts(facts(bytes)),
            16 => {
                self.now.monotonic += Duration::from_millis(u64::from(byte(bytes)) * 250);
                // The wall clock may jump, back as well.
                self.now.wall = UnixTime(u64::from(short(bytes)));
                Input::Timeout
            }
            _ => match frames::message(bytes, &[]) {
                Some(message) => Self::control(message),
                None => Input::Timeout,
            },
        }
    }

    fn control(message: ToAgent) -> Input {
        Input::Control(Box::new(message))
    }

    fn join(&mut self, bytes: &mut Unstructured<'_>) -> Input {
        let mut anchor = network::anchor();
        match below(bytes, 3) {
            1 => anchor.root = network::public(STRANGER).fingerprint(),
            2 => anchor.network = known("lain"),
            _ => {}
        }
        Input::Join(JoinCommand {
            anchor,
            prefixes: vec![known("10.44.1.0/24")],
            public_endpoint: None,
        })
    }

    fn view(&mut self, bytes: &mut Unstructured<'_>) -> SignedView {
        let (version, records, kind) = (byte(bytes), byte(bytes), byte(bytes));
        let missing = if kind & 1 == 0 { 0 } else { byte(bytes) };
        let signer = if kind & 6 == 6 { STRANGER } else { CONTROLLER };
        view_of(version.into(), records, missing, signer)
    }

    fn host_applied(&mut self, bytes: &mut Unstructured<'_>) -> Input {
        let generation = match below(bytes, 4) {
            0 => u64::from(byte(bytes)),
            _ => self.generation,
        };
        let result = if byte(bytes) & 3 == 3 {
            Err(words(bytes))
        } else {
            Ok(())
        };
        Input::HostApplied { generation, result }
    }

    fn link_up(&mut self, bytes: &mut Unstructured<'_>) -> Input {
        let number = [33, 55, 66, STRANGER][below(bytes, 4)];
        self.opened += 1;
        let peer = NODES.into_iter().find(|(_, n)| *n == number);
        let link = Link {
            peer: peer.map(|(name, _)| name),
            greeted: false,
        };
        self.connections.insert(self.opened, link);
        Input::LinkUp {
            connection: self.opened,
            key: network::public(number),
            dialled: byte(bytes) & 1 == 1,
        }
    }

    fn connection(&self, bytes: &mut Unstructured<'_>) -> ConnectionId {
        // The last ones are those of which something can be expected.
        self.opened.saturating_sub(u64::from(byte(bytes)) % 4)
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
        assert!(
            status.view_applied >= self.version,
            "the view went back to {}",
            status.view_applied
        );
        assert!(
            self.joined || status.view_applied == 0,
            "a box without a network has a view"
        );
        self.version = status.view_applied;
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
            Output::SendControl(message) => self.says(&message),
            Output::CloseControl { .. } => self.session = Session::None,
            Output::DialControl { controllers } => {
                assert!(!controllers.is_empty() && self.wants_a_controller());
            }
            Output::Apply { generation, host } => {
                assert!(generation > self.generation, "a generation comes again");
                assert_eq!(self.applying, None, "two configurations are under way");
                assert!(self.joined && host.interface.is_some());
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
        let version = self.signed.get(&view.manifest.payload_digest());
        assert!(
            version.is_some_and(|version| *version >= self.version),
            "saved is what nobody signed, or an older one"
        );
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

fn service(name: &str, audience: Audience) -> ServiceConfig {
    ServiceConfig {
        name: name.into(),
        kind: ServiceKind::Tcp,
        endpoint: SocketAddr::from(([10, 44, 1, 10], 5432)),
        audience,
        priority: 100,
        failures: 2,
    }
}

/// A view with the records whose bits are set, without those whose bits are missing.
fn view_of(version: u64, records: u8, missing: u8, signer: u8) -> SignedView {
    let all = network::records();
    let chosen = all
        .iter()
        .enumerate()
        .filter(|(i, _)| records & (1 << i) != 0);
    let mut texts: Vec<_> = chosen.map(|(_, record)| network::text(record)).collect();
    if records & 0x80 != 0 {
        texts.push(("peer poison".into(), "{}".into()));
    }
    let sent = |i: usize| missing & (1 << i) == 0;
    network::view(("pns", &known(ME)), version, &texts, signer, sent)
}

fn welcome(bytes: &mut Unstructured<'_>) -> ToAgent {
    let (root, certificate) = match below(bytes, 5) {
        0 | 1 => (ROOT, network::certificate(ROOT, CONTROLLER, "pns")),
        2 => (STRANGER, network::certificate(STRANGER, CONTROLLER, "pns")),
        3 => (ROOT, network::certificate(STRANGER, CONTROLLER, "pns")),
        _ => (ROOT, network::certificate(ROOT, CONTROLLER, "lain")),
    };
    ToAgent::Welcome {
        root: network::public(root),
        certificate,
        observed: network::controller_address(),
        now: UnixTime(1000),
        node: [Some(known(ME)), None, Some(known(HUB))][below(bytes, 3)].clone(),
    }
}

fn joined(bytes: &mut Unstructured<'_>) -> ToAgent {
    ToAgent::Joined {
        network: known(["pns", "lain"][below(bytes, 2)]),
        node: known(ME),
        controllers: vec![network::controller_address()],
    }
}

fn link_message(bytes: &mut Unstructured<'_>) -> LinkMessage {
    match below(bytes, 4) {
        0 | 1 => LinkMessage::Hello {
            protocol: 1,
            node: node(bytes),
        },
        2 => {
            let mut services = Vec::new();
            for _ in 0..below(bytes, 4) {
                let audience = match below(bytes, 3) {
                    0 => Audience::All,
                    1 => Audience::Only(vec![known("kab-demak")]),
                    _ => Audience::Only(Vec::new()),
                };
                services.push(network::service(node(bytes).as_str(), audience));
            }
            LinkMessage::Services { services }
        }
        _ => frames::message(bytes, &[]).unwrap_or(LinkMessage::Services {
            services: Vec::new(),
        }),
    }
}

fn tunnels(bytes: &mut Unstructured<'_>) -> Input {
    let mut tunnels = Vec::new();
    for _ in 0..below(bytes, 5) {
        tunnels.push(TunnelState {
            key: WireguardKey([[33, 55, 66, 9][below(bytes, 4)]; 32]),
            endpoint: (byte(bytes) & 1 == 0).then(network::controller_address),
            last_handshake: (byte(bytes) & 1 == 0).then(|| UnixTime(short(bytes).into())),
            rx_bytes: short(bytes).into(),
            tx_bytes: u64::MAX - u64::from(byte(bytes)),
        });
    }
    Input::Tunnels(tunnels)
}

fn node(bytes: &mut Unstructured<'_>) -> NodeName {
    known([HUB, FAR, ME, NEAR, "xx/y"][below(bytes, 5)])
}

fn words(bytes: &mut Unstructured<'_>) -> String {
    String::from_utf8_lossy(chunk(bytes)).into_owned()
}

/// A box that joins and gets its views; one that comes back; links, services, and what goes wrong with each.
pub fn seeds() -> Vec<Vec<u8>> {
    let online: &[u8] = &[1, 0, 2, 0, 0];
    let joins: &[u8] = &[0, 0, 1, 0, 2, 0, 1, 3, 0];
    let view = |version: u8| [&[4, version, 0x7f, 0][..], &[7, 1, 0]].concat();
    let delta =
        |version: u8, missing: u8| [&[4, version, 0x1f, 1, missing][..], &[7, 1, 0]].concat();
    let links: &[u8] = &[
        8, 0, 1, 9, 0, 0, 0, 9, 0, 2, 2, 0, 0, 1, 0, 10, 0, 0, 1, 1, 0, 8, 1, 0, 9, 0, 1, 1,
    ];
    let checks: &[u8] = &[
        13, 0, 0, 13, 1, 0, 16, 8, 0, 4, 13, 1, 1, 0, 0, 13, 1, 1, 0, 0,
    ];
    let away: &[u8] = &[6, 1, 0, b'x', 16, 40, 0, 4];
    let facts: &[u8] = &[15, 2, 100, 127, 0, 1, 24, 10, 33, 1, 1, 24];
    let tunnels: &[u8] = &[14, 2, 0, 0, 0, 9, 9, 9, 9, 9, 1, 2, 1, 0, 9, 9, 9, 9, 9];
    let late: &[u8] = &[16, 200, 0, 4];
    let mut parts: Vec<Vec<u8>> = vec![
        joins.to_vec(),
        [joins, online, &view(1)].concat(),
        [online, &view(6), &view(5), &view(7)].concat(),
        [online, &view(6), &delta(7, 0), &delta(8, 0xff)].concat(),
        [
            online,
            &[4, 6, 0xff, 0, 4, 7, 0x7f, 0, 7, 1, 3, 0, 0, 7, 1, 0][..],
            late,
        ]
        .concat(),
        [online, &[4, 6, 0x7f, 6][..]].concat(),
        [online, &view(6), links, checks].concat(),
        [online, &view(6), links, checks, late, late].concat(),
        [online, &view(6), facts, &view(7), late, facts].concat(),
        [online, &view(6), tunnels, late, tunnels].concat(),
        [online, &view(6), away, online, &view(7)].concat(),
        [&[0, 1], &joins[2..], late].concat(),
        [&[0, 2], &joins[2..], &[5]].concat(),
        [&[1, 1, 2, 3, 0], late, &[1, 0, 2, 4, 0]].concat(),
        [online, &view(6), &[12, 0, 0, 0, 11, 0, 0, 0][..], late].concat(),
    ];
    for message in frames::to_agent() {
        let json = serde_json::to_vec(&message).expect("a plain struct");
        parts.push([online, &[17, 0xff], &chunked(&json)].concat());
    }
    let kinds = |part: &Vec<u8>| [0, 1, 3, 5, 7].map(|kind| [&[kind][..], part].concat());
    parts.iter().flat_map(kinds).collect()
}
