//! A disk that refuses: nothing stops, somebody is told, and it is tried until it works.

use std::time::Duration;

use crate::support::*;
use pnsbox_agent_core::agency::AgencyCommand;
use pnsbox_agent_core::event::{Input, Output, SavedState};
use pnsbox_proto::message::ToController;
use pnsbox_proto::time::UnixTime;

/// States that were to be written. How far statements of agencies are is not told: that alone is not worth a write.
fn saved_states(agent: &mut Driven) -> Vec<SavedState> {
    let outputs = agent.take().into_iter();
    outputs
        .filter_map(|output| match output {
            Output::Persist(mut state) => {
                let agencies = state.trust.agencies.values_mut();
                agencies.for_each(|pinned| (pinned.statement, pinned.heard) = (None, UnixTime(0)));
                Some(*state)
            }
            _ => None,
        })
        .collect()
}

#[test]
fn what_the_disk_refused_is_a_condition_and_is_written_again_until_it_is_taken() {
    let mut agent = Driven::online(Vec::new());
    agent.view(whole(1));
    agent.host_agrees();
    let first = saved_states(&mut agent);
    let [_] = first[..] else {
        panic!("one state is to be written")
    };
    agent.input(Input::Persisted(Err("no space left".into())));
    let conditions = agent.agent.status(agent.now).conditions;
    assert!(
        conditions
            .iter()
            .any(|c| c.code.as_str() == "state_not_saved" && c.message.contains("no space left")),
        "{conditions:?}"
    );
    assert_eq!(
        agent.agent.status(agent.now).view_applied,
        1,
        "the view stays in force"
    );

    agent.pass(Duration::from_secs(9));
    assert_eq!(saved_states(&mut agent), [], "not at once");
    agent.pass(Duration::from_secs(2));
    assert_eq!(saved_states(&mut agent), first);
    agent.input(Input::Persisted(Err("still none".into())));
    agent.pass(Duration::from_secs(11));
    assert_eq!(saved_states(&mut agent), first);
    agent.input(Input::Persisted(Ok(())));
    assert!(!agent.condition_codes().contains(&"state_not_saved"));
    agent.pass(Duration::from_secs(60));
    assert_eq!(
        saved_states(&mut agent),
        [],
        "once it is there, it is there"
    );
}

#[test]
fn sessions_and_views_are_counted() {
    let mut agent = Driven::online(Vec::new());
    agent.view(whole(1));
    agent.host_agrees();
    agent.view(whole(1));
    agent.view(view_of(ME, 2, &texts(&records()), &secret(9), |_| true));
    agent.view(whole(3));
    agent.host_refuses("no");
    let tally = agent.agent.tally();
    assert_eq!(
        (tally.sessions, tally.views_applied, tally.views_refused),
        (1, 1, 2)
    );
}

#[test]
fn what_the_agency_signs_is_on_its_way_to_the_disk_before_anybody_hears_of_it() {
    let mut agent = Driven::online(Vec::new());
    agent.view(whole(1));
    agent.host_agrees();
    agent.pass(Duration::from_secs(1));
    agent.take();
    let with = "kota-malang".parse().unwrap();
    let revoked = agent
        .agent
        .agency(AgencyCommand::Revoke { with }, agent.now);
    assert!(revoked.is_ok(), "{revoked:?}");
    agent.pass(Duration::from_millis(1));
    let outputs = agent.take();
    let saved = outputs
        .iter()
        .position(|output| matches!(output, Output::Persist(_)));
    let told = outputs.iter().position(|output| {
        matches!(output, Output::SendControl(message) if matches!(**message, ToController::Documents { .. }))
    });
    assert!(
        told.is_some() && saved.is_some() && saved < told,
        "{outputs:?}"
    );
}
