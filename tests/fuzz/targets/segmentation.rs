//! `pnsbox_tests::fuzz::segmentation` under libFuzzer.
#![no_main]

use pnsbox_tests::fuzz::{segmentation, write_seeds_if_asked};

libfuzzer_sys::fuzz_target!(init: write_seeds_if_asked(segmentation::seeds), |data: &[u8]| segmentation::run(data));
