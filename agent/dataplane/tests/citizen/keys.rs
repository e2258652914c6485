//! Keys that change, and keys that are none.

use pnsbox_dataplane::SnapshotError;
use pnsbox_dataplane::{PeerConfig, Snapshot, public_key};

use crate::net::{OUTER_A, OUTER_B};
use crate::node::{INTERFACE, Node};
use crate::pair::{A, A6, B, B6, MTU, Pair};
use crate::table::{check, exactly};

#[test]
fn a_changed_key_is_used_at_once_and_the_old_one_is_dead() {
    let pair = Pair::up();
    assert_eq!(pair.ping("b", 1, "", A), 1);
    let mut renewed = pair.b_at(OUTER_B);
    renewed.public_key = public_key(&[77; 32]);
    pair.a.set(vec![renewed]);
    exactly("pings with the old key", 0, pair.ping("b", 2, "-W 1", A));
    let known = pair.a_at(OUTER_A);
    let Pair { a, b, net } = pair;
    drop(b);
    let inner = [format!("{B}/24"), format!("{B6}/64")];
    let b = Node::up(&net, "b", 77, &[&inner[0], &inner[1]], MTU);
    b.set(vec![known]);
    let begun = std::time::Instant::now();
    let pair = Pair { a, b, net };
    exactly("pings with the new key", 1, pair.ping("b", 1, "-W 1", A6));
    let took = begun.elapsed().as_secs_f64();
    check("after, s", "< 1", took, took < 1.0);
    exactly(
        "handshakes with it",
        1,
        pair.a.peer(pair.b.key()).handshakes,
    );
}

/// Public keys whose shared secret everybody knows: the points of low order on Curve25519 and their twins
/// (RFC 7748 section 6.1; the list is that of cr.yp.to/ecdh.html).
const LOW_ORDER: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

#[test]
fn keys_of_low_order_and_our_own_emit_nothing() {
    let pair = Pair::strangers(MTU);
    pair.net
        .ip("a", &format!("route add 10.77.0.0/16 dev {INTERFACE}"));
    for (number, hex) in LOW_ORDER.iter().enumerate() {
        let mut public_key = [0; 32];
        for (place, byte) in public_key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * place..][..2], 16).unwrap();
        }
        let peer = PeerConfig {
            public_key,
            allowed_prefixes: vec!["10.77.0.0/16".parse().unwrap()],
            persistent_keepalive: Some(std::time::Duration::from_secs(1)),
            ..pair.b_at(OUTER_B)
        };
        pair.a.set(vec![peer]);
        exactly("pings to it", 0, pair.ping("a", 1, "-W 1", "10.77.0.1"));
        let workers = pair.a.plane.counters().workers;
        let sent: u64 = workers.iter().map(|worker| worker.udp_sent_datagrams).sum();
        exactly(
            &format!("datagrams for low-order key {}", number + 1),
            0,
            sent,
        );
    }
    let own = PeerConfig {
        public_key: pair.a.key(),
        ..pair.b_at(OUTER_B)
    };
    let (peers, relays) = (vec![own], Vec::new());
    let outcome = pair.a.plane.apply(Snapshot { peers, relays });
    exactly("our own key as a peer", Err(SnapshotError::OwnKey), outcome);
}
