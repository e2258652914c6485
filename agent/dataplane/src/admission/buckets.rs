//! Token buckets in memory that does not grow: who may do something so often. It knows no handshake.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::net::SocketAddr;
use std::time::Duration;

/// How fast a bucket fills, and how much it holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    interval: Duration,
    burst: u32,
}

/// When a bucket will be full again, counted from a beginning: the generic cell rate algorithm (ITU-T I.371).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bucket {
    full_at: Duration,
}

impl Rate {
    pub(super) const fn per_second(count: u32, burst: u32) -> Self {
        Self {
            interval: Duration::from_nanos(1_000_000_000 / count as u64),
            burst,
        }
    }

    /// Takes one out of the bucket; false if it is empty.
    pub(super) fn take(self, bucket: &mut Bucket, now: Duration) -> bool {
        let full_at = bucket.full_at.max(now) + self.interval;
        let has_one = full_at - now <= self.interval * self.burst;
        if has_one {
            bucket.full_at = full_at;
        }
        has_one
    }
}

/// A bucket for each of any number of keys. Keys share buckets by a hash that nobody outside can aim with.
#[derive(Debug)]
pub(super) struct Buckets {
    hasher: RandomState,
    slots: Box<[Bucket]>,
}

impl Default for Buckets {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            slots: vec![Bucket::default(); SLOTS].into(),
        }
    }
}

impl Buckets {
    pub(super) fn of(&mut self, key: impl Hash) -> &mut Bucket {
        &mut self.slots[self.hasher.hash_one(key) as usize % SLOTS]
    }
}

/// The endpoints of peers, each with a bucket that it shares with nobody.
#[derive(Debug, Default)]
pub(super) struct Known {
    endpoints: HashMap<SocketAddr, (Bucket, u64)>,
    generation: u64,
}

impl Known {
    /// Whether `source` is known and has something in its bucket; takes it.
    pub(super) fn takes(&mut self, source: SocketAddr, now: Duration) -> bool {
        self.endpoints
            .get_mut(&source)
            .is_some_and(|(bucket, _)| super::KNOWN.take(bucket, now))
    }

    pub(super) fn has(&self, endpoint: SocketAddr) -> bool {
        self.endpoints.contains_key(&endpoint)
    }

    /// Known are these; those that stay keep their buckets.
    pub(super) fn replace(&mut self, endpoints: impl Iterator<Item = SocketAddr>) {
        self.generation += 1;
        for endpoint in endpoints {
            let (_, generation) = self.endpoints.entry(endpoint).or_default();
            *generation = self.generation;
        }
        self.endpoints
            .retain(|_, (_, generation)| *generation == self.generation);
    }
}

/// Enough that a flood of false sources fills each only a few times a second; 128 KiB.
const SLOTS: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    const fn milliseconds(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let rate = Rate::per_second(10, 3);
        let mut bucket = Bucket::default();
        let mut takes = |now| rate.take(&mut bucket, milliseconds(now));
        assert_eq!([0, 0, 0, 0].map(&mut takes), [true, true, true, false]);
        assert_eq!([99, 100, 101].map(&mut takes), [false, true, false]);
        assert_eq!(
            [9_000, 9_000, 9_000, 9_000].map(&mut takes),
            [true, true, true, false]
        );
    }

    #[test]
    fn a_known_endpoint_that_stays_keeps_its_bucket_and_one_that_goes_loses_it() {
        let [a, b] = [1, 2].map(|host| SocketAddr::from(([192, 0, 2, host], 1)));
        let now = Duration::ZERO;
        let mut known = Known::default();
        assert!(!known.takes(a, now));
        known.replace([a, b].into_iter());
        while known.takes(a, now) {}
        assert!(known.takes(b, now));
        known.replace([a].into_iter());
        assert!(!known.takes(a, now), "as empty as before");
        assert!(!known.takes(b, now), "it is known no more");
    }
}
