//! What strangers can try: replays, floods, forged and random bytes, frames that lie anywhere; and clocks that step back.

use std::net::SocketAddr;
use std::time::Instant;

use super::testing::{
    Node, Random, clock, connected, exchange, private, public, seconds, set_wall, slab, strangers,
};
use super::*;
use crate::message::BUFFER;

const YEAR: u64 = 31_556_952;

#[test]
fn a_replayed_initiation_is_refused_and_so_is_an_older_one() {
    let now = Instant::now();
    let (mut a, mut b) = strangers();
    a.initiate(now);
    a.initiate(now);
    let (older, newer) = (a.outbox[0].clone(), a.outbox[1].clone());
    b.receive(&newer, now).unwrap();
    let later = now + seconds(2);
    assert_eq!(b.receive(&newer, later), Err(Refused::Invalid), "the same");
    assert_eq!(
        b.receive(&older, later),
        Err(Refused::Invalid),
        "an older one"
    );
}

#[test]
fn a_wall_clock_that_steps_back_loses_no_handshake() {
    set_wall(seconds(1_800_000_000));
    let mut now = Instant::now();
    let (mut a, mut b) = strangers();
    for wall in [1_800_000_000, 1_700_000_000, 0, 1_800_000_001] {
        set_wall(seconds(wall));
        now += seconds(6);
        a.initiate(now);
        let initiation = a.outbox.pop().unwrap();
        assert_eq!(
            b.receive(&initiation, now),
            Ok(Handled::Reply(RESPONSE_BYTES)),
            "at {wall}"
        );
    }
}

#[test]
fn a_box_that_reboots_with_any_clock_goes_on_where_its_disk_says() {
    let sane = 1_800_000_000;
    set_wall(seconds(sane));
    let mut now = Instant::now();
    let (mut a, mut b) = connected(now);
    let mut disk = None;
    let mut keep = |clock: &HandshakeClock| {
        if let Some(due) = clock.reservation_due() {
            clock.reserved(Some(due));
            disk = Some(due);
        }
        disk
    };
    for wall in [0, sane - 2 * YEAR, sane + 10 * YEAR, sane, sane - 3, 0] {
        let reserved = keep(&a.tunnel.clock);
        set_wall(seconds(wall));
        a = Node::with_clock(1, 2, clock(reserved));
        keep(&a.tunnel.clock);
        now += seconds(6);
        a.send(b"packet", now);
        exchange(&mut a, &mut b, now);
        assert_eq!(b.inbox.pop().unwrap(), b"packet", "booted at {wall}");
    }

    set_wall(seconds(sane));
    let mut without = Node::new(1, 2);
    without.send(b"packet", now + seconds(6));
    exchange(&mut without, &mut b, now + seconds(6));
    assert!(b.inbox.is_empty(), "the peer asks for it");
}

#[test]
fn a_tunnel_that_is_made_anew_does_not_go_back() {
    set_wall(seconds(1_800_000_000));
    let mut now = Instant::now();
    let (a, mut b) = connected(now);
    set_wall(seconds(0));
    let clock = a.tunnel.clock.clone();
    drop(a);
    let mut a = Node::with_clock(1, 2, clock);
    now += seconds(6);
    a.send(b"packet", now);
    exchange(&mut a, &mut b, now);
    assert_eq!(b.inbox, [b"packet"]);
}

#[test]
fn initiations_are_accepted_fifty_times_a_second_at_most() {
    let now = Instant::now();
    let (mut a, mut b) = strangers();
    (0..3).for_each(|_| a.initiate(now));
    let almost = now + INITIATION_INTERVAL - Duration::from_millis(1);
    assert!(b.receive(&a.outbox[0], now).is_ok());
    assert_eq!(b.receive(&a.outbox[1], almost), Err(Refused::UnderLoad));
    assert!(b.receive(&a.outbox[1], now + INITIATION_INTERVAL).is_ok());
}

#[test]
fn a_response_is_taken_once_and_only_for_the_initiation_under_way() {
    let now = Instant::now();
    let (mut a, mut b) = strangers();
    a.initiate(now);
    b.receive(&a.outbox.pop().unwrap(), now).unwrap();
    let response = b.outbox.pop().unwrap();
    for place in [4, 8, 12, 44, 60] {
        let mut forged = response.clone();
        forged[place] ^= 1;
        assert_eq!(
            a.receive(&forged, now),
            Err(Refused::Invalid),
            "byte {place}"
        );
    }
    assert_eq!(
        a.receive(&response, now),
        Ok(Handled::Accepted),
        "the forged ones spoilt nothing"
    );
    assert_eq!(a.receive(&response, now), Err(Refused::Invalid));
}

