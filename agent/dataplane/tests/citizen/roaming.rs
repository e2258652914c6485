//! A peer goes where it is heard from: to another address, another family, another port behind a NAT.

use std::time::Duration;

use pnsbox_dataplane::PathConfig;

use crate::net::{Net, OUTER_A, OUTER_B, UPLINK};
use crate::node::{Node, PORT, at, peer};
use crate::pair::{A, B, OUTER_A6, OUTER_B6, Pair, ping};
use crate::table::{check, exactly};

fn endpoint_of_b(pair: &Pair) -> String {
    let endpoint = pair.a.peer(pair.b.key()).endpoint.unwrap();
    endpoint.ip().to_string()
}

#[test]
fn a_peer_roams_within_and_between_families() {
    let pair = Pair::up();
    let heard = |what: &str, expected: &str| {
        assert_eq!(pair.ping("b", 1, "", A), 1, "{what}");
        exactly(what, expected.to_owned(), endpoint_of_b(&pair));
        exactly(&format!("{what}: and back"), 1, pair.ping("a", 1, "", B));
    };
    heard("at home", OUTER_B);
    pair.net
        .ip("b", &format!("address del {OUTER_B}/24 dev {UPLINK}"));
    pair.net
        .ip("b", &format!("address add 192.0.2.7/24 dev {UPLINK}"));
    heard("another IPv4 address", "192.0.2.7");
    pair.b.set(vec![pair.a_at(OUTER_A6)]);
    heard("from IPv4 to IPv6", OUTER_B6);
    pair.net
        .ip("b", &format!("address del {OUTER_B6}/64 dev {UPLINK}"));
    pair.net.ip(
        "b",
        &format!("address add 2001:db8::7/64 dev {UPLINK} nodad"),
    );
    heard("another IPv6 address", "2001:db8::7");
    pair.b.set(vec![pair.a_at(OUTER_A)]);
    heard("from IPv6 to IPv4", "192.0.2.7");
    exactly(
        "handshakes for all of it",
        1,
        pair.a.peer(pair.b.key()).handshakes,
    );
}

/// A node behind a NAT that gives a random port and forgets after two seconds.
struct Behind {
    net: Net,
    a: Node,
    b: Node,
}

impl Behind {
    fn up(keepalives: [Option<Duration>; 2]) -> Self {
        let net = Net::of(&["a", "nat", "b"]);
        let pair = |a: &str, b: &str| [format!("{a}/24"), format!("{b}/24")];
        net.veth(["a", "nat"], "u0", pair("192.0.2.1", "192.0.2.9"));
        net.veth(["nat", "b"], "u1", pair("10.0.0.1", "10.0.0.2"));
        net.ip("b", "route add default via 10.0.0.1");
        for command in [
            "sysctl -qw net.ipv4.ip_forward=1",
            "nft add table ip nat",
            "nft add chain ip nat post { type nat hook postrouting priority srcnat ; }",
            "nft add rule ip nat post oifname u0 masquerade fully-random",
            "sysctl -qw net.netfilter.nf_conntrack_udp_timeout=2",
            "sysctl -qw net.netfilter.nf_conntrack_udp_timeout_stream=2",
        ] {
            let outcome = net.run("nat", command);
            assert!(outcome.status.success(), "{command}: {outcome:?}");
        }
        let a = Node::up(&net, "a", 1, &["10.200.0.1/24"], 1420);
        let b = Node::up(&net, "b", 2, &["10.200.0.2/24"], 1420);
        let mut known_to_a = peer(b.key(), &["10.200.0.2/32"], PathConfig::Passive);
        let path = at(&format!("192.0.2.1:{PORT}"));
        let mut known_to_b = peer(a.key(), &["10.200.0.1/32"], path);
        [
            known_to_a.persistent_keepalive,
            known_to_b.persistent_keepalive,
        ] = keepalives;
        a.set(vec![known_to_a]);
        b.set(vec![known_to_b]);
        let behind = Self { net, a, b };
        assert_eq!(ping(&behind.net, "b", 1, "-W 5", A), 1);
        behind
    }

    fn port(&self) -> u16 {
        self.a.peer(self.b.key()).endpoint.unwrap().port()
    }

    /// Longer than the NAT remembers.
    fn idle(&self) {
        std::thread::sleep(Duration::from_millis(4_200));
    }
}

#[test]
fn a_nat_that_forgets_is_bound_anew_by_the_next_packet() {
    let behind = Behind::up([None, None]);
    let before = behind.port();
    behind.idle();
    exactly(
        "an idle NAT lets nothing in",
        0,
        ping(&behind.net, "a", 1, "-W 1", B),
    );
    let back = ping(&behind.net, "b", 1, "-W 10", A);
    exactly("the inside's next packet is answered", 1, back);
    let port = behind.port();
    check(
        "another port of the NAT",
        format!("not {before}"),
        port,
        port != before,
    );
    exactly("handshakes", 1, behind.b.peer(behind.a.key()).handshakes);
    exactly(
        "and the outside reaches it there",
        1,
        ping(&behind.net, "a", 1, "-W 10", B),
    );
}

#[test]
fn a_keepalive_holds_a_nat_open_and_two_do_not_fight() {
    let second = Some(Duration::from_secs(1));
    let behind = Behind::up([second, second]);
    let before = behind.port();
    behind.idle();
    exactly(
        "an idle NAT is open",
        1,
        ping(&behind.net, "a", 1, "-W 10", B),
    );
    exactly("the NAT's port is the same", before, behind.port());
    let handshakes = [behind.a.peer(behind.b.key()), behind.b.peer(behind.a.key())];
    exactly(
        "handshakes at both",
        [1, 1],
        handshakes.map(|peer| peer.handshakes),
    );
}
