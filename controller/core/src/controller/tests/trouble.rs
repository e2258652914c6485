//! What goes wrong inside: the store does not write, a view is too large, the audit was changed, invitations end.

use super::*;
use crate::fleet::NodeState;

fn full(world: &mut World) {
    let transaction = world.controller.take_transaction();
    assert!(!transaction.is_empty());
    let decided = world
        .controller
        .not_written(transaction, "the disk is full".to_owned());
    if decided {
        let entries = listed(&world.entries);
        world.controller.roll_back(&entries, world.now()).unwrap();
    }
}

#[test]
fn what_was_not_written_never_was() {
    let mut world = World::new();
    world.add("kab-demak", &["10.44.0.0/16"]);
    let anchor = world.invite("kab-demak", "gw1");
    let mut member = Box_::new(1);
    world.connect(&mut member);
    world.received(&member);
    let join = ToController::Join(JoinRequest {
        token: anchor.token.clone(),
        agency: None,
        wireguard: WireguardKey([1; 32]),
        prefixes: vec!["10.44.1.0/24".parse().unwrap()],
        public_endpoint: None,
        second_endpoint: None,
    });
    let before = world.entries.clone();
    world
        .controller
        .handle_message(member.session, join, world.now());
    full(&mut world);
    world.sessions += 1;
    let outputs: Vec<Output> = std::iter::from_fn(|| world.controller.poll_output()).collect();
    assert!(
        matches!(&outputs[..], [Output::Close { session, .. }] if *session == member.session),
        "{outputs:?}"
    );
    assert_eq!(world.controller.counters().joined, 0);

    // Until it writes again nothing is decided, and everything is shown.
    let name: pnsbox_proto::id::AgencyName = "kab-kudus".parse().unwrap();
    let add = Request::AgencyAdd {
        name,
        prefixes: vec!["10.45.0.0/16".parse().unwrap()],
        class: None,
        region: None,
    };
    let Err(Refusal::Refused { message }) = world.ask(add.clone()) else {
        panic!("a refusal")
    };
    assert_eq!(message, "the disk is full; nothing was changed");
    assert_eq!(world.status().warnings, ["the disk is full"]);
    world.connect(&mut member);
    assert!(
        matches!(world.refusal(&member, anchor.token.clone(), &["10.44.1.0/24"]),
        JoinRefusal::Invalid { reason } if reason.contains("the anchor is as good as before"))
    );
    assert_eq!(world.entries, before);

    world.controller.store_recovered(world.now());
    assert_eq!(world.status().warnings, [""; 0]);
    world.ask(add).unwrap();
    let answer = world.try_join(&member, anchor.token, &["10.44.1.0/24"], None);
    assert!(matches!(answer, ToAgent::Joined { .. }), "{answer:?}");
    let deeds = world.audit();
    assert_eq!(deeds.len(), 5, "{deeds:?}");
}

#[test]
fn what_agents_said_waits_until_it_can_be_written() {
    let mut world = World::new();
    world.add("kab-demak", &["10.44.0.0/16"]);
    let member = world.join(1, "kab-demak/gw1", &["10.44.1.0/24"], None);
    world.pass(Duration::from_secs(5));
    world.controller.handle_closed(member.session, world.now());
    full(&mut world);
    let status = world.node_status("kab-demak/gw1");
    assert_eq!(status.last_seen, Some(world.now().wall));
    world.controller.store_recovered(world.now());
    world.settle();
    world.restart();
    let status = world.node_status("kab-demak/gw1");
    assert_eq!(status.last_seen, Some(world.now().wall));
}

