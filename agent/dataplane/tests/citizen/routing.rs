//! Which packets belong to whom: allowed prefixes on the way out and in, many of them, and a route that leads back.

use std::time::Instant;

use pnsbox_dataplane::{DropReason, PathConfig, PeerConfig};

use crate::net::{OUTER_A, OUTER_B};
use crate::node::{INTERFACE, PORT, at, peer};
use crate::pair::{A, B, Pair};
use crate::table::{check, exactly};

#[test]
fn a_source_that_is_not_the_peers_is_dropped_and_counted() {
    let pair = Pair::up();
    pair.net
        .ip("b", &format!("address add 10.200.0.77/32 dev {INTERFACE}"));
    assert_eq!(pair.ping("b", 1, "", A), 1);
    let dropped = || pair.a.dropped(DropReason::WrongSource);
    let how = "-W 1 -I 10.200.0.77";
    exactly("pings from no peer's address", 0, pair.ping("b", 3, how, A));
    exactly("dropped as wrong_source", 3, dropped());

    // B's prefix holds the source, a longer one of somebody else does too.
    let wide = peer(
        pair.b.key(),
        &["10.200.0.0/24"],
        at(&format!("{OUTER_B}:{PORT}")),
    );
    let inside = peer([9; 32], &["10.200.0.64/26"], PathConfig::Passive);
    pair.a.set(vec![wide.clone(), inside]);
    exactly(
        "pings from a part that is another's",
        0,
        pair.ping("b", 3, how, A),
    );
    exactly("dropped as wrong_source, too", 6, dropped());
    exactly("pings from the rest", 1, pair.ping("b", 1, "", A));
    pair.a.set(vec![wide]);
    exactly(
        "pings when the part is nobody else's",
        3,
        pair.ping("b", 3, how, A),
    );
}

#[test]
fn a_route_to_the_peer_through_the_tunnel_makes_no_loop() {
    let pair = Pair::up();
    let all = |node: PeerConfig| PeerConfig {
        allowed_prefixes: vec!["0.0.0.0/0".parse().unwrap()],
        ..node
    };
    pair.a.set(vec![all(pair.b_at(OUTER_B))]);
    pair.b.set(vec![all(pair.a_at(OUTER_A))]);
    assert_eq!(pair.ping("a", 1, "", B), 1);
    let sent = || pair.a.peer(pair.b.key()).tx_wire_bytes;
    let before = sent();
    pair.net
        .ip("a", &format!("route add {OUTER_B}/32 dev {INTERFACE}"));
    pair.net
        .run("a", &format!("ping -nq -c 10 -f -W 1 -s 1000 {B}"));
    let leaked = sent() - before;
    check(
        "bytes of 10 flood pings into a loop",
        "< 70000",
        leaked,
        leaked < 70_000,
    );
    let looped = pair.a.dropped(DropReason::RoutingLoop);
    check("dropped as routing_loop", ">= 10", looped, looped >= 10);
    pair.net
        .ip("a", &format!("route del {OUTER_B}/32 dev {INTERFACE}"));
    exactly("pings without that route", 1, pair.ping("a", 1, "", B));

    // With no session it is handshakes that would go round.
    pair.b.set(Vec::new());
    pair.a.set(Vec::new());
    pair.a.set(vec![all(pair.b_at(OUTER_B))]);
    pair.net
        .ip("a", &format!("route add {OUTER_B}/32 dev {INTERFACE}"));
    std::thread::sleep(std::time::Duration::from_millis(300));
    pair.net
        .run("a", &format!("ping -nq -c 10 -f -W 1 -s 1000 {B}"));
    let leaked = sent();
    check(
        "bytes without a session",
        "<= 296",
        leaked,
        leaked <= 2 * 148,
    );
}

#[test]
fn many_prefixes_and_many_peers_are_told_apart() {
    let pair = Pair::up();
    let begun = Instant::now();
    let every = |first: u8| {
        let two = (0..255).flat_map(|b| (0..=255).map(move |c| (b, c)));
        let v4 = two
            .clone()
            .map(move |(b, c)| format!("{first}.{b}.{c}.0/24"));
        let v6 = two.map(move |(b, c)| format!("fd{first:02x}:{b:x}:{c:x}::/48"));
        v4.chain(v6)
    };
    let mut known = pair.b_at(OUTER_B);
    let prefixes = every(11).map(|prefix| prefix.parse::<ipnet::IpNet>().unwrap());
    known.allowed_prefixes.extend(prefixes);
    let count = known.allowed_prefixes.len() - 2;
    let mut peers = vec![known];
    for number in 0..40u8 {
        let nets = (0..52).map(|net| format!("12.{number}.{net}.0/24").parse().unwrap());
        peers.push(PeerConfig {
            allowed_prefixes: nets.collect(),
            ..peer([100 + number; 32], &[], PathConfig::Passive)
        });
    }
    peers.extend((0..29u8).map(|number| peer([200 + number; 32], &[], PathConfig::Passive)));
    pair.a.set(peers);
    exactly("prefixes of one peer", 255 * 256 * 2, count);
    exactly("peers", 70, pair.a.plane.counters().peers.len());
    let took = begun.elapsed().as_secs_f64();
    check("the snapshot is applied, s", "< 5", took, took < 5.0);

    pair.net
        .ip("a", &format!("route add 11.0.0.0/8 dev {INTERFACE}"));
    pair.net
        .ip("a", &format!("route add 12.0.0.0/8 dev {INTERFACE}"));
    for (b, c) in [(0, 0), (254, 255), (17, 3)] {
        let address = format!("11.{b}.{c}.1");
        pair.net
            .ip("b", &format!("address add {address}/32 dev {INTERFACE}"));
        exactly(
            &format!("pings to {address}"),
            1,
            pair.ping("a", 1, "", &address),
        );
    }
    let before = [DropReason::NoEndpoint, DropReason::NoPeer].map(|reason| pair.a.dropped(reason));
    pair.ping("a", 1, "-W 1", "12.39.51.1");
    pair.ping("a", 1, "-W 1", "12.39.52.1");
    let after = [DropReason::NoEndpoint, DropReason::NoPeer].map(|reason| pair.a.dropped(reason));
    exactly(
        "to a peer without an endpoint, and to none",
        [1, 1],
        [after[0] - before[0], after[1] - before[1]],
    );
}
