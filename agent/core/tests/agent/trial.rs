//! A new view is kept if controller and peers are heard with it, and taken back within a minute if not.

use std::time::Duration;

use crate::support::*;
use pnsbox_agent_core::event::{Input, Output, SavedView};
use pnsbox_agent_core::host::HostConfig;
use pnsbox_proto::message::{ToController, ViewOutcome};
use pnsbox_proto::probe::Probe;
use pnsbox_proto::view::{Manifest, PeerPath, Record, SignedView};

const HUB_LINK: u64 = 1;
const FAR_LINK: u64 = 2;

/// A view in which the hub is elsewhere.
fn with_the_hub_at(endpoint: &str, version: u64) -> SignedView {
    let path = PeerPath::Direct {
        endpoint: endpoint.parse().unwrap(),
        second: None,
    };
    let records: Vec<Record> = records()
        .into_iter()
        .map(|record| match record {
            Record::Peer(peer) if peer.node == node(HUB) => {
                Record::Peer(pnsbox_proto::view::PeerRecord {
                    path: path.clone(),
                    ..peer
                })
            }
            other => other,
        })
        .collect();
    view_of(ME, version, &texts(&records), &secret(2), |_| true)
}

/// View 1 is in force and kept; links with both peers are up.
fn linked() -> Driven {
    let mut agent = Driven::online(Vec::new());
    agent.view(whole(1));
    agent.host_agrees();
    agent.link(HUB, 33, HUB_LINK);
    agent.link(FAR, 55, FAR_LINK);
    agent.take();
    agent
}

/// Answers every probe on these links since the last call.
fn echo(agent: &mut Driven, links: &[u64]) {
    let probes: Vec<(u64, Probe)> = agent
        .outputs
        .iter()
        .filter_map(|output| match output {
            Output::SendProbe { connection, probe } if links.contains(connection) => {
                Some((*connection, *probe))
            }
            _ => None,
        })
        .collect();
    for (connection, probe) in probes {
        let probe = Probe {
            echo: true,
            ..probe
        };
        agent.input(Input::Probe { connection, probe });
    }
}

fn kept(outputs: &[Output]) -> Option<&SavedView> {
    outputs.iter().rev().find_map(|output| match output {
        Output::Persist(state) => state.view.as_ref(),
        _ => None,
    })
}

fn version_of(kept: &SavedView) -> u64 {
    let manifest: Manifest = serde_json::from_str(&kept.view.manifest.payload).unwrap();
    manifest.version
}

fn outcomes(outputs: &[Output]) -> Vec<(u64, ViewOutcome)> {
    let said = outputs.iter().filter_map(|output| match output {
        Output::SendControl(message) => Some(&**message),
        _ => None,
    });
    said.filter_map(|message| match message {
        ToController::ViewOutcome {
            version, outcome, ..
        } => Some((*version, outcome.clone())),
        _ => None,
    })
    .filter(|(_, outcome)| *outcome != ViewOutcome::OnTrial)
    .collect()
}

fn is_told_of_the_trial(outputs: &[Output]) -> bool {
    outputs.iter().any(|output| match output {
        Output::SendControl(message) => matches!(
            **message,
            ToController::ViewOutcome {
                version: 2,
                outcome: ViewOutcome::OnTrial,
                ..
            }
        ),
        _ => false,
    })
}

fn applied(outputs: &[Output]) -> Option<HostConfig> {
    outputs.iter().rev().find_map(|output| match output {
        Output::Apply { host, .. } => Some((**host).clone()),
        _ => None,
    })
}

/// Lets 46 s go by, while these links answer; returns why the view was taken back, and what came in its place.
fn fails(agent: &mut Driven, links: &[u64]) -> (String, HostConfig) {
    let mut all = Vec::new();
    for _ in 0..46 {
        agent.pass(Duration::from_secs(1));
        echo(agent, links);
        all.extend(agent.take());
    }
    let version = agent.agent.status(agent.now).view_applied;
    assert_ne!(kept(&all).map(version_of), Some(version));
    let host = applied(&all).expect("the view before comes back");
    let generation = all.iter().rev().find_map(|output| match output {
        Output::Apply { generation, .. } => Some(*generation),
        _ => None,
    });
    agent.input(Input::HostApplied {
        generation: generation.unwrap(),
        result: Ok(()),
    });
    let conditions = agent.agent.status(agent.now).conditions.into_iter();
    let mut messages = conditions.map(|condition| condition.message);
    let reason = messages.find(|message| message.contains("taken back"));
    (reason.expect("it is a condition"), host)
}

