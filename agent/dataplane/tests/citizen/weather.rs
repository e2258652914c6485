//! A wire that repeats and changes datagrams: TCP comes through whole, and what was changed is only counted.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};

use pnsbox_dataplane::DropReason;

use crate::net::UPLINK;
use crate::pair::{A, B, Pair};
use crate::table::{check, exactly};

const BYTES: usize = 20 << 20;

/// A byte at every place that shows where it belongs.
fn content() -> Vec<u8> {
    (0..BYTES as u32)
        .map(|place| (place.wrapping_mul(0x9e37_79b9) >> 24) as u8)
        .collect()
}

fn transfer(pair: &Pair) -> bool {
    let listener = pair
        .net
        .enter("b", || TcpListener::bind((B, 5001)).unwrap());
    let mut client = pair
        .net
        .enter("a", || TcpStream::connect((B, 5001)).unwrap());
    let (mut server, _) = listener.accept().unwrap();
    let sent = content();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            client.write_all(&sent).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::with_capacity(BYTES);
        server.read_to_end(&mut received).unwrap();
        received == sent
    })
}

fn nft(pair: &Pair, side: &str, commands: &[&str]) {
    for command in commands {
        let outcome = pair.net.run(side, &format!("nft {command}"));
        assert!(outcome.status.success(), "{command}: {outcome:?}");
    }
}

#[test]
fn what_the_wire_changes_is_dropped_and_counted() {
    let pair = Pair::up();
    assert_eq!(pair.ping("a", 1, "", B), 1);
    let hook =
        format!("add chain netdev w c {{ type filter hook ingress device {UPLINK} priority 0 ; }}");
    // A byte of the ciphertext, in one datagram of a hundred.
    let change =
        "add rule netdev w c udp dport 51820 numgen random mod 100 == 0 @th,800,8 set 0x5a counter";
    pair.net
        .ip("a", &format!("link set {UPLINK} gso_max_segs 1"));
    nft(&pair, "b", &["add table netdev w", &hook, change]);
    exactly("20 MiB come as they were sent", true, transfer(&pair));
    let said = pair.net.run("b", "nft list chain netdev w c").stdout;
    let said = String::from_utf8(said).unwrap();
    let changed = said
        .split("packets ")
        .nth(1)
        .and_then(|t| t.split(' ').next());
    let changed: u64 = changed.unwrap().parse().unwrap();
    let dropped = pair.b.dropped(DropReason::InvalidDatagram);
    // The byte may have been that already.
    let is_right = dropped > 50 && (changed * 9 / 10..=changed).contains(&dropped);
    check(
        "changed on the wire, dropped as invalid_datagram",
        "> 50, all but one of 256",
        format!("{changed}, {dropped}"),
        is_right,
    );
    exactly("handshakes", 1, pair.a.peer(pair.b.key()).handshakes);
    exactly(
        "malformed packets",
        0,
        pair.b.dropped(DropReason::MalformedPacket),
    );
}

#[test]
fn what_the_wire_repeats_is_delivered_once() {
    let pair = Pair::up();
    assert_eq!(pair.ping("a", 1, "", B), 1);
    // Whatever leaves, leaves twice; the mark tells the copy.
    let hook =
        format!("add chain netdev w c {{ type filter hook egress device {UPLINK} priority 0 ; }}");
    let repeat =
        format!("add rule netdev w c udp dport 51820 meta mark 0 meta mark set 1 dup to {UPLINK}");
    nft(&pair, "a", &["add table netdev w", &hook, &repeat]);
    let before = pair.b.dropped(DropReason::InvalidDatagram);
    let delivered = pair.b.peer(pair.a.key()).rx_packets;
    exactly("pings answered", 200, pair.ping("a", 200, "-W 10", B));
    let repeated = pair.b.dropped(DropReason::InvalidDatagram) - before;
    check(
        "repeated, and dropped as invalid_datagram",
        ">= 200",
        repeated,
        repeated >= 200,
    );
    exactly(
        "delivered",
        200,
        pair.b.peer(pair.a.key()).rx_packets - delivered,
    );
    exactly("20 MiB come as they were sent", true, transfer(&pair));
    assert_eq!(pair.ping("b", 1, "", A), 1);
}
