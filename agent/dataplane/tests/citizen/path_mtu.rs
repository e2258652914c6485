//! Paths narrower than the tunnel, behind routers that tell nobody: everything arrives, and the size that passes is found.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use pnsbox_dataplane::PathConfig;

use crate::net::{Net, wait};
use crate::node::{Node, at, peer};
use crate::table::check;

/// Of every interface of a tunnel, as a box has it by default.
const MTU: u16 = 1380;
/// How long anything may take, in seconds.
const LIMIT: u64 = 5;
/// What a large transfer has, in bytes.
const MUCH: usize = 10_000_000;
/// A TLS ClientHello with a post-quantum key share, in bytes: more than one packet.
const HELLO: usize = 2048;

/// Two boxes, and between them two routers that tell nobody what is too big.
struct World {
    net: Net,
    a: Node,
    b: Node,
}

/// Addresses of both boxes inside.
const INNER: [[&str; 2]; 2] = [["10.200.0.1", "10.200.0.2"], ["fd00::1", "fd00::2"]];

impl World {
    /// `is_v6`: the outer path is IPv6. `mtu` is that of the link between the routers.
    fn up(is_v6: bool, mtu: u16) -> Self {
        let net = routed(is_v6);
        let start = |side, number, end: usize| {
            let [v4, v6] = INNER.map(|ends| ends[end]);
            Node::up(
                &net,
                side,
                number,
                &[&format!("{v4}/24"), &format!("{v6}/64")],
                MTU,
            )
        };
        let (a, b) = (start("a", 1, 0), start("b", 2, 1));
        let world = Self { net, a, b };
        world.narrow(mtu);
        let there = outer(is_v6, 3, 2);
        let there = if is_v6 {
            format!("[{there}]:51820")
        } else {
            format!("{there}:51820")
        };
        let known = |node: &Node, end: usize, path| {
            let [v4, v6] = INNER.map(|ends| ends[end]);
            vec![peer(
                node.key(),
                &[&format!("{v4}/32"), &format!("{v6}/128")],
                path,
            )]
        };
        world.b.set(known(&world.a, 0, PathConfig::Passive));
        world.a.set(known(&world.b, 1, at(&there)));
        world
    }

    fn narrow(&self, mtu: u16) {
        for side in ["r", "s"] {
            self.net.ip(side, &format!("link set m0 mtu {mtu}"));
        }
    }

    fn await_path_mtu(&self, expected: u16) {
        let known = || self.a.peer(self.b.key()).path_mtu;
        wait(&format!("path MTU {expected}"), || {
            known() == Some(expected)
        });
    }

    /// Does what the agent does with a path MTU.
    fn route(&self, inner: [&str; 2], mtu: u16) {
        for (side, to) in [("a", inner[1]), ("b", inner[0])] {
            self.net
                .ip(side, &format!("route replace {to} dev t0 mtu {mtu}"));
        }
    }

    /// Sends so many bytes from a to b and back; how long that took. `midway` is done when half of the way there is done.
    fn exchange(&self, inner: [&str; 2], bytes: usize, midway: impl FnOnce() + Send) -> Duration {
        let to: SocketAddr = SocketAddr::new(inner[1].parse().unwrap(), 7000);
        let listener = self.net.enter("b", || TcpListener::bind(to).unwrap());
        let sent: Vec<u8> = (0..bytes).map(|i| (i * 7 + i / 251) as u8).collect();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                stream
                    .set_read_timeout(Some(Duration::from_secs(20)))
                    .unwrap();
                let mut bytes = vec![0; bytes];
                stream.read_exact(&mut bytes).unwrap();
                stream.write_all(&bytes).unwrap();
            });
            let mut stream = self.net.enter("a", || TcpStream::connect(to).unwrap());
            stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            stream.write_all(&sent[..bytes / 2]).unwrap();
            midway();
            stream.write_all(&sent[bytes / 2..]).unwrap();
            let mut back = vec![0; bytes];
            stream.read_exact(&mut back).unwrap();
            assert!(back == sent, "other bytes came back");
        });
        begun.elapsed()
    }
}

