//! Both implementations against RFC 8439 and against each other, and what they cost.

use std::time::Instant;

use super::*;

const ALL: [Implementation; 3] = [
    Implementation::Fastest,
    Implementation::Avx512,
    Implementation::Portable,
];

/// A small generator of test data (SplitMix64: Steele, Lea and Flood, OOPSLA 2014).
struct Random(u64);

impl Random {
    /// A new sequence in every run; its seed shows when the test fails.
    fn new() -> Self {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).unwrap();
        let seed = u64::from_le_bytes(seed);
        println!("seed {seed:#x}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let words = (0..count.div_ceil(8)).flat_map(|_| self.next().to_le_bytes());
        words.take(count).collect()
    }

    fn key(&mut self) -> [u8; KEY_BYTES] {
        self.bytes(KEY_BYTES).try_into().unwrap()
    }

    /// Packets with gaps of up to 40 bytes before, between and behind them, in a slab full of something.
    fn lay(&mut self, lengths: &[usize]) -> (Vec<Packet>, Vec<u8>) {
        let mut packets = vec![];
        let mut start = self.below(41);
        for &length in lengths {
            let counter = self.next();
            packets.push(Packet {
                start,
                length,
                counter,
            });
            start += length + TAG_BYTES + self.below(41);
        }
        (packets, self.bytes(start))
    }
}

/// Seals with `implementation` and with `ring` called directly, opens again, and compares the whole slabs, gaps and all.
fn agrees(implementation: Implementation, random: &mut Random, lengths: &[usize]) {
    let secret = random.key();
    let key = Key::with_implementation(&secret, implementation);
    let (packets, plain) = random.lay(lengths);
    let mut expected = plain.clone();
    portable::seal(&secret, &mut expected, &packets);
    let mut slab = plain.clone();
    key.seal(&mut slab, &packets);
    assert!(slab == expected, "{implementation:?} seals {packets:?}");

    let mut verified = vec![false; packets.len()];
    key.open(&mut slab, &packets, &mut verified);
    assert_eq!(verified, vec![true; packets.len()], "{implementation:?}");
    let mut opened = plain;
    for packet in &packets {
        let tag = packet.end()..packet.end() + TAG_BYTES;
        opened[tag.clone()].copy_from_slice(&expected[tag]);
    }
    assert!(slab == opened, "{implementation:?} opens {packets:?}");
}

#[test]
fn a_key_uses_what_the_cpu_has_and_prints_nothing() {
    let key = Key::new(&[0xa5; KEY_BYTES]);
    println!("uses {:?}", key.implementation);
    let is_needed = std::env::var_os("PNSBOX_NEEDS_AVX512").is_some();
    assert!(avx512::is_supported() || !is_needed, "no AVX-512 IFMA here");
    let forced = Key::with_implementation(&[0; KEY_BYTES], Implementation::Avx512);
    let expected = if avx512::is_supported() {
        (Implementation::Fastest, Implementation::Avx512)
    } else {
        (Implementation::Portable, Implementation::Portable)
    };
    assert_eq!((key.implementation, forced.implementation), expected);
    let portable = Key::with_implementation(&[0; KEY_BYTES], Implementation::Portable);
    assert_eq!(portable.implementation, Implementation::Portable);
    assert_eq!(format!("{key:?}"), "Key(…)");
}

/// RFC 8439 section 2.4.2: the same block counter, and a nonce that begins with four zeros as ours do.
#[test]
fn the_text_of_the_rfc_becomes_the_ciphertext_of_the_rfc() {
    let text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
        sunscreen would be it.";
    let expected = [
        "6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0b",
        "f91b65c5524733ab8f593dabcd62b3571639d624e65152ab8f530c359f0861d8",
        "07ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806818ce91ab7793736",
        "5af90bbf74a35be6b40b8eedf2785e42874d",
    ]
    .concat();
    let secret: [u8; KEY_BYTES] = std::array::from_fn(|i| i as u8);
    let packet = Packet {
        start: 0,
        length: text.len(),
        counter: 0x4a00_0000,
    };
    for implementation in ALL {
        let key = Key::with_implementation(&secret, implementation);
        let mut slab = [text.as_slice(), &[0; TAG_BYTES]].concat();
        key.seal(&mut slab, &[packet]);
        let found: String = slab[..text.len()]
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(found, expected, "{implementation:?}");
    }
}

