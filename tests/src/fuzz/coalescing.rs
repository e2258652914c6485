//! Bursts of packets of some flows, right and broken: cutting undoes merging, no flow is reordered, a packet with a wrong
//! checksum leaves as it came, and what the TUN refuses or loses is counted.

use std::collections::BTreeMap;

use arbitrary::Unstructured;
use pnsbox_dataplane::fuzz::offload::{FuzzCoalescer, Taken, cut};

use super::inner::{ACK, Inner, PSH};
use super::{below, byte, short};

const VNET_HEADER: usize = 10;
const MAX_FLOWS: usize = 6;
const MAX_PACKETS: usize = 100;
/// Packets and bytes of one write.
const MAX_MERGED: usize = 64;
const MAX_BYTES: usize = 65_535;

/// Throws `data` at the coalescer, two bursts one after the other.
pub fn run(data: &[u8]) {
    let mut bytes = Unstructured::new(data);
    let tun = byte(&mut bytes);
    let mut flows: Vec<(Inner, usize)> = (0..1 + below(&mut bytes, MAX_FLOWS))
        .map(|_| {
            (
                Inner::read(&mut bytes),
                1 + usize::from(short(&mut bytes)) % 1400,
            )
        })
        .collect();
    let mut coalescer = FuzzCoalescer::new();
    for _ in 0..2 {
        let burst = burst(&mut flows, &mut bytes);
        written(&mut coalescer, &burst, tun);
    }
}

fn burst(flows: &mut [(Inner, usize)], bytes: &mut Unstructured<'_>) -> Vec<Vec<u8>> {
    let mut burst: Vec<Vec<u8>> = Vec::new();
    while !bytes.is_empty() && burst.len() < MAX_PACKETS {
        let action = byte(bytes);
        let (flow, size) = &mut flows[usize::from(action & 15) % flows.len()];
        let last = flow.payload.len() as u32;
        flow.sequence = flow.sequence.wrapping_add(last);
        flow.id = flow.id.wrapping_add(1);
        flow.payload = vec![burst.len() as u8; *size];
        match action >> 4 {
            0 => return burst,
            1 => flow.payload.truncate(usize::from(byte(bytes))),
            2 => *size = 1 + usize::from(short(bytes)) % 1400,
            3 => change(flow, bytes),
            4 => {
                let mut odd = flow.clone();
                odd.flags = byte(bytes) | ACK;
                burst.push(odd.build());
                continue;
            }
            5 => {
                let mut odd = flow.clone();
                odd.fragment = short(bytes);
                burst.push(odd.build());
                continue;
            }
            6 => {
                let mut packet = flow.build();
                let at = usize::from(short(bytes)) % packet.len();
                packet[at] ^= byte(bytes);
                burst.push(packet);
                continue;
            }
            7 => {
                let packet = flow.build();
                burst.push(packet[..usize::from(byte(bytes)).min(packet.len())].to_vec());
                continue;
            }
            8 => {
                let mut odd = flow.clone();
                odd.flags |= PSH;
                burst.push(odd.build());
                continue;
            }
            _ => {}
        }
        burst.push(flow.build());
    }
    burst
}

/// Something that a flow does from now on.
fn change(flow: &mut Inner, bytes: &mut Unstructured<'_>) {
    match below(bytes, 8) {
        0 => flow.acknowledged = flow.acknowledged.wrapping_add(1),
        1 => flow.window ^= 1,
        2 => flow.hops ^= 1,
        3 => flow.class = byte(bytes),
        4 => flow.sequence = flow.sequence.wrapping_add(short(bytes).into()),
        5 => flow.id = flow.id.wrapping_add(short(bytes)),
        6 => flow.options = vec![byte(bytes); 4 * below(bytes, 11)],
        _ => flow.fragment ^= 0x4000,
    }
}

/// `tun`: it refuses super-packets of TCP (bit 0), of UDP (1), single packets (2); it loses each fifth write (3).
fn written(coalescer: &mut FuzzCoalescer, burst: &[Vec<u8>], tun: u8) {
    let (mut after, mut writes, mut lost) = (Vec::new(), 0, 0);
    let counted = coalescer.write(burst, &mut |write| {
        writes += 1;
        let (vnet, packet) = write.split_at(VNET_HEADER);
        let refuses = match vnet[1] {
            0 => tun & 4 != 0,
            5 => tun & 2 != 0,
            _ => tun & 1 != 0,
        };
        let packets = cut(write).expect("a write is no malformed read");
        assert!(packets.len() <= MAX_MERGED && packet.len() <= MAX_BYTES);
        if packets.len() == 1 {
            assert_eq!(vnet, [0; VNET_HEADER], "a packet alone asks for offloads");
        }
        if refuses {
            lost += usize::from(packets.len() == 1);
            return Taken::Refused;
        }
        if tun & 8 != 0 && writes % 5 == 0 {
            lost += packets.len();
            return Taken::Lost;
        }
        after.extend(packets);
        Taken::Yes
    });
    assert_eq!(
        (counted.packets, counted.writes, counted.failed),
        (after.len(), writes, lost)
    );
    assert_eq!(after.len() + lost, burst.len(), "packets vanish, or appear");
    if lost == 0 {
        compare(burst, &after);
    }
}

