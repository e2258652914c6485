//! A network in miniature, the same in every run: keys by number, records, views, messages.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ed25519_dalek::SigningKey;
use pnsbox_proto::access::Opening;
use pnsbox_proto::address;
use pnsbox_proto::agency::{
    Admission, AgencyDocument, DeviceClaim, LinkConsent, NodeClaim, Statement, Subject, Void,
};
use pnsbox_proto::anchor::Anchor;
use pnsbox_proto::certificate::{AdmissionCertificate, ControllerCertificate};
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::health::{HealthReport, PeerHealth};
use pnsbox_proto::id::{NetworkName, NodeName};
use pnsbox_proto::key::{Digest, IdentityKey, WireguardKey};
use pnsbox_proto::message::Token;
use pnsbox_proto::service::{Audience, Service, ServiceKind};
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::{
    AdmissionRecord, AgencyRecord, AuditHead, ExternalRecord, LinkRecord, Manifest, MemberKind,
    MemberRecord, NodeRecord, PeerPath, PeerRecord, Record, RecordEntry, RelayRecord, SignedView,
};

/// Number of the root's key, of the controller's, of a stranger's. Nodes have the key of their number below.
pub(super) const ROOT: u8 = 1;
pub(super) const CONTROLLER: u8 = 2;
pub(super) const STRANGER: u8 = 3;
/// Of who may admit agencies.
pub(super) const ADMISSION: u8 = 4;

/// The node under test, and its peers.
pub(super) const ME: &str = "kab-demak/gw1";
pub(super) const HUB: &str = "prov-jateng/gw1";
pub(super) const FAR: &str = "kota-malang/gw1";
pub(super) const NEAR: &str = "kab-kudus/gw1";
/// Nodes with their numbers.
pub(super) const NODES: [(&str, u8); 4] = [(ME, 44), (HUB, 33), (FAR, 55), (NEAR, 66)];

pub(super) fn secret(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

pub(super) fn public(number: u8) -> IdentityKey {
    IdentityKey(secret(number).verifying_key().to_bytes())
}

/// Parses what is written in this module.
pub(super) fn known<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a name of the fuzzer's own is right")
}

pub(super) fn network() -> NetworkName {
    known("pns")
}

pub(super) fn controller_address() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 10], 443))
}

pub(super) fn anchor() -> Anchor {
    Anchor {
        network: network(),
        node: known(ME),
        controllers: vec![controller_address()],
        root: public(ROOT).fingerprint(),
        token: Token([7; 16]),
        expires: UnixTime(5000),
    }
}

pub(super) fn certificate(root: u8, controller: u8, network: &str) -> Envelope {
    let certificate = ControllerCertificate {
        network: known(network),
        controller: public(controller),
        issued: UnixTime(1),
    };
    Envelope::sign(&certificate, &secret(root))
}

pub(super) fn node_record(name: &str, number: u8) -> Record {
    Record::Node(NodeRecord {
        node: known(name),
        overlay_v4: Ipv4Addr::new(100, 127, 0, number),
        pool: known("100.127.0.0/16"),
        prefixes: vec![lan(number)],
        held: Vec::new(),
        unreachable: Vec::new(),
        quarantine: None,
    })
}

pub(super) fn peer_record(name: &str, number: u8, path: PeerPath) -> Record {
    Record::Peer(PeerRecord {
        node: known(name),
        claim: Envelope::sign(&claim(name, number, 1), &agency_secret(number)),
        prefixes: vec![lan(number)],
        path,
        keepalive: true,
        devices: Vec::new(),
    })
}

pub(super) fn link_record(with: &str, number: u8) -> Record {
    let opening = |prefix, allow: &str| Opening {
        prefix,
        allow: vec![known("icmp"), known(allow)],
    };
    Record::Link(LinkRecord {
        with: known(with),
        opens: vec![opening(lan(44), "tcp/5432")],
        opened: vec![opening(lan(number), "tcp/80-8099")],
        ours: Envelope::sign(&consent("kab-demak", with, 2), &agency_secret(44)),
        theirs: Envelope::sign(&consent(with, "kab-demak", 2), &agency_secret(number)),
    })
}

