//! Runs every fuzz target over its committed corpus, its seeds, and seeded mutations of both: quick, and without a fuzzer.
//!
//! `PNSBOX_FUZZ_SEED` repeats a run with the seed that it printed, `PNSBOX_FUZZ_MUTATIONS` sets how many are tried.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use pnsbox_proto::key::Digest;
use pnsbox_tests::fuzz::{TARGETS, Target};

/// Three tests for each target, so that one that fails does not hide the others.
macro_rules! replay {
    ($($target:ident)*) => {
        $(mod $target {
            #[test]
            fn every_input_of_the_corpus_passes() {
                super::replay_corpus(super::target(stringify!($target)));
            }

            #[test]
            fn every_seed_passes() {
                super::replay_seeds(super::target(stringify!($target)));
            }

            #[test]
            fn mutations_of_the_corpus_pass() {
                super::replay_mutations(super::target(stringify!($target)));
            }
        })*

        const REPLAYED: &[&str] = &[$(stringify!($target)),*];
    };
}

replay!(
    frames documents configuration agent controller datagrams packets segmentation coalescing
);

fn target(name: &str) -> Target {
    TARGETS
        .into_iter()
        .find(|target| target.name == name)
        .unwrap()
}

fn replay_corpus(target: Target) {
    let inputs = corpus(target);
    assert!(inputs.len() > 10, "{} has a corpus", target.name);
    for (name, input) in inputs {
        run(target, &name, &input);
    }
}

fn replay_seeds(target: Target) {
    for (number, seed) in (target.seeds)().into_iter().enumerate() {
        run(target, &format!("seed {number}"), &seed);
    }
}

#[expect(clippy::print_stdout, reason = "a test says its seed")]
fn replay_mutations(target: Target) {
    let seed = number("PNSBOX_FUZZ_SEED").unwrap_or(SEED);
    let count = number("PNSBOX_FUZZ_MUTATIONS").unwrap_or(MUTATIONS);
    println!("PNSBOX_FUZZ_SEED={seed}, {count} mutations");
    let mut random = Random(seed);
    let mut inputs: Vec<Vec<u8>> = corpus(target).into_iter().map(|(_, input)| input).collect();
    inputs.extend((target.seeds)());
    for round in 0..count {
        let input = mutated(&inputs, &mut random);
        run(
            target,
            &format!("PNSBOX_FUZZ_SEED={seed}, mutation {round}"),
            &input,
        );
    }
}

#[test]
fn every_target_has_its_program_and_no_program_is_without_a_target() {
    let manifest: toml::Table = std::fs::read_to_string(fuzz_dir().join("Cargo.toml"))
        .unwrap()
        .parse()
        .unwrap();
    let programs = manifest["bin"].as_array().unwrap().iter();
    let programs: BTreeSet<&str> = programs.map(|bin| bin["name"].as_str().unwrap()).collect();
    let targets: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(programs, targets);
    assert_eq!(REPLAYED.iter().copied().collect::<BTreeSet<_>>(), targets);
}

#[test]
fn the_corpus_stays_small() {
    let mut total = 0;
    for target in TARGETS {
        let inputs = corpus(target);
        assert!(
            inputs.len() <= MAX_INPUTS,
            "{}: {} inputs, at most {MAX_INPUTS}",
            target.name,
            inputs.len()
        );
        total += inputs.iter().map(|(_, input)| input.len()).sum::<usize>();
    }
    assert!(
        total <= MAX_CORPUS_BYTES,
        "{total} bytes, at most {MAX_CORPUS_BYTES}"
    );
}

/// Runs one input; if it fails, says which, and keeps it where `scripts/fuzz.sh` can be pointed at it.
fn run(target: Target, name: &str, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err() {
        let name_of_file = format!("pnsbox-fuzz-{}-{}", target.name, Digest::of(input));
        let path = std::env::temp_dir().join(name_of_file);
        std::fs::write(&path, input).unwrap();
        panic!(
            "{} fails on {name}, kept as {}",
            target.name,
            path.display()
        );
    }
}

fn corpus(target: Target) -> Vec<(String, Vec<u8>)> {
    let directory = fuzz_dir().join("corpus").join(target.name);
    let mut inputs: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    inputs.sort();
    inputs
}

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap())
}

/// One of `inputs`, changed in up to four places as libFuzzer would: bits, bytes, cuts, repeats, pieces of another.
fn mutated(inputs: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = inputs[random.below(inputs.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() + 1);
        match (random.below(6), input.get_mut(at)) {
            (0, Some(byte)) => *byte ^= 1 << random.below(8),
            (1, Some(byte)) => *byte = random.below(256) as u8,
            (2, _) => input.truncate(at),
            (3, _) => input.insert(at, random.below(256) as u8),
            (4, Some(_)) => {
                let end = (at + 1 + random.below(16)).min(input.len());
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            _ => {
                let other = &inputs[random.below(inputs.len())];
                let from = random.below(other.len() + 1);
                let to = (from + random.below(64)).min(other.len());
                input.splice(at..at, other[from..to].iter().copied());
            }
        }
    }
    input
}

/// SplitMix64 (Steele et al., 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

const SEED: u64 = 20_261_123;
/// For each target; all of them take some seconds in a debug build.
const MUTATIONS: u64 = 200;
const MAX_INPUTS: usize = 200;
const MAX_CORPUS_BYTES: usize = 1 << 20;
