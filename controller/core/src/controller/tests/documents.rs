//! What agencies hand in: taken only from the right signer, kept with what it changes, and handed on.

use ed25519_dalek::SigningKey;
use pnsbox_proto::access::Opening;
use pnsbox_proto::agency::{AgencyDocument, Subject, Succession, Void};
use pnsbox_proto::certificate::AdmissionCertificate;
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::id::AgencyName;
use pnsbox_proto::view::{LinkRecord, ProposalRecord};

use super::signing::{agency_key, claim, consent, statement};
use super::*;

const DEMAK: &str = "kab-demak/gw1";
const JATENG: &str = "prov-jateng/gw1";

/// Two agencies with a link in the policy; neither has signed anything.
fn unsigned() -> (World, [Box_; 2]) {
    let mut world = World::new();
    world.add("kab-demak", &["10.44.0.0/16"]);
    world.add("prov-jateng", &["10.33.0.0/16"]);
    let opened = link("kab-demak", &["icmp"], "prov-jateng", &["icmp", "tcp/445"]);
    world.apply(json!({ "link": [opened] }));
    let public = Some("203.0.113.30:51820");
    let demak = world.join_unsigned(1, DEMAK, &["10.44.1.0/24"], None);
    let jateng = world.join_unsigned(2, JATENG, &["10.33.1.0/24"], public);
    (world, [demak, jateng])
}

fn signed() -> (World, [Box_; 2]) {
    let (mut world, mut members) = unsigned();
    for member in &mut members {
        world.sign_all(member);
    }
    catch_up(&mut world, &mut members);
    (world, members)
}

fn catch_up(world: &mut World, members: &mut [Box_]) {
    for member in members {
        while world.take_view(member).is_some() {}
    }
}

impl World {
    fn hands_in(&mut self, member: &Box_, documents: Vec<AgencyDocument>) {
        self.say(member, ToController::Documents { documents });
    }
}

fn record<T>(member: &Box_, wanted: impl Fn(Record) -> Option<T>) -> Option<T> {
    let mut texts = member.records.values();
    texts.find_map(|text| wanted(serde_json::from_str(text).unwrap()))
}

fn link_of(member: &Box_) -> Option<LinkRecord> {
    record(member, |record| match record {
        Record::Link(link) => Some(link),
        _ => None,
    })
}

fn proposal_of(member: &Box_) -> Option<ProposalRecord> {
    record(member, |record| match record {
        Record::Proposal(proposal) => Some(proposal),
        _ => None,
    })
}

fn is_peer(member: &Box_, of: &str) -> bool {
    member.told().contains(&format!("peer {of}"))
}

#[test]
fn nobody_is_a_peer_before_both_agencies_have_signed() {
    let (mut world, mut members) = unsigned();
    let [demak, jateng] = &mut members;
    let steps = [
        (true, claim(&demak.member(), 1)),
        (false, claim(&jateng.member(), 1)),
        (true, consent("kab-demak", "prov-jateng", None, 2)),
    ];
    for (of_demak, document) in steps {
        let member = if of_demak { &*demak } else { &*jateng };
        world.hands_in(member, vec![document]);
    }
    catch_up(&mut world, &mut members);
    for member in &members {
        assert!(!is_peer(member, DEMAK) && !is_peer(member, JATENG));
        assert_eq!(link_of(member), None);
    }
    let proposed = proposal_of(&members[0]).unwrap();
    assert!(proposed.ours.is_some() && !proposed.theirs);
    assert_eq!(proposed.opened.len(), 1, "what it would open is shown");
    let warned = world.status().warnings;
    assert!(
        warned[0].contains("waits for the consent of prov-jateng"),
        "{warned:?}"
    );

    world.hands_in(
        &members[1],
        vec![consent("prov-jateng", "kab-demak", None, 2)],
    );
    catch_up(&mut world, &mut members);
    assert!(is_peer(&members[0], JATENG) && is_peer(&members[1], DEMAK));
    assert_eq!(proposal_of(&members[0]), None);
    assert_eq!(world.status().warnings, [""; 0]);
    let deed = world.audit().pop().unwrap();
    assert_eq!(deed.who, "node prov-jateng/gw1");
    assert_eq!(
        deed.what,
        "prov-jateng signs the consent with kab-demak (2)"
    );
    world.restart();
    assert!(world.controller.image.registry.both_consent(
        &"kab-demak".parse().unwrap(),
        &"prov-jateng".parse().unwrap()
    ));
}

