//! Nodes and agencies that are shut out, and let in again.

use super::*;
use crate::registry::quarantine::Subject;

/// Two hidden agencies that need a relay, one public agency that is linked with both, and the relay.
fn world() -> (World, Vec<Box_>) {
    let mut world = World::new();
    let boxes = [
        ("a1/gw1", None),
        ("a2/gw1", None),
        ("a3/gw1", Some("203.0.113.3:51820")),
        ("r1/gw1", Some("203.0.113.4:51820")),
    ];
    let mut members = Vec::new();
    for (number, (name, public)) in (1..).zip(boxes) {
        let (agency, _) = name.split_once('/').unwrap();
        world.add(agency, &[&format!("10.{number}.0.0/16")]);
        members.push(world.join(number, name, &[&format!("10.{number}.1.0/24")], public));
    }
    let link = |a: &str, b: &str| json!({ "between": [a, b], "open": [{ "at": a, "prefix": "lan", "allow": ["icmp"] }] });
    let links = [link("a1", "a2"), link("a1", "a3"), link("a2", "a3")];
    world.apply(json!({ "relays": ["r1/gw1"], "link": links }));
    for member in &mut members {
        world.take_view(member);
    }
    (world, members)
}

fn shut_out(world: &mut World, subject: &str) -> Result<Vec<NodeName>, String> {
    let request = Request::Quarantine {
        subject: subject.parse::<Subject>()?,
        reason: "stolen\u{1b}[2J".to_owned(),
    };
    match world.ask(request) {
        Ok(Answer::Quarantined {
            released: false,
            touched,
            ..
        }) => Ok(touched),
        other => Err(other.unwrap_err().to_string()),
    }
}

fn ids(member: &Box_) -> Vec<String> {
    let mut ids = member.told();
    ids.sort();
    ids
}

#[test]
fn everybody_drops_who_is_shut_out_and_takes_it_back_as_it_was() {
    for subject in ["a1/gw1", "a1"] {
        let (mut world, mut members) = world();
        let before: Vec<_> = members.iter().map(ids).collect();
        let touched = shut_out(&mut world, subject).unwrap();
        assert_eq!(touched.len(), 4, "its peers, the relay and itself");
        for member in &mut members {
            world.take_view(member).expect("each is told at once");
        }
        assert_eq!(ids(&members[0]), ["node a1/gw1"], "it has nobody");
        let told = members[0].own().quarantine.unwrap();
        assert_eq!(told, "stolen [2J");
        for member in &members[1..] {
            let all = ids(member).join("\n");
            assert!(!all.contains("a1/gw1") && !all.contains("relay"), "{all}");
        }
        let status = world.node_status("a1/gw1");
        assert!(
            status.attention[0].contains("in quarantine since"),
            "{status:?}"
        );
        assert_eq!(
            world.status().nodes[0].node,
            node("a1/gw1"),
            "it comes first"
        );
        let last = world.audit().pop().unwrap().what;
        assert_eq!(last, format!("quarantine {subject}: stolen [2J"));

        // It survives a restart of the controller, and keeps what it has.
        let again = Controller::load(&listed(&world.entries), keys()).unwrap();
        assert_eq!(again.image.registry, world.controller.image.registry);
        assert_eq!(again.image.registry.nodes[&node("a1/gw1")].active.len(), 1);
        let subject = subject.parse().unwrap();
        world.ask(Request::Release { subject }).unwrap();
        for member in &mut members {
            world.take_view(member);
        }
        let relay = |all: &[String]| all.iter().filter(|id| id.starts_with("relay")).count();
        for (member, before) in members.iter().zip(before) {
            // The pair has a new channel.
            let (now, then) = (ids(member), before);
            assert_eq!(relay(&now), relay(&then));
            let rest = |all: Vec<String>| {
                all.into_iter()
                    .filter(|id| !id.starts_with("relay"))
                    .collect::<Vec<_>>()
            };
            assert_eq!(rest(now), rest(then));
        }
    }
}

#[test]
fn a_relay_that_is_shut_out_relays_nothing_and_an_agency_gets_no_new_nodes() {
    let (mut world, mut members) = world();
    shut_out(&mut world, "r1").unwrap();
    for member in &mut members {
        world.take_view(member);
    }
    assert_eq!(ids(&members[3]), ["node r1/gw1"]);
    assert_eq!(members[0].own().unreachable, [node("a2/gw1")]);

    let anchor = world.invite("a3", "gw2");
    shut_out(&mut world, "a3").unwrap();
    let mut late = Box_::new(9);
    world.connect(&mut late);
    let refusal = world.refusal(&late, anchor.token, &[]).to_string();
    assert!(refusal.contains("in quarantine"), "{refusal}");
    let request = Request::Invite {
        agency: "a3".parse().unwrap(),
        node: "gw3".to_owned(),
        expires_in_s: 60,
    };
    assert!(
        world
            .ask(request)
            .unwrap_err()
            .to_string()
            .contains("let it in again first")
    );
}

#[test]
fn mistakes_are_told() {
    let (mut world, _) = world();
    assert!(
        shut_out(&mut world, "a9")
            .unwrap_err()
            .contains("not registered")
    );
    assert!(
        shut_out(&mut world, "a1/gw7")
            .unwrap_err()
            .contains("has not joined")
    );
    assert!(
        shut_out(&mut world, "A1")
            .unwrap_err()
            .contains("neither an agency")
    );
    shut_out(&mut world, "a1").unwrap();
    let subject = "a1/gw1".parse().unwrap();
    let refusal = world
        .ask(Request::Release { subject })
        .unwrap_err()
        .to_string();
    assert!(refusal.ends_with("in quarantine: a1"), "{refusal}");
    let nothing = Request::Quarantine {
        subject: "a2".parse().unwrap(),
        reason: " \n".to_owned(),
    };
    assert!(
        world
            .ask(nothing)
            .unwrap_err()
            .to_string()
            .contains("must say why")
    );
}

#[test]
fn a_gateway_that_is_shut_out_serves_no_device() {
    let (mut world, mut members) = world();
    let device = node("a3/laptop");
    let wireguard = WireguardKey([90; 32]);
    let added = world.ask(Request::ExternalAdd { device, wireguard });
    let Ok(Answer::ExternalAdded { external }) = added else {
        panic!("{added:?}")
    };
    world.claim_device(&external);
    while world.take_view(&mut members[2]).is_some() {}
    assert!(ids(&members[2]).contains(&"external a3/laptop".to_owned()));
    shut_out(&mut world, "a3/gw1").unwrap();
    world.take_view(&mut members[2]);
    assert_eq!(ids(&members[2]), ["node a3/gw1"]);
}
