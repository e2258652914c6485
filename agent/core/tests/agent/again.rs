//! Second tries and bad timing: what was refused, what came meanwhile, what is older than it seems.

use std::time::Duration;

use crate::support::*;
use pnsbox_agent_core::event::{
    HostFacts, Input, InterfaceAddress, Output, SavedState, SavedView, Uplink,
};
use pnsbox_agent_core::host::HostConfig;
use pnsbox_proto::agency::{AgencyDocument, Statement, Subject, Void};
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::message::{JoinRefusal, LinkMessage, ToAgent, ToController, ViewOutcome};
use pnsbox_proto::time::UnixTime;

fn in_force(version: u64) -> Driven {
    let mut agent = Driven::online(Vec::new());
    agent.view(whole(version));
    agent.host_agrees();
    agent.take();
    agent
}

fn applied(agent: &mut Driven) -> Option<HostConfig> {
    agent.take().into_iter().find_map(|output| match output {
        Output::Apply { host, .. } => Some(*host),
        _ => None,
    })
}

fn outcomes(agent: &mut Driven) -> Vec<(u64, ViewOutcome)> {
    let said = agent.said().into_iter();
    said.filter_map(|message| match message {
        ToController::ViewOutcome {
            version, outcome, ..
        } => Some((version, outcome)),
        _ => None,
    })
    .filter(|(_, outcome)| *outcome != ViewOutcome::OnTrial)
    .collect()
}

fn facts(address: &str) -> HostFacts {
    HostFacts {
        addresses: vec![InterfaceAddress {
            interface: "wan0".into(),
            address: address.parse().unwrap(),
        }],
        uplinks: vec![Uplink {
            interface: "wan0".into(),
            gateway: None,
        }],
        resolvers: Vec::new(),
    }
}

#[test]
fn a_refused_view_never_comes_back_over_a_newer_one() {
    let mut agent = in_force(1);
    agent.view(whole(2));
    agent.host_refuses("UDP port 51820 is in use");
    agent.take();
    agent.view(whole(3));
    agent.host_agrees();
    assert_eq!(agent.agent.status(agent.now).view_applied, 3);
    agent.take();
    agent.pass(Duration::from_secs(60));
    assert_eq!(
        applied(&mut agent),
        None,
        "nothing older is put over the newer one"
    );
    assert_eq!(agent.agent.status(agent.now).view_applied, 3);
}

#[test]
fn a_newer_view_that_waited_does_not_wait_for_the_second_try_of_the_older_one() {
    let mut agent = in_force(1);
    agent.view(whole(2));
    agent.view(whole(3));
    agent.host_refuses("UDP port 51820 is in use");
    agent.take();
    agent.pass(Duration::from_millis(250));
    assert!(agent.generation().is_some(), "at the next tick");
    agent.host_agrees();
    assert_eq!(agent.agent.status(agent.now).view_applied, 3);
}

/// Kota-malang takes its consent back.
fn revocation() -> Input {
    let statement = Statement {
        network: "pns".parse().unwrap(),
        agency: "kota-malang".parse().unwrap(),
        sequence: 9,
        issued: UnixTime(900),
        void: vec![Void {
            subject: Subject::Consent("kab-demak".parse().unwrap()),
            below: 3,
        }],
    };
    let signed = Envelope::sign(&statement, &agency_secret(55));
    Input::Control(Box::new(ToAgent::Documents {
        documents: vec![AgencyDocument::Statement(signed)],
        quarantine: None,
    }))
}

