//! Either IP inside either IP, with a small and a large MTU; and many streams at once.

use crate::net::{OUTER_A, OUTER_B};
use crate::pair::{A, A6, B, B6, OUTER_A6, OUTER_B6, Pair, alone, iperf};
use crate::table::{check, exactly};

fn every_family(mtu: u16) {
    let _alone = alone();
    let pair = Pair::strangers(mtu);
    for (outer, a, b) in [("v4", OUTER_A, OUTER_B), ("v6", OUTER_A6, OUTER_B6)] {
        pair.meet(a, b);
        for (inner, to, back, header) in [("v4", B, A, 28), ("v6", B6, A6, 48)] {
            let what = |what: &str| format!("{inner} in {outer}, MTU {mtu}: {what}");
            let largest = format!("-W 10 -M do -s {}", mtu - header);
            exactly(
                &what("largest pings of 5 there"),
                5,
                pair.ping("a", 5, &largest, to),
            );
            exactly(&what("and back"), 5, pair.ping("b", 5, &largest, back));
            let tcp = iperf(&pair.net, "a", "b", to, "-t 1");
            check(&what("TCP, Mbit/s"), "> 50", tcp, tcp > 50.0);
            let udp = iperf(&pair.net, "b", "a", back, "-u -b 20M -t 1");
            check(&what("20 Mbit/s of UDP, Mbit/s"), "> 15", udp, udp > 15.0);
        }
    }
    let (a, b) = (pair.a.peer(pair.b.key()), pair.b.peer(pair.a.key()));
    let endpoints = [a, b].map(|peer| peer.endpoint.unwrap().is_ipv6());
    exactly("both ended at an IPv6 endpoint", [true; 2], endpoints);
}

#[test]
fn either_ip_in_either_ip_with_a_small_mtu() {
    every_family(1280);
}

#[test]
fn either_ip_in_either_ip_with_a_large_mtu() {
    every_family(34_816);
}

#[test]
fn fifty_streams_at_once() {
    let _alone = alone();
    let pair = Pair::up();
    let there = iperf(&pair.net, "a", "b", B, "-P 50 -t 2");
    check("50 TCP streams, Mbit/s", "> 50", there, there > 50.0);
    let back = iperf(&pair.net, "a", "b", B6, "-P 50 -t 2 -R");
    check("50 TCP streams back, Mbit/s", "> 50", back, back > 50.0);
    exactly(
        "handshakes for all of them",
        1,
        pair.a.peer(pair.b.key()).handshakes,
    );
}
