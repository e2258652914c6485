//! Fuzz targets: each takes any bytes, drives our code with them, and panics when a promise is broken.
//!
//! `scripts/fuzz.sh` runs them under libFuzzer (`tests/fuzz`), `tests/fuzz_replay` runs the committed corpus in `cargo test`.
//! A target must not panic for any bytes, and must do the same for the same bytes.
//!
//! | target | what the bytes are |
//! |---|---|
//! | [`frames`] | a stream of frames, a probe, a name, a key |
//! | [`documents`] | anchors, envelopes, certificates and views, signed and broken |
//! | [`configuration`] | `agent.toml` with drop-ins, `controller.toml`, `policy.toml` |
//! | [`agent`] | what happens to an agent |
//! | [`controller`] | what agents say to a controller, and what its operator asks |
//! | [`datagrams`] | datagrams and inner packets for a data plane with peers, sessions and a relay |
//! | [`packets`] | the header of an inner packet |
//! | [`segmentation`] | what is read from a TUN: super-packets, packets without checksums, anything |
//! | [`coalescing`] | bursts of packets of some flows, right and broken, and a TUN that refuses some writes |

pub mod agent;
pub mod coalescing;
pub mod configuration;
pub mod controller;
pub mod datagrams;
pub mod documents;
pub mod frames;
mod inner;
pub mod network;
pub mod packets;
pub mod segmentation;

use std::path::Path;

use arbitrary::Unstructured;

/// One target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: of the program in `tests/fuzz`, and of its corpus.
    pub name: &'static str,
    /// Throws bytes at it.
    pub run: fn(&[u8]),
    /// Inputs that reach deep, made by the real code.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const TARGETS: [Target; 9] = [
    Target {
        name: "frames",
        run: frames::run,
        seeds: frames::seeds,
    },
    Target {
        name: "documents",
        run: documents::run,
        seeds: documents::seeds,
    },
    Target {
        name: "configuration",
        run: configuration::run,
        seeds: configuration::seeds,
    },
    Target {
        name: "agent",
        run: agent::run,
        seeds: agent::seeds,
    },
    Target {
        name: "controller",
        run: controller::run,
        seeds: controller::seeds,
    },
    Target {
        name: "datagrams",
        run: datagrams::run,
        seeds: datagrams::seeds,
    },
    Target {
        name: "packets",
        run: packets::run,
        seeds: packets::seeds,
    },
    Target {
        name: "segmentation",
        run: segmentation::run,
        seeds: segmentation::seeds,
    },
    Target {
        name: "coalescing",
        run: coalescing::run,
        seeds: coalescing::seeds,
    },
];

/// Writes the seeds as files into the directory that `PNSBOX_FUZZ_SEEDS` names, if it does, and ends the program.
pub fn write_seeds_if_asked(seeds: fn() -> Vec<Vec<u8>>) {
    let Some(directory) = std::env::var_os("PNSBOX_FUZZ_SEEDS") else {
        return;
    };
    for (number, seed) in seeds().into_iter().enumerate() {
        let path = Path::new(&directory).join(format!("seed-{number:03}"));
        std::fs::write(&path, seed).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    std::process::exit(0);
}

/// A byte; 0 when there are no more.
fn byte(bytes: &mut Unstructured<'_>) -> u8 {
    bytes.arbitrary().unwrap_or(0)
}

/// A number below `end`, from one byte: so that a person can write seeds.
fn below(bytes: &mut Unstructured<'_>, end: usize) -> usize {
    usize::from(byte(bytes)) % end.max(1)
}

/// Two bytes, little endian.
fn short(bytes: &mut Unstructured<'_>) -> u16 {
    u16::from_le_bytes([byte(bytes), byte(bytes)])
}

/// As many bytes as the next two say, or what is left.
fn chunk<'a>(bytes: &mut Unstructured<'a>) -> &'a [u8] {
    let length = usize::from(short(bytes)).min(bytes.len());
    bytes.bytes(length).unwrap_or_default()
}

/// `content` as [`chunk`] reads it.
fn chunked(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(&content[..length.into()]);
    bytes
}
