//! Views: what is accepted, what comes into force, and what is on disk.

use std::time::Duration;

use crate::support::*;
use pnsbox_agent_core::event::{
    HostFacts, Input, InterfaceAddress, Output, SavedState, SavedView, TunnelState, Uplink,
};
use pnsbox_agent_core::host::{HostConfig, TunnelPath};
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::key::{Digest, WireguardKey};
use pnsbox_proto::message::{ToController, ViewOutcome};
use pnsbox_proto::view::{AuditHead, Manifest, PeerPath};

fn applied(agent: &mut Driven) -> Option<HostConfig> {
    agent.take().into_iter().find_map(|output| match output {
        Output::Apply { host, .. } => Some(*host),
        _ => None,
    })
}

fn outcome(agent: &mut Driven) -> ViewOutcome {
    let said = agent.said();
    let outcome = said.into_iter().find_map(|message| match message {
        ToController::ViewOutcome { outcome, .. } if outcome != ViewOutcome::OnTrial => {
            Some(outcome)
        }
        _ => None,
    });
    outcome.expect("every view is answered")
}

fn in_force(version: u64) -> Driven {
    let mut agent = Driven::online(Vec::new());
    agent.view(whole(version));
    agent.host_agrees();
    agent.take();
    agent
}

#[test]
fn a_view_becomes_tunnels_routes_and_rules_and_is_saved_only_when_in_force() {
    let mut agent = Driven::online(Vec::new());
    agent.view(whole(1));
    assert!(
        !agent
            .outputs
            .iter()
            .any(|o| matches!(o, Output::Persist(_))),
        "not before the host agrees"
    );
    let generation = agent.generation().unwrap();
    let host = applied(&mut agent).unwrap();

    let prefixes = |texts: &[&str]| {
        texts
            .iter()
            .map(|t| t.parse().unwrap())
            .collect::<Vec<ipnet::IpNet>>()
    };
    assert_eq!(
        host.routes,
        prefixes(&[
            "10.33.1.0/24",
            "10.55.1.0/24",
            "100.127.0.33/32",
            "100.127.0.55/32",
            &format!("{}/128", v6(33)),
            &format!("{}/128", v6(55))
        ])
    );
    let far = host
        .tunnels
        .iter()
        .find(|t| t.key == WireguardKey([55; 32]))
        .unwrap();
    assert_eq!(
        far.path,
        TunnelPath::Relay {
            via: WireguardKey([33; 32]),
            channel: 9
        }
    );
    let filter = host.filter.unwrap();
    assert_eq!(filter.inbound.len(), 1, "only prov-jateng is let in");
    assert_eq!(
        filter.inbound[0].sources,
        prefixes(&[
            "100.127.0.33/32",
            &format!("{}/128", v6(33)),
            "10.33.1.0/24"
        ])
    );
    assert_eq!(filter.peer_addresses.len(), 4);

    agent.input(Input::HostApplied {
        generation,
        result: Ok(()),
    });
    let outputs = agent.take();
    let saved = outputs
        .iter()
        .position(|o| matches!(o, Output::Persist(s) if s.view.is_some()))
        .unwrap();
    let said = outputs.iter().position(|o| matches!(o, Output::SendControl(m) if matches!(**m, ToController::ViewOutcome { .. }))).unwrap();
    assert!(saved < said, "on disk before it is acknowledged");
}

#[test]
fn what_is_not_from_the_controller_not_for_this_node_or_not_newer_changes_nothing() {
    let all = texts(&records());
    let cases = [
        (
            "another signer",
            view_of(ME, 6, &all, &secret(9), |_| true),
            "signed by key",
        ),
        (
            "another node",
            view_of(HUB, 6, &all, &secret(2), |_| true),
            "is for prov-jateng/gw1",
        ),
        (
            "an older one",
            view_of(ME, 4, &all, &secret(2), |_| true),
            "version 4",
        ),
        (
            "the same version with other bytes",
            view_of(ME, 5, &all[..3], &secret(2), |_| true),
            "version 5",
        ),
        (
            "no record of the node",
            view_of(ME, 6, &all[..5], &secret(2), |_| true),
            "no readable record",
        ),
    ];
    for (what, view, word) in cases {
        let mut agent = in_force(5);
        agent.view(view);
        assert!(agent.generation().is_none(), "{what}");
        match outcome(&mut agent) {
            ViewOutcome::Refused { reason } => assert!(reason.contains(word), "{what}: {reason}"),
            other => panic!("{what}: {other:?}"),
        }
        assert_eq!(agent.agent.status(agent.now).view_applied, 5, "{what}");
    }
    let mut agent = in_force(5);
    let mut forged = view_of(ME, 6, &all, &secret(2), |_| true);
    forged.manifest.payload = forged
        .manifest
        .payload
        .replace("\"version\":6", "\"version\":7");
    agent.view(forged);
    assert!(
        matches!(outcome(&mut agent), ViewOutcome::Refused { reason } if reason.contains("signature"))
    );
}

