//! What is merged, what is not, in which order it is written, and that cutting undoes it.

use std::io::IoSlice;

use super::coalesce::{CAPACITY, Coalescer, Flushed, MAX_BYTES, MAX_PACKETS, Outcome};
use super::headers::{ACK, CWR, FIN, Kind, PSH, Transport, Version, classify, continues, short};
use super::packets::{KINDS, Random, Sample, random_burst};
use super::segment::Segments;
use super::vnet::{VNET_HEADER, VnetHeader};
use crate::tos::{self, Ecn};

/// The writes of a burst, each in one piece, and what the flush said.
fn written(
    coalescer: &mut Coalescer,
    packets: &[Vec<u8>],
    mut outcome: impl FnMut(&[u8]) -> Outcome,
) -> (Vec<Vec<u8>>, Flushed) {
    // As after opening: between packets there are headers and tags.
    let mut slab = Vec::new();
    for packet in packets {
        slab.extend([0x55; 16]);
        slab.extend(packet);
    }
    let mut start = 0;
    for packet in packets {
        start += 16;
        coalescer.push(&slab, start, packet.len());
        start += packet.len();
    }
    let mut writes = Vec::new();
    let flushed = coalescer.flush(&slab, &mut |slices: &[IoSlice<'_>]| {
        assert!(slices.len() <= MAX_PACKETS + 1);
        let write: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        assert!(write.len() <= VNET_HEADER + MAX_BYTES);
        let outcome = outcome(&write);
        writes.push(write);
        outcome
    });
    assert_eq!(flushed.writes, writes.len());
    (writes, flushed)
}

/// The writes of a burst by a new coalescer, all of which succeed.
pub(super) fn writes(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let (writes, flushed) = written(&mut Coalescer::new(), packets, |_| Outcome::Written);
    assert_eq!((flushed.packets, flushed.failed), (packets.len(), 0));
    writes
}

/// The packets of a write.
pub(super) fn cut(write: &[u8]) -> Vec<Vec<u8>> {
    let (vnet, packet) = write.split_first_chunk().unwrap();
    let segments = Segments::parse(VnetHeader::decode(vnet), packet).unwrap();
    let packets = (0..segments.count()).map(|index| {
        let mut into = vec![0; segments.length(index)];
        segments.write(index, &mut into);
        into
    });
    packets.collect()
}

/// How many packets each write has.
fn shape(packets: &[Vec<u8>]) -> Vec<usize> {
    writes(packets)
        .iter()
        .map(|write| cut(write).len())
        .collect()
}

/// `sample` and the packets that follow it, with payloads of these lengths.
fn train(sample: &Sample, lengths: &[usize]) -> Vec<Sample> {
    let mut random = Random(lengths.len() as u64);
    let mut last = sample.with(|s| s.payload = random.bytes(lengths[0]));
    let mut train = vec![last.clone()];
    for length in &lengths[1..] {
        last = last.next(&random.bytes(*length));
        train.push(last.clone());
    }
    train
}

fn built(samples: &[Sample]) -> Vec<Vec<u8>> {
    samples.iter().map(Sample::build).collect()
}

fn alone(packet: &[u8]) -> Vec<u8> {
    [&[0; VNET_HEADER], packet].concat()
}

#[test]
fn a_train_becomes_the_super_packet_that_its_sender_made() {
    for (version, transport) in KINDS {
        let mut sample = Sample::new(version, transport, &[]);
        sample.options = vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
        for lengths in [
            &[1000, 1000][..],
            &[1319; 40],
            &[100, 100, 7],
            &[3, 3, 3, 1],
        ] {
            let mut train = train(&sample, lengths);
            if transport == Transport::Tcp {
                train.last_mut().unwrap().flags |= PSH;
            }
            let whole = train[0].with(|s| {
                s.payload = train.iter().flat_map(|s| s.payload.clone()).collect();
                s.flags = train.last().unwrap().flags;
            });
            let (vnet, packet) = whole.super_packet(lengths[0] as u16);
            let expected = [&vnet.encode()[..], &packet].concat();
            assert_eq!(
                writes(&built(&train)),
                [expected],
                "{version:?} {transport:?}"
            );
        }
    }
}

#[test]
fn a_packet_alone_is_written_as_it_came() {
    for (version, transport) in KINDS {
        let packet = Sample::new(version, transport, b"alone").build();
        assert_eq!(writes(std::slice::from_ref(&packet)), [alone(&packet)]);
    }
    for packet in [vec![], vec![0x45], vec![0x60; 39], vec![0xff; 100]] {
        assert_eq!(writes(std::slice::from_ref(&packet)), [alone(&packet)]);
    }
    assert_eq!(writes(&[]), [[0; 0]; 0]);
}

