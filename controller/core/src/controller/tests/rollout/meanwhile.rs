//! What goes on during a rollout: restarts, boxes that join, agencies that sign, boxes that are shut out.

use pnsbox_proto::agency::{Subject as Signed, Void};

use super::*;
use crate::registry::quarantine::Subject;

fn opening() -> Value {
    policy("r1/gw1", "tcp/445")
}

#[test]
fn a_controller_that_restarts_goes_on_where_it_was() {
    let mut fleet = Fleet::new();
    let begun = fleet.roll_out(opening());
    for wave in 1..=2 {
        fleet.pass_until(200, |rollout| rollout.wave == wave && rollout.watching);
        let stored = records(&fleet.world);
        fleet.world.restart();
        assert_eq!(records(&fleet.world), stored, "the same half has it");
        let found = fleet.rollout();
        assert_eq!(
            (found.wave, found.waves, found.watching),
            (wave, begun.waves.clone(), false)
        );
        for (name, _) in NODES {
            fleet.come_back(name);
        }
        let again = fleet.pass_until(200, |rollout| {
            rollout.wave > wave || rollout.state != State::Running
        });
        assert!(again >= 60, "the wave is watched anew, not {again} s");
    }
    assert_eq!(fleet.state(), Some("done"));
}

#[test]
fn a_controller_that_restarts_halts_if_the_wave_does_not_come_back() {
    let mut fleet = Fleet::new();
    let before = records(&fleet.world);
    let begun = fleet.roll_out(opening());
    fleet.pass(5);
    fleet.world.restart();
    for (name, _) in NODES {
        if begun.waves[0].contains(&node(name)) {
            fleet.ways.insert(name, Ways::Away);
        } else {
            fleet.come_back(name);
        }
    }
    fleet.pass(62);
    assert!(
        fleet.reasons()[0].contains("went offline after it applied view"),
        "{:?}",
        fleet.reasons()
    );
    assert!(records(&fleet.world) == before);
}

#[test]
fn another_change_of_the_policy_waits_and_is_told_what_to_do() {
    let mut fleet = Fleet::new();
    fleet.roll_out(opening());
    let stored = records(&fleet.world);
    for request in [
        Request::Apply {
            policy: policy("r2/gw1", "icmp"),
        },
        Request::Rollback {
            to: 0,
            dry_run: false,
        },
        Request::RollOut {
            policy: Source::Version(0),
            canary: CANARY,
            dry_run: false,
        },
    ] {
        let refusal = fleet.world.ask(request).unwrap_err().to_string();
        assert!(
            refusal.contains("being rolled out, wave 1 of 2") && refusal.contains("rollout halt"),
            "{refusal}"
        );
    }
    assert_eq!(
        fleet.world.plan(policy("r1/gw1", "icmp")).nodes.len(),
        1,
        "what a halt would change is shown"
    );
    assert_eq!(records(&fleet.world), stored);
}

#[test]
fn a_version_comes_back_in_waves_too() {
    let mut fleet = Fleet::new();
    fleet.world.apply(opening());
    fleet.pass(20);
    let request = Request::RollOut {
        policy: Source::Version(1),
        canary: CANARY,
        dry_run: false,
    };
    fleet.world.ask(request).unwrap();
    assert_eq!(fleet.rollout().restores, Some(1));
    fleet.pass_until(300, |rollout| matches!(rollout.state, State::Done { .. }));
    let last = fleet
        .world
        .controller
        .image
        .history
        .versions()
        .last()
        .unwrap()
        .clone();
    assert_eq!((last.number, last.restores), (3, Some(1)));
    assert!(
        fleet
            .world
            .audit()
            .pop()
            .unwrap()
            .what
            .starts_with("roll back to policy version 1, version 3: ")
    );
}

