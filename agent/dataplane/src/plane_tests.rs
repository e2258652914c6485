//! Planes wired together in memory, through real boringtun sessions: no socket, no thread, no waiting.

mod back_pressure;
mod flood;
mod replay;
mod timers;
mod tos;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::counters::{Counters, DropReason};
use crate::fuzz::{Caught, MemoryPlane};
use crate::snapshot::{PathConfig, PeerConfig, PublicKey, RelayChannel, Snapshot};
use crate::table::SnapshotError;
use crate::{DscpPolicy, ProtocolCore, public_key, relay};

/// A datagram under way.
struct Flight {
    from: SocketAddr,
    to: SocketAddr,
    /// Type of service of its header.
    tos: u8,
    bytes: Vec<u8>,
}

/// One node.
struct Node {
    plane: MemoryPlane,
    key: PublicKey,
    address: SocketAddr,
    received: Vec<Vec<u8>>,
}

/// Nodes, and the datagrams between them.
struct World {
    nodes: Vec<Node>,
    flights: VecDeque<Flight>,
    seen: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
    /// The types of service of those.
    seen_tos: Vec<u8>,
    /// What the way makes of a type of service.
    way: fn(u8) -> u8,
    now: Instant,
}

/// Neighbours speak with another core, so that every test is one of interoperability too.
fn core(node: u8) -> ProtocolCore {
    match node % 2 {
        0 => ProtocolCore::Native,
        _ => ProtocolCore::Boringtun,
    }
}

impl World {
    fn new(count: u8) -> Self {
        Self::with_policy(count, DscpPolicy::default())
    }

    fn with_policy(count: u8, dscp: DscpPolicy) -> Self {
        Self::of(count, dscp, 1380)
    }

    fn of(count: u8, dscp: DscpPolicy, mtu: u16) -> Self {
        let now = Instant::now();
        let node = |n: u8| {
            let private = [n + 1; 32];
            let address = SocketAddr::from(([192, 0, 2, n + 1], 51820));
            let plane = MemoryPlane::new(private, core(n), dscp, mtu, 7, now);
            Node {
                plane,
                key: public_key(&private),
                address,
                received: Vec::new(),
            }
        };
        Self {
            nodes: (0..count).map(node).collect(),
            flights: VecDeque::new(),
            seen: Vec::new(),
            seen_tos: Vec::new(),
            way: |tos| tos,
            now,
        }
    }

    fn key(&self, node: usize) -> PublicKey {
        self.nodes[node].key
    }

    fn apply(&self, node: usize, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        self.nodes[node].plane.apply(snapshot, self.now)
    }

    fn direct(&self, node: usize) -> PeerConfig {
        peer(
            self.key(node),
            node,
            PathConfig::Direct(self.nodes[node].address),
        )
    }

    fn passive(&self, node: usize) -> PeerConfig {
        peer(self.key(node), node, PathConfig::Passive)
    }

    fn relayed(&self, node: usize, via: usize, channel: u32) -> PeerConfig {
        peer(
            self.key(node),
            node,
            PathConfig::Relay {
                via: self.key(via),
                channel,
            },
        )
    }

    fn act(&mut self, node: usize, act: impl FnOnce(&mut MemoryPlane, Instant) -> Caught) {
        let caught = act(&mut self.nodes[node].plane, self.now);
        let from = self.nodes[node].address;
        for ((to, bytes), tos) in caught.datagrams.into_iter().zip(caught.tos) {
            self.seen.push((from, to, bytes.clone()));
            self.seen_tos.push(tos);
            self.flights.push_back(Flight {
                from,
                to,
                tos,
                bytes,
            });
        }
        self.nodes[node].received.extend(caught.packets);
    }

    /// Lets every datagram arrive.
    fn settle(&mut self) {
        while let Some(flight) = self.flights.pop_front() {
            if let Some(to) = self.nodes.iter().position(|node| node.address == flight.to) {
                let datagram = [(&flight.bytes[..], (self.way)(flight.tos))];
                self.act(to, |plane, now| {
                    plane.handle_datagrams(&datagram, flight.from, now)
                });
            }
        }
    }

    fn throw(&mut self, to: usize, from: SocketAddr, bytes: &[u8]) {
        self.act(to, |plane, now| plane.handle_datagram(bytes, from, now));
    }

