//! Boxes of these tests sign for their agencies as agents do: their claim, and consents with everybody.

use pnsbox_proto::access::Opening;
use pnsbox_proto::agency::{
    AgencyDocument, DeviceClaim, LinkConsent, NodeClaim, Statement, Succession, Void,
};
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::id::AgencyName;
use pnsbox_proto::view::{MemberKind, MemberRecord};

use super::*;
use crate::operator::ExternalLine;

/// Every agency has the key that follows from its name.
pub(super) fn agency_key(agency: &AgencyName) -> SigningKey {
    SigningKey::from_bytes(&Digest::of(agency.as_str().as_bytes()).0)
}

pub(super) fn claim(member: &MemberRecord, sequence: u64) -> AgencyDocument {
    let network = "pns".parse().unwrap();
    let key = agency_key(&member.name.agency());
    match &member.what {
        MemberKind::Box { identity, prefixes } => {
            let claim = NodeClaim {
                network,
                node: member.name.clone(),
                identity: *identity,
                wireguard: member.wireguard,
                overlay_v4: member.overlay_v4,
                prefixes: prefixes.clone(),
                sequence,
                issued: UnixTime(START),
            };
            AgencyDocument::Claim(Envelope::sign(&claim, &key))
        }
        MemberKind::Device { gateway } => {
            let claim = DeviceClaim {
                network,
                device: member.name.clone(),
                wireguard: member.wireguard,
                overlay_v4: member.overlay_v4,
                gateway: gateway.clone(),
                sequence,
                issued: UnixTime(START),
            };
            AgencyDocument::Device(Envelope::sign(&claim, &key))
        }
    }
}

pub(super) fn consent(
    agency: &str,
    with: &str,
    opens: Option<Vec<Opening>>,
    sequence: u64,
) -> AgencyDocument {
    let agency: AgencyName = agency.parse().unwrap();
    let consent = LinkConsent {
        network: "pns".parse().unwrap(),
        with: with.parse().unwrap(),
        opens,
        until: None,
        sequence,
        issued: UnixTime(START),
        agency: agency.clone(),
    };
    AgencyDocument::Consent(Envelope::sign(&consent, &agency_key(&agency)))
}

pub(super) fn statement(agency: &str, sequence: u64, void: Vec<Void>) -> AgencyDocument {
    let agency: AgencyName = agency.parse().unwrap();
    let statement = Statement {
        network: "pns".parse().unwrap(),
        sequence,
        issued: UnixTime(START),
        void,
        agency: agency.clone(),
    };
    AgencyDocument::Statement(Envelope::sign(&statement, &agency_key(&agency)))
}

/// The agency's next key, signed by the one before.
fn succession(agency: &str, next: &SigningKey) -> AgencyDocument {
    let agency: AgencyName = agency.parse().unwrap();
    let key = agency_key(&agency);
    let succession = Succession {
        network: "pns".parse().unwrap(),
        before: IdentityKey(key.verifying_key().to_bytes()).fingerprint(),
        key: IdentityKey(next.verifying_key().to_bytes()),
        issued: UnixTime(START),
        agency,
    };
    AgencyDocument::Succession(Envelope::sign(&succession, &key))
}

