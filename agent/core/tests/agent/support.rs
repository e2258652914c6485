//! A network in miniature: root, controller, and views for `kab-demak/gw1`, signed as the real ones are.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use pnsbox_agent_core::agent::Agent;
use pnsbox_agent_core::event::{
    Identity, Input, JoinCommand, Joined, Now, Output, SavedState, ServiceConfig, Start,
};
use pnsbox_agent_core::trust::TrustState;
use pnsbox_proto::agency::{Admission, LinkConsent, NodeClaim};
use pnsbox_proto::anchor::Anchor;
use pnsbox_proto::certificate::{AdmissionCertificate, ControllerCertificate};
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::id::NodeName;
use pnsbox_proto::key::{Digest, IdentityKey, WireguardKey};
use pnsbox_proto::message::{ToAgent, ToController, Token};
use pnsbox_proto::service::{Audience, ServiceKind};
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::{
    AdmissionRecord, AgencyRecord, AuditHead, LinkRecord, Manifest, MemberKind, MemberRecord,
    NodeRecord, PeerPath, PeerRecord, Record, RecordEntry, SignedView,
};

pub(crate) const ME: &str = "kab-demak/gw1";
pub(crate) const HUB: &str = "prov-jateng/gw1";
pub(crate) const FAR: &str = "kota-malang/gw1";