#[test]
fn one_record_that_cannot_be_read_is_left_out_and_named_and_the_rest_is_in_force() {
    let mut all = texts(&records());
    all.push((
        "beam kab-kudus".into(),
        "{\"kind\":\"beam\",\"power\":11}".into(),
    ));
    all.push((
        "peer kab-blora/gw1".into(),
        serde_json::to_string(&peer_record(HUB, 12, PeerPath::Passive)).unwrap(),
    ));
    let mut agent = Driven::online(Vec::new());
    agent.view(view_of(ME, 1, &all, &secret(2), |_| true));
    let with = applied(&mut agent).unwrap();
    agent.input(Input::HostApplied {
        generation: 1,
        result: Ok(()),
    });

    let mut clean = Driven::online(Vec::new());
    clean.view(whole(1));
    assert_eq!(
        with,
        applied(&mut clean).unwrap(),
        "the rest is as without it"
    );
    let status = agent.agent.status(agent.now);
    assert_eq!(status.quarantined, ["beam kab-kudus", "peer kab-blora/gw1"]);
    assert!(agent.condition_codes().contains(&"record_quarantined"));
    let said = agent.said();
    assert!(said.iter().any(|m| matches!(m, ToController::ViewOutcome { outcome: ViewOutcome::Applied, quarantined, .. } if quarantined.len() == 2)));
}

#[test]
fn a_delta_builds_on_what_is_held_and_says_when_it_cannot() {
    let mut agent = in_force(1);
    let mut changed = records();
    changed[3] = link_record("prov-jateng", "10.44.1.0/24 tcp/80", "10.33.1.0/24 tcp/445");
    let all = texts(&changed);
    agent.view(view_of(ME, 2, &all, &secret(2), |id| {
        id == "link prov-jateng"
    }));
    let host = applied(&mut agent).unwrap();
    assert_eq!(
        host.filter.unwrap().inbound[0].allow[0].to_string(),
        "tcp/80"
    );
    agent.input(Input::HostApplied {
        generation: 2,
        result: Ok(()),
    });
    let persisted = agent.take().into_iter().find_map(|o| match o {
        Output::Persist(saved) => saved.view,
        _ => None,
    });
    assert_eq!(
        persisted.unwrap().view.records.len(),
        all.len(),
        "what is saved is complete"
    );

    let mut fresh = Driven::online(Vec::new());
    fresh.view(view_of(ME, 2, &all, &secret(2), |id| {
        id == "link prov-jateng"
    }));
    assert_eq!(outcome(&mut fresh), ViewOutcome::Incomplete);
}

#[test]
fn what_the_host_refuses_leaves_the_old_view_and_is_tried_again() {
    let mut agent = in_force(1);
    agent.view(whole(2));
    agent.host_refuses("UDP port 51820 is in use");
    assert!(
        matches!(outcome(&mut agent), ViewOutcome::Refused { reason } if reason.contains("51820"))
    );
    assert_eq!(agent.agent.status(agent.now).view_applied, 1);
    assert!(agent.condition_codes().contains(&"view_refused"));

    agent.pass(Duration::from_secs(11));
    agent.host_agrees();
    assert_eq!(outcome(&mut agent), ViewOutcome::Applied);
    assert!(!agent.condition_codes().contains(&"view_refused"));
}

#[test]
fn a_view_that_comes_while_another_is_under_way_waits_and_the_latest_wins() {
    let mut agent = Driven::online(Vec::new());
    agent.view(whole(1));
    agent.view(whole(2));
    agent.view(whole(3));
    assert_eq!(
        agent
            .take()
            .iter()
            .filter(|o| matches!(o, Output::Apply { .. }))
            .count(),
        1
    );
    agent.input(Input::HostApplied {
        generation: 1,
        result: Ok(()),
    });
    agent.pass(Duration::from_millis(250));
    agent.host_agrees();
    assert_eq!(agent.agent.status(agent.now).view_applied, 3);
    agent.input(Input::HostApplied {
        generation: 1,
        result: Err("late".into()),
    });
    assert_eq!(
        agent.agent.status(agent.now).view_applied,
        3,
        "a late answer means nothing"
    );
}

