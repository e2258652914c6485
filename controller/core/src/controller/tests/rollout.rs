//! A policy in waves, in virtual time, over boxes that apply, refuse, fall silent, report and come back.

mod halts;
mod meanwhile;

use std::collections::BTreeSet;

use pnsbox_proto::health::{HealthReport, PeerHealth, ServiceHealth};
use pnsbox_proto::view::{PeerPath, PeerRecord, RelayRecord};

use super::*;
use crate::difference::Difference;
use crate::operator::Source;
use crate::rollout::{Canary, RolloutStatus, State};

/// What a box does with views that come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ways {
    Applies,
    RollsBack,
    /// It takes the view, and says nothing of it.
    SaysNothing,
    Away,
}

/// Boxes that live as agents do, as far as the controller can see.
struct Fleet {
    world: World,
    boxes: BTreeMap<&'static str, Box_>,
    ways: BTreeMap<&'static str, Ways>,
    /// Boxes whose links are down, as they and their peers say.
    unlinked: BTreeSet<&'static str>,
    /// Boxes whose service fails.
    failing: BTreeSet<&'static str>,
    /// Versions of views of which it is known that they fit each other.
    fitting: Vec<u64>,
}

/// Four hidden agencies that meet at a relay, one public agency, and another relay.
const NODES: [(&str, Option<&str>); 7] = [
    ("a1/gw1", None),
    ("a2/gw1", None),
    ("a3/gw1", None),
    ("a4/gw1", None),
    ("p1/gw1", Some("203.0.113.5:51820")),
    ("r1/gw1", Some("203.0.113.6:51820")),
    ("r2/gw1", Some("203.0.113.7:51820")),
];

const CANARY: Canary = Canary {
    share: 5,
    watch_s: 60,
};

impl Fleet {
    fn new() -> Self {
        let mut world = World::new();
        let mut boxes = BTreeMap::new();
        for (seed, (name, public)) in (1..).zip(NODES) {
            let (agency, _) = name.split_once('/').unwrap();
            world.add(agency, &[&format!("10.{seed}.0.0/16")]);
            let lan = format!("10.{seed}.1.0/24");
            boxes.insert(name, world.join(seed, name, &[&lan], public));
        }
        world.apply(policy("r1/gw1", "icmp"));
        let mut fleet = Self {
            world,
            boxes,
            ways: NODES.map(|(name, _)| (name, Ways::Applies)).into(),
            unlinked: BTreeSet::new(),
            failing: BTreeSet::new(),
            fitting: Vec::new(),
        };
        fleet.pass(30);
        fleet
    }