/// The reply with a cookie to the last initiation of `a`.
fn cookie_for(a: &Node, now: Instant) -> Vec<u8> {
    let source = SocketAddr::from(([192, 0, 2, 1], 51820));
    let mut reply = vec![0; BUFFER];
    let length = Cookies::new(public(2))
        .reply(a.outbox.last().unwrap(), source, now, &mut reply)
        .unwrap();
    reply.truncate(length);
    reply
}

#[test]
fn a_cookie_is_answered_at_once_and_once_for_each_attempt() {
    let now = Instant::now();
    let (mut a, mut b) = strangers();
    a.initiate(now);
    for (later, is_answered) in [(0, true), (1, false), (4, false), (5, true)] {
        let now = now + seconds(later);
        let cookie = cookie_for(&a, now);
        let answer = a.receive(&cookie, now).unwrap();
        let expected = match is_answered {
            true => Handled::Reply(INITIATION_BYTES),
            false => Handled::Accepted,
        };
        assert_eq!(answer, expected, "after {later} s");
        if !is_answered {
            a.initiate(now);
        }
        assert_ne!(a.outbox.last().unwrap()[132..], [0; 16], "with the proof");
    }
    let last = a.outbox.pop().unwrap();
    a.outbox.clear();
    assert!(b.receive(&last, now).is_ok());
    exchange(&mut a, &mut b, now);
    assert!(a.tunnel.sessions.sending(1, now).is_some());
}

#[test]
fn a_cookie_that_comes_after_the_response_begins_nothing() {
    let now = Instant::now();
    let (mut a, mut b) = strangers();
    a.initiate(now);
    let cookie = cookie_for(&a, now);
    exchange(&mut a, &mut b, now);
    assert_eq!(a.receive(&cookie, now), Ok(Handled::Accepted));
    assert!(a.outbox.is_empty());
}

#[test]
fn a_cookie_is_not_sent_when_old() {
    let now = Instant::now();
    for (age, is_sent) in [(114, true), (115, false)] {
        let (mut a, _) = strangers();
        a.initiate(now);
        let cookie = cookie_for(&a, now);
        a.receive(&cookie, now).unwrap();
        a.initiate(now + seconds(age));
        let initiation = a.outbox.pop().unwrap();
        assert_eq!(initiation[132..] != [0; 16], is_sent, "after {age} s");
    }
}

#[test]
fn a_message_for_somebody_elses_key_is_refused() {
    let now = Instant::now();
    let (mut a, mut b) = (Node::new(1, 3), Node::new(2, 1));
    a.initiate(now);
    let initiation = a.outbox.pop().unwrap();
    assert_eq!(b.receive(&initiation, now), Err(Refused::Invalid));
}

#[test]
fn a_peer_key_of_low_order_has_no_handshake() {
    let low = PublicKey::from([0; 32]);
    let mut tunnel = Tunnel::new(&private(1), low, 7, clock(None));
    let mut message = vec![0; BUFFER];
    assert_eq!(tunnel.initiate(Instant::now(), &mut message), None);
}

#[test]
fn indices_carry_the_tunnels_number_and_are_never_taken_twice() {
    let now = Instant::now();
    let (mut a, mut b) = connected(now);
    let taken = a.tunnel.sessions.current().unwrap().local;
    for round in 1..700 {
        a.initiate(now + seconds(round));
        let initiation = a.outbox.pop().unwrap();
        let index = u32::from_le_bytes(initiation[4..8].try_into().unwrap());
        assert_eq!(index >> 8, 1);
        assert_ne!(index, taken, "round {round}");
    }
    exchange(&mut a, &mut b, now);
}

#[test]
fn a_repeated_message_is_opened_once_also_within_a_batch() {
    let now = Instant::now();
    let (mut a, mut b) = connected(now);
    a.send(b"packet", now);
    let message = a.outbox.pop().unwrap();
    let mut twice = [message.clone(), message.clone()].concat();
    let frames = [0, message.len()].map(|start| Frame {
        start,
        length: message.len(),
    });
    let mut opened = [false; 2];
    b.tunnel
        .open(&mut twice.clone(), &frames, now, &mut opened, &mut []);
    assert_eq!(opened, [true, false]);
    b.tunnel
        .open(&mut twice, &frames, now, &mut opened, &mut []);
    assert_eq!(opened, [false, false]);
}

