//! The programs are killed at each named step of writing state, and must find old or new state, never a mixture.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

mod controller;