#[test]
fn what_is_revoked_while_the_host_refuses_a_newer_view_goes_and_the_view_still_comes() {
    let mut agent = in_force(1);
    agent.view(whole(2));
    agent.host_refuses("a rule is refused");
    agent.take();
    agent.input(revocation());
    agent.pass(Duration::from_millis(500));
    agent.host_refuses("a rule is refused");
    agent.take();
    agent.pass(Duration::from_secs(8));
    assert_eq!(
        applied(&mut agent),
        None,
        "the host is not asked all the time"
    );

    let mut tunnels = Vec::new();
    for _ in 0..20 {
        agent.pass(Duration::from_secs(1));
        let asked = agent.generation();
        if let (Some(generation), Some(host)) = (asked, applied(&mut agent)) {
            tunnels.push(host.tunnels.len());
            let result = Ok(());
            agent.input(Input::HostApplied { generation, result });
        }
    }
    assert_eq!(agent.agent.status(agent.now).view_applied, 2);
    assert!(
        tunnels.iter().all(|count| *count == 1),
        "the hub's and no more: {tunnels:?}"
    );
}

#[test]
fn a_view_that_collides_is_refused_once_in_ten_seconds_however_long_the_box_is_up() {
    let mut agent = Driven::online(Vec::new());
    agent.pass(Duration::from_secs(3600));
    agent.input(Input::HostFacts(facts("100.127.3.4/24")));
    agent.take();
    agent.view(whole(1));
    agent.pass(Duration::from_secs(20));
    let count = outcomes(&mut agent).len();
    assert!((1..=3).contains(&count), "refused {count} times in 20 s");

    agent.input(Input::HostFacts(facts("192.168.1.2/24")));
    agent.pass(Duration::from_millis(250));
    agent.host_agrees();
    assert!(outcomes(&mut agent).contains(&(1, ViewOutcome::Applied)));
    assert!(!agent.condition_codes().contains(&"pool_collision"));
}

#[test]
fn an_uplink_that_moves_into_the_pool_is_a_condition_and_takes_nothing_away() {
    let mut agent = in_force(1);
    // Overlay IPv6 addresses share 48 bits.
    for inside in ["100.127.3.4/24".to_owned(), format!("{}/64", v6(7))] {
        agent.input(Input::HostFacts(facts(&inside)));
        assert_eq!(applied(&mut agent), None);
        assert_eq!(agent.agent.status(agent.now).view_applied, 1);
        assert!(agent.condition_codes().contains(&"pool_collision"));
        for outside in ["192.168.1.2/24", "fd00:0:1::4/64"] {
            agent.input(Input::HostFacts(facts(outside)));
            assert!(!agent.condition_codes().contains(&"pool_collision"));
        }
    }
}

#[test]
fn facts_that_come_while_a_view_is_under_way_are_not_forgotten() {
    let saved = SavedState {
        view: Some(SavedView {
            certificate: certificate(&secret(1), &secret(2), "pns"),
            view: whole(7),
        }),
        ..saved(ME)
    };
    // As at every start: the saved view goes to the host before the host was read.
    let mut agent = Driven::new(start(44, Some(saved), Vec::new()));
    agent.input(Input::HostFacts(facts("10.33.1.129/25")));
    agent.host_agrees();
    agent.take();
    agent.pass(Duration::from_millis(250));
    let host = applied(&mut agent).expect("the host's own network is taken into account");
    assert_eq!(
        host.throws,
        ["10.33.1.128/25".parse::<ipnet::IpNet>().unwrap()]
    );
    agent.host_agrees();
    agent.pass(Duration::from_secs(5));
    assert_eq!(applied(&mut agent), None, "once");
}

#[test]
fn facts_that_change_nothing_apply_nothing() {
    let mut agent = in_force(1);
    agent.input(Input::HostFacts(facts("192.168.1.2/24")));
    agent.pass(Duration::from_secs(5));
    assert_eq!(applied(&mut agent), None);
}

#[test]
fn a_view_that_is_sent_again_while_it_is_under_way_is_answered_when_that_ends() {
    let mut agent = in_force(1);
    agent.view(whole(2));
    agent.view(whole(2));
    let generation = agent.generation().unwrap();
    assert_eq!(outcomes(&mut agent), []);
    agent.input(Input::HostApplied {
        generation,
        result: Ok(()),
    });
    assert_eq!(outcomes(&mut agent), [(2, ViewOutcome::Applied)]);
}