/// Each flow's packets are the same in the same order, and so are those without ports among them.
fn compare(before: &[Vec<u8>], after: &[Vec<u8>]) {
    let (before, after) = (in_order(before), in_order(after));
    for (flow, packets) in &before {
        let same = after.get(flow) == Some(packets);
        assert!(same, "{flow:?}: reordered or changed");
    }
    assert_eq!(before.len(), after.len());
}

/// What is kept in order among itself: addresses, and protocol with ports, or the whole packet if it is in no flow.
type Flow = (Vec<u8>, Vec<u8>);

fn in_order(packets: &[Vec<u8>]) -> BTreeMap<Flow, Vec<Vec<u8>>> {
    let mut flows: BTreeMap<Flow, Vec<Vec<u8>>> = BTreeMap::new();
    let keys: Vec<(Option<Flow>, bool)> = packets.iter().map(|packet| flow(packet)).collect();
    for (packet, (key, _)) in packets.iter().zip(&keys) {
        let alone = || (Vec::new(), packet.clone());
        flows.entry(key.clone().unwrap_or_else(alone)).or_default();
    }
    for (flow, order) in &mut flows {
        for (packet, (key, is_barrier)) in packets.iter().zip(&keys) {
            let is_of_it = match key {
                Some(key) => key == flow || *is_barrier && key.0 == flow.0,
                None => flow.0.is_empty() && flow.1 == *packet,
            };
            if is_of_it {
                order.push(without_free_id(packet));
            }
        }
    }
    flows
}

/// The flow of a packet, and whether its ports cannot be read.
fn flow(packet: &[u8]) -> (Option<Flow>, bool) {
    let (addresses, protocol, ports) = match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= 20 => {
            let header = usize::from(packet[0] & 15) * 4;
            let is_fragment = packet[6] & 0x3f != 0 || packet[7] != 0;
            let has_ports = !is_fragment && header >= 20;
            (12..20, packet[9], has_ports.then_some(header))
        }
        Some(6) if packet.len() >= 40 => (8..40, packet[6], Some(40)),
        _ => return (None, false),
    };
    let addresses = packet[addresses].to_vec();
    let ports = ports.and_then(|at| packet.get(at..at + 4));
    match (protocol, ports) {
        (1, _) if packet[0] >> 4 == 4 => (None, false),
        (58, _) if packet[0] >> 4 == 6 => (None, false),
        (6 | 17, Some(ports)) => (Some((addresses, [&[protocol], ports].concat())), false),
        _ => (Some((addresses, Vec::new())), true),
    }
}

/// The identification of an IPv4 packet that nobody may fragment is free (RFC 6864 section 4.1), and its checksum goes with it.
fn without_free_id(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet.len() >= 20 && packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

/// Flows of each kind, alone and interleaved, with every action, and TUNs that refuse and lose.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    // Class, id, sequence, options, size.
    let flow = |kind: u8| [&[kind], &[0, 1, 0, 2, 0, 3, 0, 3, 0xe8, 3][..]].concat();
    for kind in 0..4 {
        let plain = flow(kind | 0x40);
        for tun in [0, 3, 4, 8] {
            seeds.push([&[tun, 0], &plain[..], &[0x90; 70], &[0], &[0x90; 5]].concat());
        }
        let mut odd = Vec::new();
        for action in [
            &[0x10, 100][..],
            &[0x20, 10, 0],
            &[0x30, 0],
            &[0x30, 3, 7],
            &[0x30, 6, 1, 2],
            &[0x40, 1],
            &[0x50, 0, 0x20],
            &[0x60, 50, 0, 1],
            &[0x70, 30],
            &[0x80],
        ] {
            odd.extend([0x90; 4]);
            odd.extend(action);
        }
        seeds.push([&[0, 0], &flow(kind)[..], &odd].concat());
    }
    let flows: Vec<u8> = (0..6).flat_map(|kind| flow(kind | 0x50)).collect();
    let turns: Vec<u8> = (0..120).map(|turn| 0x90 | (turn % 6)).collect();
    seeds.push([&[0, 5], &flows[..], &turns].concat());
    seeds
}
