//! Two whole agents, wired to each other: what one announces the other shows.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::*;
use pnsbox_agent_core::event::{Input, Output, SavedState, SavedView, ServiceConfig};
use pnsbox_proto::service::Audience;
use pnsbox_proto::view::{PeerPath, Record};

/// kab-demak/gw1 (which dials) and prov-jateng/gw1, with a wire between their links that can be cut.
struct Pair {
    ends: [Driven; 2],
    /// Connections that stand: the dialler's number and the acceptor's are the same.
    standing: BTreeSet<u64>,
    next: u64,
    cut: bool,
    dials: u32,
}

impl Pair {
    fn new(services: Vec<ServiceConfig>) -> Self {
        let end = |name: &str, number, view, services| {
            let saved = SavedState {
                view: Some(SavedView {
                    certificate: certificate(&secret(1), &secret(2), "pns"),
                    view,
                }),
                ..saved(name)
            };
            let mut agent = Driven::new(start(number, Some(saved), services));
            agent.host_agrees();
            agent
        };
        let endpoint = "203.0.113.30:51820".parse().unwrap();
        let of_me = [
            node_record(ME, 44),
            peer_record(
                HUB,
                33,
                PeerPath::Direct {
                    endpoint,
                    second: None,
                },
            ),
            link_record("prov-jateng", "10.44.1.0/24 tcp/5432", ""),
        ];
        let of_hub = [
            node_record(HUB, 33),
            peer_record(ME, 44, PeerPath::Passive),
            link_of("prov-jateng", "kab-demak", "", "10.44.1.0/24 tcp/5432"),
        ];
        let view = |name: &str, records: &[Record]| {
            view_of(name, 1, &texts(records), &secret(2), |_| true)
        };
        Self {
            ends: [
                end(ME, 44, view(ME, &of_me), services),
                end(HUB, 33, view(HUB, &of_hub), Vec::new()),
            ],
            standing: BTreeSet::new(),
            next: 0,
            cut: false,
            dials: 0,
        }
    }

    /// Lets time go by in quarter seconds, and carries what is said.
    fn pass(&mut self, time: Duration) {
        let step = Duration::from_millis(250);
        for _ in 0..time.as_millis() / step.as_millis() {
            for end in &mut self.ends {
                end.pass(step);
            }
            self.carry();
        }
    }

    /// Carries until nobody says anything any more.
    fn carry(&mut self) {
        loop {
            let said = [self.ends[0].take(), self.ends[1].take()];
            if said.iter().all(Vec::is_empty) {
                return;
            }
            for (from, outputs) in said.into_iter().enumerate() {
                for output in outputs {
                    self.carry_one(from, output);
                }
            }
        }
    }

    fn carry_one(&mut self, from: usize, output: Output) {
        let to = 1 - from;
        match output {
            Output::DialLink {
                node: peer, key, ..
            } => {
                assert_eq!((from, &peer), (0, &node(HUB)), "the smaller name dials");
                assert_eq!(key, public(&secret(33)));
                self.dials += 1;
                if self.cut {
                    let reason = "no answer".into();
                    return self.ends[from].input(Input::LinkFailed { node: peer, reason });
                }
                self.next += 1;
                self.standing.insert(self.next);
                for (end, number) in [(0, 33), (1, 44)] {
                    self.ends[end].input(Input::LinkUp {
                        connection: self.next,
                        key: public(&secret(number)),
                        dialled: end == 0,
                    });
                }
            }
            Output::SendLink {
                connection,
                message,
            } if self.carries(connection) => {
                self.ends[to].input(Input::Link {
                    connection,
                    message,
                });
            }
            Output::SendProbe { connection, probe } if self.carries(connection) => {
                self.ends[to].input(Input::Probe { connection, probe });
            }
            Output::CloseLink { connection, reason } => {
                let stood = self.standing.remove(&connection);
                if stood && !self.cut {
                    self.ends[to].input(Input::LinkDown { connection, reason });
                }
            }
            _ => {}
        }
    }

    fn carries(&self, connection: u64) -> bool {
        !self.cut && self.standing.contains(&connection)
    }

    fn check(&mut self, result: Result<(), &str>) {
        self.ends[0].input(Input::Check {
            service: "kab-demak/db".parse().unwrap(),
            result: result.map_err(str::to_owned),
        });
        self.carry();
    }

    fn seen_by_hub(&self) -> Vec<String> {
        self.ends[1].service_states().into_keys().collect()
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn what_one_announces_the_other_shows_hides_in_silence_and_shows_again() {
    let mut pair = Pair::new(vec![service("db", Audience::All)]);
    pair.pass(seconds(1));
    assert!(pair.ends[0].agent.link(&node(HUB)).is_some());
    assert!(pair.ends[1].agent.link(&node(ME)).is_some());
    assert!(pair.seen_by_hub().is_empty(), "not before its first check");
    pair.check(Ok(()));
    assert_eq!(pair.ends[1].service_states()["kab-demak/db"], "Available");

    pair.check(Err("refused"));
    assert_eq!(pair.seen_by_hub().len(), 1, "one failure is none");
    pair.check(Err("refused"));
    assert!(pair.seen_by_hub().is_empty(), "withdrawn");
    pair.check(Ok(()));
    assert_eq!(pair.seen_by_hub().len(), 1);

    pair.pass(seconds(60));
    assert_eq!(pair.dials, 1, "probes keep the link");
    for (end, peer) in [(0, HUB), (1, ME)] {
        let status = pair.ends[end].agent.status(pair.ends[end].now);
        let peer = status.peers.iter().find(|p| p.node == node(peer)).unwrap();
        assert!(peer.link && peer.loss == Some(0.0), "{peer:?}");
    }

    pair.cut = true;
    pair.pass(seconds(3));
    assert_eq!(pair.seen_by_hub().len(), 1);
    pair.pass(seconds(2));
    assert!(pair.seen_by_hub().is_empty(), "silent for 5 s");
    pair.pass(seconds(30));
    assert!((3..=30).contains(&pair.dials), "{} dials", pair.dials);
    pair.cut = false;
    pair.pass(seconds(12));
    assert_eq!(pair.seen_by_hub(), ["kab-demak/db"]);
}

#[test]
fn an_agency_outside_the_audience_is_never_told() {
    let only = Audience::Only(vec!["kota-malang".parse().unwrap()]);
    let mut pair = Pair::new(vec![service("db", only)]);
    pair.pass(seconds(1));
    pair.check(Ok(()));
    pair.pass(seconds(30));
    assert!(pair.seen_by_hub().is_empty());
}
