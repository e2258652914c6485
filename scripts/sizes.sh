#!/usr/bin/env bash
# Size of the programs, memory in use with three peers, and time until they serve; each beside its limit.
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

# Limits, in MiB resident.
AGENT_MIB=32
CONTROLLER_MIB=64
# Seconds of a lab that is up before memory is read: buffers of joining and first transfers have been used.
SETTLE=10
STARTS=5
FAILED=0
BIN=

main() {
    case ${1:-} in
        --bin) BIN=${2:?--bin needs a folder} ;;
        '') ;;
        *)
            say "usage: scripts/sizes.sh [--bin DIR]     the programs in DIR (default: a release build)"
            [[ $1 == -h || $1 == --help ]] && exit 0
            exit 64
            ;;
    esac
    require_root
    install_packages binutils:strip "${LAB_PACKAGES[@]}"
    if [[ -z $BIN ]]; then
        need_cargo
        build_release
        BIN=$(target_dir)/release
    fi
    lab() { "$here/lab.sh" --name sizes --bin "$BIN" "$@"; }
    at_exit 'lab down'
    lab up
    sleep "$SETTLE"

    printf '%-18s %-28s %12s %8s\n' program measure value limit
    local program
    for program in pnsbox pnsbox-agent pnsbox-controller; do
        row "$program" "file, stripped" "$(stripped_mib "$BIN/$program")" MiB
        row "$program" "start to --version" "$(version_ms "$BIN/$program")" ms
    done
    row pnsbox-agent "resident, 3 peers" "$(resident_mib kab-demak.gw pnsbox-agent)" MiB "$AGENT_MIB"
    row pnsbox-agent "resident, 3 peers, relay" "$(resident_mib prov-jateng.gw pnsbox-agent)" MiB "$AGENT_MIB"
    row pnsbox-controller "resident, 4 agents" "$(resident_mib pusat.controller pnsbox-controller)" MiB "$CONTROLLER_MIB"
    row pnsbox-agent "start to view in force" \
        "$(ready_ms kab-demak.gw pnsbox-agent pnsbox-agent run --config /etc/pnsbox/agent.toml)" ms
    row pnsbox-controller "start to serving" \
        "$(ready_ms pusat.controller pnsbox-controller pnsbox-controller --config /etc/pnsbox/controller.toml serve)" ms
    ((FAILED == 0)) || die "a limit is exceeded"
}

# row PROGRAM MEASURE VALUE UNIT [LIMIT]
row() {
    local limit=${5:-}
    printf '%-18s %-28s %8s %-3s %8s\n' "$1" "$2" "$3" "$4" "$limit"
    if [[ -n $limit ]] && awk "BEGIN { exit !($3 > $limit) }"; then FAILED=1; fi
}

stripped_mib() {
    local copy
    copy=$(mktemp)
    strip -o "$copy" -- "$1"
    stat -c %s -- "$copy" | awk '{ printf "%.1f", $1 / 1048576 }'
    rm -f -- "$copy"
}

# version_ms PROGRAM: the median of several starts.
version_ms() {
    local started number
    for ((number = 0; number < STARTS; number++)); do
        started=${EPOCHREALTIME/[.,]/}
        "$1" --version >/dev/null
        printf '%s\n' $((${EPOCHREALTIME/[.,]/} - started))
    done | median | awk '{ printf "%.1f", $1 / 1000 }'
}

resident_mib() {
    local pid
    pid=$(lab status --json | jq -r --arg host "$1" --arg program "$2" '.hosts[$host].pids[$program]')
    awk '/^VmRSS:/ { printf "%.1f", $2 / 1024 }' "/proc/$pid/status"
}

# ready_ms HOST PROGRAM COMMAND...: the median time from exec to READY=1, with the state of a member.
ready_ms() {
    local host=$1 program=$2 number
    shift 2
    lab stop-program "$host" "$program"
    for ((number = 0; number < STARTS; number++)); do
        lab exec "$host" -- python3 "$here/lib/ready.py" "$@"
    done | median
    lab start-program "$host" "$program"
}

median() { sort -n | sed -n "$((STARTS / 2 + 1))p"; }

main "$@"
