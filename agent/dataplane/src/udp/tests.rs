//! Against the kernel, over a veth: what runs become on the way, and what happens when the way out takes none.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use super::{Inbox, Outbox, Udp, bind};
use crate::net::{Net, OUTER_B, UPLINK, wait};
use crate::output::Run;
use crate::tos::Tos;

/// A sender on side a, a receiver on side b.
struct Ends {
    net: Net,
    from: Udp,
    outbox: Outbox,
    to: SocketAddr,
    receiver: Udp,
    inbox: Inbox,
}

impl Ends {
    fn up() -> Self {
        let net = Net::up();
        let receiver = net.enter("b", || Udp::bind(0, 0).unwrap());
        let port = receiver.socket().local_addr().unwrap().port();
        Self {
            from: net.enter("a", || Udp::bind(0, 0).unwrap()),
            net,
            outbox: Outbox::new(),
            to: SocketAddr::new(OUTER_B.parse().unwrap(), port),
            receiver,
            inbox: Inbox::new(),
        }
    }

    /// Sends a run of ten, the last half as long; how many receives it took to get it, and every datagram.
    fn send(&mut self, segment: usize) -> (usize, Vec<Vec<u8>>) {
        let run = Run {
            to: self.to,
            start: 7,
            length: 9 * segment + segment / 2,
            segment,
            tos: Tos::default(),
            is_probe: false,
        };
        let slab: Vec<u8> = (0..7 + run.length).map(|at| (at / 7) as u8).collect();
        let sent = self.outbox.send(&self.from, &slab, &[run]);
        assert_eq!((sent.runs, sent.lost), (1, 0));
        let expected: Vec<Vec<u8>> = run
            .datagrams()
            .map(|(at, length)| slab[at..at + length].to_vec())
            .collect();
        let (mut receives, mut come) = (0, Vec::new());
        wait("the datagrams arrive", || {
            receives += self.receive(&mut come);
            come.len() >= expected.len()
        });
        assert_eq!(come, expected);
        (receives, come)
    }

    /// A program on the sender's side.
    fn run(&self, command: &str) {
        let output = self.net.run("a", command);
        assert!(output.status.success(), "{command}: {output:?}");
    }

    /// Sends what makes one receive, so many datagrams of 100 bytes; class and mark with which they came.
    fn send_marked(&mut self, datagrams: usize, tos: u8) -> Tos {
        let run = Run {
            to: self.to,
            start: 0,
            length: datagrams * 100,
            segment: 100,
            tos: Tos(tos),
            is_probe: false,
        };
        let slab = vec![tos; run.length];
        let sent = self.outbox.send(&self.from, &slab, &[run]);
        assert_eq!((sent.runs, sent.lost), (1, 0));
        let mut come = Vec::new();
        wait("the datagrams arrive", || self.receive(&mut come) > 0);
        assert_eq!(come.concat(), slab, "{datagrams} datagrams with {tos:#x}");
        let (_, received) = self.inbox.received();
        assert_eq!(received.len(), 1);
        assert_eq!(received[0].segment, 100);
        received[0].tos
    }

    fn receive(&mut self, come: &mut Vec<Vec<u8>>) -> usize {
        if self.inbox.receive(self.receiver.socket()).is_err() {
            return 0;
        }
        let (slab, received) = self.inbox.received();
        for one in received {
            let bytes = &slab[one.start..one.start + one.length];
            come.extend(bytes.chunks(one.segment).map(<[u8]>::to_vec));
        }
        received.len()
    }
}

#[test]
fn a_run_is_one_send_and_one_receive() {
    let mut ends = Ends::up();
    for segment in [1000, 100, 33, 2] {
        assert_eq!(ends.send(segment).0, 1, "{segment}");
    }
    assert_eq!(ends.outbox.refused(), 0);
    let sender = ends.from.socket().local_addr().unwrap().port();
    let mut come = Vec::new();
    let alone = Run {
        to: ends.to,
        start: 0,
        length: 5,
        segment: 5,
        tos: Tos::default(),
        is_probe: false,
    };
    ends.outbox.send(&ends.from, b"alone", &[alone]);
    wait("it arrives", || ends.receive(&mut come) == 1);
    let (_, received) = ends.inbox.received();
    let from: IpAddr = "192.0.2.1".parse().unwrap();
    assert_eq!(received[0].from, SocketAddr::new(from, sender));
}