/// A device that dials [`ME`].
pub(super) fn external_record(name: &str, number: u8) -> Record {
    let opening = |prefix, allow: &str| Opening {
        prefix,
        allow: vec![known("icmp"), known(allow)],
    };
    Record::External(ExternalRecord {
        device: known(name),
        claim: Envelope::sign(&device_claim(name, number), &agency_secret(44)),
        opens: vec![opening(lan(44), "tcp/22")],
        beyond: vec![opening(lan(33), "udp/53")],
    })
}

/// Everything that a view of [`ME`] may hold: the hub straight, the far one through it, a pair to relay for,
/// and a device.
pub(super) fn records() -> Vec<Record> {
    let direct = PeerPath::Direct {
        endpoint: SocketAddr::from(([203, 0, 113, 30], 51820)),
        second: None,
    };
    let relayed = PeerPath::Relay {
        relay: known(HUB),
        channel: 9,
    };
    vec![
        node_record(ME, 44),
        peer_record(HUB, 33, direct),
        peer_record(FAR, 55, relayed),
        link_record("prov-jateng", 33),
        link_record("kota-malang", 55),
        Record::Relay(RelayRecord {
            channel: 4,
            members: [known(FAR), known(HUB)],
        }),
        peer_record(NEAR, 66, PeerPath::Passive),
        external_record("kab-demak/laptop-budi", 90),
        link_record("kab-kudus", 66),
    ]
}

/// Whose key is whose, which every view says, and what [`ME`] is to its own agency.
pub(super) fn signers() -> Vec<Record> {
    let certificate = AdmissionCertificate {
        network: network(),
        admission: public(ADMISSION),
        issued: UnixTime(1),
        ends: UnixTime(100),
    };
    let mut records = vec![Record::Admission(AdmissionRecord {
        certificate: Envelope::sign(&certificate, &secret(ROOT)),
    })];
    for (node, number) in NODES {
        let agency = known::<NodeName>(node).agency();
        let admission = Admission {
            network: network(),
            agency: agency.clone(),
            key: agency_public(number),
            issued: UnixTime(50),
        };
        records.push(Record::Agency(AgencyRecord {
            agency,
            admission: Envelope::sign(&admission, &secret(ADMISSION)),
            successions: Vec::new(),
        }));
    }
    let own = claim(ME, 44, 1);
    records.push(Record::Member(MemberRecord {
        name: own.node.clone(),
        wireguard: own.wireguard,
        overlay_v4: own.overlay_v4,
        what: MemberKind::Box {
            identity: own.identity,
            prefixes: own.prefixes.clone(),
        },
        claim: Some(Envelope::sign(&own, &agency_secret(44))),
    }));
    records
}

/// The key of the agency whose node has this number.
pub(super) fn agency_secret(number: u8) -> SigningKey {
    secret(number + 100)
}

pub(super) fn agency_public(number: u8) -> IdentityKey {
    public(number + 100)
}

pub(super) fn claim(name: &str, number: u8, sequence: u64) -> NodeClaim {
    NodeClaim {
        network: network(),
        node: known(name),
        identity: public(number),
        wireguard: WireguardKey([number; 32]),
        overlay_v4: Ipv4Addr::new(100, 127, 0, number),
        prefixes: vec![lan(number)],
        sequence,
        issued: UnixTime(60),
    }
}

fn device_claim(name: &str, number: u8) -> DeviceClaim {
    DeviceClaim {
        network: network(),
        device: known(name),
        wireguard: WireguardKey([number; 32]),
        overlay_v4: Ipv4Addr::new(100, 127, 0, number),
        gateway: known(ME),
        sequence: 3,
        issued: UnixTime(60),
    }
}

pub(super) fn consent(agency: &str, with: &str, sequence: u64) -> LinkConsent {
    LinkConsent {
        network: network(),
        agency: known(agency),
        with: known(with),
        opens: None,
        until: None,
        sequence,
        issued: UnixTime(60),
    }
}