#[test]
fn every_length_is_sealed_and_opened_as_ring_does() {
    let mut random = Random::new();
    // In each batch neighbours of all kinds: whole and partial blocks, long and short.
    for first in 0..64 {
        let lengths: Vec<_> = (0..=32).map(|i| first + 64 * i).collect();
        agrees(Implementation::Avx512, &mut random, &lengths);
    }
}

#[test]
fn every_batch_size_is_sealed_and_opened_as_ring_does() {
    let mut random = Random::new();
    for count in (0..=40).chain([63, 64, 65, 127, 128, 129, 130]) {
        let equal = random.below(600);
        for implementation in [Implementation::Fastest, Implementation::Avx512] {
            agrees(implementation, &mut random, &vec![equal; count]);
            let mixed: Vec<_> = (0..count).map(|_| random.below(200)).collect();
            agrees(implementation, &mut random, &mixed);
        }
    }
}

#[test]
fn mixtures_up_to_the_longest_are_sealed_and_opened_as_ring_does() {
    let mut random = Random::new();
    agrees(Implementation::Avx512, &mut random, &[MAX_PACKET_BYTES]);
    for _ in 0..6 {
        let mut lengths: Vec<_> = (0..=random.below(20)).map(|_| random.below(1500)).collect();
        let position = random.below(lengths.len());
        lengths[position] = random.below(MAX_PACKET_BYTES + 1);
        agrees(Implementation::Avx512, &mut random, &lengths);
    }
}

#[test]
fn a_forged_packet_is_refused_and_its_neighbours_open() {
    let mut random = Random::new();
    for implementation in ALL {
        let secret = random.key();
        let key = Key::with_implementation(&secret, implementation);
        for count in [1, 3, 9, 20, 33] {
            let lengths: Vec<_> = (0..count).map(|_| 1 + random.below(300)).collect();
            let (packets, plain) = random.lay(&lengths);
            let mut sealed = plain.clone();
            key.seal(&mut sealed, &packets);
            for what in 0..4 {
                let victim = random.below(count);
                let mut packets = packets.clone();
                let mut slab = sealed.clone();
                let packet = &mut packets[victim];
                let bit = 1 << random.below(8);
                match what {
                    0 => slab[packet.start + random.below(packet.length)] ^= bit,
                    1 => slab[packet.end() + random.below(TAG_BYTES)] ^= bit,
                    2 => packet.counter ^= 1 << random.below(64),
                    _ => packet.length -= 1,
                }
                let forged = slab.clone();
                let mut verified = vec![true; count];
                key.open(&mut slab, &packets, &mut verified);
                for (i, packet) in packets.iter().enumerate() {
                    let range = packet.start..packet.end();
                    let context = format!("{implementation:?}, {what}, {i} of {packets:?}");
                    assert_eq!(verified[i], i != victim, "{context}");
                    let released = &slab[range.clone()];
                    if i == victim {
                        let is_zero = released.iter().all(|b| *b == 0);
                        assert!(is_zero || *released == forged[range], "{context}");
                    } else {
                        assert!(*released == plain[range], "{context}");
                    }
                }
            }
        }
    }
}

/// Every bit of one tag, and of one short ciphertext.
#[test]
fn every_bit_counts() {
    let mut random = Random::new();
    for implementation in ALL {
        let key = Key::with_implementation(&random.key(), implementation);
        let (packets, mut sealed) = random.lay(&[20, 20, 20]);
        key.seal(&mut sealed, &packets);
        let victim = packets[1];
        for bit in 0..8 * (victim.length + TAG_BYTES) {
            let mut slab = sealed.clone();
            slab[victim.start + bit / 8] ^= 1 << (bit % 8);
            let mut verified = [false; 3];
            key.open(&mut slab, &packets, &mut verified);
            assert_eq!(verified, [true, false, true], "{implementation:?}, {bit}");
        }
    }
}

