//! Tokens, names, prefixes: who comes in, once, and with what.

use super::*;
use pnsbox_proto::health::HeldReason;

#[test]
fn a_token_is_good_once_and_answers_its_own_key_again() {
    let mut world = World::new();
    world.add("kab-demak", &["10.44.0.0/16"]);
    let anchor = world.invite("kab-demak", "gw1");
    let mut first = Box_::new(1);
    world.connect(&mut first);
    assert!(matches!(
        world.try_join(&first, anchor.token.clone(), &[], None),
        ToAgent::Joined { .. }
    ));

    // The answer was lost, and the controller was restarted: the same key asks again, another does.
    world.restart();
    world.connect(&mut first);
    let again = world.try_join(&first, anchor.token.clone(), &[], None);
    assert!(matches!(again, ToAgent::Joined { node: name, .. } if name == node("kab-demak/gw1")));
    let mut thief = Box_::new(2);
    world.connect(&mut thief);
    let spent = world.refusal(&thief, anchor.token.clone(), &[]);
    assert_eq!(
        spent,
        JoinRefusal::Spent {
            when: UnixTime(START),
            node: node("kab-demak/gw1")
        }
    );

    // After the end the owner is told what it is; a new token makes no second node of it.
    world.pass(Duration::from_secs(3600));
    world.connect(&mut first);
    let ended = world.refusal(&first, anchor.token, &[]);
    assert_eq!(
        ended,
        JoinRefusal::AlreadyJoined {
            node: node("kab-demak/gw1")
        }
    );
    let second = world.invite("kab-demak", "gw2");
    assert!(matches!(
        world.refusal(&first, second.token, &[]),
        JoinRefusal::AlreadyJoined { .. }
    ));
}

#[test]
fn unknown_expired_and_withdrawn_tokens_are_told_apart() {
    let mut world = World::new();
    world.add("kab-demak", &["10.44.0.0/16"]);
    let mut member = Box_::new(1);
    world.connect(&mut member);
    assert_eq!(
        world.refusal(&member, Token([99; 16]), &[]),
        JoinRefusal::UnknownToken
    );

    let withdrawn = world.invite("kab-demak", "gw1");
    let anchor = world.invite("kab-demak", "gw1");
    assert_eq!(
        world.refusal(&member, withdrawn.token, &[]),
        JoinRefusal::UnknownToken
    );

    world.clock += Duration::from_secs(3600);
    world.connect(&mut member);
    assert_eq!(
        world.refusal(&member, anchor.token.clone(), &[]),
        JoinRefusal::Expired {
            expired: anchor.expires
        }
    );
}

#[test]
fn of_a_hundred_boxes_with_one_token_one_wins() {
    let mut world = World::new();
    world.add("kab-demak", &["10.44.0.0/16"]);
    let anchor = world.invite("kab-demak", "gw1");
    let mut joined = 0;
    for seed in 1..=100 {
        let mut member = Box_::new(seed);
        world.connect(&mut member);
        joined += u32::from(matches!(
            world.try_join(&member, anchor.token.clone(), &[], None),
            ToAgent::Joined { .. }
        ));
    }
    assert_eq!(joined, 1);
    assert_eq!(world.status().nodes.len(), 1);
}

#[test]
fn the_token_is_spent_in_the_transaction_that_makes_the_node_and_is_not_stored() {
    let mut world = World::new();
    world.add("kab-demak", &["10.44.0.0/16"]);
    let anchor = world.invite("kab-demak", "gw1");
    let mut member = Box_::new(1);
    world.connect(&mut member);
    world.try_join(&member, anchor.token.clone(), &["10.44.1.0/24"], None);
    let revision = |key: &str| {
        world
            .entries
            .get(key)
            .map(|(revision, _)| *revision)
            .unwrap()
    };
    let token = revision(&format!("token/{}", anchor.token.digest()));
    assert_eq!(token, revision("node/kab-demak/gw1"));
    assert_eq!(token, revision("view/kab-demak/gw1"));
    let secret = String::from(anchor.token);
    assert!(
        world
            .entries
            .values()
            .all(|(_, value)| !value.contains(&secret))
    );
    assert!(
        world
            .audit()
            .iter()
            .any(|deed| deed.who == "node kab-demak/gw1" && deed.what.starts_with("join"))
    );
}

