//! Classes and congestion marks through planes: from inner to outer headers and back, straight and through a relay.

use std::time::Duration;

use super::{World, core, joined, packet, peers, with_relay};
use crate::counters::DropReason;
use crate::message::DATA;
use crate::offload::vnet::VNET_HEADER;
use crate::{DscpPolicy, ProtocolCore, relay};

const POLICIES: [DscpPolicy; 3] = [DscpPolicy::None, DscpPolicy::Map, DscpPolicy::Copy];
const NOT_ECT: u8 = 0;
const ECT1: u8 = 1;
const ECT0: u8 = 2;
const CE: u8 = 3;
/// EF, which every policy but one shows, without a mark.
const VOICE: u8 = 0xb8;
/// Class selector 1, which only `copy` shows.
const BULK: u8 = 0x20;

/// A packet between LANs of two nodes with this type of service.
fn v4(from: usize, to: usize, tos: u8) -> Vec<u8> {
    let mut packet = packet(from, to, b"with a class");
    packet[1] = tos;
    packet
}

/// A packet between LANs of two nodes with this traffic class, and all of a flow label.
fn v6(from: usize, to: usize, class: u8) -> Vec<u8> {
    let first = 6 << 28 | u32::from(class) << 20 | 0xf_ffff;
    let mut packet = first.to_be_bytes().to_vec();
    packet.extend([0, 4, 253, 64]);
    for node in [from, to] {
        packet.extend([0xfd, 0, 0, node as u8]);
        packet.extend([0; 11]);
        packet.push(1);
    }
    packet.extend(b"body");
    packet
}

/// What the last datagram's header had.
fn last_tos(world: &World) -> u8 {
    *world.seen_tos.last().unwrap()
}

/// What the outer header must have.
fn shown(policy: DscpPolicy, tos: u8) -> u8 {
    match (policy, tos & !3) {
        (DscpPolicy::Copy, _) | (DscpPolicy::Map, VOICE) => tos,
        (DscpPolicy::Map | DscpPolicy::None, _) => tos & 3,
    }
}

#[test]
fn the_outer_header_has_the_mark_of_the_inner_one_and_the_class_that_the_policy_shows() {
    for policy in POLICIES {
        let mut world = joined(World::with_policy(2, policy));
        world.send(1, &packet(1, 0, b"handshake"));
        world.take(0);
        for class in [0, VOICE, BULK] {
            for tos in (0..4).map(|mark| class | mark) {
                for packet in [v4(1, 0, tos), v6(1, 0, tos)] {
                    world.send(1, &packet);
                    assert_eq!(last_tos(&world), shown(policy, tos), "{policy:?} {tos:#x}");
                    assert_eq!(world.take(0), [packet], "the inner header stays");
                }
            }
        }
    }
}

#[test]
fn packets_of_a_burst_keep_each_its_own() {
    let mut world = joined(World::with_policy(2, DscpPolicy::Map));
    world.send(1, &packet(1, 0, b"handshake"));
    world.take(0);
    let all = [2, 2, 3, 2, VOICE, VOICE, 0, BULK | 1];
    let packets = all.map(|tos| v4(1, 0, tos));
    let reads = packets
        .clone()
        .map(|packet| [&[0; VNET_HEADER], &packet[..]].concat());
    world.seen_tos.clear();
    world.act(1, |plane, now| plane.handle_reads(&reads, now));
    assert_eq!(world.seen_tos, all.map(|tos| shown(DscpPolicy::Map, tos)));
    world.settle();
    assert_eq!(world.take(0), packets);
}

#[test]
fn handshakes_are_marked_by_the_policy_and_keepalives_never() {
    for policy in POLICIES {
        let handshake = if policy == DscpPolicy::None { 0 } else { 0x88 };
        let mut world = World::with_policy(2, policy);
        let mut calling = world.direct(0);
        calling.persistent_keepalive = Some(Duration::from_secs(25));
        world.apply(0, &peers(vec![world.passive(1)])).unwrap();
        world.apply(1, &peers(vec![calling])).unwrap();
        world.tick(1, Duration::ZERO);
        world.tick(1, Duration::from_secs(26));
        let mut kinds = Vec::new();
        for ((_, _, datagram), tos) in world.seen.iter().zip(&world.seen_tos) {
            // Keepalives, and probes of the path.
            let is_data = datagram[0] == DATA;
            assert_eq!(*tos, if is_data { 0 } else { handshake }, "{policy:?}");
            kinds.push(datagram[0]);
        }
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds, [1, 2, 4], "{policy:?}");
    }
}

#[test]
fn a_packet_that_waited_for_its_session_keeps_what_it_had() {
    let mut world = World::with_policy(2, DscpPolicy::Map);
    assert_eq!(core(0), ProtocolCore::Native, "boringtun does not tell");
    world.apply(0, &peers(vec![world.direct(1)])).unwrap();
    world.apply(1, &peers(vec![world.passive(0)])).unwrap();
    world.send(0, &v4(0, 1, VOICE | ECT0));
    assert_eq!(world.take(1), [v4(0, 1, VOICE | ECT0)]);
    let kinds: Vec<u8> = world.seen.iter().map(|(_, _, bytes)| bytes[0]).collect();
    assert_eq!(kinds, [1, 2, DATA]);
    assert_eq!(world.seen_tos, [0x88, 0x88, VOICE | ECT0]);
}

