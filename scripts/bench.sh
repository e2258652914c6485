#!/usr/bin/env bash
# Measures this project beside others. How, and how to read it: docs/benchmarks.md.
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
# shellcheck source=scripts/bench/setup.sh
source "$here/bench/setup.sh"

MEASURING=

usage() {
    cat <<'END'
usage: scripts/bench.sh WHAT [OPTION...]

  setup     install what the benchmarks need, and the tunnels that ours is compared with; a second time does nothing
  tunnel    throughput, processor time and memory of tunnels, side by side

options of tunnel:
  --json           print one JSON object instead of a table
  --quick          tcp-1 and udp-200 only, three runs of 3 s: two minutes
  --system A,B     only these: pnsbox wireguard-go wireguard-go-debian gotatun boringtun-cli veth
  --case X,Y       only these: tcp-1 tcp-4 tcp-reverse tcp-bidir udp-200 udp-1400, each also with the suffix
                   -segmented (offloads off on the wire), and hub-1000
  --runs N         runs of every case (default 5)
  --seconds S      measured seconds of a TCP run (default 5)
  --bin DIR        our programs (default: a release build)

WIREGUARD_GO=/path/to/wireguard-go is upstream's, as you built it; without it, it is left out.
END
}

main() {
    case ${1:-} in
        setup | tunnel) ;;
        -h | --help) usage && exit 0 ;;
        '') usage >&2 && exit 64 ;;
        *) usage_error "unknown benchmark '$1'; see scripts/bench.sh --help" ;;
    esac
    local what=$1
    shift
    "command_$what" "$@"
}

command_setup() {
    (($# == 0)) || usage_error "setup takes no arguments, not '$1'"
    require_root
    setup_competitors
}

# command_tunnel OPTION...: tunnel.py knows the options; here only what must be known to build.
command_tunnel() {
    local argument bin='' only='' previous=''
    for argument in "$@"; do
        case $previous in
            --bin) bin=$argument ;;
            --system) only=$argument ;;
        esac
        case $argument in
            -h | --help) usage && exit 0 ;;
            --bin=* | --system=*) usage_error "write '${argument%%=*} VALUE' instead of '$argument'" ;;
        esac
        previous=$argument
    done
    require_root
    require_net_admin
    require_tun
    install_packages "${BENCH_PACKAGES[@]}"
    if [[ -z $bin && ,${only:-pnsbox}, == *,pnsbox,* ]]; then
        need_cargo
        # shellcheck disable=SC2034  # read by build_release
        BUILD_ALSO=(pnsbox-bench)
        build_release
        bin=$(target_dir)/release
    fi
    measure --competitors "$(competitors_dir)" "$@" --bin "$bin"
}

# measure ARGUMENT...: in the background, because a signal is handled only between commands of this script.
measure() {
    export PNSBOX_BENCH_ID=bench-$$
    at_exit end_measuring
    python3 -B "$here/bench/tunnel.py" "$@" &
    MEASURING=$!
    local status=0
    wait "$MEASURING" || status=$?
    MEASURING=
    exit "$status"
}

# end_measuring: whatever ended it, no process and no namespace of ours stays.
end_measuring() {
    local side pid
    if [[ -n $MEASURING ]]; then
        kill -s TERM "$MEASURING" 2>/dev/null || true
        wait "$MEASURING" || true
    fi
    for side in a b; do
        [[ -e /run/netns/$PNSBOX_BENCH_ID-$side ]] || continue
        for pid in $(ip netns pids "$PNSBOX_BENCH_ID-$side"); do kill -s KILL "$pid" 2>/dev/null || true; done
        ip netns del "$PNSBOX_BENCH_ID-$side"
    done
    rm -f -- "/run/wireguard/bt$$"[ab].sock "/run/wireguard/bp$$"[ab].sock
    rm -rf -- "/tmp/pnsbox-$PNSBOX_BENCH_ID"
}

main "$@"
