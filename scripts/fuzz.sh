#!/usr/bin/env bash
# Runs the fuzz targets under libFuzzer, and keeps what reaches new code in tests/fuzz/corpus.
#
# It needs neither nightly nor cargo-fuzz: lib/fuzz_rustc.sh passes what cargo-fuzz would, and stable takes it.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/lib/messages.sh
source "$here/lib/messages.sh"
# shellcheck source=scripts/lib/checks.sh
source "$here/lib/checks.sh"
# shellcheck source=scripts/lib/install.sh
source "$here/lib/install.sh"
# shellcheck source=scripts/lib/toolchain.sh
source "$here/lib/toolchain.sh"

# One exec takes milliseconds at most; what takes this long hangs.
TIMEOUT_S=10
RSS_LIMIT_MIB=2048
# The frame of a view is the longest input that is worth its time.
MAX_INPUT_BYTES=4096
# As tests/fuzz_replay allows.
MAX_INPUTS=200
FUZZ_DIR=$PROJECT_DIR/tests/fuzz
USAGE="usage: scripts/fuzz.sh [TARGET] [--seconds N] [--no-merge]
       scripts/fuzz.sh TARGET --input FILE

Fuzzes TARGET, or each target in turn, for N seconds (60), then adds to tests/fuzz/corpus/TARGET what reached new code.
--no-merge leaves the corpus alone. --input runs one file, for example an input that crashed, once."

target=
input=
seconds=60
merge=1

main() {
    while (($# > 0)); do
        case $1 in
            --seconds | --input)
                (($# > 1)) || usage_error "$1 needs a value; $USAGE"
                if [[ $1 == --seconds ]]; then seconds=$2; else input=$2; fi
                shift
                ;;
            --no-merge) merge=0 ;;
            -h | --help) say "$USAGE" && exit 0 ;;
            -*) usage_error "unknown argument '$1'; $USAGE" ;;
            *)
                [[ -z $target ]] || usage_error "more than one target; $USAGE"
                target=$1
                ;;
        esac
        shift
    done
    [[ $seconds =~ ^[1-9][0-9]*$ ]] || usage_error "--seconds '$seconds': must be a number of seconds, at least 1"
    [[ -z $target || -f $FUZZ_DIR/targets/$target.rs ]] || usage_error "there is no target '$target'; there are: $(targets)"
    [[ -z $input || (-n $target && -f $input) ]] || usage_error "--input '$input': must be a file, for a TARGET"
    need_cargo
    have c++ || install_packages g++:c++
    build
    if [[ -n $input ]]; then
        program "$target" -timeout="$TIMEOUT_S" "$input"
        return
    fi
    local name failed=0
    for name in ${target:-$(targets)}; do
        fuzz "$name" || failed=1
    done
    return "$failed"
}

targets() { (cd -- "$FUZZ_DIR/targets" && printf '%s\n' *.rs | sed 's/\.rs$//' | tr '\n' ' '); }

build() {
    build_dir=$(target_dir)/fuzz
    say "building the targets in $build_dir"
    (cd -- "$FUZZ_DIR" && CARGO_TARGET_DIR=$build_dir RUSTC_WRAPPER=$here/lib/fuzz_rustc.sh \
        "$CARGO" build --quiet --release --locked)
}

program() { "$build_dir/release/$1" "${@:2}"; }

# fuzz TARGET: seeds and corpus in, new inputs into a directory beside the build, then the corpus anew.
fuzz() {
    local name=$1 corpus=$FUZZ_DIR/corpus/$1 work=$build_dir/work/$1 result=0
    local log=$work/log
    rm -rf -- "$work"
    mkdir -p -- "$work/new" "$work/seeds" "$work/crashes" "$corpus"
    PNSBOX_FUZZ_SEEDS=$work/seeds program "$name" >"$work/seeds.log" 2>&1 || die "$name: the seeds cannot be made: see $work/seeds.log"
    local dictionary=()
    if [[ -f $FUZZ_DIR/$name.dict ]]; then dictionary=("-dict=$FUZZ_DIR/$name.dict"); fi
    say "== $name for $seconds s; log: $log"
    program "$name" -max_total_time="$seconds" -timeout="$TIMEOUT_S" -rss_limit_mb="$RSS_LIMIT_MIB" \
        -max_len="$MAX_INPUT_BYTES" -print_final_stats=1 -artifact_prefix="$work/crashes/" \
        ${dictionary[@]+"${dictionary[@]}"} "$work/new" "$corpus" "$work/seeds" >"$log" 2>&1 || result=$?
    if ((result != 0)); then
        crashed "$name" "$work" "$log"
        return 1
    fi
    if ((merge)); then merge_corpus "$name" "$corpus" "$work"; fi
    summary "$name" "$corpus" "$log"
}

crashed() {
    local name=$1 work=$2 log=$3 crash
    show_tail "$log" 25
    crash=$(find "$work/crashes" -type f | head -n 1)
    say "$name failed. The input: ${crash:-none was kept}"
    say "Run it again:  scripts/fuzz.sh $name --input $crash"
    say "Then: fix the code with a test beside it, and copy the input to $FUZZ_DIR/corpus/$name/"
}

# merge_corpus: adds what reaches a new edge. How often an edge is taken does not count, or every input would be new.
# Where that would be more than the replay has time for, the fewest that reach most take the corpus's place.
merge_corpus() {
    local name=$1 corpus=$2 work=$3
    merge_into "$corpus" -merge=1 "$work/new" "$work/seeds"
    if (($(find "$corpus" -type f | wc -l) <= MAX_INPUTS)); then return; fi
    merge_into "$work/fewest" -set_cover_merge=1 "$corpus"
    # They are written in the order of what they add.
    find "$work/fewest" -type f -printf '%T@ %p\n' | sort -n | tail -n "+$((MAX_INPUTS + 1))" | cut -d ' ' -f 2- | xargs -r rm --
    rm -rf -- "$corpus"
    cp -r -- "$work/fewest" "$corpus"
}

# merge_into DIRECTORY HOW FROM...
merge_into() {
    mkdir -p -- "$1"
    program "$name" "$2" -use_counters=0 -max_len="$MAX_INPUT_BYTES" -timeout="$TIMEOUT_S" "$1" "${@:3}" \
        >"$work/merge.log" 2>&1 && return
    show_tail "$work/merge.log"
    die "$name: the corpus could not be merged"
}

summary() {
    local name=$1 corpus=$2 log=$3 covered runs rate
    covered=$(grep -oE 'cov: [0-9]+ ft: [0-9]+' "$log" | tail -n 1)
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
    printf '%-14s runs %s  per second %s  %s  corpus %s  crashes 0\n' \
        "$name" "$runs" "$rate" "$covered" "$(find "$corpus" -type f | wc -l)"
}

main "$@"
