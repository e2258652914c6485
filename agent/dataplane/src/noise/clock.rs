//! The clock of handshakes: gives the timestamps of our initiations, for all tunnels of a box.
//!
//! A peer refuses a timestamp that is not greater than the last it saw of our key (whitepaper section 5.1), for as long as
//! it remembers. So they must grow over reboots too, whatever the wall clock says then; they need not be the time.
//! They follow the wall clock where that goes forward, and else grow by a nanosecond. What the disk says no timestamp has
//! reached yet is *reserved*: whoever owns the clock writes a reservation ahead of use, and a new clock begins where the last
//! reservation ended. Until a reservation is on disk, a wall clock beyond the old one is not followed.
//!
//! It writes nothing itself, and nothing that a peer or a stranger sends moves it further than its nanosecond.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::timestamp::Timestamp;
use crate::lock::Mutex;

/// Shared by all who begin handshakes with one key; outlives them, so that a tunnel that is made anew does not go back.
#[derive(Debug, Clone)]
pub struct HandshakeClock(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    wall: fn() -> SystemTime,
    last: Timestamp,
    /// In seconds since 1970: no timestamp on or after it was ever given. `None` while the disk takes none.
    reserved: Option<u64>,
}

impl HandshakeClock {
    /// A clock of a key for which nothing from `reserved` on was ever used, in seconds since 1970; `None` for a key
    /// without a past.
    pub fn new(reserved: Option<u64>) -> Self {
        Self::with_wall(reserved, SystemTime::now)
    }

    pub(super) fn with_wall(reserved: Option<u64>, wall: fn() -> SystemTime) -> Self {
        let last = reserved.map_or(Timestamp::ZERO, Timestamp::at);
        Self(Arc::new(Mutex::new(State {
            wall,
            last,
            reserved: None,
        })))
    }

    /// What is to be written to disk now, if anything: then tell [`HandshakeClock::reserved`]. Never less than before.
    pub fn reservation_due(&self) -> Option<u64> {
        let state = self.0.lock();
        let wall = Timestamp::of((state.wall)()).unix_seconds();
        let last = state.last.unix_seconds();
        let enough = wall
            .saturating_add(AHEAD.as_secs() / 2)
            .max(last.saturating_add(1));
        if state.reserved.is_some_and(|reserved| reserved > enough) {
            return None;
        }
        let ahead_of_wall = wall.saturating_add(AHEAD.as_secs());
        Some(ahead_of_wall.max(last.saturating_add(AHEAD_OF_LAST.as_secs())))
    }

    /// The disk says `until`, or could not take it: then the wall clock is followed without, since nothing must stop for it.
    pub fn reserved(&self, until: Option<u64>) {
        self.0.lock().reserved = until;
    }

    /// How far its timestamps are ahead of the wall clock.
    pub fn ahead(&self) -> Duration {
        let state = self.0.lock();
        let wall = Timestamp::of((state.wall)()).unix_seconds();
        Duration::from_secs(state.last.unix_seconds().saturating_sub(wall))
    }

    /// Greater than every one before.
    pub(super) fn next(&self) -> Timestamp {
        let mut state = self.0.lock();
        let by_clock = Timestamp::of((state.wall)());
        let is_reserved = |until| by_clock < Timestamp::at(until);
        let successor = state.last.successor();
        state.last = match state.reserved.is_none_or(is_reserved) {
            true => by_clock.max(successor),
            false => successor,
        };
        state.last
    }
}

