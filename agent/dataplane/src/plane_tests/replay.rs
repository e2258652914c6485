//! What was on the wire comes again, in any order, and changed: nothing is delivered twice or wrong, all of it is counted.

use super::*;

/// Datagrams that are captured, all within the windows of both cores when they come in order.
const CAPTURED: usize = 20_000;
/// Datagrams of one receive, as the kernel merges equal ones.
const BURST: usize = 50;

/// Repeatable chance: SplitMix64 (Steele, Lea and Flood 2014).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as usize % end
    }

    fn shuffle<T>(&mut self, all: &mut [T]) {
        for place in (1..all.len()).rev() {
            all.swap(place, self.below(place + 1));
        }
    }
}

fn numbered(from: usize, to: usize, number: usize) -> Vec<u8> {
    packet(from, to, &number.to_be_bytes())
}

/// Seals so many packets of `from` for `to`, and lets none arrive.
fn capture(world: &mut World, from: usize, to: usize, count: usize) -> Vec<Vec<u8>> {
    world.seen.clear();
    for number in 0..count {
        let packet = numbered(from, to, number);
        world.act(from, |plane, now| plane.handle_packet(&packet, now));
    }
    world.flights.clear();
    let captured: Vec<_> = world.seen.drain(..).map(|(.., bytes)| bytes).collect();
    assert!(captured.iter().all(|datagram| datagram[0] == 4));
    assert_eq!(captured.len(), count);
    captured
}

/// Datagrams arrive in bursts; they are equally long.
fn arrive(world: &mut World, to: usize, from: SocketAddr, datagrams: &[&[u8]]) {
    for burst in datagrams.chunks(BURST) {
        let burst: Vec<(&[u8], u8)> = burst.iter().map(|datagram| (*datagram, 0)).collect();
        world.act(to, |plane, now| plane.handle_datagrams(&burst, from, now));
        world.seen.clear();
        world.flights.clear();
    }
}

fn all_dropped(world: &World, node: usize) -> u64 {
    world
        .counters(node)
        .drops
        .iter()
        .map(|(_, count)| count)
        .sum()
}

/// Replays all of it so often, in order, reversed and shuffled by turns, from where the sender is and from elsewhere.
fn replay(world: &mut World, to: usize, captured: &[Vec<u8>], rounds: usize, chance: &mut Chance) {
    let home = world.nodes[1 - to].address;
    let before = (world.counters(to).peers, all_dropped(world, to));
    let mut order: Vec<&[u8]> = captured.iter().map(Vec::as_slice).collect();
    for round in 0..rounds {
        match round % 3 {
            0 => order.sort_unstable_by_key(|datagram| datagram[8..16].to_vec()),
            1 => order.reverse(),
            _ => chance.shuffle(&mut order),
        }
        let elsewhere = SocketAddr::from(([198, 51, 100, 9], 4242));
        let from = if round % 2 == 0 { home } else { elsewhere };
        arrive(world, to, from, &order);
    }
    assert!(world.take(to).is_empty(), "delivered again");
    assert_eq!(
        world.counters(to).peers,
        before.0,
        "a replay changed the peer"
    );
    let again = (rounds * captured.len()) as u64;
    assert_eq!(all_dropped(world, to) - before.1, again, "each is counted");
}

/// A replay of so many rounds in a session, after it was renewed, after that again, and after a restart.
fn replays_at(to: usize, rounds: usize, seed: u64) {
    let mut chance = Chance(seed);
    let from = 1 - to;
    let mut world = World::new(2);
    world.apply(0, &peers(vec![world.direct(1)])).unwrap();
    world.apply(1, &peers(vec![world.direct(0)])).unwrap();
    world.send(from, &packet(from, to, b"up"));
    let handshake = world.seen.clone();
    world.take(to);

    let captured = capture(&mut world, from, to, CAPTURED);
    let home = world.nodes[from].address;
    let order: Vec<&[u8]> = captured.iter().map(Vec::as_slice).collect();
    arrive(&mut world, to, home, &order);
    let delivered = world.take(to);
    let sent = (0..CAPTURED).map(|number| numbered(from, to, number));
    assert!(delivered.into_iter().eq(sent), "each once, in order");
    replay(&mut world, to, &captured, rounds, &mut chance);

    for _ in 0..2 {
        renew(&mut world, from, to);
        replay(&mut world, to, &captured, rounds / 5, &mut chance);
    }
    // The initiation of before, too: its answer begins nothing, and the session in use stays.
    for (_, at, bytes) in handshake.iter().filter(|(.., bytes)| bytes[0] != 4) {
        let node = world.nodes.iter().position(|node| node.address == *at);
        let before = world.counters(node.unwrap()).peers;
        world.throw(node.unwrap(), "198.51.100.9:4242".parse().unwrap(), bytes);
        assert!(world.flights.is_empty(), "answered");
        assert_eq!(world.counters(node.unwrap()).peers, before);
    }
    world.send(from, &packet(from, to, b"still"));
    assert_eq!(world.take(to), [packet(from, to, b"still")]);

    restart(&mut world, to);
    replay(&mut world, to, &captured, rounds / 5, &mut chance);
}