    /// A packet of a node's host.
    fn send(&mut self, from: usize, packet: &[u8]) {
        self.act(from, |plane, now| plane.handle_packet(packet, now));
        self.settle();
    }

    fn tick(&mut self, node: usize, later: Duration) {
        self.now += later;
        self.act(node, |plane, now| plane.tick(now));
        self.settle();
    }

    fn take(&mut self, node: usize) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.nodes[node].received)
    }

    fn counters(&self, node: usize) -> Counters {
        self.nodes[node].plane.counters()
    }

    fn dropped(&self, node: usize, reason: DropReason) -> u64 {
        self.counters(node)
            .drops
            .iter()
            .find(|(r, _)| *r == reason)
            .unwrap()
            .1
    }
}

fn peer(public_key: PublicKey, node: usize, path: PathConfig) -> PeerConfig {
    let prefixes = [format!("10.0.{node}.0/24"), format!("fd00:{node}::/64")];
    let allowed_prefixes = prefixes.map(|prefix| prefix.parse().unwrap()).to_vec();
    PeerConfig {
        public_key,
        allowed_prefixes,
        path,
        persistent_keepalive: None,
    }
}

fn peers(peers: Vec<PeerConfig>) -> Snapshot {
    Snapshot {
        peers,
        relays: Vec::new(),
    }
}

/// An IPv4 packet between LANs of two nodes.
fn packet(from: usize, to: usize, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, 253, 0, 0];
    packet.extend([10, 0, from as u8, 1, 10, 0, to as u8, 1]);
    packet.extend(payload);
    packet
}

/// Two nodes; the second knows where the first is.
fn pair() -> World {
    joined(World::new(2))
}

/// The second of two nodes knows where the first is.
fn joined(world: World) -> World {
    world.apply(0, &peers(vec![world.passive(1)])).unwrap();
    world.apply(1, &peers(vec![world.direct(0)])).unwrap();
    world
}

/// Nodes 0 and 1 behind NAT, node 2 relays for them.
fn triangle() -> World {
    with_relay(World::new(3))
}

/// Node 2 relays for the others, which have called it.
fn with_relay(mut world: World) -> World {
    let relays = vec![RelayChannel {
        channel: 9,
        members: [world.key(0), world.key(1)],
    }];
    world
        .apply(
            2,
            &Snapshot {
                peers: vec![world.passive(0), world.passive(1)],
                relays,
            },
        )
        .unwrap();
    for (node, other) in [(0, 1), (1, 0)] {
        world
            .apply(
                node,
                &peers(vec![world.direct(2), world.relayed(other, 2, 9)]),
            )
            .unwrap();
        world.send(node, &packet(node, 2, b"hello, relay"));
    }
    world.take(2);
    world
}

#[test]
fn packets_pass_both_ways_and_the_first_is_not_lost() {
    let mut world = pair();
    for payload in [&b""[..], b"x", &[7; 11], &[7; 12], &[7; 13], &[9; 1360]] {
        world.send(1, &packet(1, 0, payload));
        assert_eq!(world.take(0), [packet(1, 0, payload)]);
    }
    world.send(0, &packet(0, 1, b"back"));
    assert_eq!(world.take(1), [packet(0, 1, b"back")]);
    let counters = world.counters(1);
    assert_eq!(
        (counters.peers[0].tx_packets, counters.peers[0].rx_packets),
        (6, 1)
    );
    assert_eq!(counters.peers[0].handshakes, 1);
    assert!(world.counters(0).peers[0].last_handshake.is_some());
}

#[test]
fn data_is_padded_to_sixteen_bytes_within_the_mtu() {
    let mut world = pair();
    world.send(1, &packet(1, 0, b"handshake"));
    for (length, expected) in [(21, 32), (32, 32), (33, 48), (1379, 1380), (1380, 1380)] {
        world.seen.clear();
        world.send(1, &packet(1, 0, &vec![1; length - 20]));
        let (_, _, datagram) = world.seen.first().unwrap();
        // 16 bytes of header and 16 of tag (whitepaper section 5.4.6).
        assert_eq!(datagram.len(), expected + 32, "{length}");
    }
}