#[test]
fn what_the_right_signer_did_not_sign_is_not_taken() {
    let (mut world, members) = unsigned();
    let [demak, jateng] = &members;
    let before = world.controller.image.registry.clone();
    let stranger = |document: &AgencyDocument| match document {
        AgencyDocument::Claim(envelope) => {
            let key = IdentityKey(
                agency_key(&"kab-demak".parse().unwrap())
                    .verifying_key()
                    .to_bytes(),
            );
            let said: pnsbox_proto::agency::NodeClaim = envelope.open(&key).unwrap();
            AgencyDocument::Claim(Envelope::sign(&said, &controller_key()))
        }
        _ => unreachable!("claims only"),
    };
    let mut longer = demak.member();
    if let pnsbox_proto::view::MemberKind::Box { prefixes, .. } = &mut longer.what {
        prefixes.push("10.99.0.0/16".parse().unwrap());
    }
    let mut elsewhere = demak.member();
    elsewhere.overlay_v4 = jateng.member().overlay_v4;
    let mut unknown = demak.member();
    unknown.name = node("kab-demak/gw9");
    for (what, document) in [
        (
            "the controller's signature",
            stranger(&claim(&demak.member(), 1)),
        ),
        ("another agency's box", claim(&jateng.member(), 1)),
        (
            "another agency's consent",
            consent("prov-jateng", "kab-demak", None, 1),
        ),
        ("prefixes that it did not ask for", claim(&longer, 1)),
        ("an address that is another's", claim(&elsewhere, 1)),
        ("a box that did not join", claim(&unknown, 1)),
    ] {
        world.hands_in(demak, vec![document]);
        assert_eq!(world.controller.image.registry, before, "{what}");
    }
}

#[test]
fn an_older_document_does_not_replace_a_newer_one() {
    let (mut world, members) = signed();
    let newer = consent("kab-demak", "prov-jateng", Some(Vec::new()), 9);
    world.hands_in(&members[0], vec![newer]);
    let held = |world: &World| {
        let (a, b) = ("kab-demak".parse().unwrap(), "prov-jateng".parse().unwrap());
        world
            .controller
            .image
            .registry
            .consent(&a, &b)
            .unwrap()
            .sequence
    };
    assert_eq!(held(&world), 9);
    for sequence in [2, 8, 9] {
        let old = consent("kab-demak", "prov-jateng", None, sequence);
        world.hands_in(&members[0], vec![old]);
        assert_eq!(held(&world), 9, "{sequence}");
    }
}

#[test]
fn a_consent_bounds_what_policy_opens_and_the_rest_is_proposed() {
    let (mut world, mut members) = signed();
    let opened = |member: &Box_| link_of(member).unwrap().opens;
    assert_eq!(opened(&members[1])[0].allow.len(), 2);
    let most = vec![Opening {
        prefix: "10.33.0.0/16".parse().unwrap(),
        allow: vec!["tcp/1-500".parse().unwrap()],
    }];
    let narrow = consent("prov-jateng", "kab-demak", Some(most), 5);
    world.hands_in(&members[1], vec![narrow]);
    catch_up(&mut world, &mut members);
    let opens = opened(&members[1]);
    assert_eq!(opens.len(), 1);
    assert_eq!(opens[0].prefix, "10.33.1.0/24".parse().unwrap());
    assert_eq!(opens[0].allow, ["tcp/445".parse().unwrap()]);
    assert_eq!(
        link_of(&members[0]).unwrap().opened,
        opens,
        "both are told the same"
    );
    let proposed = proposal_of(&members[1]).expect("policy wants more");
    assert_eq!(proposed.opens[0].allow.len(), 2);
}