#[test]
fn a_view_is_kept_once_the_controller_and_the_peers_are_heard() {
    let mut agent = linked();
    agent.view(with_the_hub_at("203.0.113.77:51820", 2));
    agent.host_agrees();
    assert!(kept(&agent.outputs).is_none(), "nobody answered yet");
    assert!(agent.agent.status(agent.now).on_trial);
    assert!(is_told_of_the_trial(&agent.outputs));
    echo(&mut agent, &[HUB_LINK]);
    assert_eq!(outcomes(&agent.outputs), [], "the other peer is silent");
    agent.view(with_the_hub_at("203.0.113.77:51820", 2));
    assert_eq!(
        outcomes(&agent.outputs),
        [],
        "offered again, it is no better"
    );
    echo(&mut agent, &[FAR_LINK]);
    let outputs = agent.take();
    assert_eq!(outcomes(&outputs), [(2, ViewOutcome::Applied)]);
    assert!(kept(&outputs).is_some());
    let status = agent.agent.status(agent.now);
    assert_eq!((status.view_applied, status.on_trial), (2, false));
}

#[test]
fn without_the_controller_the_view_before_comes_back_within_a_minute() {
    let mut agent = linked();
    let before = {
        let mut again = Driven::online(Vec::new());
        again.view(whole(1));
        applied(&again.take()).unwrap()
    };
    agent.is_heard = false;
    agent.view(with_the_hub_at("203.0.113.77:51820", 2));
    agent.host_agrees();
    agent.take();
    let (reason, host) = fails(&mut agent, &[HUB_LINK, FAR_LINK]);
    assert!(
        reason.ends_with("nothing was heard from the controller"),
        "{reason}"
    );
    assert_eq!(host, before);
    assert_eq!(agent.agent.status(agent.now).view_applied, 1);

    // The controller is heard again, and offers the same: it is told at once, and nothing is tried.
    agent.is_heard = true;
    agent.take();
    agent.view(with_the_hub_at("203.0.113.77:51820", 2));
    let outputs = agent.take();
    assert!(matches!(
        &outcomes(&outputs)[..],
        [(2, ViewOutcome::RolledBack { .. })]
    ));
    assert!(applied(&outputs).is_none());
    agent.view(whole(3));
    agent.host_agrees();
    echo(&mut agent, &[HUB_LINK, FAR_LINK]);
    assert_eq!(outcomes(&agent.take()), [(3, ViewOutcome::Applied)]);
    assert!(!agent.condition_codes().contains(&"view_refused"));
}

#[test]
fn a_peer_that_is_lost_with_its_new_record_takes_the_view_back() {
    let mut agent = linked();
    agent.view(with_the_hub_at("203.0.113.77:51820", 2));
    agent.host_agrees();
    agent.take();
    let (reason, _) = fails(&mut agent, &[FAR_LINK]);
    assert!(reason.ends_with("from prov-jateng/gw1"), "{reason}");
}

#[test]
fn of_peers_with_the_same_record_half_must_be_heard() {
    // Both are silent.
    let mut agent = linked();
    agent.view(view_of(ME, 2, &texts(&records()), &secret(2), |_| true));
    agent.host_agrees();
    agent.take();
    let (reason, _) = fails(&mut agent, &[]);
    assert!(reason.contains(FAR) && reason.contains(HUB), "{reason}");

    // One is switched off in the same minute.
    let mut agent = linked();
    agent.view(view_of(ME, 2, &texts(&records()), &secret(2), |_| true));
    agent.host_agrees();
    echo(&mut agent, &[HUB_LINK]);
    assert_eq!(outcomes(&agent.take()), [(2, ViewOutcome::Applied)]);
}

#[test]
fn an_echo_of_before_counts_for_nothing_and_who_was_away_is_not_missed() {
    let mut agent = linked();
    agent.pass(Duration::from_secs(11));
    let old = agent.take();
    agent.view(with_the_hub_at("203.0.113.77:51820", 2));
    agent.host_agrees();
    let new = agent.take();
    agent.outputs = old;
    echo(&mut agent, &[HUB_LINK, FAR_LINK]);
    assert_eq!(outcomes(&agent.take()), []);
    agent.outputs = new;
    echo(&mut agent, &[HUB_LINK, FAR_LINK]);
    assert_eq!(outcomes(&agent.take()).len(), 1);

    let mut agent = linked();
    agent.input(Input::LinkDown {
        connection: HUB_LINK,
        reason: "gone".into(),
    });
    agent.view(with_the_hub_at("203.0.113.77:51820", 2));
    agent.host_agrees();
    echo(&mut agent, &[FAR_LINK]);
    assert_eq!(outcomes(&agent.take()), [(2, ViewOutcome::Applied)]);
}

