//! `pnsbox_tests::fuzz::agent` under libFuzzer.
#![no_main]

use pnsbox_tests::fuzz::{agent, write_seeds_if_asked};

libfuzzer_sys::fuzz_target!(init: write_seeds_if_asked(agent::seeds), |data: &[u8]| agent::run(data));
