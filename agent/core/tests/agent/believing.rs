//! What a box believes over time: freshness that ages, consents that end, and pins that outlive a restart.

use std::time::Duration;

use crate::support::*;
use pnsbox_agent_core::event::{Input, Output, SavedState};
use pnsbox_proto::agency::{
    AgencyDocument, NodeClaim, QuarantineList, SignedQuarantine, Statement, Subject, Void,
};
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::message::{LinkMessage, ToAgent};
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::Record;

const JATENG: u8 = 33;
const MALANG: u8 = 55;

fn in_force() -> Driven {
    let mut agent = Driven::online(Vec::new());
    agent.view(whole(1));
    agent.host_agrees();
    agent.pass(Duration::from_secs(1));
    agent
}

fn says(agent: &Driven, code: &str) -> bool {
    agent.condition_codes().contains(&code)
}

fn message_of(agent: &Driven, code: &str) -> String {
    let conditions = agent.agent.status(agent.now).conditions;
    let of_code = conditions.iter().filter(|c| c.code.as_str() == code);
    let messages: Vec<&str> = of_code.map(|c| c.message.as_str()).collect();
    messages.join("\n")
}

fn statement(
    agency: &str,
    number: u8,
    sequence: u64,
    issued: u64,
    void: Vec<Void>,
) -> AgencyDocument {
    let statement = Statement {
        network: "pns".parse().unwrap(),
        agency: agency.parse().unwrap(),
        sequence,
        issued: UnixTime(issued),
        void,
    };
    AgencyDocument::Statement(Envelope::sign(&statement, &agency_secret(number)))
}

fn tell(agent: &mut Driven, documents: Vec<AgencyDocument>) {
    told(agent, documents, None);
}

/// What is learnt changes what is in force with the next look at it.
fn told(agent: &mut Driven, documents: Vec<AgencyDocument>, quarantine: Option<SignedQuarantine>) {
    agent.input(Input::Control(Box::new(ToAgent::Documents {
        documents,
        quarantine,
    })));
    agent.pass(Duration::from_secs(1));
    agent.host_agrees();
}

fn saved_last(agent: &Driven) -> Option<SavedState> {
    agent.outputs.iter().rev().find_map(|output| match output {
        Output::Persist(state) => Some((**state).clone()),
        _ => None,
    })
}

/// The view with other records in the place of those of the same id.
fn with(version: u64, changed: Vec<Record>) -> pnsbox_proto::view::SignedView {
    let mut all = records();
    for record in changed {
        all.retain(|other| other.id() != record.id());
        all.push(record);
    }
    view_of(ME, version, &texts(&all), &secret(2), |_| true)
}

fn peer_with(name: &str, number: u8, change: impl FnOnce(&mut NodeClaim)) -> Record {
    let mut claim = node_claim(name, number);
    claim.sequence += 1;
    change(&mut claim);
    let found = records().into_iter().find_map(|record| match record {
        Record::Peer(peer) if peer.node == node(name) => Some(peer),
        _ => None,
    });
    let mut peer = found.unwrap();
    peer.prefixes.clone_from(&claim.prefixes);
    peer.claim = Envelope::sign(&claim, &agency_secret(number));
    Record::Peer(peer)
}

#[test]
fn an_agency_that_is_not_heard_of_for_half_an_hour_is_named_until_it_is() {
    let mut agent = in_force();
    let all = |at: u64| {
        let of = |(agency, number)| statement(agency, number, at, at, Vec::new());
        [("prov-jateng", JATENG), ("kota-malang", MALANG)]
            .map(of)
            .to_vec()
    };
    tell(&mut agent, all(1001));
    agent.pass(Duration::from_secs(1790));
    assert!(!says(&agent, "statement_stale"));
    agent.pass(Duration::from_secs(20));
    assert!(says(&agent, "statement_stale"));
    assert!(message_of(&agent, "statement_stale").contains("was not heard of since"));
    // An old one that was kept back does not make it fresh.
    tell(&mut agent, all(1005));
    assert!(says(&agent, "statement_stale"));
    let fresh = all(agent.now.wall.0);
    tell(&mut agent, fresh);
    assert!(!says(&agent, "statement_stale"));
}

#[test]
fn what_was_void_stays_void_over_a_restart() {
    let mut agent = in_force();
    let void = vec![Void {
        subject: Subject::Consent("kab-demak".parse().unwrap()),
        below: 50,
    }];
    tell(
        &mut agent,
        vec![statement("prov-jateng", JATENG, 50, 1002, void)],
    );
    agent.host_agrees();
    assert!(
        message_of(&agent, "record_refused").contains("prov-jateng has taken its consent back")
    );
    let mut again = Driven::new(start(44, saved_last(&agent), Vec::new()));
    again.host_agrees();
    assert!(
        message_of(&again, "record_refused").contains("prov-jateng has taken its consent back")
    );
    // Nor does another view bring it back.
    again.come_online();
    again.view(whole(2));
    again.host_agrees();
    assert!(
        message_of(&again, "record_refused").contains("prov-jateng has taken its consent back")
    );
}

