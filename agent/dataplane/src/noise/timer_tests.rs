//! Two of our tunnels with each other through all timers, in virtual time.

use std::time::Instant;

use super::testing::{Node, TICK, connected, exchange, seconds, seed, slab, strangers};
use super::timers::REKEY_ATTEMPT_TIME;
use super::*;

/// Both tick until `until`, and nothing is lost; the types of all datagrams and their senders, in order.
fn run(a: &mut Node, b: &mut Node, now: &mut Instant, until: Instant) -> Vec<(char, u8)> {
    let mut seen = Vec::new();
    while *now < until {
        *now += TICK;
        a.tick(*now);
        b.tick(*now);
        carry(a, b, *now, &mut seen);
    }
    seen
}

fn carry(a: &mut Node, b: &mut Node, now: Instant, seen: &mut Vec<(char, u8)>) {
    while !(a.outbox.is_empty() && b.outbox.is_empty()) {
        for datagram in std::mem::take(&mut a.outbox) {
            seen.push(('a', datagram[0]));
            b.receive(&datagram, now).ok();
        }
        for datagram in std::mem::take(&mut b.outbox) {
            seen.push(('b', datagram[0]));
            a.receive(&datagram, now).ok();
        }
    }
}

/// One packet each way, now.
fn check_both_ways(a: &mut Node, b: &mut Node, now: Instant) {
    a.send(b"from a", now);
    b.send(b"from b", now);
    exchange(a, b, now);
    assert_eq!(b.inbox.pop().as_deref(), Some(&b"from a"[..]));
    assert_eq!(a.inbox.pop().as_deref(), Some(&b"from b"[..]));
}

#[test]
fn the_first_packet_begins_a_handshake_and_is_delivered_after_it() {
    let now = Instant::now();
    let (mut a, mut b) = strangers();
    a.send(b"first", now);
    a.send(b"second", now);
    assert_eq!(a.outbox.len(), 1, "one initiation for both");
    exchange(&mut a, &mut b, now);
    assert_eq!(b.inbox, [b"first".to_vec(), b"second".to_vec()]);
    check_both_ways(&mut a, &mut b, now);
}

#[test]
fn the_initiator_confirms_with_an_empty_message_and_the_responder_waits_for_it() {
    let now = Instant::now();
    let (mut a, mut b) = strangers();
    a.initiate(now);
    b.receive(&a.outbox.pop().unwrap(), now).unwrap();
    b.send(b"too early", now);
    let response = b.outbox.remove(0);
    assert_eq!(response[0], 2);
    assert_eq!(
        b.kinds(),
        [1],
        "nothing is sent on a session that is not confirmed"
    );
    a.receive(&response, now).unwrap();
    assert_eq!(a.outbox.len(), 1);
    assert_eq!((a.outbox[0][0], a.outbox[0].len()), (4, 32));
    exchange(&mut a, &mut b, now);
    assert_eq!(a.inbox, [b"too early".to_vec()]);
}

#[test]
fn a_lost_initiation_is_sent_again_after_five_seconds_and_jitter() {
    seed(7);
    let begun = Instant::now();
    let (mut a, mut b) = strangers();
    a.send(b"packet", begun);
    a.outbox.clear();
    a.tick(begun + REKEY_TIMEOUT - Duration::from_millis(1));
    assert!(a.outbox.is_empty());
    let now = begun + REKEY_TIMEOUT + Duration::from_millis(333);
    a.tick(now);
    exchange(&mut a, &mut b, now);
    assert_eq!(b.inbox, [b"packet".to_vec()]);
}

#[test]
fn jitter_delays_initiations_that_are_sent_again_by_a_third_of_a_second_at_most() {
    let mut delays = Vec::new();
    for number in 0..40 {
        seed(number);
        let begun = Instant::now();
        let (mut a, _) = strangers();
        a.initiate(begun);
        a.outbox.clear();
        let delay = (5_000..).find(|delay| {
            a.tick(begun + Duration::from_millis(*delay));
            !a.outbox.is_empty()
        });
        delays.push(delay.unwrap());
    }
    assert!(delays.iter().all(|delay| (5_000..=5_333).contains(delay)));
    let (first, last) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
    assert!(last - first > 200, "{first} to {last} ms");
}

#[test]
fn a_lost_response_is_replaced_by_the_next_handshake() {
    let mut now = Instant::now();
    let (mut a, mut b) = strangers();
    a.send(b"packet", now);
    b.receive(&a.outbox.pop().unwrap(), now).unwrap();
    b.outbox.clear();
    let until = now + seconds(6);
    run(&mut a, &mut b, &mut now, until);
    assert_eq!(b.inbox, [b"packet".to_vec()]);
    check_both_ways(&mut a, &mut b, now);
}

