//! How large a packet reaches a peer without being fragmented: the search for it, in the spirit of RFC 8899.
//!
//! It decides when probes of which sizes are due, and what their answers mean. It knows no packet ([`crate::probe`] does),
//! no socket and no route. All sizes are those of inner packets, in bytes.
//!
//! Sizes are asked for all at once: the largest that is answered is found in one round trip, and costs ten datagrams.

use std::time::{Duration, Instant};

use crate::relay;

/// What the tunnel carries at least, whole or in fragments: the smallest MTU of IPv6 (RFC 8200 section 5).
pub(crate) const SMALLEST_MTU: u16 = 1280;
/// A probe that passes everywhere: its answer tells that the peer answers at all.
pub(crate) const SMALL: u16 = 128;
/// Sizes between the smallest and the largest MTU are multiples of this, so that padding changes none of them.
const STEP: u16 = 16;
/// Sizes that are asked for at once, the small one apart.
const MOST_SIZES: u16 = 8;
/// How long an answer is waited for; a satellite takes 600 ms.
const ROUND: Duration = Duration::from_secs(1);
/// Rounds of a search: a probe that is lost by chance is sent again.
const ROUNDS: u8 = 3;
/// A path may become wider (RFC 8899 section 5.2, PMTU_RAISE_TIMER).
const AGAIN: Duration = Duration::from_secs(600);
/// Confirmations that may miss their answers before the path counts as narrower.
const MISSES: u8 = 2;

/// What is known of the path to one peer.
#[derive(Debug)]
pub(crate) struct PathMtu {
    largest: u16,
    /// The result of the last search, if the peer answered it.
    known: Option<u16>,
    /// The largest size that was answered, and is not doubted since.
    whole: Option<u16>,
    state: State,
    /// Of the next probe.
    number: u32,
    /// Answers to older probes tell of a path that is gone.
    oldest: u32,
}

#[derive(Debug)]
enum State {
    /// As soon as there is a session.
    Wanted,
    Searching {
        round: u8,
        since: Instant,
        best: Option<u16>,
    },
    /// Nothing to be asked before.
    Rests {
        until: Instant,
        /// Of the last confirmation that was asked for.
        confirmed: Instant,
        missing: u8,
    },
}

/// Probes that are due: their number, and which sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) number: u32,
    sizes: Sizes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sizes {
    /// Everything above this.
    Above {
        least: u16,
        largest: u16,
    },
    Only(u16),
}

impl Due {
    /// Each size, the largest last: so a smaller one is not lost behind it in a short queue.
    pub(crate) fn sizes(self) -> impl Iterator<Item = u16> {
        let (least, largest) = match self.sizes {
            Sizes::Above { least, largest } => (least, largest),
            Sizes::Only(size) => (size - 1, size),
        };
        ladder(largest).filter(move |size| *size > least && *size <= largest)
    }
}

/// The MTU for a path whose largest answered probe is this.
fn found(best: Option<u16>) -> Option<u16> {
    best.map(|best| best.max(SMALLEST_MTU))
}

/// The MTU for packets to a peer behind a relay, if the way to the relay has `mtu`. What the relay's way to the peer cannot
/// carry is fragmented there.
pub(crate) fn relayed(mtu: u16) -> Option<u16> {
    let inner = usize::from(mtu).checked_sub(relay::HEADER_BYTES)?;
    let inner = u16::try_from(inner).ok()? / STEP * STEP;
    Some(inner.max(SMALLEST_MTU))
}

/// All sizes that are asked for: the small one, and from the smallest MTU to the largest.
fn ladder(largest: u16) -> impl Iterator<Item = u16> {
    let span = largest.saturating_sub(SMALLEST_MTU);
    let step = span
        .div_ceil(MOST_SIZES - 1)
        .next_multiple_of(STEP)
        .max(STEP);
    std::iter::once(SMALL)
        .chain((SMALLEST_MTU..largest).step_by(step.into()))
        .chain(std::iter::once(largest))
}

impl PathMtu {
    /// Nothing is known; `largest` is the MTU of the interface.
    pub(crate) fn new(largest: u16) -> Self {
        Self {
            largest,
            known: None,
            whole: None,
            state: State::Wanted,
            number: 0,
            oldest: 0,
        }
    }

    /// The MTU for packets to the peer, as far as it is known; what is too large is fragmented.
    pub(crate) fn mtu(&self) -> Option<u16> {
        self.known
    }

    /// The largest packet that is known to pass whole; `None` if none is.
    #[cfg(test)]
    fn whole(&self) -> Option<u16> {
        self.whole
    }

    /// The path is another.
    pub(crate) fn moved(&mut self) {
        *self = Self {
            number: self.number,
            oldest: self.number,
            ..Self::new(self.largest)
        };
    }