/// The sender begins another session: ours when the old one has its age, boringtun, whose time is real, when it forgot it.
fn renew(world: &mut World, from: usize, to: usize) {
    let handshakes = world.counters(to).peers[0].handshakes;
    if core(from as u8) == ProtocolCore::Native {
        world.now += Duration::from_secs(125);
    } else {
        world.now += Duration::from_secs(1);
        let known = peers(vec![world.direct(to)]);
        world.apply(from, &Snapshot::default()).unwrap();
        world.apply(from, &known).unwrap();
    }
    world.send(from, &packet(from, to, b"renewed"));
    world.tick(from, Duration::ZERO);
    assert_eq!(world.take(to).len(), 1);
    assert_eq!(world.counters(to).peers[0].handshakes, handshakes + 1);
}

/// The node loses its memory; its indices are the same as before, as chance may have it.
fn restart(world: &mut World, node: usize) {
    let private = [node as u8 + 1; 32];
    let plane = MemoryPlane::new(
        private,
        core(node as u8),
        DscpPolicy::default(),
        1380,
        7,
        world.now,
    );
    world.nodes[node].plane = plane;
    let known = peers(vec![world.direct(1 - node)]);
    world.apply(node, &known).unwrap();
}

#[test]
fn of_a_million_replayed_datagrams_none_is_delivered() {
    // 32 rounds of 20,000, and three times six.
    replays_at(0, 32, 1);
}

#[test]
fn of_replayed_datagrams_boringtun_delivers_none_either() {
    replays_at(1, 10, 2);
}

#[test]
fn an_initiation_replayed_to_a_restarted_node_takes_no_session_over() {
    let mut world = pair();
    world.send(1, &packet(1, 0, b"up"));
    let initiation = world.seen[0].2.clone();
    restart(&mut world, 0);
    world.take(0);
    let elsewhere: SocketAddr = "198.51.100.9:4242".parse().unwrap();
    world.throw(0, elsewhere, &initiation);
    world.flights.clear();
    assert_eq!(world.counters(0).peers[0].handshakes, 0, "not completed");
    world.send(0, &packet(0, 1, b"nothing is sent in its session"));
    let home = world.nodes[1].address;
    assert!(
        world
            .seen
            .iter()
            .all(|(_, to, bytes)| *to != elsewhere || bytes[0] == 2)
    );
    assert_eq!(world.counters(0).peers[0].endpoint, Some(home));

    renew(&mut world, 1, 0);
    let before = world.counters(0).peers;
    world.throw(0, elsewhere, &initiation);
    assert_eq!(world.counters(0).peers, before, "the session in use stays");
    world.send(0, &packet(0, 1, b"to the peer"));
    assert_eq!(world.take(1).last(), Some(&packet(0, 1, b"to the peer")));
}

#[test]
fn a_datagram_changed_in_any_bit_is_dropped_and_counted_and_the_right_one_still_taken() {
    for to in [0, 1] {
        let mut world = World::new(2);
        world.apply(0, &peers(vec![world.direct(1)])).unwrap();
        world.apply(1, &peers(vec![world.direct(0)])).unwrap();
        let from = 1 - to;
        world.act(from, |plane, now| {
            plane.handle_packet(&packet(from, to, b"x"), now)
        });
        for step in ["initiation", "response", "data"] {
            let flight = world.flights.pop_front().unwrap();
            let at = world
                .nodes
                .iter()
                .position(|node| node.address == flight.to)
                .unwrap();
            // The second MAC of a handshake message counts only where a cookie is needed.
            let counts = flight.bytes.len() - if flight.bytes[0] == 4 { 0 } else { 16 };
            let before = (world.counters(at).peers, all_dropped(&world, at));
            let under_way = world.flights.len();
            for bit in 0..counts * 8 {
                let mut changed = flight.bytes.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                world.throw(at, flight.from, &changed);
                let answers = world.flights.len() - under_way;
                assert_eq!(answers, 0, "{step}: bit {bit}");
            }
            assert!(world.take(at).is_empty(), "{step}");
            assert_eq!(world.counters(at).peers, before.0, "{step}");
            assert_eq!(
                all_dropped(&world, at) - before.1,
                counts as u64 * 8,
                "{step}"
            );
            world.throw(at, flight.from, &flight.bytes);
        }
        world.settle();
        assert_eq!(world.take(to), [packet(from, to, b"x")]);
    }
}