/// Kernels before 6.11 say EIO where the device computes no checksums; later ones compute them.
#[test]
fn an_egress_that_refuses_runs_gets_single_datagrams_and_a_minute_later_runs_again() {
    let mut ends = Ends::up();
    ends.outbox.kernel_says = Some(libc::EIO);
    assert_eq!(ends.send(1000).0, 10, "one by one");
    ends.send(500);
    assert_eq!(ends.outbox.refused(), 1, "it is not asked again");
    let other = Run {
        to: SocketAddr::new("127.0.0.1".parse().unwrap(), 9),
        start: 0,
        length: 20,
        segment: 10,
        tos: Tos::default(),
        is_probe: false,
    };
    assert!(!ends.outbox.refuses(&other), "others are not affected");

    ends.outbox.kernel_says = None;
    ends.outbox.ahead = Duration::from_secs(30);
    assert_eq!(ends.send(1000).0, 10);
    assert_eq!(ends.outbox.refused(), 1);
    ends.outbox.ahead = Duration::from_secs(61);
    assert_eq!(ends.send(1000).0, 1, "and now it is one run again");
    assert_eq!(ends.outbox.refused(), 0);
}

#[test]
fn an_egress_without_checksums_carries_everything() {
    let mut ends = Ends::up();
    ends.run(&format!("ethtool -K {UPLINK} tx off"));
    assert_eq!(ends.send(1000).1.len(), 10);
}

#[test]
fn datagrams_beyond_the_mtu_of_the_way_are_fragmented_and_smaller_ones_still_go_in_runs() {
    let mut ends = Ends::up();
    for side in ["a", "b"] {
        ends.net.ip(side, &format!("link set {UPLINK} mtu 900"));
    }
    assert_eq!(ends.send(1000).0, 10, "one by one");
    assert_eq!(ends.outbox.refused(), 1);
    assert_eq!(ends.send(800).0, 1);
}

#[test]
fn a_full_socket_says_so_and_loses_nothing() {
    let mut ends = Ends::up();
    ends.run(&format!(
        "tc qdisc add dev {UPLINK} root tbf rate 8mbit burst 5kb limit 10mb"
    ));
    socket2::SockRef::from(ends.from.socket())
        .set_send_buffer_size(20_000)
        .unwrap();
    let slab = vec![5; 100 * 1000];
    let runs: Vec<Run> = (0..10)
        .map(|number| Run {
            to: ends.to,
            start: number * 10_000,
            length: 10_000,
            segment: 1000,
            tos: Tos::default(),
            is_probe: false,
        })
        .collect();
    let first = ends.outbox.send(&ends.from, &slab, &runs);
    assert!(
        first.runs > 0 && first.runs < runs.len() && first.lost == 0,
        "{first:?}"
    );
    let mut done = first.runs;
    wait("the rest goes when there is room", || {
        done += ends.outbox.send(&ends.from, &slab, &runs[done..]).runs;
        done == runs.len()
    });
    let mut come = Vec::new();
    wait("all arrive", || {
        ends.receive(&mut come);
        come.len() == 100
    });
}

#[test]
fn an_egress_that_refuses_four_destinations_is_not_asked_for_the_others() {
    let mut ends = Ends::up();
    ends.outbox.kernel_says = Some(libc::EIO);
    let run = |last: u8| Run {
        to: SocketAddr::from(([127, 0, 0, last], 9)),
        start: 0,
        length: 20,
        segment: 10,
        tos: Tos::default(),
        is_probe: false,
    };
    for last in 1..100 {
        ends.outbox.send(&ends.from, &[0; 20], &[run(last)]);
    }
    assert_eq!(ends.outbox.refused(), 4);
    assert!(ends.outbox.refuses(&run(200)));
    ends.outbox.ahead = Duration::from_secs(61);
    ends.outbox.kernel_says = None;
    assert_eq!(ends.send(1000).0, 1);
}

#[test]
fn a_full_socket_takes_a_refused_run_in_parts_and_loses_nothing() {
    let mut ends = Ends::up();
    ends.run(&format!(
        "tc qdisc add dev {UPLINK} root tbf rate 8mbit burst 5kb limit 10mb"
    ));
    socket2::SockRef::from(ends.from.socket())
        .set_send_buffer_size(10_000)
        .unwrap();
    ends.outbox.kernel_says = Some(libc::EIO);
    let mut run = Run {
        to: ends.to,
        start: 0,
        length: 60_000,
        segment: 1000,
        tos: Tos::default(),
        is_probe: false,
    };
    let slab: Vec<u8> = (0..run.length).map(|at| (at / 1000) as u8).collect();
    let first = ends.outbox.send(&ends.from, &slab, &[run]);
    assert!(
        first.runs == 0 && (1..60).contains(&first.partial) && first.lost == 0,
        "{first:?}"
    );
    run.skip(first.partial);
    wait("the rest goes when there is room", || {
        let sent = ends.outbox.send(&ends.from, &slab, &[run]);
        assert_eq!(sent.lost, 0);
        run.skip(sent.partial);
        sent.runs == 1
    });
    let mut come = Vec::new();
    wait("all arrive", || {
        ends.receive(&mut come);
        come.len() == 60
    });
    assert_eq!(come.concat(), slab);
}