/// Every pair, and that nothing of the outer class comes in.
#[test]
fn marks_of_the_way_come_in_as_rfc_6040_says() {
    type Way = fn(u8) -> u8;
    let ways: [(u8, Way); 4] = [
        (NOT_ECT, |_| VOICE),
        (ECT1, |_| VOICE | ECT1),
        (ECT0, |_| VOICE | ECT0),
        (CE, |_| VOICE | CE),
    ];
    let mut world = joined(World::new(2));
    world.send(1, &packet(1, 0, b"handshake"));
    world.take(0);
    let mut dropped = 0;
    for inner in [NOT_ECT, ECT1, ECT0, CE] {
        for (outer, way) in ways {
            world.way = way;
            for make in [v4, v6] {
                let mut sent = make(1, 0, BULK | inner);
                if sent[0] == 0x45 {
                    sent = with_checksum(sent);
                }
                world.send(1, &sent);
                let expected = match (inner, outer) {
                    (NOT_ECT, CE) => None,
                    (ECT0, ECT1) => Some(ECT1),
                    (_, CE) => Some(CE),
                    (inner, _) => Some(inner),
                };
                let Some(mark) = expected else {
                    dropped += 1;
                    assert!(world.take(0).is_empty());
                    assert_eq!(world.dropped(0, DropReason::EcnCeNotEct), dropped);
                    continue;
                };
                let mut expected = make(1, 0, BULK | mark);
                if expected[0] == 0x45 {
                    expected = with_checksum(expected);
                }
                assert_eq!(world.take(0), [expected], "{inner} in {outer}");
            }
        }
    }
    assert_eq!(dropped, 2);
    assert_eq!(world.dropped(0, DropReason::EcnCeNotEct), 2);
}

/// An IPv4 packet with the checksum of its header (RFC 791 section 3.1), summed word by word.
fn with_checksum(mut packet: Vec<u8>) -> Vec<u8> {
    packet[10..12].fill(0);
    let words = packet[..20].chunks(2);
    let sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = ((folded & 0xffff) + (folded >> 16)) as u16;
    packet[10..12].copy_from_slice(&(!folded).to_be_bytes());
    packet
}

/// A way that marks what may be marked, in one burst: only those frames are marked.
#[test]
fn in_a_burst_each_datagram_has_its_own_mark() {
    let mut world = joined(World::new(2));
    world.send(1, &packet(1, 0, b"handshake"));
    world.take(0);
    let sent = with_checksum(v4(1, 0, ECT0));
    let read = [&[0; VNET_HEADER], &sent[..]].concat();
    world.act(1, |plane, now| plane.handle_reads(&vec![read; 6], now));
    let flights: Vec<_> = world.flights.drain(..).collect();
    let marks = [ECT0, CE, ECT0, ECT0, CE, ECT0];
    let burst: Vec<_> = flights
        .iter()
        .zip(marks)
        .map(|(flight, mark)| (&flight.bytes[..], mark))
        .collect();
    world.act(0, |plane, now| {
        plane.handle_datagrams(&burst, flights[0].from, now)
    });
    let expected = marks.map(|mark| with_checksum(v4(1, 0, mark)));
    assert_eq!(world.take(0), expected);
}

#[test]
fn a_relay_hands_marks_on_and_classes_by_its_policy() {
    for policy in POLICIES {
        let mut world = with_relay(World::with_policy(3, policy));
        world.send(0, &packet(0, 1, b"handshake"));
        world.take(1);
        for inner in [ECT0, VOICE | ECT0, BULK | ECT1, VOICE, BULK | CE] {
            world.seen.clear();
            world.seen_tos.clear();
            let sent = with_checksum(v4(0, 1, inner));
            world.send(0, &sent);
            assert!(
                world
                    .seen
                    .iter()
                    .all(|(_, _, bytes)| relay::parse(bytes).is_some())
            );
            assert_eq!(
                world.seen_tos,
                [shown(policy, inner); 2],
                "{policy:?} {inner:#x}"
            );
            assert_eq!(world.take(1), [sent]);
        }
        // The first half of the way is congested, or tells a class that nobody gave.
        world.way = |tos| if tos & 3 == 0 { tos } else { tos | CE };
        world.seen_tos.clear();
        world.send(0, &with_checksum(v4(0, 1, VOICE | ECT0)));
        assert_eq!(world.seen_tos[1], shown(policy, VOICE | CE));
        assert_eq!(world.take(1), [with_checksum(v4(0, 1, VOICE | CE))]);
        world.way = |tos| tos | BULK;
        world.seen_tos.clear();
        world.send(0, &with_checksum(v4(0, 1, ECT0)));
        assert_eq!(world.seen_tos[1], shown(policy, BULK | ECT0));
        assert_eq!(world.take(1), [with_checksum(v4(0, 1, ECT0))]);
    }
}

/// Frames in a row for one member are one run only as long as they look the same.
#[test]
fn a_relay_tells_frames_of_a_burst_apart() {
    let mut world = with_relay(World::with_policy(3, DscpPolicy::Copy));
    world.send(0, &packet(0, 1, b"handshake"));
    let read = [&[0; VNET_HEADER], &with_checksum(v4(0, 1, ECT0))[..]].concat();
    world.take(1);
    world.act(0, |plane, now| plane.handle_reads(&vec![read; 6], now));
    let flights: Vec<_> = world.flights.drain(..).collect();
    let marks = [ECT0, CE, CE, ECT0, VOICE | ECT0, ECT0];
    let burst: Vec<_> = flights
        .iter()
        .zip(marks)
        .map(|(flight, mark)| (&flight.bytes[..], mark))
        .collect();
    world.seen_tos.clear();
    world.act(2, |plane, now| {
        plane.handle_datagrams(&burst, flights[0].from, now)
    });
    assert_eq!(world.seen_tos, marks);
    world.settle();
    assert_eq!(world.take(1).len(), marks.len());
}