#[test]
fn a_saved_state_that_is_not_to_be_used_is_a_condition_until_a_view_is_in_force() {
    let with = |certificate, view| SavedState {
        view: Some(SavedView { certificate, view }),
        ..saved(ME)
    };
    let good = certificate(&secret(1), &secret(2), "pns");
    let cases = [
        (
            "a certificate of another root",
            with(certificate(&secret(8), &secret(2), "pns"), whole(7)),
        ),
        (
            "a certificate of another network",
            with(certificate(&secret(1), &secret(2), "lain"), whole(7)),
        ),
        (
            "a view by another signer",
            with(
                good.clone(),
                view_of(ME, 7, &texts(&records()), &secret(9), |_| true),
            ),
        ),
        (
            "the view of another node",
            with(
                good,
                view_of(HUB, 7, &texts(&records()), &secret(2), |_| true),
            ),
        ),
    ];
    for (what, state) in cases {
        let mut agent = Driven::new(start(44, Some(state), Vec::new()));
        assert_eq!(agent.generation(), None, "{what}");
        assert!(agent.condition_codes().contains(&"view_refused"), "{what}");
        assert!(
            agent.agent.is_applied(),
            "{what}: there is nothing that could come into force, and an admin must be able to ask"
        );
        agent.come_online();
        agent.view(whole(8));
        agent.host_agrees();
        assert!(!agent.condition_codes().contains(&"view_refused"), "{what}");
    }
}

#[test]
fn a_refusal_of_somebody_who_proved_nothing_is_not_believed() {
    let mut agent = Driven::new(start(44, None, Vec::new()));
    agent.input(Input::Join(join_command()));
    agent.input(Input::ControlUp {
        key: public(&secret(9)),
    });
    agent.take();
    agent.input(Input::Control(Box::new(ToAgent::JoinRefused {
        reason: JoinRefusal::UnknownToken,
    })));
    agent.input(Input::Control(Box::new(ToAgent::Joined {
        network: "pns".parse().unwrap(),
        node: node(ME),
        controllers: Vec::new(),
    })));
    agent.input(Input::Control(Box::new(ToAgent::View(whole(1)))));
    assert_eq!(agent.take(), []);
}

#[test]
fn a_second_join_is_as_patient_as_the_first() {
    let mut agent = Driven::new(start(44, None, Vec::new()));
    for _ in 0..3 {
        agent.input(Input::Join(join_command()));
        agent.take();
        agent.input(Input::ControlDown {
            reason: "no answer".into(),
        });
        agent.pass(Duration::from_millis(1250));
        assert!(
            agent
                .take()
                .iter()
                .any(|o| matches!(o, Output::DialControl { .. })),
            "the first second try comes quickly"
        );
        for _ in 0..40 {
            agent.input(Input::ControlDown {
                reason: "no answer".into(),
            });
            agent.pass(Duration::from_secs(1));
        }
        assert!(
            agent
                .take()
                .iter()
                .any(|o| matches!(o, Output::JoinOutcome(Err(_))))
        );
    }
}

#[test]
fn a_peer_that_says_another_name_each_time_is_dialled_with_pauses() {
    let mut agent = in_force(1);
    agent.pass(Duration::from_secs(1));
    agent.take();
    let mut dials = 0;
    for connection in 0..240 {
        agent.input(Input::LinkUp {
            connection,
            key: public(&secret(33)),
            dialled: true,
        });
        agent.input(Input::Link {
            connection,
            message: LinkMessage::Hello {
                protocol: 1,
                node: node(FAR),
            },
        });
        agent.take();
        for _ in 0..40 {
            agent.pass(Duration::from_millis(250));
            dials += 1;
            if agent
                .take()
                .iter()
                .any(|o| matches!(o, Output::DialLink { node: n, .. } if *n == node(HUB)))
            {
                break;
            }
        }
    }
    assert!(dials > 240 * 10, "{dials} quarter seconds for 240 dials");
}
