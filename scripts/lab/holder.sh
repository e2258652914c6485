#!/usr/bin/env bash
# Sets up the mounts of one host and then keeps its namespaces alive. Started by create_host, already inside.
# holder.sh HOST_DIR LAB_ID MOUNT_POINT:FOLDER...
set -euo pipefail

host_dir=$1 lab_id=$2
shift 2

for entry in "$@"; do
    if [[ $entry == /run/wireguard:* ]]; then
        # The source of this mount is the lab's id: by it 'down' recognises every process of the lab.
        mount -t tmpfs -o mode=0755,size=1m "$lab_id" /run/wireguard
    else
        mount --bind "$host_dir/${entry#*:}" "${entry%%:*}"
    fi
done
# Below /sys are the interfaces of the namespace in which it was mounted.
mount -t sysfs sysfs /sys 2>/dev/null || true
for file in resolv.conf hosts; do
    if [[ -e $host_dir/$file && -e /etc/$file ]]; then mount --bind "$host_dir/$file" "/etc/$file"; fi
done
ip link set lo up
touch "$host_dir/ready"
exec sleep infinity