#[test]
fn what_a_box_has_is_not_given_to_another_also_after_a_restart() {
    let jateng = node_claim("prov-jateng/gw1", JATENG);
    let theirs = [
        (
            "its address",
            peer_with("kota-malang/gw1", MALANG, |c| {
                c.overlay_v4 = jateng.overlay_v4
            }),
        ),
        (
            "its key",
            peer_with("kota-malang/gw1", MALANG, |c| {
                c.wireguard = jateng.wireguard
            }),
        ),
        (
            "which has not let it go",
            peer_with("kota-malang/gw1", MALANG, |c| {
                c.prefixes.clone_from(&jateng.prefixes)
            }),
        ),
    ];
    for (reason, record) in theirs {
        let agent = in_force();
        let mut again = Driven::new(start(44, saved_last(&agent), Vec::new()));
        again.host_agrees();
        again.come_online();
        again.view(with(2, vec![record]));
        let said = message_of(&again, "controller_distrusted");
        assert!(
            said.contains("kota-malang/gw1") && said.contains(reason),
            "{reason}: {said}"
        );
        assert!(said.contains("prov-jateng/gw1"), "{said}");
    }
}

#[test]
fn a_consent_ends_by_a_clock_that_somebody_confirms_and_by_no_other() {
    for is_confirmed in [true, false] {
        let mut agent = in_force();
        let mut consent = link_consent("prov-jateng", "kab-demak");
        consent.sequence = 40;
        consent.until = Some(UnixTime(1100));
        let consent = Envelope::sign(&consent, &agency_secret(JATENG));
        let agrees = statement("kota-malang", MALANG, 1, agent.now.wall.0, Vec::new());
        tell(&mut agent, vec![AgencyDocument::Consent(consent), agrees]);
        if is_confirmed {
            agent.pass(Duration::from_secs(120));
            agent.host_agrees();
        } else {
            // Somebody sets it a day ahead of what everybody agreed with.
            agent.now.monotonic += Duration::from_secs(1);
            agent.now.wall = UnixTime(agent.now.wall.0 + 86_400);
            agent.input(Input::Timeout);
        }
        let ended = message_of(&agent, "record_refused").contains("has ended");
        assert_eq!(
            ended,
            is_confirmed,
            "{}",
            message_of(&agent, "record_refused")
        );
        assert_eq!(says(&agent, "consent_ended"), !is_confirmed);
    }
}

#[test]
fn a_second_list_of_who_is_shut_out_with_one_number_is_a_lie_and_an_older_one_is_nothing() {
    let list = |sequence, agencies: &[&str]| {
        let list = QuarantineList {
            network: "pns".parse().unwrap(),
            sequence,
            issued: UnixTime(1000),
            nodes: Vec::new(),
            agencies: agencies.iter().map(|name| name.parse().unwrap()).collect(),
        };
        SignedQuarantine {
            certificate: certificate(&secret(1), &secret(2), "pns"),
            list: Envelope::sign(&list, &secret(2)),
        }
    };
    let mut agent = in_force();
    let mut tell = |list| {
        told(&mut agent, Vec::new(), Some(list));
        (
            says(&agent, "controller_distrusted"),
            message_of(&agent, "record_refused").contains("it is shut out"),
        )
    };
    assert_eq!(tell(list(8, &["kota-malang"])), (false, true));
    assert_eq!(tell(list(7, &[])), (false, true));
    assert_eq!(tell(list(8, &[])), (true, true));
    assert_eq!(tell(list(9, &[])), (true, false));
}

#[test]
fn two_boxes_that_were_shown_two_histories_notice() {
    let mut agent = in_force();
    agent.link(HUB, JATENG, 5);
    let told = agent.take().into_iter().find_map(|output| match output {
        Output::SendLink {
            message: LinkMessage::Trail { audit },
            ..
        } => Some(audit),
        _ => None,
    });
    let mut audit = told.expect("a peer is told with hello");
    let mut hear = |audit| {
        agent.input(Input::Link {
            connection: 5,
            message: LinkMessage::Trail { audit },
        });
        message_of(&agent, "controller_distrusted")
    };
    assert_eq!(hear(audit), "");
    audit.digest = pnsbox_proto::key::Digest::of(b"another");
    assert!(hear(audit).contains("was shown the audit trail"));
}

#[test]
fn two_documents_of_an_agency_with_one_number_are_not_held_against_the_controller() {
    let mut agent = in_force();
    let first = statement("prov-jateng", JATENG, 50, 1001, Vec::new());
    tell(&mut agent, vec![first]);
    let void = vec![Void {
        subject: Subject::Consent("kab-demak".parse().unwrap()),
        below: 50,
    }];
    let second = statement("prov-jateng", JATENG, 50, 1002, void);
    tell(&mut agent, vec![second]);
    assert!(!says(&agent, "controller_distrusted"));
    assert!(!says(&agent, "record_refused"), "the first stays");
}