#[test]
fn a_lost_confirmation_is_made_up_by_the_next_message() {
    let now = Instant::now();
    let (mut a, mut b) = strangers();
    a.initiate(now);
    b.receive(&a.outbox.pop().unwrap(), now).unwrap();
    a.receive(&b.outbox.pop().unwrap(), now).unwrap();
    assert_eq!(a.kinds(), [4], "lost");
    let later = now + seconds(100);
    a.send(b"packet", later);
    exchange(&mut a, &mut b, later);
    assert_eq!(b.inbox.pop().as_deref(), Some(&b"packet"[..]));
    check_both_ways(&mut a, &mut b, later);
}

#[test]
fn initiations_of_both_at_once_converge_to_one_session() {
    for order in 0..2 {
        let mut now = Instant::now();
        let (mut a, mut b) = strangers();
        a.send(b"from a", now);
        b.send(b"from b", now);
        let (one, other) = (a.outbox.pop().unwrap(), b.outbox.pop().unwrap());
        if order == 0 {
            b.receive(&one, now).unwrap();
            a.receive(&other, now).unwrap();
        } else {
            a.receive(&other, now).unwrap();
            b.receive(&one, now).unwrap();
        }
        exchange(&mut a, &mut b, now);
        assert_eq!(b.inbox, [b"from a".to_vec()]);
        assert_eq!(a.inbox, [b"from b".to_vec()]);
        a.inbox.clear();
        b.inbox.clear();
        check_both_ways(&mut a, &mut b, now);
        check_both_ways(&mut a, &mut b, now);
        let roles = [&a, &b].map(|node| node.tunnel.sessions.current().unwrap().is_initiator);
        assert_ne!(roles[0], roles[1], "only one of both renews the session");

        let until = now + REKEY_AFTER_TIME;
        run(&mut a, &mut b, &mut now, until);
        a.send(b"x", now);
        b.send(b"y", now);
        let until = now + seconds(1);
        let seen = run(&mut a, &mut b, &mut now, until);
        let initiations = seen.iter().filter(|(_, kind)| *kind == 1).count();
        assert_eq!(initiations, 1, "{seen:?}");
    }
}

#[test]
fn only_the_initiator_renews_a_session_that_it_sends_on_and_no_packet_is_lost() {
    let begun = Instant::now();
    let (mut a, mut b) = connected(begun);
    let mut now = begun;
    let (mut sent, mut handshakes) = (0u32, Vec::new());
    while now < begun + seconds(1_000) {
        now += TICK;
        // Datagrams of this moment cross those of the other side.
        for node in [&mut a, &mut b] {
            node.tick(now);
            node.send(&sent.to_le_bytes(), now);
        }
        sent += 1;
        for node in [&a, &b] {
            let is_new = |datagram: &&Vec<u8>| datagram[0] == 1;
            let count = node.outbox.iter().filter(is_new).count();
            handshakes.extend(std::iter::repeat_n(now - begun, count));
        }
        let (one, other) = (std::mem::take(&mut a.outbox), std::mem::take(&mut b.outbox));
        for datagram in one {
            b.receive(&datagram, now).unwrap();
        }
        for datagram in other {
            a.receive(&datagram, now).unwrap();
        }
    }
    exchange(&mut a, &mut b, now);
    let all: Vec<Vec<u8>> = (0..sent).map(|i| i.to_le_bytes().to_vec()).collect();
    assert_eq!(a.inbox.len(), all.len());
    assert_eq!(a.inbox, all);
    assert_eq!(b.inbox, all);
    assert_eq!(handshakes.len(), 8, "every two minutes: {handshakes:?}");
    assert!(handshakes[0] >= REKEY_AFTER_TIME && handshakes[0] < REKEY_AFTER_TIME + seconds(1));
}

