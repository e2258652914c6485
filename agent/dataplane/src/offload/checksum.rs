//! The Internet checksum (RFC 1071): sums of bytes, alone or while they are copied. It knows no header.
//!
//! The loops take 64-bit words apart into halves and add those to 64-bit lanes, which no packet can overflow: there is no
//! carry to wait for, and the compiler makes them vector code on every machine. More lanes were measured to be slower;
//! `speed` below measures.

/// Lanes of each half: as many as baseline x86-64 adds at once.
const LANES: usize = 2;
/// Bytes that fill all lanes once.
const BLOCK: usize = 8 * LANES;

/// A ones' complement sum of 16-bit words, kept as the machine reads them: only the end swaps bytes (RFC 1071 section 2(B)).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sum(u64);

impl Sum {
    /// The sum of `bytes`, whose first byte is the high half of a word; an odd last one is followed by 0.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut lanes = Lanes::default();
        let mut blocks = bytes.chunks_exact(BLOCK);
        for block in &mut blocks {
            for (lane, word) in block.as_chunks::<8>().0.iter().enumerate() {
                lanes.add(lane, *word);
            }
        }
        lanes.sum().plus(Self::of_rest(blocks.remainder()))
    }

    /// Copies `from` to the beginning of `to`, which is no shorter; the sum of what was copied.
    pub(crate) fn copying(to: &mut [u8], from: &[u8]) -> Self {
        let mut lanes = Lanes::default();
        let blocks = from.chunks_exact(BLOCK);
        let rest = blocks.remainder();
        let (to, to_rest) = to[..from.len()].split_at_mut(from.len() - rest.len());
        for (to, block) in to.chunks_exact_mut(BLOCK).zip(blocks) {
            to.copy_from_slice(block);
            for (lane, word) in block.as_chunks::<8>().0.iter().enumerate() {
                lanes.add(lane, *word);
            }
        }
        to_rest.copy_from_slice(rest);
        lanes.sum().plus(Self::of_rest(rest))
    }

    /// With the 16-bit word `value`.
    pub(crate) fn word(self, value: u16) -> Self {
        Self(self.0 + u64::from(value.to_be()))
    }

    /// With both words of `value`.
    pub(crate) fn words(self, value: u32) -> Self {
        Self(self.0 + u64::from(value.to_be()))
    }

    /// With everything in `other`.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The sum in 16 bits, not complemented: 0xFFFF for bytes with a right checksum among them.
    pub(crate) fn folded(self) -> u16 {
        let halves = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let quarters = (halves & 0xffff) + ((halves >> 16) & 0xffff) + (halves >> 32);
        let once = (quarters & 0xffff) + (quarters >> 16);
        let twice = (once & 0xffff) + (once >> 16);
        u16::from_be(twice as u16)
    }

    /// The checksum: the complement of the sum.
    pub(crate) fn checksum(self) -> u16 {
        !self.folded()
    }

    /// Bytes fewer than a block.
    fn of_rest(bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<4>();
        let sum: u64 = words
            .iter()
            .map(|word| u64::from(u32::from_ne_bytes(*word)))
            .sum();
        let last = match *rest {
            [first] => [first, 0, 0, 0],
            [first, second] => [first, second, 0, 0],
            [first, second, third, ..] => [first, second, third, 0],
            [] => return Self(sum),
        };
        Self(sum + u64::from(u32::from_ne_bytes(last)))
    }
}

/// Sums side by side of the low and high halves of 64-bit words.
#[derive(Default)]
struct Lanes {
    low: [u64; LANES],
    high: [u64; LANES],
}

impl Lanes {
    #[inline(always)]
    fn add(&mut self, lane: usize, word: [u8; 8]) {
        let word = u64::from_ne_bytes(word);
        self.low[lane] += word & 0xffff_ffff;
        self.high[lane] += word >> 32;
    }

    fn sum(&self) -> Sum {
        Sum(self.low.iter().chain(&self.high).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::packets::Random;

    /// Word by word, as RFC 1071 section 4.1 has it.
    fn plain(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for word in bytes.chunks(2) {
            let low = word.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([word[0], low]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn the_example_of_rfc_1071_comes_out() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::of(&bytes).folded(), 0xddf2);
        assert_eq!(Sum::of(&bytes).checksum(), 0x220d);
    }

    #[test]
    fn sums_equal_those_word_by_word_at_every_length() {
        let mut random = Random(7);
        let mut bytes = vec![0; 65_535];
        random.fill(&mut bytes);
        for length in (0..300).chain([1379, 1380, 1381, 65_534, 65_535]) {
            let bytes = &bytes[..length];
            assert_eq!(Sum::of(bytes).folded(), plain(bytes), "{length} bytes");
            let mut copy = vec![0xaa; length + 3];
            let sum = Sum::copying(&mut copy, bytes);
            assert_eq!(sum.folded(), plain(bytes), "{length} bytes copied");
            assert_eq!((&copy[..length], &copy[length..]), (bytes, &[0xaa; 3][..]));
        }
    }

    #[test]
    fn the_greatest_sums_do_not_overflow() {
        let ones = vec![0xff; 65_536];
        assert_eq!(Sum::of(&ones).folded(), 0xffff);
        assert_eq!(Sum::of(&ones).word(1).folded(), 1);
        assert_eq!(Sum::of(&ones).words(0x0001_0002).folded(), 3);
        assert_eq!(Sum::of(&ones).plus(Sum::of(&ones)).folded(), 0xffff);
        assert_eq!(Sum::default().checksum(), 0xffff);
    }

    /// `cargo test --release -p pnsbox-dataplane --lib -- --ignored --nocapture speed`
    #[test]
    #[ignore = "a measurement, for release builds"]
    fn speed() {
        let from = vec![0x5a; 1380 * 40];
        let mut to = vec![0; 1500];
        let (mut read, mut copied) = (f64::MAX, f64::MAX);
        for _ in 0..500 {
            read = read.min(nanoseconds(&from, Sum::of));
            copied = copied.min(nanoseconds(&from, |packet| Sum::copying(&mut to, packet)));
        }
        println!("1,380 bytes: read {:.1} GB/s", 1380.0 / read);
        println!("1,380 bytes: copied {:.1} GB/s", 1380.0 / copied);
    }

    /// For each packet of 1,380 bytes.
    fn nanoseconds(bytes: &[u8], mut sum: impl FnMut(&[u8]) -> Sum) -> f64 {
        // Shorter than a time slice: the least of many is what nobody interrupted.
        const ROUNDS: usize = 20;
        let begun = std::time::Instant::now();
        for _ in 0..ROUNDS {
            for packet in bytes.chunks_exact(1380) {
                std::hint::black_box(sum(std::hint::black_box(packet)));
            }
        }
        begun.elapsed().as_nanos() as f64 / (ROUNDS * bytes.len() / 1380) as f64
    }
}
