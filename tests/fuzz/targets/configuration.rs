//! `pnsbox_tests::fuzz::configuration` under libFuzzer.
#![no_main]

use pnsbox_tests::fuzz::{configuration, write_seeds_if_asked};

libfuzzer_sys::fuzz_target!(init: write_seeds_if_asked(configuration::seeds), |data: &[u8]| configuration::run(data));
