//! The arithmetic by itself, with keys and sums that random packets never meet.

use super::*;
use poly1305::tags;

/// A number below 2^131: the lower 128 bits and the rest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Number {
    high: u128,
    low: u128,
}

/// 2^130 - 5.
const PRIME: Number = Number {
    high: 3,
    low: u128::MAX - 4,
};

impl Number {
    fn plus(self, other: Self) -> Self {
        let (low, carry) = self.low.overflowing_add(other.low);
        let sum = Self {
            high: self.high + other.high + u128::from(carry),
            low,
        };
        if sum < PRIME {
            return sum;
        }
        let (low, borrow) = sum.low.overflowing_sub(PRIME.low);
        Self {
            high: sum.high - PRIME.high - u128::from(borrow),
            low,
        }
    }

    /// Bit by bit: slow, and hard to get wrong.
    fn times(self, factor: u128) -> Self {
        let mut product = Self { high: 0, low: 0 };
        for bit in (0..128).rev() {
            product = product.plus(product);
            if factor >> bit & 1 == 1 {
                product = product.plus(self);
            }
        }
        product
    }
}

/// Poly1305 as RFC 8439 section 2.5.1 tells it.
fn slow_poly1305(r: u128, s: u128, message: &[u8]) -> u128 {
    let r = r & 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;
    let mut sum = Number { high: 0, low: 0 };
    for block in message.chunks(16) {
        let mut bytes = [0; 32];
        bytes[..block.len()].copy_from_slice(block);
        bytes[block.len()] = 1;
        let (low, high) = bytes.split_at(16);
        sum = sum
            .plus(Number {
                low: u128::from_le_bytes(low.try_into().unwrap()),
                high: high[0].into(),
            })
            .times(r);
    }
    sum.low.wrapping_add(s)
}

fn number(hex: &str) -> u128 {
    u128::from_str_radix(hex, 16).unwrap().swap_bytes()
}

/// RFC 8439 sections 2.5.2 and A.3.
#[test]
fn the_slow_one_is_that_of_the_rfc() {
    let r = number("85d6be7857556d337f4452fe42d506a8");
    let s = number("0103808afb0db2fd4abff6af4149f51b");
    let tag = slow_poly1305(r, s, b"Cryptographic Forum Research Group");
    assert_eq!(tag, number("a8061dc1305136c6c22b8baf0c0127a9"));
    let ones = [0xff; 16];
    assert_eq!(slow_poly1305(2, 0, &ones), 3);
    assert_eq!(slow_poly1305(2, u128::MAX, &2u128.to_le_bytes()), 3);
    let fd = u128::MAX - 2;
    let tag = slow_poly1305(2, 0, &fd.to_le_bytes());
    assert_eq!(tag, number("faffffffffffffffffffffffffffffff"));
    let mut message = vec![];
    for block in [
        "e33594d7505e43b90000000000000000",
        "3394d7505e4379cd0100000000000000",
        "00000000000000000000000000000000",
        "01000000000000000000000000000000",
    ] {
        message.extend(number(block).to_le_bytes());
    }
    let tag = slow_poly1305(number("01000000000000000400000000000000"), 0, &message);
    assert_eq!(tag, number("14000000000000005500000000000000"));
}

/// Sums around the prime and around 2^130, carries through all limbs, the largest and the smallest r.
#[test]
fn the_tags_are_right_where_carries_and_reductions_are() {
    if !is_supported() {
        println!("this CPU has no AVX-512 IFMA");
        return;
    }
    let most = u128::MAX;
    let factors = [0, 1, 2, 4, 5, most, most << 64, most >> 64, 1 << 120];
    let blocks = [
        0,
        1,
        2,
        4,
        5,
        6,
        most,
        most - 1,
        most - 4,
        most - 5,
        1 << 127,
        most << 44,
    ];
    for shift in 0..factors.len() {
        for length in [0, 1, 16, 17, 48, 64, 65, 128, 192, 200, 256] {
            let mut slab = vec![];
            let mut packets = vec![];
            let mut keys = vec![];
            for lane in 0..8 {
                let start = slab.len();
                for i in 0..length {
                    // Different mixtures of the blocks in each lane; the first ones are constant.
                    let block = lane + shift + i / 16 * (lane % 4);
                    slab.push(blocks[block % blocks.len()].to_le_bytes()[i % 16]);
                }
                let r = factors[(lane + shift) % factors.len()];
                let s = [0, most, most - 5, 77][lane % 4];
                keys.push((r, s));
                packets.push(Packet {
                    start,
                    length,
                    counter: 0,
                });
            }
            for count in [1, 5, 8] {
                for (lane, tag) in raw_tags(&slab, &packets[..count], &keys).iter().enumerate() {
                    let mut message = slab[packets[lane].start..][..length].to_vec();
                    message.resize(length.next_multiple_of(16), 0);
                    message.extend(((length as u128) << 64).to_le_bytes());
                    let (r, s) = keys[lane];
                    let expected = slow_poly1305(r, s, &message);
                    assert_eq!(*tag, expected, "r {r:#x} s {s:#x} {message:02x?}");
                }
            }
        }
    }
}

