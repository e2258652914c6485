//! When messages are on the wire, to the tick: what peers of other makers count on (whitepaper section 6.1).

use super::*;

/// Ticks come this often.
const TICK: Duration = Duration::from_millis(200);
/// Handshakes that are sent again wait up to a third of a second longer.
const JITTER: Duration = Duration::from_millis(333);

/// Nodes 0 and 2 speak with our core, whose time is the test's. The second begins.
fn ours() -> World {
    // So small an MTU needs no probes.
    let world = World::of(3, DscpPolicy::default(), 1280);
    world.apply(0, &peers(vec![world.passive(2)])).unwrap();
    world.apply(2, &peers(vec![world.direct(0)])).unwrap();
    world
}

/// What was sent: since when, by which node, which kind, how long.
type Sent = (Duration, usize, u8, usize);

/// Lets time pass, a tick at a time, with `act` at each; what was sent.
fn pass(
    world: &mut World,
    until: Duration,
    mut act: impl FnMut(&mut World, Duration),
) -> Vec<Sent> {
    let mut sent = Vec::new();
    let mut since = Duration::ZERO;
    loop {
        act(world, since);
        for node in [0, 2] {
            world.tick(node, Duration::ZERO);
        }
        for (from, _, bytes) in world.seen.drain(..) {
            let node = world.nodes.iter().position(|node| node.address == from);
            sent.push((since, node.unwrap(), bytes[0], bytes.len()));
        }
        if since >= until {
            return sent;
        }
        since += TICK;
        world.now += TICK;
    }
}

fn initiations(sent: &[Sent]) -> Vec<Duration> {
    let initiations = sent.iter().filter(|(_, _, kind, _)| *kind == 1);
    initiations.map(|(since, ..)| *since).collect()
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn within(what: &str, seen: Duration, least: Duration, more: Duration) {
    assert!(
        least <= seen && seen <= least + more + TICK,
        "{what}: {seen:?}"
    );
}

#[test]
fn a_session_in_use_is_renewed_after_120_seconds_by_who_began_it() {
    let mut world = ours();
    let sent = pass(&mut world, seconds(300), |world, _| {
        for (from, to) in [(0, 2), (2, 0)] {
            world.send(from, &packet(from, to, b"talk"));
        }
    });
    let initiations = initiations(&sent);
    assert_eq!(initiations.len(), 3, "{initiations:?}");
    within("the second", initiations[1], seconds(120), Duration::ZERO);
    within(
        "the third",
        initiations[2],
        initiations[1] + seconds(120),
        Duration::ZERO,
    );
    let by: Vec<_> = sent
        .iter()
        .filter(|sent| sent.2 == 1)
        .map(|sent| (sent.1, sent.3))
        .collect();
    assert_eq!(by, [(2, 148); 3]);
    assert!(
        sent.iter()
            .filter(|sent| sent.2 == 4)
            .all(|sent| sent.3 % 16 == 0),
        "padded"
    );
}

#[test]
fn an_initiation_is_sent_again_after_5_seconds_and_jitter_for_90_seconds() {
    let mut world = ours();
    world.nodes[0].address = "203.0.113.77:1".parse().unwrap();
    let sent = pass(&mut world, seconds(90), |world, since| {
        if since.is_zero() {
            world.send(2, &packet(2, 0, b"anybody?"));
        }
    });
    let initiations = initiations(&sent);
    assert!(
        (16..=18).contains(&initiations.len()),
        "{}",
        initiations.len()
    );
    let pauses: Vec<_> = initiations
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .collect();
    for pause in &pauses {
        within("a pause", *pause, seconds(5), JITTER);
    }
    assert!(
        pauses.iter().any(|pause| *pause != pauses[0]),
        "jitter: {pauses:?}"
    );
    assert_eq!(sent.len(), initiations.len(), "and nothing else is sent");
}

#[test]
fn data_is_answered_after_10_seconds_by_32_bytes_and_those_by_nothing() {
    let mut world = ours();
    let sent = pass(&mut world, seconds(60), |world, since| {
        if since.is_zero() {
            world.send(2, &packet(2, 0, b"listen"));
        }
    });
    let later: Vec<_> = sent.iter().filter(|sent| !sent.0.is_zero()).collect();
    assert_eq!(later.len(), 1, "{later:?}");
    let (since, node, kind, length) = *later[0];
    assert_eq!((node, kind, length), (0, 4, 32));
    within("the keepalive", since, seconds(10), Duration::ZERO);
}

#[test]
fn data_without_an_answer_begins_a_handshake_after_15_seconds() {
    let mut world = ours();
    world.send(2, &packet(2, 0, b"hello"));
    world.send(0, &packet(0, 2, b"hello"));
    world.seen.clear();
    world.nodes[0].address = "203.0.113.77:1".parse().unwrap();
    let sent = pass(&mut world, seconds(18), |world, since| {
        if since.is_zero() {
            world.send(2, &packet(2, 0, b"still there?"));
        }
    });
    let initiations = initiations(&sent);
    assert_eq!(initiations.len(), 1);
    within("the handshake", initiations[0], seconds(15), JITTER);
}

#[test]
fn a_session_is_refused_after_180_seconds() {
    let mut world = ours();
    world.send(2, &packet(2, 0, b"up"));
    world.take(0);
    let mut late = Vec::new();
    for payload in [b"in time", b"too old"] {
        world.seen.clear();
        let packet = packet(2, 0, payload);
        world.act(2, |plane, now| plane.handle_packet(&packet, now));
        late.push(world.seen.pop().unwrap().2);
    }
    world.flights.clear();
    let home = world.nodes[2].address;
    world.now += seconds(180) - Duration::from_millis(1);
    world.throw(0, home, &late[0]);
    assert_eq!(world.take(0), [packet(2, 0, b"in time")]);
    world.now += Duration::from_millis(1);
    world.throw(0, home, &late[1]);
    assert!(world.take(0).is_empty());
    assert_eq!(world.dropped(0, DropReason::InvalidDatagram), 1);
}