#[test]
fn names_that_are_taken_and_agencies_that_are_unknown_are_refused() {
    let mut world = World::new();
    world.add("kab-demak", &["10.44.0.0/16"]);
    world.join(1, "kab-demak/gw1", &[], None);
    let mut refused = |request: Request| match world.ask(request) {
        Err(Refusal::Refused { message }) => message,
        other => panic!("{other:?}"),
    };
    let invite = |agency: &str, node: &str| Request::Invite {
        agency: agency.parse().unwrap(),
        node: node.to_owned(),
        expires_in_s: 60,
    };
    let add = |name: &str, prefix: &str| Request::AgencyAdd {
        name: name.parse().unwrap(),
        prefixes: vec![prefix.parse().unwrap()],
        class: None,
        region: None,
    };
    for (request, words) in [
        (
            invite("kab-demak", "gw1"),
            ["kab-demak/gw1 has already joined", "--node"],
        ),
        (invite("kab-demak", "GW"), ["kab-demak/GW", "a-z"]),
        (invite("kab-pati", "gw1"), ["kab-pati", "agency add"]),
        (
            add("kab-demak", "10.99.0.0/16"),
            ["kab-demak", "already registered"],
        ),
        (
            add("kab-pati", "10.44.7.0/24"),
            ["10.44.0.0/16", "kab-demak"],
        ),
        (add("kab-pati", "10.0.0.0/8"), ["10.44.0.0/16", "kab-demak"]),
        (
            add("kab-pati", "100.127.9.0/24"),
            ["100.127.9.0/24", "pool"],
        ),
        (
            add("kab-pati", "10.9.0.1/16"),
            ["10.9.0.1/16", "10.9.0.0/16"],
        ),
        (
            add("kab-pati", "203.0.113.0/24"),
            ["203.0.113.10:443", "controller"],
        ),
        (add("kab-pati", "0.0.0.0/0"), ["0.0.0.0/0", "default route"]),
    ] {
        let message = refused(request);
        assert!(
            words.iter().all(|word| message.contains(word)),
            "{words:?} in {message}"
        );
    }
}

#[test]
fn a_prefix_of_another_is_held_back_and_the_node_works() {
    let mut world = World::new();
    world.add("kab-demak", &["10.44.0.0/16"]);
    world.add("kab-jepara", &["10.72.0.0/16"]);
    world.join(1, "kab-demak/gw1", &["10.44.1.0/24"], None);
    let newcomer = world.join(
        2,
        "kab-jepara/gw1",
        &["10.44.1.0/24", "10.72.1.0/24", "10.9.0.0/24"],
        None,
    );
    let own = newcomer.own();
    assert_eq!(own.prefixes, ["10.72.1.0/24".parse::<IpNet>().unwrap()]);
    let held: BTreeMap<String, HeldReason> = own
        .held
        .into_iter()
        .map(|h| (h.prefix.to_string(), h.reason))
        .collect();
    assert_eq!(held["10.9.0.0/24"], HeldReason::Unregistered);
    let overlap = HeldReason::Overlap {
        holder: node("kab-demak/gw1"),
        held: "10.44.1.0/24".parse().unwrap(),
    };
    assert_eq!(held["10.44.1.0/24"], overlap);
    let attention = world.node_status("kab-jepara/gw1").attention.join("\n");
    for word in [
        "10.44.1.0/24",
        "kab-demak",
        "kab-jepara",
        "--lan",
        "10.9.0.0/24",
        "[[accept]]",
    ] {
        assert!(attention.contains(word), "{word} in {attention}");
    }
}

