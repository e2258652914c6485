//! Our core against boringtun's `Tunn`, in both roles. boringtun keeps real time, so nothing here waits for it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};

use super::testing::{Node, private, public, seconds, seed, set_wall};
use super::*;
use crate::message::BUFFER;

const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

/// boringtun's tunnel, and what went out of it at either end.
struct Oracle {
    tunn: Tunn,
    outbox: Vec<Vec<u8>>,
    inbox: Vec<Vec<u8>>,
    refused: usize,
}

impl Oracle {
    fn new(own: u8, peer: u8, limiter: Option<Arc<RateLimiter>>) -> Self {
        let tunn = Tunn::new(private(own), public(peer), None, None, own.into(), limiter);
        Self {
            tunn,
            outbox: Vec::new(),
            inbox: Vec::new(),
            refused: 0,
        }
    }

    fn send(&mut self, packet: &[u8]) {
        let mut buffer = vec![0; BUFFER];
        if let TunnResult::WriteToNetwork(datagram) = self.tunn.encapsulate(packet, &mut buffer) {
            self.outbox.push(datagram.to_vec());
        }
    }

    fn receive(&mut self, datagram: &[u8]) {
        let mut buffer = vec![0; BUFFER];
        let mut input = datagram;
        loop {
            match self.tunn.decapsulate(Some(SOURCE), input, &mut buffer) {
                TunnResult::WriteToNetwork(datagram) => self.outbox.push(datagram.to_vec()),
                TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                    self.inbox.push(packet.to_vec());
                    break;
                }
                TunnResult::Done => break,
                TunnResult::Err(_) => {
                    self.refused += 1;
                    break;
                }
            }
            // It has more to say as long as it said something.
            input = &[];
        }
    }
}

fn exchange(ours: &mut Node, theirs: &mut Oracle, now: Instant) {
    while !(ours.outbox.is_empty() && theirs.outbox.is_empty()) {
        for datagram in std::mem::take(&mut ours.outbox) {
            theirs.receive(&datagram);
        }
        for datagram in std::mem::take(&mut theirs.outbox) {
            ours.receive(&datagram, now).unwrap();
        }
    }
    assert_eq!(theirs.refused, 0);
}

/// An IPv4 packet of so many bytes; boringtun delivers no others.
fn packet(length: u16, mark: u8) -> Vec<u8> {
    let mut packet = vec![mark; length.into()];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet
}

fn check_both_ways(ours: &mut Node, theirs: &mut Oracle, now: Instant) {
    for length in [20, 64, 1380, 9000, 65_535] {
        ours.send(&packet(length, 1), now);
        theirs.send(&packet(length, 2));
        exchange(ours, theirs, now);
        assert_eq!(theirs.inbox.pop(), Some(packet(length, 1)));
        assert_eq!(ours.inbox.pop(), Some(packet(length, 2)));
    }
}

#[test]
fn we_begin_and_boringtun_answers() {
    let now = Instant::now();
    let (mut ours, mut theirs) = (Node::new(1, 2), Oracle::new(2, 1, None));
    ours.send(&packet(100, 7), now);
    ours.send(&packet(101, 8), now);
    exchange(&mut ours, &mut theirs, now);
    assert_eq!(
        theirs.inbox,
        [packet(100, 7), packet(101, 8)],
        "what was kept"
    );
    theirs.inbox.clear();
    check_both_ways(&mut ours, &mut theirs, now);
}

#[test]
fn boringtun_begins_and_we_answer() {
    let now = Instant::now();
    let (mut ours, mut theirs) = (Node::new(1, 2), Oracle::new(2, 1, None));
    theirs.send(&packet(100, 7));
    exchange(&mut ours, &mut theirs, now);
    assert_eq!(ours.inbox, [packet(100, 7)], "what was kept");
    ours.inbox.clear();
    check_both_ways(&mut ours, &mut theirs, now);
}

#[test]
fn both_begin_at_once_with_boringtun() {
    for (own, peer) in [(1, 2), (2, 1)] {
        let now = Instant::now();
        let (mut ours, mut theirs) = (Node::new(own, peer), Oracle::new(peer, own, None));
        ours.send(&packet(30, 1), now);
        theirs.send(&packet(31, 2));
        // boringtun begins once more when it is asked, and Linux' bound on initiations may refuse that one.
        for round in 0..8 {
            let now = now + INITIATION_INTERVAL * round;
            for datagram in std::mem::take(&mut ours.outbox) {
                theirs.receive(&datagram);
            }
            for datagram in std::mem::take(&mut theirs.outbox) {
                ours.receive(&datagram, now).ok();
            }
        }
        theirs.refused = 0;
        assert_eq!(theirs.inbox.pop(), Some(packet(30, 1)));
        // boringtun gives its own kept packet only behind a handshake message that it has to say, so it may still have it.
        check_both_ways(&mut ours, &mut theirs, now + seconds(1));
    }
}

