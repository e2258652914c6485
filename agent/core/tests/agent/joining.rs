//! Joining: who is believed, what is said to whom, and what an admin reads.

use std::time::Duration;

use crate::support::*;
use pnsbox_agent_core::event::{Input, Output};
use pnsbox_proto::message::{JoinRefusal, ToAgent, ToController};

fn joining() -> Driven {
    let mut agent = Driven::new(start(44, None, Vec::new()));
    assert!(agent.outputs.contains(&Output::Status("not joined".into())));
    agent.take();
    agent.input(Input::Join(join_command()));
    assert_eq!(
        agent.take(),
        [Output::DialControl {
            controllers: vec![controller_address()]
        }]
    );
    agent.input(Input::ControlUp {
        key: public(&secret(2)),
    });
    let said = agent.said();
    assert!(
        matches!(said[..], [ToController::Hello { view: None, .. }]),
        "{said:?}"
    );
    agent
}

fn failure(agent: &mut Driven) -> String {
    let outcome = agent.take().into_iter().find_map(|output| match output {
        Output::JoinOutcome(outcome) => Some(outcome),
        _ => None,
    });
    outcome
        .expect("the admin is answered")
        .expect_err("the join fails")
}

#[test]
fn the_token_is_said_after_the_certificate_was_judged_and_the_place_is_saved() {
    let mut agent = joining();
    agent.input(welcome(
        &secret(1),
        certificate(&secret(1), &secret(2), "pns"),
        None,
    ));
    let said = agent.said();
    let [ToController::Join(request)] = &said[..] else {
        panic!("{said:?}")
    };
    assert_eq!(request.token, anchor().token);
    assert_eq!(request.prefixes, join_command().prefixes);

    agent.input(Input::Control(Box::new(ToAgent::Joined {
        network: "pns".parse().unwrap(),
        node: node(ME),
        controllers: vec![controller_address()],
    })));
    let outputs = agent.take();
    let saved = outputs
        .iter()
        .position(|o| matches!(o, Output::Persist(s) if s.joined.node == node(ME)));
    let answered = outputs
        .iter()
        .position(|o| matches!(o, Output::JoinOutcome(Ok(_))));
    assert!(
        saved.unwrap() < answered.unwrap(),
        "saved before it is said: {outputs:?}"
    );

    agent.view(whole(1));
    assert!(
        agent.generation().is_some(),
        "views come on the same session"
    );
}

#[test]
fn a_controller_that_cannot_prove_itself_never_sees_the_token() {
    let (root, controller) = (secret(1), secret(2));
    let cases = [
        (
            "another root",
            welcome(
                &secret(8),
                certificate(&secret(8), &controller, "pns"),
                None,
            ),
            "root key",
        ),
        (
            "not signed by the root",
            welcome(&root, certificate(&secret(8), &controller, "pns"), None),
            "certificate",
        ),
        (
            "a certificate of another key",
            welcome(&root, certificate(&root, &secret(9), "pns"), None),
            "not its own",
        ),
        (
            "another network",
            welcome(&root, certificate(&root, &controller, "lain"), None),
            "lain",
        ),
    ];
    for (what, message, word) in cases {
        let mut agent = joining();
        agent.input(message);
        let outputs = agent.outputs.clone();
        let reason = failure(&mut agent);
        assert!(reason.contains(word), "{what}: {reason}");
        assert!(
            !format!("{outputs:?}").contains("SendControl"),
            "{what}: {outputs:?}"
        );
        agent.pass(Duration::from_secs(40));
        assert!(
            !agent
                .take()
                .iter()
                .any(|o| matches!(o, Output::DialControl { .. } | Output::JoinOutcome(_)))
        );
    }
}

#[test]
fn refusals_are_sentences_for_the_admin() {
    for (reason, words) in [
        (JoinRefusal::UnknownToken, vec!["forged"]),
        (
            JoinRefusal::Expired {
                expired: anchor().expires,
            },
            vec!["expired", "1970-01-01T01:23:20Z"],
        ),
        (
            JoinRefusal::Spent {
                when: anchor().expires,
                node: node(HUB),
            },
            vec!["already used", HUB],
        ),
        (JoinRefusal::AlreadyJoined { node: node(HUB) }, vec![HUB]),
    ] {
        let mut agent = joining();
        agent.input(welcome(
            &secret(1),
            certificate(&secret(1), &secret(2), "pns"),
            None,
        ));
        agent.take();
        agent.input(Input::Control(Box::new(ToAgent::JoinRefused { reason })));
        let said = failure(&mut agent);
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
}

#[test]
fn a_lost_session_is_dialled_again_until_half_a_minute_is_over() {
    let mut agent = joining();
    agent.input(Input::ControlDown {
        reason: "no answer from 203.0.113.10:443".into(),
    });
    agent.pass(Duration::from_secs(2));
    assert!(
        agent
            .take()
            .iter()
            .any(|o| matches!(o, Output::DialControl { .. }))
    );
    agent.input(Input::ControlDown {
        reason: "no answer from 203.0.113.10:443".into(),
    });
    agent.pass(Duration::from_secs(30));
    let reason = failure(&mut agent);
    assert!(
        reason.contains("203.0.113.10:443") && reason.contains("UDP"),
        "{reason}"
    );
}

#[test]
fn a_box_that_has_joined_says_so() {
    let mut agent = Driven::online(Vec::new());
    agent.take();
    agent.input(Input::Join(join_command()));
    assert!(failure(&mut agent).contains("already is kab-demak/gw1"));

    let mut other = join_command();
    other.anchor.network = "lain".parse().unwrap();
    agent.input(Input::Join(other));
    let reason = failure(&mut agent);
    assert!(
        reason.contains("network pns") && reason.contains("network lain"),
        "{reason}"
    );
}

#[test]
fn a_second_join_waits_for_nobody() {
    let mut agent = joining();
    agent.input(Input::Join(join_command()));
    assert!(failure(&mut agent).contains("under way"));
}
