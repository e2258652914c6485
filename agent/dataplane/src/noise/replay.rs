//! Which counters of a session were seen: a ring of bits (RFC 6479). It authenticates nothing, so a counter is marked
//! only after its message was verified.

/// How far behind the greatest counter one is still told from a repeated one: what a gigabit of small packets brings in
/// 5 ms of reordering, and no less than other implementations have.
const WINDOW: u64 = 8192;
const BITS: u64 = u64::BITS as u64;
/// One word more than the window has, since the greatest counter lies anywhere in its own (RFC 6479 section 3.3).
const WORDS: usize = (WINDOW / BITS) as usize + 1;

/// Counters seen by one session; 1 KiB.
#[derive(Debug)]
pub(super) struct Window {
    greatest: u64,
    seen: [u64; WORDS],
}

impl Window {
    pub(super) const fn new() -> Self {
        Self {
            greatest: 0,
            seen: [0; WORDS],
        }
    }

    /// Whether a message with this counter would be new; nothing changes.
    pub(super) fn is_new(&self, counter: u64) -> bool {
        counter > self.greatest
            || (self.greatest - counter <= WINDOW && self.seen[word(counter)] & bit(counter) == 0)
    }

    /// Marks the counter of a verified message; false if it was not new.
    #[must_use]
    pub(super) fn mark(&mut self, counter: u64) -> bool {
        if !self.is_new(counter) {
            return false;
        }
        if counter > self.greatest {
            self.slide(counter);
        }
        self.seen[word(counter)] |= bit(counter);
        true
    }

    /// Clears the words that the ring reuses for counters up to `counter`.
    fn slide(&mut self, counter: u64) {
        let (from, to) = (self.greatest / BITS, counter / BITS);
        let reused = (to - from).min(WORDS as u64);
        for number in 1..=reused {
            self.seen[(from + number) as usize % WORDS] = 0;
        }
        self.greatest = counter;
    }
}

fn word(counter: u64) -> usize {
    (counter / BITS) as usize % WORDS
}

fn bit(counter: u64) -> u64 {
    1 << (counter % BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::testing::Random;
    use std::collections::HashSet;

    /// Everything ever seen, and the rule in one line.
    #[derive(Default)]
    struct Model {
        greatest: u64,
        seen: HashSet<u64>,
    }

    impl Model {
        fn mark(&mut self, counter: u64) -> bool {
            let new = counter.saturating_add(WINDOW) >= self.greatest && self.seen.insert(counter);
            self.greatest = self.greatest.max(counter);
            new
        }
    }

    fn check(seed: u64, mut next: impl FnMut(&mut Random, u64) -> u64) {
        let mut random = Random::new(seed);
        let (mut window, mut model) = (Window::new(), Model::default());
        for step in 0..20_000 {
            let counter = next(&mut random, model.greatest);
            let is_new = window.is_new(counter);
            let marked = window.mark(counter);
            assert_eq!(
                is_new, marked,
                "seed {seed}, step {step}, counter {counter}"
            );
            assert_eq!(
                marked,
                model.mark(counter),
                "seed {seed}, step {step}, counter {counter}"
            );
        }
    }

    #[test]
    fn near_counters_are_told_apart_as_by_a_set() {
        for seed in 0..8 {
            check(seed, |random, greatest| {
                (greatest + 70).saturating_sub(random.below(140))
            });
        }
    }

    #[test]
    fn counters_around_the_windows_end_are_told_apart_as_by_a_set() {
        for seed in 0..8 {
            check(seed, |random, greatest| match random.below(3) {
                0 => greatest + random.below(100),
                _ => greatest.saturating_sub(WINDOW - 100 + random.below(200)),
            });
        }
    }

    #[test]
    fn jumps_of_any_size_are_told_apart_as_by_a_set() {
        for seed in 0..8 {
            check(seed, |random, greatest| {
                let span = 1 << random.below(18);
                match random.below(2) {
                    0 => greatest + random.below(span),
                    _ => greatest.saturating_sub(random.below(span)),
                }
            });
        }
    }

    #[test]
    fn the_largest_counter_is_no_trouble() {
        let mut window = Window::new();
        assert!(window.mark(3));
        assert!(window.mark(u64::MAX));
        assert!(!window.mark(u64::MAX));
        assert!(!window.mark(4));
        assert!(window.mark(u64::MAX - WINDOW));
        assert!(!window.mark(u64::MAX - WINDOW - 1));
    }

    #[test]
    fn all_8192_behind_the_newest_are_taken_once_wherever_the_newest_lies_in_its_word() {
        for newest in 8192..8192 + 2 * BITS {
            let mut window = Window::new();
            assert!(window.mark(newest));
            for behind in (0..=8192).rev() {
                let is_first = behind != 0;
                assert_eq!(window.mark(newest - behind), is_first, "{behind} behind");
            }
            for behind in 0..=8192 {
                assert!(!window.is_new(newest - behind), "{behind} behind");
            }
            let one_more = (newest - 8192).checked_sub(1);
            assert!(one_more.is_none_or(|counter| !window.is_new(counter)));
        }
    }

    #[test]
    fn a_step_that_is_as_wide_as_the_window_forgets_only_what_is_behind_it() {
        for step in [8191, 8192, 8193, 8255, 8256, 8257, 1 << 40] {
            let mut window = Window::new();
            assert!(window.mark(100) && window.mark(100 + step));
            assert!(!window.is_new(100), "seen or too old after {step}");
            assert_eq!(window.is_new(101), step <= 8193, "after {step}");
            assert!(window.is_new(100 + step - 1), "after {step}");
        }
    }
}
