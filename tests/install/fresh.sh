#!/usr/bin/env bash
# fresh.sh PLACE PROJECT PROGRAMS: makes a Debian 12 root in PLACE and runs in-root.sh in it.
# Called in mount and PID namespaces of its own, so nothing is left mounted and nothing runs on.
set -euo pipefail

place=$1/root project=$2 programs=$3
mirror=${PNSBOX_DEBIAN_MIRROR:-http://deb.debian.org/debian}
options=()
while read -r option; do options+=(--aptopt="$option"); done < <(apt-config dump |
    grep -E '^Acquire::(https?::Proxy|Check-Valid-Until|Check-Date) ' || true)
mmdebstrap --quiet --variant=minbase --include=systemd,nftables,iproute2,procps,man-db \
    --dpkgopt='path-include=/usr/share/man/*' ${options[@]+"${options[@]}"} bookworm "$place" "$mirror"

mount --bind "$place" "$place"
mount -t proc proc "$place/proc"
for folder in dev run tmp mnt; do mount -t tmpfs -o mode=755 tmpfs "$place/$folder"; done
mkdir -p "$place/dev/net" "$place/mnt/project" "$place/mnt/programs"
# Modes as udev gives them.
for node in null:1:3 zero:1:5 random:1:8 urandom:1:9 net/tun:10:200; do
    IFS=: read -r name major minor <<<"$node"
    mknod -m 666 "$place/dev/$name" c "$major" "$minor"
done
ln -s /proc/self/fd "$place/dev/fd"
mount --bind "$project" "$place/mnt/project"
mount --bind "$programs" "$place/mnt/programs"
exec chroot "$place" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
    timeout 120 unshare --net bash /mnt/project/tests/install/in-root.sh
