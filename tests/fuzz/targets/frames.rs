//! `pnsbox_tests::fuzz::frames` under libFuzzer.
#![no_main]

use pnsbox_tests::fuzz::{frames, write_seeds_if_asked};

libfuzzer_sys::fuzz_target!(init: write_seeds_if_asked(frames::seeds), |data: &[u8]| frames::run(data));
