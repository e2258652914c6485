//! Links and services between peers.

use std::time::Duration;

use crate::support::*;
use pnsbox_agent_core::event::{Input, Output};
use pnsbox_proto::message::LinkMessage;
use pnsbox_proto::probe::Probe;
use pnsbox_proto::service::{Audience, Service, ServiceKind};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn in_force(services: Vec<pnsbox_agent_core::event::ServiceConfig>) -> Driven {
    let mut agent = Driven::online(services);
    agent.view(whole(1));
    agent.host_agrees();
    agent.take();
    agent
}

fn announced(name: &str, by: &str, endpoint: &str, audience: Audience) -> Service {
    Service {
        name: name.parse().unwrap(),
        kind: ServiceKind::Files,
        node: node(by),
        endpoints: vec![endpoint.parse().unwrap()],
        priority: 100,
        audience,
        epoch: 1,
        virtual_address: None,
    }
}

fn announce(agent: &mut Driven, connection: u64, services: Vec<Service>) {
    agent.input(Input::Link {
        connection,
        message: LinkMessage::Services { services },
    });
}

fn told(agent: &mut Driven, connection: u64) -> Option<Vec<String>> {
    agent
        .take()
        .into_iter()
        .rev()
        .find_map(|output| match output {
            Output::SendLink {
                connection: to,
                message: LinkMessage::Services { services },
            } if to == connection => {
                Some(services.into_iter().map(|s| s.name.to_string()).collect())
            }
            _ => None,
        })
}

#[test]
fn the_smaller_name_dials_and_a_failed_dial_is_repeated_with_pauses() {
    let mut agent = in_force(Vec::new());
    agent.pass(seconds(1));
    let dialled: Vec<_> = agent
        .take()
        .into_iter()
        .filter_map(|o| match o {
            Output::DialLink { node, address, .. } => Some((node, address.to_string())),
            _ => None,
        })
        .collect();
    // kab-demak sorts before both.
    assert_eq!(
        dialled,
        [
            (node(FAR), "100.127.0.55:51821".into()),
            (node(HUB), "100.127.0.33:51821".into())
        ]
    );
    agent.input(Input::LinkFailed {
        node: node(HUB),
        reason: "no answer".into(),
    });
    agent.pass(seconds(1));
    assert_eq!(
        agent
            .take()
            .iter()
            .filter(|o| matches!(o, Output::DialLink { .. }))
            .count(),
        1
    );

    let mut hub = Driven::new(start(33, Some(saved(HUB)), Vec::new()));
    hub.input(Input::ControlUp {
        key: public(&secret(2)),
    });
    hub.input(welcome(
        &secret(1),
        certificate(&secret(1), &secret(2), "pns"),
        Some(HUB),
    ));
    let records = [
        node_record(HUB, 33),
        peer_record(ME, 44, pnsbox_proto::view::PeerPath::Passive),
    ];
    hub.view(view_of(HUB, 1, &texts(&records), &secret(2), |_| true));
    hub.host_agrees();
    hub.pass(seconds(30));
    assert!(
        !hub.take()
            .iter()
            .any(|o| matches!(o, Output::DialLink { .. })),
        "the greater name waits"
    );
}

#[test]
fn a_link_is_up_with_the_peers_hello_and_not_before() {
    let mut agent = in_force(Vec::new());
    agent.input(Input::LinkUp {
        connection: 1,
        key: public(&secret(33)),
        dialled: true,
    });
    assert!(matches!(
        &agent.take()[..],
        [Output::SendLink {
            message: LinkMessage::Hello { .. },
            ..
        }]
    ));
    assert_eq!(agent.agent.link(&node(HUB)), None);
    let message = LinkMessage::Hello {
        protocol: 1,
        node: node(HUB),
    };
    agent.input(Input::Link {
        connection: 1,
        message,
    });
    assert_eq!(agent.agent.link(&node(HUB)), Some(1));

    for (connection, message) in [
        (
            2,
            LinkMessage::Hello {
                protocol: 1,
                node: node(FAR),
            },
        ),
        (
            3,
            LinkMessage::Services {
                services: Vec::new(),
            },
        ),
    ] {
        agent.input(Input::LinkUp {
            connection,
            key: public(&secret(33)),
            dialled: false,
        });
        agent.take();
        agent.input(Input::Link {
            connection,
            message,
        });
        assert!(agent.take().iter().any(
            |o| matches!(o, Output::CloseLink { connection: closed, .. } if *closed == connection)
        ));
    }
    agent.input(Input::LinkUp {
        connection: 4,
        key: public(&secret(33)),
        dialled: false,
    });
    agent.take();
    agent.pass(seconds(11));
    assert!(
        agent
            .take()
            .iter()
            .any(|o| matches!(o, Output::CloseLink { connection: 4, .. })),
        "no hello in 10 s"
    );
}

