#!/usr/bin/env bash
# Stands before rustc (RUSTC_WRAPPER of scripts/fuzz.sh): compiles for libFuzzer what reads bytes of others,
# and leaves the rest alone. Ciphers under instrumentation are ten times slower, and their branches say nothing.
set -euo pipefail

# LLVM's SanitizerCoverage: each edge is counted in eight bits, and comparisons are told to the fuzzer.
# cargo-fuzz passes the same; any stable compiler takes them.
SANCOV=(
    -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares
)

crate=
for argument in "$@"; do
    if [[ ${previous:-} == --crate-name ]]; then crate=$argument; fi
    previous=$argument
done

case $crate in
    pnsbox_* | frames | documents | configuration | agent | controller | datagrams | packets | segmentation | coalescing | \
        boringtun | serde_json | toml | toml_parser | toml_writer | winnow | ipnet | base64)
        exec "$@" "${SANCOV[@]}"
        ;;
    *) exec "$@" ;;
esac
