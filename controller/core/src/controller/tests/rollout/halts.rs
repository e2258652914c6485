//! What halts a rollout: each time with its reason, and everybody has the records of before again.

use super::*;

/// Rolls out, lets `harm` happen to a box of the first wave once that is watched, and returns why it was halted.
fn halted(canary_of: Value, harm: impl FnOnce(&mut Fleet, &'static str)) -> Vec<String> {
    let mut fleet = Fleet::new();
    let before = records(&fleet.world);
    let first = fleet.planned(canary_of.clone()).waves[0].clone();
    let victim = NODES
        .map(|(name, _)| name)
        .into_iter()
        .find(|name| first.contains(&node(name)))
        .unwrap();
    fleet.roll_out(canary_of);
    harm(&mut fleet, victim);
    fleet.pass_until(200, |rollout| matches!(rollout.state, State::Halted { .. }));
    assert_eq!(fleet.wave(), 1, "it went no further");
    assert_eq!(fleet.world.controller.image.history.current(), 1);
    assert_eq!(fleet.world.controller.counters().rollouts_halted, 1);
    let reasons = fleet.reasons();
    let audit = fleet.world.audit();
    let halt = audit.iter().find(|entry| {
        entry
            .what
            .starts_with("halt the rollout of policy version 2 in wave 1 of ")
    });
    assert!(
        halt.is_some_and(|halt| halt.what.contains(&reasons[0])),
        "{audit:?}"
    );
    // A relay serves those who were to leave it until they are back.
    fleet.pass(3);
    assert!(
        records(&fleet.world) == before,
        "everybody has the records of before"
    );
    fleet.pass(120);
    fleet.world.restart();
    assert!(records(&fleet.world) == before, "it stays so");
    assert_eq!(fleet.reasons(), reasons);
    assert_eq!(fleet.state(), Some("halted"));
    assert!(fleet.world.status().rollout.is_some());
    fleet.world.apply(policy("r1/gw1", "udp/53"));
    assert_eq!(
        (fleet.state(), fleet.world.status().rollout),
        (None, None),
        "another policy came"
    );
    reasons
        .iter()
        .map(|reason| reason.replace(victim, "X"))
        .collect()
}

fn opening() -> Value {
    policy("r1/gw1", "tcp/445")
}

#[test]
fn a_box_that_takes_its_view_back() {
    let reasons = halted(opening(), |fleet, victim| {
        fleet.ways.insert(victim, Ways::RollsBack);
        // A refusal needs no waiting.
        assert!(fleet.pass_until(10, |rollout| rollout.state != State::Running) <= 2);
        fleet.ways.insert(victim, Ways::Applies);
    });
    assert!(
        reasons[0].starts_with("X refused view")
            && reasons[0].ends_with("nothing was heard from a2/gw1"),
        "{reasons:?}"
    );
}

#[test]
fn a_box_that_does_not_answer_within_a_minute() {
    let reasons = halted(opening(), |fleet, victim| {
        fleet.ways.insert(victim, Ways::SaysNothing);
        fleet.pass(58);
        assert_eq!(
            fleet.rollout().state,
            State::Running,
            "a trial takes up to 45 s"
        );
        fleet.pass(4);
    });
    assert!(
        reasons[0].starts_with("X did not apply view") && reasons[0].ends_with("within 60 s"),
        "{reasons:?}"
    );
}

#[test]
fn a_box_that_goes_offline_for_longer_than_a_moment() {
    let reasons = halted(opening(), |fleet, victim| {
        fleet.pass(5);
        assert!(fleet.rollout().watching);
        fleet.leave(victim);
        fleet.pass(20);
        fleet.come_back(victim);
        fleet.pass(5);
        assert_eq!(fleet.rollout().state, State::Running, "a moment is none");
        fleet.leave(victim);
    });
    assert_eq!(reasons, ["X went offline"]);
}

#[test]
fn a_box_that_goes_before_it_has_applied() {
    let reasons = halted(opening(), Fleet::leave);
    assert!(
        reasons[0].starts_with("X went offline and did not apply view"),
        "{reasons:?}"
    );
}

#[test]
fn a_link_that_goes_down_as_its_peers_say() {
    let reasons = halted(opening(), |fleet, victim| {
        fleet.pass(5);
        fleet.unlinked.insert(victim);
    });
    assert_eq!(reasons.len(), 4, "with each of its peers: {reasons:?}");
    assert!(
        reasons
            .iter()
            .all(|reason| reason.starts_with("the link of ") && reason.contains('X')),
        "{reasons:?}"
    );
}

#[test]
fn a_service_that_fails() {
    let reasons = halted(opening(), |fleet, victim| {
        fleet.pass(5);
        fleet.failing.insert(victim);
    });
    assert_eq!(reasons.len(), 1);
    assert!(reasons[0].ends_with("/db at X fails"), "{reasons:?}");
}

#[test]
fn a_relay_that_is_not_there_for_both_of_the_first_wave() {
    let reasons = halted(policy("r2/gw1", "icmp"), |fleet, victim| {
        fleet.ways.insert(victim, Ways::RollsBack);
        fleet.pass(1);
        fleet.ways.insert(victim, Ways::Applies);
    });
    assert!(reasons[0].starts_with("X refused view"), "{reasons:?}");
}

#[test]
fn an_operator_who_wants_it_back() {
    let reasons = halted(opening(), |fleet, _| {
        fleet.pass(10);
        fleet.world.ask(Request::HaltRollout).unwrap();
    });
    assert_eq!(reasons, ["stopped by uid 0"]);
}

#[test]
fn what_was_down_before_or_fails_elsewhere_halts_nothing() {
    let mut fleet = Fleet::new();
    let first = fleet.planned(opening()).waves[0].clone();
    let outside = |name: &&'static str| name.starts_with('a') && !first.contains(&node(name));
    let [away, ill, ..] = NODES
        .map(|(name, _)| name)
        .into_iter()
        .filter(outside)
        .collect::<Vec<_>>()[..]
    else {
        panic!("{first:?}")
    };
    fleet.unlinked.insert(ill);
    fleet.failing.insert(ill);
    fleet.leave(away);
    fleet.pass(20);
    let begun = fleet.roll_out(opening());
    assert!(
        begun.waves.last().unwrap().contains(&node(away)),
        "who is offline comes last"
    );
    fleet.pass_until(100, |rollout| rollout.wave == 2);
    assert_eq!((fleet.rollout().touched, fleet.rollout().offline), (5, 1));
    fleet.pass_until(100, |rollout| matches!(rollout.state, State::Done { .. }));
    fleet.come_back(away);
    fleet.pass(2);
    let status = fleet.world.node_status(away);
    assert_eq!(
        status.view_applied, status.view_wanted,
        "it gets it when it comes"
    );
}
