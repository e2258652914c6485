//! Super-packets are cut as RFC 791, 768, 9293 and the kernel's habits demand; what is malformed is refused.

use super::headers::{ACK, CWR, FIN, PSH, Transport, Version};
use super::packets::{KINDS, Random, Sample};
use super::segment::{MAX_SEGMENTS, Malformed, Segments};
use super::vnet::{GSO_ECN, GSO_TCPV4, GSO_UDP_L4, NEEDS_CSUM, VnetHeader};

/// All packets of a read.
fn cut(vnet: VnetHeader, packet: &[u8]) -> Vec<Vec<u8>> {
    let segments = Segments::parse(vnet, packet).unwrap();
    (0..segments.count())
        .map(|index| {
            let mut into = vec![0xaa; segments.length(index) + 5];
            segments.write(index, &mut into);
            assert_eq!(into[segments.length(index)..], [0xaa; 5], "nothing behind");
            into.truncate(segments.length(index));
            into
        })
        .collect()
}

/// What `sample` is when somebody sends it in segments of `size` bytes.
fn expected(sample: &Sample, size: usize) -> Vec<Vec<u8>> {
    let count = sample.payload.len().div_ceil(size);
    let packets = sample.payload.chunks(size).enumerate();
    let packets = packets.map(|(index, payload)| {
        sample.with(|packet| {
            packet.id = packet.id.wrapping_add(index as u16);
            packet.sequence = packet.sequence.wrapping_add((index * size) as u32);
            packet.payload = payload.to_vec();
            if index > 0 {
                packet.flags &= !CWR;
            }
            if index + 1 < count {
                packet.flags &= !(FIN | PSH);
            }
        })
    });
    packets.map(|packet| packet.build()).collect()
}

#[test]
fn every_field_is_right_in_every_packet() {
    let seed = 11;
    let mut random = Random(seed);
    for (version, transport) in KINDS {
        for (bytes, size) in [
            (1, 1),
            (5000, 1000),
            (5001, 1000),
            (999, 1000),
            (62_001, 1319),
        ] {
            let mut sample = Sample::new(version, transport, &random.bytes(bytes));
            sample.id = 0xfffe;
            sample.sequence = u32::MAX - 1500;
            sample.class = 0xb9;
            sample.flags = CWR | ACK | PSH | FIN;
            sample.options = vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
            let (vnet, packet) = sample.super_packet(size as u16);
            assert_eq!(
                cut(vnet, &packet),
                expected(&sample, size),
                "seed {seed}: {version:?} {transport:?}, {bytes} bytes in segments of {size}"
            );
        }
    }
}

#[test]
fn random_super_packets_are_cut_like_sent_in_pieces() {
    let seed = 12;
    let mut random = Random(seed);
    for round in 0..300 {
        let (sample, size) = random_super(&mut random);
        let (vnet, packet) = sample.super_packet(size as u16);
        assert_eq!(
            cut(vnet, &packet),
            expected(&sample, size),
            "seed {seed}, round {round}: {sample:?} in segments of {size}"
        );
    }
}

/// A sample and a size of segments.
pub(super) fn random_super(random: &mut Random) -> (Sample, usize) {
    let (version, transport) = KINDS[random.below(4)];
    let size = 1 + random.below(1460);
    let bytes = 1 + random.below((size * 64).min(60_000));
    let mut sample = Sample::new(version, transport, &random.bytes(bytes));
    sample.id = random.next() as u16;
    sample.class = random.next() as u8;
    sample.label = random.next() as u16;
    sample.sequence = random.next() as u32;
    sample.acknowledged = random.next() as u32;
    sample.window = random.next() as u16;
    sample.flags = random.next() as u8;
    sample.ports = [random.next() as u16, random.next() as u16];
    if transport == Transport::Tcp {
        let words = random.below(11);
        sample.options = random.bytes(4 * words);
    }
    (sample, size)
}

#[test]
fn headers_of_other_lengths_are_kept() {
    let payload = Random(13).bytes(3000);
    let mut with_options = Sample::tcp4(&payload);
    with_options.extension = vec![1, 1, 1, 0];
    let mut with_extension = Sample::udp6(&payload);
    with_extension.extension = vec![60, 0, 1, 4, 0, 0, 0, 0];
    for sample in [with_options, with_extension] {
        let (vnet, packet) = sample.super_packet(1000);
        assert_eq!(cut(vnet, &packet), expected(&sample, 1000), "{sample:?}");
    }
}

#[test]
fn the_header_length_that_the_kernel_tells_is_not_believed() {
    let sample = Sample::tcp4(&Random(14).bytes(3000));
    let (vnet, packet) = sample.super_packet(1000);
    for hdr_len in [0, 1, 20, 1040, 3040, u16::MAX] {
        let vnet = VnetHeader { hdr_len, ..vnet };
        assert_eq!(cut(vnet, &packet), expected(&sample, 1000), "{hdr_len}");
    }
}

