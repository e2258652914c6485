//! A first bound on handshakes: they cost two X25519 operations before anything is known of the sender.

use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Handshakes per second from everybody: 1,000 cost about a tenth of a core.
const PER_SECOND: u32 = 1_000;
/// Handshakes per second from one address: a NAT of a whole province may stand behind it.
const PER_SECOND_PER_SOURCE: u32 = 50;
/// Addresses counted at a time; a table that grew with strangers would itself be the attack.
const SLOTS: usize = 1024;

/// Counts handshakes in windows of one second.
#[derive(Debug)]
pub(crate) struct Limiter {
    window: Instant,
    total: u32,
    sources: Vec<u32>,
}

impl Limiter {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            window: now,
            total: 0,
            sources: vec![0; SLOTS],
        }
    }

    /// Whether another handshake from `source` may cost something now; `None` for one through a relay,
    /// which forwards only what its own members send.
    pub(crate) fn allows(&mut self, source: Option<IpAddr>, now: Instant) -> bool {
        if now.duration_since(self.window) >= Duration::from_secs(1) {
            self.window = now;
            self.total = 0;
            self.sources.fill(0);
        }
        if self.total >= PER_SECOND {
            return false;
        }
        if let Some(source) = source {
            let counted = &mut self.sources[slot(source)];
            if *counted >= PER_SECOND_PER_SOURCE {
                return false;
            }
            *counted += 1;
        }
        self.total += 1;
        true
    }
}

/// Addresses share slots; strangers can crowd out one slot, never all.
fn slot(source: IpAddr) -> usize {
    let bits = match source {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        // One subscriber has a /64 (RFC 6177), so the rest does not tell sources apart.
        IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
    };
    // Fibonacci hashing (Knuth, TAOCP vol. 3, section 6.4).
    (bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_and_all_together_are_bounded_and_a_second_later_free_again() {
        let begun = Instant::now();
        let mut limiter = Limiter::new(begun);
        let source: IpAddr = "192.0.2.1".parse().unwrap();
        let allowed = (0..1000)
            .filter(|_| limiter.allows(Some(source), begun))
            .count();
        assert_eq!(allowed, PER_SECOND_PER_SOURCE as usize);
        assert!(
            limiter.allows("198.51.100.7".parse().ok(), begun),
            "another source is free"
        );
        let all = (0..100_000u32)
            .filter(|i| limiter.allows(Some(std::net::Ipv4Addr::from_bits(*i).into()), begun))
            .count();
        assert!(all < PER_SECOND as usize);
        assert!(limiter.allows(Some(source), begun + Duration::from_secs(1)));
    }
}
