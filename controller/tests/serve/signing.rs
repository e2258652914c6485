//! Boxes of these tests sign for their agencies as agents do.

use ed25519_dalek::SigningKey;
use pnsbox_proto::agency::{AgencyDocument, DeviceClaim, LinkConsent, NodeClaim};
use pnsbox_proto::envelope::{Document, Envelope};
use pnsbox_proto::id::AgencyName;
use pnsbox_proto::key::{Digest, IdentityKey};
use pnsbox_proto::message::ToController;
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::{MemberKind, MemberRecord, Record};

use crate::support::{Agent, Disk};

/// Whoever joins in these tests wants links with all of them.
const EVERYBODY: [&str; 5] = [
    "kab-demak",
    "prov-jateng",
    "kota-malang",
    "pusat",
    "kab-kudus",
];

/// Every agency has the key that follows from its name.
pub(crate) fn key(agency: &AgencyName) -> SigningKey {
    SigningKey::from_bytes(&Digest::of(agency.as_str().as_bytes()).0)
}

pub(crate) fn public(agency: &AgencyName) -> IdentityKey {
    IdentityKey(key(agency).verifying_key().to_bytes())
}

/// The claim of a box or a device, and nothing else of its agency.
pub(crate) fn claim(member: &MemberRecord, sequence: u64) -> AgencyDocument {
    let (network, issued) = ("pns".parse().unwrap(), UnixTime(1));
    let (name, wireguard, overlay_v4) = (member.name.clone(), member.wireguard, member.overlay_v4);
    let agency = name.agency();
    match &member.what {
        MemberKind::Box { identity, prefixes } => AgencyDocument::Claim(signed(
            &agency,
            &NodeClaim {
                network,
                node: name,
                identity: *identity,
                wireguard,
                overlay_v4,
                prefixes: prefixes.clone(),
                sequence,
                issued,
            },
        )),
        MemberKind::Device { gateway } => AgencyDocument::Device(signed(
            &agency,
            &DeviceClaim {
                network,
                device: name,
                wireguard,
                overlay_v4,
                gateway: gateway.clone(),
                sequence,
                issued,
            },
        )),
    }
}

fn signed<D: Document>(agency: &AgencyName, document: &D) -> Envelope {
    Envelope::sign(document, &key(agency))
}

fn consent(agency: &AgencyName, with: &str, sequence: u64) -> AgencyDocument {
    AgencyDocument::Consent(signed(
        agency,
        &LinkConsent {
            network: "pns".parse().unwrap(),
            agency: agency.clone(),
            with: with.parse().unwrap(),
            opens: None,
            until: None,
            sequence,
            issued: UnixTime(1),
        },
    ))
}

impl Agent {
    /// Signs what its view says of itself, and consents with everybody; takes the view that follows.
    pub(crate) async fn sign(&mut self, disk: &mut Disk) {
        let member = disk
            .members()
            .into_iter()
            .find(|member| member.claim.is_none());
        let member = member.expect("a box that was not claimed yet");
        let agency = member.name.agency();
        let others = EVERYBODY.iter().filter(|with| **with != agency.as_str());
        let consents = others
            .zip(2..)
            .map(|(with, sequence)| consent(&agency, with, sequence));
        let documents = std::iter::once(claim(&member, 1)).chain(consents).collect();
        self.say(&ToController::Documents { documents }).await;
        self.take_view(disk).await;
    }

    /// Signs every device of its agency that waits for it.
    pub(crate) async fn claim_devices(&mut self, disk: &Disk, sequence: u64) {
        let waiting = disk
            .members()
            .into_iter()
            .filter(|member| member.claim.is_none());
        let documents = waiting.map(|member| claim(&member, sequence)).collect();
        self.say(&ToController::Documents { documents }).await;
    }
}

impl Disk {
    fn members(&self) -> Vec<MemberRecord> {
        let records = self.records.values();
        let records = records.map(|text| serde_json::from_str::<Record>(text).unwrap());
        let mut members: Vec<MemberRecord> = records
            .filter_map(|record| match record {
                Record::Member(member) => Some(member),
                _ => None,
            })
            .collect();
        // What a newer record replaced is still on this disk.
        let claimed: Vec<_> = members
            .iter()
            .filter(|member| member.claim.is_some())
            .map(|member| member.name.clone())
            .collect();
        members.retain(|member| member.claim.is_some() || !claimed.contains(&member.name));
        members
    }
}
