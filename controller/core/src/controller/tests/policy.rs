//! Policies: mistakes all at once, differences, versions that move only where something changed.

use super::*;
use crate::reader::Mistake;

fn world() -> (World, Vec<Box_>) {
    let mut world = World::new();
    for (agency, prefix) in [
        ("kab-demak", "10.44.0.0/16"),
        ("prov-jateng", "10.33.0.0/16"),
        ("kota-malang", "10.55.0.0/16"),
    ] {
        world.add(agency, &[prefix]);
    }
    let members = vec![
        world.join(1, "kab-demak/gw1", &["10.44.1.0/24"], None),
        world.join(2, "kota-malang/gw1", &["10.55.1.0/24"], None),
        world.join(
            3,
            "prov-jateng/gw1",
            &["10.33.1.0/24"],
            Some("203.0.113.30:51820"),
        ),
    ];
    (world, members)
}

fn triangle(port: &str) -> Value {
    json!({
        "relays": ["prov-jateng/gw1"],
        "link": [
            link("kab-demak", &["icmp"], "prov-jateng", &["icmp", port]),
            link("kota-malang", &["icmp"], "prov-jateng", &["icmp"]),
            link("kota-malang", &["icmp"], "kab-demak", &["icmp"]),
        ],
    })
}

#[test]
fn every_mistake_is_named_at_once_with_key_value_and_rule() {
    let (mut world, _) = world();
    let policy = json!({
        "relays": ["kab-demak/gw1", "kab-pati/gw1", 7],
        "lnk": 1,
        "link": [
            { "between": ["kab-demak", "kab-pati"], "open": [
                { "at": "prov-jateng", "prefix": "lan", "allow": ["icmp"] },
                { "at": "kab-demak", "prefix": "10.33.0.0/24", "allow": ["tcp/0", "icmp"] },
                { "at": "kab-demak", "prefix": "10.44.1.1/24", "allow": [], "to": 1 },
            ] },
            { "between": ["kab-demak", "prov-jateng"] },
            { "between": ["prov-jateng", "kab-demak"] },
            { "between": ["kab-demak", "kab-demak"] },
            { "open": 3 },
        ],
        "accept": [{ "node": "kab-pati/gw1", "prefix": "100.127.8.0/24" }],
    });
    let Err(Refusal::Mistakes { mistakes }) = world.ask(Request::Apply { policy }) else {
        panic!("refused")
    };
    let lines: Vec<String> = mistakes.iter().map(Mistake::to_string).collect();
    for expected in [
        "relays = \"kab-demak/gw1\": has no public endpoint",
        "relays = \"kab-pati/gw1\": kab-pati is not registered",
        "relays = 7: must be a list of nodes",
        "lnk = 1: is not a key here; keys are accept, external, link, relays",
        "[link.1] between = \"kab-pati\": kab-pati is not registered",
        "[link.1.open.1] at = \"prov-jateng\": must be one of the two",
        "[link.1.open.2] prefix = \"10.33.0.0/24\": must lie in the prefixes registered for kab-demak: 10.44.0.0/16",
        "[link.1.open.2] allow = \"tcp/0\": must be a list of",
        "[link.1.open.3] prefix = \"10.44.1.1/24\": must be \"lan\" or a prefix",
        "[link.1.open.3] allow = []: must name something",
        "[link.1.open.3] to = 1: is not a key here",
        "[link.3] between = [\"prov-jateng\",\"kab-demak\"]: kab-demak and prov-jateng already have",
        "[link.4] between = [\"kab-demak\",\"kab-demak\"]: must name two different",
        "[link.5] between: is missing",
        "[link.5] open = 3: must be a list of tables, each written [[link.open]]",
        "[accept.1] node = \"kab-pati/gw1\": kab-pati is not registered",
        "[accept.1] prefix = \"100.127.8.0/24\": overlaps the overlay pool",
    ] {
        assert!(
            lines.iter().any(|line| line.starts_with(expected)),
            "{expected}\nnot in\n{}",
            lines.join("\n")
        );
    }
    assert_eq!(lines.len(), 17, "{}", lines.join("\n"));
}

#[test]
fn a_plan_changes_nothing_and_names_only_whom_it_touches() {
    let (mut world, _) = world();
    world.apply(triangle("tcp/445"));
    let (entries, sent) = (world.entries.clone(), world.sent.len());
    let difference = world.plan(triangle("tcp/9999"));
    assert_eq!((world.entries.clone(), world.sent.len()), (entries, sent));
    let changes = difference.changes.join("\n");
    assert!(
        changes.contains(
            "+ link kab-demak - prov-jateng: kab-demak may reach prov-jateng lan: tcp/9999"
        ),
        "{changes}"
    );
    assert!(
        changes.contains(
            "- link kab-demak - prov-jateng: kab-demak may reach prov-jateng lan: tcp/445"
        ),
        "{changes}"
    );
    let touched: Vec<&str> = difference
        .nodes
        .iter()
        .map(|touched| touched.node.as_str())
        .collect();
    assert_eq!(touched, ["kab-demak/gw1", "prov-jateng/gw1"]);
}