#[test]
fn before_the_passive_side_is_called_it_has_nowhere_to_send() {
    let mut world = pair();
    world.send(0, &packet(0, 1, b"early"));
    assert!(world.seen.is_empty());
    assert_eq!(world.dropped(0, DropReason::NoEndpoint), 1);
}

#[test]
fn an_authenticated_datagram_moves_the_endpoint_and_a_replayed_or_forged_one_does_not() {
    let mut world = pair();
    world.send(1, &packet(1, 0, b"from home"));
    let (_, _, old) = world.seen.last().unwrap().clone();
    let home = world.nodes[1].address;
    let roamed: SocketAddr = "198.51.100.9:4242".parse().unwrap();

    world.throw(0, roamed, &old);
    let mut forged = old;
    *forged.last_mut().unwrap() ^= 1;
    world.throw(0, roamed, &forged);
    assert_eq!(world.counters(0).peers[0].endpoint, Some(home));
    assert!(world.dropped(0, DropReason::InvalidDatagram) >= 1);

    world.nodes[1].address = roamed;
    world.send(1, &packet(1, 0, b"from elsewhere"));
    assert_eq!(world.counters(0).peers[0].endpoint, Some(roamed));
    world.send(0, &packet(0, 1, b"there"));
    assert_eq!(world.take(1).len(), 1);
}

#[test]
fn an_inner_source_outside_the_peers_prefixes_is_dropped_and_counted() {
    let mut world = pair();
    world.send(1, &packet(5, 0, b"not mine"));
    assert!(world.take(0).is_empty());
    assert_eq!(world.dropped(0, DropReason::WrongSource), 1);
}

#[test]
fn two_members_meet_through_the_relay_which_sees_nothing_of_them() {
    let mut world = triangle();
    world.seen.clear();
    world.send(0, &packet(0, 1, b"a secret of the agencies"));
    assert_eq!(world.take(1), [packet(0, 1, b"a secret of the agencies")]);
    world.send(1, &packet(1, 0, b"the answer"));
    assert_eq!(world.take(0), [packet(1, 0, b"the answer")]);

    assert!(world.take(2).is_empty());
    let relay_address = world.nodes[2].address;
    for (from, to, bytes) in &world.seen {
        assert!(
            *from == relay_address || *to == relay_address,
            "members never speak straight to each other"
        );
        assert_eq!(relay::parse(bytes).unwrap().0, 9);
        assert!(!bytes.windows(6).any(|window| window == b"secret"));
    }
    let counters = world.counters(2);
    assert!(
        counters.relayed_packets >= 4 && counters.relayed_bytes > 300,
        "{counters:?}"
    );
    let at_member = world
        .counters(0)
        .peers
        .into_iter()
        .find(|p| p.public_key == world.key(1))
        .unwrap();
    assert_eq!(
        (at_member.endpoint, at_member.relayed),
        (Some(relay_address), true)
    );
}

#[test]
fn a_relay_takes_frames_only_from_where_its_members_are() {
    let mut world = triangle();
    world.send(0, &packet(0, 1, b"up"));
    let (from, _, frame) = world
        .seen
        .iter()
        .find(|(_, to, b)| *to == world.nodes[2].address && b[0] == 0x70)
        .unwrap()
        .clone();
    let before = world.counters(2).relayed_packets;

    for stranger in ["198.51.100.9:51820", "192.0.2.1:51821"] {
        world.throw(2, stranger.parse().unwrap(), &frame);
    }
    assert_eq!(world.dropped(2, DropReason::RelayRefused), 2);
    let mut elsewhere = frame.clone();
    elsewhere[7] = 10;
    world.throw(2, from, &elsewhere);
    assert_eq!(world.dropped(2, DropReason::RelayUnknownChannel), 1);
    world.throw(2, from, &frame[..20]);
    assert_eq!(world.dropped(2, DropReason::ShortDatagram), 1);
    assert_eq!(world.counters(2).relayed_packets, before);
}

