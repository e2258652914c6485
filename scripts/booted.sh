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

MIRROR=${PNSBOX_DEBIAN_MIRROR:-http://deb.debian.org/debian}
# What a box has before we come; and what an edge box always has.
INCLUDE=systemd,systemd-sysv,dbus,udev,kmod,linux-image-amd64,nftables,iproute2,procps,iputils-ping
# A boot takes a minute without KVM; this long means that it hangs.
BOOT_SECONDS=600
IMAGE_SIZE=3G
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
    install_packages mmdebstrap:mmdebstrap qemu-system-x86:qemu-system-x86_64 e2fsprogs:mkfs.ext4 binutils:strip
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
    say "making a Debian 12 with kernel and systemd"
    mmdebstrap --quiet --variant=minbase --include="$INCLUDE" bookworm "$root" \
        "deb $MIRROR bookworm main" "deb $MIRROR bookworm-updates main" ||
        die "mmdebstrap could not make a root; does this machine reach $MIRROR?"
    mkdir -p -- "$root/root/pnsbox" "$root/root/bin"
    (cd -- "$PROJECT_DIR" && git ls-files -z scripts systemd configs docs README.md Cargo.toml |
        tar --null --files-from=- --create) | tar -x -C "$root/root/pnsbox"
    local program
    for program in pnsbox pnsbox-agent pnsbox-controller; do
        strip -o "$root/root/bin/$program" -- "$1/$program"
    done
    cp -- "$root"/boot/vmlinuz-* "$WORK/vmlinuz"
    cp -- "$root"/boot/initrd.img-* "$WORK/initrd"
    cat >"$root/etc/systemd/system/look.service" <<'END'
[Unit]
After=network.target sockets.target
[Service]
Type=oneshot
ExecStart=/root/pnsbox/scripts/booted/look.sh
TimeoutStartSec=infinity
END
    mkdir -p -- "$root/etc/systemd/system/multi-user.target.wants"
    ln -s ../look.service "$root/etc/systemd/system/multi-user.target.wants/"
    truncate -s "$IMAGE_SIZE" "$WORK/disk"
    mkfs.ext4 -q -d "$root" "$WORK/disk"
    rm -rf --one-file-system -- "$root"
}

# boot WHICH: until the machine switches itself off; what was seen comes over a serial line of its own, since a login
# prompt would hang up the console.
boot() {
    local console=$WORK/$1.console seen=$WORK/$1.seen started
    started=$(now_ms)
    say "the $1 boot"
    timeout "$BOOT_SECONDS" qemu-system-x86_64 -machine q35,accel=tcg -cpu max -smp 2 -m 1024 -display none -no-reboot \
        -kernel "$WORK/vmlinuz" -initrd "$WORK/initrd" \
        -append "root=/dev/vda rw console=ttyS0 systemd.show_status=0 net.ifnames=0" \
        -drive "file=$WORK/disk,if=virtio,format=raw" -nic none \
        -serial "file:$console" -serial "file:$seen" </dev/null >/dev/null 2>&1 || true
    tr -d '\r' <"$seen" | sed -n 's/^look: /  /p' >&2
    if ! grep -q '^look: end' "$seen" || grep -q '^look: FAILED' "$seen"; then
        show_tail "$console" 15
        show_tail "$seen" 60
        die "the $1 boot did not show what it should"
    fi
    say "the $1 boot took $(seconds_since "$started") s"
}

main "$@"
