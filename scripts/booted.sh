#!/usr/bin/env bash
# Boots Debian's own kernel and systemd in a virtual machine, types the commands of docs/operations.md there as they
# stand, and looks: sandbox, socket activation, watchdog, reboot. Without KVM; some minutes.
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
# shellcheck source=scripts/lib/guest.sh
source "$here/lib/guest.sh"

# What a box has before we come; and what an edge box always has.
INCLUDE=nftables,iproute2,procps,iputils-ping,wireguard-tools
# A boot takes a minute without KVM; this long means that it hangs.
BOOT_SECONDS=600
WORK=

main() {
    local bin=
    case ${1:-} in
        --bin) bin=${2:?--bin needs a folder} ;;
        '') ;;
        -h | --help)
            say "usage: scripts/booted.sh [--bin DIR]     programs with failpoints (default: a debug build of the workspace)"
            exit 0
            ;;
        *) usage_error "unknown argument '$1'; see scripts/booted.sh --help" ;;
    esac
    require_root
    install_packages "${GUEST_TOOLS[@]}"
    if [[ -z $bin ]]; then
        need_cargo
        (cd -- "$PROJECT_DIR" && "$CARGO" build --workspace --locked)
        bin=$(target_dir)/debug
    fi
    WORK=$(mktemp -d /var/tmp/pnsbox-booted.XXXXXX)
    at_exit "rm -rf --one-file-system -- '$WORK'"
    make_image "$bin"
    # What a box does alone, its controller gone.
    boot first
    boot second
    say "all that was looked at in a booted Debian is as promised"
}

# make_image BIN: a root with the project, its programs, and a unit that runs our script.
make_image() {
    local root=$WORK/root
    guest_root "$root" "$INCLUDE"
    mkdir -p -- "$root/root/pnsbox" "$root/root/bin"
    (cd -- "$PROJECT_DIR" && git ls-files -z scripts systemd configs docs README.md Cargo.toml |
        tar --null --files-from=- --create) | tar -x -C "$root/root/pnsbox"
    local program
    for program in pnsbox pnsbox-agent pnsbox-controller; do
        strip -o "$root/root/bin/$program" -- "$1/$program"
    done
    guest_runs "$root" /root/pnsbox/scripts/booted/look.sh
    guest_disk "$root"
}

# boot WHICH: until the machine switches itself off.
boot() {
    local console=$WORK/$1.console seen=$WORK/$1.seen started
    started=$(now_ms)
    say "the $1 boot"
    guest_boot "$1" "$BOOT_SECONDS"
    tr -d '\r' <"$seen" | sed -n 's/^look: /  /p' >&2
    if ! grep -q '^look: end' "$seen" || grep -q '^look: FAILED' "$seen"; then
        show_tail "$console" 15
        show_tail "$seen" 60
        die "the $1 boot did not show what it should"
    fi
    say "the $1 boot took $(seconds_since "$started") s"
}

main "$@"