#[test]
fn what_an_agency_says_with_a_new_key_comes_after_the_view_that_shows_the_key() {
    let mut world = World::new();
    world.add("kab-demak", &["10.44.0.0/16"]);
    world.add("prov-jateng", &["10.33.0.0/16"]);
    world.apply(json!({ "link": [link("kab-demak", &[], "prov-jateng", &[])] }));
    let _demak = world.join(44, "kab-demak/gw1", &[], Some("203.0.113.44:51820"));
    let mut jateng = world.join(33, "prov-jateng/gw1", &[], Some("203.0.113.33:51820"));
    // A view is under way that does not know it yet.
    world.hand_in(
        &"kab-demak".parse().unwrap(),
        vec![consent("kab-demak", "prov-jateng", Some(Vec::new()), 5)],
    );
    let next = SigningKey::from_bytes(&[77; 32]);
    let statement = Statement {
        network: "pns".parse().unwrap(),
        agency: "kab-demak".parse().unwrap(),
        sequence: 9,
        issued: UnixTime(START),
        void: Vec::new(),
    };
    let statement = AgencyDocument::Statement(Envelope::sign(&statement, &next));
    let again = LinkConsent {
        network: "pns".parse().unwrap(),
        agency: "kab-demak".parse().unwrap(),
        with: "prov-jateng".parse().unwrap(),
        opens: None,
        until: None,
        sequence: 8,
        issued: UnixTime(START),
    };
    let signed = vec![
        succession("kab-demak", &next),
        AgencyDocument::Consent(Envelope::sign(&again, &next)),
        statement.clone(),
    ];
    world.hand_in(&"kab-demak".parse().unwrap(), signed);
    let came = world.received(&jateng);
    let [ToAgent::View(view)] = &came[..] else {
        panic!("a view and nothing else: {came:?}");
    };
    jateng.apply(view);
    world.say(&jateng, jateng.applied());
    let came = world.received(&jateng);
    let [ToAgent::View(_), ToAgent::Documents { documents, .. }] = &came[..] else {
        panic!("the view with the key, then what it said: {came:?}");
    };
    assert!(documents.contains(&statement), "{documents:?}");
}

impl World {
    /// The agency of `member` claims it; it and all that have a key want links with each other.
    pub(super) fn sign_all(&mut self, member: &mut Box_) {
        let record = member.member();
        let own = record.name.agency();
        self.hand_in(&own, vec![claim(&record, 1)]);
        let agencies = self.controller.image.registry.agencies.iter();
        let others: Vec<AgencyName> = agencies
            .filter(|(name, agency)| agency.key.is_some() && **name != own)
            .map(|(name, _)| name.clone())
            .collect();
        for other in others {
            self.hand_in(&own, vec![consent(own.as_str(), other.as_str(), None, 2)]);
            self.hand_in(&other, vec![consent(other.as_str(), own.as_str(), None, 2)]);
        }
        while self.take_view(member).is_some() {}
    }

    /// A box of the agency that is online hands these in.
    fn hand_in(&mut self, agency: &AgencyName, documents: Vec<AgencyDocument>) {
        let occupied = self.controller.occupied.iter();
        let mut sessions = occupied.filter(|(node, _)| node.agency() == *agency);
        let Some((_, session)) = sessions.next() else {
            return;
        };
        let (session, now) = (*session, self.now());
        let message = ToController::Documents { documents };
        self.controller.handle_message(session, message, now);
        self.settle();
    }

    /// The agency of a device claims it, through the box that the device dials.
    pub(super) fn claim_device(&mut self, line: &ExternalLine) {
        let member = MemberRecord {
            name: line.device.clone(),
            wireguard: line.wireguard,
            overlay_v4: line.overlay_v4,
            what: MemberKind::Device {
                gateway: line.gateway.clone(),
            },
            claim: None,
        };
        self.hand_in(&line.device.agency(), vec![claim(&member, 3)]);
    }
}

impl Box_ {
    /// Ids of the view in force, without whose key is whose and who is of the own agency.
    pub(super) fn told(&self) -> Vec<String> {
        let all = self.all().into_iter();
        let signers = ["admission ", "agency ", "member "];
        all.filter(|id| !signers.iter().any(|kind| id.starts_with(kind)))
            .collect()
    }

    /// What its view says of itself as a box of its agency.
    pub(super) fn member(&self) -> MemberRecord {
        let own = self.own().node;
        let records = self.records.values();
        let mut records = records.map(|text| serde_json::from_str::<Record>(text).unwrap());
        records
            .find_map(|record| match record {
                Record::Member(member) if member.name == own => Some(member),
                _ => None,
            })
            .unwrap()
    }
}
