//! What the rendered table lets through, with real packets.
//!
//! A bridge called `pns0` stands in for the tunnels: the table knows interfaces by name only.
//! `peer` (10.44.1.10) and `device` (100.127.0.9) - pns0 `gateway` lan0 - `lan` (10.33.1.10).

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use pnsbox_agent::host::nftables::render;
use pnsbox_agent_core::host::{Filter, ForwardRule};

use crate::namespace::{Namespace, sh};

#[test]
fn only_what_policy_opens_passes() {
    let world = World::new(&filter(&["tcp/445", "icmp", "udp/53-60"]));
    world.listen("10.33.1.10:445");
    world.listen("10.33.1.10:80");
    assert!(world.peer_reaches("10.33.1.10:445"));
    assert!(!world.peer_reaches("10.33.1.10:80"));
    assert!(world.ping(&world.peer, "10.33.1.10"));
    assert!(world.udp("10.33.1.10:60"));
    assert!(!world.udp("10.33.1.10:61"));
    assert!(world.drops("inbound_drops") > 0);

    world.load(&filter(&[]));
    assert!(!world.peer_reaches("10.33.1.10:445"));
    assert!(!world.ping(&world.peer, "10.33.1.10"));
}

#[test]
fn a_source_outside_the_rules_does_not_pass() {
    let world = World::new(&filter(&["tcp/445", "icmp"]));
    world.peer.sh("ip addr add 10.45.1.10/32 dev eth0");
    world.gateway.sh("ip route add 10.45.1.0/24 dev pns0");
    assert!(world.ping(&world.peer, "10.33.1.10"));
    assert!(!world.ping(&world.peer, "-I 10.45.1.10 10.33.1.10"));
}

#[test]
fn the_lan_opens_what_it_likes_and_answers_come_back() {
    let world = World::new(&filter(&[]));
    world.peer.run(|| listen("10.44.1.10:443"));
    assert!(world.ping(&world.lan, "10.44.1.10"));
    assert!(world.lan.run(|| connect("10.44.1.10:443").is_some()));
    // A source that is not the node's own does not leave.
    world.lan.sh("ip addr add 10.34.1.10/32 dev eth0");
    world.gateway.sh("ip route add 10.34.1.0/24 dev lan0");
    assert!(!world.ping(&world.lan, "-I 10.34.1.10 10.44.1.10"));
    assert!(world.drops("outbound_drops") > 0);
}

#[test]
fn a_rule_that_goes_closes_the_connections_that_it_let_in() {
    let world = World::new(&filter(&["tcp/445"]));
    world.lan.run(|| listen("10.33.1.10:445"));
    let mut connection = world
        .peer
        .run(|| connect("10.33.1.10:445").expect("policy opens it"));
    assert!(echoes(&mut connection));
    world.load(&filter(&["tcp/445", "tcp/80"]));
    assert!(
        echoes(&mut connection),
        "a change that keeps the rule keeps the connection"
    );
    world.load(&filter(&["tcp/80"]));
    assert!(!echoes(&mut connection));
}

#[test]
fn the_box_itself_answers_links_echo_and_metrics_of_peers_only() {
    let world = World::new(&filter(&["tcp/445"]));
    for port in [9586, 22] {
        world
            .gateway
            .run(move || listen(&format!("0.0.0.0:{port}")));
    }
    assert!(world.peer_reaches("10.33.1.1:9586"));
    assert!(!world.peer_reaches("10.33.1.1:22"));
    assert!(world.ping(&world.peer, "10.33.1.1"));
    assert!(
        world.lan.run(|| connect("10.33.1.1:22").is_some()),
        "other interfaces are not judged"
    );
    world.peer.sh("ip addr add 10.45.1.10/32 dev eth0");
    world.gateway.sh("ip route add 10.45.1.0/24 dev pns0");
    assert!(!world.ping(&world.peer, "-I 10.45.1.10 10.33.1.1"));
    assert!(world.drops("local_drops") > 0);
}

#[test]
fn segments_fit_the_tunnel_both_ways() {
    let world = World::new(&filter(&["tcp/445"]));
    world.gateway.sh("ip link set pns0 mtu 1380");
    world.lan.run(|| listen("10.33.1.10:445"));
    world.peer.run(|| listen("10.44.1.10:443"));
    let inbound = world.peer.run(|| max_segment("10.33.1.10:445"));
    let outbound = world.lan.run(|| max_segment("10.44.1.10:443"));
    // 20 bytes of IPv4, 20 of TCP, and 12 of timestamps in every segment.
    assert_eq!((inbound, outbound), (1380 - 40 - 12, 1380 - 40 - 12));
}

#[test]
fn a_device_reaches_what_is_opened_to_it_behind_peers_and_only_the_lan_reaches_it() {
    let world = World::new(&with_device(&["tcp/445", "icmp"]));
    world.peer.run(|| listen("10.44.1.10:445"));
    world.peer.run(|| listen("10.44.1.10:80"));
    world.device.run(|| listen("100.127.0.9:443"));
    world.gateway.run(|| listen("0.0.0.0:9586"));
    world.listen("10.33.1.10:22");
    world.listen("10.33.1.10:445");

    let reaches = |from: &Namespace, to: &'static str| from.run(move || connect(to).is_some());
    let mut connection = world
        .device
        .run(|| connect("10.44.1.10:445").expect("it is opened"));
    assert!(echoes(&mut connection));
    assert!(!reaches(&world.device, "10.44.1.10:80"));
    assert!(world.ping(&world.device, "10.44.1.10"));
    let received = world.device.sh("grep ^Icmp: /proc/net/snmp");
    let redirects = received.lines().nth(1).unwrap().split(' ').nth(8).unwrap();
    assert_eq!(redirects, "0", "nobody is told of a shorter way");

    assert!(reaches(&world.device, "10.33.1.10:22"));
    assert!(!reaches(&world.device, "10.33.1.10:445"));
    assert!(world.ping(&world.device, "10.33.1.1"));
    assert!(!reaches(&world.device, "10.33.1.1:9586"));

    assert!(reaches(&world.lan, "100.127.0.9:443"));
    assert!(world.ping(&world.lan, "100.127.0.9"));
    assert!(!reaches(&world.peer, "100.127.0.9:443"));
    assert!(!world.ping(&world.peer, "100.127.0.9"));

    world.load(&with_device(&["icmp"]));
    assert!(!echoes(&mut connection));
}