#[test]
fn what_agencies_sign_waits_until_it_can_be_written_and_is_asked_for_again() {
    let mut world = World::new();
    world.add("kab-demak", &["10.44.0.0/16"]);
    world.add("prov-jateng", &["10.33.0.0/16"]);
    world.apply(json!({ "link": [link("kab-demak", &["icmp"], "prov-jateng", &["icmp"])] }));
    let mut demak = world.join_unsigned(1, "kab-demak/gw1", &["10.44.1.0/24"], None);
    let claim = signing::claim(&demak.member(), 1);
    let document = || ToController::Documents {
        documents: vec![claim.clone()],
    };
    world
        .controller
        .handle_message(demak.session, document(), world.now());
    full(&mut world);
    let outputs = std::iter::from_fn(|| world.controller.poll_output()).count();
    assert_eq!(outputs, 1, "its session ends, for it would have had a view");
    world.connect(&mut demak);
    world.received(&demak);
    world
        .controller
        .handle_message(demak.session, document(), world.now());
    assert!(
        world.controller.poll_output().is_none(),
        "no view of it leaves"
    );
    assert!(world.controller.take_transaction().is_empty());

    world.controller.store_recovered(world.now());
    world.settle();
    assert_eq!(world.closed.last().map(|(id, _)| *id), Some(demak.session));
    world.connect(&mut demak);
    world.say(&demak, document());
    assert_eq!(
        world.take_view(&mut demak),
        Some(vec!["member kab-demak/gw1".to_owned()])
    );
    assert!(demak.member().claim.is_some());
}

#[test]
fn what_was_acknowledged_in_a_change_that_was_not_written_is_asked_for_again() {
    let mut world = World::new();
    world.add("kab-demak", &["10.44.0.0/16"]);
    let mut demak = world.join(1, "kab-demak/gw1", &["10.44.1.0/24"], None);
    world.add("prov-jateng", &["10.33.0.0/16"]);
    let _jateng = world.join(2, "prov-jateng/gw1", &["10.33.1.0/24"], None);
    world.apply(json!({ "link": [link("kab-demak", &["icmp"], "prov-jateng", &["icmp"])] }));
    let came = world.received(&demak);
    let [ToAgent::View(view), ..] = &came[..] else {
        panic!("a view: {came:?}");
    };
    demak.apply(view);
    world
        .controller
        .handle_message(demak.session, demak.applied(), world.now());
    // A decision in the same transaction, that concerns another.
    let add = Request::AgencyAdd {
        name: "kab-kudus".parse().unwrap(),
        prefixes: vec!["10.45.0.0/16".parse().unwrap()],
        class: None,
        region: None,
    };
    let by = Origin::here("uid 0");
    world
        .controller
        .handle_request(add, &by, world.now(), [0; 16])
        .unwrap();
    full(&mut world);
    world.controller.store_recovered(world.now());
    world.settle();
    assert_eq!(
        world.closed.last().map(|(id, _)| *id),
        Some(demak.session),
        "it says again what it holds"
    );
}

#[test]
fn a_view_that_is_too_large_is_named_with_its_node() {
    let mut world = World::new();
    world.add("kab-demak", &["10.44.0.0/16"]);
    world.add("prov-jateng", &["10.33.0.0/16"]);
    let _demak = world.join(1, "kab-demak/gw1", &["10.44.1.0/24"], None);
    let public = Some("203.0.113.30:51820");
    let _jateng = world.join(
        2,
        "prov-jateng/gw1",
        &["10.33.1.0/24", "10.33.2.0/24", "10.33.3.0/24"],
        public,
    );
    let many: Vec<String> = (1..=60_000)
        .flat_map(|port| ["tcp", "udp"].map(|protocol| format!("{protocol}/{port}-65535")))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    world.apply(json!({ "link": [link("kab-demak", &["icmp"], "prov-jateng", &many)] }));
    let status = world.node_status("prov-jateng/gw1");
    let text = &status.attention[0];
    assert!(
        text.contains("prov-jateng/gw1 cannot be sent view 3: a frame of")
            && text.contains("it keeps view 2"),
        "{text}"
    );
    // A smaller one ends it.
    world.apply(json!({ "link": [link("kab-demak", &["icmp"], "prov-jateng", &["icmp"])] }));
    world.pass(Duration::from_secs(11));
    let status = world.node_status("prov-jateng/gw1");
    assert!(
        status
            .attention
            .iter()
            .all(|text| !text.contains("cannot be sent")),
        "{:?}",
        status.attention
    );
}

#[test]
fn an_invitation_that_ended_is_counted_no_more() {
    let mut world = World::new();
    world.add("kab-demak", &["10.44.0.0/16"]);
    world.invite("kab-demak", "gw1");
    world.pass(Duration::from_secs(1));
    assert_eq!(world.controller.node_states()[&NodeState::Invited], 1);
    world.pass(Duration::from_secs(3600));
    assert_eq!(world.controller.node_states()[&NodeState::Invited], 0);
}
