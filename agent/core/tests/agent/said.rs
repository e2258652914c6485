//! What an admin and the controller are told, and how often.

use std::time::Duration;

use crate::support::*;
use pnsbox_agent_core::event::{Input, Output, TunnelState};
use pnsbox_proto::health::{ConditionCode, HeldPrefix, HeldReason};
use pnsbox_proto::key::WireguardKey;
use pnsbox_proto::message::ToController;
use pnsbox_proto::service::Audience;
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::Record;

fn message(agent: &Driven, code: ConditionCode) -> Option<String> {
    let conditions = agent.agent.status(agent.now).conditions;
    let found = conditions.into_iter().find(|c| c.code == code);
    found.map(|condition| condition.message)
}

fn reports(agent: &mut Driven) -> usize {
    let said = agent.said();
    said.iter()
        .filter(|m| matches!(m, ToController::Health(_)))
        .count()
}

fn in_force() -> Driven {
    let mut agent = Driven::online(vec![service("db", Audience::All)]);
    agent.view(whole(1));
    agent.host_agrees();
    agent.take();
    agent
}

fn handshakes(agent: &mut Driven, at: Duration) {
    let tunnel = |number| TunnelState {
        key: WireguardKey([number; 32]),
        endpoint: None,
        path_mtu: None,
        last_handshake: Some(at),
        rx_bytes: 1,
        tx_bytes: 1,
    };
    agent.input(Input::Tunnels(vec![tunnel(33), tunnel(55)]));
}

#[test]
fn prefixes_that_are_held_back_and_nodes_out_of_reach_are_named_with_what_to_do() {
    let mut records = records();
    let Record::Node(own) = &mut records[0] else {
        panic!("the node comes first")
    };
    own.held = vec![
        HeldPrefix {
            prefix: "10.33.1.0/24".parse().unwrap(),
            reason: HeldReason::Overlap {
                holder: node(HUB),
                held: "10.33.0.0/16".parse().unwrap(),
            },
        },
        HeldPrefix {
            prefix: "10.9.0.0/24".parse().unwrap(),
            reason: HeldReason::Unregistered,
        },
    ];
    own.unreachable = vec![node("kab-kudus/gw1")];
    let mut agent = Driven::online(Vec::new());
    agent.view(view_of(ME, 1, &texts(&records), &secret(2), |_| true));
    agent.host_agrees();
    for (code, words) in [
        (
            ConditionCode::PrefixHeld,
            vec![
                "10.33.1.0/24",
                "10.33.0.0/16",
                "kab-demak",
                "prov-jateng",
                "--lan",
            ],
        ),
        (
            ConditionCode::PrefixPending,
            vec!["10.9.0.0/24", "kab-demak", "operator"],
        ),
        (
            ConditionCode::PeerUnreachable,
            vec!["kab-kudus/gw1", "relay"],
        ),
    ] {
        let said = message(&agent, code).unwrap_or_else(|| panic!("{code} is told"));
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
}

#[test]
fn a_peer_is_up_for_180_seconds_after_its_handshake() {
    let mut agent = in_force();
    agent.pass(Duration::from_secs(10));
    assert_eq!(
        message(&agent, ConditionCode::PeerDown),
        None,
        "tunnels need a moment"
    );
    agent.pass(Duration::from_secs(10));
    assert!(message(&agent, ConditionCode::PeerDown).is_some());
    let at = agent.now.monotonic;
    handshakes(&mut agent, at);
    assert_eq!(message(&agent, ConditionCode::PeerDown), None);
    agent.pass(Duration::from_secs(179));
    assert_eq!(message(&agent, ConditionCode::PeerDown), None);
    agent.pass(Duration::from_secs(1));
    let said = message(&agent, ConditionCode::PeerDown).unwrap();
    assert!(said.contains(FAR), "{said}");
}

#[test]
fn health_goes_every_ten_seconds_and_on_change_but_once_a_second() {
    let mut agent = in_force();
    let at = agent.now.monotonic;
    handshakes(&mut agent, at);
    agent.pass(Duration::from_secs(5));
    agent.take();
    agent.pass(Duration::from_secs(100));
    let count = reports(&mut agent);
    assert!((9..=11).contains(&count), "{count} in 100 quiet seconds");

    let mut count = 0;
    for step in 0..80u64 {
        let result = if step % 4 < 2 {
            Ok(())
        } else {
            Err("refused".to_owned())
        };
        agent.input(Input::Check {
            service: "kab-demak/db".parse().unwrap(),
            result,
        });
        agent.pass(Duration::from_millis(250));
        count += reports(&mut agent);
    }
    assert!((15..=21).contains(&count), "{count} in 20 restless seconds");

    agent.input(Input::ControlDown {
        reason: "timed out".into(),
    });
    agent.take();
    agent.pass(Duration::from_secs(60));
    assert_eq!(agent.said(), [], "nobody is there to be told");
}

#[test]
fn a_wall_clock_that_is_set_makes_no_peer_down_and_loses_no_report() {
    const SANE: u64 = 1_800_000_000;
    let mut agent = in_force();
    let at = agent.now.monotonic;
    handshakes(&mut agent, at);
    agent.pass(Duration::from_secs(20));
    agent.take();
    for wall in [SANE, 3600, SANE + 315_000_000, SANE - 3600, SANE] {
        agent.now.wall = UnixTime(wall);
        agent.input(Input::Timeout);
        let status = agent.agent.status(agent.now);
        assert_eq!(agent.condition_codes(), [""; 0], "at {wall}");
        let ages = |at: Option<UnixTime>| at.map(|at| at.age(agent.now.wall).as_secs());
        for peer in &status.peers {
            assert!(peer.up, "at {wall}");
            assert_eq!(ages(peer.last_handshake), Some(20), "at {wall}");
        }
        let since = [status.controller.since, status.view_since].map(ages);
        assert_eq!(since, [Some(20); 2], "at {wall}");
    }

    agent.take();
    let mut count = 0;
    for step in 0..400u64 {
        agent.now.monotonic += Duration::from_millis(250);
        agent.now.wall = UnixTime(SANE + if step % 8 < 4 { 0 } else { 500 });
        agent.input(Input::Timeout);
        count += reports(&mut agent);
    }
    assert!((9..=11).contains(&count), "{count} in 100 seconds");
    agent.pass(Duration::from_secs(60));
    let said = message(&agent, ConditionCode::PeerDown).unwrap();
    assert!(said.contains(FAR), "180 s are 180 s: {said}");
}

#[test]
fn the_line_for_systemd_follows_the_state() {
    let mut agent = in_force();
    agent.pass(Duration::from_secs(1));
    agent.take();
    let at = agent.now.monotonic;
    handshakes(&mut agent, at);
    agent.pass(Duration::from_secs(1));
    let line = |agent: &mut Driven| {
        agent.take().into_iter().rev().find_map(|o| match o {
            Output::Status(text) => Some(text),
            _ => None,
        })
    };
    assert_eq!(
        line(&mut agent).unwrap(),
        "kab-demak/gw1: 2 of 2 peers up, controller online"
    );
    agent.input(Input::ControlDown {
        reason: "timed out".into(),
    });
    agent.pass(Duration::from_secs(1));
    assert!(line(&mut agent).unwrap().ends_with("controller away"));
}