#[test]
fn a_newer_view_on_trial_goes_back_to_the_last_one_that_held() {
    let mut agent = linked();
    agent.is_heard = false;
    agent.view(with_the_hub_at("203.0.113.77:51820", 2));
    agent.host_agrees();
    agent.pass(Duration::from_secs(30));
    agent.view(with_the_hub_at("203.0.113.78:51820", 3));
    agent.host_agrees();
    agent.take();
    let (_, host) = fails(&mut agent, &[HUB_LINK, FAR_LINK]);
    let endpoint = |host: &HostConfig| format!("{:?}", host.tunnels);
    assert!(
        !endpoint(&host).contains("203.0.113.7"),
        "{}",
        endpoint(&host)
    );
    assert_eq!(agent.agent.status(agent.now).view_applied, 1);
}

/// The far peer joins with version 2, and 3 comes before the controller has answered; both say where the hub is.
fn far_came_and_is_lost_at_once() -> Driven {
    let mut agent = Driven::online(Vec::new());
    let without_far: Vec<Record> = records()
        .into_iter()
        .filter(|record| !record.id().contains("kota-malang"))
        .collect();
    let first = view_of(ME, 1, &texts(&without_far), &secret(2), |_| true);
    agent.view(first);
    agent.host_agrees();
    agent.link(HUB, 33, HUB_LINK);
    agent.is_heard = false;
    agent.view(whole(2));
    agent.host_agrees();
    agent.link(FAR, 55, FAR_LINK);
    agent.pass(Duration::from_secs(1));
    agent.view(with_the_hub_at("203.0.113.78:51820", 3));
    agent.host_agrees();
    agent.is_heard = true;
    agent.take();
    agent
}

#[test]
fn a_view_that_had_no_time_to_prove_itself_is_gone_back_to_and_tried_again() {
    let mut agent = far_came_and_is_lost_at_once();
    let (reason, host) = fails(&mut agent, &[]);
    assert!(reason.contains("after 45 s"), "{reason}");
    assert!(reason.contains(FAR) && reason.contains(HUB), "{reason}");
    assert_eq!(host.tunnels.len(), 2, "the far peer is still one");
    let status = agent.agent.status(agent.now);
    assert_eq!((status.view_applied, status.on_trial), (2, true));
    let dialled_anew = 3;
    agent.link(HUB, 33, dialled_anew);
    agent.take();
    agent.pass(Duration::from_secs(1));
    echo(&mut agent, &[dialled_anew]);
    let outputs = agent.take();
    assert_eq!(outcomes(&outputs), [(2, ViewOutcome::Applied)]);
    assert!(kept(&outputs).is_some());
    // What was taken back stays so, though an older one was kept since.
    agent.view(with_the_hub_at("203.0.113.78:51820", 3));
    assert!(matches!(
        &outcomes(&agent.take())[..],
        [(3, ViewOutcome::RolledBack { .. })]
    ));
}

#[test]
fn of_two_that_fail_in_a_row_neither_stays_for_a_minute() {
    let mut agent = far_came_and_is_lost_at_once();
    let begun = agent.now.monotonic;
    agent.is_heard = false;
    let (_, host) = fails(&mut agent, &[]);
    assert_eq!(host.tunnels.len(), 2);
    while agent.agent.status(agent.now).view_applied == 2 {
        agent.host_agrees();
        agent.pass(Duration::from_millis(250));
    }
    assert_eq!(agent.agent.status(agent.now).view_applied, 1);
    let took = agent.now.monotonic - begun;
    assert!(took < Duration::from_secs(60), "{took:?}");
}

