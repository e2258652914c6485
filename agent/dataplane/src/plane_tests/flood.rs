//! A flood of handshakes at a node: its cookies leave to where the flood seems to come from, its peers notice nothing.

use super::*;

/// As many initiations as strangers may send at once and some more, each from another false source.
/// They are made by somebody whom nobody knows; their first MACs are right.
fn flood(world: &mut World, to: usize) {
    let mut stranger = MemoryPlane::new(
        [99; 32],
        ProtocolCore::Native,
        DscpPolicy::default(),
        1380,
        1,
        world.now,
    );
    let known = peers(vec![world.direct(to)]);
    for number in 0..1_200u16 {
        stranger.apply(&Snapshot::default(), world.now).unwrap();
        stranger.apply(&known, world.now).unwrap();
        let sent = stranger.handle_packet(&packet(99, to, b""), world.now);
        let [a, b] = number.to_be_bytes();
        let source = SocketAddr::from(([198, 18, a, b], 51820));
        world.throw(to, source, &sent.datagrams[0].1);
    }
}

fn kinds(world: &World, from: usize, to: usize) -> Vec<u8> {
    let [from, to] = [from, to].map(|node| world.nodes[node].address);
    let seen = world.seen.iter();
    seen.filter(|(f, t, _)| (*f, *t) == (from, to))
        .map(|(.., bytes)| bytes[0])
        .collect()
}

#[test]
fn under_a_flood_a_peer_begins_anew_without_a_cookie_and_a_stranger_with_one() {
    let mut world = World::new(3);
    let both = peers(vec![world.passive(1), world.passive(2)]);
    world.apply(0, &both).unwrap();
    let hub = peers(vec![world.direct(0)]);
    world.apply(1, &hub).unwrap();
    world.apply(2, &hub).unwrap();
    world.send(1, &packet(1, 0, b"known"));
    world.tick(0, Duration::from_millis(200));

    world.seen.clear();
    flood(&mut world, 0);
    assert_eq!(world.seen.len(), 200, "who has no budget gets a cookie");
    assert!(
        world
            .seen
            .iter()
            .all(|(.., bytes)| (bytes[0], bytes.len()) == (3, 64))
    );
    let unproved = |(_, to, _): &(_, SocketAddr, _)| to.to_string().starts_with("198.18.");
    assert!(world.seen.iter().all(unproved));
    assert_eq!(world.dropped(0, DropReason::UnknownPeer), 1_000);
    assert_eq!(world.dropped(0, DropReason::RateLimited), 200);

    world.apply(1, &Snapshot::default()).unwrap();
    world.apply(1, &hub).unwrap();
    world.send(1, &packet(1, 0, b"anew"));
    assert_eq!(kinds(&world, 0, 1)[..1], [2], "a response at once");
    world.send(2, &packet(2, 0, b"from a stranger"));
    assert_eq!(
        kinds(&world, 0, 2)[..2],
        [3, 2],
        "a cookie, then a response"
    );
    assert_eq!(kinds(&world, 2, 0)[..2], [1, 1]);
    assert_eq!(world.take(0).len(), 3, "nobody lost a packet");
}
