//! `pnsbox_tests::fuzz::datagrams` under libFuzzer.
#![no_main]

use pnsbox_tests::fuzz::{datagrams, write_seeds_if_asked};

libfuzzer_sys::fuzz_target!(init: write_seeds_if_asked(datagrams::seeds), |data: &[u8]| datagrams::run(data));