    /// Lets time go by; health is said every 10 s, and records fit each other at every step.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.world.pass(Duration::from_secs(1));
            for name in NODES.map(|(name, _)| name) {
                self.act(name);
            }
            if self.world.clock.as_secs().is_multiple_of(10) {
                self.report();
            }
            let views = self.world.controller.image.views.values();
            let versions: Vec<u64> = views.map(|view| view.version).collect();
            if versions != self.fitting {
                fit_each_other(&self.world);
                self.fitting = versions;
            }
        }
    }

    /// Until `done`, or at most so long; returns the seconds that it took.
    fn pass_until(&mut self, most: u64, done: impl Fn(&RolloutStatus) -> bool) -> u64 {
        for second in 0..most {
            if done(&self.rollout()) {
                return second;
            }
            self.pass(1);
        }
        panic!("not within {most} s: {:?}", self.rollout());
    }

    fn act(&mut self, name: &'static str) {
        let member = self.boxes.get_mut(name).unwrap();
        match self.ways[name] {
            Ways::Away => {}
            Ways::Applies => while self.world.take_view(member).is_some() {},
            Ways::SaysNothing => drop(self.world.received(member)),
            Ways::RollsBack => {
                for message in self.world.received(member) {
                    if let ToAgent::View(view) = message {
                        let manifest: Manifest =
                            serde_json::from_str(&view.manifest.payload).unwrap();
                        let outcome = ToController::ViewOutcome {
                            version: manifest.version,
                            digest: view.manifest.payload_digest(),
                            outcome: ViewOutcome::RolledBack {
                                reason:
                                    "taken back after 45 s, in which nothing was heard from a2/gw1"
                                        .to_owned(),
                            },
                            quarantined: vec![],
                        };
                        self.world.say(member, outcome);
                    }
                }
            }
        }
    }

    fn report(&mut self) {
        for (name, _) in NODES {
            if self.ways[name] == Ways::Away {
                continue;
            }
            let is_down = |other: &str| [name, other].iter().any(|end| self.unlinked.contains(end));
            let peers = peers(&self.world, name).into_iter().map(|peer| PeerHealth {
                up: true,
                endpoint: None,
                relay: match &peer.path {
                    PeerPath::Relay { relay, .. } => Some(relay.clone()),
                    PeerPath::Direct { .. } | PeerPath::Passive => None,
                },
                path_mtu: None,
                last_handshake: None,
                rx_bytes: 0,
                tx_bytes: 0,
                // A relay is a peer, and no more.
                link: !peer.prefixes.is_empty() && !is_down(peer.node.as_str()),
                rtt_ms: None,
                jitter_ms: None,
                loss: None,
                node: peer.node,
            });
            let service = ServiceHealth {
                name: format!("{}/db", node(name).agency()).parse().unwrap(),
                kind: pnsbox_proto::service::ServiceKind::Tcp,
                endpoint: "10.1.1.10:5432".parse().unwrap(),
                healthy: !self.failing.contains(name),
            };
            let report = HealthReport {
                started: UnixTime(START),
                software: "0.1.0".to_owned(),
                view_applied: 0,
                peers: peers.collect(),
                services: vec![service],
                conditions: vec![],
            };
            self.world
                .say(&self.boxes[name], ToController::Health(report));
        }
    }

    fn leave(&mut self, name: &'static str) {
        self.ways.insert(name, Ways::Away);
        self.world.disconnect(&self.boxes[name]);
    }

    fn come_back(&mut self, name: &'static str) {
        self.ways.insert(name, Ways::Applies);
        self.world.connect(self.boxes.get_mut(name).unwrap());
    }

    fn roll_out(&mut self, policy: Value) -> RolloutStatus {
        let request = Request::RollOut {
            policy: Source::File(policy),
            canary: CANARY,
            dry_run: false,
        };
        match self.world.ask(request) {
            Ok(Answer::Rollout { rollout }) => *rollout.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn planned(&mut self, policy: Value) -> Difference {
        let request = Request::RollOut {
            policy: Source::File(policy),
            canary: CANARY,
            dry_run: true,
        };
        match self.world.ask(request) {
            Ok(Answer::Difference {
                difference,
                applied: false,
            }) => *difference,
            other => panic!("{other:?}"),
        }
    }

    fn rollout(&mut self) -> RolloutStatus {
        match self.world.ask(Request::Rollout) {
            Ok(Answer::Rollout { rollout }) => *rollout.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// The wave that has it, counted from 1.
    fn wave(&mut self) -> usize {
        self.rollout().wave
    }

    fn state(&self) -> Option<&'static str> {
        self.world.controller.rollout_state().map(State::as_str)
    }

    fn reasons(&mut self) -> Vec<String> {
        match self.rollout().state {
            State::Halted { reasons, .. } => reasons,
            state => panic!("{state:?}"),
        }
    }
}

/// Everybody is linked with everybody but the relays.
fn policy(relay: &str, allow: &str) -> Value {
    let ends = ["a1", "a2", "a3", "a4", "p1"];
    let mut links = Vec::new();
    for (number, a) in ends.iter().enumerate() {
        links.extend(
            ends[number + 1..]
                .iter()
                .map(|b| link(a, &[allow], b, &[allow])),
        );
    }
    json!({ "relays": [relay], "link": links })
}

fn stored(world: &World, name: &str) -> Vec<Record> {
    let view = &world.controller.image.views[&node(name)];
    let records = view.records.iter();
    records
        .map(|record| serde_json::from_str(&record.text).unwrap())
        .collect()
}

fn peers(world: &World, name: &str) -> Vec<PeerRecord> {
    let peer = |record| match record {
        Record::Peer(peer) => Some(peer),
        _ => None,
    };
    stored(world, name).into_iter().filter_map(peer).collect()
}

/// What every node should have, without versions.
fn records(world: &World) -> BTreeMap<NodeName, Vec<String>> {
    let views = world.controller.image.views.iter();
    let texts = |records: &[crate::view::TextRecord]| {
        records.iter().map(|record| record.text.clone()).collect()
    };
    views
        .map(|(node, view)| (node.clone(), texts(&view.records)))
        .collect()
}

/// Whoever is told of a peer is known to it, by the same way; a relay forwards for both; and peers have a link.
fn fit_each_other(world: &World) {
    let image = &world.controller.image;
    for name in image.registry.nodes.keys() {
        for peer in peers(world, name.as_str()) {
            let link = format!("link {}", peer.node.agency());
            let is_linked = stored(world, name.as_str())
                .iter()
                .any(|record| record.id() == link);
            assert!(
                is_linked || peer.prefixes.is_empty(),
                "{name} has no link with {}",
                peer.node
            );
            if !is_linked && image.registry.channels.contains_key(name) {
                // A relay serves those who have left it until they have arrived elsewhere.
                continue;
            }
            let others = peers(world, peer.node.as_str());
            let back = others.iter().find(|back| back.node == *name);
            let back = back.unwrap_or_else(|| panic!("{} knows {name}", peer.node));
            let fits = match (&peer.path, &back.path) {
                (PeerPath::Relay { relay, channel }, there) => {
                    let served = stored(world, relay.as_str()).into_iter().any(|record| {
                        let mut members = [name.clone(), peer.node.clone()];
                        members.sort();
                        record
                            == Record::Relay(RelayRecord {
                                channel: *channel,
                                members,
                            })
                    });
                    let known = |member: &NodeName| {
                        peers(world, relay.as_str())
                            .iter()
                            .any(|p| p.node == *member)
                    };
                    *there == peer.path && served && known(name) && known(&peer.node)
                }
                (PeerPath::Direct { .. } | PeerPath::Passive, there) => {
                    !matches!(there, PeerPath::Relay { .. })
                }
            };
            assert!(
                fits,
                "{name} and {}: {:?}, {:?}",
                peer.node, peer.path, back.path
            );
        }
    }
}

#[test]
fn a_good_policy_goes_through_in_waves_and_is_a_version_at_the_end() {
    let mut fleet = Fleet::new();
    let before = records(&fleet.world);
    let planned = fleet.planned(policy("r1/gw1", "tcp/445"));
    assert_eq!(records(&fleet.world), before, "only shown");
    let radius = planned.radius;
    assert_eq!(
        (radius.agencies, radius.links, radius.online, radius.fleet),
        (5, 10, 5, 7)
    );
    let sizes: Vec<usize> = planned.waves.iter().map(BTreeSet::len).collect();
    assert_eq!(
        sizes,
        [1, 4],
        "four times as many would be the most of them"
    );

    let begun = fleet.roll_out(policy("r1/gw1", "tcp/445"));
    assert_eq!(
        (begun.wave, &begun.waves, begun.touched),
        (1, &planned.waves, 1)
    );
    let changed = |world: &World| -> BTreeSet<NodeName> {
        let now = records(world);
        now.into_iter()
            .filter(|(node, records)| before[node] != *records)
            .map(|(node, _)| node)
            .collect()
    };
    assert_eq!(changed(&fleet.world), begun.waves[0]);
    let first = fleet.pass_until(200, |rollout| rollout.wave == 2);
    assert!(
        (60..=63).contains(&first),
        "watched for 60 s once it was applied, not {first} s"
    );
    assert_eq!(changed(&fleet.world).len(), 5);
    assert_eq!(
        fleet.world.controller.image.history.current(),
        1,
        "not before all have proved it"
    );
    fleet.pass_until(100, |rollout| matches!(rollout.state, State::Done { .. }));
    let (image, rolled) = (&fleet.world.controller.image, records(&fleet.world));
    assert_eq!(image.history.current(), 2);
    let last = image.history.versions().last().unwrap();
    assert_eq!((last.who.as_str(), last.restores), ("uid 0", None));
    assert_eq!(fleet.state(), Some("done"));
    assert_eq!(
        fleet.world.status().rollout,
        None,
        "there is nothing to look at"
    );
    fleet.world.apply(policy("r1/gw1", "tcp/445"));
    assert_eq!(
        records(&fleet.world),
        rolled,
        "it is what an apply would have made"
    );
    let deeds: Vec<String> = fleet
        .world
        .audit()
        .into_iter()
        .map(|entry| entry.what)
        .collect();
    assert!(
        deeds
            .iter()
            .any(|what| what.starts_with("roll out policy version 2, wave 1 of 2, to "))
    );
    assert!(
        deeds
            .last()
            .unwrap()
            .starts_with("apply policy, version 2: "),
        "{deeds:?}"
    );
}

#[test]
fn two_boxes_change_their_relay_together_and_both_relays_serve_meanwhile() {
    let mut fleet = Fleet::new();
    let begun = fleet.roll_out(policy("r2/gw1", "icmp"));
    let relays = |fleet: &Fleet, name: &str| -> BTreeSet<String> {
        let relay = |peer: PeerRecord| match peer.path {
            PeerPath::Relay { relay, .. } => Some(relay.to_string()),
            PeerPath::Direct { .. } | PeerPath::Passive => None,
        };
        peers(&fleet.world, name)
            .into_iter()
            .filter_map(relay)
            .collect()
    };
    let first: Vec<&NodeName> = begun.waves[0]
        .iter()
        .filter(|node| node.as_str().starts_with('a'))
        .collect();
    assert_eq!(
        first.len(),
        2,
        "one alone would prove nothing: {:?}",
        begun.waves
    );
    for name in first {
        let both = ["r1/gw1".to_owned(), "r2/gw1".to_owned()];
        assert_eq!(
            relays(&fleet, name.as_str()),
            both.into(),
            "one pair moved, the others wait"
        );
    }
    // That the records fit each other is asked each second.
    fleet.pass_until(600, |rollout| matches!(rollout.state, State::Done { .. }));
    fleet.pass(30);
    for name in ["a1/gw1", "a2/gw1", "a3/gw1", "a4/gw1"] {
        assert_eq!(relays(&fleet, name), ["r2/gw1".to_owned()].into());
    }
    let left = &fleet.world.controller.image.registry.channels[&node("r1/gw1")];
    assert_eq!(
        (left.by_pair.len(), left.leaving.len()),
        (0, 0),
        "all have left the first"
    );
}

#[test]
fn links_that_go_in_waves_stay_whole_until_both_ends_let_go() {
    let mut fleet = Fleet::new();
    let mut fewer = policy("r1/gw1", "icmp");
    let gone = [json!(["a1", "a2"]), json!(["a1", "a3"])];
    let links = fewer["link"].as_array_mut().unwrap();
    links.retain(|link| !gone.contains(&link["between"]));
    let begun = fleet.roll_out(fewer);
    let peers_of_a1 = |fleet: &Fleet| -> Vec<String> {
        let peers = peers(&fleet.world, "a1/gw1").into_iter();
        peers.map(|peer| peer.node.to_string()).collect()
    };
    assert_eq!(begun.waves[0].len(), 2, "a1 and one of the two: {begun:?}");
    assert_eq!(
        peers_of_a1(&fleet).len(),
        4,
        "the other is still there, and the relay"
    );
    fleet.pass_until(600, |rollout| matches!(rollout.state, State::Done { .. }));
    assert_eq!(peers_of_a1(&fleet), ["a4/gw1", "p1/gw1", "r1/gw1"]);
}

#[test]
fn what_cannot_be_rolled_out_is_refused_and_what_touches_nobody_is_applied() {
    let mut fleet = Fleet::new();
    let ask = |fleet: &mut Fleet, canary: Canary, policy: Value| {
        let policy = Source::File(policy);
        fleet.world.ask(Request::RollOut {
            policy,
            canary,
            dry_run: false,
        })
    };
    for (share, watch_s, rule) in [
        (0, 60, "from 1% to 100%"),
        (101, 60, "from 1% to 100%"),
        (5, 0, "from 1s to 24h"),
        (5, 86_401, "from 1s to 24h"),
    ] {
        let refusal = ask(
            &mut fleet,
            Canary { share, watch_s },
            policy("r2/gw1", "icmp"),
        )
        .unwrap_err();
        assert!(refusal.to_string().contains(rule), "{refusal}");
    }
    assert!(matches!(
        ask(&mut fleet, CANARY, json!({ "links": [] })),
        Err(Refusal::Mistakes { .. })
    ));
    assert_eq!(
        fleet
            .world
            .ask(Request::HaltRollout)
            .unwrap_err()
            .to_string()
            .split(';')
            .next(),
        Some("no rollout is under way")
    );
    // A link of agencies of which one has no box: nobody could be watched.
    fleet.world.add("b1", &["10.90.0.0/16"]);
    fleet.world.add("b2", &["10.91.0.0/16"]);
    let mut more = policy("r1/gw1", "icmp");
    more["link"]
        .as_array_mut()
        .unwrap()
        .push(link("b1", &["icmp"], "b2", &[]));
    let answer = ask(&mut fleet, CANARY, more).unwrap();
    assert!(
        matches!(answer, Answer::Difference { applied: true, .. }),
        "{answer:?}"
    );
    assert_eq!(fleet.world.controller.image.history.current(), 2);
}