#[test]
fn sessions_that_both_sides_send_on_as_responders_are_renewed_before_they_end() {
    for order in 0..2 {
        let mut now = Instant::now();
        let (mut a, mut b) = strangers();
        let (first, second) = match order {
            0 => (&mut a, &mut b),
            _ => (&mut b, &mut a),
        };
        // The first begins, and the second once more before it hears that the first has the session.
        first.initiate(now);
        second.receive(&first.outbox.pop().unwrap(), now).unwrap();
        let response = second.outbox.pop().unwrap();
        now += seconds(1);
        second.initiate(now);
        first.receive(&response, now).unwrap();
        let late = first.outbox.pop().unwrap();
        first.receive(&second.outbox.pop().unwrap(), now).unwrap();
        second.receive(&first.outbox.pop().unwrap(), now).unwrap();
        let confirmation = second.outbox.pop().unwrap();
        second.receive(&late, now).unwrap();
        first.receive(&confirmation, now).unwrap();
        let roles = [&a, &b].map(|node| node.tunnel.sessions.current().unwrap().is_initiator);
        if roles != [false; 2] {
            assert_ne!(roles[0], roles[1], "one of both renews it");
            continue;
        }

        let until = now + seconds(600);
        let mut sent = 0;
        while now < until {
            now += TICK;
            for node in [&mut a, &mut b] {
                node.tick(now);
                node.send(b"call", now);
                assert_eq!(node.outbox.last().unwrap()[0], 4, "there is a session");
            }
            exchange(&mut a, &mut b, now);
            sent += 1;
            assert_eq!([a.inbox.len(), b.inbox.len()], [sent; 2]);
        }
        return;
    }
    panic!("one of both orders leads there");
}

#[test]
fn a_session_that_the_peer_began_and_never_used_does_not_drive_out_the_one_in_use() {
    let begun = Instant::now();
    let (mut a, mut b) = connected(begun);
    let now = begun + seconds(30);
    b.initiate(now);
    a.receive(&b.outbox.pop().unwrap(), now).unwrap();
    assert_eq!(a.kinds(), [2], "lost, so b never learns of that session");
    let now = now + seconds(1);
    b.send(b"used", now);
    b.send(b"late", now);
    let late = b.outbox.pop().unwrap();
    a.receive(&b.outbox.pop().unwrap(), now).unwrap();
    a.initiate(now);
    exchange(&mut a, &mut b, now);
    a.receive(&late, now).unwrap();
    assert_eq!(a.inbox, [b"used".to_vec(), b"late".to_vec()]);
}

#[test]
fn an_initiator_that_only_receives_renews_the_session_before_it_ends_and_once() {
    let mut now = Instant::now();
    let (mut a, mut b) = connected(now);
    let until = now + seconds(166);
    let mut seen = Vec::new();
    while now < until {
        b.send(b"data", now);
        let next = now + seconds(1);
        // The passive keepalive would be a message that is sent, but it is no data.
        seen.extend(run(&mut a, &mut b, &mut now, next));
    }
    let early = seen.iter().filter(|(_, kind)| *kind == 1).count();
    assert_eq!(early, 1, "{seen:?}");
    assert!(seen.contains(&('a', 1)));
}

#[test]
fn data_that_came_is_answered_after_ten_seconds_by_an_empty_message_and_that_by_nothing() {
    let begun = Instant::now();
    let (mut a, mut b) = connected(begun);
    a.send(b"data", begun);
    exchange(&mut a, &mut b, begun);
    let mut now = begun;
    let until = begun + KEEPALIVE_TIMEOUT - TICK;
    assert_eq!(run(&mut a, &mut b, &mut now, until), []);
    let until = begun + seconds(100);
    assert_eq!(run(&mut a, &mut b, &mut now, until), [('b', 4)]);
    assert!(a.inbox.is_empty());
}

#[test]
fn data_that_is_answered_needs_no_empty_message() {
    let begun = Instant::now();
    let (mut a, mut b) = connected(begun);
    a.send(b"data", begun);
    exchange(&mut a, &mut b, begun);
    b.send(b"answer", begun + seconds(1));
    exchange(&mut a, &mut b, begun + seconds(1));
    let (mut now, until) = (begun + seconds(1), begun + seconds(100));
    let seen = run(&mut a, &mut b, &mut now, until);
    assert_eq!(seen, [('a', 4)], "only the answer is answered");
}

#[test]
fn data_that_nobody_answers_begins_a_handshake_after_fifteen_seconds() {
    let begun = Instant::now();
    let (mut a, _) = connected(begun);
    for second in 0..14 {
        a.send(b"data", begun + seconds(second));
    }
    a.outbox.clear();
    a.tick(begun + seconds(15) - TICK);
    assert_eq!(a.kinds(), []);
    a.tick(begun + seconds(15) + Duration::from_millis(333));
    assert_eq!(a.kinds(), [1]);
    assert!(
        a.tunnel.sessions.sending(1, begun + seconds(16)).is_some(),
        "and the session is used meanwhile"
    );
}

