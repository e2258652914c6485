//! The agent as a whole, in virtual time, against a network in miniature.
#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

mod again;
mod believing;
mod clocks;
mod external;
mod joining;
mod links;
mod pair;
mod said;
mod saving;
mod support;
mod trial;
mod trust;
mod versions;
mod views;