/// What an agency says of how far it is; `void` says whether its consent with [`ME`]'s is taken back.
pub(super) fn statement(agency: &str, sequence: u64, void: bool) -> Statement {
    Statement {
        network: network(),
        agency: known(agency),
        sequence,
        issued: UnixTime(1000),
        void: match void {
            true => vec![Void {
                subject: Subject::Consent(known("kab-demak")),
                below: 3,
            }],
            false => Vec::new(),
        },
    }
}

/// A statement of the agency of one of [`NODES`], signed by the key with the number `signer`.
pub(super) fn document(
    node: usize,
    signer: u8,
    sequence: u64,
    void: bool,
) -> (NodeName, AgencyDocument) {
    let (name, _) = NODES[node % NODES.len()];
    let name: NodeName = known(name);
    let statement = statement(name.agency().as_str(), sequence, void);
    let signed = Envelope::sign(&statement, &secret(signer));
    (name, AgencyDocument::Statement(signed))
}

/// A record as it stands in a manifest: its id and its text.
pub(super) fn text(record: &Record) -> (String, String) {
    let text = serde_json::to_string(record).expect("a record is a plain struct");
    (record.id(), text)
}

/// A view of `node` in `network`, signed by `signer`, with the records that `sent` likes.
pub(super) fn view(
    (network, node): (&str, &NodeName),
    version: u64,
    records: &[(String, String)],
    signer: u8,
    sent: impl Fn(usize) -> bool,
) -> SignedView {
    let entry = |(id, text): &(String, String)| RecordEntry {
        id: id.clone(),
        sha256: Digest::of(text.as_bytes()),
    };
    let signers: Vec<_> = signers().iter().map(text).collect();
    let manifest = Manifest {
        network: known(network),
        node: node.clone(),
        version,
        previous: None,
        audit: AuditHead {
            entries: version,
            digest: Digest::of(&version.to_be_bytes()),
        },
        records: signers.iter().chain(records).map(entry).collect(),
    };
    let travel = records.iter().enumerate().filter(|(i, _)| sent(*i));
    SignedView {
        manifest: Envelope::sign(&manifest, &secret(signer)),
        records: (signers.iter().map(|(_, text)| text.clone()))
            .chain(travel.map(|(_, (_, text))| text.clone()))
            .collect(),
    }
}

pub(super) fn service(node: &str, audience: Audience) -> Service {
    let node: NodeName = known(node);
    Service {
        name: known(&format!("{}/arsip", node.agency())),
        kind: ServiceKind::Files,
        node,
        endpoints: vec![SocketAddr::from(([10, 33, 1, 10], 445))],
        priority: 100,
        audience,
        epoch: 1,
        virtual_address: None,
    }
}

pub(super) fn health(words: &str) -> HealthReport {
    HealthReport {
        started: UnixTime(900),
        software: words.to_owned(),
        view_applied: 1,
        peers: vec![PeerHealth {
            node: known(HUB),
            up: true,
            endpoint: None,
            relay: Some(known(FAR)),
            path_mtu: Some(1280),
            last_handshake: Some(UnixTime(990)),
            rx_bytes: 1,
            tx_bytes: 2,
            link: true,
            rtt_ms: Some(12.5),
            jitter_ms: None,
            loss: Some(0.5),
        }],
        services: Vec::new(),
        conditions: Vec::new(),
    }
}

/// Overlay addresses of the node or device with this number.
pub(super) fn overlay(number: u8) -> [ipnet::IpNet; 2] {
    let root = public(ROOT);
    let v6 = match number {
        90 => address::device_v6(&root, &WireguardKey([number; 32])),
        _ => address::node_v6(&root, &public(number)),
    };
    let v4 = Ipv4Addr::new(100, 127, 0, number);
    [IpAddr::from(v4).into(), IpAddr::from(v6).into()]
}

pub(super) fn lan(number: u8) -> ipnet::IpNet {
    known(&format!("10.{number}.1.0/24"))
}
