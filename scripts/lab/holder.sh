#!/usr/bin/env bash
# Sets up the mounts of one host and then keeps its namespaces alive. Started by create_host, already inside.
# holder.sh HOST_DIR LAB_ID MOUNT_POINT:FOLDER...
set -euo pipefail

host_dir=$1 lab_id=$2
shift 2

for entry in "$@"; do
    if [[ $entry == /run/wireguard:* ]]; then
        # The source of this mount is the lab's id: by it 'down' recognises every process of the lab.
        # As systemd/pnsbox-agent.tmpfiles makes it for the agent's group.
        mount -t tmpfs -o mode=1775,gid=5182,size=1m "$lab_id" /run/wireguard
    else
        mount --bind "$host_dir/${entry#*:}" "${entry%%:*}"
    fi
done
# udev gives the device to everybody, since opening it without CAP_NET_ADMIN is worth nothing; without udev it
# is root's alone, and agents are not root.
if [[ $(stat -c %a /dev/net/tun) != 666 ]]; then
    # A file system of its own: the one of the lab may be mounted nodev.
    mkdir -p "$host_dir/dev"
    mount -t tmpfs -o mode=0755,size=16k dev "$host_dir/dev"
    mknod -m 0666 "$host_dir/dev/tun" c 10 200
    mount --bind "$host_dir/dev/tun" /dev/net/tun
fi
# Below /sys are the interfaces of the namespace in which it was mounted.
mount -t sysfs sysfs /sys 2>/dev/null || true
for file in resolv.conf hosts; do
    if [[ -e $host_dir/$file && -e /etc/$file ]]; then mount --bind "$host_dir/$file" "/etc/$file"; fi
done
ip link set lo up
touch "$host_dir/ready"
exec sleep infinity
