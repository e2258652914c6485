//! When something was, by the wall clock as it is set now.
//!
//! What is remembered is remembered on the monotonic scale, and put on the wall clock's only when it is told: so a clock that
//! is set takes every moment with it, and how long ago something was stays right.

use std::time::Duration;

use pnsbox_proto::time::UnixTime;
use tracing::info;

use crate::event::Now;

/// Whole seconds of two clocks differ by one now and then without either being set.
const ROUNDING: u64 = 1;

/// What the wall clock said when the monotonic one was zero; before 1970 for a box that booted there.
#[derive(Debug)]
pub(crate) struct WallClock {
    zero: i64,
}

impl WallClock {
    pub(crate) fn new(now: Now) -> Self {
        Self { zero: zero(now) }
    }

    /// By how many seconds the wall clock was set, if it was; a box that was suspended is no different.
    pub(crate) fn follow(&mut self, now: Now) -> Option<i64> {
        let zero = zero(now);
        if zero.abs_diff(self.zero) <= ROUNDING {
            return None;
        }
        let by_seconds = zero.saturating_sub(self.zero);
        info!(by_seconds, now = %now.wall, "the wall clock was set");
        self.zero = zero;
        Some(by_seconds)
    }

    /// A monotonic moment by the wall clock.
    pub(crate) fn at(&self, monotonic: Duration) -> UnixTime {
        let at = self.zero.saturating_add(signed(monotonic.as_secs()));
        UnixTime(u64::try_from(at).unwrap_or(0))
    }
}

fn zero(now: Now) -> i64 {
    signed(now.wall.0).saturating_sub(signed(now.monotonic.as_secs()))
}

fn signed(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(monotonic_ms: u64, wall: u64) -> Now {
        Now {
            monotonic: Duration::from_millis(monotonic_ms),
            wall: UnixTime(wall),
        }
    }

    #[test]
    fn moments_stay_while_seconds_are_rounded_and_move_with_a_clock_that_is_set() {
        let mut clock = WallClock::new(now(0, 30));
        let at = Duration::from_millis(20_500);
        for (monotonic, wall) in [(21_000, 51), (21_999, 52), (60_000, 90), (60_100, 91)] {
            assert_eq!(clock.follow(now(monotonic, wall)), None);
            assert_eq!(clock.at(at), UnixTime(50));
        }
        let by = clock.follow(now(100_000, 1_800_000_000));
        assert_eq!(by, Some(1_799_999_870));
        assert_eq!(clock.at(at), UnixTime(1_799_999_920));
        assert_eq!(clock.at(Duration::ZERO), UnixTime(1_799_999_900));
        assert!(clock.follow(now(200_000, 10)) < Some(-1_800_000_000));
        assert_eq!(clock.at(at), UnixTime(0), "before 1970 reads as 1970");
        assert!(clock.follow(now(200_000, u64::MAX)).is_some());
        assert!(clock.at(at) > UnixTime(1 << 62));
    }
}