#[test]
fn a_member_takes_frames_only_from_its_relay_and_only_for_that_peer() {
    let mut world = triangle();
    world.send(0, &packet(0, 1, b"up"));
    let relay_address = world.nodes[2].address;
    let last = world
        .seen
        .iter()
        .rev()
        .find(|(from, to, _)| *from == relay_address && *to == world.nodes[1].address);
    let frame = last.unwrap().2.clone();
    world.throw(1, "198.51.100.9:51820".parse().unwrap(), &frame);
    assert_eq!(world.dropped(1, DropReason::RelayRefused), 1);

    // The relay puts a datagram of its own tunnel into the members' channel.
    world.seen.clear();
    world.send(2, &packet(2, 1, b"mine"));
    let own = world.seen.first().unwrap().2.clone();
    world.throw(1, relay_address, &[&relay::header(9), &own[..]].concat());
    assert_eq!(world.dropped(1, DropReason::RelayRefused), 2);
}

#[test]
fn a_snapshot_keeps_sessions_and_a_refused_one_changes_nothing() {
    let mut world = pair();
    world.send(1, &packet(1, 0, b"one"));
    let mut wider = world.direct(0);
    wider.allowed_prefixes.push("10.9.0.0/16".parse().unwrap());
    world.apply(1, &peers(vec![wider])).unwrap();
    world.seen.clear();
    world.send(1, &packet(1, 0, b"two"));
    assert_eq!(world.seen.len(), 1, "no new handshake");
    assert_eq!(world.take(0).len(), 2);
    assert_eq!(world.counters(1).peers[0].tx_packets, 2);

    let (a, stranger) = (world.direct(0), [9; 32]);
    let own = PeerConfig {
        public_key: world.key(1),
        ..a.clone()
    };
    let same_prefix = PeerConfig {
        public_key: stranger,
        ..a.clone()
    };
    let bad_relay = PeerConfig {
        path: PathConfig::Relay {
            via: stranger,
            channel: 1,
        },
        ..a.clone()
    };
    let alone = RelayChannel {
        channel: 1,
        members: [a.public_key, a.public_key],
    };
    for (snapshot, expected) in [
        (peers(vec![own]), SnapshotError::OwnKey),
        (
            peers(vec![a.clone(), a.clone()]),
            SnapshotError::DuplicateKey(a.public_key),
        ),
        (
            peers(vec![a.clone(), same_prefix]),
            SnapshotError::DuplicatePrefix(a.allowed_prefixes[0]),
        ),
        (peers(vec![bad_relay]), SnapshotError::BadRelay(stranger)),
        (
            Snapshot {
                peers: vec![a.clone()],
                relays: vec![alone],
            },
            SnapshotError::BadMembers(1),
        ),
    ] {
        assert_eq!(world.apply(1, &snapshot), Err(expected));
    }
    world.send(1, &packet(1, 0, b"three"));
    assert_eq!(world.take(0).len(), 1);

    world.apply(1, &Snapshot::default()).unwrap();
    world.send(1, &packet(1, 0, b"four"));
    assert_eq!(world.dropped(1, DropReason::NoPeer), 1);
}

#[test]
fn the_side_with_keepalive_begins_at_once_and_keeps_alive_and_the_other_never_does() {
    let mut world = World::new(2);
    let keepalive = Some(Duration::from_secs(25));
    world.apply(0, &peers(vec![world.passive(1)])).unwrap();
    world
        .apply(
            1,
            &peers(vec![PeerConfig {
                persistent_keepalive: keepalive,
                ..world.direct(0)
            }]),
        )
        .unwrap();
    world.tick(1, Duration::ZERO);
    assert!(
        world.counters(0).peers[0].endpoint.is_some(),
        "the handshake was made by the first tick"
    );
    assert_eq!(world.counters(1).peers[0].handshakes, 1);

    // Both look what the path carries.
    world.tick(0, Duration::ZERO);
    world.tick(1, Duration::ZERO);
    for node in 0..2 {
        assert_eq!(world.counters(node).peers[0].path_mtu, Some(1380));
    }
    // The last of that is acknowledged by an empty message (whitepaper section 6.5).
    world.tick(0, Duration::from_secs(11));
    world.seen.clear();
    world.tick(0, Duration::from_secs(3));
    assert!(
        world.seen.is_empty(),
        "the side without keepalive stays silent"
    );
    world.tick(1, Duration::from_secs(12));
    let to_peer = world
        .seen
        .iter()
        .filter(|(from, ..)| *from == world.nodes[1].address)
        .count();
    assert_eq!(to_peer, 1, "one keepalive after 25 s of silence");
    world.seen.clear();
    world.tick(1, Duration::from_secs(20));
    assert!(world.seen.is_empty());
}

