#!/usr/bin/env bash
# What is expected of scripts/install.sh, inside a fresh Debian 12 with networks of its own.
# Run by tests/install/main.rs: the project at /mnt/project, the programs at /mnt/programs.
set -euo pipefail

fail() { echo "FAILED: $*" >&2 && exit 1; }
install_sh() { /mnt/project/scripts/install.sh "$@"; }
both() { install_sh agent --bin /mnt/programs && install_sh controller --bin /mnt/programs; }

# listing: every path with its mode, owner and link, and the content of what may be ours or the admin's.
listing() {
    {
        find /etc /usr /var/lib -xdev -path /var/lib/dpkg -prune -o -not -path '/etc/*-' -printf '%p %m %u %l\n'
        find /etc /usr /var/lib -xdev -type f \( -path '*pnsbox*' -o -path '/etc/*' \) -not -name '*-' -exec sha256sum {} +
    } | sort
}

same() { diff "/tmp/$1" "/tmp/$2" >/tmp/difference || fail "$3: $(head -n 20 /tmp/difference)"; }

installed_twice_equals_once() {
    listing >/tmp/before
    both
    listing >/tmp/once
    both
    listing >/tmp/twice
    same once twice "the second install changed something"
    getent passwd pnsbox pnsbox-controller >/dev/null || fail "the users are missing"
}

papers_are_usable() {
    local said page file
    said=$(systemd-analyze verify /usr/lib/systemd/system/pnsbox-{agent,controller}.service 2>&1) || fail "verify: $said"
    [[ -z $said ]] || fail "systemd-analyze verify said: $said"
    for page in /usr/share/man/man[18]/pnsbox*; do
        said=$(man --warnings -l "$page" 2>&1 >/dev/null) || fail "$page: $said"
        [[ -z $said ]] || fail "$page: $said"
    done
    for file in /usr/share/bash-completion/completions/pnsbox*; do bash -n "$file"; done
    # shellcheck disable=SC2016  # expanded inside
    said=$(bash -c 'source /usr/share/bash-completion/completions/pnsbox
        COMP_WORDS=(pnsbox stat) COMP_CWORD=1
        _pnsbox pnsbox stat pnsbox
        echo "${COMPREPLY[@]}"')
    [[ $said == status ]] || fail "bash completes 'pnsbox stat' to '$said'"
    pnsbox-agent check || fail "the example configuration is refused"
}

# as_unit USER CAPABILITIES COMMAND...: with the user and rights of the unit, in place of this shell.
as_unit() {
    local user=$1 rights=$2
    shift 2
    exec setpriv --reuid "$user" --regid "$user" --clear-groups --no-new-privs --inh-caps "-all$rights" \
        --ambient-caps "-all$rights" --bounding-set "-all$rights" -- "$@"
}

wait_for() {
    local tries
    for ((tries = 0; tries < 100; tries++)); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.1
    done
    fail "never came true: $*"
}

in_force() { pnsbox status | grep -q '^view.*in force'; }

a_box_joins_without_root() {
    local anchor controller agent
    ip link set lo up
    sysctl -q -w net.ipv4.conf.default.rp_filter=1 net.ipv4.ip_forward=1
    pnsbox-controller init --network pns --address 127.0.0.1:443 2>/dev/null
    pnsbox-controller agency add kab-demak --prefix 10.44.0.0/16
    [[ $(stat -c %U /var/lib/pnsbox-controller/*) != *root* ]] || fail "init left files to root"
    # Port 443 without a capability, as pnsbox-controller.socket passes it.
    systemd-socket-activate --datagram -l '[::]:443' setpriv --reuid pnsbox-controller --regid pnsbox-controller \
        --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all -- pnsbox-controller serve &
    controller=$!
    # The kernel's switches as ProtectKernelTunables= leaves them.
    mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys
    as_unit pnsbox ,+net_admin pnsbox-agent run &
    agent=$!
    anchor=$(pnsbox-controller invite kab-demak 2>/dev/null)
    wait_for pnsbox status
    wait_for pnsbox join "$anchor" --lan 10.44.1.0/24
    wait_for in_force
    pnsbox-controller status | grep -q kab-demak/gw1 || fail "root may not ask the controller"
    [[ $(cat /proc/sys/net/ipv4/conf/pns0/rp_filter) == 2 ]] || fail "rp_filter of pns0 is not loose"
    kill "$agent" "$controller"
    wait
    umount /proc/sys
}

uninstall_keeps_what_is_not_ours() {
    echo '# mine' >>/etc/pnsbox/agent.toml
    install_sh agent --bin /mnt/programs
    grep -qx '# mine' /etc/pnsbox/agent.toml || fail "install overwrote the admin's configuration"
    install_sh uninstall agent && install_sh uninstall controller
    [[ -s /var/lib/pnsbox/identity.key && -s /var/lib/pnsbox-controller/controller.key ]] || fail "uninstall took the keys"
    grep -qx '# mine' /etc/pnsbox/agent.toml || fail "uninstall took the admin's configuration"
    [[ ! -e /etc/pnsbox/controller.toml && ! -e /usr/bin/pnsbox-agent ]] || fail "uninstall left what is ours"
    install_sh uninstall agent --purge && install_sh uninstall controller --purge
    listing >/tmp/after
    same before after "--purge left something"
}

installed_twice_equals_once
papers_are_usable
a_box_joins_without_root
uninstall_keeps_what_is_not_ours
echo everything held