#[test]
fn a_forged_message_marks_no_counter() {
    let now = Instant::now();
    let (mut a, mut b) = connected(now);
    a.send(b"packet", now);
    let message = a.outbox.pop().unwrap();
    let mut forged = message.clone();
    forged[20] ^= 1;
    assert_eq!(b.receive(&forged, now), Err(Refused::Invalid));
    let mut ahead = message.clone();
    ahead[9] = 0xff;
    assert_eq!(b.receive(&ahead, now), Err(Refused::Invalid));
    assert_eq!(b.receive(&message, now), Ok(Handled::Accepted));
}

#[test]
fn a_batch_of_several_sessions_and_of_nonsense_is_opened_where_it_is_genuine() {
    let now = Instant::now();
    let (mut a, mut b) = connected(now);
    let seal = |a: &mut Node, count: usize| {
        (0..count).for_each(|_| a.send(b"some packet", now));
        std::mem::take(&mut a.outbox)
    };
    let old = seal(&mut a, 200);
    let later = now + seconds(1);
    a.initiate(later);
    b.receive(&a.outbox.pop().unwrap(), later).unwrap();
    let response = b.outbox.pop().unwrap();
    a.tunnel
        .handle(&response, later, &mut vec![0; BUFFER])
        .unwrap();
    let new = seal(&mut a, 200);

    let mut slab = Vec::new();
    let (mut frames, mut genuine) = (Vec::new(), Vec::new());
    let mut random = Random::new(3);
    for (old, new) in old.iter().zip(&new) {
        for (message, is_genuine) in [(old, true), (new, true), (&vec![4; 40], false)] {
            let copies = 1 + random.below(2);
            for copy in 0..copies {
                frames.push(Frame {
                    start: slab.len(),
                    length: message.len(),
                });
                genuine.push(is_genuine && copy == 0);
                slab.extend_from_slice(message);
            }
        }
    }
    for (start, length) in [
        (slab.len(), 32),
        (slab.len() - 31, 32),
        (0, 31),
        (3, 0),
        (usize::MAX, 40),
        (40, usize::MAX),
    ] {
        frames.push(Frame { start, length });
        genuine.push(false);
    }
    let mut opened = vec![true; frames.len()];
    b.tunnel
        .open(&mut slab, &frames, later, &mut opened, &mut []);
    assert_eq!(opened, genuine);
    assert!(
        b.tunnel
            .sessions
            .current()
            .is_some_and(|session| session.born == later)
    );
}

#[test]
fn random_and_mangled_bytes_never_panic() {
    let now = Instant::now();
    let mut random = Random::new(99);
    let (mut a, mut b) = connected(now);
    a.initiate(now);
    a.send(b"packet", now);
    let genuine = std::mem::take(&mut a.outbox);
    let (empty, none) = (&mut [][..], &mut [0; 3][..]);
    assert_eq!(b.tunnel.handle(&[], now, empty), Err(Refused::Invalid));
    assert_eq!(
        b.tunnel.handle(&genuine[0], now, none),
        Err(Refused::Invalid)
    );
    assert_eq!(b.tunnel.initiate(now, none), None);
    assert_eq!(b.tunnel.keep_alive(now, none), None);
    for round in 0..20_000u64 {
        let mut datagram = if random.is_one_in(2) {
            let length = random.below(200) as usize;
            let mut bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
            if let Some(first) = bytes.first_chunk_mut() {
                *first = (random.below(5) as u32).to_le_bytes();
            }
            bytes
        } else {
            genuine[random.below(genuine.len() as u64) as usize].clone()
        };
        if !datagram.is_empty() {
            let place = random.below(datagram.len() as u64) as usize;
            datagram[place] ^= 1 << random.below(8);
        }
        b.receive(&datagram, now + Duration::from_millis(round))
            .ok();
        b.outbox.clear();
    }
    assert!(b.inbox.is_empty());
}

#[test]
fn without_entropy_nothing_is_sent_and_nothing_breaks() {
    let now = Instant::now();
    let barren = Environment { fill: |_| false };
    let clock = clock(None);
    let mut tunnel = Tunnel::with_environment(&private(2), public(1), 2, clock, barren);
    let mut message = vec![0; BUFFER];
    let (mut slab, frames) = slab(&[b"packet"]);
    assert_eq!(
        tunnel.seal(&mut slab, &frames, now, &mut message),
        Sealed::Kept(None)
    );
    let mut a = Node::new(1, 2);
    a.initiate(now);
    let initiation = a.outbox.pop().unwrap();
    let result = tunnel.handle(&initiation, now, &mut message);
    assert_eq!(result, Err(Refused::UnderLoad));
}
