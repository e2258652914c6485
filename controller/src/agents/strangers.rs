//! Places for sessions whose key is not known to be a node's, and for handshakes under way.
//!
//! One address may have half as many places as are free (Choudhury and Hahne, "Dynamic queue length thresholds",
//! 1998, with alpha 1/2): alone it gets a third of all, ten that take what they can leave places for the next.
//! A herd of agents behind one NAT fits, and one attacker keeps nobody out but its own neighbours.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// All places: a herd of agents that reconnect passes through them in moments, strangers stay for at most 30 s.
const PLACES: usize = 1024;

/// Who has how many places.
#[derive(Debug, Clone, Default)]
pub(super) struct Strangers(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

/// A place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    from: IpAddr,
    strangers: Strangers,
}

impl Strangers {
    /// A place for a session from `from`, which has proved that it receives what is sent there.
    pub(super) fn place(&self, from: IpAddr) -> Option<Place> {
        let from = crate::http::network(from);
        let mut taken = self.taken();
        let free = PLACES.saturating_sub(taken.values().sum());
        let own = taken.entry(from).or_default();
        let fits = free > 0 && *own < (free / 2).max(1);
        if fits {
            *own += 1;
        } else if *own == 0 {
            taken.remove(&from);
        }
        fits.then(|| Place {
            from,
            strangers: self.clone(),
        })
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        // Nothing can panic while it is held, and a count is good after a panic elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.strangers.taken();
        if let Some(own) = taken.get_mut(&self.from) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(strangers: &Strangers, last: u8) -> Vec<Place> {
        std::iter::from_fn(|| strangers.place([192, 0, 2, last].into())).collect()
    }

    #[test]
    fn one_address_gets_a_third_and_leaves_places_for_others() {
        let strangers = Strangers::default();
        let first = fill(&strangers, 1);
        assert_eq!(first.len(), 341);
        let held: Vec<Vec<Place>> = (2..=10).map(|last| fill(&strangers, last)).collect();
        let alone = strangers.place([192, 0, 2, 200].into());
        assert!(alone.is_some(), "ten greedy addresses leave a place");
        drop((first, held, alone));
        assert!(strangers.taken().is_empty(), "nothing grows");
        assert_eq!(fill(&strangers, 1).len(), 341);
    }
}