/// A reservation is so far ahead of the wall clock, and is renewed at half: a write of a few bytes in half an hour.
/// More would keep a box out longer that goes back to a program without such a clock.
const AHEAD: Duration = Duration::from_secs(3600);
/// So far ahead of the last timestamp where that is ahead of the wall clock: then they grow by nanoseconds only, and each
/// start of the program moves them so far.
const AHEAD_OF_LAST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::UNIX_EPOCH;

    use super::*;

    const YEAR: u64 = 31_556_952;
    /// The sane time of these tests.
    const NOW: u64 = 1_795_392_000;
    /// The last second that Linux lets a clock be set to, about: 2232.
    const LAST_OF_LINUX: u64 = 8_276_889_600;

    thread_local!(static WALL: Cell<Duration> = const { Cell::new(Duration::ZERO) });

    fn set_wall(seconds: u64) {
        WALL.set(Duration::from_secs(seconds));
    }

    /// A box: its disk, its clock, and a peer that remembers the greatest timestamp.
    struct Boxed {
        disk: Option<u64>,
        takes: bool,
        clock: HandshakeClock,
        writes: u32,
        seen: Timestamp,
    }

    impl Boxed {
        fn boot(wall: u64) -> Self {
            set_wall(wall);
            let mut boxed = Self {
                disk: None,
                takes: true,
                clock: clock(None),
                writes: 0,
                seen: Timestamp::ZERO,
            };
            boxed.keep();
            boxed
        }

        fn reboot(&mut self, wall: u64) {
            set_wall(wall);
            self.clock = clock(self.disk);
            self.keep();
        }

        /// What the owner does once a second.
        fn keep(&mut self) {
            let Some(until) = self.clock.reservation_due() else {
                return;
            };
            if self.takes {
                assert!(Some(until) >= self.disk, "a reservation never goes back");
                self.disk = Some(until);
                self.writes += 1;
            }
            self.clock.reserved(self.takes.then_some(until));
        }

        #[track_caller]
        fn shakes_hands(&mut self) {
            let stamp = self.clock.next();
            assert!(stamp > self.seen && stamp.to_bytes() > self.seen.to_bytes());
            if let Some(disk) = self.disk.filter(|_| self.takes) {
                assert!(stamp < Timestamp::at(disk), "used before it was reserved");
            }
            self.seen = stamp;
        }
    }

    fn clock(reserved: Option<u64>) -> HandshakeClock {
        HandshakeClock::with_wall(reserved, || UNIX_EPOCH + WALL.get())
    }

    #[test]
    fn timestamps_grow_while_the_clock_stands_or_steps_back_and_follow_it_again() {
        let mut boxed = Boxed::boot(NOW);
        for wall in [NOW, NOW, NOW - 3600, 0, NOW + 1] {
            set_wall(wall);
            boxed.keep();
            boxed.shakes_hands();
        }
        assert_eq!(boxed.seen, Timestamp::at(NOW + 1), "the clock caught up");
        assert_eq!(boxed.writes, 1);
    }

    #[test]
    fn no_sequence_of_reboots_and_steps_goes_back_for_a_peer() {
        let years = |years| NOW + years * YEAR;
        for walls in [
            &[0][..],
            &[NOW - 2 * YEAR, NOW],
            &[years(10), NOW, NOW + 60],
            &[NOW - 3],
            &[0, 5, 9, NOW + 100],
            &[LAST_OF_LINUX, NOW, LAST_OF_LINUX, LAST_OF_LINUX, 0],
        ] {
            for step_instead in [false, true] {
                let mut boxed = Boxed::boot(NOW);
                boxed.shakes_hands();
                for wall in walls {
                    match step_instead {
                        true => set_wall(*wall),
                        false => boxed.reboot(*wall),
                    }
                    // Before the owner looks, and after.
                    boxed.shakes_hands();
                    boxed.keep();
                    boxed.shakes_hands();
                }
            }
        }
    }

    #[test]
    fn a_clock_beyond_its_reservation_is_followed_only_once_that_is_on_disk() {
        let mut boxed = Boxed::boot(NOW);
        boxed.shakes_hands();
        set_wall(NOW + 10 * YEAR);
        boxed.shakes_hands();
        assert_eq!(boxed.seen, Timestamp::at(NOW).successor());
        boxed.keep();
        boxed.shakes_hands();
        assert_eq!(boxed.seen, Timestamp::at(NOW + 10 * YEAR));
        // The power goes, and the clock is set right.
        boxed.reboot(NOW);
        boxed.shakes_hands();
    }

    #[test]
    fn a_box_without_a_past_follows_a_clock_that_is_set_after_boot() {
        // An earlier program remembered nothing, but peers remember what it used.
        let mut boxed = Boxed::boot(30);
        boxed.clock.next();
        boxed.seen = Timestamp::at(NOW - 60);
        set_wall(NOW);
        boxed.keep();
        boxed.shakes_hands();
    }

    #[test]
    fn a_disk_that_takes_nothing_stops_nothing() {
        let mut boxed = Boxed::boot(NOW);
        boxed.shakes_hands();
        boxed.takes = false;
        for later in [1800, 3600, 7200, 10 * YEAR] {
            set_wall(NOW + later);
            boxed.keep();
            boxed.shakes_hands();
            assert_eq!(boxed.seen, Timestamp::at(NOW + later));
        }
        // A right clock is above all that was used, so a restart goes on; and the disk is tried again.
        boxed.reboot(NOW + 10 * YEAR + 1);
        boxed.shakes_hands();
        boxed.takes = true;
        boxed.keep();
        boxed.reboot(0);
        boxed.shakes_hands();
    }

    #[test]
    fn the_disk_is_written_every_half_hour_at_most_and_each_start_costs_a_minute() {
        let mut boxed = Boxed::boot(NOW);
        for minute in 0..24 * 60 {
            set_wall(NOW + minute * 60);
            boxed.keep();
            boxed.shakes_hands();
        }
        assert!(boxed.writes <= 48, "{} writes in a day", boxed.writes);
        assert_eq!(boxed.clock.ahead(), Duration::ZERO);
        for _ in 0..1000 {
            boxed.reboot(NOW);
            boxed.shakes_hands();
        }
        let ahead = boxed.clock.ahead();
        let most = Duration::from_secs(25 * 3600 + 1000 * 60);
        assert!(ahead <= most, "{ahead:?}");
    }

    #[test]
    fn at_the_end_of_all_time_nothing_overflows() {
        let mut boxed = Boxed::boot(NOW);
        boxed.disk = Some(u64::MAX - TAI64_ROOM);
        boxed.reboot(LAST_OF_LINUX);
        boxed.shakes_hands();
        boxed.disk = Some(u64::MAX);
        boxed.takes = false;
        boxed.reboot(LAST_OF_LINUX);
        boxed.keep();
        boxed.clock.next();
    }

    /// So that the reservation still has a label.
    const TAI64_ROOM: u64 = (1 << 62) + 1000;
}
