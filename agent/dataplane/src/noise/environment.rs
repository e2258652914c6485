//! What a tunnel takes from the system besides its arguments: entropy. Tests give their own.

use std::time::Duration;

use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

/// Where entropy comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Environment {
    /// Fills a buffer with random bytes; false if there are none.
    pub(super) fill: fn(&mut [u8]) -> bool,
}

impl Environment {
    pub(super) fn system() -> Self {
        Self {
            fill: |bytes| getrandom::fill(bytes).is_ok(),
        }
    }

    /// Random bytes; `None` if the system has none, and then no secret is made.
    pub(super) fn random<const N: usize>(self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        (self.fill)(&mut bytes).then_some(bytes)
    }

    /// An ephemeral X25519 key.
    pub(super) fn ephemeral(self) -> Option<StaticSecret> {
        let bytes = Zeroizing::new(self.random()?);
        Some(StaticSecret::from(*bytes))
    }

    /// A delay of 0 to 333 ms, so that peers do not begin again in step (whitepaper section 6.1).
    pub(super) fn jitter(self) -> Duration {
        let random = self.random().map_or(0, u16::from_le_bytes);
        Duration::from_millis(u64::from(random) % 334)
    }
}
