//! Policies that were in force: listed, compared, brought back.

use super::*;
use crate::difference::Difference;
use crate::operator::VersionLine;

fn world() -> World {
    let mut world = World::new();
    for (agency, prefix) in [
        ("kab-demak", "10.44.0.0/16"),
        ("prov-jateng", "10.33.0.0/16"),
    ] {
        world.add(agency, &[prefix]);
    }
    world.join(
        1,
        "kab-demak/gw1",
        &["10.44.1.0/24"],
        Some("203.0.113.1:51820"),
    );
    world.join(2, "prov-jateng/gw1", &["10.33.1.0/24"], None);
    world
}

fn opened(allow: &str) -> Value {
    json!({ "link": [{ "between": ["kab-demak", "prov-jateng"],
        "open": [{ "at": "kab-demak", "prefix": "lan", "allow": [allow] }] }] })
}

fn history(world: &mut World) -> Vec<VersionLine> {
    match world.ask(Request::History) {
        Ok(Answer::History { versions }) => versions,
        other => panic!("{other:?}"),
    }
}

fn changes(world: &mut World, from: u64, to: Option<u64>) -> Vec<String> {
    match world.ask(Request::Diff { from, to }) {
        Ok(Answer::Changes { changes, .. }) => changes,
        other => panic!("{other:?}"),
    }
}

fn roll_back(world: &mut World, to: u64, dry_run: bool) -> Difference {
    match world.ask(Request::Rollback { to, dry_run }) {
        Ok(Answer::Difference {
            difference,
            applied,
        }) if applied != dry_run => *difference,
        other => panic!("{other:?}"),
    }
}

fn records(world: &World) -> Vec<String> {
    let views = world.controller.image.views.values();
    views
        .flat_map(|view| view.records.iter().map(|record| record.text.clone()))
        .collect()
}

#[test]
fn every_policy_is_a_version_and_the_same_again_is_none() {
    let mut world = world();
    assert_eq!(history(&mut world), []);
    world.apply(opened("tcp/445"));
    world.apply(opened("tcp/445"));
    world.apply(opened("icmp"));
    let versions = history(&mut world);
    let numbers: Vec<_> = versions.iter().map(|v| (v.number, v.in_force)).collect();
    assert_eq!(numbers, [(1, false), (2, true)]);
    assert_eq!(
        (&*versions[0].who, &*versions[0].from),
        ("uid 0", "this machine")
    );
    assert_eq!(
        versions[1].changes,
        [
            "+ link kab-demak - prov-jateng: prov-jateng may reach kab-demak lan: icmp",
            "- link kab-demak - prov-jateng: prov-jateng may reach kab-demak lan: tcp/445"
        ]
    );
    let Ok(Answer::Version { policy, .. }) = world.ask(Request::Version { number: 1 }) else {
        panic!("it is kept");
    };
    assert_eq!(policy, opened("tcp/445"));

    let one_way = changes(&mut world, 1, Some(2));
    assert_eq!(
        (one_way.len(), &one_way),
        (2, &changes(&mut world, 1, None))
    );
    assert_eq!(changes(&mut world, 2, Some(2)), Vec::<String>::new());
    assert_eq!(
        changes(&mut world, 0, Some(1)).len(),
        2,
        "the link and what it opens"
    );
    for request in [
        Request::Version { number: 3 },
        Request::Diff { from: 9, to: None },
    ] {
        let refusal = world.ask(request).unwrap_err().to_string();
        assert!(refusal.contains("the last is 2"), "{refusal}");
    }
}

#[test]
fn any_version_comes_back_as_a_new_one_with_the_same_records() {
    let mut world = world();
    let mut seen = vec![records(&world)];
    for allow in ["tcp/445", "icmp", "udp/53"] {
        world.apply(opened(allow));
        seen.push(records(&world));
    }
    for to in [1, 3, 0, 2] {
        let before = records(&world);
        let planned = roll_back(&mut world, to, true);
        assert_eq!((records(&world), planned.nodes.len()), (before, 2));
        let place = usize::try_from(to).unwrap();
        assert_eq!(roll_back(&mut world, to, false), planned);
        assert_eq!(records(&world), seen[place], "version {to}");
        let last = history(&mut world).pop().unwrap();
        assert_eq!((last.restores, last.in_force), (Some(to), true));
        assert!(world.audit().pop().unwrap().what.starts_with(&format!(
            "roll back to policy version {to}, version {}: ",
            last.number
        )));
    }
    assert!(roll_back(&mut world, 2, false).is_empty(), "it is in force");
    assert_eq!(history(&mut world).len(), 7);
    // It is all on disk.
    let again = Controller::load(&listed(&world.entries), keys()).unwrap();
    assert_eq!(again.image.history, world.controller.image.history);
}