/// The last subtraction has work to do for five of 2^130 sums, so it needs sums of our making.
#[test]
fn the_last_reduction_is_right_on_both_sides_of_the_prime() {
    if !is_supported() {
        println!("this CPU has no AVX-512 IFMA");
        return;
    }
    let (limb, upper) = ((1u64 << 44) - 1, (1u64 << 42) - 1);
    let mut sums = vec![
        [0, 0, 0],
        [0, limb + 4096, upper],
        [limb, limb + 4096, upper],
    ];
    for low in [
        0,
        1,
        5,
        limb - 6,
        limb - 5,
        limb - 4,
        limb - 3,
        limb - 1,
        limb,
    ] {
        for middle in [0, limb - 1, limb, limb + 1, limb + 4096] {
            sums.extend([0, upper - 1, upper].map(|high| [low, middle, high]));
        }
    }
    for sums in sums.chunks(8) {
        for s in [0, 1, u128::MAX, u128::MAX - 4] {
            for (sum, tag) in sums.iter().zip(raw_finish(sums, s)) {
                let [low, middle, high] = sum.map(u128::from);
                let number = Number { high: 0, low }
                    .plus(Number {
                        high: 0,
                        low: middle << 44,
                    })
                    .plus(Number {
                        high: high >> 40,
                        low: high << 88,
                    });
                assert_eq!(tag, number.low.wrapping_add(s), "{sum:x?} {s:#x}");
            }
        }
    }
}

/// RFC 8439 section 2.6.2.
#[test]
fn a_one_time_key_is_that_of_the_rfc() {
    if !is_supported() {
        println!("this CPU has no AVX-512 IFMA");
        return;
    }
    let key: [u8; KEY_BYTES] = std::array::from_fn(|i| 0x80 + i as u8);
    let counter = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7]);
    let expected = [
        number("8ad5a08b905f81cc815040274ab29471"),
        number("a833b637e3fd0da508dbb8e2fdd1a646"),
    ];
    for position in [0, 7, 8, 15, 16, 31] {
        let mut counters = [u64::MAX; GROUP];
        counters[position] = counter;
        for count in [position + 1, GROUP] {
            assert_eq!(raw_keys(&key, &counters[..count])[position], expected);
        }
    }
}

#[expect(unsafe_code, reason = "only the CPU can tell whether it has AVX-512")]
fn raw_tags(slab: &[u8], packets: &[Packet], keys: &[(u128, u128)]) -> Vec<u128> {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
    fn inner(slab: &[u8], packets: &[Packet], keys: &[(u128, u128)]) -> Vec<u128> {
        let half = |number: fn(&(u128, u128)) -> u128, shift: u32| {
            let mut halves = [0; 16];
            for (half, key) in halves.iter_mut().zip(keys) {
                *half = (number(key) >> shift) as u64;
            }
            lanes::load_numbers(&halves)[0]
        };
        let keys = chacha20::OneTimeKeys {
            r: [half(|k| k.0, 0), half(|k| k.0, 64)],
            s: [half(|k| k.1, 0), half(|k| k.1, 64)],
        };
        let tags = tags(slab, packets, &keys).into_iter().take(packets.len());
        tags.map(u128::from_le_bytes).collect()
    }
    assert!(is_supported());
    // SAFETY: the CPU has the features.
    unsafe { inner(slab, packets, keys) }
}

#[expect(unsafe_code, reason = "only the CPU can tell whether it has AVX-512")]
fn raw_finish(sums: &[[u64; 3]], s: u128) -> Vec<u128> {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
    fn inner(sums: &[[u64; 3]], s: u128) -> Vec<u128> {
        let limb = |i: usize| {
            let mut numbers = [0; 16];
            for (number, sum) in numbers.iter_mut().zip(sums) {
                *number = sum[i];
            }
            lanes::load_numbers(&numbers)[0]
        };
        let s = [s as u64, (s >> 64) as u64].map(|half| lanes::load_numbers(&[half; 16])[0]);
        let tags = poly1305::finish([limb(0), limb(1), limb(2)], &s);
        tags.into_iter().map(u128::from_le_bytes).collect()
    }
    assert!(is_supported());
    // SAFETY: the CPU has the features.
    unsafe { inner(sums, s) }
}

#[expect(unsafe_code, reason = "only the CPU can tell whether it has AVX-512")]
fn raw_keys(key: &[u8; KEY_BYTES], counters: &[u64]) -> Vec<[u128; 2]> {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
    fn inner(key: &[u8; KEY_BYTES], counters: &[u64]) -> Vec<[u128; 2]> {
        let packet = |&counter| Packet {
            start: 0,
            length: 0,
            counter,
        };
        let packets: Vec<_> = counters.iter().map(packet).collect();
        let mut stream = chacha20::Stream::new();
        let keys = chacha20::one_time_keys(&chacha20::key(key), &packets, &mut stream);
        let mut found = vec![];
        for eight in keys {
            let [[r0, r1], [s0, s1]] =
                [eight.r, eight.s].map(|h| h.map(|half| lanes::store_numbers(half)));
            for lane in 0..8 {
                let number = |low: u64, high: u64| u128::from(high) << 64 | u128::from(low);
                found.push([number(r0[lane], r1[lane]), number(s0[lane], s1[lane])]);
            }
        }
        found
    }
    assert!(is_supported());
    // SAFETY: the CPU has the features.
    unsafe { inner(key, counters) }
}
