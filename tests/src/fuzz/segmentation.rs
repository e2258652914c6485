//! What is read from a TUN: a right super-packet is cut as its sender would have sent it, and nothing else
//! makes a panic, more packets than the bound, or a packet longer than the first.

use arbitrary::Unstructured;
use pnsbox_dataplane::fuzz::offload::cut;

use super::inner::Inner;
use super::{below, byte, chunk, short};

const VNET_HEADER: usize = 10;
/// 65,535 bytes in segments of 48.
const MAX_SEGMENTS: usize = 1365;

/// Throws `data` at the cutter.
pub fn run(data: &[u8]) {
    let mut bytes = Unstructured::new(data);
    match below(&mut bytes, 3) {
        0 => keeps_bounds(bytes.take_rest()),
        1 => {
            let (packet, size) = super_packet(&mut bytes);
            let cut = cut(&[packet.vnet(size), packet.unsummed()].concat());
            let count = packet.payload.len().div_ceil(size.into());
            let expected = (count <= MAX_SEGMENTS).then(|| packet.in_pieces(size.into()));
            assert!(cut == expected, "{count} packets of {size} bytes");
        }
        _ => {
            let (packet, size) = super_packet(&mut bytes);
            let mut read = [packet.vnet(size), packet.unsummed()].concat();
            bend(&mut read, &mut bytes);
            keeps_bounds(&read);
        }
    }
}

/// A packet with a payload, and the size of its segments.
fn super_packet(bytes: &mut Unstructured<'_>) -> (Inner, u16) {
    let mut packet = Inner::read(bytes);
    packet.flags = byte(bytes);
    let size = 1 + short(bytes) % 3000;
    let length = 1 + usize::from(short(bytes)) % 6000;
    packet.payload = (0..length).map(|at| (at * 7 + at / 256) as u8).collect();
    let own = chunk(bytes);
    let start = own.len().min(length);
    packet.payload[..start].copy_from_slice(&own[..start]);
    (packet, size)
}

/// Changes up to four bytes of the headers, and maybe cuts the end off.
fn bend(read: &mut Vec<u8>, bytes: &mut Unstructured<'_>) {
    for _ in 0..below(bytes, 5) {
        let at = below(bytes, 128).min(read.len() - 1);
        read[at] = byte(bytes);
    }
    if below(bytes, 4) == 0 {
        let length = usize::from(short(bytes)) % (read.len() + 1);
        read.truncate(length);
    }
}

fn keeps_bounds(read: &[u8]) {
    let Some(packets) = cut(read) else {
        return;
    };
    let packet = &read[VNET_HEADER..];
    assert!(
        (1..=MAX_SEGMENTS).contains(&packets.len()),
        "{} packets",
        packets.len()
    );
    assert!(
        packets
            .iter()
            .all(|p| p.len() <= packets[0].len() && p.len() <= packet.len())
    );
    let is_super = read[1] != 0;
    if !is_super {
        let is_whole = packets.len() == 1 && packets[0].len() == packet.len();
        assert!(is_whole, "a packet is cut that is no super-packet");
        return;
    }
    // Behind the headers, which all have, the packets are the read.
    let start = usize::from(u16::from_ne_bytes([read[6], read[7]]));
    let header = match read[1] {
        5 => start + 8,
        _ => start + usize::from(packet[start + 12] >> 4) * 4,
    };
    let payloads: Vec<u8> = packets.iter().flat_map(|p| p[header..].to_vec()).collect();
    assert!(
        payloads == packet[header..],
        "payload is lost, doubled or changed"
    );
    for packet in &packets {
        let length = if packet[0] >> 4 == 4 {
            usize::from(u16::from_be_bytes([packet[2], packet[3]]))
        } else {
            40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]))
        };
        assert_eq!(length, packet.len(), "the length in the IP header");
    }
}

/// Super-packets of each kind, right and bent; reads without offload and with an unfinished checksum.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![0; 40]];
    for kind in 0..4 {
        // Kind, class, id, sequence, options, flags, size, length.
        let fields = [
            kind | 0x40,
            0,
            1,
            0,
            2,
            0,
            3,
            0,
            3,
            0x98,
            0xe8,
            3,
            0x10,
            0x27,
        ];
        seeds.push([&[1], &fields[..]].concat());
        let bends = [0, 0, 2, 1, 0, 12, 0x46, 1];
        seeds.push([&[2], &fields[..], &bends[..]].concat());
        let packet = Inner {
            is_v6: kind & 1 != 0,
            is_udp: kind & 2 != 0,
            payload: vec![9; 100],
            ..Inner::default()
        };
        let super_packet = [packet.vnet(30), packet.unsummed()].concat();
        let mut unfinished = super_packet.clone();
        unfinished[1] = 0;
        let complete = [&[0; VNET_HEADER], &packet.build()[..]].concat();
        for read in [super_packet, unfinished, complete] {
            seeds.push([&[0], &read[..]].concat());
        }
    }
    seeds
}
