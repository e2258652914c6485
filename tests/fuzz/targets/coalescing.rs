//! `pnsbox_tests::fuzz::coalescing` under libFuzzer.
#![no_main]

use pnsbox_tests::fuzz::{coalescing, write_seeds_if_asked};

libfuzzer_sys::fuzz_target!(init: write_seeds_if_asked(coalescing::seeds), |data: &[u8]| coalescing::run(data));
