//! Power cuts: what real programs write is recorded call by call, and every disk that a cut could leave is tried.
//!
//! A killed program loses nothing that it wrote; a cut loses what was not synced, out of order and in pieces.
//! [`recorder`] runs programs under strace(1), [`calls`] reads what they did to files, [`disk`] knows what of it may
//! be lost, and [`explore`] cuts after each call, lays out what is left and has a judge start the real loader on it.
//! A state directory is watched whole, so a file that a program begins to write tomorrow is judged from then on.
//! See `docs/decisions/0018-power-cuts.md`.

pub mod calls;
pub mod disk;
pub mod explore;
pub mod recorder;
