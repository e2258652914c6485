//! Poly1305 (RFC 8439 section 2.5) of eight packets side by side: one packet, with its own key, in each 64-bit lane.
//!
//! A number modulo 2^130 - 5 is three limbs of 44, 44 and 42 bits, which the 52-bit multiplier of AVX-512 IFMA takes
//! with room to spare. Four blocks are taken in one step, with the powers r^4 to r of the key, so that limbs are
//! carried once for all four. Nothing here depends on the data in time or address, only on the packets' lengths.

use std::arch::x86_64::*;

use super::chacha20::OneTimeKeys;
use super::lanes::{self, WIDTH};
use super::{Packet, SIDE_BY_SIDE, TAG_BYTES};

/// Packets side by side.
const LANES: usize = SIDE_BY_SIDE;
/// Length of a block, in bytes.
const BLOCK: usize = 16;
/// Blocks in a step.
const STEP: usize = WIDTH / BLOCK;
/// Bits of the lower limbs and of the upper one.
const LIMB: u64 = (1 << 44) - 1;
const UPPER_LIMB: u64 = (1 << 42) - 1;
/// Clamps the halves of r (RFC 8439 section 2.5).
const CLAMP: [u64; 2] = [0x0fff_fffc_0fff_ffff, 0x0fff_fffc_0fff_fffc];

/// A number in each lane, as limbs of 44, 44 and 42 bits.
type Limbs = [__m512i; 3];

/// The tags of one to eight packets, whose ciphertext lies in the slab.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
pub(super) fn tags(
    slab: &[u8],
    packets: &[Packet],
    keys: &OneTimeKeys,
) -> [[u8; TAG_BYTES]; LANES] {
    let mut texts: [&[u8]; LANES] = [&[]; LANES];
    let (mut shortest, mut longest) = (usize::MAX, 0);
    for (text, packet) in texts.iter_mut().zip(packets) {
        *text = &slab[packet.start..packet.end()];
        shortest = shortest.min(packet.length);
        longest = longest.max(packet.length);
    }
    for i in packets.len()..LANES {
        texts[i] = texts[0];
    }
    let r = limbs(
        _mm512_and_si512(keys.r[0], _mm512_set1_epi64(CLAMP[0] as i64)),
        _mm512_and_si512(keys.r[1], _mm512_set1_epi64(CLAMP[1] as i64)),
        0,
    );
    let r1 = Factor::new(r);
    let mut lengths = [0; 2 * LANES];
    for (length, text) in lengths.iter_mut().zip(texts) {
        *length = text.len() as u64;
    }
    let [lengths, _] = lanes::load_numbers(&lengths);
    let mut sum = [_mm512_setzero_si512(); 3];
    let whole = shortest / WIDTH;
    if whole > 0 {
        sum = whole_steps(&texts, whole, &r1);
    }
    for start in (whole * WIDTH..longest).step_by(WIDTH) {
        sum = partial_step(sum, &texts, lengths, start, &r1);
    }
    // There is no additional data, so the lower half, which has its length, is zero (RFC 8439 section 2.8).
    let last = limbs(_mm512_setzero_si512(), lengths, 1);
    finish(multiply(add(sum, last), &r1), &keys.s)
}

/// The first `count` times 64 bytes of every text.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
fn whole_steps(texts: &[&[u8]; LANES], count: usize, r1: &Factor) -> Limbs {
    let r2 = Factor::new(multiply(r1.limbs, r1));
    let r3 = Factor::new(multiply(r2.limbs, r1));
    let r4 = Factor::new(multiply(r2.limbs, &r2));
    let zero = _mm512_setzero_si512();
    let mut sum = [zero; 3];
    for i in 0..count {
        let mut rows = [zero; LANES];
        for (row, text) in rows.iter_mut().zip(texts) {
            let bytes = text[i * WIDTH..].first_chunk();
            *row = lanes::load(bytes.expect("not beyond the shortest text"));
        }
        let halves = lanes::transpose_numbers(&rows);
        let mut product = Product::zero();
        product.add(limbs(halves[2], halves[3], 1), &r3);
        product.add(limbs(halves[4], halves[5], 1), &r2);
        product.add(limbs(halves[6], halves[7], 1), r1);
        product.add(add(sum, limbs(halves[0], halves[1], 1)), &r4);
        sum = product.carry();
    }
    sum
}