#[test]
fn a_restart_without_a_controller_puts_the_saved_view_into_force() {
    let certificate = certificate(&secret(1), &secret(2), "pns");
    let with = |view| SavedState {
        view: Some(SavedView {
            certificate: certificate.clone(),
            view,
        }),
        ..saved(ME)
    };
    let mut agent = Driven::new(start(44, Some(with(whole(7))), Vec::new()));
    assert!(!agent.agent.is_applied());
    assert!(
        agent
            .outputs
            .iter()
            .any(|o| matches!(o, Output::Apply { .. })),
        "before anybody is dialled"
    );
    agent.host_agrees();
    assert!(agent.agent.is_applied());
    assert!(
        agent
            .take()
            .iter()
            .any(|o| matches!(o, Output::AcceptLinks { keys } if keys.len() == 2))
    );

    // The controller returns with the same view: it is told which one is here, and nothing is applied again.
    agent.input(Input::ControlUp {
        key: public(&secret(2)),
    });
    let said = agent.said();
    assert!(
        matches!(&said[..], [ToController::Hello { view: Some(digest), .. }] if *digest == whole(7).manifest.payload_digest())
    );
    agent.input(welcome(&secret(1), certificate.clone(), Some(ME)));
    agent.view(whole(7));
    assert!(agent.generation().is_none() && outcome(&mut agent) == ViewOutcome::Applied);

    let mut forged = whole(7);
    forged.manifest.payload.push(' ');
    let mut agent = Driven::new(start(44, Some(with(forged)), Vec::new()));
    assert!(agent.generation().is_none() && agent.condition_codes().contains(&"view_refused"));
    agent.come_online();
    agent.view(whole(8));
    assert!(
        agent.generation().is_some(),
        "a good one still comes into force"
    );
}

#[test]
fn a_controller_that_dies_changes_nothing_and_is_dialled_with_growing_pauses() {
    let mut agent = in_force(1);
    agent.input(Input::ControlDown {
        reason: "timed out".into(),
    });
    let mut dials = Vec::new();
    for second in 0..300 {
        agent.pass(Duration::from_secs(1));
        for output in agent.take() {
            match output {
                Output::DialControl { .. } => {
                    dials.push(second);
                    agent.input(Input::ControlDown {
                        reason: "timed out".into(),
                    });
                }
                Output::Apply { .. }
                | Output::Persist(_)
                | Output::CloseLink { .. }
                | Output::AcceptLinks { .. } => {
                    panic!("{output:?} without a controller")
                }
                _ => {}
            }
        }
    }
    assert!(
        dials[0] <= 1 && (10..40).contains(&dials.len()),
        "{dials:?}"
    );
    assert!(agent.condition_codes().contains(&"controller_away"));
}

#[test]
fn a_pool_that_collides_with_the_uplink_is_refused_and_a_wider_network_is_not() {
    let facts = |address: &str, gateway: Option<&str>| HostFacts {
        addresses: vec![InterfaceAddress {
            interface: "wan0".into(),
            address: address.parse().unwrap(),
        }],
        uplinks: vec![Uplink {
            interface: "wan0".into(),
            gateway: gateway.map(|g| g.parse().unwrap()),
        }],
        resolvers: Vec::new(),
    };
    for (collides, facts) in [
        (true, facts("100.127.3.4/24", None)),
        (true, facts("100.64.0.2/10", Some("100.127.0.1"))),
        (
            true,
            HostFacts {
                resolvers: vec!["100.127.0.53".parse().unwrap()],
                ..facts("192.168.1.2/24", None)
            },
        ),
        (false, facts("100.64.0.2/10", Some("100.64.0.1"))),
    ] {
        let mut agent = Driven::online(Vec::new());
        agent.input(Input::HostFacts(facts.clone()));
        agent.view(whole(1));
        assert_eq!(agent.generation().is_none(), collides, "{facts:?}");
        if collides {
            let outcome = outcome(&mut agent);
            assert!(
                matches!(&outcome, ViewOutcome::Refused { reason } if reason.contains("--pool") && reason.contains("100.127.0.0/16")),
                "{outcome:?}"
            );
            assert!(agent.condition_codes().contains(&"pool_collision"));
        }
    }
}