struct World {
    peer: Namespace,
    device: Namespace,
    gateway: Namespace,
    lan: Namespace,
}

impl World {
    fn new(filter: &Filter) -> Self {
        let world = Self {
            peer: Namespace::new(),
            device: Namespace::new(),
            gateway: Namespace::new(),
            lan: Namespace::new(),
        };
        let gateway = &world.gateway;
        for (name, other) in [
            ("peer0", &world.peer),
            ("device0", &world.device),
            ("lan0", &world.lan),
        ] {
            gateway.sh(&format!(
                "ip link add {name} type veth peer name eth0 netns {} && ip link set {name} up",
                other.tid
            ));
        }
        gateway.sh("ip link add pns0 type bridge && ip link set peer0 master pns0 && ip link set device0 master pns0");
        gateway.sh("ip addr add 100.127.0.2/32 dev pns0 && ip link set pns0 up && ip addr add 10.33.1.1/24 dev lan0");
        world.device.sh("ip addr add 100.127.0.9/32 dev eth0 && ip link set eth0 up && ip route add default via 100.127.0.2 dev eth0 onlink");
        world.peer.sh("ip addr add 10.44.1.10/24 dev eth0 && ip link set eth0 up && ip route add default via 100.127.0.2 dev eth0 onlink");
        world.lan.sh("ip addr add 10.33.1.10/24 dev eth0 && ip link set eth0 up && ip route add default via 10.33.1.1");
        gateway.sh("ip route add 10.44.1.0/24 dev pns0 && ip route add 100.127.0.9 dev pns0 && echo 1 > /proc/sys/net/ipv4/ip_forward");
        world.load(filter);
        world
    }

    fn load(&self, filter: &Filter) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), render(filter, "pns0")).unwrap();
        self.gateway
            .sh(&format!("nft -f {}", file.path().display()));
    }

    fn listen(&self, address: &'static str) {
        self.lan.run(move || listen(address));
    }

    fn peer_reaches(&self, address: &'static str) -> bool {
        self.peer.run(move || connect(address).is_some())
    }

    fn ping(&self, from: &Namespace, arguments: &str) -> bool {
        let line = format!("ping -q -c 1 -W 1 {arguments} >/dev/null 2>&1 && echo yes || echo no");
        from.run(move || sh(&line)) == "yes\n"
    }

    fn udp(&self, address: &'static str) -> bool {
        let socket = self.lan.run(move || UdpSocket::bind(address).unwrap());
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        self.peer.run(move || {
            UdpSocket::bind("0.0.0.0:0")
                .unwrap()
                .send_to(b"x", address)
                .unwrap()
        });
        socket.recv(&mut [0; 8]).is_ok()
    }

    fn drops(&self, counter: &str) -> u64 {
        let listed = self
            .gateway
            .sh(&format!("nft list counter inet pnsbox {counter}"));
        let packets = listed
            .split_once("packets ")
            .unwrap()
            .1
            .split(' ')
            .next()
            .unwrap();
        packets.parse().unwrap()
    }
}

fn filter(allow: &[&str]) -> Filter {
    Filter {
        inbound: vec![ForwardRule {
            sources: vec!["10.44.1.0/24".parse().unwrap()],
            destination: "10.33.1.0/24".parse().unwrap(),
            allow: allow.iter().map(|a| a.parse().unwrap()).collect(),
        }],
        own_prefixes: vec!["10.33.1.0/24".parse().unwrap()],
        across: Vec::new(),
        peer_addresses: vec!["10.44.1.10/32".parse().unwrap()],
        relay_addresses: Vec::new(),
        device_addresses: Vec::new(),
        link_port: 51821,
        http_port: 9586,
    }
}

/// The table of a gateway with a device, to which a peer's LAN opens `beyond`, and the own LAN one port.
fn with_device(beyond: &[&str]) -> Filter {
    let device = vec!["100.127.0.9/32".parse().unwrap()];
    let rule = |destination: &str, allow: &[&str]| ForwardRule {
        sources: device.clone(),
        destination: destination.parse().unwrap(),
        allow: allow.iter().map(|a| a.parse().unwrap()).collect(),
    };
    let mut filter = filter(&["tcp/445"]);
    filter.inbound.push(rule("10.33.1.0/24", &["tcp/22"]));
    filter.across.push(rule("10.44.1.10/32", beyond));
    filter.device_addresses = device;
    filter
}

/// Echoes every connection, until the test process ends.
fn listen(address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                std::io::copy(&mut stream.try_clone().unwrap(), &mut stream)
            });
        }
    });
}

fn connect(address: &str) -> Option<TcpStream> {
    let address: SocketAddr = address.parse().unwrap();
    TcpStream::connect_timeout(&address, Duration::from_millis(700)).ok()
}

fn echoes(stream: &mut TcpStream) -> bool {
    stream
        .set_read_timeout(Some(Duration::from_millis(700)))
        .unwrap();
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok()
}

fn max_segment(address: &str) -> u32 {
    let stream = connect(address).expect("policy opens it");
    nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::TcpMaxSeg).unwrap()
}