/// The 64 bytes from `start` on of those texts that have any; a last block that is not whole is filled with zeros
/// (RFC 8439 section 2.8).
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
fn partial_step(
    mut sum: Limbs,
    texts: &[&[u8]; LANES],
    lengths: __m512i,
    start: usize,
    r1: &Factor,
) -> Limbs {
    let mut rows = [_mm512_setzero_si512(); LANES];
    for (row, text) in rows.iter_mut().zip(texts) {
        *row = lanes::load_part(text.get(start..).unwrap_or_default());
    }
    let halves = lanes::transpose_numbers(&rows);
    for i in 0..STEP {
        let begin = _mm512_set1_epi64((start + BLOCK * i) as i64);
        let present = _mm512_cmpgt_epu64_mask(lengths, begin);
        if present == 0 {
            break;
        }
        let block = limbs(halves[2 * i], halves[2 * i + 1], 1);
        let next = multiply(add(sum, block), r1);
        for limb in 0..3 {
            sum[limb] = _mm512_mask_mov_epi64(sum[limb], present, next[limb]);
        }
    }
    sum
}

/// A number of 128 bits, and one bit above.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
fn limbs(low: __m512i, high: __m512i, bit_128: i64) -> Limbs {
    let limb = _mm512_set1_epi64(LIMB as i64);
    let middle = _mm512_or_si512(_mm512_srli_epi64::<44>(low), _mm512_slli_epi64::<20>(high));
    [
        _mm512_and_si512(low, limb),
        _mm512_and_si512(middle, limb),
        _mm512_or_si512(
            _mm512_srli_epi64::<24>(high),
            _mm512_set1_epi64(bit_128 << 40),
        ),
    ]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
fn add(a: Limbs, b: Limbs) -> Limbs {
    [
        _mm512_add_epi64(a[0], b[0]),
        _mm512_add_epi64(a[1], b[1]),
        _mm512_add_epi64(a[2], b[2]),
    ]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
fn multiply(a: Limbs, b: &Factor) -> Limbs {
    let mut product = Product::zero();
    product.add(a, b);
    product.carry()
}

/// A number that others are multiplied with, and 20 times its upper limbs: what goes beyond the third limb begins at
/// 2^132, which is 4 * 5 modulo 2^130 - 5.
struct Factor {
    limbs: Limbs,
    folded: [__m512i; 2],
}

impl Factor {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
    fn new(limbs: Limbs) -> Self {
        let times_20 = |x| _mm512_add_epi64(_mm512_slli_epi64::<4>(x), _mm512_slli_epi64::<2>(x));
        Self {
            limbs,
            folded: [times_20(limbs[1]), times_20(limbs[2])],
        }
    }
}

/// A sum of up to four products, not carried: `low[i] + 2^52 * high[i]` is what limb i got.
///
/// `a` is below 2^46 in each limb and `b` below 2^49, so a partial product has less than 2^52 in its lower half and less
/// than 2^43 in its upper one, and 2^38 in the topmost column, where nothing is folded. Twelve of each, and all that
/// `carry` adds to them, stay below 2^57.
struct Product {
    low: Limbs,
    high: Limbs,
}

impl Product {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
    fn zero() -> Self {
        let zero = _mm512_setzero_si512();
        Self {
            low: [zero; 3],
            high: [zero; 3],
        }
    }

    /// Adds `a * b`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
    fn add(&mut self, a: Limbs, b: &Factor) {
        let ([r0, r1, r2], [s1, s2]) = (b.limbs, b.folded);
        let rows = [[r0, r1, r2], [s2, r0, r1], [s1, s2, r0]];
        for (a, row) in a.into_iter().zip(rows) {
            for (i, b) in row.into_iter().enumerate() {
                self.low[i] = _mm512_madd52lo_epu64(self.low[i], a, b);
                self.high[i] = _mm512_madd52hi_epu64(self.high[i], a, b);
            }
        }
    }

    /// As limbs that are no wider than they should be, but for the middle one, which may exceed its 44 bits by less
    /// than 2^12.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
    fn carry(self) -> Limbs {
        let limb = _mm512_set1_epi64(LIMB as i64);
        let upper_limb = _mm512_set1_epi64(UPPER_LIMB as i64);
        let [d0, d1, d2] = self.low;
        // An upper half begins at 2^52: 2^8 times the next limb, and 2^10 times what goes beyond the third.
        let c0 = _mm512_add_epi64(
            _mm512_srli_epi64::<44>(d0),
            _mm512_slli_epi64::<8>(self.high[0]),
        );
        let d1 = _mm512_add_epi64(d1, c0);
        let c1 = _mm512_add_epi64(
            _mm512_srli_epi64::<44>(d1),
            _mm512_slli_epi64::<8>(self.high[1]),
        );
        let d2 = _mm512_add_epi64(d2, c1);
        let c2 = _mm512_add_epi64(
            _mm512_srli_epi64::<42>(d2),
            _mm512_slli_epi64::<10>(self.high[2]),
        );
        // 2^130 is 5.
        let fivefold = _mm512_add_epi64(c2, _mm512_slli_epi64::<2>(c2));
        let d0 = _mm512_add_epi64(_mm512_and_si512(d0, limb), fivefold);
        let c0 = _mm512_srli_epi64::<44>(d0);
        [
            _mm512_and_si512(d0, limb),
            _mm512_add_epi64(_mm512_and_si512(d1, limb), c0),
            _mm512_and_si512(d2, upper_limb),
        ]
    }
}

/// Takes what [`Product::carry`] gives, reduces it modulo 2^130 - 5 and adds s modulo 2^128 (RFC 8439 section 2.5.1).
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
pub(super) fn finish([h0, h1, h2]: Limbs, s: &[__m512i; 2]) -> [[u8; TAG_BYTES]; LANES] {
    let limb = _mm512_set1_epi64(LIMB as i64);
    let upper_limb = _mm512_set1_epi64(UPPER_LIMB as i64);
    let five = _mm512_set1_epi64(5);
    // Only the middle limb can be too large, by little: once it is cut, what comes back to it at the end fits.
    let h2 = _mm512_add_epi64(h2, _mm512_srli_epi64::<44>(h1));
    let h1 = _mm512_and_si512(h1, limb);
    let c2 = _mm512_srli_epi64::<42>(h2);
    let h2 = _mm512_and_si512(h2, upper_limb);
    let h0 = _mm512_add_epi64(h0, _mm512_add_epi64(c2, _mm512_slli_epi64::<2>(c2)));
    let h1 = _mm512_add_epi64(h1, _mm512_srli_epi64::<44>(h0));
    let h0 = _mm512_and_si512(h0, limb);
    // Subtracts 2^130 - 5, that is, adds 5 and drops 2^130, where that leaves something.
    let g0 = _mm512_add_epi64(h0, five);
    let g1 = _mm512_add_epi64(h1, _mm512_srli_epi64::<44>(g0));
    let g2 = _mm512_add_epi64(h2, _mm512_srli_epi64::<44>(g1));
    let above = _mm512_cmpgt_epu64_mask(g2, upper_limb);
    let h0 = _mm512_mask_and_epi64(h0, above, g0, limb);
    let h1 = _mm512_mask_and_epi64(h1, above, g1, limb);
    let h2 = _mm512_mask_and_epi64(h2, above, g2, upper_limb);
    let low = _mm512_or_si512(h0, _mm512_slli_epi64::<44>(h1));
    let high = _mm512_or_si512(_mm512_srli_epi64::<20>(h1), _mm512_slli_epi64::<24>(h2));
    let low = _mm512_add_epi64(low, s[0]);
    let carried = _mm512_cmplt_epu64_mask(low, s[0]);
    let high = _mm512_add_epi64(high, s[1]);
    let high = _mm512_mask_add_epi64(high, carried, high, _mm512_set1_epi64(1));
    let (low, high) = (lanes::store_numbers(low), lanes::store_numbers(high));
    let mut tags = [[0; TAG_BYTES]; LANES];
    for (tag, (low, high)) in tags.iter_mut().zip(low.into_iter().zip(high)) {
        tag[..8].copy_from_slice(&low.to_le_bytes());
        tag[8..].copy_from_slice(&high.to_le_bytes());
    }
    tags
}