#[test]
fn what_a_statement_voids_is_gone_for_everybody_and_stays_void() {
    let (mut world, mut members) = signed();
    let void = |subject, below| Void { subject, below };
    let with = Subject::Consent("prov-jateng".parse().unwrap());
    let document = statement("kab-demak", 20, vec![void(with.clone(), 3)]);
    world.hands_in(&members[0], vec![document.clone()]);
    // Partners are told the statement itself, and once.
    let told = world.received(&members[1]);
    let statements = told.iter().filter(|message| {
        matches!(message, ToAgent::Documents { documents, .. } if *documents == [document.clone()])
    });
    assert_eq!(statements.count(), 1);
    world.hands_in(&members[0], vec![document.clone()]);
    assert_eq!(world.received(&members[1]), []);
    let (demak, jateng): (AgencyName, AgencyName) =
        ("kab-demak".parse().unwrap(), "prov-jateng".parse().unwrap());
    assert!(
        !world
            .controller
            .image
            .registry
            .both_consent(&demak, &jateng)
    );
    world.hands_in(
        &members[0],
        vec![consent("kab-demak", "prov-jateng", None, 2)],
    );
    assert!(
        !world
            .controller
            .image
            .registry
            .both_consent(&demak, &jateng),
        "it is void"
    );

    let own = Subject::Node(node(DEMAK));
    let more = statement("kab-demak", 30, vec![void(with, 3), void(own, 2)]);
    world.hands_in(&members[0], vec![more]);
    assert!(!world.controller.image.registry.is_claimed(&node(DEMAK)));
    let status = world.node_status(DEMAK);
    assert!(
        status
            .attention
            .iter()
            .any(|text| text.contains("pnsbox node approve kab-demak/gw1")),
        "{status:?}"
    );
    world.restart();
    assert!(!world.controller.image.registry.is_claimed(&node(DEMAK)));
    // Who comes back is told again.
    let mut returned = std::mem::replace(&mut members[1], Box_::new(99));
    world.connect(&mut returned);
    let told = world.received(&returned);
    assert!(told.iter().any(
        |message| matches!(message, ToAgent::Documents { documents, .. } if documents.len() == 1)
    ));
}

fn succession(before: &SigningKey, next: &SigningKey, signer: &SigningKey) -> Envelope {
    let public = |key: &SigningKey| IdentityKey(key.verifying_key().to_bytes());
    let succession = Succession {
        network: "pns".parse().unwrap(),
        agency: "kab-demak".parse().unwrap(),
        before: public(before).fingerprint(),
        key: public(next),
        issued: UnixTime(START),
    };
    Envelope::sign(&succession, signer)
}