#[test]
fn what_is_repeated_changed_and_overtaken_is_delivered_once_and_right() {
    for seed in 0..4 {
        let mut chance = Chance(seed);
        let mut world = pair();
        world.send(1, &packet(1, 0, b"up"));
        world.take(0);
        let captured = capture(&mut world, 1, 0, CAPTURED);
        // (place in time, datagram, whether it is right)
        let mut under_way = Vec::new();
        for (number, datagram) in captured.iter().enumerate() {
            for _ in 0..1 + chance.below(2) {
                under_way.push((number + chance.below(4_000), datagram.clone()));
            }
            if chance.below(4) == 0 {
                let mut changed = datagram.clone();
                changed[chance.below(datagram.len())] ^= 1 << chance.below(8);
                under_way.push((number + chance.below(4_000), changed));
            }
        }
        under_way.sort_by_key(|(at, _)| *at);
        let dropped = all_dropped(&world, 0);
        let order: Vec<&[u8]> = under_way
            .iter()
            .map(|(_, bytes)| bytes.as_slice())
            .collect();
        let home = world.nodes[1].address;
        arrive(&mut world, 0, home, &order);
        let mut delivered = world.take(0);
        delivered.sort_unstable();
        let sent = (0..CAPTURED).map(|number| numbered(1, 0, number));
        assert!(delivered.into_iter().eq(sent), "seed {seed}");
        let others = (order.len() - CAPTURED) as u64;
        assert_eq!(all_dropped(&world, 0) - dropped, others, "seed {seed}");
    }
}

#[test]
fn a_replayed_initiation_does_not_redirect_a_peer_with_a_configured_address() {
    let mut world = World::new(2);
    world.apply(0, &peers(vec![world.direct(1)])).unwrap();
    world.apply(1, &peers(vec![world.direct(0)])).unwrap();
    world.send(1, &packet(1, 0, b"up"));
    let initiation = world.seen[0].2.clone();
    restart(&mut world, 0);
    world.take(0);
    world.seen.clear();
    let (home, elsewhere) = (
        world.nodes[1].address,
        SocketAddr::from(([198, 51, 100, 9], 4242)),
    );
    world.throw(0, elsewhere, &initiation);
    let (_, answered, response) = &world.seen[0];
    assert_eq!((*answered, response[0]), (elsewhere, 2));
    assert_eq!(world.counters(0).peers[0].endpoint, Some(home));
    world.send(0, &packet(0, 1, b"to the peer"));
    assert_eq!(world.take(1).last(), Some(&packet(0, 1, b"to the peer")));
}

#[test]
fn a_tunnel_that_nobody_answers_returns_to_the_configured_address() {
    let mut world = World::new(2);
    world.apply(0, &peers(vec![world.direct(1)])).unwrap();
    world.apply(1, &peers(vec![world.direct(0)])).unwrap();
    let home = world.nodes[1].address;
    let roamed = SocketAddr::from(([198, 51, 100, 9], 4242));
    world.nodes[1].address = roamed;
    world.send(1, &packet(1, 0, b"from elsewhere"));
    assert_eq!(world.counters(0).peers[0].endpoint, Some(roamed));
    // It is home again, and nothing of it is heard.
    world.nodes[1].address = home;
    world.now += Duration::from_secs(200);
    world.send(0, &packet(0, 1, b"where are you?"));
    for _ in 0..200 {
        world.tick(0, Duration::from_secs(1));
    }
    assert_eq!(world.counters(0).peers[0].endpoint, Some(home));
    assert!(
        world.counters(0).peers[0].handshakes > 1,
        "and answers there"
    );
}
