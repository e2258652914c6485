//! `pnsbox_tests::fuzz::packets` under libFuzzer.
#![no_main]

use pnsbox_tests::fuzz::{packets, write_seeds_if_asked};

libfuzzer_sys::fuzz_target!(init: write_seeds_if_asked(packets::seeds), |data: &[u8]| packets::run(data));