/// `a` and `b`, and between them two routers that are silent about what is too large.
fn routed(is_v6: bool) -> Net {
    let net = Net::of(&["a", "r", "s", "b"]);
    let length = if is_v6 { 64 } else { 24 };
    for (sides, name, number) in [
        (["a", "r"], "u0", 1),
        (["r", "s"], "m0", 2),
        (["s", "b"], "u1", 3),
    ] {
        net.veth(
            sides,
            name,
            [1, 2].map(|end| format!("{}/{length}", outer(is_v6, number, end))),
        );
    }
    for (side, number, end) in [("a", 1, 2), ("r", 2, 2), ("s", 2, 1), ("b", 3, 1)] {
        let family = if is_v6 { "-6 " } else { "" };
        net.ip(
            side,
            &format!(
                "{family}route add default via {}",
                outer(is_v6, number, end)
            ),
        );
    }
    for side in ["r", "s"] {
        for command in [
            "sysctl -qw net.ipv4.ip_forward=1",
            "sysctl -qw net.ipv6.conf.all.forwarding=1",
            "nft add table inet silent",
            "nft add chain inet silent out { type filter hook output priority 0 ; }",
            "nft add rule inet silent out icmp type destination-unreachable drop",
            "nft add rule inet silent out icmpv6 type packet-too-big drop",
        ] {
            ok(&net, side, command);
        }
    }
    net
}

fn outer(is_v6: bool, net: u8, end: u8) -> String {
    if is_v6 {
        format!("2001:db8:{net}::{end}")
    } else {
        format!("198.51.{net}.{end}")
    }
}

fn ok(net: &Net, side: &str, command: &str) {
    let output = net.run(side, command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command}: {said}; needs nftables and procps"
    );
}

/// From the first packet on; over IPv6, whose routers do not fragment, once the routes have what was found.
fn everything_passes(is_v6: bool, mtu: u16, found: u16) {
    let version = if is_v6 { "IPv6" } else { "IPv4" };
    for inner in INNER {
        for bytes in [HELLO, MUCH] {
            let world = World::up(is_v6, mtu);
            if is_v6 {
                world.route(inner, 1280);
                world.exchange(inner, 1, || ());
                world.await_path_mtu(found);
                world.route(inner, found);
            }
            let took = world.exchange(inner, bytes, || ());
            check(
                &format!(
                    "{bytes} B and back, outer {version} of {mtu} B, inner {}",
                    inner[0]
                ),
                format!("at most {LIMIT} s"),
                format!("{took:.1?}"),
                took < Duration::from_secs(LIMIT),
            );
            world.await_path_mtu(found);
        }
    }
}

#[test]
fn a_path_of_pppoe_carries_everything() {
    everything_passes(false, 1492, 1380);
    everything_passes(true, 1492, 1380);
}

#[test]
fn a_path_of_1280_bytes_carries_everything() {
    everything_passes(false, 1280, 1280);
}

#[test]
fn a_path_of_1000_bytes_carries_everything() {
    everything_passes(false, 1000, 1280);
}

#[test]
fn between_the_sizes_the_largest_multiple_of_16_is_found() {
    everything_passes(false, 1400, 1328);
    everything_passes(true, 1400, 1312);
}

#[test]
fn a_path_may_become_narrower_in_mid_transfer() {
    let world = World::up(false, 1500);
    world.exchange(INNER[0], HELLO, || ());
    world.await_path_mtu(MTU);
    for inner in INNER {
        world.narrow(1500);
        let took = world.exchange(inner, MUCH, || world.narrow(1280));
        check(
            &format!("{MUCH} B and back, narrower midway, inner {}", inner[0]),
            format!("at most {LIMIT} s"),
            format!("{took:.1?}"),
            took < Duration::from_secs(LIMIT),
        );
    }
}

/// Nobody fragments there, so it must be noticed.
#[test]
fn a_path_of_ipv6_that_became_narrower_is_noticed() {
    let world = World::up(true, 1500);
    world.exchange(INNER[1], HELLO, || ());
    world.await_path_mtu(MTU);
    let (took, noticed) = std::thread::scope(|scope| {
        let follow = || {
            let begun = Instant::now();
            world.await_path_mtu(1312);
            world.route(INNER[1], 1312);
            begun.elapsed()
        };
        let follows = scope.spawn(follow);
        let took = world.exchange(INNER[1], MUCH, || world.narrow(1400));
        (took, follows.join().unwrap())
    });
    check(
        "narrower midway over IPv6: route of 1312 B, and 10 MB pass",
        format!("at most {} s", 2 * LIMIT),
        format!("{noticed:.1?}, {took:.1?}"),
        took < Duration::from_secs(2 * LIMIT),
    );
}
