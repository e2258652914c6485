//! Randomness that a test can repeat: SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
//! For spreading retries only, never for secrets.

use std::time::Duration;

/// A seeded sequence.
#[derive(Debug, Clone)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Between half of `duration` and all of it.
    pub(crate) fn spread(&mut self, duration: Duration) -> Duration {
        let half = duration / 2;
        let millis = u64::try_from(half.as_millis()).unwrap_or(u64::MAX).max(1);
        half + Duration::from_millis(self.next() % millis)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Pauses that double from `first` to `longest`, each spread.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// The pause before the next try.
    pub(crate) fn pause(&mut self, jitter: &mut Jitter) -> Duration {
        let pause = jitter.spread(self.next);
        self.next = (self.next * 2).min(self.longest);
        pause
    }

    /// It worked: begin with the shortest again.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_within_their_bounds_and_begin_again() {
        let (mut jitter, mut backoff) = (
            Jitter::new(1),
            Backoff::new(Duration::from_secs(1), Duration::from_secs(8)),
        );
        for most in [1, 2, 4, 8, 8] {
            let pause = backoff.pause(&mut jitter);
            assert!(
                (most * 500..=most * 1000).contains(&(pause.as_millis() as u64)),
                "{pause:?} of {most} s"
            );
        }
        backoff.reset();
        assert!(backoff.pause(&mut jitter) <= Duration::from_secs(1));
    }
}
