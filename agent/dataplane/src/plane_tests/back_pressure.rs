//! The kernel takes no more for a while: nothing is lost, and nothing is read that has no room.

use std::io::IoSlice;

use super::*;
use crate::offload::coalesce::Outcome;
use crate::offload::vnet::VNET_HEADER;
use crate::output::{Output, Run, Sent};
use crate::tos::Tos;

/// A socket that takes so many more datagrams.
#[derive(Default)]
struct Socket {
    room: usize,
    took: Vec<Vec<u8>>,
}

impl Output for Socket {
    fn datagram(&mut self, _to: SocketAddr, _tos: Tos, _header: &[u8], _datagram: &[u8]) -> bool {
        false
    }

    fn probe(&mut self, _to: SocketAddr, _datagram: &[u8]) {}

    fn runs(&mut self, slab: &[u8], runs: &[Run]) -> Sent {
        let mut sent = Sent::default();
        for run in runs {
            let taken = run.count().min(self.room);
            self.room -= taken;
            for (at, length) in run.datagrams().take(taken) {
                self.took.push(slab[at..at + length].to_vec());
            }
            if taken < run.count() {
                sent.partial = taken;
                break;
            }
            sent.runs += 1;
        }
        sent
    }

    fn packet(&mut self, _pieces: &[IoSlice<'_>]) -> Outcome {
        Outcome::Failed
    }
}

fn total_drops(world: &World, node: usize) -> u64 {
    let drops = world.counters(node).drops;
    drops.iter().map(|(_, count)| count).sum()
}

#[test]
fn a_full_socket_stops_the_reading_and_nothing_is_lost_or_sent_twice() {
    for (room, size) in [(1, 1300), (7, 1300), (100, 1300), (1, 60_000), (3, 400)] {
        let mut world = pair();
        world.send(1, &packet(1, 0, b"handshake"));
        world.take(0);
        let reads: Vec<Vec<u8>> = (0..2000_u32)
            .map(|number| {
                let mut payload = vec![7; size - number as usize % 2 * 100];
                payload[..4].copy_from_slice(&number.to_be_bytes());
                [&[0; VNET_HEADER][..], &packet(1, 0, &payload)].concat()
            })
            .take(if size > 10_000 { 50 } else { 2000 })
            .collect();
        let mut socket = Socket::default();
        let mut done = 0;
        let mut most = 0;
        while socket.took.len() < reads.len() {
            let taken = world.nodes[1]
                .plane
                .transmit(&reads[done..], world.now, &mut socket);
            most = most.max(done + taken - socket.took.len());
            done += taken;
            // The socket is full now and then: it takes some, at the next call nothing, and so on.
            socket.room = if socket.room == 0 { room } else { 0 };
        }
        assert!(
            most * size < 300_000,
            "{most} packets of {size} were read ahead"
        );
        assert_eq!(total_drops(&world, 1), 0, "{room}, {size}");
        for datagram in &socket.took {
            let from = world.nodes[1].address;
            world.throw(0, from, datagram);
        }
        let arrived = world.take(0);
        let sent = reads.iter().map(|read| &read[VNET_HEADER..]);
        assert!(arrived.iter().map(Vec::as_slice).eq(sent), "{room}, {size}");
        let counters = world.counters(1);
        assert_eq!(counters.peers[0].tx_packets, 1 + reads.len() as u64);
    }
}

#[test]
fn a_refused_super_packet_counts_as_its_packets() {
    let world_of = |peer: bool| {
        let world = World::new(2);
        if peer {
            world.apply(0, &peers(vec![world.passive(1)])).unwrap();
        }
        world
    };
    // TCP over IPv4, 2,500 bytes of payload in packets of 1,000 (linux/virtio_net.h).
    let mut read = vec![1, 1, 40, 0, 0xe8, 3, 20, 0, 16, 0];
    read.resize(VNET_HEADER, 0);
    let mut inner = packet(0, 1, &[0; 2520]);
    inner[9] = 6;
    inner[32] = 0x50;
    read.extend(inner);
    for (peer, reason) in [(false, DropReason::NoPeer), (true, DropReason::NoEndpoint)] {
        let mut world = world_of(peer);
        let now = world.now;
        world.nodes[0]
            .plane
            .handle_reads(std::slice::from_ref(&read), now);
        assert_eq!(world.dropped(0, reason), 3, "{reason:?}");
    }
}