#[test]
fn we_renew_the_session_by_our_clock_and_boringtun_follows() {
    let begun = Instant::now();
    let (mut ours, mut theirs) = (Node::new(1, 2), Oracle::new(2, 1, None));
    ours.send(&packet(100, 7), begun);
    exchange(&mut ours, &mut theirs, begun);
    theirs.inbox.clear();
    for round in 1..5 {
        let now = begun + REKEY_AFTER_TIME * round;
        ours.send(&packet(100, 8), now);
        ours.tick(now);
        let kinds: Vec<u8> = ours.outbox.iter().map(|datagram| datagram[0]).collect();
        assert_eq!(kinds, [4, 1], "round {round}");
        exchange(&mut ours, &mut theirs, now);
        assert_eq!(theirs.inbox.pop(), Some(packet(100, 8)));
        check_both_ways(&mut ours, &mut theirs, now);
    }
}

#[test]
fn a_whole_batch_reaches_boringtun_and_one_of_boringtun_reaches_us() {
    let now = Instant::now();
    let (mut ours, mut theirs) = (Node::new(1, 2), Oracle::new(2, 1, None));
    ours.initiate(now);
    exchange(&mut ours, &mut theirs, now);

    let packets: Vec<Vec<u8>> = (0..300u16).map(|i| packet(20 + i * 4, i as u8)).collect();
    let views: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
    let (mut slab, frames) = testing::slab(&views);
    let mut message = vec![0; BUFFER];
    let sealed = ours.tunnel.seal(&mut slab, &frames, now, &mut message);
    assert_eq!(sealed, Sealed::InPlace);
    for frame in &frames {
        theirs.receive(&slab[frame.start..frame.start + frame.length]);
    }
    assert_eq!(theirs.inbox, packets);

    packets.iter().for_each(|packet| theirs.send(packet));
    let mut slab = theirs.outbox.concat();
    let mut opened = vec![false; frames.len()];
    ours.tunnel
        .open(&mut slab, &frames, now, &mut opened, &mut []);
    assert!(opened.iter().all(|opened| *opened));
    for (frame, packet) in frames.iter().zip(&packets) {
        let inner = frame.start + DATA_HEADER..frame.start + frame.length - TAG;
        assert_eq!(&slab[inner], packet);
    }
}

#[test]
fn boringtun_under_load_gives_us_a_cookie_and_takes_it_back() {
    let now = Instant::now();
    let limiter = Arc::new(RateLimiter::new(&public(2), 0));
    let (mut ours, mut theirs) = (Node::new(1, 2), Oracle::new(2, 1, Some(limiter)));
    ours.initiate(now);
    theirs.receive(&ours.outbox.pop().unwrap());
    let cookie = theirs.outbox.pop().unwrap();
    assert_eq!((cookie[0], cookie.len()), (3, COOKIE_BYTES));
    let mut forged = cookie.clone();
    forged[40] ^= 1;
    assert_eq!(ours.receive(&forged, now), Err(Refused::Invalid));
    let answer = Handled::Reply(INITIATION_BYTES);
    assert_eq!(ours.receive(&cookie, now), Ok(answer));
    assert_eq!(
        ours.receive(&cookie, now),
        Err(Refused::Invalid),
        "taken once"
    );

    theirs.receive(&ours.outbox.pop().unwrap());
    assert_eq!(
        theirs.outbox[0][0], 2,
        "with the cookie the initiation is answered"
    );
}

#[test]
fn an_initiation_of_somebody_elses_boringtun_is_refused() {
    let now = Instant::now();
    let (mut ours, mut stranger) = (Node::new(1, 2), Oracle::new(3, 1, None));
    stranger.send(&packet(40, 1));
    let initiation = stranger.outbox.pop().unwrap();
    assert_eq!(
        ours.receive(&initiation, now),
        Err(Refused::Invalid),
        "not the peer"
    );
}

/// What boringtun 0.7.1 answered once to the initiation of the test below, its ephemeral key drawn by itself.
const RECORDED_RESPONSE: &str = "020000000102000000010000142240c5e3e083a00ca6efabcec6cd204af8b10ab7dcae04b2939e2279c9be6a\
    9e70debf074424c76ccffc64b5c6e0aef27928a22af7f4b72a5e6ed73a8b625400000000000000000000000000000000";
/// What it then sent: the packet of 20 bytes below.
const RECORDED_DATA: &str = "040000000001000000000000000000001569cc2fdbe4dca909d6399e8aa10bdfb136f4e34aa7b3f089751bb6dd0f137d3e668511";
/// BLAKE2s-256 of that initiation.
const INITIATION_DIGEST: &str = "306d5c646f10f491a8b418fdbefe1798b67728352481207c9c0c0657a2280c22";

fn bytes(hex: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digits).collect()
}

#[test]
fn fixed_keys_time_and_chance_make_the_recorded_session_with_boringtun() {
    seed(42);
    set_wall(seconds(1_800_000_000));
    let now = Instant::now();
    let mut ours = Node::new(1, 2);
    ours.initiate(now);
    let initiation = ours.outbox.pop().unwrap();
    assert_eq!(crypto::hash(&initiation, &[])[..], bytes(INITIATION_DIGEST));
    let mut theirs = Oracle::new(2, 1, None);
    theirs.receive(&initiation);
    assert_eq!(
        theirs.outbox[0][0], 2,
        "boringtun takes that initiation today as well"
    );

    let response = bytes(RECORDED_RESPONSE);
    assert_eq!(ours.receive(&response, now), Ok(Handled::Accepted));
    assert_eq!(
        ours.receive(&bytes(RECORDED_DATA), now),
        Ok(Handled::Accepted)
    );
    assert_eq!(ours.inbox, [packet(20, 9)]);
}