#[test]
fn short_and_random_bytes_never_reach_a_session_and_never_panic() {
    let mut world = triangle();
    world.send(0, &packet(0, 1, b"up"));
    let from = world.nodes[2].address;
    for length in 0..32 {
        world.throw(1, from, &vec![4; length]);
    }
    assert_eq!(world.dropped(1, DropReason::ShortDatagram), 32);

    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let templates: Vec<Vec<u8>> = world
        .seen
        .iter()
        .map(|(_, _, bytes)| bytes.clone())
        .collect();
    let mut state = seed;
    let mut random = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for _ in 0..5_000 {
        let mut bytes = templates[random() % templates.len()].clone();
        for _ in 0..random() % 4 {
            let place = random() % bytes.len();
            bytes[place] = random() as u8;
        }
        bytes.truncate(random() % (bytes.len() + 1));
        world.throw(random() % 3, from, &bytes);
        world.flights.clear();
    }
    world.take(0);
    world.take(1);
    world.send(0, &packet(0, 1, b"still up"));
    assert_eq!(world.take(1), [packet(0, 1, b"still up")]);
}

#[test]
fn what_is_no_ip_packet_is_dropped_and_counted() {
    let mut world = pair();
    let mut long = packet(1, 0, b"x");
    long[3] = 200;
    for bytes in [&b""[..], b"E", &[0x60; 39], &[0; 60], &long] {
        world.send(1, bytes);
    }
    assert_eq!(world.dropped(1, DropReason::MalformedPacket), 5);
}

#[test]
fn a_handshake_that_came_before_the_relay_knew_us_is_begun_again_at_once() {
    let mut world = World::new(3);
    let relays = vec![RelayChannel {
        channel: 9,
        members: [world.key(0), world.key(1)],
    }];
    let passive = vec![world.passive(0), world.passive(1)];
    world
        .apply(
            2,
            &Snapshot {
                peers: passive,
                relays,
            },
        )
        .unwrap();
    for (node, other) in [(0, 1), (1, 0)] {
        let known = peers(vec![world.direct(2), world.relayed(other, 2, 9)]);
        world.apply(node, &known).unwrap();
    }
    world.send(1, &packet(1, 2, b"node 1 is known to the relay"));
    world.send(
        0,
        &packet(0, 1, b"too early: the relay does not know node 0"),
    );
    assert!(world.take(1).is_empty());
    world.send(0, &packet(0, 2, b"now it does"));
    world.tick(0, Duration::from_millis(200));
    assert_eq!(
        world.take(1).len(),
        1,
        "what waited for the session arrives"
    );
}

#[test]
fn a_packet_waits_until_the_relay_has_called() {
    let mut world = World::new(3);
    let relays = vec![RelayChannel {
        channel: 9,
        members: [world.key(0), world.key(1)],
    }];
    let members = vec![world.direct(0), world.passive(1)];
    let relay = Snapshot {
        peers: members,
        relays,
    };
    world.apply(2, &relay).unwrap();
    let waits = peers(vec![world.passive(2), world.relayed(1, 2, 9)]);
    world.apply(0, &waits).unwrap();
    let calls = peers(vec![world.direct(2), world.relayed(0, 2, 9)]);
    world.apply(1, &calls).unwrap();
    world.send(1, &packet(1, 2, b"node 1 is known to the relay"));

    world.send(0, &packet(0, 1, b"where is the relay?"));
    assert!(world.take(1).is_empty());
    world.send(2, &packet(2, 0, b"here"));
    world.tick(0, Duration::from_millis(200));
    let arrived = world.take(1);
    assert_eq!(arrived, [packet(0, 1, b"where is the relay?")]);
}

#[test]
fn a_peer_cannot_speak_from_another_peers_prefix() {
    let mut world = World::new(3);
    let both = vec![world.passive(1), world.passive(2)];
    world.apply(0, &peers(both)).unwrap();
    world.apply(1, &peers(vec![world.direct(0)])).unwrap();
    world.send(1, &packet(2, 0, b"as if from node 2"));
    assert!(world.take(0).is_empty());
    assert_eq!(world.dropped(0, DropReason::WrongSource), 1);
}

