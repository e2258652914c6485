//! ChaCha20 (RFC 8439 section 2.3), sixteen blocks at a time: one block in each 32-bit lane, of whichever packets.
//!
//! It knows nothing of tags but that block 0 of a packet makes its one-time key (RFC 8439 section 2.6).

use std::arch::x86_64::*;
use std::hint::black_box;

use super::lanes::{self, WIDTH};
use super::{GROUP, KEY_BYTES, Packet, SIDE_BY_SIDE};

/// A column round and a diagonal round (RFC 8439 section 2.3) of one state or of several in turn. Four quarter rounds go
/// side by side, so that none waits for its own last result.
/// Macros, because a function with target features cannot be made to be inlined always, and a call here costs more than
/// the work.
macro_rules! double_round {
    ($($state:ident),+) => {
        $(step!($state, 0, 16, 0, 1, 3);)+
        $(step!($state, 0, 12, 2, 3, 1);)+
        $(step!($state, 0, 8, 0, 1, 3);)+
        $(step!($state, 0, 7, 2, 3, 1);)+
        $(step!($state, 1, 16, 0, 1, 3);)+
        $(step!($state, 1, 12, 2, 3, 1);)+
        $(step!($state, 1, 8, 0, 1, 3);)+
        $(step!($state, 1, 7, 2, 3, 1);)+
    };
}

/// A quarter of four quarter rounds (RFC 8439 section 2.1): row `a += b`, row `d ^= a`, row `d` rotated left by `bits`.
/// Row i turned left by `turn * i` words gives the columns: 0 in a column round, 1 in a diagonal one.
macro_rules! step {
    ($state:ident, $turn:literal, $bits:literal, $a:literal, $b:literal, $d:literal) => {
        for i in 0..4 {
            let (a, b) = (word($turn, $a, i), word($turn, $b, i));
            $state[a] = _mm512_add_epi32($state[a], $state[b]);
        }
        for i in 0..4 {
            let (a, d) = (word($turn, $a, i), word($turn, $d, i));
            $state[d] = _mm512_xor_si512($state[d], $state[a]);
        }
        for i in 0..4 {
            let d = word($turn, $d, i);
            $state[d] = _mm512_rol_epi32::<$bits>($state[d]);
        }
    };
}

/// Where word `column` of row `row`, turned left by `turn * row`, is in the state.
const fn word(turn: usize, row: usize, column: usize) -> usize {
    4 * row + (column + turn * row) % 4
}

/// Blocks in a pass.
const LANES: usize = 16;
/// "expand 32-byte k" (RFC 8439 section 2.3).
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// A key as words.
pub(super) struct Words([u32; 8]);