#[test]
fn the_key_is_replaced_by_the_one_before_or_by_the_root_and_by_nobody_else() {
    let (mut world, members) = signed();
    let demak: AgencyName = "kab-demak".parse().unwrap();
    let (old, next) = (agency_key(&demak), SigningKey::from_bytes(&[77; 32]));
    let root = SigningKey::from_bytes(&[201; 32]);
    let key_of = |world: &World| {
        let agency = &world.controller.image.registry.agencies[&demak];
        agency.key.as_ref().unwrap().key
    };
    let first = key_of(&world);
    for (what, envelope) in [
        ("the controller", succession(&old, &next, &controller_key())),
        (
            "the admission key",
            succession(&old, &next, &keys().admission),
        ),
        ("the next key itself", succession(&old, &next, &next)),
        (
            "the root, of a key that it is not",
            succession(&next, &next, &root),
        ),
    ] {
        world.hands_in(
            &members[0],
            vec![AgencyDocument::Succession(envelope.clone())],
        );
        assert_eq!(key_of(&world), first, "{what}");
        let asked = world.ask(Request::AgencySucceed {
            succession: envelope,
        });
        assert!(asked.is_err(), "{what}: {asked:?}");
    }
    let envelope = succession(&old, &next, &old);
    world.hands_in(&members[0], vec![AgencyDocument::Succession(envelope)]);
    assert_eq!(key_of(&world).0, next.verifying_key().to_bytes());
    assert!(
        !world.controller.image.registry.is_claimed(&node(DEMAK)),
        "all is to be signed anew"
    );
    let last = SigningKey::from_bytes(&[78; 32]);
    let envelope = succession(&next, &last, &root);
    let answer = world.ask(Request::AgencySucceed {
        succession: envelope,
    });
    assert!(
        matches!(answer, Ok(Answer::AgencyKeyReplaced { .. })),
        "{answer:?}"
    );
    assert_eq!(key_of(&world).0, last.verifying_key().to_bytes());
    world.restart();
    assert_eq!(key_of(&world).0, last.verifying_key().to_bytes());
}

#[test]
fn new_agencies_are_admitted_for_ninety_days_and_longer_under_the_root() {
    let mut world = World::new();
    world.add("kab-demak", &["10.44.0.0/16"]);
    world.clock += Duration::from_secs(91 * 24 * 3600);
    let warned = world.status().warnings;
    assert!(warned[0].contains("admission renew"), "{warned:?}");
    let anchor = world.invite("kab-demak", "gw1");
    let mut member = Box_::new(1);
    world.connect(&mut member);
    let refusal = world
        .refusal(&member, anchor.token.clone(), &[])
        .to_string();
    assert!(
        refusal.contains("right to admit agencies ended"),
        "{refusal}"
    );
    let certificate = |admission: &SigningKey, signer: &SigningKey| {
        let certificate = AdmissionCertificate {
            network: "pns".parse().unwrap(),
            admission: IdentityKey(admission.verifying_key().to_bytes()),
            issued: UnixTime(START),
            ends: UnixTime(START).plus(Duration::from_secs(200 * 24 * 3600)),
        };
        Envelope::sign(&certificate, signer)
    };
    let root = SigningKey::from_bytes(&[201; 32]);
    for wrong in [
        certificate(&keys().admission, &controller_key()),
        certificate(&controller_key(), &root),
    ] {
        assert!(
            world
                .ask(Request::AdmissionRenew { certificate: wrong })
                .is_err()
        );
    }
    let certificate = certificate(&keys().admission, &root);
    world.ask(Request::AdmissionRenew { certificate }).unwrap();
    assert_eq!(world.status().warnings, [""; 0]);
    let answer = world.try_join(&member, anchor.token, &[], None);
    assert!(matches!(answer, ToAgent::Joined { .. }), "{answer:?}");
}

#[test]
fn only_who_signs_is_shown_the_whole_agency() {
    let (mut world, mut members) = signed();
    let second = world.join_unsigned(3, "kab-demak/gw2", &["10.44.2.0/24"], None);
    catch_up(&mut world, &mut members);
    let shown = |member: &Box_| {
        let all = member.all().into_iter();
        all.filter(|id| id.starts_with("member ")).count()
    };
    assert_eq!((shown(&members[0]), shown(&second)), (2, 1));
    assert!(!is_peer(&members[1], "kab-demak/gw2"), "it is not approved");
    let waits = record(&members[0], |record| match record {
        Record::Member(member) if member.claim.is_none() => Some(member),
        _ => None,
    });
    world.hands_in(&members[0], vec![claim(&waits.unwrap(), 11)]);
    catch_up(&mut world, &mut members);
    assert!(is_peer(&members[1], "kab-demak/gw2"));
}