#[test]
fn a_packet_without_offload_stays_as_it_is() {
    let packet = [1, 2, 3, 4, 5];
    assert_eq!(cut(VnetHeader::default(), &packet), [packet]);
    // Fields mean nothing without their flag.
    let vnet = VnetHeader {
        gso_size: 7,
        csum_start: 900,
        ..VnetHeader::default()
    };
    assert_eq!(cut(vnet, &packet), [packet]);
    assert_eq!(cut(VnetHeader::default(), &[]), [[0; 0]]);
}

#[test]
fn a_missing_checksum_is_completed() {
    for (version, transport) in KINDS {
        let sample = Sample::new(version, transport, &Random(15).bytes(777));
        let (vnet, packet) = sample.super_packet(0);
        let vnet = VnetHeader {
            gso_type: 0,
            ..vnet
        };
        assert_eq!(
            cut(vnet, &packet),
            [sample.build()],
            "{version:?} {transport:?}"
        );
    }
}

#[test]
fn a_udp_checksum_is_never_zero() {
    let mut sample = Sample::udp4(&[0; 2000]);
    // One payload whose sum is 0xFFFF with the rest, so that its complement would be 0.
    let plain = sample.with(|s| s.payload.truncate(1000)).build();
    let checksum = [plain[26], plain[27]];
    sample.payload[..2].copy_from_slice(&checksum);
    sample.payload[1000..1002].copy_from_slice(&checksum);
    let (vnet, packet) = sample.super_packet(1000);
    for packet in cut(vnet, &packet) {
        assert_eq!(packet[26..28], [0xff, 0xff]);
    }
    let single = sample.with(|s| s.payload.truncate(1000));
    let (vnet, packet) = single.super_packet(0);
    let vnet = VnetHeader {
        gso_type: 0,
        ..vnet
    };
    assert_eq!(cut(vnet, &packet)[0][26..28], [0xff, 0xff]);
}

#[test]
fn the_longest_packets_fit() {
    for (version, transport) in KINDS {
        let headers = Sample::new(version, transport, &[]).headers();
        let sample = Sample::new(version, transport, &Random(16).bytes(65_535 - headers));
        let (vnet, packet) = sample.super_packet(u16::MAX);
        assert_eq!(cut(vnet, &packet), [sample.build()]);
        let (vnet, packet) = sample.super_packet(48);
        assert_eq!(cut(vnet, &packet).len(), sample.payload.len().div_ceil(48));
    }
}

#[test]
fn what_is_malformed_is_refused() {
    let tcp = Sample::tcp4(&[7; 5000]).super_packet(1000);
    let udp = Sample::udp6(&[7; 5000]).super_packet(1000);
    let refused = |(vnet, packet): &(VnetHeader, Vec<u8>),
                   change: fn(&mut VnetHeader, &mut Vec<u8>)| {
        let (mut vnet, mut packet) = (*vnet, packet.clone());
        change(&mut vnet, &mut packet);
        Segments::parse(vnet, &packet)
            .map(|s| s.count())
            .unwrap_err()
    };
    let udp4 = Sample::udp4(&[7; 5000]).super_packet(1000);
    let checksum = |start, offset| Malformed::Checksum { start, offset };
    let cases = [
        (refused(&tcp, |v, _| v.gso_size = 0), Malformed::Size(0)),
        (
            refused(&tcp, |v, _| v.gso_size = 3),
            Malformed::TooMany(1667),
        ),
        (refused(&tcp, |v, _| v.gso_type = 3), Malformed::Type(3)),
        (refused(&tcp, |v, _| v.gso_type = 4), Malformed::Type(4)),
        (
            refused(&tcp, |v, _| v.gso_type = GSO_ECN),
            Malformed::Type(GSO_ECN),
        ),
        (
            refused(&udp, |v, _| v.gso_type = GSO_TCPV4),
            Malformed::Type(1),
        ),
        (
            refused(&udp, |v, _| v.gso_type |= GSO_ECN),
            Malformed::Type(GSO_ECN | GSO_UDP_L4),
        ),
        (refused(&tcp, |v, _| v.flags = 0), checksum(20, 16)),
        (refused(&tcp, |v, _| v.csum_offset = 6), checksum(20, 6)),
        (refused(&udp, |v, _| v.csum_offset = 16), checksum(40, 16)),
        (
            refused(&tcp, |v, _| v.csum_start = 24),
            Malformed::Headers(5040),
        ),
        (
            refused(&tcp, |v, _| v.csum_start = 0),
            Malformed::Headers(5040),
        ),
        (
            refused(&udp4, |v, _| v.csum_start = 24),
            Malformed::Headers(5028),
        ),
        (
            refused(&udp, |v, _| v.csum_start = 20),
            Malformed::Headers(5048),
        ),
        (
            refused(&udp, |v, _| v.csum_start = 5041),
            Malformed::Headers(5048),
        ),
        (
            refused(&udp, |v, _| v.csum_start = u16::MAX),
            Malformed::Headers(5048),
        ),
        (refused(&tcp, |_, p| p[32] = 0x40), Malformed::Headers(5040)),
        (refused(&tcp, |_, p| p.truncate(39)), Malformed::Headers(39)),
        (refused(&tcp, |_, p| p.truncate(20)), Malformed::Headers(20)),
        (refused(&tcp, |_, p| p.truncate(1)), Malformed::Headers(1)),
        (refused(&tcp, |_, p| p.clear()), Malformed::Type(1)),
        (refused(&udp, |_, p| p.truncate(47)), Malformed::Headers(47)),
        (
            refused(&tcp, |v, p| {
                p.resize(70_000, 0);
                v.gso_size = u16::MAX;
            }),
            Malformed::Size(u16::MAX),
        ),
    ];
    for (index, (refused, expected)) in cases.into_iter().enumerate() {
        assert_eq!(refused, expected, "case {index}");
    }
}