#[test]
fn after_ninety_seconds_without_an_answer_a_tunnel_gives_up_once_and_a_packet_begins_anew() {
    let begun = Instant::now();
    let (mut a, mut b) = strangers();
    a.send(b"old", begun);
    let (mut now, mut gave_up) = (begun, Vec::new());
    while now < begun + seconds(300) {
        now += TICK;
        if a.tick(now) {
            gave_up.push(now - begun);
        }
        let initiations = a.kinds();
        if now - begun > REKEY_ATTEMPT_TIME + TICK {
            assert_eq!(initiations, []);
        }
    }
    assert_eq!(gave_up.len(), 1, "{gave_up:?}");
    assert!(gave_up[0] >= REKEY_ATTEMPT_TIME && gave_up[0] <= REKEY_ATTEMPT_TIME + TICK);
    a.send(b"new", now);
    exchange(&mut a, &mut b, now);
    assert_eq!(b.inbox, [b"new".to_vec()], "what was kept before is gone");
}

#[test]
fn a_restarted_peer_is_found_again_by_either_side() {
    for restarted_speaks in [false, true] {
        let mut now = Instant::now();
        let (mut a, _) = connected(now);
        let mut b = Node::new(2, 1);
        if restarted_speaks {
            b.send(b"again", now);
            now += seconds(1);
            exchange(&mut a, &mut b, now);
            assert_eq!(a.inbox, [b"again".to_vec()]);
        }
        now += seconds(1);
        a.send(b"hello", now);
        let until = now + seconds(17);
        run(&mut a, &mut b, &mut now, until);
        a.send(b"hello", now);
        exchange(&mut a, &mut b, now);
        assert!(b.inbox.contains(&b"hello".to_vec()));
    }
}

#[test]
fn a_session_is_refused_after_three_minutes_and_its_keys_are_gone() {
    let begun = Instant::now();
    let (mut a, mut b) = connected(begun);
    a.send(b"late", begun + seconds(179));
    let late = a.outbox.pop().unwrap();
    assert_eq!(
        b.receive(&late, begun + REJECT_AFTER_TIME),
        Err(Refused::Invalid)
    );
    a.send(b"too late", begun + REJECT_AFTER_TIME);
    assert_eq!(a.kinds(), [1], "a handshake instead of data");
    b.tick(begun + REJECT_AFTER_TIME);
    assert!(b.tunnel.sessions.current().is_none());
    a.tick(begun + REJECT_AFTER_TIME + REKEY_ATTEMPT_TIME);
    assert!(a.tunnel.pending.is_none(), "nor is an ephemeral key left");
}

#[test]
fn the_last_counters_are_never_used_and_many_messages_renew_the_session() {
    let now = Instant::now();
    let (mut a, mut b) = connected(now);
    let session = a.tunnel.sessions.sending(1, now).unwrap();
    session.counter = REKEY_AFTER_MESSAGES;
    a.send(b"one", now);
    a.tick(now);
    assert_eq!(a.kinds(), [4, 1]);

    let session = a.tunnel.sessions.sending(1, now).unwrap();
    session.counter = session::REJECT_AFTER_MESSAGES - 2;
    let (mut slab, frames) = slab(&[b"x", b"y", b"z"]);
    let mut message = vec![0; crate::message::BUFFER];
    let sealed = a.tunnel.seal(&mut slab, &frames, now, &mut message);
    assert_eq!(sealed, Sealed::Kept(None), "one more than there are");
    let sealed = a.tunnel.seal(&mut slab, &frames[..2], now, &mut message);
    assert_eq!(sealed, Sealed::InPlace);
    assert_eq!(slab[8..16], (u64::MAX - (1 << 13) - 2).to_le_bytes());
    assert!(a.tunnel.sessions.sending(1, now).is_none());
    for frame in &frames[..2] {
        let message = &slab[frame.start..frame.start + frame.length];
        b.receive(message, now).unwrap();
    }
}

#[test]
fn keep_alive_is_an_empty_message_or_a_handshake_or_nothing_while_one_is_under_way() {
    let now = Instant::now();
    let (mut a, _) = strangers();
    let mut message = vec![0; crate::message::BUFFER];
    assert_eq!(
        a.tunnel.keep_alive(now, &mut message),
        Some(INITIATION_BYTES)
    );
    assert_eq!(a.tunnel.keep_alive(now, &mut message), None);
    let (mut a, mut b) = connected(now);
    assert_eq!(a.tunnel.keep_alive(now, &mut message), Some(32));
    assert_eq!(b.receive(&message[..32], now), Ok(Handled::Accepted));
    assert!(b.inbox.is_empty());
}

#[test]
fn an_idle_peer_with_one_session_is_small() {
    let (core, session) = (size_of::<Tunnel>(), size_of::<Session>());
    println!("a tunnel has {core} bytes, and {session} more per session");
    assert!(core + session <= 8 * 1024);
}
