//! From bytes to what reaches a controller: sessions, messages, time, and what its operator asks.

use std::net::SocketAddr;
use std::time::Duration;

use arbitrary::Unstructured;
use ed25519_dalek::SigningKey;
use pnsbox_controller_core::operator::{Answer, Request};
use pnsbox_controller_core::session::SessionId;
use pnsbox_proto::agency::{AgencyDocument, LinkConsent, NodeClaim};
use pnsbox_proto::anchor::Anchor;
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::key::{Digest, IdentityKey, WireguardKey};
use pnsbox_proto::message::{JoinRequest, ToController, ViewOutcome};
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::{AuditHead, MemberKind};
use serde_json::{Value, json};

use super::{AGENCIES, BOXES, FIRST_KEY, Open, START, World};
use crate::fuzz::network::{self, CONTROLLER, known};
use crate::fuzz::{below, byte, chunk, chunked, frames, short};

impl World {
    pub(super) fn step(&mut self, bytes: &mut Unstructured<'_>) {
        match below(bytes, 15) {
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
            12 => self.look(),
            13 => self.external(bytes),
            _ => self.sign(bytes),
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
                audit: view.map(|digest| AuditHead { entries: 3, digest }),
                run: view.map(|digest| digest.0[0].into()),
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
        let agency = AGENCIES[below(bytes, 3)].0;
        let request = JoinRequest {
            token,
            agency: (byte(bytes) & 3 != 3).then(|| public(agency)),
            wireguard: WireguardKey(
                [if byte(bytes) == 9 {
                    0
                } else {
                    FIRST_KEY + member
                }; 32],
            ),
            prefixes,
            public_endpoint,
            second_endpoint: None,
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
            0 => ViewOutcome::Applied,
            1 if byte(bytes) & 1 == 0 => ViewOutcome::Applied,
            1 => ViewOutcome::OnTrial,
            2 => match words(bytes) {
                reason if reason.len() % 2 == 0 => ViewOutcome::Refused { reason },
                reason => ViewOutcome::RolledBack { reason },
            },
            _ => ViewOutcome::Incomplete,
        };
        // An agent that says so has the view; one that lies may be sent less than it lacks.
        let held = self.boxes[open.member]
            .held
            .as_ref()
            .map(|view| view.id.digest);
        let has = matches!(outcome, ViewOutcome::Applied | ViewOutcome::OnTrial);
        open.lied |= has && held != Some(digest);
        // One that refuses keeps the view for another attempt, and the next delta builds on the one before it.
        let refuses = matches!(
            outcome,
            ViewOutcome::Refused { .. } | ViewOutcome::RolledBack { .. }
        );
        open.owes &= refuses || offered != Some(digest);
        open.owes |= refuses;
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

    /// A box hands in what its agency signs of what its view says, or what nobody should take.
    fn sign(&mut self, bytes: &mut Unstructured<'_>) {
        let session = self.session(bytes);
        let held = self.sessions.get(&session).map(|open| open.member);
        let held = held.and_then(|member| self.boxes[member].held.as_ref());
        let Some(held) = held else { return };
        let own = held.node.node.agency();
        let signer = match below(bytes, 4) {
            0 => network::secret(CONTROLLER),
            _ => agency_key(own.as_str()),
        };
        let (sequence, issued) = (u64::from(byte(bytes)), UnixTime(START));
        let mut documents = Vec::new();
        for member in held.members.values() {
            if let MemberKind::Box { identity, prefixes } = &member.what {
                let claim = NodeClaim {
                    network: network::network(),
                    node: member.name.clone(),
                    identity: *identity,
                    wireguard: member.wireguard,
                    overlay_v4: member.overlay_v4,
                    prefixes: prefixes.clone(),
                    sequence,
                    issued,
                };
                documents.push(AgencyDocument::Claim(Envelope::sign(&claim, &signer)));
            }
        }
        let with = AGENCIES[below(bytes, 3)].0;
        let consent = network::consent(own.as_str(), with, sequence);
        documents.push(AgencyDocument::Consent(Envelope::sign(&consent, &signer)));
        let statement = network::statement(own.as_str(), sequence, byte(bytes) & 1 == 1);
        documents.push(AgencyDocument::Statement(Envelope::sign(
            &statement, &signer,
        )));
        let message = ToController::Documents { documents };
        self.controller.handle_message(session, message, self.now());
        self.judge_signatures();
    }

    /// Whatever was handed in, what is kept was signed by whoever it concerns.
    fn judge_signatures(&mut self) {
        self.settle();
        for (key, (_, text)) in &self.entries {
            let value: Value = serde_json::from_str(text).expect("the store holds JSON");
            let (kind, name) = key.split_once('/').unwrap_or((key, ""));
            let agency = name.split('/').next().unwrap_or_default();
            let opens = |envelope: &Value| {
                let envelope: Envelope =
                    serde_json::from_value(envelope.clone()).expect("an envelope");
                let key = AGENCIES.iter().map(|(agency, _)| public(agency));
                let claim = key
                    .clone()
                    .any(|key| envelope.open::<NodeClaim>(&key).is_ok());
                let mut key = key;
                claim || key.any(|key| envelope.open::<LinkConsent>(&key).is_ok())
            };
            match kind {
                "node" if !value["claim"].is_null() => {
                    assert!(opens(&value["claim"]), "{agency} did not sign {key}");
                }
                "consent" => assert!(opens(&value["envelope"]), "{agency} did not sign {key}"),
                _ => {}
            }
        }
    }

    /// A device comes or goes; its key may be a member's, or none.
    fn external(&mut self, bytes: &mut Unstructured<'_>) {
        let (agency, _) = AGENCIES[below(bytes, 3)];
        let device = known(&format!("{agency}/{}", ["gw1", "laptop"][below(bytes, 2)]));
        let request = if byte(bytes) & 1 == 0 {
            let wireguard = WireguardKey([byte(bytes); 32]);
            Request::ExternalAdd { device, wireguard }
        } else {
            Request::ExternalRemove { device }
        };
        self.ask(request);
        self.ask(Request::ExternalList)
            .expect("devices can always be listed");
        self.settle();
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
            _ if kind & 16 == 0 => json!({ "relays": relays, "link": links }),
            _ => {
                let open = json!([{ "at": AGENCIES[below(bytes, 3)].0, "prefix": "lan", "allow": ["tcp/1-500"] }]);
                let external =
                    json!([{ "device": format!("{}/laptop", AGENCIES[1].0), "open": open }]);
                json!({ "relays": relays, "link": links, "external": external })
            }
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
}

/// Every agency has the key that follows from its name.
fn agency_key(agency: &str) -> SigningKey {
    SigningKey::from_bytes(&Digest::of(agency.as_bytes()).0)
}

fn public(agency: &str) -> IdentityKey {
    IdentityKey(agency_key(agency).verifying_key().to_bytes())
}

fn words(bytes: &mut Unstructured<'_>) -> String {
    String::from_utf8_lossy(chunk(bytes)).into_owned()
}

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
    parts.extend(with_devices(&three, &again, applied));
    for (number, message) in frames::to_controller().iter().enumerate() {
        let json = serde_json::to_vec(message).expect("a plain struct");
        parts.push([&two[..], &[11, number as u8, 0], look].concat());
        parts.push([&connect(2)[..], &[11, 0xff], &chunked(&json), &[0]].concat());
    }
    parts
}

/// A device that comes before its policy, and one that comes after it.
fn with_devices(three: &[u8], again: &[u8], applied: &[u8]) -> [Vec<u8>; 2] {
    let (device, no_device): (&[u8], &[u8]) = (&[13, 1, 1, 0, 90], &[13, 1, 1, 1]);
    let (opened, less): (&[u8], &[u8]) = (&[9, 0x1f, 0, 1, 2, 0], &[9, 0x01, 1]);
    let (restart, look): (&[u8], &[u8]) = (&[10], &[12]);
    [
        [
            three, device, opened, applied, applied, no_device, applied, look,
        ]
        .concat(),
        [three, opened, device, restart, again, less, look].concat(),
    ]
}