pub(crate) fn secret(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub(crate) fn public(secret: &SigningKey) -> IdentityKey {
    IdentityKey(secret.verifying_key().to_bytes())
}

pub(crate) fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

pub(crate) fn controller_address() -> SocketAddr {
    "203.0.113.10:443".parse().unwrap()
}

/// Root is key 1, the controller key 2; nodes have the key of their number.
pub(crate) fn certificate(root: &SigningKey, controller: &SigningKey, network: &str) -> Envelope {
    let certificate = ControllerCertificate {
        network: network.parse().unwrap(),
        controller: public(controller),
        issued: UnixTime(1),
    };
    Envelope::sign(&certificate, root)
}

pub(crate) fn welcome(root: &SigningKey, certificate: Envelope, known_as: Option<&str>) -> Input {
    Input::Control(Box::new(ToAgent::Welcome {
        root: public(root),
        certificate,
        observed: "198.51.100.7:4000".parse().unwrap(),
        now: UnixTime(1000),
        node: known_as.map(node),
    }))
}

pub(crate) fn anchor() -> Anchor {
    Anchor {
        network: "pns".parse().unwrap(),
        node: node(ME),
        controllers: vec![controller_address()],
        root: public(&secret(1)).fingerprint(),
        token: Token([7; 16]),
        expires: UnixTime(5000),
    }
}

pub(crate) fn join_command() -> JoinCommand {
    JoinCommand {
        anchor: anchor(),
        prefixes: vec!["10.44.1.0/24".parse().unwrap()],
        public_endpoint: None,
        second_endpoint: None,
    }
}

pub(crate) fn service(name: &str, audience: Audience) -> ServiceConfig {
    ServiceConfig {
        name: name.into(),
        kind: ServiceKind::Tcp,
        endpoint: "10.44.1.10:5432".parse().unwrap(),
        audience,
        priority: 100,
        failures: 2,
    }
}

/// Keys of agencies: of the node's number and 100 more.
pub(crate) fn agency_secret(number: u8) -> SigningKey {
    secret(number + 100)
}

/// Who may admit agencies: key 3.
pub(crate) fn admission_record() -> Record {
    let certificate = AdmissionCertificate {
        network: "pns".parse().unwrap(),
        admission: public(&secret(3)),
        issued: UnixTime(1),
        ends: UnixTime(100),
    };
    Record::Admission(AdmissionRecord {
        certificate: Envelope::sign(&certificate, &secret(1)),
    })
}

pub(crate) fn agency_record(name: &str, number: u8) -> Record {
    let admission = Admission {
        network: "pns".parse().unwrap(),
        agency: name.parse().unwrap(),
        key: public(&agency_secret(number)),
        issued: UnixTime(50),
    };
    Record::Agency(AgencyRecord {
        agency: name.parse().unwrap(),
        admission: Envelope::sign(&admission, &secret(3)),
        successions: Vec::new(),
    })
}

pub(crate) fn node_claim(name: &str, number: u8) -> NodeClaim {
    NodeClaim {
        network: "pns".parse().unwrap(),
        node: node(name),
        identity: public(&secret(number)),
        wireguard: WireguardKey([number; 32]),
        overlay_v4: Ipv4Addr::new(100, 127, 0, number),
        prefixes: vec![format!("10.{number}.1.0/24").parse().unwrap()],
        sequence: 1,
        issued: UnixTime(60),
    }
}

pub(crate) fn link_consent(agency: &str, with: &str) -> LinkConsent {
    LinkConsent {
        network: "pns".parse().unwrap(),
        agency: agency.parse().unwrap(),
        with: with.parse().unwrap(),
        opens: None,
        until: None,
        sequence: 2,
        issued: UnixTime(60),
    }
}

pub(crate) fn number_of(agency: &str) -> u8 {
    match agency {
        "kab-demak" => 44,
        "prov-jateng" => 33,
        "kota-malang" => 55,
        other => panic!("{other} has no number here"),
    }
}

pub(crate) fn consent_of(agency: &str, with: &str) -> Envelope {
    Envelope::sign(
        &link_consent(agency, with),
        &agency_secret(number_of(agency)),
    )
}

/// The overlay IPv6 address of the node with this number.
pub(crate) fn v6(number: u8) -> Ipv6Addr {
    pnsbox_proto::address::node_v6(&public(&secret(1)), &public(&secret(number)))
}

pub(crate) fn start(seed: u8, saved: Option<SavedState>, services: Vec<ServiceConfig>) -> Start {
    Start {
        identity: Identity {
            identity: public(&secret(seed)),
            wireguard: WireguardKey([seed; 32]),
        },
        agency_keys: vec![agency_secret(seed)],
        saved,
        services,
        software: "test".into(),
        link_port: 51821,
        http_port: 9586,
        mtu: 1380,
        seed: 1,
    }
}

pub(crate) fn saved(name: &str) -> SavedState {
    SavedState {
        joined: Joined {
            network: "pns".parse().unwrap(),
            node: node(name),
        },
        root: public(&secret(1)),
        controllers: vec![controller_address()],
        view: None,
        prefixes: vec![
            format!("10.{}.1.0/24", number_of(node(name).agency().as_str()))
                .parse()
                .unwrap(),
        ],
        trust: TrustState::default(),
        endpoints: BTreeMap::new(),
    }
}

pub(crate) fn node_record(name: &str, number: u8) -> Record {
    Record::Node(NodeRecord {
        node: node(name),
        overlay_v4: Ipv4Addr::new(100, 127, 0, number),
        pool: "100.127.0.0/16".parse().unwrap(),
        prefixes: vec![format!("10.{number}.1.0/24").parse().unwrap()],
        held: Vec::new(),
        unreachable: Vec::new(),
        quarantine: None,
    })
}

/// A box of this agency, approved.
pub(crate) fn member_record(name: &str, number: u8) -> Record {
    let claim = node_claim(name, number);
    Record::Member(MemberRecord {
        name: node(name),
        wireguard: claim.wireguard,
        overlay_v4: claim.overlay_v4,
        what: MemberKind::Box {
            identity: claim.identity,
            prefixes: claim.prefixes.clone(),
        },
        claim: Some(Envelope::sign(&claim, &agency_secret(number))),
    })
}

pub(crate) fn peer_record(name: &str, number: u8, path: PeerPath) -> Record {
    Record::Peer(PeerRecord {
        node: node(name),
        claim: Envelope::sign(&node_claim(name, number), &agency_secret(number)),
        prefixes: vec![format!("10.{number}.1.0/24").parse().unwrap()],
        path,
        keepalive: true,
        devices: Vec::new(),
    })
}

pub(crate) fn link_record(with: &str, opens: &str, opened: &str) -> Record {
    link_of("kab-demak", with, opens, opened)
}

pub(crate) fn link_of(own: &str, with: &str, opens: &str, opened: &str) -> Record {
    let opening = |text: &str| {
        let (prefix, allow) = text.split_once(' ').unwrap();
        pnsbox_proto::access::Opening {
            prefix: prefix.parse().unwrap(),
            allow: vec![allow.parse().unwrap()],
        }
    };
    let some = |text: &str| {
        if text.is_empty() {
            Vec::new()
        } else {
            vec![opening(text)]
        }
    };
    Record::Link(LinkRecord {
        with: with.parse().unwrap(),
        opens: some(opens),
        opened: some(opened),
        ours: consent_of(own, with),
        theirs: consent_of(with, own),
    })
}

/// What every view of kab-demak/gw1 has beside what the test is about: whose key is whose, and its own claim.
pub(crate) fn signers() -> Vec<Record> {
    vec![
        admission_record(),
        agency_record("kab-demak", 44),
        agency_record("kota-malang", 55),
        agency_record("prov-jateng", 33),
        member_record(ME, 44),
    ]
}

/// Ids and texts of these records, and of [`signers`].
pub(crate) fn texts(records: &[Record]) -> Vec<(String, String)> {
    signers()
        .iter()
        .chain(records)
        .map(|record| (record.id(), serde_json::to_string(record).unwrap()))
        .collect()
}

/// A view of `records`, of which only those that `sent` likes travel.
pub(crate) fn view_of(
    name: &str,
    version: u64,
    records: &[(String, String)],
    signer: &SigningKey,
    sent: impl Fn(&str) -> bool,
) -> SignedView {
    let entry = |(id, text): &(String, String)| RecordEntry {
        id: id.clone(),
        sha256: Digest::of(text.as_bytes()),
    };
    let manifest = Manifest {
        network: "pns".parse().unwrap(),
        node: node(name),
        version,
        previous: None,
        // A view, a deed: as a controller has it that does nothing else.
        audit: AuditHead {
            entries: version,
            digest: Digest::of(&version.to_be_bytes()),
        },
        records: records.iter().map(entry).collect(),
    };
    let travel = records
        .iter()
        .filter(|(id, _)| sent(id))
        .map(|(_, text)| text.clone());
    SignedView {
        manifest: Envelope::sign(&manifest, signer),
        records: travel.collect(),
    }
}

/// The whole view of kab-demak/gw1: the hub straight, kota-malang through it.
pub(crate) fn records() -> Vec<Record> {
    vec![
        node_record(ME, 44),
        peer_record(
            HUB,
            33,
            PeerPath::Direct {
                endpoint: "203.0.113.30:51820".parse().unwrap(),
                second: None,
            },
        ),
        peer_record(
            FAR,
            55,
            PeerPath::Relay {
                relay: node(HUB),
                channel: 9,
            },
        ),
        link_record(
            "prov-jateng",
            "10.44.1.0/24 tcp/5432",
            "10.33.1.0/24 tcp/445",
        ),
        link_record("kota-malang", "", "10.55.1.0/24 tcp/8081"),
    ]
}

pub(crate) fn whole(version: u64) -> SignedView {
    view_of(ME, version, &texts(&records()), &secret(2), |_| true)
}

/// An agent with its clock. Inputs go in, everything that it wants done is kept.
pub(crate) struct Driven {
    pub(crate) agent: Agent,
    pub(crate) now: Now,
    pub(crate) outputs: Vec<Output>,
    /// Whether the controller answers when it is asked whether it hears this box.
    pub(crate) is_heard: bool,
}

impl Driven {
    pub(crate) fn new(start: Start) -> Self {
        let now = Now {
            monotonic: Duration::ZERO,
            wall: UnixTime(1000),
        };
        let mut driven = Self {
            agent: Agent::new(start, now),
            now,
            outputs: Vec::new(),
            is_heard: true,
        };
        driven.drain();
        driven
    }

    /// An agent that has joined, with a session whose controller is believed.
    pub(crate) fn online(services: Vec<ServiceConfig>) -> Self {
        let mut driven = Self::new(start(44, Some(saved(ME)), services));
        driven.come_online();
        driven
    }

    pub(crate) fn come_online(&mut self) {
        self.input(Input::ControlUp {
            key: public(&secret(2)),
        });
        self.input(welcome(
            &secret(1),
            certificate(&secret(1), &secret(2), "pns"),
            Some(ME),
        ));
    }

    pub(crate) fn input(&mut self, input: Input) {
        self.agent.handle(input, self.now);
        self.drain();
    }

    pub(crate) fn view(&mut self, view: SignedView) {
        self.input(Input::Control(Box::new(ToAgent::View(view))));
    }

    /// Lets the host accept whatever was to be applied.
    pub(crate) fn host_agrees(&mut self) {
        if let Some(generation) = self.generation() {
            self.input(Input::HostApplied {
                generation,
                result: Ok(()),
            });
        }
    }

    pub(crate) fn host_refuses(&mut self, reason: &str) {
        let generation = self.generation().expect("something was to be applied");
        self.input(Input::HostApplied {
            generation,
            result: Err(reason.into()),
        });
    }

    pub(crate) fn generation(&self) -> Option<u64> {
        self.outputs.iter().rev().find_map(|output| match output {
            Output::Apply { generation, .. } => Some(*generation),
            _ => None,
        })
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        let step = Duration::from_millis(250);
        let end = self.now.monotonic + time;
        while self.now.monotonic < end {
            self.now.monotonic += step;
            self.now.wall = UnixTime(1000 + self.now.monotonic.as_secs());
            self.input(Input::Timeout);
        }
    }

    /// What it wanted done since the last call.
    pub(crate) fn take(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// What it said to the controller since the last call.
    pub(crate) fn said(&mut self) -> Vec<ToController> {
        self.take()
            .into_iter()
            .filter_map(|output| match output {
                Output::SendControl(message) => Some(*message),
                _ => None,
            })
            .collect()
    }

    /// A link with the peer of this number, past hello.
    pub(crate) fn link(&mut self, name: &str, number: u8, connection: u64) {
        self.input(Input::LinkUp {
            connection,
            key: public(&secret(number)),
            dialled: true,
        });
        let message = pnsbox_proto::message::LinkMessage::Hello {
            protocol: 1,
            node: node(name),
        };
        self.input(Input::Link {
            connection,
            message,
        });
    }

    pub(crate) fn service_states(&self) -> BTreeMap<String, String> {
        let listed = self.agent.services(self.now).into_iter();
        listed
            .map(|s| (s.name.to_string(), format!("{:?}", s.state)))
            .collect()
    }

    pub(crate) fn condition_codes(&self) -> Vec<&'static str> {
        self.agent
            .status(self.now)
            .conditions
            .iter()
            .map(|c| c.code.as_str())
            .collect()
    }

    fn drain(&mut self) {
        while let Some(output) = self.agent.poll_output() {
            match output {
                Output::SendControl(message) if is_check(&message) => {
                    let ToController::Check { view } = *message else {
                        continue;
                    };
                    if self.is_heard {
                        let answer = Box::new(ToAgent::Checked { view });
                        self.agent.handle(Input::Control(answer), self.now);
                    }
                }
                output => self.outputs.push(output),
            }
        }
    }
}

fn is_check(message: &ToController) -> bool {
    matches!(message, ToController::Check { .. })
}