#[test]
fn a_wrong_layout_is_refused_before_anything_is_touched() {
    let packet = |start, length| Packet {
        start,
        length,
        counter: 1,
    };
    let wrong = [
        vec![packet(0, 85)],
        vec![packet(101, 0)],
        vec![packet(usize::MAX, 0)],
        vec![packet(0, usize::MAX)],
        vec![packet(0, 10), packet(25, 10)],
        vec![packet(30, 10), packet(0, 10)],
        vec![packet(0, MAX_PACKET_BYTES + 1)],
    ];
    for implementation in ALL {
        for (number, packets) in wrong.iter().enumerate() {
            // The last one fits the slab.
            let mut slab = vec![
                7;
                if number == wrong.len() - 1 {
                    70_000
                } else {
                    100
                }
            ];
            let before = slab.clone();
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                Key::with_implementation(&[1; KEY_BYTES], implementation).seal(&mut slab, packets);
            }));
            assert!(outcome.is_err(), "{packets:?}");
            assert!(slab == before, "{packets:?}");
            let mut verified = vec![false; packets.len()];
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let key = Key::with_implementation(&[1; KEY_BYTES], implementation);
                key.open(&mut slab, packets, &mut verified);
            }));
            assert!(outcome.is_err(), "{packets:?}");
            assert!(slab == before, "{packets:?}");
        }
    }
    let mut slab = vec![0; 100];
    Key::new(&[1; KEY_BYTES]).seal(&mut slab, &[packet(0, 10), packet(26, 58)]);
}

#[test]
#[ignore = "a measurement: cargo test --release -p pnsbox-dataplane -- --ignored speed --nocapture"]
fn speed() {
    for (length, count) in [
        (1424, 45),
        (1424, 16),
        (1424, 8),
        (1424, 4),
        (1424, 3),
        (1424, 2),
        (1424, 1),
        (240, 64),
        (240, 1),
        (64, 64),
        (64, 4),
        (64, 3),
        (64, 1),
    ] {
        measure(&format!("{length} B x {count}"), &vec![length; count]);
    }
    let mixed: Vec<_> = (0..64).map(|i| 32 + i * 37 % 89 * 16).collect();
    measure("32..1440 B x 64", &mixed);
}

fn measure(name: &str, lengths: &[usize]) {
    let (packets, slab) = Random(1).lay(lengths);
    let bytes: usize = lengths.iter().sum();
    for implementation in ALL {
        let key = Key::with_implementation(&[7; KEY_BYTES], implementation);
        let mut slab = slab.clone();
        let mut verified = vec![false; packets.len()];
        let (mut seal, mut open) = (f64::MAX, f64::MAX);
        let rounds = 1 + 50_000 / bytes;
        for _ in 0..2_000 {
            let begun = Instant::now();
            for _ in 0..rounds {
                key.seal(&mut slab, &packets);
            }
            seal = seal.min(begun.elapsed().as_secs_f64() / rounds as f64);
            // Opens what it just sealed: once, for opening makes plaintext of it.
            let begun = Instant::now();
            key.open(&mut slab, &packets, &mut verified);
            open = open.min(begun.elapsed().as_secs_f64());
            assert!(verified.iter().all(|v| *v));
        }
        let rate = |seconds: f64| bytes as f64 / seconds / 1e9;
        let each = |seconds: f64| seconds / packets.len() as f64 * 1e9;
        println!(
            "{name:>16} {implementation:>9?}: seal {:5.2} GB/s {:5.0} ns/packet, open {:5.2} GB/s {:5.0} ns/packet",
            rate(seal),
            each(seal),
            rate(open),
            each(open)
        );
    }
}
