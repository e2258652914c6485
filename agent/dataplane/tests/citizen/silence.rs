//! Nobody who knows no key gets a byte out of the port.

use std::net::UdpSocket;
use std::time::Duration;

use crate::net::OUTER_A;
use crate::node::PORT;
use crate::pair::{A, OUTER_A6, Pair, SMALLEST_MTU};
use crate::table::exactly;

/// Repeatable chance: SplitMix64 (Steele, Lea and Flood 2014).
struct Chance(u64);

impl Iterator for Chance {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Some((z >> 56) as u8)
    }
}

#[test]
fn the_port_is_silent_to_a_scan() {
    let pair = Pair::with_mtu(SMALLEST_MTU);
    assert_eq!(pair.ping("b", 1, "", A), 1);
    let emitted = || -> u64 {
        let workers = pair.a.plane.counters().workers;
        workers.iter().map(|worker| worker.udp_sent_datagrams).sum()
    };
    let taken = || -> u64 {
        let workers = pair.a.plane.counters().workers;
        workers
            .iter()
            .map(|worker| worker.udp_received_datagrams)
            .sum()
    };
    let dropped = || -> u64 {
        pair.a
            .plane
            .counters()
            .drops
            .iter()
            .map(|(_, count)| count)
            .sum()
    };
    let (sent_before, taken_before, dropped_before) = (emitted(), taken(), dropped());
    let seed = u64::from(std::process::id());
    let (mut chance, mut sent) = (Chance(seed), 0);
    for (to, from) in [(OUTER_A, "0.0.0.0:0"), (OUTER_A6, "[::]:0")] {
        let socket = pair.net.enter("b", || UdpSocket::bind(from).unwrap());
        socket.connect((to, PORT)).unwrap();
        let mut send = |bytes: &[u8]| {
            assert_eq!(socket.send(bytes).unwrap(), bytes.len());
            sent += 1;
            if sent % 64 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        for length in 0..=2000 {
            let random: Vec<u8> = chance.by_ref().take(length).collect();
            send(&random);
        }
        for kind in 0..=5u8 {
            for length in [4, 31, 32, 33, 64, 92, 100, 147, 148, 149, 1452] {
                let mut garbage: Vec<u8> = chance.by_ref().take(length).collect();
                garbage[..4].copy_from_slice(&[kind, 0, 0, 0]);
                send(&garbage);
                garbage[4..].fill(0);
                send(&garbage);
            }
        }
        socket
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        let heard = socket.recv(&mut [0; 2048]).is_ok();
        exactly(
            &format!("an answer to a scan of {to} (seed {seed})"),
            false,
            heard,
        );
    }
    crate::net::wait("all of it is taken", || taken() - taken_before >= sent);
    exactly("datagrams emitted meanwhile", 0, emitted() - sent_before);
    exactly(
        "datagrams dropped and counted",
        sent,
        dropped() - dropped_before,
    );
    assert_eq!(pair.ping("b", 1, "", A), 1, "the tunnel stands");
}
