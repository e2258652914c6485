#!/usr/bin/env bash
# Sets our data plane against the WireGuard of Debian's own kernel, in a virtual machine without KVM: some minutes.
# Prints a line for each thing that was looked at: check | expected | seen.
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

# What the checks run.
INCLUDE=iproute2,iputils-ping,nftables,wireguard-tools
# They take five minutes; this long means that something hangs.
BOOT_SECONDS=900
# Fewer lines mean that checks are missing, whatever those that ran say.
LEAST_LINES=300
WORK=

main() {
    case ${1:-} in
        '') ;;
        -h | --help)
            say "usage: scripts/interop.sh     our data plane against the kernel's WireGuard, in a virtual machine"
            exit 0
            ;;
        *) usage_error "unknown argument '$1'; see scripts/interop.sh --help" ;;
    esac
    require_root
    install_packages "${GUEST_TOOLS[@]}" jq:jq
    need_cargo
    WORK=$(mktemp -d /var/tmp/pnsbox-interop.XXXXXX)
    at_exit "rm -rf --one-file-system -- '$WORK'"
    make_image
    look
}

make_image() {
    local root=$WORK/root program
    program=$(test_program)
    guest_root "$root" "$INCLUDE"
    strip -o "$root/root/kernel" -- "$program"
    install -m 755 -- "$here/interop/look.sh" "$root/root/look.sh"
    guest_runs "$root" /root/look.sh
    guest_disk "$root"
}

# test_program: builds the checks, and says where they are.
test_program() {
    (cd -- "$PROJECT_DIR" && "$CARGO" test -p pnsbox-dataplane --test kernel --locked --no-run --message-format=json) |
        jq -r 'select(.reason == "compiler-artifact" and .target.name == "kernel") | .executable // empty'
}

look() {
    local seen=$WORK/guest.seen console=$WORK/guest.console started lines
    started=$(now_ms)
    guest_boot guest "$BOOT_SECONDS"
    tr -d '\r' <"$seen" >"$WORK/seen"
    sed -n 's/^guest: //p' "$WORK/seen"
    printf 'check | expected | seen\n'
    # They ran side by side: by core and check.
    sed -n 's/^.*check: //p' "$WORK/seen" | sort -s -k 2,3
    lines=$(grep -c 'check: ' "$WORK/seen" || true)
    if ! grep -q '^guest: end' "$WORK/seen" || ! grep -q '^guest: all passed' "$WORK/seen" || ((lines < LEAST_LINES)); then
        show_tail "$console" 15
        grep -v 'check: ok' "$WORK/seen" | tail -n 80 >&2 || true
        die "ours and the kernel's WireGuard do not agree, or the machine did not come to an end in $BOOT_SECONDS s"
    fi
    if grep -E 'WARNING:|BUG:|Oops|Call Trace|hung_task' "$console" >&2; then
        die "the guest's kernel complained"
    fi
    say "all $lines lines are as expected, after $(seconds_since "$started") s in the machine"
}

main "$@"