    /// What to ask for now. There must be a session. `is_used`: packets went out lately;
    /// `is_trusted`: large ones among them, which nobody on the path would fragment.
    pub(crate) fn due(&mut self, now: Instant, is_used: bool, is_trusted: bool) -> Option<Due> {
        match &mut self.state {
            State::Wanted if self.largest <= SMALLEST_MTU => None,
            State::Wanted => Some(self.search(now, 1, None)),
            State::Searching { round, since, best } => {
                if now.duration_since(*since) < ROUND {
                    return None;
                }
                let (round, best) = (*round, *best);
                self.known = found(best);
                if round < ROUNDS {
                    return Some(self.search(now, round + 1, best));
                }
                self.settle(now, best);
                None
            }
            State::Rests {
                until,
                confirmed,
                missing,
            } => {
                if now >= *until && is_used {
                    return Some(self.search(now, 1, None));
                }
                let size = self.whole?;
                if now.duration_since(*confirmed) < ROUND || !(is_trusted || *missing > 0) {
                    return None;
                }
                if *missing == MISSES {
                    self.moved();
                    return Some(self.search(now, 1, None));
                }
                *missing += 1;
                *confirmed = now;
                self.number = self.number.wrapping_add(1);
                Some(Due {
                    number: self.number,
                    sizes: Sizes::Only(size),
                })
            }
        }
    }

    /// An answer to the probe with this number and size came.
    pub(crate) fn answered(&mut self, number: u32, size: u16, now: Instant) {
        let since = number.wrapping_sub(self.oldest);
        let is_ours = (1..=self.number.wrapping_sub(self.oldest)).contains(&since);
        if !is_ours || !ladder(self.largest).any(|asked| asked == size) {
            return;
        }
        if size >= SMALLEST_MTU {
            self.whole = self.whole.max(Some(size));
        }
        match &mut self.state {
            State::Searching { best, .. } => {
                *best = (*best).max(Some(size));
                if size == self.largest {
                    self.settle(now, Some(size));
                }
            }
            State::Rests { missing, .. } if self.whole == Some(size) => *missing = 0,
            State::Rests { .. } | State::Wanted => {}
        }
    }

    fn search(&mut self, now: Instant, round: u8, best: Option<u16>) -> Due {
        if round == 1 {
            self.oldest = self.number;
        }
        self.number = self.number.wrapping_add(1);
        self.state = State::Searching {
            round,
            since: now,
            best,
        };
        Due {
            number: self.number,
            sizes: Sizes::Above {
                least: best.unwrap_or(0),
                largest: self.largest,
            },
        }
    }

