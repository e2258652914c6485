//! Sessions: what is sent, when, and to whom.

use super::*;
use crate::fleet::NodeState;

fn pair() -> (World, Box_, Box_) {
    let mut world = World::new();
    world.add("kab-demak", &["10.44.0.0/16"]);
    world.add("prov-jateng", &["10.33.0.0/16"]);
    world.add("kota-malang", &["10.55.0.0/16"]);
    world.apply(
        json!({ "link": [link("kab-demak", &["icmp"], "prov-jateng", &["icmp", "tcp/445"])] }),
    );
    let mut first = world.join(1, "kab-demak/gw1", &["10.44.1.0/24"], None);
    let second = world.join(
        2,
        "prov-jateng/gw1",
        &["10.33.1.0/24"],
        Some("203.0.113.30:51820"),
    );
    // The first hears of the second by deltas: the tunnel, and what the link now opens.
    while world.take_view(&mut first).is_some() {}
    let told = [
        "link prov-jateng",
        "node kab-demak/gw1",
        "peer prov-jateng/gw1",
    ];
    assert_eq!(first.told(), told);
    (world, first, second)
}

#[test]
fn a_join_touches_only_whom_it_concerns() {
    let (mut world, mut first, mut second) = pair();
    let before = (first.version(), second.version());
    let third = world.join(3, "kota-malang/gw1", &["10.55.1.0/24"], None);
    assert_eq!(third.told(), ["node kota-malang/gw1"]);
    assert_eq!(world.take_view(&mut first), None);
    assert_eq!(world.take_view(&mut second), None);
    assert_eq!((first.version(), second.version()), before);
}

#[test]
fn an_agent_that_has_the_view_gets_nothing_also_after_a_restart() {
    let (mut world, mut first, _second) = pair();
    world.disconnect(&first);
    assert_eq!(world.node_status("kab-demak/gw1").state, NodeState::Offline);
    world.restart();
    world.connect(&mut first);
    assert_eq!(world.take_view(&mut first), None);
    let status = world.node_status("kab-demak/gw1");
    assert_eq!(
        (status.state, status.view_bytes_sent),
        (NodeState::Online, 0)
    );
    assert_eq!(status.view_applied, status.view_wanted);
}

#[test]
fn what_a_box_says_of_its_software_cannot_drive_a_terminal() {
    let (mut world, first, _second) = pair();
    let (session, key) = (world.sessions + 1, identity(first.seed));
    let observed = "198.51.100.7:40000".parse().unwrap();
    world
        .controller
        .handle_connected(session, key, observed, world.now());
    let hello = ToController::Hello {
        protocol: 1,
        software: "0.1\u{1b}[2J".to_owned(),
        view: None,
        audit: None,
        run: None,
    };
    world.controller.handle_message(session, hello, world.now());
    world.settle();
    let software = world.node_status("kab-demak/gw1").software;
    assert_eq!(software.as_deref(), Some("0.1 [2J"));
}

#[test]
fn what_changed_while_an_agent_was_away_is_sent_as_one_delta() {
    let (mut world, mut first, _second) = pair();
    world.disconnect(&first);
    for port in ["tcp/80", "tcp/81"] {
        world.apply(json!({ "link": [link("kab-demak", &["icmp"], "prov-jateng", &[port])] }));
    }
    world.restart();
    world.connect(&mut first);
    assert_eq!(world.take_view(&mut first).unwrap(), ["link prov-jateng"]);
}

#[test]
fn an_unknown_digest_or_none_gets_everything() {
    let (mut world, mut first, _second) = pair();
    for digest in [None, Some(Digest([9; 32]))] {
        world.disconnect(&first);
        first = Box_ {
            digest,
            ..Box_::new(1)
        };
        world.connect(&mut first);
        assert_eq!(world.take_view(&mut first), Some(first.all()));
    }
}

#[test]
fn an_acknowledgement_that_was_lost_is_said_again_and_hello_alone_is_none() {
    let (mut world, mut first, _second) = pair();
    world.apply(json!({ "link": [link("kab-demak", &["icmp"], "prov-jateng", &["tcp/80"])] }));
    let messages = world.received(&first);
    let [ToAgent::View(view)] = &messages[..] else {
        panic!("{messages:?}")
    };
    first.apply(view);
    world.restart();
    world.connect(&mut first);
    assert_eq!(world.take_view(&mut first), None, "it has the view");
    let status = world.node_status("kab-demak/gw1");
    assert!(
        status.view_applied < status.view_wanted,
        "which may not be in force"
    );
    world.say(&first, first.applied());
    let status = world.node_status("kab-demak/gw1");
    assert_eq!(status.view_applied, status.view_wanted);
}

