//! The same cuts and merges as `tun-rs`, which follows wireguard-go.
//!
//! They are the same byte for byte for all that a healthy flow does. By design ours differ elsewhere, and are tested by
//! themselves: a TCP packet is only ever appended to its connection's last write (theirs may be put before or behind any
//! earlier one with the same acknowledged number); equal windows, flow labels, and consecutive identifications where
//! fragmenting is allowed, are asked for; a write has at most 64 packets, of TCP too; datagrams without a checksum stay alone.

use std::mem;

use tun_rs::{VIRTIO_NET_HDR_LEN, VirtioNetHdr, gso_split, handle_gro};

use super::coalesce_tests::{compare_flows, cut, writes};
use super::headers::{PSH, Transport, Version};
use super::packets::{KINDS, Random, Sample};
use super::segment::Segments;
use super::segment_tests::random_super;
use super::vnet::{GSO_NONE, VNET_HEADER, VnetHeader};

/// A read as they cut it.
fn their_cut(vnet: VnetHeader, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut packet = packet.to_vec();
    let count = Segments::parse(vnet, &packet).unwrap().count();
    let mut out = vec![vec![0; 1600]; count];
    let mut sizes = vec![0; count];
    let header = VirtioNetHdr::decode(&vnet.encode()).unwrap();
    let is_v6 = packet[0] >> 4 == 6;
    let made = gso_split(&mut packet, header, &mut out, &mut sizes, 0, is_v6).unwrap();
    assert_eq!(made, count);
    for (packet, size) in out.iter_mut().zip(sizes) {
        packet.truncate(size);
    }
    out
}

/// The writes of a burst as they merge it.
fn their_writes(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut buffers: Vec<Vec<u8>> = packets
        .iter()
        .map(|packet| {
            let mut buffer = Vec::with_capacity(70_000);
            buffer.extend([0; VIRTIO_NET_HDR_LEN]);
            buffer.extend(packet);
            buffer
        })
        .collect();
    let mut order = Vec::new();
    handle_gro(
        &mut buffers,
        VIRTIO_NET_HDR_LEN,
        &mut Default::default(),
        &mut Default::default(),
        true,
        &mut order,
    )
    .unwrap();
    order
        .into_iter()
        .map(|number| mem::take(&mut buffers[number]))
        .collect()
}

#[test]
fn super_packets_are_cut_as_theirs() {
    let seed = 21;
    let mut random = Random(seed);
    for round in 0..300 {
        let (mut sample, size) = random_super(&mut random);
        if random.one_in(4) {
            sample.extension = match sample.version {
                Version::V4 => vec![1, 1, 1, 0],
                Version::V6 => vec![60, 0, 1, 4, 0, 0, 0, 0],
            };
        }
        let (vnet, packet) = sample.super_packet(size as u16);
        let ours = cut(&[&vnet.encode()[..], &packet].concat());
        assert_eq!(
            ours,
            their_cut(vnet, &packet),
            "seed {seed}, round {round}: {sample:?} in segments of {size}"
        );
    }
}

#[test]
fn healthy_flows_are_merged_as_theirs() {
    let (mut merged, mut packets) = (0, 0);
    for seed in 0..300 {
        let burst = healthy_burst(&mut Random(seed));
        let (ours, theirs) = (writes(&burst), their_writes(&burst));
        let different = ours.iter().zip(&theirs).position(|(a, b)| a != b);
        assert_eq!(different, None, "seed {seed}");
        assert_eq!(ours.len(), theirs.len(), "seed {seed}");
        merged += burst.len() - ours.len();
        packets += burst.len();
    }
    assert!(merged * 3 > packets, "{merged} of {packets} were merged");
}

#[test]
fn what_they_merge_is_cut_by_us_to_the_same_packets_and_the_other_way() {
    for seed in 1000..1100 {
        let burst = healthy_burst(&mut Random(seed));
        let their_cut = |write: &Vec<u8>| {
            let (vnet, packet) = write.split_first_chunk::<VNET_HEADER>().unwrap();
            let vnet = VnetHeader::decode(vnet);
            if vnet.gso_type == GSO_NONE {
                return vec![packet.to_vec()];
            }
            their_cut(vnet, packet)
        };
        let ours: Vec<Vec<u8>> = writes(&burst).iter().flat_map(their_cut).collect();
        let theirs: Vec<Vec<u8>> = their_writes(&burst).iter().flat_map(|w| cut(w)).collect();
        compare_flows(
            &burst,
            &ours,
            &format!("seed {seed}: merged by us, cut by them"),
        );
        compare_flows(
            &burst,
            &theirs,
            &format!("seed {seed}: merged by them, cut by us"),
        );
    }
}

/// At most 60 packets of some flows whose packets come in order; options, acknowledged numbers, sizes and classes change,
/// packets get lost or broken, some are the last of what was written at once.
pub(super) fn healthy_burst(random: &mut Random) -> Vec<Vec<u8>> {
    let mut flows: Vec<(Sample, usize)> = (0..1 + random.below(6))
        .map(|port| {
            let (version, transport) = KINDS[random.below(4)];
            let mut sample = Sample::new(version, transport, &[]);
            sample.ports[0] = port as u16;
            sample.options = random.bytes(12);
            (sample, 100 + random.below(1200))
        })
        .collect();
    let mut burst = Vec::new();
    let mut flow = 0;
    for _ in 0..1 + random.below(60) {
        if random.one_in(3) {
            flow = random.below(flows.len());
        }
        let (sample, size) = &mut flows[flow];
        let last = sample.payload.len() as u32;
        sample.sequence = sample.sequence.wrapping_add(last);
        match random.below(24) {
            0 => sample.acknowledged += 100,
            1 => sample.class ^= 0xb8,
            2 => sample.hops -= 1,
            3 => sample.options = random.bytes(12),
            4 => sample.sequence += 5000,
            5 => *size = 100 + random.below(1200),
            _ => {}
        }
        let bytes = if random.one_in(10) {
            1 + random.below(*size)
        } else {
            *size
        };
        sample.payload = random.bytes(bytes);
        sample.id = sample.id.wrapping_add(1);
        let is_pushed = random.one_in(8) && sample.transport == Transport::Tcp;
        let mut packet = sample
            .with(|s| s.flags |= if is_pushed { PSH } else { 0 })
            .build();
        if random.one_in(30) {
            let at = sample.headers() + random.below(bytes);
            packet[at] ^= 1 << random.below(8);
        }
        burst.push(packet);
    }
    burst
}