/// Whether two packets of 100 bytes merge when the second is changed.
fn merges(first: &Sample, change: impl FnOnce(&mut Sample)) -> bool {
    let first = first.with(|s| s.payload = vec![1; 100]);
    let second = first.next(&[2; 100]).with(change);
    let packets = [first.build(), second.build()];
    let shape = shape(&packets);
    if shape == [1, 1] {
        assert_eq!(writes(&packets), packets.map(|packet| alone(&packet)));
        return false;
    }
    assert_eq!(shape, [2]);
    true
}

#[test]
fn whatever_cutting_cannot_restore_must_be_equal() {
    for (version, transport) in KINDS {
        let mut sample = Sample::new(version, transport, &[]);
        sample.options = vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
        let merges = |change: fn(&mut Sample)| merges(&sample, change);
        let is_tcp = transport == Transport::Tcp;
        assert!(merges(|_| ()));
        assert!(!merges(|s| s.hosts[0] = 9));
        assert!(!merges(|s| s.hosts[1] = 9));
        assert!(!merges(|s| s.ports[0] = 9));
        assert!(!merges(|s| s.ports[1] = 9));
        assert!(!merges(|s| s.class = 1));
        assert!(!merges(|s| s.hops = 63));
        assert!(!merges(|s| s.payload.push(1)), "longer than the first");
        assert!(!merges(|s| s.payload.clear()));
        assert_eq!(merges(|s| s.label = 8), version == Version::V4);
        assert_eq!(merges(|s| s.fragment = 0), version == Version::V6);
        assert_eq!(merges(|s| s.fragment = 0xc000), version == Version::V6);
        assert_eq!(merges(|s| s.acknowledged += 1), !is_tcp);
        assert_eq!(merges(|s| s.window += 1), !is_tcp);
        assert_eq!(merges(|s| s.sequence += 1), !is_tcp);
        assert_eq!(merges(|s| s.sequence -= 1), !is_tcp);
        assert_eq!(merges(|s| s.options[11] = 9), !is_tcp);
        assert_eq!(merges(|s| s.options.truncate(8)), !is_tcp);
        for flag in [0x01, 0x02, 0x04, 0x20, 0x40, 0x80] {
            let first = sample.with(|s| s.flags |= flag);
            assert_eq!(
                super::coalesce_tests::merges(&first, |_| ()),
                !is_tcp,
                "{flag:#x}"
            );
            let both = super::coalesce_tests::merges(&sample, |s| s.flags |= flag);
            assert_eq!(both, !is_tcp, "{flag:#x}");
        }
        assert_eq!(merges(|s| s.flags = 0), !is_tcp);
        assert!(merges(|s| s.flags = ACK | PSH));
    }
    assert_eq!(FIN | CWR, 0x81);
}

