//! `pnsbox_tests::fuzz::controller` under libFuzzer.
#![no_main]

use pnsbox_tests::fuzz::{controller, write_seeds_if_asked};

libfuzzer_sys::fuzz_target!(init: write_seeds_if_asked(controller::seeds), |data: &[u8]| controller::run(data));
