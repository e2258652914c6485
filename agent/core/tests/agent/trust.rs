//! What an honest controller sends that has not heard everything yet: nothing of it is held against it.

use std::time::Duration;

use crate::support::*;
use pnsbox_agent_core::agency::AgencyCommand;
use pnsbox_agent_core::event::Input;
use pnsbox_proto::agency::{AgencyDocument, LinkConsent, Statement};
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::message::{LinkMessage, ToAgent};
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::Record;

fn in_force() -> Driven {
    let mut agent = Driven::online(Vec::new());
    agent.view(whole(1));
    agent.host_agrees();
    agent.pass(Duration::from_secs(1));
    agent.take();
    agent
}

fn is_distrusted(agent: &Driven) -> bool {
    agent.condition_codes().contains(&"controller_distrusted")
}

#[test]
fn what_the_agencys_former_key_signed_may_come_once_more() {
    let mut agent = in_force();
    let with = "kota-malang".parse().unwrap();
    let revoked = agent
        .agent
        .agency(AgencyCommand::Revoke { with }, agent.now);
    assert!(revoked.is_ok(), "{revoked:?}");
    // What is revoked is not signed anew: nothing is known of it under the next key.
    let rotated = agent.agent.rotate_agency_key(secret(199), agent.now);
    assert!(rotated.is_ok(), "{rotated:?}");
    agent.view(whole(2));
    agent.host_agrees();
    assert!(!is_distrusted(&agent));
    assert!(agent.condition_codes().contains(&"record_refused"));
}

fn statement_of_jateng(sequence: u64) -> AgencyDocument {
    let statement = Statement {
        network: "pns".parse().unwrap(),
        agency: "prov-jateng".parse().unwrap(),
        sequence,
        issued: UnixTime(1000),
        void: Vec::new(),
    };
    AgencyDocument::Statement(Envelope::sign(&statement, &agency_secret(33)))
}

/// The controller tells the one, the hub the others.
fn told(by_controller: Option<u64>, by_hub: Vec<AgencyDocument>) -> Driven {
    let mut agent = in_force();
    agent.link(HUB, 33, 5);
    if let Some(sequence) = by_controller {
        agent.input(Input::Control(Box::new(ToAgent::Documents {
            documents: vec![statement_of_jateng(sequence)],
            quarantine: None,
        })));
    }
    let message = LinkMessage::Documents {
        documents: by_hub,
        quarantine: None,
    };
    agent.input(Input::Link {
        connection: 5,
        message,
    });
    agent.pass(Duration::from_secs(70));
    agent
}

#[test]
fn a_controller_is_behind_a_peer_in_what_an_agency_states_and_not_in_what_a_view_brings() {
    let newer = LinkConsent {
        sequence: 7,
        ..link_consent("prov-jateng", "kab-demak")
    };
    let newer = AgencyDocument::Consent(Envelope::sign(&newer, &agency_secret(33)));
    let is_behind = |agent: &Driven| agent.condition_codes().contains(&"controller_behind");
    let by_hub = vec![newer, statement_of_jateng(9)];
    assert!(!is_behind(&told(Some(9), by_hub.clone())));
    assert!(is_behind(&told(Some(8), by_hub.clone())));
    let mut agent = told(None, by_hub);
    assert!(is_behind(&agent));
    let alone: Vec<Record> = records().into_iter().take(1).collect();
    agent.view(view_of(ME, 2, &texts(&alone), &secret(2), |_| true));
    agent.host_agrees();
    assert!(!is_behind(&agent), "there is no link with it any more");
}

#[test]
fn a_link_that_this_box_revoked_may_come_once_more_also_with_the_relay_of_others() {
    let mut agent = in_force();
    let with = "prov-jateng".parse().unwrap();
    let revoked = agent
        .agent
        .agency(AgencyCommand::Revoke { with }, agent.now);
    assert!(revoked.is_ok(), "{revoked:?}");
    agent.view(whole(2));
    agent.host_agrees();
    assert!(!is_distrusted(&agent));
    assert!(agent.condition_codes().contains(&"record_refused"));
}