#[test]
fn versions_move_only_where_records_change_and_twice_is_once() {
    let (mut world, mut members) = world();
    world.apply(triangle("tcp/445"));
    for member in &mut members {
        assert!(world.take_view(member).is_some());
    }
    let deeds = world.audit().len();
    assert!(world.apply(triangle("tcp/445")).is_empty());
    assert_eq!(
        world.audit().len(),
        deeds,
        "nothing was done, so nothing is noted"
    );

    let before: Vec<u64> = members.iter().map(Box_::version).collect();
    world.apply(triangle("tcp/9999"));
    let came: Vec<_> = members
        .iter_mut()
        .map(|member| world.take_view(member))
        .collect();
    assert_eq!(
        came[0].as_deref(),
        Some(&["link prov-jateng".to_owned()][..])
    );
    assert_eq!(came[1], None);
    assert_eq!(came[2].as_deref(), Some(&["link kab-demak".to_owned()][..]));
    let after: Vec<u64> = members.iter().map(Box_::version).collect();
    assert_eq!(after, [before[0] + 1, before[1], before[2] + 1]);
    assert_eq!(world.audit().len(), deeds + 1);
}

#[test]
fn a_manifest_follows_from_the_one_before_and_witnesses_the_audit() {
    let (mut world, mut members) = world();
    let before = members[0].digest;
    world.apply(triangle("tcp/445"));
    world.take_view(&mut members[0]);
    let manifest = members[0].manifest.clone().unwrap();
    assert_eq!(manifest.previous, before);
    let last = world
        .entries
        .range("audit/".to_owned().."audit0".to_owned())
        .next_back()
        .unwrap();
    assert_eq!(manifest.audit.digest, Digest::of(last.1.1.as_bytes()));
    assert!(last.1.1.contains("apply policy"));
}

#[test]
fn a_broken_audit_chain_is_shown_and_the_controller_works() {
    let (mut world, _) = world();
    let (_, text) = world.entries.get_mut("audit/0000000001").unwrap();
    *text = text.replace("kab-demak", "kab-jepara");
    world.restart();
    let warnings = world.status().warnings;
    assert!(warnings[0].contains("entry 2"), "{warnings:?}");
    world.add("kab-pati", &["10.77.0.0/16"]);
}

#[test]
fn a_relay_that_has_not_joined_is_a_warning_and_relays_once_it_has() {
    let mut world = World::new();
    for (agency, prefix) in [
        ("kab-demak", "10.44.0.0/16"),
        ("prov-jateng", "10.33.0.0/16"),
        ("kota-malang", "10.55.0.0/16"),
    ] {
        world.add(agency, &[prefix]);
    }
    let policy = json!({ "relays": ["prov-jateng/gw1"], "link": [link("kota-malang", &["icmp"], "kab-demak", &["icmp"])] });
    assert!(world.apply(policy).warnings[0].contains("has not joined yet"));
    let mut first = world.join(1, "kab-demak/gw1", &["10.44.1.0/24"], None);
    let mut second = world.join(2, "kota-malang/gw1", &["10.55.1.0/24"], None);
    while world.take_view(&mut first).is_some() {}
    assert_eq!(first.own().unreachable, [node("kota-malang/gw1")]);
    world.join(3, "prov-jateng/gw1", &[], Some("203.0.113.30:51820"));
    for member in [&mut first, &mut second] {
        while world.take_view(member).is_some() {}
        assert!(member.own().unreachable.is_empty());
        assert_eq!(
            member
                .all()
                .iter()
                .filter(|id| id.starts_with("peer "))
                .count(),
            2
        );
    }
}

#[test]
fn a_relay_of_before_serves_until_both_members_have_moved() {
    let mut world = World::new();
    let mut member = |number: u8, name: &str, public: Option<&str>| {
        let (agency, _) = name.split_once('/').unwrap();
        world.add(agency, &[&format!("10.{number}.0.0/16")]);
        world.join(number, name, &[], public)
    };
    let mut hidden = [member(1, "a1/gw1", None), member(2, "a2/gw1", None)];
    let mut old = member(3, "r1/gw1", Some("203.0.113.3:51820"));
    let mut new = member(4, "r2/gw1", Some("203.0.113.4:51820"));
    let through = |relay: &str| json!({ "relays": [relay], "link": [{ "between": ["a1", "a2"] }] });
    world.apply(through("r1/gw1"));
    for member in hidden.iter_mut().chain([&mut old, &mut new]) {
        world.take_view(member);
    }
    let serves = |member: &Box_| {
        let records = member.records.values();
        records
            .filter(|text| text.contains("\"kind\":\"relay\""))
            .count()
    };
    assert_eq!([serves(&old), serves(&new)], [1, 0]);

    world.apply(through("r2/gw1"));
    world.take_view(&mut new);
    assert_eq!((serves(&new), world.take_view(&mut old)), (1, None));
    for member in &mut hidden {
        assert_eq!(serves(&old), 1, "one of both may still be there");
        assert_eq!(world.take_view(&mut old), None);
        world.take_view(member).expect("it moves");
    }
    world.take_view(&mut old).expect("nobody is there any more");
    assert_eq!(serves(&old), 0);
    let last = world.audit().pop().unwrap();
    assert_eq!(last.what, "a1/gw1 and a2/gw1 have left relay r1/gw1");

    world.apply(through("r1/gw1"));
    for member in hidden.iter_mut().chain([&mut old, &mut new]) {
        world.take_view(member);
    }
    assert_eq!([serves(&old), serves(&new)], [1, 0], "and back");
}