#[test]
fn a_key_that_leaves_the_view_is_closed_at_once_and_not_accepted_again() {
    let mut agent = in_force(Vec::new());
    agent.link(HUB, 33, 1);
    agent.link(FAR, 55, 2);
    agent.take();
    let without = texts(&[&records()[..2], &[link_record("prov-jateng", "", "")]].concat());
    agent.view(view_of(ME, 2, &without, &secret(2), |_| true));
    agent.host_agrees();
    let outputs = agent.take();
    assert!(
        outputs
            .iter()
            .any(|o| matches!(o, Output::CloseLink { connection: 2, .. }))
    );
    assert!(
        !outputs
            .iter()
            .any(|o| matches!(o, Output::CloseLink { connection: 1, .. })),
        "the others stay"
    );
    assert!(
        outputs
            .iter()
            .any(|o| matches!(o, Output::AcceptLinks { keys } if *keys == [public(&secret(33))]))
    );
    agent.input(Input::LinkUp {
        connection: 3,
        key: public(&secret(55)),
        dialled: false,
    });
    assert!(
        agent
            .take()
            .iter()
            .any(|o| matches!(o, Output::CloseLink { connection: 3, .. }))
    );
}

#[test]
fn a_service_is_announced_to_its_audience_when_healthy_and_withdrawn_after_two_failures() {
    let mut agent = in_force(vec![service(
        "db",
        Audience::Only(vec!["prov-jateng".parse().unwrap()]),
    )]);
    agent.link(HUB, 33, 1);
    agent.link(FAR, 55, 2);
    assert_eq!(
        told(&mut agent, 1),
        Some(Vec::new()),
        "not before its first check"
    );
    let check = |result: Result<(), &str>| Input::Check {
        service: "kab-demak/db".parse().unwrap(),
        result: result.map_err(str::to_owned),
    };
    agent.input(check(Ok(())));
    let outputs = agent.outputs.clone();
    assert_eq!(told(&mut agent, 1), Some(vec!["kab-demak/db".into()]));
    agent.outputs = outputs;
    assert_eq!(
        told(&mut agent, 2),
        Some(Vec::new()),
        "outside the audience"
    );

    agent.input(check(Err("refused")));
    assert_eq!(told(&mut agent, 1), None, "one failure is none");
    agent.input(check(Err("refused")));
    assert_eq!(told(&mut agent, 1), Some(Vec::new()));
    assert!(agent.condition_codes().contains(&"service_unhealthy"));
    agent.input(check(Ok(())));
    assert_eq!(told(&mut agent, 1).unwrap().len(), 1);
}

#[test]
fn silence_hides_and_hearing_shows_again_without_a_new_announcement() {
    let mut agent = in_force(Vec::new());
    agent.link(HUB, 33, 1);
    announce(
        &mut agent,
        1,
        vec![announced(
            "prov-jateng/arsip",
            HUB,
            "10.33.1.10:445",
            Audience::All,
        )],
    );
    assert_eq!(agent.service_states()["prov-jateng/arsip"], "Available");
    agent.pass(seconds(4));
    assert_eq!(agent.service_states().len(), 1);
    agent.pass(Duration::from_millis(250));
    assert_eq!(agent.service_states().len(), 0, "hidden");
    agent.input(Input::Probe {
        connection: 1,
        probe: Probe {
            echo: false,
            sequence: 1,
            sent_us: 0,
        },
    });
    assert_eq!(agent.service_states().len(), 1, "heard");
    agent.take();
    agent.pass(seconds(6));
    assert!(
        agent
            .take()
            .iter()
            .any(|o| matches!(o, Output::CloseLink { connection: 1, .. })),
        "then dialled anew"
    );
    agent.pass(Duration::from_millis(250));
    agent.link(HUB, 33, 5);
    assert_eq!(agent.service_states().len(), 1);
}