#[test]
fn who_is_shut_out_is_dropped_at_once_and_not_missed() {
    let mut fleet = Fleet::new();
    let begun = fleet.roll_out(opening());
    fleet.pass(5);
    let shut_out = begun.waves[0].first().unwrap().clone();
    let subject = Subject::Node(shut_out.clone());
    fleet
        .world
        .ask(Request::Quarantine {
            subject,
            reason: "stolen".to_owned(),
        })
        .unwrap();
    assert!(
        peers(&fleet.world, "p1/gw1")
            .iter()
            .all(|peer| peer.node != shut_out)
    );
    let name = NODES
        .map(|(name, _)| name)
        .into_iter()
        .find(|name| *name == shut_out.as_str())
        .unwrap();
    fleet.leave(name);
    fleet.pass_until(300, |rollout| rollout.state != State::Running);
    assert!(
        matches!(fleet.rollout().state, State::Done { .. }),
        "{:?}",
        fleet.rollout()
    );
}

#[test]
fn who_joins_meanwhile_has_the_policy_of_its_peers_and_the_new_one_at_the_end() {
    let mut fleet = Fleet::new();
    fleet.roll_out(opening());
    fleet.pass(5);
    let late = fleet.world.join(20, "a1/gw2", &["10.1.2.0/24"], None);
    fit_each_other(&fleet.world);
    let opens = |world: &World, name: &str| {
        let link = |record| match record {
            Record::Link(link) if link.with.as_str() == "p1" => Some(link.opens),
            _ => None,
        };
        let opens = stored(world, name).into_iter().find_map(link).unwrap();
        format!("{opens:?}")
    };
    assert!(
        !opens(&fleet.world, "a1/gw2").contains("445"),
        "the policy in force is the old one"
    );
    fleet.world.say(&late, late.applied());
    fleet.pass_until(300, |rollout| rollout.wave == 2);
    assert!(
        opens(&fleet.world, "a1/gw2").contains("445"),
        "with the last wave, everybody has it"
    );
    fleet.pass_until(300, |rollout| rollout.state != State::Running);
}

#[test]
fn a_consent_that_is_taken_back_meanwhile_counts_at_once() {
    let mut fleet = Fleet::new();
    fleet.roll_out(policy("r2/gw1", "icmp"));
    fleet.pass(5);
    let void = Void {
        subject: Signed::Consent("a2".parse().unwrap()),
        below: 9,
    };
    let documents = vec![signing::statement("a1", 5, vec![void])];
    fleet.world.say(
        &fleet.boxes["a1/gw1"],
        ToController::Documents { documents },
    );
    let linked = |fleet: &Fleet| {
        peers(&fleet.world, "a1/gw1")
            .iter()
            .any(|peer| peer.node == node("a2/gw1"))
    };
    assert!(!linked(&fleet));
    fit_each_other(&fleet.world);
    fleet.pass_until(600, |rollout| rollout.state != State::Running);
    assert!(
        matches!(fleet.rollout().state, State::Done { .. }),
        "a link that is no more is not missed: {:?}",
        fleet.rollout()
    );
    assert!(!linked(&fleet));
}

#[test]
fn a_step_that_was_not_written_is_taken_again() {
    let mut fleet = Fleet::new();
    let begun = fleet.roll_out(opening());
    fleet.pass_until(100, |rollout| rollout.watching);
    let entries = fleet.world.entries.clone();
    // The tick that enters the second wave is not written.
    for second in 0.. {
        assert!(second < 100, "{:?}", fleet.rollout());
        fleet.world.clock += Duration::from_secs(1);
        let now = fleet.world.now();
        fleet.world.controller.handle_tick(now);
        let rollout = fleet.world.controller.image.rollout.as_ref();
        if rollout.is_some_and(|rollout| rollout.wave == 1) {
            break;
        }
        fleet.world.settle();
        if now.monotonic.as_secs().is_multiple_of(10) {
            fleet.report();
        }
    }
    let transaction = fleet.world.controller.take_transaction();
    assert!(
        fleet
            .world
            .controller
            .not_written(transaction, "the disk is full".to_owned())
    );
    let stored = listed(&fleet.world.entries);
    fleet
        .world
        .controller
        .roll_back(&stored, fleet.world.now())
        .unwrap();
    assert_eq!(fleet.wave(), 1);
    assert_eq!(fleet.world.entries.get("rollout"), entries.get("rollout"));
    fleet.world.controller.store_recovered(fleet.world.now());
    fleet.world.settle();
    for (name, _) in NODES {
        fleet.come_back(name);
    }
    fleet.pass_until(300, |rollout| matches!(rollout.state, State::Done { .. }));
    assert_eq!(fleet.rollout().id, begun.id);
}
