//! Whether one key is used by two boxes: runs of an agent that take turns.
//!
//! A box that restarts comes with a new run, and the run before never comes back. A copy of it takes its place at the
//! controller, is replaced when the first dials again, and so on. So a run that returns is proof of two.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use pnsbox_proto::time::UnixTime;

/// Runs that are remembered: restarts between the turns of two boxes.
const MOST_RUNS: usize = 8;

/// How long after its last turn a copy is told of.
const TOLD_FOR: Duration = Duration::from_secs(600);

/// The runs of one node's agent that came, the latest last.
#[derive(Debug, Clone, Default)]
pub struct Runs {
    seen: VecDeque<Run>,
    cloned: Option<([SocketAddr; 2], UnixTime)>,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    number: u64,
    from: SocketAddr,
}

impl Runs {
    /// A run came from an address; true if it returned after another had taken its place.
    pub fn came(&mut self, number: u64, from: SocketAddr, now: UnixTime) -> bool {
        let before = self.seen.back().copied();
        let place = self.seen.iter().position(|run| run.number == number);
        if let Some(place) = place {
            self.seen.remove(place);
        }
        self.seen.push_back(Run { number, from });
        if self.seen.len() > MOST_RUNS {
            self.seen.pop_front();
        }
        match before.filter(|before| place.is_some() && before.number != number) {
            Some(before) => {
                self.cloned = Some(([from, before.from], now));
                true
            }
            None => false,
        }
    }

    /// Where the two are, if there were two lately.
    pub fn cloned(&self, now: UnixTime) -> Option<[SocketAddr; 2]> {
        let (places, at) = self.cloned?;
        (at.age(now) < TOLD_FOR).then_some(places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_run_that_returns_is_two_boxes() {
        let (one, other) = (
            "192.0.2.1:1".parse().unwrap(),
            "192.0.2.2:2".parse().unwrap(),
        );
        let (mut runs, at) = (Runs::default(), UnixTime(1000));
        // Restarts, reconnects and moves of one box.
        for (number, from) in [(1, one), (1, other), (2, one), (3, one), (3, other)] {
            assert!(!runs.came(number, from, at), "run {number}");
        }
        assert_eq!(runs.cloned(at), None);
        assert!(runs.came(2, one, at));
        assert_eq!(runs.cloned(at), Some([one, other]));
        assert_eq!(runs.cloned(UnixTime(1599)), Some([one, other]));
        assert_eq!(runs.cloned(UnixTime(1600)), None, "it is over");
        // Many restarts between are forgotten, and so is the box of before.
        for number in 10..18 {
            assert!(!runs.came(number, one, at));
        }
        assert!(!runs.came(2, one, at));
    }
}
