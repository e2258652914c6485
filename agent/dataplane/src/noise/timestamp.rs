//! TAI64N timestamps of initiations, as bytes and as the protocol orders them. Which one is used, [`super::clock`] decides.

use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of a timestamp.
pub(super) const TIMESTAMP_BYTES: usize = 12;

/// A point in time as the protocol orders it: seconds, then nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Timestamp {
    seconds: u64,
    nanoseconds: u32,
}

impl Timestamp {
    /// Before every other.
    pub(super) const ZERO: Self = Self {
        seconds: 0,
        nanoseconds: 0,
    };

    /// Any bytes are a timestamp: receivers only compare (whitepaper section 5.1).
    pub(super) fn from_bytes(bytes: [u8; TIMESTAMP_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
        Self {
            seconds: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            nanoseconds: u32::from_be_bytes(rest),
        }
    }

    pub(super) fn to_bytes(self) -> [u8; TIMESTAMP_BYTES] {
        let mut bytes = [0; TIMESTAMP_BYTES];
        bytes[..8].copy_from_slice(&self.seconds.to_be_bytes());
        bytes[8..].copy_from_slice(&self.nanoseconds.to_be_bytes());
        bytes
    }

    /// What the wall clock says, rounded.
    pub(super) fn of(wall: SystemTime) -> Self {
        let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            nanoseconds: since.subsec_nanos() & !(ROUNDING - 1),
            ..Self::at(since.as_secs())
        }
    }

    /// The beginning of a second, counted from 1970.
    pub(super) fn at(unix_seconds: u64) -> Self {
        Self {
            seconds: TAI64_EPOCH.saturating_add(unix_seconds),
            nanoseconds: 0,
        }
    }

    /// The second that it lies in, counted from 1970.
    pub(super) fn unix_seconds(self) -> u64 {
        self.seconds.saturating_sub(TAI64_EPOCH)
    }

    pub(super) fn successor(self) -> Self {
        if self.nanoseconds >= 999_999_999 {
            return Self {
                seconds: self.seconds.saturating_add(1),
                nanoseconds: 0,
            };
        }
        Self {
            nanoseconds: self.nanoseconds + 1,
            ..self
        }
    }
}

/// 1970 in TAI64 labels. TAI has been 37 s ahead of UTC since 2017 (IERS Bulletin C 52); boringtun uses the same offset,
/// so a box that changes from one core to the other does not go back in its peers' eyes.
const TAI64_EPOCH: u64 = (1 << 62) + 37;

/// Nanoseconds are rounded down to a multiple of this, as Linux does: the largest power of two below a fiftieth of
/// a second, so that timestamps tell strangers little about the clock (and 50 initiations a second are the most).
const ROUNDING: u32 = 1 << 24;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timestamps_follow_the_clock_rounded() {
        let wall = UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
        let stamp = Timestamp::of(wall);
        assert_eq!(stamp.seconds, (1 << 62) + 37 + 1_700_000_000);
        assert_eq!(stamp.nanoseconds, 117_440_512, "7 × 2^24");
        assert_eq!(Timestamp::from_bytes(stamp.to_bytes()), stamp);
    }

    #[test]
    fn the_last_nanosecond_of_a_second_is_followed_by_the_next_second() {
        let last = Timestamp {
            seconds: 7,
            nanoseconds: 999_999_999,
        };
        assert!(last.successor() > last);
        assert_eq!(last.successor().nanoseconds, 0);
        assert!(last.successor().to_bytes() > last.to_bytes());
    }
}
