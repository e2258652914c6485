//! Moving bytes in and out of vectors, and rows into columns. No arithmetic.

use std::arch::x86_64::*;

/// Bytes in a vector.
pub(super) const WIDTH: usize = 64;

#[expect(unsafe_code, reason = "the intrinsic takes a pointer")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
pub(super) fn load(bytes: &[u8; WIDTH]) -> __m512i {
    // SAFETY: all 64 bytes may be read, at any alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[expect(unsafe_code, reason = "the intrinsic takes a pointer")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
pub(super) fn store(bytes: &mut [u8; WIDTH], value: __m512i) {
    // SAFETY: all 64 bytes may be written, at any alignment.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), value) }
}

/// Up to 64 bytes, then zeros.
#[expect(unsafe_code, reason = "the intrinsic takes a pointer")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
pub(super) fn load_part(bytes: &[u8]) -> __m512i {
    // SAFETY: the mask has a bit for each byte of the slice at most, and bytes without one are not read.
    unsafe { _mm512_maskz_loadu_epi8(mask(bytes.len()), bytes.as_ptr().cast()) }
}

/// The first bytes of `value`, as many as the slice has, at most 64.
#[expect(unsafe_code, reason = "the intrinsic takes a pointer")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
pub(super) fn store_part(bytes: &mut [u8], value: __m512i) {
    // SAFETY: the mask has a bit for each byte of the slice at most, and bytes without one are not written.
    unsafe { _mm512_mask_storeu_epi8(bytes.as_mut_ptr().cast(), mask(bytes.len()), value) }
}

/// Numbers, eight in a vector.
#[expect(unsafe_code, reason = "the intrinsic takes a pointer")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
pub(super) fn load_numbers(numbers: &[u64; 16]) -> [__m512i; 2] {
    // SAFETY: the first eight of sixteen numbers may be read.
    let first = unsafe { _mm512_loadu_si512(numbers.as_ptr().cast()) };
    // SAFETY: and so may the last eight.
    let last = unsafe { _mm512_loadu_si512(numbers[8..].as_ptr().cast()) };
    [first, last]
}

/// The numbers in a vector.
#[expect(unsafe_code, reason = "the intrinsic takes a pointer")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
pub(super) fn store_numbers(value: __m512i) -> [u64; 8] {
    let mut numbers = [0; 8];
    // SAFETY: eight numbers have as many bytes as a vector.
    unsafe { _mm512_storeu_si512(numbers.as_mut_ptr().cast(), value) }
    numbers
}

/// A bit for each of the first `count` bytes of a vector.
#[inline]
fn mask(count: usize) -> u64 {
    if count >= WIDTH {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

/// Word j of row i becomes word i of row j.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
pub(super) fn transpose_words(rows: &[__m512i; 16]) -> [__m512i; 16] {
    let zero = _mm512_setzero_si512();
    // Within each quarter of a vector: columns of four words.
    let mut quarters = [zero; 16];
    for i in [0, 4, 8, 12] {
        let a = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        let b = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
        let c = _mm512_unpacklo_epi32(rows[i + 2], rows[i + 3]);
        let d = _mm512_unpackhi_epi32(rows[i + 2], rows[i + 3]);
        quarters[i] = _mm512_unpacklo_epi64(a, c);
        quarters[i + 1] = _mm512_unpackhi_epi64(a, c);
        quarters[i + 2] = _mm512_unpacklo_epi64(b, d);
        quarters[i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    // Then the quarters themselves: q[4 * i + k] has in quarter j the words 4 * i.. of column 4 * j + k.
    let mut columns = [zero; 16];
    for k in 0..4 {
        let (a, b) = (quarters[k], quarters[k + 4]);
        let (c, d) = (quarters[k + 8], quarters[k + 12]);
        let ab_low = _mm512_shuffle_i32x4::<0x88>(a, b);
        let ab_high = _mm512_shuffle_i32x4::<0xdd>(a, b);
        let cd_low = _mm512_shuffle_i32x4::<0x88>(c, d);
        let cd_high = _mm512_shuffle_i32x4::<0xdd>(c, d);
        columns[k] = _mm512_shuffle_i32x4::<0x88>(ab_low, cd_low);
        columns[k + 4] = _mm512_shuffle_i32x4::<0x88>(ab_high, cd_high);
        columns[k + 8] = _mm512_shuffle_i32x4::<0xdd>(ab_low, cd_low);
        columns[k + 12] = _mm512_shuffle_i32x4::<0xdd>(ab_high, cd_high);
    }
    columns
}

/// Number j of row i becomes number i of row j.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
pub(super) fn transpose_numbers(rows: &[__m512i; 8]) -> [__m512i; 8] {
    let zero = _mm512_setzero_si512();
    // pairs[2 * i + k]: quarter j has number 2 * j + k of the rows 2 * i and 2 * i + 1.
    let mut pairs = [zero; 8];
    for i in 0..4 {
        pairs[2 * i] = _mm512_unpacklo_epi64(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi64(rows[2 * i], rows[2 * i + 1]);
    }
    let mut columns = [zero; 8];
    for k in 0..2 {
        let ab_low = _mm512_shuffle_i64x2::<0x88>(pairs[k], pairs[k + 2]);
        let ab_high = _mm512_shuffle_i64x2::<0xdd>(pairs[k], pairs[k + 2]);
        let cd_low = _mm512_shuffle_i64x2::<0x88>(pairs[k + 4], pairs[k + 6]);
        let cd_high = _mm512_shuffle_i64x2::<0xdd>(pairs[k + 4], pairs[k + 6]);
        columns[k] = _mm512_shuffle_i64x2::<0x88>(ab_low, cd_low);
        columns[k + 2] = _mm512_shuffle_i64x2::<0x88>(ab_high, cd_high);
        columns[k + 4] = _mm512_shuffle_i64x2::<0xdd>(ab_low, cd_low);
        columns[k + 6] = _mm512_shuffle_i64x2::<0xdd>(ab_high, cd_high);
    }
    columns
}
