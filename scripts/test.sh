#!/usr/bin/env bash
# Runs every test that CI runs, after installing what is missing.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/lib/messages.sh
source "$here/lib/messages.sh"
# shellcheck source=scripts/lib/checks.sh
source "$here/lib/checks.sh"
# shellcheck source=scripts/lib/install.sh
source "$here/lib/install.sh"
# shellcheck source=scripts/lib/packages.sh
source "$here/lib/packages.sh"
# shellcheck source=scripts/lib/toolchain.sh
source "$here/lib/toolchain.sh"

# Lint and format findings are those of this compiler; another one may see others, which are reported only.
JUDGING_RUSTC=1.95.0
DISK_MIB=8000
STAGES=()
FAILED=0
STRICT=0
LONG=0
INTEROP=0

main() {
    case ${1:-} in
        --long) LONG=1 && export PNSBOX_LONG=1 ;;
        --interop) INTEROP=1 ;;
        '') ;;
        -h | --help)
            say "usage: scripts/test.sh [--long | --interop]"
            say "  --long     waits as long as the real world would, and boots a machine (10 minutes more)"
            say "  --interop  only sets ours against the WireGuard of Debian's kernel, in a machine of its own (7 minutes)"
            exit 0
            ;;
        *) usage_error "unknown argument '$1'; usage: scripts/test.sh [--long | --interop]" ;;
    esac
    cd -- "$PROJECT_DIR"
    if ((INTEROP)); then
        stage interop scripts/interop.sh
        summary
        return
    fi
    check_machine
    install_packages "${LAB_PACKAGES[@]}" "${TEST_PACKAGES[@]}" "${BENCH_PACKAGES[@]}"
    need_cargo
    need_lints
    if [[ $(rustc --version | awk '{ print $2 }') == "$JUDGING_RUSTC" ]]; then STRICT=1; fi
    say "$(rustc --version): lint and format findings $(if ((STRICT)); then printf 'fail'; else printf 'are only reported'; fi)"

    stage scripts check_scripts
    stage bench python3 -B -m unittest discover -q -s scripts/bench
    lint_stage format cargo fmt --check
    lint_stage clippy cargo clippy --workspace --all-targets --locked -- -D warnings
    if have cargo-deny; then stage deny cargo deny check bans licenses sources; else skip deny "cargo-deny is not installed"; fi
    # The lab's tests run the programs, which 'cargo test' alone need not build.
    stage build cargo build --workspace --locked
    stage test cargo test --workspace --locked --no-fail-fast
    if ((LONG)); then stage booted scripts/booted.sh --bin "$(target_dir)/debug"; fi
    lint_stage documentation env RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --locked --no-deps
    summary
}

check_machine() {
    require_root
    require_net_admin
    require_tun
    mkdir -p -- "$(target_dir)"
    require_disk "$(target_dir)" "$DISK_MIB"
}

# need_lints: Debian's cargo comes without them; rustup's has them beside it.
need_lints() {
    if [[ $CARGO == /usr/bin/cargo ]]; then
        install_packages rust-web-clippy:cargo-clippy rustfmt-web:cargo-fmt
    fi
}

check_scripts() {
    local scripts
    mapfile -t scripts < <(find scripts .ci -type f \( -name '*.sh' -o -path '.ci/run' \) | sort)
    local script
    for script in "${scripts[@]}"; do bash -n "$script" || return 1; done
    if have shellcheck; then shellcheck -x "${scripts[@]}" || return 1; else say "shellcheck is not installed; only syntax was checked"; fi
}

# stage NAME COMMAND...: a failure fails the run, which goes on to see the rest.
stage() {
    if timed "$@"; then return 0; fi
    FAILED=1
}

# lint_stage NAME COMMAND...: a failure counts only under the compiler that judges.
lint_stage() {
    if timed "$@"; then return 0; fi
    if ((STRICT)); then
        FAILED=1
    else
        STAGES[-1]=${STAGES[-1]/failed/reported}
    fi
}

skip() {
    say "== $1: skipped, $2"
    STAGES+=("$1"$'\t'"skipped: $2"$'\t-')
}

# timed NAME COMMAND...: run it, and note how it went.
timed() {
    local name=$1 started result=passed
    shift
    say ""
    say "== $name: $*"
    started=$(now_ms)
    "$@" || result=failed
    STAGES+=("$name"$'\t'"$result"$'\t'"$(seconds_since "$started")")
    [[ $result == passed ]]
}

summary() {
    local row name result seconds
    printf '\n%-14s %-10s %8s\n' stage result seconds
    for row in "${STAGES[@]}"; do
        IFS=$'\t' read -r name result seconds <<<"$row"
        printf '%-14s %-10s %8s\n' "$name" "$result" "$seconds"
    done
    if ((FAILED)); then
        printf '\nfailed\n'
        exit 1
    fi
    printf '\nall passed\n'
}

main "$@"