#[test]
fn a_checksum_that_is_not_in_the_packet_is_refused() {
    let (vnet, packet) = Sample::tcp4(&[7; 5000]).super_packet(1000);
    for (csum_start, csum_offset) in [(5023, 16), (5039, 16), (20, u16::MAX), (u16::MAX, 0)] {
        let vnet = VnetHeader {
            gso_type: 0,
            csum_start,
            csum_offset,
            ..vnet
        };
        let refused = Segments::parse(vnet, &packet).map(|s| s.count());
        let expected = Malformed::Checksum {
            start: csum_start,
            offset: csum_offset,
        };
        assert_eq!(refused, Err(expected));
    }
}

#[test]
fn ecn_super_packets_keep_cwr_on_the_first() {
    let mut sample = Sample::tcp4(&[7; 2500]);
    sample.flags = CWR | ACK;
    let (mut vnet, packet) = sample.super_packet(1000);
    vnet.gso_type |= GSO_ECN;
    let flags: Vec<u8> = cut(vnet, &packet).iter().map(|packet| packet[33]).collect();
    assert_eq!(flags, [CWR | ACK, ACK, ACK]);
}

#[test]
fn no_bytes_make_it_panic_or_write_too_much() {
    let seed = 17;
    let mut random = Random(seed);
    for round in 0..20_000 {
        let (sample, size) = {
            let mut sample = Sample::new(Version::V4, Transport::Tcp, &[0; 40]);
            (sample.version, sample.transport) = KINDS[random.below(4)];
            (sample, random.below(30))
        };
        let (vnet, mut packet) = sample.super_packet(size as u16);
        let mut header = vnet.encode();
        for _ in 0..random.below(4) {
            let at = random.below(10);
            header[at] = random.next() as u8;
            let at = random.below(packet.len());
            packet[at] = random.next() as u8;
        }
        packet.truncate(random.below(packet.len() + 30));
        let Ok(segments) = Segments::parse(VnetHeader::decode(&header), &packet) else {
            continue;
        };
        assert!(
            (1..=MAX_SEGMENTS).contains(&segments.count()),
            "seed {seed}, round {round}"
        );
        for index in 0..segments.count() {
            let length = segments.length(index);
            assert!(length <= segments.length(0) && length <= packet.len());
            segments.write(index, &mut vec![0; length]);
        }
    }
    assert_eq!(NEEDS_CSUM, 1);
}

/// `cargo test --release -p pnsbox-dataplane --lib -- --ignored --nocapture speed`
#[test]
#[ignore = "a measurement, for release builds"]
fn speed() {
    let (vnet, packet) = Sample::tcp4(&Random(18).bytes(44 * 1328)).super_packet(1328);
    let mut slab = vec![0; 1500 * 44];
    let mut best = f64::MAX;
    for _ in 0..500 {
        const ROUNDS: usize = 5;
        let begun = std::time::Instant::now();
        for _ in 0..ROUNDS {
            let segments = Segments::parse(vnet, std::hint::black_box(&packet)).unwrap();
            for (index, slot) in slab.chunks_exact_mut(1500).enumerate() {
                segments.write(index, slot);
            }
            std::hint::black_box(&mut slab);
        }
        best = best.min(begun.elapsed().as_nanos() as f64 / (ROUNDS * 44) as f64);
    }
    println!(
        "cutting: {best:.1} ns a packet of 1,368 bytes, {:.1} GB/s",
        1368.0 / best
    );
}