#[test]
fn a_pending_prefix_acts_once_accepted_and_never_takes_what_another_routes() {
    let mut world = World::new();
    world.add("kab-demak", &["10.44.0.0/16"]);
    world.add("kab-jepara", &["10.9.0.0/16"]);
    let mut early = world.join(1, "kab-demak/gw1", &["10.9.0.0/24", "10.8.0.0/24"], None);
    let both = ["10.9.0.0/24", "10.8.0.0/24"];
    let mut late = world.join(2, "kab-jepara/gw1", &both, None);
    assert_eq!(
        late.own().prefixes.len(),
        1,
        "who may route it and comes first has it"
    );
    assert!(
        world.take_view(&mut early).is_some(),
        "why its claim is held back has changed"
    );

    let accept = |node: &str, prefix: &str| json!({ "node": node, "prefix": prefix });
    for (prefix, word) in [
        ("10.9.0.0/24", "registered for kab-jepara"),
        ("203.0.113.0/24", "controller's address"),
    ] {
        let policy = json!({ "accept": [accept("kab-demak/gw1", prefix)] });
        let refusal = world.ask(Request::Apply { policy }).unwrap_err();
        assert!(format!("{refusal:?}").contains(word), "{refusal:?}");
    }
    let policy = json!({ "accept": [accept("kab-demak/gw1", "10.8.0.0/24"), accept("kab-jepara/gw1", "10.8.0.0/24")] });
    let difference = world.apply(policy.clone());
    assert!(
        difference
            .changes
            .contains(&"+ kab-demak/gw1 routes 10.8.0.0/24".to_owned()),
        "{difference:?}"
    );
    assert!(
        difference.held.iter().any(
            |held| held.contains("10.8.0.0/24 of kab-jepara") && held.contains("kab-demak/gw1")
        ),
        "{difference:?}"
    );
    world.take_view(&mut early);
    assert_eq!(
        early.own().prefixes,
        ["10.8.0.0/24".parse::<IpNet>().unwrap()]
    );
    world.take_view(&mut late);
    assert_eq!(late.own().prefixes.len(), 1);

    assert!(world.apply(policy).is_empty());
    world.apply(json!({}));
    world.take_view(&mut early);
    assert_eq!(early.own().prefixes, []);
}

#[test]
fn requests_that_make_no_sense_are_refused_and_spend_nothing() {
    let mut world = World::new();
    world.add("kab-demak", &["10.44.0.0/16"]);
    world.join(1, "kab-demak/gw1", &[], Some("203.0.113.40:51820"));
    let anchor = world.invite("kab-demak", "gw2");
    let mut member = Box_::new(2);
    world.connect(&mut member);
    let own_v6 = pnsbox_proto::address::overlay_v6(&identity(201)).to_string();
    for (lan, word) in [
        ("100.127.1.0/24", "pool"),
        ("100.64.0.0/10", "pool"),
        (own_v6.as_str(), "pool"),
        ("0.0.0.0/0", "default"),
        ("127.0.0.0/8", "loopback"),
    ] {
        let refusal = world
            .refusal(&member, anchor.token.clone(), &[lan])
            .to_string();
        assert!(refusal.contains(word) && refusal.contains(lan), "{refusal}");
    }
    let mut twin = Box_::new(1);
    twin.seed = 3;
    world.connect(&mut twin);
    for public in [
        "203.0.113.40:51820",
        "0.0.0.0:51820",
        "203.0.113.41:0",
        "127.0.0.1:51820",
        "[fe80::1]:51820",
    ] {
        let answer = world.try_join(&twin, anchor.token.clone(), &[], Some(public));
        assert!(
            matches!(
                answer,
                ToAgent::JoinRefused {
                    reason: JoinRefusal::Invalid { .. }
                }
            ),
            "{public}"
        );
    }
    assert!(matches!(
        world.try_join(&member, anchor.token, &[], None),
        ToAgent::Joined { .. }
    ));
}

#[test]
fn a_full_pool_is_told_and_spends_nothing() {
    let mut world = World::with_pool("100.127.0.0/24");
    world.add("kab-demak", &["10.44.0.0/16"]);
    // Three quarters of 256, without the first.
    for seed in 1..=191 {
        world.join_unsigned(seed, &format!("kab-demak/gw{seed}"), &[], None);
    }
    let anchor = world.invite("kab-demak", "last");
    let mut member = Box_::new(192);
    world.connect(&mut member);
    assert_eq!(
        world.refusal(&member, anchor.token, &[]),
        JoinRefusal::PoolExhausted
    );
}

#[test]
fn a_clock_that_steps_back_does_not_give_a_taken_place_away() {
    let mut world = World::new();
    world.add("kab-demak", &["10.44.0.0/16"]);
    let old = world.invite("kab-demak", "gw1");
    let before = world.clock;
    world.clock += Duration::from_secs(8 * 24 * 3600);
    let member = world.join(1, "kab-demak/gw1", &[], None);
    world.disconnect(&member);
    world.clock = before;
    let mut thief = Box_::new(2);
    world.connect(&mut thief);
    let refusal = world.refusal(&thief, old.token, &[]);
    assert!(
        matches!(&refusal, JoinRefusal::Spent { node, .. } if node.as_str() == "kab-demak/gw1"),
        "{refusal:?}"
    );
}
