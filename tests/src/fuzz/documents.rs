//! Signed documents as the agent takes them in. Only what the right key signed opens; a view is refused whole or
//! accepted whole, but for records that cannot be read, which are named and left out alone.

use std::collections::BTreeSet;

use arbitrary::Unstructured;
use ed25519_dalek::VerifyingKey;
use pnsbox_agent_core::event::{HostFacts, InterfaceAddress, Uplink};
use pnsbox_agent_core::view::{Accepted, Judge, Refusal};
use pnsbox_proto::anchor::{Anchor, AnchorError};
use pnsbox_proto::certificate::ControllerCertificate;
use pnsbox_proto::envelope::{Document, Envelope};
use pnsbox_proto::key::Digest;
use pnsbox_proto::view::{Manifest, Record, SignedView};
use sha2::{Digest as _, Sha256};

use super::network::{self, CONTROLLER, HUB, ME, ROOT, STRANGER, known};
use super::{agent, below, byte, chunk, chunked};

/// Throws `data` at anchors, envelopes and views.
pub fn run(data: &[u8]) {
    let mut bytes = Unstructured::new(data);
    match below(&mut bytes, 5) {
        0 => anchor_line(bytes.take_rest()),
        1 => anchor_body(bytes.take_rest()),
        2 => envelope(bytes.take_rest()),
        3 => tampered(&mut bytes),
        _ => view(&mut bytes),
    }
}

/// A line that an admin pastes.
fn anchor_line(line: &[u8]) {
    let Ok(line) = std::str::from_utf8(line) else {
        return;
    };
    if let Ok(anchor) = line.parse::<Anchor>() {
        survives(&anchor);
    }
}

/// A body with right check digits, and the JSON of one.
fn anchor_body(body: &[u8]) {
    let Ok(body) = std::str::from_utf8(body) else {
        return;
    };
    let digits = &Digest::of(body.as_bytes()).to_string()[..8];
    match format!("pns1.{body}.{digits}").parse::<Anchor>() {
        Ok(anchor) => survives(&anchor),
        Err(AnchorError::Damaged) => panic!("the digits are right"),
        Err(error) => one_line(&error.to_string()),
    }
    if let Ok(anchor) = serde_json::from_str::<Anchor>(body) {
        match anchor.to_string().parse::<Anchor>() {
            Ok(again) => assert_eq!(again, anchor),
            Err(_) => assert!(anchor.controllers.is_empty(), "{anchor}"),
        }
    }
}

fn survives(anchor: &Anchor) {
    assert!(!anchor.controllers.is_empty());
    assert_eq!(
        anchor.to_string().parse::<Anchor>().as_ref(),
        Ok(anchor),
        "an anchor survives being shown"
    );
}

