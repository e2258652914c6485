//! What agencies signed, judged by a clock that is wrong, and by one that is set.

use std::time::Duration;

use pnsbox_agent_core::event::Input;
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::health::ConditionCode;
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::Record;

use crate::support::*;

const TEN_YEARS: u64 = 315_569_520;
/// By the clock of the controller, which begins at 1000.
const UNTIL: u64 = 1300;

/// A view whose link with the hub ends.
fn with_an_end() -> pnsbox_proto::view::SignedView {
    let mut records = records();
    for record in &mut records {
        if let Record::Link(link) = record
            && link.with.as_str() == "prov-jateng"
        {
            let mut consent = link_consent("prov-jateng", "kab-demak");
            consent.until = Some(UnixTime(UNTIL));
            link.theirs = Envelope::sign(&consent, &agency_secret(33));
        }
    }
    view_of(ME, 1, &texts(&records), &secret(2), |_| true)
}

fn set_clock(agent: &mut Driven, wall: u64) {
    agent.now.wall = UnixTime(wall);
    agent.input(Input::Timeout);
    agent.host_agrees();
}

/// As [`Driven::pass`], with a clock that is ahead.
fn pass_ahead(agent: &mut Driven, time: Duration, ahead: u64) {
    let end = agent.now.monotonic + time;
    while agent.now.monotonic < end {
        agent.now.monotonic += Duration::from_millis(250);
        let wall = 1000 + ahead + agent.now.monotonic.as_secs();
        set_clock(agent, wall);
    }
}

/// Whether the link that ends has not.
fn is_linked(agent: &Driven) -> bool {
    let refused = ConditionCode::RecordRefused.as_str();
    !agent.condition_codes().contains(&refused)
}

#[test]
fn a_clock_set_far_forward_ends_no_consent_and_set_back_it_is_believed_again() {
    let mut agent = Driven::online(Vec::new());
    agent.view(with_an_end());
    agent.host_agrees();
    assert!(is_linked(&agent));
    pass_ahead(&mut agent, Duration::from_secs(30), TEN_YEARS);
    assert!(is_linked(&agent), "nobody says that it is that late");
    let ended = ConditionCode::ConsentEnded.as_str();
    assert!(agent.condition_codes().contains(&ended), "it is told");

    pass_ahead(&mut agent, Duration::from_secs(240), 0);
    assert!(is_linked(&agent));
    assert!(!agent.condition_codes().contains(&ended));
    pass_ahead(&mut agent, Duration::from_secs(60), 0);
    assert!(!is_linked(&agent), "now it has ended");
}

#[test]
fn what_a_box_signs_itself_confirms_no_clock() {
    let mut agent = Driven::new(start(44, Some(saved(ME)), Vec::new()));
    pass_ahead(&mut agent, Duration::from_secs(1), TEN_YEARS);
    agent.come_online();
    agent.view(with_an_end());
    agent.host_agrees();
    pass_ahead(&mut agent, Duration::from_secs(20), TEN_YEARS);
    assert!(is_linked(&agent));
}