#[test]
fn a_sender_with_a_link_local_address_can_be_answered() {
    let mut ends = Ends::up();
    for (side, address) in [("a", "fe80::a"), ("b", "fe80::b")] {
        let address = format!("address add {address}/64 dev {UPLINK} nodad");
        ends.net.ip(side, &address);
    }
    let index = || nix::net::if_::if_nametoindex(UPLINK).unwrap();
    let (a, b) = (ends.net.enter("a", index), ends.net.enter("b", index));
    let scoped = |ip: &str, port, scope| -> SocketAddr {
        SocketAddrV6::new(ip.parse().unwrap(), port, 0, scope).into()
    };
    let from = ends.from.socket().local_addr().unwrap().port();
    ends.to = scoped("fe80::b", ends.to.port(), a);
    ends.send(100);
    let (_, received) = ends.inbox.received();
    assert_eq!(received[0].from, scoped("fe80::a", from, b));
    let answer = Run {
        to: received[0].from,
        start: 0,
        length: 6,
        segment: 6,
        tos: Tos::default(),
        is_probe: false,
    };
    let sent = ends.outbox.send(&ends.receiver, b"answer", &[answer]);
    assert_eq!((sent.runs, sent.lost), (1, 0));
    wait("the answer arrives", || {
        ends.inbox.receive(ends.from.socket()).is_ok()
    });
}

/// Both versions of IP, from sockets of both kinds, alone and with the message that tells where a run is cut.
#[test]
fn class_and_mark_arrive_as_they_were_sent() {
    let mut ends = Ends::up();
    for (side, address) in [("a", "2001:db8::1"), ("b", "2001:db8::2")] {
        ends.net.ip(
            side,
            &format!("address add {address}/64 dev {UPLINK} nodad"),
        );
    }
    let v4_only = || {
        let socket = bind("0.0.0.0:0".parse().unwrap(), 0).unwrap();
        Udp {
            socket,
            is_v6: false,
        }
    };
    let to_v6 = SocketAddr::new("2001:db8::2".parse().unwrap(), ends.to.port());
    let check = |ends: &mut Ends| {
        for tos in [0, 1, 2, 3, 0x88, 0xb8, 0xbb, 0xff, 0] {
            for datagrams in [1, 10] {
                let to = ends.to;
                assert_eq!(
                    ends.send_marked(datagrams, tos),
                    Tos(tos),
                    "{to}, {datagrams}"
                );
            }
        }
    };
    check(&mut ends);
    ends.to = to_v6;
    check(&mut ends);

    ends.from = ends.net.enter("a", v4_only);
    ends.receiver = ends.net.enter("b", v4_only);
    ends.to = ends.receiver.socket().local_addr().unwrap();
    ends.to.set_ip(OUTER_B.parse().unwrap());
    check(&mut ends);
}

/// Without where it is cut a run is one datagram that nobody sent.
#[test]
fn a_receive_without_all_its_control_messages_is_dropped() {
    let mut ends = Ends::up();
    ends.inbox.room = 24;
    let mut come = Vec::new();
    let send = |ends: &mut Ends, datagrams: usize| {
        let run = Run {
            to: ends.to,
            start: 0,
            length: 100 * datagrams,
            segment: 100,
            tos: Tos(2),
            is_probe: false,
        };
        ends.outbox.send(&ends.from, &[7; 300], &[run]);
    };
    send(&mut ends, 3);
    send(&mut ends, 1);
    wait("what has one message only arrives", || {
        ends.receive(&mut come) > 0
    });
    assert_eq!(come, [vec![7; 100]]);
}

#[test]
fn datagrams_of_a_refused_run_keep_class_and_mark() {
    let mut ends = Ends::up();
    ends.outbox.kernel_says = Some(libc::EIO);
    let run = Run {
        to: ends.to,
        start: 0,
        length: 300,
        segment: 100,
        tos: Tos(0xba),
        is_probe: false,
    };
    ends.outbox.send(&ends.from, &[7; 300], &[run]);
    let mut come = Vec::new();
    while come.len() < 3 {
        wait("they arrive", || ends.receive(&mut come) > 0);
        let (_, received) = ends.inbox.received();
        assert!(received.iter().all(|one| one.tos == Tos(0xba)));
    }
    assert_eq!(ends.outbox.refused(), 1, "they went one by one");
}