#[test]
fn own_networks_inside_a_route_or_equal_to_it_stay_with_the_host() {
    for (own, thrown, routed) in [
        ("10.33.1.129/25", "10.33.1.128/25", true),
        ("10.33.1.1/24", "10.33.1.0/24", false),
    ] {
        let mut agent = in_force(1);
        let address = InterfaceAddress {
            interface: "lan1".into(),
            address: own.parse().unwrap(),
        };
        agent.input(Input::HostFacts(HostFacts {
            addresses: vec![address],
            ..HostFacts::default()
        }));
        let host = applied(&mut agent).unwrap();
        assert_eq!(host.throws, [thrown.parse::<ipnet::IpNet>().unwrap()]);
        assert_eq!(
            host.routes.contains(&"10.33.1.0/24".parse().unwrap()),
            routed,
            "{own}"
        );
    }
}

#[test]
fn where_peers_were_seen_is_saved_now_and_then_and_tried_after_a_restart() {
    let link = || link_record("prov-jateng", "", "");
    let hub = || peer_record(HUB, 33, PeerPath::Passive);
    let records = || texts(&[node_record(ME, 44), hub(), link()]);
    let view = |version| view_of(ME, version, &records(), &secret(2), |_| true);
    let mut agent = Driven::online(Vec::new());
    agent.view(view(1));
    agent.host_agrees();
    agent.take();
    let seen = |endpoint: &str, agent: &mut Driven| {
        agent.input(Input::Tunnels(vec![TunnelState {
            key: WireguardKey([33; 32]),
            endpoint: Some(endpoint.parse().unwrap()),
            path_mtu: None,
            last_handshake: None,
            rx_bytes: 0,
            tx_bytes: 0,
        }]));
        agent.pass(Duration::from_secs(1));
        agent
            .take()
            .into_iter()
            .rev()
            .find_map(|output| match output {
                Output::Persist(saved) => Some(*saved),
                _ => None,
            })
    };
    let saved = seen("198.51.100.1:4000", &mut agent).expect("the first is saved at once");
    assert_eq!(
        seen("198.51.100.1:4000", &mut agent),
        None,
        "nothing changed"
    );
    assert_eq!(
        seen("198.51.100.1:4001", &mut agent),
        None,
        "not twice in a minute"
    );
    agent.pass(Duration::from_secs(60));
    let later = seen("198.51.100.1:4001", &mut agent).expect("saved when the minute was over");
    assert_ne!(later, saved);

    let mut restarted = Driven::new(start(44, Some(saved), Vec::new()));
    let host = applied(&mut restarted).unwrap();
    assert_eq!(
        host.tunnels[0].path,
        TunnelPath::Direct("198.51.100.1:4000".parse().unwrap())
    );
}

#[test]
fn a_newer_view_with_a_shorter_or_another_history_is_refused() {
    let offered = |audit: AuditHead| {
        let mut signed = whole(8);
        let mut manifest: Manifest = signed.manifest.open(&public(&secret(2))).unwrap();
        manifest.audit = audit;
        signed.manifest = Envelope::sign(&manifest, &secret(2));
        signed
    };
    let mut agent = in_force(7);
    let AuditHead { entries, digest } = agent.agent.status(agent.now).audit.unwrap();
    let other = Digest::of(b"other");
    for (entries, digest) in [(entries - 1, other), (entries, other), (0, digest)] {
        agent.view(offered(AuditHead { entries, digest }));
        let ViewOutcome::Refused { reason } = outcome(&mut agent) else {
            panic!("refused");
        };
        assert!(reason.contains("shortened or written anew"), "{reason}");
    }
    for (entries, digest) in [(entries, digest), (entries + 1, other)] {
        let mut agent = in_force(7);
        agent.view(offered(AuditHead { entries, digest }));
        agent.host_agrees();
        assert_eq!(outcome(&mut agent), ViewOutcome::Applied);
    }
}

#[test]
fn a_greeting_says_what_was_seen_of_the_audit_trail() {
    let mut agent = in_force(7);
    let held = agent.agent.status(agent.now).audit;
    agent.input(Input::ControlDown {
        reason: "gone".into(),
    });
    agent.take();
    agent.input(Input::ControlUp {
        key: public(&secret(2)),
    });
    let said = agent.said();
    assert!(
        matches!(&said[..], [ToController::Hello { audit, .. }] if *audit == held && held.is_some()),
        "{said:?}"
    );
}