#[test]
fn handshakes_go_on_for_ever_and_not_only_ten_times() {
    let mut world = pair();
    for round in 0..30 {
        // The initiator forgets everything; a fresh handshake must be answered each time.
        world.apply(1, &Snapshot::default()).unwrap();
        world.apply(1, &peers(vec![world.direct(0)])).unwrap();
        world.send(1, &packet(1, 0, b"again"));
        assert_eq!(world.take(0).len(), 1, "round {round}");
        // At most ten handshakes of a peer are answered in a second.
        world.tick(0, Duration::from_millis(150));
    }
}

#[test]
fn an_unchanged_configuration_leaves_a_roamed_endpoint_alone_and_a_changed_one_does_not() {
    let mut world = World::new(2);
    world.apply(0, &peers(vec![world.direct(1)])).unwrap();
    world.apply(1, &peers(vec![world.direct(0)])).unwrap();
    let roamed: SocketAddr = "198.51.100.9:4242".parse().unwrap();
    let home = world.nodes[1].address;
    let known = peers(vec![world.direct(1)]);
    world.nodes[1].address = roamed;
    world.send(1, &packet(1, 0, b"from elsewhere"));
    world.apply(0, &known).unwrap();
    assert_eq!(world.counters(0).peers[0].endpoint, Some(roamed));
    let elsewhere = PathConfig::Direct("203.0.113.77:51820".parse().unwrap());
    let moved = peers(vec![peer(world.key(1), 1, elsewhere)]);
    world.apply(0, &moved).unwrap();
    assert_eq!(
        world.counters(0).peers[0].endpoint,
        Some("203.0.113.77:51820".parse().unwrap())
    );
    assert_ne!(home, roamed);
}

#[test]
fn a_configured_address_is_not_an_authenticated_one() {
    let mut world = World::new(3);
    let relays = vec![RelayChannel {
        channel: 9,
        members: [world.key(0), world.key(1)],
    }];
    let configured = vec![world.direct(0), world.direct(1)];
    world
        .apply(
            2,
            &Snapshot {
                peers: configured,
                relays,
            },
        )
        .unwrap();
    let frame = [&relay::header(9)[..], &[4; 64]].concat();
    let from = world.nodes[0].address;
    world.throw(2, from, &frame);
    assert_eq!(world.dropped(2, DropReason::RelayRefused), 1);
    assert!(world.seen.is_empty());
}

#[test]
fn two_peers_on_one_channel_of_a_relay_are_refused() {
    let world = World::new(4);
    let twice = vec![
        world.direct(1),
        world.relayed(2, 1, 9),
        world.relayed(3, 1, 9),
    ];
    assert_eq!(
        world.apply(0, &peers(twice)),
        Err(SnapshotError::DuplicateChannel(9))
    );
}

#[test]
fn a_channel_that_is_relayed_here_and_leads_through_a_member_is_refused() {
    let world = World::new(4);
    let snapshot = |channel| Snapshot {
        peers: vec![
            world.direct(1),
            world.direct(2),
            world.relayed(3, 1, channel),
        ],
        relays: vec![RelayChannel {
            channel: 9,
            members: [world.key(1), world.key(2)],
        }],
    };
    assert_eq!(
        world.apply(0, &snapshot(9)),
        Err(SnapshotError::AmbiguousChannel(9))
    );
    assert_eq!(world.apply(0, &snapshot(10)), Ok(()));
}

#[test]
fn a_frame_is_never_sent_back_to_where_it_came_from() {
    let mut world = triangle();
    let shared = world.nodes[0].address;
    // Node 1 speaks to the relay from the address of node 0.
    world.act(1, |plane, now| {
        plane.handle_packet(&packet(1, 2, b"x"), now)
    });
    let datagram = world.flights.pop_front().unwrap().bytes;
    world.throw(2, shared, &datagram);
    world.flights.clear();
    world.seen.clear();
    let before = world.dropped(2, DropReason::RelayRefused);
    world.throw(2, shared, &[&relay::header(9)[..], &[4; 64]].concat());
    assert!(world.seen.is_empty());
    assert_eq!(world.dropped(2, DropReason::RelayRefused), before + 1);
}
