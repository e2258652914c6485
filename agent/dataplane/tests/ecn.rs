//! Classes and congestion marks between real namespaces: what stands in the headers on the way, what arrives inside, and
//! that TCP hears of congestion on the way.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

mod net;
mod planes;

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use pnsbox_dataplane::snapshot::{PathConfig, PeerConfig, Snapshot};
use pnsbox_dataplane::{Dataplane, DropReason, DscpPolicy, public_key};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::net::{Net, OUTER_A, OUTER_B, UPLINK, wait};
use crate::planes::{INNER_A, INNER_B, KEYS, PORT, Planes, TUNNEL};

const OUTER_A6: &str = "2001:db8::1";
const OUTER_B6: &str = "2001:db8::2";
const INNER_A6: &str = "fd00:200::1";
const INNER_B6: &str = "fd00:200::2";

const ECT1: u8 = 1;
const ECT0: u8 = 2;
const CE: u8 = 3;
/// Bytes of what is sent, more than of anything else that passes.
const LENGTH: usize = 700;
/// EF, which `map` shows.
const VOICE: u8 = 0xb8;
/// Class selector 1, which `map` does not show.
const BULK: u8 = 0x20;

/// Hears every packet of side b, on whatever interface, before its packet filter does.
fn ear(net: &Net) -> Socket {
    const ALL: i32 = (libc::ETH_P_ALL as u16).to_be() as i32;
    let open = || Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(ALL)));
    let socket = net.enter("b", open).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Type of service of a packet from `source`.
