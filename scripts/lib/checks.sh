# What the machine must offer, each with one clear message. Sourced after messages.sh.
# shellcheck shell=bash

require_root() {
    ((EUID == 0)) || die "this needs root: it makes network namespaces and installs packages" \
        "run it as root, for example: sudo $0"
}

require_net_admin() {
    local bits
    bits=$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status)
    # Bit 12 is CAP_NET_ADMIN (linux/capability.h), bit 21 CAP_SYS_ADMIN, which unshare needs.
    (((16#$bits >> 12) & 1)) || die "CAP_NET_ADMIN is missing: this root may not configure networks" \
        "in a container, start it with --cap-add NET_ADMIN --cap-add SYS_ADMIN"
    (((16#$bits >> 21) & 1)) || die "CAP_SYS_ADMIN is missing: this root may not make namespaces" \
        "in a container, start it with --cap-add SYS_ADMIN"
    unshare --net --mount --ipc true 2>/dev/null || die "the kernel refuses to make a network namespace" \
        "in a container, its seccomp or AppArmor profile may forbid it"
}

require_tun() {
    [[ -c /dev/net/tun ]] || die "/dev/net/tun is missing: WireGuard tunnels need it" \
        "try 'modprobe tun', or in a container --device /dev/net/tun"
    # Opening it proves the driver and the container's device rules, not only the node.
    (exec 3<>/dev/net/tun) 2>/dev/null || die "/dev/net/tun cannot be opened" \
        "try 'modprobe tun', or in a container --device /dev/net/tun"
}

# require_disk DIR MIB: enough space where it will be used.
require_disk() {
    local free
    free=$(df --output=avail -m -- "$1" | tail -n 1)
    ((free >= $2)) || die "$1 has $((free)) MiB free, $2 MiB are needed" "free some space and run this again"
}

require_debian() {
    have apt-get || die "this installs what is missing with apt-get, and there is none" \
        "it is made for Debian 12; install the packages named in scripts/lib/install.sh by hand on others"
}