#[test]
fn what_policy_closes_is_listed_as_such_and_what_is_not_for_us_or_not_theirs_is_not_listed() {
    let mut agent = in_force(Vec::new());
    agent.link(HUB, 33, 1);
    let only = |agency: &str| Audience::Only(vec![agency.parse().unwrap()]);
    announce(
        &mut agent,
        1,
        vec![
            announced("prov-jateng/arsip", HUB, "10.33.1.10:445", Audience::All),
            announced(
                "prov-jateng/closed",
                HUB,
                "10.33.1.10:80",
                only("kab-demak"),
            ),
            announced(
                "prov-jateng/secret",
                HUB,
                "10.33.1.10:445",
                only("kota-malang"),
            ),
            announced("kota-malang/forged", HUB, "10.33.1.10:445", Audience::All),
            announced(
                "prov-jateng/other-node",
                FAR,
                "10.33.1.10:445",
                Audience::All,
            ),
        ],
    );
    let states: Vec<_> = agent.service_states().into_iter().collect();
    let pair = |name: &str, state: &str| (name.to_owned(), state.to_owned());
    assert_eq!(
        states,
        [
            pair("prov-jateng/arsip", "Available"),
            pair("prov-jateng/closed", "BlockedByPolicy")
        ]
    );
    announce(&mut agent, 1, Vec::new());
    assert!(agent.service_states().is_empty(), "withdrawn");
}

#[test]
fn probes_go_each_second_where_services_are_shared_and_each_ten_elsewhere() {
    let mut agent = in_force(Vec::new());
    agent.link(HUB, 33, 1);
    agent.link(FAR, 55, 2);
    announce(
        &mut agent,
        1,
        vec![announced(
            "prov-jateng/arsip",
            HUB,
            "10.33.1.10:445",
            Audience::All,
        )],
    );
    agent.take();
    let mut count = [0, 0];
    for _ in 0..80 {
        agent.pass(Duration::from_millis(250));
        for output in agent.take() {
            let Output::SendProbe { connection, probe } = output else {
                continue;
            };
            assert!(!probe.echo);
            count[connection as usize - 1] += 1;
            agent.now.monotonic += Duration::from_millis(7);
            agent.input(Input::Probe {
                connection,
                probe: Probe {
                    echo: true,
                    ..probe
                },
            });
            agent.outputs.clear();
        }
    }
    assert!(
        (19..=22).contains(&count[0]) && (2..=3).contains(&count[1]),
        "{count:?}"
    );
    let peers = agent.agent.status(agent.now).peers;
    let hub = peers.iter().find(|p| p.node == node(HUB)).unwrap();
    assert!(
        hub.link && (7.0..9.0).contains(&hub.rtt_ms.unwrap()) && hub.loss == Some(0.0),
        "{hub:?}"
    );
}

#[test]
fn a_request_is_echoed_unchanged() {
    let mut agent = in_force(Vec::new());
    agent.link(HUB, 33, 1);
    agent.take();
    let probe = Probe {
        echo: false,
        sequence: u64::MAX,
        sent_us: 42,
    };
    agent.input(Input::Probe {
        connection: 1,
        probe,
    });
    assert_eq!(
        agent.take(),
        [Output::SendProbe {
            connection: 1,
            probe: Probe {
                echo: true,
                ..probe
            }
        }]
    );
}

#[test]
fn a_quiet_link_is_not_taken_for_silent_when_a_service_comes_to_be_shared() {
    let mut agent = in_force(vec![service("db", Audience::All)]);
    agent.link(HUB, 33, 1);
    agent.pass(seconds(9));
    agent.input(Input::Check {
        service: "kab-demak/db".parse().unwrap(),
        result: Ok(()),
    });
    agent.take();
    agent.pass(seconds(2));
    let outputs = agent.take();
    assert!(
        !outputs
            .iter()
            .any(|o| matches!(o, Output::CloseLink { .. })),
        "{outputs:?}"
    );
    assert!(
        outputs
            .iter()
            .any(|o| matches!(o, Output::SendProbe { .. })),
        "probed at the new pace"
    );
}
