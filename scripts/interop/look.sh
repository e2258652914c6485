#!/usr/bin/env bash
# Runs inside the virtual machine of interop.sh, as a service: the checks, on a serial line.
set -uo pipefail

exec >/dev/ttyS1 2>&1
cd /root || exit 1
export HOME=/root
modprobe wireguard
echo "guest: Linux $(uname -r), $(uname -v)"
echo "guest: module wireguard $(modinfo -F version wireguard), $(wg --version)"
result="all passed"
# Those that mostly wait run side by side, all of them; the others one by one.
./kernel --ignored --test-threads 64 waiting:: || result=failed
./kernel --ignored --test-threads 1 working:: || result=failed
echo "guest: $result after $SECONDS s"
echo "guest: end"
sync
systemctl --no-block poweroff