fn class(packet: &[u8], source: IpAddr) -> Option<u8> {
    let is_from =
        |place: std::ops::Range<usize>, address: &[u8]| packet.get(place) == Some(address);
    match source {
        IpAddr::V4(v4) if packet[0] >> 4 == 4 => is_from(12..16, &v4.octets()).then(|| packet[1]),
        IpAddr::V6(v6) if packet[0] >> 4 == 6 => {
            is_from(8..24, &v6.octets()).then(|| packet[0] << 4 | packet[1] >> 4)
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// A tunnel whose outer and inner packets have both versions of IP.
struct World {
    net: Net,
    planes: Planes,
    ear: Socket,
    sender: UdpSocket,
    sender_v6: UdpSocket,
    receiver: UdpSocket,
    receiver_v6: UdpSocket,
}

impl World {
    fn up(dscp: DscpPolicy) -> Self {
        let net = Net::up();
        let planes = Planes::up(&net, dscp);
        for (side, outer, inner) in [("a", OUTER_A6, INNER_A6), ("b", OUTER_B6, INNER_B6)] {
            net.ip(side, &format!("address add {outer}/64 dev {UPLINK} nodad"));
            net.ip(side, &format!("address add {inner}/64 dev {TUNNEL} nodad"));
        }
        let bind = |side: &str, address: IpAddr| {
            let socket = net.enter(side, || UdpSocket::bind((address, 6000)).unwrap());
            let patience = Some(Duration::from_secs(10));
            socket.set_read_timeout(patience).unwrap();
            socket
        };
        let (inner_a6, inner_b6) = (INNER_A6.parse().unwrap(), INNER_B6.parse().unwrap());
        Self {
            ear: ear(&net),
            sender: bind("a", INNER_A.into()),
            sender_v6: bind("a", inner_a6),
            receiver: bind("b", INNER_B.into()),
            receiver_v6: bind("b", inner_b6),
            planes,
            net,
        }
    }

    /// Both ends speak over this version of IP from now on.
    fn go_over(&self, outer_b: &str) {
        let there = SocketAddr::new(outer_b.parse().unwrap(), PORT);
        let apply = |plane: &Dataplane, other: usize, prefixes: [String; 2], path| {
            let peer = PeerConfig {
                public_key: public_key(&KEYS[other]),
                allowed_prefixes: prefixes.map(|prefix| prefix.parse().unwrap()).to_vec(),
                path,
                persistent_keepalive: None,
            };
            plane
                .apply(Snapshot {
                    peers: vec![peer],
                    relays: Vec::new(),
                })
                .unwrap();
        };
        let b = [format!("{INNER_B}/32"), format!("{INNER_B6}/128")];
        apply(&self.planes.a, 1, b, PathConfig::Direct(there));
        let a = [format!("{INNER_A}/32"), format!("{INNER_A6}/128")];
        apply(&self.planes.b, 0, a, PathConfig::Passive);
    }

    /// Sends one packet with this type of service. Where it is to arrive.
    fn send(&self, is_v6: bool, tos: u8) -> &UdpSocket {
        let (sender, receiver) = if is_v6 {
            let sender = SockRef::from(&self.sender_v6);
            sender.set_tclass_v6(tos.into()).unwrap();
            (&self.sender_v6, &self.receiver_v6)
        } else {
            SockRef::from(&self.sender).set_tos_v4(tos.into()).unwrap();
            (&self.sender, &self.receiver)
        };
        let to = receiver.local_addr().unwrap();
        sender.send_to(&[tos; LENGTH], to).unwrap();
        receiver
    }

    /// Sends one packet, which arrives: types of service of the outer header and of the inner one.
    fn pass(&mut self, outer_a: &str, is_v6: bool, tos: u8) -> (u8, u8) {
        self.heard();
        let mut come = [0; 2 * LENGTH];
        let length = self.send(is_v6, tos).recv(&mut come).unwrap();
        assert_eq!(come[..length], [tos; LENGTH]);
        let inner_a = if is_v6 {
            INNER_A6.parse().unwrap()
        } else {
            INNER_A.into()
        };
        let packets = self.heard();
        let one = |source: IpAddr| {
            let mut of_source = packets.iter().filter_map(|packet| class(packet, source));
            let first = of_source.next().unwrap();
            assert_eq!(of_source.next(), None, "one packet was sent");
            first
        };
        (one(outer_a.parse().unwrap()), one(inner_a))
    }

    /// Sends one packet, which is dropped for its mark.
    fn lose(&self, is_v6: bool, tos: u8) {
        let before = self.dropped();
        let receiver = self.send(is_v6, tos);
        wait("it is dropped", || self.dropped() == before + 1);
        receiver.set_nonblocking(true).unwrap();
        let come = receiver.recv(&mut [0; LENGTH]);
        assert_eq!(come.unwrap_err().kind(), ErrorKind::WouldBlock);
        receiver.set_nonblocking(false).unwrap();
    }

    /// Packets that came since the last time, of those long enough to carry what we send.
    fn heard(&mut self) -> Vec<Vec<u8>> {
        let mut heard = Vec::new();
        let mut packet = [0; 2048];
        loop {
            match self.ear.read(&mut packet) {
                Ok(length) if length >= LENGTH => heard.push(packet[..length].to_vec()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return heard,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// A rule of side b's packet filter, for datagrams before our socket gets them.
    fn on_the_way(&self, rule: &str) {
        for words in [
            "add table inet way".to_owned(),
            "flush table inet way".to_owned(),
            "add chain inet way in { type filter hook prerouting priority -300 ; }".to_owned(),
            format!("add rule inet way in udp dport {PORT} {rule}"),
        ] {
            let output = self.net.run("b", &format!("nft {words}"));
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "nft {words}: {said}");
        }
    }

    fn dropped(&self) -> u64 {
        let drops = self.planes.b.counters().drops;
        let count = |(reason, count): &(DropReason, u64)| {
            (*reason == DropReason::EcnCeNotEct).then_some(*count)
        };
        drops.iter().find_map(count).unwrap()
    }
}

/// The ways there are: their addresses.
const WAYS: [(&str, &str); 2] = [(OUTER_A, OUTER_B), (OUTER_A6, OUTER_B6)];

#[test]
fn outer_headers_tell_the_mark_and_the_class_that_the_policy_shows() {
    for policy in [DscpPolicy::None, DscpPolicy::Map, DscpPolicy::Copy] {
        let mut world = World::up(policy);
        for (outer_a, outer_b) in WAYS {
            world.go_over(outer_b);
            for is_v6 in [false, true] {
                for tos in [0, ECT1, ECT0, CE, VOICE | ECT0, BULK | ECT0, BULK] {
                    let shown = match (policy, tos & !3) {
                        (DscpPolicy::Copy, _) | (DscpPolicy::Map, VOICE) => tos,
                        (DscpPolicy::Map | DscpPolicy::None, _) => tos & 3,
                    };
                    let heard = world.pass(outer_a, is_v6, tos);
                    let what = format!("{policy:?}, over {outer_a}, inner IPv6: {is_v6}");
                    assert_eq!(heard, (shown, tos), "{what}");
                }
            }
        }
    }
}

#[test]
fn marks_of_the_way_arrive_inside() {
    let mut world = World::up(DscpPolicy::None);
    for (outer_a, outer_b) in WAYS {
        let ip = if outer_a == OUTER_A { "ip" } else { "ip6" };
        world.go_over(outer_b);
        for is_v6 in [false, true] {
            let what = format!("over {outer_a}, inner IPv6: {is_v6}");
            world.on_the_way(&format!("{ip} ecn set ce {ip} dscp set cs1"));
            for (sent, come) in [(ECT0, CE), (ECT1, CE), (CE, CE), (VOICE | ECT0, VOICE | CE)] {
                let heard = world.pass(outer_a, is_v6, sent);
                assert_eq!(heard, (sent & 3, come), "{what}");
            }
            for sent in [0, VOICE] {
                world.lose(is_v6, sent);
            }
            world.on_the_way(&format!("{ip} ecn set ect1"));
            for (sent, come) in [(0, 0), (ECT0, ECT1), (ECT1, ECT1), (CE, CE)] {
                let heard = world.pass(outer_a, is_v6, sent);
                assert_eq!(heard, (sent, come), "{what}");
            }
            world.on_the_way(&format!("{ip} ecn set not-ect"));
            for sent in [0, ECT0, ECT1, CE] {
                let heard = world.pass(outer_a, is_v6, sent);
                assert_eq!(heard, (sent, sent), "{what}");
            }
        }
    }
}

/// One run of datagrams in sixteen is marked, so marks stand in the middle of bursts and merged packets.
#[test]
fn tcp_hears_of_congestion_on_the_way_and_loses_nothing() {
    const BYTES: usize = 16 << 20;
    let world = World::up(DscpPolicy::None);
    world.on_the_way("ip ecn ect0 numgen inc mod 16 0 ip ecn set ce");
    for side in ["a", "b"] {
        let switch_on = || fs::write("/proc/sys/net/ipv4/tcp_ecn", "1").unwrap();
        world.net.enter(side, switch_on);
    }
    let listener = world
        .net
        .enter("b", || TcpListener::bind((INNER_B, 5001)).unwrap());
    let connect = || TcpStream::connect((INNER_B, 5001)).unwrap();
    let mut client = world.net.enter("a", connect);
    let (mut server, _) = listener.accept().unwrap();
    let sent: Vec<u8> = (0..BYTES).map(|at| (at / 7) as u8).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            client.write_all(&sent).unwrap();
            drop(client);
        });
        let mut come = Vec::new();
        server.read_to_end(&mut come).unwrap();
        assert!(come == sent, "{} bytes came", come.len());
    });
    wait("the sender is told of marks", || {
        world.net.enter("a", delivered_ce) > 0
    });
    assert_eq!(world.dropped(), 0, "packets that understand no mark");
}

/// Segments of this namespace that were acknowledged as marked.
fn delivered_ce() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut both = names.split(' ').zip(values.split(' '));
    let (_, value) = both.find(|(name, _)| *name == "TCPDeliveredCE").unwrap();
    value.parse().unwrap()
}