#[test]
fn a_view_that_was_refused_and_then_worked_is_shown_as_applied() {
    let (mut world, mut first, _second) = pair();
    world.apply(json!({ "link": [link("kab-demak", &["icmp"], "prov-jateng", &["tcp/80"])] }));
    let messages = world.received(&first);
    let [ToAgent::View(view)] = &messages[..] else {
        panic!("{messages:?}")
    };
    let refused = ToController::ViewOutcome {
        version: first.version() + 1,
        digest: view.manifest.payload_digest(),
        outcome: ViewOutcome::Refused {
            reason: "UDP port 51820 is in use".to_owned(),
        },
        quarantined: vec![],
    };
    world.say(&first, refused);
    assert!(world.node_status("kab-demak/gw1").view_refused.is_some());
    first.apply(view);
    world.disconnect(&first);
    world.connect(&mut first);
    let status = world.node_status("kab-demak/gw1");
    assert!(
        status.view_refused.is_some(),
        "a new session alone says nothing"
    );
    world.say(&first, first.applied());
    let status = world.node_status("kab-demak/gw1");
    assert_eq!(
        (status.view_applied, status.view_refused),
        (status.view_wanted, None)
    );
}

#[test]
fn changes_wait_for_the_answer_and_then_go_together() {
    let (mut world, mut first, _second) = pair();
    let policy =
        |port: &str| json!({ "link": [link("kab-demak", &["icmp"], "prov-jateng", &[port])] });
    world.apply(policy("tcp/80"));
    let messages = world.received(&first);
    let [ToAgent::View(view)] = &messages[..] else {
        panic!("{messages:?}")
    };
    world.apply(policy("tcp/81"));
    world.apply(policy("tcp/82"));
    assert_eq!(world.received(&first), []);
    first.apply(view);
    world.say(&first, first.applied());
    let version = first.version();
    assert_eq!(world.take_view(&mut first).unwrap(), ["link prov-jateng"]);
    assert_eq!(first.version(), version + 2);
}

#[test]
fn an_agent_that_never_answers_is_sent_the_next_view_all_the_same() {
    let (mut world, first, _second) = pair();
    let policy =
        |port: &str| json!({ "link": [link("kab-demak", &["icmp"], "prov-jateng", &[port])] });
    world.apply(policy("tcp/80"));
    assert_eq!(world.received(&first).len(), 1);
    world.apply(policy("tcp/81"));
    world.pass(Duration::from_secs(9));
    assert_eq!(world.received(&first), []);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.received(&first).len(), 1);
    world.pass(Duration::from_secs(60));
    assert_eq!(
        world.received(&first),
        [],
        "the same view is not sent twice"
    );
}

#[test]
fn a_refused_view_is_shown_with_its_reason_and_not_sent_again() {
    let (mut world, mut first, _second) = pair();
    let applied = first.version();
    world.apply(json!({ "link": [link("kab-demak", &["icmp"], "prov-jateng", &["tcp/80"])] }));
    let messages = world.received(&first);
    let [ToAgent::View(view)] = &messages[..] else {
        panic!("{messages:?}")
    };
    let digest = view.manifest.payload_digest();
    let refused = ViewOutcome::Refused {
        reason: "nft said no".to_owned(),
    };
    world.say(
        &first,
        ToController::ViewOutcome {
            version: first.version() + 1,
            digest,
            outcome: refused,
            quarantined: vec![],
        },
    );
    // What it says of the view before unsays nothing.
    world.say(&first, first.applied());
    world.pass(Duration::from_secs(60));
    assert_eq!(world.received(&first), []);
    let fleet = world.status();
    assert_eq!(
        fleet.nodes[0].node,
        node("kab-demak/gw1"),
        "it needs attention first"
    );
    assert!(fleet.nodes[0].attention[0].contains("nft said no"));
    assert_eq!(fleet.nodes[0].view_applied, applied);

    world.apply(json!({ "link": [link("kab-demak", &["icmp"], "prov-jateng", &["tcp/81"])] }));
    assert_eq!(world.take_view(&mut first).unwrap(), ["link prov-jateng"]);
    assert_eq!(world.node_status("kab-demak/gw1").view_refused, None);
}

#[test]
fn an_incomplete_view_is_sent_whole_and_only_once() {
    let (mut world, first, _second) = pair();
    world.apply(json!({ "link": [link("kab-demak", &["icmp"], "prov-jateng", &["tcp/80"])] }));
    for records in [1, first.all().len()] {
        let messages = world.received(&first);
        let [ToAgent::View(view)] = &messages[..] else {
            panic!("{messages:?}")
        };
        assert_eq!(view.records.len(), records);
        let digest = view.manifest.payload_digest();
        let outcome = ViewOutcome::Incomplete;
        world.say(
            &first,
            ToController::ViewOutcome {
                version: first.version() + 1,
                digest,
                outcome,
                quarantined: vec![],
            },
        );
    }
    assert_eq!(world.received(&first), []);
}

#[test]
fn a_newer_session_of_a_box_replaces_the_older() {
    let (mut world, mut first, _second) = pair();
    let older = first.session;
    world.connect(&mut first);
    assert!(
        matches!(&world.closed[..], [(id, reason)] if *id == older && reason.contains("newer"))
    );
    world.controller.handle_closed(older, world.now());
    assert_eq!(world.node_status("kab-demak/gw1").state, NodeState::Online);
    assert_eq!(world.controller.session_counts(), (2, 0));
}

