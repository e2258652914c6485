#!/usr/bin/env bash
# Runs inside the virtual machine of booted.sh, as a service, once at each boot. Says what it saw on a serial line.
set -uo pipefail

exec >/dev/ttyS1 2>&1
cd /root/pnsbox || exit 1
# Built outside; install.sh takes them from here.
export PNSBOX_BIN_DIR=/root/bin HOME=/root
FAILED=0
LONGEST_COMMANDS=7
# From a worker that hangs to a box that serves again, in seconds.
BACK_WITHIN=30

# seen WHAT COMMAND...: the command must succeed.
seen() {
    local what=$1 said
    shift
    if said=$("$@" 2>&1); then
        echo "look: ok      $what"
    else
        echo "look: FAILED  $what"
        printf '%s\n' "$said" "failed: $*" | tail -n 20
        FAILED=1
    fi
}

# within SECONDS COMMAND...
within() {
    local until=$((SECONDS + $1))
    shift
    until "$@"; do
        if ((SECONDS >= until)); then return 1; fi
        sleep 0.5
    done
}

# commands SECTION: the lines of the first block of a section of docs/operations.md.
commands() {
    awk -v section="## $1" '$0 == section { here = 1; next } /^## / { here = 0 }
        here && /^```/ { if (inside) exit; inside = 1; next } inside' docs/operations.md
}

# type_commands SECTION: as they stand; ANCHOR is what the line before printed, as a person would paste it.
type_commands() {
    local line number=0 said
    while read -r line; do
        number=$((number + 1))
        if ! said=$(bash -c "${line//ANCHOR/${ANCHOR:-}}" 2>&1); then
            echo "look: FAILED  $line"
            printf '%s\n' "$said" | tail -n 20
            FAILED=1
        else
            echo "look: ok      \$ $line"
        fi
        ANCHOR=$(grep -o 'pns1\.[A-Za-z0-9_.-]*' <<<"$said" || printf '%s' "${ANCHOR:-}")
    done < <(commands "$1")
    seen "$number typed commands for '$1', at most $LONGEST_COMMANDS" test "$number" -gt 0 -a "$number" -le "$LONGEST_COMMANDS"
}

# of_service UNIT FIELD: from /proc of its main process.
of_service() { awk -v field="$2:" '$1 == field { print $2 }' "/proc/$(systemctl show -P MainPID "$1")/status"; }
is() { [[ $(systemctl show -P "$2" "$1") == "$3" ]]; }
same() { [[ $1 == "$2" ]] || { echo "'$1' is not '$2'" && return 1; }; }
online() { pnsbox status | grep -q '^controller .* online'; }
in_force() { pnsbox status | grep -q '^view .* in force'; }
restarted() { is pnsbox-agent NRestarts "$1" && is pnsbox-agent SubState running; }
has_table() { nft list tables | grep -q 'inet pnsbox'; }
nothing_left() { ! ip rule | grep -q 5182 && ! has_table && ! ip link show pns0; }

network() {
    # One machine is both: the address of the controller, and the LAN of the box.
    modprobe dummy
    ip link add lan0 type dummy
    ip address add 10.44.1.1/24 dev lan0
    ip address add 203.0.113.10/32 dev lan0
    ip link set lan0 up
}

first() {
    network
    type_commands "The controller"
    type_commands "The box"
    seen "the agent is active" within 20 is pnsbox-agent ActiveState active
    seen "the box is online" within 20 online
    seen "its view is in force" within 20 in_force
    seen "the agent runs as pnsbox" same "$(systemctl show -P User pnsbox-agent)" pnsbox
    seen "with CAP_NET_ADMIN alone" same "$(of_service pnsbox-agent CapEff)" 0000000000001000
    seen "and nothing more to gain" same "$(of_service pnsbox-agent CapBnd)" 0000000000001000
    seen "'wg show' sees its interface" bash -c "wg show interfaces | grep -qx pns0 && wg show pns0 | grep -q 'listening port: 51820'"
    seen "the controller has no capability" same "$(of_service pnsbox-controller CapBnd)" 0000000000000000
    seen "both have a system call filter" same "$(of_service pnsbox-agent Seccomp)$(of_service pnsbox-controller Seccomp)" 22
    seen "the controller never failed" is pnsbox-controller NRestarts 0
    nft flush ruleset
    seen "a flushed ruleset is put back within 5 s" within 5 has_table
    hang
    seen "a stop leaves nothing" systemctl stop pnsbox-agent
    seen "no rule, no table, no interface" nothing_left
    # The next boot is without a controller.
    systemctl disable --now pnsbox-controller.socket pnsbox-controller.service 2>/dev/null
    touch /root/second
}

# hang: a worker hangs; the watchdog and nobody else ends it.
hang() {
    local began
    mkdir -p /run/systemd/system/pnsbox-agent.service.d
    # Rounds of 200 ms: it hangs some seconds after it is ready.
    printf '[Service]\nEnvironment="FAILPOINTS=worker_packets=20*off->pause"\n' >/run/systemd/system/pnsbox-agent.service.d/hang.conf
    systemctl daemon-reload
    systemctl restart pnsbox-agent
    began=$SECONDS
    rm /run/systemd/system/pnsbox-agent.service.d/hang.conf
    systemctl daemon-reload
    seen "a worker hangs, and the box serves again within $BACK_WITHIN s" within "$BACK_WITHIN" restarted 1
    echo "look:         $((SECONDS - began)) s after the start of the program that hung"
    seen "it was the watchdog" bash -c "journalctl -u pnsbox-agent | grep -q 'Watchdog timeout'"
    seen "with its view" within 5 in_force
}

second() {
    seen "after a reboot without a controller the agent is ready" within 60 is pnsbox-agent ActiveState active
    seen "its view is in force" within 20 in_force
    seen "the filter is there" has_table
    seen "the controller is away, and it says so" bash -c "pnsbox status | grep -q controller_away"
}

if [[ -e /root/second ]]; then second; else first; fi
if ((FAILED)); then journalctl -u 'pnsbox-*' --no-pager | tail -n 40; fi
echo "look: end"
sync
systemctl --no-block poweroff