    fn settle(&mut self, now: Instant, best: Option<u16>) {
        self.known = found(best);
        self.whole = best.filter(|best| *best >= SMALLEST_MTU);
        self.state = State::Rests {
            until: now + AGAIN,
            confirmed: now,
            missing: 0,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path with its peer, and probes that are still to be answered.
    struct World {
        search: PathMtu,
        now: Instant,
        /// The largest packet that passes; `None` if the peer answers nothing.
        passes: Option<u16>,
        asked: Vec<(u32, u16)>,
    }

    impl World {
        fn new(largest: u16, passes: Option<u16>) -> Self {
            Self {
                search: PathMtu::new(largest),
                now: Instant::now(),
                passes,
                asked: Vec::new(),
            }
        }

        /// Lets time pass in ticks of 200 ms; sizes that were asked for. Answers take 100 ms.
        fn run(&mut self, time: Duration, is_trusted: bool) -> Vec<u16> {
            let end = self.now + time;
            let mut sizes = Vec::new();
            while self.now < end {
                if let Some(due) = self.search.due(self.now, true, is_trusted) {
                    sizes.extend(due.sizes());
                    self.asked = due.sizes().map(|size| (due.number, size)).collect();
                }
                self.now += Duration::from_millis(100);
                for (number, size) in std::mem::take(&mut self.asked) {
                    if self.passes.is_some_and(|passes| size <= passes) {
                        self.search.answered(number, size, self.now);
                    }
                }
                self.now += Duration::from_millis(100);
            }
            sizes
        }

        fn found(&self) -> (Option<u16>, Option<u16>) {
            (self.search.mtu(), self.search.whole())
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_largest_size_that_passes_is_found() {
        for (passes, expected) in [
            (1500, (1380, Some(1380))),
            (1380, (1380, Some(1380))),
            (1379, (1376, Some(1376))),
            (1340, (1328, Some(1328))),
            (1280, (1280, Some(1280))),
            (1279, (1280, None)),
            (940, (1280, None)),
        ] {
            let mut world = World::new(1380, Some(passes));
            world.run(4 * SECOND, false);
            assert_eq!(world.found(), (Some(expected.0), expected.1), "{passes}");
            assert_eq!(world.run(60 * SECOND, false), [], "{passes}");
        }
    }

    #[test]
    fn where_nothing_can_be_found_nothing_is_asked() {
        let mut world = World::new(1280, Some(1500));
        assert_eq!(world.run(1000 * SECOND, true), []);
        assert_eq!(world.found(), (None, None));
    }

    #[test]
    fn an_open_path_is_known_after_one_round_trip() {
        let mut world = World::new(1380, Some(1380));
        let asked = world.run(Duration::from_millis(200), false);
        assert_eq!(asked, [128, 1280, 1296, 1312, 1328, 1344, 1360, 1376, 1380]);
        assert_eq!(world.found(), (Some(1380), Some(1380)));
    }

    #[test]
    fn any_mtu_of_an_interface_is_asked_for_and_few_others() {
        for largest in 1280..=1500 {
            let sizes: Vec<u16> = ladder(largest).collect();
            assert!(sizes.len() <= 10 && sizes.is_sorted(), "{sizes:?}");
            assert_eq!((sizes[0], sizes.last()), (SMALL, Some(&largest)));
            let between = &sizes[1..sizes.len() - 1];
            assert!(between.iter().all(|size| size % STEP == 0), "{sizes:?}");
        }
    }

    #[test]
    fn a_peer_that_does_not_answer_is_asked_three_times_and_again_after_ten_minutes() {
        let mut world = World::new(1380, None);
        assert_eq!(world.run(60 * SECOND, false).len(), 27);
        assert_eq!(world.found(), (None, None));
        world.passes = Some(1500);
        assert_eq!(world.run(500 * SECOND, false), []);
        world.run(60 * SECOND, false);
        assert_eq!(world.found(), (Some(1380), Some(1380)));
    }

    #[test]
    fn a_lost_answer_is_asked_for_again_and_no_smaller_size() {
        let mut world = World::new(1380, Some(1344));
        world.run(Duration::from_millis(200), false);
        assert_eq!(world.search.whole(), Some(1344));
        world.passes = Some(1380);
        assert_eq!(world.run(SECOND, false), [1360, 1376, 1380]);
        assert_eq!(world.found(), (Some(1380), Some(1380)));
    }

    #[test]
    fn a_trusted_path_that_became_narrower_is_noticed_within_five_seconds() {
        let mut world = World::new(1380, Some(1380));
        world.run(SECOND, true);
        assert_eq!(world.run(10 * SECOND, true), [1380; 10]);
        world.passes = Some(1200);
        world.run(3 * SECOND, true);
        assert_eq!(world.search.whole(), None);
        world.run(3 * SECOND, true);
        assert_eq!(world.found(), (Some(1280), None));
    }

    #[test]
    fn one_confirmation_may_be_lost() {
        let mut world = World::new(1380, Some(1380));
        world.run(2 * SECOND, true);
        world.passes = None;
        world.run(SECOND, true);
        world.passes = Some(1380);
        world.run(10 * SECOND, true);
        assert_eq!(world.found(), (Some(1380), Some(1380)));
    }

    #[test]
    fn answers_of_another_path_or_to_nothing_mean_nothing() {
        let mut world = World::new(1380, None);
        world.run(Duration::from_millis(200), false);
        let old = world.search.number;
        world.search.moved();
        world.search.answered(old, 1380, world.now);
        world.run(Duration::from_millis(200), false);
        for (number, size) in [
            (old, 1380),
            (old + 2, 1380),
            (old + 1, 1379),
            (old + 1, 1500),
        ] {
            world.search.answered(number, size, world.now);
        }
        assert_eq!(world.found(), (None, None));
        world.search.answered(old + 1, 1380, world.now);
        assert_eq!(world.found(), (Some(1380), Some(1380)));
        world.search.moved();
        assert_eq!(world.found(), (None, None));
    }

    #[test]
    fn a_wider_path_is_found_when_ten_minutes_have_passed_and_it_is_used() {
        let mut world = World::new(1380, Some(1300));
        world.run(4 * SECOND, false);
        assert_eq!(world.search.mtu(), Some(1296));
        world.passes = Some(1500);
        world.now += AGAIN;
        assert_eq!(world.search.due(world.now, false, false), None);
        world.run(SECOND, false);
        assert_eq!(world.found(), (Some(1380), Some(1380)));
    }

    #[test]
    fn a_relayed_packet_leaves_room_for_the_frame() {
        assert_eq!(relayed(1380), Some(1360));
        assert_eq!(relayed(1288), Some(1280));
        assert_eq!(relayed(1280), Some(1280));
    }
}