#[test]
fn a_newer_view_that_the_host_refuses_does_not_end_the_trial() {
    let mut agent = linked();
    agent.is_heard = false;
    agent.view(with_the_hub_at("203.0.113.77:51820", 2));
    agent.host_agrees();
    agent.view(with_the_hub_at("203.0.113.78:51820", 3));
    agent.host_refuses("UDP port 51820 is in use");
    agent.take();
    let mut refusals = 0;
    while agent.agent.status(agent.now).view_applied == 2 {
        agent.pass(Duration::from_secs(1));
        if let Some(generation) = agent.generation() {
            let is_before = applied(&agent.take()).unwrap().tunnels == first_tunnels();
            let result = match is_before {
                true => Ok(()),
                false => Err("UDP port 51820 is in use".to_owned()),
            };
            refusals += usize::from(!is_before);
            agent.input(Input::HostApplied { generation, result });
        }
        assert!(agent.now.monotonic < Duration::from_secs(60));
    }
    assert!(refusals > 0, "it was tried again meanwhile");
    assert_eq!(agent.agent.status(agent.now).view_applied, 1);
}

fn first_tunnels() -> Vec<pnsbox_agent_core::host::Tunnel> {
    let mut agent = Driven::online(Vec::new());
    agent.view(whole(1));
    applied(&agent.take()).unwrap().tunnels
}

#[test]
fn a_restart_during_a_trial_comes_back_with_the_view_before() {
    let mut agent = Driven::online(Vec::new());
    agent.view(whole(1));
    agent.host_agrees();
    let saved = agent.outputs.iter().rev().find_map(|output| match output {
        Output::Persist(state) => Some((**state).clone()),
        _ => None,
    });
    agent.take();
    agent.is_heard = false;
    agent.view(with_the_hub_at("203.0.113.77:51820", 2));
    agent.host_agrees();
    assert!(kept(&agent.take()).is_none());
    let mut again = Driven::new(start(44, saved, Vec::new()));
    again.host_agrees();
    assert_eq!(again.agent.status(again.now).view_applied, 1);
    assert_eq!(first_tunnels(), applied(&again.outputs).unwrap().tunnels);
}

/// View 2 was taken back, and the host refused view 1.
fn stuck() -> Driven {
    let mut agent = linked();
    agent.view(with_the_hub_at("203.0.113.99:51820", 2));
    agent.host_agrees();
    for _ in 0..46 {
        agent.pass(Duration::from_secs(1));
        echo(&mut agent, &[FAR_LINK]);
    }
    agent.host_refuses("a rule is refused");
    agent
}

#[test]
fn a_view_that_was_taken_back_is_never_kept_while_the_host_refuses_the_one_before() {
    let mut agent = stuck();
    agent.take();
    agent.input(Input::ControlDown {
        reason: "lost".into(),
    });
    agent.pass(Duration::from_secs(5));
    agent.come_online();
    let outputs = agent.take();
    assert!(
        !outcomes(&outputs).contains(&(2, ViewOutcome::Applied)),
        "{outputs:?}"
    );
    agent.pass(Duration::from_secs(6));
    agent.host_agrees();
    let outputs = agent.take();
    assert_eq!(agent.agent.status(agent.now).view_applied, 1);
    assert!(outcomes(&outputs).contains(&(1, ViewOutcome::Applied)));
}

#[test]
fn the_host_is_asked_once_in_ten_seconds_for_the_view_to_go_back_to() {
    let mut agent = stuck();
    agent.take();
    let mut asked = 0;
    for _ in 0..30 {
        agent.pass(Duration::from_secs(1));
        if agent.generation().is_some() {
            asked += 1;
            agent.host_refuses("a rule is refused");
        }
        agent.take();
    }
    assert_eq!(asked, 3);
}

#[test]
fn going_back_is_not_forgotten_for_a_newer_view_that_the_host_refuses_too() {
    let mut agent = linked();
    agent.view(with_the_hub_at("203.0.113.99:51820", 2));
    agent.host_agrees();
    let mut versions = Vec::new();
    for second in 0..100 {
        if second == 40 {
            agent.view(with_the_hub_at("203.0.113.98:51820", 3));
            agent.host_refuses("a rule is refused");
            agent.take();
        }
        agent.pass(Duration::from_secs(1));
        echo(&mut agent, &[FAR_LINK]);
        if agent.generation().is_some() && second < 70 {
            agent.host_refuses("a rule is refused");
        } else if let Some(generation) = agent.generation() {
            let result = Ok(());
            agent.input(Input::HostApplied { generation, result });
        }
        agent.take();
        versions.push(agent.agent.status(agent.now).view_applied);
    }
    assert_eq!(versions[69], 2, "until the host agrees");
    let next = versions[70..].iter().find(|version| **version != 2);
    assert_eq!(next, Some(&1), "{versions:?}");
}
