//! `pnsbox_tests::fuzz::documents` under libFuzzer.
#![no_main]

use pnsbox_tests::fuzz::{documents, write_seeds_if_asked};

libfuzzer_sys::fuzz_target!(init: write_seeds_if_asked(documents::seeds), |data: &[u8]| documents::run(data));