#[test]
fn what_is_not_a_plain_segment_stays_alone() {
    let train = built(&train(&Sample::tcp4(&[]), &[100, 100]));
    let reserved = |packets: &[Vec<u8>], at: usize, bits: u8| {
        packets
            .iter()
            .map(|packet| {
                let mut packet = packet.clone();
                packet[at] |= bits;
                let sum = short(&packet, 36).wrapping_sub(u16::from(bits) << 8);
                packet[36..38].copy_from_slice(&sum.to_be_bytes());
                packet
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(shape(&train), [2]);
    assert_eq!(shape(&reserved(&train, 32, 1)), [1, 1], "accurate ECN");
    let with_options = Sample::udp4(&[]).with(|s| s.extension = vec![1, 1, 1, 0]);
    let with_extension = Sample::udp6(&[]).with(|s| s.extension = vec![60, 0, 1, 4, 0, 0, 0, 0]);
    let fragment = Sample::udp4(&[]).with(|s| s.fragment = 0x2000);
    let later_fragment = Sample::udp4(&[]).with(|s| s.fragment = 0x0010);
    let reserved_bit = Sample::udp4(&[]).with(|s| s.fragment = 0xc000);
    for sample in [
        with_options,
        with_extension,
        fragment,
        later_fragment,
        reserved_bit,
    ] {
        assert_eq!(
            shape(&built(&super::coalesce_tests::train(&sample, &[100, 100]))),
            [1, 1]
        );
    }
    // The length says something else than the packet.
    for (packet, at) in [(Sample::udp4(&[7; 9]), 24), (Sample::udp6(&[7; 9]), 44)] {
        let mut packet = packet.build();
        packet[at + 1] -= 1;
        assert!(matches!(classify(&packet), Kind::Connection(..)));
    }
}

#[test]
fn identification_matters_only_where_fragmenting_is_allowed() {
    let sample = Sample::tcp4(&[]);
    assert!(merges(&sample, |s| s.id = 100));
    assert!(merges(&sample, |s| s.id = 7777));
    let sample = sample.with(|s| s.fragment = 0);
    assert!(merges(&sample, |_| ()));
    assert!(!merges(&sample, |s| s.id = 100));
    assert!(!merges(&sample, |s| s.id = 102));
    assert!(merges(&sample.with(|s| s.id = u16::MAX), |s| s.id = 0));
}

#[test]
fn a_shorter_packet_ends_a_super_packet() {
    for (version, transport) in KINDS {
        let sample = Sample::new(version, transport, &[]);
        for (lengths, expected) in [
            (&[1000, 1000, 500, 500, 500][..], &[3, 2][..]),
            (&[1000, 500, 1000, 1000], &[2, 2]),
            (&[500, 1000, 1000], &[1, 2]),
            (&[100, 200, 100], &[1, 2]),
        ] {
            assert_eq!(
                shape(&built(&train(&sample, lengths))),
                expected,
                "{lengths:?}"
            );
        }
    }
}

#[test]
fn push_ends_a_super_packet() {
    let mut train = train(&Sample::tcp6(&[]), &[100; 5]);
    train[1].flags |= PSH;
    train[2].flags |= PSH;
    let packets = built(&train);
    assert_eq!(shape(&packets), [2, 1, 2]);
    assert_eq!(
        writes(&packets)
            .iter()
            .flat_map(|w| cut(w))
            .collect::<Vec<_>>(),
        packets
    );
}

#[test]
fn super_packets_have_bounds() {
    for (version, transport) in KINDS {
        let sample = Sample::new(version, transport, &[]);
        assert_eq!(shape(&built(&train(&sample, &[1; 130]))), [64, 64, 2]);
        let fitting = (MAX_BYTES - sample.headers()) / 1400;
        assert_eq!(
            shape(&built(&train(&sample, &[1400; 60]))),
            [fitting, 60 - fitting]
        );
    }
    let headers = Sample::udp4(&[]).headers();
    let exact = (MAX_BYTES - headers) / 3;
    assert_eq!(shape(&built(&train(&Sample::udp4(&[]), &[exact; 3]))), [3]);
    assert_eq!(
        shape(&built(&train(&Sample::udp4(&[]), &[exact + 1; 3]))),
        [2, 1]
    );
}

#[test]
fn a_packet_with_a_wrong_checksum_is_passed_alone_and_untouched() {
    for (version, transport) in KINDS {
        let sample = Sample::new(version, transport, &[]);
        let right = built(&train(&sample, &[100; 4]));
        let last = right[0].len() - 1;
        for (broken, expected) in [(0, [1, 3]), (1, [1, 1]), (3, [3, 1])] {
            for at in [last, sample.ip() + transport.checksum_offset()] {
                let mut packets = right.clone();
                packets[broken][at] ^= 0x10;
                let writes = writes(&packets);
                let shape: Vec<usize> = writes.iter().map(|write| cut(write).len()).collect();
                assert_eq!(shape[..2], expected, "{version:?} {transport:?}: {broken}");
                let place = expected.iter().scan(0, |sum, n| {
                    *sum += n;
                    Some(*sum - n)
                });
                let place = place.zip(&writes).find(|(first, _)| *first == broken);
                assert_eq!(place.unwrap().1, &alone(&packets[broken]));
            }
        }
    }
    // IPv4's own checksum counts too.
    let mut packets = built(&train(&Sample::udp4(&[]), &[100; 2]));
    packets[1][11] ^= 1;
    assert_eq!(shape(&packets), [1, 1]);
}

#[test]
fn datagrams_without_a_checksum_stay_alone() {
    let mut packets = built(&train(&Sample::udp4(&[]), &[100; 3]));
    for packet in &mut packets {
        packet[26..28].fill(0);
    }
    assert_eq!(shape(&packets), [1, 1, 1]);
    // Even if 0 would be right: cutting writes 0xFFFF.
    let mut sample = Sample::udp4(&[0; 100]);
    let checksum = short(&sample.build(), 26);
    sample.payload[..2].copy_from_slice(&checksum.to_be_bytes());
    let mut packets = [sample.build(), sample.next(&sample.payload).build()];
    for packet in &mut packets {
        assert_eq!(packet[26..28], [0xff, 0xff]);
        packet[26..28].fill(0);
    }
    assert_eq!(shape(&packets), [1, 1]);
}

/// Hashes tell flows apart, but may not; headers decide.
#[test]
fn packets_of_other_connections_never_continue_one() {
    for (version, transport) in KINDS {
        let first = Sample::new(version, transport, &[1; 100]);
        let next = first.next(&[2; 100]);
        let Kind::Segment(layout) = classify(&first.build()) else {
            panic!("a plain segment");
        };
        let continues = |change: fn(&mut Sample)| {
            let next = next.with(change);
            continues(&first.build(), &next.build(), layout)
        };
        assert!(continues(|_| ()));
        assert!(!continues(|s| s.hosts[0] = 9));
        assert!(!continues(|s| s.hosts[1] = 9));
        assert!(!continues(|s| s.ports[0] = 9));
        assert!(!continues(|s| s.ports[1] = 9));
    }
}

#[test]
fn packets_of_the_same_connection_are_barriers() {
    for (version, transport) in KINDS {
        let train = train(&Sample::new(version, transport, &[]), &[100; 4]);
        let mut packets = built(&train);
        // Empty: a bare acknowledgement, a datagram of no bytes.
        packets.insert(2, train[2].with(|s| s.payload.clear()).build());
        assert_eq!(writes(&packets)[1], alone(&packets[2]));
        assert_eq!(shape(&packets), [2, 1, 2], "{version:?} {transport:?}");
    }
    let train = train(&Sample::tcp4(&[]), &[100; 4]);
    for flags in [ACK | FIN, ACK | 0x04, 0x02] {
        let mut packets = built(&train);
        packets.insert(2, train[2].with(|s| s.flags = flags).build());
        assert_eq!(shape(&packets), [2, 1, 2]);
    }
}

#[test]
fn packets_without_ports_are_barriers_between_their_hosts() {
    let fragment = Sample::udp4(&[1; 50]).with(|s| s.fragment = 0x2000);
    let later = fragment.with(|s| s.fragment = 0x0007);
    let extension = Sample::udp6(&[1; 50]).with(|s| s.extension = vec![60, 0, 1, 4, 0, 0, 0, 0]);
    let mut tunnelled = Sample::udp4(&[1; 50]).build();
    tunnelled[9] = 47;
    for (barrier, kind) in [
        (fragment.build(), Sample::udp4(&[])),
        (later.build(), Sample::tcp4(&[])),
        (extension.build(), Sample::tcp6(&[])),
        (tunnelled, Sample::tcp4(&[])),
    ] {
        let mut packets = built(&train(&kind, &[100; 4]));
        packets.insert(2, barrier.clone());
        assert_eq!(shape(&packets), [2, 1, 2]);
        // Most of other hosts are not delayed by it; a few may share its place in the table.
        let others = (10..30).filter(|host| {
            let sample = kind.with(|s| s.hosts[0] = *host);
            let mut packets = built(&train(&sample, &[100; 4]));
            packets.insert(2, barrier.clone());
            shape(&packets) == [4, 1]
        });
        assert!(others.count() > 10);
    }
    // Echoes are in no connection.
    let mut echo = Sample::udp4(&[1; 50]).build();
    echo[9] = 1;
    let mut packets = built(&train(&Sample::tcp4(&[]), &[100; 4]));
    packets.insert(2, echo);
    assert_eq!(shape(&packets), [4, 1]);
}

#[test]
fn packets_out_of_order_are_not_put_in_order() {
    let train = built(&train(&Sample::tcp4(&[]), &[100; 5]));
    let order = [0, 2, 1, 3, 4].map(|index: usize| train[index].clone());
    assert_eq!(shape(&order), [1, 1, 1, 2]);
    assert_eq!(
        writes(&order)
            .iter()
            .flat_map(|w| cut(w))
            .collect::<Vec<_>>(),
        order
    );
}

#[test]
fn interleaved_flows_merge_each_for_itself() {
    let flows: Vec<Vec<Sample>> = (0..32u16)
        .map(|flow| {
            let (version, transport) = KINDS[usize::from(flow) % 4];
            let sample = Sample::new(version, transport, &[]).with(|s| s.ports[0] = 2000 + flow);
            train(&sample, &[200; 32])
        })
        .collect();
    let packets: Vec<Vec<u8>> = (0..32)
        .flat_map(|turn| flows.iter().map(move |flow| flow[turn].build()))
        .collect();
    assert_eq!(packets.len(), CAPACITY);
    assert_eq!(shape(&packets), [32; 32]);
}

#[test]
fn a_refused_super_packet_is_given_again_in_pieces_and_ends_merging_for_its_protocol() {
    let tcp = built(&train(&Sample::tcp4(&[]), &[100, 100, 50]));
    let udp = built(&train(&Sample::udp4(&[]), &[100, 100, 50]));
    let packets = [tcp.clone(), udp.clone()].concat();
    let mut coalescer = Coalescer::new();
    let (writes, flushed) = written(&mut coalescer, &packets, |write| {
        if write[1] == 5 {
            Outcome::Refused
        } else {
            Outcome::Written
        }
    });
    assert_eq!(
        flushed,
        Flushed {
            packets: 6,
            writes: 5,
            failed: 0
        }
    );
    assert_eq!(
        writes[2..],
        udp.iter().map(|packet| alone(packet)).collect::<Vec<_>>()
    );
    // From now on without trying, TCP as before.
    let (writes, flushed) = written(&mut coalescer, &packets, |_| Outcome::Written);
    assert_eq!(
        flushed,
        Flushed {
            packets: 6,
            writes: 4,
            failed: 0
        }
    );
    assert_eq!(
        writes[1..],
        udp.iter().map(|packet| alone(packet)).collect::<Vec<_>>()
    );
    // Refused twice in one flush: the second is not tried any more.
    let twice = [tcp, built(&train(&Sample::tcp6(&[]), &[9, 9]))].concat();
    let (_, flushed) = written(&mut coalescer, &twice, |write| {
        if write[1] == 0 {
            Outcome::Written
        } else {
            Outcome::Refused
        }
    });
    assert_eq!(
        flushed,
        Flushed {
            packets: 5,
            writes: 6,
            failed: 0
        }
    );
}

#[test]
fn what_is_lost_is_counted() {
    let packets = [
        built(&train(&Sample::tcp4(&[]), &[100, 100, 50])),
        vec![Sample::udp4(&[1]).build()],
    ]
    .concat();
    for outcome in [Outcome::Failed, Outcome::Refused] {
        let (_, flushed) = written(&mut Coalescer::new(), &packets, |_| outcome);
        let writes = if outcome == Outcome::Failed { 2 } else { 5 };
        assert_eq!(
            flushed,
            Flushed {
                packets: 0,
                writes,
                failed: 4
            }
        );
    }
}

#[test]
fn a_full_coalescer_takes_no_more_and_says_so() {
    let packet = Sample::udp4(&[1; 3]).build();
    let mut coalescer = Coalescer::new();
    for _ in 0..CAPACITY {
        assert!(!coalescer.is_full());
        coalescer.push(&packet, 0, packet.len());
    }
    assert!(coalescer.is_full());
    coalescer.push(&packet, 0, packet.len());
    let flushed = coalescer.flush(&packet, &mut |_| Outcome::Written);
    assert_eq!((flushed.packets, flushed.failed), (CAPACITY, 1));
    assert!(!coalescer.is_full());
    assert_eq!(
        coalescer.flush(&packet, &mut |_| Outcome::Written),
        Flushed::default()
    );
}

#[test]
fn cutting_undoes_merging_and_no_flow_is_reordered() {
    let (mut merged, mut packets) = (0, 0);
    let mut coalescer = Coalescer::new();
    for seed in 0..300 {
        let burst = random_burst(&mut Random(seed));
        let (writes, _) = written(&mut coalescer, &burst, |_| Outcome::Written);
        let after: Vec<Vec<u8>> = writes.iter().flat_map(|write| cut(write)).collect();
        compare_flows(&burst, &after, &format!("seed {seed}"));
        merged += burst.len() - writes.len();
        packets += burst.len();
    }
    assert!(merged * 4 > packets, "{merged} of {packets} were merged");
}

/// Both have the same packets, and those that must be in order are in the same order.
pub(super) fn compare_flows(before: &[Vec<u8>], after: &[Vec<u8>], context: &str) {
    let mut flows: Vec<Flow> = before.iter().map(|packet| flow(packet)).collect();
    flows.sort();
    flows.dedup();
    assert_eq!(before.len(), after.len(), "{context}");
    for wanted in flows {
        let of = |packets: &[Vec<u8>]| -> Vec<Vec<u8>> {
            let packets = packets.iter().filter(|packet| {
                let flow = flow(packet);
                flow == wanted || flow.ports.is_none() && flow.hosts == wanted.hosts
            });
            packets.map(|packet| without_free_id(packet)).collect()
        };
        let (before, after) = (of(before), of(after));
        let different = before.iter().zip(&after).position(|(a, b)| a != b);
        assert_eq!(different, None, "{context}: {wanted:?}");
        assert_eq!(before.len(), after.len(), "{context}: {wanted:?}");
    }
}

/// What is kept in order; packets without ports with all others of their hosts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Flow {
    hosts: Vec<u8>,
    ports: Option<(u8, Vec<u8>)>,
}

pub(super) fn flow(packet: &[u8]) -> Flow {
    let (version, ports) = match classify(packet) {
        Kind::Segment(layout) => {
            let ports = packet[layout.ip..layout.ip + 4].to_vec();
            (layout.version, Some((layout.transport.protocol(), ports)))
        }
        Kind::Connection(version, protocol, at) => {
            (version, Some((protocol, packet[at..at + 4].to_vec())))
        }
        Kind::Hosts(version) => (version, None),
        Kind::Other => {
            return Flow {
                hosts: Vec::new(),
                ports: Some((0, packet.to_vec())),
            };
        }
    };
    Flow {
        hosts: version.addresses(packet).to_vec(),
        ports,
    }
}

/// `packet`, its identification 0 if nobody may fragment it.
pub(super) fn without_free_id(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet.len() >= 20 && packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        // The checksum goes with it, unless it was wrong and the packet therefore alone.
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

/// `cargo test --release -p pnsbox-dataplane --lib -- --ignored --nocapture speed`
#[test]
#[ignore = "a measurement, for release builds"]
fn speed() {
    for (name, flows, length) in [
        ("one flow", 1, 1328),
        ("32 flows", 32, 1328),
        ("one flow of small packets", 1, 50),
        ("1,024 flows of small packets", 1024, 50),
    ] {
        let mut packets = Vec::new();
        let mut train: Vec<Sample> = (0..flows)
            .map(|flow| Sample::tcp4(&vec![7; length]).with(|s| s.ports[0] = flow))
            .collect();
        for _ in 0..320_usize.div_ceil(train.len()) {
            for sample in &mut train {
                packets.push(sample.build());
                *sample = sample.next(&vec![9; length]);
            }
        }
        let nanoseconds = nanoseconds(&packets);
        println!(
            "{name}: {nanoseconds:.1} ns a packet of {} bytes",
            packets[0].len()
        );
    }
}

/// A packet pushed and flushed, in bursts of 64 as receiving gives them, or of all if there are many flows.
fn nanoseconds(packets: &[Vec<u8>]) -> f64 {
    let slab = packets.concat();
    let length = packets[0].len();
    let burst = if packets.len() > 320 {
        packets.len()
    } else {
        64
    };
    let mut coalescer = Coalescer::new();
    let mut best = f64::MAX;
    for _ in 0..500 {
        let begun = std::time::Instant::now();
        for first in (0..packets.len()).step_by(burst) {
            for number in first..(first + burst).min(packets.len()) {
                coalescer.push(&slab, number * length, length);
            }
            let flushed = coalescer.flush(&slab, &mut |slices| {
                std::hint::black_box(slices);
                Outcome::Written
            });
            assert_eq!(flushed.failed, 0);
        }
        best = best.min(begun.elapsed().as_nanos() as f64 / packets.len() as f64);
    }
    best
}

#[test]
fn a_congestion_mark_in_the_middle_of_a_flow_is_written_for_itself() {
    for (version, transport) in KINDS {
        let sample = Sample::new(version, transport, &[]).with(|s| s.class = 2);
        let mut packets = built(&train(&sample, &[500; 10]));
        assert_eq!(shape(&packets), [10]);
        assert!(tos::receive(&mut packets[4], Ecn::Ce));
        assert_eq!(shape(&packets), [4, 1, 5], "{version:?} {transport:?}");
        let written: Vec<_> = writes(&packets)
            .iter()
            .flat_map(|write| cut(write))
            .collect();
        assert_eq!(written, packets, "{version:?} {transport:?}");
    }
}