#[test]
fn strangers_may_only_greet_and_join_and_do_not_stay() {
    let mut world = World::new();
    let mut stranger = Box_::new(9);
    world.connect(&mut stranger);
    let answer = world.received(&stranger);
    assert!(
        matches!(&answer[..], [ToAgent::Welcome { node: None, .. }]),
        "{answer:?}"
    );
    world.say(&stranger, ToController::Services { services: vec![] });
    assert_eq!(world.closed.len(), 1);

    let mut idle = Box_::new(9);
    world.connect(&mut idle);
    world.pass(Duration::from_secs(29));
    assert_eq!(world.closed.len(), 1);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.closed.len(), 2);
    assert_eq!(world.controller.session_counts(), (0, 0));

    let mut rude = Box_::new(9);
    rude.session = 77;
    world.controller.handle_connected(
        77,
        identity(9),
        "198.51.100.7:1".parse().unwrap(),
        world.now(),
    );
    world.say(&rude, ToController::Services { services: vec![] });
    assert_eq!(world.closed.len(), 3);
}

#[test]
fn a_box_announces_services_of_its_own_only() {
    let (mut world, first, _second) = pair();
    let service = |name: &str, at: &str| pnsbox_proto::service::Service {
        name: name.parse().unwrap(),
        kind: pnsbox_proto::service::ServiceKind::Tcp,
        node: node(at),
        endpoints: vec!["10.44.1.10:80".parse().unwrap()],
        priority: 100,
        audience: pnsbox_proto::service::Audience::All,
        epoch: 1,
        virtual_address: None,
    };
    let services = vec![
        service("kab-demak/db", "kab-demak/gw1"),
        service("prov-jateng/db", "kab-demak/gw1"),
        service("prov-jateng/db", "prov-jateng/gw1"),
    ];
    world.say(&first, ToController::Services { services });
    let announced = world.node_status("kab-demak/gw1").announced;
    assert_eq!(announced.len(), 1);
    assert_eq!(announced[0].name.as_str(), "kab-demak/db");
}

#[test]
fn a_copy_of_a_box_is_named_with_both_places_and_a_restart_is_none() {
    let (mut world, mut first, _second) = pair();
    let told = |world: &mut World| world.node_status("kab-demak/gw1").attention;
    for run in [11, 12] {
        first.run = run;
        world.connect(&mut first);
        assert_eq!(told(&mut world), Vec::<String>::new(), "restarted");
    }
    let mut copy = Box_::new(1);
    copy.run = 99;
    world.connect(&mut copy);
    world.pass(Duration::from_secs(2));
    world.connect(&mut first);
    let attention = told(&mut world);
    assert!(
        attention[0].starts_with("kab-demak/gw1 runs in two places, at 198.51.100.7:40000 and at"),
        "{attention:?}"
    );
    assert_eq!(world.status().nodes[0].node, node("kab-demak/gw1"));
    world.pass(Duration::from_secs(599));
    assert!(told(&mut world)[0].contains("two places"));
    world.pass(Duration::from_secs(2));
    assert!(
        !told(&mut world)
            .iter()
            .any(|text| text.contains("two places"))
    );
}

#[test]
fn a_view_on_trial_holds_no_newer_one_up_and_the_next_builds_on_it() {
    let (mut world, mut first, _second) = pair();
    let says = |member: &Box_, outcome: ViewOutcome| ToController::ViewOutcome {
        version: member.version(),
        digest: member.digest.unwrap(),
        outcome,
        quarantined: vec![],
    };
    let with =
        |port: &str| json!({ "link": [link("kab-demak", &["icmp"], "prov-jateng", &[port])] });
    let next = |world: &mut World, first: &mut Box_| {
        let messages = world.received(first);
        let [ToAgent::View(view)] = &messages[..] else {
            panic!("{messages:?}")
        };
        first.apply(view)
    };
    let kept = first.version();
    world.apply(with("tcp/80"));
    assert_eq!(next(&mut world, &mut first), ["link prov-jateng"]);
    world.say(&first, says(&first, ViewOutcome::OnTrial));
    assert_eq!(world.received(&first), [], "it has it");
    let held = |world: &World| {
        let agents = &world.controller.image.agents;
        agents[&node("kab-demak/gw1")].held.clone().unwrap().version
    };
    assert_eq!(held(&world), kept, "what it keeps is another matter");
    world.apply(with("tcp/81"));
    assert_eq!(next(&mut world, &mut first), ["link prov-jateng"]);
    world.say(&first, says(&first, ViewOutcome::OnTrial));
    let reason = "nothing was heard".to_owned();
    world.say(&first, says(&first, ViewOutcome::RolledBack { reason }));
    assert_eq!(held(&world), kept);
    let status = world.node_status("kab-demak/gw1");
    assert!(
        status.attention[0].contains("nothing was heard"),
        "{status:?}"
    );

    // Known from its greeting only: a session that came during the trial hears of its end as well.
    world.connect(&mut first);
    assert_eq!(world.received(&first).len(), 1, "the welcome");
    let reason = "again".to_owned();
    world.say(&first, says(&first, ViewOutcome::RolledBack { reason }));
    assert!(world.node_status("kab-demak/gw1").attention[0].contains("again"));
}
