# A virtual machine with Debian's own kernel and systemd: its image, and a boot of it. Without KVM, so that it runs anywhere.
# Sourced after messages.sh. WORK is a folder for the image and for what it says.
# shellcheck shell=bash

GUEST_MIRROR=${PNSBOX_DEBIAN_MIRROR:-http://deb.debian.org/debian}
GUEST_IMAGE_SIZE=3G
# What such a machine is made with.
# shellcheck disable=SC2034  # installed by the scripts that source this
GUEST_TOOLS=(mmdebstrap:mmdebstrap qemu-system-x86:qemu-system-x86_64 e2fsprogs:mkfs.ext4 binutils:strip)

# guest_root ROOT PACKAGES: a Debian 12 with kernel, systemd and more packages (with commas between).
guest_root() {
    say "making a Debian 12 with kernel and systemd"
    mmdebstrap --quiet --variant=minbase --include="systemd,systemd-sysv,dbus,udev,kmod,linux-image-amd64,$2" \
        bookworm "$1" "deb $GUEST_MIRROR bookworm main" "deb $GUEST_MIRROR bookworm-updates main" ||
        die "mmdebstrap could not make a root; does this machine reach $GUEST_MIRROR?"
}

# guest_runs ROOT COMMAND: at each boot, as a service.
guest_runs() {
    cat >"$1/etc/systemd/system/look.service" <<END
[Unit]
After=network.target sockets.target
[Service]
Type=oneshot
ExecStart=$2
TimeoutStartSec=infinity
END
    mkdir -p -- "$1/etc/systemd/system/multi-user.target.wants"
    ln -s ../look.service "$1/etc/systemd/system/multi-user.target.wants/"
}

# guest_disk ROOT: makes the root the disk of the machine, and takes the root away.
guest_disk() {
    cp -- "$1"/boot/vmlinuz-* "$WORK/vmlinuz"
    cp -- "$1"/boot/initrd.img-* "$WORK/initrd"
    truncate -s "$GUEST_IMAGE_SIZE" "$WORK/disk"
    mkfs.ext4 -q -d "$1" "$WORK/disk"
    rm -rf --one-file-system -- "$1"
}

# guest_boot NAME SECONDS: until the machine switches itself off, at most so long. The console goes to $WORK/NAME.console;
# what was seen to $WORK/NAME.seen, a serial line of its own, since a login prompt would hang up the console.
guest_boot() {
    timeout "$2" qemu-system-x86_64 -machine q35,accel=tcg -cpu max -smp 2 -m 1024 -display none -no-reboot \
        -kernel "$WORK/vmlinuz" -initrd "$WORK/initrd" \
        -append "root=/dev/vda rw console=ttyS0 systemd.show_status=0 net.ifnames=0" \
        -drive "file=$WORK/disk,if=virtio,format=raw" -nic none \
        -serial "file:$WORK/$1.console" -serial "file:$WORK/$1.seen" </dev/null >/dev/null 2>&1 || true
}
