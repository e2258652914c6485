# Messages, cleanup and waiting: what every script here shares.
# Sourced, never run. Messages go to stderr, so that stdout stays for results.
# shellcheck shell=bash

# shellcheck disable=SC2034  # read by those who source this
PROJECT_DIR=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
# An admin's 'su' leaves the sbin directories out.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

say() { printf '%s\n' "$*" >&2; }
warn() { printf 'warning: %s\n' "$*" >&2; }

# die MESSAGE [LINE...]: one clear message, then exit 1.
die() {
    printf 'error: %s\n' "$1" >&2
    shift
    if (($# > 0)); then printf '       %s\n' "$@" >&2; fi
    exit 1
}

# usage_error MESSAGE: exit 64 (EX_USAGE of sysexits).
usage_error() {
    printf 'error: %s\n' "$1" >&2
    exit 64
}

AT_EXIT=()
# at_exit COMMAND: run it when the script ends, however it ends; the last one given runs first.
at_exit() {
    AT_EXIT=("$1" ${AT_EXIT[@]+"${AT_EXIT[@]}"})
    trap 'run_at_exit' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

run_at_exit() {
    local status=$? command
    # A second Ctrl-C must not cut the cleanup short.
    trap '' HUP INT TERM
    trap - EXIT
    for command in ${AT_EXIT[@]+"${AT_EXIT[@]}"}; do
        eval "$command" || true
    done
    exit "$status"
}

have() { command -v "$1" >/dev/null 2>&1; }

# now_ms: milliseconds since the epoch. EPOCHREALTIME writes the locale's decimal point.
now_ms() {
    local now=${EPOCHREALTIME/[.,]/}
    printf '%s' "$((now / 1000))"
}

# seconds_since START_MS: with two decimals, for people.
seconds_since() {
    local elapsed=$(($(now_ms) - $1))
    printf '%d.%02d' "$((elapsed / 1000))" "$((elapsed % 1000 / 10))"
}

# wait_for SECONDS COMMAND...: poll until the command succeeds; 1 when time is over.
wait_for() {
    local deadline=$(($(now_ms) + $1 * 1000))
    shift
    until "$@"; do
        if (($(now_ms) >= deadline)); then return 1; fi
        sleep 0.1
    done
}

# show_tail FILE [LINES]: the end of a log, indented, to stderr.
show_tail() {
    [[ -s $1 ]] || return 0
    say "--- last lines of $1"
    tail -n "${2:-15}" -- "$1" | sed 's/^/    /' >&2
}
