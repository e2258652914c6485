//! What a controller that serves does, over loopback and with a real store; most of it with bad input.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

mod audit;
mod commands;
mod datagrams;
mod disk;
mod external;
mod frames;
mod pages;
mod program;
mod random;
mod restarts;
mod rollout;
mod secrets;
mod sessions;
mod signing;
mod strangers;
mod support;
mod versions;