impl Drop for Words {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

/// The one-time keys of eight packets, one in each 64-bit lane: `r` and `s` of RFC 8439 section 2.5, not clamped,
/// their lower halves first.
pub(super) struct OneTimeKeys {
    pub(super) r: [__m512i; 2],
    pub(super) s: [__m512i; 2],
}

/// Prepares a key for a batch.
pub(super) fn key(bytes: &[u8; KEY_BYTES]) -> Words {
    let mut words = Words([0; 8]);
    for (word, bytes) in words.0.iter_mut().zip(bytes.as_chunks().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}

/// The one-time keys of up to 32 packets, eight at a time.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
pub(super) fn one_time_keys(
    key: &Words,
    packets: &[Packet],
    stream: &mut Stream,
) -> [OneTimeKeys; GROUP / SIDE_BY_SIDE] {
    let mut counters = [[0; LANES]; 2];
    for (counter, packet) in counters.as_flattened_mut().iter_mut().zip(packets) {
        *counter = packet.counter;
    }
    let [first, second] = counters;
    let first = first_blocks(&first);
    if packets.len() > LANES {
        twice_blocks::<COLUMNS>(key, &first, &first_blocks(&second), stream);
    } else {
        blocks::<COLUMNS>(key, &first, stream);
    }
    let [a, b] = &stream.0;
    let ([a, b], [c, d]) = (eight_keys(a), eight_keys(b));
    [a, b, c, d]
}

/// What makes block 0 of sixteen packets.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
fn first_blocks(counters: &[u64; LANES]) -> Inputs {
    let [low, high] = lanes::load_numbers(counters);
    Inputs {
        block: _mm512_setzero_si512(),
        nonce_low: join(_mm512_cvtepi64_epi32(low), _mm512_cvtepi64_epi32(high)),
        nonce_high: join(
            _mm512_cvtepi64_epi32(_mm512_srli_epi64::<32>(low)),
            _mm512_cvtepi64_epi32(_mm512_srli_epi64::<32>(high)),
        ),
        is_empty: false,
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
fn eight_keys(words: &Blocks) -> [OneTimeKeys; 2] {
    let words = |i: usize| lanes::load(&words[i]);
    let pair = |a: __m256i, b: __m256i| {
        let high = _mm512_slli_epi64::<32>(_mm512_cvtepu32_epi64(b));
        _mm512_or_si512(_mm512_cvtepu32_epi64(a), high)
    };
    let lower = |i: usize| pair(lower(words(i)), lower(words(i + 1)));
    let upper = |i: usize| pair(upper(words(i)), upper(words(i + 1)));
    [
        OneTimeKeys {
            r: [lower(0), lower(2)],
            s: [lower(4), lower(6)],
        },
        OneTimeKeys {
            r: [upper(0), upper(2)],
            s: [upper(4), upper(6)],
        },
    ]
}

/// Encrypts or decrypts the packets where they lie, from block 1 on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
pub(super) fn apply(key: &Words, slab: &mut [u8], packets: &[Packet], stream: &mut Stream) {
    let mut deal = Deal::new(packets);
    loop {
        let first = deal.pass(0);
        let second = deal.pass(LANES);
        if deal.count == 0 {
            break;
        }
        if second.is_empty {
            blocks::<ROWS>(key, &first, stream);
        } else {
            twice_blocks::<ROWS>(key, &first, &second, stream);
        }
        for piece in &deal.pieces[..deal.count] {
            let bytes = &mut slab[piece.start..piece.start + piece.length];
            xor(bytes, &stream.0.as_flattened()[piece.lane..]);
        }
        deal.count = 0;
    }
}

/// Sixteen blocks: each in a row, or word i of all in row i.
type Blocks = [[u8; WIDTH]; LANES];
const ROWS: bool = true;
const COLUMNS: bool = false;

/// Room for twice sixteen blocks of key stream. Wiped when dropped.
#[repr(align(64))]
pub(super) struct Stream([Blocks; 2]);

impl Stream {
    pub(super) fn new() -> Self {
        Self([[[0; WIDTH]; LANES]; 2])
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Zeroize writes byte by byte, which takes longer than a small batch.
        self.0 = [[[0; WIDTH]; LANES]; 2];
        black_box(&mut self.0);
    }
}

/// Combines bytes with a key stream that is at least as long.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
fn xor(bytes: &mut [u8], stream: &[[u8; WIDTH]]) {
    let (whole, rest) = bytes.as_chunks_mut();
    let (stream, last) = stream.split_at(whole.len());
    for (bytes, stream) in whole.iter_mut().zip(stream) {
        let value = lanes::load(bytes);
        lanes::store(bytes, _mm512_xor_si512(value, lanes::load(stream)));
    }
    if !rest.is_empty() {
        let value = lanes::load_part(rest);
        lanes::store_part(rest, _mm512_xor_si512(value, lanes::load(&last[0])));
    }
}

/// What differs from lane to lane in the initial state: words 12, 14 and 15; word 13 is zero.
struct Inputs {
    block: __m512i,
    nonce_low: __m512i,
    nonce_high: __m512i,
    is_empty: bool,
}

/// Bytes of one packet whose key stream begins with the block in `lane`.
#[derive(Clone, Copy)]
struct Piece {
    start: usize,
    length: usize,
    lane: usize,
}

/// Deals out the blocks of packets, one packet after the other.
struct Deal<'a> {
    packets: std::slice::Iter<'a, Packet>,
    counter: u64,
    /// What is left of the current packet.
    start: usize,
    left: usize,
    /// The next block of it.
    block: u32,
    pieces: [Piece; 2 * LANES],
    count: usize,
}

impl<'a> Deal<'a> {
    fn new(packets: &'a [Packet]) -> Self {
        let nothing = Piece {
            start: 0,
            length: 0,
            lane: 0,
        };
        Self {
            packets: packets.iter(),
            counter: 0,
            start: 0,
            left: 0,
            block: 0,
            pieces: [nothing; 2 * LANES],
            count: 0,
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
    fn pass(&mut self, offset: usize) -> Inputs {
        let zero = _mm512_setzero_si512();
        let numbers = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let (mut block, mut nonce_low, mut nonce_high) = (zero, zero, zero);
        let mut lane = 0;
        while lane < LANES {
            if self.left == 0 {
                let Some(next) = self.packets.next() else {
                    break;
                };
                self.counter = next.counter;
                self.start = next.start;
                self.left = next.length;
                self.block = 1;
                continue;
            }
            // The lanes from this one on; later packets overwrite what is not theirs.
            let mask = u16::MAX << lane;
            let first = _mm512_set1_epi32(self.block.wrapping_sub(lane as u32) as i32);
            block = _mm512_mask_add_epi32(block, mask, numbers, first);
            nonce_low = _mm512_mask_set1_epi32(nonce_low, mask, self.counter as i32);
            nonce_high = _mm512_mask_set1_epi32(nonce_high, mask, (self.counter >> 32) as i32);
            let length = self.left.min(WIDTH * (LANES - lane));
            self.pieces[self.count] = Piece {
                start: self.start,
                length,
                lane: offset + lane,
            };
            self.count += 1;
            let blocks = length.div_ceil(WIDTH);
            self.start += length;
            self.left -= length;
            self.block += blocks as u32;
            lane += blocks;
        }
        Inputs {
            block,
            nonce_low,
            nonce_high,
            is_empty: lane == 0,
        }
    }
}

/// The state before the first round; word i of all blocks in vector i.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
fn initial(key: &Words, inputs: &Inputs) -> [__m512i; 16] {
    let mut state = [_mm512_setzero_si512(); 16];
    for i in 0..4 {
        state[i] = _mm512_set1_epi32(CONSTANTS[i] as i32);
    }
    for i in 0..8 {
        state[4 + i] = _mm512_set1_epi32(key.0[i] as i32);
    }
    state[12] = inputs.block;
    state[14] = inputs.nonce_low;
    state[15] = inputs.nonce_high;
    state
}

/// Sixteen blocks into the first half.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
fn blocks<const ROWS: bool>(key: &Words, inputs: &Inputs, stream: &mut Stream) {
    let initial = initial(key, inputs);
    let mut state = initial;
    for _ in 0..10 {
        double_round!(state);
    }
    write::<ROWS>(&mut stream.0[0], state, &initial);
}

/// Sixteen blocks into each half. The rounds of one fill the waiting times of the other, and the two states just fill
/// the 32 vector registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
fn twice_blocks<const ROWS: bool>(key: &Words, a: &Inputs, b: &Inputs, stream: &mut Stream) {
    let (first, second) = (initial(key, a), initial(key, b));
    let (mut a, mut b) = (first, second);
    for _ in 0..10 {
        double_round!(a, b);
    }
    let [low, high] = &mut stream.0;
    write::<ROWS>(low, a, &first);
    write::<ROWS>(high, b, &second);
}

/// Adds the initial state (RFC 8439 section 2.3) and stores the blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
fn write<const ROWS: bool>(blocks: &mut Blocks, mut state: [__m512i; 16], initial: &[__m512i; 16]) {
    for i in 0..16 {
        state[i] = _mm512_add_epi32(state[i], initial[i]);
    }
    if ROWS {
        state = lanes::transpose_words(&state);
    }
    for i in 0..16 {
        lanes::store(&mut blocks[i], state[i]);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
fn lower(value: __m512i) -> __m256i {
    _mm512_castsi512_si256(value)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
fn upper(value: __m512i) -> __m256i {
    _mm512_extracti64x4_epi64::<1>(value)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
fn join(lower: __m256i, upper: __m256i) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(lower), upper)
}