fn one_line(text: &str) {
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

/// An envelope from nowhere opens only if its signature is right by the letter of RFC 8032 and our domain.
fn envelope(json: &[u8]) {
    let Ok(envelope) = serde_json::from_slice::<Envelope>(json) else {
        return;
    };
    opens_only_by_signature::<Manifest>(&envelope, CONTROLLER);
    opens_only_by_signature::<ControllerCertificate>(&envelope, ROOT);
}

fn opens_only_by_signature<D: Document>(envelope: &Envelope, number: u8) {
    let key = network::public(number);
    let hash = Sha256::new()
        .chain_update(b"pnsbox signed document 1\0")
        .chain_update(D::DOMAIN)
        .chain_update([0])
        .chain_update(&envelope.payload)
        .finalize();
    let verifier = VerifyingKey::from_bytes(&key.0).expect("a key of ours is a point");
    let signature = ed25519_dalek::Signature::from_bytes(&envelope.signature.0);
    let signed =
        envelope.key_id == key.fingerprint() && verifier.verify_strict(&hash, &signature).is_ok();
    let readable = serde_json::from_str::<D>(&envelope.payload).is_ok();
    assert_eq!(
        envelope.open::<D>(&key).is_ok(),
        signed && readable,
        "{}",
        D::DOMAIN
    );
}

/// A right document of which one place was changed.
fn tampered(bytes: &mut Unstructured<'_>) {
    let is_certificate = byte(bytes) & 1 == 1;
    let whole = whole(1);
    let mut envelope = if is_certificate {
        network::certificate(ROOT, CONTROLLER, "pns")
    } else {
        whole.manifest
    };
    let before = envelope.clone();
    change(&mut envelope, bytes);
    let key = network::public(if is_certificate { ROOT } else { CONTROLLER });
    let opened = if is_certificate {
        envelope.open::<ControllerCertificate>(&key).is_ok()
    } else {
        envelope.open::<Manifest>(&key).is_ok()
    };
    assert_eq!(
        opened,
        envelope == before,
        "a changed document opens, or a right one does not"
    );
}

/// Changes payload, key id or signature, as the bytes say; perhaps into the same.
fn change(envelope: &mut Envelope, bytes: &mut Unstructured<'_>) {
    match below(bytes, 4) {
        0 => {
            let at = usize::from(super::short(bytes)) % envelope.payload.len().max(1);
            let (with, mut payload) = (byte(bytes), envelope.payload.clone().into_bytes());
            if let Some(place) = payload.get_mut(at) {
                *place = with;
            }
            if let Ok(payload) = String::from_utf8(payload) {
                envelope.payload = payload;
            }
        }
        1 => envelope.signature.0[below(bytes, 64)] ^= byte(bytes),
        2 => envelope.key_id.0[below(bytes, 32)] ^= byte(bytes),
        _ => {
            let more = String::from_utf8_lossy(chunk(bytes));
            envelope.payload.push_str(&more);
        }
    }
}

/// How an offered view is made.
struct Offer {
    version: u64,
    signer: u8,
    network: &'static str,
    node: &'static str,
    records: Vec<(String, String)>,
    /// Bits of records that do not travel.
    missing: u8,
    tamper: bool,
}

impl Offer {
    fn read(bytes: &mut Unstructured<'_>) -> Self {
        let flags = byte(bytes);
        let chosen = byte(bytes);
        let known_records = network::records();
        let good = known_records.iter().enumerate();
        let good = good.filter(|(i, _)| chosen & (1 << i.min(&7)) != 0);
        let mut records: Vec<_> = good.map(|(_, record)| network::text(record)).collect();
        for number in 0..below(bytes, 4) {
            let place = below(bytes, records.len() + 1);
            let text = String::from_utf8_lossy(chunk(bytes)).into_owned();
            records.insert(place, (format!("poison {number}"), text));
        }
        Self {
            version: byte(bytes).into(),
            missing: byte(bytes),
            signer: if flags & 1 == 0 { CONTROLLER } else { STRANGER },
            network: if flags & 2 == 0 { "pns" } else { "lain" },
            node: if flags & 4 == 0 { ME } else { HUB },
            tamper: flags & 8 != 0,
            records,
        }
    }

    fn signed(&self, bytes: &mut Unstructured<'_>) -> SignedView {
        let travels = |i: usize| i >= 8 || self.missing & (1 << i) == 0;
        let target = (self.network, &known(self.node));
        let mut signed = network::view(target, self.version, &self.records, self.signer, travels);
        if self.tamper {
            change(&mut signed.manifest, bytes);
        }
        signed
    }

    /// How many records are neither sent nor held.
    fn lacks(&self, held: Option<&Accepted>) -> usize {
        let held: BTreeSet<&String> = held.iter().flat_map(|view| &view.signed.records).collect();
        let sent: BTreeSet<&String> = (0..self.records.len())
            .filter(|i| *i >= 8 || self.missing & (1 << i) == 0)
            .map(|i| &self.records[i].1)
            .collect();
        let texts = self.records.iter().map(|(_, text)| text);
        texts
            .filter(|text| !held.contains(text) && !sent.contains(text))
            .count()
    }
}

fn whole(version: u64) -> SignedView {
    let texts: Vec<_> = network::records().iter().map(network::text).collect();
    network::view(("pns", &known(ME)), version, &texts, CONTROLLER, |_| true)
}

/// A view after another, or the first.
fn view(bytes: &mut Unstructured<'_>) {
    let (network_name, node, controller) =
        (network::network(), known(ME), network::public(CONTROLLER));
    let judge = Judge {
        network: &network_name,
        node: &node,
        controller: &controller,
    };
    let mut held: Option<Accepted> = None;
    for _ in 0..=below(bytes, 3) {
        let offer = Offer::read(bytes);
        let signed = offer.signed(bytes);
        let is_right = signed.manifest.open::<Manifest>(&controller).is_ok();
        assert!(!is_right || offer.signer == CONTROLLER);
        let judged = judge.accept(&signed, held.as_ref());
        if let Err(refusal) = &judged {
            assert!(!refusal.to_string().is_empty());
        }
        match judged {
            Err(Refusal::Envelope(_)) => assert!(!is_right),
            _ if !is_right => panic!("a bad signature does not refuse the whole"),
            Err(Refusal::OtherNetwork { .. }) => assert_ne!(offer.network, "pns"),
            _ if offer.network != "pns" => panic!("a view of another network is judged further"),
            Err(Refusal::OtherNode { .. }) => assert_ne!(offer.node, ME),
            _ if offer.node != ME => panic!("a view for another node is judged further"),
            Err(Refusal::NotNewer { .. }) => {
                assert!(held.as_ref().is_some_and(|h| h.id.version >= offer.version));
            }
            _ if held.as_ref().is_some_and(|h| h.id.version >= offer.version) => {
                panic!("an older view is judged further")
            }
            Err(Refusal::OtherHistory { .. }) => panic!("a newer view was made after more deeds"),
            Err(Refusal::Incomplete(missing)) => assert_eq!(missing, offer.lacks(held.as_ref())),
            Err(Refusal::NoNode) => {
                assert!(
                    offer
                        .records
                        .iter()
                        .all(|(id, _)| *id != format!("node {ME}"))
                );
            }
            Ok(view) => {
                assert_eq!(offer.lacks(held.as_ref()), 0);
                holds_what_was_good(&view, &offer);
                comes_into_force(&signed, bytes);
                held = Some(view);
            }
        }
    }
}

/// Every record that is right is in the view; every other one is named in quarantine, and nothing else is.
fn holds_what_was_good(view: &Accepted, offer: &Offer) {
    let poison: Vec<&String> = offer
        .records
        .iter()
        .map(|(id, _)| id)
        .filter(|id| id.starts_with("poison"))
        .collect();
    assert_eq!(view.quarantined.iter().collect::<Vec<_>>(), poison);
    let mut relays = 0;
    for (_, text) in offer
        .records
        .iter()
        .filter(|(id, _)| !id.starts_with("poison"))
    {
        match serde_json::from_str(text).expect("a good record can be read") {
            Record::Node(node) => assert_eq!(view.node, node),
            Record::Peer(peer) => assert_eq!(view.peers.get(&peer.node), Some(&peer)),
            Record::Link(link) => assert_eq!(view.links.get(&link.with), Some(&link)),
            Record::Relay(_) => relays += 1,
            Record::External(device) => {
                assert_eq!(view.externals.get(&device.device), Some(&device));
            }
            Record::Admission(_) | Record::Agency(_) | Record::Member(_) | Record::Proposal(_) => {
                panic!("those are not offered one by one")
            }
        }
    }
    let good = offer.records.len() - poison.len();
    assert_eq!(view.relays.len(), relays);
    let others = view.links.len() + view.externals.len() + relays;
    assert_eq!(1 + view.peers.len() + others, good);
    assert_eq!(view.id.version, offer.version);
    let signers = network::signers().len();
    assert_eq!(view.signed.records.len(), offer.records.len() + signers);
}

/// The host's configuration names only keys that agencies of the network claim, and nothing to do with the box's own
/// network is routed.
fn comes_into_force(view: &SignedView, bytes: &mut Unstructured<'_>) {
    let Some(config) = agent::configuration(view, facts(bytes)) else {
        return;
    };
    for tunnel in &config.tunnels {
        let known = network::NODES.iter().map(|(_, number)| *number).chain([90]);
        let is_claimed = known.into_iter().any(|number| tunnel.key.0 == [number; 32]);
        assert!(is_claimed, "{} is nobody's key", tunnel.key);
    }
    for throw in &config.throws {
        assert!(
            !config.routes.contains(throw),
            "{throw} is taken from the host"
        );
    }
    let script = pnsbox_agent::host::nftables::render(
        config.filter.as_ref().expect("a view has a filter"),
        "pns0",
    );
    assert!(script.contains("pns0"));
}

/// A host with one uplink and some addresses.
pub(super) fn facts(bytes: &mut Unstructured<'_>) -> HostFacts {
    let mut facts = HostFacts::default();
    for _ in 0..below(bytes, 4) {
        let octets = [byte(bytes), byte(bytes), byte(bytes), byte(bytes)];
        let length = byte(bytes) % 33;
        let Ok(address) = ipnet::Ipv4Net::new(octets.into(), length) else {
            continue;
        };
        facts.addresses.push(InterfaceAddress {
            interface: if length.is_multiple_of(2) {
                "lan0"
            } else {
                "wan0"
            }
            .into(),
            address: address.into(),
        });
        if length == 24 {
            facts.uplinks.push(Uplink {
                interface: "wan0".into(),
                gateway: Some(octets.map(|o| o ^ 1).into()),
            });
            facts.resolvers.push(octets.into());
        }
    }
    facts
}

/// Right documents, and some that are wrong in one way each.
pub fn seeds() -> Vec<Vec<u8>> {
    let anchor = network::anchor();
    let line = anchor.to_string();
    let body = line.split('.').nth(1).unwrap_or_default();
    let json = serde_json::to_string(&anchor).expect("an anchor is a plain struct");
    let written = |envelope: &Envelope| serde_json::to_vec(envelope).expect("a plain struct");
    let mut seeds = vec![
        [&[0], line.as_bytes()].concat(),
        [&[1], body.as_bytes()].concat(),
        [&[1], json.as_bytes()].concat(),
        [vec![2], written(&whole(1).manifest)].concat(),
        [
            vec![2],
            written(&network::certificate(ROOT, CONTROLLER, "pns")),
        ]
        .concat(),
    ];
    for place in 0..4 {
        for document in 0..2 {
            seeds.push(vec![3, document, place, 40, 0, 0x20, 0x20]);
        }
    }
    let address = [10, 33, 1, 1, 24];
    for flags in 0..16 {
        let poison = chunked(br#"{"kind":"peer","node":"x y"}"#);
        let offer = |version: u8, missing: u8| {
            [
                &[flags, 0x7f, 1, 2],
                &poison[..],
                &[version, missing],
                &[1],
                &address,
            ]
            .concat()
        };
        seeds.push([&[4, 0], &offer(1, 0)[..]].concat());
        seeds.push([&[4, 1], &offer(3, 0)[..], &offer(2, 0)].concat());
        seeds.push([&[4, 1], &offer(3, 0)[..], &offer(4, 0x0f)].concat());
    }
    seeds
}
